"""Receipts that a person keeps: what they decided, signed, and proved to stand in the log.

Each decision gives one receipt in two forms, either of which can be checked without this software:

- a JWS (`consent.jws`) over a consent record shaped by ISO/IEC TS 27560 (`docs/consent-terms.md` has the
  table of names), which any JOSE library verifies under the key in `/.well-known/jwks.json`;
- a C2SP log proof (`consent.tlog_proof`), which any log reader verifies under the log's verifier key.

The record is a function of the log entry and its opening. Who verifies computes it again, so the signed
words cannot say something else than what the log has committed to.

A *statement of pseudonyms*, signed too, tells the person under which pseudonyms they stand in sets of use.
Whoever holds one from before a use can recompute their leaf in its set (`consent.absence`), and the node
cannot name another pseudonym afterwards.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from consent.consent_record import SCHEMA, consent_record
from consent.encoding import Leaf, canonical_json, parse_json, parse_time, render_time
from consent.events import GRANTING, RESTRICTING, EventType
from consent.history import checked, openings_of
from consent.jws import key_set, sign_document, verify_document
from consent.merkle import leaf_hash
from consent.notes import VerifierKey
from consent.proofs import from_base64, integer_from, to_base64
from consent.store import LedgerView
from consent.subjects import PSEUDONYM, Opening, SubjectVault
from consent.tlog_proof import OpenedEntry, TlogProof
from privacy.errors import BadInput, Misuse, Tampered
from privacy.signing import PublicKey, SigningKey

if TYPE_CHECKING:
    from consent.checkpoint import Checkpoint
    from consent.ledger import Ledger

__all__ = [
    "BUNDLE_FORMAT",
    "PseudonymStatement",
    "ReceiptReport",
    "SubjectReceipts",
    "VerifiedReceipt",
    "read_bundle",
    "verify_receipt",
    "verify_receipts",
    "verify_statement",
]

BUNDLE_FORMAT = "comity/subject-receipts@v1"
RECEIPT_KIND = "comity-consent-receipt+jws"
STATEMENT_KIND = "comity-pseudonyms+jws"
MAX_BUNDLE = 64 << 20  # bytes
MAX_RECEIPTS = 10_000

_DECISIONS = GRANTING | RESTRICTING


def _claims(origin: str, index: int, opened: OpenedEntry) -> dict[str, Any]:
    leaf = opened.leaf()
    return {
        "receipt_id": leaf.id,
        "schema_version": SCHEMA,
        "record": consent_record(origin, leaf, opened.body()),
        "log": {
            "origin": origin,
            "index": index,
            "leaf_hash": to_base64(leaf_hash(leaf.to_bytes())),
            "recorded_at": render_time(leaf.recorded_at),
            "policy_hash": leaf.policy_hash,
        },
    }


Opened = tuple[int, Leaf, Opening, dict[str, object]]
"""(index, leaf, opening, payload) of an entry about somebody."""


def openings_about(view: LedgerView, vault: SubjectVault, subject: bytes) -> list[Opened]:
    """Every entry recorded under a subject's handle, in the order of the log.

    Raises Tampered where a payload is not the one that the log commits to.
    """
    openings = [o for row in view.sides_of(subject) for o in openings_of(view, vault, row)]
    found = []
    for opening in sorted(openings, key=lambda o: o.idx):
        rows = view.entries(opening.idx, opening.idx + 1)
        if not rows:
            raise Tampered("A stored payload has no log entry.", code="bad_side_record")
        leaf = Leaf.from_bytes(rows[0].leaf)
        found.append((opening.idx, leaf, opening, checked(leaf, opening)))
    return found


def entries_of_person(view: LedgerView, vault: SubjectVault, subject: bytes) -> list[Opened]:
    """As `openings_about`, with what was recorded about those merged into the subject since."""
    everyone = [subject, *(part for part, _ in view.merged_parts(subject))]
    found = [entry for handle in everyone for entry in openings_about(view, vault, handle)]
    return sorted(found, key=lambda entry: entry[0])


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """One receipt that holds: its entry, and the consent record that follows from it."""

    index: int
    opened: OpenedEntry
    record: Mapping[str, Any]
    checkpoint: Checkpoint

    @property
    def type(self) -> EventType:
        return EventType(self.opened.type)

    @property
    def subject(self) -> str:
        return str(self.record["pii_principal_id"])

    @property
    def purpose(self) -> str:
        return str(self.record["purposes"][0]["purpose"])

    @property
    def partner(self) -> str:
        return str(self.record["purposes"][0]["recipient_third_parties"][0])

    @property
    def effective_at(self) -> int:
        return parse_time(str(self.record["events"][0]["event_time"]))


@dataclass(frozen=True, slots=True)
class PseudonymStatement:
    """The node's signed word on a person's pseudonyms (32 bytes each, by kind) at a size of the log."""

    subjects: frozenset[str]
    size: int
    pseudonyms: Mapping[str, tuple[bytes, ...]]


@dataclass(frozen=True, slots=True)
class ReceiptReport:
    """What a bundle of receipts shows: the decisions, in the order of the log."""

    origin: str
    size: int
    receipts: tuple[VerifiedReceipt, ...]
    statement: PseudonymStatement | None


class SubjectReceipts:
    """Makes receipts for people from a ledger, signed with the node's key."""

    def __init__(self, ledger: Ledger, signing_key: SigningKey) -> None:
        if signing_key.public.bytes32 != ledger.key.public:
            raise Misuse("Receipts are signed with the key of the log they prove.")
        self._ledger = ledger
        self._key = signing_key

    @property
    def keys(self) -> dict[str, list[dict[str, str]]]:
        """The JWK set under which the receipts verify."""
        return key_set(self._key.public)

    def subjects(self, identifiers: Sequence[tuple[str, bytes]]) -> list[bytes]:
        """The handles of whoever these canonical identifiers belong to; unknown ones are left out."""
        vault = self._ledger.vault
        lookups = [vault.lookup(kind)(form) for kind, form in identifiers]
        with self._ledger.store.read() as view:
            found = view.find_subjects(lookups)
        return list(dict.fromkeys(found[lookup] for lookup in lookups if lookup in found))

    def bundle(self, subject: bytes) -> dict[str, Any]:
        """Every decision of a subject (16-byte handle), for them to keep. Raises Misuse(unknown_subject)."""
        with self._ledger.store.read() as view:
            known(view, subject)
            entries = entries_of_person(view, self._ledger.vault, subject)
        receipts = self.of_entries([(i, leaf, o) for i, leaf, o, _ in entries if leaf.type in _DECISIONS])
        return {
            "format": BUNDLE_FORMAT,
            "verifier_key": self._ledger.vkey,
            "jwks": self.keys,
            "receipts": receipts,
            "pseudonyms": self.statement(subject, [str(body.get("subject")) for *_, body in entries]),
        }

    def of_entries(self, entries: Sequence[tuple[int, Leaf, Opening]]) -> list[dict[str, str]]:
        """{jws, proof} for each of these entries, all under one checkpoint."""
        proofs = self._ledger.log.prove_many([index for index, _, _ in entries]) if entries else []
        made = []
        for (index, leaf, opening), proof in zip(entries, proofs, strict=True):
            opened = OpenedEntry.of(leaf, opening.salt, opening.payload)
            text = TlogProof(index, proof.path, proof.checkpoint, opened.to_bytes()).to_text()
            signed = sign_document(self._key, RECEIPT_KIND, _claims(self._ledger.origin, index, opened))
            made.append({"jws": signed, "proof": text})
        return made

    def statement(self, subject: bytes, also: Sequence[str] = ()) -> str:
        """The signed statement of the pseudonyms under which a subject stands in sets of use.

        `also` are further handles (hex) that entries about the person name: those they had before a merge.
        """
        with self._ledger.store.read() as view:
            found = pseudonyms_of(view, self._ledger.vault, subject)
        of_kind = {kind: [to_base64(value) for value in values] for kind, values in found.items()}
        head = self._ledger.head()
        return sign_document(
            self._key,
            STATEMENT_KIND,
            {
                "subjects": sorted({subject.hex(), *also}),
                "origin": head.origin,
                "size": head.size,
                "root": base64.b64encode(head.root).decode(),
                "pseudonyms": of_kind,
            },
        )


def pseudonyms_of(view: LedgerView, vault: SubjectVault, subject: bytes) -> dict[str, list[bytes]]:
    """Kind → the pseudonyms (32 bytes each, sorted) under which a subject stands in sets of use.

    They are the keyed hashes by which this node finds the person, under every version of its key that there
    has been. Telling a person theirs tells nobody else anything: without the node's key it finds nobody.
    """
    found: dict[str, set[bytes]] = {}
    for lookup, kind in view.aliases_of(subject).items():
        if kind != PSEUDONYM:
            found.setdefault(kind, set()).add(lookup)
    everyone = [subject, *(part for part, _ in view.merged_parts(subject))]
    for row in view.subjects(everyone).values():
        for kind, form in vault.open_identifiers(row):
            if kind != PSEUDONYM:
                found.setdefault(kind, set()).update(vault.lookup(kind, v)(form) for v in vault.versions)
    return {kind: sorted(values) for kind, values in sorted(found.items())}


def known(view: LedgerView, subject: bytes) -> None:
    """Raises Misuse(unknown_subject) unless the handle belongs to somebody here."""
    if subject not in view.subjects([subject]):
        raise Misuse("No subject of this handle is recorded here.", code="unknown_subject")


def verify_receipt(item: object, keys: Sequence[VerifierKey]) -> VerifiedReceipt:
    """Check one {jws, proof} offline; `keys[0]` is the log's. Raises Tampered."""
    if not isinstance(item, Mapping) or not isinstance(item.get("proof"), str):
        raise Tampered("A receipt has a signature and a proof.", code="malformed_proof")
    proof = TlogProof.from_text(item["proof"])
    opened, checkpoint = proof.verify_opened(keys)
    expected = _claims(checkpoint.origin, proof.index, opened)
    signed = verify_document(item.get("jws"), PublicKey(keys[0].public), RECEIPT_KIND)
    if canonical_json(signed) != canonical_json(expected):
        raise Tampered("The signed record is not what the log entry says.", code="wrong_commitment")
    return VerifiedReceipt(proof.index, opened, expected["record"], checkpoint)


def verify_statement(token: object, key: VerifierKey) -> PseudonymStatement:
    """Check a statement of pseudonyms. Raises Tampered."""
    found = verify_document(token, PublicKey(key.public), STATEMENT_KIND)
    named, size, subjects = found.get("pseudonyms"), found.get("size"), found.get("subjects")
    if found.get("origin") != key.name or not isinstance(named, dict) or not isinstance(subjects, list):
        raise Tampered("The statement of pseudonyms is about another log.", code="malformed_proof")
    pseudonyms = {}
    for kind, values in named.items():
        if not isinstance(values, list):
            raise Tampered("The statement of pseudonyms is malformed.", code="malformed_proof")
        pseudonyms[str(kind)] = tuple(from_base64(value, size=32) for value in values)
    return PseudonymStatement(frozenset(map(str, subjects)), integer_from(size), pseudonyms)


def verify_receipts(bundle: Mapping[str, Any], keys: Sequence[VerifierKey]) -> ReceiptReport:
    """Check a whole bundle offline: every receipt, one person, one log, ascending entries.

    `keys[0]` is the log's key, known from elsewhere; the bundle's own copy is not believed. Raises
    Tampered.
    """
    items = bundle.get("receipts")
    if bundle.get("format") != BUNDLE_FORMAT or not isinstance(items, list) or len(items) > MAX_RECEIPTS:
        raise Tampered("This is not a bundle of receipts.", code="malformed_proof")
    if bundle.get("verifier_key") != keys[0].to_text():
        raise Tampered("The bundle names another log's key.", code="wrong_key")
    if bundle.get("jwks") != key_set(PublicKey(keys[0].public)):
        raise Tampered("The bundle's key set is not of the log's key.", code="wrong_key")
    receipts = tuple(verify_receipt(item, keys) for item in items)
    statement = None
    if bundle.get("pseudonyms") is not None:
        statement = verify_statement(bundle["pseudonyms"], keys[0])
    people = {r.subject for r in receipts}
    if len(people) > 1 if statement is None else not people <= statement.subjects:
        raise Tampered("The receipts are not all of one person.", code="malformed_proof")
    indexes = [r.index for r in receipts]
    if any(a >= b for a, b in pairwise(indexes)):
        raise Tampered("The receipts are not in the order of the log.", code="malformed_proof")
    size = max((r.checkpoint.size for r in receipts), default=statement.size if statement else 0)
    return ReceiptReport(keys[0].name, size, receipts, statement)


def read_bundle(data: bytes) -> dict[str, Any]:
    """A JSON object of at most 64 MiB. Raises BadInput."""
    found = parse_json(data, limit=MAX_BUNDLE)
    if not isinstance(found, dict):
        raise BadInput("This file does not hold a bundle.")
    return found
