"""What this room needs of the network and of the agreements with partners.

The contracts are stated here, beside their consumers; the rooms above satisfy them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["PairKeys", "PeerConnection", "PeerResponse"]


@dataclass(frozen=True, slots=True)
class PeerResponse:
    """A partner's answer; `status` is always 2xx."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class PeerConnection(Protocol):
    """A line to one partner's node. Thread-safe and synchronous."""

    @property
    def partner(self) -> str:
        """The partner's name, as this node knows it."""
        ...

    def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        content_type: str = "application/octet-stream",
        timeout: float = 30.0,
    ) -> PeerResponse:
        """One signed request (RFC 9421, body digest per RFC 9530).

        Raises PeerUnreachable when no answer came. A problem document comes back re-raised as the error
        of its `code` (Refused, PeerViolation, …); every other answer returned here is 2xx.
        """
        ...

    def stream(
        self, path: str, *, accept: str, idle: float = 10.0
    ) -> AbstractContextManager[Iterator[bytes]]:
        """One signed GET whose 200 answer is read while it is being made; iterate the chunks inside.

        Such an answer carries no signature of its own: what comes in it must. Leaving the block ends the
        connection. Raises PeerUnreachable when no answer came, when nothing came for `idle` seconds, and
        when the connection broke; ends quietly when the partner ended it. Other answers are treated as by
        `request`; one of another media type than `accept` is a PeerViolation (`not_a_stream`).
        """
        ...


class PairKeys(Protocol):
    """Where the key shared with a partner comes from: the collaboration both sides signed."""

    def pair_key(self, partner: str) -> bytes | None:
        """32 bytes known to this node and `partner` only, or None when no agreement is in force."""
        ...

    def pair_keys(self, partner: str) -> Sequence[bytes]:
        """The keys under which the partner may have named somebody, the one in use first; empty for none.

        Keys that were replaced stay among them for as long as the agreement lasts, because somebody erased
        at the partner cannot be named anew. Empty, too, while a replacement is not settled between the two.
        """
        ...
