"""The tokens of lines, and where in the text each of them lies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.tokenization.words import Characters
from wordmask.utils.errors import InputError


def special_ids(tokenizer) -> NDArray[np.int64]:
    """The ids of special tokens, also those added as special; but not of one that only stands for unknown text."""
    added = [index for index, token in tokenizer.added_tokens_decoder.items() if token.special]
    names = ("bos", "eos", "sep", "pad", "cls", "mask")
    roles = {getattr(tokenizer, f"{name}_token_id") for name in names} - {None}
    unknown = {tokenizer.unk_token_id} - roles
    return np.array(sorted({*tokenizer.all_special_ids, *added, *roles} - unknown), np.int64)


def vocabulary_size(tokenizer) -> int:
    """The largest id of a tokenizer plus one: the rows that an embedding of its tokens needs.

    `len(tokenizer)` counts entries, which are fewer where a `vocab.txt` repeats one or leaves ids out: entries a, b, a
    have the ids 1 and 2, so two entries need three rows.
    """
    ids = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return max(ids) + 1


def special_affixes(tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text, such as `[CLS]` and `[SEP]`."""
    if tokenizer.is_fast:
        encoding = whole(tokenizer).encode("a")
        ids, special = encoding.ids, encoding.special_tokens_mask
    else:
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
        first, last: (tokens,) each token's first and last visible character, as indices into `characters`. A token
            without one (a lone `▁`) has the next visible one, or the end of its line: it counts with the word behind.
        characters: the characters of the lines.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    characters: Characters

    @classmethod
    def at(
        cls, ids: NDArray[np.int32], lengths: NDArray[np.int64], offsets: NDArray[np.int64], characters: Characters
    ) -> TokenizedLines:
        """Tokens that lie at these places.

        Args:
            ids: (tokens,) token ids.
            lengths: (lines,) the number of tokens of each line.
            offsets: (tokens, 2) the characters of each token in its line, from the first to behind the last one;
                tokens that share a character, as bytes do, all have that character.
            characters: the characters of the lines.
        """
        first, last, _ = characters.visible_in(*(offsets.T + np.repeat(characters.line_starts, lengths)))
        return cls(ids, lengths, first, last, characters)

    @property
    def line_first(self) -> NDArray[np.int64]:
        """(lines,) The index of each line's first token."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """(tokens,) Whether a token continues the word of the one before it, by the rule for text.

        In `walked,` with the tokens `walk ed ,` only `ed` does. A token that spans two words joins them.
        """
        return self.joined(self.characters.words)

    def joined(self, character_words: NDArray[np.integer]) -> NDArray[np.bool_]:
        """(tokens,) Which tokens continue the word of the token before them, see `joined`."""
        return joined(character_words, self.first, self.last, self.lengths)


def joined(
    character_words: NDArray[np.integer], first: NDArray[np.int64], last: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(tokens,) Which tokens continue the word of the token before them, given each character's word.

    Args:
        character_words: (characters,) the number of each character's word; a word of number 0 joins nothing.
        first, last: (tokens,) each token's first and last visible character.
        lengths: (lines,) the number of tokens of each line.
    """
    start, end = character_words[first], character_words[last]
    continues = np.zeros(len(first), bool)
    continues[1:] = (start[1:] == end[:-1]) & (start[1:] > 0)
    line_first = (np.cumsum(lengths) - lengths)[lengths > 0]
    continues[line_first] = False
    return continues


def set_apart(continues: NDArray[np.bool_], special: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which tokens continue a word where special ones belong to none: neither they nor the tokens behind them do.

    Args:
        continues: (tokens,) which tokens continue a word by their characters.
        special: (tokens,) which tokens are special.
    """
    continues = continues & ~special
    continues[1:] &= ~special[:-1]
    return continues


def require_fast(tokenizer, flag: str, otherwise: str = "") -> None:
    """Raise an `InputError` where a tokenizer gives no offsets."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{flag}: {type(tokenizer).__name__} is a slow tokenizer and cannot tell where its tokens lie in the "
            f"text; give one with a tokenizer.json{otherwise}"
        )


class Backend:
    """The backend of a fast tokenizer by itself, for `tokenize`: quick to send to a process, where transformers, which
    takes seconds to import, is not needed.

    Args:
        tokenizer: a fast tokenizer that can be written down, see `backend_state`.
    """

    is_fast = True

    def __init__(self, tokenizer):
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.added_tokens_decoder = tokenizer.backend_tokenizer.get_added_tokens_decoder()


def backend_state(tokenizer) -> dict[str, Any] | None:
    """What a fast tokenizer consists of; `None` where a part is written in Python and cannot be told (RoFormer)."""
    try:
        return json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # the library raises no type of its own
        if "serialized" not in str(error):
            raise
        return None


def whole(tokenizer) -> Any:
    """The backend of a tokenizer, set to take texts whole."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def encode_lines(tokenizer, characters: Characters) -> TokenizedLines:
    """Lines encoded as they are."""
    encodings = whole(tokenizer).encode_batch(characters.lines, add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, total)
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings)), np.int64, 2 * total
    ).reshape(-1, 2)
    return TokenizedLines.at(ids, lengths, offsets, characters)
