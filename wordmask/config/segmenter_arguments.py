"""The flags that choose a segmenter, the same for every script."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wordmask.config.parser import argument
from wordmask.segmenters import Segmenter, available, check_segmenter, make_segmenter
from wordmask.segmenters.options import parse_options
from wordmask.utils.errors import InputError


@dataclass
class SegmentationArguments:
    """Which segmenter finds words, and its options."""

    _argument_group_name = "words from a segmenter"

    segmenter: str | None = argument(
        "Finds words: ltp, jieba, pkuseg (Chinese), sudachi, mecab (Japanese), pythainlp (Thai), icu (Khmer, Lao, "
        "Burmese and these), whitespace (all scripts), tokenizer (the tokenizer's own), or module:Class (yours).",
        default=None,
    )
    segmenter_options: str | None = argument("Such as mode=C for sudachi; see docs/languages.md.", default=None)
    ltp: str | None = argument("ltp: a directory or a hub id, for example LTP/small.", default=None)
    user_dict: str | None = argument("More words, a file; most segmenters take one.", default=None)
    hmm: bool = argument("jieba: find words that are not in the dictionary.", default=True)
    mixed_words: bool = argument("Words may join Chinese and letters, for example T恤.", default=False)

    def __post_init__(self) -> None:
        flags = {"--ltp": self.ltp, "--user_dict": self.user_dict, "--no_hmm": not self.hmm}
        flags |= {"--segmenter_options": self.segmenter_options, "--mixed_words": self.mixed_words}
        for flag, given in flags.items():
            if given and self.segmenter is None:
                raise InputError(f"{flag} needs --segmenter; add it, or drop {flag}")
        self._options()  # refuses what cannot be read

    def load(self, tokenizer: Callable[[], Any] | None = None) -> Segmenter:
        """The segmenter, with the options given.

        Args:
            tokenizer: gives the tokenizer of the run. Some segmenters need it.

        Raises:
            InputError: if it is missing or not installed, or if an option belongs to another segmenter.
        """
        if self.segmenter is None:
            raise InputError(f"--segmenter is missing; give one of {', '.join(available())}")
        return make_segmenter(self.segmenter, tokenizer=tokenizer, **self._options())

    def check(self) -> None:
        """Raise an `InputError` for an unknown segmenter or wrong options, as `load` does."""
        options = self._options()
        if self.segmenter is not None:
            check_segmenter(self.segmenter, **options)

    def _options(self) -> dict[str, Any]:
        """The options by their names; raise an `InputError` if --ltp is missing, or given to another segmenter."""
        options = self._given_options()
        if self.segmenter == "ltp" and not options.get("model"):
            raise InputError("--ltp is missing; give an LTP model such as LTP/small, or --segmenter jieba")
        if self.ltp and self.segmenter in available() and self.segmenter != "ltp":
            raise InputError(f"--segmenter {self.segmenter} cannot use --ltp; drop it, or give --segmenter ltp")
        return options

    def _given_options(self) -> dict[str, Any]:
        """The options by their names, from --segmenter_options and from flags of their own."""
        options: dict[str, Any] = {}
        if self.segmenter_options is not None:
            options |= parse_options(self.segmenter_options)
        if "tokenizer" in options:
            raise InputError("--segmenter_options: tokenizer= is no option; a segmenter gets the tokenizer of the run")
        flags = {"model": ("--ltp", self.ltp), "user_dict": ("--user_dict", self.user_dict)}
        for name, (flag, value) in (flags | {"hmm": ("--no_hmm", None if self.hmm else False)}).items():
            if value is None:
                continue
            if name in options:
                raise InputError(f"{flag} and --segmenter_options {name}= say the same; drop one of them")
            options[name] = value
        return options
