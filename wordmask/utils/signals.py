"""Ctrl-C, SIGTERM and SIGHUP raise an exception, or ask a training to stop after its step.

A second Ctrl-C leaves at once. SIGHUP comes where a terminal closes, or a connection to it ends.

    with handled():  # a script
        with deferred():  # a training, which looks at `received()` after each step
            ...

Without `handled`, as in a user's own program, signals do what they did before.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from types import FrameType
from typing import Any

from wordmask.utils.processes import local_rank
from wordmask.utils.terminal import terminal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME = 1.0  # seconds: torchrun passes a Ctrl-C on to processes that got it from the terminal already
_NOTICE = b"\ninterrupted: the step in progress is finished and saved first; Ctrl-C again leaves at once\n"
_PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Interrupted(KeyboardInterrupt):
    """A signal has ended the run. It is a `KeyboardInterrupt`, so that code that handles Ctrl-C handles it, too.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def exit_status(error: KeyboardInterrupt) -> int:
    """The exit status that belongs to a signal: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + (error.number if isinstance(error, Interrupted) else signal.SIGINT)


def interruption_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that an exception is or comes from; `None` if there is none.

    Up to 3.11, Python raises a `RuntimeError` instead if it comes while a class is made, as during an import.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


class _Handler:
    """What the signals do in this process."""

    def __init__(self) -> None:
        self.process, self.is_deferred, self.is_held = os.getpid(), False, False
        self.received: int | None = None
        self.held: int | None = None  # the signal that comes when `is_held` ends
        self.since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked process leaves Ctrl-C to its parent, and its parent may end it
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.is_held:
            self.held = self.held or number
            return
        is_first, now = self.received is None, time.monotonic()
        if is_first:
            self.received, self.since = number, now
        elif now - self.since < _SAME:
            return
        elif number == signal.SIGINT:
            _leave_at_once(number)
        if not self.is_deferred:
            raise Interrupted(number)
        if is_first and number == signal.SIGINT and local_rank() == 0:
            os.write(2, _NOTICE)  # not `print`, which this signal may have interrupted


_handler: _Handler | None = None


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Let `SIGNALS` raise `Interrupted`. A signal that the process ignores, as under nohup, stays ignored."""
    global _handler
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _handler, hook = _handler, _Handler(), sys.unraisablehook
    sys.unraisablehook = partial(_raise_again, hook)
    replaced = {number: signal.getsignal(number) for number in SIGNALS}
    for number, earlier in replaced.items():
        if earlier not in (signal.SIG_IGN, None):
            signal.signal(number, _handler)
    try:
        yield
    finally:
        since, _handler, sys.unraisablehook = _handler.since if _handler.received else 0.0, outer, hook
        if since:
            _ignore_at_exit()
        for number, earlier in replaced.items():
            if earlier is not None:
                signal.signal(number, partial(_late, earlier, since) if since else earlier)


def _raise_again(hook: Callable[[Any], Any], unraisable: Any) -> None:
    """Send a signal again if Python has dropped its `Interrupted`, as in a callback from C or a `__del__`."""
    error = unraisable.exc_value
    if not isinstance(error, Interrupted) or _handler is None:
        hook(unraisable)
        return
    _handler.received = None
    threading.Timer(0.01, os.kill, (os.getpid(), error.number)).start()


@cache
def _ignore_at_exit() -> None:
    """While the process ends, which may take a second, Python would give signals their default effect, which kills."""
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in SIGNALS])


def _late(earlier: Any, since: float, number: int, frame: FrameType | None) -> None:
    """Handle a signal after the run has ended: as before it, but not the same one again while the process ends."""
    if time.monotonic() - since >= _SAME:
        signal.signal(number, earlier)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let a signal raise nothing in here; `received` tells of it. At the end, one that came too late is raised."""
    handler = _handler
    if handler is None:
        yield
        return
    handler.is_deferred = True
    try:
        yield
    finally:
        handler.is_deferred = False
    if handler.received is not None:
        raise Interrupted(handler.received)


def are_handled() -> bool:
    """Whether this program is in `handled`, as each script is."""
    return _handler is not None


def received() -> int | None:
    """The signal that has asked this process to stop; `None` without one."""
    return _handler.received if _handler is not None else None


def _leave_at_once(number: int) -> None:
    with contextlib.suppress(Exception):
        terminal().close()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(128 + number)


def leave_to_parent(*numbers: int) -> None:
    """Let a worker process ignore signals. It ends when its parent says so, or is gone.

    Ctrl-C, a scheduler's SIGTERM and a terminal's SIGHUP go to all processes. A worker that ended by itself would take
    the next batch with it.

    Args:
        numbers: the signals.
    """
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, AttributeError):  # Linux ends it even if the parent is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold signals back until the end, also in processes that start inside, so that these do not die half started.

    A process that starts inside calls `take_terminations` when it is ready.
    """
    handler, earlier = _handler, signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if handler is not None:  # since a signal for this process may come to a thread that does not block it
        handler.is_held = True
    try:
        yield
    finally:
        if handler is not None:
            handler.is_held = False
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)
        if handler is not None and handler.held is not None:
            number, handler.held = handler.held, None
            handler(number, None)


@contextlib.contextmanager
def end_at_once() -> Iterator[None]:
    """Let a signal end the process in here, where code in C waits, and Python could not handle the signal before."""
    handler, replaced = _handler, []
    for number in SIGNALS if handler is not None else ():
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_DFL)
            replaced.append(number)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, handler)


def raise_no_more() -> None:
    """Let signals raise nothing from here on, since the program is about to end, and says why."""
    if _handler is not None:
        _handler.is_held = True


def take_terminations() -> None:
    """Let a process that has started in `held_back` take SIGTERM, also one that came earlier."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
