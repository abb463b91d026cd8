"""Everything a run wrote is searched for every identifier it used, and for unkeyed hashes of them."""

from __future__ import annotations

import base64
import doctest
from hashlib import md5, sha1, sha256

import pyarrow as pa
import sqlalchemy as sa

import consent
from consent.events import grant, refuse, withdraw
from consent.gate import ConsentGate
from consent.receipts import UseReceipt
from consent.tables import metadata


def forms(canonical: bytes):
    yield canonical
    yield canonical.split(b"@")[0]
    for algorithm in (sha256, sha1, md5):
        digest = algorithm(canonical).digest()
        yield from (digest, digest.hex().encode(), base64.b64encode(digest).rstrip(b"="))


def test_no_file_row_or_message_holds_an_identifier_or_its_plain_hash(node, make_node, joined):
    ledger, bank_node = node.open(), make_node("bank")
    bank = bank_node.open()
    people = [[("email", b"person%04d@example.org" % i), ("phone", b"+8613800%06d" % i)] for i in range(40)]
    wire = joined(ledger, node, bank, bank_node)
    ledger.record([grant(p, "overlap.reach", partner="bank") for p in people])
    ledger.record([refuse(people[0], "model"), withdraw(people[1]), withdraw(people[2][:1], "overlap")])
    assert wire.read() == 3
    gate = ConsentGate(ledger)
    gated = gate.filter("email", pa.array([p[0][1] for p in people]), purpose="overlap.reach", partner="bank")
    receipt = UseReceipt(
        "r", "overlap", "overlap.reach", "c", "j", None, "bank", gated.evidence, "", "", ledger.clock()
    )
    ledger.record_use(receipt, gated.members)
    written = [p.read_bytes() for p in node.folder.rglob("*") if p.is_file()]
    written += [p.read_bytes() for p in bank_node.folder.rglob("*") if p.is_file()]
    written += wire.bodies + wire.acks
    written.append(
        repr(
            [ledger.record([withdraw(people[3])]), gated, receipt, people and grant(people[0], "overlap")]
        ).encode()
    )
    for engine in (node.engine, bank_node.engine):
        with engine.connect() as c:
            for table in metadata.sorted_tables:
                for row in c.execute(sa.select(table)):
                    written += [
                        bytes(v) if isinstance(v, bytes | memoryview) else str(v).encode() for v in row
                    ]
    everything = b"\n".join(written)
    assert len(everything) > 100_000
    for person in people:
        for _, canonical in person:
            for form in forms(canonical):
                assert form not in everything


def test_the_example_of_the_package_runs():
    assert doctest.testmod(consent).failed == 0 and doctest.testmod(consent).attempted > 5


def test_every_public_name_is_there():
    assert all(hasattr(consent, name) for name in consent.__all__)
