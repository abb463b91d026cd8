"""Secret keys: a local key ring behind the two-method protocol that a cloud KMS also fits.

The ring holds 32-byte roots, one a version. Everything else is derived (HKDF-SHA256, RFC 5869) or sealed
(AES-256-GCM) under them, so there is one small file to guard and to back up.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privacy.errors import BadInput, Misuse, Refused, Tampered
from privacy.keyfiles import read_key_file, replace_key_file, write_key_file

__all__ = ["KeyManagement", "KeyRing", "hkdf_sha256"]

_FORMAT = "comity-keyring-1"
_MAGIC = b"CKS1"  # Comity key ring, sealed, layout 1
_SALT, _NONCE, _TAG = 16, 12, 16
_HEADER = len(_MAGIC) + 4 + _SALT + _NONCE
_HEADER_LENGTH = _HEADER.to_bytes(4, "big")
_SHARED = 1 << 16  # messages sealed under one salt
_KEPT = 256  # ciphers kept for opening
_SEAL_LABEL = "comity/keyring/seal/v1"
_WRAP_LABEL = b"comity/keyring/wrap/v1\x00"


class KeyManagement(Protocol):
    """What a key management service must do: wrap a data key, and give it back.

    `context` binds a wrapped key to its use: `unwrap` with another context raises `Tampered`. Neither
    method may log or keep the key. `PeerUnreachable` if a remote service does not answer.
    """

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Return `key` encrypted under a key that never leaves the service."""
        ...

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Return the key that was wrapped under the same context. Raises `Tampered` otherwise."""
        ...


def hkdf_sha256(secret: bytes, *, info: bytes, salt: bytes = b"", length: int = 32) -> bytes:
    """HKDF with SHA-256 (RFC 5869 section 2); `length` is 1 to 8160 bytes."""
    if not 1 <= length <= 255 * 32:
        raise Misuse("HKDF-SHA256 yields 1 to 8160 bytes.")
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def label_bytes(*labels: str | bytes) -> bytes:
    """Encode labels so that no two lists share an encoding: each as four bytes of length and its content."""
    parts = [label.encode() if isinstance(label, str) else bytes(label) for label in labels]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _bound(header: bytes, aad: bytes) -> bytes:
    """`label_bytes(header, aad)`, the header's length being known."""
    return _HEADER_LENGTH + header + len(aad).to_bytes(4, "big") + aad


class _Ciphers:
    """Message keys that are in use: deriving one costs five times as much as sealing with it."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], AESGCM] = {}
        self._sealing: tuple[int, bytes, AESGCM] | None = None
        self._left = 0
        self._process = 0
        self._lock = threading.Lock()

    def sealing(self, ring: KeyRing) -> tuple[bytes, AESGCM]:
        """The part of the header before the nonce, and the cipher that belongs to it."""
        version, process = ring.version, os.getpid()
        with self._lock:
            kept = self._sealing
            # A forked process draws its own salt, so that no two share one beyond the limit.
            if kept is None or kept[0] != version or not self._left or self._process != process:
                salt = ring._random(_SALT)
                header = _MAGIC + version.to_bytes(4, "big") + salt
                kept = self._sealing = (version, header, ring._cipher(version, salt))
                self._left, self._process = _SHARED, process
            self._left -= 1
            return kept[1], kept[2]

    def opening(self, ring: KeyRing, version: int, salt: bytes) -> AESGCM:
        """The cipher for a version and a salt."""
        found = self._known.get((version, salt))
        if found is None:
            found = ring._cipher(version, salt)
            with self._lock:
                while len(self._known) >= _KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[version, salt] = found
        return found


@dataclass(frozen=True, slots=True, eq=False)
class KeyRing:
    """A node's own keys, kept in one owner-only file. Satisfies `KeyManagement`."""

    _roots: Mapping[int, bytes] = field(repr=False)
    _random: Callable[[int], bytes] = field(default=os.urandom, repr=False)
    _ciphers: _Ciphers = field(default_factory=_Ciphers, init=False, repr=False)

    def __post_init__(self) -> None:
        sound = all(0 < v < 2**32 and len(root) == 32 for v, root in self._roots.items())
        if not self._roots or not sound:
            raise BadInput("A key ring holds one or more 32-byte roots.", code="bad_key_file")

    @classmethod
    def create(cls, path: Path, random: Callable[[int], bytes] = os.urandom) -> KeyRing:
        """Make a ring with one fresh root and save it (mode 0600). Raises `Refused` if the file exists."""
        root = random(32)
        content = {"format": _FORMAT, "roots": {"1": base64.b64encode(root).decode("ascii")}}
        write_key_file(Path(path), json.dumps(content, indent=2).encode() + b"\n")
        return cls({1: root}, random)

    @classmethod
    def load(cls, path: Path, random: Callable[[int], bytes] = os.urandom) -> KeyRing:
        """Read a ring. Raises `BadInput` or `Refused` as `read_key_file`, or if it is not a key ring."""
        content = read_key_file(Path(path))
        try:
            document = json.loads(content)
            if document["format"] != _FORMAT or set(document) != {"format", "roots"}:
                raise ValueError("format")
            roots = {int(v): base64.b64decode(r, validate=True) for v, r in document["roots"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error):
            # The parser's own message may quote the file.
            raise BadInput(f"{path} is not a key ring.", code="bad_key_file") from None
        return cls(roots, random)

    @classmethod
    def from_root(cls, root: bytes, random: Callable[[int], bytes] = os.urandom) -> KeyRing:
        """A ring that lives in memory only: for tests, or when the root comes from another key store."""
        return cls({1: bytes(root)}, random)

    @property
    def version(self) -> int:
        """The version that new keys are derived and new messages sealed under."""
        return max(self._roots)

    @property
    def versions(self) -> tuple[int, ...]:
        """Every version that the ring holds, oldest first."""
        return tuple(sorted(self._roots))

    def rotate(self, path: Path) -> KeyRing:
        """Add a fresh root to the ring saved at `path` and return the new ring; the older roots stay.

        What was sealed or wrapped before can still be opened. What was *derived* is another value from
        then on, unless it is asked for by version. Raises `Refused` if the file holds another ring than
        this one, `StorageError` if the disk refuses.
        """
        if KeyRing.load(path, self._random)._roots != self._roots:
            raise Refused(
                "The key ring's file holds other roots than this process read.",
                rule="key_ring_changed",
                advice="It was changed meanwhile: start again.",
                code="key_ring_changed",
            )
        roots = {**self._roots, self.version + 1: self._random(32)}
        listed = {str(v): base64.b64encode(root).decode("ascii") for v, root in sorted(roots.items())}
        content = json.dumps({"format": _FORMAT, "roots": listed}, indent=2).encode() + b"\n"
        replace_key_file(Path(path), content)
        return KeyRing(roots, self._random)

    def derive(self, *labels: str | bytes, length: int = 32, version: int | None = None) -> bytes:
        """Return the key that belongs to `labels`, the same each time.

        Different label lists give independent keys. Raises `Misuse` without labels or for a version that
        the ring does not hold.
        """
        if not labels:
            raise Misuse("A derived key needs at least one label.")
        wanted = self.version if version is None else version
        root = self._roots.get(wanted)
        if root is None:
            raise Misuse(f"The key ring holds no version {wanted}.")
        return hkdf_sha256(root, info=label_bytes("comity/keyring/derive/v1", *labels), length=length)

    def seal(self, plaintext: bytes, aad: bytes = b"") -> bytes:
        """Encrypt and authenticate `plaintext`, and authenticate `aad`; 52 bytes longer than the input.

        Layout: ``"CKS1" ‖ version (4, big-endian) ‖ salt (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)``. The
        AES-256 key is HKDF(root, salt), and a fresh salt is drawn for every 2¹⁶ messages and by every
        process: far below the 2³² messages with random nonces that NIST SP 800-38D section 8.3 allows
        under one key, however many are sealed in all. The header is authenticated too.
        """
        prefix, cipher = self._ciphers.sealing(self)
        header = prefix + self._random(_NONCE)
        return header + cipher.encrypt(header[-_NONCE:], plaintext, _bound(header, aad))

    def open(self, sealed: bytes, aad: bytes = b"") -> bytes:
        """Return what was sealed with the same `aad`. Raises `Tampered` on anything else."""
        if len(sealed) < _HEADER + _TAG or not sealed.startswith(_MAGIC):
            raise Tampered("This was not sealed by a key ring.", code="bad_seal")
        header = bytes(sealed[:_HEADER])
        version = int.from_bytes(header[4:8], "big")
        if version not in self._roots:
            raise Tampered("This was sealed under a key that the ring does not hold.", code="bad_seal")
        salt, nonce = header[8 : 8 + _SALT], header[8 + _SALT :]
        try:
            return self._ciphers.opening(self, version, salt).decrypt(
                nonce, bytes(sealed[_HEADER:]), _bound(header, aad)
            )
        except InvalidTag:
            raise Tampered("The sealed data was changed, or belongs elsewhere.", code="bad_seal") from None

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Seal a data key for `context`."""
        return self.seal(key, _WRAP_LABEL + context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Open a data key that was wrapped for `context`. Raises `Tampered` otherwise."""
        return self.open(wrapped, _WRAP_LABEL + context)

    def _cipher(self, version: int, salt: bytes) -> AESGCM:
        key = hkdf_sha256(self._roots[version], salt=salt, info=label_bytes(_SEAL_LABEL))
        return AESGCM(key)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise Misuse("A key ring is not to be copied out of its process.")
