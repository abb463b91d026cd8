"""Decisions that do not fit what is already recorded about the same person."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.errors import GrantConflict, InvalidConsent
from consent.events import EventType, grant, refuse, renew, withdraw
from consent.purposes import PurposePolicy
from consent.sequence import back_dated
from consent.state import Fact, Reason, decide, fold, step
from consent.terms import ConsentTerms

ANN = [("email", b"ann@example.org")]
BOB = [("email", b"bob@example.org")]
POLICY = PurposePolicy.parse(
    "policy: p\nversion: 1\nnotices: {}\npurposes: {a: {since: 1, title: {en: A}, children: "
    "{b: {since: 1, title: {en: B}}}}, c: {since: 1, title: {en: C}}}\n"
)
FACTS = st.lists(
    st.builds(
        Fact,
        st.sampled_from([EventType.GRANTED, EventType.WITHDRAWN, EventType.REFUSED]),
        st.sampled_from(["a", "a.b", "c", "*"]),
        st.sampled_from(["x", "*"]),
        st.just(1),
        st.integers(0, 6),
        st.none(),
        st.just(0),
    ),
    max_size=10,
)
GRANT = st.builds(
    Fact, st.just(EventType.GRANTED), st.sampled_from(["a", "a.b", "c"]), st.sampled_from(["x", "*"]),
    st.just(1), st.integers(0, 6), st.none(), st.just(99),
)  # fmt: skip


@given(FACTS, GRANT)
def test_a_grant_that_is_refused_as_back_dated_would_have_changed_no_answer(facts, fact):
    state = fold(facts)
    if not back_dated(state, fact):
        return
    key = (fact.purpose, fact.partner)
    after = {**state, key: step(state.get(key), fact)}
    for purpose in ("a", "a.b", "c"):
        before = decide(state, purpose, "x", 100, POLICY)
        # A partner that was given a newer one of its own is not asked about by a grant to every partner.
        if (purpose, "x") == (fact.purpose, fact.partner):
            assert before.reason is Reason.RESTRICTED
        assert decide(after, purpose, "x", 100, POLICY).allowed == before.allowed


@given(FACTS, GRANT)
def test_a_grant_newer_than_every_restriction_is_never_back_dated(facts, fact):
    newest = max((f.effective_at for f in facts if f.type is not EventType.GRANTED), default=0)
    assert not back_dated(fold(facts), fact._replace(effective_at=newest + 1))


@given(FACTS, GRANT)
def test_saying_the_same_again_is_never_back_dated(facts, fact):
    state = fold([*facts, fact])
    if state[fact.purpose, fact.partner].granted_at == fact.effective_at:
        assert not back_dated(state, fact)


@pytest.fixture
def ledger(make_node):
    return make_node("shop").open()


def back(ledger, **by):
    return ledger.clock() - timedelta(**by)


@pytest.mark.parametrize("place", ["overlap.reach", "overlap", "*"])
def test_a_grant_dated_before_a_withdrawal_that_stands_is_refused(ledger, clock, place):
    ledger.record([grant(ANN, "overlap.reach", effective_at=back(ledger, days=9))])
    ledger.record([withdraw(ANN, place)])
    clock.move(days=1)
    size = ledger.head().size
    late = grant(ANN, "overlap.reach", effective_at=back(ledger, days=2))
    with pytest.raises(InvalidConsent) as caught:
        ledger.record([grant(BOB, "overlap"), late])
    assert (caught.value.code, caught.value.position) == ("back_dated_grant", 1)
    assert ledger.head().size == size
    ledger.record([grant(ANN, "overlap.reach", effective_at=back(ledger, hours=1))])
    assert ledger.check(*reversed(ANN[0]), "overlap.reach", "bank").allowed
    ledger.record([late])  # the withdrawal stands no longer: this adds nothing, and does no harm


def test_a_withdrawal_of_the_same_batch_counts_too(ledger):
    early = grant(ANN, "overlap.reach", effective_at=back(ledger, days=1))
    ledger.record([early, withdraw(ANN)])
    with pytest.raises(InvalidConsent):
        ledger.record([withdraw(BOB), replace(early, identifiers=grant(BOB, "overlap").identifiers)])
    ledger.record([early])  # once more what is known already


def test_every_event_that_does_not_fit_is_named(ledger):
    ledger.record([withdraw(ANN)])
    early = [grant(ANN, p, effective_at=back(ledger, days=1)) for p in ("overlap", "model", "activation")]
    with pytest.raises(InvalidConsent) as caught:
        ledger.record([grant(BOB, "overlap"), early[0], refuse(BOB, "model"), *early[1:]])
    assert caught.value.positions == dict.fromkeys((1, 3, 4), "back_dated_grant")


def test_restrictions_may_be_dated_back(ledger):
    ledger.record([grant(ANN, "overlap")])
    ledger.record([withdraw(ANN, effective_at=back(ledger, days=9))])
    assert ledger.check(*reversed(ANN[0]), "overlap.reach", "bank").allowed


def test_the_entry_named_as_previous_is_about_the_same_person(ledger, clock):
    first = ledger.record([grant(ANN, "overlap", expires_at=ledger.clock() + timedelta(days=5))]).first_index
    clock.move(days=1)
    ends = ledger.clock() + timedelta(days=9)
    for person, index in ((BOB, first), (ANN, 0), (ANN, 10_000)):
        with pytest.raises(InvalidConsent) as caught:
            ledger.record([renew(person, "overlap", expires_at=ends, terms=ConsentTerms(previous=index))])
        assert caught.value.code == "unknown_previous"
    ledger.record([renew(ANN, "overlap", expires_at=ends, terms=ConsentTerms(previous=first))])
    clock.move(days=6)
    assert ledger.check(*reversed(ANN[0]), "overlap.reach", "bank").allowed


def test_a_grant_that_conflicts_tells_its_position(ledger, clock):
    line, second = ("phone", b"+861000"), ("phone", b"+862000")
    ledger.record([refuse([*ANN, line], "overlap"), refuse([*BOB, second], "overlap")])
    clock.move(seconds=1)
    with pytest.raises(GrantConflict) as caught:
        ledger.record([grant([("email", b"cy@example.org")], "overlap"), grant([line, *BOB], "overlap")])
    assert (caught.value.code, caught.value.position) == ("grant_conflicts", 1)
