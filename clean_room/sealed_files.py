"""Files sealed with this node's key ring, each bound to its name.

Written whole or not at all (temporary file, fsync, rename, fsync of the folder), opened only with the key
ring that sealed them and under the name they were sealed as.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from privacy.errors import Misuse
from privacy.keys import KeyRing

__all__ = ["SealedFiles", "SealedFolder"]

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,99}")
_JOB = re.compile(r"[0-9a-f]{1,64}")


class SealedFolder:
    """The files `NAME.suffix` of a folder; `label` says what they are, and is sealed along."""

    def __init__(
        self, folder: Path, keyring: KeyRing, label: str, suffix: str, *, names: re.Pattern[str] = _NAME
    ) -> None:
        self._folder = folder
        self._keyring = keyring
        self._label = label
        self._suffix = suffix
        self._pattern = names

    def save(self, name: str, content: bytes) -> None:
        """Seal and write; returns once the file is on disk under its final name."""
        final = self._path(name)
        sealed = self._keyring.seal(content, self._aad(name))
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        unfinished = final.with_suffix(".partial")
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(final)
        finally:
            unfinished.unlink(missing_ok=True)
        entry = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)

    def load(self, name: str) -> bytes | None:
        """The content, or None where there is no such file. Raises `Tampered`."""
        try:
            sealed = self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        return self._keyring.open(sealed, self._aad(name))

    def discard(self, name: str) -> None:
        """Remove what is there under a name, finished or not."""
        for path in (self._path(name), self._path(name).with_suffix(".partial")):
            path.unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Names that have a file."""
        found = (path.name.removesuffix(self._suffix) for path in self._folder.glob(f"*{self._suffix}"))
        return sorted(name for name in found if self._pattern.fullmatch(name))

    def _path(self, name: str) -> Path:
        if not self._pattern.fullmatch(name):
            raise Misuse("that is not the name of a job or of a part of one.", code="unknown_job")
        return self._folder / f"{name}{self._suffix}"

    def _aad(self, name: str) -> bytes:
        return f"clean-room/{self._label}/{name}".encode()


class SealedFiles(SealedFolder):
    """Files of one kind, one a job: `JOB.kind`."""

    def __init__(self, folder: Path, keyring: KeyRing, kind: str) -> None:
        super().__init__(folder, keyring, kind, f".{kind}", names=_JOB)

    def jobs(self) -> list[str]:
        """Jobs that have a file."""
        return self.names()
