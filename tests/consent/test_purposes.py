from __future__ import annotations

import pytest

from consent.errors import UnknownPurpose
from consent.purposes import PurposePolicy, ancestry
from privacy.errors import BadInput

TEXT = """
policy: test
version: 3
purposes:
  ads:
    since: 1
    title: {en: Ads}
    children:
      email: {since: 1, title: {en: By mail}}
      push: {since: 3, title: {en: By push}, renotice: 3}
notices:
  main: {version: 1, purposes: [ads], text: {en: We show ads., zh: 我们展示广告。}}
"""


def test_the_shipped_policy_has_the_purposes_of_the_house():
    policy = PurposePolicy.default()
    assert {"overlap.reach", "overlap.measure", "overlap.align", "model.credit", "activation"} <= set(
        policy.purposes
    )
    assert len(policy.hash) == 64 and policy.notices["general"].hash("zh") != policy.notices["general"].hash(
        "en"
    )


def test_unknown_purposes_and_versions_are_named_errors():
    policy = PurposePolicy.parse(TEXT)
    for purpose, version, code in [
        ("ads.sms", None, "unknown_purpose"),
        ("*", None, "unknown_purpose"),
        ("ads", 4, "unknown_purpose_version"),
        ("ads.push", 2, "unknown_purpose_version"),
        ("ads", 0, "unknown_purpose_version"),
    ]:
        with pytest.raises(UnknownPurpose) as caught:
            policy.require(purpose, version)
        assert caught.value.code == code
    assert policy.require("ads.push", 3).since == 3


def test_ancestry_climbs_to_everything():
    assert ancestry("a.b.c") == ("a.b.c", "a.b", "a", "*")


def test_children_are_those_of_the_version():
    policy = PurposePolicy.parse(TEXT)
    assert policy.below("ads", 1) == ["ads", "ads.email"]
    assert policy.below("ads", 3) == ["ads", "ads.email", "ads.push"]


@pytest.mark.parametrize(
    "change",
    [
        ("version: 3", "version: 0"),
        ("version: 3", "version: three"),
        ("version: 3", "version: true"),
        ("since: 3", "since: 4"),
        ("  ads:\n    since: 1", "  ads:\n    since: 2"),
        ("title: {en: Ads}", "title: Ads"),
        ("title: {en: Ads}", "titel: {en: Ads}"),
        ("purposes: [ads]", "purposes: [adz]"),
        ("ads:", "Ads!:"),
        ("policy: test", "policy: [test"),
        ("notices:", "notes:"),
        ("policy: test", "policy: !!python/object/apply:os.system ['true']"),
    ],
)
def test_a_malformed_policy_is_refused_with_its_place(change):
    with pytest.raises(BadInput):
        PurposePolicy.parse(TEXT.replace(*change))
    with pytest.raises(BadInput):
        PurposePolicy.parse("x" * 2_000_000)


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput):
        PurposePolicy.load(path)
