"""Which word each character of a text belongs to by a segmenter.

In scripts that are written without spaces (`SCRIPTS`), a segmenter's words replace the rule for text: they join and
divide. `กินข้าวผัด3จาน` is one word by the rule, and four if a segmenter gives กิน | ข้าวผัด | 3จาน. Elsewhere the rule
stays, so 3 is a word, unless words of mixed script count. A border inside a grapheme cluster is ignored.

In a line whose only such script is Chinese, a segmenter's words only join characters of `CHINESE_BLOCKS`, which the
rule divides. So references of earlier versions stay true.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import regex
from numpy.typing import NDArray

from wordmask.tokenization.words import (
    CHINESE,
    EXTEND,
    FLAG,
    SPACE,
    SYMBOL,
    ZERO_WIDTH_SPACE,
    Characters,
    CodePointTable,
    character_class,
)
from wordmask.utils.arrays import BoolArray, starts_of
from wordmask.utils.errors import InputError

_LINKER, _CONSONANT, _LETTER = 1, 2, 3


def _conjunct_role(code_point: int) -> int:
    """Whether a character is a linker, a consonant or another letter. A linker between two consonants stacks them:
    Khmer ្ in ខ្ញុំ."""
    roles = {r"\p{InCB=Linker}": _LINKER, r"\p{InCB=Consonant}": _CONSONANT, r"\p{L}": _LETTER}
    return next((role for pattern, role in roles.items() if regex.match(pattern, chr(code_point))), 0)


_CONJUNCT_ROLES = CodePointTable(lambda code_points: [*map(_conjunct_role, code_points)])


def segmented(
    characters: Characters,
    words: Sequence[Sequence[str]],
    mixed: bool = False,
    numbers: Sequence[int] | None = None,
    any_script: BoolArray | bool = False,
) -> NDArray[np.int32]:
    """(characters,) The id of each character's word, as a segmenter splits the lines; 0 if the word does not count.

    We first remove white space at the edges of a word: of `中国\u3000` the word is 中国. A word counts if all its
    characters are Chinese. With `mixed`, it also counts if some are Chinese and the others are letters or digits (T恤,
    二〇〇八年). With `any_script`, it also counts if none is (làm_việc).

    On lines with another one of `SCRIPTS`, all of these count as Chinese. Of a word that does not count, the parts in
    such scripts are words: シャツ of Tシャツ. There, and with `any_script`, U+200B separates words like white space.

    Example: the words 我, 爱, 中国, and `.` of 我爱中国. give the ids 1 2 3 3 0.

    Args:
        characters: the characters of the lines.
        words: for each line its words in order. Between them only white space or control characters may be missing.
        mixed: whether words of mixed script count.
        numbers: the number of each line in its file, for an error message.
        any_script: whether words without a character of `SCRIPTS` count; or (characters,) where they do.

    Raises:
        InputError: if the words of a line do not add up to the line; it names the line.
    """
    begins = _word_starts(characters, words, numbers)
    decided = characters.decided
    divided, any_script = bool(decided.any()), np.asarray(any_script)
    if divided or any_script.any():
        begins |= (characters.divides | any_script) & (characters.code_points == ord(ZERO_WIDTH_SPACE))
    if divided:
        _keep_clusters(characters, begins)
    word_ids = _without_white_edges(characters, begins)
    in_whole = _counting(characters, word_ids, mixed, any_script)[word_ids]
    if not divided:
        return np.where(in_whole, word_ids, 0)
    # Other words are divided where the scripts begin and end: T | シャツ.
    begins[1:] |= (decided[1:] != decided[:-1]) & ~in_whole[1:]
    return np.where(in_whole | decided, np.cumsum(begins, dtype=np.int32), 0)


def _counting(characters: Characters, word_ids: NDArray[np.int32], mixed: bool, any_script: BoolArray) -> BoolArray:
    """(words + 1,) Whether the word of this id counts, see `segmented`: 中国 does, and T恤 with `mixed`."""
    classes, decided = characters.classes, characters.decided
    own = (classes == CHINESE) | decided

    def words_without(unwanted: BoolArray) -> BoolArray:
        """(words + 1,) Whether the word of this id has none of the unwanted characters.

        With the word ids 1 1 2 and the last character unwanted: [True, True, False]; no word has the id 0.
        """
        without = np.ones(len(word_ids) + 1, bool)
        without[word_ids[unwanted]] = False
        return without

    if mixed:
        counts = words_without((classes == SYMBOL) & ~decided | (classes == FLAG) | characters.white_space)
        counts &= ~words_without(own)
    else:
        counts = words_without(characters.foreign & ~decided)
    if any_script.any():
        counts |= words_without(own | characters.white_space | ~any_script)
    return counts


def _word_starts(characters: Characters, words: Sequence[Sequence[str]], numbers: Sequence[int] | None) -> BoolArray:
    """(characters,) Where a segmenter's words begin, and the text between them, and the line ends."""
    lengths: list[int] = []
    known: Sequence[int | None] = numbers or [None] * len(words)
    for number, line, line_words in zip(known, characters.lines, words, strict=True):
        complete = "".join(line_words) == line
        lengths += map(len, line_words) if complete else _piece_lengths(line, line_words, number)
        lengths.append(1)
    begins = np.zeros(len(characters.code_points), bool)
    begins[starts_of(np.array(lengths, np.int64))] = True
    return begins


def _keep_clusters(characters: Characters, begins: BoolArray) -> None:
    """Let no word begin inside a grapheme cluster, on lines where a segmenter's words divide.

    Args:
        characters: the characters.
        begins: (characters,) where words begin. We write into it.
    """
    marks, kept = characters.marks, begins.copy()
    kept[marks.places] = False
    characters.begin_leading(kept)
    roles = _CONJUNCT_ROLES[characters.code_points]
    # A linker stacks the consonant behind its marks, unless a letter among these, such as Thai ำ, comes after it.
    mark_roles = roles[marks.places]
    behind, mark_roles = marks.behind[mark_roles > 0], mark_roles[mark_roles > 0]
    stacked = behind[(mark_roles == _LINKER) & (np.diff(behind, append=-1) != 0)]
    kept[stacked[roles[stacked] == _CONSONANT]] = False
    begins[:] = np.where(characters.divides, kept, begins)


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


def _piece_lengths(line: str, words: Sequence[str], number: int | None) -> list[int]:
    """The lengths of the pieces of a line whose words leave out white space or control characters.

    The line `a  bc` with the words `a`, `bc` gives [1, 2, 2].
    """
    lengths: list[int] = []
    position = 0
    for word in [*filter(None, words), None]:  # None: what comes after the last word
        start = len(line) if word is None else line.find(word, position)
        gap = line[position:start] if start >= 0 else "?"
        if any(character_class(ord(character)) not in (SPACE, EXTEND) for character in gap):
            near = f"near {line[position : position + 20]!r}" if position < len(line) else "after its end"
            place = "a line" if number is None else f"line {number}"
            found = "no more words" if word is None else f"the word {word[:20]!r}"
            raise InputError(
                f"--segmenter: its words do not add up to the text of {place}, {near}, where it gives {found}; "
                "use another segmenter, or let yours leave out white space only, and change no character"
            )
        lengths += filter(None, (len(gap), len(word or "")))
        position = start + len(word or "")
    return lengths
