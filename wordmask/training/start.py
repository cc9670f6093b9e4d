"""The start of a training script: help and mistakes first, since the other imports take seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from wordmask.config.own_flags import check_own_flags


def start(script: str, argv: Sequence[str] | None, **defaults: Any) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`."""
    argv = sys.argv[1:] if argv is None else argv
    check_own_flags(argv, **defaults)
    from wordmask.training.run import run  # imports torch

    return run(script, argv, **defaults)
