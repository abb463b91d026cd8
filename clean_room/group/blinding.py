"""blind(k, P) = X25519(k, P) over flat buffers: the `Blinder` contract, and the engine always there."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from clean_room.errors import Misuse, PeerViolation
from clean_room.group.points import WHOLE, Buffer, Random

__all__ = [
    "BASE_POINT",
    "Blinder",
    "CryptographyBlinder",
    "check_canonical",
    "new_scalar",
]

BASE_POINT = (9).to_bytes(WHOLE, "little")
"""The generator of the prime-order subgroup (RFC 7748, section 4.1)."""

_P_WORDS = np.array([2**64 - 19, 2**64 - 1, 2**64 - 1, 2**63 - 1], dtype="<u8")


class Blinder(Protocol):
    """Raises points to a secret.

    Contract: thread-safe, keeps nothing between calls, does not touch its input. `scalar` is 32 bytes and
    clamped by the engine (RFC 7748, section 5); `points` is n · 32 bytes, n ≥ 0; the answer is n · 32
    bytes in the same order. Raises PeerViolation for the whole buffer if any u is not below p
    (non-canonical) or any result is 0 (a point of low order); Misuse if a length is wrong.
    """

    @property
    def name(self) -> str:
        """Short name for results and logs: `cryptography`, `ipp`."""

    def blind(self, scalar: bytes, points: Buffer) -> bytes:
        """X25519(scalar, u) for every u of `points`."""


def new_scalar(random: Random) -> bytes:
    """A fresh clamped secret: 32 bytes, a multiple of 8 between 2²⁵⁴ and 2²⁵⁵ (RFC 7748, section 5)."""
    k = bytearray(random(WHOLE))
    if len(k) != WHOLE:
        raise Misuse("The source of randomness gave fewer bytes than asked for.")
    k[0] &= 248
    k[31] &= 127
    k[31] |= 64
    return bytes(k)


def check_canonical(points: Buffer) -> None:
    """Raise PeerViolation if any u in the flat buffer is p = 2²⁵⁵ − 19 or more (RFC 7748 would reduce it).

    A second spelling of one point would let a partner send the same person twice.
    """
    w = np.frombuffer(points, dtype="<u8").reshape(-1, 4)
    high = w[:, 3] >= _P_WORDS[3]
    if high.any():
        suspects = w[high]
        at_top = (suspects[:, 2] == _P_WORDS[2]) & (suspects[:, 1] == _P_WORDS[1])
        too_big = (suspects[:, 3] > _P_WORDS[3]) | (at_top & (suspects[:, 0] >= _P_WORDS[0]))
        if too_big.any():
            raise PeerViolation(
                "A point is not in canonical form: its coordinate is not below the field's prime."
            )


def check_lengths(scalar: bytes, points: Buffer) -> int:
    """Number of points in `points`; Misuse if the scalar or the buffer has an impossible length."""
    if len(scalar) != WHOLE:
        raise Misuse("A scalar has 32 bytes.")
    size = memoryview(points).nbytes
    if size % WHOLE:
        raise Misuse("The buffer does not hold a whole number of points.")
    return size // WHOLE


def low_order() -> PeerViolation:
    """The error for a point whose order divides 8: blinding it gives 0 whatever the secret."""
    return PeerViolation("A point has low order: it would come out as zero under any secret.")


class CryptographyBlinder:
    """X25519 by the `cryptography` package, one point at a time. Always available."""

    name = "cryptography"

    def blind(self, scalar: bytes, points: Buffer) -> bytes:
        """See `Blinder.blind`."""
        n = check_lengths(scalar, points)
        if not n:
            return b""
        check_canonical(points)
        exchange, load = (
            X25519PrivateKey.from_private_bytes(scalar).exchange,
            X25519PublicKey.from_public_bytes,
        )
        flat = bytes(points)
        try:
            return b"".join([exchange(load(flat[i : i + WHOLE])) for i in range(0, n * WHOLE, WHOLE)])
        except ValueError:
            raise low_order() from None
