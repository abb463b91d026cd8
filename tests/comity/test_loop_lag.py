from __future__ import annotations

import asyncio
import time

from comity.loop_lag import LoopLag
from comity.metrics import Metrics


def test_a_call_that_holds_the_loop_is_seen() -> None:
    lag = LoopLag()

    async def hold() -> None:
        watching = asyncio.create_task(lag.watch())
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # what nobody may do
        await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(hold())
    assert lag.largest >= 0.15


def test_the_minute_forgets_and_the_process_does_not() -> None:
    lag, metrics = LoopLag(), Metrics()
    lag.measure(metrics)
    assert 'comity_event_loop_lag_seconds{over="minute"} 0' in metrics.page()
    lag.record(10.0, 9.0)
    lag.record(30.0, 29.75)
    lag.record(40.0, 39.5)
    assert (lag.recent(), lag.largest) == (1.0, 1.0)
    lag.record(75.0, 75.0)
    assert (lag.recent(), lag.largest) == (0.5, 1.0)
    lag.record(200.0, 201.0)
    assert (lag.recent(), lag.largest) == (0.0, 1.0)
    page = metrics.page()
    assert 'comity_event_loop_lag_seconds{over="minute"} 0' in page
    assert 'comity_event_loop_lag_seconds{over="process"} 1' in page
