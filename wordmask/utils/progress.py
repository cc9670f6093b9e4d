"""Progress bars with rates and the time left. They appear on a terminal only, after two seconds."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

DELAY = 2.0  # seconds; what ends sooner needs no bar
Batch = TypeVar("Batch", bound=Sized)
logger = logging.getLogger(__name__)


class Lines(Protocol):
    """Lines of files, with the size of the files and how much of it was read, in bytes on disk."""

    @property
    def size(self) -> int: ...

    @property
    def position(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...


Tracker = Callable[[Lines], Iterator[str]]


class Update(Protocol):
    """Shows how much is done: so many items, and how far that is of the total."""

    def __call__(self, count: int, completed: float, total: float | None) -> None: ...


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        count, unit, seconds = task.fields["count"], task.fields["unit"], task.elapsed or 0.0
        return Text(f"{count:,} {unit}, {count / seconds:,.0f}/s" if seconds else f"{count:,} {unit}")


@contextlib.contextmanager
def bar(description: str, unit: str = "lines") -> Iterator[Update]:
    """A bar, and the function that moves it.

    A process that logs no warnings (the second one of a launcher) shows no bar.

    Args:
        description: what is being done.
        unit: what is counted.
    """
    columns = TextColumn("{task.description}"), BarColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    hidden = not console.is_terminal or not logger.isEnabledFor(logging.WARNING)
    progress = Progress(*columns, console=console, disable=hidden)
    task, begin = progress.add_task(description, total=None, count=0, unit=unit), time.monotonic()

    def update(count: int, completed: float, total: float | None) -> None:
        progress.update(task, count=count, completed=completed, total=total)
        if time.monotonic() - begin > DELAY:
            progress.start()  # again and again does no harm

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()


@contextlib.contextmanager
def track_lines(description: str, every: int = 1000) -> Iterator[Tracker]:
    """A function that passes lines on, and a bar that shows how far in their files they are.

    Args:
        description: what is being done.
        every: lines between two updates.
    """
    with bar(description) as update:

        def track(lines: Lines) -> Iterator[str]:
            number, total = 0, lines.size
            for number, line in enumerate(lines, 1):
                if number % every == 0:
                    update(number, lines.position, total)
                yield line
            update(number, total, total)

        yield track


def tracked(
    batches: Iterable[Batch], description: str, unit: str = "lines", total: int | None = None
) -> Iterator[Batch]:
    """The same batches, with a bar that shows how many items have passed."""
    count = 0
    with bar(description, unit) as update:
        for batch in batches:
            yield batch
            count += len(batch)
            update(count, count, total)
