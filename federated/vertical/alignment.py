"""Aligned rows of a dataset, as the data gate reads them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from clean_room.datasets import Dataset
from consent.subjects import IDENTIFIER_PROFILE
from federated.errors import TrainingMisuse
from privacy.identifiers import canonical_column

__all__ = ["AlignedRows"]


@dataclass(frozen=True, slots=True, eq=False)
class AlignedRows:
    """Rows of `dataset` at `row_index` (int64, places in the file), in the order both partners share.

    `kind` says which identifier aligned them; consent is looked up by the same one.
    """

    dataset: Dataset
    row_index: npt.NDArray[np.int64] = field(repr=False)
    kind: str

    def __post_init__(self) -> None:
        index = self.row_index
        if index.ndim != 1 or (len(index) and index.min() < 0) or len(np.unique(index)) != len(index):
            raise TrainingMisuse("Aligned rows must be distinct places in the file.")

    @property
    def rows(self) -> int:
        return len(self.row_index)

    def identifiers(self) -> pa.BinaryArray:
        """Identifiers as the consent ledger normalises them, one a row; null where the file has none."""
        keys = self.dataset.extract(self.kind).keys
        if len(self.row_index) and int(self.row_index.max()) >= len(keys):
            raise TrainingMisuse(
                "The dataset has become shorter since it was aligned.", code="source_changed"
            )
        taken = keys.take(pa.array(self.row_index))
        return canonical_column(self.kind, taken, IDENTIFIER_PROFILE, region=self.dataset.region).values

    def read(self, columns: tuple[str, ...], mask: npt.NDArray[np.bool_]) -> pa.Table:
        """The named columns of the rows where `mask` is true. Raises Misuse(column_not_allowed)."""
        return self.dataset.take(columns, self.row_index[mask])
