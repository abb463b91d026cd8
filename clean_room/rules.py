"""What may be asked and what may be shown: small policies that raise, composed into one.

Every policy has one method, `check`, which returns nothing and raises `Refused` with its own code and with
what would satisfy it. Both nodes check the same policies on the same agreement: the analyst's before
anything is sent, the contributor's before anything is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from clean_room.agreements import MIN_EPSILON, Agreement, DatasetOffer
from clean_room.errors import InputBelowMinimum, ProfileMismatch
from clean_room.jobs import Query
from consent.purposes import ancestry
from privacy.errors import Misuse, Refused

__all__ = [
    "AGREED",
    "HIGH_RATE",
    "AllOf",
    "Asked",
    "CellRelease",
    "MinimumInput",
    "Rule",
    "release_cells",
    "shown_rate",
]

HIGH_RATE = 85
"""Per cent of a list above which nobody is told how many of it are shared."""
ACTIVATION = "activation"
"""The purpose under which people allow to be reached through a partner."""
PAIR_PROFILE = "pair-1"


@dataclass(frozen=True, slots=True)
class Asked:
    """A query under the agreement it refers to; `analyst` and `contributor` are the parties' names."""

    query: Query
    agreement: Agreement
    analyst: str
    contributor: str

    @property
    def epsilon(self) -> float:
        """ε this query spends: what it asks for, or the agreement's."""
        return self.agreement.terms.epsilon_per_query if self.query.epsilon is None else self.query.epsilon

    @property
    def own(self) -> DatasetOffer:
        """The analyst's dataset as agreed; raises `Refused(dataset_not_agreed)`."""
        return self._offer(self.analyst, self.query.dataset)

    @property
    def partners(self) -> DatasetOffer:
        """The contributor's dataset as agreed; raises `Refused(dataset_not_agreed)`."""
        return self._offer(self.contributor, self.query.partner_dataset)

    def _offer(self, party: str, dataset: str) -> DatasetOffer:
        offer = self.agreement.offer(party, dataset)
        if offer is None:
            offered = ", ".join(o.name for o in self.agreement.offers.get(party, ())) or "none"
            raise Refused(
                f"that dataset is not among those {party} brought into the collaboration.",
                code="dataset_not_agreed",
                advice=f"Agreed: {offered}.",
            )
        return offer


class Rule(Protocol):
    """One thing that must hold of a query."""

    def check(self, asked: Asked) -> None:
        """Return if it holds; raise `Refused` naming the rule if not."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of `rules`, in order; the first that does not hold raises."""

    rules: tuple[Rule, ...]

    def check(self, asked: Asked) -> None:
        for rule in self.rules:
            rule.check(asked)


class QueryTypeAgreed:
    def check(self, asked: Asked) -> None:
        allowed = asked.agreement.terms.query_types
        if asked.query.kind not in allowed:
            raise Refused(
                f"{asked.query.kind} queries are not agreed.",
                code="query_type_not_agreed",
                advice=f"Agreed: {', '.join(allowed)}.",
            )


class PurposeAgreed:
    def check(self, asked: Asked) -> None:
        allowed = asked.agreement.terms.purposes
        if not {asked.query.purpose, *asked.query.also_for} <= set(allowed):
            raise Refused(
                "that purpose is not agreed.",
                code="purpose_not_agreed",
                advice=f"Agreed: {', '.join(allowed)}.",
            )


class KeyAgreed:
    """Both datasets offer every identifier kind the query joins on."""

    def check(self, asked: Asked) -> None:
        wanted = {asked.query.key, *asked.query.fallback_keys}
        for offer in (asked.own, asked.partners):
            if not wanted <= set(offer.kinds):
                raise Refused(
                    "one of the datasets is not offered with that kind of identifier.",
                    code="column_not_agreed",
                    advice=f"{offer.name} has: {', '.join(offer.kinds)}.",
                )


class CellsAgreed:
    """Dimensions and segments are among those offered, with public values."""

    def check(self, asked: Asked) -> None:
        sides = (
            (asked.own, asked.query.dimensions, asked.query.segment),
            (asked.partners, asked.query.partner_dimensions, asked.query.partner_segment),
        )
        for offer, dimensions, segment in sides:
            if len(set(dimensions)) != len(dimensions) or any(offer.dimension(d) is None for d in dimensions):
                known = ", ".join(d.name for d in offer.dimensions) or "none"
                raise Refused(
                    f"a dimension asked of {offer.name} is not agreed.",
                    code="dimension_not_agreed",
                    advice=f"Agreed: {known}.",
                )
            if segment is not None and segment not in offer.segments:
                raise Refused(
                    f"a segment asked of {offer.name} is not agreed.",
                    code="segment_not_agreed",
                    advice=f"Agreed: {', '.join(offer.segments) or 'none'}.",
                )


class ColumnAgreed:
    def check(self, asked: Asked) -> None:
        if asked.query.column is not None and asked.partners.column(asked.query.column) is None:
            known = ", ".join(c.name for c in asked.partners.columns) or "none"
            raise Refused(
                "that column is not agreed for measuring.",
                code="column_not_agreed",
                advice=f"Agreed: {known}.",
            )


class HoldoutAgreed:
    """The holdout of a lift is a value of the own dimension it is split by, and not the only one."""

    def check(self, asked: Asked) -> None:
        if asked.query.holdout is None:
            return
        dimension = asked.own.dimension(asked.query.dimensions[0])
        values = () if dimension is None else dimension.values
        if asked.query.holdout not in values or len(values) < 2:
            raise Refused(
                "the holdout is not a value of the dimension.",
                code="dimension_not_agreed",
                advice=f"Values: {', '.join(values) or 'none'}.",
            )


class ActivationAgreed:
    """An activation joins e-mail addresses under `pair-1`, for a purpose under `activation`."""

    def check(self, asked: Asked) -> None:
        query, profile = asked.query, asked.agreement.terms.key_profile
        if query.kind != "activate":
            return
        if ACTIVATION not in ancestry(query.purpose):
            raise Refused(
                "an activation is for a purpose of its own.",
                code="purpose_not_agreed",
                advice=f"Ask for {ACTIVATION} or a purpose below it, which people allow separately.",
            )
        if profile != PAIR_PROFILE:
            raise ProfileMismatch(
                f"the collaboration agreed on key profile {profile}.",
                advice=f"Activation needs {PAIR_PROFILE}: amend the agreement, or make another for it.",
            )
        if query.key != "email":
            raise Refused(
                "an activation joins e-mail addresses.",
                code="column_not_agreed",
                advice="Ask with key email.",
            )


class EpsilonAgreed:
    def check(self, asked: Asked) -> None:
        most = asked.agreement.terms.epsilon_per_query
        if asked.epsilon > most:
            raise Refused(
                f"the query asks for more than the agreed ε of {most:g}.",
                code="epsilon_above_agreed",
                advice=f"Ask with epsilon at most {most:g}.",
            )
        if asked.epsilon < MIN_EPSILON:
            raise Refused(
                f"the query asks for less than an ε of {MIN_EPSILON:g}.",
                code="epsilon_too_small",
                advice="A smaller ε gives nothing but noise.",
            )


class ThinningKept:
    """A reach thins nobody out: what the contributors agreed each for itself would not come out as one."""

    def check(self, asked: Asked) -> None:
        if asked.query.kind == "reach" and asked.agreement.terms.thinning < 1:
            raise Refused(
                "the agreement has every list thinned, which a reach cannot do.",
                code="thinning_agreed",
                advice="Ask for overlaps with each partner, or amend the agreement.",
            )


AGREED: Rule = AllOf(
    (
        QueryTypeAgreed(),
        PurposeAgreed(),
        KeyAgreed(),
        CellsAgreed(),
        ColumnAgreed(),
        HoldoutAgreed(),
        ActivationAgreed(),
        EpsilonAgreed(),
        ThinningKept(),
    )
)
"""Everything an agreement says about a query before data is touched."""


@dataclass(frozen=True, slots=True)
class MinimumInput:
    """At least `minimum` distinct consented people go in. The message does not say how many there were."""

    minimum: int

    def check(self, people: int) -> None:
        if people < self.minimum:
            raise InputBelowMinimum(
                f"fewer than {self.minimum} people would go in.",
                advice="Use a larger dataset or a wider segment, or check keys and consents.",
            )


def check_profile(agreed: str, used: str) -> None:
    """Both nodes must normalise identifiers by the agreed profile."""
    if agreed != used:
        raise ProfileMismatch(
            f"the collaboration agreed on key profile {agreed}.", advice=f"Normalise with {agreed}."
        )


@dataclass(frozen=True, slots=True)
class CellRelease:
    """What of noisy counts may be shown. `shown` is a boolean mask over cells; `value` None if hidden."""

    value: int | None
    shown: npt.NDArray[np.bool_]
    reason: str | None

    @property
    def suppressed(self) -> bool:
        """Whether the total itself is hidden."""
        return self.value is None


def release_cells(counts: npt.NDArray[np.int64], minimum: int) -> CellRelease:
    """Apply the minimum cell to noisy `counts` (any shape); the total is their sum.

    A cell below `minimum` is hidden, and no hidden cell tells 0 from "below the minimum". As total minus
    shown cells would give a hidden cell back, the next smallest cells are hidden as well until at least two
    are, holding at least `minimum` together. A total below the minimum hides everything.
    """
    if minimum < 1:
        raise Misuse("the minimum cell is at least 1.")
    flat = counts.reshape(-1)
    total = int(flat.sum())
    if total < minimum:
        return CellRelease(None, np.zeros(counts.shape, dtype=np.bool_), "below_minimum_cell")
    shown = flat >= minimum
    if not shown.all():
        for cell in np.argsort(flat, kind="stable"):
            hidden = ~shown
            if hidden.sum() >= 2 and flat[hidden].sum() >= minimum:
                break
            shown[cell] = False
    return CellRelease(total, shown.reshape(counts.shape), None if shown.all() else "cells_below_minimum")


def shown_rate(value: int, of: int) -> str | None:
    """A match rate in whole percent; above 85 % only ">85 %", so that it singles out no absentee."""
    if of <= 0:
        return None
    rate = max(0, round(100 * value / of))
    return f">{HIGH_RATE} %" if rate > HIGH_RATE else f"{rate} %"


def cell_labels(offer: DatasetOffer, dimensions: Sequence[str]) -> tuple[str, ...]:
    """Public labels of the cells a dataset is split into, every combination of values in offered order."""
    labels = [""]
    for name in dimensions:
        dimension = offer.dimension(name)
        values = () if dimension is None else dimension.values
        labels = [f"{label}{' · ' if label else ''}{name}={value}" for label in labels for value in values]
    return tuple(labels) if dimensions else ("all",)
