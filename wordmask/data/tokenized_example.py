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
from wordmask.utils.errors import InputError
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
        reference: (positions,) the positions of `chinese_ref`.
    """

    ids: NDArray[np.int64]
    columns: dict[str, NDArray[np.int64]]
    texts: list[str]
    reference: NDArray[np.int64]

    @classmethod
    def of(cls, example: Mapping[str, Any], padding: int | None, vocabulary_size: int) -> TokenizedExample:
        """Read an example.

        Args:
            example: an example of the dataset.
            padding: the id of padding; `None` if this token may also stand in a text.
            vocabulary_size: ids are less than this.

        Raises:
            InputError: if a column does not fit.
        """
        if example.get("input_ids") is None:
            raise InputError(f"input_ids is missing in an example with {', '.join(example)}; tokenize the dataset")
        ids = _array("input_ids", example["input_ids"])
        if ids.ndim != 1:
            raise InputError(f"input_ids has the shape {ids.shape}; give the tokens of one example, without a batch")
        if len(ids) and not 0 <= ids.min() <= ids.max() < vocabulary_size:
            unknown = ids[(ids < 0) | (ids >= vocabulary_size)][0]
            raise InputError(
                f"input_ids has {unknown}, which is not an id of this tokenizer; give the one that made the dataset"
            )
        texts = [example[name] for name in ("text", "text_pair") if isinstance(example.get(name), str)]
        names = [name for name in PER_TOKEN if example.get(name) is not None]
        columns = {name: _array(name, example[name]) for name in names if texts or name != "offset_mapping"}
        if "offset_mapping" in columns and not len(ids):
            columns["offset_mapping"] = columns["offset_mapping"].reshape(0, 2)
        for name, column in columns.items():
            if len(column) != len(ids):
                raise InputError(f"{name} has {len(column)} entries for {len(ids)} input_ids; give one for each token")
        tokens = np.flatnonzero(columns.get("attention_mask", ids != padding))
        kept = slice(tokens[0], tokens[-1] + 1) if len(tokens) else slice(0)
        ids, columns = ids[kept], {name: column[kept] for name, column in columns.items()}
        return cls(ids, columns, texts, _reference(example, len(ids)))

    @property
    def words_from(self) -> str:
        """The column that gives the words: `word_ids`, `offset_mapping` or `input_ids`."""
        return next((name for name in ("word_ids", "offset_mapping") if name in self.columns), "input_ids")


def _array(name: str, values: Any) -> NDArray[np.int64]:
    """A column as integers, with `NO_WORD` for `None`.

    Raises:
        InputError: if it holds anything else.
    """
    array = values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
    try:
        if array.dtype.kind == "O":
            array = np.array([NO_WORD if value is None else value for value in array])
        if array.dtype.kind == "f":  # numpy and pandas make floats of numbers with None, and of an empty list
            array = np.nan_to_num(array, nan=NO_WORD)
        return array.astype(np.int64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not a list of whole numbers: {str(values)[:60]}") from None


def _reference(example: Mapping[str, Any], length: int) -> NDArray[np.int64]:
    """The positions of `chinese_ref` that lie in an example of this length."""
    if example.get("chinese_ref") is None:
        return np.zeros(0, np.int64)
    positions = _array("chinese_ref", example["chinese_ref"])
    if (positions < 0).any():
        raise InputError(f"chinese_ref has {positions.min()}, which is not a position; make it with make_references")
    return positions[positions < length]


def continues_by_word_ids(examples: Sequence[TokenizedExample]) -> NDArray[np.bool_]:
    """(tokens,) Whether a token continues a word: it has the same number as the token before it in its example."""
    # Between two examples we put a special token: words 0 0 and 0 1 become 0 0 -1 0 1 -1.
    words = np.concatenate([np.append(example.columns["word_ids"], NO_WORD) for example in examples])
    continues = np.append(False, (words[1:] == words[:-1]) & (words[1:] > NO_WORD))
    ends = np.cumsum([len(example.ids) + 1 for example in examples]) - 1
    return np.delete(continues, ends)


def continues_by_offsets(examples: Sequence[TokenizedExample], maskable: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(tokens,) Whether a token continues a word, by the rule for text.

    Special tokens have the offsets `(0, 0)`. They stand around the texts of a pair:

        offsets     (0, 0)  (0, 4)  (4, 7)  (0, 0)  (0, 3)  (0, 0)
        begins      0       1       0       0       1       0

    Args:
        examples: with `offset_mapping`.
        maskable: (ids,) whether a token is not special. Such a token can have the offsets `(0, 0)`, too: the space
            that a byte-level tokenizer puts before a text.
    """
    texts: list[str] = []
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
    continues[inside] = Encodings.of_spans(ids, lengths, starts, ends, characters).continues
    return continues
