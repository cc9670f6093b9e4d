"""How a script ends: after a mistake of the user with one line, after Ctrl-C with another."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from wordmask.utils.errors import InputError, from_worker
from wordmask.utils.processes import local_rank
from wordmask.utils.said_once import first_to_say, leave_mark, others_made_a_mistake, others_said_something
from wordmask.utils.signals import exit_status, handled, interruption_behind, raise_no_more
from wordmask.utils.terminal import clean

P = ParamSpec("P")
T = TypeVar("T")


def reports_input_errors(main: Callable[P, T]) -> Callable[P, T]:
    """Let a script's `main` end as `one_line_endings` says."""

    @functools.wraps(main)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        with one_line_endings():
            return main(*args, **kwargs)

    return wrapper


def while_importing(name: str) -> contextlib.AbstractContextManager[None]:
    """Let a script end as `one_line_endings` says while it imports large packages, before its `main` begins.

    Args:
        name: the script's `__name__`. A program that imports the script keeps its own handling of signals.
    """
    return one_line_endings() if name == "__main__" else contextlib.nullcontext()


@contextlib.contextmanager
def one_line_endings() -> Iterator[None]:
    """Let a script end with one line on stderr and exit status 2 after a mistake of the user.

    If several processes of a launch meet the same mistake on one machine, only one of them prints it. This is the
    first process, if it meets the mistake too. If only another process meets it, the line begins with its rank.

    Ctrl-C, SIGTERM and SIGHUP end it with one line, too, and exit status 130, 143 or 129.

    Any other exception is a bug of ours and keeps its traceback.
    """
    with handled(), _any_text_printed():
        try:
            yield
        except (KeyboardInterrupt, Exception) as error:
            raise_no_more()  # torchrun ends the others as soon as one has ended
            if interruption := interruption_behind(error):
                leave_mark()
                if local_rank() == 0 and not others_made_a_mistake():  # torchrun ends this one after a mistake
                    print("\ninterrupted", file=sys.stderr, flush=True)
                raise SystemExit(exit_status(interruption)) from None
            mistake = find_input_error(error)
            # If one process leaves after a mistake or a signal, the others fail as they wait for it. They have
            # nothing to add.
            if mistake is None and not (isinstance(error, RuntimeError) and others_said_something()):
                raise
            if mistake is not None and first_to_say(str(mistake)):
                rank = f"rank {os.environ['RANK']}: " if local_rank() else ""
                print(clean(f"error: {rank}{mistake}"), file=sys.stderr, flush=True)
            raise SystemExit(2) from None


@contextlib.contextmanager
def _any_text_printed() -> Iterator[None]:
    """Let stdout write what its encoding lacks as `\\u4e2d`, as stderr does, and not raise."""
    stdout = sys.stdout
    if not isinstance(stdout, io.TextIOWrapper):
        yield
        return
    errors = stdout.errors
    stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError, OSError):  # the program has closed it, or it takes no more
            stdout.reconfigure(errors=errors)


def find_input_error(error: BaseException | None) -> InputError | None:
    """The `InputError` in a chain of exceptions, since a library may wrap it; `None` without one."""
    while error is not None and not isinstance(error, InputError):
        # What torch raises wherever the program is when a worker dies, also while a mistake is on its way up.
        interrupts = str(error).startswith("DataLoader worker (pid")
        error = error.__cause__ or (error.__context__ if interrupts else None)
    return None if error is None else from_worker(error)
