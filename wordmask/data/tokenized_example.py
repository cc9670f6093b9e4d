"""An example of a user's tokenized dataset (Python API): check its columns, and find which tokens continue a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import filterfalse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.words import Characters
from wordmask.utils.errors import InputError, kind_of
from wordmask.utils.files import is_blank

NO_WORD = -1  # the word id of a special token; transformers has `None`
PER_TOKEN = ("attention_mask", "special_tokens_mask", "token_type_ids", "word_ids", "offset_mapping")  # columns


@dataclass
class TokenizedExample:
    """The tokens of an example, without padding at its ends.

    Attributes:
        ids: (length,) the token ids.
        columns: the other columns with a value for each token that the example has: (length,), or for
            `offset_mapping` (length, 2).
        texts: the text of the offsets, or the two texts of a pair.
        reference: (positions,) the positions of `chinese_ref`; `None` without it.
    """

    ids: NDArray[np.int64]
    columns: dict[str, NDArray[np.int64]]
    texts: list[str]
    reference: NDArray[np.int64] | None

    @classmethod
    def of(cls, example: Mapping[str, Any], padding: int | None, maskable: NDArray[np.bool_]) -> TokenizedExample:
        """Read an example.

        Args:
            example: an example of the dataset.
            padding: the id of padding; `None` if this token may also stand in a text.
            maskable: (ids,) whether a token is not special.

        Raises:
            InputError: if a column does not fit.
        """
        if example.get("input_ids") is None:
            columns_found = f"the columns {', '.join(example)}" if example else "no column"
            raise InputError(f"input_ids is missing in an example with {columns_found}; tokenize the dataset")
        ids = _array("input_ids", example["input_ids"])
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(maskable):
            unknown = ids[(ids < 0) | (ids >= len(maskable))][0]
            raise InputError(
                f"input_ids has {unknown}, which is not an id of this tokenizer; give the one that made the dataset"
            )
        texts = [example[name] for name in ("text", "text_pair") if isinstance(example.get(name), str)]
        names = [name for name in PER_TOKEN if example.get(name) is not None]
        columns = {name: _array(name, example[name]) for name in names if texts or name != "offset_mapping"}
        for name, column in columns.items():
            if len(column) != len(ids):
                raise InputError(f"{name} has {len(column)} entries for {len(ids)} input_ids; give one for each token")
        tokens = np.flatnonzero(columns.get("attention_mask", ids != padding))
        kept = slice(tokens[0], tokens[-1] + 1) if len(tokens) else slice(0)
        ids, columns = ids[kept], {name: column[kept] for name, column in columns.items()}
        return cls(ids, columns, texts, _reference(example, ids, maskable))

    @property
    def words_from(self) -> str:
        """The column that gives the words: `word_ids`, `offset_mapping` or `input_ids`."""
        return next((name for name in ("word_ids", "offset_mapping") if name in self.columns), "input_ids")


def _array(name: str, values: Any) -> NDArray[np.int64]:
    """A column as integers, with `NO_WORD` for `None`: (length,), or (length, 2) for `offset_mapping`.

    Raises:
        InputError: if it holds anything else, or has another shape.
    """
    try:
        array = values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
        if array.dtype.kind == "O":
            array = np.array([NO_WORD if value is None else value for value in array])
        if array.dtype.kind == "f":  # numpy and pandas make floats of numbers with None, and of an empty list
            array = np.nan_to_num(array, nan=NO_WORD)
        numbers = array.astype(np.int64)
        kinds = "iuf" if name == "input_ids" else "biuf"  # a mask may be of booleans
        are_whole = array.dtype.kind in kinds and (array == numbers).all()
    except (TypeError, ValueError):
        are_whole = False
    if not are_whole:
        found = f"{kind_of(values)}, {str(values)[:60]}"
        raise InputError(f"{name} is not a list of whole numbers, but {found}; give one for each example")
    pairs = name == "offset_mapping"
    numbers = numbers.reshape(0, 2) if pairs and not numbers.size else numbers
    if numbers.ndim != 1 + pairs or pairs and numbers.shape[1] != 2:
        raise InputError(f"{name} has the shape {numbers.shape}; give the values of one example, without a batch")
    return numbers


def _reference(
    example: Mapping[str, Any], ids: NDArray[np.int64], maskable: NDArray[np.bool_]
) -> NDArray[np.int64] | None:
    """The positions of `chinese_ref` that lie among these ids."""
    if example.get("chinese_ref") is None:
        return None
    positions = _array("chinese_ref", example["chinese_ref"])
    first = int(np.argmax(maskable[ids])) if maskable[ids].any() else 0  # the first token of the text
    wrong = (np.diff(positions, prepend=0) <= 0) | (positions <= first)
    if wrong.any():
        raise InputError(
            f"chinese_ref: {positions[np.argmax(wrong)]} in {positions.tolist()!s:.60} is no token that continues the "
            "word of the token before it; give the list that wordmask.make_references makes for this text"
        )
    inside = positions[positions < len(ids)]
    return inside[maskable[ids[inside - 1]]]  # after a special token, it is a position behind the end, too


def continues_by_word_ids(examples: Sequence[TokenizedExample], joined: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(tokens,) Whether a token continues a word: it has the same number as the token before it in its example.

    Args:
        examples: with `word_ids`.
        joined: (tokens,) which tokens continue a word by `chinese_ref`.
    """
    # Between two examples we put a special token: words 0 0 and 0 1 become 0 0 -1 0 1 -1.
    words = np.concatenate([np.append(example.columns["word_ids"], NO_WORD) for example in examples])
    continues = np.append(False, (words[1:] == words[:-1]) & (words[1:] > NO_WORD))
    ends = np.cumsum([len(example.ids) + 1 for example in examples]) - 1
    return np.delete(continues, ends) | joined


def continues_by_offsets(
    examples: Sequence[TokenizedExample], joined: NDArray[np.bool_], maskable: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """(tokens,) Whether a token continues a word, by the rule for text.

    Special tokens have the offsets `(0, 0)`. They stand around the texts of a pair:

        offsets     (0, 0)  (0, 4)  (4, 7)  (0, 0)  (0, 3)  (0, 0)
        begins      0       1       0       0       1       0

    Args:
        examples: with `offset_mapping`.
        joined: (tokens,) which tokens continue a word by `chinese_ref`.
        maskable: (ids,) whether a token is not special. Such a token can have the offsets `(0, 0)`, too: the space
            that a byte-level tokenizer puts before a text.
    """
    texts: list[str] = []
    referenced: list[bool] = []  # for each text, whether it has a `chinese_ref`
    begins = []  # for each example, whether a token is the first token of a text
    for example in examples:
        inside = np.any(example.columns["offset_mapping"] > 0, axis=1) | maskable[example.ids]
        begins.append(np.diff(inside.astype(int), prepend=0) > 0)
        count = np.count_nonzero(begins[-1])
        if count > len(example.texts):
            raise InputError(
                f"offset_mapping has {count} texts with special tokens between them, and the example has "
                f"{len(example.texts)}; give the other text as text_pair"
            )
        visible = [*filterfalse(is_blank, example.texts)]  # a blank text may have no token
        texts += visible if len(visible) == count else example.texts[:count]
        referenced += [example.reference is not None] * count
    offsets = np.concatenate([example.columns["offset_mapping"] for example in examples])
    ids = np.concatenate([example.ids for example in examples])
    inside = np.any(offsets > 0, axis=1) | maskable[ids]
    # (tokens in texts,) The number of each token's text: begins 1 0 1 0 0 give 0 0 1 1 1.
    text = np.cumsum(np.concatenate(begins))[inside] - 1
    ids, offsets = ids[inside], offsets[inside]
    characters = Characters(texts)
    is_after_end = offsets[:, 1] > characters.line_lengths[text]
    if is_after_end.any():
        wrong = texts[text[np.argmax(is_after_end)]]
        raise InputError(
            f"offset_mapping goes beyond the end of the text {wrong[:40]!r}; give the text that it is for"
        )
    continues = np.zeros(len(inside), bool)
    lengths = np.bincount(text, minlength=len(texts))
    starts, ends = offsets.T + characters.line_starts[text]
    encodings = Encodings.of_spans(ids, lengths, starts, ends, characters)
    continues[inside] = encodings.with_words(joined[inside], characters.decided_on(np.array(referenced, bool)))
    return continues
