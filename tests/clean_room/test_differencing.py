"""Whether two questions are too close, against the sets compared one by one."""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.differencing import HASH_KEY_BYTES, Fingerprint, keyed_hashes, may_be_close, too_close
from privacy.errors import BadInput, Tampered

KEY = os.urandom(HASH_KEY_BYTES)
Cells = list[dict[int, float]]


def hashed(names: list[bytes], key: bytes = KEY) -> Any:
    return keyed_hashes(key, pa.array(names, pa.binary()))


def fingerprint(cells: Cells, **more: Any) -> Fingerprint:
    """From people (numbers) with a value each, cell by cell."""
    people = [hashed([str(p).encode() for p in cell]) for cell in cells]
    rows = [np.array(list(cell), dtype=np.int64) for cell in cells]
    values = [np.array(list(cell.values()), dtype=np.float64) for cell in cells]
    return Fingerprint.of(people, rows, values if "column" in more else None, **({"kind": "email"} | more))


def one_by_one(ours: Cells, earlier: Cells, minimum: int, values: bool) -> bool:
    def parts(cells: Cells) -> list[dict[int, float]]:
        whole = {p: v for cell in cells for p, v in cell.items()}
        return [whole, *(cell for cell in cells if len(cell) >= minimum)]

    for a, b in itertools.product(parts(ours), parts(earlier)):
        if not a or not b:
            continue
        moved = sum(a[p] != b[p] for p in a.keys() & b.keys()) if values else 0
        if 0 < len(a.keys() ^ b.keys()) + moved < minimum:
            return True
    return False


@st.composite
def questions(draw: st.DrawFn) -> Cells:
    cells = draw(st.integers(1, 3))
    split: Cells = [{} for _ in range(cells)]
    for person in draw(st.sets(st.integers(0, 14), min_size=1)):
        split[draw(st.integers(0, cells - 1))][person] = draw(st.sampled_from([0.0, 1.0]))
    return split


@given(questions(), questions(), st.integers(1, 6), st.booleans())
def test_it_says_what_comparing_the_sets_says(ours: Cells, earlier: Cells, least: int, values: bool) -> None:
    more = {"column": "spend"} if values else {}
    found = too_close(fingerprint(ours, **more), fingerprint(earlier, **more), least)
    assert found == one_by_one(ours, earlier, least, values)
    if found and not values:
        assert may_be_close([len(c) for c in ours], [len(c) for c in earlier], least)


def everybody(people: range, value: float = 0.0) -> dict[int, float]:
    return dict.fromkeys(people, value)


@pytest.mark.parametrize("missing", [1, 9])
def test_a_question_about_all_but_a_few_is_too_close(missing: int) -> None:
    whole, most = fingerprint([everybody(range(100))]), fingerprint([everybody(range(100 - missing))])
    assert too_close(whole, most, 10) and too_close(most, whole, 10)


def test_equal_questions_and_clearly_different_ones_are_not() -> None:
    whole = fingerprint([everybody(range(100))])
    assert not too_close(whole, whole, 10)
    assert not too_close(whole, fingerprint([everybody(range(90))]), 10)
    assert not too_close(whole, fingerprint([everybody(range(1000, 1100))]), 10)


def test_a_cell_that_is_nearly_an_earlier_whole_is_too_close() -> None:
    """The tracker of two steps: first a group by itself, then that group and one person as a cell."""
    group = fingerprint([everybody(range(50))])
    split = fingerprint([everybody(range(51)), everybody(range(51, 100))])
    assert too_close(split, group, 10) and too_close(group, split, 10)


def test_a_cell_that_is_never_shown_is_not_compared() -> None:
    few = fingerprint([everybody(range(5)), everybody(range(100, 200))])
    assert not too_close(few, fingerprint([everybody(range(6)), everybody(range(300, 420))]), 10)


def test_a_person_whose_value_changed_counts_for_the_same_column_only() -> None:
    before = fingerprint([everybody(range(100), 1.0)], column="spend")
    after = everybody(range(100), 1.0) | {7: 400.0}
    assert too_close(fingerprint([after], column="spend"), before, 10)
    assert not too_close(fingerprint([after], column="visits"), before, 10)
    assert not too_close(fingerprint([after]), before, 10)
    many = everybody(range(10), 2.0) | everybody(range(10, 100), 1.0)
    assert not too_close(fingerprint([many], column="spend"), before, 10)


def test_another_kind_of_identifier_is_compared_by_rows_of_the_same_file() -> None:
    cells = [everybody(range(100))]
    by_email = fingerprint(cells, kind="email", source="file 1")
    fewer = [everybody(range(1, 100))]
    assert too_close(fingerprint(fewer, kind="phone", source="file 1"), by_email, 10)
    assert not too_close(fingerprint(cells, kind="phone", source="file 1"), by_email, 10)
    assert not too_close(fingerprint(fewer, kind="phone", source="file 2"), by_email, 10)
    assert not too_close(fingerprint(fewer, kind="phone"), fingerprint(cells, kind="email"), 10)


@given(st.lists(st.binary(max_size=40), unique=True, max_size=40), st.integers(0, 5))
def test_hashes_depend_on_the_text_and_the_key_alone(names: list[bytes], skipped: int) -> None:
    column = pa.array(names, pa.binary())
    found = hashed(names)
    assert len(set(found.tolist())) == len(names)
    assert hashed(names[::-1]).tolist() == found.tolist()[::-1]
    assert keyed_hashes(KEY, column.slice(skipped)).tolist() == found.tolist()[skipped:]
    if names:
        assert not set(found.tolist()) & set(hashed(names, os.urandom(HASH_KEY_BYTES)).tolist())


def test_texts_that_differ_in_zeros_at_the_end_hash_differently() -> None:
    found = hashed([b"", b"\x00", b"\x00" * 4, b"a", b"a\x00", b"a\x00\x00\x00", b"a\x00\x00\x00\x00"])
    assert len(set(found.tolist())) == 7


def test_more_rows_than_a_block_hash_as_one_by_one() -> None:
    names = [b"%d-" % i * (1 + i % 3) for i in range(20_000)]
    found = hashed(names)
    assert len(set(found.tolist())) == 20_000
    assert [int(hashed([names[i]])[0]) for i in (0, 16_383, 16_384, 19_999)] == [
        int(found[i]) for i in (0, 16_383, 16_384, 19_999)
    ]


def test_an_absurd_identifier_is_refused_without_being_shown() -> None:
    with pytest.raises(BadInput) as raised:
        hashed([b"x" * 1025])
    assert "x" * 10 not in str(raised.value)


def test_a_fingerprint_survives_its_bytes_and_garbage_does_not_pass_for_one() -> None:
    before = fingerprint([everybody(range(20), 3.0), everybody(range(30, 60))], column="spend", source="f")
    after = Fingerprint.from_bytes(before.to_bytes())
    assert (after.kind, after.source, after.column, after.sizes) == ("email", "f", "spend", [20, 30])
    assert after.digest(b"k") == before.digest(b"k") != before.digest(b"l")
    assert len(before.to_bytes()) < 26 * 50 + 2000
    content = before.to_bytes()
    for broken in (b"", b"garbage", content[:100], content[: len(content) // 2]):
        with pytest.raises(Tampered):
            Fingerprint.from_bytes(broken)


def test_the_digest_tells_cells_values_and_people_apart() -> None:
    base = [everybody(range(10), 1.0), everybody(range(10, 30), 1.0)]
    moved = [everybody(range(9), 1.0), everybody(range(9, 30), 1.0)]
    changed = [everybody(range(10), 1.0), everybody(range(10, 29), 1.0) | {29: 2.0}]
    digests = {
        fingerprint(cells, column=column).digest(b"k")
        for cells in (base, moved, changed, base[:1])
        for column in ("spend", "visits")
    }
    assert len(digests) == 8
    shuffled = [dict(sorted(cell.items(), reverse=True)) for cell in base]
    assert fingerprint(shuffled).digest(b"k") == fingerprint(base).digest(b"k")


def test_nothing_of_a_fingerprint_is_shown_by_its_representation() -> None:
    shown = repr(fingerprint([everybody(range(3), 12345.0)], column="spend"))
    assert "people" not in shown and "12345" not in shown
