"""Masked examples, at the terminal or as a page: the words, and what replaced each token."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.collator import Example, MaskingCollator
from wordmask.data.plan import Draw
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences
from wordmask.masking import IGNORED, Mix, original_ids
from wordmask.tokenization.readable import ReadableTokens
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.report.pages import render
from wordmask.utils.errors import InputError
from wordmask.utils.files import write_atomically
from wordmask.utils.quantities import percent
from wordmask.utils.terminal import clean
from wordmask.utils.write_errors import write_reported

# Brackets say the same as colours, for pipes and for colour-blind readers.
KINDS = {
    "masked": ("[{}]", "bold red"),
    "random": ("{{{}>{}}}", "bold yellow"),
    "kept": ("<{}>", "bold green"),
    "": ("{}", "default"),
    "special": ("{}", "dim"),
}
_BRACKETS = re.compile(r"[\[\]{}<>]")
_ESCAPED = re.compile(rf"\\{_BRACKETS.pattern}")


@dataclass(frozen=True)
class Piece:
    """A token of an example.

    Attributes:
        text: its text, see `_text`.
        seen: the text of the token that the model sees in its place.
        kind: what happened to it, one of `KINDS`; empty for a token that is not masked.
        before: what stands before it: a space between words, and `·` within a word.
    """

    text: str
    seen: str
    kind: str
    before: str

    @property
    def shown(self) -> str:
        """The token, in the brackets of its kind."""
        return KINDS[self.kind][0].format(self.text, self.seen)


@dataclass(frozen=True)
class MaskedExample:
    """An example as training masks it: its tokens, and how many of them can be masked and are.

    Attributes:
        drawn: `, rate 43.1%, strategy token`, as far as each sequence draws its own.
    """

    pieces: list[Piece]
    maskable: int
    masked: int
    drawn: str = ""

    @property
    def share(self) -> str:
        """`3 of 25 tokens (12.0%)`"""
        return f"{self.masked} of {self.maskable} tokens ({self.masked / max(self.maskable, 1):.1%})"


def masked_examples(
    sequences: Sequences | StagedSequences | StreamedSequences,
    count: int,
    collator: MaskingCollator,
    tokenizer: PreTrainedTokenizerBase,
    rates: RateSchedule,
) -> list[MaskedExample]:
    """The first sequences as the first epoch of training masks them.

    Args:
        sequences: the sequences to train on.
        count: how many to show.
        collator: makes batches with `word_ids`.
        tokenizer: has made the tokens.
        rates: the masking rate over the training.

    Raises:
        InputError: if there is no sequence.
    """
    if isinstance(sequences, StreamedSequences):
        examples = list(islice(sequences.one_epoch(0), count))
    else:
        indices = np.arange(min(count, len(sequences)))
        of_each = rates.at(np.zeros(len(indices)), 0, indices).tolist()
        examples = [sequences[Draw(index, 0, rate)] for index, rate in enumerate(of_each)]
    if not examples:
        raise InputError("--preview_masking: there is no example to show; give a --train_file with text in it")
    readable, names = ReadableTokens(tokenizer), {*tokenizer.all_special_tokens}
    return [_masked(one, collator, readable, names, _drawn(one, collator, rates)) for one in examples]


def _drawn(example: Example, collator: MaskingCollator, rates: RateSchedule) -> str:
    """The rate and the strategy that a sequence draws, see `MaskedExample`."""
    drawn, strategy = f", rate {percent(example.rate)}" if rates.draws else "", collator.strategy
    if isinstance(strategy, Mix):
        [number] = strategy.drawn(collator.keys_of([example.epoch], [example.identity]))
        drawn += f", strategy {[*strategy.shares][number]}"
    return drawn


def _masked(
    example: Example, collator: MaskingCollator, readable: ReadableTokens, names: Container[str], drawn: str
) -> MaskedExample:
    batch = {name: tensor[0].numpy() for name, tensor in collator([example]).items()}
    labels, seen, words = batch["labels"], batch["input_ids"], batch["word_ids"]
    original = original_ids(seen, labels)[: batch["attention_mask"].sum()]
    maskable = collator.vocabulary.maskable[original]
    pieces = []
    for place, token in enumerate(original.tolist()):
        inside = place and words[place] == words[place - 1] and maskable[place] and maskable[place - 1]
        kind = _kind(token, int(seen[place]), labels[place] != IGNORED, collator.vocabulary)
        before = "·" if inside else " " if place else ""
        text, shown = (_text(index, readable, names) for index in (token, int(seen[place])))
        pieces.append(Piece(text, shown, kind, before))
    return MaskedExample(pieces, int(maskable.sum()), int((labels != IGNORED).sum()), drawn)


def _text(token: int, readable: ReadableTokens, names: Container[str]) -> str:
    """The text of a token, with a backslash before each bracket; these names, such as `[UNK]`, stay as they are."""
    text = clean(readable.token(token))
    return text if text in names else _BRACKETS.sub(r"\\\g<0>", text)


def _kind(token: int, seen: int, predicted: bool, vocabulary: Vocabulary) -> str:
    """What happened to a token, one of `KINDS`."""
    if not predicted:
        return "" if vocabulary.maskable[token] else "special"
    if seen == vocabulary.mask_token_id:
        return "masked"
    return "kept" if seen == token else "random"


def _have_brackets(examples: list[MaskedExample]) -> bool:
    """Whether the text has brackets, so that the legend says how they are shown."""
    return any(_ESCAPED.search(piece.shown) for example in examples for piece in example.pieces)


def print_examples(examples: list[MaskedExample], console: Console) -> None:
    """Print examples, one to a line; the console chooses colours by the terminal and `NO_COLOR`."""
    legend = Text("words apart, their tokens joined by ·   ")
    for kind in ("masked", "random", "kept"):
        form, style = KINDS[kind]
        legend.append(form.format(kind, "other") + "   ", style)
    if _have_brackets(examples):
        legend.append(r"\[ a bracket of the text")
    console.print(legend, soft_wrap=True)
    for number, example in enumerate(examples, 1):
        line = Text(f"{number}. {example.share}{example.drawn}: ", "default")
        for piece in example.pieces:
            line.append(piece.before, "dim").append(piece.shown, KINDS[piece.kind][1])
        console.print(line, soft_wrap=True)


def write_examples(examples: list[MaskedExample], path: str, masking: str) -> None:
    """Write a page of examples.

    Args:
        examples: what to show.
        path: the file, which does not exist.
        masking: what is masked and how much of it, for people.

    Raises:
        InputError: if the file cannot be written.
    """
    page = render("preview.html.jinja", examples=examples, masking=masking, brackets=_have_brackets(examples))
    with write_reported(f"--preview_file: {path}", "give another"), write_atomically(Path(path)) as file:
        file.write(page)
