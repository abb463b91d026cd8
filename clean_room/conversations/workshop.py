"""What the two halves of every kind of query are made with, and what they come to.

A contribution answers, an inquiry asks; both are generators of messages and touch no network, storage or
clock. Both can be replayed after a crash: whatever is not a function of the messages and of `random`, such
as drawn noise or a ciphertext, goes through `Workshop.keep`, which gives back what it was the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clean_room.group.blinding import new_scalar
from clean_room.group.points import Buffer, Random
from clean_room.group.pool import BlindingPool, Progress
from clean_room.inputs import QueryInput
from clean_room.noise import NoiseSource
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.cardinality import AnalystSealing
from clean_room.protocols.messages import Accept, InputCommitment, Seal
from clean_room.protocols.sampling import SampleFacts
from clean_room.protocols.terms import ActivateTerms, Terms
from clean_room.questions import commitment_document, policy_bytes

__all__ = [
    "SALTED",
    "Contribution",
    "Finished",
    "Inquiry",
    "Keep",
    "Kept",
    "Outcome",
    "Sealable",
    "SealingState",
    "Workshop",
    "acceptance",
    "id_rows",
]


class Sealable(Protocol):
    """A protocol state from which the contributor can countersign."""

    @property
    def transcript(self) -> bytes: ...

    def sealed(self, message: Seal) -> tuple[object, Seal]: ...


class SealingState(Protocol):
    """A protocol state from which the analyst seals."""

    @property
    def transcript(self) -> bytes: ...

    def seal(self) -> tuple[AnalystSealing, Seal]: ...


class Keep(Protocol):
    """Remembers bytes of one job by name."""

    def __call__(self, name: str, make: Callable[[], bytes]) -> bytes:
        """What was kept under `name`; if nothing was, what `make` returns, kept before this returns."""


class Kept:
    """A `Keep` in memory, for jobs that need not outlive their process."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def __call__(self, name: str, make: Callable[[], bytes]) -> bytes:
        """See `Keep`."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every run is done with, on either side.

    `pair_epoch` gives the contributor of an `activate` its key and salt of now (32 bytes each); `epoch` what
    the run before left for this refresh, or raises EpochOver.
    """

    pool: BlindingPool = field(repr=False)
    random: Random = field(repr=False)
    noise: NoiseSource = field(repr=False)
    attestation: Attestation = field(repr=False)
    progress: Progress = field(repr=False)
    keep: Keep = field(repr=False, default_factory=Kept)
    pair_epoch: Callable[[], bytes] | None = field(repr=False, default=None)
    epoch: Callable[[], bytes] | None = field(repr=False, default=None)

    def arguments(self, given: QueryInput) -> dict[str, Any]:
        """Keyword arguments of a protocol's first step; the scalar is fresh."""
        return {
            "scalar": new_scalar(self.random),
            "random": self.random,
            "pool": self.pool,
            "attestation": self.attestation,
            "consent": commitment_document(given.evidence),
            "policy": policy_bytes(given.evidence),
        }


@dataclass(frozen=True, slots=True)
class Finished:
    """The contributor's computing is over: `replies` still to be fetched, then the seals.

    `rows` (places in the file) and `ids` (n, 16) are for `align`; for `activate` `rows` are all that went in
    and `publisher_ids` uint8 (n, 32) theirs. `epoch` is for the next refresh, once this run is signed.
    """

    replies: list[bytes] = field(repr=False)
    state: Sealable = field(repr=False)
    rows: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    publisher_ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    epoch: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the analyst has learnt, before release rules.

    `counts` int64 (A cells, C cells), noisy; `sums` float64 (A cells, C cells, columns) in the columns'
    units, noisy, for `measure`; `rows` int64 (n,) and `ids` uint8 (n, 16) for `align`;
    `sample` for `estimate`; `publisher_ids` uint8 (n, 32) for `activate`; `epoch` as in `Finished`.
    """

    state: SealingState = field(repr=False)
    own: InputCommitment
    theirs: InputCommitment
    counts: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    sums: npt.NDArray[np.float64] | None = field(default=None, repr=False)
    rows: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    publisher_ids: npt.NDArray[np.uint8] | None = field(default=None, repr=False)
    sample: SampleFacts | None = None
    epoch: bytes | None = field(default=None, repr=False)


SALTED = 40 + 32
"""Bytes of the PairSalt that follows the Accept of an activation."""
Contribution = Generator[list[bytes], bytes, Finished]
"""next() → [Accept]; next() → [] while own people are hashed and blinded; send(message) → replies; …"""

Inquiry = Generator[bytes | None, bytes, Outcome]
"""next() → the offer; send(reply) → the next message, or None to get the next reply without sending."""


def acceptance(terms: Terms, reply: Buffer) -> Accept:
    """The Accept that the contributor's first reply is, or, for an activation, begins with."""
    return Accept.from_bytes(reply[:-SALTED] if isinstance(terms, ActivateTerms) else reply)


def id_rows(ids: Any) -> npt.NDArray[np.uint8]:
    """An Arrow column of 16-byte row ids as uint8 (n, 16)."""
    return np.frombuffer(b"".join(ids.to_pylist()), dtype=np.uint8).reshape(-1, 16)
