from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.checkpoint import open_checkpoint, sign_checkpoint
from consent.encoding import canonical_json
from consent.errors import ConsentStale, FeedGap, UnknownPartner
from consent.events import EventType, grant, refuse, withdraw
from consent.feed import Enforcement, Feed
from consent.feed_log import FeedLeaf, Frontier, feed_key, feed_origin
from consent.frozen import freeze_pseudonyms
from consent.gate import ConsentGate
from consent.merkle import leaf_hash, root_of
from consent.messages import ACK_CONTEXT, MESSAGE_CONTEXT, Acknowledgement, FeedItem, FeedMessage
from consent.notes import NoteSigner
from consent.purposes import PurposePolicy
from consent.state import Reason
from consent.verify import verify_ledger
from privacy.errors import BadInput, ComityError, Misuse, PeerUnreachable, PeerViolation, Refused

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]
SECOND = timedelta(seconds=1)


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


# what is told, and what comes of it


def test_an_opt_out_at_the_shop_is_enforced_at_the_bank_and_acknowledged(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN[:1])
    assert bank_allows(pair)
    clock.move(seconds=0.2)
    assert pair.wire.read() == 1
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    status = pair.shop_feed.status("bank")
    assert status.queued == 0 and status.delivered == 1 and 199 <= status.enforced.p99 <= 201
    last = pair.shop.prove(pair.shop.head().size - 1).verify(pair.shop.key)[0]
    assert last.type == EventType.DELIVERY_ACK
    assert pair.wire.read() == 0
    assert verify_ledger(pair.shop).ok and verify_ledger(pair.bank).ok


def test_messages_carry_no_identifier_and_leaves_no_pseudonym(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.read()
    for _, canonical in ANN:
        for body in (*pair.wire.bodies, *pair.wire.acks):
            assert canonical not in body and sha256(canonical).hexdigest().encode() not in body
    message, _ = FeedMessage.from_bytes(pair.wire.bodies[0])
    (item,) = message.items
    assert set(json.loads(item.leaf)) == {
        "v", "seq", "entry", "entry_hash", "type", "purposes", "effective_at", "recorded_at",
    }  # fmt: skip
    entry = pair.shop.prove(FeedLeaf.from_bytes(item.leaf).entry).entry
    assert FeedLeaf.from_bytes(item.leaf).entry_hash == leaf_hash(entry)


def test_the_feed_is_a_log_of_its_own_signed_with_the_nodes_key(pair):
    for i in range(5):
        pair.shop.withdraw([("email", b"p%d" % i)])
    pair.wire.read()
    leaves = []
    for body in pair.wire.bodies:
        message, _ = FeedMessage.from_bytes(body)
        leaves += [leaf_hash(item.leaf) for item in message.items]
    key = feed_key(pair.shop.key, pair.bank.origin)
    assert key.name == feed_origin("shop.example/consent", "bank.example/consent")
    head = open_checkpoint(message.checkpoint, [key])
    assert (head.size, head.root) == (5, root_of(leaves))


def test_only_what_was_opted_out_of_is_denied_and_a_new_grant_lifts_it(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN, "overlap.measure")
    pair.wire.read()
    assert bank_allows(pair) and not bank_allows(pair, purpose="overlap.measure")
    pair.shop.withdraw(ANN)
    pair.wire.read()
    assert not bank_allows(pair)
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap", partner="bank")])
    assert pair.wire.read() == 1
    assert bank_allows(pair) and bank_allows(pair, purpose="overlap.measure")
    assert verify_ledger(pair.bank).ok


def test_first_grants_and_refusals_and_other_partners_are_not_told(pair):
    pair.shop.record([grant(ANN, "overlap"), refuse([("email", b"b")], "overlap")])
    pair.shop.record([withdraw(ANN, partner="somebody-else")])
    assert pair.shop_feed.status("bank").queued == 0


def test_no_partner_sees_what_another_is_told(pair, make_node):
    other = make_node("press").open()
    pair.shop.join_partner("press", other.vkey)
    pair.shop.record([withdraw(ANN, partner="press"), withdraw(ANN, partner="bank")])
    pair.wire.read()
    message, _ = FeedMessage.from_bytes(pair.wire.bodies[-1])
    assert len(message.items) == 1 and pair.bank.partner("shop").heard_seq == 1


def test_a_partner_who_joins_later_is_told_what_was_withdrawn_before(make_node, joined):
    shop_node, bank_node = make_node("shop"), make_node("bank")
    shop, bank = shop_node.open(), bank_node.open()
    people = [[("email", b"p%d" % i)] for i in range(4)]
    shop.record([grant(p, "overlap") for p in people])
    shop.record([withdraw(people[0]), withdraw(people[1], partner="else"), refuse(people[2], "overlap")])
    assert joined(shop, shop_node, bank, bank_node).read() == 2
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
    assert wire.read() == 2
    for kind, canonical in ANN:
        assert bank.check(canonical, kind, "overlap.reach", "shop").allowed
        assert not bank.check(canonical, kind, "overlap.measure", "shop").allowed
    assert verify_ledger(bank).ok


def test_an_opt_out_recorded_by_another_process_is_told(pair):
    agreed(pair)
    pair.wire.read()
    gate = ConsentGate(pair.shop)
    column = pa.array([ANN[0][1]])
    assert gate.filter("email", column, purpose="overlap.reach", partner="bank").allowed == 1
    hearing, delivery = pair.wire.connect()
    assert not pair.shop_feed.outgoing.waiting(delivery)
    pair.shop_node.open().withdraw(ANN)
    assert pair.shop_feed.outgoing.waiting(delivery)
    assert gate.filter("email", column, purpose="overlap.reach", partner="bank").allowed == 0
    pair.wire.step(hearing, delivery)
    assert not bank_allows(pair)


def test_a_partner_who_comes_back_under_another_pair_key_is_told_again(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.bank.withdraw([("email", b"bens")])
    pair.wire.read()
    assert not bank_allows(pair)
    pair.shop_node.pair.key = pair.bank_node.pair.key = b"\x08" * 32
    pair.shop.join_partner("bank", pair.bank.vkey)
    pair.bank.join_partner("shop", pair.shop.vkey)
    # What the bank was told by the shop is not sent back to the shop.
    assert pair.shop_feed.status("bank").queued == 1 and pair.bank_feed.status("shop").queued == 2
    assert pair.wire.read() == 1
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    assert verify_ledger(pair.bank).ok


def test_when_the_shared_key_is_replaced_standing_opt_outs_are_told_by_the_new_one(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.read()
    for node in (pair.shop_node, pair.bank_node):
        node.pair.retired, node.pair.key = [node.pair.key], b"\x09" * 32
    assert not bank_allows(pair)  # still known by the old one
    pair.shop.rotated_key("bank", {"number": 1})
    assert pair.wire.read() == 1
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap.reach", partner="bank")])
    pair.wire.read()
    # What is taken back under the new key is taken back of the person, whatever named them before.
    assert bank_allows(pair) and not bank_allows(pair, purpose="overlap.measure")
    assert verify_ledger(pair.bank).ok


def test_a_refusal_after_a_broader_withdrawal_does_not_block_the_feed(pair):
    agreed(pair)
    pair.shop.record([withdraw(ANN), refuse(ANN, "*"), refuse(ANN, "overlap")])
    assert pair.wire.read() == 3
    assert not bank_allows(pair)


def test_a_refusal_after_a_grant_reaches_the_partner(pair, clock):
    agreed(pair)
    clock.move(seconds=1)
    pair.shop.record([refuse(ANN, "overlap.reach")])
    assert pair.wire.read() == 1
    assert not bank_allows(pair) and bank_allows(pair, purpose="overlap.measure")


def test_a_renewal_lifts_nothing_at_the_partner(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN, "overlap.reach")
    pair.wire.read()
    clock.move(seconds=1)
    renewal = replace(grant(ANN, "overlap"), type=EventType.RENEWED)
    pair.shop.record([renewal, replace(renewal, purpose="overlap.reach")])
    assert pair.shop_feed.status("bank").queued == 0
    # A partner that sends one all the same is not believed either.
    pair.shop.withdraw(ANN, "overlap.measure")
    rows = pair.shop.partner("bank").sent_seq
    with pair.shop.store.write() as tx:
        index = pair.shop.head().size - 3
        tx._c.exec_driver_sql(
            f"UPDATE consent_outbox SET type='consent.renewed', idx={index}, purposes='[\"overlap.reach\"]'"
            f" WHERE seq={rows}"
        )
    pair.wire.hear()
    assert not bank_allows(pair) and verify_ledger(pair.bank).ok


def test_an_item_naming_one_pseudonym_twice_is_applied_once(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def twice(message):
        (item,) = message.items
        named = {kind: found * 2 for kind, found in item.pseudonyms.items()}
        return replace(message, items=(replace(item, pseudonyms=named),))

    pair.wire.before = lambda body: resigned(pair, body, twice)
    pair.wire.hear()
    assert not bank_allows(pair) and verify_ledger(pair.bank).ok


def test_two_hundred_opt_outs_go_in_one_message_and_all_are_acknowledged(pair):
    people = [[("email", b"p%d" % i), ("phone", b"+86138%08d" % i)] for i in range(200)]
    agreed(pair, people)
    pair.shop.record([withdraw(p[:1]) for p in people])
    assert pair.wire.read() == 200 and len(pair.wire.bodies) == 1
    gate = ConsentGate(pair.bank)
    phones = pa.array([p[1][1] for p in people])
    assert not gate.filter("phone", phones, purpose="overlap.reach", partner="shop").mask.any()


def test_a_backlog_goes_in_several_messages(pair):
    pair.shop.record([withdraw([("email", b"p%d" % i)]) for i in range(600)])
    assert pair.wire.read() == 600 and len(pair.wire.bodies) == 3


def test_somebody_with_thousands_of_identifiers_is_told_of_whole(pair):
    many = [("email", b"m%05d" % i) for i in range(9_000)]
    for start in range(0, len(many) - 7, 7):
        # Each event names an identifier of the one before, so that all are one person's.
        pair.shop.record([grant(many[start : start + 8], "overlap", partner="bank")])
        if start > 1_400:
            break
    with pair.shop.store.write() as tx:
        known = pair.shop.vault.lookup("email")
        (handle,) = set(tx.find_subjects([known(many[0][1])]).values())
        row = tx.subjects([handle])[handle]
        from consent.recording import IDENTIFIERS
        from consent.subjects import pack_identifiers

        key = pair.shop.vault.unwrap(handle, row.wrapped_key)
        tx.put_identifiers(handle, pair.shop.vault.seal(key, handle, IDENTIFIERS, pack_identifiers(many)))
    pair.shop.withdraw(many[:1])
    pair.shop.withdraw([("email", b"after")])
    hearing, delivery = pair.wire.connect()
    assert pair.wire.step(hearing, delivery)
    assert pair.bank.partner("shop").heard_seq == 0  # only the first part of one person
    while pair.wire.step(hearing, delivery):
        pass
    assert pair.wire.acknowledge() == 2
    for place in (0, 8_191, 8_192, 8_999):
        pair.bank.record([grant([many[place]], "overlap", partner="shop")])
        assert not bank_allows(pair, [many[place]])


def test_without_a_shared_key_nothing_is_told_and_nobody_passes(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop_node.pair.key = None
    with pytest.raises(Refused) as caught:
        pair.wire.hear()
    assert caught.value.code == "no_pair_key"
    assert pair.shop_feed.status("bank").last_error == "no_pair_key"
    pair.shop_node.pair.key = b"\x07" * 32
    pair.wire.read()
    assert pair.shop_feed.status("bank").last_error is None
    agreed(pair, [[("email", b"zoe")]])
    pair.bank_node.pair.key = None
    column = pa.array([b"zoe"])
    gate = ConsentGate(pair.bank)
    assert not gate.filter("email", column, purpose="overlap.reach", partner="shop").mask.any()
    assert not pair.bank.check(b"zoe", "email", "overlap.reach", "shop").allowed


def test_strangers_have_no_feed(pair):
    with pytest.raises(UnknownPartner):
        pair.shop_feed.outgoing.open("stranger", 0, "0123456789abcdef")
    with pytest.raises(UnknownPartner):
        pair.bank_feed.incoming.open("stranger")


def test_a_partner_who_left_is_told_nothing_more_and_one_who_returns_everything(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.shop.remove_partner("bank", {"agreement_hash": "00" * 32})
    with pytest.raises(Refused) as caught:
        pair.wire.hear()
    assert caught.value.code == "not_agreed" and pair.shop_feed.status("bank").removed
    pair.shop.withdraw([("email", b"meanwhile")])
    assert pair.shop.partner("bank").sent_seq == 1
    pair.shop.join_partner("bank", pair.bank.vkey)
    assert pair.wire.read() == 3  # ann twice: before, and with everybody who stands now
    agreed(pair, [[("email", b"meanwhile")]])
    assert not bank_allows(pair) and not bank_allows(pair, [("email", b"meanwhile")])


def test_erased_before_they_were_told_people_are_told_of_all_the_same(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    with pair.shop.store.write() as tx:
        lookup = pair.shop.vault.lookup("email")(ANN[0][1])
        handle = tx.find_subjects([lookup])[lookup]
        assert freeze_pseudonyms(tx, pair.shop.vault, pair.shop_node.pair, handle) == 1
        tx._c.exec_driver_sql("DELETE FROM consent_subjects")
        (row,) = tx.outbox("bank", 0, 9)
        assert row.pseudonyms and ANN[0][1] not in row.pseudonyms
    assert pair.wire.read() == 1
    assert not bank_allows(pair) and not bank_allows(pair, ANN[1:])
    with pair.shop.store.read() as view:
        assert view.outbox("bank", 0, 9)[0].pseudonyms is None


def test_of_somebody_nobody_can_name_any_more_the_leaf_still_comes(pair):
    pair.shop.withdraw(ANN)
    with pair.shop.store.write() as tx:
        tx._c.exec_driver_sql("DELETE FROM consent_subjects")
    pair.shop.withdraw([("email", b"next")])
    assert pair.wire.read() == 2
    assert pair.bank.partner("shop").heard_seq == 2 and verify_ledger(pair.bank).ok


def test_an_identifier_learned_later_of_somebody_restricted_counts_at_the_partner_too(pair, clock):
    second = [("email", b"ann.second@example.org")]
    agreed(pair)
    agreed(pair, [second])
    pair.shop.withdraw(ANN, "overlap.reach")
    pair.wire.read()
    clock.move(seconds=1)
    new = [("email", b"ann.new@example.org")]
    pair.bank.record([grant(new, "overlap", partner="shop")])
    # Something else is taken back, by another address beside the one known: it is hers as well.
    pair.shop.withdraw([*ANN, *new], "overlap.measure")
    assert pair.wire.read() == 2
    assert not bank_allows(pair, new) and not bank_allows(pair, new, "overlap.measure")
    assert bank_allows(pair, second) and verify_ledger(pair.bank).ok
    pair.shop.withdraw([*ANN, *new], "overlap.align")
    assert pair.wire.read() == 1  # nothing is told again of which nothing is new


def test_what_was_lifted_stays_lifted_when_another_identifier_is_learned(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN)
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap.reach", partner="bank")])
    pair.wire.read()
    assert bank_allows(pair) and not bank_allows(pair, purpose="overlap.measure")
    clock.move(seconds=1)
    new = [("email", b"ann.new@example.org")]
    pair.shop.withdraw([*ANN, *new], "overlap.align")
    pair.wire.read()
    pair.bank.record([grant(new, "overlap", partner="shop")])
    assert bank_allows(pair) and bank_allows(pair, new)
    assert not bank_allows(pair, new, "overlap.measure")


def test_a_grant_of_hundreds_of_purposes_is_told_in_parts(node, make_node, joined, clock):
    names = [f"overlap.p{i}" for i in range(300)]
    children = "".join(f"      p{i}: {{since: 1, title: {{en: P}}}}\n" for i in range(300))
    policy = PurposePolicy.parse(
        "policy: many\nversion: 1\nnotices: {}\npurposes:\n  overlap:\n    since: 1\n"
        f"    title: {{en: O}}\n    children:\n{children}"
    )
    bank_node = make_node("bank")
    shop, bank = node.open(policy=policy), bank_node.open(policy=policy)
    wire = joined(shop, node, bank, bank_node)
    bank.record([grant(ANN, "overlap", partner="shop")])
    shop.withdraw(ANN)
    clock.move(seconds=1)
    shop.record([grant(ANN, "overlap")])
    assert wire.read() == 4
    for name in (names[0], names[-1]):
        assert bank.check(ANN[0][1], "email", name, "shop").allowed
    with bank.store.read() as view:
        told = [len(FeedLeaf.from_bytes(row.leaf).purposes) for row in view.inbox("shop", 0, 9)]
    assert told == [1, 128, 128, 45]


# lost, repeated, out of order


def test_what_was_lost_on_the_way_is_told_again(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def lost(body):
        raise PeerUnreachable("lost")

    pair.wire.before = lost
    with pytest.raises(PeerUnreachable):
        pair.wire.hear()
    assert bank_allows(pair)
    pair.wire.before = lambda body: body
    assert pair.wire.read() == 1 and not bank_allows(pair)


def test_a_lost_acknowledgement_is_made_good_and_what_it_is_of_applied_once(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)

    def lost(ack):
        raise PeerUnreachable("lost")

    pair.wire.after = lost
    with pytest.raises(PeerUnreachable):
        pair.wire.read()
    size = pair.bank.head().size
    pair.wire.after = lambda ack: ack
    pair.shop.withdraw([("email", b"more")])
    assert pair.wire.read() == 2
    assert pair.bank.head().size == size + 1 and pair.shop_feed.status("bank").queued == 0


def test_an_acknowledgement_not_posted_before_a_restart_is_posted_after(pair):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.hear()
    bank = pair.bank_node.open()
    told = []
    pair.wire.reader_feed = Feed(
        bank, signing_key=pair.bank_node.key, enforcers=[lambda e: told.append(e) or 0]
    )
    pair.wire.hear()
    assert len(told) == 1  # whether it was enforced before nobody knows
    assert pair.wire.acknowledge() == 1
    pair.wire.reader_feed = Feed(pair.bank_node.open(), signing_key=pair.bank_node.key)
    assert pair.wire.read() == 0


def test_acknowledgements_are_gathered_and_old_ones_change_nothing(pair):
    pair.shop.withdraw(ANN)
    pair.wire.hear()
    pair.shop.withdraw([("email", b"b")])
    pair.wire.hear()
    assert pair.wire.acknowledge() == 2
    size = pair.shop.head().size
    assert pair.shop_feed.outgoing.acknowledge("bank", pair.wire.acks[0]) == 0
    assert pair.shop.head().size == size


def test_a_replayed_message_is_refused_and_changes_nothing(pair, clock):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.read()
    clock.move(seconds=1)
    pair.shop.record([grant(ANN, "overlap", partner="bank")])
    pair.wire.read()
    size = pair.bank.head().size
    hearing, delivery = pair.wire.connect()
    for old in pair.wire.bodies:
        with pytest.raises(PeerViolation) as caught:
            pair.bank_feed.incoming.apply(hearing, old)
        assert caught.value.code == "feed_replayed"
    pair.wire.step(hearing, delivery)
    with pytest.raises(PeerViolation):
        pair.bank_feed.incoming.apply(hearing, pair.wire.bodies[-1])
    assert pair.bank.head().size == size and bank_allows(pair)


def test_messages_out_of_order_or_with_one_left_out_are_refused(pair):
    hearing, delivery = pair.wire.connect()
    outgoing = pair.shop_feed.outgoing
    bodies = []
    for i in range(3):
        pair.shop.withdraw([("email", b"%d" % i)])
        bodies.append(outgoing.message(delivery)[0])
    with pytest.raises(PeerViolation):
        pair.bank_feed.incoming.apply(hearing, bodies[1])
    pair.bank_feed.incoming.apply(hearing, bodies[0])
    with pytest.raises(PeerViolation):
        pair.bank_feed.incoming.apply(hearing, bodies[2])
    assert pair.bank.partner("shop").heard_seq == 1
    assert pair.wire.read() == 3


def test_a_reader_that_lost_its_place_hears_everything_again(pair):
    agreed(pair)
    for i in range(5):
        pair.shop.withdraw([("email", b"%d" % i)])
    pair.wire.read()
    with pair.bank.store.write() as tx:
        tx.put_partner(
            replace(
                tx.partner("shop"), heard_seq=0, heard_frontier=None, heard_checkpoint=None, enforced_seq=0
            )
        )
        tx._c.exec_driver_sql("DELETE FROM consent_inbox")
    pair.wire.reader_feed = Feed(pair.bank, signing_key=pair.bank_node.key)
    pair.shop.withdraw(ANN)
    assert pair.wire.read() == 1
    assert pair.bank.partner("shop").heard_seq == 6 and not bank_allows(pair)


def test_a_sender_that_lost_its_place_is_told_so(pair):
    pair.shop.withdraw(ANN)
    pair.wire.read()
    with pair.shop.store.write() as tx:
        tx.put_partner(replace(tx.partner("bank"), sent_seq=0, acked_seq=0, acked_frontier=None))
        tx._c.exec_driver_sql("DELETE FROM consent_outbox")
    with pytest.raises(PeerViolation) as caught:
        pair.wire.hear()
    assert caught.value.code == "rolled_back"
    assert pair.shop_feed.status("bank").last_error == "rolled_back"


# forged


def resigned(pair, body, change):
    """A message of the shop's, changed and signed again with its real key."""
    message, _ = FeedMessage.from_bytes(body)
    changed = change(message)
    return changed.to_bytes(pair.shop_node.key.sign(MESSAGE_CONTEXT, changed.signed_part()))


def leaf_changed(message, **fields):
    leaf = replace(FeedLeaf.from_bytes(message.items[0].leaf), **fields)
    return replace(message, items=(FeedItem(leaf.to_bytes(), message.items[0].pseudonyms),))


def headed(message, frontier, signer):
    return replace(message, checkpoint=sign_checkpoint(frontier.size, frontier.root, signer).text)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: replace(m, sender="evil.example/consent"),
        lambda m: replace(m, receiver="evil.example/consent"),
        lambda m: replace(m, nonce="0123456789abcdef"),
        lambda m: replace(m, counter=1),
        lambda m: replace(m, checkpoint=m.checkpoint.replace("\n", "\n1", 1)),
        lambda m: replace(m, items=()),
        lambda m: replace(m, items=m.items * 2),
        lambda m: replace(m, ahead={"email": (b"x" * 32,)}),
        lambda m: replace(m, items=(), more=True, ahead={"email": (b"x" * 32,)}),
        lambda m: replace(m, items=(FeedItem(m.items[0].leaf[:-1], {}),)),
        lambda m: leaf_changed(m, seq=2),
        lambda m: leaf_changed(m, seq=0),
        lambda m: leaf_changed(m, entry=1),
        lambda m: leaf_changed(m, purposes=("overlap",)),
        lambda m: leaf_changed(m, type=EventType.OBJECTION),
    ],
)
def test_a_dishonest_partners_message_is_refused_and_changes_nothing(pair, change):
    agreed(pair)
    pair.shop.withdraw(ANN)
    heard, rows = pair.bank.partner("shop"), []
    pair.wire.before = lambda body: resigned(pair, body, change)
    with pytest.raises(PeerViolation):
        pair.wire.hear()
    with pair.bank.store.read() as view:
        rows = view.inbox("shop", 0, 9)
    assert rows == [] and pair.bank.partner("shop") == heard and bank_allows(pair)
    pair.wire.before = lambda body: body
    assert pair.wire.read() == 1 and not bank_allows(pair)


@pytest.mark.parametrize("what", ["purposes", "kind"])
def test_a_log_that_holds_what_no_decision_has_is_refused(pair, what):
    agreed(pair)
    pair.shop.withdraw(ANN)
    signer = NoteSigner(feed_key(pair.shop.key, pair.bank.origin), pair.shop_node.key.sign_raw)

    def change(message):
        if what == "kind":
            return replace(message, items=(replace(message.items[0], pseudonyms={"x" * 33: (b"x" * 32,)}),))
        changed = leaf_changed(message, purposes=("NOT A PURPOSE",))
        return headed(changed, Frontier().extended([leaf_hash(changed.items[0].leaf)]), signer)

    pair.wire.before = lambda body: resigned(pair, body, change)
    with pytest.raises(PeerViolation) as caught:
        pair.wire.hear()
    assert caught.value.code == "feed_malformed" and bank_allows(pair)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b.replace(b'"acked":0', b'"acked":1'),
        lambda b: b.replace(b'"more":false', b'"more":true'),
        lambda b: b.replace(b'"elapsed":', b'"elapsed":1'),
        lambda b: json.dumps({**json.loads(b), "signature": "A" * 86 + "=="}).encode(),
        lambda b: b"{}",
        lambda b: b"",
        lambda b: b"\xff" * 100,
        lambda b: b" " * (5 << 20),
    ],
)
def test_a_message_changed_on_the_way_is_refused(pair, spoil):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.before = spoil
    with pytest.raises(PeerViolation):
        pair.wire.hear()
    assert bank_allows(pair)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a: b"{}",
        lambda a: b"\xff",
        lambda a: b"x" * 100_000,
        lambda a: a.replace(b'"seq":1', b'"seq":9'),
        lambda a: json.dumps({**json.loads(a), "signature": "A" * 86 + "=="}).encode(),
    ],
)
def test_a_false_acknowledgement_is_not_believed(pair, spoil):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.after = spoil
    with pytest.raises(ComityError) as caught:
        pair.wire.read()
    assert caught.value.code in ("feed_malformed", "feed_forged", "too_large")
    assert pair.shop_feed.status("bank").queued == 1
    pair.wire.after = lambda a: a
    assert pair.wire.read() == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"root": b"\x00" * 32}, {"size": 2}, {"seq": 2, "size": 2}, {"first_seq": 0}, {"first_seq": 2},
        {"sender": "evil.example/consent"}, {"receiver": "evil.example/consent"},
    ],
)  # fmt: skip
def test_an_acknowledgement_of_something_else_is_refused_though_it_is_signed(pair, fields):
    pair.shop.withdraw(ANN)
    pair.wire.hear()

    def change(body):
        ack = replace(Acknowledgement.from_bytes(body)[0], **fields)
        return ack.to_bytes(pair.bank_node.key.sign(ACK_CONTEXT, ack.signed_part()))

    pair.wire.after = change
    size = pair.shop.head().size
    with pytest.raises(PeerViolation):
        pair.wire.acknowledge()
    assert pair.shop.head().size == size and pair.shop_feed.status("bank").queued == 1


def test_an_acknowledgement_that_skips_some_is_refused(pair):
    pair.shop.withdraw(ANN)
    pair.shop.withdraw([("email", b"b")])
    pair.wire.hear()

    def change(body):
        ack = replace(Acknowledgement.from_bytes(body)[0], first_seq=2)
        return ack.to_bytes(pair.bank_node.key.sign(ACK_CONTEXT, ack.signed_part()))

    pair.wire.after = change
    with pytest.raises(FeedGap):
        pair.wire.acknowledge()
    pair.wire.after = lambda a: a
    assert pair.wire.read() == 2


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_message(data):
    with pytest.raises(PeerViolation):
        FeedMessage.from_bytes(data)
    with pytest.raises(PeerViolation):
        Acknowledgement.from_bytes(data)
    with pytest.raises(BadInput):
        FeedLeaf.from_bytes(data)


def test_messages_too_large_or_of_another_shape_are_refused(pair):
    pair.shop.withdraw(ANN)
    pair.wire.hear()
    good = json.loads(pair.wire.bodies[0])
    message, signature = good["message"], good["signature"]
    item = message["items"][0]
    wrong = [
        {"v": 2}, {"extra": 1}, {"items": [item] * 1001}, {"counter": -1}, {"counter": True},
        {"elapsed": 0.5}, {"nonce": "short"}, {"nonce": 5}, {"more": 1}, {"more": None},
        {"at": "now"},
        {"checkpoint": "x" * 70_000},
        {"items": [{**item, "pseudonyms": {"email": ["AAAA"]}}]}, {"items": [{**item, "leaf": "!"}]},
        {"items": [{**item, "pseudonyms": {"Bad Kind": ["A" * 43 + "="]}}]}, {"items": {}}, {"ahead": []},
        {"ahead": {"email": ["A" * 43 + "="] * 16_385}}, {"items": [{**item, "pseudonyms": {"email": []}}]},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(PeerViolation):
            FeedMessage.from_bytes(
                json.dumps({"message": {**message, **change}, "signature": signature}).encode()
            )


# split views


def twin_of(pair, make_node):
    """The same key signs another log of the same name."""
    node = make_node("twin")
    node.name, node.key, node.ring = "shop", pair.shop_node.key, pair.shop_node.ring
    twin = node.open()
    twin.join_partner("bank", pair.bank.vkey)
    return twin, Feed(twin, signing_key=node.key)


@pytest.mark.parametrize(("more", "code"), [(1, "split_view"), (2, "split_view"), (0, "rolled_back")])
def test_a_partner_that_shows_two_histories_is_found_out_and_both_heads_are_kept(pair, make_node, more, code):
    agreed(pair)
    pair.shop.withdraw(ANN)
    pair.wire.read()
    heard = pair.bank.partner("shop").heard_checkpoint
    twin, feed = twin_of(pair, make_node)
    for i in range(more):
        twin.withdraw([("email", b"%d" % i)])
    pair.wire.sender_feed = feed
    hearing = pair.bank_feed.incoming.open("shop")
    delivery = feed.outgoing.open("bank", min(1, more), hearing.nonce)
    body, _ = feed.outgoing.message(delivery)
    for _ in range(2):  # the evidence is kept once
        hearing.counter = 0
        with pytest.raises(PeerViolation) as caught:
            pair.bank_feed.incoming.apply(hearing, body)
        assert caught.value.code == code
    (kept,) = pair.bank_feed.status("shop").evidence
    assert (kept.found, kept.heard) == (code, heard) and kept.shown != heard
    key = feed_key(pair.shop.key, pair.bank.origin)
    assert open_checkpoint(kept.heard, [key]).root != open_checkpoint(kept.shown, [key]).root
    entry = pair.bank.prove(kept.index).verify(pair.bank.key)[0]
    assert entry.type == EventType.AUDIT
    # The honest log is believed as before.
    pair.wire.sender_feed = pair.shop_feed
    pair.shop.withdraw([("email", b"b")])
    assert pair.wire.read() == 1 and verify_ledger(pair.bank).ok


# enforcing


def test_enforcers_run_before_the_acknowledgement_and_are_counted(pair):
    agreed(pair)
    told = []

    def stop_jobs(what: Enforcement) -> int:
        assert not bank_allows(pair)  # the restriction is already in force when jobs are stopped
        told.append(what)
        return 3

    pair.bank_feed.enforcers.append(stop_jobs)
    pair.shop.withdraw(ANN)
    pair.wire.read()
    (what,) = told
    assert (what.partner, what.purposes, what.people) == ("shop", frozenset({"*"}), 1)
    assert {kind: len(found) for kind, found in what.pseudonyms.items()} == {"email": 1, "phone": 1}
    assert Acknowledgement.from_bytes(pair.wire.acks[0])[0].jobs_affected == 3


def test_what_an_enforcer_could_not_do_is_not_acknowledged_and_tried_again(pair, clock):
    agreed(pair)
    pair.bank.join_partner("shop", pair.shop.vkey, lease=5 * SECOND)
    pair.wire.read()
    fails = [True]

    def enforcer(what: Enforcement) -> int:
        if fails[0]:
            raise OSError("the disk is full")
        return what.people

    pair.bank_feed.enforcers.append(enforcer)
    pair.shop.withdraw(ANN)
    for _ in range(3):
        with pytest.raises(OSError):
            pair.wire.hear()
        assert pair.wire.acknowledge() == 0
        clock.move(seconds=2)
    assert pair.shop_feed.status("bank").queued == 1
    assert not bank_allows_whom(pair)  # nor is the lease renewed
    fails[0] = False
    assert pair.wire.read() == 1
    ack = Acknowledgement.from_bytes(pair.wire.acks[-1])[0]
    assert ack.jobs_affected == 1 and ack.enforced_at - ack.received_at == 6_000_000


def bank_allows_whom(pair):
    with pytest.raises(ConsentStale):
        ConsentGate(pair.bank).filter("email", pa.array([b"x"]), purpose="overlap.reach", partner="shop")
    return False


# the lease


def test_a_partner_not_heard_for_longer_than_the_lease_is_denied(pair, clock):
    agreed(pair)
    pair.bank.join_partner("shop", pair.shop.vkey, lease=5 * SECOND)
    gate, column = ConsentGate(pair.bank), pa.array([ANN[0][1]])

    def asked():
        return pair.bank.check(ANN[0][1], "email", "overlap.reach", "shop")

    assert asked().reason is Reason.LEASE_EXPIRED  # nothing has been heard under this agreement
    pair.wire.hear()
    assert asked().allowed
    assert gate.filter("email", column, purpose="overlap.reach", partner="shop").allowed == 1
    clock.move(seconds=5)
    assert asked().allowed
    clock.move(seconds=0.1)
    assert not asked().allowed and asked().reason is Reason.LEASE_EXPIRED
    with pytest.raises(ConsentStale) as caught:
        gate.filter("email", column, purpose="overlap.reach", partner="shop")
    assert (caught.value.code, caught.value.retryable) == ("consent_stale", True)
    assert pair.bank_feed.status("shop").lease_expired
    # What was, and what is with others, is no matter of the lease.
    assert pair.bank.check(ANN[0][1], "email", "overlap.reach", "shop", at=clock() - SECOND).allowed
    assert pair.bank.check(ANN[0][1], "email", "overlap.reach", "other").reason is Reason.NO_RECORD
    pair.wire.hear()
    assert asked().allowed


def test_without_a_lease_silence_is_no_reason_to_deny(pair, clock):
    agreed(pair)
    clock.move(days=30)
    assert bank_allows(pair) and not pair.bank_feed.status("shop").lease_expired


def test_a_reader_with_a_backlog_is_denied_until_it_is_through(pair):
    agreed(pair)
    pair.bank.join_partner("shop", pair.shop.vkey, lease=5 * SECOND)
    pair.shop.record([withdraw([("email", b"p%d" % i)]) for i in range(300)])
    hearing, delivery = pair.wire.connect()
    assert pair.wire.step(hearing, delivery)
    assert pair.bank_feed.status("shop").lease_expired
    assert not pair.wire.step(hearing, delivery)
    assert not pair.bank_feed.status("shop").lease_expired


def test_a_message_held_back_on_the_way_counts_from_when_it_was_asked_for(pair, clock):
    agreed(pair)
    pair.bank.join_partner("shop", pair.shop.vkey, lease=5 * SECOND)
    hearing, delivery = pair.wire.connect()
    body, _ = pair.shop_feed.outgoing.message(delivery)
    clock.move(seconds=4)
    pair.bank_feed.incoming.apply(hearing, body)
    assert bank_allows(pair)
    clock.move(seconds=2)
    assert not pair.bank.check(ANN[0][1], "email", "overlap.reach", "shop").allowed


def test_another_process_sees_the_lease_too(pair, clock):
    agreed(pair)
    pair.bank.join_partner("shop", pair.shop.vkey, lease=5 * SECOND)
    other = pair.bank_node.open()

    def allowed():
        return other.check(ANN[0][1], "email", "overlap.reach", "shop").allowed

    assert not allowed()
    pair.wire.hear()
    assert allowed()
    hearing, delivery = pair.wire.connect()
    for _ in range(8):
        clock.move(seconds=0.9)
        pair.wire.step(hearing, delivery)
        assert allowed()
    clock.move(seconds=5.1)
    assert not allowed()
    clock.move(seconds=-3600)  # a clock that went back does not bring it back to life
    assert not allowed()


def test_a_lease_of_nothing_is_refused(pair):
    with pytest.raises(Misuse):
        pair.bank.join_partner("shop", pair.shop.vkey, lease=timedelta(0))


# the parts


@given(
    st.integers(1, 1 << 50), st.lists(st.text(min_size=1, max_size=9), min_size=1), st.integers(0, 1 << 50)
)
def test_a_leaf_is_written_canonically_and_read_back(seq, purposes, at):
    leaf = FeedLeaf(seq, 7, sha256(b"x").digest(), EventType.WITHDRAWN, tuple(purposes[:128]), at, at)
    try:
        data = leaf.to_bytes()
    except BadInput:
        return  # a lone surrogate has no canonical form
    assert data == canonical_json(json.loads(data))
    assert FeedLeaf.from_bytes(data) == leaf


def test_a_message_is_written_canonically(pair):
    pair.shop.withdraw(ANN)
    pair.wire.hear()
    assert pair.wire.bodies[0] == canonical_json(json.loads(pair.wire.bodies[0]))


@given(st.integers(0, 200), st.integers(0, 200))
def test_a_frontier_extended_has_the_root_of_the_whole_tree(first, then):
    hashes = [sha256(b"%d" % i).digest() for i in range(first + then)]
    frontier = Frontier().extended(hashes[:first])
    assert frontier.root == root_of(hashes[:first])
    again = Frontier.from_bytes(frontier.to_bytes()).extended(hashes[first:])
    assert (again.size, again.root) == (first + then, root_of(hashes))


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\x00" * 9, (1).to_bytes(8, "big"), b"\x00" * 40])
def test_a_frontier_that_does_not_fit_its_size_is_found(data):
    with pytest.raises(ComityError):
        Frontier.from_bytes(data)
