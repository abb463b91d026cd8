"""What an `align` job leaves on each side: own row numbers in the shared order, sealed on disk.

Written whole or not at all (temporary file, fsync, rename), opened only with this node's key ring.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
        self._folder = folder
        self._keyring = keyring

    def save(self, alignment: Alignment) -> None:
        """Seal and write; returns once the file is on disk under its final name."""
        packed = io.BytesIO()
        np.savez(
            packed, dataset=np.array(alignment.dataset), row_index=alignment.row_index, ids=alignment.ids
        )
        sealed = self._keyring.seal(packed.getvalue(), self._aad(alignment.job))
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        final = self._path(alignment.job)
        unfinished = final.with_suffix(".partial")
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, job: str) -> Alignment:
        """Raises `Misuse(unknown_alignment)` or `Tampered`."""
        try:
            sealed = self._path(job).read_bytes()
        except FileNotFoundError:
            raise Misuse("there is no alignment of that job.", code="unknown_alignment") from None
        with np.load(io.BytesIO(self._keyring.open(sealed, self._aad(job))), allow_pickle=False) as packed:
            return Alignment(job, str(packed["dataset"]), packed["row_index"], packed["ids"])

    def discard(self, job: str) -> None:
        """Remove what is there of a job, finished or not."""
        for path in (self._path(job), self._path(job).with_suffix(".partial")):
            path.unlink(missing_ok=True)

    def _path(self, job: str) -> Path:
        if not _JOB.fullmatch(job):
            raise Misuse("that is not a job id.", code="unknown_alignment")
        return self._folder / f"{job}.alignment"

    def _aad(self, job: str) -> bytes:
        return f"clean-room/alignment/{job}".encode()
