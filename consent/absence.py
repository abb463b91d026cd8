"""Proof that somebody was in no use after their opt-out: everything needed, checked in one go, offline.

A bundle holds the opt-out's receipt; every receipt of use that the log holds after it, each opened and
proved; and for each of those that the opt-out reaches, the proof that the person is not in its set.

The person's leaf in a set is recomputed by whoever verifies, from the pseudonym in the node's signed
statement and the set's salt. Three things keep the node from naming a pseudonym that it never used:

- all uses are checked under one pseudonym, which the signature makes undeniable;
- for uses before the opt-out the bundle proves the same pseudonym *present*, and only what was really put
  into those sets can be (their roots have been in the log since);
- a statement received before the opt-out (it comes with every bundle of receipts) can be compared.

Limits. A person who was in no earlier use, and kept no earlier statement, has the node's word that the
pseudonym is theirs. With the published log at hand it is checked that no receipt of use was left out;
without, it is not. And no proof can show the absence of a use for which nobody wrote a receipt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consent.errors import MemberPresent
from consent.events import EVERY_PARTNER, GRANTING, RESTRICTING, EventType
from consent.notes import VerifierKey
from consent.pseudonym_sets import (
    AbsenceProof,
    PresenceProof,
    PseudonymSet,
    use_leaf,
    verify_absence,
    verify_presence,
)
from consent.purposes import ancestry
from consent.receipts import ReceiptProof, UseReceipt
from consent.subject_receipts import (
    PseudonymStatement,
    SubjectReceipts,
    VerifiedReceipt,
    entries_of_person,
    known,
    pseudonyms_of,
    verify_receipt,
    verify_statement,
)
from consent.tiles import TILE_WIDTH, parse_path
from consent.verify import Outcome, Reader, verify_log
from privacy.errors import ComityError, Misuse, PeerUnreachable, Tampered

if TYPE_CHECKING:
    from consent.ledger import Ledger

__all__ = ["ABSENCE_FORMAT", "AbsenceReport", "AbsenceService", "UseFinding", "verify_absence_bundle"]

ABSENCE_FORMAT = "comity/absence-bundle@v1"
MAX_USES = 20_000
_EARLIER = 16  # uses before the opt-out that anchor the pseudonym


def reaches(purpose: str, partner: str, use: UseReceipt) -> bool:
    """Whether a decision about `purpose` with `partner` is about this use."""
    return purpose in ancestry(use.purpose) and partner in (EVERY_PARTNER, use.partner)


@dataclass(frozen=True, slots=True)
class UseFinding:
    """One use after the opt-out, and what is shown about it.

    `finding` is one of
    `absent`        proved not to be among the people of this use;
    `present`       proved to be among them, though the gate had been told: the opt-out was not kept;
    `asked_before`  among them, and the gate had been asked before the opt-out stood in the log;
    `granted_again` among them, after agreeing anew (the receipt of that is in the bundle);
    `other_key`     keyed by a kind of identifier that this node knows none of for the person;
    `not_reached`   for a purpose or partner that the opt-out is not about.
    """

    index: int
    receipt: UseReceipt
    finding: str


@dataclass(frozen=True, slots=True)
class AbsenceReport:
    """What a bundle shows. `holds` is what was asked: in no use after the opt-out.

    `anchors` counts the uses before it that prove the pseudonym to be one the node really used; `complete`
    says whether every receipt of use in the log is in the bundle, None where the log was not at hand.
    """

    opt_out: VerifiedReceipt
    size: int
    uses: tuple[UseFinding, ...]
    anchors: int
    complete: bool | None

    def count(self, finding: str) -> int:
        return sum(use.finding == finding for use in self.uses)

    @property
    def holds(self) -> bool:
        return not self.count("present") and not self.count("asked_before") and self.complete is not False


class AbsenceService:
    """Makes absence bundles from a ledger."""

    def __init__(self, ledger: Ledger, receipts: SubjectReceipts) -> None:
        self._ledger = ledger
        self._receipts = receipts

    def bundle(self, subject: bytes, opt_out: int | None = None) -> dict[str, Any]:
        """The bundle of a subject for the opt-out in entry `opt_out`, or for their latest.

        Raises Misuse: `unknown_subject`, or `no_opt_out` where there is none (there).
        """
        ledger = self._ledger
        with ledger.store.read() as view:
            known(view, subject)
            entries = entries_of_person(view, ledger.vault, subject)
            of_kind = pseudonyms_of(view, ledger.vault, subject)
        restricted = [e for e in entries if e[1].type in RESTRICTING]
        chosen = [e for e in restricted if opt_out is None or e[0] == opt_out]
        if not chosen:
            raise Misuse("The person has no opt-out recorded there.", code="no_opt_out")
        index, leaf, opening, _ = chosen[-1]
        grants = [(i, g, o) for i, g, o, _ in entries if g.type in GRANTING and i > index]
        signed, *again = self._receipts.of_entries([(index, leaf, opening), *grants])
        later, earlier = self._uses(index)
        anchors = [item for use in earlier if (item := self._shown(use, of_kind, only_present=True))]
        return {
            "format": ABSENCE_FORMAT,
            "verifier_key": ledger.vkey,
            "jwks": self._receipts.keys,
            "opt_out": signed,
            "grants": again,
            "pseudonyms": self._receipts.statement(subject, [str(e[3].get("subject")) for e in entries]),
            "earlier": anchors[:_EARLIER],
            "uses": [self._shown(use, of_kind) for use in later],
        }

    def _uses(self, opt_out: int) -> tuple[list[str], list[str]]:
        """Ids of the uses after an entry (oldest first) and of some before it (newest first)."""
        later: list[str] = []
        earlier: list[str] = []
        before: int | None = None
        while len(earlier) < 4 * _EARLIER:
            page = self._ledger.receipts(before=before, limit=500)
            later += [use.id for index, use in page if index > opt_out]
            earlier += [use.id for index, use in page if index < opt_out]
            if len(page) < 500:
                break
            before = page[-1][0]
        if len(later) > MAX_USES:
            raise Misuse(f"More than {MAX_USES} uses follow this opt-out.", code="too_many_uses")
        return later[::-1], earlier[: 4 * _EARLIER]

    def _shown(
        self, use: str, of_kind: Mapping[str, Sequence[bytes]], only_present: bool = False
    ) -> dict[str, Any]:
        kind = self._ledger.receipt(use)[1].evidence.key_kind
        lookups = of_kind.get(kind, ())
        if not lookups and only_present:
            return {}
        members = self._ledger.members(use)
        proofs = [_shown_in(members, lookup) for lookup in lookups]
        if only_present and not any("present" in proof for proof in proofs):
            return {}
        return {"receipt": self._ledger.receipt_proof(use).to_dict(), "proofs": proofs}


def _shown_in(members: PseudonymSet, lookup: bytes) -> dict[str, Any]:
    leaf = members.leaf(lookup)
    try:
        return {"absent": members.prove_absent(leaf).to_dict()}
    except MemberPresent:
        return {"present": members.prove_present(leaf).to_dict()}


def verify_absence_bundle(
    bundle: Mapping[str, Any],
    keys: Sequence[VerifierKey],
    *,
    log: Reader | None = None,
) -> AbsenceReport:
    """Check a bundle offline; `keys[0]` is the log's, known from elsewhere. Raises Tampered.

    `log` reads the published log (`consent.verify` has readers for folders and URLs); with it the log is
    verified too, and that no receipt of use was left out. Then raises PeerUnreachable also.
    """
    uses, earlier, grants = bundle.get("uses"), bundle.get("earlier"), bundle.get("grants")
    if (
        bundle.get("format") != ABSENCE_FORMAT
        or not isinstance(uses, list)
        or not isinstance(earlier, list)
        or not isinstance(grants, list)
        or max(len(uses), len(earlier), len(grants)) > MAX_USES
    ):
        raise Tampered("This is not an absence bundle.", code="malformed_proof")
    if bundle.get("verifier_key") != keys[0].to_text():
        raise Tampered("The bundle names another log's key.", code="wrong_key")
    opt_out = verify_receipt(bundle.get("opt_out"), keys)
    if EventType(opt_out.type) not in RESTRICTING:
        raise Tampered("The bundle's opt-out is not one.", code="malformed_proof")
    statement = verify_statement(bundle.get("pseudonyms"), keys[0])
    again = [verify_receipt(item, keys) for item in grants]
    if any(r.type not in GRANTING for r in again):
        raise Tampered("What the bundle calls a grant is none.", code="malformed_proof")
    if not {opt_out.subject, *(r.subject for r in again)} <= statement.subjects:
        raise Tampered("The receipts and the pseudonyms are not of one person.", code="malformed_proof")
    found: list[UseFinding] = []
    for item in uses:
        use, at, presences = _opened(item, statement, keys)
        if at <= opt_out.index or (found and at <= found[-1].index):
            raise Tampered("The uses are not in the order of the log.", code="malformed_proof")
        found.append(UseFinding(at, use, _finding(use, at, presences, opt_out, again)))
    anchors = 0
    for item in earlier:
        _, at, presences = _opened(item, statement, keys)
        if at >= opt_out.index or not presences or not any(presences):
            raise Tampered("A use before the opt-out does not show the person.", code="malformed_proof")
        anchors += 1
    size, complete = opt_out.checkpoint.size, None
    if log is not None:
        written = _uses_in(log, keys[0], opt_out)
        complete = {use.index for use in found} >= {i for i in written if opt_out.index < i < size}
    return AbsenceReport(opt_out, size, tuple(found), anchors, complete)


def _opened(
    item: object, statement: PseudonymStatement, keys: Sequence[VerifierKey]
) -> tuple[UseReceipt, int, list[bool]]:
    """A use, its entry's index, and for each of the person's pseudonyms whether it is proved in the set."""
    if not isinstance(item, Mapping) or not isinstance(item.get("proofs"), list):
        raise Tampered("A use in the bundle is malformed.", code="malformed_proof")
    if not isinstance(item.get("receipt"), Mapping):
        raise Tampered("A use in the bundle has no receipt.", code="malformed_proof")
    try:
        proof = ReceiptProof.from_dict(item["receipt"])
        use, root = proof.receipt, proof.receipt.set_root
    except Tampered:
        raise
    except (ComityError, TypeError, ValueError):
        raise Tampered("The receipt of a use is malformed.", code="malformed_proof") from None
    proof.verify(keys[0])
    pseudonyms = statement.pseudonyms.get(use.evidence.key_kind, ())
    # One proof for each pseudonym of the person, in their order: none can be left out.
    if len(item["proofs"]) != len(pseudonyms):
        raise Tampered("A use does not answer for every pseudonym of the person.", code="malformed_proof")
    return (
        use,
        proof.entry.index,
        [
            _in_set(given, pseudonym, root, use.evidence.count)
            for given, pseudonym in zip(item["proofs"], pseudonyms, strict=True)
        ],
    )


def _in_set(given: object, pseudonym: bytes, root: bytes, count: int) -> bool:
    if not isinstance(given, Mapping) or len(given) != 1:
        raise Tampered("A proof about a set is malformed.", code="malformed_proof")
    absent, present = given.get("absent"), given.get("present")
    if isinstance(absent, Mapping):
        absence = AbsenceProof.from_dict(absent)
        verify_absence(absence, root, use_leaf(absence.salt, pseudonym))
        if absence.count != count:
            raise Tampered("A proof is about a set of another size.", code="invalid_proof")
        return False
    if isinstance(present, Mapping):
        presence = PresenceProof.from_dict(present)
        verify_presence(presence, root, use_leaf(presence.salt, pseudonym))
        return True
    raise Tampered("A proof about a set is malformed.", code="malformed_proof")


def _finding(
    use: UseReceipt,
    at: int,
    presences: Sequence[bool],
    opt_out: VerifiedReceipt,
    again: Sequence[VerifiedReceipt],
) -> str:
    if not reaches(opt_out.purpose, opt_out.partner, use):
        return "not_reached"
    if not presences:
        return "other_key"
    if not any(presences):
        return "absent"
    if any(r.index < at and reaches(r.purpose, r.partner, use) for r in again):
        return "granted_again"
    return "asked_before" if use.evidence.log_size <= opt_out.index else "present"


def _uses_in(log: Reader, key: VerifierKey, opt_out: VerifiedReceipt) -> set[int]:
    """The indexes of every receipt of use in the published log, which is verified on the way."""
    found: set[int] = set()

    def read(path: str) -> bytes | None:
        data = log(path)
        if data is not None and path.startswith("tile/entries/"):
            # Noted while it is being verified: a server that answers a second question otherwise gains
            # nothing.
            first = parse_path(path).index * TILE_WIDTH
            found.update(first + i for i, entry in enumerate(_entries(data)) if _USE in entry)
        return data

    report = verify_log(read, key, known=opt_out.checkpoint)
    if report.outcome is Outcome.UNREACHABLE:
        raise PeerUnreachable(report.detail)
    if not report.ok:
        raise Tampered(f"The published log does not hold: {report.detail}", code=report.outcome.value)
    return found


_USE = b'"type":"use.receipt"'


def _entries(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : end]
        at = end
