"""Blast radius: which past uses somebody was in, and what is done about each.

Membership is read off the sets of people that receipts of use committed to. A person's leaf in a set is a
hash, so it lies near its own share of the way through the sorted leaves: one short read decides a set,
however many people are in it, and no set is ever loaded or hashed whole.

What a use led to (a result given out, an alignment kept, a model version) is known by the room that made
it; each room answers through `Consequences`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from consent.absence import reaches
from consent.encoding import Leaf, parse_json
from consent.events import RESTRICTING
from consent.history import fact_from
from consent.proofs import from_base64
from consent.pseudonym_sets import use_leaf
from consent.receipts import UseReceipt
from consent.rows import ReceiptRow
from consent.store import LedgerView
from consent.subject_receipts import entries_of_person, known, pseudonyms_of
from privacy.errors import Misuse

if TYPE_CHECKING:
    from consent.ledger import Ledger

__all__ = ["Consequence", "Consequences", "Trace", "TraceReport", "TracedUse"]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Consequence:
    """One thing a use led to, and how it stands now.

    `thing` is result, alignment, cached_set, export or model_version; `status` one of
    `released` (given out: cannot be taken back), `withheld` (never given out), `stands` (kept, as it was),
    `dropped` (deleted), `running` (the next batch or round leaves the person out), `unlearning_due` (to be
    made anew without the person), `unknown`. `reference` names it in its room; `advice` says what to do.
    """

    thing: str
    status: str
    reference: str
    advice: str = ""
    at: datetime | None = None

    def to_dict(self) -> dict[str, object]:
        return {
            "thing": self.thing,
            "status": self.status,
            "reference": self.reference,
            "advice": self.advice,
            "at": None if self.at is None else self.at.isoformat(),
        }


class Consequences(Protocol):
    """What a room knows of the uses it made. Must be quick, and must not raise for a use it does not know."""

    def of_use(self, use: UseReceipt) -> Sequence[Consequence]: ...


@dataclass(frozen=True, slots=True)
class TracedUse:
    """A use somebody was in. `after_opt_out`: its gate was asked when the opt-out was in the log."""

    index: int
    receipt: UseReceipt
    after_opt_out: bool
    consequences: tuple[Consequence, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "receipt": self.receipt.to_dict(),
            "after_opt_out": self.after_opt_out,
            "consequences": [found.to_dict() for found in self.consequences],
        }


@dataclass(frozen=True, slots=True)
class TraceReport:
    """The uses a subject (hex handle) was in, oldest first.

    `looked_at` counts the receipts examined, `other_key` those keyed by a kind of identifier that is not
    known of the person. `next` continues where a page ended, None at the end. `opt_out` is the entry it is
    about, None for the person as such.
    """

    subject: str
    opt_out: int | None
    purpose: str
    partner: str
    uses: tuple[TracedUse, ...]
    looked_at: int
    other_key: int
    next: int | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "subject": self.subject,
            "opt_out": self.opt_out,
            "purpose": self.purpose,
            "partner": self.partner,
            "uses": [use.to_dict() for use in self.uses],
            "looked_at": self.looked_at,
            "other_key": self.other_key,
            "next": self.next,
        }


class Trace:
    """Traces people through past uses."""

    def __init__(self, ledger: Ledger, rooms: Sequence[Consequences] = ()) -> None:
        self._ledger = ledger
        self.rooms = list(rooms)
        """Asked in turn about every use found; more may be added while nothing is being traced."""

    def of_subject(self, subject: bytes, *, after: int = -1, limit: int = 1000) -> TraceReport:
        """Every use a subject (16-byte handle) was in, of at most `limit` receipts from entry `after` on.

        Raises Misuse(unknown_subject).
        """
        return self._trace(subject, opt_out=None, purpose="*", partner="*", after=after, limit=limit)

    def of_opt_out(self, index: int, *, after: int = -1, limit: int = 1000) -> TraceReport:
        """As `of_subject`, for the person and the purposes and partners of the opt-out in entry `index`.

        Raises Misuse: `not_found`, `no_opt_out` for an entry that is none, `erased`.
        """
        with self._ledger.store.read() as view:
            subject = _subject_of(view, index)
            found = [e for e in entries_of_person(view, self._ledger.vault, subject) if e[0] == index]
        if not found:
            raise Misuse("The payload of this entry has been erased.", code="erased")
        _, leaf, _, body = found[0]
        if leaf.type not in RESTRICTING:
            raise Misuse("This entry is not an opt-out.", code="no_opt_out")
        fact = fact_from(leaf, index, body)
        return self._trace(
            subject, opt_out=index, purpose=fact.purpose, partner=fact.partner, after=after, limit=limit
        )

    def _trace(
        self, subject: bytes, *, opt_out: int | None, purpose: str, partner: str, after: int, limit: int
    ) -> TraceReport:
        found: list[tuple[int, UseReceipt]] = []
        looked_at = other_key = 0
        with self._ledger.store.read() as view:
            known(view, subject)
            of_kind = pseudonyms_of(view, self._ledger.vault, subject)
            more = True
            while more and looked_at < limit:
                rows = view.uses_after(after, min(_PAGE, limit - looked_at))
                more = bool(rows)
                for row in rows:
                    after = row.idx
                    looked_at += 1
                    use = _use(row)
                    if not reaches(purpose, partner, use):
                        continue
                    if use.evidence.key_kind not in of_kind:
                        other_key += 1
                    elif any(is_member(view, row.idx, use, one) for one in of_kind[use.evidence.key_kind]):
                        found.append((row.idx, use))
            more = more and bool(view.uses_after(after, 1))
        traced = tuple(
            TracedUse(index, use, _told(use, index, opt_out), self._consequences(use)) for index, use in found
        )
        return TraceReport(
            subject.hex(), opt_out, purpose, partner, traced, looked_at, other_key, after if more else None
        )

    def _consequences(self, use: UseReceipt) -> tuple[Consequence, ...]:
        return tuple(found for room in self.rooms for found in room.of_use(use))


def _told(use: UseReceipt, index: int, opt_out: int | None) -> bool:
    return opt_out is not None and index > opt_out and use.evidence.log_size > opt_out


def _use(row: ReceiptRow) -> UseReceipt:
    document: Mapping[str, object] = parse_json(row.document.encode(), limit=1 << 20)
    return UseReceipt.from_dict(document)


def _subject_of(view: LedgerView, index: int) -> bytes:
    rows = view.entries(index, index + 1) if index >= 0 else []
    if not rows:
        raise Misuse("The log has no entry of this index.", code="not_found")
    if Leaf.from_bytes(rows[0].leaf).type not in RESTRICTING:
        raise Misuse("This entry is not an opt-out.", code="no_opt_out")
    side = view.side(rows[0].side)
    if side is None or side.subject is None:
        raise Misuse("The payload of this entry has been erased.", code="erased")
    return view.merged_subjects().get(side.subject, side.subject)


def is_member(view: LedgerView, index: int, use: UseReceipt, pseudonym: bytes) -> bool:
    """Whether a pseudonym (32 bytes) is in the stored set of the use in entry `index`.

    Of n uniform sorted hashes, one that is a share p of the whole range lies at about n·p, by a standard
    deviation of at most √n/2: the first read, of eight deviations, nearly always decides. It is widened
    until the leaves around it enclose the leaf, so the answer never rests on that.
    """
    count = use.evidence.count
    leaf = use_leaf(from_base64(use.evidence.set_salt, size=32), pseudonym)
    place = int.from_bytes(leaf[:8], "big") * count >> 64
    reach = 8 + 2 * math.isqrt(count)
    while count:
        start, end = max(0, place - reach), min(count, place + reach)
        leaves = view.member_leaves(index, start, end - start)
        if (start == 0 or leaves[:32] <= leaf) and (end == count or leaves[-32:] >= leaf):
            return _holds(leaves, leaf)
        reach *= 8
    return False


def _holds(leaves: bytes, leaf: bytes) -> bool:
    low, high = 0, len(leaves) // 32
    while low < high:
        middle = (low + high) // 2
        if leaves[middle * 32 : middle * 32 + 32] < leaf:
            low = middle + 1
        else:
            high = middle
    return leaves[low * 32 : low * 32 + 32] == leaf
