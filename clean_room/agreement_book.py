"""Which agreements a node has: looked up by id, by partner and by key. Nothing here changes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from clean_room.agreements import Agreement
from clean_room.key_rotation import KeyRotation
from clean_room.pair_secrets import PairSecrets
from clean_room.storage import CollaborationRow, CollaborationStore
from privacy.errors import Misuse, Refused
from privacy.signing import PublicKey

__all__ = ["OPEN", "AgreementBook", "Agreements", "HeldAgreements", "PartnerPin", "version_mismatch"]

OPEN = ("invited", "accepting", "agreed")
"""States in which a partner may be talked to."""


@dataclass(frozen=True, slots=True)
class PartnerPin:
    """A partner this node talks to: its name, its node's URL and the only key it may sign with."""

    name: str
    url: str
    key: PublicKey


class Agreements(Protocol):
    """Where a job finds the agreements it is under."""

    def agreement(self, collaboration: str) -> Agreement:
        """The agreement; raises `Misuse(unknown_collaboration)` or `Refused(not_agreed)`."""


def version_mismatch() -> Refused:
    """What is raised where the two sides do not mean the same version of an agreement."""
    return Refused(
        "the query is not under the version of the agreement in force here.",
        code="rule_mismatch",
        advice="Ask again; if that does not help, compare the agreement hashes of both sides.",
    )


class AgreementBook:
    """Look-ups over the stored collaborations. Thread-safe."""

    def __init__(self, store: CollaborationStore, secrets: PairSecrets, rotation: KeyRotation) -> None:
        self._store = store
        self._secrets = secrets
        self._rotation = rotation

    def show(self, collaboration: str | None = None) -> list[dict[str, Any]]:
        """Collaborations as the API shows them, oldest first."""
        rows = self._store.all() if collaboration is None else [self._row(collaboration)]
        return [self._shown(row) for row in rows]

    def agreement(self, collaboration: str) -> Agreement:
        """The agreement in force; raises `Misuse(unknown_collaboration)` or `Refused(not_agreed)`."""
        row = self._row(collaboration)
        if row.state != "agreed":
            raise Refused(
                "that collaboration is not in force.", code="not_agreed", advice="Agree on it first."
            )
        return Agreement.from_document(row.documents["agreement"])

    def partner(self, collaboration: str) -> PartnerPin:
        """The other side of a collaboration in force."""
        row = self._row(collaboration)
        if row.state != "agreed":
            raise Refused(
                "that collaboration is not in force.", code="not_agreed", advice="Agree on it first."
            )
        return PartnerPin(row.partner, row.partner_url, PublicKey.from_text(row.partner_key))

    def keys(self, collaboration: str) -> dict[str, PublicKey]:
        """Both parties' keys by name, also of a collaboration that has been left: receipts outlive it."""
        document = self._row(collaboration).documents.get("agreement")
        if document is None:
            raise Refused("that collaboration was never agreed.", code="not_agreed")
        return {p.name: PublicKey.from_text(p.key) for p in Agreement.from_document(document).parties}

    def versions(self, collaboration: str) -> list[Agreement]:
        """Every version there has been of a collaboration, the first first; receipts name the one they are
        under by its hash."""
        return self._versions(self._row(collaboration))

    def under(self, collaboration: str, agreement_hash: str) -> Agreement:
        """The version of that hash of an agreement in force: what has begun ends under the one it began with.

        Raises as `agreement`, and `Refused(rule_mismatch)` for a hash that is no version's.
        """
        current = self.agreement(collaboration)
        if current.hash == agreement_hash:
            return current
        found = (version for version in self.versions(collaboration) if version.hash == agreement_hash)
        version = next(found, None)
        if version is None:
            raise version_mismatch()
        return version

    def _versions(self, row: CollaborationRow) -> list[Agreement]:
        documents = row.documents
        kept = [past["agreement"] for past in documents.get("history", [])]
        kept += [documents["agreement"]] if "agreement" in documents else []
        return [Agreement.from_document(document) for document in kept]

    def pins(self) -> list[PartnerPin]:
        """Every partner whose signed requests this node accepts now (invited, accepting or agreed)."""
        return [PartnerPin(name, url, PublicKey.from_text(key)) for name, url, key in self._store.pins(OPEN)]

    def monthly_epsilon(self, partner: str) -> float | None:
        """The agreed ε per dataset lineage and month toward a partner; None without an agreement."""
        row = self._store.agreed_with(partner)
        if row is None:
            return None
        return Agreement.from_document(row.documents["agreement"]).terms.epsilon_per_month

    def pair_key(self, partner: str) -> bytes | None:
        """The 32-byte key both nodes share, from which pair pseudonyms come; None without an agreement."""
        row = self._store.agreed_with(partner)
        if row is None or row.sealed_pair_key is None:
            return None
        return self._secrets.pair_key(row.id, row.sealed_pair_key)

    def pair_keys(self, partner: str) -> Sequence[bytes]:
        """The keys under which the partner may have named somebody, the one in use first."""
        row = self._store.agreed_with(partner)
        return [] if row is None else self._rotation.keys(row)

    def _row(self, collaboration: str) -> CollaborationRow:
        row = self._store.get(collaboration)
        if row is None:
            raise Misuse("no such collaboration.", code="unknown_collaboration")
        return row

    def _shown(self, row: CollaborationRow) -> dict[str, Any]:
        agreement = row.documents.get("agreement")
        invitation = row.documents["invitation"]
        return {
            "id": row.id,
            "state": row.state,
            "role": row.role,
            "partner": row.partner,
            "partner_url": row.partner_url,
            "partner_key": row.partner_key,
            "partner_fingerprint": PublicKey.from_text(row.partner_key).fingerprint,
            "agreement_hash": row.agreement_hash or None,
            "terms": (agreement or invitation)["terms"],
            "offers": agreement["offers"]
            if agreement
            else {invitation["inviter"]["name"]: invitation["offers"]},
            "signatures": row.documents.get("signatures", {}),
            "version": agreement["version"] if agreement else 1,
            "versions": [version.hash for version in self._versions(row)],
            "parties": {} if agreement is None else {p["name"]: p["key"] for p in agreement["parties"]},
            "amendments": {
                side: document["amendment"]
                for side, document in row.documents.get("amending", {}).items()
                if side != "assent"
            },
            "created_at": row.created_at,
            "updated_at": row.updated_at,
        }


@dataclass(frozen=True, slots=True)
class HeldAgreements:
    """Agreements in the version in which a job has first looked at them; `keep` remembers which that was."""

    book: AgreementBook
    keep: Callable[[str, Callable[[], bytes]], bytes] = field(repr=False)

    def agreement(self, collaboration: str) -> Agreement:
        """As `AgreementBook.agreement`, in the version held."""
        current = self.book.agreement(collaboration)
        held = self.keep(f"agreement-{collaboration}", current.hash.encode)
        return self.book.under(collaboration, held.decode())
