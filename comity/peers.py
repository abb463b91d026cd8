"""Connections to partner nodes: signed requests over httpx, checked answers, one family of errors."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from clean_room.addresses import check_address
from comity.identity import Identity, SignedRequest, check_answer
from comity.problems import from_problem
from consent.peers import PeerConnection, PeerResponse
from privacy.errors import Misuse, PeerUnreachable, PeerViolation
from privacy.signing import PublicKey

__all__ = ["HttpPeer", "Peers", "Pin"]

_PROBLEM = "application/problem+json"
_NO_BODY = "application/octet-stream"
# What a gateway in front of a partner says in its stead; such answers cannot carry the partner's signature.
_GATEWAY_STATUS = frozenset({502, 503, 504})


class Pin(Protocol):
    """A partner as a collaboration pins it: name, base URL, key."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def key(self) -> PublicKey: ...


@dataclass(frozen=True)
class HttpPeer:
    """One partner over HTTP. Implements `consent.peers.PeerConnection`; safe to share between threads."""

    partner: str
    base_url: str
    key: PublicKey
    identity: Identity
    client: httpx.Client
    clock: Callable[[], dt.datetime]
    random: Callable[[int], bytes]
    max_response_bytes: int

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        timeout: float = 30.0,
    ) -> PeerResponse:
        """One signed request and its checked answer.

        Raises `PeerUnreachable` (no connection, no answer in `timeout` seconds, or a gateway's refusal);
        `PeerViolation` for an answer that is too large, a redirect, or not signed by the pinned key; and
        for a problem document the error it stands for, with the same code.
        """
        url = self._url(path)
        body = bytes(body)  # callers may hand over a view of a larger buffer
        signed = self.identity.sign_request(
            method, url, body, content_type=content_type, clock=self.clock, random=self.random
        )
        status, lines, answer = self._exchange(method, url, dict(signed.headers), body, timeout)
        return self._checked(signed, status, lines, answer)

    @contextmanager
    def stream(self, path: str, *, accept: str, idle: float = 10.0) -> Iterator[Iterator[bytes]]:
        """As `PeerConnection.stream`."""
        url = self._url(path)
        signed = self.identity.sign_request(
            "GET", url, b"", content_type=_NO_BODY, clock=self.clock, random=self.random
        )
        headers = {**signed.headers, "accept": accept}
        with self._network(idle), self.client.stream("GET", url, headers=headers, timeout=idle) as response:
            kind = response.headers.get("content-type", "").partition(";")[0].strip()
            if response.status_code == 200 and kind == accept:
                yield response.iter_raw()
                return
            lines = [(name.lower(), value) for name, value in response.headers.multi_items()]
            self._checked(signed, response.status_code, lines, self._whole(response))
        raise PeerViolation(f"{self.partner} does not answer with a stream.", code="not_a_stream")

    def _url(self, path: str) -> str:
        if not path.startswith("/") or not path.isascii() or "#" in path:
            raise Misuse("A path to a partner starts with a slash and is ASCII, without a fragment.")
        return self.base_url.rstrip("/") + path

    def _checked(
        self, signed: SignedRequest, status: int, lines: list[tuple[str, str]], answer: bytes
    ) -> PeerResponse:
        headers = dict(lines)
        if status in _GATEWAY_STATUS and "signature" not in headers:
            raise PeerUnreachable(f"{self.partner} is behind a gateway that does not reach it ({status}).")
        check_answer(self.partner, self.key.bytes32, signed, status=status, headers=lines, body=answer)
        if 200 <= status < 300:
            return PeerResponse(status, headers, answer)
        if headers.get("content-type", "").partition(";")[0].strip() == _PROBLEM:
            raise from_problem(self.partner, status, _document(answer))
        raise PeerViolation(f"{self.partner} answered with status {status} and no problem document.")

    def _exchange(
        self, method: str, url: str, headers: dict[str, str], body: bytes, timeout: float
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        with (
            self._network(timeout),
            self.client.stream(method, url, headers=headers, content=body, timeout=timeout) as response,
        ):
            received = self._whole(response)
            lines = [(name.lower(), value) for name, value in response.headers.multi_items()]
            return response.status_code, lines, received

    def _whole(self, response: httpx.Response) -> bytes:
        received = bytearray()
        for chunk in response.iter_raw():
            received += chunk
            if len(received) > self.max_response_bytes:
                raise PeerViolation(
                    f"The answer of {self.partner} is larger than {self.max_response_bytes} bytes.",
                    code="response_too_large",
                )
        return bytes(received)

    @contextmanager
    def _network(self, timeout: float) -> Iterator[None]:
        """What goes wrong on the way to a partner and back, as PeerUnreachable."""
        try:
            yield
        except httpx.TimeoutException:
            raise PeerUnreachable(
                f"{self.partner} did not answer within {timeout:g} seconds.", advice="Try again later."
            ) from None
        except httpx.HTTPError as e:
            raise PeerUnreachable(
                f"{self.partner} cannot be reached at {urlsplit(self.base_url).netloc} ({type(e).__name__}).",
                advice="Check that its node runs and that its address in the collaboration is right.",
            ) from None


class Peers:
    """Makes connections to pinned partners; they share one pool of sockets."""

    def __init__(
        self,
        *,
        identity: Identity,
        clock: Callable[[], dt.datetime],
        random: Callable[[int], bytes],
        max_response_bytes: int,
        ca_certificates: str = "",
    ) -> None:
        context: ssl.SSLContext | bool = (
            ssl.create_default_context(cafile=ca_certificates) if ca_certificates else True
        )
        # A partner is reached at its agreed address only: no proxies from the environment, no redirects.
        self._client = httpx.Client(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=16, keepalive_expiry=20.0),
            headers={"user-agent": "comity", "accept-encoding": "identity"},
        )
        self._identity = identity
        self._clock = clock
        self._random = random
        self._max_response_bytes = max_response_bytes

    def connect(self, pin: Pin) -> PeerConnection:
        """A connection to a partner; nothing is sent yet. Raises `Misuse` for an address without TLS."""
        check_address(pin.url)
        return HttpPeer(
            pin.name,
            pin.url,
            pin.key,
            self._identity,
            self._client,
            self._clock,
            self._random,
            self._max_response_bytes,
        )

    def close(self) -> None:
        """Close every connection; later requests fail."""
        self._client.close()


def _document(body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
