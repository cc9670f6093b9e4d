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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from wordmask.errors import InputError

SPACE, EXTEND, LETTER, SYMBOL, CHINESE, FLAG = range(6)
_ZERO_WIDTH_JOINER = 0x200D
# The blocks that BERT's tokenizer treats as Chinese: each of their characters becomes a token of its own.
_CHINESE_BLOCKS = (
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
    return any(first <= ord(character) <= last for first, last in _CHINESE_BLOCKS)


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


class Characters:
    """The characters of a batch of lines, one array for all, with a separator behind each line."""

    def __init__(self, lines: Sequence[str]):
        self.line_lengths = np.fromiter(map(len, lines), np.int64, len(lines))
        self.line_starts = np.cumsum(self.line_lengths + 1) - self.line_lengths - 1
        joined = "\n".join([*lines, ""])
        self.code_points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")

    @cached_property
    def classes(self) -> NDArray[np.int8]:
        """The class of each character, see `character_class`."""
        distinct, index = np.unique(self.code_points, return_inverse=True)
        return np.array([character_class(int(point)) for point in distinct], np.int8)[index]

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


def special_affixes(tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text, such as `[CLS]` and `[SEP]`."""
    encoding = tokenizer("a", return_special_tokens_mask=True)
    ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
    text = [position for position, mark in enumerate(special) if not mark]
    return (ids[: text[0]], ids[text[-1] + 1 :]) if text else (ids[:1], ids[1:])


@dataclass
class TokenizedLines:
    """The tokens of a batch of lines, without special tokens, in one array for all.

    Attributes:
        ids: (tokens,) token ids.
        lengths: (lines,) the number of tokens of each line.
        continues: (tokens,) whether a token continues the word of the one before it, as the tokenizer has it.
        first, last: (tokens,) each token's first and last visible character, as indices into `characters`.
        characters: the characters of the lines.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    continues: NDArray[np.bool_]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    characters: Characters

    @property
    def line_first(self) -> NDArray[np.int64]:
        """(lines,) The index of each line's first token."""
        return np.cumsum(self.lengths) - self.lengths

    def joined(self, character_words: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(tokens,) Which tokens continue the word of the token before them, given each character's word.

        A word of number 0 joins nothing.
        """
        start, end = character_words[self.first], character_words[self.last]
        joined = np.zeros(len(self.ids), bool)
        joined[1:] = (start[1:] == end[:-1]) & (start[1:] > 0)
        starts = self.line_first
        joined[starts[starts < len(joined)]] = False
        return joined


def tokenize(tokenizer, lines: Sequence[str]) -> TokenizedLines:
    """Tokenize lines as they stand, uncut and without special tokens, and find each token's word.

    Args:
        tokenizer: a fast tokenizer of transformers.
        lines: the text.

    Raises:
        InputError: where the tokenizer gives no offsets.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"--tokenizer_name: {type(tokenizer).__name__} is a slow tokenizer and cannot tell where its tokens lie "
            "in the text; give one with a tokenizer.json, or use --masking_strategy token"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    encodings = backend.encode_batch(list(lines), add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64, total)
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings)), np.int64, 2 * total
    ).reshape(-1, 2)
    word_ids = np.fromiter(
        (-1 if word is None else word for encoding in encodings for word in encoding.word_ids), np.int64, total
    )

    characters = Characters(lines)
    offsets += np.repeat(characters.line_starts, lengths)[:, None]
    first = characters.next_visible[offsets[:, 0]]
    # A token without visible text (a lone `▁`) stands for the word that follows it.
    visible = first < offsets[:, 1]
    last = np.where(visible, characters.last_visible[offsets[:, 1] - 1], first)
    tokens = TokenizedLines(ids, lengths, np.zeros(total, bool), first, last, characters)
    tokens.continues = tokens.joined(characters.words)
    tokens.continues[1:] &= (word_ids[1:] == word_ids[:-1]) | ~visible[:-1]
    return tokens


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
    lengths = np.fromiter(
        chain.from_iterable(_pieces(characters, words, numbers or range(1, len(words) + 1))), np.int64
    )
    starts = np.cumsum(lengths) - lengths
    chinese, letter = characters.classes == CHINESE, characters.classes == LETTER
    if mixed:
        allowed = chinese | letter | (characters.classes == EXTEND)
        counts = np.logical_and.reduceat(allowed, starts) & np.logical_or.reduceat(chinese, starts)
    else:
        counts = np.logical_and.reduceat(chinese | (characters.classes == EXTEND), starts)
    return np.repeat(np.where(counts, np.arange(1, len(lengths) + 1), 0), lengths)


def _pieces(characters: Characters, words: Sequence[Sequence[str]], numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """For each line the lengths of the pieces that cover it: its words, what lies between them, the separator."""
    text = characters.code_points.tobytes().decode("utf-32-le", "surrogatepass")
    spans = zip(numbers, characters.line_starts.tolist(), characters.line_lengths.tolist(), words, strict=True)
    for number, start, length, line_words in spans:
        line = text[start : start + length]
        lengths = [len(word) for word in line_words if word]
        if "".join(line_words) != line:
            lengths = _locate(line, line_words, number)
        yield lengths
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
