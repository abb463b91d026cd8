"""How long a message may be, from the agreed terms and the sizes both sides committed to.

A receiver sets aside no more than this, whatever a partner announces.
"""

from __future__ import annotations

from collections.abc import Sequence

from clean_room.protocols.terms import MAX_PEOPLE, EpochTerms, MeasureTerms, OverlapTerms, ReachTerms, Terms

__all__ = ["message_limit", "reply_limit"]

_POINT = 32
_SHORT_POINT = 16
_POSITION = 20  # of a shared row: its place and its id
_SLOTS = 8192
_CIPHERTEXT = 1 << 18
_KEY = 1 << 20
_HEADER = 1 << 16
_LOOSE = 8
"""By how much kinds without a closer bound may exceed one point a person: several keys, further columns."""


def message_limit(terms: Terms, analyst: Sequence[int], step: int) -> int:
    """Bytes of the analyst's message `step` (1 is its points); `analyst`: its committed sizes."""
    people = sum(analyst)
    if isinstance(terms, ReachTerms):
        # The first says how long the lists of the others are, of which nobody knows before.
        return _HEADER if step == 1 else (MAX_PEOPLE + terms.most_dummies) * _POINT + _HEADER
    if isinstance(terms, MeasureTerms) and step > 1:
        rows, segments = terms.groups
        return rows * segments * len(terms.columns) * _CIPHERTEXT + _HEADER
    return people * _POINT * _keys(terms) + _HEADER


def reply_limit(terms: Terms, analyst: Sequence[int], contributor: Sequence[int], step: int) -> int:
    """Bytes of the contributor's reply `step` (1 is its points); the committed sizes of both."""
    if isinstance(terms, ReachTerms):
        return (sum(contributor) + terms.most_dummies) * _POINT + _HEADER
    rows, segments = terms.groups
    dummies = (
        terms.epoch_dummies if isinstance(terms, EpochTerms) else terms.dummies_per_cell * rows * segments
    )
    theirs = sum(contributor) + dummies
    points = (sum(analyst) + dummies) * _SHORT_POINT + theirs * _POINT
    if isinstance(terms, MeasureTerms) and step > 1:
        blocks = sum(-(-(n + terms.dummies_per_cell * rows) // _SLOTS) for n in contributor)
        return blocks * len(terms.columns) * _CIPHERTEXT + _KEY + _HEADER
    return points * _keys(terms) + _HEADER


def _keys(terms: Terms) -> int:
    return 1 if type(terms) in (OverlapTerms, MeasureTerms) else _LOOSE
