"""Progress bars with rates and the time left, on a terminal only."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

Batch = TypeVar("Batch", bound=Sized)


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


def bar(description: str, unit: str, total: int | None = None) -> Any:
    """A bar of what takes over two seconds while a run gets ready, shown where `datasets` shows its own."""
    import datasets  # not everybody who counts lines needs it

    return datasets.utils.tqdm(desc=description, unit=unit, unit_scale=True, total=total, delay=2)


def tracked(
    batches: Iterable[Batch], description: str, unit: str = " lines", total: int | None = None
) -> Iterator[Batch]:
    """The same batches, with a bar that shows how much has passed."""
    with bar(description, unit, total) as progress:
        for batch in batches:
            yield batch
            progress.update(len(batch))
