"""Progress of long work: a bar on a terminal, nothing where output is read by a program."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["bar", "counter"]


@contextmanager
def counter(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """A callback that takes how much is done, and of how much (None while that is unknown)."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None)

        def update(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield update


@contextmanager
def bar(what: str) -> Iterator[Callable[[float], None]]:
    """A callback that takes the share done, 0..1."""
    with counter(what) as update:
        yield lambda share: update(round(share * 1000), 1000)
