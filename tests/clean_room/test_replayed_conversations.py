"""Replayed after a crash, an activation and an overlap on several keys send what they sent before."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from clean_room.conversations import Kept, Workshop, contribute, inquire
from clean_room.inputs import InputCounts, QueryInput
from clean_room.noise import DrawnNoise, NoisePlan
from clean_room.protocols.attestation import Attestation
from clean_room.protocols.messages import Offer
from clean_room.protocols.terms import ActivateTerms, Padding, WaterfallTerms
from consent.receipts import GateEvidence, PseudonymSet

AGREED: dict[str, Any] = {
    "job": "a" * 32, "purpose": "p", "analyst": "bank", "contributor": "shop", "profile": "pair-1",
    "padding": Padding(8, 4), "keep": 800,
}  # fmt: skip
UNSIGNED = Attestation(sign=lambda context, message: bytes(64), verify=lambda *signed: None)


def stream(seed: bytes) -> Callable[[int], bytes]:
    encryptor = Cipher(ChaCha20(seed, bytes(16)), mode=None).encryptor()
    return lambda size: encryptor.update(bytes(size))


def given(people: pa.Array) -> QueryInput:
    evidence = GateEvidence(
        "p", "shop", "log", 1, "", "00" * 32, 0, "", "", datetime(2026, 5, 4, tzinfo=UTC), key_kind="email"
    )
    return QueryInput(
        people=(people,),
        rows=(np.arange(len(people)),),
        values=None,
        evidence=evidence,
        members=PseudonymSet.of_rows(bytes(32), np.empty((0, 32), np.uint8)),
        counts=InputCounts(len(people), {}, 0, 0, 0, 0, len(people)),
        known=people,
    )


class Life:
    """One life of both sides: everything is made anew but the seeds and what was kept."""

    def __init__(self, pool: Any, seeds: tuple[bytes, bytes], kept: tuple[Kept, Kept]) -> None:
        self.shops = [
            Workshop(
                pool=pool,
                random=stream(seed),
                noise=DrawnNoise(),
                attestation=UNSIGNED,
                progress=lambda done, of: None,
                keep=keep,
                pair_epoch=lambda: os.urandom(32)[:31] + b"\x01" + os.urandom(32),
            )
            for seed, keep in zip(seeds, kept, strict=True)
        ]

    def told(self, terms: Any, mine: Any, theirs: Any, spending: NoisePlan) -> tuple[list[bytes], Any, Any]:
        """Everything that travels, and what both sides end with."""
        asking = inquire(terms, given(mine), self.shops[0])
        sent = [next(asking)]
        answering = contribute(Offer.from_bytes(sent[0]), terms, given(theirs), spending, self.shops[1])
        (accept,) = next(answering)
        assert next(answering) == []
        sent += [accept, asking.send(accept)]
        with pytest.raises(StopIteration) as finished:
            answering.send(sent[-1])
        sent += finished.value.value.replies
        with pytest.raises(StopIteration) as outcome:
            asking.send(sent[-1])
        return sent, outcome.value.value, finished.value.value


def column(*names: str | None) -> pa.BinaryArray:
    return pa.array([None if name is None else name.encode() for name in names], pa.binary())


def test_an_activation_stays_in_the_epoch_it_began_in(pool: Any) -> None:
    people = column(*(f"p{i}@x.org" for i in range(40)))
    seeds, kept = (os.urandom(32), os.urandom(32)), (Kept(), Kept())
    nothing = NoisePlan(0.0, 0.0, 0.0, 0.0, 0)
    first, again = (
        Life(pool, seeds, kept).told(ActivateTerms(**AGREED), people, people, nothing) for _ in range(2)
    )
    assert first[0] == again[0]
    assert np.array_equal(first[1].publisher_ids, again[1].publisher_ids)
    assert np.array_equal(first[2].publisher_ids, again[2].publisher_ids)
    other = Life(pool, seeds, (Kept(), Kept())).told(ActivateTerms(**AGREED), people, people, nothing)
    assert other[0] != first[0]


def test_the_noise_of_several_keys_is_drawn_once(pool: Any) -> None:
    emails, phones = column(*(f"p{i}" for i in range(9)), None), column(None, *(str(i) for i in range(9)))
    rows = pa.StructArray.from_arrays([emails, phones], names=["email", "phone"])
    terms = WaterfallTerms(**AGREED, dummies=3 * 2 * 20)
    spending = NoisePlan(1.0, 1e-6, 1 / 3, 0.0, 20, patterns=3)
    seeds, kept = (os.urandom(32), os.urandom(32)), (Kept(), Kept())
    first, again = (Life(pool, seeds, kept).told(terms, rows, rows, spending) for _ in range(2))
    assert first[0] == again[0]
    assert first[1].counts.tolist() == again[1].counts.tolist()
