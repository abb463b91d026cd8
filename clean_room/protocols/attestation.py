"""How a protocol core signs and checks without holding a key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Attestation"]


@dataclass(frozen=True, slots=True)
class Attestation:
    """Own signing and the partner's checking, as two functions.

    sign(context, message) -> 64 bytes: own Ed25519 signature (`privacy.signing.SigningKey.sign`).
    verify(context, message, signature): raises Tampered unless it is the partner's (`PublicKey.verify`).
    Contexts used: `clean-room-offer`, `clean-room-accept`, `clean-room-transcript`.
    """

    sign: Callable[[str, bytes], bytes] = field(repr=False)
    verify: Callable[[str, bytes, bytes], None] = field(repr=False)
