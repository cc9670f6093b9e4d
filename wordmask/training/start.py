"""The start of a training script: help and mistakes first, since the other imports take seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wordmask.config.short_form import is_short_form
from wordmask.utils.library_warnings import filtered_warnings
from wordmask.utils.terminal import asked_format, terminal


def start(script: str, argv: Sequence[str] | None, **defaults: object) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    shown = terminal()
    shown.mode = asked_format(argv)  # type: ignore[assignment]  # the setter takes `None`
    with filtered_warnings(), shown.closing():
        short = is_short_form(argv)  # its first line says how to resume
        if not (short or {"--help", "-h", "--help_all"} & {*argv}):
            shown.doing("importing torch and transformers")
        from wordmask.config.own_flags import check_own_flags  # imports transformers
        from wordmask.training.interruption import resumable

        own = check_own_flags(argv, **defaults)
        with resumable(script, argv, own) as chosen:
            if short:
                shown.doing("importing torch and transformers")
            from wordmask.training.run import run  # imports torch

            return run(script, argv, **{**defaults, **chosen})
