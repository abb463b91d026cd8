"""Checking a log offline, from its entries up to the signed checkpoint.

`verify_log` needs nothing but the published files and the log's key: it re-derives every tile from the
entries, compares it with what is published, and compares the root with what was signed. With a trust policy
it also asks that a quorum of witnesses has cosigned it. `verify_ledger` is for the node itself: it goes on to
the database, every sealed payload, and the state derived from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache

from consent.checkpoint import Checkpoint
from consent.cosignatures import Cosignature
from consent.encoding import Leaf, to_micros
from consent.errors import InvalidNote
from consent.history import checked, fact_from, is_decision, missing_named, openings_of
from consent.ledger import Ledger
from consent.merkle import HASH_SIZE
from consent.notes import MAX_NOTE, VerifierKey
from consent.rebuild import Missing, Reader, Rebuilt, directory_reader, rebuild, url_reader
from consent.state import Standing, fold
from consent.state_roots import check_state_tree
from consent.static import CHECKPOINT, COSIGNED
from consent.store import EntryRow, LedgerView, RestrictionRow, StandingKey
from consent.subjects import PSEUDONYM, Opening
from consent.tiles import TILE_WIDTH
from consent.trust_policy import TrustPolicy
from privacy.errors import PeerUnreachable, Tampered

__all__ = ["LogReport", "Outcome", "Reader", "directory_reader", "url_reader", "verify_ledger", "verify_log"]


class Outcome(StrEnum):
    """What the check found; the worst first wins. `exit_code` is what a command ends with."""

    OK = "ok"
    TAMPERED = "tampered"  # something signed, hashed or sealed does not hold
    WRONG_KEY = "wrong_key"  # no signature by the key that was given
    INCOMPLETE = "incomplete"  # a file that the checkpoint promises is not there
    UNWITNESSED = "unwitnessed"  # sound, but not cosigned as the trust policy asks
    STALE = "stale"  # sound, but older than what was already known or than the age allowed
    UNREACHABLE = "unreachable"  # the log could not be read at all

    @property
    def exit_code(self) -> int:
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Outcome.OK: 0,
    Outcome.UNREACHABLE: 3,
    Outcome.TAMPERED: 4,
    Outcome.WRONG_KEY: 4,
    Outcome.INCOMPLETE: 5,
    Outcome.STALE: 6,
    Outcome.UNWITNESSED: 7,
}


@dataclass(frozen=True, slots=True)
class LogReport:
    """What was found, of which log.

    `detail` is one sentence for people. `newest` is the last entry's time in microseconds. Under a trust
    policy `witnessed` is how many of the entries a quorum has cosigned, `cosignatures` by whom and when,
    and `newest` is about those entries.
    """

    outcome: Outcome
    detail: str
    origin: str
    size: int = 0
    root: bytes = b""
    newest: int | None = None
    checkpoint: Checkpoint | None = None
    witnessed: int | None = None
    cosignatures: tuple[Cosignature, ...] = ()

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK


def verify_log(
    read: Reader,
    key: VerifierKey,
    *,
    known: Checkpoint | None = None,
    not_older_than: datetime | None = None,
    policy: TrustPolicy | None = None,
    each: Callable[[int], None] | None = None,
    workers: int = 0,
) -> LogReport:
    """Check a whole published log. Never raises for what it finds; says so in the report.

    `known` is a checkpoint seen before: the log must extend it. `not_older_than` asks that the last entry
    be that recent. `policy` asks that a quorum has cosigned the checkpoint, or, where the log has just
    grown, the one published as `checkpoint.cosigned`, which the log must extend. `each(n)` is called with
    the number of entries checked so far. A long log is hashed in `workers` processes beside this one.
    """
    try:
        # In this order: of a log that grows meanwhile, the newest checkpoint must be the later one.
        cosigned, newest = read(COSIGNED), read(CHECKPOINT)
        if newest is None:
            raise Missing("The checkpoint")
        opened = _open(newest, key, policy)
        try:
            earlier = None if cosigned is None else _open(cosigned, key, policy)
        except _OtherKey:
            raise Tampered(
                "The cosigned checkpoint is not signed by the key that signed the newest."
            ) from None
        seen = [c for c in (known, earlier.checkpoint if earlier else None) if c is not None]
        if any(c.size > opened.checkpoint.size for c in seen):
            detail, head = "The log is smaller than a checkpoint seen before.", opened.checkpoint
            return LogReport(Outcome.STALE, detail, key.name, head.size, head.root)
        size = opened.checkpoint.size
        built = rebuild(read, size, {c.size for c in seen if c.size < size}, each, workers)
        return _judge(built, opened, earlier, seen=seen, policy=policy, since=not_older_than)
    except _OtherKey:
        return LogReport(Outcome.WRONG_KEY, "The checkpoint is not signed by the key given.", key.name)
    except Missing as missing:
        return LogReport(Outcome.INCOMPLETE, f"{missing} is missing.", key.name)
    except PeerUnreachable as error:
        return LogReport(Outcome.UNREACHABLE, error.detail, key.name)
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, key.name)


class _OtherKey(Exception):
    """The checkpoint is well-formed, but not by the key that was given."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A checkpoint of the log, who of the policy has cosigned it, and whether that is a quorum."""

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    enough: bool


def _open(data: bytes, key: VerifierKey, policy: TrustPolicy | None) -> _Opened:
    if len(data) > MAX_NOTE:
        raise InvalidNote("The checkpoint is too large.")
    try:
        opened, enough = (policy or TrustPolicy()).open(data, key)
    except InvalidNote as error:
        if error.code == "unknown_signer":
            raise _OtherKey from error
        raise
    return _Opened(opened.checkpoint, opened.cosignatures, enough)


def _judge(
    built: Rebuilt,
    opened: _Opened,
    earlier: _Opened | None,
    *,
    seen: list[Checkpoint],
    policy: TrustPolicy | None,
    since: datetime | None,
) -> LogReport:
    checkpoint, size = opened.checkpoint, opened.checkpoint.size
    if built.tip.root != checkpoint.root:
        raise Tampered("The entries do not have the root that was signed.")
    if any(built.tips.get(c.size, built.tip).root != c.root for c in seen):
        raise Tampered("The log does not extend a checkpoint seen before: its history was rewritten.")
    detail = f"{size} entries lead to the signed root."
    tip, believed = built.tip, None
    if policy is not None:
        believed = next((o for o in (opened, earlier) if o is not None and o.enough), None)
        if believed is not None:
            tip = built.tips.get(believed.checkpoint.size, tip)
            detail = detail[:-1] + f"; a quorum has cosigned {believed.checkpoint.size} of them."
    outcome = Outcome.OK
    if policy is not None and believed is None:
        outcome, detail = Outcome.UNWITNESSED, "No quorum of the trust policy's witnesses has cosigned."
    elif since is not None and (tip.newest is None or tip.newest < to_micros(since)):
        outcome, detail = Outcome.STALE, "The log's last entry is older than allowed."
    return LogReport(
        outcome,
        detail,
        checkpoint.origin,
        size,
        checkpoint.root,
        tip.newest,
        checkpoint,
        witnessed=None if believed is None else believed.checkpoint.size,
        cosignatures=() if believed is None else believed.cosignatures,
    )


# the node's own check


def verify_ledger(ledger: Ledger) -> LogReport:
    """Check the database against itself and against the published log.

    Entries hash to the stored tiles, the head and every signed checkpoint; every sealed payload opens to
    what its entry commits to; state and restrictions are exactly what the payloads fold to; every alias is
    the keyed hash of an identifier sealed for its subject.
    """
    try:
        with ledger.store.read() as view:
            _check_entries(view)
            facts = _check_payloads(ledger, view)
            _check_state(view, facts)
            _check_aliases(ledger, view)
            check_state_tree(ledger.vault, view)
            size = view.head().size
    except Tampered as error:
        return LogReport(Outcome.TAMPERED, error.detail, ledger.origin)
    static = ledger.log.static
    if static is None:
        return LogReport(Outcome.OK, f"{size} entries and what they open to hold.", ledger.origin, size)
    return verify_log(directory_reader(static.directory), ledger.key)


def _check_entries(view: LedgerView) -> None:
    head = view.head()

    def read(path: str) -> bytes | None:
        from consent.tiles import encode_bundle, parse_path

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
) -> dict[bytes, list[tuple[Leaf, int, dict[str, object]]]]:
    """Every side row opens, and matches its entries one to one; returns the decisions of each subject.

    Only an erasure or a restore accounts for entries that no longer open: those that it names.
    """
    head = view.head()
    found: dict[bytes, list[tuple[Leaf, int, dict[str, object]]]] = {}
    covered, gone = bytearray(head.size), bytearray(head.size)
    entry = _entry_reader(view)
    for row in view.sides(0, head.size):
        openings: list[Opening] = openings_of(view, ledger.vault, row)
        for opening in openings:
            found_entry = entry(opening.idx)
            if found_entry is None or found_entry.side != row.first_index:
                raise Tampered("A sealed payload belongs to no entry.", code="bad_side_record")
            leaf = Leaf.from_bytes(found_entry.leaf)
            body = checked(leaf, opening)
            if covered[opening.idx]:
                raise Tampered("An entry has two sealed payloads.", code="bad_side_record")
            covered[opening.idx] = 1
            if row.subject is None:
                for first, last in missing_named(leaf.type, opening.idx, body):
                    gone[first : last + 1] = b"\x01" * (last + 1 - first)
            elif is_decision(leaf.type):
                found.setdefault(row.subject, []).append((leaf, opening.idx, body))
    for there, lost in zip(covered, gone, strict=True):
        if not there and not lost:
            raise Tampered("Some entries have no sealed payload.", code="bad_side_record")
        if there and lost:
            raise Tampered("A record that was erased is there again.", code="erasure_undone")
    return found


def _entry_reader(view: LedgerView) -> Callable[[int], EntryRow | None]:
    """Entries by index, read a bundle at a time: payloads come nearly in the order of the log."""

    @lru_cache(256)
    def bundle(number: int) -> dict[int, EntryRow]:
        start = number * TILE_WIDTH
        return {row.idx: row for row in view.entries(start, start + TILE_WIDTH)}

    return lambda index: bundle(index // TILE_WIDTH).get(index)


def _check_state(view: LedgerView, facts: dict[bytes, list[tuple[Leaf, int, dict[str, object]]]]) -> None:
    expected: dict[StandingKey, Standing] = {}
    for subject, entries in facts.items():
        entries.sort(key=lambda entry: entry[1])
        for (purpose, partner), standing in fold(fact_from(*entry) for entry in entries).items():
            expected[StandingKey(purpose, partner, subject)] = standing
    for key, standing in view.all_standings():
        if expected.pop(key, None) != standing:
            raise Tampered("The state table is not what the events fold to.", code="state_differs")
    if expected:
        raise Tampered("The state table lacks rows that the events fold to.", code="state_differs")


def _check_aliases(ledger: Ledger, view: LedgerView) -> None:
    counted = 0
    merged = view.merged_subjects()
    for row in view.all_subjects():
        identifiers = () if row.handle in merged else ledger.vault.open_identifiers(row)
        expected = {ledger.vault.lookup(kind)(canonical): kind for kind, canonical in identifiers}
        if view.aliases_of(row.handle) != expected:
            raise Tampered("A subject's aliases are not those sealed for it.", code="state_differs")
        counted += len(expected)
    if counted != view.count_aliases():
        raise Tampered("There are aliases that belong to nobody.", code="state_differs")
    _check_restrictions(ledger, view)


def _check_restrictions(ledger: Ledger, view: LedgerView) -> None:
    """Each restriction received must rest on a pseudonym's subject with a standing of the same times."""
    hashed = ledger.vault.lookup(PSEUDONYM)
    for batch in _batches(list(view.all_restrictions())):
        lookups = [
            hashed(row.partner.encode() + b"\x00" + row.kind.encode() + b"\x00" + row.pseudonym)
            for row in batch
        ]
        handles = view.find_subjects(lookups)
        keys = [
            StandingKey(row.purpose, row.partner, handles.get(lookup, b""))
            for row, lookup in zip(batch, lookups, strict=True)
        ]
        standings = view.standings(keys)
        for row, key in zip(batch, keys, strict=True):
            standing = standings.get(key, Standing())
            if (standing.restricted_at, standing.granted_at) != (row.restricted_at, row.lifted_at):
                raise Tampered("A restriction differs from the event that made it.", code="state_differs")


def _batches(rows: list[RestrictionRow], size: int = 5000) -> Iterator[list[RestrictionRow]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
