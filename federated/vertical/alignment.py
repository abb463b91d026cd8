"""Aligned rows of a dataset, as the data gate reads them, and which alignments a run may use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.agreements import Agreement
from clean_room.datasets import Dataset, SourceState
from clean_room.jobs import Job
from consent.subjects import IDENTIFIER_PROFILE
from federated.errors import BadInput, Refused, TrainingMisuse
from privacy.identifiers import canonical_column

__all__ = ["AlignedRows", "require_fit"]


def require_fit(job: Job, agreement: Agreement, *, partner: str, purpose: str, key: str) -> None:
    """Return if a run for `purpose` under `agreement` may use the alignment of `job`.

    Raises Refused: `unknown_alignment` for one of another partner, collaboration or identifier;
    `alignment_purpose` for one that was not made for the run's purpose, because people were lined up who may
    have said no to it; `query_type_not_agreed` if the agreement does not allow alignments (any more).
    """
    query = job.query
    stated = (query.kind, job.partner, query.collaboration, query.key)
    if stated != ("align", partner, agreement.id, key):
        raise Refused(
            "That alignment is not of this partner, collaboration and identifier.", code="unknown_alignment"
        )
    if purpose not in (query.purpose, *query.also_for):
        raise Refused(
            "That alignment was made for another purpose.",
            code="alignment_purpose",
            advice="Align again, for the purpose of the run.",
        )
    allowed = agreement.terms.query_types
    if "align" not in allowed:
        raise Refused(
            "align queries are not agreed.",
            code="query_type_not_agreed",
            advice=f"Agreed: {', '.join(allowed)}.",
        )


@dataclass(frozen=True, slots=True, eq=False)
class AlignedRows:
    """Rows of `dataset` at `row_index` (int64, places in the file), in the order both partners share.

    `kind` says which identifier aligned them; consent is looked up by the same one. Places mean people only
    as long as the file stays as it was: every read raises BadInput(source_changed) unless the file is still
    in `state`, before and after.
    """

    dataset: Dataset
    row_index: npt.NDArray[np.int64] = field(repr=False)
    kind: str
    state: SourceState = field(repr=False)

    def __post_init__(self) -> None:
        index = self.row_index
        if index.ndim != 1 or (len(index) and index.min() < 0) or len(np.unique(index)) != len(index):
            raise TrainingMisuse("Aligned rows must be distinct places in the file.")

    @classmethod
    def since(
        cls, made_at: datetime, dataset: Dataset, row_index: npt.NDArray[np.int64], kind: str
    ) -> AlignedRows:
        """Rows as aligned by a job taken on at `made_at` (aware, this node's clock).

        The job read the file after that moment, so a file untouched since is the file it read. Raises
        BadInput(source_changed) for any other, also for one that was only moved or copied.
        """
        state = dataset.state()
        if state.changed_ns >= int(made_at.timestamp() * 1_000_000) * 1_000:
            raise _changed(dataset)
        return cls(dataset, row_index, kind, state)

    @property
    def rows(self) -> int:
        return len(self.row_index)

    def identifiers(self) -> pa.BinaryArray:
        """Identifiers as the consent ledger normalises them, one a row; null where the file has none."""
        with self._unchanged():
            keys = self.dataset.identifiers(self.kind, self.row_index)
        return canonical_column(self.kind, keys, IDENTIFIER_PROFILE, region=self.dataset.region).values

    def read(self, columns: tuple[str, ...], mask: npt.NDArray[np.bool_]) -> pa.Table:
        """The named columns of the rows where `mask` is true. Raises Misuse(column_not_allowed)."""
        with self._unchanged():
            return self.dataset.take(columns, self.row_index[mask])

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        if self.dataset.state() != self.state:
            raise _changed(self.dataset)
        yield
        if self.dataset.state() != self.state:
            raise _changed(self.dataset)


def _changed(dataset: Dataset) -> BadInput:
    return BadInput(
        f"The file of dataset {dataset.name} has changed since it was aligned.",
        code="source_changed",
        advice="Align again; keep the file as it is until the run is over.",
    )
