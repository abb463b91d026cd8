"""Canonical forms. Vectors from outside name their source; the others state this project's own rules."""

from __future__ import annotations

import hashlib
import random
import string

import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import BadInput, Misuse
from privacy.identifiers import (
    PROFILES,
    CanonicalColumn,
    Kind,
    Rejected,
    _by_library,
    _compact,
    canonical,
    canonical_column,
    match_key,
)

# UID2 documentation, "Normalization and Encoding"
# (unifiedid.com/docs/getting-started/gs-normalization-encoding).
UID2_EMAIL = [
    ("JANESaoirse@gmail.com", b"janesaoirse@gmail.com", b"ku4mBX7Z3qJTXWyLFB1INzkyR2WZGW4ANSJUiW21iI8="),
    ("user@example.com", b"user@example.com", b"tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="),
]


@pytest.mark.parametrize(("written", "form", "key"), UID2_EMAIL)
def test_uid2_published_emails(written: str, form: bytes, key: bytes) -> None:
    assert canonical("email", written, "uid2-1") == form
    assert match_key(form, "uid2-1") == key


def test_uid2_published_phone() -> None:
    # The same page: raw "1 (234) 567-8901" is normalised to +12345678901. The number is of a shape the
    # numbering plan does not assign, so the published hash is checked on the published form.
    assert match_key(b"+12345678901", "uid2-1") == b"EObwtHBUqDNZR33LNSMdtt5cafsYFuGmuY4ZLenlue4="


EMAIL_RULES = [
    # written, profile → form
    ("  User@Example.COM ", "pair-1", b"user@example.com"),
    ("Jane.Doe+x@Gmail.com", "pair-1", b"jane.doe+x@gmail.com"),
    ("Jane.Doe+x@Gmail.com", "admap-1", b"jane.doe+x@gmail.com"),
    ("Jane.Doe+x@Gmail.com", "meta-1", b"jane.doe+x@gmail.com"),
    ("Jane.Doe+x@Gmail.com", "uid2-1", b"janedoe@gmail.com"),
    ("Jane.Doe+x@Googlemail.com", "uid2-1", b"jane.doe+x@googlemail.com"),
    ("Jane.Doe+x@example.com", "uid2-1", b"jane.doe+x@example.com"),
    ("Jane.Doe+x@Gmail.com", "google-1", b"janedoe@gmail.com"),
    ("Jane.Doe+x@Googlemail.com", "google-1", b"janedoe@googlemail.com"),
    ("j a n e@ex ample.com", "google-1", b"jane@example.com"),
    ("Jane.Doe+x@Gmail.com", "comity-1", b"janedoe@gmail.com"),
    ("Jane.Doe+x@Googlemail.com", "comity-1", b"janedoe@gmail.com"),
    ("ｗａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ", "comity-1", b"wang@example.com"),
    ("wang@例子.中国", "comity-1", b"wang@xn--fsqu00a.xn--fiqs8s"),
    ("wang@例子。中国", "comity-1", b"wang@xn--fsqu00a.xn--fiqs8s"),
    ("wang@XN--FSQU00A.xn--fiqs8s", "comity-1", b"wang@xn--fsqu00a.xn--fiqs8s"),
    ("wa\u200bng@exam\u200dple.com\ufeff", "comity-1", b"wang@example.com"),
    ("李雷@example.com", "comity-1", "李雷@example.com".encode()),
    ("Müller@example.de", "comity-1", "müller@example.de".encode()),
    ("Mu\u0308ller@example.de", "comity-1", "müller@example.de".encode()),
    ("a..b@docomo.ne.jp", "comity-1", b"a..b@docomo.ne.jp"),  # real, though RFC 5321 would not have it
    ("o'neil@example.com", "comity-1", b"o'neil@example.com"),
]


@pytest.mark.parametrize(("written", "profile", "form"), EMAIL_RULES)
def test_email_rules(written: str, profile: str, form: bytes) -> None:
    assert canonical("email", written, profile) == form


REJECTED_EMAILS = [
    ("", "empty"), ("   ", "empty"), ("\u200b", "empty"), ("n/a", "malformed"), ("@example.com", "malformed"),
    ("user@", "malformed"), ("a b@example.com", "malformed"), ("a@b@example.com", "malformed"),
    ('"a b"@example.com', "malformed"), ("user@localhost", "bad_domain"), ("user@-x.com", "bad_domain"),
    ("user@x..com", "bad_domain"), ("user@x.com.", "bad_domain"), ("user@" + "a" * 64 + ".com", "bad_domain"),
    ("user@" + "a." * 130 + "com", "bad_domain"), ("a" * 65 + "@example.com", "too_long"),
    ("a" * 2000, "too_long"), ("user\x00@example.com", "malformed"), ("user\n@example.com", "malformed"),
    ("\ud800@example.com", "not_text"), ("+tag@gmail.com", "empty_local"), ("...@gmail.com", "empty_local"),
    ("user@exa mple.com", "bad_domain"), ("user@xn--a.com", "bad_domain"),
]  # fmt: skip


@pytest.mark.parametrize(("written", "reason"), REJECTED_EMAILS)
def test_what_is_no_email_is_rejected_with_a_reason(written: str, reason: str) -> None:
    assert canonical("email", written) == Rejected(reason)


def test_pair_takes_ascii_only() -> None:
    assert canonical("email", "müller@example.de", "pair-1") == Rejected("not_ascii")


PHONE_RULES = [
    "13800138000", "138 0013 8000", "138-0013-8000", "138.0013.8000", "(138)00138000", "+86 13800138000",
    "+86-138-0013-8000", "86 138 0013 8000", "8613800138000", "0086 138 0013 8000", "(+86) 138 0013 8000",
    "１３８００１３８０００", "＋８６　１３８００１３８０００", "138\u200b0013\u200b8000",
    "\u202a13800138000\u202c",
    "138–0013—8000", "１３８－００１３－８０００", "١٣٨٠٠١٣٨٠٠٠", " 13800138000\t", "013800138000",
]  # fmt: skip


@pytest.mark.parametrize("written", PHONE_RULES)
def test_one_mobile_many_spellings(written: str) -> None:
    assert canonical("phone", written) == b"+8613800138000"
    assert canonical("phone", written, "meta-1") == b"8613800138000"


@pytest.mark.parametrize(
    ("written", "region", "form"),
    [
        ("+44 (0)20 7946 0958", "CN", b"+442079460958"),
        ("020 7946 0958", "GB", b"+442079460958"),
        ("(415) 555-2671", "US", b"+14155552671"),
        ("010-62345678", "CN", b"+861062345678"),
        ("+852 5123 4567", "CN", b"+85251234567"),
        ("+39 06 6982 0000", "CN", b"+390669820000"),
        ("+86 138 0013 8000", "US", b"+8613800138000"),
    ],
)
def test_numbers_of_other_regions(written: str, region: str, form: bytes) -> None:
    assert canonical("phone", written, region=region) == form


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty"), ("  ", "empty"), ("n/a", "not_a_number"), ("1-800-FLOWERS", "not_a_number"),
        ("订单13800138000", "not_a_number"), ("13800138000 ext 5", "not_a_number"), ("12", "not_a_number"),
        ("13800138000/13900139000", "not_a_number"), ("10000000000", "invalid_number"),
        ("1" * 2000, "too_long"),
        ("12345678901", "invalid_number"), ("+999 123 456 789", "invalid_number"),
        ("1380013800", "invalid_number"),
        ("13800138000\x00", "not_a_number"), ("138+00138000", "not_a_number"),
        ("++8613800138000", "not_a_number"),
    ],
)  # fmt: skip
def test_what_is_no_phone_is_rejected_with_a_reason(written: str, reason: str) -> None:
    assert canonical("phone", written) == Rejected(reason)


@pytest.mark.parametrize("profile", PROFILES)
def test_match_keys_have_the_profiles_encoding(profile: str) -> None:
    form = b"user@example.com"
    digest = hashlib.sha256(form)
    expected = {"hex": digest.hexdigest().encode(), "bytes": form}
    key = match_key(form, profile)
    assert key == expected.get(PROFILES[profile].encoding, key)
    assert {"hex": 64, "base64": 44, "bytes": len(form)}[PROFILES[profile].encoding] == len(key)


def test_own_misuse_is_told_from_bad_values() -> None:
    for call in (
        lambda: canonical("fax", "1"),
        lambda: canonical("email", "a@b.co", "nobody-1"),
        lambda: canonical("phone", "1", region="XX"),
        lambda: match_key(b"", "nobody-1"),
    ):
        with pytest.raises(Misuse):
            call()


# --------------------------------------------------------------------------- fast paths and columns


@pytest.mark.parametrize("region", ["CN", "US", "GB", "HK"])
def test_the_mobile_fast_path_agrees_with_libphonenumber(region: str) -> None:
    """Every prefix of four digits, with several spellings: fast path, library and column say the same."""
    rng = random.Random(86)
    written = []
    for prefix in range(1000, 2000):
        number = f"{prefix}{rng.randrange(10**7):07d}"
        written += [rng.choice(["", "86", "+86", "0086", "0", "+86 ", "86-"]) + number]
    column = canonical_column("phone", pa.array(written), region=region).values.to_pylist()
    for text, in_column in zip(written, column, strict=True):
        compact = _compact(text)
        assert compact is not None
        known = _by_library(compact, region)
        assert canonical("phone", text, region=region) == (
            known.encode() if known else Rejected("invalid_number")
        )
        assert in_column == (known.encode() if known else None)


def test_libphonenumber_reads_the_separators_as_we_do() -> None:
    """Taking separators out beforehand changes nothing about what the library reads."""
    for text in PHONE_RULES:
        if text.isascii():
            number = phonenumbers.parse(text, "CN")
            assert phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) == "+8613800138000"


_emailish = st.one_of(
    st.text(max_size=30),
    st.builds(
        "{}{}@{}{}".format,
        st.text(alphabet=string.ascii_letters + string.digits + ".+_-", max_size=12),
        st.sampled_from(["", "+tag", ".", "é", "李"]),
        st.sampled_from(
            ["gmail.com", "Googlemail.com", "example.org", "bücher.de", "xn--bcher-kva.de", "a.b.c", "x"]
        ),
        st.sampled_from(["", " ", "\u200b", "."]),
    ),
)
_phoneish = st.one_of(
    st.text(max_size=20),
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "+86", "86", "0086", "+1", "+44", "0", "("]),
        st.text(alphabet="0123456789 -.()", min_size=5, max_size=16),
        st.sampled_from(["", " ", "\u200b", ")"]),
    ),
)


@given(values=st.lists(st.none() | _emailish, max_size=12), profile=st.sampled_from(sorted(PROFILES)))
def test_email_column_equals_the_single_function(values: list[str | None], profile: str) -> None:
    _column_equals_single(Kind.EMAIL, values, profile)


@given(values=st.lists(st.none() | _phoneish, max_size=8), profile=st.sampled_from(["comity-1", "meta-1"]))
def test_phone_column_equals_the_single_function(values: list[str | None], profile: str) -> None:
    _column_equals_single(Kind.PHONE, values, profile)


def _column_equals_single(kind: Kind, values: list[str | None], profile: str) -> None:
    values = [v if v is None else v.encode("utf-8", "replace").decode() for v in values]
    expected = [None if v is None else canonical(kind, v, profile) for v in values]
    column = canonical_column(kind, pa.array(values, pa.string()), profile)
    assert column.values.to_pylist() == [None if isinstance(e, Rejected) else e for e in expected]
    reasons = ["missing" if e is None else e.reason for e in expected if e is None or isinstance(e, Rejected)]
    assert dict(column.rejected) == {r: reasons.count(r) for r in set(reasons)}


@given(text=_emailish, profile=st.sampled_from(sorted(PROFILES)))
def test_email_forms_are_fixed_points(text: str, profile: str) -> None:
    form = canonical("email", text, profile)
    if not isinstance(form, Rejected):
        assert canonical("email", form.decode(), profile) == form


@given(text=_phoneish)
def test_phone_forms_are_fixed_points(text: str) -> None:
    form = canonical("phone", text)
    if not isinstance(form, Rejected):
        assert canonical("phone", form.decode()) == form


MIXED = ["a@b.co", "A@B.CO ", "bad", None, "bad", "x.y@gmail.com"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(MIXED),
        pa.array(MIXED, pa.large_string()),
        pa.array(MIXED).dictionary_encode(),
        pa.chunked_array([pa.array(MIXED[:2]), pa.array(MIXED[2:])]),
        pa.chunked_array([pa.array(MIXED)]),
        pa.array([None if v is None else v.encode() for v in MIXED], pa.binary()),
        pa.array([None if v is None else v.encode() for v in MIXED], pa.binary()).dictionary_encode(),
        pa.array(["x", *MIXED, "y"]).slice(1, 6),
    ],
    ids=["string", "large", "dictionary", "chunks", "chunk", "binary", "binary dictionary", "slice"],
)
def test_columns_of_every_textual_type(column: pa.Array) -> None:
    result = canonical_column("email", column)
    assert result.values.to_pylist() == [b"a@b.co", b"a@b.co", None, None, None, b"xy@gmail.com"]
    assert dict(result.rejected) == {"missing": 1, "malformed": 2}
    assert result.values.type == pa.binary()


def test_integer_mobiles_are_read() -> None:
    assert canonical_column("phone", pa.array([13800138000, None])).values.to_pylist() == [
        b"+8613800138000",
        None,
    ]


def test_empty_and_all_null_columns() -> None:
    assert canonical_column("email", pa.array([], pa.string())).values.to_pylist() == []
    assert canonical_column("email", pa.chunked_array([], pa.string())).values.to_pylist() == []
    result = canonical_column("phone", pa.nulls(3))
    assert result.values.to_pylist() == [None] * 3 and dict(result.rejected) == {"missing": 3}


@pytest.mark.parametrize(
    "column", [pa.array([1.5]), pa.array([True]), pa.array([["a"]]), pa.array([b"\xff\xfe"])]
)
def test_columns_that_cannot_hold_identifiers_are_refused(column: pa.Array) -> None:
    with pytest.raises(BadInput):
        canonical_column("email", column)


def test_results_do_not_show_identifiers() -> None:
    column = canonical_column("email", pa.array(["secret@example.com"]))
    assert isinstance(column, CanonicalColumn) and "secret" not in repr(column)
    assert "secret" not in repr(canonical("email", "secret secret"))
