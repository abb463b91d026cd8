"""`measure`: besides the counts, the sum of the contributor's columns over every cell.

    A (after joining)                               C (after returning)
                              ◀─ ValueColumns ──    Enc(columns), rows in the order of H(c)^y
    Σ Enc·mask + r + Enc(0)·p₁·p₂
                              ── MaskedSums ─▶      decrypt, add up the slots, add noise
                              ◀─ DecryptedSums ──
    take off Σr
                              ── Seal ─▶  ◀─ Seal ──

C sees uniform numbers behind flooded noise, A one noisy sum per cell and column. A block of 8192 rows
travels as 197 kB, a masked sum as 131 kB (`clean_room.encryption`). Values are whole numbers within the
bounds of their ColumnTerms (`ColumnTerms.fixed_point` makes them so); padding and dummies hold 0. The sums
are exact but for C's noise: rows · bound stays below t/4 and the noise below t/4, both checked first.

Calls into SEAL hold the interpreter's lock for milliseconds at a time; keep them off an event loop.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clean_room.errors import IllegalStep, Misuse, PeerViolation
from clean_room.group.points import Buffer
from clean_room.group.pool import Progress
from clean_room.protocols.bfv import SLOTS, Decryptor, Summator, blocks
from clean_room.protocols.cardinality import (
    AnalystJoined,
    AnalystSealing,
    ContributorDone,
    ContributorReturned,
    Side,
    countersign,
    follow,
    seal,
)
from clean_room.protocols.messages import DecryptedSums, MaskedSums, Seal, ValueColumns
from clean_room.protocols.terms import PLAIN_MODULUS, MeasureTerms

__all__ = [
    "AnalystAsked",
    "AnalystMeasured",
    "ContributorAnswered",
    "ContributorOffered",
    "ask",
    "asked_again",
    "offer_values",
    "offered_again",
]


def _terms(side: Side) -> MeasureTerms:
    if not isinstance(side.terms, MeasureTerms):
        raise IllegalStep("These terms are not for `measure`.")
    return side.terms


def offer_values(
    state: ContributorReturned,
    columns: Sequence[Sequence[npt.NDArray[np.integer]]],
    *,
    progress: Progress | None = None,
) -> tuple[ContributorOffered, ValueColumns]:
    """C encrypts its columns. Heavy: about 8 ms a block of 8192 rows.

    columns: per column of the terms, per own segment, whole numbers of shape (people in that segment,)
    in the order of the segment's identifiers. Misuse if one is missing or out of its bounds.
    """
    terms = _terms(state.side)
    if len(columns) != len(terms.columns) or any(len(column) != len(state.rows) for column in columns):
        raise Misuse("There must be one array of values for every column and segment.")
    for spec, column in zip(terms.columns, columns, strict=True):
        for values, people in zip(column, state.side.segments, strict=True):
            if values.shape != (len(people),) or not np.issubdtype(values.dtype, np.integer):
                raise Misuse("Values must be whole numbers, one for every person of the segment.")
            if len(values) and not (spec.lower <= values.min() and values.max() <= spec.upper):
                raise Misuse("Values must lie within the bounds of their column; clip them first.")
    decryptor = Decryptor()
    total, done = sum(blocks(len(rows)) for rows in state.rows) * len(columns), 0
    encrypted: list[tuple[tuple[bytes, ...], ...]] = []
    for column in columns:
        lists: list[tuple[bytes, ...]] = []
        for values, rows in zip(column, state.rows, strict=True):
            ordered = np.append(values.astype(np.int64), 0)[rows]  # row −1 is the appended 0
            lists.append(
                tuple(decryptor.encrypt(ordered[at : at + SLOTS]) for at in range(0, len(ordered), SLOTS))
            )
            done += blocks(len(rows))
            if progress:
                progress(done, total)
        encrypted.append(tuple(lists))
    message = ValueColumns(state.transcript, decryptor.key, tuple(encrypted))
    return ContributorOffered(state.side, follow(state.transcript, message), decryptor), message


def offered_again(state: ContributorReturned, message: ValueColumns, secret: Buffer) -> ContributorOffered:
    """Where `offer_values` left C, from the message it made and its `Decryptor`'s secret.

    What SEAL encrypts is another ciphertext each time: a run taken up after a crash must send the first.
    """
    _terms(state.side)
    return ContributorOffered(state.side, follow(state.transcript, message), Decryptor(secret))


def asked_again(state: AnalystJoined, message: MaskedSums, hidden: Sequence[int]) -> AnalystAsked:
    """Where `ask` left A, from the message it made and its `hidden`; see `offered_again`."""
    _terms(state.side)
    return AnalystAsked(state.side, follow(message.previous, message), tuple(hidden))


def ask(
    state: AnalystJoined, message: ValueColumns, *, progress: Progress | None = None
) -> tuple[AnalystAsked, MaskedSums]:
    """A masks and adds up C's columns. Heavy: about 3 ms a block, and 1 ms a block and cell."""
    terms, side = _terms(state.side), state.side
    transcript = follow(state.transcript, message)
    sizes = [b - a for a, b in itertools.pairwise(state.bounds)]
    shape = [blocks(size) for size in sizes]
    if len(message.ciphertexts) != len(terms.columns) or any(
        [len(segment) for segment in column] != shape for column in message.ciphertexts
    ):
        raise PeerViolation("The encrypted columns do not have the shape agreed.")
    rows, segments = terms.groups
    summator = Summator(message.key, side.random)
    done, total = 0, sum(shape)
    for j in range(segments):
        for number in range(shape[j]):
            start = state.bounds[j] + number * SLOTS
            stop = min(start + SLOTS, state.bounds[j + 1])
            masks = [summator.mask(state.masks[i, start:stop]) for i in range(rows)]
            for c, column in enumerate(message.ciphertexts):
                block = summator.column(column[j][number])
                for i, mask in enumerate(masks):
                    if mask is not None:
                        summator.add(i * segments + j, c, block, mask)
            done += 1
            if progress:
                progress(done, total)
    closed = [summator.close(cell, c) for cell in range(rows * segments) for c in range(len(terms.columns))]
    answer = MaskedSums(transcript, tuple(data for data, _ in closed))
    return AnalystAsked(side, follow(transcript, answer), tuple(r for _, r in closed)), answer


@dataclass(frozen=True, slots=True)
class AnalystAsked:
    """A waits for the decrypted sums."""

    side: Side = field(repr=False)
    transcript: bytes
    hidden: tuple[int, ...] = field(repr=False)

    def answered(self, message: DecryptedSums) -> AnalystMeasured:
        """Take off Σr. The sums are C's fixed-point integers, noise included."""
        transcript = follow(self.transcript, message)
        if len(message.sums) != len(self.hidden) or any(value >= PLAIN_MODULUS for value in message.sums):
            raise PeerViolation("The decrypted sums do not have the shape agreed.")
        lifted = [(value - r) % PLAIN_MODULUS for value, r in zip(message.sums, self.hidden, strict=True)]
        signed = [value - PLAIN_MODULUS if value > PLAIN_MODULUS // 2 else value for value in lifted]
        shape = (*self.side.terms.groups, len(_terms(self.side).columns))
        return AnalystMeasured(self.side, transcript, np.array(signed, dtype=np.int64).reshape(shape))


@dataclass(frozen=True, slots=True, eq=False)
class AnalystMeasured:
    """A knows the sums: int64 (A segments, C segments, columns), in units of 1/scale of each column."""

    side: Side = field(repr=False)
    transcript: bytes
    sums: npt.NDArray[np.int64]

    def seal(self) -> tuple[AnalystSealing, Seal]:
        """Sign the transcript."""
        return seal(self.side, self.transcript)


@dataclass(frozen=True, slots=True, eq=False)
class ContributorOffered:
    """C has sent its columns and holds the key."""

    side: Side = field(repr=False)
    transcript: bytes
    decryptor: Decryptor = field(repr=False)

    def masked(
        self, message: MaskedSums, noise: npt.NDArray[np.integer]
    ) -> tuple[ContributorAnswered, DecryptedSums]:
        """Decrypt, add up, add noise.

        noise: whole numbers, shape (A segments, C segments, columns), in units of 1/scale; drawn by the
        caller for the bound of each column, the budget being charged before. Misuse if it does not fit.
        """
        transcript = follow(self.transcript, message)
        terms = _terms(self.side)
        drawn = np.asarray(noise)
        shape = (*terms.groups, len(terms.columns))
        if drawn.shape != shape or not np.issubdtype(drawn.dtype, np.integer):
            raise Misuse("The noise must be one whole number for every cell and column.")
        if (np.abs(drawn) >= PLAIN_MODULUS // 4).any():
            raise Misuse("The noise is so large that a sum could wrap around.")
        if len(message.ciphertexts) != drawn.size:
            raise PeerViolation("The masked sums do not have the shape agreed.")
        sums = tuple(
            (self.decryptor.sum(data) + int(extra)) % PLAIN_MODULUS
            for data, extra in zip(message.ciphertexts, drawn.reshape(-1), strict=True)
        )
        answer = DecryptedSums(transcript, sums)
        return ContributorAnswered(self.side, follow(transcript, answer)), answer


@dataclass(frozen=True, slots=True)
class ContributorAnswered:
    """C has answered and waits for the seal."""

    side: Side = field(repr=False)
    transcript: bytes

    def sealed(self, message: Seal) -> tuple[ContributorDone, Seal]:
        """A signed the transcript: check, sign it too."""
        return countersign(self.side, self.transcript, message)
