from __future__ import annotations

import json
import threading
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.errors import FeedConflict, FeedGap, UnknownPartner
from consent.events import EventType, grant, refuse, withdraw
from consent.feed import Enforcement, Feed
from consent.gate import ConsentGate
from consent.messages import Acknowledgement, FeedBatch
from consent.verify import verify_ledger
from privacy.errors import PeerUnreachable, PeerViolation

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]


def agreed(pair, people=(ANN,)):
    """Everybody is granted on both sides."""
    for ledger, partner in ((pair.shop, "bank"), (pair.bank, "shop")):
        ledger.record([grant(p, "overlap", partner=partner) for p in people])


def bank_allows(pair, person=ANN, purpose="overlap.reach"):
    kind, canonical = person[0]
    column = pa.array([canonical])
    bulk = ConsentGate(pair.bank).filter(kind, column, purpose=purpose, partner="shop").mask.tolist()[0]
    assert bulk is pair.bank.check(canonical, kind, purpose, "shop").allowed
    return bulk


def test_an_opt_out_at_the_shop_is_enforced_at_the_bank_and_acknowledged(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN[:1])
    assert bank_allows(pair)
    clock.move(seconds=0.2)
    done = pair.shop_feed.pump(pair.wire)
    assert (done.acknowledged, done.pending, done.error) == (1, 0, None)
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    status = pair.shop_feed.status("bank")
    assert status.queued == 0 and status.delivered == 1 and 199 <= status.enforced.p99 <= 201
    last = pair.shop.prove(pair.shop.head().size - 1).verify(pair.shop.key)[0]
    assert last.type == EventType.DELIVERY_ACK
    assert pair.shop_feed.pump(pair.wire).acknowledged == 0
    assert verify_ledger(pair.shop).ok and verify_ledger(pair.bank).ok


def test_the_wire_carries_no_identifier(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_feed.pump(pair.wire)
    for _, canonical in ANN:
        from hashlib import sha256

        assert all(canonical not in body for body in pair.wire.bodies)
        assert all(sha256(canonical).hexdigest().encode() not in body for body in pair.wire.bodies)


def test_only_what_was_opted_out_of_is_denied_and_a_new_grant_lifts_it(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN, "overlap.measure")
    pair.shop_feed.pump(pair.wire)
    assert bank_allows(pair) and not bank_allows(pair, purpose="overlap.measure")
    pair.shop.withdraw(ANN)
    pair.shop_feed.pump(pair.wire)
    assert not bank_allows(pair)
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap", partner="bank")])
    assert pair.shop_feed.pump(pair.wire).acknowledged == 1
    assert bank_allows(pair) and bank_allows(pair, purpose="overlap.measure")
    assert verify_ledger(pair.bank).ok


def test_first_grants_and_refusals_and_other_partners_are_not_sent(pair):
    pair.shop.record([grant(ANN, "overlap"), refuse([("email", b"b")], "overlap")])
    pair.shop.record([withdraw(ANN, partner="somebody-else")])
    assert pair.shop_feed.status("bank").queued == 0


def test_a_partner_who_joins_later_is_told_what_was_withdrawn_before(make_node, joined):
    shop_node, bank_node = make_node("shop"), make_node("bank")
    shop, bank = shop_node.open(), bank_node.open()
    people = [[("email", b"p%d" % i)] for i in range(4)]
    shop.record([grant(p, "overlap") for p in people])
    shop.record([withdraw(people[0]), withdraw(people[1], partner="else"), refuse(people[2], "overlap")])
    wire = joined(shop, shop_node, bank, bank_node)
    assert Feed(shop, signing_key=shop_node.key).pump(wire).acknowledged == 2
    bank.record([grant(p, "overlap", partner="shop") for p in people])
    asked = [bank.check(b"p%d" % i, "email", "overlap.reach", "shop").allowed for i in range(4)]
    assert asked == [False, True, False, True]


def test_a_partner_who_joins_later_is_told_what_was_granted_again_since(make_node, joined, clock):
    shop_node, bank_node = make_node("shop"), make_node("bank")
    shop, bank = shop_node.open(), bank_node.open()
    shop.withdraw(ANN)
    clock.move(seconds=1)
    shop.record([grant(ANN, "overlap.reach")])
    wire = joined(shop, shop_node, bank, bank_node)
    bank.record([grant(ANN, "overlap", partner="shop")])
    assert Feed(shop, signing_key=shop_node.key).pump(wire).acknowledged == 2
    for kind, canonical in ANN:
        assert bank.check(canonical, kind, "overlap.reach", "shop").allowed
        assert not bank.check(canonical, kind, "overlap.measure", "shop").allowed
    assert verify_ledger(bank).ok


def test_an_opt_out_recorded_by_another_process_is_delivered(pair):
    agreed(pair)
    pair.shop_feed.pump(pair.wire)
    gate = ConsentGate(pair.shop)
    column = pa.array([ANN[0][1]])
    assert gate.filter("email", column, purpose="overlap.reach", partner="bank").allowed == 1
    other = pair.shop_node.open()
    other.withdraw(ANN)
    assert pair.shop.head().size == other.head().size
    assert gate.filter("email", column, purpose="overlap.reach", partner="bank").allowed == 0
    assert not pair.shop.check(ANN[0][1], "email", "overlap.reach", "bank").allowed
    done = pair.shop_feed.pump(pair.wire)
    assert (done.acknowledged, done.error) == (1, None)
    assert not bank_allows(pair)


def test_a_partner_who_comes_back_under_another_pair_key_is_told_again(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.bank.withdraw([("email", b"bens")])
    pair.shop_feed.pump(pair.wire)
    assert not bank_allows(pair)
    pair.shop_node.pair.key = pair.bank_node.pair.key = b"\x08" * 32
    pair.shop.join_partner("bank", pair.bank.vkey)
    pair.bank.join_partner("shop", pair.shop.vkey)
    # What the bank was told by the shop is not sent back to the shop.
    assert pair.shop_feed.status("bank").queued == 1 and pair.bank_feed.status("shop").queued == 2
    assert pair.shop_feed.pump(pair.wire).acknowledged == 1
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    assert verify_ledger(pair.bank).ok


def test_a_refusal_after_a_broader_withdrawal_does_not_block_the_feed(pair):
    agreed(pair)
    pair.shop.record([withdraw(ANN), refuse(ANN, "*"), refuse(ANN, "overlap")])
    assert pair.shop_feed.pump(pair.wire).acknowledged == 3
    assert not bank_allows(pair)


def test_a_lost_answer_is_made_good_when_another_identifier_was_learned_since(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def lost(answer):
        raise PeerUnreachable("lost")

    pair.wire.after = lost
    pair.shop_feed.pump(pair.wire)
    pair.wire.after = lambda answer: answer
    pair.shop.withdraw([*ANN, ("email", b"second")])
    assert pair.shop_feed.pump(pair.wire, force=True).acknowledged == 2


def test_somebody_with_many_identifiers_is_told_of_whole(pair):
    many = [("email", b"m%d" % i) for i in range(43)]
    for start in range(0, 42, 6):
        pair.shop.withdraw(many[start : start + 7])
    assert pair.shop_feed.pump(pair.wire).error is None
    pair.bank.record([grant(many[-1:], "overlap", partner="shop")])
    assert not bank_allows(pair, many[-1:])


def test_a_partner_that_lost_its_place_is_told_everything_again(pair):
    agreed(pair)
    for i in range(5):
        pair.shop.withdraw([("email", b"%d" % i)])
    pair.shop_feed.pump(pair.wire)
    fresh = replace(pair.bank.partner("shop"), heard_seq=0, heard_size=0, heard_root=None)
    with pair.bank.store.write() as tx:
        tx.put_partner(fresh)
        tx._c.exec_driver_sql("DELETE FROM consent_inbox")
    pair.shop.withdraw(ANN)
    assert pair.shop_feed.pump(pair.wire, limit=2).acknowledged == 1
    assert pair.bank.partner("shop").heard_seq == 6


def test_an_item_naming_one_pseudonym_twice_is_applied_once(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    batch = forge(pair, lambda b: b)
    twice = {kind: found * 2 for kind, found in batch.items[0].pseudonyms.items()}
    pair.bank_feed.apply(
        "shop", replace(batch, items=(replace(batch.items[0], pseudonyms=twice),)).to_bytes()
    )
    assert not bank_allows(pair) and verify_ledger(pair.bank).ok


def test_a_refusal_after_a_grant_reaches_the_partner(pair, clock):
    agreed(pair)
    clock.move(seconds=1)
    pair.shop.record([refuse(ANN, "overlap.reach")])
    assert pair.shop_feed.pump(pair.wire).acknowledged == 1
    assert not bank_allows(pair) and bank_allows(pair, purpose="overlap.measure")


def test_a_renewal_lifts_nothing_at_the_partner(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN, "overlap.reach")
    pair.shop_feed.pump(pair.wire)
    clock.move(seconds=1)
    renewal = replace(grant(ANN, "overlap"), type=EventType.RENEWED)
    pair.shop.record([renewal, replace(renewal, purpose="overlap.reach")])
    assert pair.shop_feed.status("bank").queued == 0
    # A partner that sends one all the same is not believed either.
    pair.shop.withdraw(ANN, "overlap.measure")
    rows = pair.shop.partner("bank").sent_seq
    with pair.shop.store.write() as tx:
        (row,) = tx.outbox("bank", rows - 1, 1)
        index = pair.shop.head().size - 3
        tx._c.exec_driver_sql(
            f"UPDATE consent_outbox SET type='consent.renewed', idx={index}, purposes='[\"overlap.reach\"]',"
            f" effective_at={row.effective_at} WHERE seq={rows}"
        )
    assert pair.shop_feed.pump(pair.wire).error is None
    assert not bank_allows(pair) and verify_ledger(pair.bank).ok


def test_a_partner_that_is_down_is_tried_again_with_pauses_and_nothing_is_missed(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def down(body):
        raise PeerUnreachable("down")

    pair.wire.before = down
    assert pair.shop_feed.pump(pair.wire).error == "peer_unreachable"
    pauses = []
    for _ in range(12):
        status = pair.shop_feed.status("bank")
        pauses.append((status.next_attempt_at - clock()).total_seconds())
        assert pair.shop_feed.pump(pair.wire).error == "peer_unreachable"
        assert (
            pair.shop_feed.status("bank").failures == status.failures
        )  # not even tried before the pause is over
        clock.move(seconds=pauses[-1])
        pair.shop_feed.pump(pair.wire)
    assert pauses[0] < 1 and pauses[1] > pauses[0] and 60 <= pauses[-1] <= 80
    pair.wire.before = lambda body: body
    assert pair.shop_feed.pump(pair.wire, force=True).acknowledged == 1
    assert not bank_allows(pair) and pair.shop_feed.status("bank").failures == 0


def test_a_lost_answer_is_made_good_and_applied_once(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def lost(answer):
        raise PeerUnreachable("lost")

    pair.wire.after = lost
    assert pair.shop_feed.pump(pair.wire).error == "peer_unreachable"
    size = pair.bank.head().size
    assert not bank_allows(pair)
    pair.wire.after = lambda answer: answer
    pair.shop.withdraw([("email", b"more")])
    assert pair.shop_feed.pump(pair.wire, force=True).acknowledged == 2
    assert pair.bank.head().size == size + 1
    assert pair.shop_feed.status("bank").queued == 0


def test_a_replayed_batch_is_acknowledged_again_and_changes_nothing(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_feed.pump(pair.wire)
    old = pair.wire.bodies[-1]
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap", partner="bank")])
    pair.shop_feed.pump(pair.wire)
    size = pair.bank.head().size
    pair.bank_feed.apply("shop", old)
    assert pair.bank.head().size == size and bank_allows(pair)


def test_a_batch_out_of_order_is_refused_and_the_sender_finds_its_place(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop.withdraw([("email", b"b")])
    bodies = []

    def swallow(body):
        bodies.append(body)
        raise PeerUnreachable("lost")

    pair.wire.before = swallow
    pair.shop_feed.pump(pair.wire, limit=1)
    batch = FeedBatch.from_bytes(bodies[0])
    skipping = replace(batch, items=(replace(batch.items[0], seq=2),))
    with pytest.raises(FeedGap):
        pair.bank_feed.apply("shop", skipping.to_bytes())
    pair.wire.before = lambda body: body
    # The shop believes that its first message arrived: the bank says where it stands, and is sent both.
    with pair.shop.store.write() as tx:
        tx.put_partner(replace(tx.partner("bank"), acked_seq=1, acked_size=3))
    assert pair.shop_feed.pump(pair.wire, force=True).error is None
    pair.shop_feed.pump(pair.wire, force=True)
    assert not bank_allows(pair) and pair.bank.partner("shop").heard_seq == 2


def forge(pair, change):
    """Capture the shop's next batch, change it, and give it to the bank."""
    bodies = []

    def catch(body):
        bodies.append(body)
        raise PeerUnreachable("caught")

    pair.wire.before = catch
    pair.shop_feed.pump(pair.wire, force=True)
    return change(FeedBatch.from_bytes(bodies[0]))


@pytest.mark.parametrize(
    "change",
    [
        lambda b: replace(b, sender="evil.example/consent"),
        lambda b: replace(b, receiver="evil.example/consent"),
        lambda b: replace(b, checkpoint=b.checkpoint.replace("\n", "\n1", 1)),
        lambda b: replace(b, items=(replace(b.items[0], index=b.items[0].index - 1),)),
        lambda b: replace(b, items=(replace(b.items[0], type=EventType.OBJECTION),)),
        lambda b: replace(
            b, items=(replace(b.items[0], entry=b.items[0].entry.replace(b"withdrawn", b"objected_")),)
        ),
        lambda b: replace(b, items=(replace(b.items[0], path=b.items[0].path[:-1]),)),
        lambda b: replace(b, items=(replace(b.items[0], purposes=("NOT A PURPOSE",)),)),
        lambda b: replace(b, items=(replace(b.items[0], pseudonyms={"Bad Kind": (b"x" * 32,)}),)),
        lambda b: replace(b, items=(replace(b.items[0], seq=0),)),
    ],
)
def test_a_forged_batch_is_refused_and_changes_nothing(pair, change):
    agreed(pair)
    pair.shop.withdraw(ANN)
    size, heard = pair.bank.head().size, pair.bank.partner("shop")
    with pytest.raises(PeerViolation):
        pair.bank_feed.apply("shop", change(forge(pair, lambda b: b)).to_bytes())
    assert pair.bank.head().size == size and pair.bank.partner("shop") == heard and bank_allows(pair)


def test_two_messages_under_one_number_are_a_conflict(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_feed.pump(pair.wire)
    batch = FeedBatch.from_bytes(pair.wire.bodies[-1])
    other = replace(batch, items=(replace(batch.items[0], purposes=("overlap",)),))
    with pytest.raises(FeedConflict):
        pair.bank_feed.apply("shop", other.to_bytes())


def test_a_partner_that_shows_two_histories_is_found_out(pair, make_node):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_feed.pump(pair.wire)
    twin_node = make_node("twin")
    twin_node.name, twin_node.key, twin_node.ring = "shop", pair.shop_node.key, pair.shop_node.ring
    twin = twin_node.open()  # the same key signs another log of the same name
    twin.join_partner("bank", pair.bank.vkey)
    twin.record([grant([("email", b"%d" % i)], "overlap") for i in range(9)])
    twin.withdraw(ANN)
    twin.withdraw([("email", b"1")])
    pair.wire.before = lambda body: replace(
        FeedBatch.from_bytes(body), old_size=pair.bank.partner("shop").heard_size
    ).to_bytes()
    assert Feed(twin, signing_key=twin_node.key).pump(pair.wire).error == "split_view"


@pytest.mark.parametrize(
    "answer",
    [
        lambda a: b"{}",
        lambda a: b"\xff",
        lambda a: b"x" * 100_000,
        lambda a: a.replace(b'"seq":1', b'"seq":9'),
        lambda a: json.dumps({**json.loads(a), "signature": "A" * 86 + "=="}).encode(),
    ],
)
def test_a_false_acknowledgement_is_not_believed(pair, answer):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.after = answer
    assert pair.shop_feed.pump(pair.wire).error in ("feed_malformed", "feed_forged", "too_large")
    assert pair.shop_feed.status("bank").queued == 1
    pair.wire.after = lambda a: a
    assert pair.shop_feed.pump(pair.wire, force=True).acknowledged == 1


def test_enforcers_run_before_the_acknowledgement_and_are_counted(pair):
    agreed(pair)
    told = []

    def stop_jobs(what: Enforcement) -> int:
        assert not bank_allows(pair)  # the restriction is already in force when jobs are stopped
        told.append(what)
        return 3

    pair.bank_feed.enforcers.append(stop_jobs)
    pair.shop.withdraw(ANN)
    answers = []
    pair.wire.after = lambda a: answers.append(a) or a
    pair.shop_feed.pump(pair.wire)
    assert told == [Enforcement("shop", frozenset({"*"}), 1)]
    assert Acknowledgement.from_bytes(answers[0])[0].jobs_affected == 3


def test_two_hundred_opt_outs_go_in_one_batch_and_all_are_acknowledged(pair):
    people = [[("email", b"p%d" % i), ("phone", b"+86138%08d" % i)] for i in range(200)]
    agreed(pair, people)
    pair.shop.record([withdraw(p[:1]) for p in people])
    assert pair.shop_feed.pump(pair.wire).acknowledged == 200
    gate = ConsentGate(pair.bank)
    phones = pa.array([p[1][1] for p in people])
    assert not gate.filter("phone", phones, purpose="overlap.reach", partner="shop").mask.any()
    assert pair.shop_feed.status("bank").delivered == 200


def test_without_a_shared_key_nothing_is_sent_and_nobody_passes(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_node.pair.key = None
    assert pair.shop_feed.pump(pair.wire).error == "no_pair_key"
    pair.shop_node.pair.key = b"\x07" * 32
    pair.shop_feed.pump(pair.wire, force=True)
    agreed(pair, [[("email", b"zoe")]])
    pair.bank_node.pair.key = None
    column = pa.array([b"zoe"])
    assert (
        not ConsentGate(pair.bank).filter("email", column, purpose="overlap.reach", partner="shop").mask.any()
    )
    assert not pair.bank.check(b"zoe", "email", "overlap.reach", "shop").allowed


def test_strangers_have_no_feed(pair):
    with pytest.raises(UnknownPartner):
        pair.bank_feed.position("stranger")
    pair.shop.withdraw(ANN)
    body = forge(pair, lambda b: b).to_bytes()
    with pytest.raises(UnknownPartner):
        pair.bank_feed.apply("stranger", body)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_batch(data):
    with pytest.raises(PeerViolation):
        FeedBatch.from_bytes(data)
    with pytest.raises(PeerViolation):
        Acknowledgement.from_bytes(data)


def test_batches_too_large_or_of_another_shape_are_refused(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    good = json.loads(forge(pair, lambda b: b).to_bytes())
    item = good["items"][0]
    wrong = [
        {**good, "v": 2}, {**good, "extra": 1}, {**good, "items": []}, {**good, "items": [item] * 1001},
        {**good, "items": [item, item]}, {**good, "old_size": -1}, {**good, "consistency": ["x"] * 65},
        {**good, "items": [{**item, "pseudonyms": {}}]}, {**good, "items": [{**item, "purposes": []}]},
        {**good, "items": [{**item, "pseudonyms": {"email": ["AAAA"]}}]},
        {**good, "items": [{**item, "effective_at": "now"}]}, {**good, "items": [{**item, "seq": True}]},
        {**good, "items": [{**item, "type": "use.receipt"}]}, {**good, "checkpoint": "x" * 100_000},
    ]  # fmt: skip
    for body in wrong:
        with pytest.raises(PeerViolation):
            pair.bank_feed.apply("shop", json.dumps(body).encode())
    with pytest.raises(PeerViolation):
        pair.bank_feed.apply("shop", b" " * (5 << 20))


def test_delivery_starts_by_itself_when_somebody_opts_out(pair):
    agreed(pair)
    stop = threading.Event()
    worker = threading.Thread(target=pair.shop_feed.deliver, args=(lambda: [pair.wire], stop, 30.0))
    worker.start()
    enforced = threading.Event()
    pair.bank_feed.enforcers.append(lambda told: enforced.set() or 0)
    pair.shop.withdraw(ANN)
    assert enforced.wait(20)
    stop.set()
    pair.shop_feed._work.set()
    worker.join(20)
    assert not worker.is_alive() and not bank_allows(pair)
