"""Checking what the two nodes left behind, from their files and public keys, after both have stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from clean_room.receipts import verify as verify_join
from comity.cli.opening import opened
from comity.demo.outcome import ReceiptFinding
from comity.demo.sites import Site
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.receipts import UseReceipt, verify_absence
from federated.gate import ReceiptExpectation, RoundReceipt
from privacy.errors import ComityError, Misuse
from privacy.signing import PublicKey

__all__ = [
    "AbsenceCheck",
    "Join",
    "Training",
    "check_absence",
    "check_joins",
    "check_trainings",
    "ledgers_of",
]


@contextmanager
def ledgers_of(sites: Mapping[str, Site]) -> Iterator[dict[str, Ledger]]:
    """Both partners' ledgers, opened from their directories; their nodes need not run."""
    with ExitStack() as held:
        yield {name: held.enter_context(opened(site.directory)).ledger for name, site in sites.items()}


@dataclass(frozen=True, slots=True)
class Join:
    """A finished overlap, measure or align: the two-sided receipt as each partner's node gave it out."""

    kind: str
    documents: Mapping[str, Mapping[str, Any]] = field(repr=False)
    after_optout: bool = False


@dataclass(frozen=True, slots=True)
class Training:
    """A finished training run: every round's receipts as each partner's node gave them out."""

    rounds: Mapping[str, Sequence[Mapping[str, Any]]] = field(repr=False)
    purpose: str
    after_optout: bool = False


@dataclass(frozen=True, slots=True)
class AbsenceCheck:
    """How the proofs went. `receipts` later receipts were found, `expected` were looked for."""

    people: int
    receipts: int
    proofs: int
    present_before: int
    failed: int
    complete: bool

    @property
    def proved(self) -> bool:
        """Every person proved absent from every later receipt, each having been in an earlier one."""
        return self.complete and self.failed == 0 and self.receipts > 0 and self.present_before == self.people


def check_joins(joins: Sequence[Join], sites: Mapping[str, Site]) -> list[ReceiptFinding]:
    """Check each join's receipt: the same document on both sides, signed by both."""
    keys = {name: PublicKey.from_text(site.public_key) for name, site in sites.items()}
    findings = []
    for join in joins:
        given = list(join.documents.values())
        body = given[0]["body"]
        verified = set(join.documents) == set(sites)
        try:
            ids = {
                verify_join(
                    {k: v for k, v in document.items() if k != "verified"},
                    analyst=keys[body["analyst"]["partner"]],
                    contributor=keys[body["contributor"]["partner"]],
                ).id
                for document in given
            }
            verified = verified and len(ids) == 1
        except (ComityError, KeyError):
            verified = False
        findings.append(
            ReceiptFinding(
                kind=join.kind, partners=sorted(join.documents), verified=verified,
                purpose=str(body["purpose"]), at=str(body["at"])[11:19],
                after_optout=join.after_optout,
            )
        )  # fmt: skip
    return findings


def check_trainings(
    trainings: Sequence[Training], sites: Mapping[str, Site], ledgers: Mapping[str, Ledger]
) -> list[ReceiptFinding]:
    """Check each run's round receipts: signed by the node they speak for, and in that node's log."""
    findings = []
    for training in trainings:
        verified, last = True, ""
        seen: set[str] = set()
        for rounds in training.rounds.values():
            for entry in rounds:
                receipt = RoundReceipt(**entry["receipt"])
                seen.add(entry["party"])
                last = max(last, receipt.checked_at)
                verified = verified and _round_holds(receipt, sites[entry["party"]], ledgers[entry["party"]])
        findings.append(
            ReceiptFinding(
                kind="training", partners=sorted(seen), verified=verified and seen == set(sites),
                purpose=training.purpose, at=last[11:19], after_optout=training.after_optout,
            )
        )  # fmt: skip
    return findings


def _round_holds(receipt: RoundReceipt, site: Site, ledger: Ledger) -> bool:
    expected = ReceiptExpectation(
        key=PublicKey.from_text(site.public_key), run=receipt.run, round=receipt.round,
        purpose=receipt.purpose, nonce=receipt.nonce, rows=receipt.rows,
    )  # fmt: skip
    try:
        expected.check(receipt)
        proof = ledger.receipt_proof(receipt.use_receipt)
        proof.verify(VerifierKey.from_text(ledger.vkey))
    except ComityError:
        return False
    return proof.receipt.evidence.set_root == receipt.set_root and proof.receipt.job == receipt.run


def check_absence(
    ledgers: Mapping[str, Ledger],
    people: Sequence[Mapping[str, bytes]],
    *,
    before: set[str],
    after: set[str],
) -> AbsenceCheck:
    """Prove each person absent from every use of the jobs `after`, at both nodes.

    `people` maps identifier kinds to canonical forms; `before` and `after` name jobs and runs. As a check of
    the check, each person must be found present in a use of `before`, at both nodes.
    """
    receipts = proofs = failed = 0
    present: list[set[str]] = [set() for _ in people]
    jobs_seen: dict[str, set[str]] = {}
    for name, ledger in ledgers.items():
        key = VerifierKey.from_text(ledger.vkey)
        for receipt in _all_receipts(ledger):
            if receipt.job in after:
                jobs_seen.setdefault(name, set()).add(receipt.job)
                receipts += 1
                ledger.receipt_proof(receipt.id).verify(key)
                for person in people:
                    proofs += 1
                    failed += not _absent(ledger, receipt, person)
            elif receipt.job in before:
                members = ledger.members(receipt.id)
                kind = receipt.evidence.key_kind
                for i, person in enumerate(people):
                    if ledger.member_leaf(receipt.id, kind, person[kind]) in members:
                        present[i].add(name)
    complete = all(jobs_seen.get(name) == after for name in ledgers)
    there = sum(found == set(ledgers) for found in present)
    return AbsenceCheck(len(people), receipts, proofs, there, failed, complete)


def _all_receipts(ledger: Ledger) -> list[UseReceipt]:
    found: list[UseReceipt] = []
    before: int | None = None
    while page := ledger.receipts(before=before, limit=200):
        found += [receipt for _, receipt in page]
        before = page[-1][0]
    return found


def _absent(ledger: Ledger, receipt: UseReceipt, person: Mapping[str, bytes]) -> bool:
    """Whether the proof holds that `person`, by the identifier the use was keyed on, is not in its set."""
    kind = receipt.evidence.key_kind
    if kind not in person:
        raise Misuse("A receipt is keyed on an identifier this person is not known by.")
    try:
        proof, proved = ledger.absence_proof(receipt.id, kind, person[kind])
        verify_absence(proof, proved.set_root, ledger.member_leaf(receipt.id, kind, person[kind]))
    except ComityError:
        return False
    return True
