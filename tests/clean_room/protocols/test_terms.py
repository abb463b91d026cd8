from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from clean_room.errors import Misuse, PeerViolation, Refused
from clean_room.protocols import (
    AlignTerms,
    ColumnTerms,
    EstimateTerms,
    MeasureTerms,
    OverlapTerms,
    Padding,
    parse_terms,
)
from clean_room.protocols.terms import PLAIN_MODULUS

GIVEN: dict[str, Any] = {"job": "j", "purpose": "overlap.reach", "analyst": "bank", "contributor": "shop"}
MANY = tuple(str(n) for n in range(300))
COLUMNS = (ColumnTerms("amount", -5, 100, 100), ColumnTerms("visits", 0, 9))
EXAMPLES = [
    OverlapTerms(**GIVEN, analyst_segments=("年轻", "old"), epsilon=0.5, delta=1e-6, dummies=40),
    MeasureTerms(**GIVEN, columns=COLUMNS, padding=Padding(10, 4)),
    EstimateTerms(**GIVEN, step=35, period="2026-11", sample="ab" * 16),
    AlignTerms(**GIVEN, kind="phone", profile="uid2-1"),
]
each = pytest.mark.parametrize("terms", EXAMPLES, ids=lambda t: t.PROTOCOL)


@each
def test_reading_undoes_writing(terms: Any) -> None:
    assert parse_terms(terms.to_bytes()) == terms
    assert type(parse_terms(memoryview(terms.to_bytes()))) is type(terms)


@each
def test_any_other_spelling_of_the_same_terms_is_a_violation(terms: Any) -> None:
    members = json.loads(terms.to_bytes())
    for other in (
        json.dumps(members).encode(), terms.to_bytes() + b" ", terms.to_bytes() + b"\n",
        b"\xef\xbb\xbf" + terms.to_bytes(),
        terms.to_bytes().replace(b'"job":"j"', b'"job":"j","job":"j"'),
    ):  # fmt: skip
        with pytest.raises(PeerViolation):
            parse_terms(other)


@each
def test_a_member_missing_added_or_of_another_type_is_a_violation(terms: Any) -> None:
    members = json.loads(terms.to_bytes())
    for name in members:
        short = {k: v for k, v in members.items() if k != name}
        with pytest.raises(PeerViolation):
            parse_terms(rfc8785.dumps(short))
        for value in (None, 1.5, [], {}, [[]], "x" * 300, True, -1):
            if value != members[name] and not (name == "collaboration" and value == ""):
                try:
                    again = parse_terms(rfc8785.dumps({**members, name: value}))
                except PeerViolation:
                    continue
                assert name in {"epsilon", "delta"} and value == 1.5, name
                assert again != terms
    with pytest.raises(PeerViolation):
        parse_terms(rfc8785.dumps({**members, "extra": 1}))


@given(st.binary(max_size=200))
def test_noise_is_a_violation(noise: bytes) -> None:
    with pytest.raises(PeerViolation):
        parse_terms(noise)


@pytest.mark.parametrize(
    "bad",
    [b"[" * 100_000, b"null", b"[]", b'{"protocol":[]}', b'{"protocol":"overlap/1"}', b"1e9", b" " * 2**21],
    ids=lambda b: b[:20].decode(),
)  # fmt: skip
def test_hostile_documents_are_violations(bad: bytes) -> None:
    with pytest.raises(PeerViolation):
        parse_terms(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"job": ""}, {"job": 7}, {"purpose": "x" * 257}, {"analyst_segments": ()},
        {"analyst_segments": ["a"]}, {"analyst_segments": ("a", "a")}, {"contributor_segments": MANY[:257]},
        {"dummies": 3}, {"dummies": -2}, {"dummies": 2.0}, {"epsilon": -1.0}, {"epsilon": float("nan")},
        {"delta": float("inf")}, {"padding": 5},
        {"analyst_segments": MANY[:200], "contributor_segments": MANY[:200]},
    ],
    ids="-".join,
)  # fmt: skip
def test_terms_that_cannot_be_meant_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(Misuse):
        OverlapTerms(**{**GIVEN, **bad})


def test_columns_that_cannot_be_meant_are_refused() -> None:
    for columns in ((), (COLUMNS[0], COLUMNS[0]), [COLUMNS[0]]):
        with pytest.raises(Misuse):
            MeasureTerms(**GIVEN, columns=columns)  # type: ignore[arg-type]
    for bad in (("", 0, 1, 1), ("a", 2, 1, 1), ("a", 0, 1, 0), ("a", 0, 1 << 41, 1), ("a", 0.5, 1, 1)):
        with pytest.raises(Misuse):
            ColumnTerms(*bad)  # type: ignore[arg-type]


def test_sums_that_could_wrap_around_are_refused_before_they_start() -> None:
    terms = MeasureTerms(**GIVEN, columns=(ColumnTerms("a", -(1 << 30), 10),))
    most = (PLAIN_MODULUS // 4 - 1) // (1 << 30)
    terms.check_rows((1, most))
    with pytest.raises(Refused) as caught:
        terms.check_rows((1, most + 1))
    assert caught.value.code == "bounds_exceeded"
    OverlapTerms(**GIVEN).check_rows((1 << 40,))


def test_fixed_point_rounds_clips_and_refuses_what_is_not_a_number() -> None:
    column = ColumnTerms("amount", -5, 100, 100)
    assert column.fixed_point(np.array([0.014, 0.016, 7.0, -1.0, np.inf, -np.inf])).tolist() == [
        1,
        2,
        100,
        -5,
        100,
        -5,
    ]
    assert column.fixed_point(np.array([], dtype=np.int32)).dtype == np.int64
    with pytest.raises(Misuse):
        column.fixed_point(np.array([1.0, np.nan]))


@given(st.integers(0, 1 << 27), st.integers(1, 5000), st.sampled_from([1, 2, 4, 16, 64, 256]))
def test_size_classes_hold_cost_little_and_are_their_own_class(n: int, minimum: int, steps: int) -> None:
    padding = Padding(minimum, steps)
    size = padding.padded(n)
    assert size >= max(n, minimum)
    assert size == minimum or size - n <= max(n // steps, 1)
    assert padding.padded(size) == size
    assert padding.padded(n + 1) >= size


@pytest.mark.parametrize("bad", [(0, 16), (1, 0), (1, 3), (1, 15), (1 << 25, 16), (1.5, 16)])
def test_size_classes_that_would_not_be_their_own_class_are_refused(bad: Any) -> None:
    with pytest.raises(Misuse):
        Padding(*bad)


def test_size_classes_are_few() -> None:
    assert len({Padding().padded(n) for n in range(0, 1 << 16, 7)}) <= 1 + 16 * 8
    assert Padding().padded(1_000_000) == 1_015_808


def test_dummies_are_bounded_over_all_cells(overlap_terms: Any) -> None:
    overlap_terms(20, 20, dummies=10_000)
    with pytest.raises(Misuse) as caught:
        overlap_terms(20, 20, dummies=10_002)
    assert caught.value.code == "too_many_dummies"
