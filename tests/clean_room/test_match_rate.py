"""The match-rate doctor: each way to lose matches at home is found, and nothing else is."""

from __future__ import annotations

import base64
from hashlib import md5, sha256

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clean_room.match_rate import Diagnosis, Severity, examine
from privacy.errors import Misuse

MAILS = [f"person{i}@mail.example.cn" for i in range(200)]


def column(values: list[str | None]) -> pa.StringArray:
    return pa.array(values, pa.string())


def codes(found: Diagnosis) -> dict[str, Severity]:
    return {finding.code: finding.severity for finding in found.findings}


def test_clear_distinct_addresses_are_healthy() -> None:
    found = examine({"email": column([*MAILS, None])})
    assert found.healthy and not found.findings
    (coverage,) = found.coverage
    assert (found.rows, found.reachable) == (201, 200)
    assert (coverage.present, coverage.usable, coverage.distinct) == (200, 200, 200)


def hexed(value: str) -> str:
    return sha256(value.encode()).hexdigest()


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("hashed", hexed),
        ("hashed", lambda v: hexed(v).upper()),
        ("base64_hash", lambda v: base64.b64encode(sha256(v.encode()).digest()).decode()),
        ("base64_of_hex", lambda v: base64.b64encode(hexed(v).encode()).decode()),
        ("other_hash", lambda v: md5(v.encode(), usedforsecurity=False).hexdigest()),
    ],
)
def test_a_hashed_column_stops_the_show(code: str, spoil: object) -> None:
    found = examine({"email": column([spoil(v) for v in MAILS])})  # type: ignore[operator]
    assert codes(found)[code] is Severity.STOP
    assert found.findings[0].severity is Severity.STOP and not found.healthy


@pytest.mark.parametrize("nothing", ["", "null", "nan"])
@pytest.mark.parametrize("times", [1, 2])
def test_hashes_of_nothing_are_named(nothing: str, times: int) -> None:
    for _ in range(times):
        nothing = hexed(nothing)
    found = examine({"email": column([nothing, *MAILS])})
    assert codes(found)["hash_of_nothing"] is Severity.WARN


def test_placeholders_duplicates_and_switchboards() -> None:
    found = examine(
        {
            "email": column(MAILS + ["noemail@shop.cn", "test@example.com"] * 5 + MAILS[:10]),
            "phone": column([f"1391234{i:04d}" for i in range(190)] + ["13912349999"] * 30),
        }
    )
    assert codes(found)["placeholder"] is Severity.WARN
    assert codes(found)["duplicates"] in (Severity.NOTE, Severity.WARN)
    shared = next(f for f in found.findings if f.code == "shared_identifier")
    assert (shared.kind, shared.rows) == ("phone", 30)


def test_numbers_of_another_region_are_a_warning_and_with_a_country_code_are_not() -> None:
    french = [f"06123{i:05d}" for i in range(100, 200)]
    found = examine({"phone": column(french)}, region="CN")
    assert codes(found)["no_country_code"] is Severity.STOP
    assert codes(examine({"phone": column([f"1391234{i:04d}" for i in range(100)])})) == {
        "no_country_code": Severity.NOTE
    }
    assert codes(examine({"phone": column([f"+861391234{i:04d}" for i in range(100)])})) == {}


def test_reachable_counts_rows_with_any_key() -> None:
    found = examine({"email": column(["a@b.cn", None, None, "nonsense"]),
                     "phone": column([None, "13912345678", None, None])})  # fmt: skip
    assert (found.rows, found.reachable) == (4, 2)


def test_an_empty_key_is_named() -> None:
    assert codes(examine({"email": column([None, None])})) == {"empty_key": Severity.STOP}


@pytest.mark.parametrize("columns", [{}, {"email": ["a"], "phone": []}, {"postcode": ["1"]}])
def test_what_cannot_be_examined_is_misuse(columns: dict[str, list[str]]) -> None:
    with pytest.raises(Misuse):
        examine({kind: column(list(values)) for kind, values in columns.items()})


@given(st.lists(st.none() | st.text(max_size=40), max_size=30))
def test_no_finding_repeats_a_value(values: list[str | None]) -> None:
    found = examine({"email": column(values), "phone": column(values)})
    said = " ".join(f.detail + f.advice + f.code for f in found.findings)
    for value in values:
        if value and len(value) > 12:
            assert value not in said
