"""Whether a policy may follow the one published before it: what people agreed to is not rewritten."""

from __future__ import annotations

from consent.encoding import parse_json
from consent.history import open_entry
from consent.purposes import PurposePolicy
from consent.store import LedgerView
from consent.subjects import SubjectVault
from privacy.errors import BadInput, Misuse

__all__ = ["may_follow", "published_policy"]


def published_policy(view: LedgerView, vault: SubjectVault, index: int) -> PurposePolicy | None:
    """The policy published by entry `index`; None where it is lost or of a form not read any more."""
    try:
        _, opening = open_entry(view, vault, index)
        body = parse_json(opening.payload, limit=1 << 21)
        return PurposePolicy.from_document(body.get("document"))
    except (Misuse, BadInput, AttributeError):
        return None


def may_follow(old: PurposePolicy, new: PurposePolicy) -> None:
    """Raises Misuse (`policy_rewritten`) for a change that needs a new version, naming the place.

    - A notice with other texts or another screen has a higher version, and a version is never taken back.
    - A purpose keeps the tree version that introduced it: with a lower one, grants given before it existed
      would cover it.
    - `renotice`, given or following from a material notice, never falls: stale consents would count again.
    """
    for notice in new.notices.values():
        before = old.notices.get(notice.name)
        if before is None:
            continue
        if notice.version < before.version:
            raise _rewritten(f"notice {notice.name}", "goes back to an older version")
        if notice.version == before.version and (notice.text, notice.ui) != (before.text, before.ui):
            raise _rewritten(f"notice {notice.name}", "changed without a new version")
    for purpose in new.purposes.values():
        was = old.purposes.get(purpose.name)
        if was is None and purpose.since <= old.version:
            raise _rewritten(purpose.name, "is new, and claims to be older than the policy before")
        if was is not None and was.since != purpose.since:
            raise _rewritten(purpose.name, "changed the version that introduced it")
        if was is not None and purpose.renotice < was.renotice:
            raise _rewritten(purpose.name, "lets consents count again that had become stale")


def _rewritten(place: str, what: str) -> Misuse:
    return Misuse(
        f"The purpose policy cannot follow the published one: {place} {what}.",
        code="policy_rewritten",
        advice="Raise the version of what changed.",
    )
