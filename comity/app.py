"""The node over HTTP: every room's routes, problem documents, health, metrics and the OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

import sqlalchemy as sa
from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from clean_room.transport import CHUNK_BYTES
from comity import metrics as exposition
from comity.access import ROLES, authorise
from comity.config import is_loopback
from comity.errors import NotAuthenticated
from comity.guards import bearer
from comity.logs import log
from comity.loop_lag import LoopLag
from comity.middleware import BodyLimit, PartnerBodies, RequestContext, SignedAnswers, for_partners
from comity.node import Node
from comity.problems import CONTENT_TYPE, problem
from privacy.errors import BadInput, ComityError, Misuse, StorageError

__all__ = ["create_app"]

_THREADS = 128
_INVITATION = 1 << 16


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:comity:problem:budget_exhausted",
                "title": "Privacy budget exhausted",
                "status": 403,
                "detail": "The month's budget for this dataset and partner does not cover the question.",
                "code": "budget_exhausted",
                "retryable": False,
                "family": "budget_exhausted",
                "rule": "budget_exhausted",
                "instance": "urn:uuid:0d9f9a53-9d0c-4f1b-9a55-3c9f2a6f1c11",
            }
        }
    )
    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable and machine-readable.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    family: str = Field(description="The branch of the error tree.")
    rule: str | None = Field(default=None, description="The rule that said no, for refusals.")
    instance: str | None = Field(default=None, description="The request's id, as in the node's log.")
    errors: list[dict[str, str]] | None = Field(default=None, description="Where a request body is wrong.")


class NodeCard(BaseModel):
    """What anybody may know of a node: what a partner pins, and what verifies its log."""

    name: str = Field(examples=["bank"])
    version: str = Field(examples=["0.1.0"])
    public_key: str = Field(description="Ed25519, base64.")
    fingerprint: str
    log_origin: str = Field(examples=["bank.example/consent"])
    log_vkey: str = Field(description="C2SP verifier key of the log.")


class Health(BaseModel):
    """A state in a word."""

    status: str = Field(examples=["ok"])


def create_app(node: Node) -> FastAPI:
    """The ASGI application of a node. Its lifespan starts and stops the node's background work.

    The caller builds the node and closes it after the application has stopped.
    """

    lag = LoopLag()
    lag.measure(node.metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Partners' long polls each hold a thread for a while; the default of 40 would starve the rest.
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        watching = asyncio.create_task(lag.watch())
        try:
            await run_in_threadpool(node.start)
            try:
                yield
            finally:
                await run_in_threadpool(node.stop)
        finally:
            watching.cancel()

    app = FastAPI(
        title="Comity node",
        version=version("comity"),
        description="Consent, private joins and joint training between partners, under rules both signed.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        responses={"default": {"model": Problem, "description": "A problem (RFC 9457)."}},
    )
    most = node.config.server.max_body_bytes
    app.add_middleware(BodyLimit, limit=most)
    app.add_middleware(
        PartnerBodies,
        check_sender=node.guards.check_sender,
        limits=(
            ("/v1/peer/invitations", _INVITATION),
            ("/chunks/", CHUNK_BYTES),
            ("/v1/peer/training", most),
        ),
    )
    app.add_middleware(RequestContext, metrics=node.metrics)
    app.add_middleware(SignedAnswers, sign=node.sign_answer, public_url=node.config.public_url)
    _add_problems(app)
    for router in node.routers:
        app.include_router(router)
    _add_own_routes(app, node)
    _describe(app)
    return app


def _answer(request: Request, error: ComityError, **more: object) -> Response:
    request_id = getattr(request.state, "request_id", "")
    document = problem(
        error,
        instance=f"urn:uuid:{request_id}" if request_id else "",
        from_partner=for_partners(request.url.path),
    )
    headers = {"www-authenticate": "Bearer"} if document["status"] == 401 else {}
    if error.retryable:
        headers["retry-after"] = "1"
    status = int(str(document["status"]))
    if status >= 500:
        log.warning("request failed", code=error.code, kind=type(error).__name__)
    return JSONResponse({**document, **more}, status, headers, CONTENT_TYPE)


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(ComityError)
    def on_purpose(request: Request, error: ComityError) -> Response:
        return _answer(request, error)

    @app.exception_handler(sa.exc.SQLAlchemyError)
    def storage(request: Request, error: sa.exc.SQLAlchemyError) -> Response:
        log.error("database error", error=type(error).__name__)
        return _answer(
            request, StorageError("The database did not answer as it should.", advice="Try again.")
        )

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        if any(e["type"] == "json_invalid" for e in found):
            return _answer(request, Misuse("The request body is not JSON.", code="malformed_json"))
        # Neither the value given nor a key made up by the caller is echoed: both can be personal data.
        errors = [
            {"where": ".".join(str(part) for part in _place(e)), "what": str(e["type"]).replace("_", " ")}
            for e in found[:20]
        ]
        first = errors[0]
        detail = f"The request does not have the shape it should: {first['where']}: {first['what']}."
        return _answer(request, BadInput(detail, code="malformed_request"), errors=errors)

    @app.exception_handler(HTTPException)
    def by_status(_: Request, error: HTTPException) -> Response:
        known = {404: ("no_such_path", "Nothing lives at this path."),
                 405: ("method_not_allowed", "This path does not take that method.")}  # fmt: skip
        code, detail = known.get(error.status_code, ("http_error", "The request cannot be served."))
        document = problem(Misuse(detail, code=code)) | {"status": error.status_code}
        return JSONResponse(document, error.status_code, error.headers, CONTENT_TYPE)


def _place(error: dict[str, Any]) -> tuple[object, ...]:
    where = tuple(error.get("loc", ()))
    return where[:-1] if error["type"] == "extra_forbidden" else where


def _add_own_routes(app: FastAPI, node: Node) -> None:
    @app.get("/healthz", tags=["node"], summary="The process runs")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get("/readyz", tags=["node"], summary="The node can do its work")
    def readyz() -> Health:
        node.check_ready()
        return Health(status="ok")

    @app.get("/v1/node", tags=["node"], summary="Name, public key and log of this node")
    def card() -> NodeCard:
        return NodeCard(
            name=node.config.name,
            version=version("comity"),
            public_key=node.identity.key.public.to_text(),
            fingerprint=node.identity.key.public.fingerprint,
            log_origin=node.config.log_origin,
            log_vkey=node.log_vkey,
        )

    @app.get("/metrics", tags=["node"], summary="Prometheus metrics", response_class=PlainTextResponse)
    def page(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
    ) -> Response:
        # Free to a scraper on this machine; behind a proxy everybody looks like one.
        local = request.client is not None and is_loopback(request.client.host)
        if not local or node.config.server.behind_proxy:
            if credentials is None:
                raise NotAuthenticated("From elsewhere, metrics need an API key.")
            authorise(node.access.authenticate(credentials.credentials), ROLES, request.url.path)
        return PlainTextResponse(node.metrics.page(), media_type=exposition.CONTENT_TYPE)


def _describe(app: FastAPI) -> None:
    """Make the OpenAPI description say what is true: every error is a Problem, also FastAPI's own 422."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
                    default = operation["responses"].get("default", {})
                    if "content" in default:
                        default["content"] = {CONTENT_TYPE: next(iter(default["content"].values()))}
            for leftover in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(leftover, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]
