"""Progress bars with a rate and the time left. They appear after two seconds, and only on a terminal."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from wordmask.utils.readers import TextReader

DELAY = 2.0  # seconds; what ends sooner needs no bar
Batch = TypeVar("Batch", bound=Sized)
logger = logging.getLogger(__name__)


class Update(Protocol):
    """Moves a bar: the number of items that are done, and how much of the total this is."""

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
    task, start = progress.add_task(description, total=None, count=0, unit=unit), time.monotonic()

    def update(count: int, completed: float, total: float | None) -> None:
        progress.update(task, count=count, completed=completed, total=total)
        if time.monotonic() - start > DELAY:
            progress.start()  # does nothing after the first time

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()


def tracked_lines(lines: TextReader, description: str, every: int = 1000) -> Iterator[str]:
    """The same lines, with a bar that shows how much of their files was read.

    Args:
        lines: the lines of some files.
        description: what is being done.
        every: lines between two updates.
    """
    number, size = 0, lines.size
    with bar(description) as update:
        for number, line in enumerate(lines, 1):
            if number % every == 0:
                update(number, lines.position, size)
            yield line
        update(number, size, size)


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
