"""What sums and differences of answers already given, and of the one proposed, single out.

The tracker of Denning, Denning and Schwartz ("The tracker: a threat to statistical database security", ACM
TODS 4(1), 1979): counts of large groups that add up, with signs, to the count of a small one. All
combinations of up to three of the own groups asked about are tried; the noise of what they are computed
from is taken into account, so a group of one behind three noisy answers is less singled out than behind two.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clean_room.attacks.setting import Setting
from clean_room.differencing import Fingerprint

__all__ = ["Part", "SingledOut", "parts_of", "singled_out"]

_MOST_PARTS = 16
_MOST_PEOPLE = 256
_WIDEST = 8192  # wider sums of noise tell nothing of one person


@dataclass(frozen=True, slots=True)
class Part:
    """A group somebody has a noisy count of: `people` uint64, ascending; `noises` added up in the count."""

    people: npt.NDArray[np.uint64] = field(repr=False)
    noises: int


@dataclass(frozen=True, slots=True)
class SingledOut:
    """The group on which the best combination of answers depends.

    `people` in it, `answers` combined, and `confidence`: the chance of a right guess about one of them, of
    which `prior` is had without any answer.
    """

    people: int
    answers: int
    confidence: float
    prior: float


def parts_of(fingerprint: Fingerprint, partner_cells: int = 1) -> list[Part]:
    """The groups one question has counted: its cells and, if there are several, all of it."""
    count = fingerprint.groups
    cells = [Part(fingerprint.people[fingerprint.cells == i], partner_cells) for i in range(count)]
    whole = [Part(fingerprint.people, count * partner_cells)] if count > 1 else []
    return whole + [cell for cell in cells if len(cell.people)]


def singled_out(parts: Sequence[Part], setting: Setting) -> SingledOut | None:
    """The combination that tells most about one person; None where none is about few enough people to tell.

    Only the last 16 parts are looked at.
    """
    parts = parts[-_MOST_PARTS:]
    if len(parts) < 2:
        return None
    atoms, counts = _atoms(parts)
    best: SingledOut | None = None
    for size in (2, 3):
        for chosen in itertools.combinations(range(len(parts)), size):
            for signs in itertools.product((1, -1), repeat=size - 1):
                weights = atoms[:, chosen[0]].astype(np.int64)
                for sign, part in zip(signs, chosen[1:], strict=True):
                    weights = weights + sign * atoms[:, part]
                people = int(counts[weights != 0].sum())
                if not 0 < people <= _MOST_PEOPLE or np.abs(weights).max() > 1:
                    continue
                noises = sum(parts[part].noises for part in chosen)
                sure = _confidence(setting, people, noises)
                if best is None or sure > best.confidence:
                    best = SingledOut(people, size, sure, max(setting.prior, 1 - setting.prior))
    return best


def _atoms(parts: Sequence[Part]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Kinds of people by the parts they are in: (kinds, parts) of booleans, and how many of each kind."""
    everybody = np.unique(np.concatenate([part.people for part in parts]))
    signature = np.zeros(len(everybody), np.uint64)
    for i, part in enumerate(parts):
        signature[np.searchsorted(everybody, part.people)] |= np.uint64(1 << i)
    kinds, counts = np.unique(signature, return_counts=True)
    bits = (kinds[:, None] >> np.arange(len(parts), dtype=np.uint64)) & np.uint64(1)
    return bits.astype(np.bool_), counts


def _confidence(setting: Setting, people: int, noises: int) -> float:
    """Chance that the likelier guess about one of `people` is right, given the sum with so many noises."""
    if noises * len(setting.noise) > _WIDEST:
        return max(setting.prior, 1 - setting.prior)
    answer = np.ones(1)
    for _ in range(noises):
        answer = np.convolve(answer, setting.noise)
    others = np.ones(1)
    for _ in range(people - 1):
        others = np.convolve(others, [1 - setting.prior, setting.prior])
    absent = np.append(np.convolve(answer, others), 0.0)
    present = np.append(0.0, absent[:-1])
    return float(np.maximum((1 - setting.prior) * absent, setting.prior * present).sum())
