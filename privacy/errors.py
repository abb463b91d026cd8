"""The family tree of everything Comity raises on purpose.

    ComityError
    ├── Misuse          the caller of this node asked for something malformed
    │   └── BadInput    a file, column or value that cannot be read as what it claims to be
    ├── Refused         a rule said no; carries the rule and what would satisfy it
    │   └── BudgetExhausted
    ├── PeerViolation   a partner broke the protocol or an agreement
    ├── PeerUnreachable a partner (or a dependency) did not answer; try again
    ├── Tampered        a signature, proof or digest does not hold
    └── StorageError    the database or the disk refused

The four top branches are kept apart because they call for different people: the caller, the person who
owns the rule, the partner, the auditor. Messages say what was wrong, where, and what to do. They never
hold the offending value: values are personal data more often than not.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BadInput",
    "BudgetExhausted",
    "ComityError",
    "MaskRefused",
    "Misuse",
    "PeerUnreachable",
    "PeerViolation",
    "PolicyError",
    "Refused",
    "StorageError",
    "Tampered",
    "UnknownEntity",
]


class ComityError(Exception):
    """Root of the family.

    `code` is stable and machine-readable (it is the `code` of the RFC 9457 problem document);
    `detail` is one sentence for people; `advice` says what to do next, and may be empty.
    """

    code: str = "internal_error"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str, *, advice: str = "", code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.advice = advice
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.detail} {self.advice}".strip()


class Misuse(ComityError):
    """The request itself is wrong: a missing field, an unknown name, an illegal step."""

    code = "misuse"


class BadInput(Misuse):
    """A file, column or value that cannot be read as what it claims to be."""

    code = "bad_input"


class Refused(ComityError):
    """A rule said no. `rule` names it; `advice` says what would satisfy it."""

    code = "refused"

    def __init__(self, detail: str, *, rule: str = "", advice: str = "", code: str | None = None) -> None:
        super().__init__(detail, advice=advice, code=code)
        self.rule = rule or self.code


class BudgetExhausted(Refused):
    """The ε (or δ) left for this dataset, partner and period does not cover the request."""

    code = "budget_exhausted"


class PeerViolation(ComityError):
    """A partner sent something the protocol or the agreement does not allow."""

    code = "peer_violation"


class PeerUnreachable(ComityError):
    """A partner did not answer in time."""

    code = "peer_unreachable"
    retryable = True


class Tampered(ComityError):
    """A signature, digest or proof does not hold: somebody changed something."""

    code = "tampered"


class StorageError(ComityError):
    """The database or the disk refused; nothing was acknowledged."""

    code = "storage_error"
    retryable = True


class PolicyError(Misuse):
    """A masking policy that cannot be followed as written."""

    code = "policy_error"


class UnknownEntity(PolicyError):
    """A policy or caller named a kind of personal data that this version does not know."""

    code = "unknown_entity"


class MaskRefused(Refused):
    """Masking stopped before anything was written, because following the policy would leak."""

    code = "mask_refused"
