"""The whole ledger against a model that fits on a page: random histories, restarts, faults, erasures.

The model knows nothing of standings or folds: it keeps each person's decisions and reads the answer off them
by the rules in words. The ledger must give the same answer now and for any moment before, one by one and in
bulk, after a restart, after a failed write; its tables must be what its events fold to, its log must verify.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from consent.erasure import Erasure
from consent.errors import InvalidConsent
from consent.events import grant, refuse, withdraw
from consent.gate import ConsentGate
from consent.ledger import Ledger
from consent.purposes import ancestry
from consent.sql import metadata
from consent.state_roots import StateRoots
from consent.static import StaticLog
from consent.suppression import Suppressed
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import StorageError
from privacy.keys import KeyRing
from privacy.signing import SigningKey

PEOPLE = [f"p{i}" for i in range(4)]
PURPOSES = ["overlap", "overlap.reach", "overlap.measure", "model.credit"]
PARTNERS = ["bank", "press"]
RING, KEY = KeyRing.from_root(b"\x01" * 32), SigningKey.from_seed(b"\x09" * 32)
START = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Said:
    """One decision: yes or no, where, from when on, until when; and when it was written down."""

    yes: bool
    purpose: str
    partner: str
    effective: datetime
    expires: datetime | None
    written: datetime


@dataclass
class Model:
    said: dict[str, list[Said]] = field(default_factory=lambda: {p: [] for p in PEOPLE})
    erased: dict[str, datetime] = field(default_factory=dict)

    def allows(self, person: str, purpose: str, partner: str, at: datetime) -> bool:
        about = [
            s
            for s in self.said[person]
            if s.written <= at and s.purpose in ancestry(purpose) and s.partner in (partner, "*")
        ]
        latest: dict[tuple[str, str], Said] = {}
        for s in about:
            if s.yes:
                place = (s.purpose, s.partner)
                other = latest.get(place)
                if other is not None and other.effective == s.effective:
                    ends = [e for e in (other.expires, s.expires) if e is not None]
                    latest[place] = replace(s, expires=min(ends, default=None))
                elif other is None or other.effective < s.effective:
                    latest[place] = s
        noes = [s.effective for s in about if not s.yes]
        live = []
        for s in latest.values():
            if s.expires is not None and s.expires <= at:
                noes.append(s.effective)  # what has expired is no better than a refusal of that moment
            elif s.effective <= at:
                live.append(s.effective)
        return bool(live) and max(live) > max(noes, default=datetime.min.replace(tzinfo=UTC))


def identifiers(person: str) -> list[tuple[str, bytes]]:
    return [("email", f"{person}@example.org".encode())]


people, purposes = st.sampled_from(PEOPLE), st.sampled_from(PURPOSES)
partners = st.sampled_from([*PARTNERS, "*"])
decisions = st.tuples(
    people, st.sampled_from(["grant", "grant", "refuse", "withdraw", "withdraw all"]), purposes, partners,
    st.none() | st.integers(1, 50),
)  # fmt: skip


class Ledgers(RuleBasedStateMachine):
    engine: sa.Engine

    def __init__(self) -> None:
        super().__init__()
        self.place = TemporaryDirectory()
        self.now = START
        metadata.create_all(self.engine)
        with self.engine.begin() as c:
            for table in reversed(metadata.sorted_tables):
                c.execute(table.delete())
        self.model = Model()
        self.moments = [START]
        self.ledger = self._open()
        self.known = self.ledger.head()

    def _open(self) -> Ledger:
        return Ledger.open(
            self.engine, keyring=RING, signing_key=KEY, origin="shop.example/consent",
            directory=Path(self.place.name) / "log", clock=lambda: self.now,
        )  # fmt: skip

    def _tick(self) -> None:
        self.now += timedelta(seconds=1)
        self.moments.append(self.now)

    def _events(self, batch, ago=None):
        """The events of a batch, and what the model is to be told once they are recorded."""
        events, told = [], []
        effective = None if ago is None else self.now - timedelta(seconds=ago)
        for person, what, purpose, partner, lasting in batch:
            if what == "grant":
                expires = None if lasting is None else self.now + timedelta(seconds=lasting)
                events.append(
                    grant(
                        identifiers(person),
                        purpose,
                        partner=partner,
                        expires_at=expires,
                        effective_at=effective,
                    )
                )
                told.append((person, Said(True, purpose, partner, effective or self.now, expires, self.now)))
                continue
            place = ("*", "*") if what == "withdraw all" else (purpose, partner)
            make = refuse if what == "refuse" else withdraw
            events.append(make(identifiers(person), place[0], partner=place[1]))
            told.append((person, Said(False, *place, self.now, None, self.now)))
        return events, told

    def _tell(self, told) -> None:
        for person, said in told:
            self.model.said[person].append(said)
            if said.yes:
                self.model.erased.pop(person, None)

    @rule(batch=st.lists(decisions, min_size=1, max_size=6))
    def record(self, batch):
        self._tick()
        events, told = self._events(batch)
        self.ledger.record(events)
        self._tell(told)

    @rule(person=people, purpose=purposes, partner=partners, ago=st.integers(0, 30))
    def back_date_a_grant(self, person, purpose, partner, ago):
        self._tick()
        events, told = self._events([(person, "grant", purpose, partner, None)], ago)
        ((_, said),) = told
        erased = self.model.erased.get(person)
        try:
            self.ledger.record(events)
        except InvalidConsent as error:
            assert error.code == "back_dated_grant"
            assert any(
                not s.yes and s.effective > said.effective and s.purpose in ancestry(purpose)
                for s in self.model.said[person]
            )
        except Suppressed:
            assert erased is not None and said.effective <= erased
        else:
            assert erased is None or said.effective > erased
            self._tell(told)

    @rule(batch=st.lists(decisions, min_size=1, max_size=4))
    def import_a_list(self, batch):
        self._tick()
        events, told = self._events(batch)
        gone = {person for person, *_ in batch} & set(self.model.erased)
        try:
            self.ledger.record(events, imported=True)
        except Suppressed:
            assert gone
        else:
            assert not gone
            self._tell(told)

    @rule(one=people, other=people)
    def opt_two_out_in_one_event(self, one, other):
        if not (self.model.said[one] and self.model.said[other]):
            return  # identifiers never seen before that come together are one person's
        self._tick()
        self.ledger.record([withdraw(list(dict.fromkeys([*identifiers(one), *identifiers(other)])))])
        for person in {one, other}:
            self.model.said[person].append(Said(False, "*", "*", self.now, None, self.now))

    @rule(person=people)
    def erase(self, person):
        self._tick()
        Erasure(self.ledger).erase(identifiers(person))
        self.model.said[person] = []
        self.model.erased[person] = self.now

    @rule(seconds=st.integers(1, 40))
    def let_time_go_by(self, seconds):
        self.now += timedelta(seconds=seconds)
        self.moments.append(self.now)

    @rule()
    def restart(self):
        self.ledger = self._open()

    @rule(batch=st.lists(decisions, min_size=1, max_size=3), committed=st.booleans())
    def fail(self, batch, committed):
        """The commit fails, or what follows it: the files cannot be written."""
        self._tick()
        events, told = self._events(batch)
        store, static = self.ledger.log._store, self.ledger.log.static

        def full(path, data):
            raise OSError(28, "injected")

        if committed:
            self.ledger.log.static = StaticLog(static.directory, self.ledger.key, full)
            self._tell(told)
        else:
            self.ledger.log._store = Uncommitted(store)
        try:
            with pytest.raises(StorageError):
                self.ledger.record(events)
        finally:
            self.ledger.log._store, self.ledger.log.static = store, static

    @rule(person=people, purpose=purposes, partner=st.sampled_from(PARTNERS), data=st.data())
    def ask_about_the_past(self, person, purpose, partner, data):
        at = data.draw(st.sampled_from(self.moments))
        ((kind, canonical),) = identifiers(person)
        assert self.ledger.check(canonical, kind, purpose, partner, at).allowed == self.model.allows(
            person, purpose, partner, at
        )

    @rule(person=people, purpose=purposes, partner=st.sampled_from(PARTNERS))
    def prove_the_state(self, person, purpose, partner):
        self._tick()
        roots = StateRoots(self.ledger)
        committed = roots.commit()
        if self.model.said[person]:
            ((kind, canonical),) = identifiers(person)
            proven = roots.prove(canonical, kind, purpose, partner).verify(self.ledger.key)
            state = self.ledger.standings(canonical, kind)
            assert proven.state == {place: state.get(place) for place in proven.state}
            assert proven.size >= committed.size

    @invariant()
    def answers_are_the_models(self):
        gate = ConsentGate(self.ledger)
        column = pa.array([identifiers(person)[0][1] for person in PEOPLE])
        for partner in PARTNERS:
            for purpose in PURPOSES:
                expected = [self.model.allows(person, purpose, partner, self.now) for person in PEOPLE]
                found = gate.filter("email", column, purpose=purpose, partner=partner).mask.tolist()
                assert found == expected, (purpose, partner)
        assert [
            self.ledger.check(c, "email", PURPOSES[1], PARTNERS[0]).allowed for c in column.to_pylist()
        ] == [self.model.allows(person, PURPOSES[1], PARTNERS[0], self.now) for person in PEOPLE]

    def teardown(self):
        # What was decided, erased and told is what the tables hold and what the log says.
        self.ledger = self._open()
        report = verify_ledger(self.ledger)
        assert report.ok, report.detail
        outside = verify_log(
            directory_reader(Path(self.place.name) / "log"), self.ledger.key, known=self.known
        )
        assert outside.ok and outside.size == self.ledger.head().size
        self.place.cleanup()


class Uncommitted:
    """A store whose commit fails."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, name):
        return getattr(self._store, name)

    @contextmanager
    def write(self):
        with self._store.write() as tx:
            yield tx
            raise StorageError("injected")


def test_the_ledger_answers_as_a_model_of_a_page_does(engine):
    machine = type("OnEngine", (Ledgers,), {"engine": engine})
    few = 6 if engine.dialect.name == "postgresql" else 15
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=few, stateful_step_count=18, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )  # fmt: skip
