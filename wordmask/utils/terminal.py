"""The one place that prints for people: events, as plain lines for a pipe or with rich for a person at a terminal.

    terminal().doing("reading text")
    terminal().show(Message("going on from out/checkpoint-20"))

An *event* has two forms: `line()` is one plain line, and `__rich__()` is what a person sees.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from wordmask.utils.processes import is_first_process
from wordmask.utils.quantities import duration

Mode = Literal["rich", "plain"]
MODES: tuple[Mode, ...] = ("rich", "plain")
LABELS = 10  # columns of the labels before facts

# Control characters, surrogates, separators of lines, and marks that change the direction of all that follows.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    r"""Text from a file or a tokenizer, with what a terminal would obey shown as text: `\x1b[31m`, `\n`, `\u202e`."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def labelled(label: str, text: RenderableType) -> Table:
    """A line at a terminal: a label in a column of its own, and beside it text that wraps.

    Labels are bold and have no colour, since what is seen well on black is not on white.
    """
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=max(LABELS, len(label)), no_wrap=True, style="bold")
    line.add_column(overflow="fold")
    line.add_row(label, text)
    return line


class Event(Protocol):
    """Something to tell a person. Text from outside passes through `clean` first."""

    def line(self) -> str:
        """One plain line, without control characters."""

    def __rich__(self) -> RenderableType:
        """What a person at a terminal sees."""


@dataclass(frozen=True)
class Message:
    """A sentence, such as a log message."""

    text: str

    def line(self) -> str:
        """The sentence on one line."""
        return clean(" ".join(self.text.split()))

    def __rich__(self) -> Table:
        return labelled("note", Text(self.line()))


@dataclass(frozen=True)
class Fact:
    """Something to know, under a label: `output: out/english`."""

    label: str
    text: str

    def line(self) -> str:
        """The label, and what stands under it."""
        return f"{self.label}: {clean(self.text)}"

    def __rich__(self) -> Table:
        return labelled(self.label, Text(clean(self.text)))


@dataclass(frozen=True)
class Command:
    """A command to copy into a shell, and what it does."""

    what: str
    command: str
    soft_wrap: ClassVar[bool] = True  # the terminal breaks a long line, so that a copy of it has no line breaks

    def line(self) -> str:
        """`to resume: python run_mlm.py --output_dir out`"""
        return f"{clean(self.what)}: {clean(self.command)}"

    def __rich__(self) -> Text:
        return Text.assemble((clean(self.what), "bold"), ":\n", clean(self.command))


@dataclass(frozen=True)
class Doing:
    """What begins now and may take seconds."""

    what: str

    def line(self) -> str:
        """`reading text ...`"""
        return f"{clean(self.what)} ..."

    def __rich__(self) -> Text:
        return Text(self.line(), no_wrap=True, overflow="ellipsis")


class _Waiting:
    """What is being done, with a sign that moves and the time that it has taken."""

    def __init__(self, event: Doing):
        self.event, self.begin = event, time.monotonic()

    def __rich__(self) -> Text:
        seconds = time.monotonic() - self.begin
        line = Text.assemble((r"|/-\\"[int(4 * seconds) % 4], "bold"), " ", self.event.line())
        line.no_wrap, line.overflow = True, "ellipsis"
        return line.append(f" {duration(seconds)}" if seconds >= 2 else "")


class Terminal:
    """Where events go: stderr. Only the first process of a launch shows anything.

    Attributes:
        console: rich's console, on stderr.
        hidden: whether nothing is shown but the errors of the first process.
        chosen: the mode that was asked for; `None` for that of `mode`.
    """

    def __init__(self, mode: Mode | None = None):
        self.hidden = not is_first_process()
        self.chosen = mode
        self._live: Live | None = None
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False)

    @property
    def mode(self) -> Mode:
        """`rich` or `plain`; if not set, `rich` for a person at a terminal."""
        # Not `console.is_terminal`, which FORCE_COLOR makes true in a pipe.
        return self.chosen or ("rich" if self.console.file.isatty() and not self.console.is_dumb_terminal else "plain")

    @property
    def is_live(self) -> bool:
        """Whether there is a last line that can change: bars and spinners."""
        return self.mode == "rich" and self.console.is_terminal and not self.hidden

    def show(self, event: Event, is_error: bool = False) -> None:
        """Show an event, above what is live."""
        if self.hidden and not (is_error and is_first_process()):
            return
        with self._not_needed():
            if self.mode == "rich":
                soft_wrap = getattr(event, "soft_wrap", False)
                self.console.print(event, soft_wrap=soft_wrap)
            else:
                print(clean(event.line()), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def _not_needed(self) -> Iterator[None]:
        """Let a run go on where stderr takes no more: its reader has gone, or the disk of a log is full."""
        try:
            yield
        except OSError:
            self.hidden = True
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 2)

    def doing(self, what: str) -> None:
        """Say what begins now: a line, or at a terminal a spinner until the next thing begins."""
        event = Doing(what)
        if self.is_live:
            self.put(_Waiting(event))
        else:
            self.show(event)

    def put(self, renderable: RenderableType, refreshes: float = 4) -> None:
        """Make this the live last line of the terminal, in place of what is there, if there can be one.

        Args:
            renderable: what to draw. It may change by itself.
            refreshes: how often a second it is drawn.
        """
        self.close()
        if self.is_live:
            self._live = Live(
                renderable,
                console=self.console,
                transient=True,
                refresh_per_second=refreshes,
                redirect_stdout=sys.stdout.isatty(),  # what others print goes above; what is piped stays in the pipe
                redirect_stderr=True,
            )
            with self._not_needed():
                self._live.start()
                self.console.show_cursor()  # rich hides it, and a run that is killed would leave it hidden

    def close(self) -> None:
        """Remove what is live, and show the cursor again."""
        live, self._live = self._live, None
        if live is not None:
            with self._not_needed():
                live.stop()


class _Handler(logging.Handler):
    """Shows log messages as sentences, those of other packages with the package's name."""

    def emit(self, record: logging.LogRecord) -> None:
        package = record.name.partition(".")[0]
        sender = "" if package == "wordmask" else f"{package}: "
        try:
            terminal().show(Message(sender + record.getMessage()), is_error=record.levelno >= logging.ERROR)
        except Exception:
            self.handleError(record)


_terminal: Terminal | None = None


def terminal() -> Terminal:
    """The terminal of this process."""
    global _terminal
    if _terminal is None:
        _terminal = Terminal()
    return _terminal


def use(mode: Mode | None, packages: Sequence[str] = ("wordmask",)) -> Terminal:
    """Show events in this mode from now on, and the log messages of packages among them.

    Scripts call this. Without it, log messages go where the user's program sends them.

    Args:
        mode: `None` for `rich` at a terminal and `plain` elsewhere.
        packages: those whose messages are shown here, and not by handlers of their own.
    """
    for package in packages:
        logging.getLogger(package).handlers[:] = [_Handler()]
    shown = terminal()
    shown.chosen = mode
    return shown


def _forget() -> None:
    """Give a forked process a terminal of its own: a thread of its parent draws the live line and holds its lock."""
    global _terminal
    if _terminal is not None:
        parent, _terminal = _terminal, Terminal("plain")
        _terminal.hidden = parent.hidden
        sys.stdout, sys.stderr = (getattr(stream, "rich_proxied_file", stream) for stream in (sys.stdout, sys.stderr))


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: terminal().close())  # also where nobody has closed it: a hidden cursor would stay hidden
