"""The ring of a reach: who has which list when, how long it is then, and keys that can be taken off again.

N parties stand in a ring, the analyst A at place 0. In round h = 1 … N−1 the contributor at place j has list
(j − h) mod N: one list a contributor and a round, every list once a contributor. In the one round in which
a contributor's list is at place 0 it rests with A.
"""

from __future__ import annotations

from collections.abc import Sequence

from clean_room.group.blinding import new_scalar
from clean_room.group.points import Random
from clean_room.protocols.terms import ReachTerms

__all__ = ["length_after", "list_at", "sets_beside", "transit_keys"]

ORDER = 2**252 + 27742317777372353535851937790883648493
"""ℓ, the order of the prime-order subgroup (RFC 7748, section 4.1)."""


def list_at(parties: int, place: int, hop: int) -> int:
    """Number of the list that the contributor at `place` has in round `hop`."""
    return (place - hop) % parties


def sets_beside(parties: int, place: int) -> list[int]:
    """Every set of other lists but the empty one, as bit masks over list numbers, ascending."""
    return [mask for mask in range(1, 1 << parties) if not mask >> place & 1]


def length_after(terms: ReachTerms, lengths: Sequence[int], owner: int, hop: int) -> int:
    """Points in list `owner` after round `hop` (0: as it is given out), dummies of all so far included."""
    parties = terms.parties
    own = (1 << parties - 1) - 1 if owner else 0
    rested = owner > 0 and hop >= parties - owner
    return lengths[owner] + terms.dummies * (own + ((hop - rested) << parties - 2))


def transit_keys(random: Random) -> tuple[bytes, bytes]:
    """Two clamped scalars t, z with t · z ≡ ±1 mod ℓ: z takes t off the u of any point that has borne t.

    A clamped scalar is 8m with 2²⁵⁴ ≤ 8m < 2²⁵⁵, and about three t in four have such a z: the others are
    thrown away. The sign does not matter, u being that of P and of −P.
    """
    while True:
        key = new_scalar(random)
        inverse = pow(int.from_bytes(key, "little"), -1, ORDER)
        for start in (inverse, ORDER - inverse):
            # ℓ is odd, so one of eight consecutive candidates is a multiple of 8.
            scalar = next(s for s in range(start, start + 8 * ORDER, ORDER) if s % 8 == 0)
            if 1 << 254 <= scalar < 1 << 255:
                return key, scalar.to_bytes(32, "little")
