"""Preference signals: read to the letter, kept as they came, and only ever restricting."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.bits import BitReader
from consent.events import EventType, grant
from consent.gpp import parse_gpp_string
from consent.history import open_entry
from consent.purposes import PurposePolicy
from consent.signals import (
    Signal,
    Standard,
    read_gpc,
    read_signal,
    record_signal,
    restricted_by,
    signal_events,
)  # fmt: skip
from consent.tcf import parse_tc_string
from consent.verify import verify_ledger
from privacy.errors import BadInput

ANN = [("email", b"ann@example.org")]
BOB = [("email", b"bob@example.org")]
TC = "COrEAV4OrXx94ACABBENAHCIAD-AAAAAAACAAxAAAAgAIAwgAgAAAAEAgQAAAAAEAYQAQAAAACAAAABAAA"
NO_CONSENT = "CQSbk4AQSbk4ANwAAAENAwCgAAAAAAAAAAYgACPAAAAA.IDKQA4AAgAKAGQAygAAA"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
POLICY = PurposePolicy.parse(
    """
policy: test
version: 1
purposes:
  ads:
    since: 1
    title: {en: Ads}
    traits: [shared]
    tcf: [3, 4]
    children:
      push: {since: 1, title: {en: Push}}
  sell: {since: 1, title: {en: Sale}, children: {list: {since: 1, title: {en: List}, traits: [sold]}}}
  measure: {since: 1, title: {en: Measuring}, tcf: [7, 9], bases: {gdpr: [consent, legitimate_interest]}}
  strict: {since: 1, title: {en: Measuring strictly}, tcf: [9], bases: {gdpr: [consent]}}
  model: {since: 1, title: {en: Models}}
notices: {}
"""
)


def letters(bits):
    bits += "0" * (-len(bits) % 6)
    return "".join(LETTERS[int(bits[i : i + 6], 2)] for i in range(0, len(bits), 6))


def tc_string(purposes=(), interest=(), vendors=(), *, version=2):
    """A TC string of the project's own making, for what the official examples do not say."""

    def field(ids, size):
        return "".join("1" if i in ids else "0" for i in range(1, size + 1))

    def number(value, bits):
        return format(value, f"0{bits}b")

    highest = max(vendors, default=0)
    core = (
        number(version, 6) + number(0, 72) + number(7, 12) + number(1, 12) + number(0, 6) + number(0, 12)
        + number(1, 12) + number(4, 6) + "10" + number(0, 12) + field(purposes, 24) + field(interest, 24)
        + "0" + number(0, 12) + number(highest, 16) + "0" + field(vendors, highest) + number(0, 17)
        + number(0, 12)
    )  # fmt: skip
    return letters(core)


def test_only_the_value_1_is_a_gpc_signal():
    assert read_gpc("1") == Signal(Standard.GPC, "1")
    for value in (None, "", "0", "true", " 1", "1 ", "01", "1, 1", "１", "yes"):
        assert read_gpc(value) is None
    with pytest.raises(BadInput):
        read_signal("gpc", "0")
    with pytest.raises(BadInput) as caught:
        read_signal("dnt", "1")
    assert caught.value.code == "unknown_signal"


def test_official_tc_strings_are_read(vectors):
    for example in vectors("preference_signals.json")["tcf"]:
        found = parse_tc_string(example["text"])
        for name, expected in example.items():
            if name == "text":
                continue
            value = getattr(found, name)
            if name in ("created", "updated"):
                assert value.isoformat() == expected
            elif isinstance(expected, list):
                assert sorted(value) == expected or list(value) == expected, name
            else:
                assert value == expected, name


def test_official_gpp_strings_are_read(vectors):
    examples = vectors("preference_signals.json")
    for example in examples["gpp"]:
        found = parse_gpp_string(example["text"])
        assert list(found.sections) == example["sections"]
        assert (sorted(found.opted_out), found.gpc) == (example["opted_out"], example["gpc"])
        assert list(found.unread) == example.get("unread", [])
    for header, sections in examples["headers"].items():
        r = BitReader(header)
        assert (r.integer(6), r.integer(6), list(r.fibonacci_range())) == (3, 1, sections)


@given(st.sets(st.integers(1, 24)), st.sets(st.integers(1, 24)), st.sets(st.integers(1, 90), max_size=9))
def test_what_a_tc_string_says_is_what_is_read(purposes, interest, vendors):
    found = parse_tc_string(tc_string(purposes, interest, vendors))
    assert (found.purposes, found.purposes_interest, found.vendors) == (purposes, interest, vendors)


@given(st.text(max_size=60) | st.text(LETTERS + ".~=+/", max_size=120))
def test_any_text_is_a_signal_or_bad_input(text):
    for standard in ("tcf", "gpp"):
        try:
            read_signal(standard, text)
        except BadInput as error:
            assert error.code == "bad_signal" and (len(text) < 5 or text not in str(error))


@given(st.integers(0, len(TC) - 1), st.sampled_from(LETTERS), st.integers(1, len(TC)))
def test_a_damaged_tc_string_is_read_or_refused_and_never_breaks(place, letter, length):
    for text in (
        TC[:place] + letter + TC[place + 1 :],
        TC[:length],
        f"{TC}.{TC[:length]}",
        f"DBABM~{TC[:length]}",
    ):
        for parse in (parse_tc_string, parse_gpp_string):
            with suppress(BadInput):
                parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", TC[:30], TC + ".", TC + ".A", f"{TC}.I.Q.c.A", f"{TC}{2 * '.IDKQA4AAgAKAGQAygAAA'}",
        tc_string(version=1), tc_string(version=3), TC + "=", TC.replace("C", "c", 1), "x" * 9000, TC + " ",
        TC + ".gAAA",
    ],
)  # fmt: skip
def test_what_is_no_tc_string_is_refused(text):
    with pytest.raises(BadInput):
        parse_tc_string(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "~", "DBABM", "DBABM~", "DBABM~1YNN", "DBACNY~1YNN", f"DBABM~{TC}~{TC}", "DBABjw~A~2YNN",
        "DBABjw~A~1yNN", "CBABM~A", "DCABM~A", "DBAAA~A", "DBABBg~BV", "DBABBg~DVWSSSVY",
        "DBABBg~BVWSSSVY.AA",
        "DBABBg~BVWSSSVY.YA.YA", "DBABBg~B____VY", "DBAB" + "A" * 4000 + "~A", "DB__" + "w" * 2000,
    ],
)  # fmt: skip
def test_what_is_no_gpp_string_is_refused(text):
    with pytest.raises(BadInput):
        parse_gpp_string(text)


def test_ranges_that_would_take_long_to_write_out_are_not():
    ranges = "1" + format(1, "016b") + format(65_535, "016b")
    core = tc_string()
    bits = "".join(format(LETTERS.index(c), "06b") for c in core)[:213]
    vendors = format(65_535, "016b") + "1" + format(1_400, "012b") + ranges * 1_400
    restrictions = (
        format(0, "017b") * 2 + format(900, "012b") + ("00000100" + format(1, "012b") + ranges) * 900
    )
    with pytest.raises(BadInput):
        parse_tc_string(letters(bits + vendors)[:8192])
    assert len(parse_tc_string(letters(bits + restrictions)[:8192]).publisher_restrictions) == 1


def test_gpc_restricts_what_is_sold_or_shared_and_nothing_else():
    assert restricted_by(read_gpc("1"), POLICY) == ("ads", "sell.list")
    default = PurposePolicy.default()
    assert restricted_by(read_gpc("1"), default) == ("activation",)


def test_a_gpp_string_restricts_like_gpc_where_it_says_so():
    for text, expected in (
        ("DBABBg~BVWSSSVY.YA", ("ads", "sell.list")),
        ("DBABBg~BAAAAABA.YA", ("ads", "sell.list")),
        ("DBABBg~BAAAAABA.QA", ()),
        ("DBABRg~BVWSSVY", ("ads", "sell.list")),
    ):
        assert restricted_by(read_signal("gpp", text), POLICY) == expected
    both = f"DBACNY~{tc_string({3, 4, 7, 9})}~1YYN"
    assert restricted_by(read_signal("gpp", both), POLICY) == ("ads", "sell.list")
    assert restricted_by(read_signal("gpp", f"DBABM~{NO_CONSENT.split('.', maxsplit=1)[0]}"), POLICY) == (
        "ads", "measure", "strict",
    )  # fmt: skip


def test_a_tc_string_restricts_purposes_that_need_what_it_does_not_say():
    def restricted(*said, vendor=None):
        return restricted_by(read_signal("tcf", tc_string(*said)), POLICY, vendor=vendor)

    assert restricted() == ("ads", "measure", "strict")
    assert restricted({3, 4, 7, 9}) == ()
    assert restricted({3}, {4, 7, 9}) == ("ads", "strict")  # no interest for 3 to 6 since TCF 2.2
    assert restricted({3, 4}, {7, 9}) == ("strict",)  # which does not rest on interest
    assert restricted({3, 4, 7, 9}, (), {12}, vendor=12) == ()
    assert restricted({3, 4, 7, 9}, (), {12}, vendor=13) == ("ads", "measure", "strict")


SIGNALS = st.one_of(
    st.just(read_gpc("1")),
    st.builds(
        lambda p, i: read_signal("tcf", tc_string(p, i)),
        st.sets(st.integers(1, 24)),
        st.sets(st.integers(1, 24)),
    ),
    st.sampled_from(["DBABBg~BVWSSSVY.YA", "DBABBg~BAAAAABA.QA", "DBACNY~" + TC + "~1YYN"]).map(
        lambda text: read_signal("gpp", text)
    ),
)


@given(SIGNALS, st.integers(1, 90) | st.none())
def test_no_signal_ever_grants_anything(signal, vendor):
    restricted = restricted_by(signal, POLICY, vendor=vendor)
    events = signal_events(ANN, signal, restricted)
    assert [event.type for event in events] == [
        EventType.SIGNAL_RECEIVED, *[EventType.WITHDRAWN] * len(restricted),
    ]  # fmt: skip
    assert not any(a != b and b.startswith(a + ".") for a in restricted for b in restricted)


@given(st.sets(st.integers(1, 24)), st.sets(st.integers(1, 24)))
def test_the_more_a_tc_string_consents_to_the_less_it_restricts(purposes, more):
    few = restricted_by(read_signal("tcf", tc_string(purposes)), POLICY)
    many = restricted_by(read_signal("tcf", tc_string(purposes | more)), POLICY)
    assert set(many) <= set(few)


def test_a_signal_is_kept_as_it_came_beside_what_follows_from_it(make_node):
    ledger = make_node("shop").open()
    ledger.record([grant(ANN, "activation"), grant(ANN, "overlap")])
    done = record_signal(ledger, ANN, read_signal("tcf", NO_CONSENT))
    assert not allowed(ledger, ANN, "activation.audience") and not allowed(ledger, ANN, "overlap.measure")
    assert allowed(ledger, ANN, "overlap.reach")
    with ledger.store.read() as view:
        leaf, opening = open_entry(view, ledger.vault, done.first_index)
    said = json.loads(opening.payload)["signal"]
    assert (
        leaf.type == "signal.received" and said["raw"] == NO_CONSENT and said["decoded"]["language"] == "EN"
    )
    assert said["restricted"] == ["overlap.measure", "activation"]
    assert done.count == 3 and verify_ledger(ledger).ok


def test_a_signal_that_comes_again_is_recorded_once_until_the_person_agrees_anew(make_node, clock):
    ledger = make_node("shop").open()
    gpc = read_gpc("1")
    assert record_signal(ledger, ANN, gpc).count == 2
    size = ledger.head().size
    assert record_signal(ledger, ANN, gpc) is None and ledger.head().size == size
    assert record_signal(ledger, BOB, gpc).count == 2
    clock.move(seconds=1)
    ledger.record([grant(ANN, "activation.audience", partner="bank")])
    clock.move(seconds=1)
    assert record_signal(ledger, ANN, gpc).count == 2 and not allowed(ledger, ANN, "activation.audience")
    assert record_signal(ledger, ANN, gpc) is None


def test_a_signal_of_nobody_known_is_counted_without_its_raw_string(make_node):
    ledger = make_node("shop").open()
    done = record_signal(ledger, [], read_signal("tcf", NO_CONSENT))
    with ledger.store.read() as view:
        body = json.loads(open_entry(view, ledger.vault, done.first_index)[1].payload)
    assert body["standard"] == "tcf" and NO_CONSENT not in json.dumps(body)


def test_the_raw_string_is_in_no_repr():
    assert NO_CONSENT not in repr(read_signal("tcf", NO_CONSENT)) + repr(
        replace(read_gpc("1"), raw=NO_CONSENT)
    )


def allowed(ledger, person, purpose, partner="bank"):
    return ledger.check(person[0][1], person[0][0], purpose, partner).allowed
