"""Which word each character of a text belongs to. This module alone decides what a word is.

Each character gets the number of its word, its *word id*: from the rule for text (`Characters.word_ids`), or from a
segmenter (`segmented`). Words come from the text, tokens come from the tokenizer, and character offsets join the two.
We never match strings.

encoding.py turns word ids into one bit for each token: whether the token *continues* the word of the token before it.
It does if its first character has the same word id as the last character of the token before it. Everything after
that, masking included, sees only this bit. So to mask syllables instead of words, give the characters of a syllable
one id here, and raise `VERSION` in data/tokenize.py. (The positions in a Chinese reference file say the same as the
bit: they are the tokens that would carry `##`.)

The rule for text: white space and the zero-width space U+200B separate words. Each Chinese character, punctuation
mark and symbol is a word of its own. Other letters and digits that touch are one word. So `walked,` is two words,
`don't` is three (as in BERT) and `2004` is one. Marks, joiners, variation selectors and skin tones belong to the
character before them. Two regional indicators are one flag. The tokenizer does not change this.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from wordmask.utils.arrays import BoolArray, IntArray, starts_of
from wordmask.utils.errors import InputError

SPACE, EXTEND, LETTER, SYMBOL, CHINESE, FLAG = range(6)
ZERO_WIDTH_SPACE = "\u200b"  # separates words in Khmer, Thai and Burmese; no other format character does
_ZERO_WIDTH_JOINER = 0x200D
# The blocks that BERT's tokenizer treats as Chinese: each character in them becomes a token of its own.
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
    """Whether a character is Chinese for BERT's tokenizer and for the classic reference format."""
    return any(first <= ord(character) <= last for first, last in CHINESE_BLOCKS)


def character_class(code_point: int) -> int:
    """The class of a character.

    Returns:
        `SPACE` (also U+200B), `EXTEND` (belongs to the character before it), `LETTER` (also digits), `SYMBOL`,
        `CHINESE`, or `FLAG` (a regional indicator: half of a flag).
    """
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


class CodePointTable:
    """A value for each code point, computed when a text contains it for the first time.

    Args:
        compute: gives the values of some code points, all of them 0 or more.
        dtype: the type of the values.
    """

    def __init__(self, compute: Callable[[list[int]], Sequence[int]], dtype: DTypeLike = np.int8):
        self.compute = compute
        self.values: NDArray[Any] = np.full(0x110000, -1, dtype)  # -1: not computed yet

    def __getitem__(self, code_points: NDArray[np.uint32]) -> NDArray[Any]:
        """(characters,) The value of each character."""
        values = self.values[code_points]
        if (values < 0).any():
            new = [*{*code_points[values < 0].tolist()}]
            self.values[new] = self.compute(new)
            values = self.values[code_points]
        return values


_CLASSES = CodePointTable(lambda code_points: [character_class(code_point) for code_point in code_points])


class Characters:
    """The characters of a batch of lines in one array, with a line end after each line.

    Attributes:
        lines: the lines.
        line_lengths: (lines,) the number of characters of each line, without the line end.
        line_starts: (lines,) the index of each line's first character.
        text: all lines, each with a line end.
        code_points: (characters,) the code point of each character of `text`.
    """

    def __init__(self, lines: Sequence[str]):
        self.lines = lines
        self.line_lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        self.line_starts = starts_of(self.line_lengths + 1)
        self.text = "\n".join([*lines, ""])
        self.code_points = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), "<u4")

    @cached_property
    def classes(self) -> NDArray[np.int8]:
        """(characters,) The class of each character, see `character_class`."""
        return _CLASSES[self.code_points]

    @cached_property
    def word_ids(self) -> NDArray[np.int32]:
        """(characters,) The id of each character's word by the rule for text; ids count from 1.

        `he walked.` has the ids 1 1 2 3 3 3 3 3 3 4: the space is the word 2.
        """
        classes = self.classes
        # A mark takes the class of the character that it belongs to: the letters `e ◌́ t` are LETTER LETTER LETTER, so
        # `t` goes on with the word of `e`.
        marks = np.flatnonzero(classes == EXTEND)
        mark_groups = _group_starts(marks)
        classes_with_marks = classes.copy()
        classes_with_marks[marks] = classes[mark_groups - 1]
        begins = classes == SYMBOL
        begins[1:] &= self.code_points[:-1] != _ZERO_WIDTH_JOINER  # a joiner binds two emoji into one
        begins[1:] |= (classes[1:] == LETTER) & (classes_with_marks[:-1] != LETTER)
        begins |= (classes == CHINESE) | (classes == SPACE)
        # Of indicators in sequence, each second one begins no word: 🇫🇷🇩🇪 at 0, 1, 2, 3 begins words at 0 and 2.
        indicators = np.flatnonzero(classes == FLAG)
        begins[indicators] = (indicators - _group_starts(indicators)) % 2 == 0
        # After white space, marks have no character before them, so they begin the word behind them: of ` ‏ab`, where
        # ‏ is the right-to-left mark U+200F, the word is `‏ab`. (Each line has a line end behind it, and so before it.)
        leading = classes[mark_groups - 1] == SPACE
        begins[mark_groups[leading]] = True
        behind = marks[leading] + 1
        begins[behind[(classes[behind] != EXTEND) & (classes[behind] != SPACE)]] = False
        return np.cumsum(begins, dtype=np.int32) + 1

    @cached_property
    def white_space(self) -> BoolArray:
        """(characters,) Which characters are white space. U+200B is not: a segmenter's word may contain it."""
        return (self.classes == SPACE) & (self.code_points != ord(ZERO_WIDTH_SPACE))

    @cached_property
    def foreign(self) -> BoolArray:
        """(characters,) Which characters cannot stand in a segmenter's Chinese word."""
        return (self.classes != CHINESE) & (self.classes != EXTEND) & (self.code_points != ord(ZERO_WIDTH_SPACE))

    @cached_property
    def visible(self) -> BoolArray:
        """(characters,) Which characters are neither white space nor U+200B. Our line ends count as visible."""
        visible = self.classes != SPACE
        visible[self.line_starts + self.line_lengths] = True
        return visible

    def visible_in(self, starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
        """The first and the last visible character of spans.

        In `a bc` (visible: 0, 2, 3, and the line end 4) the span from 1 to 4 has the first one 2 and the last one 3.
        The span from 1 to 2 is a space only, so both are the next visible character, 2.

        Args:
            starts: (spans,) the index of each span's first character.
            ends: (spans,) the index after each span's last character.

        Returns:
            (spans,) The index of the first visible character, and (spans,) of the last one. If a span has no visible
            character, both are the next visible character after it.
        """
        places = np.flatnonzero(self.visible)
        # How many visible characters come before each index: for `a bc`, [0, 1, 1, 2, 3, 4].
        visible_before = np.append([0], np.cumsum(self.visible, dtype=np.int32))
        first, last = visible_before[starts], visible_before[ends] - 1
        return places[first], places[np.maximum(first, last)]


def _group_starts(places: IntArray) -> IntArray:
    """For each place, the first place of its group of neighbours: [3, 4, 5, 9] gives [3, 3, 3, 9].

    Args:
        places: (places,) indices in rising order.
    """
    is_first = np.diff(places, prepend=-2) > 1
    return np.maximum.accumulate(np.where(is_first, places, 0))


def segmented(
    characters: Characters,
    words: Sequence[Sequence[str]],
    mixed: bool = False,
    numbers: Sequence[int] | None = None,
    any_script: bool = False,
) -> NDArray[np.int32]:
    """(characters,) The id of each character's word, as a segmenter splits the lines; 0 if the word does not count.

    We first remove white space at the edges of a word: of `中国\u3000` the word is 中国. A word counts if all its
    characters are Chinese. With `mixed`, it also counts if some are Chinese and the others are letters or digits (T恤,
    二〇〇八年). With `any_script`, it also counts if none is (làm_việc). Then U+200B separates words like white space.

    Example: the words 我, 爱, 中国, and `.` of 我爱中国. give the ids 1 2 3 3 0.

    Args:
        characters: the characters of the lines.
        words: for each line its words in order. Between them only white space or control characters may be missing.
        mixed: whether words of mixed script count.
        numbers: the number of each line in its file, for an error message.
        any_script: whether words without a Chinese character count.

    Raises:
        InputError: if the words of a line do not add up to the line; it names the line.
    """
    # Each line consists of pieces: its words, the text between them, and the line end.
    lengths: list[int] = []
    for number, line, line_words in zip(numbers or range(1, len(words) + 1), characters.lines, words, strict=True):
        complete = "".join(line_words) == line and "" not in line_words
        lengths += map(len, line_words) if complete else _piece_lengths(line, line_words, number)
        lengths.append(1)
    begins = np.zeros(len(characters.code_points), bool)
    begins[starts_of(np.array(lengths, np.int64))] = True
    if any_script:
        begins[characters.code_points == ord(ZERO_WIDTH_SPACE)] = True
    word_ids = _without_white_edges(characters, begins)
    classes = characters.classes

    def words_without(unwanted: BoolArray) -> BoolArray:
        """(words + 1,) Whether the word of this id has none of the unwanted characters.

        With the word ids 1 1 2 and the last character unwanted: [True, True, False]; no word has the id 0.
        """
        without = np.ones(len(word_ids) + 1, bool)
        without[word_ids[unwanted]] = False
        return without

    if mixed:
        counts = words_without((classes == SYMBOL) | (classes == FLAG) | characters.white_space)
        counts &= ~words_without(classes == CHINESE)
    else:
        counts = words_without(characters.foreign)
    if any_script:
        counts |= words_without((classes == CHINESE) | characters.white_space)
    return np.where(counts[word_ids], word_ids, 0)


def _without_white_edges(characters: Characters, begins: BoolArray) -> NDArray[np.int32]:
    """(characters,) The id of each character's word; white space at the edge of a word is a word of its own.

    The words `中 国 ␣ | 人 ␣ 口` have the ids 1 1 1 2 2 2. The first space stands between two ids, so it becomes a
    word. The second one is inside a word and stays: 1 1 2 3 3 3.

    Args:
        characters: the characters.
        begins: (characters,) where words begin. We write into it.
    """
    word_ids = np.cumsum(begins, dtype=np.int32)
    spaces = np.flatnonzero(~characters.visible)
    # The first space of each group, and the character after its last one. A line end follows each group at the latest.
    starts = spaces[np.diff(spaces, prepend=-2) > 1]
    ends = spaces[np.diff(spaces, append=len(word_ids) + 1) > 1] + 1
    at_edge = word_ids[starts - 1] != word_ids[ends]
    begins[starts[at_edge]] = begins[ends[at_edge]] = True
    return np.cumsum(begins, dtype=np.int32)


def _piece_lengths(line: str, words: Sequence[str], number: int) -> list[int]:
    """The lengths of the pieces of a line whose words leave out white space or control characters.

    The line `a  bc` with the words `a`, `bc` gives [1, 2, 2].
    """
    lengths: list[int] = []
    position = 0
    for word in [*filter(None, words), None]:  # None: what comes after the last word
        start = len(line) if word is None else line.find(word, position)
        gap = line[position:start] if start >= 0 else "?"
        if any(character_class(ord(character)) not in (SPACE, EXTEND) for character in gap):
            near = line[position : position + 20]
            raise InputError(f"--segmenter: its words do not add up to the text of line {number}, near {near!r}")
        lengths += filter(None, (len(gap), len(word or "")))
        position = start + len(word or "")
    return lengths
