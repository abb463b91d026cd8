"""A node restored from an old backup: noticed before it serves, and repaired without losing an opt-out."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3

import pytest
import sqlalchemy as sa

from consent.encoding import canonical_json
from consent.erasure import Erasure
from consent.errors import FeedGap, RolledBack
from consent.events import grant, refuse, withdraw
from consent.feed import FEED_PATH, HEARD_PATH, Feed
from consent.heads import HEADS_PATH, ask_heads, compare_heads, heads_seen_of
from consent.journal import ErasureJournal
from consent.messages import unpack_pseudonyms
from consent.peers import PeerResponse
from consent.proofs import to_base64
from consent.rebuild import directory_reader
from consent.restore import Restoration
from consent.rows import WitnessedRow
from consent.state import Reason
from consent.verify import verify_ledger
from privacy.errors import PeerUnreachable, PeerViolation, Refused

ADA = [("email", b"ada@example.org"), ("phone", b"+8613800138000")]
BEN = [("email", b"ben@example.org")]
CYD = [("email", b"cyd@example.org")]
DEE = [("email", b"dee@example.org")]


class Line:
    """A `PeerConnection` from the shop into the bank's ledger, answering as the bank's routes do."""

    def __init__(self, pair, feed=None):
        self.partner, self._bank = "bank", pair.bank
        self._feed = feed or pair.bank_feed
        self.down = False
        self.change = lambda path, body: body

    def request(self, method, path, *, body=b"", content_type="", timeout=30.0):
        if self.down:
            raise PeerUnreachable("The partner does not answer.")
        where, _, asked = path.partition("?")
        query = dict(part.split("=") for part in asked.split("&")) if asked else {}
        if where == HEADS_PATH:
            answer = heads_seen_of(self._bank, "shop")
        elif where == HEARD_PATH:
            row, found = self._feed.incoming.heard("shop", int(query["after"]), int(query["limit"]))
            items = [
                {
                    "leaf": to_base64(i.leaf),
                    "pseudonyms": {
                        k: [to_base64(p) for p in v] for k, v in unpack_pseudonyms(i.pseudonyms).items()
                    },
                }
                for i in found
            ]
            answer = canonical_json(
                {"size": row.heard_seq, "checkpoint": row.heard_checkpoint, "items": items}
            )
        else:
            assert where == FEED_PATH
            delivery = self._feed.outgoing.open("shop", int(query["after"]), query["nonce"])
            answer, _ = self._feed.outgoing.message(delivery)
            self._feed.outgoing.close(delivery)
        return PeerResponse(200, {}, self.change(where, answer))


class Shop:
    """The shop, backed up and restored: its database file, and where its log was published."""

    def __init__(self, pair):
        self.pair, self.node = pair, pair.shop_node
        self.journal = ErasureJournal(self.node.folder / "erasures", self.node.ring)
        self.line = Line(pair)

    @property
    def database(self):
        return self.node.folder / "comity.db"

    def back_up(self):
        with sqlite3.connect(self.database) as c, sqlite3.connect(self.node.folder / "backup.db") as copy:
            c.backup(copy)

    def restore_backup(self):
        self.node.engine.dispose()
        for suffix in ("", "-wal", "-shm"):
            (self.node.folder / f"comity.db{suffix}").unlink(missing_ok=True)
        shutil.copy(self.node.folder / "backup.db", self.database)
        self.node.engine = sa.create_engine(f"sqlite:///{self.database}")

    def restoration(self, *, readers=None):
        ledger = self.node.open(start=False)
        if readers is None:
            readers = [directory_reader(self.node.folder / "log")]
        return ledger, Restoration(ledger, journal=self.journal, readers=readers, connections=[self.line])


@pytest.fixture
def shop(pair):
    return Shop(pair)


def witness(pair):
    """The bank has cosigned the shop's newest checkpoint."""
    head = pair.shop.head()
    with pair.bank.store.write() as tx:
        tx.put_witnessed(WitnessedRow(head.origin, head.size, head.root, head.text, 1))


def test_heads_that_agree_are_no_reason_to_stop(pair, shop):
    compare_heads(pair.shop, "bank", ask_heads(pair.shop, shop.line))
    pair.shop.record([grant(ADA, "overlap.reach"), withdraw(BEN)])
    pair.wire.read()
    witness(pair)
    pair.shop.record([withdraw(ADA)])
    compare_heads(pair.shop, "bank", ask_heads(pair.shop, shop.line))


def test_a_partner_who_heard_more_of_the_feed_stops_a_restored_node(pair, shop):
    shop.back_up()
    pair.shop.record([withdraw(ADA)])
    pair.wire.read()
    shop.restore_backup()
    shutil.rmtree(shop.node.folder / "log")  # the whole folder was restored: nothing local tells
    restored = shop.node.open()
    with pytest.raises(RolledBack) as caught:
        compare_heads(restored, "bank", ask_heads(restored, shop.line))
    assert "comity log restore" in caught.value.advice


def test_a_partner_who_cosigned_more_of_the_log_stops_a_restored_node(pair, shop):
    shop.back_up()
    pair.shop.record([grant(ADA, "overlap.reach")])
    witness(pair)
    shop.restore_backup()
    shutil.rmtree(shop.node.folder / "log")
    restored = shop.node.open()
    with pytest.raises(RolledBack):
        compare_heads(restored, "bank", ask_heads(restored, shop.line))


def test_a_node_that_went_on_after_the_restore_is_stopped_by_its_other_history(pair, shop):
    shop.back_up()
    pair.shop.record([withdraw(ADA)])
    pair.wire.read()
    witness(pair)
    shop.restore_backup()
    shutil.rmtree(shop.node.folder / "log")
    restored = shop.node.open()
    restored.record([withdraw([("email", b"p%d@example.org" % i)]) for i in range(9)])
    with pytest.raises(RolledBack) as caught:
        compare_heads(restored, "bank", ask_heads(restored, shop.line))
    assert "another history" in caught.value.detail


def test_a_halted_node_answers_and_records_nothing(pair):
    pair.shop.record([grant(ADA, "overlap.reach")])
    pair.shop.log.halt("A partner has seen more.", "Restore.")
    for attempt in (
        lambda: pair.shop.check(ADA[0][1], "email", "overlap.reach", "bank"),
        lambda: pair.shop.record([grant(BEN, "overlap.reach")]),
    ):
        with pytest.raises(RolledBack):
            attempt()


def test_an_erasure_and_opt_outs_made_after_the_backup_are_repeated_before_anything_is_served(pair, shop):
    pair.shop.record([grant(p, "overlap.reach") for p in (ADA, BEN, CYD)])
    shop.back_up()
    pair.shop.record([withdraw(BEN, "overlap.reach"), grant(DEE, "overlap.reach"), withdraw(DEE)])
    Erasure(pair.shop).erase(ADA, basis="gdpr.17")  # no journal: the partner alone knows
    pair.wire.read()
    before = pair.shop.head()
    shop.restore_backup()
    with pytest.raises(RolledBack):
        shop.node.open()

    ledger, restoration = shop.restoration()
    assert ledger.check(ADA[0][1], "email", "overlap.reach", "bank").allowed  # as the backup has it
    plan = restoration.plan()
    assert (plan.end, plan.restrictions, plan.erasures, plan.unaccounted) == (before.size, 3, 1, 0)
    done = restoration.perform(plan)

    assert (done.opted_out, done.erased, done.unmatched) == (1, 1, 1)
    again = shop.node.open()
    for person, reason in ((ADA, Reason.ERASED), (BEN, Reason.RESTRICTED), (DEE, Reason.NO_RECORD)):
        assert again.check(person[0][1], "email", "overlap.reach", "bank").reason is reason
    assert again.check(CYD[0][1], "email", "overlap.reach", "bank").allowed
    again.record([grant(DEE, "overlap.reach")], imported=True)  # the list they stood in, once more
    denied = again.check(DEE[0][1], "email", "overlap.reach", "bank")
    assert denied.reason is Reason.RESTRICTED_BY_PARTNER
    report = verify_ledger(again)
    assert report.ok, report.detail
    assert again.log.root_at(before.size) == before.root


def test_the_feed_goes_on_from_what_the_partner_heard(pair, shop):
    pair.shop.record([grant(p, "overlap.reach") for p in (ADA, BEN)])
    shop.back_up()
    pair.shop.record([withdraw(ADA)])
    pair.wire.read()
    shop.restore_backup()
    _, restoration = shop.restoration()
    restoration.perform(restoration.plan())
    again = shop.node.open()
    feed = Feed(again, signing_key=shop.node.key)
    compare_heads(again, "bank", ask_heads(again, shop.line))
    pair.wire.sender_feed = feed
    again.record([withdraw(BEN)])
    with pytest.raises(FeedGap):
        pair.wire.read()  # the bank's process goes on from what it had acknowledged to the lost database
    assert pair.wire.read() == 3  # once more; the repeated withdrawal; the new one
    assert pair.shop_feed.status("bank").evidence == ()
    pair.bank.record([grant(BEN, "overlap.reach")])
    assert not pair.bank.check(BEN[0][1], "email", "overlap.reach", "shop").allowed
    assert verify_ledger(again).ok
    assert verify_ledger(pair.bank).ok


def test_the_journal_repeats_an_erasure_that_no_partner_heard_of(pair, shop):
    pair.shop.record([grant(ADA, "overlap.reach")])
    shop.back_up()
    erasure = Erasure(pair.shop, journal=shop.journal)
    erasure.erase(ADA)
    erasure.erase(BEN)  # not in the backup at all
    shop.restore_backup()
    _, restoration = shop.restoration()
    plan = restoration.plan()
    assert (plan.erasures, plan.unaccounted) == (2, 0)
    assert restoration.perform(plan).erased == 1
    again = shop.node.open()
    for person in (ADA, BEN):
        assert again.check(person[0][1], "email", "overlap.reach", "bank").reason is Reason.ERASED
    assert verify_ledger(again).ok


def test_lost_restrictions_that_nobody_knows_are_counted_and_have_to_be_accepted(pair, shop):
    shop.back_up()
    pair.shop.record([refuse(ADA, "overlap.reach"), withdraw(BEN), grant(CYD, "overlap.reach")])
    shop.restore_backup()
    _, restoration = shop.restoration()
    plan = restoration.plan()
    assert plan.unaccounted == 2
    for accepted in (0, 1):
        with pytest.raises(Refused) as caught:
            restoration.perform(plan, accept_lost=accepted)
        assert caught.value.code == "restrictions_lost"
    assert restoration.perform(plan, accept_lost=2).accepted == 2
    assert verify_ledger(shop.node.open()).ok


def test_what_partners_will_tell_again_is_not_lost(pair, shop):
    shop.back_up()
    pair.bank.record([withdraw(ADA)])
    type(pair.wire)("bank", pair.bank_feed, "shop", pair.shop_feed).read()
    shop.restore_backup()
    _, restoration = shop.restoration()
    plan = restoration.plan()
    assert plan.restrictions == 2
    assert (plan.coming, plan.unaccounted) == (2, 0)


def test_a_silent_partner_is_waited_for_or_named(pair, shop):
    shop.back_up()
    pair.shop.record([grant(ADA, "overlap.reach")])
    shop.restore_backup()
    shop.line.down = True
    _, restoration = shop.restoration()
    plan = restoration.plan()
    with pytest.raises(Refused) as caught:
        restoration.perform(plan)
    assert caught.value.code == "partner_silent"
    assert restoration.perform(plan, without=["bank"]).entries == 1


def test_without_a_copy_of_what_a_partner_saw_nothing_is_restored(pair, shop):
    shop.back_up()
    pair.shop.record([withdraw(ADA)])
    pair.wire.read()
    witness(pair)
    shop.restore_backup()
    _, restoration = shop.restoration(readers=[])
    with pytest.raises(RolledBack) as caught:
        restoration.plan()
    assert "--from" in caught.value.advice


def test_a_copy_that_was_changed_or_forked_is_not_used(pair, shop):
    pair.shop.record([grant(ADA, "overlap.reach")])
    shop.back_up()
    pair.shop.record([grant(BEN, "overlap.reach")])
    shop.restore_backup()
    honest = directory_reader(shop.node.folder / "log")

    def damaged(path):
        data = honest(path)
        return data.replace(b"granted", b"refused", 1) if data and "entries" in path else data

    _, restoration = shop.restoration(readers=[damaged])
    with pytest.raises(RolledBack):
        restoration.plan()


def test_nothing_missing_means_nothing_done(pair, shop):
    pair.shop.record([withdraw(ADA)])
    pair.wire.read()
    _, restoration = shop.restoration()
    plan = restoration.plan()
    assert not plan.needed
    assert restoration.perform(plan) is None


@pytest.mark.parametrize("fault", ["before commit", "after commit"])
def test_a_crash_while_restoring_leaves_all_of_it_or_nothing(pair, shop, fault, monkeypatch):
    pair.shop.record([grant(ADA, "overlap.reach")])
    shop.back_up()
    Erasure(pair.shop, journal=shop.journal).erase(ADA)
    shop.restore_backup()
    ledger, restoration = shop.restoration()

    class Broken(RuntimeError):
        pass

    def broken(*_, **__):
        raise Broken

    where = "consent.sql.entries.EntriesChanges.set_head" if fault == "before commit" else None
    plan = restoration.plan()
    if where:
        monkeypatch.setattr(where, broken)
    else:
        monkeypatch.setattr(ledger.log, "_publish", broken)
    with pytest.raises(Broken):
        restoration.perform(plan)
    monkeypatch.undo()
    if where:
        with pytest.raises(RolledBack):
            shop.node.open()
        _, restoration = shop.restoration()
        restoration.perform(restoration.plan())
    again = shop.node.open()
    assert again.check(ADA[0][1], "email", "overlap.reach", "bank").reason is Reason.ERASED
    assert verify_ledger(again).ok


def test_a_second_restore_does_not_take_repeated_opt_outs_for_erasures(pair, shop):
    pair.shop.record([grant(p, "overlap.reach") for p in (ADA, BEN)])
    shop.back_up()
    pair.shop.record([withdraw(BEN, "overlap.reach")])
    Erasure(pair.shop).erase(ADA)
    pair.wire.read()
    for _ in range(2):
        shop.restore_backup()
        _, restoration = shop.restoration()
        done = restoration.perform(restoration.plan())
        assert (done.opted_out, done.erased) == (1, 1)
        again = shop.node.open()
        pair.wire.sender_feed = Feed(again, signing_key=shop.node.key)
        with pytest.raises(FeedGap):
            pair.wire.read()
        pair.wire.read()
    assert again.check(BEN[0][1], "email", "overlap.reach", "bank").reason is Reason.RESTRICTED
    assert verify_ledger(again).ok


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":2,"log":null,"feed":null,"sent":0}',
        b'{"v":1,"log":7,"feed":null,"sent":0}',
        b'{"v":1,"log":null,"feed":null,"sent":-1}',
        b'{"v":1,"log":null,"feed":null,"sent":true}',
        b'{"v":1,"log":"not a note","feed":null,"sent":0}',
        b'{"v":1,"log":"' + b"x" * (1 << 20) + b'","feed":null,"sent":0}',
        b"\xff\xfe",
    ],
)
def test_a_partners_malformed_heads_are_its_violation(pair, shop, body):
    shop.line.change = lambda path, answer: body
    with pytest.raises(PeerViolation):
        ask_heads(pair.shop, shop.line)


def test_heads_that_this_node_never_signed_are_forged(pair, shop):
    pair.bank.record([withdraw(ADA)])
    text = pair.bank.head().text
    shop.line.change = lambda path, answer: json.dumps(
        {"v": 1, "log": text, "feed": None, "sent": 0}
    ).encode()
    with pytest.raises(PeerViolation) as caught:
        ask_heads(pair.shop, shop.line)
    assert caught.value.code == "heads_forged"


def test_a_partner_cannot_invent_what_it_heard(pair, shop):
    pair.shop.record([grant(ADA, "overlap.reach")])
    shop.back_up()
    pair.shop.record([withdraw(BEN)])
    pair.wire.read()
    shop.restore_backup()

    def lie(path, answer):
        if path != HEARD_PATH:
            return answer
        body = json.loads(answer)
        body["items"][0]["leaf"] = to_base64(
            base64.b64decode(body["items"][0]["leaf"]).replace(b"withdrawn", b"refused")
        )
        return json.dumps(body).encode()

    shop.line.change = lie
    _, restoration = shop.restoration()
    with pytest.raises(PeerViolation):
        restoration.plan()
