"""Both roles in one process. `Pair` carries every message as bytes, so parsing is always on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clean_room.errors import Tampered
from clean_room.group import BlindingPool, new_scalar
from clean_room.protocols import (
    AlignTerms,
    Attestation,
    MeasureTerms,
    OverlapTerms,
    Padding,
    alignment,
    cardinality,
    parse_message,
    receive,
    sums,
)

TINY = Padding(1, 4)


def column(people: Sequence[str]) -> pa.BinaryArray:
    return pa.array([p.encode() for p in people], pa.binary())


def attestations() -> tuple[Attestation, Attestation]:
    """Real Ed25519 on both sides, each checking with the other's key."""
    keys = [Ed25519PrivateKey.generate() for _ in range(2)]

    def attest(own: Ed25519PrivateKey, other: Ed25519PrivateKey) -> Attestation:
        def verify(context: str, message: bytes, signature: bytes) -> None:
            try:
                other.public_key().verify(signature, context.encode() + b"\n" + message)
            except InvalidSignature:
                raise Tampered("A signature does not hold.") from None

        return Attestation(
            sign=lambda context, message: own.sign(context.encode() + b"\n" + message), verify=verify
        )

    return attest(keys[0], keys[1]), attest(keys[1], keys[0])


@dataclass
class Pair:
    """An analyst and a contributor; `wire` keeps every message that travelled, as bytes."""

    pool: BlindingPool
    wire: list[bytes] = field(default_factory=list)
    a: Any = None
    c: Any = None

    def send(self, message: Any) -> Any:
        self.wire.append(message.to_bytes())
        return parse_message(self.wire[-1])

    def begin(self, terms: Any, analyst: Any, contributor: Any, matching: Any = None) -> Any:
        """Up to and including the Accept, which is returned; not yet received."""
        one, two = attestations()
        own = {"random": os.urandom, "pool": self.pool}
        protocol = alignment if isinstance(terms, AlignTerms) else cardinality
        noise = (
            {} if protocol is alignment else {"matching": self.zeros(terms) if matching is None else matching}
        )
        self.a, message = protocol.start(
            terms, analyst, scalar=new_scalar(os.urandom), attestation=one, consent=b"checkpoint-a", **own
        )
        self.c, message = protocol.answer(
            self.send(message), terms, contributor,
            scalar=new_scalar(os.urandom), attestation=two, consent=b"checkpoint-c", **noise, **own,
        )  # fmt: skip
        return self.send(message)

    @staticmethod
    def zeros(terms: Any) -> Any:
        return np.full(terms.groups, terms.dummies // 2)

    def exchange(self, terms: Any, analyst: Any, contributor: Any, matching: Any = None) -> None:
        """Up to the analyst knowing the counts (or the shared rows)."""
        accept = self.begin(terms, analyst, contributor, matching)
        self.a, points = receive(self.a, accept)
        self.c, reply = receive(self.c, self.send(points))
        self.a, rows = receive(self.a, self.send(reply))
        if rows is not None:
            self.c, _ = receive(self.c, self.send(rows))

    def sums(self, values: Any, noise: Any) -> None:
        """After `exchange`: up to the analyst knowing the sums."""
        self.c, message = sums.offer_values(self.c, values)
        self.a, message = receive(self.a, self.send(message))
        self.c, message = receive(self.c, self.send(message), noise=noise)
        self.a, _ = receive(self.a, self.send(message))

    def seal(self) -> None:
        self.a, message = self.a.seal()
        self.c, message = receive(self.c, self.send(message))
        self.a, _ = receive(self.a, self.send(message))


@pytest.fixture(scope="session")
def blinding() -> Iterator[BlindingPool]:
    with BlindingPool() as pool:
        yield pool


@pytest.fixture
def pair(blinding: BlindingPool) -> Pair:
    return Pair(blinding)


@pytest.fixture(scope="session")
def new_pair(blinding: BlindingPool) -> Callable[[], Pair]:
    return lambda: Pair(blinding)


@pytest.fixture(scope="session")
def people() -> Callable[[Sequence[str]], pa.BinaryArray]:
    return column


@pytest.fixture(scope="session")
def overlap_terms() -> Callable[..., OverlapTerms]:
    def make(
        analyst: int = 1, contributor: int = 1, kind: type[OverlapTerms] = OverlapTerms, **more: Any
    ) -> Any:
        given = {
            "job": os.urandom(8).hex(),
            "purpose": "overlap.reach",
            "analyst": "bank",
            "contributor": "shop",
        }
        return kind(
            **{
                **given,
                "padding": TINY,
                "analyst_segments": tuple(f"a{i}" for i in range(analyst)),
                "contributor_segments": tuple(f"c{i}" for i in range(contributor)),
                **more,
            }
        )

    return make


@pytest.fixture(scope="session")
def measure_terms(overlap_terms: Any) -> Callable[..., MeasureTerms]:
    return lambda *sizes, **more: overlap_terms(*sizes, kind=MeasureTerms, **more)


@pytest.fixture(scope="session")
def align_terms() -> Callable[..., AlignTerms]:
    def make(**more: Any) -> AlignTerms:
        given = {
            "job": os.urandom(8).hex(),
            "purpose": "model.credit",
            "analyst": "bank",
            "contributor": "shop",
        }
        return AlignTerms(**{**given, "padding": TINY, **more})

    return make
