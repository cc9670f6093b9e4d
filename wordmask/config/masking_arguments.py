"""The flags of masking: what is masked, how much of it, and what replaces it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wordmask.config.number_checks import check_shares
from wordmask.config.parser import argument
from wordmask.config.rate_schedule import RateSchedule
from wordmask.masking import Mix, Strategy
from wordmask.utils.errors import InputError


@dataclass
class MaskingArguments:
    """What to mask, how much, and what replaces it."""

    _argument_group_name = "masking"

    masking_strategy: str = argument(
        "token, whole_word, ngram, span, or a mix: whole_word:0.8,token:0.2.", default=Strategy.TOKEN.value
    )
    mlm_probability: str = argument(
        "Share: 0.15, 0.30:0.15, 0.3@0.7,0.15@0.3, 0.1..0.9; evaluations: the last, or the middle.", default="0.15"
    )
    mask_replace_prob: float = argument("The share that becomes [MASK].", default=0.8)
    random_replace_prob: float = argument("The share that becomes a random token.", default=0.1)
    preview_masking: int = argument("Print N masked examples and exit.", default=0)
    preview_file: str | None = argument("Write them to this .html file instead, as a page.", default=None)

    def __post_init__(self) -> None:
        _ = self.strategy, self.rates  # a wrong value shows now
        for name in ("mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name}: {getattr(self, name)} is not a probability; give a number from 0 to 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise InputError(
                f"--mask_replace_prob {self.mask_replace_prob} and --random_replace_prob {self.random_replace_prob} "
                "add up to more than 1; lower one of them"
            )
        if self.preview_masking < 0:
            raise InputError(f"--preview_masking: {self.preview_masking} is below 0; give a number of examples")
        self._check_preview_file()

    def _check_preview_file(self) -> None:
        """Raise an `InputError` if the page of a preview cannot be written."""
        if self.preview_file is None:
            return
        if not self.preview_file:
            raise InputError("--preview_file: the name is empty; give a name for a page, such as masks.html")
        path = Path(self.preview_file)
        if not self.preview_masking:
            raise InputError(f"--preview_file {path}: there is no preview; give --preview_masking N, too")
        if path.suffix.lower() not in (".html", ".htm"):
            raise InputError(
                f"--preview_file: {path} does not end in .html; give a name for a page, such as masks.html"
            )
        if path.exists():
            raise InputError(f"--preview_file: {path} exists already; give another name, or remove it")

    @cached_property
    def strategy(self) -> Strategy | Mix:
        """What is masked as one unit."""
        return parse_strategy(self.masking_strategy)

    @property
    def shares(self) -> dict[Strategy, float]:
        """The share of the sequences that each strategy has."""
        return self.strategy.shares if isinstance(self.strategy, Mix) else {self.strategy: 1.0}

    @property
    def needs_words(self) -> bool:
        """Whether words are masked whole in some sequences."""
        return {*self.shares} != {Strategy.TOKEN}

    @cached_property
    def rates(self) -> RateSchedule:
        """The masking rate over the training."""
        return RateSchedule.of(self.mlm_probability)


def parse_strategy(text: str, flag: str = "--masking_strategy") -> Strategy | Mix:
    """The strategy of `whole_word`, or the mix of `whole_word:0.8,token:0.2`.

    Raises:
        InputError: naming the flag.
    """
    parts = [part.partition(":") for part in str(text).replace(" ", "").split(",")]
    names = [name for name, _, _ in parts]
    for name in names:
        if name not in [*Strategy]:
            raise InputError(
                f"{flag}: {name} is not known; choose from {', '.join(Strategy)}, or mix them, such as "
                "whole_word:0.8,token:0.2"
            )
    if len(parts) == 1 and not parts[0][1]:
        return Strategy(names[0])
    try:
        shares = [float(share) for _, _, share in parts]
    except ValueError:
        shares = []
    if not shares or not all(share > 0 for share in shares) or len({*names}) < len(names):
        raise InputError(
            f"{flag}: {text} does not give each strategy once, with a share above 0; write whole_word:0.8,token:0.2"
        )
    check_shares(flag, shares, f"the shares of {text}")
    return Mix(dict(zip(map(Strategy, names), shares, strict=True)))
