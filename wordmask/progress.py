"""Progress bars with rates and the time left, on a terminal only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Tracker = Callable[[Iterable[str]], Iterator[str]]


class _LinesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        lines, seconds = task.fields["lines"], task.elapsed or 0.0
        return Text(f"{lines:,} lines, {lines / seconds:,.0f}/s" if seconds else f"{lines:,} lines")


@contextlib.contextmanager
def track_lines(description: str, files: Sequence[str], every: int = 1000) -> Iterator[Tracker]:
    """A function that passes lines on and shows how far they got, by the size of their files.

    Args:
        description: what is being done.
        files: the files whose lines will pass; of a compressed one the size is not known, so no end is foretold.
        every: lines between two updates.
    """
    compressed = any(file.endswith((".gz", ".xz", ".zst")) for file in files)
    total = None if compressed else sum(os.path.getsize(file) for file in files)
    columns = (TextColumn("{task.description}"), BarColumn(), _LinesPerSecond(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, lines=0)

        def track(lines: Iterable[str]) -> Iterator[str]:
            number = passed = 0
            for number, line in enumerate(lines, 1):
                passed += len(line.encode("utf-8", "surrogatepass")) + 1
                if number % every == 0:
                    progress.update(task, completed=passed, lines=number)
                yield line
            progress.update(task, completed=total if total is not None else passed, lines=number)

        yield track
