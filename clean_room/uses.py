"""Writing a finished join into this node's consent ledger, with the set of people it was about."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from clean_room.inputs import QueryInput
from clean_room.jobs import Query
from consent.receipts import PseudonymSet, UseReceipt

__all__ = ["UseRecorder", "record_use"]


class UseRecorder(Protocol):
    """The part of the consent ledger a join needs. Returns the log index once the entry is durable."""

    def record_use(self, receipt: UseReceipt, members: PseudonymSet) -> int: ...


def record_use(
    recorder: UseRecorder,
    *,
    query: Query,
    job: str,
    receipt: str,
    given: QueryInput,
    output_hash: str,
    transcript: bytes,
    at: datetime,
) -> int:
    """Record one side's use under `receipt`, the two-sided receipt's id."""
    use = UseReceipt(
        id=receipt,
        kind=query.kind,
        purpose=query.purpose,
        collaboration=query.collaboration,
        job=job,
        round=None,
        partner=given.evidence.partner,
        evidence=given.evidence,
        output_hash=output_hash,
        transcript_hash=transcript.hex(),
        at=at,
    )
    return recorder.record_use(use, given.members)
