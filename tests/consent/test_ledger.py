"""The ledger on both databases."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent.encoding import Leaf, to_micros
from consent.errors import RolledBack, UnknownPurpose
from consent.events import Event, EventType, Identifier, grant, refuse, withdraw
from consent.ledger import EntryAudit
from consent.merkle import verify_consistency
from consent.purposes import PurposePolicy
from consent.state import Reason, decide, fold
from consent.verify import Outcome, directory_reader, verify_ledger, verify_log
from privacy.errors import BadInput, Misuse, StorageError

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]
BOB = [("email", b"bob@example.org")]


def allowed(ledger, person=ANN, purpose="overlap.reach", partner="bank", at=None):
    return ledger.check(person[0][1], person[0][0], purpose, partner, at).allowed


def test_what_was_recorded_is_in_force_proved_and_published(ledger, node):
    done = ledger.record(
        [grant(ANN, "overlap.reach", partner="bank"), refuse(BOB, "overlap", partner="bank")]
    )
    assert (done.count, done.size) == (2, done.first_index + 2)
    assert allowed(ledger) and not allowed(ledger, BOB) and not allowed(ledger, partner="other")
    assert ledger.check(b"+8613800138000", "phone", "overlap.reach", "bank").allowed
    leaf, checkpoint = ledger.prove(done.first_index).verify(ledger.key)
    assert leaf.type == "consent.granted" and checkpoint.text == done.checkpoint_text
    assert verify_log(directory_reader(node.folder / "log"), ledger.key).outcome is Outcome.OK
    assert verify_ledger(ledger).ok


def test_a_withdrawal_by_one_identifier_holds_for_the_other(ledger):
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    ledger.withdraw(ANN[1:])
    assert not allowed(ledger) and not ledger.check(*reversed(ANN[1]), "overlap.reach", "bank").allowed


def test_identifiers_of_two_known_people_restrict_both(ledger):
    ledger.record([grant(ANN, "overlap.reach"), grant(BOB, "overlap.reach")])
    done = ledger.withdraw([ANN[1], BOB[0]])
    assert done.count == 2 and not allowed(ledger) and not allowed(ledger, BOB)


def test_a_new_identifier_joins_the_person_it_came_with(ledger):
    ledger.record([grant(ANN[:1], "overlap.reach")])
    ledger.record([grant(ANN, "overlap.measure")])
    ledger.withdraw(ANN[1:])
    assert not allowed(ledger)
    assert verify_ledger(ledger).ok


def test_the_past_is_answered_as_it_was_known_then(ledger, clock):
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    clock.move(days=1)
    before = clock()
    clock.move(days=1)
    ledger.withdraw(ANN)
    clock.move(days=1)
    assert allowed(ledger, at=before) and not allowed(ledger)
    assert not allowed(ledger, at=before - timedelta(days=2))


def test_an_expired_grant_stops_counting_without_an_event(ledger, clock):
    ledger.record([grant(ANN, "overlap.reach", expires_at=clock() + timedelta(hours=1))])
    assert allowed(ledger)
    clock.move(hours=1)
    assert ledger.check(*reversed(ANN[0]), "overlap.reach", "bank").reason is Reason.EXPIRED


def test_a_clock_that_goes_back_does_not_revive_a_grant(ledger, clock):
    ledger.record([grant(ANN, "overlap.reach")])
    clock.move(days=-30)
    ledger.withdraw(ANN)
    assert not allowed(ledger)
    ledger.record([grant(ANN, "overlap.reach")])
    assert allowed(ledger)
    times = [ledger.prove(i).verify(ledger.key)[0].recorded_at for i in range(ledger.head().size)]
    assert times == sorted(set(times))


def test_an_event_from_the_future_is_refused_and_a_little_skew_is_not(ledger, clock):
    with pytest.raises(BadInput):
        ledger.record([grant(ANN, "overlap.reach", effective_at=clock() + timedelta(minutes=6))])
    ledger.record([grant(ANN, "overlap.reach", effective_at=clock() + timedelta(minutes=4))])
    ledger.withdraw(ANN)
    clock.move(minutes=10)
    assert not allowed(ledger)


def test_a_mistake_in_one_event_records_none(ledger):
    size = ledger.head().size
    for wrong in (
        lambda: grant(BOB, "overlap.sms"),
        lambda: grant(BOB, "*"),
        lambda: grant(BOB, "overlap.reach", purpose_version=99),
        lambda: grant([], "overlap.reach"),
        lambda: grant([("email", b"x" * 1000)], "overlap.reach"),
        lambda: grant(BOB, "overlap.reach", partner="no spaces"),
        lambda: grant(BOB, "overlap.reach", method='"quoted"'),
        lambda: withdraw(BOB, "*", expires_at="soon"),
        lambda: Event(EventType.USE_RECEIPT, (Identifier("email", b"x"),), "overlap"),
        lambda: grant(BOB, "overlap.reach", details={"blob": "x" * 1_000_000}),
    ):
        with pytest.raises((BadInput, UnknownPurpose)):
            ledger.record([grant(ANN, "overlap.reach"), wrong()])
    with pytest.raises(BadInput):
        ledger.record([])
    assert ledger.head().size == size and not allowed(ledger)


def test_reopening_finds_everything_and_appends_nothing(ledger, node):
    ledger.record([grant(ANN, "overlap.reach")])
    head = ledger.head()
    again = node.open()
    assert again.head() == head and allowed(again)


def test_a_new_policy_is_published_once_and_an_older_one_refused(ledger, node):
    text = (
        "policy: p\nversion: 2\npurposes: {overlap: {since: 1, title: {en: O}, children: "
        "{reach: {since: 1, title: {en: R}}, later: {since: 2, title: {en: L}}}}}\nnotices: {}\n"
    )
    ledger.record([grant(ANN, "overlap")])
    newer = node.open(policy=PurposePolicy.parse(text))
    assert newer.head().size == ledger.head().size + 1 or newer.head().size > 2
    assert allowed(newer) and not allowed(newer, purpose="overlap.later")
    assert node.open(policy=PurposePolicy.parse(text)).head() == newer.head()
    with pytest.raises(Misuse):
        node.open()


def test_appends_of_every_width_stay_consistent_with_each_other(ledger, node):
    seen = [ledger.head()]
    people = iter(range(10_000))
    for count in (1, 2, 250, 3, 1, 255, 256, 257, 1):
        ledger.record([grant([("email", b"p%d" % next(people))], "overlap.reach") for _ in range(count)])
        seen.append(ledger.head())
    for old, new in itertools.pairwise(seen):
        verify_consistency(old.size, new.size, old.root, new.root, ledger.log.consistency(old.size, new.size))
        assert verify_log(directory_reader(node.folder / "log"), ledger.key, known=old).ok
    for index in random.Random(1).sample(range(ledger.head().size), 40):
        ledger.prove(index).verify(ledger.key)
    with pytest.raises(Misuse):
        ledger.prove(ledger.head().size)


def test_other_rooms_can_have_their_acts_recorded(ledger):
    EntryAudit(ledger).record("vault.opened", {"entries": 3})
    leaf, _ = ledger.prove(ledger.head().size - 1).verify(ledger.key)
    assert leaf.type == "audit.recorded"


def test_history_tells_what_was_decided_and_when(ledger):
    ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    ledger.withdraw(ANN)
    told = ledger.history(b"ann@example.org", "email")
    assert [(h["type"], h["purpose"], h["partner"]) for h in told] == [
        ("consent.granted", "overlap.reach", "bank"),
        ("consent.withdrawn", "*", "*"),
    ]
    assert ledger.history(b"nobody", "email") == []


def test_joining_twice_changes_nothing_and_another_key_is_refused(ledger):
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    ledger.join_partner("bank", vkey)
    size = ledger.head().size
    ledger.join_partner("bank", vkey)
    assert ledger.head().size == size
    with pytest.raises(Misuse):
        ledger.join_partner("bank", ledger.vkey)
    with pytest.raises(Misuse):
        ledger.join_partner("other", "not a key")


def test_a_database_restored_from_an_old_backup_is_not_served(node, tmp_path):
    import sqlalchemy as sa

    from consent.sql import metadata

    ledger = node.open()
    ledger.record([grant(ANN, "overlap.reach")])
    emptied = sa.create_engine(f"sqlite:///{tmp_path}/emptied.db")
    metadata.create_all(emptied)
    node.engine, engine = emptied, node.engine
    with pytest.raises(RolledBack):
        node.open()
    node.engine = engine
    emptied.dispose()


def test_database_errors_come_out_as_storage_errors_without_values(ledger, node):
    import sqlalchemy as sa

    with node.engine.begin() as c:
        c.execute(sa.text("DROP TABLE consent_aliases"))
    with pytest.raises(StorageError) as caught:
        ledger.record([grant(ANN, "overlap.reach")])
    assert "ann" not in str(caught.value) and "INSERT" not in str(caught.value)


PURPOSES = st.sampled_from(["overlap", "overlap.reach", "overlap.align", "model", "model.credit"])
STEPS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from(["grant", "refuse", "withdraw", "renew"]),
            st.integers(0, 3),
            PURPOSES,
            st.sampled_from(["bank", "*"]),
            st.integers(-3, 0),
            st.integers(1, 4) | st.none(),
        ),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=5,
)
KINDS = {
    "grant": EventType.GRANTED,
    "refuse": EventType.REFUSED,
    "withdraw": EventType.WITHDRAWN,
    "renew": EventType.RENEWED,
}


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS, st.integers(0, 1 << 60))
def test_the_state_table_is_the_fold_on_random_histories(node, ledger, steps, run):
    clock = node.clock
    for step in steps:
        events = [
            Event(
                KINDS[what],
                (Identifier("email", b"%d-%d" % (run, who)),),
                purpose,
                partner,
                effective_at=clock() + timedelta(days=day),
                expires_at=None
                if ends is None or what not in ("grant", "renew")
                else clock() + timedelta(days=ends),
            )
            for what, who, purpose, partner, day, ends in step
        ]
        ledger.append_decisions(events)  # which takes back-dated grants too
        clock.move(days=1)
    assert verify_ledger(ledger).ok
    now = to_micros(clock())
    for who in range(4):
        state = fold(_facts(ledger, b"%d-%d" % (run, who)))
        for purpose in ("overlap.reach", "model.credit"):
            expected = decide(state, purpose, "bank", now, ledger.policy)
            assert ledger.check(b"%d-%d" % (run, who), "email", purpose, "bank") == expected


def _facts(ledger, canonical):
    from consent.history import facts_of

    with ledger.store.read() as view:
        lookup = ledger.vault.lookup("email")(canonical)
        handle = view.find_subjects([lookup]).get(lookup)
        return [] if handle is None else [r.fact for r in facts_of(view, ledger.vault, handle)]


def test_entries_hold_nothing_but_the_six_fields(ledger):
    ledger.record([grant(ANN, "overlap.reach")])
    with ledger.store.read() as view:
        for row in view.entries(0, 100):
            Leaf.from_bytes(row.leaf)


def test_an_identifier_named_twice_is_one(ledger):
    ledger.record([grant([ANN[0], ANN[0]], "overlap"), grant([ANN[0], ANN[1], ANN[1]], "overlap")])
    assert may_reach(ledger, ANN[0]) and may_reach(ledger, ANN[1])


def may_reach(ledger, identifier, purpose="overlap.reach"):
    kind, canonical = identifier
    return ledger.check(canonical, kind, purpose, "bank").allowed


BEN, LINE, MAIL = ("email", b"bob@example.org"), ("phone", b"+861000"), ("email", b"ann@example.net")


def test_a_grant_by_somebody_who_shares_an_identifier_lifts_no_restriction(ledger, clock):
    ledger.record([grant([MAIL, LINE], "overlap")])
    clock.move(seconds=1)
    ledger.record([refuse([MAIL, LINE], "overlap")])
    for _ in range(3):
        clock.move(seconds=1)
        ledger.record([grant([BEN, LINE], "overlap")])
        assert [may_reach(ledger, who) for who in (MAIL, LINE, BEN)] == [False, False, True]
    clock.move(seconds=1)
    ledger.record([grant([MAIL, LINE], "overlap")])
    assert may_reach(ledger, MAIL) and may_reach(ledger, LINE)
    assert verify_ledger(ledger).ok


def test_a_grant_with_a_new_identifier_joins_whoever_is_not_restricted(ledger, clock):
    ledger.record([grant([MAIL], "overlap")])
    ledger.record([grant([MAIL, LINE], "overlap")])
    clock.move(seconds=1)
    ledger.withdraw([MAIL])
    assert not may_reach(ledger, LINE)


@pytest.mark.parametrize("joint", [withdraw, grant])
def test_subjects_named_together_take_over_each_others_restrictions(ledger, clock, joint):
    ledger.record([grant([MAIL], "overlap"), grant([LINE], "overlap")])
    clock.move(seconds=1)
    ledger.withdraw([MAIL])
    clock.move(seconds=1)
    ledger.record([grant([LINE], "overlap")])
    assert not may_reach(ledger, MAIL) and may_reach(ledger, LINE)
    clock.move(seconds=1)
    ledger.record([joint([MAIL, LINE], "overlap.measure")])
    assert not may_reach(ledger, MAIL) and not may_reach(ledger, LINE)
    assert may_reach(ledger, LINE, "overlap.measure") is may_reach(ledger, MAIL, "overlap.measure")
    clock.move(seconds=1)
    ledger.record([grant([MAIL, LINE], "overlap")])
    for _ in range(2):
        assert may_reach(ledger, MAIL) and may_reach(ledger, LINE)
        clock.move(seconds=1)
        ledger.record([grant([MAIL, LINE], "overlap.align")])
    assert verify_ledger(ledger).ok


def test_what_stands_is_carried_over_within_one_batch_too(ledger, clock):
    events = [withdraw([MAIL]), grant([LINE], "overlap"), withdraw([MAIL, LINE], "overlap.align")]
    ledger.record(events)
    assert not may_reach(ledger, MAIL) and not may_reach(ledger, LINE)
    assert verify_ledger(ledger).ok


def test_a_grant_that_names_several_restricted_people_in_part_is_refused(ledger, clock):
    ledger.record([refuse([MAIL, LINE], "overlap"), refuse([BEN, ("phone", b"+862000")], "overlap")])
    size = ledger.head().size
    clock.move(seconds=1)
    with pytest.raises(Misuse) as caught:
        ledger.record([grant([LINE, BEN], "overlap")])
    assert caught.value.code == "grant_conflicts" and ledger.head().size == size
