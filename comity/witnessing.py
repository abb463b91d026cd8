"""The node among witnesses: whom it asks to cosign its log, and what it answers to those that ask it.

The partners of open collaborations are witnesses of each other; a trust policy may name more of them, the
quorum, and further logs to witness.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from clean_room.addresses import check_address
from clean_room.collaboration import Collaborations
from comity.config import NodeConfig
from comity.cosigning import Cosigning
from comity.errors import ConfigError
from comity.logs import log
from comity.metrics import Labels, Metrics
from comity.records import Records
from consent.cosignatures import Cosigner, CosignerKey, witness_key
from consent.ledger import Ledger
from consent.notes import VerifierKey
from consent.rows import SplitViewRow
from consent.split_views import SplitViews
from consent.trust_policy import TrustPolicy
from consent.witness import KnownLogs, Witness
from privacy.errors import Misuse, PeerUnreachable, PeerViolation

__all__ = ["HttpWitness", "Witnesses", "Witnessing", "read_trust_policy"]

_LARGEST_ANSWER = 1 << 16  # bytes
_PATIENCE = 10.0  # seconds for one answer


def read_trust_policy(config: NodeConfig) -> TrustPolicy | None:
    """The policy that node.toml names, None where it names none. Raises ConfigError, BadTrustPolicy."""
    if not config.log.trust_policy:
        return None
    try:
        return TrustPolicy.parse(config.path(config.log.trust_policy).read_bytes())
    except OSError as e:
        raise ConfigError(f"[log] trust_policy cannot be read: {e.strerror}.") from None


@dataclass(frozen=True)
class HttpWitness:
    """A witness at a submission prefix. What it answers is believed for its signature alone."""

    name: str
    key: CosignerKey
    url: str
    client: httpx.Client = field(repr=False)

    def add_checkpoint(self, body: bytes) -> tuple[int, str, bytes]:
        address = f"{self.url.rstrip('/')}/add-checkpoint"
        headers = {"content-type": "text/plain; charset=utf-8"}
        try:
            with self.client.stream(
                "POST", address, content=body, headers=headers, timeout=_PATIENCE
            ) as answer:
                received = bytearray()
                for chunk in answer.iter_raw():
                    received += chunk
                    if len(received) > _LARGEST_ANSWER:
                        raise PeerViolation("A witness's answer is not so large.", code="response_too_large")
                return answer.status_code, answer.headers.get("content-type", ""), bytes(received)
        except httpx.HTTPError as e:
            raise PeerUnreachable(f"Witness {self.name} does not answer ({type(e).__name__}).") from None


class Witnesses:
    """Whom to ask: open partners, and the witnesses of the trust policy that have a URL."""

    def __init__(
        self,
        ledger: Ledger,
        collaborations: Collaborations,
        policy: TrustPolicy | None,
        *,
        ca_certificates: str = "",
    ) -> None:
        context: ssl.SSLContext | bool = (
            ssl.create_default_context(cafile=ca_certificates) if ca_certificates else True
        )
        self._client = httpx.Client(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=16, keepalive_expiry=30.0),
            headers={"user-agent": "comity", "accept-encoding": "identity"},
        )
        self._ledger = ledger
        self._collaborations = collaborations
        self._named = policy
        for witness in policy.witnesses if policy is not None else ():
            if witness.url:
                _check_prefix(witness.url)

    def __call__(self) -> list[HttpWitness]:
        """As it is now: partners come and go."""
        found: dict[bytes, HttpWitness] = {}
        for witness in self._named.witnesses if self._named is not None else ():
            if witness.url:
                found[witness.key.public] = HttpWitness(witness.name, witness.key, witness.url, self._client)
        keys = {row.name: VerifierKey.from_text(row.vkey) for row in self._ledger.partners()}
        for pin in self._collaborations.pins():
            if pin.name in keys:
                key = witness_key(keys[pin.name])
                url = f"{pin.url.rstrip('/')}/witness"
                found.setdefault(key.public, HttpWitness(pin.name, key, url, self._client))
        return list(found.values())

    def policy(self) -> TrustPolicy:
        """The rule for which checkpoint is published as cosigned: the configured one, else any partner."""
        if self._named is not None:
            return self._named
        return TrustPolicy.any_of({witness.name: witness.key for witness in self()})

    def close(self) -> None:
        self._client.close()


def _check_prefix(url: str) -> None:
    """An address as partners have, with or without a path. Raises Misuse."""
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise Misuse("The URL of a witness has neither query nor fragment.", code="bad_address")
    check_address(f"{parts.scheme}://{parts.netloc}")


@dataclass(frozen=True)
class Witnessing:
    """Both halves, ready to be started. `wake` after the log has grown."""

    witness: Witness
    split_views: SplitViews
    witnesses: Witnesses = field(repr=False)
    cosigning: Cosigning = field(repr=False)

    @classmethod
    def of(cls, records: Records) -> Witnessing:
        """Raises ConfigError or BadTrustPolicy for the policy that node.toml names."""
        config, ledger = records.config, records.ledger
        policy = read_trust_policy(config)
        authorities = config.peers.ca_certificates
        witnesses = Witnesses(
            ledger,
            records.collaborations,
            policy,
            ca_certificates=str(config.path(authorities)) if authorities else "",
        )
        split_views = SplitViews(ledger, _warn)
        signer = Cosigner(witness_key(ledger.key), records.identity.key.sign_raw)
        known = KnownLogs(ledger.store, ledger.key, policy)
        witness = Witness(ledger.store, signer, known, split_views, clock=records.clock)
        return cls(witness, split_views, witnesses, Cosigning(ledger.log, witnesses, witnesses.policy))

    def wake(self) -> None:
        self.cosigning.wake()

    def start(self) -> None:
        self.cosigning.start()

    def stop(self) -> None:
        self.cosigning.stop()

    def close(self) -> None:
        self.witnesses.close()

    def measure(self, metrics: Metrics) -> None:
        """Register what can be seen of it from outside."""

        def cosigned() -> dict[Labels, float]:
            return {(("witness", status.name),): float(status.size) for status in self.cosigning.statuses()}

        def failing() -> dict[Labels, float]:
            return {
                (("witness", status.name),): float(status.failures) for status in self.cosigning.statuses()
            }

        def split() -> dict[Labels, float]:
            return {(): float(len(self.split_views.listing()))}

        metrics.gauge("comity_witness_size", "Size of this log that a witness has cosigned.", cosigned)
        metrics.gauge("comity_witness_failures", "Attempts at a witness since it last cosigned.", failing)
        metrics.gauge("comity_split_views", "Pairs of checkpoints of other logs that do not fit.", split)


def _warn(row: SplitViewRow) -> None:
    log.error("a log has signed checkpoints that do not fit together", origin=row.origin, kind=row.kind)
