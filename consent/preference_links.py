"""Preference links: one person's key to their own choices, without an account.

A link carries 256 random bits and nothing else: no identifier, nothing to guess, nothing to change. The
node keeps a hash of them; whom the link is for is sealed under a key that only the link itself gives, so
neither the database nor a copy of it leads from one to the other. A link ends by itself, can be revoked,
and can be limited to some purposes and partners.

    token    = 32 random bytes, base64url in the URL
    id       = first 8 bytes of SHA-256("comity/preference-link/v1" ‖ token), hex
    sealed   = AES-256-GCM(HKDF(token), identifiers), bound to the id
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from consent.encoding import canonical_json, from_micros, to_micros
from consent.events import Identifier
from consent.rows import LinkRow
from consent.subjects import pack_identifiers, unpack_identifiers
from privacy.errors import BadInput, Misuse, Refused
from privacy.keys import hkdf_sha256

if TYPE_CHECKING:
    from consent.ledger import Ledger

__all__ = ["LinkEnded", "NewLink", "OpenLink", "PreferenceLink", "PreferenceLinks"]

PATH = "/preferences/"
LONGEST = timedelta(days=366)
_LABEL = b"comity/preference-link/v1"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_NONCE = bytes(12)  # a sealing key seals once: it is as new as the token it comes from
_KEPT = timedelta(days=30)
_MOST = 64


class LinkEnded(Refused):
    """No open link has this token: it never was, has expired or was revoked. Which, is not said."""

    code = "link_ended"


@dataclass(frozen=True, slots=True)
class PreferenceLink:
    """A link as kept. Empty `purposes` or `partners` mean all of them."""

    id: str
    purposes: tuple[str, ...]
    partners: tuple[str, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewLink:
    """A link just made; `url` is the only copy of its token there will ever be."""

    link: PreferenceLink
    url: str = field(repr=False)

    @property
    def mail_headers(self) -> dict[str, str]:
        """The headers that let a mail program offer one-click refusal (RFC 2369, RFC 8058)."""
        return {
            "List-Unsubscribe": f"<{self.url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }


@dataclass(frozen=True, slots=True)
class OpenLink:
    """A link opened with its token: who it is for, and the key of its forms."""

    link: PreferenceLink
    identifiers: tuple[Identifier, ...] = field(repr=False)
    key: bytes = field(repr=False)

    def mac(self, what: str, content: object) -> str:
        """A MAC that only a holder of the link (or this node, shown the link) can make: 43 characters."""
        made = hmac.digest(self.key, what.encode() + b"\x00" + canonical_json(content), "sha256")
        return base64.urlsafe_b64encode(made).rstrip(b"=").decode()

    def made(self, what: str, content: object, mac: str) -> bool:
        return hmac.compare_digest(self.mac(what, content).encode(), mac.encode("utf-8", "replace"))


class PreferenceLinks:
    """Makes, opens, lists and ends links. Thread-safe. `base_url` is the node's public address."""

    def __init__(self, ledger: Ledger, *, base_url: str) -> None:
        self._ledger = ledger
        self._base = base_url.rstrip("/")

    def create(
        self,
        identifiers: Sequence[tuple[str, bytes]],
        *,
        purposes: Sequence[str] = (),
        partners: Sequence[str] = (),
        lifetime: timedelta = timedelta(days=30),
        created_by: str = "operator",
    ) -> NewLink:
        """A link for the one person of these canonical identifiers, whether known here or not.

        Raises Misuse: `several_subjects` when they belong to different people, `unknown_partner`;
        UnknownPurpose; BadInput for a lifetime beyond 366 days.
        """
        ledger = self._ledger
        people = tuple(Identifier(*each) for each in dict.fromkeys(identifiers))
        if not 1 <= len(people) <= 8 or len(purposes) > _MOST or len(partners) > _MOST:
            raise BadInput("A link is for one person, and at most 64 purposes and partners.")
        if not timedelta(minutes=1) <= lifetime <= LONGEST:
            raise BadInput("A link lives for between a minute and 366 days.", code="bad_lifetime")
        for purpose in purposes:
            ledger.policy.require(purpose)
        now = ledger.clock()
        token = ledger.random(32)
        link = _id(token)
        sealed = AESGCM(_derive(token, "seal")).encrypt(_NONCE, pack_identifiers(people), link.encode())
        lookups = [ledger.vault.lookup(kind)(form) for kind, form in people]
        row = LinkRow(
            link,
            _hash(token),
            lookups[0],
            sealed,
            json.dumps(sorted(set(purposes))),
            json.dumps(sorted(set(partners))),
            created_by[:128],
            to_micros(now),
            to_micros(now + lifetime),
        )
        with ledger.store.write() as tx:
            if len(set(tx.find_subjects(lookups).values())) > 1:
                raise Misuse(
                    "These identifiers belong to different people here.",
                    advice="Make one link for each, or merge them first.",
                    code="several_subjects",
                )
            known = {partner.name for partner in tx.partners()}
            if not set(partners) <= known:
                raise Misuse("No partner of that name has joined.", code="unknown_partner")
            tx.delete_links(ended_before=to_micros(now - _KEPT))
            tx.add_link(row)
        text = base64.urlsafe_b64encode(token).rstrip(b"=").decode()
        return NewLink(_link(row), f"{self._base}{PATH}{text}")

    def revoke(self, link: str) -> PreferenceLink:
        """End a link at once. Raises Misuse(unknown_link)."""
        with self._ledger.store.write() as tx:
            tx.revoke_links(to_micros(self._ledger.clock()), link=link)
            row = tx.link_by_id(link)
        if row is None:
            raise Misuse("No link of this id is recorded here.", code="unknown_link")
        return _link(row)

    def revoke_of(self, identifiers: Sequence[tuple[str, bytes]]) -> int:
        """End every open link made for any of these identifiers; returns how many there were."""
        vault = self._ledger.vault
        persons = [vault.lookup(kind, v)(form) for kind, form in identifiers for v in vault.versions]
        with self._ledger.store.write() as tx:
            return tx.revoke_links(to_micros(self._ledger.clock()), persons=persons)

    def links(self, *, before: str | None = None, limit: int = 50) -> list[PreferenceLink]:
        """Newest first; `before` is the id of the last link of the page before it. Raises unknown_link."""
        with self._ledger.store.read() as view:
            place = None
            if before is not None:
                row = view.link_by_id(before)
                if row is None:
                    raise Misuse("No link of this id is recorded here.", code="unknown_link")
                place = (row.created_at, row.id)
            return [_link(row) for row in view.links(place, limit)]

    def open(self, token: str) -> OpenLink:
        """The open link with this token. Raises LinkEnded; changes nothing."""
        ended = LinkEnded("This link is not open.", advice="Ask whoever sent it for a new one.")
        if not _TOKEN.fullmatch(token):
            raise ended
        try:
            raw = base64.urlsafe_b64decode(token + "=")
        except (binascii.Error, ValueError):
            raise ended from None
        with self._ledger.store.read() as view:
            row = (
                view.link(_hash(raw))
                if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == token
                else None
            )
        now = to_micros(self._ledger.clock())
        if row is None or row.revoked_at is not None or not row.created_at <= now < row.expires_at:
            raise ended
        try:
            packed = AESGCM(_derive(raw, "seal")).decrypt(_NONCE, row.sealed, row.id.encode())
        except InvalidTag:
            raise ended from None
        return OpenLink(_link(row), unpack_identifiers(packed), _derive(raw, "form"))


def _hash(token: bytes) -> bytes:
    return sha256(_LABEL + token).digest()


def _id(token: bytes) -> str:
    return _hash(token)[:8].hex()


def _derive(token: bytes, what: str) -> bytes:
    return hkdf_sha256(token, info=_LABEL + b" " + what.encode(), length=32)


def _link(row: LinkRow) -> PreferenceLink:
    return PreferenceLink(
        row.id,
        tuple(json.loads(row.purposes)),
        tuple(json.loads(row.partners)),
        row.created_by,
        from_micros(row.created_at),
        from_micros(row.expires_at),
        None if row.revoked_at is None else from_micros(row.revoked_at),
    )
