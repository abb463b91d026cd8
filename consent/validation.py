"""Whether a decision may be recorded: the policy, the law it names, the notice, the actor's signature.

What needs the person's history (a grant dated before a withdrawal) is asked inside the transaction, by
`consent.sequence`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from consent.actors import verify_actor
from consent.encoding import to_micros
from consent.errors import InvalidConsent
from consent.events import GRANTING, Event, EventType
from consent.laws import Demand, Law, Rule, Trait, law, law_of
from consent.purposes import EVERY_PURPOSE, Notice, Purpose, PurposePolicy
from consent.terms import ConsentTerms, ConsentType
from privacy.errors import BadInput, ComityError

__all__ = ["Judged", "applicable_laws", "checked", "completed_notice", "demanded", "traits_of"]

_FORMS = {
    Demand.EXPLICIT: ConsentType.EXPLICIT,
    Demand.SEPARATE: ConsentType.SEPARATE,
    Demand.WRITTEN: ConsentType.WRITTEN,
}
_NO_TERMS = ConsentTerms()


Judged = dict[tuple[object, ...], ConsentTerms | None]
"""What was found right already, for callers who check one by one."""


def checked(
    policy: PurposePolicy, events: Sequence[Event], latest: datetime, seen: Judged | None = None
) -> list[Event]:
    """The events as they are to be recorded: what the policy knows of a notice is filled in.

    Raises UnknownPurpose, BadInput (`future_event`: effective after `latest`), InvalidConsent; each with
    the position of the event in its `position`.
    """
    if not events:
        raise BadInput("There is nothing to record.")
    seen = {} if seen is None else seen
    out = []
    for position, event in enumerate(events):
        try:
            if event.effective_at is not None:
                to_micros(event.effective_at)
                if event.effective_at > latest:
                    raise BadInput("An event cannot take effect in the future.", code="future_event")
            if event.expires_at is not None:
                to_micros(event.expires_at)
            if event.terms is not None and event.terms.actor_key is not None:
                verify_actor(event)
            # A batch repeats few combinations: each is judged once.
            key = (event.type, event.purpose, event.purpose_version, event.basis, event.actor, event.terms)
            if key in seen:
                terms = seen[key]
            else:
                terms = seen[key] = _judged(policy, event)
            out.append(event if terms == event.terms else event.under(terms))
        except ComityError as error:
            error.position = position  # type: ignore[attr-defined]
            raise
    return out


def applicable_laws(policy: PurposePolicy, terms: ConsentTerms | None) -> tuple[Law, ...]:
    """The law of the jurisdiction named; without one, the laws that the policy holds everything to."""
    if terms is not None and terms.jurisdiction is not None:
        found = law_of(terms.jurisdiction)
        return () if found is None else (found,)
    return tuple(law(name) for name in policy.laws)


def traits_of(
    policy: PurposePolicy, purpose: Purpose, version: int, terms: ConsentTerms | None, of: Law
) -> frozenset[Trait]:
    """What a grant of `purpose` under tree `version` lets happen, as far as the law tells cases apart.

    That is what the purpose and the children it covers say about themselves; export where the terms name
    another country; sensitive data where a category named (or, without any, needed) is so under the law.
    """
    covered = [policy.purposes[name] for name in policy.below(purpose.name, version)] or [purpose]
    found = set(purpose.traits).union(*(each.traits for each in covered))
    named = _NO_TERMS if terms is None else terms
    if named.transfer_country is not None and named.transfer_country not in of.jurisdictions:
        found.add(Trait.EXPORTED)
    categories = set(named.data_categories) or {name for each in covered for name in each.data}
    if any(of.name in policy.categories[name].sensitive for name in categories if name in policy.categories):
        found.add(Trait.SENSITIVE)
    return frozenset(found)


def demanded(policy: PurposePolicy, event: Event) -> tuple[tuple[Law, Rule], ...]:
    """What the applicable laws demand of a consent to this purpose, met or not. Raises UnknownPurpose."""
    if event.purpose == EVERY_PURPOSE:
        return ()
    version = event.purpose_version or policy.version
    purpose = policy.require(event.purpose, event.purpose_version)
    return tuple(
        (each, rule)
        for each in applicable_laws(policy, event.terms)
        for rule in each.demanded(traits_of(policy, purpose, version, event.terms, each))
    )


def _judged(policy: PurposePolicy, event: Event) -> ConsentTerms | None:
    """The terms to record. Raises for an event that may not be recorded."""
    every = event.purpose == EVERY_PURPOSE
    purpose = None if every else policy.require(event.purpose, event.purpose_version)
    terms = event.terms
    if terms is not None and policy.categories and not set(terms.data_categories) <= set(policy.categories):
        raise BadInput(
            "A category of data is not in the published policy.",
            code="unknown_category",
            advice=f"Known: {', '.join(sorted(policy.categories))}.",
        )
    applicable = applicable_laws(policy, terms)
    granting = event.type in GRANTING
    if purpose is not None and granting:
        for each in applicable:
            _basis_checked(purpose, event.basis, each)
        terms = _noticed(policy, purpose, event, bool(applicable))
        if event.basis == "consent":
            _form_checked(policy, purpose, event)
    elif event.type is EventType.NOTICE_PRESENTED and terms is not None and policy.notices:
        terms = completed_notice(policy, terms)
    for each in applicable:
        if terms is not None and terms.transfer_route is not None and each.routes:
            each.route(terms.transfer_route)
    # What an actor signed is recorded as it was signed, or the signature could not be checked again.
    signed = event.terms is not None and event.terms.actor_signature is not None
    return event.terms if signed else terms


def _basis_checked(purpose: Purpose, basis: str, of: Law) -> None:
    of.basis(basis)
    allowed = purpose.bases.get(of.name)
    if allowed is not None and basis not in allowed:
        raise InvalidConsent(
            f"The policy does not let {purpose.name} rest on this legal basis.",
            code="basis_not_allowed",
            rule=f"{of.name} {of.basis(basis).article}",
            advice=f"Allowed under {of.name.upper()}: {', '.join(allowed)}.",
        )


def _noticed(policy: PurposePolicy, purpose: Purpose, event: Event, by_law: bool) -> ConsentTerms | None:
    """The terms with their notice completed, once it tells about the purpose."""
    terms = event.terms
    covering = policy.notices_for(purpose.name)
    if policy.notices and not covering:
        raise InvalidConsent(
            f"No notice of the policy tells people about {purpose.name}.",
            code="notice_required",
            rule="notice",
            advice="Publish a version of the notice that names this purpose.",
        )
    if terms is None or terms.notice is None:
        if purpose.notice_required or by_law:
            known = ", ".join(notice.name for notice in covering)
            raise InvalidConsent(
                f"A grant of {purpose.name} says which notice the person was shown.",
                code="notice_required",
                rule="notice",
                advice=f"Name one of: {known}." if known else "Name the notice, its language and its hash.",
            )
        return terms
    if not policy.notices:
        return terms
    completed = completed_notice(policy, terms)
    notice = policy.notices[terms.notice]
    if notice not in covering:
        raise InvalidConsent(
            f"The notice shown does not tell people about {purpose.name}.",
            code="notice_required",
            rule="notice",
            advice=f"Show and name one of: {', '.join(each.name for each in covering)}.",
        )
    version = event.purpose_version or policy.version
    asked_again, since = notice.material_since
    if (completed.notice_version or 0) < asked_again and version >= since:
        raise InvalidConsent(
            "The notice shown has since changed materially; consent has to be asked for again.",
            code="notice_outdated",
            rule="notice",
            advice=f"The notice {notice.name} is at version {notice.version}.",
        )
    return completed


def completed_notice(policy: PurposePolicy, terms: ConsentTerms) -> ConsentTerms:
    """Terms with version and hashes of their notice; raises if those given are not the policy's."""
    if terms.notice is None:
        return terms
    notice: Notice = policy.notice(terms.notice, terms.notice_version)
    version = terms.notice_version or notice.version
    text = notice.of_version(version)
    if text is None or terms.language is None:
        known = set() if text is None else set(text.text.values())
        if terms.notice_hash is not None and terms.notice_hash not in known:
            raise _mismatch()
        return replace(terms, notice_version=version)
    if terms.language not in text.text:
        raise BadInput("The notice has no text in this language.", code="unknown_language")
    digest, screen = text.text[terms.language], text.ui.get(terms.language)
    if terms.notice_hash not in (None, digest) or (screen and terms.ui_hash not in (None, screen)):
        raise _mismatch()
    return replace(terms, notice_version=version, notice_hash=digest, ui_hash=terms.ui_hash or screen)


def _mismatch() -> InvalidConsent:
    return InvalidConsent(
        "The hash given is not that of the notice in this version and language.",
        code="notice_mismatch",
        rule="notice",
        advice="Record what was shown; if the text changed, publish it as a new version.",
    )


def _form_checked(policy: PurposePolicy, purpose: Purpose, event: Event) -> None:
    terms = event.terms or _NO_TERMS
    for of, rule in demanded(policy, event):
        wanted = _FORMS.get(rule.demands)
        where = f"{of.name.upper()} {rule.article}"
        if wanted is not None and (terms.consent_type is None or not terms.consent_type.satisfies(wanted)):
            raise InvalidConsent(
                f"{where} asks for {wanted.value} consent to {event.purpose}.",
                code=f"{wanted.value}_consent_required",
                rule=f"{of.name}.{rule.id}",
                advice=f"Ask for it so, and record it as consent_type {wanted.value}.",
            )
        # A grown-up may agree to a parent of a purpose that is about children.
        if rule.demands is Demand.GUARDIAN and rule.when & purpose.traits and event.actor != "guardian":
            raise InvalidConsent(
                f"{where} asks for the consent of a parent or guardian to {event.purpose}.",
                code="guardian_required",
                rule=f"{of.name}.{rule.id}",
            )
        if rule.demands is Demand.ROUTE and terms.transfer_route is None:
            raise InvalidConsent(
                f"{where} asks under which condition data leave the country.",
                code="transfer_route_required",
                rule=f"{of.name}.{rule.id}",
                advice=f"Name the transfer_route: {', '.join(of.routes)}.",
            )
