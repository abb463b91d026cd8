"""The rest of a preview: what is left, what would travel, how long it would take, what could be learnt.

What the partner would have to say is asked of it (its ε left) or taken from the last query with it (its
size class, the share that matched); where neither is there, the preview leaves it out. Nobody's data is sent.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from clean_room.attacks import Part, Setting, assess
from clean_room.group.blinding import new_scalar
from clean_room.group.pool import BlindingPool
from clean_room.noise import NoisePlan, summed_columns
from clean_room.rules import Asked, cell_labels

__all__ = ["Engine", "Known", "foreseen"]

_POINTS = 256
_CIPHERTEXT = 432 << 10  # bytes, of 8,192 rows; freshly encrypted ones travel as half of that
_ROWS = 8192


class Engine:
    """How fast this node hashes and blinds, measured once on a few points that stand for nobody."""

    def __init__(self, pool: BlindingPool) -> None:
        self._pool = pool
        self._lock = threading.Lock()
        self._speed: tuple[float, float] | None = None

    def seconds_per_point(self) -> tuple[float, float]:
        """For hashing and blinding an own person, and for blinding a partner's point."""
        with self._lock:
            if self._speed is None:
                people = pa.array([os.urandom(16) for _ in range(_POINTS)], pa.binary())
                scalar = new_scalar(os.urandom)
                begun = time.perf_counter()
                points = self._pool.hash_and_blind(people, scalar)
                half = time.perf_counter()
                self._pool.blind(scalar, points)
                ended = time.perf_counter()
                self._speed = (half - begun) / _POINTS, (ended - half) / _POINTS
            return self._speed


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the partner: ε left for this dataset this month, people (a size class) and the share
    of own people that matched last time; None for what is not. `parts`: own groups counted this month."""

    left: float | None = None
    people: int | None = None
    rate: float | None = None
    parts: Sequence[Part] = field(default=(), repr=False)


def foreseen(
    asked: Asked, spending: NoisePlan, document: dict[str, Any], known: Known, engine: Engine
) -> dict[str, Any]:
    """Further fields of a preview: budget_left, bytes both ways, minutes, could_learn."""
    query = asked.query
    found: dict[str, Any] = {"budget_left": known.left}
    if query.kind != "reach":
        found |= _travel(asked, spending, document, known, engine)
    if spending.epsilon > 0 and query.kind != "reach":
        found["could_learn"] = _learnable(asked, spending, known)
    return found


def _travel(
    asked: Asked, spending: NoisePlan, document: dict[str, Any], known: Known, engine: Engine
) -> dict[str, Any]:
    columns = len(summed_columns(asked))
    sent = int(document["bytes_sent"]) + document["cells"] * columns * _CIPHERTEXT
    if known.people is None:
        return {"bytes_sent": sent, "bytes_received": None, "minutes": None}
    own, dummies = int(document["bytes_sent"]) // 32, 2 * spending.half_width * document["cells"]
    theirs = known.people
    received = 16 * (own + dummies) + 32 * (theirs + dummies)
    received += columns * math.ceil((theirs + dummies) / _ROWS) * _CIPHERTEXT // 2
    hashing, blinding = engine.seconds_per_point()
    # Both sides hash at the same time; then each blinds the other's points, one after the other.
    seconds = hashing * max(own, theirs) + blinding * (own + theirs + 2 * dummies)
    return {
        "bytes_sent": sent,
        "bytes_received": received,
        "minutes": round(seconds / 60, 2),
        "partner_people": theirs,
    }


def _learnable(asked: Asked, spending: NoisePlan, known: Known) -> dict[str, Any]:
    terms = asked.agreement.terms
    left = terms.epsilon_per_month if known.left is None else known.left
    answers = int(left / spending.epsilon + 1e-9)
    # With every ε of the month on counts: what is summed tells of members' values, not of who is one.
    setting = Setting(
        epsilon=min(spending.epsilon, spending.count_epsilon),
        half_width=spending.half_width,
        answers=min(answers, 10_000),
        cells=len(cell_labels(asked.own, asked.query.dimensions)),
        prior=0.5 if known.rate is None else min(max(known.rate, 0.01), 0.99),
    )
    return assess(setting, known.parts, seed=1).document()
