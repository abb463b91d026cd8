"""What this node holds of epochs between their runs: one sealed file for each question that has one.

    NAME.epoch.sealed   which epoch, its next generation, until when, and a state of `protocols.epoch_states`
    NAME.taken.sealed   a generation that a job has begun or begun to answer, in place of the state it took

A question is a query under one version of an agreement, asked of or by one partner, on one side of it. A
generation is taken before the first byte of its answer leaves, and comes back as the next one when the run
is signed; a run that fails in between leaves nothing, and the next one is cold. Whoever is erased ends every
epoch at once; the state of an epoch that is over, or whose agreement is, is removed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from clean_room.jobs import Query, Role
from clean_room.protocols.lifetimes import EpochOver
from clean_room.rules import Asked
from clean_room.sealed_files import SealedFolder
from consent.encoding import canonical_json, parse_json
from privacy.errors import BadInput, Tampered
from privacy.keys import KeyRing

__all__ = ["EpochBook", "Held", "Question"]

_MOST = 32
_LARGEST = 1 << 30
_HEAD = 4


@dataclass(frozen=True, slots=True)
class Question:
    """What an epoch is of. `partner` is the other side's public key, as text."""

    role: Role
    partner: str
    query: Query
    agreement: str
    days: int

    @classmethod
    def of(cls, asked: Asked, role: Role, partner: str) -> Question:
        """The question as one side keeps it."""
        agreement = asked.agreement
        return cls(role, partner, asked.query, agreement.hash, agreement.terms.epoch_days)

    @property
    def name(self) -> str:
        """Of its files."""
        said = [self.role.value, self.partner, self.query.document(), self.agreement]
        return hashlib.sha256(canonical_json(said)).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class Held:
    """An epoch (the job that began it) at the generation that comes next, and the state for it."""

    epoch: str
    generation: int
    until: str
    agreement: str
    state: bytes = field(repr=False)

    def to_bytes(self) -> bytes:
        """For a sealed file."""
        head = canonical_json(
            {
                "epoch": self.epoch,
                "generation": self.generation,
                "until": self.until,
                "agreement": self.agreement,
            }
        )
        return len(head).to_bytes(_HEAD, "big") + head + self.state

    @classmethod
    def from_bytes(cls, data: bytes) -> Held:
        """Tampered for anything else."""
        at = _HEAD + int.from_bytes(data[:_HEAD], "big")
        try:
            head: Any = parse_json(data[_HEAD:at], limit=1 << 16)
            return cls(head["epoch"], head["generation"], head["until"], head["agreement"], data[at:])
        except (BadInput, KeyError, TypeError):
            raise Tampered("what is held of an epoch cannot be read.") from None


class EpochBook:
    """The epochs of one node, in `folder`. Thread-safe; one instance a folder."""

    def __init__(self, folder: Path, keyring: KeyRing, *, clock: Callable[[], datetime]) -> None:
        self._folder = folder
        self._files = SealedFolder(folder, keyring, "epoch", ".sealed")
        self._clock = clock
        self._lock = threading.Lock()

    def held(self, question: Question) -> Held | None:
        """What this node could go on with, if it holds anything that is not over."""
        with self._lock:
            return self._held(question)

    def going_on(self, question: Question, epoch: str, generation: int) -> bytes:
        """The state for this very generation. Raises EpochOver if this node does not hold it."""
        held = self.held(question)
        if held is None or (held.epoch, held.generation) != (epoch, generation):
            raise EpochOver("this node does not hold that epoch any more.")
        return held.state

    def begin(self, question: Question, job: str) -> bytes:
        """A first run begins, in place of what was held: only its job's state is kept. Returns b""."""
        with self._lock:
            self._drop(question.name)
            self._make_room()
            until = (self._clock() + timedelta(days=question.days)).isoformat()
            marker = {
                "epoch": job, "generation": 0, "job": job, "until": until, "agreement": question.agreement,
            }  # fmt: skip
            self._files.save(f"{question.name}.taken", canonical_json(marker))
        return b""

    def drop(self, question: Question) -> None:
        """Give up what is held."""
        with self._lock:
            self._drop(question.name)

    def take(self, question: Question, epoch: str, generation: int, job: str) -> None:
        """A job's answer is about to leave: nothing else goes on from this generation. Idempotent a job.

        Raises EpochOver if it has been taken already.
        """
        with self._lock:
            self._take(question, epoch, generation, job)

    def keep(self, question: Question, epoch: str, generation: int, job: str, state: bytes) -> None:
        """A run of an epoch is signed: hold what it left for generation + 1. Idempotent.

        Holds nothing if the epoch was ended meanwhile, or another has begun.
        """
        with self._lock:
            name = question.name
            held = self._held(question)
            if held is not None and (held.epoch, held.generation) == (epoch, generation + 1):
                return
            try:
                until = self._take(question, epoch, generation, job)
            except EpochOver:
                return
            if len(state) > _LARGEST:
                self._drop(name)
                return
            after = Held(epoch, generation + 1, until, question.agreement, state)
            self._files.save(f"{name}.epoch", after.to_bytes())
            self._files.discard(f"{name}.taken")

    def forget(self) -> None:
        """Somebody is erased: every epoch ends."""
        with self._lock:
            for name in self._names():
                self._drop(name)

    def sweep(self, agreements: Callable[[], set[str]] | None = None) -> None:
        """Remove what is over; with `agreements`, also what is under none of them (hashes)."""
        with self._lock:
            names = self._names()
            current = agreements() if agreements is not None and names else None
            for name in names:
                held = self._load(name)
                marker = self._marker(name)
                until = held.until if held is not None else (marker or {}).get("until", "")
                agreement = held.agreement if held is not None else (marker or {}).get("agreement", "")
                if until <= self._clock().isoformat() or (current is not None and agreement not in current):
                    self._drop(name)

    # ── inside, under the lock ──────────────────────────────────────────────────────────────────────────

    def _held(self, question: Question) -> Held | None:
        name = question.name
        if self._marker(name) is not None:
            return None
        held = self._load(name)
        if held is not None and datetime.fromisoformat(held.until) <= self._clock():
            self._drop(name)
            return None
        return held

    def _take(self, question: Question, epoch: str, generation: int, job: str) -> str:
        """Until when the epoch lasts."""
        name, wanted = question.name, (epoch, generation)
        marker = self._marker(name)
        if marker is None:
            held = self._load(name)
            if held is None or (held.epoch, held.generation) != wanted:
                raise EpochOver("this node does not hold that epoch any more.")
            marker = {
                "epoch": epoch, "generation": generation, "job": job, "until": held.until,
                "agreement": held.agreement,
            }  # fmt: skip
            self._files.save(f"{name}.taken", canonical_json(marker))
        if (marker["epoch"], marker["generation"]) != wanted or marker["job"] != job:
            raise EpochOver("another query has gone on with that epoch.")
        self._files.discard(f"{name}.epoch")
        return str(marker["until"])

    def _load(self, name: str) -> Held | None:
        try:
            content = self._files.load(f"{name}.epoch")
            return None if content is None else Held.from_bytes(content)
        except Tampered:
            self._files.discard(f"{name}.epoch")
            return None

    def _marker(self, name: str) -> dict[str, Any] | None:
        content = self._files.load(f"{name}.taken")
        found = None if content is None else parse_json(content, limit=1 << 16)
        return found if isinstance(found, dict) else None

    def _names(self) -> list[str]:
        return sorted({name.partition(".")[0] for name in self._files.names()})

    def _drop(self, name: str) -> None:
        for part in ("epoch", "taken"):
            self._files.discard(f"{name}.{part}")

    def _make_room(self) -> None:
        """The epochs that were not gone on with for longest make room."""
        paths = sorted(self._folder.glob("*.sealed"), key=lambda path: path.stat().st_mtime)
        names = list(dict.fromkeys(path.name.partition(".")[0] for path in paths))
        for name in names[: max(0, len(names) + 1 - _MOST)]:
            self._drop(name)
