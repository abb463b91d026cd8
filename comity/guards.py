"""FastAPI dependencies that establish who calls: a person by API key, or a partner by signature.

Implements `consent.api.Guards`, which the routers of every room are handed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from comity.access import ROLES, AccessKeys, authorise
from comity.errors import NotAuthenticated
from comity.identity import RequestVerifier

__all__ = ["NodeGuards", "bearer"]

bearer = HTTPBearer(
    auto_error=False, scheme_name="ApiKey", description="An API key made by `comity access create`."
)
_signature = APIKeyHeader(
    name="Signature",
    auto_error=False,
    scheme_name="PartnerSignature",
    description="RFC 9421 signature with the partner's pinned Ed25519 key, tag `comity`, covering @method, "
    "@authority, @path, @query, content-type and content-digest (RFC 9530).",
)


class NodeGuards:
    """Guards backed by the node's API keys and its partners' pinned keys."""

    def __init__(self, access: AccessKeys, verifier: RequestVerifier) -> None:
        self._access = access
        self._verifier = verifier

    def role(self, *roles: str) -> Callable[..., str]:
        """A dependency that returns the name of an API key holding one of `roles` (admin always passes)."""
        unknown = set(roles) - set(ROLES)
        if unknown:
            raise ValueError(f"unknown roles: {sorted(unknown)}")

        def principal(
            request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
        ) -> str:
            if credentials is None:
                raise NotAuthenticated(
                    "This call needs an API key.", advice="Send one as: Authorization: Bearer comity-…"
                )
            key = self._access.authenticate(credentials.credentials)
            return authorise(key, roles, request.url.path)

        return principal

    def partner(self) -> Callable[..., str]:
        """A dependency that returns the name of the partner who signed the request."""

        async def signer(request: Request, _declared: Annotated[str | None, Depends(_signature)]) -> str:
            body = await request.body()
            target, lines = _head(request.scope)
            return await run_in_threadpool(self._verifier.request, request.method, target, lines, body)

        # FastAPI awaits it: to a handler it is the name.
        return cast(Callable[..., str], signer)

    async def check_sender(self, scope: Scope) -> None:
        """Raise `NotAuthenticated` unless a pinned partner signed the head of a request; reads no body."""
        target, lines = _head(scope)
        await run_in_threadpool(self._verifier.sender, scope["method"], target, lines)


def _head(scope: Scope) -> tuple[str, list[tuple[str, str]]]:
    """The request's target and its header lines, as they came over the wire."""
    target = scope.get("raw_path", b"").decode("ascii", "replace") or scope["path"]
    if scope["query_string"]:
        target += "?" + scope["query_string"].decode("ascii", "replace")
    return target, [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
