"""Masked examples in the terminal: the words, and what replaced each token."""

from __future__ import annotations

from itertools import islice

from rich.console import Console
from rich.text import Text

from wordmask.data.collator import Example, MaskingCollator
from wordmask.data.sampler import Draw
from wordmask.data.sequences import Sequences, StagedSequences, StreamedSequences
from wordmask.masking import IGNORED
from wordmask.utils.errors import InputError
from wordmask.utils.terminal import clean

# Brackets say the same as colours, for pipes and for colour-blind readers.
MASKED, RANDOM, KEPT = ("[{}]", "bold red"), ("{{{}>{}}}", "bold yellow"), ("<{}>", "bold green")


def preview(
    sequences: Sequences | StagedSequences | StreamedSequences,
    count: int,
    collator: MaskingCollator,
    tokenizer,
    rate: float,
    console: Console,
) -> None:
    """Print the first sequences as the first epoch of training masks them.

    Args:
        sequences: the sequences to train on.
        count: how many to print.
        collator: makes batches with `word_ids`.
        tokenizer: decodes tokens.
        rate: the masking rate.
        console: where to print; it chooses colours by the terminal and `NO_COLOR`.

    Raises:
        InputError: if there is no sequence.
    """
    examples = (
        list(islice(sequences.one_epoch(0), count))
        if isinstance(sequences, StreamedSequences)
        else [sequences[Draw(index, 0, rate)] for index in range(min(count, len(sequences)))]
    )
    if not examples:
        raise InputError("--preview_masking: there is no example to show; give a --train_file with text in it")
    legend = Text("words apart, their tokens joined by ·   ")
    for (form, style), label in ((MASKED, "masked"), (RANDOM, "random"), (KEPT, "kept")):
        legend.append(form.format(label, "other") + "   ", style)
    console.print(legend, soft_wrap=True)
    for number, example in enumerate(examples, 1):
        console.print(_render(number, example, collator, tokenizer), soft_wrap=True)


def _render(number: int, example: Example, collator: MaskingCollator, tokenizer) -> Text:
    """One example on one line, with its share of masked tokens."""
    batch = {name: tensor[0].tolist() for name, tensor in collator([example]).items()}
    positions = range(sum(batch["attention_mask"]))
    original = [batch["input_ids" if batch["labels"][index] == IGNORED else "labels"][index] for index in positions]
    maskable = [bool(collator.vocabulary.maskable[token]) for token in original]
    words = batch["word_ids"]
    labels = sum(label != IGNORED for label in batch["labels"])
    line = Text(f"{number}. {labels} of {sum(maskable)} tokens ({labels / max(sum(maskable), 1):.1%}): ", "default")
    for position, token in enumerate(original):
        if position:
            same = words[position] == words[position - 1]
            joined = same and maskable[position] and maskable[position - 1]
            line.append("·" if joined else " ", "dim")
        form, style = ("{}", "default" if maskable[position] else "dim")
        seen = batch["input_ids"][position]
        if batch["labels"][position] != IGNORED:
            form, style = MASKED if seen == collator.vocabulary.mask_token_id else KEPT if seen == token else RANDOM
        line.append(form.format(_piece(tokenizer, token), _piece(tokenizer, seen)), style)
    return line


def _piece(tokenizer, token: int) -> str:
    """The text of a token, or its name if it is only a part of a character."""
    text = tokenizer.decode([token]).removeprefix("##").strip()
    return clean(text if text and "\ufffd" not in text else tokenizer.convert_ids_to_tokens(token))
