"""Collaborations of this node: invite, accept, leave, and the keys that follow from an agreement.

    inviter                                     acceptor
    invite()   ── invitation, signed ──────▶    (file, or POST to its node)
               ◀── acceptance, signed ──────    accept()
    accepted() ── agreement hash, signed ──▶    both hold the agreement and two signatures over its hash

Partners are pinned by Ed25519 key: the inviter pins the invitee in the invitation, the acceptor pins the
inviter by accepting. Nothing is trusted on first use over the network: an invitation that arrives by POST
waits until a person of this node accepts it and has compared the fingerprint.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from clean_room.agreement_book import OPEN, AgreementBook, PartnerPin
from clean_room.agreements import Acceptance, Agreement, Invitation, Party, Terms
from clean_room.amendments import Amendments
from clean_room.armour import armoured, unarmoured
from clean_room.datasets import Catalogue
from clean_room.key_rotation import KeyRotation
from clean_room.pair_secrets import PairSecrets, exchange_public
from clean_room.storage import CollaborationRow, CollaborationStore
from clean_room.transport import post_document
from consent.events import EventType
from consent.peers import PeerConnection
from privacy.errors import ComityError, Misuse, Refused
from privacy.keys import KeyRing
from privacy.signing import PublicKey, SigningKey

__all__ = ["Collaborations", "PartnerLedger", "PartnerPin"]

_INVITE = "collaboration-invitation"
_ACCEPT = "collaboration-acceptance"
_AGREE = "collaboration-agreement"
_MAX_RECEIVED = 100
_MAX_FROM_ONE = 3
_WAITING = timedelta(days=14)


class PartnerLedger(Protocol):
    """The part of the consent ledger that agreements need; every call is durable when it returns."""

    @property
    def vkey(self) -> str:
        """Verifier key of this node's own log."""

    def join_partner(self, name: str, vkey: str, lease: timedelta | None = None) -> None:
        """Pin a partner's log key and start the feed with it, under a lease; to be repeated is harmless."""

    def remove_partner(self, name: str, fields: Mapping[str, object]) -> None:
        """Record that the agreement has ended; nothing more is queued for the partner."""

    def rotated_key(self, name: str, fields: Mapping[str, object]) -> None:
        """Record that another key is shared; everybody who stands is told again under it."""

    def amended_agreement(self, name: str, lease: timedelta | None, fields: Mapping[str, object]) -> None:
        """Record that another version of the agreement holds, and the lease it brings."""

    def record_system(self, type_: EventType, fields: Mapping[str, object]) -> object:
        """Write an event that is about no single person."""


class Collaborations(AgreementBook):
    """The agreements of one node. Thread-safe; every method that returns has committed."""

    def __init__(
        self,
        store: CollaborationStore,
        *,
        name: str,
        url: str,
        identity: SigningKey,
        keyring: KeyRing,
        catalogue: Catalogue,
        connect: Callable[[PartnerPin], PeerConnection],
        ledger: PartnerLedger,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        own_key, secrets = identity.public.to_text(), PairSecrets(keyring)
        rotation = KeyRotation(store, secrets, ledger, own_key=own_key, clock=clock, random=random)
        super().__init__(store, secrets, rotation)
        self._name = name
        self._url = url
        self._identity = identity
        self._catalogue = catalogue
        self._connect = connect
        self._ledger = ledger
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._rotating = threading.Lock()
        self._amendments = Amendments(
            store, identity=identity, catalogue=catalogue, ledger=ledger, clock=clock
        )

    def invite(
        self,
        *,
        partner: str,
        url: str,
        key: str,
        terms: Terms,
        datasets: Sequence[str] | None = None,
        deliver: bool = False,
        days: int = 14,
    ) -> dict[str, Any]:
        """Make and store an invitation; return the signed document to hand to the partner.

        `key` is the partner's Ed25519 public key (text form), learnt out of band. `datasets` narrows what
        is offered (default: all marked so). With `deliver` the document is also POSTed to the partner; if
        that fails there is no invitation.
        Raises `Misuse(already_exists)` while another collaboration with that partner is open.
        """
        pinned = PublicKey.from_text(key)
        if pinned.to_text() == self._identity.public.to_text() or partner == self._name:
            raise Misuse("a node cannot collaborate with itself.", code="malformed_query")
        self._refuse_second(partner, pinned.to_text())
        secret = self._random(32)
        now = self._clock()
        invitation = Invitation(
            id=uuid.UUID(bytes=self._random(16), version=4).hex,
            created_at=now.isoformat(),
            expires_at=(now + timedelta(days=days)).isoformat(),
            inviter=self._party(secret),
            invitee=Party(name=partner, url=url, key=pinned.to_text()),
            terms=terms,
            offers=self._catalogue.offers(datasets),
        )
        document = {
            "invitation": invitation.document(),
            "signature": armoured(self._identity.sign(_INVITE, invitation.encoded())),
        }
        self._store.add(
            CollaborationRow(
                id=invitation.id,
                role="inviter",
                state="invited",
                partner=partner,
                partner_key=pinned.to_text(),
                partner_url=url,
                documents=document,
                sealed_exchange=self._secrets.seal_exchange(invitation.id, secret),
                created_at=now.isoformat(),
                updated_at=now.isoformat(),
            )
        )
        if deliver:
            connection = self._connect(PartnerPin(partner, url, pinned))
            try:
                post_document(connection, "/v1/peer/invitations", document)
            except ComityError:
                self._ended(self._row(invitation.id))
                raise
        return document

    def receive(self, document: object) -> CollaborationRow:
        """Keep an invitation that arrived by POST until a person accepts or forgets it. Changes no trust."""
        invitation = self._verified(document)
        known = self._store.get(invitation.id)
        if known is not None:
            return known
        self._make_room(invitation.inviter.key)
        row = self._received(invitation, document)
        self._store.add(row)
        return row

    def _make_room(self, key: str) -> None:
        """Forget invitations nobody answered in time; refuse one more where too many wait.

        Anybody may make keys and send invitations, so a stranger can fill the waiting room until the
        oldest expire; an invitation handed over as a file is not held up by that.
        """
        oldest = (self._clock() - _WAITING).isoformat()
        waiting = self._store.received()
        self._store.forget([found for found, _, at in waiting if at < oldest])
        waiting = [found for found in waiting if found[2] >= oldest]
        mine = sum(found[1] == key for found in waiting)
        if len(waiting) >= _MAX_RECEIVED or mine >= _MAX_FROM_ONE:
            raise Refused("too many invitations wait for an answer.", code="too_many_invitations")

    def accept(
        self,
        invitation: str | Mapping[str, Any],
        *,
        terms: Terms | None = None,
        datasets: Sequence[str] | None = None,
        inviter_key: str | None = None,
    ) -> Agreement:
        """Accept an invitation (the document, or the id of one received) and tell the inviter.

        `terms` are this side's own (default: the invitation's); the stricter numbers win. `inviter_key`,
        when given, must be the key that signed. Nothing is agreed unless the inviter countersigns;
        calling again after a broken connection is safe.
        """
        row = self._row(invitation) if isinstance(invitation, str) else None
        document = invitation if row is None else row.documents
        offered = self._verified(document)
        if row is None:
            row = self._store.get(offered.id)
            if row is None:
                row = self._received(offered, document)
                self._refuse_second(row.partner, row.partner_key)
                self._store.add(row)
        if row.state == "agreed":
            return self.agreement(row.id)
        if row.role != "acceptor" or row.state not in {"received", "accepting"}:
            raise Misuse("this invitation is not open for acceptance here.", code="illegal_step")
        if inviter_key is not None and PublicKey.from_text(inviter_key).to_text() != offered.inviter.key:
            raise Refused("the invitation is signed by another key than expected.", code="not_authorised")
        if row.state == "received":
            row = self._accepting(row, offered, terms, datasets)
        acceptance = Acceptance.from_document(row.documents["acceptance"])
        agreement = Agreement.between(offered, acceptance)
        pin = PartnerPin(row.partner, row.partner_url, PublicKey.from_text(row.partner_key))
        sent = {"acceptance": acceptance.document(), "signature": row.documents["acceptance_signature"]}
        sent["agreement_signature"] = armoured(self._identity.sign(_AGREE, bytes.fromhex(agreement.hash)))
        answer = post_document(self._connect(pin), f"/v1/peer/collaborations/{row.id}/acceptance", sent)
        pin.key.verify(_AGREE, bytes.fromhex(agreement.hash), _raw(answer.get("agreement_signature")))
        self._agree(row, agreement, str(sent["agreement_signature"]), str(answer["agreement_signature"]))
        return agreement

    def accepted(self, partner: str, collaboration: str, document: object) -> dict[str, Any]:
        """The inviter's answer to an acceptance: check it, store the agreement, countersign its hash.

        `partner` is who signed the request. The same acceptance again gets the same answer.
        """
        row = self._row(collaboration)
        if not isinstance(document, Mapping) or row.role != "inviter" or row.partner != partner:
            raise Refused("no invitation of that id is open to this partner.", code="not_authorised")
        invitation = Invitation.from_document(row.documents["invitation"])
        acceptance = Acceptance.from_document(document.get("acceptance"))
        key = PublicKey.from_text(row.partner_key)
        key.verify(_ACCEPT, acceptance.encoded(), _raw(document.get("signature")))
        agreement = Agreement.between(invitation, acceptance)
        theirs = document.get("agreement_signature")
        key.verify(_AGREE, bytes.fromhex(agreement.hash), _raw(theirs))
        ours = armoured(self._identity.sign(_AGREE, bytes.fromhex(agreement.hash)))
        if row.state == "agreed" and row.agreement_hash == agreement.hash:
            return {"agreement_hash": agreement.hash, "agreement_signature": ours}
        if row.state != "invited":
            raise Refused("this invitation is no longer open.", code="not_authorised")
        if self._clock() > datetime.fromisoformat(invitation.expires_at):
            raise Refused("this invitation has expired.", code="expired", advice="Ask for a new one.")
        documents = {
            **row.documents,
            "acceptance": acceptance.document(),
            "acceptance_signature": document["signature"],
        }
        self._agree(replace(row, documents=documents), agreement, ours, str(theirs))
        return {"agreement_hash": agreement.hash, "agreement_signature": ours}

    def leave(self, collaboration: str) -> CollaborationRow:
        """End a collaboration at once, on this side for good; the partner is told if it can be reached."""
        before = self._row(collaboration)
        row = self._ended(before)
        if before.state == "received":
            return row  # a stranger's invitation: nobody here ever chose to talk to that address
        pin = PartnerPin(row.partner, row.partner_url, PublicKey.from_text(row.partner_key))
        # If it cannot be told now, its next request is refused here, which tells it as well.
        with contextlib.suppress(ComityError):
            post_document(self._connect(pin), f"/v1/peer/collaborations/{row.id}/leave", {})
        return row

    def left(self, partner: str, collaboration: str) -> None:
        """The partner has left."""
        row = self._of(partner, collaboration)
        if row.state in OPEN:
            self._ended(row)

    def rotate(self, collaboration: str) -> CollaborationRow:
        """Replace the key shared with the partner; who opted out is told to it again under the new one.

        To be repeated when the partner could not be reached: until it has answered, nobody passes here whom
        it may have restricted.
        """
        row = self._row(collaboration)
        pin = PartnerPin(row.partner, row.partner_url, PublicKey.from_text(row.partner_key))
        with self._lock:
            return self._rotation.rotate(row, self._connect(pin))

    def rotated(self, partner: str, collaboration: str, document: object) -> dict[str, Any]:
        """The partner replaces the shared key; the answer is this node's half of it."""
        with self._rotating:
            return self._rotation.rotated(self._of(partner, collaboration), document)

    def amend(
        self, collaboration: str, *, terms: Terms, datasets: Sequence[str] | None = None, days: int = 14
    ) -> CollaborationRow:
        """Propose another version of an agreement in force to the partner's node."""
        row = self._row(collaboration)
        connection = self._connect(self.partner(row.id))
        return self._amendments.propose(row, connection, terms=terms, datasets=datasets, days=days)

    def accept_amendment(
        self, collaboration: str, *, terms: Terms | None = None, datasets: Sequence[str] | None = None
    ) -> CollaborationRow:
        """Accept what the partner has proposed; both sides hold the new version afterwards."""
        row = self._row(collaboration)
        connection = self._connect(self.partner(row.id))
        with self._lock:
            return self._amendments.accept(row, connection, terms=terms, datasets=datasets)

    def decline_amendment(self, collaboration: str) -> CollaborationRow:
        """Forget what has been proposed; the version in force goes on."""
        return self._amendments.decline(self._row(collaboration))

    def amendment(self, partner: str, collaboration: str, document: object) -> CollaborationRow:
        """The partner proposes another version; kept for a person to accept."""
        return self._amendments.received(self._of(partner, collaboration), document)

    def amendment_accepted(self, partner: str, collaboration: str, document: object) -> dict[str, Any]:
        """The partner accepts what this side has proposed."""
        with self._rotating:
            return self._amendments.accepted(self._of(partner, collaboration), document)

    def connection(self, collaboration: str) -> PeerConnection:
        """A connection to the other side."""
        return self._connect(self.partner(collaboration))

    def _of(self, partner: str, collaboration: str) -> CollaborationRow:
        row = self._row(collaboration)
        if row.partner != partner:
            raise Refused("that collaboration is not with this partner.", code="not_authorised")
        return row

    def _party(self, secret: bytes) -> Party:
        return Party(
            name=self._name,
            url=self._url,
            key=self._identity.public.to_text(),
            exchange=armoured(exchange_public(secret)),
            log_vkey=self._ledger.vkey,
        )

    def _refuse_second(self, partner: str, key: str) -> None:
        for name, _, pinned in self._store.pins(OPEN):
            if name == partner or pinned == key:
                raise Misuse(
                    "a collaboration with that partner is already open.",
                    code="already_exists",
                    advice="Leave it first, or let the invitation be accepted.",
                )

    def _verified(self, document: object) -> Invitation:
        """An invitation meant for this node and signed by the inviter it names."""
        if not isinstance(document, Mapping):
            raise Misuse("an invitation is a JSON object.", code="malformed_document")
        invitation = Invitation.from_document(document.get("invitation"))
        PublicKey.from_text(invitation.inviter.key).verify(
            _INVITE, invitation.encoded(), _raw(document.get("signature"))
        )
        if invitation.invitee.key != self._identity.public.to_text():
            raise Refused("the invitation is for another node's key.", code="not_authorised")
        if self._clock() > datetime.fromisoformat(invitation.expires_at):
            raise Refused("this invitation has expired.", code="expired", advice="Ask for a new one.")
        return invitation

    def _received(self, invitation: Invitation, document: object) -> CollaborationRow:
        now = self._clock().isoformat()
        return CollaborationRow(
            id=invitation.id,
            role="acceptor",
            state="received",
            partner=invitation.inviter.name,
            partner_key=invitation.inviter.key,
            partner_url=invitation.inviter.url,
            documents=document,  # type: ignore[arg-type]
            created_at=now,
            updated_at=now,
        )

    def _accepting(
        self, row: CollaborationRow, offered: Invitation, terms: Terms | None, datasets: Sequence[str] | None
    ) -> CollaborationRow:
        self._refuse_second(row.partner, row.partner_key)
        secret = self._random(32)
        acceptance = Acceptance(
            invitation=offered.hash,
            # The name the inviter knows this node by is the one both logs use.
            acceptor=replace(self._party(secret), name=offered.invitee.name),
            terms=offered.terms if terms is None else terms,
            offers=self._catalogue.offers(datasets),
            accepted_at=self._clock().isoformat(),
        )
        Agreement.between(offered, acceptance)
        documents = {
            **row.documents,
            "acceptance": acceptance.document(),
            "acceptance_signature": armoured(self._identity.sign(_ACCEPT, acceptance.encoded())),
        }
        # Kept before it is sent: a retry after a lost answer must send the very same acceptance.
        following = replace(
            row,
            state="accepting",
            documents=documents,
            sealed_exchange=self._secrets.seal_exchange(row.id, secret),
            updated_at=self._clock().isoformat(),
        )
        if not self._store.replace(following, was="received"):
            raise Misuse("this invitation is being accepted already.", code="illegal_step")
        return following

    def _agree(self, row: CollaborationRow, agreement: Agreement, ours: str, theirs: str) -> None:
        if row.sealed_exchange is None:
            raise Misuse("this collaboration has lost its exchange key.", code="illegal_step")
        me = self._identity.public.to_text()
        other = agreement.other_than(me)
        public = _raw(other.exchange)
        agreed = replace(
            row,
            state="agreed",
            agreement_hash=agreement.hash,
            documents={
                **row.documents,
                "agreement": agreement.document(),
                "signatures": {agreement.of_key(me).name: ours, other.name: theirs},
            },
            sealed_exchange=None,
            sealed_pair_key=self._secrets.seal_pair_key(row.id, row.sealed_exchange, public, agreement.hash),
            updated_at=self._clock().isoformat(),
        )
        with self._lock:
            if self._row(row.id).agreement_hash == agreement.hash:
                return
            # Logged before it takes effect: a crash in between leaves an entry whose joining is repeated.
            self._ledger.join_partner(row.partner, other.log_vkey, agreement.terms.lease)
            self._ledger.record_system(
                EventType.PARTNER_JOINED,
                {
                    "partner": row.partner,
                    "partner_key": row.partner_key,
                    "agreement_hash": agreement.hash,
                    "purposes": list(agreement.terms.purposes),
                },
            )
            if not self._store.replace(agreed, was=row.state):
                raise Misuse("the collaboration changed meanwhile.", code="illegal_step")

    def _ended(self, row: CollaborationRow) -> CollaborationRow:
        if row.state == "left":
            return row
        ended = replace(
            row,
            state="left",
            sealed_exchange=None,
            sealed_pair_key=None,
            updated_at=self._clock().isoformat(),
        )
        if row.state == "agreed":
            self._ledger.remove_partner(row.partner, {"agreement_hash": row.agreement_hash})
        if not self._store.replace(ended, was=row.state):
            raise Misuse("the collaboration changed meanwhile; try again.", code="illegal_step")
        return ended


def _raw(text: object) -> bytes:
    return unarmoured(text, "a signature or key", Misuse, "malformed_document")
