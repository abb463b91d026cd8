"""Several threads, processes and machines append at once: one log comes of it, or a writer is refused."""

from __future__ import annotations

import multiprocessing
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from consent.errors import HeadMoved
from consent.events import grant, withdraw
from consent.ledger import Ledger
from consent.sql import SqlStore, metadata
from consent.verify import directory_reader, verify_ledger, verify_log
from privacy.errors import StorageError, Tampered
from privacy.keys import KeyRing
from privacy.signing import SigningKey


def person(name):
    return [("email", f"{name}@example.org".encode())]


def _in_process(url, folder, name, count, out):
    engine = sa.create_engine(url)
    ledger = Ledger.open(
        engine,
        keyring=KeyRing.from_root(b"\x01" * 32),
        signing_key=SigningKey.from_seed(b"\x09" * 32),
        origin="shop.example/consent",
        directory=folder,
    )
    done = []
    for i in range(count):
        # All of them write about the same person, too: state and aliases are contended.
        done.append(ledger.record([grant(person(f"{name}{i}"), "overlap.reach"), withdraw(person("shared"))]))
    out.put([recorded.first_index for recorded in done])
    engine.dispose()


def test_processes_that_append_at_once_write_one_log(database_url, node, counted):
    node.clock = lambda: datetime.now(UTC)
    ledger = node.open()
    start = ledger.head().size
    spawn = multiprocessing.get_context("spawn")
    out = spawn.Queue()
    processes = [
        spawn.Process(target=_in_process, args=(database_url, node.log, f"p{n}-", 12, out)) for n in range(2)
    ]
    for process in processes:
        process.start()
    try:
        mine = [
            ledger.record([grant(person(f"m{i}"), "overlap.reach"), withdraw(person("shared"))]).first_index
            for i in range(12)
        ]
        theirs = [out.get(timeout=120) for _ in processes]
    finally:
        for process in processes:
            process.join(30)
            if process.is_alive():
                process.kill()
                process.join()
    indexes = sorted(sum(theirs, mine))
    assert indexes == list(range(start, start + 72, 2))
    assert len(ledger.history(person("shared")[0][1], "email")) == 36
    assert verify_ledger(node.open()).ok
    assert verify_log(directory_reader(node.log), ledger.key).size == start + 72
    counted("processes appending at once, on one database and one directory", 3)


def test_threads_of_two_ledgers_append_at_once_and_each_batch_is_whole(node, counted):
    ledgers = [node.open(), node.open()]
    start = ledgers[0].head().size
    done, wrong = [], []

    def work(thread):
        try:
            for i in range(6):
                name = f"t{thread}-{i}"
                recorded = ledgers[thread % 2].record(
                    [grant(person(name), "overlap.reach"), grant(person(name), "overlap.measure")]
                )
                done.append(recorded.first_index)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert sorted(done) == list(range(start, start + 144, 2))
    assert verify_ledger(ledgers[0]).ok and ledgers[0].head().size == start + 144
    counted("threads appending at once through two ledgers on one database", len(threads))


class Unlocked(SqlStore):
    """A store whose lock is gone: the transaction reads the head as if nobody else were there."""

    def __init__(self, engine, meanwhile):
        super().__init__(engine)
        self._meanwhile = meanwhile

    @contextmanager
    def write(self):
        with self.read() as view:
            stale = view.head()
        if self._meanwhile is not None:
            do, self._meanwhile = self._meanwhile, None
            do()
        with super().write() as tx:
            tx.head = lambda: stale
            yield tx


@pytest.mark.parametrize("size", [3, 256, 300])
def test_without_the_lock_the_head_is_swapped_only_from_what_was_read(node, size, counted):
    first, second = node.open(), node.open()
    first.record([grant(person(f"p{i % 7}"), "overlap.reach") for i in range(size - first.head().size)])
    second.log._store = Unlocked(node.engine, lambda: first.record([grant(person("first"), "overlap.reach")]))
    with pytest.raises(StorageError):  # HeadMoved, or the index that is taken: either way nothing is written
        second.record([grant(person("second"), "overlap.reach")])
    assert first.head().size == size + 1
    assert not second.check(person("second")[0][1], "email", "overlap.reach", "bank").allowed
    second.record([grant(person("second"), "overlap.reach")])
    assert verify_ledger(node.open()).ok
    assert verify_log(directory_reader(node.log), first.key).size == size + 2
    counted("a second writer while the lock is out of order (the head's compare-and-swap)", 3)


def test_the_swap_alone_refuses_even_where_no_index_collides(node):
    ledger = node.open()
    with ledger.store.read() as view:
        stale = view.head()
    ledger.record([grant(person("a"), "overlap.reach")])
    for moved in (stale, type(stale)(stale.size + 1, stale.root, stale.recorded_at)):
        with pytest.raises(HeadMoved), ledger.store.write() as tx:
            tx.set_head(moved, type(stale)(stale.size + 5, b"\x01" * 32, stale.recorded_at))
    assert verify_ledger(ledger).ok


def test_two_machines_with_a_database_each_cannot_share_a_directory(make_node, tmp_path, clock):
    """Two copies of a node, each with its own database: whoever publishes second is refused."""
    node = make_node()
    node.open().record([grant(person("a"), "overlap.reach")])
    with node.engine.connect() as c:
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    other = tmp_path / "copy.db"
    other.write_bytes((node.folder / "comity.db").read_bytes())
    first = node.open()
    engine = sa.create_engine(f"sqlite:///{other}")
    metadata.create_all(engine)
    node.engine, copy = engine, node.engine
    second = node.open()
    first.record([grant(person("b"), "overlap.reach")])
    with pytest.raises(Tampered):
        second.record([grant(person("c"), "overlap.reach"), grant(person("d"), "overlap.reach")])
    with pytest.raises(Tampered):
        node.open()
    engine.dispose()
    node.engine = copy
    assert verify_log(directory_reader(node.log), first.key).ok and verify_ledger(node.open()).ok
