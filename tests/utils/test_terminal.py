"""What a person sees: plain lines in a pipe, rich at a terminal, and never what a terminal would obey."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from wordmask.utils import terminal as module
from wordmask.utils.processes import RANKS
from wordmask.utils.terminal import Command, Message, Terminal, clean, terminal, use


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@dataclass
class Loss:
    """An event that says more at a terminal."""

    value: float

    def line(self) -> str:
        return f"loss {self.value}"

    def __rich__(self) -> Text:
        return Text(f"the loss is {self.value}", "bold")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No terminal yet, no handler, and an environment that says nothing about it."""
    monkeypatch.setattr(module, "_terminal", None)
    logger = logging.getLogger("wordmask")
    monkeypatch.setattr(logger, "handlers", [])
    for name in (*RANKS, "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    yield
    terminal().close()


def on_screen(monkeypatch) -> Screen:
    """Put a terminal on stderr; not a fixture, since pytest sets stderr again before each test."""
    stream = Screen()
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def test_a_pipe_gets_one_plain_line_for_each_event(capsys):
    terminal().doing("reading text")
    terminal().show(Loss(6.5))
    assert capsys.readouterr() == ("", "reading text ...\nloss 6.5\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("mode", ["plain", "rich"])
def test_a_run_goes_on_where_the_disk_of_its_log_is_full(mode):
    """It ended without a checkpoint, as after a `tee` that was killed."""
    code = "import sys; from wordmask.utils.terminal import *; shown = use(sys.argv[1]); shown.doing('reading')\n"
    code += "shown.show(Message('read')); shown.close(); print('error', file=sys.stderr, flush=True); print('went on')"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code, mode], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_a_pipe_stays_plain_where_colours_are_forced(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal().show(Loss(6.5))
    assert capsys.readouterr().err == "loss 6.5\n"


def test_a_person_at_a_terminal_sees_the_other_form(monkeypatch):
    screen = on_screen(monkeypatch)
    terminal().show(Loss(6.5))
    assert screen.getvalue() == "\x1b[1mthe loss is 6.5\x1b[0m\n"


def test_plain_at_a_terminal_writes_what_a_pipe_gets(monkeypatch):
    screen = on_screen(monkeypatch)
    shown = use("plain")
    shown.doing("reading text")
    shown.show(Loss(6.5))
    assert screen.getvalue() == "reading text ...\nloss 6.5\n"


def test_rich_in_a_pipe_has_no_control_characters(capsys):
    shown = use("rich")
    shown.doing("reading text")
    shown.show(Loss(6.5))
    assert capsys.readouterr().err == "reading text ...\nthe loss is 6.5\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(monkeypatch):
    screen = on_screen(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    terminal().show(Loss(6.5))
    assert screen.getvalue() == "loss 6.5\n"


def test_no_color_keeps_colours_away(monkeypatch):
    screen = on_screen(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    terminal().console.print(Text("red", "red"))
    assert screen.getvalue() == "red\n"


def test_what_is_live_is_gone_at_the_end_and_the_cursor_is_back(monkeypatch):
    screen = on_screen(monkeypatch)
    with pytest.raises(KeyError), contextlib.closing(terminal()):
        terminal().doing("reading text")
        terminal().show(Loss(6.5))
        raise KeyError
    written = screen.getvalue()
    assert "\x1b[?25l" in written and written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")
    assert "the loss is 6.5\x1b[0m\n" in written and written.endswith("\x1b[1A\x1b[2K")


@pytest.mark.parametrize("end", ["raise KeyError", "raise SystemExit(3)", "raise KeyboardInterrupt"])
def test_a_program_that_ends_without_closing_leaves_no_live_line(end):
    first, second = os.openpty()
    program = f"from wordmask.utils.terminal import terminal; terminal().doing('reading text')\n{end}"
    subprocess.run([sys.executable, "-c", program], stderr=second, check=False)
    written = os.read(first, 10_000).decode()
    os.close(first), os.close(second)
    assert "reading text" in written and written.endswith("\x1b[1A\x1b[2K")
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


@pytest.mark.parametrize("name", RANKS)
def test_only_the_first_process_of_a_launch_shows_anything(capsys, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    terminal().doing("reading text")
    terminal().show(Loss(6.5))
    assert capsys.readouterr() == ("", "")


def test_log_messages_come_as_sentences_and_once(capsys):
    use("plain"), use("plain")
    logging.getLogger("wordmask.data").warning("%d of 12 lines are\nlong", 3)
    assert capsys.readouterr().err == "3 of 12 lines are long\n"


def test_a_program_that_uses_the_package_keeps_its_own_logging(capsys):
    terminal()
    assert not logging.getLogger("wordmask").handlers


def test_a_forked_process_does_not_touch_the_live_line(monkeypatch):
    screen = on_screen(monkeypatch)
    terminal().doing("reading text")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, f"{terminal().is_live} {terminal().mode} {sys.stderr is screen}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"False plain True"


def test_what_a_terminal_obeys_is_shown_as_text():
    assert clean("a\x1b[31mred\x07\r\n\x9b2J\u202eevil\udc80") == (r"a\x1b[31mred\x07\r\n\x9b2J\u202eevil\udc80")


def test_text_that_is_only_unusual_stays_as_it_is():
    usual = "naïve 研究生 はな・し می\u200cخواهم 👩\u200d🔬 [bold]x[/] \\n"
    assert clean(usual) == usual


@given(st.text())
def test_a_line_is_one_line_whatever_the_text(text):
    line = clean(text)
    assert line.isprintable() or not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert len(line.splitlines()) <= 1 and clean(line) == line


def test_markup_in_a_message_is_text(monkeypatch):
    screen = on_screen(monkeypatch)
    terminal().show(Message("[red]x[/red] :smile: \x1b[2J"))
    assert screen.getvalue().endswith("[red]x[/red] :smile: \\x1b[2J\n")


def test_a_command_can_be_copied_from_a_narrow_terminal(monkeypatch):
    command = "python run_mlm_wwm.py " + "--train_file a/long/path.txt " * 4 + "--output_dir out"
    shown = Terminal("rich")
    shown.console = Console(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    shown.show(Command("to resume", command))
    assert shown.console.file.getvalue() == f"to resume:\n{command}\n"
