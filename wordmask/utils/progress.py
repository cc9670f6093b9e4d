"""The bar: one line at a terminal that shows how far something is. Bars appear after two seconds.

In a log file, a line says the same from time to time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from wordmask.utils.quantities import duration, number, size
from wordmask.utils.terminal import LABELS, Message, terminal

if TYPE_CHECKING:
    from wordmask.utils.readers import TextReader

DELAY = 2.0  # seconds; what ends sooner needs no bar
LONGEST = 600.0  # seconds between two lines in a log file, at most
LOGGED = 10.0  # seconds to the first line in a log file; then each line comes after twice the time of the one before
NARROW, WIDE = 10, 40  # columns of the bar itself
Batch = TypeVar("Batch", bound=Sized)


class Update(Protocol):
    """Moves a bar: the number of items that are done, and how much of the total this is."""

    def __call__(self, count: int, completed: float, total: float | None) -> None: ...


class Bar:
    """One line: what is done, a bar, and figures. It fits any width: the last figures are left out where it is narrow.

    Args:
        what: what is being done.
        figures: the figures of this moment, the most important first; it is called whenever the bar is drawn.
    """

    def __init__(self, what: str, figures: Callable[[], Sequence[str]]):
        self.what, self.figures = what.ljust(LABELS), figures
        self.completed, self.total = 0.0, 0.0  # a total of 0 is not known

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        figures, width = list(self.figures()), options.max_width - 1
        while figures and len(self.what) + NARROW + sum(len(figure) + 2 for figure in figures) + 2 > width:
            figures.pop()
        room = width - len(self.what) - 2 - sum(len(figure) + 2 for figure in figures)
        drawn = ProgressBar(
            *(self.total or None, self.completed),
            width=max(min(room, WIDE), 1),
            pulse=not self.total,
            style="bright_black",
            complete_style="green",
            finished_style="green",
            pulse_style="green",
        )
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(Text(self.what, "bold"), drawn, *figures)
        yield line


@contextlib.contextmanager
def bar(description: str, unit: str = "lines") -> Iterator[Update]:
    """A bar, and the function that moves it.

    Args:
        description: what is being done.
        unit: what is counted.
    """
    begin, items, shown, due = time.monotonic(), 0, False, LOGGED

    def figures() -> list[str]:
        seconds = max(time.monotonic() - begin, 1e-3)
        left = seconds * (drawn.total / drawn.completed - 1) if drawn.completed and drawn.total else None
        times = [f"{duration(left)} left"] if left is not None else [duration(seconds)]
        if unit == "bytes":
            return [size(items), *times, f"{size(items / seconds)}/s"]
        return [f"{items:,} {unit}", *times, f"{number(items / seconds, 3)} {unit}/s"]

    drawn = Bar(description, figures)

    def update(count: int, completed: float, total: float | None) -> None:
        nonlocal items, shown, due
        items, drawn.completed, drawn.total = count, completed, total or 0.0
        seconds = time.monotonic() - begin
        if not shown and seconds > DELAY:
            terminal().put(drawn)
            shown = True
        if seconds > due and not terminal().is_live:
            terminal().show(Message(f"{description}: {', '.join(figures())}"))
            due = 2 * seconds if seconds < LONGEST else seconds + LONGEST

    try:
        yield update
    finally:
        if shown:
            terminal().close()


def tracked_lines(lines: TextReader, description: str, every: int = 1000) -> Iterator[str]:
    """The same lines, with a bar that shows how much of their files was read.

    Args:
        lines: the lines of some files.
        description: what is being done.
        every: lines between two updates.
    """
    count, total = 0, lines.size
    with bar(description) as update:
        for count, line in enumerate(lines, 1):
            if count % every == 0:
                update(count, lines.position, total)
            yield line
        update(count, total, total)


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
