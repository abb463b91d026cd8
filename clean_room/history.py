"""Questions of this month: what each was, and who went into it, for repeats and for differencing.

Both nodes keep a record of every question that had an answer, or may still have one, of their own side
only. It holds digests of the question and of the own input, how many people each cell had, and, sealed, a
`Fingerprint` of the people. A new question is compared with the earlier ones that the same partner learnt
from (or that were put to it), and enters the record in the same breath, so that of two that are too close
and asked at once at most one is let through.

Kept under the month's key and until the month is over, and then removed: the month is also what the ε
budget is for. At most `MOST` different inputs a dataset, partner and month; equal inputs are kept once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from clean_room.differencing import HASH_KEY_BYTES, Fingerprint, hashed_people, may_be_close, too_close
from clean_room.inputs import QueryInput
from clean_room.jobs import Query, Role
from clean_room.sealed_files import SealedFiles
from clean_room.storage import questions
from consent.encoding import canonical_json
from privacy.errors import Refused
from privacy.keys import KeyRing

__all__ = ["COMPARED", "MOST", "DifferencingRisk", "History", "Question", "Seen", "question_digest"]

COMPARED = frozenset({"overlap", "measure", "estimate"})
"""Kinds of query whose answers are noisy numbers about one's own people; others go unrecorded."""
MOST = 256


class DifferencingRisk(Refused):
    """The answer, taken together with an earlier one, would be about fewer people than the minimum cell."""

    code = "differencing_risk"

    def __init__(self, job: str) -> None:
        super().__init__(
            "this question and an earlier one of this month are about almost the same people: both "
            "answers together would say something of the few in whom they differ.",
            rule="differencing_risk",
            advice=f"The answer of job {job} stands. Ask about a group that is clearly larger "
            "or smaller, or wait for next month.",
        )
        self.job = job


@dataclass(frozen=True, slots=True)
class Question:
    """One question as one side keeps it.

    `lineage` is of the own dataset. `partner` is whose knowledge grows (for the contributor: the budget
    account of the analyst) or who is asked (for the analyst: the contributor and its dataset). `digest` is
    of the query and the agreement it was asked under; `minimum` the agreed minimum cell.
    """

    job: str
    role: Role
    lineage: str
    partner: str
    digest: str
    minimum: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An earlier question that was the same, with the same own input. `settled`: it has been answered."""

    job: str
    settled: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    job: str
    question: str
    input: str
    sizes: Sequence[int]
    kept_by: str
    ring: int
    settled: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question with its fingerprint taken: what `History.admit` compares."""

    question: Question
    period: str
    ring: int
    fingerprint: Fingerprint = field(repr=False)
    input: str


def question_digest(query: Query, agreement_hash: str) -> str:
    """SHA-256 (hex) over the canonical query and the agreement it is asked under."""
    return hashlib.sha256(canonical_json([query.document(), agreement_hash])).hexdigest()


class History:
    """The records of one node. Thread-safe; one running instance a node, as the service is."""

    def __init__(
        self, engine: sa.Engine, folder: Path, keyring: KeyRing, clock: Callable[[], datetime]
    ) -> None:
        self._engine = engine
        self._files = SealedFiles(folder, keyring, "question")
        self._keyring = keyring
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str, str], threading.Lock] = {}

    def prepare(
        self, question: Question, given: QueryInput, *, kind: str, source: str = "", column: str = ""
    ) -> Prepared:
        """Take the fingerprint of what would go in: the dear part, 1 s for a million people, under no lock.

        `kind` is the identifier joined on, `source` a text that is equal only while the rows of the file
        are, `column` the measured column.
        """
        period, ring = self._period(), self._ring(question)
        key = self._keyring.derive("clean-room-history", period, "people", length=32, version=ring)
        hash_key = hashlib.shake_256(key).digest(HASH_KEY_BYTES)
        fingerprint = Fingerprint.of(
            [hashed_people(hash_key, people) for people in given.people],
            list(given.rows),
            None if given.values is None else list(given.values),
            kind=kind,
            source=source,
            column=column,
        )
        digest_key = self._keyring.derive("clean-room-history", period, "input", length=32, version=ring)
        return Prepared(question, period, ring, fingerprint, fingerprint.digest(digest_key))

    def admit(self, prepared: Prepared, *, repeats: str | None = None) -> Seen | None:
        """Let a question in and record it, or say that it was asked before.

        The contributor names in `repeats` the job that its partner says is repeated; if there is such a job,
        with the same question and the same own input, it is returned and nothing is recorded. The analyst
        leaves it None and learns of any; nothing is recorded while the other is not settled, and if it is,
        this one is to be forgotten when the partner agrees that it is a repeat.
        Raises `DifferencingRisk`, or `Refused(too_many_questions)`, and records nothing.
        """
        question = prepared.question
        with self._place(question):
            earlier = self._earlier(question, prepared.period)
            mine = [k for k in earlier if k.job == question.job]
            if mine and mine[0].input == prepared.input:
                return None  # this very job, taken up again after a crash
            earlier = [k for k in earlier if k.job != question.job]
            if mine:
                self.forget(question.job)  # begun anew without who opted out; nobody has learnt anything yet
            same = [k for k in earlier if (k.question, k.input) == (question.digest, prepared.input)]
            if question.role is Role.CONTRIBUTOR:
                same = [k for k in same if k.job == repeats and k.settled]
            seen = None
            if same:
                chosen = max(same, key=lambda k: k.settled)
                seen = Seen(chosen.job, chosen.settled)
                if question.role is Role.CONTRIBUTOR or not seen.settled:
                    return seen
            self._compare(prepared, earlier)
            self._record(prepared, earlier)
        return seen

    def foresee(self, prepared: Prepared) -> Seen | None:
        """What `admit` would answer or raise, for a preview: nothing is recorded."""
        earlier = self._earlier(prepared.question, prepared.period)
        same = [k for k in earlier if (k.question, k.input) == (prepared.question.digest, prepared.input)]
        if same:
            chosen = max(same, key=lambda k: k.settled)
            return Seen(chosen.job, chosen.settled)
        self._compare(prepared, earlier)
        return None

    def settle(self, job: str) -> None:
        """The question has been answered: its record stays until the month is over. Idempotent."""
        with self._engine.begin() as connection:
            connection.execute(questions.update().where(questions.c.job == job).values(settled=True))

    def forget(self, job: str) -> None:
        """The question came to nothing: its record goes, unless it was answered. Idempotent."""
        with self._lock:
            with self._engine.begin() as connection:
                connection.execute(
                    questions.delete().where(questions.c.job == job, questions.c.settled.is_(sa.false()))
                )
            self._sweep_files()

    def open_jobs(self) -> list[str]:
        """Jobs whose questions are neither answered nor forgotten: for a node that starts again."""
        query = sa.select(questions.c.job).where(questions.c.settled.is_(sa.false()))
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(questions.c.asked_at)).scalars())

    def sweep(self) -> int:
        """Remove what earlier months left; how many records went. Cheap when there is nothing."""
        with self._lock:
            with self._engine.begin() as connection:
                gone = connection.execute(
                    questions.delete().where(questions.c.period < self._period())
                ).rowcount
            if gone:
                self._sweep_files()
        return int(gone)

    def earlier(self, question: Question) -> list[tuple[str, Fingerprint]]:
        """Earlier questions of the month at the same place, a different input once: for previews."""
        kept = {k.input: k for k in self._earlier(question, self._period())}
        found = [(k.job, self._load(k)) for k in kept.values()]
        return [(job, fingerprint) for job, fingerprint in found if fingerprint is not None]

    # ── inside ──────────────────────────────────────────────────────────────────────────────────────────

    def _compare(self, prepared: Prepared, earlier: Sequence[_Kept]) -> None:
        ours, minimum = prepared.fingerprint, prepared.question.minimum
        sizes = ours.sizes
        compared: set[str] = set()
        for kept in earlier:
            if kept.input == prepared.input or kept.input in compared:
                continue
            compared.add(kept.input)
            if not may_be_close(sizes, kept.sizes, minimum):
                continue
            before = self._load(kept)
            if before is None or too_close(ours, before, minimum):
                raise DifferencingRisk(kept.job)

    def _record(self, prepared: Prepared, earlier: Sequence[_Kept]) -> None:
        question = prepared.question
        kept_by = next((k.kept_by for k in earlier if k.input == prepared.input), None)
        if kept_by is None:
            if len({k.input for k in earlier}) >= MOST:
                raise Refused(
                    f"{MOST} different groups of people have been asked about this month.",
                    code="too_many_questions",
                    advice="Ask again about one of them, or wait for next month.",
                )
            kept_by = question.job
        # Under the lock, or a sweep between file and row would take the file for one that is left over.
        with self._lock, self._engine.begin() as connection:
            if kept_by == question.job:
                self._files.save(question.job, prepared.fingerprint.to_bytes())
            connection.execute(
                questions.insert().values(
                    job=question.job,
                    role=question.role.value,
                    lineage=question.lineage,
                    partner=question.partner,
                    period=prepared.period,
                    question=question.digest,
                    input=prepared.input,
                    sizes=prepared.fingerprint.sizes,
                    kept_by=kept_by,
                    ring=prepared.ring,
                    settled=False,
                    asked_at=self._clock().isoformat(),
                )
            )

    def _earlier(self, question: Question, period: str) -> list[_Kept]:
        c = questions.c
        columns = (c.job, c.question, c.input, c.sizes, c.kept_by, c.ring, c.settled)
        place = (
            c.role == question.role.value,
            c.lineage == question.lineage,
            c.partner == question.partner,
            c.period == period,
        )
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(*columns).where(*place).order_by(c.asked_at, c.job)).all()
        return [_Kept(*row) for row in rows]

    def _load(self, kept: _Kept) -> Fingerprint | None:
        content = self._files.load(kept.kept_by)
        return None if content is None else Fingerprint.from_bytes(content)

    def _ring(self, question: Question) -> int:
        """The ring version of the month's earlier records: under another, people hash otherwise."""
        versions = [kept.ring for kept in self._earlier(question, self._period())]
        return versions[0] if versions else self._keyring.version

    def _place(self, question: Question) -> threading.Lock:
        with self._lock:
            name = question.role.value, question.lineage, question.partner
            return self._places.setdefault(name, threading.Lock())

    def _sweep_files(self) -> None:
        with self._engine.connect() as connection:
            needed = set(connection.execute(sa.select(questions.c.kept_by).distinct()).scalars())
        for job in self._files.jobs():
            if job not in needed:
                self._files.discard(job)

    def _period(self) -> str:
        return self._clock().strftime("%Y-%m")
