"""Which word each character of a text belongs to. This module and segmented.py decide what a word is.

Each character gets the number of its word, its *word id*: from the rule for text (`Characters.word_ids`), or from a
segmenter (`segmented`). Words come from the text, tokens come from the tokenizer, and character offsets join the two.
We never match strings.

encoding.py turns word ids into one bit for each token: whether the token *continues* the word of the token before it.
It does if its first character has the same word id as the last character of the token before it. Everything after
that, masking included, sees only this bit. So to mask syllables instead of words, give the characters of a syllable
one id here, and raise `VERSION` in data/text_tokenizer.py. (The positions in a Chinese reference file say the same as
the bit: they are the tokens that would carry `##`.)

The rule for text: white space and the zero-width space U+200B separate words. Each Chinese character, punctuation
mark and symbol is a word of its own. Other letters and digits that touch are one word. So `walked,` is two words,
`don't` is three (as in BERT) and `2004` is one. Marks, joiners, variation selectors and skin tones belong to the
character before them. Two regional indicators are one flag. The tokenizer does not change this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, NamedTuple

import numpy as np
import regex
from numpy.typing import DTypeLike, NDArray

from wordmask.utils.arrays import BoolArray, IntArray, starts_of

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
# The scripts that are written without spaces, by their names in Unicode.
SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
_HAN = 1  # the number of a script is its place in SCRIPTS, counted from 1
# The property scx of a character holds all scripts that use it: ー has Hiragana and Katakana. The Tibetan tsheg, which
# Unicode calls punctuation, stands between the syllables of a word.
_IN_SCRIPT = regex.compile("|".join(rf"(?=[\p{{L}}\p{{N}}\u0f0b\u0f0c])(\p{{scx={script}}})" for script in SCRIPTS))
# Marks, format and control characters, and whatever else Unicode joins to the character before it: skin tones, and a
# few letters (Thai ำ, half-width ﾞ).
_EXTENDS = regex.compile(r"[\p{M}\p{Cf}\p{Cc}\p{GCB=Extend}\p{GCB=SpacingMark}]")
_SYMBOL = regex.compile(r"[\p{P}\p{S}]")


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
    if character.isspace() or character == ZERO_WIDTH_SPACE:
        return SPACE
    if _EXTENDS.match(character):
        return EXTEND
    if is_chinese(character):
        return CHINESE
    if 0x1F1E6 <= code_point <= 0x1F1FF:
        return FLAG
    return SYMBOL if _SYMBOL.match(character) else LETTER


@cache
def script_of(code_point: int) -> int:
    """The number of a character's script in `SCRIPTS`, counted from 1; 0 for all others, and for marks."""
    character = chr(code_point)
    match = None if _EXTENDS.match(character) else _IN_SCRIPT.match(character)
    if match:
        return match.lastindex
    return _HAN if is_chinese(character) else 0


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


# Class and script of a character in one number, for one look-up: a LETTER (2) in Thai (4) has 4 * 8 + 2 = 34.
_TRAITS = CodePointTable(lambda code_points: [8 * script_of(point) + character_class(point) for point in code_points])


class Marks(NamedTuple):
    """The marks of a text: the characters of the class `EXTEND`.

    Attributes:
        places: (marks,) their indices.
        owners: (marks,) the index of the character that each belongs to: the one before it, and before that other
            marks; but the one behind it if it is `leading`.
        behind: (marks,) the index of the next character that is no mark.
        leading: (marks,) whether white space is before it, so that it begins the word behind it: of ` ‏ab`, where ‏ is
            the right-to-left mark U+200F, the word is `‏ab`. (Each line has a line end behind it, and so before it.)
        begins: (marks,) whether it is the first of its neighbours.
    """

    places: IntArray
    owners: IntArray
    behind: IntArray
    leading: BoolArray
    begins: BoolArray


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
    def _traits(self) -> NDArray[np.int8]:
        """(characters,) 8 times the script of each character plus its class."""
        return _TRAITS[self.code_points]

    @cached_property
    def classes(self) -> NDArray[np.int8]:
        """(characters,) The class of each character, see `character_class`."""
        return self._traits & 7

    @cached_property
    def marks(self) -> Marks:
        """The marks, and what they belong to.

        Of `e ◌́ ◌̣ t` the marks 1 and 2 belong to 0. Behind a space instead of `e`, they would belong to 3.
        """
        places = np.flatnonzero(self.classes == EXTEND)
        starts = _group_starts(places)
        begins, before = places == starts, starts - 1
        # The last mark of each group stands before the group's end: places 3 4 9 begin [1 0 1], so 4 and 9 are last.
        behind = (places[np.append(begins[1:], True)[: len(places)]] + 1)[np.cumsum(begins) - 1]
        leading = self.classes[before] == SPACE
        return Marks(places, np.where(leading, behind, before), behind, leading, begins)

    @cached_property
    def word_ids(self) -> NDArray[np.int32]:
        """(characters,) The id of each character's word by the rule for text; ids count from 1.

        `he walked.` has the ids 1 1 2 3 3 3 3 3 3 4: the space is the word 2. The end of the line has the id of its
        last visible character, so that a token of the white space before it, which has no word after it, goes there.
        """
        classes, marks = self.classes, self.marks
        # A mark takes the class of the character that it belongs to: the letters `e ◌́ t` are LETTER LETTER LETTER, so
        # `t` goes on with the word of `e`.
        classes_with_marks = classes.copy()
        classes_with_marks[marks.places] = classes[marks.owners]
        begins = classes == SYMBOL
        begins[1:] &= self.code_points[:-1] != _ZERO_WIDTH_JOINER  # a joiner binds two emoji into one
        begins[1:] |= (classes[1:] == LETTER) & (classes_with_marks[:-1] != LETTER)
        begins |= (classes == CHINESE) | (classes == SPACE)
        # Of indicators in sequence, each second one begins no word: 🇫🇷🇩🇪 at 0, 1, 2, 3 begins words at 0 and 2.
        indicators = np.flatnonzero(classes == FLAG)
        begins[indicators] = (indicators - _group_starts(indicators)) % 2 == 0
        self.begin_leading(begins)
        word_ids = np.cumsum(begins, dtype=np.int32) + 1
        # In `a ⏎b⏎` the lines start at 0 and 3, end at 2 and 4, and their last visible characters are 0 and 3.
        visible = np.flatnonzero(classes != SPACE)
        before_end = np.searchsorted(visible, ends := self.line_starts + self.line_lengths) - 1
        last = visible[np.maximum(before_end, 0)] if len(visible) else np.zeros_like(ends)
        has_text = (before_end >= 0) & (last >= self.line_starts)
        word_ids[ends[has_text]] = word_ids[last[has_text]]
        return word_ids

    def begin_leading(self, begins: BoolArray) -> None:
        """Let marks behind white space begin the word that they belong to.

        Args:
            begins: (characters,) where words begin. We write into it.
        """
        marks = self.marks
        begins[marks.places[marks.leading & marks.begins]] = True
        owners = marks.owners[marks.leading]
        begins[owners[self.classes[owners] != SPACE]] = False

    @cached_property
    def scripts(self) -> NDArray[np.int8]:
        """(characters,) The script of each character, counted from 1 as in `SCRIPTS`; 0 for all others.

        Only letters, numbers and their marks have one. A mark has the script of the character that it belongs to.
        """
        scripts = self._traits >> 3
        scripts[self.marks.places] = scripts[self.marks.owners]
        return scripts

    @cached_property
    def divides(self) -> BoolArray:
        """(characters,) Whether the line of each character has a script of `SCRIPTS` other than Chinese."""
        others = self._traits >= 8 * (_HAN + 1)  # marks have no script of their own
        if not others.any():
            return others
        return np.repeat(np.logical_or.reduceat(others, self.line_starts), self.line_lengths + 1)

    @cached_property
    def decided(self) -> BoolArray:
        """(characters,) Where a segmenter's words replace the rule for text, see segmented.py."""
        return self.divides & (self.scripts > 0) if self.divides.any() else self.divides

    def decided_on(self, lines: BoolArray) -> BoolArray:
        """(characters,) The same on some lines alone: (lines,) whether a source gives the words of a line."""
        return self.decided & np.repeat(lines, self.line_lengths + 1)

    @cached_property
    def white_space(self) -> BoolArray:
        """(characters,) Which characters are white space. U+200B is not: a segmenter's word may contain it."""
        return (self.classes == SPACE) & (self.code_points != ord(ZERO_WIDTH_SPACE))

    @cached_property
    def foreign(self) -> BoolArray:
        """(characters,) Which characters cannot stand in a segmenter's word of Chinese characters only."""
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
