"""The training room's tables: runs, the receipts of their rounds, sealed halves of models.

Contract: a method that returns has committed; one that raises has changed nothing. Any number of threads
and processes may call at once; a state change is compare-and-set, so of two writers one succeeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from federated.errors import TrainingMisuse
from federated.runs import Role, Run, RunError, RunState

__all__ = ["RunStore", "metadata"]

metadata = sa.MetaData()

runs = sa.Table(
    "federated_runs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("partner", sa.String(64), nullable=False),
    sa.Column("collaboration", sa.String(64), nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("alignment", sa.String(64), nullable=True),
    sa.Column("result", sa.JSON, nullable=True),
    sa.Column("card", sa.JSON, nullable=True),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Index("ix_federated_runs_created", "created_at", "id"),
    sa.Index("ix_federated_runs_state", "state"),
)

rounds = sa.Table(
    "federated_rounds",
    metadata,
    sa.Column("run", sa.String(64), sa.ForeignKey("federated_runs.id"), primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("party", sa.String(64), primary_key=True),
    sa.Column("receipt", sa.JSON, nullable=False),
)

models = sa.Table(
    "federated_models",
    metadata,
    sa.Column("run", sa.String(64), sa.ForeignKey("federated_runs.id"), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)

idempotency = sa.Table(
    "federated_idempotency",
    metadata,
    sa.Column("principal", sa.String(128), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("run", sa.String(64), nullable=False),
)


class RunStore:
    """Runs by id, over one engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, run: Run, *, key: str | None = None, digest: str = "") -> Run:
        """Store a new run; with an idempotency key, the run stored under it before, if the same was asked.

        Raises TrainingMisuse(idempotency_conflict) for the same key with another request, and
        TrainingMisuse(already_exists) for an id that is taken.
        """
        try:
            with self._engine.begin() as connection:
                if key is not None:
                    connection.execute(
                        idempotency.insert().values(
                            principal=run.principal, key=key, digest=digest, run=run.id
                        )
                    )
                connection.execute(runs.insert().values(**_row(run)))
            return run
        except sa.exc.IntegrityError:
            pass
        with self._engine.connect() as connection:
            found = connection.execute(
                idempotency.select().where(idempotency.c.principal == run.principal, idempotency.c.key == key)
            ).first()
        if found is None:
            raise TrainingMisuse("That run is known here already.", code="already_exists")
        if found.digest != digest:
            raise TrainingMisuse(
                "That Idempotency-Key was used for another request.", code="idempotency_conflict"
            )
        return self.get(found.run)

    def get(self, run: str) -> Run:
        """Raises TrainingMisuse(unknown_run)."""
        with self._engine.connect() as connection:
            found = connection.execute(runs.select().where(runs.c.id == run)).first()
        if found is None:
            raise TrainingMisuse("There is no such training run.", code="unknown_run")
        return _run(found._mapping)

    def page(self, *, limit: int = 50, after: str | None = None) -> list[Run]:
        """Newest first; `after` is the id of the last run of the page before."""
        query = runs.select().order_by(runs.c.created_at.desc(), runs.c.id.desc()).limit(limit)
        if after is not None:
            last = self.get(after)
            query = query.where(
                sa.tuple_(runs.c.created_at, runs.c.id)
                < sa.tuple_(sa.literal(last.created_at), sa.literal(last.id))
            )
        with self._engine.connect() as connection:
            return [_run(row._mapping) for row in connection.execute(query)]

    def open_runs(self) -> list[Run]:
        """Runs that are not over, oldest first."""
        unfinished = [RunState.SUBMITTED, RunState.STARTED, RunState.CANCELLING]
        query = runs.select().where(runs.c.state.in_(unfinished)).order_by(runs.c.created_at, runs.c.id)
        with self._engine.connect() as connection:
            return [_run(row._mapping) for row in connection.execute(query)]

    def replace(self, run: Run, *, was: RunState, sealed: bytes | None = None) -> bool:
        """Write `run` if it is still in state `was`; with `sealed`, its half of the model along with it."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                runs.update().where(runs.c.id == run.id, runs.c.state == was).values(**_row(run))
            ).rowcount
            if changed == 1 and sealed is not None:
                connection.execute(
                    models.insert().values(run=run.id, sealed=sealed, created_at=run.updated_at)
                )
        return changed == 1

    def progress(self, run: str, *, stage: str, progress: float, now: str) -> bool:
        """Note how far a started run has come; False once it is no longer started."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                runs.update()
                .where(runs.c.id == run, runs.c.state == RunState.STARTED)
                .values(stage=stage, progress=progress, updated_at=now)
            ).rowcount
        return changed == 1

    def add_receipts(self, run: str, number: int, receipts: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the receipts of a round, by party name; a round is written once."""
        with self._engine.begin() as connection:
            for party, receipt in receipts.items():
                connection.execute(
                    rounds.insert().values(run=run, round=number, party=party, receipt=dict(receipt))
                )

    def receipts(self, run: str) -> list[dict[str, Any]]:
        """`{round, party, receipt}` in order."""
        query = rounds.select().where(rounds.c.run == run).order_by(rounds.c.round, rounds.c.party)
        with self._engine.connect() as connection:
            return [
                {"round": r.round, "party": r.party, "receipt": dict(r.receipt)}
                for r in connection.execute(query)
            ]

    def sealed_model(self, run: str) -> bytes:
        """This side's sealed half. Raises TrainingMisuse(no_model)."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(models.c.sealed).where(models.c.run == run)).scalar()
        if found is None:
            raise TrainingMisuse("That run left no model here.", code="no_model")
        return bytes(found)


def _row(run: Run) -> dict[str, Any]:
    return asdict(run)


def _run(row: Mapping[Any, Any]) -> Run:
    error = row["error"]
    return Run(
        **{
            **row,
            "role": Role(row["role"]),
            "state": RunState(row["state"]),
            "error": None if error is None else RunError(**error),
        }
    )
