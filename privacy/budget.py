"""The ε ledger: what each dataset has already told each partner, and what is left to tell.

One ledger serves clean-room queries and training runs. Before a job touches data it *reserves* its cost;
afterwards it *commits* (an answer left the node) or *releases* (none did). A reservation counts against the
limit from the start, so two jobs that race cannot both take the last of it, and a crash errs on the safe
side.
Composition is basic: the costs add up (Dwork and Roth 2014, theorem 3.16).

Amounts are kept as decimals, exactly as written: ten reservations of 0.1 fill a budget of 1.0 and not
0.9999999999999999 of it.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from enum import StrEnum
from typing import Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from privacy.errors import BudgetExhausted, Misuse, StorageError

__all__ = [
    "AuditSink",
    "BudgetKey",
    "BudgetLedger",
    "BudgetStatus",
    "Cost",
    "Reservation",
    "ReservationState",
    "metadata",
]

metadata = sa.MetaData()

_accounts = sa.Table(
    "privacy_budget_accounts",
    metadata,
    sa.Column("lineage", sa.String(255), primary_key=True),
    sa.Column("partner", sa.String(255), primary_key=True),
    sa.Column("period", sa.String(64), primary_key=True),
    sa.Column("held_epsilon", sa.Text, nullable=False),  # reserved and committed, decimal text
    sa.Column("held_delta", sa.Text, nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False),
)

_reservations = sa.Table(
    "privacy_budget_reservations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("lineage", sa.String(255), nullable=False),
    sa.Column("partner", sa.String(255), nullable=False),
    sa.Column("period", sa.String(64), nullable=False),
    sa.Column("job", sa.String(255), nullable=False),
    sa.Column("epsilon", sa.Text, nullable=False),
    sa.Column("delta", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.UniqueConstraint("lineage", "partner", "period", "job", name="uq_privacy_budget_reservations_job"),
    sa.CheckConstraint("state IN ('reserved', 'committed', 'released')", name="ck_privacy_budget_state"),
)

_EXACT = Context(prec=60)
_ATTEMPTS = 12
T = TypeVar("T")


class AuditSink(Protocol):
    """Where the ledger reports what happened. Called after the change is durable, once for each change.

    Payloads hold names and amounts, never personal data. An exception reaches the ledger's caller; the
    change stands all the same.
    """

    def record(self, kind: str, payload: Mapping[str, object]) -> None:
        """Take note of one event, such as `budget.reserved`."""
        ...


@dataclass(frozen=True, slots=True, order=True)
class BudgetKey:
    """Whose budget: the lineage of a dataset (all its versions), the partner that learns, the period."""

    lineage: str
    partner: str
    period: str

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("lineage", self.lineage, 255),
            ("partner", self.partner, 255),
            ("period", self.period, 64),
        ):
            if not isinstance(value, str) or not 1 <= len(value) <= limit or "\x00" in value:
                raise Misuse(f"The {name} of a budget is a text of 1 to {limit} characters.")


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of (ε, δ). Both are finite and not negative; δ is below 1."""

    epsilon: float
    delta: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("epsilon", self.epsilon), ("delta", self.delta)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise Misuse(f"{name} is a finite number.")
            if value < 0:
                raise Misuse(f"{name} is not negative.")
        if self.delta >= 1:
            raise Misuse("delta is below 1.")


class ReservationState(StrEnum):
    """The life of a reservation; `reserved` and `committed` count against the limit."""

    RESERVED = "reserved"
    COMMITTED = "committed"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Reservation:
    """One job's claim on a budget."""

    id: str
    key: BudgetKey
    job: str
    cost: Cost
    state: ReservationState


@dataclass(frozen=True, slots=True)
class BudgetStatus:
    """Where one budget stands."""

    key: BudgetKey
    limit: Cost
    reserved: Cost
    committed: Cost
    remaining: Cost


@dataclass(frozen=True, slots=True)
class _Account:
    epsilon: Decimal
    delta: Decimal


@dataclass(frozen=True, slots=True, eq=False)
class BudgetLedger:
    """Reserve, commit and release under a limit, atomically, on SQLite and PostgreSQL.

    `limit` holds for every key that `limits` does not name. The engine is handed in with its tables in
    place (`metadata`). Safe to use from many threads and processes: each change starts by writing its
    account's row, which takes SQLite's write lock and PostgreSQL's row lock *before* anything is read, so
    that the sum it decides on cannot be stale.
    """

    engine: sa.Engine
    limit: Cost = field(kw_only=True)
    limits: Mapping[BudgetKey, Cost] = field(kw_only=True, default_factory=dict)
    sink: AuditSink | None = field(kw_only=True, default=None)

    def limit_of(self, key: BudgetKey) -> Cost:
        """The limit that applies to `key`."""
        return self.limits.get(key, self.limit)

    def reserve(self, key: BudgetKey, cost: Cost, *, job: str) -> str:
        """Set `cost` aside for `job` and return the reservation's id.

        Idempotent: the same job asking again for the same cost gets the same id, and pays once. A job whose
        reservation was released may reserve anew. Raises `BudgetExhausted` (nothing is changed) if the
        cost does not fit, `Misuse` if the job asks for another cost than before, `StorageError` if the
        database refuses.
        """
        if not isinstance(job, str) or not 1 <= len(job) <= 255 or "\x00" in job:
            raise Misuse("A job is named by a text of 1 to 255 characters.")
        epsilon, delta = _decimal(cost.epsilon), _decimal(cost.delta)
        fresh = uuid.uuid4().hex

        def change(c: sa.Connection) -> tuple[str, bool]:
            account = self._lock(c, key)
            found = c.execute(
                sa.select(_reservations).where(*_of(_reservations, key), _reservations.c.job == job)
            ).one_or_none()
            if found is not None and found.state != ReservationState.RELEASED:
                if (Decimal(found.epsilon), Decimal(found.delta)) != (epsilon, delta):
                    raise Misuse(
                        "The job holds a reservation of another amount.",
                        code="budget_conflict",
                        advice="Release it first, or name the new request differently.",
                    )
                return str(found.id), False
            held = _Account(_EXACT.add(account.epsilon, epsilon), _EXACT.add(account.delta, delta))
            limit = self.limit_of(key)
            if held.epsilon > _decimal(limit.epsilon) or held.delta > _decimal(limit.delta):
                left_epsilon = max(Decimal(0), _decimal(limit.epsilon) - account.epsilon)
                left_delta = max(Decimal(0), _decimal(limit.delta) - account.delta)
                raise BudgetExhausted(
                    f"The request needs ε = {cost.epsilon:g}, δ = {cost.delta:g}; left for this dataset, "
                    f"partner and period are ε = {float(left_epsilon):g}, δ = {float(left_delta):g}.",
                    advice="Ask for less, or wait for the next period.",
                )
            self._hold(c, key, held)
            values = {"epsilon": str(epsilon), "delta": str(delta), "state": ReservationState.RESERVED.value}
            if found is not None:
                c.execute(_reservations.update().where(_reservations.c.id == found.id).values(**values))
                return str(found.id), True
            c.execute(
                _reservations.insert().values(
                    id=fresh, lineage=key.lineage, partner=key.partner, period=key.period, job=job, **values
                )
            )
            return fresh, True

        try:
            reservation, changed = self._transact(change)
        except BudgetExhausted:
            self._report("budget.refused", key, cost, job)
            raise
        if changed:
            self._report("budget.reserved", key, cost, job)
        return reservation

    def commit(self, reservation: str) -> None:
        """Mark a reservation as spent for good. Idempotent. Raises `Misuse` if unknown or released."""
        self._settle(reservation, ReservationState.COMMITTED)

    def release(self, reservation: str) -> None:
        """Give a reservation back because nothing left the node. Idempotent.

        Raises `Misuse` if unknown, or if it is committed: what was answered cannot be unanswered.
        """
        self._settle(reservation, ReservationState.RELEASED)

    def reservation(self, reservation: str) -> Reservation:
        """Return one reservation. Raises `Misuse` if unknown."""
        return self._transact(lambda c: self._find(c, reservation))

    def pending(self) -> list[Reservation]:
        """Reservations neither committed nor released, for a node that starts again after a crash."""

        def read(c: sa.Connection) -> list[Reservation]:
            rows = c.execute(
                sa.select(_reservations)
                .where(_reservations.c.state == ReservationState.RESERVED.value)
                .order_by(_reservations.c.lineage, _reservations.c.job)
            )
            return [_reservation(row) for row in rows]

        return self._transact(read)

    def status(self, lineage: str | None = None) -> list[BudgetStatus]:
        """Where every budget in use stands (of one lineage, if given), ordered by key."""

        def read(c: sa.Connection) -> list[Reservation]:
            query = sa.select(_reservations)
            if lineage is not None:
                query = query.where(_reservations.c.lineage == lineage)
            return [_reservation(row) for row in c.execute(query)]

        sums: dict[BudgetKey, dict[ReservationState, list[Cost]]] = {}
        for r in self._transact(read):
            sums.setdefault(r.key, {}).setdefault(r.state, []).append(r.cost)
        out = []
        for key in sorted(sums):
            reserved = _total(sums[key].get(ReservationState.RESERVED, []))
            committed = _total(sums[key].get(ReservationState.COMMITTED, []))
            limit = self.limit_of(key)
            out.append(BudgetStatus(key, limit, reserved, committed, _left(limit, [reserved, committed])))
        return out

    def check(self) -> list[str]:
        """Re-derive every account from its reservations; one sentence for each that disagrees."""

        def read(c: sa.Connection) -> tuple[list[sa.Row[tuple[object, ...]]], list[Reservation]]:
            accounts = list(c.execute(sa.select(_accounts)))
            return accounts, [_reservation(row) for row in c.execute(sa.select(_reservations))]

        accounts, reservations = self._transact(read)
        held: dict[BudgetKey, list[Cost]] = {}
        for r in reservations:
            if r.state is not ReservationState.RELEASED:
                held.setdefault(r.key, []).append(r.cost)
        faults = []
        for row in accounts:
            key = BudgetKey(row.lineage, row.partner, row.period)
            epsilon, delta = _sums(held.pop(key, []))
            if (Decimal(row.held_epsilon), Decimal(row.held_delta)) != (epsilon, delta):
                faults.append(f"The account {key} does not equal the sum of its reservations.")
        faults.extend(f"The reservations of {key} have no account." for key in held)
        return faults

    # ------------------------------------------------------------------------------ in a transaction

    def _settle(self, reservation: str, to: ReservationState) -> None:
        # A reservation never changes its key, so it may be looked up before the account is locked; inside
        # the transaction a read first would keep SQLite from upgrading to a write while another writes.
        key = self.reservation(reservation).key

        def change(c: sa.Connection) -> tuple[Reservation, bool]:
            account = self._lock(c, key)
            found = self._find(c, reservation)
            if found.state is to:
                return found, False
            if found.state is not ReservationState.RESERVED:
                raise Misuse(f"The reservation is {found.state.value} already.", code="budget_conflict")
            if to is ReservationState.RELEASED:
                epsilon = _EXACT.subtract(account.epsilon, _decimal(found.cost.epsilon))
                delta = _EXACT.subtract(account.delta, _decimal(found.cost.delta))
                self._hold(c, key, _Account(epsilon, delta))
            c.execute(_reservations.update().where(_reservations.c.id == reservation).values(state=to.value))
            return found, True

        found, changed = self._transact(change)
        if changed:
            self._report(f"budget.{to.value}", found.key, found.cost, found.job)

    def _find(self, c: sa.Connection, reservation: str) -> Reservation:
        row = c.execute(sa.select(_reservations).where(_reservations.c.id == reservation)).one_or_none()
        if row is None:
            raise Misuse("There is no such reservation.", code="unknown_reservation")
        return _reservation(row)

    def _lock(self, c: sa.Connection, key: BudgetKey) -> _Account:
        """Write the account's row, making it if need be, and return what it holds."""
        match c.dialect.name:
            case "sqlite":
                insert: sqlite.Insert | postgresql.Insert = sqlite.insert(_accounts)
            case "postgresql":
                insert = postgresql.insert(_accounts)
            case other:
                raise Misuse(f"The ε ledger runs on SQLite and PostgreSQL, not on {other}.")
        row = c.execute(
            insert.values(
                lineage=key.lineage, partner=key.partner, period=key.period,
                held_epsilon="0", held_delta="0", revision=1,
            )
            .on_conflict_do_update(
                index_elements=["lineage", "partner", "period"],
                set_={"revision": _accounts.c.revision + 1},
            )
            .returning(_accounts.c.held_epsilon, _accounts.c.held_delta)
        ).one()  # fmt: skip
        return _Account(Decimal(row.held_epsilon), Decimal(row.held_delta))

    def _hold(self, c: sa.Connection, key: BudgetKey, account: _Account) -> None:
        c.execute(
            _accounts.update()
            .where(*_of(_accounts, key))
            .values(held_epsilon=str(account.epsilon), held_delta=str(account.delta))
        )

    def _transact(self, work: Callable[[sa.Connection], T]) -> T:
        """Run `work` in one transaction, again if the database asks for it."""
        for attempt in range(_ATTEMPTS):
            try:
                with self.engine.begin() as c:
                    return work(c)
            except sa.exc.OperationalError as error:
                if attempt + 1 == _ATTEMPTS or not _passing(error):
                    raise StorageError("The ε ledger's database refused; nothing was changed.") from error
                time.sleep(0.01 * 2 ** min(attempt, 6))
            except sa.exc.SQLAlchemyError as error:
                raise StorageError("The ε ledger's database refused; nothing was changed.") from error
        raise AssertionError("unreachable")

    def _report(self, kind: str, key: BudgetKey, cost: Cost, job: str) -> None:
        if self.sink is not None:
            self.sink.record(
                kind,
                {
                    "lineage": key.lineage,
                    "partner": key.partner,
                    "period": key.period,
                    "job": job,
                    "epsilon": cost.epsilon,
                    "delta": cost.delta,
                },
            )


def _of(table: sa.Table, key: BudgetKey) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        table.c.lineage == key.lineage,
        table.c.partner == key.partner,
        table.c.period == key.period,
    )


def _reservation(row: sa.Row[tuple[object, ...]]) -> Reservation:
    return Reservation(
        id=row.id,
        key=BudgetKey(row.lineage, row.partner, row.period),
        job=row.job,
        cost=Cost(float(row.epsilon), float(row.delta)),
        state=ReservationState(row.state),
    )


def _decimal(value: float) -> Decimal:
    """The decimal that a float is written as: people mean 0.1, not the binary fraction nearest to it."""
    return Decimal(repr(value))


def _sums(costs: list[Cost]) -> tuple[Decimal, Decimal]:
    epsilon = delta = Decimal(0)
    for cost in costs:
        epsilon = _EXACT.add(epsilon, _decimal(cost.epsilon))
        delta = _EXACT.add(delta, _decimal(cost.delta))
    return epsilon, delta


def _total(costs: list[Cost]) -> Cost:
    epsilon, delta = _sums(costs)
    return Cost(float(epsilon), float(delta))


def _left(limit: Cost, spent: list[Cost]) -> Cost:
    epsilon, delta = _sums(spent)
    return Cost(
        float(max(Decimal(0), _decimal(limit.epsilon) - epsilon)),
        float(max(Decimal(0), _decimal(limit.delta) - delta)),
    )


def _passing(error: sa.exc.OperationalError) -> bool:
    """Whether trying again can help: SQLite busy, PostgreSQL deadlock (40P01) or serialisation (40001)."""
    state = getattr(error.orig, "sqlstate", None)
    return state in {"40001", "40P01"} or "locked" in str(error.orig)
