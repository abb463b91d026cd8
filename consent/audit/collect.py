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
    Scope,
)
from consent.audit.reading import first_since, leaves, people, published_policy, recorded_at, system_events
from consent.audit.timeline import LineTally, Stretches
from consent.audit.uses import UseAudit
from consent.checkpoint import Checkpoint
from consent.encoding import render_time, to_micros
from consent.events import EventType
from consent.history import fact_from, open_entry
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
        said = DecisionTally(first, ends, policy, chosen)
        done = 0
        for _, history in people(view, ledger.vault, end):
            decided = [e for e in history if "purpose" in e.body]
            state = lines.add([(fact_from(e.leaf, e.idx, e.body), e.leaf.recorded_at) for e in decided])
            said.add(decided, state)
            done += len(history)
            if done % 5_000 < len(history):
                tell("people", done, end)
        erasures, system = _system(ledger, view, first, end)
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
                opened=said.opened + system,
                erased=end - first - said.opened - system,
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
            signals=dict(sorted(said.signals.items())),
            articles=articles(chosen, types),
        )
        tell("uses", 1, 1)
        return found


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


def _system(ledger: Ledger, view: LedgerView, first: int, end: int) -> tuple[tuple[ErasureFact, ...], int]:
    """Erasures and restores of the period, and how many events of the system could be opened."""
    found, opened = [], 0
    for event in system_events(view, ledger.vault, first, end):
        opened += 1
        if event.leaf.type in _ERASURES:
            count = event.body.get("count")
            found.append(
                ErasureFact(
                    event.idx,
                    event.leaf.type,
                    render_time(event.leaf.recorded_at),
                    str(event.body.get("basis", "")),
                    count if isinstance(count, int) and not isinstance(count, bool) else 0,
                )
            )
    return tuple(found), opened


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
