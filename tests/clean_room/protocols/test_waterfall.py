"""Several keys: the counts are those of a waterfall in the clear, and dummies hide each pattern."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation
from clean_room.group import new_scalar
from clean_room.group.points import Points
from clean_room.protocols import (
    OverlapTerms,
    Padding,
    WaterfallTerms,
    cardinality,
    parse_message,
    parse_terms,
    receive,
    waterfall,
)
from clean_room.protocols.messages import AnalystRows, ContributorRows
from tests.clean_room.protocols.conftest import attestations

Row = tuple[str | None, ...]
KEYS = ("email", "phone", "device")


def terms(**more: Any) -> WaterfallTerms:
    fields: dict[str, Any] = {
        "job": "j", "purpose": "overlap.reach", "analyst": "bank", "contributor": "shop",
        "padding": Padding(4, 4), "keys": KEYS[:2],
    }  # fmt: skip
    return WaterfallTerms(**(fields | more))


def struct(rows: list[Row], keys: int) -> pa.StructArray:
    columns = [pa.array([r[n] and r[n].encode() for r in rows], pa.binary()) for n in range(keys)]  # type: ignore[union-attr]
    return pa.StructArray.from_arrays(columns, names=list(KEYS[:keys]))


class Run:
    """Both roles in one process; every message travels as bytes."""

    def __init__(
        self,
        pool: Any,
        agreed: WaterfallTerms,
        mine: list[list[Row]],
        theirs: list[list[Row]],
        matching: Any = None,
    ) -> None:
        one, two = attestations()
        own = {"random": os.urandom, "pool": pool}
        shape = (*agreed.groups, agreed.patterns)
        noise = np.full(shape, agreed.dummies // agreed.patterns // 2) if matching is None else matching
        keys = len(agreed.keys)
        self.a, self.offer = waterfall.start(
            agreed,
            [struct(rows, keys) for rows in mine],
            scalar=new_scalar(os.urandom),
            attestation=one,
            **own,
        )
        self.c, accept = waterfall.answer(
            self.carry(self.offer), agreed, [struct(rows, keys) for rows in theirs],
            matching=noise, scalar=new_scalar(os.urandom), attestation=two, **own,
        )  # fmt: skip
        self.a, self.rows = receive(self.a, self.carry(accept))

    @staticmethod
    def carry(message: Any) -> Any:
        return parse_message(message.to_bytes())

    def finish(self) -> Any:
        self.c, self.reply = receive(self.c, self.carry(self.rows))
        self.a, _ = receive(self.a, self.carry(self.reply))
        return self.a.counts


def in_the_clear(mine: list[list[Row]], theirs: list[list[Row]], keys: int) -> list[list[int]]:
    """The waterfall by nested loops."""
    a = [(i, row) for i, rows in enumerate(mine) for row in rows]
    c = [(j, row) for j, rows in enumerate(theirs) for row in rows]
    counts = [[0] * len(theirs) for _ in mine]
    for key in range(keys):
        for one in list(a):
            for other in list(c):
                if one[1][key] is not None and one[1][key] == other[1][key]:
                    counts[one[0]][other[0]] += 1
                    a.remove(one)
                    c.remove(other)
                    break
    return counts


def sides(keys: int, segments: int) -> st.SearchStrategy[list[list[Row]]]:
    """Rows of few values, so that they meet; each value of a key in one row, and no row empty."""
    value = st.one_of(st.none(), st.integers(0, 6))

    def lay_out(rows: list[tuple[int, tuple[int | None, ...]]]) -> list[list[Row]]:
        seen: set[tuple[int, int]] = set()
        out: list[list[Row]] = [[] for _ in range(segments)]
        for at, row in rows:
            kept: list[str | None] = []
            for key, number in enumerate(row):
                fresh = number is not None and (key, number) not in seen
                kept.append(f"{key}:{number}" if fresh else None)
                if fresh:
                    seen.add((key, number))  # type: ignore[arg-type]
            if any(kept):
                out[at].append(tuple(kept))
        return out

    rows = st.lists(st.tuples(st.integers(0, segments - 1), st.tuples(*[value] * keys)), max_size=8)
    return rows.map(lay_out)


@settings(max_examples=25)
@given(sides(2, 2), sides(2, 2))
def test_two_keys_count_as_a_waterfall_in_the_clear(
    blinding: Any, mine: list[list[Row]], theirs: list[list[Row]]
) -> None:
    agreed = terms(analyst_segments=("x", "y"), contributor_segments=("u", "v"), dummies=6)
    assert Run(blinding, agreed, mine, theirs).finish().tolist() == in_the_clear(mine, theirs, 2)


@settings(max_examples=15)
@given(sides(3, 1), sides(3, 1))
def test_three_keys_count_as_a_waterfall_in_the_clear(
    blinding: Any, mine: list[list[Row]], theirs: list[list[Row]]
) -> None:
    run = Run(blinding, terms(keys=KEYS), mine, theirs)
    assert run.finish().tolist() == in_the_clear(mine, theirs, 3)


def test_a_person_matched_by_the_first_key_is_not_matched_again(blinding: Any) -> None:
    mine = [[("ann", "1"), ("bob", "2"), (None, "3")]]
    theirs = [[("ann", "9"), (None, "1"), ("bob", "3"), (None, "2")]]
    # ann and bob by address; then 1 and 2 meet rows already taken, and so does 3.
    assert Run(blinding, terms(), mine, theirs).finish().tolist() == [[2]]


def test_an_address_never_meets_a_phone_number(blinding: Any) -> None:
    assert Run(blinding, terms(), [[("same", None)]], [[(None, "same")]]).finish().tolist() == [[0]]


@pytest.mark.parametrize("pattern", [0, 1, 2])
def test_every_pattern_of_keys_is_noised_by_its_own_dummies(blinding: Any, pattern: int) -> None:
    agreed = terms(dummies=12)
    matching = np.zeros((1, 1, 3), dtype=np.int64)
    matching[0, 0, pattern] = 3
    run = Run(blinding, agreed, [[("ann", None)]], [[("ann", None)]], matching)
    assert run.finish().tolist() == [[1 + 3 - 6]]
    a, c = run.a.side.scalar, run.reply
    hits = []
    for number in range(2):
        flat = Points(blinding.blind(a, c.own[0][number].buffer)).truncated()
        hits.append(
            {row.tobytes() for row in flat.array} & {r.tobytes() for r in c.returned[0][number].array}
        )
    expected = [3 * bool(pattern + 1 & 1) + 1, 3 * bool(pattern + 1 & 2)]
    assert [len(found) for found in hits] == expected


def test_sizes_do_not_depend_on_the_noise_or_on_missing_keys(blinding: Any) -> None:
    agreed = terms(dummies=12)
    lengths = set()
    for k, rows in ((0, [("ann", None)]), (4, [("ann", "1"), (None, "2")])):
        run = Run(blinding, agreed, [rows], [rows], np.full((1, 1, 3), k))
        run.finish()
        lengths.add((len(run.rows.to_bytes()), len(run.reply.to_bytes())))
    assert len(lengths) == 1


def test_rows_come_back_in_another_order_but_whole(blinding: Any) -> None:
    mine = [[(f"p{i}", f"{i}") for i in range(64)]]
    run = Run(blinding, terms(), mine, [[("p0", "0")]])
    y = run.c.side.scalar
    run.finish()
    sent = [Points(blinding.blind(y, points.buffer)).truncated() for points in run.rows.lists[0]]
    before = {(a.tobytes(), b.tobytes()) for a, b in zip(sent[0].array, sent[1].array, strict=True)}
    back = run.reply.returned[0]
    after = [(a.tobytes(), b.tobytes()) for a, b in zip(back[0].array, back[1].array, strict=True)]
    assert set(after) == before
    assert [a for a, _ in after] != [row.tobytes() for row in sent[0].array]


def test_thinning_takes_whole_rows(blinding: Any) -> None:
    mine = [[(f"p{i}", f"{i}") for i in range(600)]]
    counts = Run(blinding, terms(keep=500), mine, mine).finish()
    # 300 expected, σ ≈ 12; were keys dropped one by one, three rows in four would be left.
    assert 300 - 86 < counts[0, 0] < 300 + 86


def test_both_seal_one_transcript(blinding: Any) -> None:
    run = Run(blinding, terms(), [[("ann", None)]], [[("ann", None)]])
    run.finish()
    run.a, seal = run.a.seal()
    run.c, back = receive(run.c, run.carry(seal))
    run.a, _ = receive(run.a, run.carry(back))
    assert run.a.transcript == run.c.transcript


def test_terms_say_what_they_are_and_survive_the_wire() -> None:
    agreed = terms(dummies=12)
    assert parse_terms(agreed.to_bytes()) == agreed
    assert b'"protocol":"waterfall/1"' in agreed.to_bytes()
    for wrong in (
        {"keys": ("email",)},
        {"keys": ("phone", "email")},
        {"keys": ("email", "email")},
        {"keys": ("email", "a", "b", "c")},
        {"keys": ["email", "phone"]},
        {"dummies": 4},
        {"keep": 0},
        {"keep": 1001},
    ):
        with pytest.raises(Misuse):
            terms(**wrong)


def test_neither_protocol_takes_the_terms_of_the_other(blinding: Any) -> None:
    one, _ = attestations()
    own = {"scalar": new_scalar(os.urandom), "random": os.urandom, "pool": blinding, "attestation": one}
    plain = OverlapTerms(job="j", purpose="p", analyst="a", contributor="c")
    with pytest.raises(Misuse):
        waterfall.start(plain, [struct([("ann", None)], 2)], **own)  # type: ignore[arg-type]
    with pytest.raises(Misuse):
        cardinality.start(terms(), [pa.array([b"ann"], pa.binary())], **own)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([("ann", "1"), ("ann", "2")], "duplicate_people"),
        ([("ann", "1"), ("bob", "1")], "duplicate_people"),
        ([(None, None)], "misuse"),
    ],
)
def test_rows_that_would_give_something_away_are_misuse(blinding: Any, rows: list[Row], code: str) -> None:
    with pytest.raises(Misuse) as refused:
        Run(blinding, terms(), [rows], [[("ann", None)]])
    assert refused.value.code == code


def test_a_value_in_two_segments_is_misuse(blinding: Any) -> None:
    with pytest.raises(Misuse):
        Run(blinding, terms(analyst_segments=("x", "y")), [[("ann", "1")], [("bob", "1")]], [[("ann", None)]])


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 2), (1, 1, 4), (3, 1, 1)])
def test_noise_of_another_shape_or_size_is_misuse(blinding: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(Misuse):
        Run(blinding, terms(dummies=6), [[("a", None)]], [[("a", None)]], np.zeros(shape, dtype=np.int64))
    for k in (-1, 3):
        with pytest.raises(Misuse):
            Run(blinding, terms(dummies=6), [[("a", None)]], [[("a", None)]], np.full((1, 1, 3), k))


@pytest.mark.parametrize("wrong", ["short", "twice", "twice in two keys", "low order", "replayed"])
def test_hostile_rows_stop_the_run_and_change_nothing(blinding: Any, wrong: str) -> None:
    run = Run(blinding, terms(), [[("ann", "1"), ("bob", "2")]], [[("ann", "1")]])
    previous, lists = run.rows.previous, [bytearray(p.buffer) for p in run.rows.lists[0]]
    if wrong == "short":
        lists = [flat[:-32] for flat in lists]
    elif wrong == "twice":
        lists[1][32:64] = lists[1][:32]
    elif wrong == "twice in two keys":
        lists[1][:32] = lists[0][:32]
    elif wrong == "low order":
        lists[0][:32] = bytes(32)
    else:
        previous = bytes(32)
    before = run.c
    bad = AnalystRows(previous, (tuple(Points(bytes(flat)) for flat in lists),))
    with pytest.raises(PeerViolation):
        receive(run.c, run.carry(bad))
    assert run.c is before
    assert run.finish().tolist() == [[1]]


def test_an_analyst_refuses_lists_of_the_wrong_size(blinding: Any) -> None:
    run = Run(blinding, terms(), [[("ann", "1")]], [[("ann", "1")]])
    run.c, reply = receive(run.c, run.carry(run.rows))
    short = replace(reply, own=tuple(tuple(p.slice(1, len(p)) for p in rows) for rows in reply.own))
    with pytest.raises(PeerViolation):
        receive(run.a, run.carry(short))
    run.a, _ = receive(run.a, run.carry(reply))
    assert run.a.total == 1


@pytest.mark.parametrize("cut", [0, 8, 40, 41, 43, 50])
def test_cut_or_lopsided_messages_are_violations(cut: int) -> None:
    point = Points(bytes(32))
    whole = AnalystRows(bytes(32), ((point, point),))
    thin = Points(bytes(16), 16)
    for message in (whole, ContributorRows(bytes(32), ((thin, thin),), ((point, point),))):
        data = message.to_bytes()
        assert parse_message(data) == message
        for bad in (
            data[:cut],
            data + b"x",
            data[:40] + b"\x01" + data[41:],
            data[:40] + b"\x09" + data[41:],
        ):
            with pytest.raises(PeerViolation):
                parse_message(bad)
    with pytest.raises(PeerViolation):
        parse_message(AnalystRows(bytes(32), ((point, Points(b"")),)).to_bytes())
    with pytest.raises(PeerViolation):
        parse_message(AnalystRows(bytes(32), ((point, point), (point,))).to_bytes())
