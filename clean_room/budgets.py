"""The agreement's monthly ε as a limit of the ε ledger, beside the node's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clean_room.collaboration import Collaborations
from privacy.budget import BudgetKey, BudgetLedger, Cost

__all__ = ["AgreedLimits"]


class AgreedLimits(Mapping[BudgetKey, Cost]):
    """For every partner with an agreement: the smaller of the node's limit and the agreed ε a month.

    A view, not a copy: an agreement that ends or begins counts from the next reservation on.
    """

    def __init__(self, collaborations: Collaborations, node: BudgetLedger) -> None:
        self._collaborations = collaborations
        self._node = node

    def __getitem__(self, key: BudgetKey) -> Cost:
        agreed = self._collaborations.monthly_epsilon(key.partner)
        own = self._node.limit_of(key)
        return own if agreed is None else Cost(min(own.epsilon, agreed), own.delta)

    def __iter__(self) -> Iterator[BudgetKey]:
        return iter(self._node.limits)

    def __len__(self) -> int:
        return len(self._node.limits)
