"""Ed25519 signatures (RFC 8032), separated by what is being signed.

One node has one identity key, and signs agreements, transcripts, receipts and log heads with it. A
signature must not be movable from one kind of document to another, so `sign` puts the kind in front:
``b"comity/" + context + b"/v1\\n" + message``. Three outside formats define their own bytes to be signed
(C2SP signed notes, HTTP message signatures, JSON Web Signatures), and for these alone there is `sign_raw`.
None can produce another's input: a context line starts with ``comity/`` and ends with ``/v1``, which is
neither a note's first line (the log's origin is a name without such an ending) nor a signature base (it
starts with ``"``) nor a JWS signing input (base64url without a line break).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from privacy.errors import BadInput, Misuse, Tampered
from privacy.keyfiles import read_key_file, write_key_file

__all__ = ["PublicKey", "SigningKey", "signed_bytes"]

_CONTEXT = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def signed_bytes(context: str, message: bytes) -> bytes:
    """Return exactly what `SigningKey.sign` signs, for verifiers written elsewhere.

    `context` is 1 to 64 characters of `a-z 0-9 _ . -`, starting with a letter; else `Misuse`.
    """
    if not _CONTEXT.fullmatch(context):
        raise Misuse("A signing context is a short lower-case name.")
    return b"comity/" + context.encode() + b"/v1\n" + message


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key: 32 bytes."""

    bytes32: bytes

    def __post_init__(self) -> None:
        if len(self.bytes32) != 32:
            raise BadInput("An Ed25519 public key has 32 bytes.", code="bad_public_key")

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """Read the base64 of `to_text`. Raises `BadInput` on anything else."""
        try:
            raw = base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise BadInput("A public key is written in base64.", code="bad_public_key") from None
        return cls(raw)

    def to_text(self) -> str:
        """Standard base64 with padding, 44 characters."""
        return base64.b64encode(self.bytes32).decode("ascii")

    @property
    def fingerprint(self) -> str:
        """Sixteen bytes of the SHA-256, in hex groups of four, for people to compare aloud."""
        digest = hashlib.sha256(b"comity/fingerprint/v1\n" + self.bytes32).hexdigest()[:32]
        return " ".join(digest[i : i + 4] for i in range(0, 32, 4))

    def verify(self, context: str, message: bytes, signature: bytes) -> None:
        """Return if `signature` is by this key over `message` in `context`; raise `Tampered` otherwise."""
        self.verify_raw(signed_bytes(context, message), signature)

    def verify_raw(self, message: bytes, signature: bytes) -> None:
        """As `verify`, for formats that define their own bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.bytes32).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise Tampered("The signature does not hold.", code="bad_signature") from None

    def __str__(self) -> str:
        return self.to_text()


@dataclass(frozen=True, slots=True, eq=False)
class SigningKey:
    """An Ed25519 private key. It has no useful repr, cannot be pickled, and is saved only with mode 0600."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls, random: Callable[[int], bytes] = os.urandom) -> SigningKey:
        """Make a new key from 32 random bytes."""
        return cls.from_seed(random(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed (RFC 8032 section 5.1.5), from another key store or a test vector."""
        if len(seed) != 32:
            raise Misuse("An Ed25519 seed has 32 bytes.")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Read a PKCS#8 PEM file. Raises `BadInput` or `Refused` as `read_key_file`, or if it is no key."""
        content = read_key_file(Path(path))
        try:
            private = load_pem_private_key(content, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise BadInput(f"{path} holds no unencrypted Ed25519 key.", code="bad_key_file")
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key as PKCS#8 PEM, mode 0600; refuses to write over an existing file."""
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_key_file(Path(path), pem)

    @property
    def public(self) -> PublicKey:
        """The public half."""
        return PublicKey(self._private.public_key().public_bytes_raw())

    def sign(self, context: str, message: bytes) -> bytes:
        """Return the 64-byte signature over `signed_bytes(context, message)`."""
        return self._private.sign(signed_bytes(context, message))

    def sign_raw(self, message: bytes) -> bytes:
        """Sign bytes whose format is defined elsewhere (C2SP signed note, RFC 9421 signature base).

        Refuses with `Misuse` what would double as a signature made by `sign`.
        """
        if message.startswith(b"comity/") and message.partition(b"\n")[0].endswith(b"/v1"):
            raise Misuse("These bytes belong to a signing context; use sign().")
        return self._private.sign(message)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise Misuse("A signing key is not to be copied out of its process.")
