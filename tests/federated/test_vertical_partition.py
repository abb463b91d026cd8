"""Who trains and who tests: stable for a person, fair in number, and nothing but bits on the wire."""

from __future__ import annotations

import base64
import contextlib
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federated.errors import PeerViolation, TrainingMisuse, TrainingRefused
from federated.vertical.partition import Partition
from federated.vertical.terms import RunTerms

KEY = b"k" * 32


def people(numbers: list[int]) -> pa.BinaryArray:
    return pa.array([f"person{i}@example.org".encode() for i in numbers], pa.binary())


def held_out(numbers: list[int], key: bytes = KEY, fraction: float = 0.25) -> set[int]:
    return {numbers[i] for i in Partition.of(people(numbers), key, fraction).test}


def terms(split: Partition, **changes: object) -> RunTerms:
    given = {"rows": split.rows, "features": 2, "held_out": split.to_text(), "rounds": 1, "epochs": 2}
    return RunTerms("r", "model.credit", **{**given, **changes})  # type: ignore[arg-type]


@given(st.data())
def test_a_person_stays_in_their_part_when_others_leave_join_or_change_places(data: st.DataObject) -> None:
    first = data.draw(st.lists(st.integers(0, 10**6), min_size=100, max_size=200, unique=True))
    second = data.draw(st.permutations(first))[: data.draw(st.integers(80, len(first)))]
    joined = list(range(10**6 + 1, 10**6 + 1 + data.draw(st.integers(0, 20))))
    before, after = held_out(first), held_out([*second, *joined])
    assert after & set(first) == before & set(second)


def test_a_larger_fraction_keeps_those_held_out_by_a_smaller() -> None:
    numbers = list(range(500))
    assert held_out(numbers, fraction=0.1) < held_out(numbers, fraction=0.3)


@pytest.mark.parametrize("fraction", [0.05, 0.25, 0.5])
def test_the_fraction_is_kept_within_the_bounds_of_chance(fraction: float) -> None:
    rows, deviation = 20_000, math.sqrt(20_000 * fraction * (1 - fraction))
    shares = [len(held_out(list(range(rows)), bytes([key]) * 32, fraction)) for key in range(5)]
    assert all(abs(share - rows * fraction) < 5 * deviation for share in shares)
    assert len(set(shares)) > 1


def test_without_the_key_a_place_in_the_split_is_a_coin_toss() -> None:
    numbers = list(range(8000))
    here, there = held_out(numbers), held_out(numbers, b"o" * 32)
    # Under two keys a person is held out twice with probability 1/16: 500 of 8000, deviation 21.7.
    assert abs(len(here & there) - 500) < 5 * 21.7


@given(rows=st.integers(4, 12), fraction=st.sampled_from([1e-12, 0.5, 1 - 1e-12]), key=st.binary(min_size=32))
def test_each_row_is_in_one_part_and_neither_is_empty(rows: int, fraction: float, key: bytes) -> None:
    split = Partition.of(people(list(range(rows))), key, fraction)
    assert sorted([*split.train, *split.test]) == list(range(rows))
    assert len(split.train) and len(split.test)


def test_a_row_without_an_identifier_trains() -> None:
    keys = pa.array([None if i % 3 else f"p{i}".encode() for i in range(900)], pa.binary())
    test = Partition.of(keys, KEY, 0.5).test
    assert len(test)
    assert not (test % 3).any()


def test_too_few_rows_and_impossible_fractions_are_misuse() -> None:
    for rows, fraction in ((3, 0.25), (0, 0.25), (100, 0.0), (100, 1.0), (100, math.nan)):
        with pytest.raises(TrainingMisuse):
            Partition.of(people(list(range(rows))), KEY, fraction)


@given(st.lists(st.booleans(), min_size=2, max_size=100).filter(lambda m: any(m) and not all(m)))
def test_a_split_comes_back_from_its_text(mask: list[bool]) -> None:
    sent = Partition(train=np.flatnonzero(~np.array(mask)), test=np.flatnonzero(mask))
    read = Partition.from_text(sent.to_text(), len(mask))
    assert (read.train.tolist(), read.test.tolist()) == (sent.train.tolist(), sent.test.tolist())
    assert (read.test.dtype, read.rows) == (np.int64, len(mask))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", 10),
        ("", 0),
        ("AAA=", -8),
        ("gAA=", 1),
        ("gA==", 10),
        ("gAAA", 10),
        ("gAA=AAAA", 10),
        ("gAA=", 10**18),
        ("gAB=", 10),
        ("gCA=", 10),
        ("AAA=", 10),
        ("/8A=", 10),
        ("g A=", 10),
        ("gA\n=", 10),
        ("_wA=", 10),
        ("密AA=", 10),
        ("====", 10),
        ("\x00AA=", 10),
    ],
    ids=ascii,
)
def test_a_malformed_split_is_a_violation(text: str, rows: int) -> None:
    assert Partition.from_text("gAA=", 10).test.tolist() == [0]
    with pytest.raises(PeerViolation) as caught:
        Partition.from_text(text, rows)
    assert caught.value.code == "malformed_split"


@given(
    st.text(max_size=40) | st.binary(max_size=25).map(lambda b: base64.b64encode(b).decode()),
    st.integers(-5, 200),
)
def test_any_text_is_read_back_the_same_or_refused(text: str, rows: int) -> None:
    with contextlib.suppress(PeerViolation):
        assert Partition.from_text(text, rows).to_text() == text


def test_terms_refuse_another_share_than_they_state() -> None:
    fair = Partition.of(people(list(range(2000))), KEY, 0.25)
    assert terms(fair).partition().test.tolist() == fair.test.tolist()
    for first in (20, 360, 640, 1900):
        bent = Partition(train=np.arange(first, 2000), test=np.arange(first))
        with pytest.raises(PeerViolation) as caught:
            terms(bent)
        assert caught.value.code == "malformed_split"
    with pytest.raises(PeerViolation):
        terms(fair, rows=2008)


def test_the_leakage_rule_counts_the_rows_that_truly_train() -> None:
    split = Partition(train=np.arange(79), test=np.arange(79, 100))
    terms(split, features=3, rounds=2, epochs=3)
    with pytest.raises(TrainingRefused):
        terms(split, features=4, rounds=1, epochs=5)


def test_every_round_is_bound_to_the_split_and_nothing_shows_who_is_in_it() -> None:
    numbers = list(range(400))
    one, other = (Partition.of(people(numbers), key, 0.25) for key in (KEY, b"o" * 32))
    assert terms(one).of_round(1, 300).digest() != terms(other).of_round(1, 300).digest()
    assert terms(one).of_round(1, 300).digest() == terms(one).of_round(1, 300).digest()
    assert one.to_text() not in repr(terms(one))
    assert len(base64.b64decode(one.to_text())) == 50
