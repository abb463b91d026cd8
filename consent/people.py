"""What a ledger does for the people in it: receipts, proofs, traces, and a page of their own choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from consent.absence import AbsenceService
from consent.ledger import Ledger
from consent.preference_links import PreferenceLinks
from consent.preferences import Preferences
from consent.subject_receipts import SubjectReceipts
from consent.trace import Consequences, Trace
from privacy.signing import SigningKey

__all__ = ["People"]


@dataclass(frozen=True)
class People:
    """The services for people of one ledger. `owner` is the organisation's name as people know it."""

    ledger: Ledger
    owner: str
    receipts: SubjectReceipts = field(repr=False)
    absences: AbsenceService = field(repr=False)
    trace: Trace = field(repr=False)
    links: PreferenceLinks = field(repr=False)
    preferences: Preferences = field(repr=False)

    @classmethod
    def of(
        cls,
        ledger: Ledger,
        signing_key: SigningKey,
        *,
        owner: str,
        base_url: str,
        rooms: Sequence[Consequences] = (),
    ) -> People:
        """`signing_key` is the log's, `base_url` the node's public address, `rooms` know what uses led to."""
        receipts = SubjectReceipts(ledger, signing_key)
        return cls(
            ledger,
            owner,
            receipts,
            AbsenceService(ledger, receipts),
            Trace(ledger, rooms),
            PreferenceLinks(ledger, base_url=base_url),
            Preferences(ledger),
        )
