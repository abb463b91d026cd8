"""The group of PAIR (IAB Tech Lab, Publisher Advertiser Identity Reconciliation): ristretto255, RFC 9496.

    P(e)     = from_hash( SHA-512( SHA-256( salt ‖ hex(SHA-256(e)) ) ) )        e: the address, profile pair-1
    E(k, P)  = k · P
    D(k, Q)  = k⁻¹ · Q

The bytes are those of Optable's open implementation (`match/pkg/pair`), so that lists made here meet lists
made there. Points travel in flat buffers of 32 bytes each. libsodium (through `rbcl`) does the arithmetic;
it refuses non-canonical and invalid encodings, and the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256, sha512

import rbcl

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import WHOLE, Buffer, Random

__all__ = ["SALT", "decrypt", "encrypt", "hash_to_points", "new_key"]

SALT = 32
_UNREDUCED = 64


def new_key(random: Random) -> bytes:
    """A uniformly random non-zero scalar, 32 bytes little-endian."""
    while True:
        scalar = rbcl.crypto_core_ristretto255_scalar_reduce(random(_UNREDUCED))
        if any(scalar):
            return bytes(scalar)


def hash_to_points(match_keys: Sequence[bytes], salt: bytes) -> bytes:
    """A point for each match key (64 hex digits, `privacy.identifiers.match_key` under `pair-1`)."""
    if len(salt) != SALT:
        raise Misuse(f"A PAIR salt is {SALT} bytes.")
    start = sha256(salt)
    out = []
    for key in match_keys:
        inner = start.copy()
        inner.update(key)
        out.append(rbcl.crypto_core_ristretto255_from_hash(sha512(inner.digest()).digest()))
    return b"".join(out)


def encrypt(key: bytes, points: Buffer) -> bytes:
    """k · P for each point. PeerViolation for what encodes no point, or the identity."""
    _check_key(key)
    view = memoryview(points).cast("B") if memoryview(points).nbytes else memoryview(b"")
    if len(view) % WHOLE:
        raise Misuse("A list of points is not a whole number of points long.")
    multiply = rbcl.crypto_scalarmult_ristretto255
    try:
        return b"".join([multiply(key, bytes(view[i : i + WHOLE])) for i in range(0, len(view), WHOLE)])
    except RuntimeError:
        # Its message is libsodium's and says nothing more.
        raise PeerViolation("A point is not a canonical ristretto255 encoding, or is the identity.") from None


def decrypt(key: bytes, points: Buffer) -> bytes:
    """The inverse of `encrypt` under the same key."""
    _check_key(key)
    return encrypt(rbcl.crypto_core_ristretto255_scalar_invert(key), points)


def _check_key(key: bytes) -> None:
    if len(key) != WHOLE or not any(key):
        raise Misuse("A PAIR key is a non-zero scalar of 32 bytes.")
