"""The scan finds each way in which a policy can be broken, and stays quiet where none is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from consent.audit.archive import AuditReports
from consent.audit.collect import collect
from consent.audit.report import LANGUAGES, render
from consent.audit.scan import Inspected, ScanReport, scan
from consent.events import grant
from consent.purposes import PurposePolicy


@dataclass(frozen=True)
class Table:
    name: str = "customers"
    keys: Mapping[str, str] = field(default_factory=lambda: {"email": "email"})
    measured: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    expressions: tuple[str, ...] = ()


COLUMNS = {
    "email": ["ann@example.org"] * 20,
    "spend": [1.0, 2.5],
    "age": [33, 44],
    "diagnosis": ["flu"],
    "label": ["a", "b"],
    "shoe_size": [42],
    "note": ["call 13800138000"] * 3 + ["nothing"] * 7,
    "token": ["t_9f2c"] * 10,
}


def scanned(register, *tables: Table, agreed=None, values=None, age_days: int = 1) -> ScanReport:
    now = register.clock()
    return scan(
        tables,
        register.ledger.policy,
        collect(register.ledger),
        agreed={"bank": ["overlap.measure"]} if agreed is None else agreed,
        inspect=lambda table: Inspected(
            None if age_days < 0 else now - timedelta(days=age_days), COLUMNS if values is None else values
        ),
        now=now,
    )


@pytest.fixture
def register(make_register):
    made = make_register(days=0)
    made.record([grant([("email", b"ann@example.org")], "overlap.measure")])
    return made


def rules(report: ScanReport, level: str = "bad") -> set[tuple[str, str]]:
    return {(f.rule, f.column) for f in report.findings if f.level == level}


def test_columns_on_the_list_pass(register) -> None:
    report = scanned(register, Table(measured=("spend",), expressions=("age > 30 AND email <> 'x'",)))
    assert rules(report) == set()
    assert (report.datasets, report.columns) == (1, 3)


def test_a_column_that_is_on_no_list_is_found(register) -> None:
    assert rules(scanned(register, Table(measured=("shoe_size",)))) == {("not_allowed", "shoe_size")}


def test_a_red_line_is_found_even_inside_an_expression(register) -> None:
    table = Table(expressions=("CASE WHEN \"Diagnosis\" = 'spend' THEN 1 END",))
    assert rules(scanned(register, table)) == {("red_line", "diagnosis")}


def test_words_inside_strings_and_unknown_words_are_no_columns(register) -> None:
    table = Table(expressions=("age = 'diagnosis ''note'' label'", "lower(nowhere) LIKE '%spend%'"))
    assert scanned(register, table).columns == 2


def test_an_unmasked_identifier_is_found_and_a_key_is_not(register) -> None:
    report = scanned(register, Table(features=("token",), expressions=("note IS NOT NULL",)))
    assert ("unmasked", "note") in rules(report)
    assert not {column for rule, column in rules(report) if rule == "unmasked"} & {"email", "token"}
    assert "13800138000" not in str(report.to_dict())


def test_a_file_older_than_the_policy_keeps_it_is_found(register) -> None:
    found = [f for f in scanned(register, Table(), age_days=400).findings if f.rule == "retention"]
    assert [(f.dataset, f.values["days"], f.values["limit"]) for f in found] == [("customers", 400, 365)]
    assert not [f for f in scanned(register, Table(), age_days=-1).findings if f.rule == "retention"]


def test_a_purpose_agreed_but_agreed_to_by_nobody_is_told(register) -> None:
    report = scanned(register, agreed={"bank": ["model.credit", "no.such"]})
    assert {(f.rule, f.purpose) for f in report.findings} >= {
        ("no_consent", "model.credit"), ("unknown_purpose", "no.such"),
    }  # fmt: skip


def test_a_use_outside_every_agreement_is_found(register) -> None:
    register.use([1], "overlap.reach", "bank", gate=False)
    register.use([1], "overlap.measure", "bank", gate=False)
    found = [f for f in scanned(register).findings if f.rule == "over_scope"]
    assert [(f.purpose, f.values) for f in found] == [("overlap.reach", {"partner": "bank", "count": 1})]


def test_a_policy_without_limits_lists_or_notices_is_told(register) -> None:
    bare = PurposePolicy.parse(
        "policy: bare\nversion: 1\nnotices: {}\n"
        "purposes: {overlap: {since: 1, title: {en: x}, children: {measure: {since: 1, title: {en: y}}}}}"
    )
    register.ledger.policy = bare
    found = {(f.rule, f.level) for f in scanned(register, Table(measured=("spend",))).findings}
    assert {
        ("no_list", "warn"),
        ("unlimited", "warn"),
        ("no_notice", "bad"),
        ("missing_notice", "warn"),
    } <= found


def test_consents_gone_stale_or_expired_are_told(register) -> None:
    ends = register.clock() + timedelta(days=1)
    register.record([grant([("email", b"bob@example.org")], "overlap.measure", expires_at=ends)])
    register.clock.move(days=2)
    found = [f for f in scanned(register).findings if f.rule == "stale"]
    assert [f.values for f in found] == [{"count": 0, "expired": 1}]


def test_every_rule_can_be_said_in_every_language(register) -> None:
    register.use([1], "overlap.reach", "bank", gate=False)
    tables = (
        Table(measured=("shoe_size",), features=("diagnosis",), expressions=("note = 1",)),
        Table("old", measured=("spend",)),
    )
    report = scanned(
        register, *tables, agreed={"bank": ["overlap.measure", "model.credit", "x.y"]}, age_days=900
    )
    assert len({f.rule for f in report.findings}) >= 8
    made = AuditReports(register.ledger, register.key, scan=lambda facts: report).make()
    for language in LANGUAGES:
        page = render(made, language)
        assert page.count("shoe_size") >= 1
    assert "健康、信仰与行踪信息不得用于任何目的" in render(made, "zh")


def test_one_finding_stands_for_all_purposes_it_is_the_same_for(register) -> None:
    report = scanned(register, Table(measured=("shoe_size",)), agreed={})
    found = [f for f in report.findings if f.rule == "not_allowed"]
    assert [f.purpose for f in found] == ["overlap.measure"]
