"""What joins led to, for whoever traces a person through them (`consent.trace`)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from clean_room.jobs import Job, JobState
from clean_room.storage import ExportStore, JobStore
from consent.receipts import UseReceipt
from consent.trace import Consequence
from privacy.errors import Misuse

__all__ = ["JobConsequences"]

_KINDS = {
    "overlap": "result",
    "measure": "result",
    "estimate": "result",
    "reach": "result",
    "align": "alignment",
    "activate": "export",
}
_ENDED = frozenset({JobState.CANCELLED, JobState.FAILED, JobState.REJECTED, JobState.TIMED_OUT})


class JobConsequences:
    """Implements `consent.trace.Consequences` over the jobs and the sealed files of a node.

    `artefacts` is the folder in which alignments are kept; `exports` knows which files were made of an
    activation.
    """

    def __init__(self, jobs: JobStore, artefacts: Path, exports: ExportStore | None = None) -> None:
        self._jobs = jobs
        self._artefacts = artefacts
        self._exported = exports

    def of_use(self, use: UseReceipt) -> Sequence[Consequence]:
        """What stands of a join; nothing for uses of other rooms."""
        thing = _KINDS.get(use.kind)
        if thing is None:
            return ()
        try:
            job = self._jobs.get(use.job)
        except Misuse:
            return (Consequence(thing, "unknown", use.job, "The job is not recorded here any more."),)
        at = datetime.fromisoformat(job.updated_at)
        if job.state in _ENDED:
            return (Consequence(thing, "withheld", job.id, at=at),)
        if job.state is not JobState.SUCCEEDED:
            return (Consequence(thing, "running", job.id, "The next batch leaves the person out.", at),)
        if thing == "alignment":
            if not (self._artefacts / f"{job.id}.alignment").exists():
                return (Consequence(thing, "dropped", job.id, at=at),)
            advice = "Training asks consent again for each row and round; align anew to take the row out."
            return (Consequence(thing, "stands", job.id, advice, at),)
        if thing == "export":
            return self._exports(job)
        advice = "Totals with noise: nobody can be taken out of them, or read off them."
        return (Consequence(thing, "released", job.id, advice, at),)

    def _exports(self, job: Job) -> tuple[Consequence, ...]:
        """Every file made of an activation by name, or that there is none."""
        made = [] if self._exported is None else self._exported.of(job.id)
        if not made:
            advice = "The ids went to the analyst's node; its exports leave out whom the list suppresses."
            return (
                Consequence("export", "released", job.id, advice, datetime.fromisoformat(job.updated_at)),
            )
        return tuple(
            Consequence(
                "export",
                "released",
                f"{job.id}, export {number}",
                f"{row.format} of {row.people} ids for {row.principal}; made anew, it leaves the person out.",
                datetime.fromisoformat(row.at),
            )
            for number, row in enumerate(made, 1)
        )
