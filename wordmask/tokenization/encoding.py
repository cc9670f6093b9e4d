"""The tokens of lines, and which characters each token covers."""

from __future__ import annotations

import hashlib
import inspect
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordmask.segmenters.tokenizer import word_identity
from wordmask.tokenization.words import Characters
from wordmask.utils.arrays import BoolArray, IntArray, starts_of

NO_LIMIT = 10**6  # tokens: for no limit, transformers saves a very large number


def special_ids(tokenizer) -> IntArray:
    """The ids of special tokens, also of those added as special, but not of `[UNK]`, which stands for text."""
    added = [token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special]
    names = ("bos", "eos", "sep", "pad", "cls", "mask")
    roles = {getattr(tokenizer, f"{name}_token_id") for name in names} - {None}
    unknown = {tokenizer.unk_token_id} - roles
    return np.array(sorted({*tokenizer.all_special_ids, *added, *roles} - unknown), np.int64)


def vocabulary_size(tokenizer) -> int:
    """The largest id of a tokenizer plus one: the size that an embedding of its tokens needs.

    `len(tokenizer)` counts entries. These are fewer if a `vocab.txt` repeats an entry or leaves out ids: the entries
    a, b, a have the ids 1 and 2, so two entries need an embedding of size three.
    """
    ids = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return max(ids) + 1


def length_limit(tokenizer) -> int | None:
    """The longest sequence that a tokenizer allows, in tokens; `None` without a limit."""
    return tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None


def special_affixes(tokenizer) -> tuple[list[int], list[int]]:
    """The ids of the special tokens that a tokenizer puts before and after a text, such as `[CLS]` and `[SEP]`."""
    if tokenizer.is_fast:
        with untruncated(tokenizer.backend_tokenizer):
            encoding = tokenizer.backend_tokenizer.encode("a")
        ids, special = encoding.ids, encoding.special_tokens_mask
    else:
        encoding = tokenizer("a", return_special_tokens_mask=True)
        ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
    text = [position for position, is_special in enumerate(special) if not is_special]
    return (ids[: text[0]], ids[text[-1] + 1 :]) if text else (ids[:1], ids[1:])


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


class Backend:
    """The backend of a fast tokenizer, for `tokenize` in a worker process.

    A worker that gets this needs no import of transformers, which takes seconds.

    Args:
        tokenizer: a fast tokenizer that can be serialized, see `serialized`.
    """

    is_fast = True

    def __init__(self, tokenizer):
        self.backend_tokenizer = tokenizer.backend_tokenizer
        self.added_tokens_decoder = tokenizer.backend_tokenizer.get_added_tokens_decoder()


def serialized(component: Any) -> dict[str, Any] | None:
    """The backend of a tokenizer, or a component of it, as JSON; `None` if a part is written in Python (RoFormer)."""
    try:
        return json.loads(component.__getstate__())
    except Exception as error:  # the library has no exception type of its own
        if "serialized" not in str(error):
            raise
        return None


def python_state(tokenizer: Any) -> dict[str, Any]:
    """What decides about the tokens of a tokenizer that runs in Python."""
    parameters = inspect.signature(type(tokenizer).__init__).parameters.values()
    options = {
        one.name: str(tokenizer.init_kwargs.get(one.name, one.default))
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD and one.name != "self" and not one.name.endswith("_file")
    }
    pieces = [getattr(part, "sp_model", None) for part in (tokenizer, getattr(tokenizer, "subword_tokenizer", None))]
    models = [hashlib.sha256(model.serialized_model_proto()).hexdigest() for model in pieces if model]
    return {
        "model": [tokenizer.get_vocab(), [*getattr(tokenizer, "bpe_ranks", ())], models],
        "added_tokens": [repr(token) for token in tokenizer.added_tokens_decoder.values()],
        "normalizer": options,
        "pre_tokenizer": word_identity(tokenizer),
    }


_one_thread = threading.RLock()


@contextmanager
def untruncated(backend: Any) -> Iterator[None]:
    """Turn truncation and padding of a tokenizer's backend off, and afterwards on again as the user has set them.

    This takes a microsecond. A copy of a tokenizer with a large vocabulary would take half a second. Only one thread
    at a time encodes, or it would turn truncation on again while another one encodes; each uses all cores anyway.
    """
    with _one_thread:
        truncation, padding = backend.truncation, backend.padding
        backend.no_truncation()
        backend.no_padding()
        try:
            yield
        finally:
            if truncation:
                backend.enable_truncation(**truncation)
            if padding:
                backend.enable_padding(**padding)


def encode_lines(tokenizer, characters: Characters) -> Encodings:
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
