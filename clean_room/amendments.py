"""Another version of an agreement in force: proposed by one side, accepted by a person of the other.

    proposer                                       the other
    propose()   ── proposal, signed ─────────────▶ received(): kept until a person accepts it
    accepted()  ◀── acceptance, signed ─────────── accept()
                ── agreement hash, signed ───────▶ both hold version n + 1 and two signatures over its hash

The parties, their keys and what was exchanged stay; terms and offers may change. A version names the hash
of the one before it, so the versions of an agreement are a chain whose first link is the invitation. The old
version holds until both have signed; runs that have begun end under the one they began with. A newer proposal
takes the place of one that waits; when both sides propose at once, each decides which of the two it accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Protocol

from pydantic import ConfigDict

from clean_room.agreements import Agreement, DatasetOffer, Document, Terms, check_moment
from clean_room.armour import armoured, unarmoured
from clean_room.datasets import Catalogue
from clean_room.storage import CollaborationRow, CollaborationStore
from clean_room.transport import post_document
from consent.peers import PeerConnection
from privacy.errors import Misuse, Refused
from privacy.signing import PublicKey, SigningKey

__all__ = ["AmendedLedger", "Amendment", "Amendments", "Assent"]

_PROPOSE = "collaboration-amendment"
_ASSENT = "collaboration-amendment-acceptance"
_AGREE = "collaboration-agreement"
_FORBID = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Amendment(Document):
    """The proposer's half: the version meant to be replaced (by hash), its terms and offers from then on."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    collaboration: str
    supersedes: str
    version: int
    proposer: str
    terms: Terms
    offers: tuple[DatasetOffer, ...]
    proposed_at: str
    expires_at: str
    v: Literal[1] = 1

    def __post_init__(self) -> None:
        check_moment(self.proposed_at, "proposed_at")
        check_moment(self.expires_at, "expires_at")


@dataclass(frozen=True, slots=True)
class Assent(Document):
    """The other side's half: the proposal meant (by hash), its own terms and offers."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    amendment: str
    terms: Terms
    offers: tuple[DatasetOffer, ...]
    accepted_at: str
    v: Literal[1] = 1

    def __post_init__(self) -> None:
        check_moment(self.accepted_at, "accepted_at")


class AmendedLedger(Protocol):
    """The part of the consent ledger that an amendment needs."""

    def amended_agreement(self, name: str, lease: timedelta | None, fields: Mapping[str, object]) -> None:
        """Record that another version holds, and its lease; to be repeated is harmless."""


def amended(before: Agreement, proposal: Amendment, assent: Assent) -> Agreement:
    """The version that follows from the two halves; both nodes compute it for themselves.

    Raises Refused(`rule_mismatch`) when the halves do not belong together or to `before`.
    """
    names = [party.name for party in before.parties]
    if (
        proposal.collaboration != before.id
        or proposal.supersedes != before.hash
        or proposal.version != before.version + 1
        or proposal.proposer not in names
        or assent.amendment != proposal.hash
    ):
        raise Refused(
            "the amendment is not to the version in force.",
            code="rule_mismatch",
            advice="Compare the agreement hashes of both sides, then propose again.",
        )
    (other,) = (name for name in names if name != proposal.proposer)
    return replace(
        before,
        terms=proposal.terms.strictest(assent.terms),
        offers={proposal.proposer: proposal.offers, other: assent.offers},
        agreed_at=assent.accepted_at,
        version=proposal.version,
        supersedes=proposal.supersedes,
    )


class Amendments:
    """Proposes, receives and accepts amendments. Every method that returns has committed."""

    def __init__(
        self,
        store: CollaborationStore,
        *,
        identity: SigningKey,
        catalogue: Catalogue,
        ledger: AmendedLedger,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._identity = identity
        self._catalogue = catalogue
        self._ledger = ledger
        self._clock = clock

    def propose(
        self,
        row: CollaborationRow,
        connection: PeerConnection,
        *,
        terms: Terms,
        datasets: Sequence[str] | None,
        days: int,
    ) -> CollaborationRow:
        """Propose another version and deliver it; kept here only if the partner has it."""
        agreement, now = _in_force(row), self._clock()
        proposal = Amendment(
            collaboration=row.id,
            supersedes=agreement.hash,
            version=agreement.version + 1,
            proposer=agreement.of_key(self._identity.public.to_text()).name,
            terms=terms,
            offers=self._catalogue.offers(datasets),
            proposed_at=now.isoformat(),
            expires_at=(now + timedelta(days=days)).isoformat(),
        )
        signature = armoured(self._identity.sign(_PROPOSE, proposal.encoded()))
        document = {"amendment": proposal.document(), "signature": signature}
        post_document(connection, f"/v1/peer/collaborations/{row.id}/amendment", document)
        return self._with(row, proposed=document)

    def received(self, row: CollaborationRow, document: object) -> CollaborationRow:
        """Keep the partner's proposal until a person accepts it; a newer one takes its place."""
        agreement = _in_force(row)
        proposal = _proposal(document)
        _key(row).verify(_PROPOSE, proposal.encoded(), _signature(document))
        if proposal.proposer != agreement.of_key(row.partner_key).name:
            raise Refused("the amendment is proposed in another's name.", code="not_authorised")
        if proposal.supersedes != agreement.hash or proposal.version != agreement.version + 1:
            raise Refused("the amendment is not to the version in force.", code="rule_mismatch")
        return self._with(row, offered=document)

    def accept(
        self,
        row: CollaborationRow,
        connection: PeerConnection,
        *,
        terms: Terms | None,
        datasets: Sequence[str] | None,
    ) -> CollaborationRow:
        """Accept the proposal that waits, and tell the proposer; nothing changes unless it countersigns.

        `terms` are this side's own (default: those proposed); the stricter numbers win. Calling again after a
        broken connection is safe: the same assent is sent.
        """
        before = _in_force(row)
        document = row.documents.get("amending", {}).get("offered")
        if document is None:
            raise Misuse("no amendment of this agreement waits to be accepted.", code="illegal_step")
        proposal = _proposal(document)
        if self._clock() > datetime.fromisoformat(proposal.expires_at):
            raise Refused("this amendment has expired.", code="expired", advice="Ask for a new one.")
        kept = row.documents["amending"].get("assent")
        assent = (
            Assent(
                amendment=proposal.hash,
                terms=proposal.terms if terms is None else terms,
                offers=self._catalogue.offers(datasets),
                accepted_at=self._clock().isoformat(),
            )
            if kept is None
            else Assent.from_document(kept)
        )
        after = amended(before, proposal, assent)
        if kept is None:
            # Kept before it is sent: a retry after a lost answer must send the very same assent.
            row = self._with(row, offered=document, assent=assent.document())
        ours = armoured(self._identity.sign(_AGREE, bytes.fromhex(after.hash)))
        answer = post_document(
            connection,
            f"/v1/peer/collaborations/{row.id}/amendment/acceptance",
            {
                "assent": assent.document(),
                "signature": armoured(self._identity.sign(_ASSENT, assent.encoded())),
                "agreement_signature": ours,
            },
        )
        theirs = answer.get("agreement_signature")
        _key(row).verify(_AGREE, bytes.fromhex(after.hash), _raw(theirs))
        return self._hold(row, before, after, {self._name(after): ours, row.partner: str(theirs)})

    def accepted(self, row: CollaborationRow, document: object) -> dict[str, Any]:
        """The proposer's answer to an assent: check it, let the new version hold, countersign its hash.

        The same assent again gets the same answer.
        """
        before = _in_force(row)
        if not isinstance(document, Mapping):
            raise Misuse("an acceptance is a JSON object.", code="malformed_document")
        assent = Assent.from_document(document.get("assent"))
        _key(row).verify(_ASSENT, assent.encoded(), _signature(document))
        done = row.documents.get("amended_by")
        if done == assent.hash:
            return {"agreement_signature": armoured(self._identity.sign(_AGREE, bytes.fromhex(before.hash)))}
        proposed = row.documents.get("amending", {}).get("proposed")
        if proposed is None:
            raise Refused("no amendment of this agreement is open.", code="not_authorised")
        proposal = _proposal(proposed)
        if self._clock() > datetime.fromisoformat(proposal.expires_at):
            raise Refused("this amendment has expired.", code="expired", advice="Ask for a new one.")
        own = self._identity.public.to_text()
        if "assent" in row.documents["amending"] and own < row.partner_key:
            # Each side accepts the other's proposal at once: only one of the two may go through.
            raise Refused(
                "both sides accept each other's amendment at once.",
                code="amendment_conflict",
                advice="Let the other one go through, or decline it.",
            )
        after = amended(before, proposal, assent)
        theirs = document.get("agreement_signature")
        _key(row).verify(_AGREE, bytes.fromhex(after.hash), _raw(theirs))
        ours = armoured(self._identity.sign(_AGREE, bytes.fromhex(after.hash)))
        self._hold(row, before, after, {self._name(after): ours, row.partner: str(theirs)}, assent.hash)
        return {"agreement_signature": ours}

    def decline(self, row: CollaborationRow) -> CollaborationRow:
        """Forget what waits, proposed or received; the version in force goes on."""
        return self._with(row)

    def _name(self, agreement: Agreement) -> str:
        return agreement.of_key(self._identity.public.to_text()).name

    def _hold(
        self,
        row: CollaborationRow,
        before: Agreement,
        after: Agreement,
        signatures: Mapping[str, str],
        amended_by: str | None = None,
    ) -> CollaborationRow:
        history = [
            *row.documents.get("history", []),
            {"agreement": before.document(), "signatures": row.documents.get("signatures", {})},
        ]
        documents = {k: v for k, v in row.documents.items() if k not in {"amending", "amended_by"}}
        documents |= {"agreement": after.document(), "signatures": dict(signatures), "history": history}
        if amended_by is not None:
            documents["amended_by"] = amended_by
        # Logged before it takes effect: a crash in between leaves an entry whose step is repeated.
        self._ledger.amended_agreement(
            row.partner,
            after.terms.lease,
            {
                "agreement_hash": after.hash,
                "supersedes": before.hash,
                "version": after.version,
                "purposes": list(after.terms.purposes),
            },
        )
        return self._replaced(row, replace(row, documents=documents, agreement_hash=after.hash))

    def _with(self, row: CollaborationRow, **waiting: object) -> CollaborationRow:
        documents = {k: v for k, v in row.documents.items() if k != "amending"}
        kept = {**row.documents.get("amending", {}), **waiting} if waiting else {}
        if "assent" not in waiting:
            kept.pop("assent", None)
        if kept:
            documents["amending"] = kept
        return self._replaced(row, replace(row, documents=documents))

    def _replaced(self, row: CollaborationRow, after: CollaborationRow) -> CollaborationRow:
        after = replace(after, updated_at=self._clock().isoformat())
        if not self._store.replace(after, was=row.state, agreement_hash=row.agreement_hash):
            raise Misuse("the collaboration changed meanwhile; try again.", code="illegal_step")
        return after


def _in_force(row: CollaborationRow) -> Agreement:
    if row.state != "agreed":
        raise Refused("that collaboration is not in force.", code="not_agreed", advice="Agree on it first.")
    return Agreement.from_document(row.documents["agreement"])


def _proposal(document: object) -> Amendment:
    if not isinstance(document, Mapping):
        raise Misuse("an amendment is a JSON object.", code="malformed_document")
    return Amendment.from_document(document.get("amendment"))


def _signature(document: object) -> bytes:
    return _raw(document.get("signature") if isinstance(document, Mapping) else None)


def _key(row: CollaborationRow) -> PublicKey:
    return PublicKey.from_text(row.partner_key)


def _raw(text: object) -> bytes:
    return unarmoured(text, "a signature", Misuse, "malformed_document")
