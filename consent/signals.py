"""Preference signals of people's devices: GPC, IAB TCF and IAB GPP. A signal can only restrict.

The raw string is kept as it came, sealed with the person's record; it is decoded at the edge, once, and
what it restricts is recorded beside it as withdrawals:

- GPC (`Sec-GPC: 1`, exactly): purposes under which data are sold or shared (traits `sold`, `shared`);
- GPP: the same, as far as a section says that the person opted out of sale, sharing or targeted
  advertising, or carries GPC; its TCF section as TCF;
- TCF: purposes of the policy that need a TCF purpose (`tcf`) for which there is neither consent nor, where
  the policy rests on it and TCF 2.2 allows it, a legitimate interest that was not objected to.

What a signal does not restrict it does not allow either: no grant is ever made of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from consent.acts import signal_seen
from consent.encoding import to_micros
from consent.events import EVERY_PARTNER, Event, signal, withdraw
from consent.gpp import GppString, parse_gpp_string
from consent.laws import Trait
from consent.ledger import Ledger, Recorded
from consent.purposes import Purpose, PurposePolicy, ancestry
from consent.state import Reason, decide
from consent.tcf import TcString, parse_tc_string
from privacy.errors import BadInput

__all__ = [
    "GPC_HEADER",
    "Signal",
    "Standard",
    "read_gpc",
    "read_signal",
    "record_signal",
    "restricted_by",
    "signal_events",
]

GPC_HEADER = "Sec-GPC"
MAX_RAW = 8192  # characters
_CONSENT_ONLY = frozenset({1, 3, 4, 5, 6})
"""TCF purposes for which version 2.2 knows no legitimate interest."""


class Standard(StrEnum):
    GPC = "gpc"
    TCF = "tcf"
    GPP = "gpp"


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal as it came (`raw`) and what it says (`decoded`, None for GPC, which says one thing)."""

    standard: Standard
    raw: str = field(repr=False)
    decoded: TcString | GppString | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, object]:
        """What the payload keeps."""
        found: dict[str, object] = {"standard": self.standard.value, "raw": self.raw}
        if self.decoded is not None:
            found["decoded"] = self.decoded.to_dict()
        return found


def read_gpc(value: str | None) -> Signal | None:
    """The signal of a `Sec-GPC` header: only the value `1`, to the letter, is one (W3C GPC, section 3.2)."""
    return Signal(Standard.GPC, "1") if value == "1" else None


def read_signal(standard: Standard | str, raw: str) -> Signal:
    """Raises BadInput: unknown_signal for another standard, bad_signal for what cannot be read as it."""
    if standard not in set(Standard):
        raise BadInput(
            "This preference signal is of no known standard.",
            code="unknown_signal",
            advice=f"Known: {', '.join(Standard)}.",
        )
    if len(raw) > MAX_RAW:
        raise BadInput("The preference signal is too long.", code="bad_signal")
    if standard == Standard.GPC:
        found = read_gpc(raw)
        if found is None:
            raise BadInput("A GPC signal has the value 1 and no other.", code="bad_signal")
        return found
    if standard == Standard.TCF:
        return Signal(Standard.TCF, raw, parse_tc_string(raw))
    return Signal(Standard.GPP, raw, parse_gpp_string(raw))


def restricted_by(what: Signal, policy: PurposePolicy, *, vendor: int | None = None) -> tuple[str, ...]:
    """The purposes of the policy that a signal restricts, the highest of each branch only.

    `vendor` is this organisation's id in the Global Vendor List: without consent or interest for it, a TC
    string allows none of the purposes that need one.
    """
    names: set[str] = set()
    said = what.decoded
    if what.standard is Standard.GPC or (isinstance(said, GppString) and (said.gpc or said.opted_out)):
        names |= _sold_or_shared(policy)
    tcf = said.tcf if isinstance(said, GppString) else said
    if isinstance(tcf, TcString):
        names |= {p.name for p in policy.purposes.values() if p.tcf and not _allowed(tcf, p, vendor)}
    return tuple(name for name in policy.purposes if name in names and not _above(name) & names)


def _sold_or_shared(policy: PurposePolicy) -> set[str]:
    wanted = {Trait.SOLD, Trait.SHARED}
    return {p.name for p in policy.purposes.values() if not wanted.isdisjoint(p.traits)}


def _above(name: str) -> set[str]:
    return set(ancestry(name)[1:])


def _allowed(tcf: TcString, purpose: Purpose, vendor: int | None) -> bool:
    interest = "legitimate_interest" in purpose.bases.get("gdpr", ())
    by_consent = tcf.purposes if vendor is None or vendor in tcf.vendors else frozenset()
    by_interest: Collection[int] = ()
    if interest and (vendor is None or vendor in tcf.vendors_interest):
        by_interest = tcf.purposes_interest - _CONSENT_ONLY
    return all(number in by_consent or number in by_interest for number in purpose.tcf)


def signal_events(
    identifiers: Sequence[tuple[str, bytes]],
    what: Signal,
    restricted: Sequence[str],
    *,
    partner: str = EVERY_PARTNER,
) -> list[Event]:
    """What is recorded of a signal about a person: itself, then a withdrawal for each purpose."""
    details: Mapping[str, object] = {"signal": {**what.to_dict(), "restricted": list(restricted)}}
    method = what.standard.value
    return [
        signal(identifiers, details, method=method, partner=partner),
        *(withdraw(identifiers, purpose, partner=partner, method=method) for purpose in restricted),
    ]


def record_signal(
    ledger: Ledger,
    identifiers: Sequence[tuple[str, bytes]],
    what: Signal,
    *,
    partner: str = EVERY_PARTNER,
    vendor: int | None = None,
) -> Recorded | None:
    """Record a signal about a person and what it restricts, in one transaction.

    A device sends its signal with every request: one that restricts nothing that is not restricted already
    is not recorded again (None). Without identifiers only the fact is recorded that a signal came, without
    the raw string, which could tell somebody apart.
    """
    restricted = restricted_by(what, ledger.policy, vendor=vendor)
    if not identifiers:
        return ledger.record_system(*signal_seen(what.standard.value, restricted=restricted))
    if restricted and all(_restricted(ledger, i, restricted, partner) for i in identifiers):
        return None
    return ledger.record(signal_events(identifiers, what, restricted, partner=partner))


def _restricted(ledger: Ledger, identifier: tuple[str, bytes], purposes: Sequence[str], partner: str) -> bool:
    """Whether everything below `purposes` is restricted already, with every partner it is about."""
    kind, canonical = identifier
    state = ledger.standings(canonical, kind)
    partners = {partner} if partner != EVERY_PARTNER else {EVERY_PARTNER, *(who for _, who in state)}
    policy, now = ledger.policy, to_micros(ledger.clock())
    return all(
        decide(state, name, who, now, policy).reason is Reason.RESTRICTED
        for purpose in purposes
        for name in policy.below(purpose, policy.version)
        for who in partners
    )
