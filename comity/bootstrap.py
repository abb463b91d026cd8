"""The one composition root: from a configuration to a node.

`open_records` builds what the commands on a node's directory need: database, keys, ledger, collaborations.
`build_node` builds the whole node on top of it. Everything is handed what it needs; nothing in the lower
rooms reads configuration, the clock or the machine's randomness for itself.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from clean_room.collaboration import Collaborations, PartnerPin
from clean_room.datasets import Catalogue
from clean_room.storage import Store
from comity.access import AccessKeys
from comity.config import NodeConfig
from comity.database import check_migrated, migrate, open_engine
from comity.identity import Identity, RequestVerifier
from comity.logs import error_place, log
from comity.metrics import Metrics
from comity.nonces import NonceStore
from comity.peers import Peers
from comity.records import Records
from consent.erasure import Erasure
from consent.gate import ConsentGate
from consent.journal import ErasureJournal
from consent.ledger import EntryAudit, Ledger
from consent.peers import PeerConnection
from consent.purposes import PurposePolicy
from privacy.budget import BudgetLedger, Cost
from privacy.keys import KeyRing
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from comity.node import Node

__all__ = ["build_node", "open_records"]

Clock = Callable[[], dt.datetime]
Random = Callable[[int], bytes]


def open_records(config: NodeConfig, *, clock: Clock, random: Random, restoring: bool = False) -> Records:
    """Open the node's database, keys and ledger; several processes may have them open at once.

    `restoring` opens a ledger that was restored from an old backup, to be repaired and nothing else.

    Raises `NotMigrated`, `StorageError`, `BadInput`/`Refused` for key files, `Tampered` for a log that does
    not agree with what was published.
    """
    engine = open_engine(config.database_url)
    try:
        check_migrated(engine)
        identity = Identity(config.name, SigningKey.load(config.identity_key))
        keyring = KeyRing.load(config.ring_key, random)
        ledger = Ledger.open(
            engine,
            keyring=keyring,
            signing_key=identity.key,
            origin=config.log_origin,
            directory=config.log_dir,
            policy=PurposePolicy.load(config.path(config.consent.policy)) if config.consent.policy else None,
            clock=clock,
            random=random,
            start=not restoring,
        )
        peers = Peers(
            identity=identity,
            clock=clock,
            random=random,
            max_response_bytes=config.peers.max_response_bytes,
            ca_certificates=str(config.path(config.peers.ca_certificates))
            if config.peers.ca_certificates
            else "",
        )
    except BaseException:
        engine.dispose()
        raise
    catalogue = Catalogue.load(config.datasets_file, clock=clock)
    collaborations = Collaborations(
        Store(engine).collaborations,
        name=config.name,
        url=config.public_url,
        identity=identity.key,
        keyring=keyring,
        catalogue=catalogue,
        connect=peers.connect,
        ledger=ledger,
        clock=clock,
        random=random,
    )
    ledger.pair_keys = collaborations
    limit = Cost(config.budget.epsilon, config.budget.delta)
    return Records(
        config=config,
        clock=clock,
        random=random,
        engine=engine,
        identity=identity,
        keyring=keyring,
        ledger=ledger,
        gate=ConsentGate(ledger),
        erasure=Erasure(ledger, journal=ErasureJournal(config.data_dir / "erasures", keyring)),
        budget=BudgetLedger(engine, limit=limit, sink=EntryAudit(ledger)),
        catalogue=catalogue,
        collaborations=collaborations,
        peers=peers,
    )


def _pin(collaborations: Collaborations, partner: str) -> PartnerPin | None:
    return next((pin for pin in collaborations.pins() if pin.name == partner), None)


@dataclass(frozen=True)
class PinnedKeys:
    """The keys of partners in open collaborations. Implements `comity.identity.PartnerKeys`."""

    collaborations: Collaborations

    def public_key(self, partner: str) -> bytes | None:
        pin = _pin(self.collaborations, partner)
        return None if pin is None else pin.key.bytes32


@dataclass(frozen=True)
class PartnerLines:
    """Connections by partner name, for the rooms that know partners by name only."""

    collaborations: Collaborations
    peers: Peers

    def __call__(self, partner: str) -> PeerConnection | None:
        """A connection, or None where no collaboration with that partner is open."""
        pin = _pin(self.collaborations, partner)
        return None if pin is None else self.peers.connect(pin)


def build_node(config: NodeConfig, *, clock: Clock, random: Random) -> Node:
    """The node of `config`, ready to be started. Its database is brought up to date first.

    Raises as `open_records`, and `Misuse` for a blinding engine this machine cannot run.
    """
    engine = open_engine(config.database_url)
    try:
        migrate(engine)
    finally:
        engine.dispose()
    records = open_records(config, clock=clock, random=random)
    try:
        return _assemble(records)
    except BaseException:
        records.close()
        raise


def _assemble(records: Records) -> Node:
    # Loaded here because the web framework and Flower take longer to load than a command on a node's
    # directory, which only opens the records, takes to run.
    import clean_room.api
    import consent.api
    import federated.api
    from clean_room.group.pool import BlindingPool
    from clean_room.service import CleanRoom, Settings
    from comity.auditing import reports_of
    from comity.feed_readers import FeedReaders
    from comity.guards import NodeGuards
    from comity.heads import HeadsWatch
    from comity.holds import HoldKeeper
    from comity.node import Node
    from comity.people import people_of
    from comity.witnessing import Witnessing
    from consent.feed import Feed
    from consent.routes import audit as audit_routes
    from consent.routes import people as people_routes
    from consent.routes import witness as witness_routes
    from consent.state_roots import StateKeeper, StateRoots
    from federated.runtime import TrainingService, TrainingSettings

    config, engine, ledger = records.config, records.engine, records.ledger
    access = AccessKeys(engine, clock=records.clock, random=records.random)
    verifier = RequestVerifier(
        config.public_url,
        PinnedKeys(records.collaborations),
        NonceStore(engine),
        records.clock,
        dt.timedelta(seconds=config.peers.clock_skew_seconds),
    )
    guards = NodeGuards(access, verifier)
    pool = BlindingPool(config.engine.workers, engine=config.engine.blinder)
    service = CleanRoom(
        engine,
        collaborations=records.collaborations,
        catalogue=records.catalogue,
        gate=records.gate,
        uses=ledger,
        budget=records.budget,
        identity=records.identity.key,
        keyring=records.keyring,
        pool=pool,
        artefacts=config.data_dir / "clean_room",
        clock=records.clock,
        random=records.random,
        settings=Settings(threads=config.jobs.threads),
    )
    training = TrainingService(
        engine,
        collaborations=records.collaborations,
        catalogue=records.catalogue,
        clean_room=service,
        gate=records.gate,
        uses=ledger,
        identity=records.identity.key,
        keyring=records.keyring,
        clock=records.clock,
        random=records.random,
        settings=TrainingSettings(flower_home=str(config.data_dir / "flower")),
    )
    records.erasure.forgetters.append(service.forget)
    feed = Feed(ledger, signing_key=records.identity.key, enforcers=(service.enforce, training.enforce))
    lines = PartnerLines(records.collaborations, records.peers)
    readers = FeedReaders(feed, partial(_partners, ledger), lines, records.random, config.jobs.feed_seconds)
    witnessing = Witnessing.of(records)
    ledger.listeners.append(witnessing.wake)
    metrics = _metrics(records)
    witnessing.measure(metrics)
    return Node(
        records=records,
        access=access,
        guards=guards,
        pool=pool,
        clean_room=service,
        training=training,
        feed=feed,
        readers=readers,
        witnessing=witnessing,
        heads=HeadsWatch(ledger, partial(_partners, ledger), lines),
        holds=HoldKeeper(records.erasure),
        states=StateKeeper(StateRoots(ledger), failed=_not_committed),
        metrics=metrics,
        routers=(
            clean_room.api.create_router(service, guards),
            consent.api.create_router(
                ledger,
                feed,
                guards,
                erasures=records.erasure,
                vendor=config.consent.vendor or None,
            ),
            people_routes.create_router(people_of(records), guards),
            audit_routes.create_router(reports_of(records), guards),
            witness_routes.create_router(witnessing.witness, witnessing.split_views, guards),
            federated.api.create_router(training, guards),
        ),
    )


def _not_committed(error: Exception) -> None:
    log.error("the state was not committed to", error=type(error).__name__, at=error_place(error))


def _partners(ledger: Ledger) -> list[str]:
    return [row.name for row in ledger.partners() if row.removed_at is None]


def _metrics(records: Records) -> Metrics:
    metrics = Metrics()

    def log_size() -> dict[tuple[tuple[str, str], ...], float]:
        return {(): float(records.ledger.head().size)}

    def queued() -> dict[tuple[tuple[str, str], ...], float]:
        rows = records.ledger.partners()
        return {(("partner", row.name),): float(row.sent_seq - row.acked_seq) for row in rows}

    metrics.gauge("comity_log_entries", "Entries in the transparency log.", log_size)
    metrics.gauge("comity_optouts_waiting", "Opt-outs a partner has not acknowledged yet.", queued)
    return metrics
