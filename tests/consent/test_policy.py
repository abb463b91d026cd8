"""The policy beyond the tree: notices and their versions, white lists, red lines, succession."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.laws import Trait
from consent.purposes import PurposePolicy
from consent.succession import may_follow
from privacy.errors import BadInput, Misuse

OLD_TEXT = sha256(b"We show ads.").hexdigest()
TEXT = """
policy: test
version: 3
laws: [pipl]
categories:
  contact: {title: {en: Contact}, fields: [email, "*_phone"], dpv: "pd:Contact"}
  finance: {title: {en: Money}, fields: ["pay_*"], sensitive: [pipl]}
  health: {title: {en: Health}, fields: [diagnosis], sensitive: [pipl, gdpr]}
red_lines:
  - {id: no_health, title: {en: No health data}, categories: [health]}
  - {id: no_money, title: {en: No money in ads}, purposes: [ads], categories: [finance], fields: [LIMIT]}
purposes:
  ads:
    since: 1
    title: {en: Ads}
    traits: [provided, marketing]
    bases: {pipl: [consent]}
    data: [contact]
    retention_days: 30
    notice: required
    tcf: [3]
    children:
      email: {since: 1, title: {en: By mail}, fields: [open_rate], retention_days: 10, notice: optional}
      push: {since: 3, title: {en: By push}, traits: [automated], tcf: []}
  audit: {since: 1, title: {en: Audit}}
notices:
  main:
    version: 2
    since: 2
    material: true
    purposes: [ads]
    text: {en: We show more ads., zh: 我们展示更多广告。}
    ui: {en: UI}
    earlier: [{version: 1, text: {en: OLD}}]
  later: {version: 1, since: 3, purposes: [ads.push, audit], text: {en: We push.}}
""".replace("OLD", OLD_TEXT).replace("UI}", "ab" * 32 + "}")


@pytest.fixture
def policy():
    return PurposePolicy.parse(TEXT)


def test_a_child_takes_over_what_its_parent_says_and_only_adds_traits(policy):
    ads, email, push = (policy.purposes[name] for name in ("ads", "ads.email", "ads.push"))
    assert email.traits == ads.traits == {Trait.PROVIDED, Trait.MARKETING}
    assert push.traits == ads.traits | {Trait.AUTOMATED}
    assert (email.data, email.fields, email.retention) == (("contact",), ("open_rate",), timedelta(days=10))
    assert (push.retention, push.tcf, push.notice_required) == (timedelta(days=30), (), True)
    assert not email.notice_required and email.bases == {"pipl": ("consent",)}
    assert policy.purposes["audit"].retention is None and policy.laws == ("pipl",)


def test_a_column_is_allowed_by_category_or_by_name_in_any_case(policy):
    assert policy.allows("ads", "EMAIL") and policy.allows("ads", "home_Phone")
    assert policy.allows("ads", "open_rate") is False and policy.allows("ads.email", "Open_Rate")
    assert policy.allows("ads", "pay_0") is False and policy.allows("audit", "email") is None
    assert [c.name for c in policy.categories_of("PAY_0")] == ["finance"]


def test_red_lines_hold_for_a_purpose_and_everything_below_it(policy):
    def crossed(*question):
        return [line.id for line in policy.crossed(*question)]

    assert crossed("ads.push", "pay_2") == crossed("ads", "limit") == ["no_money"]
    assert crossed("audit", "pay_2") == [] and crossed("audit", "Diagnosis") == ["no_health"]


def test_a_notice_covers_what_it_names_and_the_children_of_its_time(policy):
    assert [n.name for n in policy.notices_for("ads.email")] == ["main"]
    assert [n.name for n in policy.notices_for("ads.push")] == ["later"]
    assert [n.name for n in policy.notices_for("audit")] == ["later"]


def test_a_material_version_of_a_notice_makes_older_grants_of_what_it_covers_stale(policy):
    assert policy.purposes["ads"].renotice == policy.purposes["ads.email"].renotice == 2
    assert policy.purposes["ads.push"].renotice == policy.purposes["audit"].renotice == 0
    plain = PurposePolicy.parse(TEXT.replace("    material: true\n", ""))
    assert plain.purposes["ads"].renotice == 0


def test_a_later_version_that_is_not_material_brings_no_stale_consent_back(policy):
    later = TEXT.replace("version: 2\n    since: 2\n    material: true", "version: 3\n    since: 3").replace(
        "earlier: [", f"earlier: [{{version: 2, since: 2, material: true, text: {{en: {OLD_TEXT}}}}}, "
    )
    assert PurposePolicy.parse(later).purposes["ads"].renotice == 2
    may_follow(policy, PurposePolicy.parse(later))


def test_versions_of_a_notice_are_known_by_their_hashes(policy):
    notice = policy.notice("main", 1)
    assert notice.of_version(1).text == {"en": OLD_TEXT} and notice.of_version(3) is None
    assert notice.of_version(2).text["en"] == sha256(b"We show more ads.").hexdigest()
    for name, version, code in (("none", None, "unknown_notice"), ("main", 7, "unknown_notice_version")):
        with pytest.raises(BadInput) as caught:
            policy.notice(name, version)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("laws: [pipl]", "laws: [lgpd]"),
        ("laws: [pipl]", "laws: pipl"),
        ("laws: [pipl]", "law: [pipl]"),
        ("sensitive: [pipl]", "sensitive: true"),
        ("  finance: {", "  Finance!: {"),
        ("data: [contact]", "data: [contacts]"),
        ("traits: [automated]", "traits: [magic]"),
        ("traits: [automated]", "traits: automated"),
        ("bases: {pipl: [consent]}", "bases: {pipl: [legitimate_interest]}"),
        ("bases: {pipl: [consent]}", "bases: {lgpd: [consent]}"),
        ("retention_days: 30", "retention_days: 0"),
        ("retention_days: 30", "retention_days: forever"),
        ("notice: required", "notice: maybe"),
        ("tcf: [3]", "tcf: [12]"),
        ("tcf: [3]", "tcf: [true]"),
        ("categories: [health]}", "categories: []}"),
        ("categories: [health]}", "categories: [wealth]}"),
        ("id: no_health", "id: no_money"),
        ("purposes: [ads], categories", "purposes: [adz], categories"),
        ("    since: 2\n", ""),
        ("since: 2\n", "since: 4\n"),
        ("material: true", "material: yes please"),
        ("earlier: [{version: 1", "earlier: [{version: 2"),
        ("earlier: [{version: 1", "earlier: [{version: 3"),
        ("earlier: [{", "earlier: [{material: true, "),
        (OLD_TEXT, "abc"),
        ("zh: 我们展示更多广告。", "zh: ''"),
        ("zh: 我们展示更多广告。", "12: text"),
        ("  main:", "  Main notice:"),
        ("purposes: [ads.push, audit]", "purposes: []"),
        ("title: {en: No health data}, categories: [health]", "title: {en: X}, traits: [marketing]"),
    ],
)
def test_a_malformed_policy_is_refused_with_its_place(old, new):
    assert old in TEXT
    with pytest.raises(BadInput) as caught:
        PurposePolicy.parse(TEXT.replace(old, new, 1))
    assert len(str(caught.value)) < 300


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["policy", "version", "purposes", "notices", "since", "title", "en", "a"]),
                inner,
                max_size=6,
            )
        ),
    )
)
def test_any_document_is_a_policy_or_bad_input(document):
    try:
        found = PurposePolicy.from_document(document)
    except BadInput:
        return
    assert found.purposes and len(found.hash) == 64


def test_a_policy_that_rewrites_what_was_agreed_to_may_not_follow(policy):
    may_follow(policy, policy)
    may_follow(policy, PurposePolicy.parse(TEXT.replace("title: {en: Ads}", "title: {en: Advertising}")))
    for old, new in (
        ("We show more ads.", "We show all the ads."),
        ("ab" * 32, "cd" * 32),
        ("push: {since: 3", "push: {since: 1"),
        ("    material: true\n", ""),
        ("  audit: {", "  spying: {since: 2, title: {en: Spying}}\n  audit: {"),
        ("version: 2\n    since: 2\n    material: true\n", "version: 1\n"),
    ):
        changed = TEXT.replace(old, new, 1)
        if "version: 1\n    purposes: [ads]" in changed:
            changed = changed.replace("    earlier: [{version: 1, text: {en: " + OLD_TEXT + "}}]\n", "")
        with pytest.raises(Misuse) as caught:
            may_follow(policy, PurposePolicy.parse(changed))
        assert caught.value.code == "policy_rewritten"
    newer = PurposePolicy.parse(
        TEXT.replace("version: 3\n", "version: 4\n", 1).replace(
            "  audit: {", "  sums: {since: 4, title: {en: Sums}}\n  audit: {"
        )
    )
    may_follow(policy, newer)


def test_a_ledger_does_not_open_under_a_policy_that_rewrites_the_published_one(make_node):
    node = make_node("shop")
    text = TEXT.replace("laws: [pipl]\n", "")
    node.open(policy=PurposePolicy.parse(text))
    with pytest.raises(Misuse):
        node.open(policy=PurposePolicy.parse(text.replace("We show more ads.", "We sell everything.")))
    assert (
        node.open(policy=PurposePolicy.parse(text.replace("{en: Ads}", "{en: Advertising}"))).head().size == 2
    )


def test_the_shipped_policy_crosses_no_red_line_of_its_own():
    policy = PurposePolicy.default()
    for purpose in policy.purposes.values():
        for name in purpose.data:
            for field in policy.categories[name].fields:
                column = field.replace("*", "x")
                assert policy.allows(purpose.name, column)
                assert not policy.crossed(purpose.name, column), (purpose.name, column)
        assert policy.notices_for(purpose.name) and purpose.retention is not None
    assert replace(policy.notices["general"], version=2).of_version(1) is None
