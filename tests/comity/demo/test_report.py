"""The page: self-contained, escaped, complete, and drawn to scale."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comity.demo.outcome import (
    Cell,
    Exchange,
    LogFinding,
    Masking,
    MaskSample,
    Measured,
    Model,
    OptOuts,
    Outcome,
    Overlap,
    Particulars,
    ReceiptFinding,
    Stage,
    write_atomically,
)
from comity.demo.pictures import area_circles, bars, interval_axis, latency_histogram, lens_area
from comity.demo.report import render

BOTH = ("bank", "shop")


def an_outcome(hostile: str = "") -> Outcome:
    return Outcome(
        seconds=147.2,
        overlap=Overlap(16_742, (16_717.0, 16_767.0), 1.0, 16_548, (16_523.0, 16_573.0)),
        cells=[
            Cell("21–29" + hostile, "up to 50k", 1_000, (990.0, 1_010.0), False),
            Cell("21–29" + hostile, "over 50k", None, None, True),
            Cell("30 and over", "up to 50k", 500, (490.0, 510.0), False),
        ],
        measure=Measured("PAY_AMT1" + hostile, 5_671.2, (5_612.0, 5_731.0)),
        model=Model(0.6174, 0.7163, 0.7159, 16_012, 15_812),
        optout=OptOuts(200, [float(100 + i) for i in range(200)], 600, 3, True),
        logs=[LogFinding(p + hostile, f"/kept/{p}/log", f"{p}+00000000+AAAA", 95_081, True) for p in BOTH],
        receipts=[ReceiptFinding("overlap" + hostile, BOTH, True, "overlap.reach" + hostile, "19:56:00")],
        engine="ipp",
        particulars=Particulars(
            bank=BOTH[0], shop=BOTH[1], people_each=24_000, people_shared=18_000,
            rows=dict.fromkeys(BOTH, 24_079),
            eligible=dict.fromkeys(BOTH, 22_811), delta=1e-6, minimum_cell=50, seed=7,
            source="credit data" + hostile, made_at="2025-03-01 12:00 UTC",
            stages=[Stage("mask" + hostile, 3.0)],
            exchanges=[Exchange("overlap" + hostile, 760_000, None, "counts" + hostile, "nothing")],
            samples=[MaskSample(BOTH[0], [("note" + hostile, "before" + hostile, "手机 after" + hostile)])],
            masking=[Masking(BOTH[0], 24_079, 6_000, 7_000, 0)],
            consents={"bank granted": {"overlap.reach" + hostile: 23_000}},
            versions={"comity" + hostile: "0.1.0"},
        ),
    )  # fmt: skip


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "br", "hr", "img", "circle", "rect", "line", "path"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_the_page_is_well_formed_and_says_the_numbers() -> None:
    page = render(an_outcome())
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    for text in ("16,742", "16,548", "5,671", "0.617", "0.716", "297 ms", "withheld", "手机 after", "10⁻⁶"):
        assert text in page
    assert "{{" not in page and "{%" not in page
    assert "1e-06" not in page and "None" not in page


def test_the_page_asks_nobody_for_anything() -> None:
    page = render(an_outcome())
    tags = _Tags()
    tags.feed(page)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form"} & set(tags.seen)
    assert not [a for a, _ in tags.attributes if a in {"src", "href", "srcset"} or a.startswith("on")]
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{7*7}}", "&lt;"]
)
def test_hostile_strings_arrive_as_text(hostile: str) -> None:
    page = render(an_outcome(hostile))
    tags = _Tags()
    tags.feed(page)
    assert "script" not in tags.seen and "img" not in tags.seen
    if hostile == "{{7*7}}":
        assert page.count(hostile) > 10, "data is never taken for a template"
    else:
        assert hostile not in page


def test_every_picture_has_words_for_those_who_cannot_see_it() -> None:
    page = render(an_outcome())
    pictures = re.findall(r"<svg [^>]*>", page)
    assert len(pictures) == 5
    for tag in pictures:
        assert ('role="img"' in tag and "aria-label=" in tag) or "aria-hidden" in tag
    assert 'lang="en"' in page
    assert page.count("<title>") == 1 + 4


def test_a_failed_check_is_not_shown_as_done() -> None:
    good = an_outcome()
    bad = dataclasses.replace(
        good,
        optout=dataclasses.replace(good.optout, non_inclusion_proved=False),
        logs=[dataclasses.replace(good.logs[0], verified=False), good.logs[1]],
    )
    assert good.sound and not bad.sound
    page = render(bad)
    assert "Not proved absent" in page
    assert "1 of 2 logs" in page
    assert page.count('class="no"') == 2


def test_the_json_has_exactly_the_published_shape() -> None:
    document = an_outcome().document()
    assert list(document) == [
        "seconds", "overlap", "cells", "measure", "model", "optout", "logs", "receipts", "engine",
    ]  # fmt: skip
    assert set(document["overlap"]) == {"value", "ci95", "epsilon", "after_optout"}
    assert set(document["measure"]) == {"column", "mean", "ci95"}
    assert set(document["model"]) == {"auc_alone", "auc_joint", "auc_joint_after_optout", "people"}
    assert set(document["optout"]) == {"people", "enforced_p99_ms", "non_inclusion_proved"}
    assert set(document["logs"][0]) == {"partner", "dir", "vkey", "size", "verified"}
    assert set(document["receipts"][0]) == {"kind", "partners", "verified"}
    assert document["overlap"]["ci95"] == [16_717.0, 16_767.0]


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    an_outcome().write_json(path)
    assert json.loads(path.read_text(encoding="utf-8"))["engine"] == "ipp"
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert json.loads(path.read_text(encoding="utf-8"))["engine"] == "ipp"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_p99_is_the_nearest_rank() -> None:
    assert OptOuts(200, [float(i) for i in range(1, 201)], 0, 0, True).enforced_p99_ms == 198.0
    assert OptOuts(1, [7.0], 0, 0, True).enforced_p99_ms == 7.0
    assert OptOuts(0, [], 0, 0, False).enforced_p99_ms == 0.0


@given(a=st.integers(1_000, 100_000), b=st.integers(1_000, 100_000), share=st.floats(0, 1))
def test_circles_and_what_they_share_are_to_scale(a: int, b: int, share: float) -> None:
    common = share * min(a, b)
    drawn = area_circles(BOTH, (a, b), common, ("x", "y", "z"))
    circles = re.findall(r'<circle cx="([\d.]+)" cy="[\d.]+" r="([\d.]+)" class="set', drawn)
    (x1, r1), (x2, r2) = ((float(x), float(r)) for x, r in circles)
    assert math.isclose(r1 * r1 / (r2 * r2), a / b, rel_tol=0.02)
    assert math.isclose(
        lens_area(r1, r2, x2 - x1),
        common * math.pi * r1 * r1 / a,
        rel_tol=0.03,
        abs_tol=math.pi * 116**2 * 0.02,
    )


@given(low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6))
def test_any_interval_can_be_drawn(low: float, width: float) -> None:
    assert "nan" not in interval_axis([("a", low, (low, low + width), "both")], "people")


@given(st.lists(st.floats(0, 1e7), max_size=50))
def test_any_latencies_can_be_drawn(latencies: list[float]) -> None:
    assert "nan" not in latency_histogram(latencies)


@given(st.floats(0, 1))
def test_any_score_stays_inside_the_picture(value: float) -> None:
    drawn = bars([("a", "b", value, "bank")], 0.5, 0.8, "coin toss")
    assert 1.0 <= float(re.findall(r'width="([\d.]+)"', drawn)[-1]) <= 440.0
