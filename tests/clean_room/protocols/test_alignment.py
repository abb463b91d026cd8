from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation
from clean_room.group import new_scalar
from clean_room.protocols import Padding, alignment, parse_message, receive
from clean_room.protocols.messages import AlignedRows, AlignPoints


@settings(max_examples=25)
@given(mine=st.sets(st.integers(0, 40), max_size=20), theirs=st.sets(st.integers(0, 40), max_size=20))
def test_both_sides_give_every_shared_person_the_same_id(
    new_pair: Any, align_terms: Any, people: Any, mine: set[int], theirs: set[int]
) -> None:
    a, c = [f"p{i}" for i in sorted(mine)], [f"p{i}" for i in sorted(theirs, reverse=True)]
    pair = new_pair()
    pair.exchange(align_terms(), [people(a)][0], [people(c)][0])
    assert [a[row] for row in pair.a.rows] == [c[row] for row in pair.c.rows]
    assert {a[row] for row in pair.a.rows} == set(a) & set(c)
    assert pair.a.ids == pair.c.ids
    ids = pair.a.ids.to_pylist()
    assert ids == sorted(ids) and len(set(ids)) == len(ids)
    pair.seal()
    assert pair.a.transcript == pair.c.transcript


def test_ids_and_their_order_are_new_in_every_run(new_pair: Any, align_terms: Any, people: Any) -> None:
    names = [f"p{i}" for i in range(20)]
    seen = []
    for _ in range(2):
        pair = new_pair()
        pair.exchange(align_terms(padding=Padding(32, 4)), people(names), people(names))
        seen.append((pair.a.ids.to_pylist(), pair.a.rows.tolist()))
    assert not set(seen[0][0]) & set(seen[1][0])
    assert seen[0][1] != seen[1][1] and sorted(seen[0][1]) == list(range(20))


def test_preparing_early_changes_nothing(pair: Any, align_terms: Any, people: Any) -> None:
    accept = pair.begin(align_terms(), people(["a", "b"]), people(["b"]))
    pair.a, points = receive(pair.a, accept)
    pair.c, reply = receive(pair.c.prepared().prepared(), pair.send(points))
    pair.a, rows = receive(pair.a, pair.send(reply))
    pair.c, _ = receive(pair.c, pair.send(rows))
    assert pair.a.rows.tolist() == [1] and pair.c.rows.tolist() == [0]


@pytest.fixture
def half(pair: Any, align_terms: Any, people: Any) -> Any:
    accept = pair.begin(align_terms(padding=Padding(8, 4)), people(["a", "b", "c"]), people(["b", "c", "d"]))
    pair.a, points = receive(pair.a, accept)
    pair.c, reply = receive(pair.c, pair.send(points))
    pair.sent, pair.reply = pair.a, pair.send(reply)
    pair.a, rows = receive(pair.a, pair.reply)
    pair.rows = pair.send(rows)
    return pair


def rows_of(message: AlignedRows, positions: list[int], ids: list[bytes] | None = None) -> AlignedRows:
    flat = b"".join(ids) if ids is not None else b"".join(bytes([n] * 16) for n in range(len(positions)))
    return replace(message, positions=np.array(positions, dtype=">u4").tobytes(), ids=flat)


def test_rows_that_cannot_be_meant_are_violations(half: Any) -> None:
    real = [int(n) for n in np.flatnonzero(half.c.sent >= 0)]
    padding = [int(n) for n in np.flatnonzero(half.c.sent < 0)]
    for bad in ([8], [2**32 - 1], [padding[0]], [real[0], real[0]], [*real, padding[0]]):
        with pytest.raises(PeerViolation):
            half.c.aligned(rows_of(half.rows, bad))
    for ids in ([bytes(16), bytes(16)], [b"\2" * 16, b"\1" * 16], [b"\1" * 16, bytes(8) + b"\xff" * 8]):
        with pytest.raises(PeerViolation):
            half.c.aligned(rows_of(half.rows, real[:2], ids))
    with pytest.raises(PeerViolation):
        half.c.aligned(replace(half.rows, previous=bytes(32)))
    half.c.aligned(rows_of(half.rows, []))
    assert len(half.c.aligned(half.rows).rows) == 2


def test_points_of_another_size_or_twice_are_violations(half: Any) -> None:
    back, own = half.reply.returned, half.reply.own
    bad = [
        (back.slice(1, 8), own), (back, own.slice(1, 8)), (back.take(np.array([0] * 8)), own),
        (back, own.take(np.array([0] * 8))),
    ]  # fmt: skip
    for returned, mine in bad:
        with pytest.raises(PeerViolation):
            half.sent.joined(AlignPoints(half.reply.previous, returned, mine))


def test_a_partner_found_among_our_padding_is_a_violation(half: Any) -> None:
    # Only the analyst knows which of its rows are padding; reordering the returned list is how to hit one.
    order = np.roll(np.arange(8), 1)
    hits = 0
    for _ in range(8):
        order = np.roll(order, 1)
        try:
            half.sent.joined(
                AlignPoints(half.reply.previous, half.reply.returned.take(order), half.reply.own)
            )
        except PeerViolation:
            hits += 1
    assert hits


def test_overlap_terms_do_not_start_an_alignment(pair: Any, overlap_terms: Any, people: Any) -> None:
    given = {"scalar": new_scalar(os.urandom), "random": os.urandom, "pool": pair.pool, "attestation": None}
    with pytest.raises(Misuse):
        alignment.start(overlap_terms(), people(["a"]), **given)
    with pytest.raises(Misuse):
        alignment.answer(None, overlap_terms(), people(["a"]), **given)  # type: ignore[arg-type]


def test_the_same_person_twice_is_refused(new_pair: Any, align_terms: Any, people: Any) -> None:
    with pytest.raises(Misuse):
        new_pair().begin(align_terms(), people(["a", "a"]), people(["b"]))


def test_nothing_but_points_positions_and_ids_travels(half: Any) -> None:
    assert [type(parse_message(m)).__name__ for m in half.wire] == [
        "Offer", "Accept", "AnalystPoints", "AlignPoints", "AlignedRows",
    ]  # fmt: skip
    assert len(half.wire[4]) == 40 + 4 + 2 * (4 + 16)
