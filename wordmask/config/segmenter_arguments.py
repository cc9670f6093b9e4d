"""The flags that choose a segmenter, the same for every script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wordmask.config.parser import argument
from wordmask.segmenters import Segmenter, load_segmenter
from wordmask.utils.errors import InputError


@dataclass
class SegmentationArguments:
    """Which segmenter finds words, and its options."""

    _argument_group_name = "words from a segmenter"

    segmenter: str | None = argument(
        "Finds words: ltp or jieba (Chinese), whitespace (any writing system), tokenizer (the tokenizer's own), or "
        "module:Class (yours).",
        default=None,
    )
    ltp: str | None = argument("ltp: a directory or a hub id, for example LTP/small.", default=None)
    user_dict: str | None = argument("jieba: a file with additional words.", default=None)
    hmm: bool = argument("jieba: find words that are not in the dictionary.", default=True)
    mixed_words: bool = argument("Words may join Chinese and letters, for example T恤.", default=False)

    def __post_init__(self) -> None:
        options = {"--ltp": self.ltp, "--user_dict": self.user_dict, "--no_hmm": not self.hmm}
        for flag, given in (options | {"--mixed_words": self.mixed_words}).items():
            if given and self.segmenter is None:
                raise InputError(f"{flag} needs --segmenter; add it, or drop {flag}")

    def load(self, tokenizer: Callable[[], Any] | None = None) -> Segmenter:
        """The segmenter, with the options given.

        Args:
            tokenizer: gives the tokenizer of the run. Some segmenters need it.

        Raises:
            InputError: if it is missing or not installed, or if an option belongs to another segmenter.
        """
        if self.segmenter is None:
            raise InputError("--segmenter is missing; give ltp, jieba or whitespace")
        if self.segmenter == "ltp" and not self.ltp:
            raise InputError("--ltp is missing; give an LTP model such as LTP/small, or --segmenter jieba")
        hmm = None if self.hmm else False
        return load_segmenter(self.segmenter, tokenizer=tokenizer, model=self.ltp, user_dict=self.user_dict, hmm=hmm)
