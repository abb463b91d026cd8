"""Files of one kind, one a job, sealed with this node's key ring.

Written whole or not at all (temporary file, fsync, rename), opened only with the key ring that sealed them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from privacy.errors import Misuse
from privacy.keys import KeyRing

__all__ = ["SealedFiles"]

_JOB = re.compile(r"[0-9a-f]{1,64}")


class SealedFiles:
    """The files `JOB.kind` of a folder."""

    def __init__(self, folder: Path, keyring: KeyRing, kind: str) -> None:
        self._folder = folder
        self._keyring = keyring
        self._kind = kind

    def save(self, job: str, content: bytes) -> None:
        """Seal and write; returns once the file is on disk under its final name."""
        sealed = self._keyring.seal(content, self._aad(job))
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        final = self._path(job)
        unfinished = final.with_suffix(".partial")
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)

    def load(self, job: str) -> bytes | None:
        """The content, or None where there is no such file. Raises `Tampered`."""
        try:
            sealed = self._path(job).read_bytes()
        except FileNotFoundError:
            return None
        return self._keyring.open(sealed, self._aad(job))

    def discard(self, job: str) -> None:
        """Remove what is there of a job, finished or not."""
        for path in (self._path(job), self._path(job).with_suffix(".partial")):
            path.unlink(missing_ok=True)

    def jobs(self) -> list[str]:
        """Jobs that have a file."""
        return sorted(path.stem for path in self._folder.glob(f"*.{self._kind}") if _JOB.fullmatch(path.stem))

    def _path(self, job: str) -> Path:
        if not _JOB.fullmatch(job):
            raise Misuse("that is not a job id.", code="unknown_job")
        return self._folder / f"{job}.{self._kind}"

    def _aad(self, job: str) -> bytes:
        return f"clean-room/{self._kind}/{job}".encode()
