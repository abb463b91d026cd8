from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import PolicyError, UnknownEntity
from privacy.masking import Policy

FULL = """
version: 1
keys: {customer: local:customer}
columns:
  mobile: {class: cn_mobile, op: token, key: customer}
  name: {class: person, op: mask, style: surname}
  age: {op: bucket, width: 5}
  birth: {op: bucket, edges: [1980-01-01, 1990-01-01]}
  note: {op: text, default: token, key: customer}
  city: {op: keep}
  id: {op: drop}
  secret: {op: redact, with: "-"}
"""


def columns(line: str) -> str:
    return f"version: 1\nkeys: {{customer: local:customer}}\ncolumns:\n  a: {line}\n"


def test_a_full_policy_is_read() -> None:
    policy = Policy.parse(FULL)
    assert list(policy.columns) == ["mobile", "name", "age", "birth", "note", "city", "id", "secret"]
    assert policy.columns["mobile"].operator.options() == {
        "key": "local:customer",
        "domain": "phone",
        "purpose": "mask",
        "partner": "",
        "region": "CN",
    }


def test_the_hash_is_of_the_meaning_not_of_the_spelling() -> None:
    reference = Policy.parse(FULL).hash
    same = [
        FULL + "# a comment\n",
        FULL.replace("customer: local", "c: local").replace("key: customer", "key: c"),
        FULL.replace("key: customer}", "key: customer, domain: phone}", 1),
        FULL.replace("width: 5", "width: 5.0"),
        FULL.replace("  city: {op: keep}\n", "").replace("columns:\n", "columns:\n  city: {op: keep}\n"),
        FULL.replace("mask, style: surname", "mask"),
    ]
    assert {Policy.parse(text).hash for text in same} == {reference}
    other = [
        FULL.replace("local:customer", "local:other"),
        FULL.replace("width: 5", "width: 10"),
        FULL.replace("city: {op: keep}", "city: {op: drop}"),
        FULL.replace("class: person", "class: email"),
        FULL.replace("key: customer}", "key: customer, partner: shop}", 1),
        FULL.replace('"-"', '"--"'),
    ]
    hashes = {Policy.parse(text).hash for text in other}
    assert len(hashes) == len(other) and reference not in hashes


REFUSED = [
    # text, what the message must name
    ("", "the policy"), ("[]", "the policy"), ("a", "the policy"), ("version: 1", "columns"),
    ("version: 2\ncolumns: {a: {op: keep}}", "version"),
    ("version: '1'\ncolumns: {a: {op: keep}}", "version"),
    ("version: true\ncolumns: {a: {op: keep}}", "version"), ("columns: {a: {op: keep}}", "version"),
    ("version: 1\ncolumns: {}", "columns"), ("version: 1\ncolumns: [a]", "columns"),
    ("version: 1\nextra: 1\ncolumns: {a: {op: keep}}", "extra"),
    ("version: 1\nrisk: {k: 10}\ncolumns: {a: {op: keep}}", "risk"),
    ("version: 1\nallowed: [x]\ncolumns: {a: {op: keep}}", "allowed"),
    ("version: 1\nkeys: {c: kms://k2}\ncolumns: {a: {op: keep}}", "keys.c"),
    ("version: 1\nkeys: {c: 5}\ncolumns: {a: {op: keep}}", "keys.c"),
    ("version: 1\nkeys: {c: 'local:../x'}\ncolumns: {a: {op: keep}}", "keys.c"),
    ("version: 1\nkeys: []\ncolumns: {a: {op: keep}}", "keys"),
    ("version: 1\ncolumns:\n  a: {op: keep}\n  a: {op: drop}", "line 4"),
    ("version: 1\ncolumns:\n  a: {op: keep, op: drop}", "line 3"),
    ("version: 1\nversion: 1\ncolumns: {a: {op: keep}}", "line 2"),
    ("version: 1\ncolumns:\n  a: &x {op: keep}\n  b: *x", "line 4"),
    ("version: 1\ncolumns:\n  a: {<<: {op: keep}}", "line 3"),
    ("version: 1\ncolumns:\n  ? [a]\n  : {op: keep}", "line 3"),
    ("version: 1\ncolumns: {yes: {op: keep}}", "columns"),
    ("version: 1\ncolumns: {2024: {op: keep}}", "columns"),
    ("version: 1\ncolumns: {a: {op: keep}", "line"), ("a: b: c", "line 1"), ("\x00", "policy"),
    ("\t- x", "line 1"),
    ("!!python/object/apply:os.system ['true']", "line 1"), ("[" * 2000, "policy"),
    (columns("keep"), "columns.a"), (columns("{}"), "columns.a"), (columns("{op: hash}"), "columns.a"),
    (columns("{op: [keep]}"), "columns.a"), (columns("{op: fpe_ff1, key: customer}"), "columns.a"),
    (columns("{op: keep, key: customer}"), "key"), (columns("{op: keep, extra: 1}"), "extra"),
    (columns("{op: token}"), "columns.a"), (columns("{op: token, domain: phone}"), "key"),
    (columns("{op: token, key: other, domain: phone}"), "key"),
    (columns("{op: token, key: customer}"), "domain"),
    (columns("{op: token, key: 5, domain: phone}"), "key"),
    (columns("{op: token, key: customer, domain: phone, region: XX}"), "region"),
    (columns("{op: token, key: customer, domain: ''}"), "domain"),
    (columns("{op: mask}"), "style"), (columns("{op: mask, style: other}"), "style"),
    (columns("{class: cn_address, op: mask}"), "style"), (columns("{op: mask, style: 5}"), "style"),
    (columns("{op: bucket}"), "columns.a"), (columns("{op: bucket, width: 5, edges: [1]}"), "columns.a"),
    (columns("{op: bucket, width: 0}"), "columns.a"), (columns("{op: bucket, width: -1}"), "columns.a"),
    (columns("{op: bucket, width: .nan}"), "columns.a"), (columns("{op: bucket, width: .inf}"), "columns.a"),
    (columns("{op: bucket, width: 5m}"), "columns.a"), (columns("{op: bucket, width: 0y}"), "columns.a"),
    (columns("{op: bucket, width: true}"), "columns.a"), (columns("{op: bucket, width: [5]}"), "columns.a"),
    (columns("{op: bucket, edges: []}"), "columns.a"), (columns("{op: bucket, edges: [2, 1]}"), "columns.a"),
    (columns("{op: bucket, edges: [1, 1]}"), "columns.a"), (columns("{op: bucket, edges: 5}"), "columns.a"),
    (columns("{op: bucket, edges: [1990-01-01, 5]}"), "columns.a"),
    (columns("{op: bucket, edges: [a]}"), "columns.a"),
    (columns("{op: bucket, edges: [1990-13-01]}"), "policy"),
    (columns("{op: text, default: hash}"), "default"),
    (columns("{op: text, default: token}"), "key"), (columns("{op: text, key: customer}"), "key"),
    (columns("{op: redact, with: 5}"), "with"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place"), REFUSED)
def test_a_policy_that_cannot_be_followed_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(PolicyError) as error:
        Policy.parse(text)
    assert place in str(error.value)


def test_an_unknown_class_is_an_unknown_entity() -> None:
    for line in ("{class: passport, op: keep}", "{class: [x], op: keep}"):
        with pytest.raises(UnknownEntity):
            Policy.parse(columns(line))


def test_huge_policies_are_refused() -> None:
    with pytest.raises(PolicyError):
        Policy.parse("#" * 1_000_001)


@given(text=st.text(max_size=120))
def test_arbitrary_text_never_fails_otherwise(text: str) -> None:
    with pytest.raises(PolicyError):
        Policy.parse(text)


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("\ufeff" + FULL, "utf-8")
    assert Policy.load(path).hash == Policy.parse(FULL).hash
    path.write_bytes(b"\xff\xfe")
    for bad in (path, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(PolicyError):
            Policy.load(bad)
