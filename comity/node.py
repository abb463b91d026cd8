"""A node: its parts, and how they start, stop and answer for themselves."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from fastapi import APIRouter

from clean_room.group.pool import BlindingPool
from clean_room.service import CleanRoom
from comity.access import AccessKeys
from comity.config import NodeConfig
from comity.database import check_migrated
from comity.feed_readers import FeedReaders
from comity.guards import NodeGuards
from comity.heads import HeadsWatch
from comity.holds import HoldKeeper
from comity.identity import Identity, SignedRequest
from comity.metrics import Metrics
from comity.records import Records
from comity.witnessing import Witnessing
from consent.feed import Feed
from consent.state_roots import StateKeeper
from federated.runtime import TrainingService

__all__ = ["Node"]


@dataclass(frozen=True)
class Node:
    """Everything a running node is made of. `start`, `stop` and `close` once each, in this order."""

    records: Records
    access: AccessKeys = field(repr=False)
    guards: NodeGuards = field(repr=False)
    pool: BlindingPool = field(repr=False)
    clean_room: CleanRoom = field(repr=False)
    training: TrainingService = field(repr=False)
    feed: Feed = field(repr=False)
    readers: FeedReaders = field(repr=False)
    witnessing: Witnessing = field(repr=False)
    heads: HeadsWatch = field(repr=False)
    holds: HoldKeeper = field(repr=False)
    states: StateKeeper = field(repr=False)
    metrics: Metrics = field(repr=False)
    routers: tuple[APIRouter, ...] = field(repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def config(self) -> NodeConfig:
        return self.records.config

    @property
    def identity(self) -> Identity:
        return self.records.identity

    @property
    def log_vkey(self) -> str:
        """The C2SP verifier key of this node's log."""
        return self.records.ledger.vkey

    def sign_answer(
        self, request: SignedRequest, status: int, content_type: str, body: bytes
    ) -> dict[str, str]:
        """Headers that sign an answer to a partner."""
        return self.identity.sign_response(request, status, content_type, body, clock=self.records.clock)

    def check_ready(self) -> None:
        """Raise what keeps the node from working: the database, its tables, the log's head."""
        check_migrated(self.records.engine)
        self.records.ledger.head()

    def check_heads(self) -> None:
        """Compare with partners, before anything is served. Raises `RolledBack`."""
        self.heads.check()

    def start(self) -> None:
        """Begin background work: jobs, training, the feed to partners, cosigning."""
        self.clean_room.start()
        self.training.start()
        self.readers.start()
        self.witnessing.start()
        self.heads.start()
        self.holds.start()
        self.states.start()

    def leave(self) -> None:
        """End the answers that would go on while the node runs. Quick, and safe in a signal handler."""
        self.feed.outgoing.stop()

    def stop(self) -> None:
        """End background work in order; what runs is ended in a state both sides can read."""
        self.states.stop()
        self.holds.stop()
        self.heads.stop()
        self.witnessing.stop()
        self.readers.stop()
        self.training.close()
        self.clean_room.close()

    def close(self) -> None:
        """Let go of processes, sockets and the database. Idempotent."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.pool.close()
        self.witnessing.close()
        self.records.close()
