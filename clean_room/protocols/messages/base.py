"""What every message is, and how the transcript is hashed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import ClassVar, Protocol, Self

from clean_room.group.points import Buffer
from clean_room.protocols.wire import HASH

__all__ = ["START", "Encoded", "Message", "chain", "chained"]

START = bytes(HASH)
"""`previous` of the first message."""


class Message(Protocol):
    """Anything that travels. `to_parts` gives header and buffers without joining them, for streaming."""

    KIND: ClassVar[int]

    @property
    def previous(self) -> bytes:
        """Hash of the transcript before this message, 32 bytes."""

    def to_parts(self) -> list[Buffer]:
        """The bytes in pieces; large buffers are the originals, not copies."""

    def to_bytes(self) -> bytes:
        """The bytes in one piece."""

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """Read strictly; PeerViolation on anything off. Points stay views into `data`."""


def chain(message: Message) -> bytes:
    """Hash of the transcript up to and including `message`: SHA-256 over its bytes, which hold `previous`."""
    return chained(*message.to_parts())


def chained(*parts: Buffer) -> bytes:
    """`chain` of a message whose bytes, in `parts`, are at hand."""
    digest = hashlib.sha256(b"comity/transcript/v1\n")
    for part in parts:
        digest.update(part)
    return digest.digest()


class Encoded(ABC):
    """What every message is made of: its parts, and with them its bytes."""

    __slots__ = ()

    @abstractmethod
    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""

    def to_bytes(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.to_parts())
