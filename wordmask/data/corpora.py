"""Corpora: the parts of a text that `--train_weights` mixes, and that are evaluated apart.

Each entry of `--train_file` or `--validation_file` is a corpus: a file, a pattern or a directory.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wordmask.utils.arrays import starts_of
from wordmask.utils.readers.paths import short_name

MOST = 10  # corpora that are evaluated apart; of more, only the total is of use to people


class Corpus(NamedTuple):
    """A part of a text: its name, and the number of its texts, which stand together."""

    name: str
    texts: int


def corpus_names(entries: Sequence[str]) -> list[str]:
    """A short name for each file, pattern or directory.

    `news.txt` and `wiki/*.jsonl` are `news` and `wiki`; `a/train.txt` and `b/train.txt` are `a_train` and `b_train`.
    """
    short = [_safe(short_name(entry)) for entry in entries]
    times = Counter(short)
    names = [
        name if times[name] == 1 else _safe(f"{Path(entry).parent.name}_{name}")
        for name, entry in zip(short, entries, strict=True)
    ]
    return names if len({*names}) == len(names) else [f"{name}_{number}" for number, name in enumerate(names, 1)]


def _safe(name: str) -> str:
    """A name that metrics can have: letters, digits and `_`."""
    return re.sub(r"\W+", "_", name).strip("_") or "corpus"


def within(corpora: Sequence[Corpus], spans: Sequence[range]) -> list[Corpus]:
    """What some spans of a text hold of each of its corpora, without those of which they hold nothing."""
    starts = starts_of(np.array([corpus.texts for corpus in corpora], np.int64)).tolist()
    counts = [
        sum(len(range(max(span.start, start), min(span.stop, start + corpus.texts))) for span in spans)
        for start, corpus in zip(starts, corpora, strict=True)
    ]
    return [corpus._replace(texts=count) for corpus, count in zip(corpora, counts, strict=True) if count]


def quotas(weights: Sequence[float], count: int) -> list[int]:
    """How many sequences of an epoch each corpus has, by its weight: the parts of `count` with the largest remainders.

    Weights 0.7 and 0.3 of 7 sequences are 4.9 and 2.1, so 5 and 2.
    """
    shares = np.array(weights) * count
    found = np.floor(np.round(shares, 9)).astype(int)
    missing = count - int(found.sum())
    found[np.argsort(found - shares, kind="stable")[:missing]] += 1
    return found.tolist()


class InTurn:
    """The batches of one corpus after those of another.

    Args:
        parts: the batches of each corpus.
        names: the names of the corpora; none if nobody asks for them.
    """

    def __init__(self, parts: Sequence[Any], names: Sequence[str] = ()):
        self.parts, self.names = parts, names

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.parts)

    def corpora(self) -> Iterator[str]:
        """The name of the corpus of each batch; without names, an empty one."""
        names = self.names or [""] * len(self.parts)
        return chain.from_iterable(repeat(name, len(part)) for name, part in zip(names, self.parts, strict=True))
