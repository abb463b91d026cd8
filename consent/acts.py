"""Acts that are about no single person: the type of entry and the fields of its payload.

    ledger.record_system(*share_authorised("bank", "overlap.reach", basis="consent"))

Names of organisations, purposes and people in charge may stand here; identifiers of the people whose data
are used may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from consent.errors import InvalidConsent
from consent.events import EventType
from consent.laws import law_of
from consent.purposes import PurposePolicy
from consent.terms import ConsentTerms, plain
from consent.validation import completed_notice
from privacy.errors import BadInput

__all__ = [
    "Act",
    "correction",
    "notice_presented",
    "partner_key_rotated",
    "partner_removed",
    "share_authorised",
    "signal_seen",
]

_MAX_TEXT = 2000


class Act(NamedTuple):
    """What `Ledger.record_system` takes."""

    type: EventType
    fields: Mapping[str, object]


def notice_presented(
    policy: PurposePolicy, notice: str, language: str, *, channel: str, people: int | None = None
) -> Act:
    """A notice of the policy is shown (on a page, at a counter) from now on; `people` where it was counted.

    Raises BadInput(unknown_notice, unknown_language).
    """
    terms = completed_notice(policy, ConsentTerms(notice=notice, language=language))
    purposes = list(policy.notice(notice).purposes)
    fields = {**plain(terms), "purposes": purposes, "method": _text(channel, "channel")}
    if people is not None:
        fields["people"] = _count(people)
    return Act(EventType.NOTICE_PRESENTED, fields)


def share_authorised(
    policy: PurposePolicy,
    partner: str,
    purpose: str,
    *,
    basis: str,
    authorised_by: str,
    terms: ConsentTerms | None = None,
    purpose_version: int | None = None,
) -> Act:
    """Somebody in charge lets data go to a partner for a purpose, on a legal basis.

    `terms` say under which jurisdiction, which categories, to which recipients and countries. Raises
    UnknownPurpose, and BadInput(unknown_basis, unknown_route) or InvalidConsent(basis_not_allowed,
    transfer_route_required) where the law of the jurisdiction knows better.
    """
    wanted = policy.require(purpose, purpose_version)
    said = terms or ConsentTerms()
    of = None if said.jurisdiction is None else law_of(said.jurisdiction)
    if of is not None:
        of.basis(basis)
        if basis not in wanted.bases.get(of.name, (basis,)):
            raise InvalidConsent(
                "The policy does not let this purpose rest on this legal basis.",
                code="basis_not_allowed",
                rule=f"{of.name} {of.basis(basis).article}",
            )
        abroad = said.transfer_country is not None and said.transfer_country not in of.jurisdictions
        if said.transfer_route is not None and of.routes:
            of.route(said.transfer_route)
        elif abroad and of.routes:
            raise InvalidConsent(
                "The condition under which data leave the country is not named.",
                code="transfer_route_required",
                rule=f"{of.name}.transfer",
                advice=f"Name the transfer_route: {', '.join(of.routes)}.",
            )
    fields = {
        **plain(replace(said, recipients=said.recipients or (partner,))),
        "partner": _text(partner, "partner"),
        "purpose": purpose,
        "purpose_version": purpose_version or policy.version,
        "basis": _text(basis, "basis"),
        "authorised_by": _text(authorised_by, "authorised_by"),
    }
    return Act(EventType.SHARE_AUTHORISED, fields)


def partner_removed(partner: str, reason: str) -> Act:
    """The agreement with a partner has ended."""
    return Act(
        EventType.PARTNER_REMOVED, {"partner": _text(partner, "partner"), "reason": _text(reason, "reason")}
    )


def partner_key_rotated(partner: str, *, kind: str, old: str, new: str) -> Act:
    """Another key counts for a partner: `kind` is what it is for (log, identity, pair), `old` and `new` are
    fingerprints, never the keys of a pair themselves.
    """
    return Act(
        EventType.PARTNER_KEY_ROTATED,
        {
            "partner": _text(partner, "partner"),
            "kind": _text(kind, "kind"),
            "old": _text(old, "old"),
            "new": _text(new, "new"),
        },
    )


def correction(indexes: Sequence[int], reason: str) -> Act:
    """Entries about no single person were wrong, and why; the text must name nobody."""
    if not indexes:
        raise BadInput("A correction names the entries it corrects.")
    found = [_count(index) for index in indexes]
    return Act(EventType.CORRECTION, {"corrects": found, "reason": _text(reason, "reason")})


def signal_seen(standard: str, *, restricted: Sequence[str], method: str = "signal") -> Act:
    """A preference signal came from nobody known; what it would have restricted. Holds no raw string."""
    return Act(
        EventType.SIGNAL_RECEIVED,
        {"standard": _text(standard, "standard"), "restricted": list(restricted), "method": method},
    )


def _text(value: str, name: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_TEXT or not value.isprintable():
        raise BadInput(f"The field {name} is a printable text of up to {_MAX_TEXT} characters.")
    return value


def _count(value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53:
        raise BadInput("A number of people or of an entry is not negative.")
    return value
