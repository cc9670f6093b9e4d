"""The special tokens of a tokenizer, the size of its vocabulary, and its longest sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wordmask.tokenization.backend import Backend, Tokenizer, untruncated
from wordmask.utils.arrays import IntArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LIMIT = 10**6  # tokens: for no limit, transformers saves a very large number


def special_ids(tokenizer: Tokenizer) -> IntArray:
    """The ids of special tokens, also of those added as special, but not of `[UNK]`, which stands for text."""
    if isinstance(tokenizer, Backend):
        return tokenizer.special_ids
    added = [token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special]
    names = ("bos", "eos", "sep", "pad", "cls", "mask")
    roles = {getattr(tokenizer, f"{name}_token_id") for name in names} - {None}
    unknown = {tokenizer.unk_token_id} - roles
    return np.array(sorted({*tokenizer.all_special_ids, *added, *roles} - unknown), np.int64)


def vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """The largest id of a tokenizer plus one: the size that an embedding of its tokens needs.

    `len(tokenizer)` counts entries. These are fewer if a `vocab.txt` repeats an entry or leaves out ids: the entries
    a, b, a have the ids 1 and 2, so two entries need an embedding of size three.
    """
    ids = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder, *tokenizer.all_special_ids}
    return max(ids) + 1


def length_limit(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The longest sequence that a tokenizer allows, in tokens; `None` without a limit."""
    return tokenizer.model_max_length if tokenizer.model_max_length < NO_LIMIT else None


def special_affixes(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids of the special tokens that a tokenizer puts before and after a text, such as `[CLS]` and `[SEP]`."""
    if tokenizer.is_fast:
        with untruncated(tokenizer.backend_tokenizer):
            encoding = tokenizer.backend_tokenizer.encode("a")
        ids, special = encoding.ids, encoding.special_tokens_mask
    else:
        encoding = tokenizer("a", return_special_tokens_mask=True)  # type: ignore[operator]
        ids, special = encoding["input_ids"], encoding["special_tokens_mask"]
    text = [position for position, is_special in enumerate(special) if not is_special]
    return (ids[: text[0]], ids[text[-1] + 1 :]) if text else (ids[:1], ids[1:])
