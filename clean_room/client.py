"""A typed client for one's own node: ask, follow, read results.

    with Comity("http://127.0.0.1:8440", api_key="comity-…") as node:
        job = node.ask(QueryIn(collaboration=…, dataset="customers", partner_dataset="shoppers",
                               purpose="overlap.reach"))
        print(node.wait(job.id).result["value"])

Errors of the node come back as the `ComityError` they stand for, with the same `code`.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from clean_room.jobs import TERMINAL
from clean_room.schemas import (
    AcceptIn,
    AmendIn,
    AmendmentAcceptIn,
    BudgetOut,
    CollaborationOut,
    DatasetOut,
    InviteIn,
    InviteOut,
    JobEvent,
    JobOut,
    PageOf,
    PreviewOut,
    QueryIn,
    ReceiptOut,
)
from consent.event_stream import EVENT_STREAM, events_of
from privacy.errors import (
    BadInput,
    BudgetExhausted,
    ComityError,
    Misuse,
    PeerUnreachable,
    PeerViolation,
    Refused,
    StorageError,
    Tampered,
)

__all__ = ["Comity", "failure_of"]

M = TypeVar("M", bound=BaseModel)
_EVENT = 1 << 16

_FAMILIES: dict[str, type[ComityError]] = {
    "bad_input": BadInput,
    "budget_exhausted": BudgetExhausted,
    "misuse": Misuse,
    "not_authenticated": Refused,
    "not_authorised": Refused,
    "peer_unreachable": PeerUnreachable,
    "peer_violation": PeerViolation,
    "refused": Refused,
    "storage_error": StorageError,
    "tampered": Tampered,
}
_ENDED: dict[str, type[ComityError]] = {
    "rejected": Refused,
    "failed": PeerViolation,
    "timed_out": PeerUnreachable,
}
_OWN_FAULT = frozenset(
    {
        "source_missing",
        "empty_input",
        "missing_column",
        "not_utf8",
        "unreadable_file",
        "no_usable_identifiers",
    }
)


class Comity:
    """One node over HTTP, as one bearer of an API key. A context manager; thread-safe.

    `transport` replaces the network (tests). Raises `PeerUnreachable` when the node does not answer.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        *,
        timeout: float = 30.0,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=timeout,
            verify=verify,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    # collaborations

    def invite(self, invitation: InviteIn) -> InviteOut:
        """Make a signed invitation; hand it to the partner unless it was delivered."""
        return self._one(InviteOut, "POST", "/v1/collaborations", invitation)

    def accept(self, acceptance: AcceptIn) -> CollaborationOut:
        """Accept an invitation."""
        return self._one(CollaborationOut, "POST", "/v1/collaborations:accept", acceptance)

    def collaborations(self) -> list[CollaborationOut]:
        """All agreements and invitations, oldest first."""
        return [_read(CollaborationOut, item) for item in self._call("GET", "/v1/collaborations")]

    def collaboration(self, collaboration: str) -> CollaborationOut:
        """One of them."""
        return self._one(CollaborationOut, "GET", f"/v1/collaborations/{collaboration}")

    def feeds(self) -> list[dict[str, Any]]:
        """Where the opt-out feed with each partner stands, both ways."""
        return list(self._call("GET", "/v1/optouts/status")["partners"])

    def rotate(self, collaboration: str) -> CollaborationOut:
        """Replace the key shared with the partner."""
        return self._one(CollaborationOut, "POST", f"/v1/collaborations/{collaboration}:rotate")

    def amend(self, collaboration: str, amendment: AmendIn) -> CollaborationOut:
        """Propose another version of an agreement to the partner's node."""
        return self._one(CollaborationOut, "POST", f"/v1/collaborations/{collaboration}:amend", amendment)

    def accept_amendment(self, collaboration: str, own: AmendmentAcceptIn) -> CollaborationOut:
        """Accept the version that the partner proposes."""
        path = f"/v1/collaborations/{collaboration}:accept-amendment"
        return self._one(CollaborationOut, "POST", path, own)

    def decline_amendment(self, collaboration: str) -> CollaborationOut:
        """Forget what has been proposed."""
        return self._one(CollaborationOut, "POST", f"/v1/collaborations/{collaboration}:decline-amendment")

    def leave(self, collaboration: str) -> CollaborationOut:
        """End an agreement."""
        return self._one(CollaborationOut, "POST", f"/v1/collaborations/{collaboration}:leave")

    # queries

    def preview(self, query: QueryIn) -> PreviewOut:
        """Cost and error bar, without asking anybody."""
        return self._one(PreviewOut, "POST", "/v1/overlap-queries:preview", query)

    def ask(self, query: QueryIn, *, idempotency_key: str | None = None) -> JobOut:
        """Submit a query. Without a key given, this call is one question however often it is retried."""
        key = {"idempotency-key": idempotency_key or uuid.uuid4().hex}
        return self._one(JobOut, "POST", "/v1/overlap-queries", query, headers=key)

    def job(self, job: str) -> JobOut:
        """Where a query stands."""
        return self._one(JobOut, "GET", f"/v1/overlap-queries/{job}")

    def jobs(self, *, limit: int = 50, cursor: str | None = None, role: str | None = None) -> PageOf:
        """A page of queries, newest first."""
        wanted = {"limit": limit, "cursor": cursor, "role": role}
        params = {name: value for name, value in wanted.items() if value is not None}
        return self._one(PageOf, "GET", "/v1/overlap-queries", params=params)

    def cancel(self, job: str) -> JobOut:
        """Stop a query."""
        return self._one(JobOut, "POST", f"/v1/overlap-queries/{job}:cancel")

    def approve(self, job: str, *, reason: str = "") -> JobOut:
        """Let a partner's query through."""
        return self._one(JobOut, "POST", f"/v1/overlap-queries/{job}:approve", _Said(reason=reason))

    def reject(self, job: str, *, reason: str) -> JobOut:
        """Refuse a partner's query; the analyst is shown the reason."""
        return self._one(JobOut, "POST", f"/v1/overlap-queries/{job}:reject", _Said(reason=reason))

    def events(self, job: str, *, last_event_id: str = "") -> Iterator[JobEvent]:
        """What changes about a query, as it does, until it has ended (or the node stops).

        Raises `PeerUnreachable` when the connection breaks; the query goes on.
        """
        path, limit = f"/v1/overlap-queries/{job}/events", httpx.Timeout(30.0)
        headers = {"accept": EVENT_STREAM, "last-event-id": last_event_id}
        try:
            with self._http.stream("GET", path, headers=headers, timeout=limit) as answer:
                if not answer.is_success:
                    answer.read()
                    raise _problem(answer.status_code, _object(answer))
                for data in events_of(answer.iter_bytes(), limit=_EVENT):
                    yield _read(JobEvent, _parsed(data))
        except httpx.HTTPError as error:
            raise PeerUnreachable(f"the node does not answer ({type(error).__name__}).") from None

    def follow(self, job: str, *, seen: Callable[[JobEvent | JobOut], None] | None = None) -> JobOut:
        """As `wait`, by the node's events where they get through, else by asking now and then."""
        with contextlib.suppress(ComityError):
            for event in self.events(job):
                if seen is not None:
                    seen(event)
        return self.wait(job, seen=seen)

    def wait(
        self,
        job: str,
        *,
        timeout: float = 3600.0,
        pause: float = 0.5,
        seen: Callable[[JobOut], None] | Callable[[JobEvent | JobOut], None] | None = None,
    ) -> JobOut:
        """Follow a query to its end and return it, whatever the end; `seen` is called with every look.

        Raises `PeerUnreachable` after `timeout` seconds; the query goes on.
        """
        deadline, wait = time.monotonic() + timeout, min(0.05, pause)
        while True:
            found = self.job(job)
            if seen is not None:
                seen(found)
            if found.state in TERMINAL:
                return found
            if time.monotonic() > deadline:
                raise PeerUnreachable("the query is still running; ask for it again later.", code="timed_out")
            time.sleep(wait)
            wait = min(pause, wait * 1.5)

    # activations

    def activation(self, job: str, form: str = "csv") -> bytes:
        """The analyst's half of an activation as a file, `csv` or `parquet`: publisher_id, base64."""
        return self._file(f"/v1/overlap-queries/{job}/activation", form)

    def activation_map(self, job: str, form: str = "csv") -> bytes:
        """The contributor's half: row (place in the dataset's source, from 0), publisher_id."""
        return self._file(f"/v1/overlap-queries/{job}/activation-map", form)

    def rotate_ids(self, collaboration: str) -> dict[str, Any]:
        """Make ids of later activations unlinkable to earlier ones."""
        return dict(self._call("POST", f"/v1/collaborations/{collaboration}:rotate-ids"))

    def _file(self, path: str, form: str) -> bytes:
        answer = self._answer("GET", path, params={"format": form}, timeout=300.0)
        if answer.is_success:
            return answer.content
        raise _refusal(answer)

    # look-ups

    def datasets(self) -> list[DatasetOut]:
        """This node's datasets."""
        return [_read(DatasetOut, item) for item in self._call("GET", "/v1/datasets")]

    def budgets(self) -> list[BudgetOut]:
        """What partners have spent."""
        return [_read(BudgetOut, item) for item in self._call("GET", "/v1/budgets")]

    def receipt(self, receipt: str) -> ReceiptOut:
        """A two-sided receipt."""
        return self._one(ReceiptOut, "GET", f"/v1/joint-receipts/{receipt}")

    def _one(self, shape: type[M], method: str, path: str, body: BaseModel | None = None, **more: Any) -> M:
        return _read(shape, self._call(method, path, body, **more))

    def _call(self, method: str, path: str, body: BaseModel | None = None, **more: Any) -> Any:
        if body is not None:
            more["json"] = body.model_dump(mode="json")
        answer = self._answer(method, path, **more)
        if not answer.is_success:
            raise _refusal(answer)
        try:
            return answer.json()
        except ValueError:
            raise PeerViolation(f"the node answered with status {answer.status_code} and no JSON.") from None

    def _answer(self, method: str, path: str, **more: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise PeerUnreachable(
                f"the node does not answer ({type(error).__name__}).", advice="Is `comity serve` running?"
            ) from None


def _refusal(answer: httpx.Response) -> ComityError:
    try:
        document = answer.json()
    except ValueError:
        return PeerViolation(f"the node answered with status {answer.status_code} and no JSON.")
    return _problem(answer.status_code, document if isinstance(document, Mapping) else {})


def failure_of(job: JobOut) -> ComityError | None:
    """The error that a job's end stands for; None for one that succeeded or still runs."""
    if job.state == "cancelled":
        return Refused("the query was cancelled.", code="cancelled")
    kind = _ENDED.get(job.state)
    if kind is None:
        return None
    said = job.error or {}
    code = str(said.get("code", job.state))
    if code == PeerUnreachable.code:
        kind = PeerUnreachable
    elif code in _OWN_FAULT:
        kind = BadInput
    elif code == Tampered.code:
        kind = Tampered
    return kind(str(said.get("detail") or "the query failed."), advice=str(said.get("advice", "")), code=code)


class _Said(BaseModel):
    reason: str


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        raise PeerViolation("the node sent an event that is not JSON.") from None


def _object(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, Mapping) else {}


def _problem(status: int, document: Mapping[str, Any]) -> ComityError:
    kind = _FAMILIES.get(str(document.get("family")), StorageError if status >= 500 else Misuse)
    detail = str(document.get("detail") or f"the node answered with status {status}.")
    return kind(detail, code=str(document.get("code") or kind.code))


def _read(shape: type[M], document: object) -> M:
    try:
        return shape.model_validate(document)
    except ValidationError:
        raise PeerViolation("the node's answer does not have the shape it should.") from None
