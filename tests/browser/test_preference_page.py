"""The preference page in a real browser, with scripts switched off."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from consent.events import grant

ANN = [("email", b"ann@example.org"), ("phone", b"+8613800138000")]


def allowed(site, purpose="overlap.reach"):
    return site.ledger.check(ANN[0][1], "email", purpose, "bank").allowed


@pytest.fixture
def link(site):
    site.ledger.record([grant(ANN, "overlap.reach", partner="bank")])
    return site.people.links.create(ANN).url


def test_the_browser_has_nothing_to_complain_about_and_asks_nobody_else(tab, site, link):
    page = tab()
    page.go(link)
    assert "Your privacy choices" in page.html() and page.complaints == []
    assert {request["url"] for request in page.requests} == {link}
    width, height = page.size()
    assert width == 900 and height > 800 and page.picture()[:8] == b"\x89PNG\r\n\x1a\n"


def test_choices_are_made_with_a_mouse_and_no_script(tab, site, link):
    page = tab()
    page.go(link)
    page.click('input[name="overlap.reach|bank"][value="no"] + label')
    page.click('input[name="model.credit|bank"][value="yes"] + label')
    assert allowed(site)  # nothing is sent before it is saved
    page.click('button[value="save"]')
    page.loaded()
    shown = page.html()
    assert "Saved: 1 choice set to no." in shown and "Saved: 1 choice set to yes." in shown
    assert not allowed(site) and allowed(site, "model.credit")
    assert page.complaints == []
    # The token stands in the address: it is told to no other page, nor to this one.
    for request in page.requests:
        assert "Referer" not in request["headers"]


def test_choices_are_made_with_a_keyboard(tab, site, link):
    page = tab()
    page.go(link)
    page.click("h1")
    for _ in range(2):  # the button for everything, then the first choice
        page.press("Tab", 9)
    page.press("ArrowLeft", 37)
    page.press("Enter", 13, "\r")
    page.loaded()
    assert not allowed(site) and "Saved: 1 choice set to no." in page.html()


def test_everything_is_refused_with_one_click(tab, site, link):
    page = tab()
    page.go(link)
    page.click('button[value="everything"]')
    page.loaded()
    assert "You have said no to everything" in page.html() and not allowed(site)
    page.go(link)
    assert 'value="everything"' not in page.html() and "Saved" not in page.html()


def test_the_page_speaks_the_browsers_language_and_switches(tab, site, link):
    page = tab(headers={"Accept-Language": "zh-CN,zh;q=0.9"})
    page.go(link)
    assert "您的隐私选择" in page.html() and 'lang="zh-CN"' in page.html()
    page.click('a[hreflang="en"]')
    page.loaded()
    assert "Your privacy choices" in page.html()
    page.click('button[value="save"]')  # the language chosen is kept
    page.loaded()
    assert "Nothing had changed" in page.html()


def test_a_screen_reader_is_told_what_each_control_is_for(tab, site, link):
    page = tab()
    page.go(link)
    controls = page.controls()
    assert all(control["name"] for control in controls), [c for c in controls if not c["name"]]
    groups = [c for c in controls if c["role"] == "radiogroup"]
    assert len(groups) == 5 and all(group["description"] for group in groups)
    assert {c["name"] for c in controls if c["role"] == "radio"} == {"Yes", "No"}
    assert next(c["name"] for c in controls if c["role"] == "heading") == "Your privacy choices"


def test_nothing_is_cut_off_on_a_small_screen(tab, site, link):
    page = tab(width=320)
    for language in ("en", "zh"):
        page.go(f"{link}?lang={language}")
        assert page.size()[0] == 320


def test_a_signal_of_the_browser_is_shown_and_kept(tab, site, link):
    page = tab(headers={"Sec-GPC": "1"})
    page.go(link)
    assert "Global Privacy Control" in page.html()
    page.click('input[name="activation.audience|bank"][value="yes"] + label')
    page.click('button[value="save"]')
    page.loaded()
    assert not allowed(site, "activation.audience") and allowed(site)


def test_a_page_of_another_site_can_neither_read_nor_say_yes(tab, site, link, tmp_path):
    # Even somebody who knew the link could not show the page in a frame or send its form from elsewhere.
    framed = tmp_path / "frame.html"
    framed.write_text(f'<iframe src="{link}" width="600" height="600"></iframe>')
    page = tab()
    page.go(framed.as_uri())
    assert any("frame" in complaint.lower() for complaint in page.complaints)
    form = site.people.preferences.choices(site.people.links.open(link.rsplit("/", 1)[1])).form
    sent = tmp_path / "send.html"
    sent.write_text(
        f'<form method="post" action="{link}"><input name="do" value="save">'
        f'<input name="form" value="{form}"><input name="model.credit|bank" value="yes">'
        "<button>go</button></form>"
    )
    page.go(sent.as_uri())
    page.click("button")
    page.loaded()
    assert not allowed(site, "model.credit")


def _luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a, b):
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_every_text_stands_out_from_what_it_is_on_in_light_and_dark():
    # WCAG 2.2, 1.4.3 (AA): at least 4.5 to 1.
    css = resources.files("consent").joinpath("templates", "preferences.css").read_text()
    themes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", part))
        for part in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(themes) == 2
    pairs = [
        ("ink", "paper"), ("ink", "card"), ("soft", "paper"), ("soft", "card"), ("leaf", "card"),
        ("leaf", "paper"), ("leaf", "leaf-soft"), ("no", "card"), ("no", "no-soft"), ("note", "note-soft"),
        ("note", "card"), ("card", "leaf"),
    ]  # fmt: skip
    for theme in themes:
        for text, ground in pairs:
            assert _contrast(theme[text], theme[ground]) >= 4.5, (text, ground)
