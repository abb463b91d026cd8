from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.errors import Misuse
from privacy.identifiers import PROFILES, Rejected, canonical
from privacy.plain_addresses import plain_addresses

# Drawn from what decides: case, spaces, dots and tags, domains that ignore them, hyphens, other scripts.
PIECES = st.sampled_from(
    [
        "a", "B", "z9", ".", "+", "-", "--", "_", "@", "@gmail.com", "@GMail.com", "@googlemail.com", "gmail",
        "@hotmail.com", "@xn--bcher-kva.example", "@bücher.example", "mail.com", ".com", " ", "\t", "\x1f",
        "\x7f", "\u200b", "\u3000", "Ａ", "é", "ß", "İ", "。", "\n", "example.org", "@example.org", "\x00",
    ]
)  # fmt: skip
ADDRESSES = st.lists(PIECES, max_size=7).map("".join)


@given(st.lists(ADDRESSES, max_size=20), st.sampled_from(sorted(PROFILES)))
@example([" A.b+c@gmail.com ", "ab@gmail.com", "A@GOOGLEMAIL.COM", "x@hotmail.com"], "comity-1")
@example(["a@gmail.com.", "@gmail.com", "mail.com", ""], "uid2-1")
def test_what_is_called_plain_is_canonical_as_it_stands_or_is_rejected(
    addresses: list[str], profile: str
) -> None:
    written, sure = plain_addresses(pa.array(addresses, pa.string()), profile)
    for address, plain, is_sure in zip(addresses, written.to_pylist(), sure, strict=True):
        if is_sure:
            form = canonical("email", address, profile)
            assert isinstance(form, Rejected) or form == plain.encode()


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_ordinary_addresses_are_plain(profile: str) -> None:
    ordinary = [" Ada@Example.ORG", "grace.hopper+navy@mail.example.com ", "ab@hotmail.com", "a-b@c-d.org"]
    assert plain_addresses(pa.array(ordinary), profile)[1].all()


def test_gmail_loses_what_its_owner_ignores_and_nobody_else_does() -> None:
    some = pa.array(
        ["ab@gmail.com", "a.b@gmail.com", "Ab+c.d+e@gmail.com", "a.b@googlemail.com", "a.b@hotmail.com"]
    )
    for profile, last in (("comity-1", "ab@gmail.com"), ("google-1", "ab@googlemail.com")):
        written, sure = plain_addresses(some, profile)
        assert written.to_pylist() == [*["ab@gmail.com"] * 3, last, "a.b@hotmail.com"]
        assert sure.all()
    assert plain_addresses(some, "meta-1")[0].to_pylist() == [text.lower() for text in some.to_pylist()]
    assert plain_addresses(pa.array(["..@gmail.com", "+a@gmail.com", "a@gmail.com"]), "comity-1")[
        1
    ].tolist() == [
        False,
        False,
        True,
    ]


def test_one_strange_row_does_not_make_its_neighbours_strange() -> None:
    rows = ["a@example.org", "b @example.org", "", "c@example.org", "é@example.org", "d@example.org"]
    sliced = pa.array(["zz\x01", *rows, "é"]).slice(1, len(rows))
    assert plain_addresses(sliced, "comity-1")[1].tolist() == [True, False, True, True, False, True]


def test_missing_addresses_are_refused() -> None:
    with pytest.raises(Misuse):
        plain_addresses(pa.array(["a@example.org", None]), "comity-1")
