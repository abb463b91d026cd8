"""Questions asked again, from both sides: what is a repeat, and what may not be asked because of what was.

    analyst                                      contributor
    its own history knows the question and the
    same people of its own       ── Offer, repeats: JOB ──▶
                                                 its own history knows JOB as that question of this partner,
                                                 with the same people and values of its own
                                 ◀── over, repeats: JOB ──
    the answer of JOB again                      nothing read further, nothing charged

`repeats` is a pointer and proves nothing: a partner that lies in it is only told that the answer is the one
it has.
"""

from __future__ import annotations

from dataclasses import replace

from clean_room.datasets import Catalogue, Dataset
from clean_room.history import COMPARED, History, Prepared, Question, Seen, question_digest
from clean_room.inputs import QueryInput
from clean_room.jobs import Job, JobState, Role
from clean_room.rules import Asked
from clean_room.storage import JobStore
from privacy.errors import ComityError, Misuse

__all__ = ["Repeats"]


class Repeats:
    """The history of one node as its two sides use it. Thread-safe."""

    def __init__(self, history: History, catalogue: Catalogue, jobs: JobStore) -> None:
        self.history = history
        self._catalogue = catalogue
        self._jobs = jobs

    def prepared(
        self, job: str, asked: Asked, given: QueryInput, *, role: Role, partner: str
    ) -> Prepared | None:
        """What is compared of a question; None for kinds that are not.

        `partner` is whose knowledge grows: the contributor gives its budget account, the analyst the key of
        the one it asks.
        """
        query, analyst = asked.query, role is Role.ANALYST
        # A reach is one question to several partners: each compares for itself what its own people tell.
        if query.kind not in COMPARED and (analyst or query.kind != "reach"):
            return None
        dataset = self._catalogue[query.dataset if analyst else query.partner_dataset]
        question = Question(
            job=job,
            role=role,
            lineage=dataset.lineage,
            # Whatever list the analyst says it asks with, the contributor compares: a name costs nothing.
            partner=f"{partner}/{query.partner_dataset}" if analyst else partner,
            digest=question_digest(query, asked.agreement.hash),
            minimum=asked.agreement.terms.minimum_cell,
        )
        return self.history.prepare(
            question,
            given,
            kind="+".join((query.key, *query.fallback_keys)),
            source=_source(dataset),
            column=query.column or "",
        )

    def admit(self, prepared: Prepared | None, *, repeats: str | None = None) -> Seen | None:
        """`History.admit`, where the answer of what is repeated is still there."""
        if prepared is None:
            return None
        seen = self.history.admit(prepared, repeats=repeats)
        if seen is None or prepared.question.role is Role.CONTRIBUTOR:
            return seen
        earlier = self._job(seen.job)
        if earlier is not None and not earlier.over:
            return replace(seen, settled=False)  # its answer is about to be there
        if seen.settled:
            return seen if self.answered(seen.job) is not None else None
        self.history.forget(seen.job)  # it ended without an answer
        return self.admit(prepared)

    def answered(self, job: str) -> Job | None:
        """The job, if it succeeded with a result that is still there."""
        found = self._job(job)
        done = found is not None and found.state is JobState.SUCCEEDED and found.result is not None
        return found if done else None

    def _job(self, job: str) -> Job | None:
        try:
            return self._jobs.get(job)
        except Misuse:
            return None


def _source(dataset: Dataset) -> str:
    """Text that is equal only while the dataset's rows lie where they lay; "" where nothing tells."""
    try:
        return repr(dataset.state())
    except (ComityError, AttributeError):
        return ""
