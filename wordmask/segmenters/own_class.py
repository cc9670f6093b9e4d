"""A segmenter of the user's own: what its code raises becomes one sentence that says where."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator

from wordmask.utils.errors import reported


def called(module: str, sentence: str | Callable[[], str], advice: str) -> contextlib.AbstractContextManager[None]:
    """As `explained`, but an error in a module of this package is a bug of ours and keeps its traceback."""
    if module.startswith("wordmask."):
        return contextlib.nullcontext()
    return explained(module, sentence, advice)


@contextlib.contextmanager
def explained(module: str, sentence: str | Callable[[], str], advice: str) -> Iterator[None]:
    """Turn an error in a module into an `InputError` that says in which line of the module it was raised.

    Args:
        module: the name of the module.
        sentence: the start of the sentence, or a function that gives it, called only after an error.
        advice: the end of the sentence.

    Example: `--segmenter: my.words:Khmer cannot segment 'កខ' (KeyError: 'ក', words.py line 7); repair …`.
    """

    def explain(error: Exception, cause: str) -> str:
        start = sentence if isinstance(sentence, str) else sentence()
        return f"{start} ({cause}{_place(error, module)}){advice}"

    with reported(explain):
        try:
            yield
        except SystemExit as error:  # some libraries end the program if a file is missing
            ended = RuntimeError(f"it ended the program, sys.exit({'' if error.code is None else error.code})")
            raise ended.with_traceback(error.__traceback__) from None


def _place(error: BaseException, module: str) -> str:
    """The last line of a module that an error went through: `, words.py line 7`; empty if there is none."""
    places = [
        f", {os.path.basename(frame.f_code.co_filename)} line {number}"
        for frame, number in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__") == module
    ]
    return places[-1] if places else ""
