"""What travels between two nodes holds nobody's identifier, in any spelling, hash or encoding."""

from __future__ import annotations

import base64
import hashlib

import numpy as np

HASHES = (hashlib.sha256, hashlib.sha1, hashlib.md5, hashlib.sha512)


def spellings(person: dict) -> set[bytes]:
    """Ways to write somebody's identifiers: as in either table, canonical, and in common variants."""
    email, mobile = person["email"], person["mobile"]
    local = mobile[3:]
    texts = {
        email,
        email.upper(),
        email.title(),
        f"  {email.upper()} ",
        email.split("@")[0],
        mobile,
        mobile[1:],
        "00" + mobile[1:],
        local,
        f"{mobile[:3]} {mobile[3:6]}-{mobile[6:]}",
        f"{local[:3]} {local[3:7]} {local[7:]}",
        f"{local[:3]}-{local[3:7]}-{local[7:]}",
        f"86{local}",
    }
    return {text.encode() for text in texts} | {text.encode("utf-16-le") for text in texts}


def forms(value: bytes) -> set[bytes]:
    """A value and its unkeyed hashes, raw, hex (both cases) and base64 (both alphabets)."""
    found = {value, value.hex().encode(), base64.b64encode(value).rstrip(b"=")}
    for algorithm in HASHES:
        digest = algorithm(value).digest()
        for raw in (digest, digest[:16]):
            found |= {raw, raw.hex().encode(), raw.hex().upper().encode()}
            found |= {base64.b64encode(raw).rstrip(b"="), base64.urlsafe_b64encode(raw).rstrip(b"=")}
    return found


def test_no_identifier_hash_or_value_crosses_the_wire(make_pair, tables):
    pair = make_pair()
    pair.wire.captured.clear()
    for query in (
        pair.query(key="email"),
        pair.query(key="phone", dimensions=("age_band",), partner_dimensions=("spender",)),
        pair.query("measure"),
        pair.query("align", key="phone"),
    ):
        job = pair.bank.run(query)
        assert job.state == "succeeded", job.error
    wire = b"\0\0".join(pair.wire.captured)
    assert len(wire) > 500_000
    # Some message arrived in base64 inside JSON: look inside as well.
    for piece in pair.wire.captured:
        for text in piece.split(b'"'):
            if len(text) > 64 and len(text) % 4 == 0:
                try:
                    wire += b"\0\0" + base64.b64decode(text, validate=True)
                except ValueError:
                    continue
    written = {
        text.encode()
        for table, columns in ((tables.bank, ("email", "mobile")), (tables.shop, ("mail", "phone")))
        for column in columns
        for text in table[column].to_list()
    }
    written |= {canonical for n in range(len(tables.people)) for _, canonical in pair.identifiers(n)}
    written |= {text for person in tables.people[::8] for text in spellings(person)}
    wanted = {form for text in written for form in forms(text)}
    assert len(wanted) > 50_000
    found = _present(wire, wanted)
    assert not found, f"{len(found)} forms of identifiers crossed the wire"


def test_the_check_itself_finds_what_is_hidden_in_noise():
    rng = np.random.default_rng(7)
    noise = rng.bytes(1 << 20)
    secret = hashlib.sha256(b"ada@example.org").digest()
    hidden = noise[:777_777] + secret + noise[777_777:]
    assert _present(hidden, forms(b"ada@example.org")) >= {secret}
    assert not _present(noise, forms(b"ada@example.org"))


def test_no_column_value_crosses_the_wire(make_pair, tables):
    """Values that could not be there by chance: eight digits nobody else would write."""
    shop = tables.shop.with_columns(spend=tables.shop["secret_score"].cast(float))
    datasets = tables.shop_datasets.replace("upper = 500", "upper = 99999999")
    pair = make_pair(shop=shop, shop_datasets=datasets)
    pair.wire.captured.clear()
    job = pair.bank.run(pair.query("measure", statistic="sum"))
    assert job.state == "succeeded", job.error
    wire = b"\0\0".join(pair.wire.captured)
    values = tables.shop["secret_score"].to_list()
    wanted = set()
    for value in values:
        wanted |= {str(value).encode(), f"{value}.0".encode()}
        for kind in ("<i8", ">i8", "<f8", ">f8"):
            wanted.add(np.array([value], dtype=kind).tobytes())
    assert not _present(wire, wanted)


def _present(haystack: bytes, needles: set[bytes]) -> set[bytes]:
    """Which needles occur. Candidates by their first eight bytes, all positions at once, then exactly."""
    long = {n for n in needles if len(n) >= 8}
    found = {n for n in needles - long if n in haystack}
    data = np.frombuffer(haystack + bytes(8), dtype=np.uint8)
    size = len(haystack)
    prefixes: dict[int, list[bytes]] = {}
    for needle in long:
        prefixes.setdefault(int.from_bytes(needle[:8], "little"), []).append(needle)
    wanted = np.array(sorted(prefixes), dtype=np.uint64)
    words = np.zeros(size, dtype=np.uint64)
    for place in range(8):
        words |= data[place : place + size].astype(np.uint64) << np.uint64(8 * place)
    for at in np.flatnonzero(np.isin(words, wanted)):
        for needle in prefixes[int(words[at])]:
            if haystack[at : at + len(needle)] == needle:
                found.add(needle)
    return found
