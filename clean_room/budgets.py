"""Whose ε account a partner draws on, and how much it holds.

An account belongs to a partner's *key*, under the name the partner had when it first asked about a dataset in
a month. Names and keys are cheap, so a new one is no new account:

- a partner of another name and the same key keeps its account;
- a partner of another key and the same name shares the account of that name;
- a partner who is new this month takes over the account of one that has left: whoever left may be the same.
  Where several have, it is the account most has been drawn on.

What is left are two names of one partner, both agreed at the same time: two people of this node have then
compared fingerprints with two nodes. The next month begins anew for all.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from clean_room.collaboration import Collaborations, PartnerPin
from clean_room.storage import CollaborationStore, budget_accounts
from privacy.budget import BudgetKey, BudgetLedger, Cost

__all__ = ["Accounts", "AgreedLimits"]


class Accounts:
    """Which account each partner draws on, by dataset lineage and month. Thread-safe."""

    def __init__(self, engine: sa.Engine, node: BudgetLedger) -> None:
        self._engine = engine
        self._collaborations = CollaborationStore(engine)
        self._node = node
        self._lock = threading.Lock()

    def key(self, lineage: str, pin: PartnerPin, period: str) -> BudgetKey:
        """The account of this partner for a month (such as 2026-03): found, or opened, or taken over."""
        key = pin.key.to_text()
        with self._lock:
            known = self._known(lineage, period)
            if key not in known:
                account = self._chosen(lineage, period, pin, known)
                row = {"lineage": lineage, "period": period, "partner_key": key, "account": account}
                # Another process may have been first; then its choice holds.
                with contextlib.suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
                    connection.execute(budget_accounts.insert().values(**row))
                known = self._known(lineage, period)
        return BudgetKey(lineage, known[key], period)

    def peek(self, lineage: str, pin: PartnerPin, period: str) -> BudgetKey:
        """The account `key` would answer with, without opening it."""
        known = self._known(lineage, period)
        account = known.get(pin.key.to_text()) or self._chosen(lineage, period, pin, known)
        return BudgetKey(lineage, account, period)

    def holders(self, key: BudgetKey) -> set[str]:
        """Public keys (text) of the partners that draw on an account."""
        known = self._known(key.lineage, key.period)
        return {partner for partner, account in known.items() if account == key.partner}

    def _known(self, lineage: str, period: str) -> dict[str, str]:
        c = budget_accounts.c
        query = sa.select(c.partner_key, c.account).where(c.lineage == lineage, c.period == period)
        with self._engine.connect() as connection:
            return {row.partner_key: row.account for row in connection.execute(query)}

    def _chosen(self, lineage: str, period: str, pin: PartnerPin, known: Mapping[str, str]) -> str:
        if pin.name in known.values():
            return pin.name
        since, left = self._comings_and_goings()
        came = since.get(pin.key.to_text(), "")
        gone = {known[key] for key, at in left.items() if key in known and at <= came}
        drawn = {
            status.key.partner: status.reserved.epsilon + status.committed.epsilon
            for status in self._node.status(lineage)
            if status.key.period == period and status.key.partner in gone
        }
        return max(drawn, key=lambda account: drawn[account]) if drawn else pin.name

    def _comings_and_goings(self) -> tuple[dict[str, str], dict[str, str]]:
        """When each partner key was first agreed with, and when those without an agreement left."""
        since: dict[str, str] = {}
        left: dict[str, str] = {}
        standing: set[str] = set()
        for row in self._collaborations.all():
            agreement, key = row.documents.get("agreement"), row.partner_key
            if agreement is None:
                continue
            first = [past["agreement"] for past in row.documents.get("history", [])] + [agreement]
            # The acceptor says when it agreed: not before this node knew of it at all.
            agreed = max(row.created_at, str(first[0]["agreed_at"]))
            since[key] = min(since.get(key, agreed), agreed)
            if row.state == "left":
                left[key] = max(left.get(key, ""), row.updated_at)
            else:
                standing.add(key)
        return since, {key: at for key, at in left.items() if key not in standing}


class AgreedLimits(Mapping[BudgetKey, Cost]):
    """For every account: the smaller of the node's limit and the ε a month agreed with whoever draws on it.

    A view, not a copy: an agreement that ends or begins counts from the next reservation on.
    """

    def __init__(self, collaborations: Collaborations, node: BudgetLedger, accounts: Accounts) -> None:
        self._collaborations = collaborations
        self._node = node
        self._accounts = accounts

    def __getitem__(self, key: BudgetKey) -> Cost:
        holders = self._accounts.holders(key)
        names = {pin.name for pin in self._collaborations.pins() if pin.key.to_text() in holders}
        agreed = [self._collaborations.monthly_epsilon(name) for name in names | {key.partner}]
        own = self._node.limit_of(key)
        return Cost(min([own.epsilon, *(epsilon for epsilon in agreed if epsilon is not None)]), own.delta)

    def __iter__(self) -> Iterator[BudgetKey]:
        return iter(self._node.limits)

    def __len__(self) -> int:
        return len(self._node.limits)
