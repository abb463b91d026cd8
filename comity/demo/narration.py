"""How the story is told while it runs: progress bars on a terminal, a plain line a stage otherwise."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from comity.demo.outcome import Stage

__all__ = ["Narration", "Telling"]


class Telling:
    """One stage under way: how far it is, and what to say when it is done."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self._progress = progress
        self._task = task
        self.result = ""

    def share(self, done: float) -> None:
        """`done` from 0 to 1."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=min(max(done, 0.0), 1.0))

    def say(self, result: str) -> None:
        """What came out of the stage, in a few words."""
        self.result = result
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, result=result)


class Narration:
    """Tells stages one after the other and remembers how long each took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self.stages: list[Stage] = []

    def __enter__(self) -> Narration:
        if self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description:<28}"),
                BarColumn(bar_width=18),
                TimeElapsedColumn(),
                TextColumn("[dim]{task.fields[result]}"),
                console=self._console,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    @contextmanager
    def stage(self, title: str) -> Iterator[Telling]:
        """A stage; on an error the stage is left unfinished and the error goes on."""
        started = time.monotonic()
        task = None
        if self._progress is not None:
            task = self._progress.add_task(title, total=1.0, result="")
        telling = Telling(self._progress, task)
        yield telling
        seconds = time.monotonic() - started
        self.stages.append(Stage(title, seconds))
        telling.share(1.0)
        if self._progress is None:
            self._console.print(
                f"{title:<28} {seconds:6.1f} s  {telling.result}".rstrip(),
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
