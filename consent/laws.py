"""What the laws ask of a consent and of its record, as data: `laws/pipl.yaml`, `gdpr.yaml`, `ccpa.yaml`.

A purpose of the policy carries *traits* (personal data are provided to others, exported, sensitive, …); a
law's *rules* say what each trait demands, with the article. The files hold references and short titles of
articles, no legal advice: whether a purpose has a trait is for the node's owner to say.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from functools import cache
from typing import Any

import yaml

from consent.events import EventType
from consent.shipped import read_shipped
from privacy.errors import BadInput

__all__ = ["SECTIONS", "Article", "Basis", "Demand", "Law", "Route", "Rule", "Trait", "law", "law_of", "laws"]

_MAX_LAW = 1 << 18


class Trait(StrEnum):
    """What is done with personal data for a purpose, as far as laws tell cases apart."""

    PROVIDED = "provided"
    """goes to another organisation that decides about it"""
    SOLD = "sold"
    """for money or other valuable consideration (CCPA)"""
    SHARED = "shared"
    """for advertising across contexts (CCPA)"""
    PUBLISHED = "published"
    IMAGING = "imaging"
    """images or identities collected in public places"""
    SENSITIVE = "sensitive"
    EXPORTED = "exported"
    """leaves the country"""
    AUTOMATED = "automated"
    """decisions about a person by machine alone"""
    MARKETING = "marketing"
    MINORS = "minors"
    """about people below the age at which they consent themselves"""


class Demand(StrEnum):
    """What a rule demands."""

    EXPLICIT = "explicit"
    SEPARATE = "separate"
    WRITTEN = "written"
    GUARDIAN = "guardian"
    """consent is given by a parent or guardian"""
    ROUTE = "route"
    """the condition under which data leave the country is named"""
    OPT_OUT = "opt_out"
    """goes on until the person says no; the ledger has to be able to record that"""
    EXPLANATION = "explanation"


SECTIONS = frozenset(
    {
        "bases", "delivery", "erasures", "guardians", "integrity", "keys", "limits", "notices", "purposes",
        "receipts", "recipients", "restores", "retention", "scan", "separate_consent", "signals", "stale",
        "totals", "transfers", "unacknowledged", "use", "violations", "withdrawals",
    }
)  # fmt: skip
"""The parts of an audit report that an article may name as its evidence."""


@dataclass(frozen=True, slots=True)
class Basis:
    """A legal basis. `dpv` is its term in the W3C Data Privacy Vocabulary."""

    name: str
    article: str
    title: Mapping[str, str]
    dpv: str
    withdrawable: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A condition under which data may leave the country."""

    name: str
    article: str
    title: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """`demands` holds for a purpose with any of the traits `when`."""

    id: str
    when: frozenset[Trait]
    demands: Demand
    article: str
    title: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Article:
    """What in the ledger is evidence for an article: types of entries, and sections of the report."""

    number: str
    title: Mapping[str, str]
    events: tuple[EventType, ...]
    sections: tuple[str, ...]


@dataclass(frozen=True)
class Law:
    """One law. `notice` and `withdrawal` are the articles on informing people and on taking consent back."""

    name: str
    title: Mapping[str, str]
    source: str
    effective: date
    jurisdictions: tuple[str, ...]
    notice: str
    withdrawal: str
    bases: Mapping[str, Basis]
    routes: Mapping[str, Route]
    rules: tuple[Rule, ...]
    articles: tuple[Article, ...] = field(repr=False)

    def basis(self, name: str) -> Basis:
        """Raises BadInput(unknown_basis) for one that the law does not know."""
        found = self.bases.get(name)
        if found is None:
            raise BadInput(
                f"{self.name.upper()} knows no such legal basis.",
                code="unknown_basis",
                advice=f"Known: {', '.join(sorted(self.bases))}.",
            )
        return found

    def route(self, name: str) -> Route:
        """Raises BadInput(unknown_route)."""
        found = self.routes.get(name)
        if found is None:
            raise BadInput(
                f"{self.name.upper()} knows no such route of transfer.",
                code="unknown_route",
                advice=f"Known: {', '.join(sorted(self.routes)) or 'none'}.",
            )
        return found

    def demanded(self, traits: Collection[Trait]) -> tuple[Rule, ...]:
        """The rules that a purpose with these traits falls under, in the order of the law."""
        return tuple(rule for rule in self.rules if not rule.when.isdisjoint(traits))

    def separate_consent(self, traits: Collection[Trait]) -> tuple[Rule, ...]:
        """Those of `demanded` under which consent must be explicit, separate or written."""
        forms = (Demand.EXPLICIT, Demand.SEPARATE, Demand.WRITTEN)
        return tuple(rule for rule in self.demanded(traits) if rule.demands in forms)

    def evidenced_by(self, type_: EventType) -> tuple[Article, ...]:
        """The articles for which entries of a type are evidence."""
        return tuple(article for article in self.articles if type_ in article.events)


def laws() -> Mapping[str, Law]:
    """Every law known, by name."""
    return _all()


def law(name: str) -> Law:
    """Raises BadInput(unknown_law)."""
    found = _all().get(name)
    if found is None:
        raise BadInput(
            "This law is not known.", code="unknown_law", advice=f"Known laws: {', '.join(sorted(_all()))}."
        )
    return found


def law_of(jurisdiction: str) -> Law | None:
    """The law of a country or state (ISO 3166: `CN`, `DE`, `US-CA`; `EU`), None where none is known."""
    return next((found for found in _all().values() if jurisdiction in found.jurisdictions), None)


@cache
def _all() -> Mapping[str, Law]:
    found = (_law(read_shipped("consent", "laws", f"{name}.yaml")) for name in ("pipl", "gdpr", "ccpa"))
    return {each.name: each for each in found}


_FIELDS = {
    "law", "title", "source", "effective", "jurisdictions", "withdrawal", "notice",
    "bases", "routes", "rules", "articles",
}  # fmt: skip


def parse(text: str) -> Law:
    """A law from YAML. Raises BadInput, naming the place, for anything that is not one."""
    if len(text) > _MAX_LAW:
        raise BadInput("The file of a law is too large.")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise BadInput("The file of a law is not valid YAML.") from None
    return _law(document)


def _law(document: object) -> Law:
    body = _exactly(document, _FIELDS, set(), "law")
    name = _text(body["law"], "law")
    bases = {
        key: Basis(
            key,
            _text(value["article"], f"{name}.bases.{key}"),
            _titles(value["title"], f"{name}.bases.{key}"),
            _text(value["dpv"], f"{name}.bases.{key}"),
            _flag(value.get("withdrawable", False), f"{name}.bases.{key}"),
        )
        for key, value in _named(
            body["bases"], {"article", "title", "dpv"}, {"withdrawable"}, f"{name}.bases"
        )
    }
    if "consent" not in bases:
        raise BadInput(f"At {name}.bases: every law here knows consent.")
    routes = {
        key: Route(
            key,
            _text(value["article"], f"{name}.routes.{key}"),
            _titles(value["title"], f"{name}.routes.{key}"),
        )
        for key, value in _named(body["routes"], {"article", "title"}, set(), f"{name}.routes")
    }
    rules = tuple(_rules(body["rules"], name))
    if len({rule.id for rule in rules}) != len(rules):
        raise BadInput(f"At {name}.rules: two rules have one id.")
    if any(rule.demands is Demand.ROUTE for rule in rules) and not routes:
        raise BadInput(f"At {name}.routes: a rule demands one, and none is given.")
    return Law(
        name,
        _titles(body["title"], name),
        _text(body["source"], f"{name}.source"),
        _date(body["effective"], f"{name}.effective"),
        _texts(body["jurisdictions"], f"{name}.jurisdictions"),
        _text(body["notice"], f"{name}.notice"),
        _text(body["withdrawal"], f"{name}.withdrawal"),
        bases,
        routes,
        rules,
        tuple(_articles(body["articles"], name)),
    )


def _rules(value: object, name: str) -> Iterator[Rule]:
    for number, item in enumerate(_list(value, f"{name}.rules"), 1):
        place = f"{name}.rules, item {number}"
        body = _exactly(item, {"id", "when", "demands", "article", "title"}, set(), place)
        try:
            when = frozenset(Trait(trait) for trait in _texts(body["when"], place))
            demands = Demand(_text(body["demands"], place))
        except ValueError:
            raise BadInput(f"At {place}: an unknown trait or demand.") from None
        yield Rule(
            _text(body["id"], place),
            when,
            demands,
            _text(body["article"], place),
            _titles(body["title"], place),
        )


def _articles(value: object, name: str) -> Iterator[Article]:
    for number, item in enumerate(_list(value, f"{name}.articles"), 1):
        place = f"{name}.articles, item {number}"
        body = _exactly(item, {"number", "title", "sections"}, {"events"}, place)
        sections = _texts(body["sections"], place)
        if not SECTIONS.issuperset(sections):
            raise BadInput(f"At {place}: a section that no report has.")
        try:
            events = tuple(EventType(event) for event in _texts(body.get("events", []), place, empty=True))
        except ValueError:
            raise BadInput(f"At {place}: an unknown type of event.") from None
        yield Article(_text(body["number"], place), _titles(body["title"], place), events, sections)


def _exactly(value: object, needed: set[str], allowed: set[str], place: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not needed <= set(value) <= needed | allowed:
        raise BadInput(f"At {place}: fields are {', '.join(sorted(needed | allowed))}.")
    return value


def _named(
    value: object, needed: set[str], allowed: set[str], place: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        raise BadInput(f"At {place}: a mapping of names is needed.")
    for key, item in value.items():
        yield _text(key, place), _exactly(item, needed, allowed, f"{place}.{key}")


def _list(value: object, place: str) -> list[object]:
    if not isinstance(value, list) or not value:
        raise BadInput(f"At {place}: a list is needed.")
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 500:
        raise BadInput(f"At {place}: a text is needed.")
    return value


def _texts(value: object, place: str, *, empty: bool = False) -> tuple[str, ...]:
    if empty and value == []:
        return ()
    return tuple(_text(item, place) for item in _list(value, place))


def _titles(value: object, place: str) -> dict[str, str]:
    if not isinstance(value, dict) or not {"en", "zh"} <= set(value):
        raise BadInput(f"At {place}: a title is needed in en and zh.")
    return {_text(language, place): _text(text, place) for language, text in value.items()}


def _flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise BadInput(f"At {place}: true or false is needed.")
    return value


def _date(value: object, place: str) -> date:
    try:
        return date.fromisoformat(_text(value, place))
    except ValueError:
        raise BadInput(f"At {place}: a date as 2021-11-01 is needed.") from None
