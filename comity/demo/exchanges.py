"""What crossed the wire between the two nodes, step by step, as the nodes themselves counted it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from comity.demo.calls import NodeCalls
from comity.demo.outcome import Exchange

__all__ = ["Traffic"]

# What each step lets the two sides learn; the counted bytes stand beside it.
_LEARNT = {
    "overlap, in total": ("a noisy number of people", "that it was asked, with what list size"),
    "overlap, by age and limit": ("a noisy number a cell", "that it was asked, with what padded cell sizes"),
    "average repayment": ("a noisy average", "that it was asked, with what list size; masked sums"),
    "opt-outs": ("pseudonyms of its own customers who left", "when each was enforced"),
    "overlap, again": ("a noisy number of people", "that it was asked, with what list size"),
}


class Traffic:
    """Bytes of request and answer bodies, both ways, between marks."""

    def __init__(self, bank: NodeCalls, shop: NodeCalls) -> None:
        self._bank, self._shop = bank, shop
        self._steps: list[tuple[str, int, int]] = []

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Count what the two nodes send each other while inside."""
        before = self._counted()
        yield
        after = self._counted()
        self._steps.append((step, after[0] - before[0], after[1] - before[1]))

    def _counted(self) -> tuple[int, int]:
        """Bytes sent so far by the bank and by the shop."""
        to_bank, by_bank = self._bank.peer_bytes()
        to_shop, by_shop = self._shop.peer_bytes()
        return to_shop + by_bank, to_bank + by_shop

    def exchanges(self, disclosed: Mapping[str, str]) -> list[Exchange]:
        """One line a step; `disclosed` is what the model card says of training."""
        training = (
            "who is shared, by row; " + disclosed.get("to_label_holder", ""),
            "who is shared, by row; " + disclosed.get("to_feature_holder", ""),
        )
        return [
            Exchange(step, by_bank, by_shop, *_LEARNT.get(step, training))
            for step, by_bank, by_shop in self._steps
        ]
