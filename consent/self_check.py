"""What the node checks of its own database.

entries        hash to the stored tiles, and those to the head; there are none beyond it
payloads       each opens to what its entry commits to; an erasure or a restore names those lost
state          is what the payloads of each subject fold to, and so is the state tree
aliases        are the keyed hashes of the identifiers sealed for their subject
restrictions   are what the partners' decisions say, row for row: none is missing, none is added
records        policies, receipts of use with their sets, and partners' keys are those in the payloads
exchange       what was told to partners and heard of them, erasures, reports: see `consent.exchange_check`
witness        what was cosigned bears both signatures; what is kept against a log bears the log's
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import NamedTuple

from consent.cosignatures import witness_key
from consent.encoding import Leaf, canonical_json, parse_json
from consent.events import RESTRICTING, EventType
from consent.exchange_check import check_exchange
from consent.history import checked, fact_from, is_decision, missing_named, open_entry, openings_of
from consent.ledger import Ledger
from consent.merkle import HASH_SIZE
from consent.notes import note_text, open_note
from consent.pseudonym_sets import PseudonymSet
from consent.rebuild import Missing, rebuild
from consent.receipts import UseReceipt
from consent.rows import EntryRow, StandingKey
from consent.state import Standing, fold
from consent.state_roots import check_state_tree
from consent.store import LedgerView
from consent.subjects import PSEUDONYM
from consent.tiles import TILE_WIDTH, encode_bundle, parse_path
from privacy.errors import Misuse, Tampered

__all__ = ["check_database"]

_TABLED = frozenset({EventType.POLICY_PUBLISHED, EventType.USE_RECEIPT, EventType.PARTNER_JOINED})
"""Types whose payloads stand in tables of their own, too."""


class _Opened(NamedTuple):
    """An entry and the payload it commits to."""

    leaf: Leaf
    at: int
    body: dict[str, object]


def check_database(ledger: Ledger, view: LedgerView) -> int:
    """Raises Tampered for the first thing that does not hold; returns the number of entries."""
    try:
        _check_entries(view)
        facts, system, gone = _check_payloads(ledger, view)
        for handle in view.merged_subjects():
            facts.pop(handle, None)  # restated for whom they turned out to be
        _check_state(view, facts)
        _check_restrictions(view, facts, _check_aliases(ledger, view))
        _check_records(ledger, view, system, gone)
        check_state_tree(ledger.vault, view)
        check_exchange(ledger, view)
    except (Misuse, ValueError, LookupError, TypeError) as error:
        # What this node wrote can be read; what cannot was written by somebody else.
        raise Tampered("A stored record cannot be read as what it should be.", code="bad_record") from error
    return view.head().size


def _check_entries(view: LedgerView) -> None:
    head = view.head()

    def read(path: str) -> bytes | None:
        tile = parse_path(path)
        if tile.level >= 0:
            return view.tile(tile.level, tile.index)[: tile.width * HASH_SIZE] or None
        start = tile.index * TILE_WIDTH
        rows = view.entries(start, start + tile.width)
        return encode_bundle([row.leaf for row in rows]) if len(rows) == tile.width else None

    try:
        root = rebuild(read, head.size).tip.root
    except Missing as missing:
        raise Tampered(f"The database lacks {missing}.") from missing
    if root != head.root:
        raise Tampered("The stored entries do not have the stored root.")
    if view.entries(head.size, 1 << 62):
        raise Tampered("The database holds entries beyond the head.")


def _check_payloads(
    ledger: Ledger, view: LedgerView
) -> tuple[dict[bytes, list[_Opened]], list[_Opened], bytearray]:
    """Every side row opens, and matches its entries one to one.

    Returns the decisions of each subject, what is about no single person and stands in tables too, and for
    each entry whether its payload was lost on purpose.

    Only an erasure or a restore accounts for entries that no longer open: those that it names.
    """
    head = view.head()
    found: dict[bytes, list[_Opened]] = {}
    system: list[_Opened] = []
    covered, gone = bytearray(head.size), bytearray(head.size)
    entry = _entry_reader(view)
    for row in view.sides(0, head.size):
        for opening in openings_of(view, ledger.vault, row):
            found_entry = entry(opening.idx)
            if found_entry is None or found_entry.side != row.first_index:
                raise Tampered("A sealed payload belongs to no entry.", code="bad_side_record")
            leaf = Leaf.from_bytes(found_entry.leaf)
            body = checked(leaf, opening)
            if covered[opening.idx]:
                raise Tampered("An entry has two sealed payloads.", code="bad_side_record")
            covered[opening.idx] = 1
            if row.subject is None:
                if leaf.type in _TABLED:
                    system.append(_Opened(leaf, opening.idx, body))
                for first, last in missing_named(leaf.type, opening.idx, body):
                    gone[first : last + 1] = b"\x01" * (last + 1 - first)
            elif is_decision(leaf.type):
                found.setdefault(row.subject, []).append(_Opened(leaf, opening.idx, body))
    for there, lost in zip(covered, gone, strict=True):
        if not there and not lost:
            raise Tampered("Some entries have no sealed payload.", code="bad_side_record")
        if there and lost:
            raise Tampered("A record that was erased is there again.", code="erasure_undone")
    return found, system, gone


def _entry_reader(view: LedgerView) -> Callable[[int], EntryRow | None]:
    """Entries by index, read a bundle at a time: payloads come nearly in the order of the log."""

    @lru_cache(256)
    def bundle(number: int) -> dict[int, EntryRow]:
        start = number * TILE_WIDTH
        return {row.idx: row for row in view.entries(start, start + TILE_WIDTH)}

    return lambda index: bundle(index // TILE_WIDTH).get(index)


def _check_state(view: LedgerView, facts: Mapping[bytes, list[_Opened]]) -> None:
    expected: dict[StandingKey, Standing] = {}
    for subject, entries in facts.items():
        entries.sort(key=lambda entry: entry.at)
        for (purpose, partner), standing in fold(fact_from(*entry) for entry in entries).items():
            expected[StandingKey(purpose, partner, subject)] = standing
    for key, standing in view.all_standings():
        if expected.pop(key, None) != standing:
            raise Tampered("The state table is not what the events fold to.", code="state_differs")
    if expected:
        raise Tampered("The state table lacks rows that the events fold to.", code="state_differs")


def _check_aliases(ledger: Ledger, view: LedgerView) -> dict[bytes, list[tuple[str, str, bytes]]]:
    """Returns the (partner, kind, pseudonym) of subjects known from partners."""
    counted = 0
    pseudonyms: dict[bytes, list[tuple[str, str, bytes]]] = {}
    merged = view.merged_subjects()
    for row in view.all_subjects():
        identifiers = () if row.handle in merged else ledger.vault.open_identifiers(row)
        expected = {ledger.vault.lookup(kind)(canonical): kind for kind, canonical in identifiers}
        if view.aliases_of(row.handle) != expected:
            raise Tampered("A subject's aliases are not those sealed for it.", code="state_differs")
        counted += len(expected)
        for kind, canonical in identifiers:
            if kind == PSEUDONYM:
                partner, of, pseudonym = canonical.split(b"\x00", 2)
                place = (partner.decode(), of.decode(), pseudonym)
                pseudonyms.setdefault(row.handle, []).append(place)
    if counted != view.count_aliases():
        raise Tampered("There are aliases that belong to nobody.", code="state_differs")
    return pseudonyms


def _check_restrictions(
    view: LedgerView,
    facts: Mapping[bytes, list[_Opened]],
    pseudonyms: Mapping[bytes, list[tuple[str, str, bytes]]],
) -> None:
    """What partners restricted by pseudonym is exactly what their decisions, recorded here, say."""
    expected: dict[tuple[str, str, bytes, str], tuple[int | None, int | None]] = {}
    for handle, places in pseudonyms.items():
        for fact in (fact_from(*entry) for entry in facts.get(handle, ())):
            for partner, kind, pseudonym in places:
                key = (partner, kind, pseudonym, fact.purpose)
                restricted, lifted = expected.get(key, (None, None))
                if fact.partner != partner:
                    continue
                if fact.type in RESTRICTING:
                    expected[key] = (max(restricted or fact.effective_at, fact.effective_at), lifted)
                elif fact.type is EventType.GRANTED:
                    expected[key] = (restricted, max(lifted or fact.effective_at, fact.effective_at))
    for row in view.all_restrictions():
        times = expected.pop((row.partner, row.kind, row.pseudonym, row.purpose), None)
        if times != (row.restricted_at, row.lifted_at):
            raise Tampered("A restriction differs from the event that made it.", code="state_differs")
    if expected:
        raise Tampered("Restrictions that partners sent are missing.", code="state_differs")


def _check_records(ledger: Ledger, view: LedgerView, system: list[_Opened], gone: bytearray) -> None:
    """Tables that repeat what payloads say, so that it can be looked up."""
    by_type: dict[str, dict[int, dict[str, object]]] = {kind: {} for kind in _TABLED}
    for leaf, at, body in system:
        by_type[leaf.type][at] = body
    _check_policies(view, by_type[EventType.POLICY_PUBLISHED])
    _check_receipts(view, by_type[EventType.USE_RECEIPT])
    joined = by_type[EventType.PARTNER_JOINED]
    for row in view.partners():
        body = joined.get(row.joined_index, {})
        if not body and gone[row.joined_index]:
            continue
        if (body.get("partner"), body.get("vkey")) != (row.name, row.vkey):
            raise Tampered("A partner's key is not the one they joined with.", code="record_differs")
    _check_witnessed(ledger, view)


def _check_policies(view: LedgerView, published: Mapping[int, dict[str, object]]) -> None:
    rows = view.policies()
    stored = {index: (hash_, version, view.policy_document(hash_) or "") for index, hash_, version in rows}
    said = {
        index: (body.get("hash"), body.get("version"), canonical_json(body.get("document")).decode())
        for index, body in published.items()
    }
    if stored != said:
        raise Tampered("The stored policies are not those that were published.", code="record_differs")


def _check_receipts(view: LedgerView, uses: Mapping[int, dict[str, object]]) -> None:
    left = dict(uses)
    for row in view.receipts_between(0, 1 << 62):
        body = left.pop(row.idx, {})
        if canonical_json(body.get("receipt")).decode() != row.document:
            raise Tampered("A receipt of use is not the one in the log.", code="record_differs")
        receipt = UseReceipt.from_dict(body["receipt"])  # type: ignore[arg-type]
        named = (receipt.id, receipt.kind, receipt.purpose, receipt.partner, receipt.job)
        if (row.id, row.kind, row.purpose, row.partner, row.job) != named:
            raise Tampered("A receipt of use is listed as another.", code="record_differs")
        members = PseudonymSet.from_bytes(view.members(row.id) or b"")
        if members.root != receipt.set_root:
            raise Tampered("The set of a receipt is not the one in the log.", code="record_differs")
    if left:
        raise Tampered("Receipts of use are missing.", code="record_differs")


def _check_witnessed(ledger: Ledger, view: LedgerView) -> None:
    mine = witness_key(ledger.key)
    for row in view.all_witnessed():
        note = open_note(row.checkpoint, [mine])
        said = (row.origin, str(row.size), base64.b64encode(row.root).decode())
        if tuple(note.text.split("\n")[:3]) != said:
            raise Tampered("A witnessed checkpoint is not what was cosigned.", code="record_differs")
    for kept in view.split_views():
        texts = (note_text(kept.first), note_text(kept.second))
        if any(text.partition("\n")[0] != kept.origin for text in texts) or texts[0] == texts[1]:
            raise Tampered("Evidence against a log is not about that log.", code="record_differs")
        if kept.idx is not None:
            _, opening = open_entry(view, ledger.vault, kept.idx)
            body = parse_json(opening.payload, limit=1 << 21)
            if (body.get("first"), body.get("second")) != (kept.first, kept.second):
                raise Tampered("Evidence against a log is not what the log says.", code="record_differs")
