"""Which word each token belongs to.

One fact is kept for each token: whether it *continues* the word of the token before it. A Chinese reference file has
always said this (its positions are the tokens that would carry `##`), a tokenizer's `word_ids()` says it for other
languages, and a word is a token that does not continue together with those after it that do.

Everything goes by character offsets, never by matching strings: characters are given the number of their word, and a
token continues where its first character has the number of the last character of the token before it.

The rule for text: white space separates; each Chinese character, punctuation mark and symbol stands alone; what lies
between is a word, so `walked,` is two words, `don't` three (as BERT has it) and `2004` one. Marks, joiners, variation
selectors and skin tones belong to the character before them. A tokenizer's own pre-tokenisation can only divide
further.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import chain, repeat

import numpy as np
from numpy.typing import NDArray

from wordmask.errors import InputError

SPACE, EXTEND, LETTER, SYMBOL, CHINESE, FLAG = range(6)
_ZERO_WIDTH_JOINER = 0x200D
# The blocks that BERT's tokenizer treats as Chinese: each of their characters becomes a token of its own.
CHINESE_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def is_chinese(character: str) -> bool:
    """Whether a character is an ideograph in the sense of BERT's tokenizer and of the classic reference format."""
    return any(first <= ord(character) <= last for first, last in CHINESE_BLOCKS)


@cache
def character_class(code_point: int) -> int:
    """`SPACE`, `EXTEND` (belongs to the character before), `LETTER` (digits too), `SYMBOL`, `CHINESE`, or `FLAG` (half
    of one: a regional indicator)."""
    character = chr(code_point)
    category = unicodedata.category(character)
    if character.isspace():
        return SPACE
    if category[0] == "M" or category in ("Cf", "Cc") or 0x1F3FB <= code_point <= 0x1F3FF:
        return EXTEND
    if is_chinese(character):
        return CHINESE
    if 0x1F1E6 <= code_point <= 0x1F1FF:
        return FLAG
    return SYMBOL if category[0] in "PS" else LETTER


_known_classes = np.full(0x110000, -1, np.int8)  # by code point, of the characters that were met


class Characters:
    """The characters of a batch of lines, one array for all, with a separator behind each line."""

    def __init__(self, lines: Sequence[str]):
        self.line_lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        self.line_starts = np.cumsum(self.line_lengths + 1) - self.line_lengths - 1
        self.text = "\n".join([*lines, ""])
        self.code_points = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")

    @cached_property
    def classes(self) -> NDArray[np.int8]:
        """The class of each character, see `character_class`."""
        classes = _known_classes[self.code_points]
        if (classes < 0).any():
            unknown = np.unique(self.code_points[classes < 0])
            _known_classes[unknown] = [character_class(point) for point in unknown.tolist()]
            classes = _known_classes[self.code_points]
        return classes

    @cached_property
    def words(self) -> NDArray[np.int64]:
        """The number of each character's word by the rule for text, from 1."""
        classes = self.classes
        visible = np.maximum.accumulate(np.where(classes != EXTEND, np.arange(len(classes)), 0))
        before = np.concatenate([[SPACE], classes[visible][:-1]])
        joined = np.concatenate([[False], self.code_points[:-1] == _ZERO_WIDTH_JOINER])
        index = np.arange(len(classes))
        run = index - np.maximum.accumulate(np.where(classes != FLAG, index, -1))  # 1 for the first of a run of halves
        alone = (classes == CHINESE) | (classes == SYMBOL) & ~joined | (classes == FLAG) & (run % 2 == 1)
        return 1 + np.cumsum(alone | (classes == LETTER) & (before != LETTER) | (classes == SPACE))

    @cached_property
    def next_visible(self) -> NDArray[np.int64]:
        """For each character, the first from there on that is not white space (the last index where there is none)."""
        last = len(self.classes) - 1
        positions = np.where(self.classes != SPACE, np.arange(last + 1), last)
        return np.minimum.accumulate(positions[::-1])[::-1]

    @cached_property
    def last_visible(self) -> NDArray[np.int64]:
        """For each character, the last up to there that is not white space (0 where there is none)."""
        return np.maximum.accumulate(np.where(self.classes != SPACE, np.arange(len(self.classes)), 0))


def segmented(
    characters: Characters, words: Sequence[Sequence[str]], mixed: bool = False, numbers: Sequence[int] | None = None
) -> NDArray[np.int64]:
    """Give each character the number of its word as a segmenter has it, 0 where the word does not count.

    A word counts when all its characters are Chinese; with `mixed`, also when only some are and the rest are letters
    or digits (T恤, 二〇〇八年).

    Args:
        characters: the characters of the lines.
        words: for each line its words in order; what lies between them must be white space or control characters.
        mixed: whether words of mixed script count.
        numbers: the number of each line in its file, for an error message.

    Raises:
        InputError: naming the line, where the words do not add up to it.
    """
    pieces = [*chain.from_iterable(chain.from_iterable(zip(words, repeat("\n"))))]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    if "".join(pieces) != characters.text or not lengths.all():  # white space is left out
        numbered = numbers or range(1, len(words) + 1)
        lengths = np.fromiter(chain.from_iterable(_pieces(characters, words, numbered)), np.int64)
    starts = np.cumsum(lengths) - lengths
    chinese, letter = characters.classes == CHINESE, characters.classes == LETTER
    if mixed:
        allowed = chinese | letter | (characters.classes == EXTEND)
        counts = np.logical_and.reduceat(allowed, starts) & np.logical_or.reduceat(chinese, starts)
    else:
        counts = np.logical_and.reduceat(chinese | (characters.classes == EXTEND), starts)
    return np.repeat(np.where(counts, np.arange(1, len(lengths) + 1), 0), lengths)


def _pieces(characters: Characters, words: Sequence[Sequence[str]], numbers: Sequence[int]) -> Iterator[Iterable[int]]:
    """For each line the lengths of the pieces that cover it: its words, what lies between them, the separator."""
    spans = zip(numbers, characters.line_starts.tolist(), characters.line_lengths.tolist(), words, strict=True)
    for number, start, length, line_words in spans:
        line = characters.text[start : start + length]
        whole = "".join(line_words) == line and "" not in line_words
        yield map(len, line_words) if whole else _locate(line, line_words, number)
        yield (1,)


def _locate(line: str, words: Sequence[str], number: int) -> list[int]:
    """The lengths of the pieces of a line whose words leave white space or control characters out."""
    lengths: list[int] = []
    position = 0
    for word in [*filter(None, words), None]:
        found = len(line) if word is None else line.find(word, position)
        gap = line[position:found] if found >= 0 else "?"
        if any(character_class(ord(character)) not in (SPACE, EXTEND) for character in gap):
            near = line[position : position + 20]
            raise InputError(f"--segmenter: its words do not add up to the text of line {number}, near {near!r}")
        lengths += [len(gap)] if gap else []
        lengths += [len(word)] if word else []
        position = found + len(word or "")
    return lengths
