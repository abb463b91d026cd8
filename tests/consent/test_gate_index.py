from __future__ import annotations

from hashlib import sha256

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consent import bulk_hashing
from consent.bulk_hashing import as_rows, sha256_rows, sorted_unique
from consent.encoding import Leaf, entry_type
from consent.events import EventType, grant, refuse, withdraw
from consent.gate import ConsentGate
from consent.gate_index import ColumnCache, HashedColumn, LookupSet
from consent.pseudonym_sets import PseudonymSet, use_leaf
from consent.subjects import KeyedHash

HASHED = KeyedHash(b"k" * 32, "email")
# Rows that begin alike are what an index by the first eight bytes can get wrong.
ROWS = st.builds(
    lambda head, tail: bytes([head]) * 8 + bytes(23) + bytes([tail]), st.integers(0, 3), st.integers(0, 3)
)


@pytest.fixture(params=[0, 1 << 30])
def few(request, monkeypatch):
    """Everything by the query, and everything row by row."""
    monkeypatch.setattr(bulk_hashing, "_FEW", request.param)


@pytest.mark.parametrize("width", [1, 32, 64, 65, 77, 200])
def test_rows_are_hashed_alike_in_both_ways(few, width):
    data = bytes(n % 251 for n in range(width * 50))
    rows = np.frombuffer(data, np.uint8).reshape(50, width)
    expected = [sha256(row.tobytes()).digest() for row in rows]
    assert [row.tobytes() for row in sha256_rows(rows)] == expected
    assert len(sha256_rows(rows[:0])) == 0


def test_many_rows_keep_their_order(monkeypatch):
    monkeypatch.setattr(bulk_hashing, "_FEW", 0)
    rows = np.arange(300_000, dtype=">u4").view(np.uint8).reshape(-1, 4)
    found = sha256_rows(rows)
    for n in (0, 1, 122_879, 122_880, 250_000, 299_999):
        assert found[n].tobytes() == sha256(n.to_bytes(4, "big")).digest()


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a", None, b"", b"\xff\x00", b"a" * 300], pa.binary()),
        pa.array([b"x", b"a", None, b"y"], pa.large_binary()).slice(1, 2),
        pa.array([None, None], pa.binary()),
        pa.array([], pa.binary()),
    ],
)
def test_the_hashes_of_a_column_are_those_of_its_rows(few, column):
    rows = HASHED.rows(column)
    assert [row.tobytes() for row in rows] == [
        bytes(32) if value is None else HASHED(value) for value in column.to_pylist()
    ]
    kept = ColumnCache().hashed(column, HASHED)
    assert sorted((int(at), row.tobytes()) for at, row in zip(kept.order, kept.rows, strict=True)) == [
        (n, HASHED(value)) for n, value in enumerate(column.to_pylist()) if value is not None
    ]


@given(st.lists(ROWS, max_size=12), st.lists(ROWS, max_size=12))
def test_a_set_of_lookups_answers_as_a_set_does(members, asked):
    rows = as_rows(b"".join(asked))
    keys = np.ascontiguousarray(rows[:, :8]).view(">u8").ravel().astype(np.uint64)
    order = np.argsort(keys, kind="stable")
    column = HashedColumn(len(asked), order, keys[order], np.ascontiguousarray(rows[order]))
    found = column.unsorted(LookupSet(members).among(column))
    assert found.tolist() == [row in members for row in asked]
    assert [row.tobytes() for row in sorted_unique(as_rows(b"".join(members)))] == sorted(set(members))
    for row in asked:
        assert [column.rows[at].tobytes() for at in column.places(row)] == [row] * asked.count(row)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=20), st.integers(0, 3))
def test_a_pseudonym_set_is_the_sorted_set_of_its_leaves(lookups, repeated):
    salt = b"s" * 32
    made = PseudonymSet.of_lookups(salt, lookups + lookups[:repeated])
    leaves = sorted({use_leaf(salt, lookup) for lookup in lookups})
    assert made.to_bytes() == b"CPS\x01" + salt + b"".join(leaves)
    assert PseudonymSet.from_bytes(made.to_bytes()).root == made.root


def test_columns_are_known_by_what_they_hold():
    cache = ColumnCache()
    column = pa.array([b"ab", b"c", None, b""], pa.binary())
    first = cache.hashed(column, HASHED)
    for same in (
        pa.array([b"ab", b"c", None, b""], pa.large_binary()),
        pa.chunked_array([column.slice(0, 1), column.slice(1)]),
        pa.array([b"z", b"ab", b"c", None, b""], pa.binary()).slice(1),
    ):
        assert cache.hashed(same, HASHED) is first
    for other in (
        [b"a", b"bc", None, b""],
        [b"ab", b"c", b"", None],
        [b"ab", b"c", None],
        [b"ab", None, b"c", b""],
    ):
        assert cache.hashed(pa.array(other, pa.binary()), HASHED) is not first
    assert cache.hashed(column, KeyedHash(b"k" * 32, "phone")) is not first
    assert cache.hashed(column, KeyedHash(b"l" * 32, "email")) is not first


def test_no_more_columns_are_kept_than_fit():
    cache = ColumnCache(limit=300)
    columns = [pa.array([b"%d" % n] * 4, pa.binary()) for n in range(3)]
    kept = [cache.hashed(column, HASHED) for column in columns]
    assert cache.hashed(columns[2], HASHED) is kept[2]
    assert cache.hashed(columns[0], HASHED) is not kept[0]


def test_the_type_of_an_entry_is_read_off_its_end():
    for type_ in EventType:
        leaf = Leaf("0192f0c4-aaaa-7bbb-8ccc-0123456789ab", type_.value, 0, "a" * 64, bytes(32))
        assert entry_type(leaf.to_bytes()) == type_.value


STEPS = st.lists(
    st.tuples(
        st.sampled_from([grant, grant, refuse, withdraw]),
        st.integers(0, 4),
        st.sampled_from(["overlap", "overlap.reach", "model"]),
        st.sampled_from(["bank", "other", "*"]),
        st.sampled_from(["", "", "use.receipt", "erasure"]),
    ),
    min_size=1,
    max_size=10,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(STEPS, st.integers(0, 1 << 60))
def test_a_gate_that_has_answered_before_answers_as_a_new_one(make_node, steps, run):
    ledger = _shared(make_node)
    gate, names = ConsentGate(ledger), [b"%d-%d" % (run, who) for who in range(6)]
    for make, who, purpose, partner, beside in steps:
        ledger.record([make([("email", names[who])], purpose, partner=partner)])
        if beside == "use.receipt":
            ledger.record_system(EventType.AUDIT, {"kind": "k"})
        elif beside:
            ledger.record_system(EventType.CORRECTION, {"kind": "k"})
        for asked in ("overlap.reach", "model.credit"):
            mask = gate.filter("email", pa.array(names), purpose=asked, partner="bank").mask
            assert mask.tolist() == [ledger.check(n, "email", asked, "bank").allowed for n in names]


_LEDGERS: dict[int, object] = {}


def _shared(make_node):
    if id(make_node) not in _LEDGERS:
        _LEDGERS[id(make_node)] = make_node("gate").open()
    return _LEDGERS[id(make_node)]


def test_a_log_that_grew_is_not_read_again(ledger, monkeypatch):
    gate = ConsentGate(ledger)
    ledger.record([grant([("email", b"a")], "overlap.reach"), grant([("email", b"b")], "overlap.reach")])

    def ask():
        column = pa.array([b"a", b"b", b"c"])
        return gate.filter("email", column, purpose="overlap.reach", partner="x").mask.tolist()

    assert ask() == [True, True, False]
    from consent.sql.standings import StandingsView

    monkeypatch.setattr(StandingsView, "allowed_lookups", None)
    ledger.record([withdraw([("email", b"a")]), grant([("email", b"c")], "overlap.reach")])
    assert ask() == [False, True, True]
    ledger.record([grant([("email", b"a")], "overlap.reach"), withdraw([("email", b"c")])])
    assert ask() == [True, True, False]


def test_an_expiry_that_came_with_the_growth_is_kept(ledger, clock):
    from datetime import timedelta

    gate = ConsentGate(ledger)

    def ask():
        return gate.filter("email", pa.array([b"a"]), purpose="overlap.reach", partner="x").mask.tolist()

    assert ask() == [False]
    ledger.record([grant([("email", b"a")], "overlap.reach", expires_at=clock() + timedelta(seconds=10))])
    assert ask() == [True]
    clock.move(seconds=10)
    assert ask() == [False]
