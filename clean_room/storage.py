"""The clean room's tables and the stores over them: collaborations, jobs, receipts.

Contract of every store: a method that returns has committed; a method that raises has changed nothing.
Any number of threads and processes may call at once: state changes are compare-and-set in one statement,
so of two writers that saw the same state exactly one succeeds.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from clean_room.jobs import TRANSITIONS, Job, JobError, JobState, Query, Role, Stage
from privacy.errors import Misuse, StorageError

__all__ = ["ApprovalRow", "CollaborationRow", "ExportRow", "JobStore", "ReceiptRow", "Store", "metadata"]

metadata = sa.MetaData()

collaborations = sa.Table(
    "clean_room_collaborations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("partner", sa.String(64), nullable=False),
    sa.Column("partner_key", sa.String(64), nullable=False),
    sa.Column("partner_url", sa.String(512), nullable=False),
    sa.Column("agreement_hash", sa.String(64), nullable=False, server_default=""),
    sa.Column("documents", sa.JSON, nullable=False),
    sa.Column("sealed_exchange", sa.LargeBinary, nullable=True),
    sa.Column("sealed_pair_key", sa.LargeBinary, nullable=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Index("ix_clean_room_collaborations_partner", "partner", "state"),
)

jobs = sa.Table(
    "clean_room_jobs",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("collaboration", sa.String(64), nullable=False),
    sa.Column("partner", sa.String(64), nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("query", sa.JSON, nullable=False),
    sa.Column("state", sa.String(24), nullable=False),
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("input", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON, nullable=True),
    sa.Column("error", sa.JSON, nullable=True),
    sa.Column("reservation", sa.String(128), nullable=True),
    sa.Column("receipt_id", sa.String(64), nullable=True),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.Column("updated_at", sa.String(40), nullable=False),
    sa.Index("ix_clean_room_jobs_created", "created_at", "id"),
    sa.Index("ix_clean_room_jobs_state", "state"),
)

idempotency = sa.Table(
    "clean_room_idempotency",
    metadata,
    sa.Column("principal", sa.String(128), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("job", sa.String(64), nullable=False),
)

receipts = sa.Table(
    "clean_room_receipts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("collaboration", sa.String(64), nullable=False),
    sa.Column("document", sa.JSON, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    sa.UniqueConstraint("job", "collaboration", name="uq_clean_room_receipts_job"),
)

questions = sa.Table(
    "clean_room_questions",
    metadata,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("lineage", sa.String(255), nullable=False),
    sa.Column("partner", sa.String(255), nullable=False),
    sa.Column("period", sa.String(7), nullable=False),
    sa.Column("question", sa.String(64), nullable=False),
    sa.Column("input", sa.String(64), nullable=False),
    sa.Column("sizes", sa.JSON, nullable=False),
    sa.Column("kept_by", sa.String(64), nullable=False),  # the job whose sealed file holds this input
    sa.Column("ring", sa.Integer, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False),
    sa.Column("asked_at", sa.String(40), nullable=False),
    sa.Index("ix_clean_room_questions_place", "role", "lineage", "partner", "period"),
)

budget_accounts = sa.Table(
    "clean_room_budget_accounts",
    metadata,
    sa.Column("lineage", sa.String(255), primary_key=True),
    sa.Column("period", sa.String(7), primary_key=True),
    sa.Column("partner_key", sa.String(64), primary_key=True),
    sa.Column("account", sa.String(255), nullable=False),
)

approvals = sa.Table(
    "clean_room_approvals",
    metadata,
    sa.Column("job", sa.String(64), primary_key=True),
    sa.Column("decision", sa.String(16), nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("reason", sa.String(512), nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
)

exports = sa.Table(
    "clean_room_exports",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("job", sa.String(64), nullable=False),
    sa.Column("principal", sa.String(128), nullable=False),
    sa.Column("format", sa.String(16), nullable=False),
    sa.Column("people", sa.Integer, nullable=False),
    sa.Column("at", sa.String(40), nullable=False),
    sa.Index("ix_clean_room_exports_job", "job", "id"),
)


@dataclass(frozen=True, slots=True)
class CollaborationRow:
    """A collaboration as stored. `documents` holds invitation, acceptance, agreement and signatures."""

    id: str
    role: str
    state: str
    partner: str
    partner_key: str
    partner_url: str
    documents: Mapping[str, Any]
    created_at: str
    updated_at: str
    agreement_hash: str = ""
    sealed_exchange: bytes | None = None
    sealed_pair_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReceiptRow:
    id: str
    job: str
    kind: str
    collaboration: str
    document: Mapping[str, Any]
    created_at: str


@dataclass(frozen=True, slots=True)
class ApprovalRow:
    """What a person of this node decided about a partner's query: `approved` or `rejected`."""

    job: str
    decision: str
    principal: str
    reason: str
    at: str


class CollaborationStore:
    """Collaborations by id; `replace` is compare-and-set on the state."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, row: CollaborationRow) -> None:
        """Store a new collaboration; raises `Misuse(already_exists)` when the id is taken."""
        try:
            with self._engine.begin() as connection:
                connection.execute(collaborations.insert().values(**asdict(row)))
        except sa.exc.IntegrityError:
            raise Misuse("that collaboration is already known here.", code="already_exists") from None

    def get(self, collaboration: str) -> CollaborationRow | None:
        with self._engine.connect() as connection:
            found = connection.execute(
                collaborations.select().where(collaborations.c.id == collaboration)
            ).first()
        return None if found is None else CollaborationRow(**found._mapping)

    def pins(self, states: Sequence[str]) -> list[tuple[str, str, str]]:
        """(partner, URL, key) of collaborations in `states`; no document is read."""
        c = collaborations.c
        query = sa.select(c.partner, c.partner_url, c.partner_key).where(c.state.in_(states))
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(c.created_at, c.id))]

    def agreed_with(self, partner: str) -> CollaborationRow | None:
        """The collaboration in force with a partner; there is at most one."""
        c = collaborations.c
        with self._engine.connect() as connection:
            found = connection.execute(
                collaborations.select().where(c.partner == partner, c.state == "agreed").limit(1)
            ).first()
        return None if found is None else CollaborationRow(**found._mapping)

    def received(self) -> list[tuple[str, str, str]]:
        """(id, key, received when) of invitations that wait for an answer, oldest first."""
        c = collaborations.c
        query = sa.select(c.id, c.partner_key, c.created_at).where(c.state == "received")
        with self._engine.connect() as connection:
            return [tuple(row) for row in connection.execute(query.order_by(c.created_at, c.id))]

    def forget(self, ids: Sequence[str]) -> None:
        """Delete received invitations; whatever else bears one of these ids stays."""
        c = collaborations.c
        with self._engine.begin() as connection:
            connection.execute(collaborations.delete().where(c.id.in_(ids), c.state == "received"))

    def all(self) -> list[CollaborationRow]:
        order = collaborations.c.created_at, collaborations.c.id
        with self._engine.connect() as connection:
            found = connection.execute(collaborations.select().order_by(*order)).all()
        return [CollaborationRow(**row._mapping) for row in found]

    def replace(self, row: CollaborationRow, *, was: str, agreement_hash: str | None = None) -> bool:
        """Write `row` if its stored state is still `was`, under the same agreement where its hash is given;
        False when somebody else was first."""
        values = asdict(row)
        values.pop("id")
        statement = (
            collaborations.update()
            .where(collaborations.c.id == row.id, collaborations.c.state == was)
            .values(**values)
        )
        if agreement_hash is not None:
            statement = statement.where(collaborations.c.agreement_hash == agreement_hash)
        with self._engine.begin() as connection:
            return connection.execute(statement).rowcount == 1


class JobStore:
    """Jobs by id; state changes obey `jobs.TRANSITIONS` inside the database.

    `listeners` are called with a job's id after a change of it is durable; they must not raise or wait.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.listeners: list[Callable[[str], None]] = []

    def add(self, job: Job, *, idempotency_key: str | None = None, digest: str = "") -> Job:
        """Store a new job and return it; with a key seen before, return the job it made instead.

        Raises `Misuse(idempotency_conflict)` when the key was used for another request and
        `Misuse(already_exists)` when the id is taken.
        """
        try:
            with self._engine.begin() as connection:
                if idempotency_key is not None:
                    connection.execute(
                        idempotency.insert().values(
                            principal=job.principal, key=idempotency_key, digest=digest, job=job.id
                        )
                    )
                connection.execute(jobs.insert().values(**_job_values(job)))
            return job
        except sa.exc.IntegrityError:
            earlier = None if idempotency_key is None else self._by_key(job.principal, idempotency_key)
            if earlier is None:
                raise Misuse("a job of that id is already known here.", code="already_exists") from None
            job_id, earlier_digest = earlier
            if earlier_digest != digest:
                raise Misuse(
                    "this Idempotency-Key was used for another request.",
                    code="idempotency_conflict",
                    advice="Use a new key for a new question.",
                ) from None
            return self.get(job_id)

    def _by_key(self, principal: str, key: str) -> tuple[str, str] | None:
        where = idempotency.c.principal == principal, idempotency.c.key == key
        with self._engine.connect() as connection:
            found = connection.execute(idempotency.select().where(*where)).first()
        return None if found is None else (found.job, found.digest)

    def get(self, job: str) -> Job:
        """The job; raises `Misuse(unknown_job)`."""
        with self._engine.connect() as connection:
            found = connection.execute(jobs.select().where(jobs.c.id == job)).first()
        if found is None:
            raise Misuse("no such job.", code="unknown_job")
        return _job(found)

    def page(
        self, *, role: Role | None = None, kind: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> tuple[list[Job], str | None]:
        """Newest first, at most `limit`, with the cursor of the next page (None on the last)."""
        statement = jobs.select().order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit + 1)
        if role is not None:
            statement = statement.where(jobs.c.role == role.value)
        if kind is not None:
            statement = statement.where(jobs.c.kind == kind)
        if cursor is not None:
            at, job = _read_cursor(cursor)
            statement = statement.where(sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(at, job))
        with self._engine.connect() as connection:
            found = [_job(row) for row in connection.execute(statement)]
        more = len(found) > limit
        page = found[:limit]
        return page, _write_cursor(page[-1]) if more else None

    def made_by(self, principal: str, key: str) -> bool:
        """Whether an idempotency key of this principal is known."""
        return self._by_key(principal, key) is not None

    def open_of(self, principal: str) -> int:
        """How many jobs this principal has asked for that have not ended."""
        open_states = [state.value for state in JobState if TRANSITIONS[state]]
        where = jobs.c.principal == principal, jobs.c.state.in_(open_states)
        with self._engine.connect() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(jobs).where(*where)).scalar()
        return int(count or 0)

    def unfinished(self) -> list[Job]:
        """Jobs that have not ended, oldest first."""
        over = [state.value for state in JobState if not TRANSITIONS[state]]
        statement = jobs.select().where(jobs.c.state.not_in(over)).order_by(jobs.c.created_at)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(statement)]

    def update(self, job: str, *, at: str, **changes: Any) -> bool:
        """Change fields of a job that has not ended, without touching its state; False if it has ended."""
        values = {name: _stored(value) for name, value in changes.items()}
        open_states = [state.value for state in JobState if TRANSITIONS[state]]
        statement = (
            jobs.update()
            .where(jobs.c.id == job, jobs.c.state.in_(open_states))
            .values(updated_at=at, **values)
        )
        return self._changed(job, statement)

    def move(self, job: str, to: JobState, *, at: str, **changes: Any) -> bool:
        """Take a job to `to` if its present state allows it; False, and nothing changed, if not."""
        allowed = [state.value for state, following in TRANSITIONS.items() if to in following]
        values = {name: _stored(value) for name, value in changes.items()}
        statement = (
            jobs.update()
            .where(jobs.c.id == job, jobs.c.state.in_(allowed))
            .values(state=to.value, updated_at=at, **values)
        )
        return self._changed(job, statement)

    def _changed(self, job: str, statement: sa.Update) -> bool:
        with self._engine.begin() as connection:
            changed = connection.execute(statement).rowcount == 1
        if changed:
            for listener in self.listeners:
                listener(job)
        return changed


class ReceiptStore:
    """Two-sided receipts by id, one a job and collaboration: a reach has one with every partner."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, row: ReceiptRow) -> None:
        """Store a receipt; the same again is no error, another one for job and collaboration is."""
        try:
            with self._engine.begin() as connection:
                connection.execute(receipts.insert().values(**asdict(row)))
        except sa.exc.IntegrityError:
            known = self.get(row.id)
            if known is None or known.document != row.document:
                raise StorageError("the job already has another receipt.", code="already_exists") from None

    def get(self, receipt: str) -> ReceiptRow | None:
        with self._engine.connect() as connection:
            found = connection.execute(receipts.select().where(receipts.c.id == receipt)).first()
        return None if found is None else ReceiptRow(**found._mapping)

    def of_jobs(self, wanted: Sequence[str]) -> list[ReceiptRow]:
        with self._engine.connect() as connection:
            found = connection.execute(receipts.select().where(receipts.c.job.in_(wanted))).all()
        return [ReceiptRow(**row._mapping) for row in found]


class ApprovalStore:
    """Decisions about partners' queries, one a job, for good."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, row: ApprovalRow) -> None:
        """Store a decision; raises `Misuse(already_decided)` when there is one for the job."""
        try:
            with self._engine.begin() as connection:
                connection.execute(approvals.insert().values(**asdict(row)))
        except sa.exc.IntegrityError:
            raise Misuse("somebody has decided about that query already.", code="already_decided") from None

    def get(self, job: str) -> ApprovalRow | None:
        with self._engine.connect() as connection:
            found = connection.execute(approvals.select().where(approvals.c.job == job)).first()
        return None if found is None else ApprovalRow(**found._mapping)


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One file made of an activation: for whom, how many ids it held, and when."""

    job: str
    principal: str
    format: str
    people: int
    at: str


class ExportStore:
    """What was exported, appended to and never changed."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, row: ExportRow) -> None:
        """Note one."""
        with self._engine.begin() as connection:
            connection.execute(exports.insert().values(**asdict(row)))

    def of(self, job: str) -> list[ExportRow]:
        """Those of a job, oldest first."""
        c = exports.c
        query = sa.select(c.job, c.principal, c.format, c.people, c.at).where(c.job == job).order_by(c.id)
        with self._engine.connect() as connection:
            return [ExportRow(**row._mapping) for row in connection.execute(query)]


class Store:
    """The stores over one engine."""

    def __init__(self, engine: sa.Engine) -> None:
        self.collaborations = CollaborationStore(engine)
        self.jobs = JobStore(engine)
        self.receipts = ReceiptStore(engine)
        self.approvals = ApprovalStore(engine)
        self.exports = ExportStore(engine)


def _stored(value: Any) -> Any:
    if isinstance(value, JobError):
        return asdict(value)
    return value.value if isinstance(value, Stage | JobState) else value


def _job_values(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "role": job.role.value,
        "kind": job.query.kind,
        "collaboration": job.query.collaboration,
        "partner": job.partner,
        "principal": job.principal,
        "query": job.query.document(),
        "state": job.state.value,
        "stage": job.stage.value,
        "progress": job.progress,
        "input": dict(job.input),
        "result": sa.null() if job.result is None else dict(job.result),
        "error": sa.null() if job.error is None else asdict(job.error),
        "reservation": job.reservation,
        "receipt_id": job.receipt_id,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
    }


def _job(row: sa.Row[Any]) -> Job:
    return Job(
        id=row.id,
        role=Role(row.role),
        query=Query.from_document(row.query),
        partner=row.partner,
        principal=row.principal,
        state=JobState(row.state),
        stage=Stage(row.stage),
        progress=row.progress,
        input=row.input,
        result=row.result,
        error=None if row.error is None else JobError(**row.error),
        reservation=row.reservation,
        receipt_id=row.receipt_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _write_cursor(job: Job) -> str:
    return base64.urlsafe_b64encode(f"{job.created_at}|{job.id}".encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[str, str]:
    try:
        at, job = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().split("|")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Misuse("the cursor is not one this node gave.", code="malformed_cursor") from None
    return at, job
