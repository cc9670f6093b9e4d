"""Milliseconds and memory from rows of a dataset to a masked batch, ours beside other collators.

    python benchmarks/masking.py --tokenizer DIRECTORY_OR_HUB_ID --text FILE

Both sides get the same rows, in turn in one run; each makes a few batches in a turn, as a loader's worker does. The
tables give medians and what the peers take times ours.
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
from sides import Figures, forget_peak, peak_megabytes
from wordmask.config.data_arguments import DataArguments
from wordmask.data.collator import MaskingCollator
from wordmask.data.plan import Draw
from wordmask.data.sequences import Sequences
from wordmask.data.token_store import StoredTokens, Tokenization
from wordmask.data.whole_word_collator import WholeWordMaskCollator
from wordmask.masking import Strategy
from wordmask.tokenization.special_tokens import special_affixes
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines

PEERS = ("v5 token", "v5 whole word", "classic whole word")
ANY_LOOP = "whole word, any loop"
SHAPES = ((128, 32), (128, 256), (512, 32), (512, 64), (512, 256))


def main(argv: Sequence[str] | None = None) -> list[dict[str, Figures]]:
    """Print the tables and return the figures of each side, for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=5, help="in each turn")
    parser.add_argument("--shapes", type=lambda text: tuple(map(int, text.split("x"))), nargs="+", default=SHAPES)
    with given_or_bundled(parser.parse_args(argv), "english") as options:
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)]
    results = []
    for length, batch in options.shapes:
        calls = contestants(tokenizer, *make_rows(tokenizer, lines, length, batch))
        results.append(measure(calls, options.repeats, options.batches))
    shapes = [f"{length} × {batch}" for length, batch in options.shapes]
    print_table("ms per batch, from rows to masked tensors", shapes, [_only(found, "ms") for found in results], 2)
    print_table("MB that a batch adds at its peak", shapes, [_only(found, "MB") for found in results], 1)
    return results


def _only(results: dict[str, Figures], figure: str) -> Figures:
    return {name: found[figure] for name, found in results.items()}


def print_table(title: str, shapes: Sequence[str], rows: Sequence[Figures], digits: int) -> None:
    """One figure of each side; of peers, and of ours that finds words, too, how many times that of our whole words."""
    table = Table(title=f"{title} (times ours)")
    for column in ("length × batch", *rows[0]):
        table.add_column(column, justify="left" if table.columns == [] else "right")
    for shape, row in zip(shapes, rows, strict=True):
        ours = row["whole word"]
        cells = [
            f"{value:.1f} ({value / ours:.0f}×)" if name in (*PEERS, ANY_LOOP) and ours else f"{value:.{digits}f}"
            for name, value in row.items()
        ]
        table.add_row(shape, *cells)
    Console().print(table)


def make_rows(tokenizer, lines: Sequence[str], length: int, batch: int) -> tuple[datasets.Dataset, Sequences]:
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
    stream = StoredTokens(datasets.Dataset.from_dict({"tokens": list(codes)}, features=features))
    tokenization = Tokenization(tokenizer, DataArguments(train_file=["bundled"], line_by_line=False))
    return datasets.Dataset.from_dict(columns), Sequences(stream, tokenization, length)


def _offsets(continues: np.ndarray, prefix: int, suffix: int) -> list[list[int]]:
    """Character offsets in which words are told apart by gaps, as transformers 5 reads them."""
    starts = np.cumsum(np.where(continues, 2, 3)).tolist()
    return [[0, 0]] * prefix + [[start, start + 2] for start in starts] + [[0, 0]] * suffix


def contestants(tokenizer, peer_rows: datasets.Dataset, rows: Sequences) -> dict[str, Callable[[], Any]]:
    """What is timed, by name: to fetch the rows, as a DataLoader does, and to make a batch of them."""
    vocabulary = Vocabulary.of(tokenizer)
    draws = [Draw(index, 0, 0.15) for index in range(len(rows))]

    def ours(strategy: Strategy) -> Callable[[], Any]:
        collator = MaskingCollator(vocabulary, strategy, seed=42)
        return lambda: collator(rows.__getitems__(draws))

    def peer(collator: Callable[[Any], Any], *without: str) -> Callable[[], Any]:
        dataset = peer_rows.remove_columns(list(without))
        return lambda: collator(dataset.__getitems__(list(range(len(dataset)))))

    token = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    words = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.15, whole_word_mask=True, mask_replace_prob=1.0, random_replace_prob=0.0
    )
    classic = ClassicWholeWordCollator(tokenizer)
    peers = (peer(token, "offset_mapping"), peer(words), peer(classic, "offset_mapping"))
    found = {strategy.value.replace("_", " "): ours(strategy) for strategy in Strategy}
    # That of the Python API finds words in each batch; that of the scripts gets them with the tokens.
    found[ANY_LOOP] = peer(WholeWordMaskCollator(tokenizer), "offset_mapping")
    return found | dict(zip(PEERS, peers, strict=True))


def measure(calls: dict[str, Callable[[], Any]], repeats: int, batches: int) -> dict[str, Figures]:
    """The median milliseconds of each, taken in turn, and its peak memory, in the first turn, which is not timed."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    added = {}
    for name, call in calls.items():
        call()  # what it loads or compiles stays
        before = forget_peak()
        call()
        added[name] = peak_megabytes() - before
    for _ in range(repeats):
        for name, call in calls.items():
            for _ in range(batches):
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: {"ms": statistics.median(values), "MB": added[name]} for name, values in times.items()}


if __name__ == "__main__":
    main()
