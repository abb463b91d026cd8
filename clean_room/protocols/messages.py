"""What travels between analyst (A) and contributor (C). Frozen; strict both ways.

    Offer               A → C   the terms, A's commitment, X = X25519(x, 9); signed
    Accept              C → A   C's commitment; signed
    AnalystPoints       A → C   H(a)^x, shuffled within each segment
    ContributorPoints   C → A   those ^y, truncated, reshuffled; and H(c)^y by segment; dummies in both
    ValueColumns        C → A   (measure) public key, encrypted columns in the order of H(c)^y
    MaskedSums          A → C   (measure) one masked ciphertext per cell and column
    DecryptedSums       C → A   (measure) one noisy masked sum per cell and column
    AlignPoints         C → A   (align) A's points ^y in A's order; and H(c)^y
    AlignedRows         A → C   (align) for shared rows: position in C's list, shared id
    PairSalt            C → A   (activate) the salt of the month
    PairPoints          C → A   (activate) A's points encrypted again, reshuffled; and C's own keys
    AnalystRows         A → C   (waterfall) A's rows, one list a key and segment, rows kept together
    ContributorRows     C → A   (waterfall) those ^y, reshuffled as rows; and C's rows; dummies in both
    ReachSizes          A → C   (reach) how long everybody's list is
    ReachOwn            C → A   (reach) its noisy size; C's header point and list, blinded once
    ReachList           both    (reach) somebody's list before C has blinded it, and after
    Seal                both    signature over the hash of the whole transcript

`previous` in each is the hash of everything before it, so a message replayed from another job, sent
twice or out of turn does not fit. A point's canonical form and order are checked where it is blinded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self

from clean_room.errors import PeerViolation
from clean_room.group.points import TRUNCATED, WHOLE, Buffer, Points
from clean_room.protocols.wire import HASH, Reader, Writer

__all__ = [
    "MESSAGES",
    "Accept",
    "AlignPoints",
    "AlignedRows",
    "AnalystPoints",
    "AnalystRows",
    "ContributorPoints",
    "ContributorRows",
    "DecryptedSums",
    "InputCommitment",
    "MaskedSums",
    "Message",
    "Offer",
    "PairPoints",
    "PairSalt",
    "ReachList",
    "ReachOwn",
    "ReachSizes",
    "Seal",
    "ValueColumns",
    "chain",
    "parse_message",
]

START = bytes(HASH)
"""`previous` of the first message."""
SIGNATURE = 64
ROW_ID = 16
_MAX_TERMS = 1 << 20
_MAX_CONSENT = 1 << 14
_MAX_CIPHERTEXT = 1 << 20
_MAX_CIPHERTEXTS = 1 << 18
_MAX_KEY = 1 << 21


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


class _Encoded:
    """to_bytes for every message."""

    __slots__ = ()

    def to_parts(self) -> list[Buffer]:
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The bytes in one piece."""
        return b"".join(self.to_parts())


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
class Offer(_Encoded):
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
class Accept(_Encoded):
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
class AnalystPoints(_Encoded):
    """A's people, blinded once: one list of whole points a segment."""

    KIND: ClassVar[int] = 3
    previous: bytes
    lists: tuple[Points, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points(self.lists)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AnalystPoints")
        message = cls(r.previous, r.points("lists", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ContributorPoints(_Encoded):
    """A's people doubly blinded and truncated (`returned`), and C's people blinded once (`own`)."""

    KIND: ClassVar[int] = 4
    previous: bytes
    returned: tuple[Points, ...]
    own: tuple[Points, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points(self.returned)
        w.points(self.own)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ContributorPoints")
        message = cls(r.previous, r.points("returned", TRUNCATED), r.points("own", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ValueColumns(_Encoded):
    """C's columns, encrypted to `key`: `ciphertexts[column][segment][block]`, 8192 rows a block."""

    KIND: ClassVar[int] = 5
    previous: bytes
    key: Buffer = field(repr=False)
    ciphertexts: tuple[tuple[tuple[Buffer, ...], ...], ...] = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.block(self.key)
        w.number(len(self.ciphertexts), 2)
        for column in self.ciphertexts:
            w.number(len(column), 2)
            for segment in column:
                w.number(len(segment), 4)
                for ciphertext in segment:
                    w.block(ciphertext)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ValueColumns")
        key = r.block("key", _MAX_KEY)
        columns = tuple(
            tuple(
                tuple(
                    r.block("ciphertexts", _MAX_CIPHERTEXT)
                    for _ in range(r.number(4, "ciphertexts", high=_MAX_CIPHERTEXTS))
                )
                for _ in range(r.number(2, "ciphertexts", low=1, high=256))
            )
            for _ in range(r.number(2, "ciphertexts", low=1, high=16))
        )
        message = cls(r.previous, key, columns)
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class MaskedSums(_Encoded):
    """One ciphertext per cell and column: `ciphertexts[cell · columns + column]`, cells row by row."""

    KIND: ClassVar[int] = 6
    previous: bytes
    ciphertexts: tuple[Buffer, ...] = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.ciphertexts), 4)
        for ciphertext in self.ciphertexts:
            w.block(ciphertext)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "MaskedSums")
        count = r.number(4, "ciphertexts", low=1, high=1 << 16)
        message = cls(r.previous, tuple(r.block("ciphertexts", _MAX_CIPHERTEXT) for _ in range(count)))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class DecryptedSums(_Encoded):
    """Per cell and column: (sum + Σr + noise) mod t, an unsigned 64-bit integer below t."""

    KIND: ClassVar[int] = 7
    previous: bytes
    sums: tuple[int, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.sums), 4)
        for value in self.sums:
            w.number(value, 8)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "DecryptedSums")
        count = r.number(4, "sums", low=1, high=1 << 16)
        message = cls(r.previous, tuple(r.number(8, "sums") for _ in range(count)))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class AlignPoints(_Encoded):
    """A's points doubly blinded *in A's order* (`returned`), and C's blinded once (`own`).

    A type of its own: with it the analyst learns which of its rows are shared, as `align` is meant to.
    """

    KIND: ClassVar[int] = 8
    previous: bytes
    returned: Points
    own: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points((self.returned,))
        w.points((self.own,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AlignPoints")
        returned, own = r.points("returned", TRUNCATED), r.points("own", WHOLE)
        r.end()
        if len(returned) != 1 or len(own) != 1:
            raise PeerViolation("The message AlignPoints has a bad number of lists.")
        return cls(r.previous, returned[0], own[0])


@dataclass(frozen=True, slots=True)
class AlignedRows(_Encoded):
    """The shared rows: `positions` in C's list (big-endian u32 each), `ids` (16 random bytes each)."""

    KIND: ClassVar[int] = 9
    previous: bytes
    positions: Buffer = field(repr=False)
    ids: Buffer = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(memoryview(self.positions).nbytes // 4, 4)
        w.fixed(self.positions)
        w.fixed(self.ids)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AlignedRows")
        count = r.number(4, "positions", high=1 << 28)
        message = cls(r.previous, r.fixed(4 * count, "positions"), r.fixed(ROW_ID * count, "ids"))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class Seal(_Encoded):
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


@dataclass(frozen=True, slots=True)
class PairSalt(_Encoded):
    """The 32 bytes both sides put before an address's hash; the contributor changes them every epoch."""

    KIND: ClassVar[int] = 11
    previous: bytes
    salt: bytes = field(repr=False)

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.fixed(self.salt)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "PairSalt")
        message = cls(r.previous, r.fixed(HASH, "salt"))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class PairPoints(_Encoded):
    """A's points under both keys, reshuffled (`returned`), and C's people under C's key (`own`)."""

    KIND: ClassVar[int] = 12
    previous: bytes
    returned: Points
    own: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.points((self.returned, self.own))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "PairPoints")
        lists = r.points("lists", WHOLE)
        r.end()
        if len(lists) != 2:
            raise PeerViolation("The message PairPoints has a bad number of lists.")
        return cls(r.previous, *lists)


@dataclass(frozen=True, slots=True)
class AnalystRows(_Encoded):
    """A's rows, blinded once: `lists[segment][key]`, row n of a segment at place n in each of its lists."""

    KIND: ClassVar[int] = 16
    previous: bytes
    lists: tuple[tuple[Points, ...], ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_rows(w, self.lists)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "AnalystRows")
        message = cls(r.previous, _read_rows(r, "lists", WHOLE))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ContributorRows(_Encoded):
    """A's rows doubly blinded and truncated (`returned`), and C's blinded once (`own`), as in AnalystRows."""

    KIND: ClassVar[int] = 17
    previous: bytes
    returned: tuple[tuple[Points, ...], ...]
    own: tuple[tuple[Points, ...], ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        _write_rows(w, self.returned)
        _write_rows(w, self.own)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ContributorRows")
        message = cls(r.previous, _read_rows(r, "returned", TRUNCATED), _read_rows(r, "own", WHOLE))
        r.end()
        return message


def _write_rows(w: Writer, lists: tuple[tuple[Points, ...], ...]) -> None:
    w.number(len(lists[0]) if lists else 0, 1)
    w.points(points for segment in lists for points in segment)


def _read_rows(r: Reader, field: str, width: int) -> tuple[tuple[Points, ...], ...]:
    keys = r.number(1, field, low=2, high=3)
    lists = r.points(field, width)
    if not lists or len(lists) % keys:
        raise r.error(field)
    segments = tuple(lists[i : i + keys] for i in range(0, len(lists), keys))
    if any(len({len(points) for points in segment}) != 1 for segment in segments):
        raise r.error(field)
    return segments


@dataclass(frozen=True, slots=True)
class ReachSizes(_Encoded):
    """How long the list of every party is, in order, without dummies."""

    KIND: ClassVar[int] = 13
    previous: bytes
    lengths: tuple[int, ...]

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(len(self.lengths), 1)
        for length in self.lengths:
            w.number(length, 4)
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachSizes")
        count = r.number(1, "lengths", low=3, high=8)
        message = cls(r.previous, tuple(r.number(4, "lengths") for _ in range(count)))
        r.end()
        return message


@dataclass(frozen=True, slots=True)
class ReachOwn(_Encoded):
    """C's list under C's key. `stated` is n + B + ν; `header` the base point under the same key."""

    KIND: ClassVar[int] = 14
    previous: bytes
    stated: int
    header: bytes
    points: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(self.stated, 4)
        w.fixed(self.header)
        w.points((self.points,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachOwn")
        stated, header, lists = r.number(4, "stated"), r.fixed(WHOLE, "header"), r.points("points", WHOLE)
        r.end()
        if len(lists) != 1:
            raise PeerViolation("The message ReachOwn has a bad number of lists.")
        return cls(r.previous, stated, header, lists[0])


@dataclass(frozen=True, slots=True)
class ReachList(_Encoded):
    """The list of party `owner` in round `hop`, its header point under the same keys."""

    KIND: ClassVar[int] = 15
    previous: bytes
    owner: int
    hop: int
    header: bytes
    points: Points

    def to_parts(self) -> list[Buffer]:
        """See `Message.to_parts`."""
        w = Writer(self.KIND, self.previous)
        w.number(self.owner, 1)
        w.number(self.hop, 1)
        w.fixed(self.header)
        w.points((self.points,))
        return w.parts

    @classmethod
    def from_bytes(cls, data: Buffer) -> Self:
        """See `Message.from_bytes`."""
        r = Reader(data, cls.KIND, "ReachList")
        owner, hop = r.number(1, "owner", high=7), r.number(1, "hop", low=1, high=7)
        header, lists = r.fixed(WHOLE, "header"), r.points("points", WHOLE)
        r.end()
        if len(lists) != 1:
            raise PeerViolation("The message ReachList has a bad number of lists.")
        return cls(r.previous, owner, hop, header, lists[0])


MESSAGES: dict[int, type[Message]] = {
    kind.KIND: kind
    for kind in (
        Offer, Accept, AnalystPoints, ContributorPoints, ValueColumns,
        MaskedSums, DecryptedSums, AlignPoints, AlignedRows, Seal, PairSalt, PairPoints,
        ReachSizes, ReachOwn, ReachList, AnalystRows, ContributorRows,
    )
}  # fmt: skip


def parse_message(data: Buffer) -> Message:
    """Read whichever message `data` is, by the type in its header. PeerViolation if there is none such."""
    view = memoryview(data)
    kind = MESSAGES.get(view[5]) if view.nbytes > 5 else None
    if kind is None:
        raise PeerViolation("The message has an unknown type.")
    return kind.from_bytes(data)
