"""What every endpoint of this room shares: who may call, how much is read, what an error may say.

Request bodies are limited before they are read, and an error about a body names fields, never values:
what stands in them is personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from consent import schemas
from consent.errors import TooLarge
from consent.events import Identifier
from privacy.errors import BadInput
from privacy.identifiers import Kind, Rejected, canonical

__all__ = ["CarefulRoute", "Guards", "identifiers_of"]

MAX_BODY = 4 << 20
"""Bytes of a request body."""


class Guards(Protocol):
    """FastAPI dependencies that establish who calls; the roof supplies them."""

    def role(self, *roles: str) -> Callable[..., str]:
        """A dependency that returns the principal's name, or answers 401 or 403.

        Roles: analyst, data_steward, compliance_officer, admin; admin always passes.
        """
        ...

    def partner(self) -> Callable[..., str]:
        """A dependency that returns the authenticated partner's name.

        The request's signature and body digest have been verified by then, and a replay refused.
        """
        ...


class _LimitedRequest(Request):
    """A request whose body is read up to a limit, whatever its Content-Length says."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            parts, size = [], 0
            async for part in self.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise TooLarge(f"A request body is at most {MAX_BODY} bytes.")
                parts.append(part)
            self._body = b"".join(parts)
        return self._body


class CarefulRoute(APIRoute):
    """Limits bodies and turns validation errors into BadInput without the values."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            declared = request.headers.get("content-length", "0")
            if declared.isdigit() and int(declared) > MAX_BODY:
                raise TooLarge(f"A request body is at most {MAX_BODY} bytes.")
            limited = _LimitedRequest(request.scope, request.receive)
            # Read here: what fails while FastAPI reads a body comes out as its own answer.
            await limited.body()
            try:
                return await inner(limited)
            except HTTPException as error:
                # Any other failure of the JSON reader (not UTF-8, nested too deeply) has this form.
                if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
                    raise BadInput("The request body cannot be read as JSON.") from None
                raise
            except RequestValidationError as error:
                wrong = "; ".join(f"{_place(found)}: {found['type']}" for found in list(error.errors())[:5])
                raise BadInput(f"The request does not have the expected shape ({wrong[:300]}).") from None

        return handler


def _place(found: Any) -> str:
    # A field name the caller made up is a value too, and is left out.
    loc = found["loc"][:-1] if found["type"] == "extra_forbidden" else found["loc"]
    return ".".join(str(part) for part in loc[:6])


def identifiers_of(person: schemas.Person, region: str, place: int = 0) -> tuple[Identifier, ...]:
    """The canonical identifiers of the person in item `place` of a request.

    `region` is where telephone numbers without a country code belong. Raises BadInput without the values.
    """
    found = []
    for kind, text in ((Kind.EMAIL, person.email), (Kind.PHONE, person.phone)):
        if text is None:
            continue
        made = canonical(kind, text, region=region)
        if isinstance(made, Rejected):
            raise BadInput(
                f"Item {place}: the {kind.value} is not one ({made.reason}).", code="bad_identifier"
            )
        found.append(Identifier(kind.value, made))
    if not found:
        raise BadInput(
            f"Item {place}: an e-mail address or a telephone number is needed.", code="no_identifier"
        )
    return tuple(found)
