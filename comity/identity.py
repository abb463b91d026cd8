"""Who this node is, and how requests between nodes are signed and checked (RFC 9421, RFC 9530).

A node has one Ed25519 key. Each request to a partner carries a `Content-Digest` (sha-256) and one signature
over `@method @authority @path @query content-type content-digest` with `created`, a random `nonce`, and the
sender's name as `keyid`. The receiver checks it against the key pinned for that name, against *its own*
authority (so that a request to one node is worth nothing at another), within a window of clock skew, and
refuses a nonce it has seen. Responses are signed too and cover the request's signature (RFC 9421 §2.4), so
an answer cannot be moved to another question.
"""

from __future__ import annotations

import base64
import datetime as dt
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    algorithms,
)

from comity.errors import NotAuthenticated
from privacy.errors import PeerViolation
from privacy.signing import SigningKey

__all__ = ["Identity", "Nonces", "PartnerKeys", "RequestVerifier", "SignedRequest", "check_answer"]

Clock = Callable[[], dt.datetime]
Random = Callable[[int], bytes]

_TAG = "comity"
_NONCE = re.compile(r"[A-Za-z0-9_\-]{16,64}")
_REQUEST_COVERS = ("@method", "@authority", "@path", "@query", "content-type", "content-digest")
_RESPONSE_COVERS = (
    '"@status"',
    '"content-type"',
    '"content-digest"',
    '"@method";req',
    '"@authority";req',
    '"@path";req',
    '"signature";req',
)
_ONCE = ("signature", "signature-input", "content-digest", "content-type")


class PartnerKeys(Protocol):
    """The pinned keys, looked up by partner name. Thread-safe; an answer may change between calls."""

    def public_key(self, partner: str) -> bytes | None:
        """The partner's 32-byte Ed25519 key, or None where no collaboration pins one."""


class Nonces(Protocol):
    """Remembers nonces, durably and atomically: of two concurrent calls for one exactly one is first."""

    def first_use(self, partner: str, nonce: str, *, now: int, expires_at: int) -> bool:
        """Record the nonce and say whether it was new. Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it goes out or came in: what its signature and that of its answer are bound to."""

    method: str
    url: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's name and key."""

    name: str
    key: SigningKey = field(repr=False)

    def sign_request(
        self, method: str, url: str, body: bytes, *, content_type: str, clock: Clock, random: Random
    ) -> SignedRequest:
        """The request with its `Content-Digest`, `Signature-Input` and `Signature` headers."""
        message = _Message(method=method, url=url, headers={"content-type": content_type})
        self._sign(
            message,
            _REQUEST_COVERS,
            body,
            clock(),
            nonce=base64.urlsafe_b64encode(random(18)).decode(),
        )
        return SignedRequest(method, url, {k.lower(): v for k, v in message.headers.items()})

    def sign_response(
        self, request: SignedRequest, status: int, content_type: str, body: bytes, *, clock: Clock
    ) -> dict[str, str]:
        """Headers to add to the response: digest and signature, bound to `request`'s own signature."""
        message = _Response(
            status_code=status,
            headers={"content-type": content_type},
            request=_Message(request.method, request.url, dict(request.headers)),
        )
        self._sign(message, _RESPONSE_COVERS, body, clock())
        return {k.lower(): v for k, v in message.headers.items() if k.lower() != "content-type"}

    def _sign(
        self,
        message: _Message | _Response,
        covers: tuple[str, ...],
        body: bytes,
        created: dt.datetime,
        nonce: str | None = None,
    ) -> None:
        signer = HTTPMessageSigner(signature_algorithm=algorithms.ED25519)
        prepared = signer.prepare(
            message,
            key_id=self.name,
            created=created,
            nonce=nonce,
            label=_TAG,
            tag=_TAG,
            covered_component_ids=covers,
            body=body,
        )
        signer.apply(message, prepared, self.key.sign_raw(prepared.signature_base))


@dataclass(frozen=True)
class RequestVerifier:
    """Checks requests addressed to this node, which partners know as `public_url`."""

    public_url: str
    keys: PartnerKeys
    nonces: Nonces
    clock: Clock
    skew: dt.timedelta = dt.timedelta(seconds=60)

    def request(self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes) -> str:
        """The name of the partner who signed this request.

        `target` is the path with its query as it came over the wire. Raises `NotAuthenticated` with code
        `signature_missing`, `signature_invalid`, `unknown_key`, `clock_skew` or `replayed_request`.
        """
        partner, created, nonce = self._signed(method, target, headers, body)
        now, skew = self.clock(), int(self.skew.total_seconds())
        # Past created + skew the window above refuses the request whether or not the nonce is remembered.
        if not self.nonces.first_use(partner, nonce, now=int(now.timestamp()), expires_at=created + 2 * skew):
            raise _refused("replayed_request", "This very request was received before.")
        return partner

    def sender(self, method: str, target: str, headers: Iterable[tuple[str, str]]) -> str:
        """Who signed the head of a request whose body has not been read; as `request`, but for the digest of
        the body and for replays, which are `request`'s to find."""
        return self._signed(method, target, headers, None)[0]

    def _signed(
        self, method: str, target: str, headers: Iterable[tuple[str, str]], body: bytes | None
    ) -> tuple[str, int, str]:
        lines = [(name.lower(), value) for name, value in headers]
        for name in _ONCE:
            count = sum(1 for n, _ in lines if n == name)
            if count == 0:
                raise _refused("signature_missing", f"The request carries no {name} header.")
            if count > 1:
                raise _refused("signature_invalid", f"The request carries more than one {name} header.")
        message = _Message(method, self.public_url + target, _Lines(lines))
        verifier = _Verifier(self.keys)
        try:
            (result,) = verifier.verify(
                message, max_age=None, expect_tag=_TAG, require_components=_REQUEST_COVERS, body=body
            )
        except _UnknownKey:
            raise _refused(
                "unknown_key",
                "No collaboration of this node pins a key for the request's keyid.",
                "Agree a collaboration first; its invitation carries the key.",
            ) from None
        except (HTTPMessageSignaturesException, ValueError, TypeError):
            raise _refused(
                "signature_invalid",
                "The request's signature or body digest does not hold.",
                f"It must be made with the pinned key and for {self.public_url}.",
            ) from None
        partner, nonce = str(result.parameters["keyid"]), result.nonce
        created, now = int(result.parameters["created"]), self.clock()
        skew = int(self.skew.total_seconds())
        if abs(now.timestamp() - created) > skew:
            raise _refused(
                "clock_skew",
                f"The request was signed more than {skew} seconds away from this node's clock.",
                "Set both clocks by NTP.",
            )
        if nonce is None or not _NONCE.fullmatch(nonce):
            raise _refused("signature_invalid", "The request's signature carries no usable nonce.")
        return partner, created, nonce


def check_answer(
    partner: str,
    public_key: bytes,
    request: SignedRequest,
    *,
    status: int,
    headers: Iterable[tuple[str, str]],
    body: bytes,
) -> None:
    """Raise `PeerViolation` (code `response_signature_invalid`) unless `partner` answered `request` so.

    No clock is asked: the answer is bound to the request's signature, and that to a fresh nonce.
    """
    lines = [(name.lower(), value) for name, value in headers]
    message = _Response(status, _Lines(lines), _Message(request.method, request.url, dict(request.headers)))
    try:
        (result,) = _Verifier(_OneKey(partner, public_key)).verify(
            message, max_age=None, expect_tag=_TAG, require_components=_RESPONSE_COVERS, body=body
        )
    except (_UnknownKey, HTTPMessageSignaturesException, ValueError, TypeError):
        result = None
    if result is None or any(sum(1 for n, _ in lines if n == name) != 1 for name in _ONCE):
        raise PeerViolation(
            f"The answer of {partner} is not signed with its pinned key.",
            advice="Check that its address leads to the right node and compare key fingerprints.",
            code="response_signature_invalid",
        )


@dataclass(frozen=True)
class _OneKey:
    partner: str
    key: bytes

    def public_key(self, partner: str) -> bytes | None:
        return self.key if partner == self.partner else None


class _UnknownKey(Exception):
    pass


class _Keys(HTTPSignatureKeyResolver):
    def __init__(self, keys: PartnerKeys) -> None:
        self._keys = keys

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        raw = self._keys.public_key(key_id)
        return None if raw is None else Ed25519PublicKey.from_public_bytes(raw)


class _Verifier(HTTPMessageVerifier):
    """The library's verifier without its own clock: `created` is judged by the caller's."""

    def __init__(self, keys: PartnerKeys) -> None:
        self._keys = _Keys(keys)
        super().__init__(signature_algorithm=algorithms.ED25519, key_resolver=self._keys)

    def validate_created_and_expires(self, sig_input: Any, max_age: dt.timedelta | None = None) -> None:  # noqa: ARG002
        if "created" not in sig_input.params or "expires" in sig_input.params:
            raise HTTPMessageSignaturesException("created is required and expires is not used")
        key_id = sig_input.params.get("keyid")
        if isinstance(key_id, str) and self._keys.resolve_public_key(key_id) is None:
            raise _UnknownKey


@dataclass
class _Message:
    method: str
    url: str
    headers: Any


@dataclass
class _Response:
    status_code: int
    headers: Any
    request: _Message


class _Lines:
    """Header lines in order, duplicates kept: the shape the library reads."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self._lines = lines

    def items(self) -> list[tuple[str, str]]:
        return self._lines


def _refused(code: str, detail: str, advice: str = "") -> NotAuthenticated:
    return NotAuthenticated(detail, advice=advice, code=code)
