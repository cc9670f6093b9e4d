"""How predictions look at a terminal: each line cut around its masked words, and the three best words for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from wordmask.training.evaluation.predictions import MaskedWord, PredictedLine
from wordmask.utils.quantities import counted
from wordmask.utils.terminal import clean, terminal

WORDS = 3  # masked words of a line that are shown at a terminal; the run's record keeps all
PLAIN_WORDS = 6  # in a log file
PLAIN_WIDTH = 100  # of a line's text in a log file
GAP = 3  # columns between two words
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "[]\\"})

Part = tuple[str, MaskedWord | None]  # a piece of a line, and the masked word that it is, if it is one


@dataclass(frozen=True)
class Signs:
    """What tells right and wrong apart without colour, and what stands for text that is left out."""

    right: str = "✓"
    wrong: str = "✗"
    gap: str = "…"
    between: str = "·"

    @classmethod
    def of(cls, ascii_only: bool) -> Signs:
        """The signs that an encoding has."""
        return cls("+", "-", "...", "/") if ascii_only else cls()


@dataclass(frozen=True)
class PredictionsTitle:
    """What the predictions that follow are of.

    Attributes:
        when: such as `after step 200`; empty if there is only one evaluation.
    """

    when: str

    def _text(self) -> str:
        return f"predictions {self.when}".rstrip()

    def line(self) -> str:
        """`predictions after step 200, the best words for each [masked] word, ✓ right, ✗ wrong:`"""
        signs = Signs.of(terminal().console.options.ascii_only)
        return f"{self._text()}, the best words for each [masked] word, {signs.right} right, {signs.wrong} wrong:"

    def __rich__(self) -> Text:
        signs = Signs.of(terminal().console.options.ascii_only)
        right, wrong = (f"{signs.right} right", "green"), (f"{signs.wrong} wrong", "red")
        return Text.assemble((self._text(), "bold"), ("   [masked]  ", "dim"), right, "  ", wrong)


@dataclass(frozen=True)
class LinePrediction:
    """The predictions for one line."""

    number: int
    predicted: PredictedLine

    def line(self) -> str:
        """`1. On the [shore] of the lake | ✗ shore: river 12% · side 8% · north 5%`"""
        signs = Signs.of(terminal().console.options.ascii_only)
        words = self.predicted.words[:PLAIN_WORDS]
        parts = excerpt(self.predicted.text, self.predicted.words, len(words), PLAIN_WIDTH, signs.gap)
        text = "".join(map(_marked, parts))
        guesses = [_word(word, signs).plain for word in words]
        hidden = len(self.predicted.words) - len(words)
        more = f"and {counted(hidden, 'more masked word')}" if hidden else ""
        return f"{self.number}. {' | '.join(filter(None, [text, *guesses, more]))}"

    def __rich__(self) -> RenderableType:
        return _Fitted(self.number, self.predicted)


@dataclass(frozen=True)
class _Fitted:
    """A line and, below it, the predictions for as many of its first masked words as one line has room for."""

    number: int
    predicted: PredictedLine

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        signs, margin = Signs.of(options.ascii_only), f"{self.number:>2}  "
        width, words = options.max_width - len(margin), self.predicted.words[:WORDS]
        line = Text(no_wrap=True, overflow="ellipsis").append(margin, "dim")
        for part in excerpt(self.predicted.text, self.predicted.words, len(words), width, signs.gap):
            style = "default" if part[1] is None else "bold green" if part[1].right else "bold red"
            line.append(_marked(part), style)
        guesses = [self._guesses(words[:count], signs) for count in range(len(words), 0, -1)]
        fitting = next((text for text in guesses if text.cell_len <= width), guesses[-1] if guesses else Text())
        yield Group(line, Text(" " * len(margin), no_wrap=True, overflow="ellipsis").append_text(fitting))

    def _guesses(self, words: Sequence[MaskedWord], signs: Signs) -> Text:
        """`✗ shore: river 12% · side 8%   ✓ lake: lake 60%   +2`: two words are left out."""
        hidden = len(self.predicted.words) - len(words)
        texts = [_word(word, signs) for word in words]
        if hidden > 0:
            texts.append(Text(f"+{hidden}", "dim"))
        return Text(" " * GAP).join(texts)


def _marked(part: Part) -> str:
    r"""A piece of a line, in brackets if it is masked: they say the same as colours. The text's own are `\[` `\]`."""
    text = clean(part[0].translate(_ESCAPED))
    return text if part[1] is None else f"[{text}]"


def _word(word: MaskedWord, signs: Signs) -> Text:
    """`✗ shore: river 12% · side 8% · north 5%`"""
    sign = (f"{signs.right} ", "green") if word.right else (f"{signs.wrong} ", "red")
    text = Text.assemble(sign, (clean(word.word), "bold"), ": ")
    for number, guess in enumerate(word.predictions):
        share = "<1%" if guess.probability < 0.005 else f"{guess.probability:.0%}"
        text.append(f" {signs.between} " if number else "", "dim")
        text.append(clean(guess.word), "green" if guess.word == word.word else "default")
        text.append(f" {share}", "dim")
    return text


def excerpt(text: str, words: Sequence[MaskedWord], shown: int, width: int, gap: str = "…") -> list[Part]:
    """The pieces of a line: its first masked words with as much text around them as fits, all masked ones in brackets.

    Args:
        text: the line.
        words: its masked words, in order.
        shown: how many of them must be in the excerpt.
        width: the columns that there are for it. Where these words alone need more, the last ones are left out.
        gap: what stands for text that is left out.
    """
    context, fitting = 0, _pieces(text, words, shown, 0, gap)
    while shown > 1 and _columns(fitting) > width:
        shown -= 1
        fitting = _pieces(text, words, shown, 0, gap)
    longest = max(len(text), 1)
    while context < min(width, longest):
        context += 1
        wider = _pieces(text, words, shown, context, gap)
        if _columns(wider) > width:
            break
        fitting = wider
    return fitting


def _columns(parts: Sequence[Part]) -> int:
    return sum(cell_len(_marked(part)) for part in parts)


def _pieces(text: str, words: Sequence[MaskedWord], shown: int, context: int, gap: str) -> list[Part]:
    """The first masked words with `context` characters before and behind each, cut between words."""
    spans: list[tuple[int, int]] = []
    places = [(word.start, word.start + len(word.word)) for word in words]
    for start, end in places[:shown]:
        span = _begin(text, start, context), _end(text, end, context)
        for other in places[shown:]:  # one that is in view in part, as Chinese may be, is in view as a whole
            if span[0] < other[1] and other[0] < span[1]:
                span = min(span[0], other[0]), max(span[1], other[1])
        if spans and span[0] <= spans[-1][1] + 1:
            spans[-1] = spans[-1][0], max(span[1], spans[-1][1])
        else:
            spans.append(span)
    parts: list[Part] = []
    for number, (begin, end) in enumerate(spans):
        if begin > 0:
            parts.append((f" {gap} " if number else f"{gap} ", None))
        for word in words:
            if begin <= word.start < end:
                parts += [(text[begin : word.start], None), (word.word, word)]
                begin = word.start + len(word.word)
        parts.append((text[begin:end], None))
    if spans and spans[-1][1] < len(text):
        parts.append((f" {gap}", None))
    return [part for part in parts if part[0]]


def _begin(text: str, start: int, context: int) -> int:
    """The place `context` characters before `start`, moved forwards to the beginning of a word."""
    begin = max(start - context, 0)
    if begin and _inside(text, begin):
        space = text.find(" ", begin, start)
        begin = start if space < 0 else space
    while begin < start and text[begin] == " ":
        begin += 1
    return begin


def _end(text: str, end: int, context: int) -> int:
    """The place `context` characters behind `end`, moved backwards to the end of a word."""
    stop = min(end + context, len(text))
    if stop < len(text) and _inside(text, stop):
        stop = max(text.rfind(" ", end, stop), end)
    while stop > end and text[stop - 1] == " ":
        stop -= 1
    return stop


def _inside(text: str, place: int) -> bool:
    """Whether a place is inside a word; every place between two Chinese characters is not."""
    around = text[place - 1 : place + 1]
    return " " not in around and all(cell_len(character) == 1 for character in around)
