from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from privacy.budget import BudgetKey, BudgetLedger, Cost, ReservationState, metadata
from privacy.errors import BudgetExhausted, Misuse, StorageError

KEY = BudgetKey("bank/customers", "shop", "2026-Q1")


@pytest.fixture
def tables(engine: sa.Engine) -> sa.Engine:
    metadata.create_all(engine)
    return engine


@pytest.fixture
def ledger(tables: sa.Engine) -> BudgetLedger:
    return BudgetLedger(tables, limit=Cost(1.0, 1e-5))


class Notebook:
    """An audit sink that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def record(self, kind: str, payload: Mapping[str, object]) -> None:
        self.events.append((kind, str(payload["job"])))


def test_ten_tenths_fill_one(ledger: BudgetLedger) -> None:
    for i in range(10):
        ledger.commit(ledger.reserve(KEY, Cost(0.1, 1e-6), job=f"job {i}"))
    with pytest.raises(BudgetExhausted):
        ledger.reserve(KEY, Cost(1e-9), job="one more")
    (status,) = ledger.status()
    assert (status.committed, status.remaining) == (Cost(1.0, 1e-5), Cost(0.0, 0.0))
    assert ledger.check() == []


def test_delta_runs_out_on_its_own(ledger: BudgetLedger) -> None:
    ledger.reserve(KEY, Cost(0.0, 1e-5), job="a")
    with pytest.raises(BudgetExhausted) as refusal:
        ledger.reserve(KEY, Cost(0.0, 1e-12), job="b")
    assert refusal.value.code == "budget_exhausted" and "left for this dataset" in str(refusal.value)


def test_a_refusal_changes_nothing(ledger: BudgetLedger) -> None:
    ledger.reserve(KEY, Cost(0.6), job="a")
    before = ledger.status()
    with pytest.raises(BudgetExhausted):
        ledger.reserve(KEY, Cost(0.5), job="b")
    assert ledger.status() == before and ledger.check() == []
    ledger.reserve(KEY, Cost(0.4), job="b")


def test_reserving_is_idempotent_per_job(ledger: BudgetLedger) -> None:
    first = ledger.reserve(KEY, Cost(0.6), job="a")
    assert ledger.reserve(KEY, Cost(0.6), job="a") == first
    ledger.commit(first)
    assert ledger.reserve(KEY, Cost(0.6), job="a") == first
    assert ledger.reservation(first).state is ReservationState.COMMITTED
    assert ledger.status()[0].remaining == Cost(0.4, 1e-5)
    with pytest.raises(Misuse) as conflict:
        ledger.reserve(KEY, Cost(0.3), job="a")
    assert conflict.value.code == "budget_conflict"


def test_released_budget_can_be_reserved_anew(ledger: BudgetLedger) -> None:
    first = ledger.reserve(KEY, Cost(1.0), job="a")
    ledger.release(first)
    ledger.release(first)
    assert ledger.status()[0].remaining == Cost(1.0, 1e-5)
    again = ledger.reserve(KEY, Cost(0.5), job="a")
    assert ledger.reservation(again).cost == Cost(0.5)
    ledger.reserve(KEY, Cost(0.5), job="b")
    assert ledger.check() == []


def test_what_is_settled_stays_settled(ledger: BudgetLedger) -> None:
    spent = ledger.reserve(KEY, Cost(0.1), job="a")
    ledger.commit(spent)
    ledger.commit(spent)
    with pytest.raises(Misuse):
        ledger.release(spent)
    given_back = ledger.reserve(KEY, Cost(0.1), job="b")
    ledger.release(given_back)
    with pytest.raises(Misuse):
        ledger.commit(given_back)


def test_unknown_reservations(ledger: BudgetLedger) -> None:
    for call in (ledger.commit, ledger.release, ledger.reservation):
        with pytest.raises(Misuse) as error:
            call("no such id")
        assert error.value.code == "unknown_reservation"


def test_budgets_are_apart_by_lineage_partner_and_period(ledger: BudgetLedger) -> None:
    for key in (
        KEY,
        BudgetKey("bank/other", "shop", "2026-Q1"),
        BudgetKey("bank/customers", "telco", "2026-Q1"),
        BudgetKey("bank/customers", "shop", "2026-Q2"),
    ):
        ledger.reserve(key, Cost(1.0), job="a")
    assert len(ledger.status()) == 4 and len(ledger.status("bank/customers")) == 3
    assert ledger.status("nothing") == []


def test_limits_by_key(tables: sa.Engine) -> None:
    ledger = BudgetLedger(tables, limit=Cost(1.0, 1e-5), limits={KEY: Cost(0.0, 0.0)})
    with pytest.raises(BudgetExhausted):
        ledger.reserve(KEY, Cost(0.1), job="a")
    ledger.reserve(BudgetKey("x", "y", "z"), Cost(0.1), job="a")


def test_a_lowered_limit_leaves_nothing_but_not_less(tables: sa.Engine) -> None:
    BudgetLedger(tables, limit=Cost(1.0)).reserve(KEY, Cost(0.8), job="a")
    lowered = BudgetLedger(tables, limit=Cost(0.5))
    assert lowered.status()[0].remaining == Cost(0.0)
    with pytest.raises(BudgetExhausted):
        lowered.reserve(KEY, Cost(0.1), job="b")


def test_pending_lists_what_a_crash_left(ledger: BudgetLedger) -> None:
    a = ledger.reserve(KEY, Cost(0.1), job="a")
    b = ledger.reserve(KEY, Cost(0.2), job="b")
    ledger.commit(a)
    (left,) = ledger.pending()
    assert (left.id, left.job, left.cost, left.key) == (b, "b", Cost(0.2), KEY)


def test_the_sink_hears_each_change_once(tables: sa.Engine) -> None:
    notebook = Notebook()
    ledger = BudgetLedger(tables, limit=Cost(0.5), sink=notebook)
    a = ledger.reserve(KEY, Cost(0.5), job="a")
    ledger.reserve(KEY, Cost(0.5), job="a")
    with pytest.raises(BudgetExhausted):
        ledger.reserve(KEY, Cost(0.5), job="b")
    ledger.release(a)
    ledger.release(a)
    ledger.commit(ledger.reserve(KEY, Cost(0.1), job="c"))
    assert notebook.events == [
        ("budget.reserved", "a"),
        ("budget.refused", "b"),
        ("budget.released", "a"),
        ("budget.reserved", "c"),
        ("budget.committed", "c"),
    ]


def test_check_notices_a_changed_account(ledger: BudgetLedger, tables: sa.Engine) -> None:
    ledger.reserve(KEY, Cost(0.5), job="a")
    with tables.begin() as c:
        c.execute(sa.text("UPDATE privacy_budget_accounts SET held_epsilon = '0.1'"))
    assert len(ledger.check()) == 1
    with tables.begin() as c:
        c.execute(sa.text("DELETE FROM privacy_budget_accounts"))
    assert len(ledger.check()) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -1.0, -1e-300, True, "1", None])
def test_costs_that_are_no_amounts(bad: Any) -> None:
    with pytest.raises(Misuse):
        Cost(bad, 0.0)
    with pytest.raises(Misuse):
        Cost(0.0, bad)


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\x00b", 5, None])
def test_names_that_are_no_names(bad: Any, tmp_path: Any) -> None:
    with pytest.raises(Misuse):
        BudgetKey(bad, "b", "c")
    ledger = BudgetLedger(sa.create_engine("sqlite://"), limit=Cost(1.0))
    with pytest.raises(Misuse):
        ledger.reserve(KEY, Cost(0.1), job=bad)


def test_missing_tables_are_a_storage_error(empty_database_url: str) -> None:
    with pytest.raises(StorageError):
        BudgetLedger(sa.create_engine(empty_database_url), limit=Cost(1.0)).reserve(KEY, Cost(0.1), job="a")


def race(count: int, work: Callable[[int], None]) -> list[BaseException]:
    barrier, errors = threading.Barrier(count), []

    def run(i: int) -> None:
        barrier.wait()
        try:
            work(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    return errors


def test_racing_jobs_never_overspend(ledger: BudgetLedger) -> None:
    """Twelve threads want 0.3 each, some releasing and trying again; 1.0 is all there is."""
    taken: list[str] = []

    def work(i: int) -> None:
        for turn in range(4):
            try:
                r = ledger.reserve(KEY, Cost(0.3), job=f"{i}/{turn}")
            except BudgetExhausted:
                continue
            if turn % 2 == 0:
                ledger.release(r)
            else:
                ledger.commit(r)
                taken.append(r)

    assert race(12, work) == []
    (status,) = ledger.status()
    assert Decimal(repr(status.committed.epsilon)) == Decimal("0.3") * len(taken) <= 1
    assert status.reserved == Cost(0.0) and ledger.check() == []


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_racing_jobs_never_overspend_at_any_isolation(tables: sa.Engine, level: str) -> None:
    if tables.dialect.name == "sqlite":
        level = "SERIALIZABLE"
    ledger = BudgetLedger(tables.execution_options(isolation_level=level), limit=Cost(1.0))
    errors = race(6, lambda i: ledger.commit(ledger.reserve(KEY, Cost(0.3), job=str(i))))
    assert len(errors) == 3 and all(isinstance(e, BudgetExhausted) for e in errors)
    assert ledger.status()[0].committed == Cost(0.9) and ledger.check() == []


def test_racing_calls_of_one_job_get_one_reservation(ledger: BudgetLedger) -> None:
    ids: list[str] = []
    assert race(10, lambda i: ids.append(ledger.reserve(KEY, Cost(0.7), job="the job"))) == []
    assert len(ids) == 10 and len(set(ids)) == 1
    assert ledger.status()[0].reserved == Cost(0.7)


def test_racing_settlements_agree(ledger: BudgetLedger) -> None:
    r = ledger.reserve(KEY, Cost(0.7), job="the job")
    errors = race(8, lambda i: (ledger.commit if i % 2 else ledger.release)(r))
    assert len(errors) == 4 and all(isinstance(e, Misuse) for e in errors)
    assert ledger.check() == [] and ledger.reservation(r).state is not ReservationState.RESERVED


class BudgetMachine(RuleBasedStateMachine):
    """The ledger against a model in plain decimals."""

    url = ""
    reservations = Bundle("reservations")

    def __init__(self) -> None:
        super().__init__()
        self.engine = sa.create_engine(self.url)
        metadata.drop_all(self.engine)
        metadata.create_all(self.engine)
        self.limit = Cost(1.0, 1e-5)
        self.ledger = BudgetLedger(self.engine, limit=self.limit)
        self.model: dict[tuple[BudgetKey, str], tuple[Decimal, ReservationState]] = {}
        self.ids: dict[str, tuple[BudgetKey, str]] = {}

    def teardown(self) -> None:
        self.engine.dispose()

    def held(self, key: BudgetKey) -> Decimal:
        live = (s for (k, _), s in self.model.items() if k == key and s[1] is not ReservationState.RELEASED)
        return sum((cost for cost, _ in live), Decimal(0))

    @rule(
        target=reservations,
        key=st.sampled_from([KEY, BudgetKey("other", "shop", "2026-Q1")]),
        cost=st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7]),
        job=st.sampled_from(["a", "b", "c", "d"]),
    )
    def reserve(self, key: BudgetKey, cost: float, job: str) -> str:
        known = self.model.get((key, job))
        amount = Decimal(repr(cost))
        if known is not None and known[1] is not ReservationState.RELEASED:
            if known[0] != amount:
                with pytest.raises(Misuse):
                    self.ledger.reserve(key, Cost(cost), job=job)
                return ""
            return self.ledger.reserve(key, Cost(cost), job=job)
        if self.held(key) + amount > 1:
            with pytest.raises(BudgetExhausted):
                self.ledger.reserve(key, Cost(cost), job=job)
            return ""
        r = self.ledger.reserve(key, Cost(cost), job=job)
        self.model[key, job] = (amount, ReservationState.RESERVED)
        self.ids[r] = (key, job)
        return r

    @rule(r=reservations, to=st.sampled_from([ReservationState.COMMITTED, ReservationState.RELEASED]))
    def settle(self, r: str, to: ReservationState) -> None:
        act = self.ledger.commit if to is ReservationState.COMMITTED else self.ledger.release
        if r not in self.ids:
            with pytest.raises(Misuse):
                act(r)
            return
        cost, state = self.model[self.ids[r]]
        if state not in (ReservationState.RESERVED, to):
            with pytest.raises(Misuse):
                act(r)
            return
        act(r)
        self.model[self.ids[r]] = (cost, to)

    @invariant()
    def agrees(self) -> None:
        for status in self.ledger.status():
            held = Decimal(repr(status.reserved.epsilon)) + Decimal(repr(status.committed.epsilon))
            assert held == self.held(status.key) <= 1
            assert Decimal(repr(status.remaining.epsilon)) == 1 - held
        assert self.ledger.check() == []


def test_the_ledger_behaves_as_its_model(database_url: str) -> None:
    machine = type("Machine", (BudgetMachine,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


@pytest.fixture(autouse=True)
def _no_lingering_threads() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() <= before
