"""Another key between two partners, in the middle of an agreement.

    one side                                       the other
    rotate()  ── number, X25519 public ────▶
              ◀── X25519 public ────────────       rotated()
    both: new pair key = HKDF(X25519, salt = agreement hash); told again under it is everybody who stands

Requests and answers carry the partners' signatures. The key that was replaced goes on naming people until the
agreement ends: whoever was erased at the partner meanwhile cannot be named anew. From the moment one side has
asked until it has the answer it cannot tell whom the other may already name by the new key, and lets nobody
pass whom the other might have restricted; asking again settles it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from clean_room.armour import armoured, unarmoured
from clean_room.pair_secrets import PairSecrets, exchange_public
from clean_room.storage import CollaborationRow, CollaborationStore
from clean_room.transport import post_document
from consent.peers import PeerConnection
from privacy.errors import Misuse, PeerViolation, Refused
from privacy.signing import PublicKey

__all__ = ["KeyRotation", "RotationLedger"]


class RotationLedger(Protocol):
    """The part of the consent ledger that a rotation needs."""

    def rotated_key(self, name: str, fields: Mapping[str, object]) -> None:
        """Record it, and tell the partner again, by the key in use then, of everybody who stands."""


class KeyRotation:
    """Replaces pair keys. Every method that returns has committed."""

    def __init__(
        self,
        store: CollaborationStore,
        secrets: PairSecrets,
        ledger: RotationLedger,
        *,
        own_key: str,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._ledger = ledger
        self._own_key = own_key
        self._clock = clock
        self._random = random

    def rotate(self, row: CollaborationRow, connection: PeerConnection) -> CollaborationRow:
        """Agree on another key with the partner. To be repeated when the partner could not be reached."""
        _require_agreed(row)
        if "rotating" not in row.documents:
            secret = self._random(32)
            begun = replace(
                row,
                documents={**row.documents, "rotating": armoured(exchange_public(secret))},
                sealed_exchange=self._secrets.seal_exchange(row.id, secret),
                updated_at=self._clock().isoformat(),
            )
            row = self._replaced(row, begun)
        asked = {"number": _number(row) + 1, "exchange": row.documents["rotating"]}
        answer = post_document(connection, f"/v1/peer/collaborations/{row.id}/rotation", asked)
        return self._settled(row, str(answer.get("exchange")), str(asked["exchange"]))

    def rotated(self, row: CollaborationRow, document: object) -> dict[str, Any]:
        """The partner wants another key: take part, and answer. The same request gets the same answer.

        Raises Refused(`rotation_conflict`) when both sides ask at once and this one's key sorts first.
        """
        _require_agreed(row)
        if not isinstance(document, Mapping) or set(document) != {"number", "exchange"}:
            raise Misuse("a rotation has a number and a key.", code="malformed_document")
        number, theirs = document["number"], document["exchange"]
        done = row.documents.get("rotation", {})
        if done.get("number") == number and done.get("theirs") == theirs:
            return {"exchange": done["ours"]}
        if number != _number(row) + 1:
            raise Refused("that is not the next rotation of this agreement.", code="rotation_conflict")
        if "rotating" in row.documents and self._own_key < row.partner_key:
            raise Refused("both sides ask for another key at once.", code="rotation_conflict")
        secret = self._random(32)
        ours = armoured(exchange_public(secret))
        begun = replace(row, sealed_exchange=self._secrets.seal_exchange(row.id, secret))
        self._settled(begun, str(theirs), ours)
        return {"exchange": ours}

    def keys(self, row: CollaborationRow) -> Sequence[bytes]:
        """The keys by which the partner may have named somebody, the one in use first."""
        if row.sealed_pair_key is None or "rotating" in row.documents:
            return []
        retired = [_raw(sealed) for sealed in row.documents.get("retired_keys", [])]
        return [self._secrets.pair_key(row.id, sealed) for sealed in (row.sealed_pair_key, *retired)]

    def _settled(self, row: CollaborationRow, theirs: str, ours: str) -> CollaborationRow:
        if row.sealed_pair_key is None or row.sealed_exchange is None:
            raise Misuse("this collaboration has lost its keys.", code="illegal_step")
        public = unarmoured(theirs, "an exchange key", PeerViolation, "peer_violation")
        if len(public) != 32:
            raise PeerViolation("an exchange key is 32 bytes.")
        number = _number(row) + 1
        fresh = self._secrets.seal_pair_key(row.id, row.sealed_exchange, public, row.agreement_hash)
        documents = {k: v for k, v in row.documents.items() if k != "rotating"}
        retired = [armoured(row.sealed_pair_key), *row.documents.get("retired_keys", [])]
        after = self._replaced(
            row,
            replace(
                row,
                documents={
                    **documents,
                    "retired_keys": retired,
                    "rotation": {"number": number, "ours": ours, "theirs": theirs},
                },
                sealed_exchange=None,
                sealed_pair_key=fresh,
                updated_at=self._clock().isoformat(),
            ),
        )
        self._ledger.rotated_key(row.partner, {"agreement_hash": row.agreement_hash, "number": number})
        return after

    def _replaced(self, row: CollaborationRow, after: CollaborationRow) -> CollaborationRow:
        if not self._store.replace(after, was=row.state):
            raise Misuse("the collaboration changed meanwhile; try again.", code="illegal_step")
        return after


def _number(row: CollaborationRow) -> int:
    return int(row.documents.get("rotation", {}).get("number", 0))


def _raw(text: object) -> bytes:
    return unarmoured(text, "a retired key", Misuse, "malformed_document")


def _require_agreed(row: CollaborationRow) -> None:
    if row.state != "agreed":
        raise Refused("that collaboration is not in force.", code="not_agreed", advice="Agree on it first.")
    PublicKey.from_text(row.partner_key)
