"""Article by article: which entries and which parts of a report are evidence for it."""

from __future__ import annotations

from collections.abc import Mapping

from consent.laws import Law

__all__ = ["articles"]


def articles(law: Law, entries: Mapping[str, int]) -> tuple[Mapping[str, object], ...]:
    """Each article with its titles, the number of entries of each type it looks to, and report sections."""
    return tuple(
        {
            "number": article.number,
            "title": dict(article.title),
            "entries": {event.value: entries.get(event.value, 0) for event in article.events},
            "sections": list(article.sections),
        }
        for article in law.articles
    )
