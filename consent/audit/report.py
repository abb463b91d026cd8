"""The report: facts signed by the node's key as JSON, and a page made from that JSON in any language.

The JSON file is `{"format", "report", "signature"}`. `report` holds the facts; `signature` is a JWS over
their SHA-256 in canonical form (RFC 8785) and the tree head they were read at, by the key of the log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined, Template, TemplateError
from markupsafe import Markup, escape

from consent.audit.conclusions import ANCHORS, figures, findings, headline
from consent.audit.facts import AuditFacts
from consent.audit.pictures import latency_bars, timeline
from consent.encoding import canonical_json, parse_json
from consent.jws import sign_document
from consent.shipped import read_shipped
from privacy.errors import BadInput
from privacy.signing import SigningKey

__all__ = ["FORMAT", "KIND", "LANGUAGES", "AuditReport", "digest_of", "locale", "render", "sign", "speak"]

FORMAT = "comity-audit-1"
KIND = "comity-audit+jws"
MAX_REPORT = 64 << 20  # bytes
LANGUAGES = ("en", "zh")
_TEMPLATE = "report.html.j2"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """A signed report. `facts` is JSON as `AuditFacts.to_dict` gives it."""

    facts: Mapping[str, Any] = field(repr=False)
    signature: str = field(repr=False)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the facts in canonical form."""
        return digest_of(self.facts)

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, "report": self.facts, "signature": self.signature}

    def to_json(self) -> str:
        """Indented JSON text ending in a newline."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, data: bytes) -> AuditReport:
        """A report as read, nothing of it verified. Raises BadInput for what is not one."""
        body = parse_json(data, limit=MAX_REPORT)
        if (
            not isinstance(body, dict)
            or set(body) != {"format", "report", "signature"}
            or body["format"] != FORMAT
            or not isinstance(body["report"], dict)
            or not isinstance(body["signature"], str)
        ):
            raise BadInput("This is not an audit report of this format.", code="bad_report")
        return cls(body["report"], body["signature"])


def digest_of(facts: Mapping[str, Any]) -> str:
    return sha256(canonical_json(facts)).hexdigest()


def sign(facts: AuditFacts, key: SigningKey) -> AuditReport:
    """The facts as JSON under a signature of the log's key."""
    plain = json.loads(canonical_json(facts.to_dict()))
    ordered = {name: plain[name] for name in facts.to_dict()}
    return AuditReport(ordered, sign_document(key, KIND, statement(ordered)))


def statement(facts: Mapping[str, Any]) -> dict[str, object]:
    """What is signed about a report."""
    scope = facts["scope"]
    return {
        "format": FORMAT,
        "digest": digest_of(facts),
        **{name: scope[name] for name in ("origin", "law", "since", "until", "made_at", "size", "root")},
    }


@cache
def locale(language: str) -> Mapping[str, Any]:
    """The words of a language. Raises BadInput(unknown_language)."""
    if language not in LANGUAGES:
        raise BadInput(
            "There is no report in this language.",
            code="unknown_language",
            advice=f"Languages: {', '.join(LANGUAGES)}.",
        )
    words: Mapping[str, Any] = read_shipped("consent.audit", "locales", f"{language}.yaml")
    return words


def render(report: AuditReport, language: str = "en") -> str:
    """The report as one self-contained HTML page, to be read on a screen or printed. No script.

    Everything from the report is escaped. Raises BadInput for an unknown language, or figures that are not
    there.
    """
    words, speaker = locale(language), _Speaker(locale(language))
    facts = report.facts
    try:
        page = _template(language).render(
            r=facts,
            w=words,
            say=speaker.say,
            lang=language,
            digest=report.digest,
            format=FORMAT,
            headline=headline(facts),
            findings=findings(facts),
            figures=figures(facts),
            anchors=ANCHORS,
            proved=sum(bool(case["proof"]) for case in facts["uses"]["cases"]),
            timeline=speaker.timeline(facts["consents"]),
            latencies={
                d["partner"]: speaker.latencies(d) for d in facts["deliveries"] if d["enforced"] is not None
            },
            step=speaker.step(facts["consents"]["step"]),
            totals_of=partial(_total, facts["decisions"]["by_purpose"]),
        )
    except (TemplateError, KeyError, TypeError, IndexError, AttributeError, ValueError):
        # A template's own message quotes what it stumbled over.
        raise BadInput("The report lacks figures that the page shows.", code="bad_report") from None
    return page.lstrip()


@cache
def _template(language: str) -> Template:
    """The page, with the filters that speak this language. Compiling it takes longer than filling it."""
    source = files("consent.audit").joinpath("templates", _TEMPLATE).read_text("utf-8")
    environment = Environment(
        loader=DictLoader({_TEMPLATE: source}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    speaker = _Speaker(locale(language))
    environment.filters.update(
        n=_number,
        ms=_milliseconds,
        moment=_moment,
        code=speaker.code,
        age=speaker.age,
        share=_share,
    )
    return environment.get_template(_TEMPLATE)


def speak(language: str, text: str, **values: object) -> str:
    """A locale's text with its values filled in, as plain text."""
    return str(_Speaker(locale(language)).say(text, **values).unescape())


class _Speaker:
    """Fills a locale's words with values."""

    def __init__(self, words: Mapping[str, Any]) -> None:
        self._words = words

    def say(self, text: str, **values: object) -> Markup:
        shown = {name: self._shown(name, value) for name, value in values.items()}
        return escape(text).format(**shown)

    def _shown(self, name: str, value: object) -> object:
        if isinstance(value, Mapping):
            # A title that the policy gives in several languages.
            return value.get(self._words["language"][:2], next(iter(value.values()), ""))
        if name == "age" and isinstance(value, int | float):
            return self.age(value)
        if name in ("p50", "p99", "longest") and isinstance(value, int | float):
            return _milliseconds(value)
        return _number(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def code(self, name: str) -> str:
        """The words for something the ledger writes; itself where there are none."""
        return str(self._words["codes"].get(name, name))

    def age(self, seconds: float) -> str:
        """How long, in the largest unit that leaves at least two of it."""
        for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
            if seconds >= 2 * size:
                return str(self._words["ages"][unit]).format(count=f"{seconds / size:.0f}")
        return str(self._words["ages"]["seconds"]).format(count=f"{seconds:.1f}")

    def step(self, seconds: int) -> str:
        steps = self._words["steps"]
        for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
            if seconds % size == 0:
                count = seconds // size
                return str(steps[unit] if count == 1 else steps[unit + "s"].format(count=_number(count)))
        return str(steps["other"]).format(count=_number(seconds))

    def timeline(self, consents: Mapping[str, Any]) -> Markup:
        words, buckets = self._words["consents"], consents["timeline"]
        closing = buckets[-1]["standing"] if buckets else consents["opening"]
        told = words["picture_told"].format(opening=_number(consents["opening"]), closing=_number(closing))
        long = consents["step"] >= 86_400
        times = [b["start"][:10] if long else b["start"][5:16].replace("T", " ") for b in buckets]
        return timeline(buckets, consents["opening"], times, {**words, "picture_told": told})

    def latencies(self, delivery: Mapping[str, Any]) -> Markup:
        words, enforced = self._words["delivery"], delivery["enforced"]
        spans = {name: _milliseconds(enforced[name]) for name in ("p50", "p99", "longest")}
        told = words["picture_told"].format(count=_number(enforced["count"]), **spans)
        title = words["picture"].format(partner=delivery["partner"])
        return latency_bars(delivery["histogram"], {**words, "picture": title, "picture_told": told})


def _total(by_purpose: Mapping[str, Mapping[str, int]], type_: str) -> int:
    return sum(types.get(type_, 0) for types in by_purpose.values())


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if value == int(value) else f"{value:,}"


def _milliseconds(value: float) -> str:
    """As people read a span: whole from 100 ms on, one digit below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _moment(text: str) -> str:
    """`2026-01-31T08:00:00.000000Z` to the second."""
    return re.sub(r"T(\d\d:\d\d:\d\d)\.\d+Z$", r" \1", str(text))


def _share(part: int, whole: int) -> str:
    """Per cent, never rounded up to 100 nor down to 0."""
    if not whole:
        return "—"
    if 0 < part < whole:
        return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
    return "100 %" if part == whole else "0 %"
