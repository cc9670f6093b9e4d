"""The data report: what a person should know of a text before training, and what looks wrong in it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import ROUNDED
from rich.table import Table
from rich.text import Text

from wordmask.data.advice import advice_on
from wordmask.data.findings import LongLines, SplitText
from wordmask.data.text_counts import TextCounts
from wordmask.tokenization.backend import untruncated
from wordmask.tokenization.words import is_chinese
from wordmask.utils.quantities import counted, number, percent, share
from wordmask.utils.terminal import clean, terminal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DATA_REPORT = "data_report.json"
LISTED, SHOWN = 100, 5  # words and characters in the file, and in the table


@dataclass(frozen=True)
class SplitReport:
    """The figures of a split. They are those of the counted examples, but for long lines, which are of all.

    A new figure needs a default, since `read` gets files that earlier versions wrote.

    Attributes:
        examples: all examples; `None` for a stream.
        counted: those that the figures are from.
        words, tokens, tokens_per_word: of the counted examples. Words are those that are masked.
        split_words: the words that cost the most tokens beyond one, each with its tokens and its number.
        unknown_tokens, unknown_share: how many tokens are `[UNK]`.
        unknown_text_share: the share of the characters that stand behind them.
        unknown_characters, unknown_words: what stands behind them.
        long_lines: the lines that are cut, or split, see `LongLines`; and `all_tokens`, the tokens of all examples.
        duplicates: examples whose text another counted example has, too.
        also_in_validation: examples whose text is in the validation text.
        padding_share: the share of padding in the batches.
        special_tokens: how often each special token is written in the text, also `[UNK]`, which `unknown_tokens` and
            `unknown_text_share` leave out.
        scripts: the share of letters in each script, the largest first, see `letters_in`.
    """

    examples: int | None
    counted: int
    words: int
    tokens: int
    tokens_per_word: float | None
    split_words: list[dict[str, Any]]
    unknown_tokens: int
    unknown_share: float
    unknown_characters: dict[str, int]
    unknown_words: dict[str, int]
    duplicates: int
    long_lines: dict[str, Any] | None = None
    all_tokens: int = 0
    also_in_validation: int | None = None
    padding_share: float | None = None
    unknown_text_share: float = 0.0
    special_tokens: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> SplitReport:
        """The figures in a file. What another version counted there is left out."""
        known = {figure.name for figure in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def of(cls, text: SplitText, tokenizer: PreTrainedTokenizerBase, validation: TextCounts | None) -> SplitReport:
        """The figures of a text, given the counts of the validation text if there is one."""
        counts = text.found.findings.counts
        seen = None if validation is None else int(np.isin(counts.hashes, validation.hashes).sum())
        written = {tokenizer.convert_ids_to_tokens(int(token)): count for token, count in counts.special.items()}
        unknown_words, unknown = Counter(counts.unknown_words), str(tokenizer.unk_token)
        if as_unknown := unknown_words.pop(unknown, 0):
            written[unknown] = as_unknown
        unknown_tokens = counts.unknown - as_unknown
        unknown_length = counts.unknown_length - as_unknown * len(unknown)
        characters = _unknown_characters(tokenizer, unknown_words)
        return cls(
            examples=text.examples,
            counted=counts.examples,
            words=counts.words,
            tokens=counts.tokens,
            tokens_per_word=counts.tokens / counts.words if counts.words else None,
            split_words=_most_split(counts.split, counts.split_tokens),
            unknown_tokens=unknown_tokens,
            unknown_share=unknown_tokens / max(counts.tokens, 1),
            unknown_text_share=unknown_length / max(counts.characters, 1),
            unknown_characters=dict(_ordered(characters)[:LISTED]),
            unknown_words=dict(_ordered(unknown_words)[:LISTED]),
            special_tokens=dict(_ordered(written)),
            scripts={script: count / counts.letters.total() for script, count in counts.letters.most_common()},
            duplicates=len(counts.hashes) - pc.count_distinct(pa.array(counts.hashes)).as_py(),
            long_lines=None if text.long_lines is None else text.long_lines._asdict(),
            all_tokens=text.tokens,
            also_in_validation=seen,
        )

    def without_text(self) -> SplitReport:
        """The same figures without words and characters of the text."""
        return replace(self, split_words=[], unknown_words={}, unknown_characters={})

    @property
    def heading(self) -> str:
        """Which examples the figures are from."""
        if self.examples is None:
            return f"the first {counted(self.counted, 'example')} of a stream"
        if self.counted == self.examples:
            return f"all {counted(self.examples, 'example')}"
        return f"{self.counted:,} of {counted(self.examples, 'example')}, spread evenly"

    def rows(self) -> Iterator[tuple[str, str]]:
        """Each figure for people: what it is, and its value."""
        if self.words:
            yield "words", f"{self.words:,}"
        yield "tokens of text", f"{self.tokens:,}"
        if self.tokens_per_word:
            yield "tokens per word", number(self.tokens_per_word, 3)
        if self.split_words:
            words = (f"{one['word']} {one['tokens']:g} x {one['count']:,}" for one in self.split_words[:SHOWN])
            yield "split most (tokens x times)", ", ".join(words)
        characters = ", ".join(f"{one} {count:,}" for one, count in [*self.unknown_characters.items()][:SHOWN])
        unknown = _share(self.unknown_tokens, self.tokens)
        if self.unknown_text_share > 2 * self.unknown_share:  # a word of many characters became one token
            unknown += f", {percent(self.unknown_text_share)} of the characters"
        yield "[UNK]", f"{unknown}: {characters}" if characters else unknown
        if self.special_tokens:
            written = ", ".join(f"{token} {count:,}" for token, count in [*self.special_tokens.items()][:SHOWN])
            yield "special tokens in the text", written
        if self.long_lines:
            lines, room, lost, action = LongLines(**self.long_lines)
            loss = f", and {_share(lost, self.all_tokens)} of the tokens lost" if lost else ""
            yield f"lines {action} at {room} tokens", _share(lines, self.examples or self.counted) + loss
        yield "duplicates", _share(self.duplicates, self.counted)
        if self.also_in_validation is not None:
            yield "also in the validation text", _share(self.also_in_validation, self.counted)
        if self.padding_share is not None:
            yield "padding", percent(self.padding_share)


def _share(count: int, total: int) -> str:
    """`12 (0.4%)`, or `0`."""
    return f"{count:,} ({share(count, total)})" if count else "0"


def _ordered(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _most_split(counts: Counter[str], tokens: Counter[str]) -> list[dict[str, Any]]:
    """The words that cost most tokens, each with its mean number of tokens, and how often it occurs, twice at least.

    A Chinese character may have a token of its own, and any other word one token.
    """
    extra = {
        word: tokens[word] - count * (len(word) if is_chinese(word[0]) or is_chinese(word[-1]) else 1)
        for word, count in counts.items()
        if count > 1 and any(map(str.isalpha, word))
    }
    words = [word for word, _ in _ordered(extra)[:LISTED]]
    return [{"word": word, "tokens": round(tokens[word] / counts[word], 2), "count": counts[word]} for word in words]


def _unknown_characters(tokenizer: Any, words: Counter[str]) -> Counter[str]:
    """The characters behind `[UNK]` that a tokenizer does not know, at the start of a word or within one."""
    if not words:
        return Counter()
    unknown = tokenizer.unk_token_id

    def is_unknown(text: str) -> bool:
        if tokenizer.is_fast:
            backend = tokenizer.backend_tokenizer
            with untruncated(backend):
                return unknown in backend.encode(text, add_special_tokens=False).ids
        return unknown in tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))

    inside = "" if is_unknown("a") else "a"
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update(dict.fromkeys(word, count))
    return Counter({one: n for one, n in characters.items() if is_unknown(one) or is_unknown(inside + one)})


@dataclass(frozen=True)
class DataReport:
    """The report of a run's text, an event of the terminal.

    Attributes:
        splits: the figures of each split; empty if no text was counted, or by another version.
        advice: a sentence for each thing that looks wrong.
    """

    splits: dict[str, SplitReport] = field(default_factory=dict)
    advice: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        texts: Mapping[str, SplitText],
        tokenizer: PreTrainedTokenizerBase,
        masks_words: bool,
        rate: float,
        shows_text: bool = True,
    ) -> DataReport:
        """The report of the texts of a run.

        Args:
            texts: the text of each split.
            tokenizer: the tokenizer.
            masks_words: whether words are masked.
            rate: the share of tokens that is masked.
            shows_text: whether words and characters of the text are shown.
        """
        counts = {split: text.found.findings.counts for split, text in texts.items()}
        validation = counts.get("validation")
        reports = {
            split: SplitReport.of(text, tokenizer, validation if split == "train" else None)
            for split, text in texts.items()
            if counts[split].examples
        }
        if not shows_text:
            reports = {split: report.without_text() for split, report in reports.items()}
        return cls(reports, advice_on(texts, reports, masks_words, rate))

    def show(self) -> None:
        """Show the figures, if there are any, and the advice."""
        if self.splits:
            terminal().show(self)
        self.warn()

    def warn(self) -> None:
        """Log the advice."""
        for sentence in self.advice:
            logger.warning(sentence)

    def with_padding(self, share: float | None) -> DataReport:
        """The report with the share of padding in the batches of training."""
        if "train" not in self.splits:
            return self
        return replace(self, splits={**self.splits, "train": replace(self.splits["train"], padding_share=share)})

    def to_json(self) -> dict[str, Any]:
        """All figures, as JSON can hold them."""
        return {split: asdict(report) for split, report in self.splits.items()} | {"advice": list(self.advice)}

    def line(self) -> str:
        """`data report of train, all 40 examples: words 1,200, tokens 1,500, ...`"""
        parts = []
        for split, report in self.splits.items():
            figures = "; ".join(f"{label} {value}" for label, value in report.rows())
            parts.append(f"{split}, {report.heading}: {figures}")
        return clean(f"data report of {'. Of '.join(parts)}")

    def __rich__(self) -> Table:
        table = Table(title="\ndata report", title_justify="left", title_style="bold", box=ROUNDED, header_style="")
        table.add_column("")
        rows: dict[str, dict[str, str]] = {}
        for split, report in self.splits.items():
            table.add_column(f"{split}, {report.heading}")
            for label, value in report.rows():
                rows.setdefault(label, {})[split] = value
        for label, values in rows.items():
            table.add_row(label, *(Text(clean(values.get(split, "")), overflow="fold") for split in self.splits))
        return table
