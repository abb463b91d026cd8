"""The Flower apps of a vertical run: `server_app` coordinates and checks, `client_app` wraps a party."""

from __future__ import annotations

from federated.apps.client_app import client_app
from federated.apps.server_app import NodeSeat, RoundSummary, RunSummary, TrainingPlan, server_app

__all__ = ["NodeSeat", "RoundSummary", "RunSummary", "TrainingPlan", "client_app", "server_app"]
