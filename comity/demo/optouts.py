"""People opting out at one partner, over its API, and the wait until the other has signed for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl

from comity.demo.calls import NodeCalls
from consent.ledger import Ledger
from privacy.errors import PeerUnreachable

__all__ = ["enforcement_times", "opt_out", "wait_until_told"]

_PATIENCE = 120.0
_AT_ONCE = 4


def opt_out(calls: NodeCalls, partner: str, people: pl.DataFrame, progress: Callable[[float], None]) -> float:
    """Withdraw each of `people` (email, mobile), one request each, and wait for `partner` to sign.

    Returns the milliseconds within which 99 % were enforced there. Raises PeerUnreachable when not all were
    acknowledged in time.
    """
    before = int(_delivery(calls, partner)["delivered"])

    def withdraw(person: tuple[str, str]) -> None:
        calls.post("/v1/optouts", {"people": [{"email": person[0], "phone": person[1]}]})

    # People do not queue up to leave: several requests are under way at any moment.
    with ThreadPoolExecutor(_AT_ONCE) as askers:
        everybody = askers.map(withdraw, people.select("email", "mobile").iter_rows())
        for done, _ in enumerate(everybody, 1):
            progress(0.9 * done / people.height)
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = _delivery(calls, partner)
        if found["queued"] == 0 and found["delivered"] >= before + people.height:
            progress(1.0)
            return float(found["enforced"]["p99"])
        if time.monotonic() > deadline:
            raise PeerUnreachable(
                f"{partner} did not acknowledge every opt-out within {_PATIENCE:.0f} seconds.",
                advice="Its serve.log says why (use --keep).",
            )
        time.sleep(0.05)


def wait_until_told(bank: NodeCalls, shop: NodeCalls) -> None:
    """Wait until each has heard, and signed for, what people told the other before they agreed.

    Until then neither uses anybody's data with the other. Raises PeerUnreachable when it takes too long.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = _delivery(bank, shop.site.name), _delivery(shop, bank.site.name)
        if all(one["queued"] == 0 and not one["lease_expired"] for one in found):
            return
        time.sleep(0.1)
    raise PeerUnreachable("The two nodes have not heard each other out.", advice="See their serve.log.")


def _delivery(calls: NodeCalls, partner: str) -> Mapping[str, Any]:
    status = calls.get("/v1/optouts/status")
    return next(item for item in status["partners"] if item["partner"] == partner)


def enforcement_times(ledger: Ledger, partner: str) -> list[float]:
    """Milliseconds from recorded in `ledger` to enforced at `partner`, for each opt-out since they joined."""
    joined = ledger.partner(partner).joined_index
    with ledger.store.read() as view:
        times = view.outbox_times(partner, joined)
    return [(enforced - recorded) / 1000 for recorded, enforced, _ in times if enforced is not None]
