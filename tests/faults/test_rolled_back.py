"""Backups put back: the database's, the published files', one checkpoint. Restoring is another matter."""

from __future__ import annotations

import shutil

import pytest
import sqlalchemy as sa

from consent.errors import RolledBack
from consent.events import grant, withdraw
from consent.verify import Outcome, directory_reader, verify_ledger, verify_log
from privacy.errors import Tampered

STATES = 4


def person(i):
    return [("email", b"p%d@example.org" % i)]


@pytest.fixture
def history(make_node, tmp_path):
    """A node, and copies of its database and its files after each of several batches."""
    node = make_node()
    kept = []
    for i in range(STATES):
        ledger = node.open()
        ledger.record([grant(person(100 * i + j), "overlap.reach") for j in range(90)])
        ledger.record([withdraw(person(100 * i))])
        with node.engine.connect() as c:
            c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        folder = tmp_path / f"state{i}"
        shutil.copytree(node.log, folder / "log")
        shutil.copy(node.folder / "comity.db", folder / "comity.db")
        kept.append((ledger.head(), folder))
    return node, kept


def put_back(node, *, database=None, log=None):
    node.engine.dispose()
    if database is not None:
        for path in node.folder.glob("comity.db*"):
            path.unlink()
        shutil.copy(database / "comity.db", node.folder / "comity.db")
        node.engine = sa.create_engine(f"sqlite:///{node.folder}/comity.db")
    if log is not None:
        shutil.rmtree(node.log)
        shutil.copytree(log / "log", node.log)


def test_an_older_database_is_refused_and_newer_files_stay_as_they_are(history, counted):
    node, kept = history
    newest, last = kept[-1]
    for _, folder in kept[:-1]:
        put_back(node, database=folder)
        with pytest.raises(RolledBack):
            node.open()
        assert verify_log(directory_reader(node.log), newest_key(kept), known=newest).size == newest.size
    put_back(node, database=last)
    assert verify_ledger(node.open()).ok
    # older files beside the newest database: what is missing is published again, and nothing else
    for _, folder in kept[:-1]:
        put_back(node, log=folder)
        again = node.open()
        assert again.head().body == newest.body and verify_ledger(again).ok
        assert verify_log(directory_reader(node.log), again.key, known=newest).outcome is Outcome.OK
    # both older: nobody inside can tell, whoever saw a newer checkpoint can
    for known, folder in kept[:-1]:
        put_back(node, database=folder, log=folder)
        again = node.open()
        assert again.head().size == known.size
        assert verify_log(directory_reader(node.log), again.key, known=newest).outcome is Outcome.STALE
        again.record([grant(person(9000 + i), "overlap.reach") for i in range(newest.size - known.size + 1)])
        assert verify_log(directory_reader(node.log), again.key, known=newest).outcome is Outcome.TAMPERED
    # only the checkpoint of older files
    for known, folder in kept[:-1]:
        put_back(node, database=last, log=last)
        shutil.copy(folder / "log" / "checkpoint", node.log / "checkpoint")
        seen = verify_log(directory_reader(node.log), again.key, known=newest)
        assert seen.outcome is Outcome.STALE and seen.size == known.size
        assert node.open().head().size == newest.size
    fault = "the database or the published files taken back to every earlier state of theirs"
    counted(fault, 4 * (STATES - 1))


def newest_key(kept):
    from consent.notes import VerifierKey
    from privacy.signing import SigningKey

    return VerifierKey("shop.example/consent", SigningKey.from_seed(b"shop".ljust(32, b".")).public.bytes32)


def test_a_running_node_notices_that_its_database_was_put_back(history):
    node, kept = history
    ledger = node.open()
    put_back(node, database=kept[0][1])
    ledger.store._engine = node.engine
    with pytest.raises(Tampered):
        ledger.record([grant(person(7777), "overlap.reach")])
    with pytest.raises(Tampered):
        ledger.log.publish()
    newest = kept[-1][0]
    assert verify_log(directory_reader(node.log), ledger.key, known=newest).size == newest.size
