"""The start of a training script: help and mistakes first, since the other imports take seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wordmask.config.own_flags import check_own_flags
from wordmask.training.interruption import resumable


def start(script: str, argv: Sequence[str] | None, **defaults: object) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    own = check_own_flags(argv, **defaults)
    with resumable(script, argv, own) as chosen:
        from wordmask.training.run import run  # imports torch

        return run(script, argv, **{**defaults, **chosen})
