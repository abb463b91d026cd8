"""The services for single people, put together from a node's records."""

from __future__ import annotations

from clean_room.consequences import JobConsequences
from clean_room.storage import Store
from comity.records import Records
from consent.people import People
from federated.consequences import RunConsequences
from federated.storage import RunStore

__all__ = ["people_of"]


def people_of(records: Records) -> People:
    """Receipts, proofs, traces and preference links of the node; works with the node running or not."""
    config, store = records.config, Store(records.engine)
    return People.of(
        records.ledger,
        records.identity.key,
        owner=config.name,
        base_url=config.public_url,
        rooms=(
            JobConsequences(store.jobs, config.data_dir / "clean_room", store.exports),
            RunConsequences(RunStore(records.engine)),
        ),
    )
