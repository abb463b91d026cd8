"""The key two partners share: X25519 from the invitation and the acceptance, bound to the agreement.

    pair key = HKDF-SHA256(X25519(own secret, other's public), salt = agreement hash)

Both the exchange secret and the pair key are stored sealed by the node's key ring only.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from consent.encoding import canonical_json
from privacy.errors import Tampered
from privacy.keys import KeyRing, hkdf_sha256

__all__ = ["PairSecrets", "exchange_public"]


def exchange_public(secret: bytes) -> bytes:
    """The X25519 public key of a 32-byte secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


class PairSecrets:
    """Seals exchange secrets and pair keys, each bound to its collaboration."""

    def __init__(self, keyring: KeyRing) -> None:
        self._keyring = keyring

    def seal_exchange(self, collaboration: str, secret: bytes) -> bytes:
        """The exchange secret as stored until the agreement is made."""
        return self._keyring.seal(secret, _aad("exchange", collaboration))

    def seal_pair_key(self, collaboration: str, exchange: bytes, public: bytes, agreement_hash: str) -> bytes:
        """Derive the pair key from a sealed exchange secret; raises `Tampered` for a useless public key."""
        secret = self._keyring.open(exchange, _aad("exchange", collaboration))
        try:
            other = X25519PublicKey.from_public_bytes(public)
            shared = X25519PrivateKey.from_private_bytes(secret).exchange(other)
        except ValueError:
            raise Tampered("the partner's exchange key is not a usable X25519 point.") from None
        info, salt = b"comity/clean-room/pair-key/v1", bytes.fromhex(agreement_hash)
        return self._keyring.seal(hkdf_sha256(shared, info=info, salt=salt), _aad("pair", collaboration))

    def pair_key(self, collaboration: str, sealed: bytes) -> bytes:
        """The 32-byte pair key."""
        return self._keyring.open(sealed, _aad("pair", collaboration))


def _aad(what: str, collaboration: str) -> bytes:
    return hashlib.sha256(canonical_json(["clean-room", what, collaboration])).digest()
