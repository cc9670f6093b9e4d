"""Did training help? The figures before and after it, on the same masks, and the words that improved most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wordmask.config.metric_table import INTERVAL, metrics_in
from wordmask.training.records.evaluation_record import Evaluation
from wordmask.utils.terminal import clean

if TYPE_CHECKING:  # they import torch, and `wordmask report` does not
    from wordmask.tokenization.readable import ReadableTokens
    from wordmask.training.evaluation.masked_words import MaskedWords

MOST_FREQUENT = 2000  # masked words whose counts are kept
SHOWN = 10  # words that improved most
TITLE = "before and after"


def metrics_before(before: Evaluation, after: Evaluation) -> dict[str, float]:
    """The figures before training under their names in the files of results, such as `eval_loss_before`.

    A probe is compared with one on the same examples, and has intervals: `eval_probe_f1_low_before`.
    """
    both = before.metrics.keys() & after.metrics.keys()
    if before.probe != after.probe:
        both = {name for name in both if not name.startswith("probe_")}
    names = [(one.name + end, one.result + end) for one in metrics_in(both, "name") for end in INTERVAL]
    return {f"{result}_before": before.metrics[name] for name, result in names if name in both}


def frequent_words(words: MaskedWords, readable: ReadableTokens) -> dict[str, list[int]]:
    """How often each word was masked and predicted right, by its text; the most frequent ones, each at least twice.

    Words of punctuation and symbols alone are left out, and those that the tokenizer does not know.
    """
    order = (-words.masked).argsort(kind="stable")[: 2 * MOST_FREQUENT]  # `The` and `ĠThe` are one word of this text
    columns = (column[order].tolist() for column in words)
    counts: dict[str, list[int]] = {}
    for tokens, masked, right in zip(*columns, strict=True):
        ids = [token for token in tokens if token >= 0]
        text = readable.word(ids)
        if any(map(str.isalnum, text)) and readable.has_text(ids):
            old = counts.setdefault(text, [0, 0])
            old[0], old[1] = old[0] + masked, old[1] + right
    frequent = sorted(counts.items(), key=lambda item: (-item[1][0], item[0]))[:MOST_FREQUENT]
    return {text: count for text, count in frequent if count[0] > 1}


@dataclass(frozen=True)
class Improved:
    """A word of which the model predicts more occurrences after training than before."""

    word: str
    masked: int
    before: int
    after: int

    @property
    def counts(self) -> tuple[str, str]:
        """`12 of 40`, before and after."""
        return f"{self.before:,} of {self.masked:,}", f"{self.after:,} of {self.masked:,}"


def most_improved(before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]]) -> list[Improved]:
    """The words with the largest gain in occurrences that are predicted right, the largest gain first.

    Args:
        before, after: for each word, how often it was masked and how often it was predicted right.
    """
    both = [
        Improved(word, masked, right, after[word][1])
        for word, (masked, right) in before.items()
        if word in after and after[word][0] == masked
    ]
    gains = [word for word in both if word.after > word.before]
    # Of two words with the same gain, the one that is masked less often has improved by more.
    return sorted(gains, key=lambda word: (word.before - word.after, word.masked, word.word))[:SHOWN]


@dataclass(frozen=True)
class Results:
    """What a run that evaluates before training ends with: its figures before and after, where both are known.

    Attributes:
        metrics: those of the run; the figures before training are among them as `eval_loss_before` and so on.
        others: further figures: a label and the value as people read it.
    """

    metrics: Mapping[str, float]
    others: Sequence[tuple[str, str]] = ()

    @property
    def _rows(self) -> list[tuple[str, str, str]]:
        """For each figure: what it is, before, and after."""
        rows = []
        for metric in metrics_in(self.metrics, "result"):
            before, after = self.metrics.get(f"{metric.result}_before"), metric.shown(self.metrics[metric.result])
            rows.append((metric.label, "" if before is None else metric.shown(before), after))
        return rows

    def line(self) -> str:
        """`before and after: evaluation loss 7.601 -> 2.310, perplexity 2,000 -> 10.07, ...`"""
        figures = [
            f"{label} {before} -> {after}" if before else f"{label} {after}" for label, before, after in self._rows
        ]
        figures += [f"{label} {value}" for label, value in self.others]
        return f"{TITLE}: {', '.join(figures)}"

    def __rich__(self) -> RenderableType:
        table = Table(box=ROUNDED, header_style="")
        table.add_column("")
        table.add_column("before", justify="right")
        table.add_column("after", justify="right", style="bold")
        for row in self._rows:
            table.add_row(*row)
        others = Text(", ".join(f"{label} {value}" for label, value in self.others), "dim")
        return Group(Text(f"\n{TITLE}", "bold"), table, others)


@dataclass(frozen=True)
class ImprovedWords:
    """The words that improved most."""

    words: Sequence[Improved]

    def line(self) -> str:
        """`words that improved most: shore 12 of 40 -> 31 of 40, lake 0 of 9 -> 5 of 9`"""
        words = (f"{clean(word.word)} {' -> '.join(word.counts)}" for word in self.words)
        return f"words that improved most: {', '.join(words)}"

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2, 0, 0))
        for justify in ("left", "right", "left", "right"):
            table.add_column(justify=justify)
        for word in self.words:
            before, after = word.counts
            table.add_row(Text(f"  {clean(word.word)}", overflow="ellipsis"), before, "->", Text(after, "green"))
        return Group(Text("words that improved most", "bold"), table)
