from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import BadInput
from privacy.keys import KeyRing
from privacy.masking import Policy
from privacy.masking.operators import BadCell, MaskedColumn
from privacy.masking.styles import HIDDEN, STYLES

RING = KeyRing.from_root(bytes(range(32)))


def run(line: str, column: pa.Array) -> MaskedColumn:
    text = f"version: 1\nkeys: {{k: local:k}}\ncolumns:\n  a: {line}\n"
    return Policy.parse(text).columns["a"].operator.bind(RING)(column)


def out(line: str, values: list[object], kind: pa.DataType | None = None) -> list[object]:
    masked = run(line, pa.array(values, kind)).values
    assert masked is not None
    return masked.to_pylist()


@pytest.mark.parametrize(
    ("style", "value", "masked"),
    [
        ("mobile", "13812341234", "138****1234"), ("mobile", "+86 138-1234-1234", "138****1234"),
        ("mobile", "１３８１２３４１２３４", "138****1234"), ("mobile", "010-62345678", HIDDEN),
        ("mobile", "n/a", HIDDEN),
        ("mobile", "", HIDDEN), ("mobile", "+44 20 7946 0958", HIDDEN),
        ("surname", "张三", "张**"), ("surname", "张三丰", "张**"), ("surname", "欧阳锋", "欧阳**"),
        ("surname", "欧阳", "欧**"), ("surname", " 李雷 ", "李**"), ("surname", "Smith", "S***"),
        ("surname", "éric", "é***"), ("surname", "", HIDDEN), ("surname", "123", HIDDEN),
        ("surname", "\u200b张三", "张**"),
        ("resident_id", "11010519491231002X", "11010519491231****"),
        ("resident_id", "11010519491231002x", "11010519491231****"),
        ("resident_id", "110105491231002", HIDDEN), ("resident_id", "x", HIDDEN),
        ("card", "6222020212345678", "622202******5678"),
        ("card", "6222 0202 1234 5678 123", "622202*********8123"),
        ("card", "1234567890123", HIDDEN), ("card", "abc", HIDDEN),
        ("email", "zhang.san@example.com", "z***@example.com"),
        ("email", "Zhang@Example.com", "z***@example.com"),
        ("email", "a@b", HIDDEN), ("email", "李雷@example.com", "李***@example.com"),
    ],
)  # fmt: skip
def test_styles(style: str, value: str, masked: str) -> None:
    assert out(f"{{op: mask, style: {style}}}", [value, None]) == [masked, None]


@given(style=st.sampled_from(sorted(STYLES)), value=st.text(max_size=40))
def test_no_style_shows_a_whole_value(style: str, value: str) -> None:
    masked = STYLES[style](value)
    assert "**" in masked and (len(value) < 2 or value not in masked or set(value) == {"*"})


def test_integers_can_be_masked() -> None:
    assert out("{class: cn_mobile, op: mask}", [13812341234, None]) == ["138****1234", None]


def test_tokens_join_across_spellings_and_not_across_partners() -> None:
    line = "{class: cn_mobile, op: token, key: k}"
    a, b, c, d = out(line, ["13800138000", "+86 138-0013-8000", "n/a", None])
    assert a == b and str(a).startswith("t1_") and c is None and d is None
    masked = run(line, pa.array(["13800138000", "n/a", "n/a", None]))
    assert (masked.missing, dict(masked.rejected)) == (1, {"not_a_number": 2})
    assert out("{op: token, key: k, domain: phone}", ["13800138000"]) == [a]
    assert out("{class: cn_mobile, op: token, key: k, partner: shop}", ["13800138000"]) != [a]
    assert out("{class: cn_mobile, op: token, key: k, purpose: other}", ["13800138000"]) != [a]


def test_tokens_in_text_equal_tokens_in_columns() -> None:
    line = "{class: %s, op: token, key: k}"
    written = {
        "cn_mobile": "13800138000",
        "email": "zhang@example.com",
        "cn_resident_id": "11010519491231002X",
        "bank_card": "4111111111111111",
    }
    tokens = [str(out(line % c, [v])[0]) for c, v in written.items()]
    text = "，".join(written.values())
    assert out("{op: text, default: token, key: k}", [text, None]) == ["，".join(tokens), None]


@pytest.mark.parametrize(
    ("domain", "values", "rejected"),
    [
        (
            "resident_id",
            ["110105 19491231 002x", "１１０１０５１９４９１２３１００２Ｘ", "11010519491231002X"],
            {},
        ),
        ("card", ["4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111"], {}),
        ("loyalty", [" A-17 ", "Ａ-17", "A-17"], {}),
    ],
)
def test_spellings_of_one_value_have_one_token(
    domain: str, values: list[str], rejected: dict[str, int]
) -> None:
    masked = run(f"{{op: token, key: k, domain: {domain}}}", pa.array(values))
    assert masked.values is not None
    assert len(set(masked.values.to_pylist())) == 1 and dict(masked.rejected) == rejected


def test_what_is_no_value_of_its_domain_is_empty() -> None:
    for domain, values in {
        "resident_id": ["123", "", " "],
        "card": ["12ab", ""],
        "loyalty": ["", "  ", "x" * 5000],
    }.items():
        masked = run(f"{{op: token, key: k, domain: {domain}}}", pa.array(values))
        assert masked.values is not None and masked.values.to_pylist() == [None] * len(values)
        assert sum(masked.rejected.values()) == len(values)


@pytest.mark.parametrize(
    ("options", "values", "labels"),
    [
        ("width: 5", [23, 25, 0, -1, None], ["[20, 25)", "[25, 30)", "[0, 5)", "[-5, 0)", None]),
        ("width: 0.1", [0.3, 0.25], ["[0.3, 0.4)", "[0.2, 0.3)"]),
        ("width: 5", ["23", " 24.9 ", "-0", "1e2"], ["[20, 25)", "[20, 25)", "[0, 5)", "[100, 105)"]),
        ("width: 1000", ["123456789012345678901234567890"],
         ["[123456789012345678901234567000, 123456789012345678901234568000)"]),
        ("edges: [18, 30, 65]", [17, 18, 29.9, 65, 99], ["<18", "[18, 30)", "[18, 30)", ">=65", ">=65"]),
        ("width: 5y", ["1992-03-04", "1990/1/1", "19941231", "1995-01-01T00:00:00Z"],
         ["1990-1994", "1990-1994", "1990-1994", "1995-1999"]),
        ("width: 1y", ["1992-03-04"], ["1992"]),
        ("edges: [1990-01-01, 2000-01-01]", ["1989-12-31", "1990-01-01", "2000-01-01"],
         ["<1990-01-01", "[1990-01-01, 2000-01-01)", ">=2000-01-01"]),
        ("edges: ['1990-01-01']", ["1989-12-31"], ["<1990-01-01"]),
        ("width: 10y", [dt.date(1992, 3, 4), None], ["1990-1999", None]),
        ("width: 10y", [dt.datetime(1992, 3, 4, 23, 59)], ["1990-1999"]),
    ],
)  # fmt: skip
def test_buckets(options: str, values: list[object], labels: list[object]) -> None:
    assert out(f"{{op: bucket, {options}}}", values) == labels


@pytest.mark.parametrize(
    ("options", "values", "row", "problem"),
    [
        ("width: 5", [1.0, float("nan")], 1, "NaN"), ("width: 5", [float("inf")], 0, "infinite"),
        ("width: 5", ["1", "x"], 1, "number"), ("width: 5", ["1", "NaN"], 1, "NaN"),
        ("width: 5", ["-Infinity"], 0, "NaN"),
        ("width: 5", ["1e999999999"], 0, "large"), ("width: 5", ["1" * 101], 0, "number"),
        ("width: 5", [""], 0, "number"),
        ("width: 5y", ["x"], 0, "date"), ("width: 5y", ["1990-02-30"], 0, "date"),
        ("width: 5y", ["x" * 1000], 0, "date"),
        ("width: 5y", [1990], 0, "date"), ("edges: [1]", ["x"], 0, "number"),
        ("edges: [1990-01-01]", ["1"], 0, "date"),
    ],
)  # fmt: skip
def test_what_has_no_bucket_is_named_by_its_row(
    options: str, values: list[object], row: int, problem: str
) -> None:
    with pytest.raises(BadCell) as bad:
        run(f"{{op: bucket, {options}}}", pa.array(values))
    assert bad.value.row == row and problem in bad.value.problem


@pytest.mark.parametrize(
    ("line", "column"),
    [
        ("{op: mask, style: mobile}", pa.array([1.5])),
        ("{op: token, key: k, domain: phone}", pa.array([[1]])),
        ("{op: text}", pa.array([b"x"])),
        ("{op: bucket, width: 5}", pa.array([True])),
        ("{op: bucket, width: 5}", pa.array([["a"]])),
    ],
)
def test_columns_of_the_wrong_type(line: str, column: pa.Array) -> None:
    with pytest.raises(BadInput):
        run(line, column)


def test_redact_keep_drop() -> None:
    assert out("{op: redact}", ["a", None]) == [None, None]
    assert out("{op: redact, with: x}", [1, None]) == ["x", "x"]
    assert out("{op: keep}", [1, None]) == [1, None]
    assert run("{op: drop}", pa.array([1])).values is None
