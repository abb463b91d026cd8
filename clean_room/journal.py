"""What a job needs to go on after a crash: a sealed journal for each, removed when the job ends.

A conversation (`clean_room.conversations`) is replayed from its beginning. What it must find as it was, its
input, its seed, drawn noise, keys, ciphertexts, and what came from the partner, is in the journal; the rest
follows from that. So a replay sends the same bytes again and draws no noise a second time.

    JOB/NAME.sealed      what belongs to the job as a whole
    JOB/1/NAME.sealed    what belongs to its first attempt: a job is begun anew, as its second attempt, when
                         consents change before anything that depends on the data has left
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from clean_room.errors import IllegalStep
from clean_room.group.points import Random
from clean_room.sealed_files import SealedFolder
from consent.encoding import canonical_json, parse_json
from privacy.errors import Misuse, Tampered
from privacy.keys import KeyRing

__all__ = ["Journal", "Journals", "keystream"]

_JOB = re.compile(r"[0-9a-f]{1,64}")
_SEED = 32
_LONGEST = 1 << 24


def keystream(seed: bytes) -> Random:
    """Bytes that follow from a 32-byte seed (ChaCha20, RFC 8439), to take the place of the system's."""
    stream = Cipher(algorithms.ChaCha20(seed, bytes(16)), mode=None).encryptor()
    return lambda n: stream.update(bytes(n))


class Journal:
    """One job's journal, or one attempt's part of it. A `Keep`; thread-safe.

    What `save` and `keep` return from is on disk. After `discard` nothing can be written any more: work
    that is still under way for a job that has ended cannot leave anything behind.
    """

    def __init__(self, folder: Path, keyring: KeyRing, label: str, *, within: Journal | None = None) -> None:
        self._folder = folder
        self._keyring = keyring
        self._label = label
        self._files = SealedFolder(folder, keyring, label, ".sealed")
        self._within = within
        self._lock: threading.RLock = threading.RLock() if within is None else within._lock
        self._discarded = False

    def __call__(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What was kept under `name`; if nothing was, what `make` returns, kept before this returns."""
        kept = self.load(name)
        if kept is None:
            kept = make()
            self.save(name, kept)
        return kept

    def save(self, name: str, content: bytes) -> None:
        """Keep `content` under `name`, in place of what was there. IllegalStep after `discard`."""
        with self._lock:
            if self._over:
                raise IllegalStep("this job's journal is closed.")
            self._files.save(name, content)

    def load(self, name: str) -> bytes | None:
        """What is kept under `name`, or None. Raises `Tampered`."""
        return self._files.load(name)

    def note(self, name: str, document: Mapping[str, Any]) -> None:
        """Keep a JSON document under `name`."""
        self.save(name, canonical_json(dict(document)))

    def noted(self, name: str) -> dict[str, Any] | None:
        """The document under `name`, or None. Raises `Tampered`."""
        content = self.load(name)
        if content is None:
            return None
        document = parse_json(content, limit=_LONGEST)
        if not isinstance(document, dict):
            raise Tampered("a document of this job's journal is none.")
        return document

    def random(self, source: Random) -> Random:
        """The randomness of this journal's conversation, from its beginning: the same at every call."""
        return keystream(self("seed", lambda: source(_SEED)))

    def part(self, number: int) -> Journal:
        """The part of attempt `number`."""
        return Journal(
            self._folder / str(number), self._keyring, f"{self._label}/{number}", within=self._whole
        )

    def discard(self) -> None:
        """Remove everything of this journal (of this part, if it is one), for good. Idempotent."""
        with self._lock:
            self._discarded = True
            shutil.rmtree(self._folder, ignore_errors=True)

    def empty(self, *, but: str) -> None:
        """Remove everything except what is kept under the name `but`; parts are closed."""
        with self._lock:
            for entry in list(self._folder.iterdir()) if self._folder.is_dir() else []:
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.name != f"{but}.sealed":
                    entry.unlink(missing_ok=True)
            self._discarded = True

    @property
    def _whole(self) -> Journal:
        return self if self._within is None else self._within

    @property
    def _over(self) -> bool:
        return self._discarded or self._whole._discarded


class Journals:
    """The journals of a node's jobs, in one folder."""

    def __init__(self, folder: Path, keyring: KeyRing) -> None:
        self._folder = folder
        self._keyring = keyring

    def of(self, job: str) -> Journal:
        """The journal of a job, which may be empty."""
        if not _JOB.fullmatch(job):
            raise Misuse("that is not a job id.", code="unknown_job")
        return Journal(self._folder / job, self._keyring, f"journal/{job}")

    def jobs(self) -> list[str]:
        """Jobs that have a journal."""
        if not self._folder.is_dir():
            return []
        return sorted(path.name for path in self._folder.iterdir() if _JOB.fullmatch(path.name))
