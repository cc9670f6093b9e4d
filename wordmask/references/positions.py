"""The positions of a reference: `line_positions` writes words as positions, and `continuations` reads them back.

A position is the number of a token that continues the word of the token before it, special tokens counted. With
`[CLS]` before the text, the words 我 / 喜欢 / 你 give `[3]`. A token without a position follows the rule for text. But
where the file decides (see `Provenance.decides`), such a token begins a word: the rule joins all of `กินข้าว`, and with
`[]` this is as many words as tokens.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordmask.segmenters import Segmenter, check_segmenter, make_segmenter, words_of
from wordmask.segmenters.libraries import LONE_SURROGATE
from wordmask.tokenization.backend import Tokenizer, check_is_tokenizer
from wordmask.tokenization.encoding import Encodings, set_apart
from wordmask.tokenization.segmented import segmented
from wordmask.tokenization.special_tokens import special_affixes, special_ids
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.words import CHINESE, Characters
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError, kind_of, naming_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def line_positions(
    tokenizer: Tokenizer,
    segmenter: Segmenter,
    lines: Sequence[str],
    mixed: bool = False,
    numbers: Sequence[int] | None = None,
    flag: str = "--bert",
) -> list[list[int]]:
    """The reference of each line.

    Args:
        tokenizer: a tokenizer; it gives the tokens.
        segmenter: gives the words.
        lines: text, taken as it is.
        mixed: whether words of mixed script (T恤) count, see `wordmask.tokenization.segmented.segmented`.
        numbers: the number of each line in its file, for an error message.
        flag: the flag that names the tokenizer, for an error message.

    Raises:
        InputError: if the words do not add up to their line, or nothing says which characters a token covers.
    """
    tokens = tokenize(tokenizer, lines, flag)
    words = words_of(segmenter, tokens.characters.lines)
    any_script = getattr(segmenter, "any_script", False) & _joined_by_underscores(tokens.characters)
    continues = tokens.continuations(segmented(tokens.characters, words, mixed, numbers, any_script))
    # A text may hold special tokens, as `<mask>.` does. They belong to no word, and readers refuse them.
    continues = set_apart(continues, np.isin(tokens.ids, special_ids(tokenizer)))
    token = np.flatnonzero(continues)  # (positions,) in the batch
    # Lines of 3 and 2 tokens, where tokens 1 and 4 continue a word, give the bounds 0 1 2: line 0 has the first of
    # these two tokens, line 1 has the second.
    bounds = np.searchsorted(token, np.append(tokens.line_starts, len(continues)))
    # Token 4 is token 4 - 3 of its line. With one special token before the line, its position is 2.
    line_start = np.repeat(tokens.line_starts - len(special_affixes(tokenizer)[0]), np.diff(bounds))
    positions = (token - line_start).tolist()
    return [positions[start:stop] for start, stop in pairwise(bounds.tolist())]


def _joined_by_underscores(characters: Characters) -> NDArray[np.bool_]:
    """(characters,) Which are on a line whose words are joined as in Vietnamese: làm_việc.

    In a Chinese text there are lines without a Chinese character, such as `24℃`. Their references were always empty.
    """
    chinese, underscore = characters.classes == CHINESE, characters.code_points == ord("_")
    has_chinese, has_underscore = (
        np.logical_or.reduceat(one, characters.line_starts) for one in (chinese, underscore)
    )
    return np.repeat(has_underscore & ~has_chinese, characters.line_lengths + 1)


def make_references(
    lines: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    segmenter: str | Segmenter = "jieba",
    mixed_words: bool = False,
) -> list[list[int]]:
    """The references of lines, a list of positions for each.

    With the words 我 / 喜欢 / 你 and a tokenizer that makes a token of each character, `[CLS]` is position 0:

        >>> wordmask.make_references(["我喜欢你"], tokenizer, "jieba")
        [[3]]

    Args:
        lines: the text as it will be tokenized, a string for each line.
        tokenizer: a tokenizer of transformers.
        segmenter: a name, see `load_segmenter`, or an object, such as `load_segmenter("ltp", model="LTP/small")`.
        mixed_words: whether words of Chinese with letters or digits (T恤) count, too.

    Raises:
        InputError: (a `ValueError`) if the lines are no strings, or the segmenter or the tokenizer cannot be used.
    """
    check_is_tokenizer(tokenizer)
    if isinstance(lines, str | Mapping) or not isinstance(lines, Iterable):
        raise InputError(f"lines: {kind_of(lines)} is no list of lines; give a list of strings")
    with naming_parameters(ltp='an object, load_segmenter("ltp", model="LTP/small")'):
        source = _segmenter_of(segmenter, tokenizer) if isinstance(segmenter, str) else segmenter
        if isinstance(source, type) or not hasattr(source, "segment"):
            found = f"segmenter: {kind_of(source)} is no segmenter"
            raise InputError(f"{found}; give a name, or an object of a wordmask.Segmenter")
        references = (
            line_positions(tokenizer, source, batch, mixed_words, flag="--tokenizer")
            for batch in batches(_strings(lines))
        )
        return [*chain.from_iterable(references)]


def _segmenter_of(name: str, tokenizer: PreTrainedTokenizerBase) -> Segmenter:
    """The segmenter of this name. A dictionary takes a second to load, so a process keeps what has no options."""
    _, parameters = check_segmenter(name)
    if ":" in name or "tokenizer" in parameters:
        return make_segmenter(name, tokenizer)
    return _kept(name)


@cache
def _kept(name: str) -> Segmenter:
    return make_segmenter(name)


def _strings(lines: Iterable[Any]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if not isinstance(line, str):
            raise InputError(f"lines: number {number} is {kind_of(line)}; give strings")
        if not line.isascii() and (half := LONE_SURROGATE.search(line)):
            raise InputError(f"lines: number {number} holds {half[0]!r} without its other half; remove it")
        yield line


@dataclass(frozen=True)
class LineReferences:
    """The references of a batch of lines, as `continuations` needs them.

    Attributes:
        positions: the positions of each line.
        name_line: gives the name of a line by its index in the batch, for messages: `7 of the text`.
        classic: (lines,) whether a reference comes from a file without provenance. The classic script matches words
            against tokens. So it may join tokens that have white space, or characters that the tokenizer removes,
            between them. We leave out such positions, and those that join text that is not Chinese.
        any_script: (lines,) whether words may have characters of any script.
        decides: (lines,) whether a reference decides every border in `SCRIPTS`, see `Provenance`.
        flag: the flag that names the references, for an error message.
    """

    positions: Sequence[Sequence[int]]
    name_line: Callable[[int], str]
    classic: NDArray[np.bool_]
    any_script: NDArray[np.bool_]
    decides: NDArray[np.bool_]
    flag: str

    def decided(self, characters: Characters) -> NDArray[np.bool_]:
        """(characters,) Where the references decide, see `Encodings.with_words`."""
        return characters.decided_on(self.decides)

    def place(self, index: int) -> str:
        """Where a position comes from, by its index among all positions of the batch."""
        line = bisect.bisect_right([*accumulate(map(len, self.positions))], index)
        return f"position {[*chain(*self.positions)][index]} of the reference for line {self.name_line(line)}"

    def refuse(self, wrong: NDArray[np.bool_], why: str) -> None:
        """Raise an `InputError` for the first wrong position; `wrong` is (positions,)."""
        if wrong.any():
            raise InputError(
                f"{self.flag}: {self.place(int(np.argmax(wrong)))} {why}; "
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
        (tokens,) Whether each token continues a word; and the indices of the positions that are left out.

    Raises:
        InputError: if a position is out of range, a special token, the first token of its line, or not above the one
            before it. In a file with provenance also if white space is before the token, or if it joins text that is
            neither Chinese nor decided by the file, although the file has no words of mixed script. The error names
            the line and the position.
    """
    counts = np.fromiter(map(len, references.positions), np.int64, len(references.positions))
    largest = 2**63 - 1  # JSON has no bounds for integers, arrays have
    bounded = (max(min(position, largest), -largest) for position in chain(*references.positions))
    positions = np.fromiter(bounded, np.int64, counts.sum())
    line = np.repeat(np.arange(len(counts)), counts)  # (positions,) counts 2, 0, 1 give 0 0 2
    unordered = (np.diff(positions, prepend=-1) <= 0) & (np.diff(line, prepend=-1) == 0)
    exact, refuse = ~references.classic[line], references.refuse

    index = positions - prefix  # (positions,) in their line
    refuse((positions < 0) | (index > tokens.lengths[line]), "is out of range")
    refuse((index < 0) | (index == tokens.lengths[line]), "is a special token")
    token = tokens.line_starts[line] + index  # (positions,) in the batch
    refuse(special[token], "is a special token")
    refuse(index == 0, "is the first token of its line, so not joined to a token before it")
    refuse(unordered, "is not above the position before it")

    # A token cannot continue a word if white space is before it. The running count of white space shows this: in
    # `ab c` it is 0 0 1 1, so white space is between b (0) and c (1).
    spaces = np.cumsum(tokens.characters.white_space)
    left_out = spaces[tokens.first[token]] != spaces[tokens.last[token - 1]]
    left_out |= special[token - 1]
    refuse(left_out & exact, "is not joined to the token before it")
    # The same for characters of other scripts, from the last one of the token before to the first one of this.
    foreign = tokens.characters.foreign & ~references.decided(tokens.characters)
    foreign_count = np.concatenate([[0], np.cumsum(foreign)])
    foreign = foreign_count[tokens.first[token] + 1] != foreign_count[tokens.last[token - 1]]
    foreign &= ~references.any_script[line]
    says = "joins text that is not Chinese in a file that says neither that it decides this script"
    refuse(foreign & exact, f"{says} nor that it holds mixed words")
    left_out |= foreign
    continues = np.zeros(len(tokens.ids), bool)
    continues[token[~left_out]] = True
    return continues, np.flatnonzero(left_out)
