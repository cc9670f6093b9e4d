"""A look at masked examples in the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from wordmask.arguments import Arguments
from wordmask.collators import MaskingCollator
from wordmask.errors import InputError
from wordmask.masking import IGNORED
from wordmask.sampling import Draw


def preview(rows: Any, collator: MaskingCollator, tokenizer, arguments: Arguments) -> None:
    raise InputError("not yet")
