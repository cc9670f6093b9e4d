"""An example of a user's tokenized dataset (Python API): its columns, checked, and which tokens continue a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.words import Characters
from wordmask.utils.arrays import starts_of
from wordmask.utils.errors import InputError

NO_WORD = -1  # the word id of a special token, `None` in transformers


@dataclass
class TokenizedExample:
    """The tokens of an example, padding at its ends left out. All arrays are (length,).

    Attributes:
        ids: the tokens.
        attended: 1 where the model attends to a token.
        maskable: whether the example lets a token be masked.
        type_ids: its `token_type_ids`, if any.
        words: the number of each token's word, `NO_WORD` for special tokens, if `word_ids` gives it.
        offsets: (length, 2) where each token lies in its text, if there is a text.
        texts: that text, or the two of a pair.
        reference: the positions that `chinese_ref` adds, if any.
    """

    ids: NDArray[np.int64]
    attended: NDArray[np.int64]
    maskable: NDArray[np.bool_]
    type_ids: NDArray[np.int64] | None
    words: NDArray[np.int64] | None
    offsets: NDArray[np.int64] | None
    texts: list[str]
    reference: NDArray[np.int64] | None

    @classmethod
    def of(cls, example: Mapping[str, Any], padding: int | None, known: int) -> TokenizedExample:
        """Read an example.

        Args:
            example: what a dataset holds.
            padding: the id of padding, `None` where it may be a token of a text.
            known: ids are below this number.
        """
        if example.get("input_ids") is None:
            raise InputError(f"input_ids is missing in an example with {', '.join(example)}; tokenize the dataset")
        ids = _array("input_ids", example["input_ids"])
        if ids.ndim != 1:
            raise InputError(f"input_ids has the shape {ids.shape}; give the tokens of one example, without a batch")
        if len(ids) and not 0 <= ids.min() <= ids.max() < known:
            unknown = ids[(ids < 0) | (ids >= known)][0]
            raise InputError(
                f"input_ids holds {unknown}, which is not an id of this tokenizer; give the one that made the dataset"
            )
        column = partial(_column, example, len(ids))
        texts = [example[name] for name in ("text", "text_pair") if isinstance(example.get(name), str)]
        attended, special, type_ids = map(column, ("attention_mask", "special_tokens_mask", "token_type_ids"))
        words, offsets = column("word_ids"), column("offset_mapping") if texts else None
        places = np.flatnonzero(ids != padding if attended is None else attended)
        kept = slice(places[0], places[-1] + 1) if len(places) else slice(0)
        ids = ids[kept]
        return cls(
            ids,
            np.ones_like(ids) if attended is None else attended[kept],
            np.ones(len(ids), bool) if special is None else special[kept] == 0,
            None if type_ids is None else type_ids[kept],
            None if words is None else words[kept],
            None if offsets is None else offsets[kept],
            texts,
            _reference(example, len(ids)),
        )


def _array(name: str, values: Any) -> NDArray[np.int64]:
    """A column as whole numbers, `None` in it as `NO_WORD`.

    Raises:
        InputError: where it holds anything else.
    """
    array = values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
    try:
        if array.dtype.kind == "O":
            array = np.array([NO_WORD if value is None else value for value in array])
        if array.dtype.kind == "f":  # what numpy and pandas make of numbers with None, and of an empty list
            array = np.nan_to_num(array, nan=NO_WORD)
        return array.astype(np.int64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not a list of whole numbers: {str(values)[:60]}") from None


def _column(example: Mapping[str, Any], length: int, name: str) -> NDArray[np.int64] | None:
    """A column with a value for each token, `None` where the example has none."""
    if example.get(name) is None:
        return None
    array = _array(name, example[name])
    if len(array) != length:
        raise InputError(f"{name} has {len(array)} entries for {length} input_ids; give one for each token")
    return array


def _reference(example: Mapping[str, Any], length: int) -> NDArray[np.int64] | None:
    """The positions of `chinese_ref` that lie in an example of this length."""
    if example.get("chinese_ref") is None:
        return None
    positions = _array("chinese_ref", example["chinese_ref"])
    if (positions < 0).any():
        raise InputError(f"chinese_ref holds {positions.min()}, which is not a position; make_references gives them")
    return positions[positions < length]


def by_word_ids(examples: Sequence[TokenizedExample]) -> NDArray[np.bool_]:
    """(tokens,) Which tokens of these examples continue a word, as their `words` have it."""
    words = [example.words for example in examples if example.words is not None]
    flat, edges = np.concatenate(words), np.cumsum(list(map(len, words)))
    continues = np.append(False, (flat[1:] == flat[:-1]) & (flat[1:] > NO_WORD))[: len(flat)]
    continues[edges[edges < len(flat)]] = False
    return continues


def by_offsets(examples: Sequence[TokenizedExample]) -> NDArray[np.bool_]:
    """(tokens,) Which tokens of these examples continue a word, as their `offsets` and `texts` have it.

    Tokens at `(0, 0)`, the special ones, part the texts of a pair:

        offsets     (0, 0)  (0, 4)  (4, 7)  (0, 0)  (0, 3)  (0, 0)
        number      -       0       0       -       1       -
    """
    given = [example.offsets for example in examples if example.offsets is not None]
    offsets, sizes = np.concatenate(given), np.array(list(map(len, given)))
    inside: NDArray[np.bool_] = np.any(offsets > 0, axis=1)
    begins = inside & ~np.append(False, inside[:-1])[: len(inside)]
    first_tokens = starts_of(sizes)[sizes > 0]
    begins[first_tokens] = inside[first_tokens]
    counts = np.diff(np.append(0, np.append(0, np.cumsum(begins))[np.cumsum(sizes)]))
    texts: list[str] = []
    for example, count in zip(examples, counts.tolist(), strict=True):
        if count > len(example.texts):
            raise InputError(
                f"offset_mapping is of {count} texts, parted by special tokens, and the example has "
                f"{len(example.texts)}; give the other as text_pair"
            )
        texts += example.texts[:count]
    number, characters = np.cumsum(begins)[inside] - 1, Characters(texts)
    starts, ends = offsets[inside].T
    if (ends > characters.line_lengths[number]).any():
        text = texts[number[np.argmax(ends > characters.line_lengths[number])]]
        raise InputError(f"offset_mapping reaches behind the end of the text {text[:40]!r}; give the text of it")
    line_starts, lengths = characters.line_starts[number], np.bincount(number, minlength=len(texts))
    ids = np.concatenate([example.ids for example in examples])[inside]
    continues = np.zeros(len(offsets), bool)
    continues[inside] = Encodings.of_spans(
        ids, lengths, starts + line_starts, ends + line_starts, characters
    ).continues
    return continues
