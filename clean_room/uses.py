"""Writing joins into this node's consent ledger, with the set of people they were about.

A use is begun before the first byte that depends on the data leaves, as a sealed file; the finished job's
receipt takes its place. Whatever is begun and never finished is recorded as it stood: when the job ends, or
after a crash at the next start unless the job goes on. So data that left is in the ledger, and a job is in
it once: the file holds the very receipt that is being written, and one that is there is not written again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from clean_room.inputs import QueryInput
from clean_room.jobs import Query
from clean_room.sealed_files import SealedFiles
from consent.checkpoint import Checkpoint
from consent.encoding import canonical_json, parse_json
from consent.errors import UnknownReceipt
from consent.receipts import PseudonymSet, UseReceipt
from privacy.errors import BadInput
from privacy.keys import KeyRing

__all__ = ["UseRecorder", "Uses", "further_uses", "use_of"]

_MAX_RECEIPT = 1 << 16


Use = tuple[UseReceipt, PseudonymSet]
"""A receipt of use and the set of people it is about."""


class UseRecorder(Protocol):
    """The part of the consent ledger a join needs."""

    def record_use(self, receipt: UseReceipt, members: PseudonymSet) -> int:
        """Returns the log index once the entry is durable."""

    def receipt(self, receipt_id: str) -> tuple[int, UseReceipt]:
        """Raises UnknownReceipt."""

    def head(self) -> Checkpoint:
        """The newest signed tree head."""


class Uses:
    """Uses of this node's data: begun, recorded, settled."""

    def __init__(self, recorder: UseRecorder, folder: Path, keyring: KeyRing) -> None:
        self._recorder = recorder
        self._files = SealedFiles(folder, keyring, "use")

    def begin(self, use: UseReceipt, members: PseudonymSet, *further: Use) -> None:
        """Note a use of an unfinished job; returns once that is on disk. `further`: see `further_uses`."""
        content = b"".join(_packed(*one) for one in ((use, members), *further))
        self._files.save(use.job, content)

    def record(self, use: UseReceipt, members: PseudonymSet, *further: Use) -> None:
        """Write the use of a finished job into the ledger, in place of what was begun. Idempotent by id."""
        self.begin(use, members, *further)
        self._write(use.job, [(use, members), *further])

    def settle(self, job: str) -> None:
        """Write what was begun for a job and not recorded into the ledger. Idempotent."""
        content = self._files.load(job)
        if content is None:
            return
        self._write(job, _unpacked(content))

    def settle_all(self, *, but: Collection[str] = ()) -> None:
        """Settle what a crash left, except for jobs that go on."""
        for job in self._files.jobs():
            if job not in but:
                self.settle(job)

    def drop(self, job: str) -> None:
        """Forget a use that was begun and did not come about: nothing had left."""
        self._files.discard(job)

    def size(self) -> int:
        """Entries in the ledger."""
        return self._recorder.head().size

    def moved_since(self, size: int) -> bool:
        """Whether the ledger's head is no longer the one of this size."""
        return self.size() != size

    def _write(self, job: str, uses: Sequence[Use]) -> None:
        for use, members in uses:
            try:
                self._recorder.receipt(use.id)
            except UnknownReceipt:
                self._recorder.record_use(use, members)
        self._files.discard(job)


def _packed(use: UseReceipt, members: PseudonymSet) -> bytes:
    document, people = canonical_json(use.to_dict()), members.to_bytes()
    return b"".join([len(document).to_bytes(4, "big"), document, len(people).to_bytes(8, "big"), people])


def _unpacked(content: bytes) -> list[Use]:
    uses, at = [], 0
    while at < len(content):
        end = at + 4 + int.from_bytes(content[at : at + 4], "big")
        document = parse_json(content[at + 4 : end], limit=_MAX_RECEIPT)
        if not isinstance(document, dict):
            raise BadInput("a use that was begun cannot be read.")
        at = end + 8 + int.from_bytes(content[end : end + 8], "big")
        uses.append((UseReceipt.from_dict(document), PseudonymSet.from_bytes(content[end + 8 : at])))
    return uses


def _further_id(use: str, kind: str) -> str:
    return hashlib.sha256(f"{use}/{kind}".encode()).hexdigest()[:32]


def further_uses(use: UseReceipt, given: QueryInput) -> list[Use]:
    """For a join on several keys: the same use again for each further kind, under an id of its own.

    A receipt's set of people is of one kind of identifier, and somebody may have gone in by another.
    """
    return [
        (
            replace(use, id=hashlib.sha256(f"{use.id}/{kind}".encode()).hexdigest()[:32], evidence=found),
            people,
        )
        for kind, found, people, _ in given.others
    ]


def use_of(
    query: Query, job: str, given: QueryInput, *, transcript: bytes, at: datetime, **more: str
) -> UseReceipt:
    """One side's use; `more`: its id (the two-sided receipt's; by default the job) and output_hash."""
    return UseReceipt(
        id=more.get("id", job),
        kind=query.kind,
        purpose=query.purpose,
        collaboration=query.collaboration,
        job=job,
        round=None,
        partner=given.evidence.partner,
        evidence=given.evidence,
        output_hash=more.get("output_hash", ""),
        transcript_hash=transcript.hex(),
        at=at,
    )
