"""The start of a training script: help and mistakes at once, and then what takes seconds to import."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from wordmask.config.own_flags import check_own_flags


def start(script: str, argv: Sequence[str] | None, **defaults: Any) -> dict[str, float]:
    """Check the flags of this suite, and then run, see `wordmask.training.run.run`."""
    words = sys.argv[1:] if argv is None else argv
    check_own_flags(words, **defaults)
    from wordmask.training.run import run

    return run(script, words, **defaults)
