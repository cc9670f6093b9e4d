"""Lines per second and peak memory of making references, ours beside the classic script, and who is exact.

    python benchmarks/chinese_ref.py --tokenizer bert-base-chinese --text reviews.txt --ltp LTP_DIRECTORY \
        --gold gsd-dev.seg.txt

Both sides run in processes of their own, in turn, with the same segmenter on the same lines. Seconds are
those that one core worked, but with workers those of the clock on the wall. transformers is imported where it is used,
so that a worker, which imports this program as it starts, starts as it does under run_chinese_ref.py.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bundled import given_or_bundled
from sides import forget_peak, peak_megabytes, restart_peak, run_in_turn, use_one_core
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.references import positions, writer
from wordmask.references.output import Output
from wordmask.references.positions import line_positions
from wordmask.references.reader import numbered_references, parse_references
from wordmask.references.writer import Annotator, write_references
from wordmask.segmenters import Segmenter
from wordmask.tokenization.words import is_chinese
from wordmask.utils.batches import BATCH, batches
from wordmask.utils.files import is_blank
from wordmask.utils.parts import Work
from wordmask.utils.readers import read_lines

CLOCK = time.process_time  # on one core: what others do on it does not count


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the tables and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--ltp", help="a directory with a legacy model; jieba segments for both sides if not given")
    parser.add_argument("--gold", help="text whose words are separated by spaces")
    parser.add_argument("--segmenters", nargs="+", default=[], help="others to run on the same lines, as sudachi icu")
    parser.add_argument("--lines", type=int, help="no more than the first so many lines")
    parser.add_argument("--times", type=int, default=1, help="repeat the lines so many times, shuffled")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="the sides of the comparison to run, by their names in the table")
    with given_or_bundled(parser.parse_args(argv), "chinese") as options:
        results = compare(options)
        if options.gold:
            from transformers import AutoTokenizer

            print_exactness(options.gold, AutoTokenizer.from_pretrained(options.tokenizer))
    return results


def compare(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Run all sides on the same lines, print the tables, and return the medians of each."""
    segmenter = "LTP legacy" if options.ltp else "jieba"
    segmentation = SegmentationArguments(segmenter="ltp" if options.ltp else "jieba", ltp=options.ltp)
    quick = SegmentationArguments(segmenter="jieba", hmm=False)
    with tempfile.TemporaryDirectory() as folder:
        text = str(Path(folder, "text.txt"))
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)][: options.lines]
        lines *= options.times
        random.Random(0).shuffle(lines)
        Path(text).write_text("\n".join(lines) + "\n", encoding="utf-8")
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            f"classic, {segmenter}": partial(run_classic, text, options.tokenizer, segmentation),
            f"ours, {segmenter}": partial(run_ours, text, options.tokenizer, segmentation, 1),
            f"ours, {segmenter}, 2 workers": partial(run_ours, text, options.tokenizer, segmentation, 2),
            f"ours, {segmenter}, 2 runs": partial(run_two, text, options.tokenizer, segmentation),
            "ours, jieba without HMM": partial(run_ours, text, options.tokenizer, quick, 1),
        }
        for name in options.segmenters:
            others = SegmentationArguments(segmenter=name)
            contestants[f"ours, {name}"] = partial(run_ours, text, options.tokenizer, others, 1)
        sides = {name: contestants[name] for name in options.only or contestants}
        results = run_in_turn(sides, options.repeats)
        if len({found["digest"] for found in results.values()}) > 1:
            raise RuntimeError("the sides read different lines")
        print_results(results, len(lines))
        if not options.only:
            stages = {"stages": partial(profile, text, options.tokenizer, segmentation)}
            print_profile(run_in_turn(stages, options.repeats)["stages"], segmenter, len(lines))
            print_reading(*compare_reading(folder, text, options.tokenizer, segmentation))
    return results


def classic_segmenter(segmentation: SegmentationArguments) -> Callable[[list[str]], list[list[str]]]:
    """How the classic script has its lines segmented; jieba, which it did not know, is taken as ours takes it."""
    if not segmentation.ltp:
        return segmentation.load().segment
    from ltp import LTP

    model = LTP(segmentation.ltp)
    return lambda lines: model.pipeline(lines, tasks=["cws"]).cws


def run_classic(text: str, tokenizer_name: str, segmentation: SegmentationArguments) -> dict[str, float]:
    """The classic script: the whole text in memory, a hundred lines at a time."""
    from transformers import AutoTokenizer

    from peers import classic_references

    use_one_core()
    tokenizer, segment = AutoTokenizer.from_pretrained(tokenizer_name), classic_segmenter(segmentation)
    before, start = forget_peak(), CLOCK()
    lines = [line for line in Path(text).read_text(encoding="utf-8").split("\n") if line]
    words: list[list[str]] = []
    for batch in batches(lines, 100):
        words += segment(batch)
    segmented, peak = CLOCK(), peak_megabytes()
    restart_peak()
    references = classic_references(lines, tokenizer, words)
    with tempfile.TemporaryFile("w") as file:
        file.writelines(f"{reference}\n" for reference in references)
    end = CLOCK()
    return {
        "segment": segmented - start,
        "match": end - segmented,
        "total": end - start,
        "MB, segment": peak - before,
        "MB, match": peak_megabytes() - before,
        "digest": reduce(_digest, lines, 0),
    }


def _digest(digest: int, line: str) -> int:
    """The digest of lines with one more line, in whatever order."""
    return (digest + zlib.crc32(line.encode())) % 2**48


def make_annotator(tokenizer_name: str, segmentation: SegmentationArguments) -> Annotator:
    """What makes references, with its tokenizer and its segmenter loaded."""
    from wordmask.utils.hub import load_pretrained_tokenizer

    annotator = Annotator(partial(load_pretrained_tokenizer, "--bert", tokenizer_name), segmentation.load)
    annotator.tokenizer, annotator.segmenter  # noqa: B018
    return annotator


@dataclass
class Calls:
    """What the calls of a function took.

    Attributes:
        seconds: of each.
        peak, peak_between: the most memory in MB during a call, and between two.
    """

    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    peak_between: float = 0.0


@contextmanager
def timed(owner: Any, name: str, memory: bool = False) -> Iterator[Calls]:
    """The calls of a function, which goes by this name in a module or a class, while this lasts."""
    function, calls = getattr(owner, name), Calls()

    def call(*arguments: Any, **options: Any) -> Any:
        if memory:
            calls.peak_between = max(calls.peak_between, peak_megabytes())
            restart_peak()
        start = CLOCK()
        try:
            return function(*arguments, **options)
        finally:
            calls.seconds.append(CLOCK() - start)
            if memory:
                calls.peak = max(calls.peak, peak_megabytes())
                restart_peak()

    setattr(owner, name, call)
    try:
        yield calls
    finally:
        calls.peak_between = max(calls.peak_between, peak_megabytes())
        setattr(owner, name, function)


def run_ours(
    text: str, tokenizer_name: str, segmentation: SegmentationArguments, workers: int, one_core: bool = True
) -> dict[str, float]:
    """run_chinese_ref.py, its start left out as the classic script's is, but not that of its workers.

    A single worker keeps to one core, unless told otherwise.
    """
    one_core &= workers == 1
    clock = CLOCK if one_core else time.perf_counter
    if one_core:
        use_one_core()
    annotator, read, digest = make_annotator(tokenizer_name, segmentation), [], 0

    def note_times(lines: Iterable[str]) -> Iterator[str]:
        nonlocal digest
        for number, line in enumerate(lines):
            digest = _digest(digest, line)
            if number % BATCH == 0:
                read.append(clock())
            yield line

    with tempfile.TemporaryDirectory() as folder, timed(type(annotator.segmenter), "segment", workers == 1) as segment:
        before, start = forget_peak(), clock()
        write_references([text], Output(f"{folder}/ref"), annotator, Work(workers), note_times)
        total = clock() - start
    # Reading keeps step with the work, but for the batches that it is ahead of workers.
    ahead = len(read) // 4
    warm = (len(read) - 1 - ahead) * BATCH / (read[-1] - read[ahead]) if len(read) > 40 else float("nan")
    segmented = sum(segment.seconds) if workers == 1 else float("nan")
    return {
        "segment": segmented,
        "match": total - segmented,
        "total": total,
        "warm lines/s": warm,
        "MB, segment": segment.peak - before if workers == 1 else float("nan"),
        "MB, match": segment.peak_between - before,
        "digest": digest,
    }


def run_two(text: str, tokenizer_name: str, segmentation: SegmentationArguments) -> dict[str, float]:
    """Two runs at once, of half of the lines each: what two cores can do where there is nothing to share out."""
    lines = list(read_lines(text, "--text"))
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(2, get_context("spawn")) as pool:
        halves = [f"{folder}/{half}.txt" for half in (0, 1)]
        for half, path in enumerate(halves):
            Path(path).write_text("".join(f"{line}\n" for line in lines[half::2]), encoding="utf-8")
        runs = [pool.submit(run_ours, path, tokenizer_name, segmentation, 1, False) for path in halves]
        one, other = (run.result() for run in runs)
    return {
        "segment": float("nan"),
        "match": float("nan"),
        "total": max(one["total"], other["total"]),
        "warm lines/s": one["warm lines/s"] + other["warm lines/s"],
        "MB, segment": one["MB, segment"] + other["MB, segment"],
        "MB, match": one["MB, match"] + other["MB, match"],
        "digest": (one["digest"] + other["digest"]) % 2**48,
    }


def profile(text: str, tokenizer_name: str, segmentation: SegmentationArguments) -> dict[str, float]:
    """Seconds of each stage of ours, and of the model by itself on the same lines."""
    use_one_core()
    annotator = make_annotator(tokenizer_name, segmentation)
    stages = {
        "digest of the tokenizer": (writer, "tokenizer_digest"),
        "segment": (type(annotator.segmenter), "segment"),
        "tokenize": (positions, "tokenize"),
        "words of characters": (positions, "segmented"),
        "references": (writer, "line_positions"),
        "format": (Output, "block"),
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        calls = {stage: stack.enter_context(timed(*place)) for stage, place in stages.items()}
        start = CLOCK()
        write_references([text], Output(f"{folder}/ref"), annotator, Work())
        total = CLOCK() - start
    seconds = {stage: sum(found.seconds) for stage, found in calls.items()}
    seconds["references"] -= seconds["segment"] + seconds["tokenize"] + seconds["words of characters"]
    seconds["read, digest, write"] = total - sum(seconds.values())
    lines = [line for line in read_lines(text, "--text") if not is_blank(line)]
    start = CLOCK()
    for batch in batches(lines):
        annotator.segmenter.segment(batch)
    alone = CLOCK() - start
    return seconds | {"total": total, "segmenter alone": alone}


def compare_reading(
    folder: str, text: str, tokenizer_name: str, segmentation: SegmentationArguments
) -> tuple[float, float]:
    """Seconds to read the references into a column beside the text, as the classic script does it, and ours."""
    import datasets

    from peers import classic_reading

    path = f"{folder}/references"
    write_references([text], Output(path), make_annotator(tokenizer_name, segmentation), Work())
    table = datasets.Dataset.from_dict({"text": list(read_lines(text, "--text"))})
    classic, ours = [], []
    for _ in range(5):
        start = time.perf_counter()
        expected = classic_reading(path, table)["chinese_ref"]
        classic.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = parse_references([*numbered_references(path, "--ref")], path, "--ref")
        ours.append(time.perf_counter() - start)
        if found.to_pylist() != list(expected):
            raise RuntimeError("the two sides read different references")
    return statistics.median(classic), statistics.median(ours)


def print_results(results: dict[str, dict[str, float]], lines: int) -> None:
    """Lines per second of each stage, times the first side's."""
    table = Table(title=f"{lines:,} lines: lines/s (times the first), memory added")
    for column in ("", "segment", "tokenize and match", "total", "when warm", "MB added: segment", "match"):
        table.add_column(column, justify="right" if column else "left")
    first = next(iter(results.values()))
    for name, figures in results.items():
        # Several processes, whose segmenting is not timed, have the clock on the wall, and one has that of its core.
        same_clock = math.isnan(figures["segment"]) == math.isnan(first["segment"])
        cells = [
            f"{lines / figures[stage]:,.0f}" + (f" ({first[stage] / figures[stage]:.1f}×)" if same_clock else "")
            if figures[stage] == figures[stage]
            else "-"
            for stage in ("segment", "match", "total")
        ]
        warm = figures.get("warm lines/s", float("nan"))
        memory = [f"{figures[f'MB, {stage}']:.0f}".replace("nan", "-") for stage in ("segment", "match")]
        table.add_row(name, *cells, f"{warm:,.0f}" if warm == warm else "-", *memory)
    Console().print(table)


def print_reading(classic: float, ours: float) -> None:
    """Seconds to read the references."""
    Console().print(f"reading the references: classic {classic:.3f} s, ours {ours:.3f} s ({classic / ours:.1f}×)")


def print_profile(stages: dict[str, float], segmenter: str, lines: int) -> None:
    """Where the seconds of ours go."""
    table = Table(title=f"ours, {segmenter}, one core, {lines:,} lines")
    for column in ("", "seconds", "µs a line"):
        table.add_column(column, justify="right" if column else "left")
    for stage, seconds in stages.items():
        table.add_row(stage, f"{seconds:.2f}", f"{seconds / lines * 1e6:.1f}")
    Console().print(table)


class _Gold(Segmenter):
    """The words that are known."""

    def __init__(self, words: Sequence[list[str]]):
        self.words = words

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [list(words) for words in self.words]


def print_exactness(path: str, tokenizer) -> dict[str, tuple[int, int]]:
    """How many lines, and how many words of two or more Chinese characters, come out as the gold has them."""
    from peers import classic_references

    words = [line.split(" ") for line in read_lines(path, "--gold") if not is_blank(line)]
    lines = ["".join(line) for line in words]
    ours = line_positions(tokenizer, _Gold(words), lines)
    classic = classic_references(lines, tokenizer, words)
    table = Table(title=f"exact on hand-made segmentation ({Path(path).name})")
    for column in ("", "lines", "words"):
        table.add_column(column, justify="right" if column else "left")
    results = {}
    for name, references in (("classic", classic), ("ours", ours)):
        right_lines = right_words = total = 0
        for line_words, line, reference in zip(words, lines, references, strict=True):
            right, count = count_exact(tokenizer, line, line_words, set(reference))
            right_words, total = right_words + right, total + count
            right_lines += right == count and len(reference) == _expected(line_words)
        results[name] = (right_lines, right_words)
        table.add_row(name, f"{right_lines} of {len(lines)}", f"{right_words} of {total}")
    Console().print(table)
    return results


def _chinese_words(words: Sequence[str]) -> list[str]:
    return [word for word in words if len(word) > 1 and all(map(is_chinese, word))]


def _expected(words: Sequence[str]) -> int:
    """The number of positions of a line's exact reference."""
    return sum(len(word) - 1 for word in _chinese_words(words))


def count_exact(tokenizer, line: str, words: Sequence[str], reference: set[int]) -> tuple[int, int]:
    """Of a line's words of two or more Chinese characters, how many are marked as one word, and how many there are.

    Judged by the tokenizer's own offsets, apart from the code that is measured.
    """
    offsets = tokenizer(line, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    token_at = {start: index for index, (start, end) in enumerate(offsets) if end > start}
    right = count = start = 0
    for word in words:
        if word in _chinese_words([word]):
            places = [token_at[start + offset] for offset in range(len(word))]
            end = token_at.get(start + len(word))
            count += 1
            right += places[0] not in reference and reference.issuperset(places[1:]) and end not in reference
        start += len(word)
    return right, count


if __name__ == "__main__":
    main()
