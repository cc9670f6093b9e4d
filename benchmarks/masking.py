"""Milliseconds from rows of a dataset to a masked batch, ours beside transformers' collators and the classic one.

    python benchmarks/masking.py --tokenizer DIRECTORY_OR_HUB_ID --text FILE

Both sides get the same rows, in turn in one run; each makes a few batches in a turn, as a loader's worker does. The
table gives medians and what the others take times ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from bundled import given_or_bundled
from peers import ClassicWholeWordCollator
from wordmask.collators import MaskingCollator
from wordmask.masking import Strategy
from wordmask.preparation import TokenStream
from wordmask.rows import Division, Rows
from wordmask.runs import tokenize
from wordmask.sampling import Draw
from wordmask.textfiles import is_blank, read_lines
from wordmask.tokens import special_affixes
from wordmask.vocabulary import Vocabulary

SHAPES = ((128, 32), (128, 256), (512, 32), (512, 64), (512, 256))


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Print the table and return its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=5, help="in each turn")
    parser.add_argument("--shapes", type=lambda text: tuple(map(int, text.split("x"))), nargs="+", default=SHAPES)
    with given_or_bundled(parser.parse_args(argv), "english") as options:
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)]
    table = Table(title="ms per batch, from rows to masked tensors (times ours)")
    results = []
    for length, batch in options.shapes:
        calls = contestants(tokenizer, *make_rows(tokenizer, lines, length, batch))
        results.append(measure(calls, options.repeats, options.batches))
        if not table.columns:
            table.add_column("length × batch")
            for name in results[0]:
                table.add_column(name, justify="right")
        ours = results[-1]["whole word"]
        cells = (f"{ms:.2f}" if ms <= 3 * ours else f"{ms:.1f} ({ms / ours:.0f}×)" for ms in results[-1].values())
        table.add_row(f"{length} × {batch}", *cells)
    Console().print(table)
    return results


def make_rows(tokenizer, lines: Sequence[str], length: int, batch: int) -> tuple[datasets.Dataset, Rows]:
    """Blocks of text, prepared as transformers' example prepares them, and the same blocks as ours."""
    prefix, suffix = special_affixes(tokenizer)
    room = length - len(prefix) - len(suffix)
    tokens = tokenize(tokenizer, lines)
    codes = np.resize(tokens.ids << 1 | tokens.continues, room * batch).reshape(batch, room)
    columns: dict[str, list[Any]] = {
        "input_ids": [[*prefix, *(block >> 1).tolist(), *suffix] for block in codes],
        "token_type_ids": [[0] * length] * batch,
        "attention_mask": [[1] * length] * batch,
        "special_tokens_mask": [[1] * len(prefix) + [0] * room + [1] * len(suffix)] * batch,
        "offset_mapping": [_offsets(block & 1, len(prefix), len(suffix)) for block in codes],
    }
    features = datasets.Features({"tokens": datasets.List(datasets.Value("uint16"))})
    stream = TokenStream(datasets.Dataset.from_dict({"tokens": list(codes)}, features=features))
    starts = np.arange(batch) * room
    return datasets.Dataset.from_dict(columns), Rows(stream, Division(starts, starts + room), length - room, length)


def _offsets(continues: np.ndarray, prefix: int, suffix: int) -> list[list[int]]:
    """Character offsets in which words are told apart by gaps, as transformers 5 reads them."""
    starts = np.cumsum(np.where(continues, 2, 3)).tolist()
    return [[0, 0]] * prefix + [[start, start + 2] for start in starts] + [[0, 0]] * suffix


def contestants(tokenizer, peer_rows: datasets.Dataset, rows: Rows) -> dict[str, Callable[[], Any]]:
    """What is timed, by name: to fetch the rows, as a DataLoader does, and to make a batch of them."""
    vocabulary = Vocabulary.of(tokenizer)
    draws = [Draw(index, 0, 0.15) for index in range(len(rows))]

    def ours(strategy: Strategy) -> Callable[[], Any]:
        collator = MaskingCollator(vocabulary, strategy, seed=42)
        return lambda: collator(rows.examples(draws))

    def peer(collator: Callable[[Any], Any], *without: str) -> Callable[[], Any]:
        dataset = peer_rows.remove_columns(list(without))
        return lambda: collator(dataset.__getitems__(list(range(len(dataset)))))

    token = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    words = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.15, whole_word_mask=True, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    return {strategy.value.replace("_", " "): ours(strategy) for strategy in Strategy} | {
        "v5 token": peer(token, "offset_mapping"),
        "v5 whole word": peer(words),
        "classic whole word": peer(ClassicWholeWordCollator(tokenizer), "offset_mapping"),
    }


def measure(calls: dict[str, Callable[[], Any]], repeats: int, batches: int) -> dict[str, float]:
    """The median milliseconds of each, taken in turn; the first turn is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            for _ in range(batches):
                start = time.perf_counter()
                call()
                if repeat:
                    times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
