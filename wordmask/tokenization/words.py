"""Which word each character of a text belongs to.

One fact is kept for each token: whether it *continues* the word of the token before it. A Chinese reference file has
always said this (its positions are the tokens that would carry `##`). A word is a token that does not continue,
together with those after it that do.

Words come from the text, tokens from the tokenizer, and character offsets join them; no string is ever matched. Each
character gets the number of its word. A token continues where its first character has the number of the last
character of the token before it.

The rule for text: white space and the zero-width space U+200B part words. Each Chinese character, punctuation mark
and symbol is a word of its own. Other letters and digits that touch are one word. So `walked,` is two words, `don't`
three (as BERT has it) and `2004` one. Marks, joiners, variation selectors and skin tones belong to the character
before them, and two regional indicators are one flag. The tokenizer has no say in this.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from wordmask.utils.errors import InputError

SPACE, EXTEND, LETTER, SYMBOL, CHINESE, FLAG = range(6)
ZERO_WIDTH_SPACE = "\u200b"  # parts words in Khmer, Thai, Burmese; the only format character that does
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
    """`SPACE` (U+200B too), `EXTEND` (belongs to the character before), `LETTER` (digits too), `SYMBOL`, `CHINESE`, or
    `FLAG` (half of one: a regional indicator)."""
    character = chr(code_point)
    category = unicodedata.category(character)
    if character.isspace() or character == ZERO_WIDTH_SPACE:
        return SPACE
    if category[0] == "M" or category in ("Cf", "Cc") or 0x1F3FB <= code_point <= 0x1F3FF:
        return EXTEND
    if is_chinese(character):
        return CHINESE
    if 0x1F1E6 <= code_point <= 0x1F1FF:
        return FLAG
    return SYMBOL if category[0] in "PS" else LETTER


_known_classes = np.full(0x110000, -1, np.int8)  # by code point, of the characters that were met
for _first, _last in CHINESE_BLOCKS:
    _known_classes[_first : _last + 1] = CHINESE


class Characters:
    """The characters of a batch of lines, one array for all, with a separator behind each line."""

    def __init__(self, lines: Sequence[str]):
        self.lines = lines
        self.line_lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        self.line_starts = np.cumsum(self.line_lengths + 1) - self.line_lengths - 1
        self.text = "\n".join([*lines, ""])
        self.code_points = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")

    @cached_property
    def classes(self) -> NDArray[np.int8]:
        """The class of each character, see `character_class`."""
        classes = _known_classes[self.code_points]
        if (classes < 0).any():
            for point in {*self.code_points[classes < 0].tolist()}:
                _known_classes[point] = character_class(point)
            classes = _known_classes[self.code_points]
        return classes

    @cached_property
    def words(self) -> NDArray[np.int32]:
        """The number of each character's word by the rule for text, from 1."""
        classes = self.classes
        marks = np.flatnonzero(classes == EXTEND)
        carried = classes.copy()  # by each mark the class of the character that it belongs to
        carried[marks] = classes[_starts_of_runs(marks) - 1]
        begins = classes == SYMBOL
        begins[1:] &= self.code_points[:-1] != _ZERO_WIDTH_JOINER
        begins[1:] |= (classes[1:] == LETTER) & (carried[:-1] != LETTER)
        begins |= (classes == CHINESE) | (classes == SPACE)
        flags = np.flatnonzero(classes == FLAG)
        begins[flags] = (flags - _starts_of_runs(flags)) % 2 == 0
        return np.cumsum(begins, dtype=np.int32) + 1

    @cached_property
    def white_space(self) -> NDArray[np.bool_]:
        """(characters,) Which characters are white space; U+200B is none, and a segmenter's word may hold it."""
        return (self.classes == SPACE) & (self.code_points != ord(ZERO_WIDTH_SPACE))

    @cached_property
    def foreign(self) -> NDArray[np.bool_]:
        """(characters,) Which characters cannot stand in a Chinese word of a segmenter."""
        return (self.classes != CHINESE) & (self.classes != EXTEND) & (self.code_points != ord(ZERO_WIDTH_SPACE))

    @cached_property
    def visible(self) -> NDArray[np.bool_]:
        """Which characters are neither white space nor U+200B; the separators behind lines count as visible."""
        visible = self.classes != SPACE
        visible[self.line_starts + self.line_lengths] = True
        return visible

    def visible_in(
        self, starts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The first and the last visible character of each of these spans, and whether it has any.

        Where it has none, both are the next one behind it.
        """
        places = np.flatnonzero(self.visible)
        before = np.append([0], np.cumsum(self.visible, dtype=np.int32))
        first, last = before[starts], before[ends] - 1
        return places[first], places[np.maximum(first, last)], first <= last


def _starts_of_runs(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of these places, where the run of neighbours that it belongs to begins."""
    begins = np.diff(places, prepend=-2) > 1
    return np.maximum.accumulate(np.where(begins, places, 0))


def segmented(
    characters: Characters,
    words: Sequence[Sequence[str]],
    mixed: bool = False,
    numbers: Sequence[int] | None = None,
    any_script: bool = False,
) -> NDArray[np.int32]:
    """Give each character the number of its word as a segmenter has it, 0 where the word does not count.

    White space at a word's edges is left aside first: of `中国\u3000` the word is 中国. A word counts when all its
    characters are Chinese; with `mixed`, also when only some are and the rest are letters or digits (T恤, 二〇〇八年);
    with `any_script`, also when none is (làm_việc), and then U+200B parts words as white space does.

    Args:
        characters: the characters of the lines.
        words: for each line its words in order; what lies between them must be white space or control characters.
        mixed: whether words of mixed script count.
        numbers: the number of each line in its file, for an error message.
        any_script: whether words without a Chinese character count.

    Raises:
        InputError: naming the line, where the words do not add up to it.
    """
    marked = "\n".join([*map(_MARK.join, words), ""])
    points = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), "<u4")
    marks = np.flatnonzero(points == ord(_MARK))
    if np.array_equal(points[np.flatnonzero(points != ord(_MARK))], characters.code_points):
        starts = marks - np.arange(len(marks))
    else:  # white space is left out
        numbered = numbers or range(1, len(words) + 1)
        lengths = np.fromiter(chain.from_iterable(_pieces(characters, words, numbered)), np.int64)
        starts = np.cumsum(lengths) - lengths
    begins = np.zeros(len(characters.code_points), bool)
    begins[starts] = begins[characters.line_starts] = begins[characters.line_starts + characters.line_lengths] = True
    if any_script:
        begins[np.flatnonzero(characters.code_points == ord(ZERO_WIDTH_SPACE))] = True
    _part_at_edges(characters, begins)
    word = np.cumsum(begins, dtype=np.int32)
    classes = characters.classes

    def without(wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(words + 1,) Which words hold none of these characters."""
        without = np.ones(len(word) + 1, bool)
        without[word[wrong]] = False
        return without

    if mixed:
        counts = without((classes == SYMBOL) | (classes == FLAG) | characters.white_space)
        counts &= ~without(classes == CHINESE)
    else:
        counts = without(characters.foreign)
    if any_script:
        counts |= without((classes == CHINESE) | characters.white_space)
    return np.where(counts[word], word, 0)


def _part_at_edges(characters: Characters, begins: NDArray[np.bool_]) -> None:
    """Let pieces also begin at the first visible character of each piece, and behind its last one.

    In `| 中 国 ␣ | 人 |` the word 中国␣ becomes 中国 and ␣; `begins` goes from 1 0 0 1 to 1 0 1 1.
    """
    starts = np.flatnonzero(begins)
    ends = np.append(starts[1:], len(begins))
    first, last, some = characters.visible_in(starts, ends)
    begins[first[some]] = True
    behind = last[some] + 1
    begins[behind[behind < len(begins)]] = True


_MARK = "\0"  # between two words; a line that holds one itself is only slower to match


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
