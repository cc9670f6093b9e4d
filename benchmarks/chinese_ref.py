"""Lines per second and peak memory of making references, ours beside the classic script, and who is exact.

    python benchmarks/chinese_ref.py --tokenizer bert-base-chinese --text reviews.txt --ltp LTP_DIRECTORY \
        --gold gsd-dev.seg.txt

Both sides run in processes of their own, in turn, with the same model on the same lines.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from peers import classic_reading, classic_references
from sides import run_in_turn
from wordmask.building import Annotator, Output, Work, line_positions, load_sources, write_references
from wordmask.references import read_reference_arrays
from wordmask.segmentation import SegmentationArguments
from wordmask.segmenters import Segmenter
from wordmask.textfiles import is_blank, read_lines
from wordmask.words import is_chinese


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the tables and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--ltp", required=True)
    parser.add_argument("--gold", help="text whose words are separated by spaces")
    parser.add_argument("--lines", type=int, help="no more than the first so many lines")
    parser.add_argument("--times", type=int, default=1, help="repeat the lines so many times, shuffled")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        text = str(Path(folder, "text.txt"))
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)][: options.lines]
        lines *= options.times
        random.Random(0).shuffle(lines)
        Path(text).write_text("\n".join(lines) + "\n", encoding="utf-8")
        legacy = SegmentationArguments(segmenter="ltp", ltp=options.ltp)
        contestants: dict[str, Callable[[], dict[str, float]]] = {
            "classic, LTP legacy": partial(run_classic, text, options.tokenizer, options.ltp),
            "ours, LTP legacy": partial(run_ours, text, options.tokenizer, legacy, 1),
            "ours, LTP legacy, 2 workers": partial(run_ours, text, options.tokenizer, legacy, 2),
            "ours, jieba without HMM": partial(
                run_ours, text, options.tokenizer, SegmentationArguments(segmenter="jieba", hmm=False), 1
            ),
        }
        sides = {name: partial(with_memory, run) for name, run in contestants.items()}
        results = run_in_turn(sides, options.repeats)
        reading = compare_reading(folder, text, options.tokenizer, legacy)
    print_results(results, len(lines), reading)
    if options.gold:
        print_exactness(options.gold, AutoTokenizer.from_pretrained(options.tokenizer))
    return results


def run_classic(text: str, tokenizer_name: str, ltp: str) -> dict[str, float]:
    """The classic script: the whole text in memory, a hundred lines at a time."""
    from ltp import LTP

    tokenizer, model = AutoTokenizer.from_pretrained(tokenizer_name), LTP(ltp)
    start = time.perf_counter()
    lines = [line for line in Path(text).read_text(encoding="utf-8").split("\n") if line]
    words: list[list[str]] = []
    for first in range(0, len(lines), 100):
        words += model.pipeline(lines[first : first + 100], tasks=["cws"]).cws
    segmented = time.perf_counter()
    references = classic_references(lines, tokenizer, words)
    with tempfile.TemporaryFile("w") as file:
        file.writelines(f"{reference}\n" for reference in references)
    return {
        "segment": segmented - start,
        "match": time.perf_counter() - segmented,
        "total": time.perf_counter() - start,
    }


class _Timed(Segmenter):
    """A segmenter that counts its seconds."""

    def __init__(self, segmenter: Segmenter):
        self.segmenter, self.seconds = segmenter, 0.0

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        start = time.perf_counter()
        words = self.segmenter.segment(lines)
        self.seconds += time.perf_counter() - start
        return words


def run_ours(text: str, tokenizer_name: str, segmentation: SegmentationArguments, workers: int) -> dict[str, float]:
    """run_chinese_ref.py, its start left out as the classic script's is."""
    load: Callable[[], Any] = partial(load_sources, tokenizer_name, segmentation)
    if workers == 1:
        tokenizer, segmenter = load()
        timed = _Timed(segmenter)
        load = lambda: (tokenizer, timed)  # noqa: E731
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_references([text], Output(f"{folder}/ref"), Annotator(load), Work(workers))
        total = time.perf_counter() - start
    segment = timed.seconds if workers == 1 else float("nan")
    return {"segment": segment, "match": total - segment, "total": total}


def with_memory(run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A run's figures, and by how much it raised the peak memory of its process."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = run()
    return result | {"MB added": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def compare_reading(
    folder: str, text: str, tokenizer_name: str, segmentation: SegmentationArguments
) -> tuple[float, float]:
    """Seconds to read the references into a column beside the text, as the classic script does it, and ours."""
    path = f"{folder}/references"
    write_references([text], Output(path), Annotator(partial(load_sources, tokenizer_name, segmentation)), Work())
    table = datasets.Dataset.from_dict({"text": list(read_lines(text, "--text"))})
    classic, ours = [], []
    for _ in range(5):
        start = time.perf_counter()
        expected = classic_reading(path, table)["chinese_ref"]
        classic.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = list(read_reference_arrays(path, "--ref"))
        ours.append(time.perf_counter() - start)
        if [reference for array in found for reference in array.to_pylist()] != list(expected):
            raise RuntimeError("the two sides read different references")
    return statistics.median(classic), statistics.median(ours)


def print_results(results: dict[str, dict[str, float]], lines: int, reading: tuple[float, float]) -> None:
    """Lines per second of each stage, times the classic script's."""
    table = Table(title=f"{lines:,} lines: lines/s (times the classic script), memory added")
    for column in ("", "segment", "tokenize and match", "total", "peak MB added"):
        table.add_column(column, justify="right" if column else "left")
    classic = next(iter(results.values()))
    for name, figures in results.items():
        cells = [
            f"{lines / figures[stage]:,.0f} ({classic[stage] / figures[stage]:.1f}×)"
            if figures[stage] == figures[stage]
            else "-"
            for stage in ("segment", "match", "total")
        ]
        table.add_row(name, *cells, f"{figures['MB added']:.0f}")
    console = Console()
    console.print(table)
    console.print(
        f"reading the references: classic {reading[0]:.3f} s, ours {reading[1]:.3f} s ({reading[0] / reading[1]:.1f}×)"
    )


class _Gold(Segmenter):
    """The words that are known."""

    def __init__(self, words: Sequence[list[str]]):
        self.words = words

    def segment(self, lines: Sequence[str]) -> list[list[str]]:
        return [list(words) for words in self.words]


def print_exactness(path: str, tokenizer) -> dict[str, tuple[int, int]]:
    """How many lines, and how many words of two or more Chinese characters, come out as the gold has them."""
    words = [line.split(" ") for line in read_lines(path, "--gold") if not is_blank(line)]
    lines = ["".join(line) for line in words]
    ours = line_positions(tokenizer, _Gold(words), lines)
    classic = classic_references(lines, tokenizer, words)
    table = Table(title=f"exact on gold segmentation ({Path(path).name})")
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
