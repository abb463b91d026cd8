"""From an identifier to a point: RFC 9380, suite curve25519_XMD:SHA-512_ELL2_NU_.

Only the u-coordinate is kept (the RFC calls it x of the Montgomery curve). The map is stopped before the
cofactor is cleared: every point made here is next raised to a clamped scalar, a multiple of 8, which
clears it (RFC 7748, section 5). `clear_cofactor` finishes the RFC's map for its vectors.

Why not the hash itself as a u-coordinate: half of all u lie on the quadratic twist, and on which of the
two a point lies survives every blinding, which tells a partner one bit about every person.

The arithmetic is not constant-time. It runs where the identifiers already lie, and a partner sees when a
whole chunk is done, not a single point.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import gmpy2
import pyarrow as pa

from clean_room.errors import BadInput

__all__ = ["DST", "clear_cofactor", "hash_column", "hash_to_curve", "on_curve"]

DST = b"COMITY-V1-CS01-with-curve25519_XMD:SHA-512_ELL2_NU_"
"""Domain separation tag: another protocol hashing the same identifiers gets unrelated points."""

_mpz = gmpy2.mpz
P = _mpz(2**255 - 19)
J = _mpz(486662)
_J2 = J * J
_FIELD_BYTES = 48  # L of the suite: ceil((255 + 128) / 8)
_BLOCK_BYTES = 128  # s_in_bytes of SHA-512
_INVERSIONS_AT_ONCE = 4096


def _expander(dst: bytes) -> tuple[hashlib._Hash, bytes, bytes]:
    if not 0 < len(dst) <= 255:
        raise BadInput("A domain separation tag has 1 to 255 bytes.")
    dst_prime = dst + bytes([len(dst)])
    return (
        hashlib.sha512(bytes(_BLOCK_BYTES)),
        _FIELD_BYTES.to_bytes(2, "big") + b"\x00" + dst_prime,
        b"\x01" + dst_prime,
    )


def hash_to_field(messages: Sequence[bytes], dst: bytes = DST) -> list[gmpy2.mpz]:
    """`hash_to_field` with count = 1 over expand_message_xmd (RFC 9380, sections 5.2 and 5.3.1)."""
    padded, tail, first = _expander(dst)
    from_bytes, sha512 = gmpy2.mpz.from_bytes, hashlib.sha512
    field = []
    for message in messages:
        b0 = padded.copy()
        b0.update(message + tail)
        field.append(from_bytes(sha512(b0.digest() + first).digest()[:_FIELD_BYTES], "big") % P)
    return field


def map_to_curve(field: Sequence[gmpy2.mpz]) -> list[gmpy2.mpz]:
    """`map_to_curve_elligator2_curve25519`, x only (RFC 9380, section 6.7.1 with Z = 2, K = 1).

        x1 = -J / (1 + 2u²),   x = x1 if x1³ + J·x1² + x1 is a square, else -x1 - J

    1 + 2u² is never 0, -1/2 not being a square mod p. Squareness is tested before dividing (multiply by
    (1 + 2u²)⁴), and one inversion serves the whole batch (Montgomery's trick).
    """
    denominators, products, squares = [], [], []
    running = _mpz(1)
    for u in field:
        d = (2 * u * u + 1) % P
        denominators.append(d)
        products.append(running)
        running = running * d % P
        squares.append(gmpy2.jacobi(-J * d * ((_J2 - _J2 * d + d * d) % P) % P, P) >= 0)
    inverse = gmpy2.invert(running, P)
    xs = [_mpz(0)] * len(denominators)
    for i in range(len(denominators) - 1, -1, -1):
        x1 = -J * (inverse * products[i]) % P
        inverse = inverse * denominators[i] % P
        xs[i] = x1 if squares[i] else (-x1 - J) % P
    return xs


def hash_to_curve(messages: Sequence[bytes], dst: bytes = DST) -> bytes:
    """The points of `messages`, as a flat buffer of len(messages) · 32 bytes, u little-endian.

    On the curve (never the twist), not yet in the prime-order subgroup: raise them to a clamped scalar.
    """
    parts: list[bytes] = []
    for start in range(0, len(messages), _INVERSIONS_AT_ONCE):
        xs = map_to_curve(hash_to_field(messages[start : start + _INVERSIONS_AT_ONCE], dst))
        parts.extend(x.to_bytes(32, "little") for x in xs)
    return b"".join(parts)


def hash_column(values: pa.BinaryArray | pa.ChunkedArray, dst: bytes = DST) -> bytes:
    """`hash_to_curve` over an Arrow column of canonical identifiers; nulls are refused (BadInput)."""
    if values.null_count:
        raise BadInput("Missing identifiers cannot be hashed to the curve; filter them out first.")
    parts = []
    for start in range(0, len(values), _INVERSIONS_AT_ONCE):
        parts.append(hash_to_curve(values.slice(start, _INVERSIONS_AT_ONCE).to_pylist(), dst))
    return b"".join(parts)


def on_curve(u: int) -> bool:
    """Whether `u` is the u-coordinate of a point of the curve, not of its twist (Euler's criterion)."""
    x = _mpz(u) % P
    return int(gmpy2.jacobi(x * (x * x + J * x + 1) % P, P)) >= 0


def clear_cofactor(u: int) -> int:
    """The u-coordinate of 8·(u, ·): three doublings (RFC 7748, section 5). BadInput if that is infinity."""
    x, z = _mpz(u) % P, _mpz(1)
    for _ in range(3):
        # x/z ← (x² - z²)² / 4xz(x² + J·xz + z²)
        x2, z2, xz = x * x % P, z * z % P, x * z % P
        x, z = (x2 - z2) ** 2 % P, 4 * xz * (x2 + J * xz + z2) % P
    if not z:
        raise BadInput("The point has low order.")
    return int(x * gmpy2.invert(z, P) % P)
