"""The analyst's lines to the partners of one job, as far as they can be treated as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from clean_room.jobs import JobState, Query
from clean_room.questions import sources_of
from clean_room.transport import JobTransport
from privacy.errors import ComityError, PeerUnreachable

__all__ = ["Lines"]

_OVER = frozenset({"cancelled", "failed", "rejected", "timed_out"})


class Lines:
    """One line, or for a `reach` one to every partner, by collaboration."""

    def __init__(self, query: Query, transport: Callable[[str], JobTransport]) -> None:
        sources = sources_of(query) if query.kind == "reach" else ()
        names = [source.collaboration for source in sources] or [query.collaboration]
        self._lines = {name: transport(name) for name in names}

    @property
    def collaborations(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(self._lines)

    def to(self, collaboration: str) -> JobTransport:
        """The line to one partner."""
        return self._lines[collaboration]

    def state(self, job: str) -> dict[str, Any]:
        """Where the partner stands for which the job must wait or end, or any; {} if none knows the job.

        Every partner is asked; PeerUnreachable if none answers.
        """
        states: list[dict[str, Any]] = []
        silent: list[PeerUnreachable] = []
        for line in self._lines.values():
            try:
                states.append(line.state(job))
            except PeerUnreachable as error:
                silent.append(error)
            except ComityError:  # it does not know the job, or has nothing to say about it
                continue
        over = [state for state in states if state.get("state") in _OVER]
        awaited = [state for state in states if state.get("state") == JobState.AWAITING_APPROVAL.value]
        if not states and silent:
            raise silent[0]
        return next(iter([*over, *awaited, *states]), {})

    def cancel(self, job: str, code: str) -> None:
        """Give up with every partner that can be reached."""
        for line in self._lines.values():
            with contextlib.suppress(ComityError):
                line.cancel(job, code)
