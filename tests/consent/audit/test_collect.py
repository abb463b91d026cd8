"""Every figure of a report against an independent count, over histories drawn at random."""

from __future__ import annotations

import base64
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consent.audit.collect import collect
from consent.audit.deliveries import BOUNDS, nearest_rank
from consent.audit.facts import AuditFacts
from consent.encoding import Leaf, parse_time, render_time, to_micros
from consent.erasure import Erasure
from consent.events import EventType, grant, object_to, refuse, renew, withdraw
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.pseudonym_sets import PseudonymSet
from consent.receipts import GateEvidence, UseReceipt
from consent.rows import RestrictionRow
from consent.sql import metadata
from consent.subjects import PSEUDONYM, KeyedHash
from consent.suppression import Suppressed
from privacy.errors import BadInput, Tampered
from privacy.keys import KeyRing
from privacy.signing import SigningKey

GRANTS = ("overlap", "overlap.reach", "model.credit")
PARTNERS = ("*", "bank", "shop")
USES = (("overlap.reach", "bank"), ("model.credit", "shop"))

people = st.integers(0, 4)
decision = st.tuples(
    st.just("decide"),
    people,
    st.sampled_from(["granted", "granted", "renewed", "refused", "withdrawn", "objection"]),
    st.sampled_from((*GRANTS, "*")),
    st.sampled_from(PARTNERS),
    st.none() | st.integers(1, 12),
)  # fmt: skip
use = st.tuples(st.just("use"), st.sets(people, min_size=1), st.sampled_from(USES), st.booleans())
steps = st.lists(
    st.one_of(
        decision,
        decision,
        decision,
        use,
        st.tuples(st.just("wait"), st.integers(1, 5)),
        st.tuples(st.just("erase"), people),
        st.tuples(st.just("acknowledge"), st.integers(0, 2), st.integers(1, 5_000)),
    ),
    max_size=14,
)


def name(number: int) -> bytes:
    return f"person{number}@example.org".encode()


@dataclass
class World:
    """A ledger and, beside it, a plain list of what happened to it."""

    ledger: Ledger
    now: list[datetime]
    decided: list[tuple[int, int, EventType, str, str]] = field(default_factory=list)  # time, person, …
    receipts: list[tuple[UseReceipt, list[int]]] = field(default_factory=list)
    erased: int = 0

    @classmethod
    def new(cls) -> World:
        engine = sa.create_engine(
            "sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False}
        )
        metadata.create_all(engine)
        dice = random.Random(5)
        now = [datetime(2026, 3, 1, 9, tzinfo=UTC)]
        ledger = Ledger.open(
            engine,
            keyring=KeyRing.from_root(b"\x05" * 32, dice.randbytes),
            signing_key=SigningKey.from_seed(b"\x06" * 32),
            origin="shop.example/consent",
            directory=None,
            clock=lambda: now[0],
            random=dice.randbytes,
        )
        for partner in PARTNERS[1:]:
            public = SigningKey.from_seed(partner.encode().ljust(32, b".")).public.bytes32
            ledger.join_partner(partner, VerifierKey(f"{partner}.example/log", public).to_text())
        return cls(ledger, now)

    def step(self, kind: str, *what: Any) -> None:
        self.now[0] += timedelta(seconds=7)
        getattr(self, kind)(*what)

    def wait(self, days: int) -> None:
        self.now[0] += timedelta(days=days)

    def decide(self, who: int, what: str, purpose: str, partner: str, days: int | None) -> None:
        granting = what in ("granted", "renewed")
        purpose = GRANTS[0] if granting and purpose == "*" else purpose
        make = {
            "granted": grant, "renewed": renew, "refused": refuse, "withdrawn": withdraw,
            "objection": object_to,
        }[what]  # fmt: skip
        ends = {"expires_at": self.now[0] + timedelta(days=days)} if granting and days else {}
        try:
            self.ledger.record([make([("email", name(who))], purpose, partner=partner, **ends)])
        except Suppressed:
            return  # a renewal of what was erased
        type_ = EventType.OBJECTION if what == "objection" else EventType(f"consent.{what}")
        self.decided.append((to_micros(self.now[0]), who, type_, purpose, partner))

    def use(self, who: set[int], place: tuple[str, str], gated: bool) -> None:
        purpose, partner = place
        column = pa.array([name(n) for n in sorted(who)], pa.binary())
        result = ConsentGate(self.ledger).filter("email", column, purpose=purpose, partner=partner)
        evidence, members = result.evidence, result.members
        taken = [
            n for n, passed in zip(sorted(who), result.mask.tolist(), strict=True) if passed or not gated
        ]
        if not gated:
            hashed = self.ledger.vault.lookup("email")
            members = PseudonymSet.of_lookups(members.salt, [hashed(name(n)) for n in taken])
            root = base64.b64encode(members.root).decode()
            evidence = replace(evidence, count=len(members), set_root=root)
        self.now[0] += timedelta(seconds=1)
        receipt = UseReceipt(
            self.ledger.random(16).hex(), "overlap", purpose, "c", "j", None, partner, evidence, "", "",
            self.now[0],
        )  # fmt: skip
        self.ledger.record_use(receipt, members)
        self.receipts.append((receipt, taken))

    def erase(self, who: int) -> None:
        done = Erasure(self.ledger).erase([("email", name(who))])
        if not done.already:
            self.erased += 1
            self.decided = [event for event in self.decided if event[1] != who]

    def acknowledge(self, keep: int, took: int) -> None:
        for row in self.ledger.partners():
            with self.ledger.store.write() as tx:
                rows = tx.outbox(row.name, 0, 1 << 30)
                for waiting in rows[: max(len(rows) - keep, 0)]:
                    at = waiting.recorded_at
                    times = {
                        "received_at": at + took,
                        "enforced_at": at + 2 * took,
                        "acked_at": at + 3 * took,
                    }
                    tx.acknowledge(row.name, waiting.seq, waiting.seq, **times)

    def allowed(self, who: int, purpose: str, partner: str, at: int) -> bool:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)
        return self.ledger.check(name(who), "email", purpose, partner, at=moment).allowed

    def lines(self, by: int = 1 << 62) -> list[tuple[int, str, str]]:
        """(person, purpose, partner) granted at any time up to `by` by people on record."""
        return sorted({(w, p, o) for at, w, t, p, o in self.decided if t is EventType.GRANTED and at <= by})


def grown(history: list[tuple[Any, ...]]) -> World:
    world = World.new()
    for one in history:
        world.step(*one)
    world.now[0] += timedelta(seconds=7)
    return world


def checked(world: World, facts: AuditFacts) -> None:
    since, until = parse_time(facts.scope.since), parse_time(facts.scope.until)
    with world.ledger.store.read() as view:
        leaves = [Leaf.from_bytes(row.leaf) for row in view.entries(0, view.head().size)]
        rows = {p.name: view.outbox(p.name, 0, 1 << 30) for p in view.partners()}
    last = until == parse_time(facts.scope.made_at)

    def inside(at: int) -> bool:
        return since <= at and (at < until or last)

    assert facts.entries.by_type == Counter(leaf.type for leaf in leaves if inside(leaf.recorded_at))
    assert facts.entries.total == sum(facts.entries.by_type.values())
    assert facts.removed.unexplained == 0
    told = Counter((p, t.value) for at, _, t, p, _ in world.decided if inside(at))
    assert {(p, t): n for p, types in facts.decisions.by_purpose.items() for t, n in types.items()} == told
    # state, by asking the ledger itself
    standing = [line for line in world.lines() if world.allowed(*line, until)]
    assert sum(lines.standing for lines in facts.consents.by_purpose.values()) == len(standing)
    for purpose in GRANTS:
        expected = sum(line[1] == purpose for line in standing)
        found = facts.consents.by_purpose.get(purpose)
        assert (found.standing if found else 0) == expected
    buckets = facts.consents.timeline
    for bucket in (*buckets[:: max(1, len(buckets) // 5)], buckets[-1]):
        ends = min(parse_time(bucket.start) + facts.consents.step * 1_000_000 - 1, until)
        assert bucket.standing == sum(world.allowed(*line, ends) for line in world.lines(ends)), bucket
    assert facts.consents.people == len({w for at, w, *_ in world.decided if at <= until})
    # uses, person by person
    uses = [(r, who) for r, who in world.receipts if inside(to_micros(r.at))]
    assert (facts.uses.receipts, facts.uses.members) == (len(uses), sum(len(who) for _, who in uses))
    if not world.erased:
        at = [(n, r.purpose, r.partner, to_micros(r.evidence.checked_at)) for r, who in uses for n in who]
        denied = sum(not world.allowed(*place) for place in at)
        known = {w for _, w, *_ in world.decided}
        nobody = sum(place[0] not in known for place in at)
        assert facts.uses.violations == denied
        assert facts.uses.allowed == len(at) - denied
        assert facts.uses.unattributable == facts.uses.unexplained == nobody
        assert len(facts.uses.cases) == denied - nobody
    assert facts.uses.stale_gates == 0
    # opt-outs, row by row
    for one in facts.deliveries:
        mine = [row for row in rows[one.partner] if inside(row.recorded_at)]
        made = parse_time(facts.scope.made_at)
        done = [row for row in mine if row.acked_at is not None and row.acked_at <= made]
        assert (one.told, one.acknowledged) == (len(mine), len(done))
        assert sum(one.ages.values()) == one.unacknowledged == len(mine) - len(done)
        spans = sorted((row.enforced_at - row.recorded_at) / 1000 for row in done)
        if spans:
            assert one.enforced is not None
            assert one.enforced.longest == spans[-1]
            assert one.enforced.p50 == spans[-(-len(spans) // 2) - 1]
            below = [sum(span < bound for span in spans) for bound in BOUNDS]
            assert [sum(n for _, n in one.histogram[: i + 1]) for i in range(len(BOUNDS))] == below
        else:
            assert one.enforced is None


@settings(max_examples=25)
@given(steps)
@example([("decide", 0, "granted", "overlap", "*", 2), ("wait", 5), ("use", {0}, USES[0], False)])
@example([("decide", 0, "granted", "overlap.reach", "bank", None), ("use", {0, 1}, USES[0], True),
          ("decide", 0, "withdrawn", "*", "*", None), ("use", {0, 1}, USES[0], False),
          ("acknowledge", 1, 900)])  # fmt: skip
@example([("decide", 0, "granted", "overlap", "bank", None), ("use", {0}, USES[0], True), ("erase", 0)])
@example([("decide", 1, "granted", "overlap", "*", None), ("wait", 1),
          ("decide", 1, "granted", "overlap", "bank", None)])  # fmt: skip
@example([("decide", 0, "renewed", "overlap", "shop", None), ("decide", 0, "granted", "overlap", "*", 5)])
def test_every_figure_is_the_one_an_independent_count_gives(history) -> None:
    world = grown(history)
    checked(world, collect(world.ledger))
    world.ledger.store._engine.dispose()  # type: ignore[attr-defined]


@settings(max_examples=12)
@given(steps, st.integers(0, 40), st.integers(0, 40))
def test_a_period_takes_in_what_was_recorded_in_it_and_nothing_else(history, begin, length) -> None:
    world = grown(history)
    since = datetime(2026, 3, 1, 8, 59, 59, 500_000, tzinfo=UTC) + timedelta(hours=begin * 12)
    until = since + timedelta(hours=length * 12)
    if since <= world.now[0]:
        checked(world, collect(world.ledger, since=since, until=until))
    world.ledger.store._engine.dispose()  # type: ignore[attr-defined]


def test_the_same_head_and_moment_give_the_same_facts_again(make_register) -> None:
    register = make_register(people=15, days=5)
    head, now = register.ledger.head(), register.clock()
    first = collect(register.ledger, law_name="gdpr")
    register.clock.move(days=3)
    register.record([withdraw([("email", b"person2@example.org")])])
    register.acknowledge()
    since = datetime.fromisoformat(first.scope.since)
    again = collect(register.ledger, law_name="gdpr", since=since, until=now, head=head, made_at=now)
    assert again == first


def test_a_use_after_an_opt_out_is_found_with_its_proof(misused) -> None:
    uses = misused.report.facts["uses"]
    assert uses["violations"] == 3 and len(uses["cases"]) == 3
    assert {case["reason"] for case in uses["cases"]} == {"restricted"}
    for case in uses["cases"]:
        assert case["decision"] < case["index"]
        assert case["proof"]["decision"]["index"] == case["decision"]


def receipt_of(register, evidence: GateEvidence) -> UseReceipt:
    return UseReceipt(
        "a" * 32, "overlap", evidence.purpose, "c", "j", None, evidence.partner, evidence, "", "",
        register.clock(),
    )  # fmt: skip


def test_people_who_left_while_a_use_ran_are_told_apart_from_violations(make_register) -> None:
    register = make_register(days=0)
    ledger = register.ledger
    who = [("email", b"ann@example.org")]
    register.record([grant(who, "overlap.reach")])
    column = pa.array([b"ann@example.org"], pa.binary())
    result = ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank")
    register.clock.move(minutes=3)
    register.record([withdraw(who)])
    register.clock.move(minutes=3)
    receipt = UseReceipt(
        "a" * 32,
        "overlap",
        "overlap.reach",
        "c",
        "j",
        None,
        "bank",
        result.evidence,
        "",
        "",
        register.clock(),
    )
    ledger.record_use(receipt, result.members)
    uses = collect(ledger).uses
    assert (uses.violations, uses.allowed, uses.overtaken) == (0, 1, 1)


def test_a_gate_that_looked_at_an_old_head_is_judged_by_the_newer_one(make_register) -> None:
    register = make_register(days=0)
    ledger = register.ledger
    who = [("email", b"ann@example.org")]
    register.record([grant(who, "overlap.reach")])
    column = pa.array([b"ann@example.org"], pa.binary())
    old = ConsentGate(ledger).filter("email", column, purpose="overlap.reach", partner="bank")
    register.clock.move(minutes=3)
    register.record([withdraw(who)])
    register.clock.move(minutes=3)
    claimed = replace(old.evidence, checked_at=register.clock())
    receipt = UseReceipt(
        "b" * 32, "overlap", "overlap.reach", "c", "j", None, "bank", claimed, "", "", register.clock()
    )
    ledger.record_use(receipt, old.members)
    uses = collect(ledger).uses
    assert (uses.violations, uses.stale_gates) == (1, 1)


def test_somebody_unknown_in_a_set_is_a_violation_unless_an_erasure_can_explain_it(
    make_register,
) -> None:
    register = make_register(days=0)
    register.record([grant([("email", b"person1@example.org")], "overlap.reach")])
    register.use([1, 2], "overlap.reach", "bank", gate=False)
    uses = collect(register.ledger).uses
    assert (uses.allowed, uses.unattributable, uses.unexplained, uses.violations) == (1, 1, 1, 1)
    Erasure(register.ledger).erase([("email", b"person1@example.org")])
    uses = collect(register.ledger).uses
    assert (uses.allowed, uses.unattributable, uses.unexplained) == (0, 2, 0)


def test_a_set_that_is_not_the_receipts_is_tampering(make_register) -> None:
    register = make_register(days=0)
    register.record([grant([("email", b"person1@example.org")], "overlap.reach")])
    register.use([1], "overlap.reach", "bank")
    with register.engine.begin() as c:
        c.execute(sa.text("UPDATE consent_receipts SET members = substr(members, 1, 36)"))
    with pytest.raises(Tampered):
        collect(register.ledger)


def test_a_restriction_heard_from_a_partner_counts_at_its_time(make_register) -> None:
    register = make_register(days=0)
    ledger = register.ledger
    register.record([grant([("email", b"person1@example.org")], "overlap.reach")])
    register.use([1], "overlap.reach", "bank")
    key = ledger.pair_keys.pair_key("bank")
    pseudonym = KeyedHash(key, "email")(b"person1@example.org")
    register.clock.move(minutes=1)
    at = to_micros(register.clock())
    heard = withdraw(
        [(PSEUDONYM, b"bank\x00email\x00" + pseudonym)],
        "overlap",
        partner="bank",
        actor="partner",
        method="feed",
    )
    row = RestrictionRow("bank", "email", pseudonym, "overlap", at, None, ledger.head().size)
    ledger.append_decisions([heard], propagate=False, after=lambda tx, first, now: tx.put_restrictions([row]))
    register.clock.move(minutes=1)
    register.use([1], "overlap.reach", "bank", gate=False)
    facts = collect(ledger)
    assert facts.uses.violations == 1
    assert facts.uses.cases[0].reason == "restricted_by_partner"
    assert facts.decisions.heard == 1


@pytest.mark.parametrize("law", ["", "PIPL", "hipaa", "../pipl"])
def test_an_unknown_law_is_refused(make_register, law: str) -> None:
    with pytest.raises(BadInput):
        collect(make_register(days=0).ledger, law_name=law)


def test_a_period_that_ends_before_it_begins_is_refused(make_register) -> None:
    register = make_register(days=0)
    with pytest.raises(BadInput):
        collect(register.ledger, since=register.clock() + timedelta(days=2))


def test_the_nearest_rank_is_an_observed_value() -> None:
    assert nearest_rank([7], 99) == 7
    assert nearest_rank(list(range(1, 201)), 99) == 198
    assert nearest_rank([1, 2], 50) == 1
    assert render_time(0) == "1970-01-01T00:00:00.000000Z"
