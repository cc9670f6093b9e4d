"""The tokens of lines, and where in the text each of them lies."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from wordmask.errors import InputError
from wordmask.words import CHINESE, CHINESE_BLOCKS, Characters

# The characters of these blocks that `tokenizers` does not set apart, though BERT does.
_LEFT_TOGETHER = range(0x2B820, 0x2B920)
_APART = "".join(f"{chr(first + 256 * (first in _LEFT_TOGETHER))}-{chr(last)}" for first, last in CHINESE_BLOCKS)


def special_affixes(tokenizer) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text, such as `[CLS]` and `[SEP]`."""
    if tokenizer.is_fast:
        encoding = _whole(tokenizer).encode("a")
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
        attached: (tokens,) whether the tokenizer does not divide a token from the one before it.
        first, last: (tokens,) each token's first and last visible character, as indices into `characters`.
        characters: the characters of the lines.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    attached: NDArray[np.bool_]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    characters: Characters

    @property
    def line_first(self) -> NDArray[np.int64]:
        """(lines,) The index of each line's first token."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def continues(self) -> NDArray[np.bool_]:
        """(tokens,) Whether a token continues the word of the one before it, as the tokenizer has it."""
        return self.joined(self.characters.words) & self.attached

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


def require_fast(tokenizer, flag: str, otherwise: str = "") -> None:
    """Raise an `InputError` where a tokenizer gives no offsets."""
    if not tokenizer.is_fast:
        raise InputError(
            f"{flag}: {type(tokenizer).__name__} is a slow tokenizer and cannot tell where its tokens lie in the "
            f"text; give one with a tokenizer.json{otherwise}"
        )


def tokenize(tokenizer, lines: Sequence[str]) -> TokenizedLines:
    """Tokenize lines as they stand, uncut and without special tokens, and find each token's word.

    Args:
        tokenizer: a fast tokenizer of transformers.
        lines: the text.

    Raises:
        InputError: where the tokenizer gives no offsets.
    """
    require_fast(tokenizer, "--tokenizer_name", ", or use --masking_strategy token")
    characters = Characters(lines)
    encode = _Runs.of(tokenizer)
    encoded, lengths = encode(tokenizer, characters) if encode else _encode_lines(tokenizer, lines, characters)

    first = characters.next_visible[encoded.starts]
    # A token without visible text (a lone `▁`) stands for the word that follows it.
    visible = first < encoded.ends
    last = np.where(visible, characters.last_visible[encoded.ends - 1], first)
    attached = np.zeros(len(first), bool)
    attached[1:] = (encoded.words[1:] == encoded.words[:-1]) | ~visible[:-1]
    return TokenizedLines(encoded.ids, lengths, attached, first, last, characters)


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


def _added_tokens(tokenizer) -> Any:
    """What tells when tokens were added to a tokenizer, also such as its vocabulary had already."""
    return {index: repr(token) for index, token in tokenizer.added_tokens_decoder.items()}


class _Encoded(NamedTuple):
    """Tokens as the backend has them, one array for all: ids, first character, character behind the last, and a
    number that tokens of one pre-tokenized word share."""

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    words: NDArray[np.int64]

    def shifted(self, by: Any) -> _Encoded:
        return _Encoded(self.ids, self.starts + by, self.ends + by, self.words + by)


def _whole(tokenizer) -> Any:
    """The backend of a tokenizer, set to take texts whole."""
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


def _encode(tokenizer, texts: Sequence[str]) -> tuple[_Encoded, NDArray[np.int64]]:
    """The tokens of each text, and their number."""
    encodings = _whole(tokenizer).encode_batch(list(texts), add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
    total = int(lengths.sum())
    ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int64, total)
    offsets = np.fromiter(
        chain.from_iterable(chain.from_iterable(encoding.offsets for encoding in encodings)), np.int64, 2 * total
    ).reshape(-1, 2)
    words = [*chain.from_iterable(encoding.word_ids for encoding in encodings)]
    if None in words:  # special tokens in the text
        words = [-1 if word is None else word for word in words]
    return _Encoded(ids, offsets[:, 0], offsets[:, 1], np.array(words, np.int64)), lengths


def _encode_lines(tokenizer, lines: Sequence[str], characters: Characters) -> tuple[_Encoded, NDArray[np.int64]]:
    """Lines encoded as they are."""
    encoded, lengths = _encode(tokenizer, lines)
    return encoded.shifted(np.repeat(characters.line_starts, lengths)), lengths


class _Runs:
    """Encoding for tokenizers that make every Chinese character a word of its own, as BERT's do.

    Such a tokenizer never sees beyond a Chinese character or a space, so each character and what stands between two of
    them can be encoded by itself, once: there are few distinct ones. Ten times as fast on Chinese text, twice on
    English, and a test holds it equal to encoding whole lines.
    """

    _known: WeakKeyDictionary[Any, tuple[Any, _Runs | None]] = WeakKeyDictionary()
    _most = 200_000  # characters that are remembered, at least one for a run

    def __init__(self, spaced: bool) -> None:
        self.spaced = spaced  # whether there are added tokens with white space in them, which spaces may not divide
        self.characters = np.full(CHINESE_BLOCKS[-1][1] + 1, -1, np.int64)  # tokens by code point
        self._forget()

    def _forget(self) -> None:
        """Begin an empty memory: each run's number, where its tokens begin and end, and the tokens."""
        self.numbers: dict[str, int] = {}
        self.held = 0
        self.edges = np.zeros(1, np.int64)
        self.memory = _Encoded(*(np.zeros(0, np.int64) for _ in _Encoded._fields))

    @classmethod
    def of(cls, tokenizer) -> _Runs | None:
        """The encoder of a tokenizer, with what it remembers; `None` where the tokenizer is not of that kind."""
        known, added = cls._known.get(tokenizer), _added_tokens(tokenizer)
        if known is None or known[0] != added:
            contents = "".join(token.content for token in tokenizer.added_tokens_decoder.values())
            spaced = bool(re.search(r"\s", contents))
            known = cls._known[tokenizer] = added, cls(spaced) if cls._applies(tokenizer) else None
        return known[1]

    @staticmethod
    def _applies(tokenizer) -> bool:
        state = backend_state(tokenizer)
        if state is None:
            return False
        normalizer, divider, model = (state.get(name) or {} for name in ("normalizer", "pre_tokenizer", "model"))
        contents = [token["content"] for token in state["added_tokens"]]
        plain = not any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in state["added_tokens"])
        return (
            normalizer.get("type") == "BertNormalizer"
            and normalizer.get("handle_chinese_chars") is True
            and divider.get("type") == "BertPreTokenizer"
            and model.get("type") == "WordPiece"
            and model.get("unk_token") in model.get("vocab", ())
            and plain
            and all(content == content.strip() for content in contents)
            and not re.search(f"[{_APART}\\n]", "".join(contents))
        )

    def __call__(self, tokenizer, characters: Characters) -> tuple[_Encoded, NDArray[np.int64]]:
        points = characters.code_points
        together = (points >= _LEFT_TOGETHER.start) & (points < _LEFT_TOGETHER.stop)
        apart = (characters.classes == CHINESE) & ~together
        places = np.flatnonzero(apart)
        single = _Encoded(self._ids(tokenizer, points[places]), places, places + 1, places)
        divides = apart | (points == ord("\n")) | (points == ord(" ")) & (not self.spaced)
        starts = np.flatnonzero(~divides & np.concatenate([[True], divides[:-1]]))
        divided = np.where(divides, np.uint32(ord("\n")), points).tobytes().decode("utf-32-le", "surrogatepass")
        between = self._between(tokenizer, [*filter(None, divided.split("\n"))], starts)
        encoded = _Encoded(*map(np.concatenate, zip(single, between, strict=True)))
        order = np.argsort(encoded.starts, kind="stable")
        encoded = _Encoded(*(array[order] for array in encoded))
        return encoded, np.diff(np.searchsorted(encoded.starts, [*characters.line_starts, len(points)]))

    def _ids(self, tokenizer, code_points: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The token of each Chinese character."""
        ids = self.characters[code_points]
        if (ids < 0).any():
            unknown = np.unique(code_points[ids < 0])
            self.characters[unknown] = _encode(tokenizer, [*map(chr, unknown.tolist())])[0].ids
            ids = self.characters[code_points]
        return ids

    def _between(self, tokenizer, runs: Sequence[str], starts: NDArray[np.int64]) -> _Encoded:
        """The tokens of runs that begin at these characters."""
        if self.held > self._most:
            self._forget()
        numbers = np.fromiter(map(self.numbers.get, runs, repeat(-1)), np.int64, len(runs))
        if (numbers < 0).any():
            self._remember(tokenizer, [run for run in dict.fromkeys(runs) if run not in self.numbers])
            numbers = np.fromiter(map(self.numbers.__getitem__, runs), np.int64, len(runs))
        counts = (self.edges[1:] - self.edges[:-1])[numbers]
        ends = np.cumsum(counts)
        places = np.repeat(self.edges[numbers] - ends + counts, counts) + np.arange(counts.sum())
        return _Encoded(*(array[places] for array in self.memory)).shifted(np.repeat(starts, counts))

    def _remember(self, tokenizer, runs: Sequence[str]) -> None:
        """Encode runs; a word's number is where it starts in its run, so that in a line no two words share one."""
        encoded, lengths = _encode(tokenizer, runs)
        run = np.repeat(np.arange(len(runs)), lengths)
        begins = np.ones(len(run), bool)
        begins[1:] = (encoded.words[1:] != encoded.words[:-1]) | (run[1:] != run[:-1])
        word = np.maximum.accumulate(np.where(begins, np.arange(len(run)), 0))
        encoded = encoded._replace(words=encoded.starts[word])
        self.held += sum(map(len, runs))
        self.numbers |= zip(runs, range(len(self.numbers), len(self.numbers) + len(runs)), strict=True)
        self.edges = np.concatenate([self.edges, self.edges[-1] + np.cumsum(lengths)])
        self.memory = _Encoded(*map(np.concatenate, zip(self.memory, encoded, strict=True)))
