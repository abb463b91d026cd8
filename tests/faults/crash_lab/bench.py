"""The ledger that is crashed, what is appended to it, and the judge of what is left."""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from consent.checkpoint import Checkpoint
from consent.events import Event, grant, withdraw
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.sql import metadata
from consent.static import StaticLog, write_file
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import StorageError
from privacy.keys import KeyRing
from privacy.signing import SigningKey

__all__ = ["Bench", "Pipe", "Seen"]

_RING = KeyRing.from_root(b"\x01" * 32)
_KEY = SigningKey.from_seed(b"\x09" * 32)
_VKEY = VerifierKey("shop.example/consent", _KEY.public.bytes32)
_PARTNER = VerifierKey("bank.example/consent", SigningKey.from_seed(b"\x05" * 32).public.bytes32).to_text()
_BEFORE = 252  # entries there are already, so that the appends fill the first tile
_STARTED = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)


class _Engines:
    """One engine for every SQLite file, so that statements are compiled once, also for forked children."""

    def __init__(self) -> None:
        self._path = ""
        self._sqlite = sa.create_engine("sqlite:///", creator=self._connect, poolclass=sa.QueuePool)

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, check_same_thread=False)

    def __call__(self, url: str) -> sa.Engine:
        if not url.startswith("sqlite:///"):
            return sa.create_engine(url)
        self._sqlite.dispose()
        self._path = url.removeprefix("sqlite:///")
        return self._sqlite


_engine = _Engines()


class Pipe:
    """How a child says, unseen by the tracer, what has been acknowledged to it; and two flags they share."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._words: list[str] = []
        self._flags = mmap.mmap(-1, 2)

    def say(self, word: str) -> None:
        os.write(self._write, word.encode() + b"\n")

    def heard(self) -> list[str]:
        """Everything said so far."""
        with contextlib.suppress(BlockingIOError):
            self._words += os.read(self._read, 1 << 16).decode().split()
        return list(self._words)

    @property
    def hit(self) -> bool:
        """Whether a fault was injected."""
        return self._flags[0] == 1

    @hit.setter
    def hit(self, on: bool) -> None:
        self._flags[0] = on

    @property
    def lifted(self) -> bool:
        """Whether the child asks that no more be."""
        return self._flags[1] == 1

    @lifted.setter
    def lifted(self, on: bool) -> None:
        self._flags[1] = on

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)
        self._flags.close()


@dataclass(frozen=True)
class Seen:
    """What was there, and known outside, before the appends."""

    size: int
    told: int
    checkpoint: Checkpoint


def _person(name: str) -> list[tuple[str, bytes]]:
    return [("email", f"{name}@example.org".encode())]


def _batch(name: str) -> list[Event]:
    """Seven entries: people known and new, grants, and two withdrawals that the partner is to be told."""
    new = [grant(_person(f"{name}-{i}"), "overlap.reach") for i in range(4)]
    out = [withdraw(_person(f"{name}-0")), withdraw(_person(f"{name}-1"), "overlap.reach")]
    return [*new, *out, grant(_person("old1"), "overlap.measure")]


_ENTRIES, _TOLD = 7, 2
_TRACES = {0: (False, 2), 1: (False, 2), 3: (True, 1)}  # person of the batch → allowed, number of events


def _there(ledger: Ledger, name: str) -> bool | None:
    """Whether batch `name` is recorded; None when only a part of it is."""
    found = {}
    for i in _TRACES:
        ((kind, canonical),) = _person(f"{name}-{i}")
        allowed = ledger.check(canonical, kind, "overlap.reach", "bank").allowed
        found[i] = (allowed, len(ledger.history(canonical, kind)))
    if found == _TRACES:
        return True
    return False if set(found.values()) == {(False, 0)} else None


Step = Callable[[str], None]


def _watch(engine: sa.Engine, ledger: Ledger, step: Step) -> None:
    def write(path: Path, data: bytes) -> None:
        step("file")
        write_file(path, data)

    assert ledger.log.static is not None
    ledger.log.static = StaticLog(ledger.log.static.directory, ledger.key, write)
    sa.event.listen(engine, "before_cursor_execute", lambda *_: step("statement"))
    sa.event.listen(engine, "after_cursor_execute", lambda *_: step("after"))
    sa.event.listen(engine, "commit", lambda _: step("commit"))


class Bench:
    """One ledger in `folder`, on SQLite in the same folder or on the database `url`."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder / 'comity.db'}"
        self._ticks = 0

    def _clock(self) -> datetime:
        self._ticks += 1
        return _STARTED + timedelta(seconds=self._ticks)

    def _open(self) -> tuple[sa.Engine, Ledger]:
        engine = _engine(self.url)
        ledger = Ledger.open(
            engine, keyring=_RING, signing_key=_KEY, origin=_VKEY.name, directory=self.folder / "log",
            clock=self._clock,
        )  # fmt: skip
        return engine, ledger

    def begin(self) -> None:
        self.folder.mkdir(exist_ok=True)
        engine = _engine(self.url)
        metadata.create_all(engine)
        engine.dispose()
        engine, ledger = self._open()
        ledger.join_partner("bank", _PARTNER)
        missing = _BEFORE - ledger.head().size
        ledger.record([grant(_person(f"old{i % 5}"), "overlap.reach") for i in range(missing)])
        engine.dispose()

    def look(self) -> Seen:
        engine, ledger = self._open()
        seen = Seen(ledger.head().size, ledger.partner("bank").sent_seq, ledger.head())
        engine.dispose()
        return seen

    def appends(
        self, pipe: Pipe, names: Sequence[str], *, failing: bool = False, step: Step | None = None
    ) -> Callable[[], None]:
        """Open now; what is returned appends the batches, says which were acknowledged, and closes.

        With `failing`, a StorageError is what is expected, and after it the same process goes on. `step` is
        called before each statement, commit and file, in this process.
        """
        engine, ledger = self._open()
        if step is not None:
            _watch(engine, ledger, step)

        def attempt(name: str) -> None:
            try:
                ledger.record(_batch(name))
            except StorageError as error:
                if not failing:
                    raise
                pipe.say(f"{name}-refused:{error.detail.replace(' ', '_')}")
            except Exception as error:
                if not failing:
                    raise
                pipe.say(f"error:{type(error).__name__}")
            else:
                pipe.say(name)

        def run() -> None:
            for name in names:
                attempt(name)
            if failing:
                pipe.lifted = True
                attempt("last")
            engine.dispose()

        return run

    def judge(self, seen: Seen, acknowledged: Sequence[str], names: Sequence[str]) -> list[str]:
        """Everything wrong with what is left, having opened and published it: nothing, one hopes."""
        wrong = []
        reader = directory_reader(self.folder / "log")
        outside = verify_log(reader, _VKEY, known=seen.checkpoint)
        if not outside.ok:
            wrong.append(f"others see before it is opened again: {outside.outcome}: {outside.detail}")
        try:
            engine, ledger = self._open()
        except Exception as error:
            return [*wrong, f"it does not open: {type(error).__name__}: {error}"]
        try:
            wrong += self._judged(ledger, seen, acknowledged, names)
            ledger.record(_batch(f"after{ledger.head().size}"))
            for report in (verify_ledger(ledger), verify_log(reader, _VKEY, known=outside.checkpoint)):
                if not report.ok:
                    wrong.append(f"{report.outcome}: {report.detail}")
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        finally:
            engine.dispose()
        return wrong

    def _judged(
        self, ledger: Ledger, seen: Seen, acknowledged: Sequence[str], names: Sequence[str]
    ) -> list[str]:
        wrong = []
        there = {name: _there(ledger, name) for name in names}
        for name, found in there.items():
            if found is None:
                wrong.append(f"batch {name} is there in part")
            elif not found and name in acknowledged:
                wrong.append(f"batch {name} was acknowledged and is lost")
        batches = sum(map(bool, there.values()))
        if ledger.head().size != seen.size + _ENTRIES * batches:
            wrong.append(f"the log has {ledger.head().size} entries, not {seen.size + _ENTRIES * batches}")
        if ledger.partner("bank").sent_seq != seen.told + _TOLD * batches:
            wrong.append("what is queued for the partner is not what was recorded")
        return wrong
