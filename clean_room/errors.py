"""What can go wrong in the clean room, as branches of the family tree in `privacy.errors`.

ComityError
├── Misuse
│   ├── EngineUnavailable   an engine was named that this processor or installation cannot run
│   └── IllegalStep         a protocol step, or a job transition, that its table does not have
├── Refused
│   ├── BudgetExhausted
│   ├── InputBelowMinimum   too few people went in, on either side
│   ├── ProfileMismatch     the partners normalise identifiers differently
│   ├── BoundsExceeded      a sum could leave the range in which it is exact
│   └── TooManyJobs         as many queries as are taken on at a time are under way
├── PeerViolation
├── PeerUnreachable
├── Tampered
└── StorageError
"""

from __future__ import annotations

from consent.errors import ConsentStale
from privacy.errors import (
    BadInput,
    BudgetExhausted,
    ComityError,
    Misuse,
    PeerUnreachable,
    PeerViolation,
    Refused,
    StorageError,
    Tampered,
)

__all__ = [
    "BadInput",
    "BoundsExceeded",
    "BudgetExhausted",
    "ComityError",
    "ConsentStale",
    "EngineUnavailable",
    "IllegalStep",
    "InputBelowMinimum",
    "Misuse",
    "PeerUnreachable",
    "PeerViolation",
    "ProfileMismatch",
    "Refused",
    "StorageError",
    "Tampered",
    "TooManyJobs",
]


class EngineUnavailable(Misuse):
    """A blinding engine was named that this processor or installation cannot run."""

    code = "engine_unavailable"


class IllegalStep(Misuse):
    """This node tried a step that the protocol, or the life of a job, does not have. Nothing changed."""

    code = "illegal_step"


class InputBelowMinimum(Refused):
    """Fewer people went in than the collaboration allows."""

    code = "input_below_minimum"


class ProfileMismatch(Refused):
    """The two partners would normalise identifiers differently, and so never match."""

    code = "profile_mismatch"


class BoundsExceeded(Refused):
    """Rows times clip bound could leave the range in which the encrypted sum is exact."""

    code = "bounds_exceeded"


class TooManyJobs(Refused):
    """As many queries as are taken on at a time are under way; the same question may be asked later."""

    code = "too_many_jobs"
    retryable = True
