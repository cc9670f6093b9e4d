"""The tokens of lines, and which characters each token covers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from wordmask.tokenization.backend import Tokenizer, untruncated
from wordmask.tokenization.words import SPACE, Characters
from wordmask.utils.arrays import BoolArray, IntArray, starts_of


@dataclass
class Encodings:
    """The encodings of a batch of lines, without special tokens, in one array for all lines.

    Attributes:
        ids: (tokens,) token ids.
        lengths: (lines,) the number of tokens of each line.
        first, last: (tokens,) each token's first and last visible character, as indices into `characters`. A token
            without a visible character (a lone `▁`) has the next visible one, or the end of its line, so it belongs to
            the word after it.
        characters: the characters of the lines.
    """

    ids: NDArray[np.integer]
    lengths: IntArray
    first: IntArray
    last: IntArray
    characters: Characters

    @classmethod
    def of_spans(
        cls, ids: NDArray[np.integer], lengths: IntArray, starts: IntArray, ends: IntArray, characters: Characters
    ) -> Encodings:
        """Encodings of tokens that cover these spans of `characters`.

        Tokens that share a character, as the bytes of one character do, all have a span with this character.

        Args:
            ids: (tokens,) token ids.
            lengths: (lines,) the number of tokens of each line.
            starts, ends: (tokens,) the index of each token's first character, and the index after its last one.
            characters: the characters of the lines.
        """
        return cls(ids, lengths, *characters.visible_in(starts, ends), characters)

    @property
    def line_starts(self) -> IntArray:
        """(lines,) The index of each line's first token."""
        return starts_of(self.lengths)

    @cached_property
    def continues(self) -> BoolArray:
        """(tokens,) Whether a token continues the word of the token before it, by the rule for text.

        In `walked,` with the tokens `walk ed ,` only `ed` does. A token that spans two words joins them.
        """
        return self.continuations(self.characters.word_ids)

    def continuations(self, word_ids: NDArray[np.integer]) -> BoolArray:
        """(tokens,) Which tokens continue the word of the token before them, given the word of each character.

        For 我中国 with the word ids 0 2 2 and a token for each character: [False, False, True].

        Args:
            word_ids: (characters,) the id of each character's word. The id 0 joins nothing.
        """
        word_of_first, word_of_last = word_ids[self.first], word_ids[self.last]
        continues = np.zeros(len(self.ids), bool)
        continues[1:] = (word_of_first[1:] == word_of_last[:-1]) & (word_of_first[1:] > 0)
        continues[self.line_starts[self.lengths > 0]] = False
        return continues

    def with_words(self, joined: BoolArray, decided: BoolArray) -> BoolArray:
        """(tokens,) Which tokens continue the word of the token before them, given those that a source of words joins.

        Where the source decides, it replaces the rule for text. Elsewhere tokens are joined by either of them. In
        `กินข้าว` with a token for each word, the rule joins the second one. If `joined` does not, it begins a word.

        Args:
            joined: (tokens,) which tokens continue a word by the source.
            decided: (characters,) where the source decides.
        """
        replaced = decided[self.first]
        replaced[1:] |= decided[self.last[:-1]]
        # White space at the end of a line belongs to the word before it. Its token has the line end.
        replaced &= self.characters.classes[self.first] != SPACE
        return joined | (self.continues & ~replaced)


def set_apart(continues: BoolArray, special: BoolArray) -> BoolArray:
    """Which tokens continue a word when special tokens belong to no word: not these, and not the tokens after them.

    Args:
        continues: (tokens,) which tokens continue a word by their characters.
        special: (tokens,) which tokens are special.
    """
    continues = continues & ~special
    continues[1:] &= ~special[:-1]
    return continues


def encode_lines(tokenizer: Tokenizer, characters: Characters) -> Encodings:
    """Encode lines as they are, without special tokens."""
    backend = tokenizer.backend_tokenizer
    with untruncated(backend):
        encodings = backend.encode_batch(characters.lines, add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    count = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, count)
    offsets = chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings))
    # (2, tokens): offsets count from the start of a line, so we add the index of the line's first character.
    starts, ends = np.fromiter(offsets, np.int64, 2 * count).reshape(-1, 2).T + np.repeat(
        characters.line_starts, lengths
    )
    return Encodings.of_spans(ids, lengths, starts, ends, characters)
