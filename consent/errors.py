"""What the consent room raises on purpose.

    Misuse          GrantConflict, UnknownPurpose, UnknownPartner, UnknownReceipt
    BadInput        TooLarge, BadTrustPolicy
    Refused         MemberPresent, InvalidConsent, ConsentStale
    PeerViolation   FeedGap, FeedConflict
    Tampered        InvalidProof, InvalidNote, RolledBack
    StorageError    HeadMoved, KeysRotated

Messages name the rule, the place and the position; they never hold an identifier or a payload.
"""

from __future__ import annotations

from privacy.errors import BadInput, Misuse, PeerViolation, Refused, StorageError, Tampered

__all__ = [
    "BadTrustPolicy",
    "ConsentStale",
    "FeedConflict",
    "FeedGap",
    "GrantConflict",
    "HeadMoved",
    "InvalidConsent",
    "InvalidNote",
    "InvalidProof",
    "KeysRotated",
    "MemberPresent",
    "RolledBack",
    "TooLarge",
    "UnknownPartner",
    "UnknownPurpose",
    "UnknownReceipt",
]


class UnknownPurpose(Misuse):
    """A purpose, or a version of the purpose tree, that the published policy does not hold."""

    code = "unknown_purpose"


class GrantConflict(Misuse):
    """A grant names several people, each only in part, who have restricted it. `position` as in the batch."""

    code = "grant_conflicts"

    def __init__(self, position: int) -> None:
        super().__init__(
            "The grant names several people, each only in part, who have restricted it.",
            advice="Record one grant a person.",
        )
        self.position = position


class UnknownPartner(Misuse):
    """No partner of that name has joined this ledger."""

    code = "unknown_partner"


class UnknownReceipt(Misuse):
    """No use receipt of that id is recorded here."""

    code = "unknown_receipt"


class TooLarge(BadInput):
    """The request is larger than this node reads."""

    code = "too_large"


class BadTrustPolicy(BadInput):
    """A trust policy (c2sp.org/tlog-policy) that cannot be followed as written."""

    code = "bad_trust_policy"


class MemberPresent(Refused):
    """An absence proof was asked for somebody who is in the set."""

    code = "member_present"


class InvalidConsent(Refused):
    """A decision that would be recorded, but not be valid. `rule` names what it goes against.

    Codes: notice_required, notice_outdated, notice_mismatch, basis_not_allowed, explicit_consent_required,
    separate_consent_required, written_consent_required, guardian_required, transfer_route_required,
    back_dated_grant, unknown_previous, bad_actor_signature.

    `position` is that of the event among those to be recorded together, where it is known; `positions` are
    all of the same kind with their codes, where several were found at once.
    """

    code = "invalid_consent"

    def __init__(
        self,
        detail: str,
        *,
        rule: str = "",
        advice: str = "",
        code: str | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(detail, rule=rule, advice=advice, code=code)
        self.position = position
        self.positions: dict[int, str] = {} if position is None else {position: self.code}


class ConsentStale(Refused):
    """What is known of people's consent is too old to be acted on, or changed while it was being used."""

    code = "consent_stale"
    retryable = True


class FeedGap(PeerViolation):
    """A partner's feed message does not continue what was received before.

    `expected` is the sequence number, `size` the partner's tree size, to continue from.
    """

    code = "feed_gap"

    def __init__(self, detail: str, *, expected: int, size: int) -> None:
        super().__init__(detail, advice="Resend from the position given in this answer.")
        self.expected = expected
        self.size = size


class FeedConflict(PeerViolation):
    """A partner sent two different messages under one sequence number."""

    code = "feed_conflict"


class InvalidProof(Tampered):
    """A Merkle proof does not lead to the root it was given for."""

    code = "invalid_proof"


class InvalidNote(Tampered):
    """A signed note is malformed, or no trusted key has signed it."""

    code = "invalid_note"


class RolledBack(Tampered):
    """The database holds less (or other) history than has already been signed and published."""

    code = "rolled_back"


class HeadMoved(StorageError):
    """Another writer appended first; nothing of this batch was written."""

    code = "head_moved"


class KeysRotated(StorageError):
    """The lookups were hashed anew under another version of the key ring while this process ran."""

    code = "keys_rotated"

    def __init__(self) -> None:
        super().__init__(
            "The keys were rotated while this process was running.",
            advice="Restart the node; nothing was read or written under the old keys.",
        )
