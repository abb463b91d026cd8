"""One bit turned over: in every column of every table, anywhere in the database file, in a published file."""

from __future__ import annotations

import random
import shutil

import pytest
import sqlalchemy as sa

from consent.events import grant
from consent.sql import metadata
from consent.verify import Outcome, directory_reader, verify_ledger, verify_log
from privacy.errors import ComityError, StorageError, Tampered

UNVERIFIED = {
    # What a person's link opens to is sealed under its token, which is not kept: checked when it is used.
    "consent_links": {
        "id", "token_hash", "person", "sealed", "purposes", "partners", "created_by", "created_at",
        "expires_at",
    },
    "consent_head": {"id", "epoch"},  # nothing is said by them
    "consent_state_head": {"id", "through", "version"},  # how far the tree was brought; its root is checked
    "consent_subjects": {"created_at"},  # nothing is decided by it
    # What an agreement says elsewhere, and what a partner's next message sets again.
    "consent_partners": {"lease", "fresh_at", "enforced_seq"},
    # A keyed hash of whom nobody here knows any more. The journal has a sealed copy.
    "consent_suppressions": {"lookup", "expires_at"},
}  # fmt: skip
"""Columns of which nothing can tell that a bit was turned over, and why."""


def flipped(value, place):
    """The value with one bit turned over; None where there is none to turn."""
    if not value and not isinstance(value, int):
        return None
    if isinstance(value, int):
        return value ^ (1 << place % 3)
    if isinstance(value, bytes):
        at = place % len(value)
        return value[:at] + bytes([value[at] ^ (1 << place % 8)]) + value[at + 1 :]
    at = place % len(value)
    return value[:at] + chr(ord(value[at]) ^ (1 << place % 2)) + value[at + 1 :]


def turns(engine):
    """(table, row, column, new value) for every column of the first and the last row."""
    with engine.connect() as c:
        for table in metadata.sorted_tables:
            rows = c.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings().all()
            for n in sorted({0, len(rows) - 1}) if rows else ():
                for place, column in enumerate(table.columns):
                    new = flipped(rows[n][column.name], 7 * n + 3 * place)
                    if new is not None:
                        yield table, dict(rows[n]), column.name, new


def put(engine, table, row, column, value):
    """Set one column of the row that has the key of `row`; whether the database let us."""
    key = [k == row[k.name] for k in table.primary_key.columns]
    try:
        with engine.begin() as c:
            assert c.execute(table.update().where(*key).values({column: value})).rowcount == 1
    except sa.exc.IntegrityError:
        return False  # another row has this key
    return True


def test_a_bit_of_any_column_of_any_table_is_found_by_the_nodes_own_check(make_node, live, counted):
    nodes = [make_node("shop"), make_node("bank")]
    live(*nodes)
    cases, missed = 0, {}
    for node in nodes:
        ledger = node.open()
        assert verify_ledger(ledger).ok
        for table, row, column, new in list(turns(node.engine)):
            if not put(node.engine, table, row, column, new):
                continue
            outcome = verify_ledger(ledger).outcome
            if outcome is Outcome.OK:
                missed.setdefault(table.name, set()).add(column)
            else:
                assert outcome is Outcome.TAMPERED, (table.name, column, outcome)
            assert put(node.engine, table, {**row, column: new}, column, row[column])
            cases += 1
        assert verify_ledger(ledger).ok
    assert missed == UNVERIFIED
    counted("a flipped bit in each column of the first and the last row of every table", cases)


def answers(ledger):
    """What the node says about everybody, and in its log."""
    people = [b"person.%03d@example.org" % i for i in range(24)]
    allowed = [ledger.check(p, "email", "overlap.reach", "bank").allowed for p in people]
    return allowed, ledger.head().root


def test_a_bit_anywhere_in_the_database_file_is_found_or_changes_nothing(make_node, live, tmp_path, counted):
    """Also what a running node does when it meets one: it says so, and lets nobody through by it."""
    node = make_node("shop")
    live(node, make_node("bank"))
    with node.engine.connect() as c:
        c.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    expected = answers(node.open())
    whole = (node.folder / "comity.db").read_bytes()
    log = tmp_path / "log"
    shutil.copytree(node.log, log)
    chance = random.Random(7)
    found = unchanged = 0
    for case in range(30):
        folder = tmp_path / f"case{case}"
        folder.mkdir()
        shutil.copytree(log, folder / "log")
        at = chance.randrange(100, len(whole))
        bad = bytes([whole[at] ^ (1 << chance.randrange(8))])
        (folder / "comity.db").write_bytes(whole[:at] + bad + whole[at + 1 :])
        engine = sa.create_engine(f"sqlite:///{folder}/comity.db")
        other = type(node)("shop", engine, folder, node.clock, node.ring, node.key)
        try:
            ledger = other.open()
            ok = verify_ledger(ledger).ok
            if ok:
                assert answers(ledger) == expected
            ledger.record([grant([("email", b"somebody@example.org")], "overlap.reach")])
        except ComityError as error:
            assert isinstance(error, Tampered | StorageError), error
            ok = False
        finally:
            engine.dispose()
        # Whatever happened, what others see is whole and no other history.
        assert verify_log(directory_reader(folder / "log"), node.open().key).outcome is Outcome.OK
        found += not ok
        unchanged += ok
        shutil.rmtree(folder)
    assert found > unchanged / 4
    counted("a flipped bit anywhere in the database file of a node that then goes on", found + unchanged)


@pytest.mark.parametrize("name", ["checkpoint", "tile/0/000", "tile/entries/000"])
def test_a_node_that_meets_a_changed_file_of_its_own_log_stops_and_says_so(make_node, name):
    node = make_node()
    ledger = node.open()
    ledger.record([grant([("email", b"p%d" % (i % 9))], "overlap.reach") for i in range(300)])
    path = node.log / name
    data = path.read_bytes()
    path.write_bytes(data[:40] + bytes([data[40] ^ 4]) + data[41:])
    if name == "checkpoint":
        for act in (node.open, lambda: ledger.record([grant([("email", b"q")], "overlap.reach")])):
            with pytest.raises(Tampered):
                act()
    else:
        assert verify_ledger(ledger).outcome is Outcome.TAMPERED
    path.write_bytes(data)
    assert verify_ledger(node.open()).ok


@pytest.mark.parametrize("table", ["consent_tiles", "consent_head", "consent_entries"])
def test_a_node_that_meets_a_changed_row_of_its_log_signs_nothing_else(node, table):
    ledger = node.open()
    ledger.record([grant([("email", b"p%d" % i)], "overlap.reach") for i in range(20)])
    known = ledger.head()
    column = {"consent_tiles": "hashes", "consent_head": "root", "consent_entries": "leaf"}[table]
    t = metadata.tables[table]
    with node.engine.begin() as c:
        old = bytes(c.execute(sa.select(t.c[column])).scalars().all()[-1])
        where = [] if table != "consent_entries" else [t.c.idx == 20]
        assert c.execute(t.update().where(*where).values({column: flipped(old, 77)})).rowcount == 1
    assert verify_ledger(ledger).outcome is Outcome.TAMPERED
    if table == "consent_head":
        with pytest.raises(Tampered):
            node.open()
        # The next append derives the root anew, from tiles that lead to what was signed.
        ledger.record([grant([("email", b"q")], "overlap.reach")])
        assert verify_ledger(node.open()).ok
    else:
        for attempt in (ledger.record, lambda events: node.open().record(events)):
            with pytest.raises(Tampered):
                attempt([grant([("email", b"q")], "overlap.reach")])
        assert verify_log(directory_reader(node.log), ledger.key).size == known.size
    assert verify_log(directory_reader(node.log), ledger.key, known=known).ok
