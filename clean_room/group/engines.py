"""Which engine blinds: the fastest that this processor can run and that is right.

    cryptography   always there (OpenSSL underneath)
    ipp            eight lanes at a time on processors with AVX-512 IFMA (extra `fast`)

`choose_blinder` tries an engine against `cryptography` on random and hostile points every time it is asked:
a fast engine that is wrong would not fail, it would quietly find nobody in common.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from clean_room.errors import EngineUnavailable, PeerViolation
from clean_room.group.blinding import BASE_POINT, Blinder, CryptographyBlinder, new_scalar
from clean_room.group.ipp import IppBlinder
from clean_room.group.points import WHOLE, Random

__all__ = ["EngineDisagreement", "choose_blinder", "cross_check"]


class EngineDisagreement(EngineUnavailable):
    """An engine gave another answer than `cryptography` on the points it was tried on."""

    code = "engine_disagreement"


def cross_check(
    candidate: Blinder, reference: Blinder, random: Random = os.urandom, points: int = 67
) -> None:
    """Compare two engines; EngineDisagreement on any difference.

    `points` random subgroup points (not a multiple of eight, so the last lanes are partly filled), the
    base point, edge coordinates, and the refusals: low-order and non-canonical points must be refused.
    """
    scalar = new_scalar(random)
    edges = [
        BASE_POINT,
        *((2**255 - 19 - d).to_bytes(WHOLE, "little") for d in (2, 3, 9)),
        (2**64).to_bytes(32, "little"),
    ]
    seeds = b"".join(new_scalar(random) for _ in range(points))
    sample = b"".join(
        reference.blind(seeds[i : i + WHOLE], BASE_POINT) for i in range(0, len(seeds), WHOLE)
    ) + b"".join(edges)  # fmt: skip
    for size in (0, 1, 7, 8, 9, len(sample) // WHOLE):
        part = sample[: size * WHOLE]
        if candidate.blind(scalar, part) != reference.blind(scalar, part):
            raise EngineDisagreement(f"The engine {candidate.name} does not agree with {reference.name}.")
    for bad in (
        bytes(WHOLE),
        (1).to_bytes(WHOLE, "little"),
        (2**255 - 19).to_bytes(WHOLE, "little"),
        b"\xff" * WHOLE,
    ):
        try:
            candidate.blind(scalar, BASE_POINT * 8 + bad)
        except PeerViolation:
            continue
        raise EngineDisagreement(f"The engine {candidate.name} takes points that {reference.name} refuses.")


_FAST: dict[str, Callable[[], Blinder]] = {"ipp": IppBlinder}


def choose_blinder(name: str = "auto", random: Random = os.urandom) -> Blinder:
    """The engine called `name`, or the fastest usable one for `auto`.

    Every engine but `cryptography` is cross-checked before it is handed out. `auto` falls back silently
    (`Blinder.name` tells which it became); a named engine raises EngineUnavailable with the reason.
    """
    reference = CryptographyBlinder()
    if name == reference.name:
        return reference
    if name not in ("auto", *_FAST):
        raise EngineUnavailable(
            f"No blinding engine is called {name!r}.", advice="Use auto, cryptography or ipp."
        )
    for candidate, make in _FAST.items():
        if name not in ("auto", candidate):
            continue
        try:
            engine = make()
            cross_check(engine, reference, random)
        except EngineUnavailable:
            if name != "auto":
                raise
        else:
            return engine
    return reference
