"""What opens and closes every run: the offer, the acceptance, the seals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from clean_room.group.points import WHOLE, Buffer
from clean_room.protocols.messages.base import START, Encoded
from clean_room.protocols.wire import HASH, Reader, Writer

__all__ = ["Accept", "InputCommitment", "Offer", "Seal"]

SIGNATURE = 64
_MAX_TERMS = 1 << 20
_MAX_CONSENT = 1 << 14


@dataclass(frozen=True, slots=True)
class InputCommitment:
    """What one side binds itself to before the points: sizes and the consent they were filtered by.

    sizes: padded size of each of its lists (before dummies). consent: the consent evidence (a signed
    checkpoint, or its hash), up to 16 KiB. policy: 32 bytes, hash of the policy it was filtered under.
    """

    sizes: tuple[int, ...]
    consent: bytes = b""
    policy: bytes = bytes(HASH)

    def write(self, w: Writer) -> None:
        """Append to a message."""
        w.number(len(self.sizes), 2)
        for size in self.sizes:
            w.number(size, 4)
        w.block(self.consent)
        w.fixed(self.policy)

    @classmethod
    def read(cls, r: Reader) -> Self:
        """Read off a message."""
        sizes = tuple(r.number(4, "sizes") for _ in range(r.number(2, "sizes", low=1, high=256)))
        return cls(sizes, bytes(r.block("consent", _MAX_CONSENT)), r.fixed(HASH, "policy"))


@dataclass(frozen=True, slots=True)
class Offer(Encoded):
    """A's question. `terms` is `Terms.to_bytes()`; `key` is X, 32 bytes; `signature` Ed25519, 64 bytes."""

    KIND: ClassVar[int] = 1
    terms: bytes
    commitment: InputCommitment
    key: bytes
    signature: bytes = bytes(SIGNATURE)
    previous: bytes = START

    def unsigned(self) -> bytes:
        """The bytes the signature covers: the message with its signature zeroed."""
        return self.to_bytes()[:-SIGNATURE] + bytes(SIGNATURE)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.block(self.terms)
        self.commitment.write(w)
        w.fixed(self.key)
        w.fixed(self.signature)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "Offer")
        message = cls(
            terms=bytes(r.block("terms", _MAX_TERMS)),
            commitment=InputCommitment.read(r),
            key=r.fixed(WHOLE, "key"),
            signature=r.fixed(SIGNATURE, "signature"),
            previous=r.previous,
        )
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class Accept(Encoded):
    """C's yes."""

    KIND: ClassVar[int] = 2
    previous: bytes
    commitment: InputCommitment
    signature: bytes = bytes(SIGNATURE)

    def unsigned(self) -> bytes:
        """The bytes the signature covers: the message with its signature zeroed."""
        return self.to_bytes()[:-SIGNATURE] + bytes(SIGNATURE)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        self.commitment.write(w)
        w.fixed(self.signature)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "Accept")
        message = cls(r.previous, InputCommitment.read(r), r.fixed(SIGNATURE, "signature"))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class Seal(Encoded):
    """One side's signature over the transcript hash, which is `previous` of the analyst's Seal.

    `role` is 1 for the analyst, 2 for the contributor. Both sign the same hash: the contributor's Seal
    repeats it.
    """

    KIND: ClassVar[int] = 10
    previous: bytes
    role: int
    signature: bytes

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(self.role, 1)
        w.fixed(self.signature)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "Seal")
        message = cls(r.previous, r.number(1, "role", low=1, high=2), r.fixed(SIGNATURE, "signature"))
        r.end()
        return message
