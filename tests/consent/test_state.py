from __future__ import annotations

import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent.events import EventType
from consent.purposes import PurposePolicy, ancestry
from consent.rows import StandingKey
from consent.sql import SqlStore, metadata
from consent.state import Fact, Reason, decide, fold

POLICY = PurposePolicy.parse(
    """
policy: test
version: 3
purposes:
  a:
    since: 1
    title: {en: A}
    children:
      b: {since: 1, title: {en: B}}
      c: {since: 2, title: {en: C}}
      d: {since: 1, title: {en: D}, renotice: 3}
  e: {since: 1, title: {en: E}}
notices: {}
"""
)
GRANT, REFUSE, WITHDRAW, RENEW, EXPIRE = (
    EventType.GRANTED, EventType.REFUSED, EventType.WITHDRAWN, EventType.RENEWED, EventType.EXPIRED,
)  # fmt: skip


def fact(type_, purpose, at, *, partner="x", version=3, expires=None, idx=0):
    return Fact(type_, purpose, partner, version, at, expires, idx)


def asked(facts, purpose="a.b", partner="x", at=100):
    return decide(fold(facts), purpose, partner, at, POLICY)


FACTS = st.lists(
    st.builds(
        Fact,
        st.sampled_from([GRANT, GRANT, GRANT, REFUSE, WITHDRAW, RENEW, EXPIRE]),
        st.sampled_from(["a", "a.b", "a.c", "a.d", "e", "*"]),
        st.sampled_from(["x", "y", "*"]),
        st.integers(1, 3),
        st.integers(0, 8),
        st.integers(0, 12) | st.none(),
        st.just(0),
    ),
    max_size=14,
).map(lambda facts: [f._replace(idx=i) for i, f in enumerate(facts)])
PURPOSES = st.sampled_from(["a", "a.b", "a.c", "a.d", "e"])


def test_nothing_recorded_means_no():
    assert asked([]) == (decision := asked([fact(GRANT, "e", 1)])) and not decision.allowed
    assert decision.reason is Reason.NO_RECORD


def test_a_grant_counts_until_a_later_withdrawal():
    assert asked([fact(GRANT, "a.b", 1)]).allowed
    assert not asked([fact(GRANT, "a.b", 1), fact(WITHDRAW, "a.b", 2)]).allowed
    assert asked([fact(GRANT, "a.b", 1), fact(WITHDRAW, "a.b", 2), fact(GRANT, "a.b", 3)]).allowed


def test_withdrawal_wins_a_tie():
    both = [fact(GRANT, "a.b", 5), fact(WITHDRAW, "a.b", 5)]
    assert not asked(both).allowed and not asked(both[::-1]).allowed


def test_a_back_dated_grant_does_not_undo_a_withdrawal():
    assert not asked([fact(WITHDRAW, "a.b", 5), fact(GRANT, "a.b", 4)]).allowed


def test_a_parents_withdrawal_cascades_and_a_childs_does_not_climb():
    granted = [fact(GRANT, "a", 1), fact(GRANT, "a.b", 1)]
    assert not asked([*granted, fact(WITHDRAW, "a", 2)]).allowed
    assert not asked([*granted, fact(WITHDRAW, "*", 2)]).allowed
    assert asked([*granted, fact(WITHDRAW, "a.b", 2)], "a").allowed


def test_a_parents_grant_covers_only_the_children_of_its_version():
    assert asked([fact(GRANT, "a", 1, version=1)], "a.b").allowed
    assert asked([fact(GRANT, "a", 1, version=1)], "a.c").reason is Reason.NOT_COVERED
    assert asked([fact(GRANT, "a", 1, version=2)], "a.c").allowed


def test_a_material_change_of_notice_makes_older_grants_stale():
    assert not asked([fact(GRANT, "a.d", 1, version=2)], "a.d").allowed
    assert asked([fact(GRANT, "a.d", 1, version=3)], "a.d").allowed


def test_expiry_is_read_at_the_time_of_asking():
    facts = [fact(GRANT, "a.b", 1, expires=50)]
    assert asked(facts, at=49).allowed
    assert asked(facts, at=50).reason is Reason.EXPIRED


def test_an_expired_grant_hides_an_older_one():
    facts = [fact(GRANT, "a", 1), fact(GRANT, "a.b", 2, expires=50)]
    assert not asked(facts, at=60).allowed


def test_a_renewal_extends_what_stands_and_revives_nothing():
    given_ = fact(GRANT, "a.b", 1, expires=50)
    assert asked([given_, fact(RENEW, "a.b", 40, expires=200)]).allowed
    assert not asked([given_, fact(RENEW, "a.b", 60, expires=200)]).allowed
    assert not asked([given_, fact(WITHDRAW, "a.b", 30), fact(RENEW, "a.b", 40, expires=200)]).allowed
    assert not asked([given_, fact(WITHDRAW, "a", 30), fact(RENEW, "a.b", 40, expires=200)]).allowed
    assert not asked([fact(RENEW, "a.b", 40, expires=200)]).allowed


def test_partners_are_kept_apart_unless_all_are_meant():
    assert not asked([fact(GRANT, "a.b", 1, partner="y")]).allowed
    assert asked([fact(GRANT, "a.b", 1, partner="*")]).allowed
    assert not asked([fact(GRANT, "a.b", 1), fact(WITHDRAW, "a.b", 2, partner="*")]).allowed
    assert asked([fact(GRANT, "a.b", 1), fact(WITHDRAW, "a.b", 2, partner="y")]).allowed


def test_a_grant_of_the_future_does_not_count_yet():
    assert not asked([fact(GRANT, "a.b", 101)]).allowed


@given(FACTS, PURPOSES, st.integers(0, 12))
def test_an_allowed_person_has_a_live_grant_newer_than_every_restriction(facts, purpose, at):
    decision = asked(facts, purpose, at=at)
    above = ancestry(purpose)
    no = [
        f.effective_at
        for f in facts
        if f.type in (REFUSE, WITHDRAW, EXPIRE) and f.purpose in above and f.partner in ("x", "*")
    ]
    if decision.allowed:
        assert decision.since is not None and decision.since > max(no, default=-1)
        assert any(
            f.type is GRANT
            and f.effective_at == decision.since
            and f.purpose in above
            and f.partner in ("x", "*")
            for f in facts
        )


@given(FACTS, PURPOSES, st.integers(0, 12), st.randoms())
def test_without_renewals_the_order_of_arrival_does_not_matter(facts, purpose, at, random):
    facts = [f for f in facts if f.type is not RENEW]
    shuffled = facts[:]
    random.shuffle(shuffled)
    assert asked(facts, purpose, at=at).allowed == asked(shuffled, purpose, at=at).allowed


@given(FACTS, PURPOSES, st.integers(0, 12), st.sampled_from(["a", "a.b", "*"]), st.integers(0, 12))
def test_one_more_restriction_never_allows_more(facts, purpose, at, where, when):
    more = [*facts, fact(WITHDRAW, where, when, idx=99)]
    assert asked(facts, purpose, at=at).allowed or not asked(more, purpose, at=at).allowed


ENGINE = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
metadata.create_all(ENGINE)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(FACTS, min_size=1, max_size=6), PURPOSES, st.integers(0, 12))
def test_the_sql_answer_is_the_pure_answer(histories, purpose, at):
    store = SqlStore(ENGINE)
    store.prepare()
    with ENGINE.begin() as c:
        for table in ("consent_state", "consent_aliases"):
            c.execute(sa.text(f"DELETE FROM {table}"))
    oldest = {
        p: POLICY.oldest_grant(POLICY.require(purpose), p) if p in POLICY.purposes else 1 << 31
        for p in ancestry(purpose)
    }
    expected = set()
    with store.write() as tx:
        for i, facts in enumerate(histories):
            handle = bytes([i]) * 16
            state = fold(facts)
            tx.add_aliases([(handle * 2, "email", handle)])
            tx.put_standings({StandingKey(p, who, handle): s for (p, who), s in state.items()}, set())
            if decide(state, purpose, "x", at, POLICY).allowed:
                expected.add(handle * 2)
    with store.read() as view:
        assert set(view.allowed_lookups("email", "x", at, oldest)[0]) == expected
