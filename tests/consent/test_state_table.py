"""The state table against the fold, over random histories on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent.encoding import to_micros
from consent.errors import InvalidConsent
from consent.events import Event, EventType, Identifier
from consent.history import facts_of
from consent.purposes import PurposePolicy, ancestry
from consent.state import Fact, Reason, decide, fold
from consent.state_roots import StateRoots, check_state_tree

KINDS = [
    EventType.GRANTED, EventType.GRANTED, EventType.REFUSED, EventType.WITHDRAWN, EventType.RENEWED,
    EventType.EXPIRED, EventType.OBJECTION,
]  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 3),  # who
        st.sampled_from(["overlap", "overlap.reach", "model.credit", "*"]),
        st.sampled_from(["bank", "other", "*"]),
        st.integers(-3, 0) | st.none(),  # seconds before now that it takes effect
        st.integers(1, 6) | st.none(),  # seconds until it expires
        st.booleans(),  # recorded by itself, or together with the next
    ),
    min_size=1,
    max_size=10,
)
POLICY = PurposePolicy.default()
ASKED = [("overlap.reach", "bank"), ("overlap", "other"), ("model.credit", "bank")]


def event(step, names, now):
    type_, who, purpose, partner, before, ends, _ = step
    if type_ in (EventType.GRANTED, EventType.RENEWED) and purpose == "*":
        purpose = "overlap"
    expires = (
        now + timedelta(seconds=ends) if ends and type_ in (EventType.GRANTED, EventType.RENEWED) else None
    )
    effective = None if before is None else now + timedelta(seconds=before)
    return Event(
        type_,
        (Identifier("email", names[who]),),
        purpose,
        partner,
        effective_at=effective,
        expires_at=expires,
    )


def recorded(ledger, clock, steps, names):
    """Record a history in the batches it says; returns (time, state of everybody then) after each batch."""
    moments, waiting = [], []
    for n, step in enumerate(steps):
        waiting.append(event(step, names, clock()))
        if step[-1] or n == len(steps) - 1:
            for batch in (waiting, *([one] for one in waiting)):
                try:
                    ledger.record(batch)
                except InvalidConsent:
                    continue  # back-dated: as a whole, then one by one
                break
            waiting = []
            # Entries of one moment are a microsecond apart.
            clock.move(seconds=0.5)
            moments.append((clock(), {name: table_of(ledger, name) for name in names}))
            clock.move(seconds=0.5)
    return moments


def table_of(ledger, name):
    lookup = ledger.vault.lookup("email")(name)
    with ledger.store.read() as view:
        handle = view.find_subjects([lookup]).get(lookup)
        return {} if handle is None else view.standings_of([handle]).get(handle, {})


@pytest.fixture
def tried():
    return iter(range(1 << 30))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS)
def test_the_state_table_is_the_fold_of_every_history(ledger, clock, tried, steps):
    run = next(tried)
    names = [b"%d-%d" % (run, who) for who in range(4)]
    moments = recorded(ledger, clock, steps, names)
    with ledger.store.read() as view:
        for name in names:
            lookup = ledger.vault.lookup("email")(name)
            handle = view.find_subjects([lookup]).get(lookup)
            if handle is not None:
                facts = [r.fact for r in facts_of(view, ledger.vault, handle)]
                assert view.standings_of([handle]).get(handle, {}) == fold(facts)
    for at, then in moments:
        for name, state in then.items():
            assert ledger.state_at(name, "email", at) == state
            for purpose, partner in ASKED:
                given_then = ledger.check(name, "email", purpose, partner, at)
                assert (
                    given_then.allowed
                    == decide(state, purpose, partner, to_micros(at), ledger.policy).allowed
                )


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=STEPS, every=st.integers(1, 3))
def test_every_history_can_be_committed_to_and_proved(ledger, clock, tried, steps, every):
    run = next(tried)
    names = [b"%d-%d" % (run, who) for who in range(4)]
    roots = StateRoots(ledger)
    for n in range(0, len(steps), every):
        recorded(ledger, clock, steps[n : n + every], names)
        roots.commit()
    with ledger.store.read() as view:
        check_state_tree(ledger.vault, view)
    for name in names:
        if table_of(ledger, name):
            for purpose, partner in ASKED:
                proof = roots.prove(name, "email", purpose, partner).verify(ledger.key)
                mine = proof.decide(purpose, partner, to_micros(clock()), ledger.policy)
                assert mine == ledger.check(name, "email", purpose, partner)


# The rules of `decide`, each over random histories.


def history(draw_steps, now=0):
    """Facts of one person out of the same steps, in microseconds that are seconds."""
    for n, (type_, _, purpose, partner, before, ends, _) in enumerate(draw_steps):
        at = n + (before or 0)
        expires = None if ends is None or type_ not in (EventType.GRANTED, EventType.RENEWED) else at + ends
        if purpose == "*" and type_ in (EventType.GRANTED, EventType.RENEWED):
            continue
        yield Fact(type_, purpose, partner, 1, at, expires, n)


@given(STEPS, st.integers(0, 12))
def test_default_is_no(steps, at):
    facts = [f for f in history(steps) if f.type is not EventType.GRANTED]
    for purpose, partner in ASKED:
        assert not decide(fold(facts), purpose, partner, at, POLICY).allowed


@given(STEPS, st.sampled_from(ASKED), st.integers(0, 12))
def test_a_withdrawal_now_denies_whatever_came_before(steps, asked, at):
    purpose, partner = asked
    for above in ancestry(purpose):
        for who in (partner, "*"):
            last = Fact(EventType.WITHDRAWN, above, who, 1, at, None, 99)
            facts = [f for f in history(steps) if f.effective_at <= at]
            assert not decide(fold([*facts, last]), purpose, partner, at, POLICY).allowed


@given(STEPS, st.sampled_from(ASKED), st.integers(0, 12))
def test_what_is_decided_about_other_partners_and_purposes_changes_nothing(steps, asked, at):
    purpose, partner = asked
    facts = list(history(steps))
    mine = [f for f in facts if f.purpose in ancestry(purpose) and f.partner in (partner, "*")]
    answer = decide(fold(facts), purpose, partner, at, POLICY)
    assert answer == decide(fold(mine), purpose, partner, at, POLICY)


@given(STEPS, st.sampled_from(ASKED))
def test_time_alone_never_allows(steps, asked):
    facts = list(history(steps))
    purpose, partner = asked
    state, latest = fold(facts), max((f.effective_at for f in facts), default=0)
    answers = [decide(state, purpose, partner, at, POLICY).allowed for at in range(latest, latest + 20)]
    assert answers == sorted(answers, reverse=True)


@given(STEPS, st.sampled_from(ASKED), st.integers(0, 12))
def test_a_decision_names_the_entry_it_rests_on(steps, asked, at):
    purpose, partner = asked
    facts = list(history(steps))
    decision = decide(fold(facts), purpose, partner, at, POLICY)
    if decision.reason in (Reason.NO_RECORD, Reason.NOT_COVERED):
        assert decision.index is None
        return
    (fact,) = [f for f in facts if f.idx == decision.index]
    assert fact.purpose in ancestry(purpose) and fact.partner in (partner, "*")
    assert (fact.type in (EventType.GRANTED, EventType.RENEWED)) == (decision.reason is not Reason.RESTRICTED)
