"""Faults at every step of an append: nothing acknowledged is lost, nothing half-written is seen."""

from __future__ import annotations

import errno
import multiprocessing
import threading
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

from consent.errors import HeadMoved
from consent.events import grant, withdraw
from consent.ledger import Ledger
from consent.rows import Head
from consent.sql import SqlStore
from consent.static import StaticLog, write_file
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import StorageError
from privacy.keys import KeyRing
from privacy.signing import SigningKey


class Broken(StorageError):
    """The fault that was injected."""


class FaultyStore:
    """A `LedgerStore` that keeps the contract but fails where it is told, before or after the commit."""

    def __init__(self, inner, when):
        self._inner, self._when = inner, when

    def __getattr__(self, name):
        return getattr(self._inner, name)

    @contextmanager
    def write(self):
        with self._inner.write() as tx:
            yield _FaultyTransaction(tx, self._when)
            if self._when == "before commit":
                raise Broken("injected")
        if self._when == "after commit":
            raise Broken("injected")


class _FaultyTransaction:
    def __init__(self, tx, when):
        self._tx, self._when = tx, when

    def __getattr__(self, name):
        found = getattr(self._tx, name)
        if not callable(found):
            return found

        def call(*args, **kwargs):
            if self._when == f"before {name}":
                raise Broken("injected")
            result = found(*args, **kwargs)
            if self._when == f"after {name}":
                raise Broken("injected")
            return result

        return call


STEPS = [
    "find_subjects",
    "add_subjects",
    "add_aliases",
    "add_sides",
    "put_standings",
    "put_tiles",
    "add_entries",
]
PLACES = [f"{side} {step}" for step in (*STEPS, "set_head", "add_outbox") for side in ("before", "after")]


def person(i):
    return [("email", b"p%d@example.org" % i)]


@pytest.mark.parametrize("when", [*PLACES, "before commit", "after commit"])
def test_a_fault_at_any_write_loses_nothing_acknowledged_and_shows_nothing_half_written(make_node, when):
    survives(make_node("shop"), when)


@pytest.mark.parametrize("when", ["before set_head", "after set_head", "before commit", "after commit"])
def test_a_fault_around_the_commit_is_survived_on_both_databases(node, when):
    survives(node, when)


def survives(node, when):
    ledger = node.open()
    other = SigningKey.from_seed(b"\x05" * 32).public
    from consent.notes import VerifierKey

    ledger.join_partner("bank", VerifierKey("bank.example/consent", other.bytes32).to_text())
    ledger.record([grant(person(i), "overlap.reach") for i in range(4)])
    acknowledged = ledger.head()
    ledger.log._store = FaultyStore(ledger.store, when)
    with pytest.raises(StorageError):
        ledger.record([grant(person(999), "overlap.reach"), withdraw(person(1))])
    again = node.open()
    written = when == "after commit"
    assert again.head().size == acknowledged.size + (2 if written else 0)
    assert again.check(b"p999@example.org", "email", "overlap.reach", "bank").allowed is written
    assert again.check(b"p1@example.org", "email", "overlap.reach", "bank").allowed is not written
    assert again.partner("bank").sent_seq == (1 if written else 0)
    assert verify_ledger(again).ok
    again.record([grant(person(1000), "overlap.reach")])
    assert verify_log(directory_reader(node.folder / "log"), again.key, known=acknowledged).ok


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_at_each_published_file_is_made_good_at_the_next_start(make_node, kind, after):
    node = make_node("shop")
    node.open()
    done = 0
    for fail_at in range(40):
        ledger = node.open()
        before = ledger.head()
        written = 0

        def faulty(path, data, limit=fail_at):
            nonlocal written
            written += 1
            if written > limit:
                if after:
                    write_file(path, data)
                raise OSError(kind, "injected")
            write_file(path, data)

        ledger.log.static = StaticLog(node.folder / "log", ledger.key, faulty)
        people = [grant(person(1000 * fail_at + i), "overlap.reach") for i in range(300)]
        try:
            ledger.record(people)
        except StorageError as error:
            assert "injected" not in str(error)
        else:
            done += 1
        # What the public sees meanwhile is whole: the old checkpoint, or the new one.
        assert verify_log(directory_reader(node.folder / "log"), ledger.key, known=before).ok
        again = node.open()
        assert again.head().size == before.size + 300
        assert verify_log(directory_reader(node.folder / "log"), again.key, known=before).ok
        if done:
            break
    assert fail_at >= 3 and done == 1
    assert not list((node.folder / "log").rglob(".*.tmp"))


def test_a_crash_between_commit_and_publication_is_finished_at_the_next_start(node):
    ledger = node.open()
    ledger.log._publish = lambda: (_ for _ in ()).throw(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        ledger.record([grant(person(1), "overlap.reach")])
    again = node.open()
    assert again.check(b"p1@example.org", "email", "overlap.reach", "bank").allowed
    assert verify_log(directory_reader(node.folder / "log"), again.key).size == again.head().size


def test_the_head_is_swapped_only_from_what_it_was(node):
    ledger = node.open()
    stale = None
    with ledger.store.read() as view:
        stale = view.head()
    ledger.record([grant(person(1), "overlap.reach")])
    with pytest.raises(HeadMoved), ledger.store.write() as tx:
        tx.set_head(stale, Head(stale.size + 1, b"\x01" * 32, stale.recorded_at))
    assert verify_ledger(ledger).ok


def test_threads_share_commits_and_nobody_waits_in_vain(node):
    ledger = node.open()
    start = ledger.head().size
    results, errors = [], []

    def work(thread):
        try:
            for i in range(5):
                results.append(ledger.record([grant(person(100 * thread + i), "overlap.reach")]))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert sorted(r.first_index for r in results) == list(range(start, start + 40))
    assert verify_ledger(ledger).ok


def test_one_callers_mistake_in_a_shared_batch_is_not_the_others(node):
    ledger = node.open()

    class Wrong:
        def stage(self, tx, first, now):
            from privacy.errors import BadInput

            raise BadInput("no")

    from consent.log import _Pending
    from consent.recording import DecisionWork

    batch = [
        _Pending(
            DecisionWork([grant(person(i), "overlap.reach")], ledger.vault, ledger.policy, ledger.random)
        )
        for i in range(3)
    ]
    batch.insert(1, _Pending(Wrong()))
    with ledger.log._turn:
        ledger.log._run(batch)
    assert [p.error is None for p in batch] == [True, False, True, True]
    assert verify_ledger(ledger).ok


def _append(url, folder, thread, count, out):
    engine = sa.create_engine(url)
    ledger = Ledger.open(
        engine,
        keyring=KeyRing.from_root(b"\x01" * 32),
        signing_key=SigningKey.from_seed(b"\x09" * 32),
        origin="shop.example/consent",
        directory=folder,
    )
    out.put(
        [ledger.record([grant(person(1000 * thread + i), "overlap.reach")]).first_index for i in range(count)]
    )
    engine.dispose()


def test_two_processes_cannot_fork_the_log(database_url, engine, node):
    """Two processes and this one append at the same time to one database and one directory."""
    node.key = SigningKey.from_seed(b"\x09" * 32)
    from datetime import UTC, datetime

    node.clock = lambda: datetime.now(UTC)
    ledger = node.open()
    start = ledger.head().size
    spawn = multiprocessing.get_context("spawn")
    out = spawn.Queue()
    others = [
        spawn.Process(target=_append, args=(database_url, node.folder / "log", t, 8, out)) for t in (1, 2)
    ]
    for process in others:
        process.start()
    try:
        mine = [ledger.record([grant(person(i), "overlap.reach")]).first_index for i in range(8)]
        theirs = [out.get(timeout=90) for _ in others]
    finally:
        for process in others:
            process.join(30)
            if process.is_alive():
                process.kill()
    indexes = sorted([*mine, *theirs[0], *theirs[1]])
    assert indexes == list(range(start, start + 24))
    assert verify_ledger(node.open()).ok
    assert verify_log(directory_reader(node.folder / "log"), ledger.key).size == start + 24


def test_another_process_finds_the_writers_subjects(node):
    first, second = node.open(), node.open()
    first.record([grant(person(1), "overlap.reach")])
    second.record([withdraw(person(1))])
    assert not first.check(b"p1@example.org", "email", "overlap.reach", "bank").allowed
    assert second.head().size == first.log.publish().size
    assert isinstance(first.store, SqlStore)
