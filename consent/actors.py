"""Signatures of those who act: the person's own device, a guardian, an agent, an authority.

What is signed (Ed25519, context `consent.actor`) is the RFC 8785 JSON of the decision:

    {"about": [[kind, base64 of the canonical identifier], …], "actor", "basis", "effective_at",
     "expires_at" (if any), "partner", "purpose", "purpose_version", "type", and every term set but
     `actor_key` and `actor_signature`}

with `about` sorted. Version and time must therefore be given by the actor. The statement itself is not
kept: the sealed payload and the sealed identifiers give it back, so that the signature can be checked again.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace

from consent.encoding import canonical_json, render_time, to_micros
from consent.errors import InvalidConsent
from consent.events import Event
from consent.terms import ConsentTerms, plain
from privacy.errors import Tampered
from privacy.signing import SigningKey

__all__ = ["CONTEXT", "signed_by_actor", "statement", "verify_actor"]

CONTEXT = "consent.actor"


def statement(event: Event) -> bytes:
    """The bytes an actor signs. Raises InvalidConsent for an event without version or time of its own."""
    if event.purpose_version is None or event.effective_at is None:
        raise InvalidConsent(
            "A signed decision names the version of its purpose and the time it takes effect.",
            code="bad_actor_signature",
            rule="actor_signature",
        )
    said: dict[str, object] = {} if event.terms is None else plain(event.terms)
    said.pop("actor_key", None)
    said.pop("actor_signature", None)
    said.update(
        about=sorted([i.kind, b64encode(i.canonical).decode()] for i in event.identifiers),
        actor=event.actor,
        basis=event.basis,
        effective_at=render_time(to_micros(event.effective_at)),
        partner=event.partner,
        purpose=event.purpose,
        purpose_version=event.purpose_version,
        type=event.type.value,
    )
    if event.expires_at is not None:
        said["expires_at"] = render_time(to_micros(event.expires_at))
    return canonical_json(said)


def signed_by_actor(event: Event, key: SigningKey) -> Event:
    """The event with the actor's key and signature in its terms."""
    terms = replace(event.terms or ConsentTerms(), actor_key=None, actor_signature=None)
    signature = key.sign(CONTEXT, statement(replace(event, terms=terms)))
    return replace(event, terms=replace(terms, actor_key=key.public, actor_signature=signature))


def verify_actor(event: Event) -> None:
    """Check the actor's signature if there is one. Raises InvalidConsent(bad_actor_signature)."""
    terms = event.terms
    if terms is None or terms.actor_key is None or terms.actor_signature is None:
        return
    try:
        terms.actor_key.verify(CONTEXT, statement(event), terms.actor_signature)
    except Tampered:
        raise InvalidConsent(
            "The actor's signature is not over this decision.",
            code="bad_actor_signature",
            rule="actor_signature",
        ) from None
