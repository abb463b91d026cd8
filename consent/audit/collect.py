"""From a ledger to the facts of a report: one pass over the log, one over the people on record.

Everything is read from one snapshot and derived from what the log commits to; memory is bounded by a page
of people, not by the size of the ledger. Given the same period, tree head and moment, the facts are the
same again, except for what has been erased in between.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime

from consent.audit.decisions import DecisionTally
from consent.audit.deliveries import Window, deliveries
from consent.audit.evidence import articles
from consent.audit.facts import (
    AuditFacts,
    Consents,
    Entries,
    ErasureFact,
    Keys,
    PartnerKey,
    PolicyFact,
    Removed,
    Scope,
)
from consent.audit.reading import first_since, leaves, people, published_policy, recorded_at, system_events
from consent.audit.timeline import LineTally, Stretches
from consent.audit.uses import UseAudit
from consent.checkpoint import Checkpoint
from consent.encoding import render_time, to_micros
from consent.events import EventType
from consent.history import fact_from, is_decision, missing_named, open_entry
from consent.laws import law
from consent.ledger import Ledger
from consent.pseudonym_sets import PseudonymSet
from consent.purposes import PurposePolicy
from consent.receipts import ReceiptProof, UseReceipt
from consent.store import LedgerView
from privacy.errors import BadInput, Misuse

__all__ = ["collect"]

_ERASURES = {
    EventType.ERASURE_REQUESTED.value,
    EventType.ERASURE_COMPLETED.value,
    EventType.ERASURE_HELD.value,
    EventType.RESTORE_PERFORMED.value,
}


def collect(
    ledger: Ledger,
    *,
    law_name: str = "pipl",
    since: datetime | None = None,
    until: datetime | None = None,
    head: Checkpoint | None = None,
    made_at: datetime | None = None,
    witnessed: Callable[[Checkpoint], Mapping[str, object]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> AuditFacts:
    """The facts about what was recorded in since ≤ time < until, under a law (pipl, gdpr, ccpa).

    Without `since` from the first entry, without `until` to now. `head` and `made_at` make again what was
    made at an earlier head and moment. `witnessed` tells who cosigned a checkpoint. `progress` is called
    with a stage, what is done, and the total. Raises BadInput for a period or law that makes no sense,
    Tampered when the ledger contradicts its log.
    """
    chosen = law(law_name)
    checkpoint = head or ledger.head()
    tell = progress or (lambda _stage, _done, _total: None)
    with ledger.store.read() as view:
        size = checkpoint.size
        if view.head().size < size:
            raise Misuse("The ledger is smaller than the tree head asked for.")
        now = ledger.now(view) if made_at is None else to_micros(made_at)
        starts = (
            recorded_at(view, 0) if size and since is None else now if since is None else to_micros(since)
        )
        ends = now if until is None else min(to_micros(until), now)
        if starts > ends:
            raise BadInput("The period of an audit ends before it begins.", code="bad_period")
        first = first_since(view, size, starts)
        end = size if ends == now else first_since(view, size, ends)
        policy = _policy_at(ledger, view, end)
        lines = LineTally(Stretches.of(starts, ends), policy, ends)
        types: Counter[str] = Counter()
        for index, leaf in leaves(view, first, end):
            types[leaf.type] += 1
            lines.entry(leaf.type, leaf.recorded_at)
            if index % 10_000 == 0:
                tell("entries", index - first, end - first)
        opened = bytearray(end - first)
        said = DecisionTally(first, ends, policy, chosen)
        merged = {
            part: at for into in set(view.merged_subjects().values()) for part, at in view.merged_parts(into)
        }
        done = 0
        for handle, history in people(view, ledger.vault, end):
            for event in history:
                if event.idx >= first:
                    opened[event.idx - first] = 1
            decided = [e for e in history if is_decision(e.leaf.type)]
            facts = [(fact_from(e.leaf, e.idx, e.body), e.leaf.recorded_at) for e in decided]
            said.add(history, lines.add(facts, merged.get(handle)))
            done += len(history)
            if done % 5_000 < len(history):
                tell("people", done, end)
        erasures, removed = _system(ledger, view, (first, end, size), opened)
        tell("uses", 0, 1)
        uses = UseAudit(
            view, ledger.vault, policy, ledger.pair_keys, _prover(ledger, view, checkpoint), size
        ).run(first, end)
        found = AuditFacts(
            scope=Scope(
                origin=ledger.origin,
                law=chosen.name,
                since=render_time(starts),
                until=render_time(ends),
                made_at=render_time(now),
                first=first,
                end=end,
                size=size,
                root=base64.b64encode(checkpoint.root).decode(),
                policy=policy.hash,
            ),
            keys=_keys(ledger, view, end),
            checkpoint={"text": checkpoint.text, **(witnessed(checkpoint) if witnessed else {})},
            entries=Entries(
                total=end - first,
                by_type=dict(sorted(types.items())),
                opened=sum(opened),
                erased=end - first - sum(opened),
            ),
            decisions=said.decisions(),
            consents=Consents(
                people=lines.people,
                by_purpose=lines.by_purpose(),
                opening=lines.opening(),
                step=lines.stretches.step // 1_000_000,
                timeline=lines.timeline(),
            ),
            notices=said.notices_used(),
            missing_notice=dict(sorted(said.missing_notice.items())),
            separate=said.separate_consents(),
            exports=said.exports(),
            deliveries=deliveries(view, Window(starts, ends + (ends == now), now, size)),
            uses=uses,
            erasures=erasures,
            removed=removed,
            signals=dict(sorted(said.signals.items())),
            articles=articles(chosen, types),
        )
        tell("uses", 1, 1)
        return found


def _merged(view: LedgerView) -> dict[bytes, int]:
    """Handle → when it turned out to be somebody else's."""
    survivors = set(view.merged_subjects().values())
    return {part: at for handle in survivors for part, at in view.merged_parts(handle)}


def _policy_at(ledger: Ledger, view: LedgerView, end: int) -> PurposePolicy:
    """The purpose policy in force after entry `end` - 1."""
    published = [hash_ for index, hash_, _ in view.policies() if index < end]
    document = view.policy_document(published[-1]) if published else None
    return ledger.policy if document is None else published_policy(document)


def _keys(ledger: Ledger, view: LedgerView, end: int) -> Keys:
    return Keys(
        vkey=ledger.vkey,
        partners=tuple(
            PartnerKey(row.name, row.vkey, row.joined_index, render_time(recorded_at(view, row.joined_index)))
            for row in view.partners()
            if row.joined_index < end
        ),
        policies=tuple(
            PolicyFact(index, version, hash_, render_time(recorded_at(view, index)))
            for index, hash_, version in view.policies()
            if index < end
        ),
    )


def _system(
    ledger: Ledger, view: LedgerView, period: tuple[int, int, int], opened: bytearray
) -> tuple[tuple[ErasureFact, ...], Removed]:
    """Erasures and restores of the period, and what those up to the report account for.

    `period` is the first entry, the end, and the size of the log. Marks in `opened` the entries of the
    period whose payload is there.
    """
    first, end, size = period
    found, events, named = [], 0, bytearray(len(opened))
    for event in system_events(view, ledger.vault, first, size):
        if event.idx < end:
            opened[event.idx - first] = 1
        if event.leaf.type not in _ERASURES:
            continue
        ranges = missing_named(event.leaf.type, event.idx, event.body)
        events += bool(ranges)
        for low, high in ranges:
            start, stop = max(low - first, 0), min(high + 1 - first, len(named))
            named[start:stop] = b"\x01" * max(stop - start, 0)
        if event.idx < end:
            basis = event.body.get("hold", event.body.get("basis", ""))
            found.append(
                ErasureFact(
                    event.idx,
                    event.leaf.type,
                    render_time(event.leaf.recorded_at),
                    str(basis),
                    sum(high + 1 - low for low, high in ranges),
                )
            )
    gone = sum(1 for there in opened if not there)
    explained = sum(1 for there, lost in zip(opened, named, strict=True) if lost and not there)
    return tuple(found), Removed(events, sum(named), gone - explained)


def _prover(
    ledger: Ledger, view: LedgerView, checkpoint: Checkpoint
) -> Callable[[UseReceipt, PseudonymSet, bytes, int, int | None], dict[str, object]]:
    def prove(
        receipt: UseReceipt, members: PseudonymSet, leaf: bytes, index: int, decision: int | None
    ) -> dict[str, object]:
        _, opening = open_entry(view, ledger.vault, index)
        wanted = [index] if decision is None else [index, decision]
        proofs = ledger.log.prove_many(wanted, checkpoint)
        # The checkpoint stands in the report once; every proof leads to it.
        shown = [{k: v for k, v in proof.to_dict().items() if k != "checkpoint"} for proof in proofs]
        held = ReceiptProof(receipt, opening.salt, opening.payload, proofs[0]).to_dict()
        return {
            "receipt": {"salt": held["salt"], "payload": held["payload"], "entry": shown[0]},
            "leaf": base64.b64encode(leaf).decode(),
            "presence": members.prove_present(leaf).to_dict(),
            "decision": shown[1] if decision is not None else None,
        }

    return prove
