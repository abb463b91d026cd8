"""What can go wrong in the training room.

ComityError
├── Misuse
│   └── TrainingMisuse     a run request, a label column or a step out of order on this side
├── Refused
│   ├── OverflowRisk       fixed-point sums could wrap around the plaintext modulus
│   └── TrainingRefused    a rule of this node (approval, column, purpose, minimum rows) said no
└── PeerViolation
    ├── ReceiptInvalid     a round's reply came without a fresh, valid consent receipt
    └── ChannelViolation   a frame was replayed, reordered, truncated or belongs to another run
"""

from __future__ import annotations

from privacy.errors import (
    BadInput,
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
    "ChannelViolation",
    "ComityError",
    "Misuse",
    "OverflowRisk",
    "PartnerFailed",
    "PeerUnreachable",
    "PeerViolation",
    "ReceiptInvalid",
    "Refused",
    "StorageError",
    "Tampered",
    "TrainingMisuse",
    "TrainingRefused",
]


class TrainingMisuse(Misuse):
    """The run request, the data handed in, or the order of steps on this side is wrong."""

    code = "training_misuse"


class OverflowRisk(Refused):
    """A fixed-point sum could exceed half the plaintext modulus, so it would not be exact."""

    code = "overflow_risk"


class TrainingRefused(Refused):
    """A rule of this node does not allow the run."""

    code = "training_refused"


class PartnerFailed(ComityError):
    """The partner's node ended its part of a run; the detail names its error code."""

    code = "partner_failed"


class ReceiptInvalid(PeerViolation):
    """A reply carried no receipt of this round, or one that does not hold."""

    code = "receipt_invalid"


class ChannelViolation(PeerViolation):
    """A channel frame was replayed, reordered, truncated or is not of this run."""

    code = "channel_violation"
