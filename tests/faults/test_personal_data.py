"""Everything two nodes wrote, sent and said in a full life is searched for every identifier they used."""

from __future__ import annotations

import base64
import itertools
import urllib.parse
from hashlib import md5, sha1, sha256, sha512
from pathlib import Path

import sqlalchemy as sa

from consent.sql import metadata

SHORT_LIVED = {"consent_state_removed"}
"""Tables whose rows are gone again once they have been dealt with."""


def spellings(kind: str, canonical: bytes) -> set[bytes]:
    """An identifier as a person, a program or an encoder might have left it somewhere."""
    text = canonical.decode()
    if kind == "email":
        plain = {text, text.upper(), text.title(), text.split("@")[0], text.split("@")[0].upper()}
    else:
        national = text.removeprefix("+86")
        parts = (national[:3], national[3:7], national[7:])
        plain = {text, national, " ".join(parts), "-".join(parts)}
    found: set[bytes] = set()
    for form in plain:
        data = form.encode()
        found |= {data, data.hex().encode(), data.hex().upper().encode()}
        found |= {form.encode("utf-16-le"), form.encode("utf-16-be"), form[::-1].encode()}
        found.add(urllib.parse.quote(form, safe="").encode())
        found |= _base64(data)
    for form, algorithm in itertools.product({text, text.upper()}, (sha256, sha1, sha512, md5)):
        digest = algorithm(form.encode()).digest()
        found |= {digest, digest.hex().encode(), digest.hex().upper().encode()}
        found.add(base64.b64encode(digest).rstrip(b"="))
    return {form for form in found if len(form) >= 9}


def _base64(data: bytes) -> set[bytes]:
    """Every way base64 can hold `data` inside something longer: at each of the three alignments."""
    found = set()
    for shift, encode in itertools.product(range(3), (base64.b64encode, base64.urlsafe_b64encode)):
        text = encode(b"\x00" * shift + data + b"\x00" * 3)
        found.add(text[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6])
    return found


def tables_with_rows(engine: sa.Engine) -> set[str]:
    with engine.connect() as c:
        return {
            table.name
            for table in metadata.sorted_tables
            if c.execute(sa.select(sa.func.count()).select_from(table)).scalar()
        }


def everything(node) -> list[bytes]:
    """The node's files, whatever they are, and every value in every table as it is read."""
    written = [path.read_bytes() for path in Path(node.folder).rglob("*") if path.is_file()]
    with node.engine.connect() as c:
        for table in metadata.sorted_tables:
            for row in c.execute(sa.select(table)):
                written += [bytes(v) if isinstance(v, bytes | memoryview) else str(v).encode() for v in row]
    return written


def test_nothing_written_sent_or_said_holds_an_identifier_in_any_spelling(
    node, make_node, live, counted, capfd
):
    other = make_node("bank")
    lived = live(node, other)
    everywhere = {table.name for table in metadata.sorted_tables}
    assert everywhere - tables_with_rows(node.engine) - tables_with_rows(other.engine) <= SHORT_LIVED
    sources = [*everything(node), *everything(other), *lived.said]
    sources += [text.encode() for text in (*lived.errors, *capfd.readouterr())]
    haystack = b"\n".join(sources)
    assert len(haystack) > 500_000 and len(lived.errors) >= 40
    forms = {form for p in lived.people for kind, canonical in p for form in spellings(kind, canonical)}
    assert [form for form in forms if form in haystack] == []
    fault = "spellings of identifiers looked for in all that a full life of two nodes wrote, sent and said"
    counted(fault, len(forms))


def test_the_search_would_find_what_it_looks_for():
    canonical = b"person.007@example.org"
    forms = spellings("email", canonical)
    for hidden in (
        b"x" + canonical + b"y", b"PERSON.007", base64.b64encode(b"ab" + canonical + b"zz"),
        base64.urlsafe_b64encode(b"a" + canonical), canonical.hex().encode(),
        sha256(canonical).hexdigest().encode(),
        base64.b64encode(sha256(canonical).digest()), b"person.007%40example.org",
    ):  # fmt: skip
        assert any(form in hidden for form in forms), hidden
