"""Personal data in free text: where it is, and the text without it.

>>> import pyarrow as pa
>>> from privacy.detect import find, mask_texts
>>> text = "客户王芳电话１３８００１３８０００，邮箱wang.fang@example.com谢谢"
>>> [(span.kind.value, span.start, span.end) for span in find(text)]
[('CN_MOBILE', 6, 17), ('EMAIL_ADDRESS', 20, 41)]
>>> mask_texts(pa.array([text])).values[0].as_py()
'客户王芳电话<CN_MOBILE>，邮箱<EMAIL_ADDRESS>谢谢'

Detected are mainland mobiles, landlines and resident IDs, bank cards, e-mail addresses in Latin script and
telephone numbers of other countries. Names of people take a language model, which the extras `zh` and `en`
bring: `find(text, names="require")` looks for them, and nothing does unless it is asked to. Postal addresses
are **not** detected. `build_analyzer` gives the same recognisers as a Presidio `AnalyzerEngine`, beside
Presidio's own, and with names where the models are installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from privacy.detect.names import LacNames, NameFinder, SpacyNames, available_name_finders
from privacy.detect.rewriting import MaskedTexts, mask_texts
from privacy.detect.scanner import find, find_all
from privacy.entities import EntityKind, ModelKind, Span

if TYPE_CHECKING:
    from privacy.detect.engine import build_analyzer

__all__ = [
    "EntityKind",
    "LacNames",
    "MaskedTexts",
    "ModelKind",
    "NameFinder",
    "SpacyNames",
    "Span",
    "available_name_finders",
    "build_analyzer",
    "find",
    "find_all",
    "mask_texts",
]


def __getattr__(name: str) -> object:
    # Presidio takes seconds to import, and those who only find and mask have no need of it.
    if name == "build_analyzer":
        from privacy.detect.engine import build_analyzer

        return build_analyzer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
