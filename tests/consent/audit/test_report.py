"""The page: the same figures in every language, nothing from outside left unescaped, nobody named."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consent.audit.conclusions import ANCHORS, figures, findings, headline
from consent.audit.report import LANGUAGES, AuditReport, locale, render
from consent.laws import SECTIONS
from privacy.errors import BadInput

VOID = {"meta", "br", "link", "img", "input", "circle", "line", "rect", "polyline", "polygon", "path"}


class Page(HTMLParser):
    """Text of numeric cells, headline figures, code and pictures, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.digits: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs) -> None:
        held = dict(attrs)
        self.tags.append(tag)
        if held.get("id"):
            self.ids.append(held["id"])
        if tag == "a":
            self.links.append(held["href"])
        if tag not in VOID:
            self.open.append((tag, held.get("class") or ""))

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open and self.open[-1][0] == tag, (tag, self.open[-3:], self.getpos())
        self.open.pop()

    def handle_data(self, data) -> None:
        inside = [tag for tag, _ in self.open]
        if self.open and (self.open[-1] == ("td", "n") or self.open[-1][0] in ("code", "pre", "text")):
            self.cells.append(data.strip())
        if "dd" in inside or "text" in inside:
            self.digits += re.findall(r"\d[\d,.]*", data)


def test_both_languages_show_the_same_figures(misused) -> None:
    pages = {language: Page(render(misused.report, language)) for language in LANGUAGES}
    en, zh = pages["en"], pages["zh"]
    assert not en.open and not zh.open

    def numbers(page: Page) -> list[str]:
        return [cell for cell in page.cells if re.fullmatch(r"[\d,.%\s—]+", cell)]

    assert len(numbers(en)) > 150
    assert numbers(en) == numbers(zh)
    assert en.ids == zh.ids and en.links == zh.links


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_finding_names_its_figures_in_each_language(misused, language: str) -> None:
    text = re.sub(r"<[^>]+>", "", render(misused.report, language))
    for finding in findings(misused.report.facts):
        for value in finding["values"].values():
            if isinstance(value, int):
                assert f"{value:,}" in text


def test_locales_have_the_same_keys_and_the_same_blanks() -> None:
    def flat(value, path=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(inner, f"{path}/{key}")
        elif isinstance(value, list):
            for place, inner in enumerate(value):
                yield from flat(inner, f"{path}/{place}")
        else:
            yield path, re.findall(r"{(\w+)}", str(value))

    first, *others = ({key: sorted(blanks) for key, blanks in flat(locale(name))} for name in LANGUAGES)
    for other in others:
        assert other == first


def test_every_part_a_law_may_name_has_a_place_and_a_figure(misused) -> None:
    assert set(ANCHORS) == SECTIONS == set(figures(misused.report.facts))
    page = Page(render(misused.report))
    assert set(ANCHORS.values()) <= set(page.ids)
    assert {link.lstrip("#") for link in page.links} <= set(page.ids)
    for language in LANGUAGES:
        assert set(locale(language)["parts"]) == SECTIONS


def test_the_page_loads_and_runs_nothing(misused) -> None:
    text = render(misused.report, "zh")
    page = Page(text)
    assert not {"script", "img", "link", "iframe", "object", "form", "input"} & set(page.tags)
    assert "http://" not in text and "https://" not in text
    assert "default-src 'none'" in text
    assert text.startswith("<!doctype html>")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_whatever_stands_in_a_report_is_escaped(misused, name: str) -> None:
    hostile = f"<script>alert(1)</script>\"'{{{{7*7}}}}{{0}}{name}"
    facts = json.loads(misused.report.to_json())["report"]
    facts["scope"]["origin"] = facts["keys"]["vkey"] = facts["checkpoint"]["text"] = hostile
    for row in facts["deliveries"]:
        row["partner"] = hostile
    for row in facts["uses"]["cases"]:
        row["reason"] = row["receipt"] = row["kind"] = hostile
    facts["decisions"]["by_purpose"] = {hostile: {"consent.granted": 1}}
    facts["decisions"]["by_basis"] = {hostile: 1}
    facts["missing_notice"] = {hostile: 3}
    page = render(AuditReport(facts, ""), "en")
    assert "<script" not in page and "alert(1)</script" not in page
    assert not Page(page).open


@pytest.mark.parametrize("what", ["uses", "entries", "deliveries", "consents", "scope", "articles", "scan"])
@pytest.mark.parametrize("value", [None, [], {}, 7, "x", [{}], {"a": 1}])
def test_a_report_without_its_figures_makes_no_page(misused, what: str, value) -> None:
    facts = json.loads(misused.report.to_json())["report"]
    facts[what] = value
    try:
        page = render(AuditReport(facts, ""))
    except BadInput:
        return
    assert what in ("deliveries", "articles", "scan") and page  # where nothing is a figure too


def test_an_unknown_language_is_refused(misused) -> None:
    for language in ("", "fr", "../en", "EN"):
        with pytest.raises(BadInput):
            render(misused.report, language)


def test_no_report_names_anybody(misused) -> None:
    texts = [misused.report.to_json(), *(render(misused.report, language) for language in LANGUAGES)]
    with misused.register.ledger.store.read() as view:
        handles = [row.handle for row in view.all_subjects()]
    for text in texts:
        assert "person" not in re.sub(r"[Pp]erson(s|al|’s)?\b", "", text) or "example.org" not in text
        assert "@example.org" not in text
        assert not any(handle.hex() in text for handle in handles)


def test_the_headline_says_the_gravest_thing(misused) -> None:
    facts = json.loads(misused.report.to_json())["report"]
    assert headline(facts) == {"key": "broken", "count": 3}
    facts["uses"]["violations"] = 0
    assert headline(facts)["key"] == "waiting"
    for row in facts["deliveries"]:
        row["unacknowledged"] = 0
    assert headline(facts)["key"] == "clear"
    facts["uses"]["receipts"] = 0
    assert headline(facts)["key"] == "quiet"


def test_findings_come_gravest_first(misused) -> None:
    levels = [finding["level"] for finding in findings(misused.report.facts)]
    assert levels == sorted(levels, key=("bad", "warn", "good").index)
    assert levels[0] == "bad"


def test_the_locales_are_plain_yaml_without_surprises() -> None:
    for language in LANGUAGES:
        words = locale(language)
        assert all(isinstance(value, str) for value in words["codes"].values())
        assert yaml.safe_dump(dict(words), allow_unicode=True)
