"""What is found in free text, and what is left alone. The cases are this project's own."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.cn import ric

from privacy.detect import find, find_all
from privacy.detect.scanner import resolve_overlaps
from privacy.detect.text import normalise
from privacy.entities import EntityKind, Span
from privacy.errors import UnknownEntity

ID = "11010519491231002X"  # the example of GB 11643-1999
CARD = "6222021234567890128"


def with_luhn(start: str, length: int) -> str:
    body = start + "7" * (length - 1 - len(start))
    return body + luhn.calc_check_digit(body)


UNIONPAY16, UNIONPAY19 = with_luhn("62220212", 16), with_luhn("62170012", 19)

FOUND = [
    # text → [(kind, as written)]
    ("电话13800138000谢谢", "CN_MOBILE", "13800138000"),
    ("请联系13800138000", "CN_MOBILE", "13800138000"),
    ("13800138000是我的", "CN_MOBILE", "13800138000"),
    ("手机：138-0013-8000。", "CN_MOBILE", "138-0013-8000"),
    ("手机138 0013 8000转", "CN_MOBILE", "138 0013 8000"),
    ("电话１３８００１３８０００谢谢", "CN_MOBILE", "１３８００１３８０００"),
    ("微信同号＋８６１３８００１３８０００", "CN_MOBILE", "＋８６１３８００１３８０００"),
    ("call +86 138 0013 8000 now", "CN_MOBILE", "+86 138 0013 8000"),
    ("(+86)13800138000", "CN_MOBILE", "(+86)13800138000"),
    ("008613800138000", "CN_MOBILE", "008613800138000"),
    ("138\u200b0013\u200d8000", "CN_MOBILE", "138\u200b0013\u200d8000"),
    ("1 3 8 0 0 1 3 8 0 0 0", "CN_MOBILE", "1 3 8 0 0 1 3 8 0 0 0"),
    ("1-3-8-0-0-1-3-8-0-0-0号", "CN_MOBILE", "1-3-8-0-0-1-3-8-0-0-0"),
    ("Tel-13812345678", "CN_MOBILE", "13812345678"),
    ("Zhang-13812345678", "CN_MOBILE", "13812345678"),
    ("Grace/13912345678", "CN_MOBILE", "13912345678"),
    ("QQ-13812345678", "CN_MOBILE", "13812345678"),
    ("12.13812345678李四", "CN_MOBILE", "13812345678"),
    ("phone_13812345678", "CN_MOBILE", "13812345678"),
    ("1.13812345678是张三", "CN_MOBILE", "13812345678"),
    ("（13812345678）", "CN_MOBILE", "13812345678"),
    ("号码१३८१२३४५६७८", "CN_MOBILE", "१३८१२३४५६७८"),
    ("138—0013—8000", "CN_MOBILE", "138—0013—8000"),
    ("19912345678,", "CN_MOBILE", "19912345678"),
    ("座机010-62345678找王", "CN_LANDLINE", "010-62345678"),
    ("座机(0571)87654321", "CN_LANDLINE", "(0571)87654321"),
    ("座机０２１－６２３４５６７８", "CN_LANDLINE", "０２１－６２３４５６７８"),
    ("ring +44 20 7946 0958 today", "PHONE_NUMBER", "+44 20 7946 0958"),
    ("+44 20 7946 0958 12 items", "PHONE_NUMBER", "+44 20 7946 0958"),
    ("香港+852 5123 4567联系", "PHONE_NUMBER", "+852 5123 4567"),
    ("call (415) 555-2671.", "PHONE_NUMBER", "(415) 555-2671"),
    ("call 415-555-2671.", "PHONE_NUMBER", "415-555-2671"),
    (f"身份证{ID}好", "CN_RESIDENT_ID", ID),
    (f"身份证{ID.lower()}好", "CN_RESIDENT_ID", ID.lower()),
    ("身份证１１０１０５１９４９１２３１００２Ｘ", "CN_RESIDENT_ID", "１１０１０５１９４９１２３１００２Ｘ"),
    ("ID 110105 19491231 002X", "CN_RESIDENT_ID", "110105 19491231 002X"),
    ("身份证110105194912310021有误", "CN_RESIDENT_ID", "110105194912310021"),  # wrong digit, but said so
    (f"卡号{UNIONPAY16}建行", "BANK_CARD", UNIONPAY16),
    (f"卡{UNIONPAY19}尾号", "BANK_CARD", UNIONPAY19),
    ("card 4111 1111 1111 1111 exp", "BANK_CARD", "4111 1111 1111 1111"),
    ("card 4111-1111-1111-1111", "BANK_CARD", "4111-1111-1111-1111"),
    ("amex 3782 822463 10005", "BANK_CARD", "3782 822463 10005"),
    ("5555555555554444", "BANK_CARD", "5555555555554444"),
    ("批次 1234 4111 1111 1111 1111", "BANK_CARD", "4111 1111 1111 1111"),
    ("４１１１１１１１１１１１１１１１", "BANK_CARD", "４１１１１１１１１１１１１１１１"),
    ("邮箱zhang.san@example.com谢谢", "EMAIL_ADDRESS", "zhang.san@example.com"),
    ("发到zhang＠example．com吧", "EMAIL_ADDRESS", "zhang＠example．com"),
    ("mailto:a+b@x.co.uk.", "EMAIL_ADDRESS", "a+b@x.co.uk"),
    ("<müller@beispiel.de>", "EMAIL_ADDRESS", "müller@beispiel.de"),
    ("'o'neil@example.com'", "EMAIL_ADDRESS", "o'neil@example.com"),
    ("email=foo@bar.com;", "EMAIL_ADDRESS", "foo@bar.com"),
    ("zh\u200bang@exam\u200bple.com", "EMAIL_ADDRESS", "zh\u200bang@exam\u200bple.com"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "written"), FOUND)
def test_found(text: str, kind: str, written: str) -> None:
    assert [(s.kind, text[s.start : s.end]) for s in find(text)] == [(EntityKind(kind), written)]


HARD_NEGATIVES = [
    "", "黄金会员", "没有问题，下次再来", "订单号2023110512345678", "订单2023110512304512345678",
    "时间戳1699999999999", "timestamp 1699999999", "SO-13812345678", "SKU_A13812345678", "2023-13812345678",
    "ORD2023-13812345678", "x13812345678", "13812345678x", "013812345678901", "138123456789", "1381234567",
    "0.13812345678", "约31.13812345678", "12812345678", "10012345678", "2023-11-05 12:30:45",
    "2023/11/05 123045",
    "ISBN 978-7-302-51164-5", "EAN 4006381333931", "IP 192.168.1.100", "v1.2.3.4567890", "￥13,812,345.67",
    "110105194913310025", "990105194912310028", "110105194912310021", "123456789012345678",
    "000000000000000000",
    "4111111111111112", "6222021234567890", "1234567890123452", "0000000000000000", "9999 9999 9999 9999",
    "编号20231105-0001-0002", "快递SF1234567890123", "a@b", "@张三 你好", "user@localhost", "foo@@bar.com",
    "微博@某人.", "3@5=?", "Q3@2023", "+123", "+86", "+1 234", "(000) 555-2671", "2411051230123459",
    "https://example.com/13812345678x", "uuid 123e4567-e89b-12d3-a456-426614174000",
    "温度 36.5 36.6 36.7 36.8",
]  # fmt: skip


@pytest.mark.parametrize("text", HARD_NEGATIVES)
def test_left_alone(text: str) -> None:
    assert find(text) == []


def test_order_numbers_that_begin_with_a_minute_need_a_word_to_be_a_card() -> None:
    number = with_luhn("2411051230", 16)
    assert find(f"订单{number}") == []
    assert [s.kind for s in find(f"银行卡{number}")] == [EntityKind.BANK_CARD]


def test_random_order_numbers_and_time_stamps_are_mostly_left_alone() -> None:
    rng = random.Random(2)
    texts = []
    for _ in range(2000):
        day = f"{rng.randint(2015, 2029)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        texts.append(f"订单号：{day}{rng.randrange(10**8):08d}")
        texts.append(f"order #{day}{rng.randrange(10**6):06d}{rng.randrange(10**4):04d} shipped")
        texts.append(f"记录于{rng.randrange(1_500_000_000_000, 1_800_000_000_000)}")
    wrong = sum(bool(found) for found in find_all(texts))
    assert wrong <= len(texts) // 1000


def test_valid_numbers_of_every_province_and_network_are_found() -> None:
    rng = random.Random(3)
    missed = 0
    for _ in range(1000):
        body = f"{rng.choice(['11', '31', '44', '51', '65'])}{rng.randint(101, 999):04d}"
        body += f"{rng.randint(1930, 2020)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
        body += f"{rng.randrange(1000):03d}"
        number = body + ric.calc_check_digit(body + "0")
        mobile = f"1{rng.randint(3, 9)}{rng.randrange(10**9):09d}"
        text = f"客户{rng.choice('张王李赵')}某证件{number}电话{mobile}已核实"
        kinds = [(s.kind.value, text[s.start : s.end]) for s in find(text)]
        missed += kinds != [("CN_RESIDENT_ID", number), ("CN_MOBILE", mobile)]
    assert missed == 0


def test_several_in_one_text_come_in_order() -> None:
    text = f"张三，13800138000，a@b.com，{ID}，{UNIONPAY16}"
    assert [s.kind.value for s in find(text)] == ["CN_MOBILE", "EMAIL_ADDRESS", "CN_RESIDENT_ID", "BANK_CARD"]


def test_kinds_limit_the_search() -> None:
    text = "13800138000 a@b.com"
    assert [s.kind for s in find(text, ["EMAIL_ADDRESS"])] == [EntityKind.EMAIL_ADDRESS]
    assert find(text, [EntityKind.BANK_CARD]) == []
    with pytest.raises(UnknownEntity):
        find(text, ["PERSON"])


def test_find_all_equals_find() -> None:
    texts = [c[0] for c in FOUND] + HARD_NEGATIVES
    assert find_all([*texts, None]) == [*[find(t) for t in texts], []]


@given(text=st.text(alphabet=st.sampled_from("138 0-+86()@.a张１\u200b６2X/_é\ud800"), max_size=60))
def test_spans_are_ordered_apart_and_inside(text: str) -> None:
    at = 0
    for span in find(text):
        assert at <= span.start < span.end <= len(text) and 0 < span.score <= 1
        at = span.end


@given(text=st.text(max_size=80))
def test_offsets_lead_back_to_the_original(text: str) -> None:
    normalised = normalise(text)
    if normalised.offsets is not None:
        assert len(normalised.offsets) == len(normalised.text)
        assert normalised.offsets == sorted(normalised.offsets)
    for i in range(len(normalised.text)):
        start, end = normalised.original(i, i + 1)
        assert end == start + 1 <= len(text)


@given(
    before=st.text(alphabet="客户电话：，。（张é\u200b ", max_size=8),
    after=st.text(alphabet="谢谢，。）李ß\u200b ", max_size=8),
    wide=st.booleans(),
)
def test_a_mobile_is_found_whatever_stands_beside_it(before: str, after: str, wide: bool) -> None:
    number = "13912345678"
    if wide:
        number = number.translate({ord(str(i)): chr(0xFF10 + i) for i in range(10)})
    (span,) = find(before + number + after)
    assert (before + number + after)[span.start : span.end] == number


def test_the_surest_of_overlapping_spans_is_kept() -> None:
    a = Span(0, 10, EntityKind.CN_MOBILE, 0.8)
    b = Span(5, 20, EntityKind.BANK_CARD, 0.9)
    c = Span(20, 30, EntityKind.CN_MOBILE, 0.8)
    d = Span(18, 22, EntityKind.EMAIL_ADDRESS, 0.8)
    assert resolve_overlaps([a, b, c, d]) == [b, c]
    assert resolve_overlaps([a]) == [a] and resolve_overlaps([]) == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit",
    ["1", "1 ", "@", "a@", "a.", "+1", "1-", "86", "138", "\u200b", "６", "0 1", "a@a.a", "(+86)",
    "1234 ", "622202 ",
     "+1 2 3 4 5 6 7 8 9 ", "010-", "\x00", "\ud800", "é@é.", "'@", "(415) 555-", "﷽", "\u0301"],
)  # fmt: skip
def test_long_hostile_texts_end(unit: str) -> None:
    find(unit * (300_000 // len(unit)))


def test_a_million_characters_around_a_number() -> None:
    text = "a" * 500_000 + " 13800138000 " + "汉" * 500_000
    (span,) = find(text)
    assert (span.start, span.end) == (500_001, 500_012)
