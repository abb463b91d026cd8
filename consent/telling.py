"""What each partner must be told of a decision, and of everything that stands when they join.

Told are restrictions, and the grants that lift what was told. It is queued in the transaction that records
the decision; whom a row is about is looked up when it is sent, so it names them by everything known by then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from consent.encoding import Leaf
from consent.events import PROPAGATED, RESTRICTING, EventType
from consent.feed_log import MAX_PURPOSES
from consent.linkage import related, stands
from consent.purposes import PurposePolicy
from consent.rows import OutboxRow
from consent.state import Fact, Standing, StateKey
from consent.store import LedgerTransaction
from consent.subjects import PSEUDONYM

__all__ = ["standing_withdrawals", "tell_partners"]


class _News(NamedTuple):
    entry: int
    subject: bytes
    type: str
    purposes: Sequence[str]
    effective_at: int


def tell_partners(
    tx: LedgerTransaction,
    facts: Sequence[tuple[bytes, Fact]],
    policy: PurposePolicy,
    new: set[bytes],
    now: int,
    *,
    learned: Collection[bytes] = (),
) -> None:
    """Queue what each partner must be told: restrictions, and grants that lift what they were told.

    A refusal counts where something had been agreed to, or told, before. Of the subjects in `learned`
    another identifier has become known: what stands about them is told again, so that it counts for that
    identifier as well. `new` are subjects nothing was known about before.
    """
    refused = list(dict.fromkeys(h for h, f in facts if f.type in RESTRICTING and f.type not in PROPAGATED))
    agreed = tx.standings_of(refused) if refused and tx.partners() else {}
    first = facts[0][1].idx if facts else 0
    for partner in tx.partners():
        if partner.removed_at is not None:
            continue
        about = [(h, f) for h, f in facts if f.partner in ("*", partner.name)]
        asking = [h for h, f in about if f.type not in PROPAGATED and h not in new]
        told = tx.told(partner.name, list(dict.fromkeys(asking))) if asking else set()
        had = {h for h, state in agreed.items() if _agreed(state, partner.name)}
        news = [n for n in _standing(tx, partner.name, policy, now, learned) if n.entry < first]
        for handle, fact in about:
            if fact.type in PROPAGATED or (fact.type in RESTRICTING and (handle in told or handle in had)):
                told.add(handle)
                purposes = [fact.purpose]
            elif handle in told and fact.type is EventType.GRANTED:
                purposes = policy.below(fact.purpose, fact.version)
            else:
                continue
            news.append(_News(fact.idx, handle, fact.type.value, purposes, fact.effective_at))
        rows = _rows(partner.name, news, now, partner.sent_seq)
        if rows:
            tx.add_outbox(rows)
            tx.put_partner(replace(partner, sent_seq=partner.sent_seq + len(rows)))


def standing_withdrawals(
    tx: LedgerTransaction, partner: str, policy: PurposePolicy, now: int, after: int = 0
) -> list[OutboxRow]:
    """What a partner who joins now must be told, in the order of the log; numbered from `after` + 1.

    That is everything restricted before, and the grants since that lifted a part of it.
    """
    people = dict.fromkeys(
        key.subject for key, s in tx.all_standings() if stands(s) and key.partner in ("*", partner)
    )
    return _rows(partner, _standing(tx, partner, policy, now, people), now, after)


def _rows(partner: str, news: Iterable[_News], now: int, after: int) -> list[OutboxRow]:
    rows: list[OutboxRow] = []
    for told in news:
        for start in range(0, len(told.purposes), MAX_PURPOSES):
            some = json.dumps(list(told.purposes[start : start + MAX_PURPOSES]))
            seq = after + len(rows) + 1
            rows.append(
                OutboxRow(partner, seq, told.entry, told.subject, told.type, some, told.effective_at, now)
            )
    return rows


def _standing(
    tx: LedgerTransaction, partner: str, policy: PurposePolicy, now: int, people: Collection[bytes]
) -> list[_News]:
    """What stands about these subjects as far as it concerns a partner, in the order of the log."""
    found: list[_News] = []
    for subject, everything in tx.standings_of(list(people)).items() if people else ():
        if _heard(tx, subject):
            continue
        state = {key: s for key, s in everything.items() if key[1] in ("*", partner)}
        found.extend(
            _News(s.restricted_index or 0, subject, str(s.restriction), [purpose], s.restricted_at or 0)
            for (purpose, _), s in state.items()
            if stands(s) and (EventType(str(s.restriction)) in PROPAGATED or _agreed(state, partner))
        )
        found.extend(_lifting(tx, subject, state, policy, now))
    return sorted(found)


def _agreed(state: Mapping[StateKey, Standing], partner: str) -> bool:
    return any(s.granted_at is not None and who in ("*", partner) for (_, who), s in state.items())


def _lifting(
    tx: LedgerTransaction,
    subject: bytes,
    state: Mapping[StateKey, Standing],
    policy: PurposePolicy,
    now: int,
) -> Iterator[_News]:
    """The grants that are newer than a restriction above or below them."""
    for key, s in state.items():
        if s.granted_at is None or s.granted_index is None or (s.expires_at or now + 1) <= now:
            continue
        lifted = any(
            other.restricted_at is not None and other.restricted_at < s.granted_at and related(place, key)
            for place, other in state.items()
            if stands(other)
        )
        leaf = Leaf.from_bytes(tx.entries(s.granted_index, s.granted_index + 1)[0].leaf) if lifted else None
        if leaf is not None and leaf.type == EventType.GRANTED.value:
            purposes = policy.below(key[0], s.granted_version or policy.version)
            yield _News(s.granted_index, subject, leaf.type, purposes, s.granted_at)


def _heard(tx: LedgerTransaction, subject: bytes) -> bool:
    """Whether a subject is known by a partner's pseudonyms only: what was heard is not sent back."""
    return PSEUDONYM in tx.aliases_of(subject).values()
