"""Training runs for the typed client of one's own node (`clean_room.client.Comity`)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Self

from clean_room.client import Comity
from federated.api import RunPage, RunView, TrainingRunBody
from federated.errors import ComityError, PartnerFailed, PeerUnreachable, Refused, Tampered
from federated.runs import TERMINAL

__all__ = ["TrainingClient", "failure_of_run"]


class TrainingClient(Comity):
    """A client that trains as well. `over` makes one of a client that is open already."""

    @classmethod
    def over(cls, node: Comity) -> Self:
        """The same connection and key; whoever opened `node` closes it."""
        client = cls.__new__(cls)
        client._http = node._http
        return client

    def train(self, request: TrainingRunBody, *, idempotency_key: str | None = None) -> RunView:
        """Submit a run. Without a key given, this call is one run however often it is retried."""
        key = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        return self._one(RunView, "POST", "/v1/training-runs", request, headers=key)

    def run(self, run: str) -> RunView:
        """Where a run stands."""
        return self._one(RunView, "GET", f"/v1/training-runs/{run}")

    def runs(self, *, limit: int = 50, cursor: str | None = None) -> RunPage:
        """A page of runs, newest first."""
        params = {"limit": limit} | ({} if cursor is None else {"cursor": cursor})
        return self._one(RunPage, "GET", "/v1/training-runs", params=params)

    def card(self, run: str) -> dict[str, Any]:
        """The model card of a run that succeeded."""
        return dict(self._call("GET", f"/v1/training-runs/{run}/card"))

    def round_receipts(self, run: str) -> list[dict[str, Any]]:
        """The signed receipts of every round: `{round, party, receipt}`."""
        return list(self._call("GET", f"/v1/training-runs/{run}/receipts"))

    def cancel_run(self, run: str) -> RunView:
        """Stop a run."""
        return self._one(RunView, "POST", f"/v1/training-runs/{run}:cancel")

    def follow_run(
        self,
        run: str,
        *,
        timeout: float = 3600.0,
        pause: float = 0.5,
        seen: Callable[[RunView], None] = lambda _run: None,
    ) -> RunView:
        """Follow a run to its end and return it, whatever the end; `seen` is called with every look.

        Raises PeerUnreachable after `timeout` seconds; the run goes on.
        """
        deadline, wait = time.monotonic() + timeout, min(0.05, pause)
        while True:
            found = self.run(run)
            seen(found)
            if found.state in TERMINAL:
                return found
            if time.monotonic() > deadline:
                raise PeerUnreachable("The run is still going on; ask for it again later.", code="timed_out")
            time.sleep(wait)
            wait = min(pause, wait * 1.5)


def failure_of_run(run: RunView) -> ComityError | None:
    """The error that a run's end stands for; None for one that succeeded or still goes on."""
    if run.state == "cancelled":
        return Refused("The run was cancelled.", code="cancelled")
    kinds: dict[str, type[ComityError]] = {
        "rejected": Refused,
        "failed": PartnerFailed,
        "timed_out": PeerUnreachable,
    }
    kind = kinds.get(run.state)
    if kind is None:
        return None
    said = run.error or {}
    code = str(said.get("code", run.state))
    if code in {Tampered.code, "bad_signature"}:
        kind = Tampered
    elif code == PeerUnreachable.code:
        kind = PeerUnreachable
    detail = str(said.get("detail") or "The run failed.")
    return kind(detail, advice=str(said.get("advice", "")), code=code)
