"""How long opt-outs took to reach each partner and to be enforced there, and which have not yet."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from consent.audit.facts import Delivery, Latency, Waiting
from consent.rows import OutboxRow
from consent.store import LedgerView

__all__ = ["AGES", "BOUNDS", "Window", "deliveries", "nearest_rank"]

_PAGE = 4_000
_OLDEST = 20
BOUNDS: tuple[float, ...] = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 60_000, 3_600_000)
"""Upper bounds of the histogram's bars, in milliseconds; one more bar has none."""
AGES: tuple[tuple[str, int], ...] = (
    ("second", 1),
    ("minute", 60),
    ("hour", 3_600),
    ("day", 86_400),
    ("month", 2_592_000),
    ("older", 1 << 62),
)
"""Classes of age: name, and seconds that it stays below."""


def nearest_rank(ordered: Sequence[int], percent: int) -> int:
    """The percentile by nearest rank: an observed value. `ordered` is ascending and not empty."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


class Window(NamedTuple):
    """What was recorded in since ≤ time < until (µs), as it stood at `made_at` with `size` entries."""

    since: int
    until: int
    made_at: int
    size: int


def deliveries(view: LedgerView, window: Window) -> tuple[Delivery, ...]:
    """What each partner had to be told, and how far that got."""
    return tuple(_one(view, row.name, window) for row in view.partners())


def _one(view: LedgerView, partner: str, window: Window) -> Delivery:
    received, enforced, signed = array("q"), array("q"), array("q")
    ages = dict.fromkeys((name for name, _ in AGES), 0)
    oldest: list[Waiting] = []
    told = 0
    for row in _rows(view, partner):
        if row.idx >= window.size or not window.since <= row.recorded_at < window.until:
            continue
        told += 1
        if row.acked_at is None or row.acked_at > window.made_at:
            age = (window.made_at - row.recorded_at) / 1e6
            ages[next(name for name, bound in AGES if age < bound)] += 1
            if len(oldest) < _OLDEST:
                oldest.append(Waiting(row.seq, row.idx, age))
            continue
        signed.append(row.acked_at - row.recorded_at)
        received.append((row.received_at or row.acked_at) - row.recorded_at)
        enforced.append((row.enforced_at or row.acked_at) - row.recorded_at)
    return Delivery(
        partner=partner,
        told=told,
        acknowledged=len(signed),
        unacknowledged=told - len(signed),
        received=_latency(received),
        enforced=_latency(enforced),
        signed=_latency(signed),
        histogram=_histogram(enforced),
        ages=ages,
        oldest=tuple(oldest),
    )


def _rows(view: LedgerView, partner: str) -> Iterator[OutboxRow]:
    after = 0
    while rows := view.outbox(partner, after, _PAGE):
        yield from rows
        after = rows[-1].seq


def _latency(micros: array[int]) -> Latency | None:
    if not micros:
        return None
    ordered = sorted(micros)
    return Latency(
        len(ordered), nearest_rank(ordered, 50) / 1000, nearest_rank(ordered, 99) / 1000, ordered[-1] / 1000
    )


def _histogram(micros: array[int]) -> tuple[tuple[float | None, int], ...]:
    counts = [0] * (len(BOUNDS) + 1)
    for value in micros:
        counts[next((i for i, b in enumerate(BOUNDS) if value < b * 1000), len(BOUNDS))] += 1
    return tuple(zip((*BOUNDS, None), counts, strict=True))
