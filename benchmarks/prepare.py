"""Seconds, memory and disk of preparing text, ours beside transformers' classic example, and the tokens that it loses.

    python benchmarks/prepare.py --tokenizer bert-base-uncased --text wikitext2-valid.txt --times 19

Both sides tokenize the same lines and divide them into blocks, in processes of their own, in turn, each with an empty
cache and then once more with what it has cached. Seconds are those that one core worked, but with several processes
(`--preprocessing_num_workers 2`) those of the clock on the wall. A line below the table says what the data report
costs: one process prepares the text with it and without it, in turn (`--report_only` prints no more than this). What a
worker needs none of is imported where it is used, so that one starts, as it imports this program, no later than under
run_mlm.py.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bundled import given_or_bundled
from sides import Figures, forget_peak, peak_megabytes, run_in_turn, use_one_core
from wordmask.data.text_counts import spread
from wordmask.tokenization.special_tokens import special_ids
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines


def main(argv: Sequence[str] | None = None) -> dict[str, Figures]:
    """Print the table and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--times", type=int, default=1, help="repeat the lines so many times, shuffled")
    parser.add_argument("--length", type=int, default=128, help="of a block")
    parser.add_argument("--preprocessing_num_workers", type=int, default=1, help="processes; one keeps to one core")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--report_only", action="store_true", help="measure only what the data report costs")
    with given_or_bundled(parser.parse_args(argv), "english") as options, tempfile.TemporaryDirectory() as folder:
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)] * options.times
        random.Random(0).shuffle(lines)
        options.text = str(Path(folder, "text.txt"))
        Path(options.text).write_text("\n".join(lines) + "\n", encoding="utf-8")
        megabytes = os.path.getsize(options.text) / 2**20
        report = run_in_turn({"data report": partial(measure_report, options)}, 1)
        sides = {} if options.report_only else {name: partial(run, kind, options) for name, kind in SIDES.items()}
        results = run_in_turn(sides, options.repeats)
    if results:
        check_tokens(results)
        processes = f"processes: {options.preprocessing_num_workers}"
        print_results(results, f"{megabytes:.1f} MB of text, blocks of {options.length}, {processes}")
    print_report(report["data report"])
    return results | report


class Classic:
    """transformers' example as it was: tokenize, then join a thousand lines and cut them."""

    def __init__(self, options: argparse.Namespace, tokenizer: Any, cache: str):
        processes = options.preprocessing_num_workers
        self.settings = (options.text, tokenizer, options.length, cache, processes if processes > 1 else None)

    def prepare(self) -> None:
        from peers import classic_preparation

        self.lines, self.blocks = classic_preparation(*self.settings)

    def tokens(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The tokens of the text, and those in blocks; special ones are among them."""
        lines, blocks = (made.data.column("input_ids") for made in (self.lines, self.blocks))
        return pc.list_flatten(lines).to_numpy(), pc.list_flatten(blocks).to_numpy()


class Ours:
    """What run_mlm.py does before it trains."""

    def __init__(self, options: argparse.Namespace, tokenizer: Any, cache: str):
        from wordmask.config.arguments import DataArguments

        self.tokenizer, self.cache, self.length = tokenizer, cache, options.length
        processes = options.preprocessing_num_workers
        self.arguments = DataArguments(
            train_file=[options.text], max_seq_length=options.length, preprocessing_num_workers=processes
        )

    def prepare(self) -> None:
        from wordmask.data.sequences import Sequences
        from wordmask.data.sources import load_texts
        from wordmask.data.token_store import Tokenization, tokenized

        texts = load_texts(self.arguments, self.cache, None, False)["train"]
        tokenization = Tokenization(self.tokenizer, self.arguments, None, self.cache)
        self.sequences = Sequences(tokenized(texts, tokenization), tokenization, self.length)

    def tokens(self) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The tokens of the text, and those in blocks; special ones are among them."""
        stream, division = self.sequences.stream, self.sequences.division
        documents = division.documents(range(len(division)))
        kept = [stream.read(*line) for lines in documents for line in lines]
        return stream.read(0, int(stream.lengths.sum())) >> 1, np.concatenate(kept) >> 1


SIDES = {"classic example": Classic, "ours": Ours}


def run(kind: type[Classic] | type[Ours], options: argparse.Namespace) -> Figures:
    """The figures of a side with an empty cache, and the seconds of a second run, which finds it filled."""
    with tempfile.TemporaryDirectory() as cache:
        once = partial(measure, kind, options, cache)
        figures = run_in_turn({"first": once, "again": once}, 1)
    return figures["first"] | {"again": figures["again"]["seconds"]}


def measure(kind: type[Classic] | type[Ours], options: argparse.Namespace, cache: str) -> Figures:
    """One run of a side: only to read, tokenize and divide is timed."""
    import datasets
    import transformers

    import peers  # noqa: F401
    import wordmask.data.sequences  # noqa: F401  # all that is used below, before the clock runs

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    alone = options.preprocessing_num_workers == 1
    clock = time.process_time if alone else time.perf_counter
    if alone:
        use_one_core()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
    side = kind(options, tokenizer, cache)
    before, start = forget_peak(), clock()
    side.prepare()
    seconds, added = clock() - start, peak_megabytes() - before
    text, kept = (tokens[~np.isin(tokens, special_ids(tokenizer))] for tokens in side.tokens())
    return {
        "seconds": seconds,
        "MB added": added if alone else float("nan"),  # that of the processes it starts is not known
        "MB on disk": sum(path.stat().st_size for path in Path(cache).rglob("*") if path.is_file()) / 2**20,
        "tokens": len(text),
        "kept": len(kept),
        "text": _digest(text),
        "first": _digest(kept[: options.length // 4]),
    }


def measure_report(options: argparse.Namespace) -> Figures:
    """The CPU seconds of preparing the text on one core with the data report and without it, in turn."""
    import datasets
    import transformers

    import wordmask.data.sequences  # noqa: F401  # before the clock runs
    from wordmask.data.findings import findings_in

    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    use_one_core()
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
    alone = argparse.Namespace(**vars(options) | {"preprocessing_num_workers": 1})
    counted = 0

    def seconds(examples_counted: Any) -> float:
        nonlocal counted
        with tempfile.TemporaryDirectory() as cache, patch("wordmask.data.sources.spread", examples_counted):
            side, start = Ours(alone, tokenizer, cache), time.process_time()
            side.prepare()
            spent = time.process_time() - start
            counted = max(counted, *(findings_in(path).counts.examples for path in Path(cache).rglob("*.arrow")))
        return spent

    def nothing(first: int, count: int, total: int) -> NDArray[np.bool_]:
        return np.zeros(count, bool)

    seconds(spread)  # the word cache is full from here on, which is the hard case for the report
    # In pairs, each second one the other way round: the later of two runs is often the slower one.
    pairs = [
        {pick: seconds(pick) for pick in order}
        for order in [(spread, nothing), (nothing, spread)] * 3 * options.repeats
    ]
    with_report, without = (statistics.median(pair[pick] for pair in pairs) for pick in (spread, nothing))
    return {"with": with_report, "without": without, "counted": counted}


def print_report(found: Figures) -> None:
    """What the data report costs."""
    print(
        f"data report of {found['counted']:,.0f} examples: {found['with']:.3f} s with it, {found['without']:.3f} s "
        f"without it, {found['with'] / found['without'] - 1:.1%} more"
    )


def _digest(tokens: NDArray[np.integer]) -> float:
    return zlib.crc32(tokens.astype(np.int64).tobytes())


def check_tokens(results: dict[str, Figures]) -> None:
    """Raise where the sides did not make the same tokens of the text, or began their blocks with different ones."""
    for figure in ("tokens", "text", "first"):
        if len({found[figure] for found in results.values()}) > 1:
            raise RuntimeError("the two sides prepared different tokens")


def print_results(results: dict[str, Figures], title: str) -> None:
    """The table."""
    table = Table(title=title)
    for column in ("", "seconds", "a second run", "MB added", "MB on disk", "tokens kept", "lost"):
        table.add_column(column, justify="right" if column else "left")
    first = next(iter(results.values()))
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['seconds']:.2f} ({first['seconds'] / found['seconds']:.1f}×)",
            f"{found['again']:.2f}",
            f"{found['MB added']:.0f}" if found["MB added"] == found["MB added"] else "-",
            f"{found['MB on disk']:.1f} ({first['MB on disk'] / found['MB on disk']:.1f}×)",
            f"{found['kept']:,.0f}",
            f"{1 - found['kept'] / found['tokens']:.2%}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
