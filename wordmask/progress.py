"""Progress bars with rates and the time left, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class Lines(Protocol):
    """Lines of files that know how many bytes these have on disk, and how many have been read."""

    @property
    def size(self) -> int: ...

    @property
    def position(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...


Tracker = Callable[[Lines], Iterator[str]]


class _LinesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        lines, seconds = task.fields["lines"], task.elapsed or 0.0
        return Text(f"{lines:,} lines, {lines / seconds:,.0f}/s" if seconds else f"{lines:,} lines")


@contextlib.contextmanager
def track_lines(description: str, every: int = 1000) -> Iterator[Tracker]:
    """A function that passes lines on and shows how far they got, by the size of their files on disk.

    Args:
        description: what is being done.
        every: lines between two updates.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), _LinesPerSecond(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=None, lines=0)

        def track(lines: Lines) -> Iterator[str]:
            number, total = 0, lines.size
            for number, line in enumerate(lines, 1):
                if number % every == 0:
                    progress.update(task, completed=lines.position, total=total, lines=number)
                yield line
            progress.update(task, completed=total, total=total, lines=number)

        yield track
