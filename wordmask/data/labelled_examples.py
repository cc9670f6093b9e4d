"""Labelled examples of --probe_file, in a part to learn from and a held-out part."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordmask.config.probe_arguments import ProbeArguments
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.quantities import counted, first_of_many
from wordmask.utils.readers import read_columns
from wordmask.utils.readers.paths import find_text_files

logger = logging.getLogger(__name__)

COLUMNS = ("text", "label")
HELD_OUT = 4  # every fourth example is held out
FEWEST = {"--probe_file": 30, "--probe_validation_file": 10}  # examples to learn from, and to measure on


@dataclass(frozen=True)
class LabelledExamples:
    """Texts and their labels, first those to learn from, then the held-out ones.

    Attributes:
        texts: (examples,)
        labels: (examples,) strings.
        learned: how many of them are there to learn from.
    """

    texts: Sequence[str]
    labels: NDArray[np.str_]
    learned: int

    @property
    def held_out_labels(self) -> NDArray[np.str_]:
        """(held-out examples,)"""
        return self.labels[self.learned :]

    def __str__(self) -> str:
        held_out, labels = len(self.held_out_labels), len(np.unique(self.labels))
        return f"{held_out:,} held-out examples, {self.learned:,} to learn from, {labels:,} labels"

    @property
    def digest(self) -> str:
        """What tells these examples, and their two parts, from others."""
        content = json.dumps([self.learned, list(self.texts), self.labels.tolist()])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def read_labelled(arguments: ProbeArguments, seed: int) -> LabelledExamples | None:
    """Read the labelled examples of a run; `None` without --probe_file.

    Args:
        arguments: the flags.
        seed: chooses the held-out part, if it has no file of its own.

    Raises:
        InputError: if a file has no such columns, too few examples, an example without text or label, one label only,
            or labels that the probe could not learn.
    """
    if not arguments.probe_file:
        return None
    examples = _learned_and_held_out(arguments, seed)
    seen = {*examples.texts[: examples.learned]}
    repeated = sum(text in seen for text in examples.texts[examples.learned :])
    if repeated:
        logger.warning(
            "--probe_file: %s among those to learn from, so all figures of the probe are too good; remove repetitions",
            counted(repeated, "held-out text is also", "held-out texts are also"),
        )
    return examples


def _learned_and_held_out(arguments: ProbeArguments, seed: int) -> LabelledExamples:
    """The examples of both files, or of one file, divided by the seed."""
    assert arguments.probe_file
    flag, other = FEWEST
    texts, labels = _read(arguments.probe_file, flag)
    needed = FEWEST[flag] + (0 if arguments.probe_validation_file else FEWEST[other])
    _check(labels, arguments.probe_file, flag, needed)
    if not arguments.probe_validation_file:
        held_out = held_out_part(labels, seed)
        order = np.argsort(held_out, kind="stable")
        return LabelledExamples([texts[place] for place in order], labels[order], int((~held_out).sum()))
    held_out_texts, held_out_labels = _read(arguments.probe_validation_file, other)
    _check(held_out_labels, arguments.probe_validation_file, other, FEWEST[other])
    if unknown := sorted({*held_out_labels.tolist()} - {*labels.tolist()}):
        shown = first_of_many([*map(repr, unknown)], 3)
        raise InputError(
            f"{other}: {arguments.probe_validation_file} has the label {shown}, which {arguments.probe_file} lacks; "
            "give examples of it there, or remove it here"
        )
    return LabelledExamples([*texts, *held_out_texts], np.concatenate([labels, held_out_labels]), learned=len(texts))


def held_out_part(labels: NDArray[np.str_], seed: int) -> NDArray[np.bool_]:
    """(examples,) Whether an example is held out: a quarter of each label's examples, as chosen by a seed.

    Shuffled and sorted by label, every fourth example is held out: of `a a a a a b b b`, the last a but one and the
    last b. A label that comes once is never held out, since it could not be learned.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    names, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
    repeated = shuffled[counts[numbers[shuffled]] > 1]
    by_label = repeated[np.argsort(numbers[repeated], kind="stable")]
    held_out = np.zeros(len(labels), bool)
    held_out[by_label[HELD_OUT - 1 :: HELD_OUT]] = True
    return held_out


def _read(path: str, flag: str) -> tuple[list[str], NDArray[np.str_]]:
    """The texts and the labels of the files that a name or a pattern stands for."""
    rows = [row for file in find_text_files([path], flag) for row in read_columns(file, flag, COLUMNS)]
    for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=False):
        empty = [number for number, value in enumerate(values, 1) if is_blank(value)]
        if empty:
            others, have = (f" and {counted(len(empty) - 1, 'other')}", "have") if len(empty) > 1 else ("", "has")
            raise InputError(
                f"{flag}: example {empty[0]:,}{others} of {path} {have} no {name}; remove or complete them"
            )
    return [text for text, _ in rows], np.array([label.strip() for _, label in rows], dtype=np.str_)


def _check(labels: NDArray[np.str_], path: str, flag: str, needed: int) -> None:
    """Raise an `InputError` if nothing can be learned from these labels, or measured on them."""
    if len(labels) < needed:
        raise InputError(f"{flag}: {path} has {len(labels)} examples, which is too few; give {needed} or more")
    counts = Counter(labels.tolist())
    if len(counts) == 1:
        raise InputError(f"{flag}: every example of {path} has the label {str(labels[0])!r}; give two labels or more")
    if len(counts) > len(labels) // 2:
        raise InputError(
            f"{flag}: column label of {path} has {len(counts):,} different values in {len(labels):,} examples, as "
            "numbers or names have; give labels of classes"
        )
