"""People opting out at one partner, over its API, and the wait until the other has signed for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from comity.cli.opening import opened
from comity.demo.calls import NodeCalls
from comity.demo.sites import Site
from privacy.errors import PeerUnreachable

__all__ = ["enforcement_times", "opt_out"]

_PATIENCE = 120.0


def opt_out(calls: NodeCalls, partner: str, people: pl.DataFrame, progress: Callable[[float], None]) -> float:
    """Withdraw each of `people` (email, mobile), one request each, and wait for `partner` to sign.

    Returns the milliseconds within which 99 % were enforced there. Raises PeerUnreachable when not all were
    acknowledged in time.
    """
    before = int(_delivery(calls, partner)["delivered"])
    for done, (email, mobile) in enumerate(people.select("email", "mobile").iter_rows(), 1):
        calls.post("/v1/optouts", {"people": [{"email": email, "phone": mobile}]})
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


def _delivery(calls: NodeCalls, partner: str) -> Mapping[str, Any]:
    status = calls.get("/v1/optouts/status")
    return next(item for item in status["partners"] if item["partner"] == partner)


def enforcement_times(site: Site, partner: str) -> list[float]:
    """Milliseconds from recorded at `site` to enforced at `partner`, one entry an opt-out."""
    with opened(site.directory) as records, records.ledger.store.read() as view:
        times = view.outbox_times(partner)
    return [(enforced - recorded) / 1000 for recorded, enforced, _ in times if enforced is not None]
