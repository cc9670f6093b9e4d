"""What a benchmark runs on where none is given: a bundled text, and a tokenizer trained on the spot."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import wordmask
from wordmask.utils.readers import read_lines

SAMPLES = Path(wordmask.__file__).parent / "samples"
VOCABULARY, SAMPLE_VOCABULARY = 30_000, 4000  # tokens; a sample has no more
LINES = 20_000  # to train the tokenizer on


@contextmanager
def given_or_bundled(options: argparse.Namespace, sample: str) -> Iterator[argparse.Namespace]:
    """The options of a benchmark with `text` and `tokenizer` filled in, for as long as this lasts.

    Args:
        options: as they were parsed.
        sample: the name of a bundled text, `english` or `chinese`.
    """
    text = options.text or str(SAMPLES / f"{sample}.txt")
    with tempfile.TemporaryDirectory() as folder:
        if options.tokenizer is None:
            from wordmask.tokenization.train_tokenizer import train_tokenizer  # here, since a worker needs none of it

            lines = islice(read_lines(text, "--text"), LINES)
            size = VOCABULARY if options.text else SAMPLE_VOCABULARY
            train_tokenizer("bert", lines, size).save_pretrained(folder)
        yield argparse.Namespace(**vars(options) | {"text": text, "tokenizer": options.tokenizer or folder})
