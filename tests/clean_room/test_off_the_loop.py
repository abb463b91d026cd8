"""Curve points and ciphertexts hold a thread for long: never that of an event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from clean_room.encryption.evaluator import Evaluator
from clean_room.encryption.secret_key import SecretKey
from clean_room.group.pool import BlindingPool


@pytest.mark.parametrize("kind", ["overlap", "measure", "align"])
def test_no_heavy_step_of_either_side_runs_where_requests_are_waited_for(
    pair: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: Counter[str] = Counter()
    on_loop: list[str] = []

    def watch(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **more: Any) -> Any:
            called[name] += 1
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return original(*args, **more)
            on_loop.append(f"{owner.__name__}.{name}")
            return original(*args, **more)

        monkeypatch.setattr(owner, name, watched)

    for name in ("hash_and_blind", "blind"):
        watch(BlindingPool, name)
    for owner in (SecretKey, Evaluator):
        for name, value in list(vars(owner).items()):
            if callable(value) and (not name.startswith("_") or name == "__init__"):
                watch(owner, name)
    job = pair.bank.run(pair.query(kind))
    assert job.state == "succeeded", job.error
    assert on_loop == []
    assert called["hash_and_blind"] >= 2
    assert called["blind"] >= 2
    if kind == "measure":
        assert called["__init__"] >= 2  # a key at the contributor, an evaluator at the analyst
