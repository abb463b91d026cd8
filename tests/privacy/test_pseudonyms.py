from __future__ import annotations

import base64
import hmac
import pickle
import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import BadInput, Misuse
from privacy.keys import hkdf_sha256, label_bytes
from privacy.pseudonyms import Pseudonymiser

KEY = bytes(range(32))


def make(**changes: object) -> Pseudonymiser:
    settings: dict[str, object] = {"purpose": "mask", "domain": "phone"} | changes
    return Pseudonymiser(KEY, **settings)  # type: ignore[arg-type]


@given(value=st.binary(max_size=200))
def test_a_token_is_what_is_documented(value: bytes) -> None:
    info = label_bytes("comity/pseudonym/v1", "mask", "phone", "shop", "2")
    digest = hmac.digest(hkdf_sha256(KEY, info=info), value, "sha256")[:20]
    expected = "t2_" + base64.b32encode(digest).decode().lower()
    assert make(partner="shop", version=2).token(value) == expected
    assert re.fullmatch("t2_[a-z2-7]{32}", expected)


def test_tokens_join_only_within_key_purpose_domain_partner_and_version() -> None:
    same = make().token(b"+8613800138000")
    assert make().token(b"+8613800138000") == same
    others = [
        make(purpose="other"), make(domain="email"), make(partner="shop"), make(version=2),
        make(purpose="maskp", domain="hone"), Pseudonymiser(bytes(32), purpose="mask", domain="phone"),
    ]  # fmt: skip
    tokens = {p.token(b"+8613800138000")[3:] for p in others}
    assert len(tokens) == len(others) and same[3:] not in tokens


@given(values=st.lists(st.none() | st.binary(max_size=12), max_size=30))
def test_a_column_equals_its_values_one_by_one(values: list[bytes | None]) -> None:
    p = make()
    expected = [None if v is None else p.token(v) for v in values]
    column = pa.array(values, pa.binary())
    for form in (column, column.dictionary_encode(), pa.chunked_array([column, column.slice(0, 0)])):
        tokens = p.tokens(form)
        assert tokens.to_pylist() == expected and tokens.type == pa.string()
        tokens.validate(full=True)


def test_text_columns_and_slices_and_null_columns() -> None:
    p = make()
    assert p.tokens(pa.array(["x", "a", None]).slice(1)).to_pylist() == [p.token(b"a"), None]
    assert p.tokens(pa.nulls(2)).to_pylist() == [None, None]
    assert p.tokens(pa.array([], pa.binary())).to_pylist() == []
    dictionary = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1, None]), pa.array([None, "a"]))
    assert p.tokens(dictionary).to_pylist() == [None, p.token(b"a"), p.token(b"a"), None]


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([1.5]), pa.array([True])])
def test_columns_of_other_types_are_refused(column: pa.Array) -> None:
    with pytest.raises(BadInput):
        make().tokens(column)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pseudonymiser(b"short", purpose="a", domain="b"),
        lambda: make(purpose=""),
        lambda: make(domain=""),
        lambda: make(version=0),
    ],
)
def test_misuse(build: object) -> None:
    with pytest.raises(Misuse):
        build()  # type: ignore[operator]


def test_the_key_is_neither_shown_nor_pickled() -> None:
    assert repr(make()) == "Pseudonymiser(purpose='mask', domain='phone', partner='', version=1)"
    with pytest.raises(Misuse):
        pickle.dumps(make())


def test_many_values_have_many_tokens() -> None:
    values = pa.array([f"+86138{i:08d}" for i in range(20_000)])
    assert len(set(make().tokens(values).to_pylist())) == 20_000
