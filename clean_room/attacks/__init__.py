"""What could they learn? Published attacks on answers of a clean room, simulated on people who do not exist.

    >>> from clean_room.attacks import Setting, assess
    >>> from privacy.noise import half_width_for
    >>> month = Setting(epsilon=1.0, half_width=half_width_for(1.0, 1e-6), answers=5, cells=2)
    >>> found = assess(month, seed=7)
    >>> 0 < found.told < 10
    True
    >>> found.person.posterior <= found.person.bound
    True

Attacks show what somebody who works this way would get, not that nobody can get more: what holds against
everybody is the bound of differential privacy, stated beside.
"""

from __future__ import annotations

from clean_room.attacks.assessment import COVERS, Assessment, assess
from clean_room.attacks.bayesian import OnePerson, active, one_person
from clean_room.attacks.counting import halving, planned
from clean_room.attacks.setting import Setting
from clean_room.attacks.tracker import Part, SingledOut, parts_of, singled_out

__all__ = [
    "COVERS",
    "Assessment",
    "OnePerson",
    "Part",
    "Setting",
    "SingledOut",
    "active",
    "assess",
    "halving",
    "one_person",
    "parts_of",
    "planned",
    "singled_out",
]
