"""Two records that are one person's, one record that is two people's: the most restrictive wins, always."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.access import access_copy
from consent.erasure import Erasure
from consent.events import EventType, grant, withdraw
from consent.merging import Merging, merged_grants, merged_restrictions
from consent.purposes import PurposePolicy
from consent.state import Fact, Reason, decide, fold, step
from consent.verify import verify_ledger
from privacy.errors import BadInput, Misuse

MAIL, PHONE = [("email", b"ada@example.org")], [("phone", b"+8613800138000")]
POLICY = PurposePolicy.default()
PURPOSES = ["overlap", "overlap.reach", "overlap.measure"]


def allowed(ledger, person, purpose="overlap.reach", partner="bank", at=None):
    return ledger.check(person[0][1], person[0][0], purpose, partner, at).allowed


def test_both_identifiers_answer_alike_after_a_merge(ledger):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.measure")])
    done = Merging(ledger).merge(MAIL, PHONE)
    assert (done.grants, done.restrictions) == (1, 0)
    for person in (MAIL, PHONE):
        assert allowed(ledger, person)
        assert allowed(ledger, person, "overlap.measure")
    assert ledger.standings(*reversed(MAIL[0])) == ledger.standings(*reversed(PHONE[0]))
    report = verify_ledger(ledger)
    assert report.ok, report.detail


def test_what_one_record_restricted_stays_restricted_whatever_the_other_granted_later(ledger, clock):
    ledger.record([grant(PHONE, "overlap.reach"), withdraw(MAIL, "overlap")])
    clock.move(days=1)
    ledger.record([grant(PHONE, "overlap.reach")])
    assert allowed(ledger, PHONE)
    Merging(ledger).merge(PHONE, MAIL)
    for person in (MAIL, PHONE):
        assert not allowed(ledger, person)
    clock.move(days=1)
    ledger.record([grant(MAIL, "overlap.reach")])
    assert allowed(ledger, PHONE)
    assert verify_ledger(ledger).ok


def test_the_past_is_answered_as_it_was_before_the_merge(ledger, clock):
    ledger.record([grant(PHONE, "overlap.reach"), withdraw(MAIL)])
    clock.move(days=1)
    then = clock()
    clock.move(days=1)
    Merging(ledger).merge(MAIL, PHONE)
    assert not allowed(ledger, PHONE)
    assert allowed(ledger, PHONE, at=then)
    assert not allowed(ledger, MAIL, at=then)


def test_history_and_copy_of_a_merged_person_hold_what_both_recorded(ledger):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.measure")])
    Merging(ledger).merge(MAIL, PHONE)
    history = ledger.history(*reversed(PHONE[0]))
    assert [h["purpose"] for h in history] == ["overlap.reach", "overlap.measure", "overlap.measure"]
    copy = access_copy(ledger, PHONE)
    assert {i["kind"] for i in copy["identifiers"]} == {"email", "phone"}
    assert [e["type"] for e in copy["entries"]].count("subject.merged") == 1


def test_erasing_a_merged_person_erases_both_records(ledger):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.measure")])
    Merging(ledger).merge(MAIL, PHONE)
    done = Erasure(ledger).erase(PHONE)
    assert done.entries == 5
    with ledger.store.read() as view:
        assert list(view.all_subjects()) == []
        assert view.count_aliases() == 0
    for person in (MAIL, PHONE):
        assert ledger.check(person[0][1], person[0][0], "overlap.reach", "bank").reason is Reason.ERASED
    assert verify_ledger(ledger).ok


def test_a_merge_is_taken_back_and_no_grant_goes_to_the_wrong_person(ledger, clock):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.measure")])
    merging = Merging(ledger)
    merging.merge(MAIL, PHONE)
    clock.move(days=1)
    done = merging.split(PHONE)
    assert done.undone
    assert allowed(ledger, MAIL)
    assert not allowed(ledger, MAIL, "overlap.measure")
    assert allowed(ledger, PHONE, "overlap.measure")
    assert not allowed(ledger, PHONE)
    report = verify_ledger(ledger)
    assert report.ok, report.detail
    assert [h["purpose"] for h in ledger.history(*reversed(PHONE[0]))] == ["overlap.measure"]


def test_a_restriction_made_while_merged_stays_with_both_after_a_split(ledger, clock):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.reach")])
    merging = Merging(ledger)
    merging.merge(MAIL, PHONE)
    clock.move(days=1)
    ledger.record([withdraw(MAIL, "overlap.reach")])
    merging.split(PHONE)
    assert not allowed(ledger, MAIL)
    assert not allowed(ledger, PHONE)
    assert verify_ledger(ledger).ok


def test_identifiers_recorded_together_by_mistake_are_taken_apart(ledger):
    ledger.record([grant([*MAIL, *PHONE], "overlap.reach"), withdraw(MAIL, "overlap.measure")])
    done = Merging(ledger).split(PHONE)
    assert not done.undone
    assert allowed(ledger, MAIL)
    assert ledger.check(PHONE[0][1], "phone", "overlap.reach", "bank").reason is Reason.NO_RECORD
    assert ledger.check(PHONE[0][1], "phone", "overlap.measure", "bank").reason is Reason.RESTRICTED
    assert verify_ledger(ledger).ok


def test_partners_are_told_of_a_restriction_under_every_identifier(pair):
    pair.shop.record([withdraw(MAIL), grant(PHONE, "overlap.reach")])
    pair.bank.record([grant(PHONE, "overlap.reach"), grant(MAIL, "overlap.reach")])
    pair.wire.read()
    assert allowed(pair.bank, PHONE, partner="shop")
    Merging(pair.shop).merge(MAIL, PHONE)
    pair.wire.read()
    assert not allowed(pair.bank, PHONE, partner="shop")
    assert not allowed(pair.bank, MAIL, partner="shop")


def test_merges_of_merges_stay_one_person(ledger):
    third = [("email", b"ada@work.example")]
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.reach"), withdraw(third)])
    merging = Merging(ledger)
    merging.merge(PHONE, MAIL)
    merging.merge(third, PHONE)
    for person in (MAIL, PHONE, third):
        assert not allowed(ledger, person)
    assert verify_ledger(ledger).ok
    assert Erasure(ledger).erase(MAIL).entries > 0
    assert verify_ledger(ledger).ok


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda m: m.merge(MAIL, MAIL), "already_one"),
        (lambda m: m.merge(MAIL, [("email", b"nobody@example.org")]), "unknown_subject"),
        (lambda m: m.merge([*MAIL, *PHONE], MAIL), "several_people"),
        (lambda m: m.split(MAIL), "nobody_left"),
        (lambda m: m.split([("email", b"nobody@example.org")]), "unknown_subject"),
    ],
)
def test_impossible_merges_and_splits_change_nothing(ledger, call, code):
    ledger.record([grant(MAIL, "overlap.reach"), grant(PHONE, "overlap.reach")])
    size = ledger.head().size
    with pytest.raises(Misuse) as caught:
        call(Merging(ledger))
    assert caught.value.code == code
    assert ledger.head().size == size
    assert verify_ledger(ledger).ok


def test_pseudonyms_of_partners_are_nobodys_own_identifiers(ledger):
    with pytest.raises(BadInput):
        Merging(ledger).split([("pseudonym", b"bank\x00email\x00" + b"\x01" * 32)])


TYPES = [EventType.GRANTED, EventType.WITHDRAWN, EventType.REFUSED, EventType.RENEWED]
facts = st.lists(
    st.builds(
        Fact,
        st.sampled_from(TYPES),
        st.sampled_from(PURPOSES),
        st.sampled_from(["*", "bank"]),
        st.just(POLICY.version),
        st.integers(1, 20),
        st.one_of(st.none(), st.integers(21, 60)),
        st.integers(0, 1000),
    ),
    max_size=6,
)


def merged(one, other):
    """The state of `one` after `other` was merged into it, as the ledger restates it."""
    state = dict(one)

    def say(type_, key, at, version=POLICY.version, expires=None):
        state.update(fold_on(state, Fact(type_, *key, version, at, expires, 2000)))

    for key, s in merged_grants(one, other).items():
        say(EventType.GRANTED, key, s.granted_at, s.granted_version, s.expires_at)
    for key, (type_, at) in merged_restrictions(one, other).items():
        say(EventType(type_), key, at)
    return state


def fold_on(state, fact):
    key = (fact.purpose, fact.partner)
    return {key: step(state.get(key), fact)}


@given(facts, facts, st.sampled_from(PURPOSES), st.integers(20, 70))
def test_nobody_is_allowed_by_a_merge_what_either_had_restricted_or_neither_was_allowed(a, b, purpose, at):
    one, other = fold(a), fold(b)
    before = [decide(s, purpose, "bank", at, POLICY) for s in (one, other)]
    for state in (merged(one, other), merged(other, one)):
        after = decide(state, purpose, "bank", at, POLICY)
        if any(d.reason is Reason.RESTRICTED for d in before):
            assert not after.allowed
        if not any(d.allowed for d in before):
            assert not after.allowed


@given(facts, facts, st.sampled_from(PURPOSES), st.integers(20, 70))
def test_it_does_not_matter_which_of_the_two_stays(a, b, purpose, at):
    one, other = fold(a), fold(b)
    answers = {
        decide(state, purpose, "bank", at, POLICY).allowed
        for state in (merged(one, other), merged(other, one))
    }
    assert len(answers) == 1
