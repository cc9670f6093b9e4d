"""A tokenizer's vocabulary: what masking needs to know of it, and how one is trained on the spot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, DebertaTokenizer, PreTrainedTokenizerBase

from wordmask.tokenization.encoding import special_affixes, special_ids
from wordmask.utils.errors import InputError, one_line


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer.

    Attributes:
        pad_token_id, mask_token_id: ids.
        maskable: (ids,) whether a token may be masked: all but special ones. The unknown token stands for
            text, so it belongs to a word and is masked with it.
        random_ids: the tokens that may stand in for another: neither special nor unknown.
        prefix, suffix: the special tokens before and after a row.
    """

    pad_token_id: int
    mask_token_id: int
    maskable: NDArray[np.bool_]
    random_ids: NDArray[np.int64]
    prefix: Sequence[int] = ()
    suffix: Sequence[int] = ()

    @classmethod
    def of(cls, tokenizer) -> Vocabulary:
        """The vocabulary of a tokenizer of transformers.

        Raises:
            InputError: where it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            name = tokenizer.name_or_path or type(tokenizer).__name__
            raise InputError(
                f"--tokenizer_name: {name} has no mask token; choose the tokenizer of a masked language model"
            )
        ids = np.sort(np.fromiter(tokenizer.get_vocab().values(), np.int64))
        special = special_ids(tokenizer)
        maskable = np.ones(max(ids.max(), special.max()) + 1, bool)
        maskable[special] = False
        random_ids = ids[maskable[ids] & (ids != tokenizer.unk_token_id)]
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return cls(pad, tokenizer.mask_token_id, maskable, random_ids, *special_affixes(tokenizer))


def train_tokenizer(model_type: str, texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train the kind of tokenizer that goes with a model type; BERT's makes each Chinese character a token.

    A type that brings none of its own, such as ModernBERT, gets byte-level BPE with BERT's special tokens (DeBERTa's).

    Raises:
        InputError: where none can be trained on this text.
    """
    untrained: Any
    try:
        kind: Any = TOKENIZER_MAPPING[CONFIG_MAPPING[model_type]]
        untrained = kind()
    except (KeyError, ValueError, TypeError):
        untrained = DebertaTokenizer()
    try:
        trained = untrained.train_new_from_iterator(texts, vocab_size, show_progress=False)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise InputError(
            f"--vocab_size: no tokenizer of {vocab_size} entries can be trained for {model_type} ({one_line(error)}); "
            "give --tokenizer_name"
        ) from None
    trained.name_or_path = ""
    return trained
