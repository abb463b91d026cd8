"""Keyed pseudonyms that join where they are meant to, and nowhere else.

``t<version>_`` + base32(first 20 bytes of HMAC-SHA256(K, canonical)) with
``K = HKDF(key, purpose ‖ domain ‖ partner ‖ version)``: 32 characters of a-z and 2-7. The same person has
the same token wherever purpose, domain and partner are the same (across tables, and in free text), and
unrelated tokens elsewhere. Tokens are *pseudonymous, not anonymous*: who holds the key can rebuild them,
and equal rows stay equal.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from privacy.errors import BadInput, Misuse
from privacy.keys import hkdf_sha256, label_bytes

__all__ = ["Pseudonymiser"]

_TOKEN_BYTES = 20  # 160 bits: among 10⁹ people a collision has probability below 2⁻¹⁰⁰
_ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", dtype=np.uint8)
_SHIFTS = np.arange(35, -1, -5, dtype=np.uint64)  # eight letters of five bits in each five bytes


@dataclass(frozen=True, slots=True, eq=False)
class Pseudonymiser:
    """Makes the tokens of one purpose, domain and partner.

    `key` is 32 bytes or more and secret. `domain` names what is tokenised (`phone`, `email`, …), so that
    values of different kinds never collide into one person; `partner` is empty for one's own use.
    """

    key: bytes = field(repr=False)
    purpose: str = field(kw_only=True)
    domain: str = field(kw_only=True)
    partner: str = field(kw_only=True, default="")
    version: int = field(kw_only=True, default=1)
    _inner: hashlib._Hash = field(init=False, repr=False)
    _outer: hashlib._Hash = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.key) < 32:
            raise Misuse("A pseudonym key has at least 32 bytes.")
        if not self.purpose or not self.domain:
            raise Misuse("A pseudonym needs a purpose and a domain.")
        if self.version < 1:
            raise Misuse("Pseudonym versions start at 1.")
        info = label_bytes("comity/pseudonym/v1", self.purpose, self.domain, self.partner, str(self.version))
        # The two keyed states of HMAC (RFC 2104 section 4), copied for each value: three times as fast as
        # starting over, and the columns are long.
        block = hkdf_sha256(self.key, info=info).ljust(64, b"\0")
        object.__setattr__(self, "_inner", hashlib.sha256(bytes(b ^ 0x36 for b in block)))
        object.__setattr__(self, "_outer", hashlib.sha256(bytes(b ^ 0x5C for b in block)))

    @property
    def prefix(self) -> str:
        """What every token of this version starts with."""
        return f"t{self.version}_"

    def token(self, canonical: bytes) -> str:
        """Return the token of one canonical identifier."""
        return self.prefix + base64.b32encode(self._digest(canonical)).decode("ascii").lower()

    def tokens(self, canonicals: pa.Array | pa.ChunkedArray) -> pa.StringArray:
        """Return the token of each row of a binary or text column; null stays null.

        Each distinct value is tokenised once. Raises `BadInput` for a column of another type.
        """
        if isinstance(canonicals, pa.ChunkedArray):
            canonicals = canonicals.combine_chunks()
        encoded = canonicals if pa.types.is_dictionary(canonicals.type) else canonicals.dictionary_encode()
        kind = encoded.dictionary.type
        if pa.types.is_null(kind):
            return pa.nulls(len(canonicals), pa.string())
        if not (
            pa.types.is_binary(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_binary(kind)
            or pa.types.is_large_string(kind)
        ):
            raise BadInput(
                f"A column of type {kind} holds no canonical identifiers.",
                advice="Canonicalise it first (privacy.identifiers.canonical_column).",
            )
        distinct = encoded.dictionary.cast(pa.binary()).to_pylist()
        known = [v for v in distinct if v is not None]
        tokens = self._encode([self._digest(v) for v in known])
        if len(known) < len(distinct):
            tokens = tokens.take(pa.array(_rank(distinct), pa.int64()))
        return tokens.take(encoded.indices)

    def _digest(self, canonical: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(canonical)
        outer.update(inner.digest())
        return outer.digest()[:_TOKEN_BYTES]

    def _encode(self, digests: list[bytes]) -> pa.StringArray:
        """Base32 (RFC 4648 section 6, lower case) of all digests at once, behind the prefix."""
        prefix = np.frombuffer(self.prefix.encode("ascii"), dtype=np.uint8)
        fives = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 5).astype(np.uint64)
        words = fives[:, 0]
        for i in range(1, 5):
            words = (words << np.uint64(8)) | fives[:, i]
        groups = (words[:, None] >> _SHIFTS) & np.uint64(31)
        letters = _ALPHABET[groups].reshape(len(digests), _TOKEN_BYTES * 8 // 5)
        rows = np.hstack([np.broadcast_to(prefix, (len(digests), prefix.size)), letters])
        ends = np.arange(len(digests) + 1, dtype=np.int32) * rows.shape[1]
        content = np.ascontiguousarray(rows)
        return pa.StringArray.from_buffers(len(digests), pa.py_buffer(ends), pa.py_buffer(content))

    def __reduce__(self) -> str | tuple[object, ...]:
        raise Misuse("A pseudonym key is not to be copied out of its process.")


def _rank(values: list[bytes | None]) -> list[int | None]:
    """The position of each value among those that are not None."""
    out: list[int | None] = []
    seen = 0
    for value in values:
        out.append(None if value is None else seen)
        seen += value is not None
    return out
