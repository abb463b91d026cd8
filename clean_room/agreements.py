"""What two partners sign: terms, offers, the invitation, the acceptance and the agreement they make.

Values only: no I/O, no clock, no keys held. An agreement is the one canonical JSON document (RFC 8785)
both nodes derive from invitation and acceptance; its SHA-256 is what both sign, log and put into receipts.
Where both partners state a number, the stricter one is in the agreement.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from clean_room.addresses import check_address
from clean_room.armour import unarmoured
from consent.encoding import canonical_json
from privacy.errors import Misuse, Refused
from privacy.identifiers import PROFILES

__all__ = [
    "LEASE_SECONDS",
    "MIN_EPSILON",
    "QUERY_TYPES",
    "Acceptance",
    "Agreement",
    "ColumnOffer",
    "DatasetOffer",
    "DimensionOffer",
    "Document",
    "Invitation",
    "Party",
    "Terms",
    "check_moment",
]

MIN_EPSILON = 0.01
"""Least ε of a query: below it the noise, and the dummies that carry it, drown any answer."""
LEASE_SECONDS = 5.0
"""How old what was heard last of a partner may be, unless the terms say otherwise."""
QueryType = Literal["overlap", "measure", "align", "activate", "estimate", "reach"]
QUERY_TYPES: tuple[QueryType, ...] = ("overlap", "measure", "align")
"""Agreed on unless the terms say otherwise: what reveals more, or to more partners, must be named."""
MAX_EPOCH_DAYS = 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_KEY = re.compile(r"[A-Za-z0-9+/=_-]{1,64}")
_ID = re.compile(r"[0-9a-f]{32}")
_FORBID = ConfigDict(extra="forbid")


class Document:
    """A frozen dataclass with one canonical JSON form and a strict reader."""

    __slots__ = ()

    def document(self) -> dict[str, Any]:
        """The value as plain JSON types, the form that is hashed, signed, stored and sent."""
        return _stated(asdict(self))  # type: ignore[call-overload]

    def encoded(self) -> bytes:
        """Canonical bytes (RFC 8785)."""
        return canonical_json(self.document())

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical bytes, hex."""
        return hashlib.sha256(self.encoded()).hexdigest()

    @classmethod
    def from_document(cls, document: object) -> Self:
        """Read a document strictly: unknown, missing or mistyped fields raise `Misuse(malformed_document)`.

        The message names the field and what is wrong with it, never the value.
        """
        try:
            read: Self = _reader(cls).validate_json(json.dumps(document, default=str), strict=True)
            return read
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise Misuse(
                f"{cls.__name__.lower()}: {where}: {first['type'].replace('_', ' ')}.",
                code="malformed_document",
            ) from None


def _stated(document: dict[str, Any]) -> dict[str, Any]:
    """Without a lease that was never stated, which reads back as none."""
    terms = document.get("terms", document)
    if terms.get("lease_seconds", 0) is None:
        del terms["lease_seconds"]
    return document


_READERS: dict[type, TypeAdapter[Any]] = {}


def _reader(kind: type) -> TypeAdapter[Any]:
    # Building a reader takes milliseconds, reading with it microseconds.
    if kind not in _READERS:
        _READERS[kind] = TypeAdapter(kind)
    return _READERS[kind]


def _name(text: str, what: str) -> None:
    if not _NAME.fullmatch(text):
        raise Misuse(f"{what} must be 1 to 64 letters, digits, '-', '_' or '.'.", code="malformed_document")


def check_moment(text: str, what: str) -> None:
    """Raises `Misuse(malformed_document)` unless `text` is a time with its offset."""
    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise Misuse(f"{what} must be a time with its offset from UTC.", code="malformed_document")


def _identity(text: str) -> None:
    if not _ID.fullmatch(text):
        raise Misuse("the id must be 32 hexadecimal digits.", code="malformed_document")


@dataclass(frozen=True, slots=True)
class Party(Document):
    """One partner: the name it goes by, where its node is, its pinned Ed25519 key, its X25519 public key and
    the verifier key of its consent log."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    name: str
    url: str
    key: str
    exchange: str = ""
    log_vkey: str = ""

    def __post_init__(self) -> None:
        _name(self.name, "party name")
        check_address(self.url, "malformed_document")
        if not _KEY.fullmatch(self.key):
            raise Misuse("a party needs an Ed25519 key.", code="malformed_document")
        if self.exchange and len(unarmoured(self.exchange, "exchange", Misuse, "malformed_document")) != 32:
            raise Misuse("an exchange key is 32 bytes.", code="malformed_document")


@dataclass(frozen=True, slots=True)
class ColumnOffer(Document):
    """A column a partner may have measured, and the bounds each person's value is clipped to."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    name: str
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lower) and math.isfinite(self.upper) and self.lower < self.upper):
            raise Misuse(
                "clip bounds must be finite numbers, the lower below the upper.", code="malformed_document"
            )


@dataclass(frozen=True, slots=True)
class DimensionOffer(Document):
    """A dimension cells may be split by, and its public values (known to both before any query)."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values):
            raise Misuse("a dimension needs at least one value, each named once.", code="malformed_document")


@dataclass(frozen=True, slots=True)
class DatasetOffer(Document):
    """What of one dataset the other partner may ask about."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    name: str
    lineage: str
    kinds: tuple[str, ...]
    columns: tuple[ColumnOffer, ...] = ()
    dimensions: tuple[DimensionOffer, ...] = ()
    segments: tuple[str, ...] = ()

    def column(self, name: str) -> ColumnOffer | None:
        return next((c for c in self.columns if c.name == name), None)

    def dimension(self, name: str) -> DimensionOffer | None:
        return next((d for d in self.dimensions if d.name == name), None)


@dataclass(frozen=True, slots=True)
class Terms(Document):
    """The rules a collaboration is run by. ε and δ are per query; the month's ε is per dataset lineage.

    `lease_seconds` is how old what was heard last of the partner's opt-outs may be for anybody to be used
    with it; 0 for any age. None is for terms signed before there were leases, and means the same.
    `approval` by a person means that somebody on the contributor's side lets every query through.
    `thinning` is the share of matching people that may match at all, 1 for all: what is left out protects
    each of them even from an analyst who lies. `activation_keep` is that share for activations.
    `epoch_days` is how long an overlap may be refreshed under the same keys (docs/threat-model.md says what
    a refresh shows); with 0 keys are fresh with every query, and no two runs can be linked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    purposes: tuple[str, ...]
    query_types: tuple[QueryType, ...] = QUERY_TYPES
    key_profile: str = "comity-1"
    minimum_input: int = 1000
    minimum_cell: int = 50
    epsilon_per_query: float = 1.0
    delta_per_query: float = 1e-6
    epsilon_per_month: float = 10.0
    approval: Literal["auto", "person"] = "auto"
    lease_seconds: float | None = None
    thinning: float = 1.0
    activation_keep: float = 1.0
    epoch_days: int = 0

    def __post_init__(self) -> None:
        positive = (self.epsilon_per_query, self.delta_per_query, self.epsilon_per_month)
        if not all(math.isfinite(n) and n > 0 for n in positive):
            raise Misuse("epsilon and delta must be finite and above 0.", code="malformed_document")
        if self.epsilon_per_query < MIN_EPSILON:
            raise Misuse(f"epsilon per query must be at least {MIN_EPSILON:g}.", code="malformed_document")
        if self.delta_per_query >= 0.1 or self.epsilon_per_query > 20:
            raise Misuse(
                "epsilon or delta per query is too large to protect anyone.", code="malformed_document"
            )
        if self.minimum_input < 1 or self.minimum_cell < 1:
            raise Misuse("minimum_input and minimum_cell must be at least 1.", code="malformed_document")
        if self.lease_seconds and not 1 <= self.lease_seconds <= 86_400:
            raise Misuse("lease_seconds is 0 (none), or 1 to 86400.", code="malformed_document")
        if not 0.5 <= self.thinning <= 1 or not 0.5 <= self.activation_keep <= 1:
            raise Misuse("thinning and activation_keep are shares from 0.5 to 1.", code="malformed_document")
        if not 0 <= self.epoch_days <= MAX_EPOCH_DAYS:
            raise Misuse(f"epoch_days is 0 (none), or 1 to {MAX_EPOCH_DAYS}.", code="malformed_document")
        if self.key_profile not in PROFILES:
            raise Misuse("key_profile is not one this version knows.", code="malformed_document")
        if not self.purposes or not self.query_types:
            raise Misuse("terms need at least one purpose and one query type.", code="malformed_document")

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read the `[terms]` table of a `collaboration.toml`."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise Misuse("the collaboration file is not valid TOML.", code="malformed_document") from error
        known = {f.name for f in fields(cls)}
        terms = table.get("terms", table)
        return cls.stated({k: v for k, v in terms.items() if k in known or terms is not table})

    @classmethod
    def stated(cls, document: Mapping[str, Any]) -> Self:
        """Read terms as somebody states them now: with the usual lease unless they name another, or none."""
        return cls.from_document({"lease_seconds": LEASE_SECONDS, **document})

    @property
    def lease(self) -> timedelta | None:
        """The lease; None where there is none."""
        return timedelta(seconds=self.lease_seconds) if self.lease_seconds else None

    def strictest(self, other: Terms) -> Terms:
        """Both partners' terms made one: what both allow, and the stricter of every pair of numbers.

        Raises `Refused(profile_mismatch)` when the key profiles differ and `Refused(rule_mismatch)` when
        no purpose or no query type is allowed by both.
        """
        if self.key_profile != other.key_profile:
            raise Refused(
                f"one side names key profile {self.key_profile}, the other {other.key_profile}.",
                code="profile_mismatch",
                advice="Agree on one profile: identifiers normalised differently do not match.",
            )
        purposes = tuple(p for p in self.purposes if p in other.purposes)
        types = tuple(q for q in self.query_types if q in other.query_types)
        if not purposes or not types:
            raise Refused(
                "the two sides' terms leave no purpose or no query type in common.",
                code="rule_mismatch",
                advice="Compare the purposes and query types both sides state.",
            )
        return replace(
            self,
            purposes=purposes,
            query_types=types,
            minimum_input=max(self.minimum_input, other.minimum_input),
            minimum_cell=max(self.minimum_cell, other.minimum_cell),
            epsilon_per_query=min(self.epsilon_per_query, other.epsilon_per_query),
            delta_per_query=min(self.delta_per_query, other.delta_per_query),
            epsilon_per_month=min(self.epsilon_per_month, other.epsilon_per_month),
            lease_seconds=_shorter(self.lease_seconds, other.lease_seconds),
            approval="person" if "person" in (self.approval, other.approval) else "auto",
            thinning=min(self.thinning, other.thinning),
            activation_keep=min(self.activation_keep, other.activation_keep),
            epoch_days=min(self.epoch_days, other.epoch_days),
        )


def _shorter(one: float | None, other: float | None) -> float | None:
    stated = [lease for lease in (one, other) if lease is not None]
    return min((lease for lease in stated if lease), default=0.0 if stated else None)


@dataclass(frozen=True, slots=True)
class Invitation(Document):
    """The inviter's half: who is asked (with pinned key), on what terms, with what offered."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    id: str
    created_at: str
    expires_at: str
    inviter: Party
    invitee: Party
    terms: Terms
    offers: tuple[DatasetOffer, ...]
    v: Literal[1] = 1

    def __post_init__(self) -> None:
        _identity(self.id)
        check_moment(self.created_at, "created_at")
        check_moment(self.expires_at, "expires_at")


@dataclass(frozen=True, slots=True)
class Acceptance(Document):
    """The acceptor's half: the invitation meant (by hash), its own terms and offers, its X25519 public."""

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    invitation: str
    acceptor: Party
    terms: Terms
    offers: tuple[DatasetOffer, ...]
    accepted_at: str
    v: Literal[1] = 1

    def __post_init__(self) -> None:
        check_moment(self.accepted_at, "accepted_at")


@dataclass(frozen=True, slots=True)
class Agreement(Document):
    """What both signed. `offers` maps each party's name to the datasets it offers the other.

    Version 1 follows from invitation and acceptance; each later one names the hash of the one before it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _FORBID
    id: str
    parties: tuple[Party, Party]
    terms: Terms
    offers: Mapping[str, tuple[DatasetOffer, ...]]
    agreed_at: str
    version: int = 1
    supersedes: str = ""
    v: Literal[1] = 1

    @classmethod
    def between(cls, invitation: Invitation, acceptance: Acceptance) -> Self:
        """The agreement that follows from the two halves; both nodes compute it for themselves."""
        if acceptance.invitation != invitation.hash:
            raise Refused("the acceptance answers another invitation.", code="rule_mismatch")
        if acceptance.acceptor.key != invitation.invitee.key:
            raise Refused(
                "the acceptance comes from a key the invitation does not name.",
                code="not_authorised",
                advice="Ask the partner for its current key and send a new invitation.",
            )
        if acceptance.acceptor.name != invitation.invitee.name:
            raise Refused(
                "the acceptance goes by another name than was invited.",
                code="rule_mismatch",
                advice="Accept under the name in the invitation, or ask for a new one.",
            )
        if acceptance.acceptor.name == invitation.inviter.name:
            raise Refused(
                "both partners go by the same name.", code="rule_mismatch", advice="Rename one node."
            )
        return cls(
            id=invitation.id,
            parties=(invitation.inviter, acceptance.acceptor),
            terms=invitation.terms.strictest(acceptance.terms),
            offers={invitation.inviter.name: invitation.offers, acceptance.acceptor.name: acceptance.offers},
            agreed_at=acceptance.accepted_at,
        )

    def of_key(self, key: str) -> Party:
        """The party that signs with `key` (text form)."""
        found = next((p for p in self.parties if p.key == key), None)
        if found is None:
            raise Refused("the agreement does not name that key.", code="not_authorised")
        return found

    def other_than(self, key: str) -> Party:
        """The party that does not sign with `key`."""
        return self.parties[1] if self.of_key(key) is self.parties[0] else self.parties[0]

    def offer(self, party: str, dataset: str) -> DatasetOffer | None:
        """The offer `party` makes of `dataset`, or None."""
        return next((o for o in self.offers.get(party, ()) if o.name == dataset), None)
