"""The positions of a reference: words are written as positions (`line_positions`), and read back (`continuations`).

A position is the number of a token that continues the word of the token before it, special tokens counted. With
`[CLS]` in front, the words 我 / 喜欢 / 你 give `[3]`. What one function writes, the other reads.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.segmenters import Segmenter, load_segmenter, words_of
from wordmask.tokenization.encoding import Encodings, special_affixes
from wordmask.tokenization.word_cache import tokenize
from wordmask.tokenization.words import segmented
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError, naming_parameters


def line_positions(
    tokenizer, segmenter: Segmenter, lines: Sequence[str], mixed: bool = False, numbers: Sequence[int] | None = None
) -> list[list[int]]:
    """The reference of each line.

    Args:
        tokenizer: a fast tokenizer; it gives the tokens.
        segmenter: gives the words.
        lines: text, taken as it is.
        mixed: whether words of mixed script (T恤) count, see `wordmask.tokenization.words.segmented`.
        numbers: the number of each line in its file, for an error message.

    Raises:
        InputError: if the words do not add up to their line.
    """
    tokens = tokenize(tokenizer, lines)
    joined = tokens.continuations(segmented(tokens.characters, words_of(segmenter, lines), mixed, numbers))
    token = np.flatnonzero(joined)  # (positions,) in the batch
    # Lines of 3 and 2 tokens where tokens 1 and 4 are joined: edges 0 1 2, so line 0 has token 1 and line 1 token 4.
    edges = np.searchsorted(token, np.append(tokens.line_starts, len(joined)))
    # Token 4 is token 4 - 3 of its line; with one special token in front its position is 2.
    line_start = np.repeat(tokens.line_starts - len(special_affixes(tokenizer)[0]), np.diff(edges))
    positions = (token - line_start).tolist()
    return [positions[start:stop] for start, stop in pairwise(edges.tolist())]


def make_references(
    lines: Iterable[str], tokenizer: Any, segmenter: str | Segmenter = "jieba", mixed_words: bool = False
) -> list[list[int]]:
    """The Chinese references of lines, a list of positions for each.

    With the words 我 / 喜欢 / 你 and a tokenizer that makes a token of each character, `[CLS]` is position 0:

        >>> wordmask.make_references(["我喜欢你"], tokenizer, "jieba")
        [[3]]

    Args:
        lines: the text as it will be tokenized.
        tokenizer: a fast tokenizer.
        segmenter: `jieba`, `whitespace`, `package.module:Class`, or an object, such as
            `wordmask.load_segmenter("ltp", model="LTP/small")`.
        mixed_words: whether words of Chinese with letters or digits (T恤) count, too.

    Raises:
        InputError: (a `ValueError`) if the segmenter or the tokenizer cannot be used.
    """
    with naming_parameters():
        source = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        references = (line_positions(tokenizer, source, batch, mixed_words) for batch in batches(lines))
        return [*chain.from_iterable(references)]


@dataclass(frozen=True)
class LineReferences:
    """The references of a batch of lines.

    Attributes:
        positions: the positions of each line.
        numbers: the number of each line in its text, or another name for it, for an error message.
        classic: (lines,) whether a reference comes from a file without provenance. The classic script matches words
            against tokens, so it may join over white space and over characters that the tokenizer drops. Such
            positions are left out.
        mixed: whether words may be other than Chinese.
        where: the flag and the file, for an error message.
    """

    positions: Sequence[Sequence[int]]
    numbers: Sequence[int | str]
    classic: NDArray[np.bool_]
    mixed: bool
    where: str

    def place(self, index: int) -> str:
        """Where a position comes from, by its index among all positions of the batch."""
        line = bisect.bisect_right([*accumulate(map(len, self.positions))], index)
        number, position = self.numbers[line], [*chain(*self.positions)][index]
        place = number if isinstance(number, str) else f"{number} of the text"
        return f"position {position} of the reference for line {place}"

    def refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        """Raise an `InputError` for the first wrong position; `wrong` is (positions,)."""
        if wrong.any():
            raise InputError(
                f"{self.where}: {self.place(int(np.argmax(wrong)))} {why}; "
                "make the references again with run_chinese_ref.py and the tokenizer given here"
            )


def continuations(
    tokens: Encodings, references: LineReferences, prefix: int, special: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which tokens continue a word by the references of their lines.

    Args:
        tokens: the tokenized lines.
        references: their references.
        prefix: the number of special tokens in front of a text. Positions count them.
        special: (tokens,) which tokens are special. They belong to no word.

    Returns:
        (tokens,) Whether each token continues a word. And the indices of the positions that are left out.

    Raises:
        InputError: if a position is out of range, a special token or the first token of its line. In a file with
            provenance also if it is apart from the token before it, or joins text that is not Chinese although the
            file has no words of mixed script. It names the line and the position.
    """
    counts = np.fromiter(map(len, references.positions), np.int64, len(references.positions))
    largest = 2**63 - 1  # JSON has no bounds for integers, arrays have
    bounded = (max(min(position, largest), -largest) for position in chain(*references.positions))
    positions = np.fromiter(bounded, np.int64, counts.sum())
    line = np.repeat(np.arange(len(counts)), counts)  # (positions,) counts 2, 0, 1 give 0 0 2
    exact, refuse = ~references.classic[line], references.refuse

    index = positions - prefix  # (positions,) in their line
    refuse((positions < 0) | (index > tokens.lengths[line]), "is out of range")
    refuse((index < 0) | (index == tokens.lengths[line]), "is a special token")
    token = tokens.line_starts[line] + index  # (positions,) in the batch
    refuse(special[token], "is a special token")
    refuse(index == 0, "is the first token of its line, so not joined to a token before it")

    # A token is apart from the one before it if white space lies between them. The running count of white space tells:
    # in `ab c` it is 0 0 1 1, so b and c, with 0 and 1, are apart.
    spaces = np.cumsum(tokens.characters.white_space)
    left_out = spaces[tokens.first[token]] != spaces[tokens.last[token - 1]]
    left_out |= special[token - 1]
    refuse(left_out & exact, "is not joined to the token before it")
    if not references.mixed:
        # The same for other than Chinese characters from the first one of the token before to the last one of this.
        foreign_count = np.concatenate([[0], np.cumsum(tokens.characters.foreign)])
        foreign = foreign_count[tokens.last[token] + 1] != foreign_count[tokens.first[token - 1]]
        refuse(foreign & exact, "joins text that is not Chinese in a file that does not say that it holds mixed words")
        left_out |= foreign
    continues = np.zeros(len(tokens.ids), bool)
    continues[token[~left_out]] = True
    return continues, np.flatnonzero(left_out)
