"""What partners have seen of this node's log, and of what it told them: a check against an old backup.

A database restored from a backup looks sound to itself. What it has forgotten, partners have not: each keeps
the newest checkpoint of this log that it has cosigned, and the feed log that it was told. Both are signed by
this node, so a partner cannot make them up. Before a node serves, it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consent.checkpoint import Checkpoint, open_checkpoint
from consent.encoding import canonical_json, parse_json
from consent.errors import InvalidNote, RolledBack
from consent.feed_log import Frontier, feed_key, leaf_of
from consent.ledger import Ledger
from consent.merkle import leaf_hash
from consent.notes import MAX_NOTE, VerifierKey
from consent.peers import PeerConnection
from consent.store import LedgerView
from privacy.errors import BadInput, PeerViolation, Tampered

__all__ = ["HEADS_PATH", "PartnerHeads", "ask_heads", "compare_heads", "feed_frontier", "heads_seen_of"]

HEADS_PATH = "/v1/peer/heads"
_LIMIT = 4 * MAX_NOTE
_PAGE = 5_000
_ADVICE = (
    "It was probably restored from a backup. Stop it, and run comity log restore, which brings back what "
    "was published and what partners heard."
)


@dataclass(frozen=True, slots=True)
class PartnerHeads:
    """What one partner says it has seen of this node; None for nothing yet. All signed by this node.

    `log` is the newest checkpoint of the main log that it cosigned, `feed` that of the feed log it heard.
    `sent` is how many entries its own feed toward this node has.
    """

    log: Checkpoint | None = field(repr=False)
    feed: Checkpoint | None = field(repr=False)
    sent: int = 0


def heads_seen_of(ledger: Ledger, partner: str) -> bytes:
    """The answer to a partner who asks what this node has seen of it. Raises UnknownPartner."""
    row = ledger.partner(partner)
    with ledger.store.read() as view:
        witnessed = view.witnessed(VerifierKey.from_text(row.vkey).name)
    return canonical_json(
        {
            "v": 1,
            "log": None if witnessed is None else witnessed.checkpoint,
            "feed": row.heard_checkpoint,
            "sent": row.sent_seq,
        }
    )


def ask_heads(ledger: Ledger, connection: PeerConnection, *, timeout: float = 10.0) -> PartnerHeads:
    """Ask a partner. Raises PeerUnreachable, PeerViolation for an answer that this node never signed."""
    row = ledger.partner(connection.partner)
    receiver = VerifierKey.from_text(row.vkey).name
    body = _body(connection.request("GET", HEADS_PATH, timeout=timeout).body)
    return PartnerHeads(
        _opened(body["log"], ledger.key), _opened(body["feed"], feed_key(ledger.key, receiver)), body["sent"]
    )


def _body(data: bytes) -> Mapping[str, Any]:
    wrong = PeerViolation("The partner's answer about heads is malformed.", code="heads_malformed")
    try:
        body = parse_json(data, limit=_LIMIT)
    except BadInput:
        raise wrong from None
    if not isinstance(body, dict) or set(body) != {"v", "log", "feed", "sent"} or body["v"] != 1:
        raise wrong
    sent = body["sent"]
    if isinstance(sent, bool) or not isinstance(sent, int) or not 0 <= sent < 1 << 62:
        raise wrong
    if any(body[name] is not None and not isinstance(body[name], str) for name in ("log", "feed")):
        raise wrong
    return body


def _opened(text: str | None, key: VerifierKey) -> Checkpoint | None:
    if text is None:
        return None
    try:
        return open_checkpoint(text, [key])
    except InvalidNote as error:
        raise PeerViolation(
            "The partner shows a head that this node has not signed.", code="heads_forged"
        ) from error


def feed_frontier(view: LedgerView, partner: str, size: int) -> Frontier:
    """The frontier of the feed log toward a partner at `size`, derived from its rows. Raises Tampered."""
    frontier = Frontier()
    while frontier.size < size:
        rows = view.feed_rows(partner, frontier.size, min(_PAGE, size - frontier.size))
        if not rows or rows[0].seq != frontier.size + 1:
            raise Tampered("The queue toward a partner has gaps.", code="feed_gap")
        frontier = frontier.extended(leaf_hash(leaf_of(row).to_bytes()) for row in rows)
    return frontier


def compare_heads(ledger: Ledger, partner: str, heads: PartnerHeads) -> None:
    """Raises RolledBack when the partner has seen more of this node, or other things, than it has itself."""
    row = ledger.partner(partner)
    with ledger.store.read() as view:
        head = view.head()
    log, feed = heads.log, heads.feed
    if log is not None and log.size > head.size:
        raise RolledBack(
            f"A partner has seen {log.size} entries of this node's log, of which it has {head.size}.",
            advice=_ADVICE,
        )
    if log is not None and ledger.log.root_at(log.size) != log.root:
        raise RolledBack("A partner has seen another history of this node's log.", advice=_ADVICE)
    if feed is not None and feed.size > row.sent_seq:
        raise RolledBack(
            f"A partner was told {feed.size} things, of which this node knows {row.sent_seq}.", advice=_ADVICE
        )
    if feed is not None:
        with ledger.store.read() as view:
            root = feed_frontier(view, partner, feed.size).root
        if root != feed.root:
            raise RolledBack("A partner was told other things than this node knows.", advice=_ADVICE)
