"""What a node keeps and who it is: the parts that commands on its directory need, too."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from clean_room.collaboration import Collaborations
from clean_room.datasets import Catalogue
from comity.config import NodeConfig
from comity.identity import Identity
from comity.peers import Peers
from consent.erasure import Erasure
from consent.gate import ConsentGate
from consent.ledger import Ledger
from privacy.budget import BudgetLedger
from privacy.keys import KeyRing

__all__ = ["Records"]


@dataclass(frozen=True)
class Records:
    """What a node keeps and who it is, without the parts that serve. Close it after use."""

    config: NodeConfig
    clock: Callable[[], dt.datetime]
    random: Callable[[int], bytes]
    engine: sa.Engine = field(repr=False)
    identity: Identity = field(repr=False)
    keyring: KeyRing = field(repr=False)
    ledger: Ledger = field(repr=False)
    gate: ConsentGate = field(repr=False)
    erasure: Erasure = field(repr=False)
    budget: BudgetLedger = field(repr=False)
    catalogue: Catalogue = field(repr=False)
    collaborations: Collaborations = field(repr=False)
    peers: Peers = field(repr=False)

    def close(self) -> None:
        """Close sockets and the database. Idempotent."""
        self.peers.close()
        self.engine.dispose()
