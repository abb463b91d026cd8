"""Previews with all that this node knows or can find out: `foresight` over the node's own records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from clean_room.attacks import Part, parts_of
from clean_room.budgets import Accounts
from clean_room.collaboration import Collaborations
from clean_room.datasets import Catalogue
from clean_room.foresight import Engine, Known, foreseen
from clean_room.history import COMPARED, DifferencingRisk
from clean_room.inputs import prepare
from clean_room.jobs import Job, JobState, Query, Role
from clean_room.noise import NoiseSource, plan
from clean_room.repeats import Repeats
from clean_room.rules import Asked
from clean_room.storage import Store
from clean_room.transport import post_document
from privacy.budget import BudgetLedger
from privacy.errors import ComityError, Refused
from privacy.signing import SigningKey

if TYPE_CHECKING:
    from consent.gate import ConsentGate

__all__ = ["Previewing"]

_LOOKED_AT = 50
_MOST_COMPARED = 2_000_000


class Previewing:
    """Completes previews of one node, and answers its partners' questions for them."""

    def __init__(
        self,
        store: Store,
        *,
        collaborations: Collaborations,
        catalogue: Catalogue,
        gate: ConsentGate,
        accounts: Accounts,
        budget: BudgetLedger,
        repeats: Repeats,
        identity: SigningKey,
        engine: Engine,
        noise: NoiseSource,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._collaborations = collaborations
        self._catalogue = catalogue
        self._gate = gate
        self._accounts = accounts
        self._budget = budget
        self._repeats = repeats
        self._identity = identity
        self._engine = engine
        self._noise = noise
        self._clock = clock

    def __call__(self, asked: Asked, document: dict[str, Any]) -> dict[str, Any]:
        """`document` with what `foresight` adds, and with what this month's questions mean for this one."""
        parts, met = self._met(asked, document)
        people, rate = self._last(asked.query)
        known = Known(self._left(asked.query), people, rate, parts)
        more = foreseen(asked, plan(asked, self._noise), document, known, self._engine)
        return document | more | met

    def left_for(self, partner: str, collaboration: str, dataset: str) -> float:
        """ε a partner has left of an agreed dataset this month."""
        agreement = self._collaborations.agreement(collaboration)
        pin = self._collaborations.partner(collaboration)
        me = agreement.of_key(self._identity.public.to_text()).name
        if pin.name != partner or agreement.offer(me, dataset) is None:
            raise Refused("that dataset is not agreed with this partner.", code="dataset_not_agreed")
        lineage = self._catalogue[dataset].lineage
        key = self._accounts.peek(lineage, pin, self._clock().strftime("%Y-%m"))
        for status in self._budget.status(lineage):
            if status.key == key:
                return status.remaining.epsilon
        return self._budget.limit_of(key).epsilon

    def _left(self, query: Query) -> float | None:
        path = (
            f"/v1/peer/collaborations/{query.collaboration}/budgets/{quote(query.partner_dataset, safe='')}"
        )
        try:
            connection = self._collaborations.connection(query.collaboration)
            answer = post_document(connection, path, {}, method="GET")
        except ComityError:
            return None  # away, or of a version that does not tell
        left = answer.get("epsilon_left")
        if not isinstance(left, int | float) or isinstance(left, bool) or left < 0:
            return None
        return float(left)

    def _last(self, query: Query) -> tuple[int | None, float | None]:
        """The partner's size class, and the share that matched, when it was last asked about this list."""
        jobs, _ = self._store.jobs.page(role=Role.ANALYST, limit=_LOOKED_AT)
        like = [
            job
            for job in jobs
            if job.state is JobState.SUCCEEDED
            and (job.query.collaboration, job.query.partner_dataset, job.query.partner_segment)
            == (query.collaboration, query.partner_dataset, query.partner_segment)
        ]
        people = next((size for job in like if (size := self._size(job)) is not None), None)
        rate = next((rate for job in like if (rate := _rate(job.result)) is not None), None)
        return people, rate

    def _size(self, job: Job) -> int | None:
        row = None if job.receipt_id is None else self._store.receipts.get(job.receipt_id)
        side = {} if row is None else row.document.get("body", {}).get("contributor", {})
        sizes = side.get("padded_sizes")
        return sum(sizes) if isinstance(sizes, list) and job.query.kind != "estimate" else None

    def _met(self, asked: Asked, document: Mapping[str, Any]) -> tuple[list[Part], dict[str, Any]]:
        """Own groups counted this month, this one with them; and whether it repeats one or is too close."""
        query = asked.query
        if query.kind not in COMPARED or query.kind == "estimate" or document["people"] > _MOST_COMPARED:
            return [], {}
        with contextlib.suppress(ComityError):
            pin = self._collaborations.partner(query.collaboration)
            given = prepare(
                self._catalogue[query.dataset],
                self._gate,
                kind=query.key,
                purpose=query.purpose,
                also_for=query.also_for,
                partner=pin.name,
                profile=asked.agreement.terms.key_profile,
                dimensions=query.dimensions,
                segment=query.segment,
                fallbacks=query.fallback_keys,
            )
            prepared = self._repeats.prepared(
                "preview", asked, given, role=Role.ANALYST, partner=pin.key.to_text()
            )
            if prepared is None:
                return [], {}
            history = self._repeats.history
            met: dict[str, Any] = {"allowed": given.size}
            earlier = [
                part
                for _, fingerprint in history.earlier(prepared.question)
                for part in parts_of(fingerprint)
            ]
            try:
                seen = history.foresee(prepared)
            except DifferencingRisk as risk:
                met["too_close_to"] = risk.job
                seen = None
            if seen is not None:
                met["repeats"] = seen.job
                return earlier, met
            columns = document["cells"] // max(1, prepared.fingerprint.groups)
            proposed = [
                replace(part, noises=part.noises * columns) for part in parts_of(prepared.fingerprint)
            ]
            return [*earlier, *proposed], met
        return [], {}


def _rate(result: Mapping[str, Any] | None) -> float | None:
    """The share of own people that matched, of a result that tells it."""
    if result is None or result.get("suppressed", True) or result.get("capped"):
        return None
    value, people = result.get("count", result.get("value")), result.get("people")
    if not isinstance(value, int | float) or not isinstance(people, int) or people <= 0:
        return None
    return float(value) / people
