"""Find personal data in many texts quickly, without an engine: prefilter, finders, overlap resolution."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from privacy.detect.finders import FINDERS
from privacy.detect.names import NameFinder, Names, beside, name_finders
from privacy.detect.text import normalise
from privacy.entities import EntityKind, ModelKind, Span
from privacy.errors import UnknownEntity

__all__ = ["MINIMUM_SCORE", "find", "find_all", "resolve_overlaps"]

MINIMUM_SCORE = 0.5
# Every numeric kind has seven digits or more, with at most three separators between neighbours.
_SEVEN_DIGITS = re.compile(r"(?:[0-9][ ().-]{0,3}){7}")


def find(
    text: str, kinds: Iterable[EntityKind | ModelKind | str] | None = None, *, names: Names = "off"
) -> list[Span]:
    """Return the personal data in `text`, in order, without overlaps, in the text's own offsets.

    `kinds` limits the search; `names` says whether a language model looks for names of people
    (`privacy.detect.names.Names`): off unless asked for, so that what is found does not depend on what
    happens to be installed. Raises `UnknownEntity` for a kind that this version does not detect, or not
    with these `names`: a search for something that is silently never found would look like clean text.
    """
    return find_all([text], kinds, names=names)[0]


def find_all(
    texts: Iterable[str | None],
    kinds: Iterable[EntityKind | ModelKind | str] | None = None,
    *,
    names: Names = "off",
) -> list[list[Span]]:
    """`find` for each text; a missing text has no findings. Models are much faster on many texts at once."""
    finders = name_finders(names)
    wanted = _kinds(kinds, finders)
    structured = tuple(kind for kind in wanted if isinstance(kind, EntityKind))
    given = list(texts)
    found = [_find(text, structured) if text else [] for text in given]
    if ModelKind.PERSON not in wanted:
        return found
    for finder in finders:
        asked = [(i, text) for i, text in enumerate(given) if text and finder.matters(text)]
        # What has been found is no part of a name, and an address beside a name only leads a model astray.
        answers = finder.find([_blanked(text, found[i]) for i, text in asked]) if asked else []
        for (i, text), spans in zip(asked, answers, strict=True):
            found[i] = beside(found[i], spans, text)
    return found


def _blanked(text: str, spans: Sequence[Span]) -> str:
    """`text` with spaces in place of `spans`, so that nothing else moves."""
    pieces, at = [], 0
    for span in spans:
        pieces += [text[at : span.start], " " * (span.end - span.start)]
        at = span.end
    return "".join([*pieces, text[at:]])


def _kinds(
    kinds: Iterable[EntityKind | ModelKind | str] | None, finders: Sequence[NameFinder]
) -> tuple[EntityKind | ModelKind, ...]:
    known: dict[str, EntityKind | ModelKind] = {str(kind): kind for kind in FINDERS}
    if finders:
        known[str(ModelKind.PERSON)] = ModelKind.PERSON
    if kinds is None:
        return tuple(known.values())
    try:
        return tuple(known[str(kind)] for kind in kinds)
    except KeyError:
        raise UnknownEntity(
            "A kind of personal data was asked for that this version does not detect.",
            advice=f"Known kinds: {', '.join(known)}. Names of people need a name finder.",
        ) from None


def _find(text: str, kinds: tuple[EntityKind, ...]) -> list[Span]:
    normalised = normalise(text)
    plain = normalised.text
    numeric = _SEVEN_DIGITS.search(plain) is not None
    if not numeric and "@" not in plain:
        return []
    found = [
        span
        for kind in kinds
        if numeric or kind is EntityKind.EMAIL_ADDRESS
        for span in FINDERS[kind](plain)
        if span.score >= MINIMUM_SCORE
    ]
    if not found:
        return found
    kept = resolve_overlaps(found)
    if normalised.offsets is None:
        return kept
    return [Span(*normalised.original(s.start, s.end), s.kind, s.score) for s in kept]


def resolve_overlaps(spans: Sequence[Span]) -> list[Span]:
    """Keep the surest of overlapping spans (then the longest, then the first), in order of position."""
    if len(spans) < 2:
        return list(spans)
    kept: list[Span] = []
    starts: list[int] = []
    for span in sorted(spans, key=lambda s: (-s.score, s.start - s.end, s.start)):
        i = bisect_left(starts, span.start)
        clear_before = i == 0 or kept[i - 1].end <= span.start
        clear_after = i == len(kept) or span.end <= kept[i].start
        if clear_before and clear_after:
            kept.insert(i, span)
            starts.insert(i, span.start)
    return kept
