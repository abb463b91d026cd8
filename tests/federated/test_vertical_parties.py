"""The feature holder takes part in the agreed rounds only, whatever it is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from federated.channel import memory_pair
from federated.errors import PeerViolation
from federated.vertical.logistic import PassiveDone
from federated.vertical.parties import PassiveParty
from federated.vertical.partition import Partition
from federated.vertical.terms import RunTerms

SPLIT = Partition(train=np.arange(750), test=np.arange(750, 1000)).to_text()
TERMS = RunTerms("r", "model.credit", rows=1000, features=2, held_out=SPLIT, rounds=1, epochs=2)
NONCE = "0" * 32


class Rows:
    mask = np.ones(1000, dtype=np.bool_)
    receipt: Any = None

    def matrix(self, columns: tuple[str, ...]) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(1000, len(columns)))


class CountingGate:
    """Gives rows for any round, and remembers which."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def features(self, run: str, round: int, purpose: str, *, nonce: str) -> Any:  # noqa: A002
        self.asked.append(round)
        return Rows()


def trained(gate: CountingGate, monkeypatch: pytest.MonkeyPatch) -> PassiveParty:
    """A feature holder whose one round is over; the encrypted exchange is tested elsewhere."""
    _, line = memory_pair("r", timeout=0.1)
    party = PassiveParty(TERMS, gate, line, columns=("a", "b"))
    monkeypatch.setattr(party, "_exchange", lambda *_: PassiveDone(TERMS.of_round(1, 750), 2, np.zeros(2)))
    party.train(1, NONCE)
    return party


@pytest.mark.parametrize("number", [2, 3, 10_000, 0, -1])
def test_rounds_beyond_those_agreed_see_no_rows(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = CountingGate()
    party = trained(gate, monkeypatch)
    with pytest.raises(PeerViolation) as caught:
        party.train(number, NONCE)
    assert caught.value.code == "round_not_agreed"
    assert gate.asked == [1]


@pytest.mark.parametrize("number", [1, 3, 10_000])
def test_an_evaluation_is_the_round_after_the_last(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = CountingGate()
    party = trained(gate, monkeypatch)
    with pytest.raises(PeerViolation):
        party.evaluate(number, NONCE)
    assert gate.asked == [1]


def test_there_is_one_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = CountingGate()
    party = trained(gate, monkeypatch)
    party.evaluate(2, NONCE)
    with pytest.raises(PeerViolation) as caught:
        party.evaluate(2, NONCE)
    assert caught.value.code == "round_not_agreed"
    assert gate.asked == [1, 2]
