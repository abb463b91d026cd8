"""All simulated attacks on one proposed question, as one number and one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clean_room.attacks.bayesian import OnePerson, active, one_person
from clean_room.attacks.counting import halving, planned
from clean_room.attacks.setting import Setting
from clean_room.attacks.tracker import Part, SingledOut, singled_out

__all__ = ["COVERS", "Assessment", "assess"]

COVERS = (
    "Simulated: an analyst whose node breaks the rules, invents people, sees every noisy count and spends "
    "what is left of the month on counts. Not covered: taking the noise off by a dishonest key, several "
    "partners who pool their answers, what is known from elsewhere, answers of other months, measured values."
)


_NUMBERS = {2: "Two", 3: "Three"}


@dataclass(frozen=True, slots=True)
class Assessment:
    """What somebody could learn who asks `setting.answers` such questions.

    `told`: expected number of `setting.targets` chosen people whose membership can be told with
    `setting.confidence` beyond what the prior tells, by the best of the attacks (`best`, by name).
    `group`: what the answers given so far and this one single out of the own people.
    """

    setting: Setting
    told: float
    best: str
    by_attack: dict[str, float]
    person: OnePerson
    group: SingledOut | None

    @property
    def sentence(self) -> str:
        """For people who decide."""
        s, person = self.setting, self.person
        if not s.answers:
            said = "The month has no such answer left, so nothing more can be learnt by counting this month."
        else:
            many = "With the one such answer" if s.answers == 1 else f"With the {s.answers:,} such answers"
            who = "nobody" if self.told < 0.05 else f"about {_few(self.told)}"
            said = (
                f"{many} the month has left, a dishonest analyst could tell for {who} of {s.targets:,} "
                f"chosen people whether the partner has them ({s.confidence:.0%} sure); all spent on one "
                f"person, a guess would be right {person.posterior:.0%} of the time instead of "
                f"{person.prior:.0%}."
            )
        group = self.group
        if group is not None and group.confidence > group.prior + 0.01:
            said += (
                f" {_NUMBERS[group.answers]} answers of this month, this one with them, leave a group of "
                f"{group.people} when they are put together: a guess about one of them would be right "
                f"{group.confidence:.0%} of the time."
            )
        return said

    def document(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "answers_left": self.setting.answers,
            "targets": self.setting.targets,
            "confidence": self.setting.confidence,
            "told": round(self.told, 2),
            "attack": self.best,
            "by_attack": {name: round(value, 2) for name, value in self.by_attack.items()},
            "one_person": {name: round(value, 6) for name, value in asdict(self.person).items()},
            "singled_out": None if self.group is None else asdict(self.group),
            "sentence": self.sentence,
            "covers": COVERS,
        }


def assess(setting: Setting, parts: Sequence[Part] = (), *, seed: int = 0) -> Assessment:
    """Simulate every attack: half a second, the same numbers for the same seed.

    `parts` are the own groups counted so far this month and by the proposed question.
    """
    random = np.random.default_rng(seed)
    by_attack = {
        "halving": halving(setting),
        "planned": planned(setting),
        "active": active(setting, random),
    }
    best = max(by_attack, key=lambda name: by_attack[name])
    return Assessment(
        setting=setting,
        told=by_attack[best],
        best=best,
        by_attack=by_attack,
        person=one_person(setting, random),
        group=singled_out(parts, setting),
    )


def _few(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0") if number < 10 else f"{number:,.0f}"
