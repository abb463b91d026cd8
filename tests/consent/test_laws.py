"""The laws as data: read strictly, and saying what the articles say."""

from __future__ import annotations

from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.events import EventType
from consent.laws import SECTIONS, Demand, Trait, law, law_of, laws, parse
from privacy.errors import BadInput

PIPL = resources.files("consent").joinpath("laws/pipl.yaml").read_text("utf-8")


def articles_of(name, *traits, demand=None):
    return [r.article for r in law(name).demanded(set(traits)) if demand in (None, r.demands)]


def test_the_three_laws_are_known_by_name_and_by_place():
    assert set(laws()) == {"pipl", "gdpr", "ccpa"}
    places = {"CN": "pipl", "DE": "gdpr", "EU": "gdpr", "NO": "gdpr", "US-CA": "ccpa"}
    assert {place: law_of(place).name for place in places} == places
    assert law_of("US") is None and law_of("GB") is None
    with pytest.raises(BadInput) as caught:
        law("lgpd")
    assert caught.value.code == "unknown_law"


@pytest.mark.parametrize(
    ("trait", "article"),
    [("provided", "23"), ("published", "25"), ("imaging", "26"), ("sensitive", "29"), ("exported", "39")],
)
def test_pipl_asks_for_separate_consent_where_it_says_so(trait, article):
    assert article in articles_of("pipl", Trait(trait), demand=Demand.SEPARATE)
    assert [r.article for r in law("pipl").separate_consent({Trait(trait)})] == [article]


def test_gdpr_asks_for_explicit_consent_to_special_categories_and_automated_decisions():
    assert articles_of("gdpr", Trait.SENSITIVE, demand=Demand.EXPLICIT) == ["9(2)(a)"]
    assert articles_of("gdpr", Trait.AUTOMATED, demand=Demand.EXPLICIT) == ["22(2)(c)"]
    assert articles_of("gdpr", Trait.PROVIDED) == []


def test_ccpa_asks_for_no_consent_of_its_own_but_for_opting_out_of_sale_sharing_and_sensitive_use():
    assert articles_of("ccpa", Trait.SOLD, Trait.SHARED, Trait.SENSITIVE) == [
        "1798.120(a)", "1798.120(a)", "1798.121",
    ]  # fmt: skip
    assert law("ccpa").separate_consent(set(Trait)) == ()


def test_bases_and_routes_are_those_of_the_law():
    assert law("gdpr").basis("legitimate_interest").article == "6(1)(f)"
    assert law("pipl").route("standard_contract").article == "38(1)(3)"
    for ask in (
        lambda: law("pipl").basis("legitimate_interest"),
        lambda: law("pipl").route("adequacy"),
        lambda: law("ccpa").route("adequacy"),
    ):
        with pytest.raises(BadInput) as caught:
            ask()
        assert caught.value.code in ("unknown_basis", "unknown_route")


@pytest.mark.parametrize("name", ["pipl", "gdpr", "ccpa"])
def test_a_law_is_titled_in_both_languages_and_points_at_articles_of_its_own_list(name):
    found = law(name)
    titled = [found, *found.bases.values(), *found.routes.values(), *found.rules, *found.articles]
    assert all({"en", "zh"} <= set(each.title) for each in titled)
    assert len({a.number for a in found.articles}) == len(found.articles)
    assert all(a.events or a.sections for a in found.articles)
    assert {s for a in found.articles for s in a.sections} <= SECTIONS
    assert found.evidenced_by(EventType.WITHDRAWN) and found.evidenced_by(EventType.ERASURE_COMPLETED)
    assert found.bases["consent"].withdrawable


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("law: pipl", "law: [pipl"),
        ("law: pipl", "laws: pipl"),
        ("law: pipl", "law: 7"),
        ('effective: "2021-11-01"', 'effective: "soon"'),
        ("jurisdictions: [CN]", "jurisdictions: CN"),
        ("jurisdictions: [CN]", "jurisdictions: []"),
        ("when: [provided", "when: [whispered"),
        ("demands: separate", "demands: nicely"),
        ("id: publication", "id: provision"),
        ("events: [policy.published]", "events: [policy.burnt]"),
        ("sections: [notices]", "sections: [horoscope]"),
        ("  consent: {", "  assent: {"),
        ("withdrawable: true", "withdrawable: perhaps"),
        ('title: {en: "Consent"', 'title: {de: "Einwilligung"'),
        ("law: pipl", "law: !!python/object/apply:os.system ['true']"),
    ],
)
def test_a_malformed_law_is_refused(old, new):
    assert old in PIPL
    with pytest.raises(BadInput):
        parse(PIPL.replace(old, new, 1))


@given(
    st.text(max_size=200) | st.sampled_from(["", "[]", "{}", "a: " * 10_000, "- " * 5_000, "x" * (1 << 19)])
)
def test_what_is_no_law_is_bad_input_and_nothing_else(text):
    with pytest.raises(BadInput):
        parse(text)
