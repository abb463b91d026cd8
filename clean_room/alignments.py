"""What an `align` job leaves on each side: own row numbers in the shared order, sealed on disk."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clean_room.sealed_files import SealedFiles
from privacy.errors import Misuse
from privacy.keys import KeyRing

__all__ = ["Alignment", "AlignmentStore"]

_JOB = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, slots=True)
class Alignment:
    """Shared rows of one align job.

    `row_index` int64 (n,): places in the file of `dataset`; `ids` uint8 (n, 16): the shared random row ids.
    Entry i is the same person on both sides.
    """

    job: str
    dataset: str
    row_index: npt.NDArray[np.int64] = field(repr=False)
    ids: npt.NDArray[np.uint8] = field(repr=False)

    def __len__(self) -> int:
        return len(self.row_index)


class AlignmentStore:
    """Sealed alignment files in one folder, named by job."""

    def __init__(self, folder: Path, keyring: KeyRing) -> None:
        self._files = SealedFiles(folder, keyring, "alignment")

    def save(self, alignment: Alignment) -> None:
        """Seal and write; returns once the file is on disk under its final name."""
        packed = io.BytesIO()
        np.savez(
            packed, dataset=np.array(alignment.dataset), row_index=alignment.row_index, ids=alignment.ids
        )
        self._files.save(alignment.job, packed.getvalue())

    def load(self, job: str) -> Alignment:
        """Raises `Misuse(unknown_alignment)` or `Tampered`."""
        content = self._files.load(job) if _JOB.fullmatch(job) else None
        if content is None:
            raise Misuse("there is no alignment of that job.", code="unknown_alignment")
        with np.load(io.BytesIO(content), allow_pickle=False) as packed:
            return Alignment(job, str(packed["dataset"]), packed["row_index"], packed["ids"])

    def discard(self, job: str) -> None:
        """Remove what is there of a job, finished or not."""
        self._files.discard(job)
