"""Text made fit for pattern matching, with the way back to where each character stood.

People write ``１３８００１３８０００`` and paste zero-width joiners between digits. Matching runs on a
text in which each character is replaced by its compatibility form (NFKC, one character at a time, so that
every result can be traced), decimal digits of any script are ASCII, and invisible format characters are gone.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field

__all__ = ["NormalisedText", "normalise"]


@dataclass(frozen=True, slots=True)
class NormalisedText:
    """A normalised text; `offsets[i]` is where its i-th character stood, or None if nothing moved."""

    text: str = field(repr=False)
    offsets: list[int] | None = field(repr=False)

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` stood in the original; `start < end`."""
        if self.offsets is None:
            return start, end
        return self.offsets[start], self.offsets[end - 1] + 1


class _Forms(dict[str, str]):
    """Character → its form, worked out on first sight."""

    def __missing__(self, character: str) -> str:
        if unicodedata.category(character) == "Cf":
            form = ""
        elif (digit := unicodedata.decimal(character, None)) is not None:
            form = str(digit)
        else:
            form = unicodedata.normalize("NFKC", character)
        self[character] = form
        return form


_FORMS = _Forms()
_DASHES = dict.fromkeys("‐‑‒–—―−", "-")
_FORMS.update(_DASHES)
_FORMS["\u3000"] = _FORMS["\u00a0"] = " "


def normalise(text: str) -> NormalisedText:
    """Return the text that the recognisers look at."""
    if text.isascii():
        return NormalisedText(text, None)
    forms = [_FORMS[c] for c in text]
    joined = "".join(forms)
    if len(joined) == len(text) and "" not in forms:
        return NormalisedText(joined, None)
    offsets = [i for i, form in enumerate(forms) for _ in form]
    return NormalisedText(joined, offsets)
