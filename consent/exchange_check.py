"""What the node checks of what it exchanges with others and keeps beside the log.

outbox     is, row for row, a log of its own: without gaps, about entries that say so, as acknowledged and
           signed for by the partner in the entries `delivery.ack`
inbox      is the feed log that the partner signed; each row rests on a decision recorded here
evidence   against a partner is what the log says was found, in the partner's own signed words
erasures   and reports are those that the log names

What no signature and no entry covers is said in the threat model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from consent.checkpoint import open_checkpoint
from consent.cosignatures import time_of, witness_key
from consent.encoding import Leaf, canonical_json, from_micros, parse_json, render_time
from consent.events import RESTRICTING, EventType
from consent.feed_log import FeedLeaf, Frontier, feed_key, leaf_of
from consent.history import missing_named, open_in
from consent.ledger import Ledger
from consent.merkle import leaf_hash
from consent.messages import ACK_CONTEXT, MESSAGE_CONTEXT, Acknowledgement, FeedMessage, unpack_pseudonyms
from consent.notes import VerifierKey, open_note
from consent.proofs import to_base64
from consent.rows import ErasureRow, FeedRow, InboxRow, PartnerRow
from consent.split_views import FORK
from consent.store import LedgerView
from consent.subjects import HANDLE_SIZE, PSEUDONYM
from privacy.errors import PeerViolation, Tampered
from privacy.signing import PublicKey

__all__ = ["check_exchange"]

_PAGE = 1000
_LIMIT = 1 << 21


class _Said(NamedTuple):
    """An entry of the log and its payload; `lost` when that was lost on purpose (erasure, restore)."""

    leaf: Leaf
    body: dict[str, Any]
    subject: bytes | None
    lost: bool = False


Said = Callable[[int], _Said]
"""An entry by its index."""


def check_exchange(ledger: Ledger, view: LedgerView) -> None:
    """Raises Tampered for the first thing that does not hold."""

    def said(index: int) -> _Said:
        rows = view.entries(index, index + 1)
        if not rows:
            raise _differs("A record names an entry that is not there.")
        leaf, side = Leaf.from_bytes(rows[0].leaf), view.side(rows[0].side)
        if side is None:
            return _Said(leaf, {}, None, lost=True)
        _, body = open_in(view, ledger.vault, side, index, leaf)
        return _Said(leaf, body, side.subject)

    try:
        for row in view.partners():
            _check_outbox(view, row, said)
            _check_inbox(ledger, view, row, said)
        _check_evidence(ledger, view, said)
    except PeerViolation as error:
        raise _differs("A partner's message that was kept cannot be read any more.") from error
    _check_suppressions(ledger, view, said)
    for request in view.erasures():
        _check_erasure(view, request, said)
    _check_reports(view, said)
    _check_views(ledger, view, said)
    _check_head(ledger, view)


def _differs(what: str) -> Tampered:
    return Tampered(what, code="record_differs")


def _entries(view: LedgerView, type_: EventType) -> Iterator[tuple[int, Leaf]]:
    size = view.head().size
    for start in range(0, size, _PAGE):
        for row in view.entries(start, min(start + _PAGE, size)):
            leaf = Leaf.from_bytes(row.leaf)
            if leaf.type == type_:
                yield row.idx, leaf


# sending


def _check_outbox(view: LedgerView, partner: PartnerRow, said: Said) -> None:
    acks = _acks(view, partner, said)
    settled = {seq: ack for ack in acks for seq in range(ack.first_seq, ack.seq + 1)}
    frontier, seq = Frontier(), 0
    while rows := view.feed_rows(partner.name, seq, _PAGE):
        times = {row.seq: row for row in view.outbox(partner.name, seq, _PAGE)}
        for row in rows:
            seq += 1
            if row.seq != seq:
                raise _differs("The queue toward a partner has a gap.")
            frontier = frontier.extended([leaf_hash(leaf_of(row).to_bytes())])
            if seq == partner.acked_seq and frontier.to_bytes() != partner.acked_frontier:
                raise _differs("The queue toward a partner is not what the partner acknowledged.")
            _check_told(view, row, said(row.idx))
            times_of = times[seq]
            kept = (times_of.received_at, times_of.enforced_at, times_of.acked_at)
            ack = settled.get(seq)
            expected = (None, None, None) if ack is None else (ack.received_at, ack.enforced_at, ack.acked_at)
            if kept != expected and not (ack is None and seq <= partner.acked_seq):
                raise _differs("An acknowledgement is not the one that the partner signed.")
    if seq != partner.sent_seq or partner.acked_seq > seq:
        raise _differs("The queue toward a partner is longer or shorter than was counted.")
    if acks and (acks[-1].seq, acks[-1].acked_at) != (partner.acked_seq, partner.acked_at):
        raise _differs("A partner acknowledged something else than is counted.")


def _check_told(view: LedgerView, row: FeedRow, entry: _Said) -> None:
    wrong = entry.leaf.type != row.type or row.recorded_at < entry.leaf.recorded_at
    if entry.lost:
        wrong |= bool(view.subjects([row.subject]))
    else:
        purposes = parse_json(row.purposes.encode(), limit=_LIMIT)
        wrong |= row.type in RESTRICTING and len(purposes) != 1
        wrong |= entry.body.get("purpose") not in purposes or entry.subject != row.subject
        wrong |= entry.body.get("effective_at") != render_time(row.effective_at)
    if wrong:
        raise _differs("The queue toward a partner is not what was recorded.")


class _Ack(NamedTuple):
    first_seq: int
    seq: int
    received_at: int
    enforced_at: int
    acked_at: int


def _acks(view: LedgerView, partner: PartnerRow, said: Said) -> list[_Ack]:
    """What a partner has signed for, each with what it settled, in order."""
    found: list[_Ack] = []
    key = PublicKey(VerifierKey.from_text(partner.vkey).public)
    for index, leaf in _entries(view, EventType.DELIVERY_ACK):
        entry = said(index)
        if entry.body.get("partner") != partner.name:
            continue
        signed = to_base64(bytes.fromhex(entry.body["signature"]))
        ack, signature = Acknowledgement.from_bytes(
            canonical_json({"ack": entry.body["ack"], "signature": signed})
        )
        key.verify(ACK_CONTEXT, ack.signed_part(), signature)
        first = found[-1].seq + 1 if found else ack.first_seq
        found.append(_Ack(first, ack.seq, ack.received_at, ack.enforced_at, leaf.recorded_at))
    return found


# receiving


def _check_inbox(ledger: Ledger, view: LedgerView, partner: PartnerRow, said: Said) -> None:
    frontier, seq, last = Frontier(), 0, None
    resting: dict[tuple[int, str], set[int]] = {}
    while rows := view.inbox(partner.name, seq, _PAGE):
        for row in rows:
            seq += 1
            leaf = FeedLeaf.from_bytes(row.leaf)
            if (row.seq, leaf.seq) != (seq, seq):
                raise _differs("What was heard of a partner has a gap.")
            frontier, last = frontier.extended([leaf_hash(row.leaf)]), row
            _check_heard(ledger, view, row, said)
            for purpose in leaf.purposes:
                resting.setdefault((row.idx, purpose), set()).add(min(leaf.effective_at, row.recorded_at))
    if seq != partner.heard_seq or frontier.to_bytes() != (partner.heard_frontier or Frontier().to_bytes()):
        raise _differs("What was heard of a partner is not what is counted.")
    if last is not None:
        key = feed_key(VerifierKey.from_text(partner.vkey), ledger.origin)
        head = open_checkpoint(partner.heard_checkpoint or "", [key])
        if (head.size, head.root) != (frontier.size, frontier.root):
            raise _differs("What was heard of a partner is not what the partner signed.")
        if partner.heard_at != last.recorded_at or partner.enforced_seq > seq:
            raise _differs("What was heard of a partner is not of that time.")
    for restriction in view.all_restrictions() if resting else ():
        times = {restriction.restricted_at, restriction.lifted_at}
        place = (restriction.idx, restriction.purpose)
        if restriction.partner == partner.name and not times & resting.get(place, set()):
            raise _differs("A restriction rests on nothing that was heard.")


def _check_heard(ledger: Ledger, view: LedgerView, row: InboxRow, said: Said) -> None:
    leaf = FeedLeaf.from_bytes(row.leaf)
    named = [(kind, p) for kind, found in unpack_pseudonyms(row.pseudonyms).items() for p in found]
    if not named:
        return  # of somebody erased at the partner's before it could be told
    hashed = ledger.vault.lookup(PSEUDONYM)
    start = row.partner.encode() + b"\x00"
    lookups = [hashed(start + kind.encode() + b"\x00" + pseudonym) for kind, pseudonym in named]
    subjects = view.find_subjects(lookups)
    entry = said(row.idx)
    if len(subjects) != len(set(lookups)) or entry.lost:
        raise _differs("Somebody whom a partner named is not known here.")
    expected = (leaf.type, leaf.purposes[0], row.recorded_at)
    if (entry.leaf.type, entry.body.get("purpose"), entry.leaf.recorded_at) != expected:
        raise _differs("What was heard of a partner is not what was recorded.")
    if entry.subject != subjects[lookups[0]]:
        raise _differs("What was heard of a partner was recorded about somebody else.")


def _check_evidence(ledger: Ledger, view: LedgerView, said: Said) -> None:
    keys = {row.name: VerifierKey.from_text(row.vkey) for row in view.partners()}
    for row in view.evidence():
        entry = said(row.idx)
        if entry.lost:
            continue
        details = {"partner": row.partner, "heard": row.heard, "shown": row.shown}
        told = (f"feed.{row.found}", details, row.found_at)
        if (entry.body.get("kind"), entry.body.get("details"), entry.leaf.recorded_at) != told:
            raise _differs("Evidence against a partner is not what the log says.")
        if row.id != sha256(f"{row.partner}\n{row.heard}\n{row.shown}".encode()).hexdigest():
            raise _differs("Evidence against a partner is listed as another.")
        if row.partner in keys:
            open_checkpoint(row.shown, [feed_key(keys[row.partner], ledger.origin)])
        message = parse_json(row.message, limit=1 << 24)
        if message.get("message", message).get("checkpoint") != row.shown:
            raise _differs("Evidence against a partner is not in the message that is kept.")
        if "message" in message and row.partner in keys:
            _check_message(row.message, PublicKey(keys[row.partner].public))


def _check_message(data: bytes, key: PublicKey) -> None:
    message, signature = FeedMessage.from_bytes(data)
    key.verify(MESSAGE_CONTEXT, message.signed_part(), signature)


# erasures and reports


def _check_suppressions(ledger: Ledger, view: LedgerView, said: Said) -> None:
    for row in view.all_suppressions():
        entry = said(row.idx)
        if entry.lost:
            continue
        about = (EventType.ERASURE_COMPLETED, EventType.ERASURE_HELD)
        if entry.leaf.type not in about or (entry.body.get("basis"), entry.leaf.recorded_at) != (
            row.basis, row.erased_at
        ):  # fmt: skip
            raise _differs("A record of somebody erased is not what the log says.")
        if row.version not in ledger.vault.versions:
            raise _differs("A record of somebody erased is under a key that never was.")


def _check_erasure(view: LedgerView, row: ErasureRow, said: Said) -> None:
    requested = said(row.requested_index)
    expected = (EventType.ERASURE_REQUESTED, row.requested_at, row.request, row.basis)
    known = 2 if requested.lost else 4
    if _fields(requested, "request", "basis")[:known] != expected[:known]:
        raise _differs("A request for erasure is not the one in the log.")
    if row.completed_index is not None:
        _check_erased(row, row.completed_index, said(row.completed_index))
        return
    handles = row.subjects or b""
    people = [handles[i : i + HANDLE_SIZE] for i in range(0, len(handles), HANDLE_SIZE)]
    if (row.state, row.entries) != ("held", 0) or set(people) - set(view.subjects(people)):
        raise _differs("An erasure on hold is not what was asked for.")
    until = None if row.held_until is None else from_micros(row.held_until).isoformat()
    for index, _ in _entries(view, EventType.ERASURE_HELD):
        body = said(index).body
        if body.get("request") == row.request and (body.get("hold"), body.get("until")) != (
            row.hold_basis, until
        ):  # fmt: skip
            raise _differs("The hold of an erasure is not the one in the log.")


def _check_erased(row: ErasureRow, index: int, completed: _Said) -> None:
    wrong = _fields(completed) != (EventType.ERASURE_COMPLETED, row.completed_at)
    if not completed.lost:
        lost = missing_named(completed.leaf.type, index, completed.body)
        counted = sum(last - first + 1 for first, last in lost)
        said = (completed.body.get("request"), counted)
        wrong |= said != (row.request, row.entries)
    if wrong or row.state != "completed":
        raise _differs("An erasure is not the one in the log.")


def _fields(entry: _Said, *names: str) -> tuple[object, ...]:
    return (entry.leaf.type, entry.leaf.recorded_at, *(entry.body.get(name) for name in names))


def _check_reports(view: LedgerView, said: Said) -> None:
    from consent.audit.report import AuditReport

    before: int | None = None
    while rows := view.audit_reports(before, 100):
        for id_, index, law, at in rows:
            before = index
            entry, row = said(index), view.audit_report(id_)
            if entry.lost or row is None:
                continue
            report = AuditReport.from_json(row.document.encode())
            details: Mapping[str, object] = entry.body.get("details", {})
            kept = ("audit.report", id_, law, report.digest, at)
            named = (details.get("id"), details.get("law"), details.get("digest"))
            if (entry.body.get("kind"), *named, entry.leaf.recorded_at) != kept:
                raise _differs("A kept report is not the one that the log names.")


# the rest


def _check_views(ledger: Ledger, view: LedgerView, said: Said) -> None:
    for row in view.split_views():
        bodies = sorted(text[: text.rfind("\n\n") + 1] for text in (row.first, row.second))
        known = "\x00".join(bodies) if row.kind == FORK else ""
        digest = sha256(f"{row.kind}\x00{row.origin}\x00{known}".encode()).digest()
        if digest != row.digest or (row.idx is not None and said(row.idx).leaf.recorded_at != row.seen_at):
            raise _differs("Evidence against a log is listed as another.")
    for witnessed in view.all_witnessed():
        mine = witness_key(ledger.key)
        signed = open_note(witnessed.checkpoint, [mine]).signatures
        if witnessed.seconds not in {time_of(s.signature) for s in signed if s.name == mine.name}:
            raise _differs("A checkpoint was cosigned at another time.")


def _check_head(ledger: Ledger, view: LedgerView) -> None:
    head = view.head()
    for row in view.entries(head.size - 1, head.size):
        if Leaf.from_bytes(row.leaf).recorded_at != head.recorded_at:
            raise _differs("The newest entry is not of the time that the head says.")
    version, known = ledger.vault.version, view.lookup_versions()
    if view.lookup_version() != version or not known or known[-1][1] != version:
        raise _differs("People are looked up under another key than is said.")
    for since, _ in known:
        rows = view.entries(since, since + 1) if since else []
        if since and (not rows or Leaf.from_bytes(rows[0].leaf).type != EventType.SUBJECT_REKEYED):
            raise _differs("People are looked up under another key since another time.")
