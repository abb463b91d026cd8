"""The group the private joins live in: x-only Curve25519, its prime-order subgroup.

An identifier becomes a point by `hash_to_curve`; each side raises the other's points to a secret; equal
identifiers meet as equal points and nothing else can be told:

>>> import os, pyarrow as pa
>>> from clean_room.group import BlindingPool, new_scalar
>>> a, c = new_scalar(os.urandom), new_scalar(os.urandom)
>>> with BlindingPool(workers=0) as pool:
...     mine = pool.hash_and_blind(pa.array([b"ada@example.org"], pa.binary()), a)
...     theirs = pool.hash_and_blind(pa.array([b"ada@example.org"], pa.binary()), c)
...     pool.blind(c, mine) == pool.blind(a, theirs)
True
"""

from __future__ import annotations

from clean_room.group.blinding import Blinder, CryptographyBlinder, new_scalar
from clean_room.group.engines import choose_blinder
from clean_room.group.hash_to_curve import DST, hash_to_curve
from clean_room.group.points import Points
from clean_room.group.pool import BlindingPool

__all__ = [
    "DST",
    "Blinder",
    "BlindingPool",
    "CryptographyBlinder",
    "Points",
    "choose_blinder",
    "hash_to_curve",
    "new_scalar",
]
