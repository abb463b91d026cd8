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
    AnalystChange       A → C   (epoch) what goes of A's earlier points, and H(a)^x of who comes
    ContributorChange   C → A   (epoch) the same of both lists that A joins; dummies in all of it
    ReachSizes          A → C   (reach) how long everybody's list is
    ReachOwn            C → A   (reach) its noisy size; C's header point and list, blinded once
    ReachList           both    (reach) somebody's list before C has blinded it, and after
    Seal                both    signature over the hash of the whole transcript

`previous` in each is the hash of everything before it, so a message replayed from another job, sent
twice or out of turn does not fit. A point's canonical form and order are checked where it is blinded.
"""

from __future__ import annotations

from clean_room.errors import PeerViolation
from clean_room.group.points import Buffer
from clean_room.protocols.messages.base import START, Message, chain, chained
from clean_room.protocols.messages.epochs import AnalystChange, ContributorChange
from clean_room.protocols.messages.opening import SIGNATURE, Accept, InputCommitment, Offer, Seal
from clean_room.protocols.messages.pair import PairPoints, PairSalt
from clean_room.protocols.messages.points import (
    ROW_ID,
    AlignedRows,
    AlignPoints,
    AnalystPoints,
    ContributorPoints,
)
from clean_room.protocols.messages.reach import ReachList, ReachOwn, ReachSizes
from clean_room.protocols.messages.rows import AnalystRows, ContributorRows
from clean_room.protocols.messages.sums import DecryptedSums, MaskedSums, ValueColumns

__all__ = [
    "MESSAGES",
    "ROW_ID",
    "SIGNATURE",
    "START",
    "Accept",
    "AlignPoints",
    "AlignedRows",
    "AnalystChange",
    "AnalystPoints",
    "AnalystRows",
    "ContributorChange",
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
    "chained",
    "parse_message",
]

MESSAGES: dict[int, type[Message]] = {
    kind.KIND: kind
    for kind in (
        Offer, Accept, AnalystPoints, ContributorPoints, ValueColumns,
        MaskedSums, DecryptedSums, AlignPoints, AlignedRows, Seal, PairSalt, PairPoints,
        ReachSizes, ReachOwn, ReachList, AnalystRows, ContributorRows,
        AnalystChange, ContributorChange,
    )
}  # fmt: skip


def parse_message(data: Buffer) -> Message:
    """Read whichever message `data` is, by the type in its header. PeerViolation if there is none such."""
    view = memoryview(data)
    kind = MESSAGES.get(view[5]) if view.nbytes > 5 else None
    if kind is None:
        raise PeerViolation("The message has an unknown type.")
    return kind.from_bytes(data)
