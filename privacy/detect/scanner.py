"""Find personal data in many texts quickly, without an engine: prefilter, finders, overlap resolution."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from privacy.detect.finders import FINDERS
from privacy.detect.text import normalise
from privacy.entities import EntityKind, Span
from privacy.errors import UnknownEntity

__all__ = ["MINIMUM_SCORE", "find", "find_all", "resolve_overlaps"]

MINIMUM_SCORE = 0.5
# Every numeric kind has seven digits or more, with at most three separators between neighbours.
_SEVEN_DIGITS = re.compile(r"(?:[0-9][ ().-]{0,3}){7}")


def find(text: str, kinds: Iterable[EntityKind | str] | None = None) -> list[Span]:
    """Return the personal data in `text`, in order, without overlaps, in the text's own offsets.

    `kinds` limits the search. Raises `UnknownEntity` for a kind that this version does not detect: a
    search for something that is silently never found would look like clean text.
    """
    return _find(text, _kinds(kinds))


def find_all(
    texts: Iterable[str | None], kinds: Iterable[EntityKind | str] | None = None
) -> list[list[Span]]:
    """`find` for each text; a missing text has no findings."""
    wanted = _kinds(kinds)
    return [_find(text, wanted) if text else [] for text in texts]


def _kinds(kinds: Iterable[EntityKind | str] | None) -> tuple[EntityKind, ...]:
    if kinds is None:
        return tuple(FINDERS)
    try:
        return tuple(EntityKind(kind) for kind in kinds)
    except ValueError:
        raise UnknownEntity(
            "A kind of personal data was asked for that this version does not detect.",
            advice=f"Known kinds: {', '.join(FINDERS)}.",
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
