"""A tokenizer's vocabulary: what masking needs to know of it, and how one is trained on the spot."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, DebertaTokenizer, PreTrainedTokenizerBase

from wordmask.tokenization.encoding import special_affixes, special_ids, vocabulary_size
from wordmask.utils.errors import InputError, one_line

logger = logging.getLogger(__name__)

# How tokenizers spell what has a role, for those that do not say which token has it.
SPELLINGS = {
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
}


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know of a tokenizer.

    Attributes:
        pad_token_id, mask_token_id: ids.
        maskable: (ids,) whether a token may be masked: all but special ones. The unknown token stands for
            text, so it belongs to a word and is masked with it.
        random_ids: the tokens that may stand in for another: neither special nor unknown, and no id without an entry.
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

        Tokens that are spelled like special ones are left alone, too. Without a padding token, padding is 0: no model
        attends to it, and it has no label.

        Raises:
            InputError: where it has no mask token.
        """
        entries, undeclared = tokenizer.get_vocab(), undeclared_roles(tokenizer)
        name = tokenizer.name_or_path or type(tokenizer).__name__
        lines = ", ".join(f'"{role}_token": "{token}"' for role, token in undeclared.items())
        if "mask" in undeclared:
            raise InputError(
                f"--tokenizer_name: {name} holds {undeclared['mask']} and does not say that it is the mask token; add "
                f"{lines} to its tokenizer_config.json"
            )
        if tokenizer.mask_token_id is None:
            raise InputError(
                f"--tokenizer_name: {name} has no mask token; choose the tokenizer of a masked language model"
            )
        if undeclared:
            logger.warning(
                "--tokenizer_name: %s holds special tokens and does not say so; add %s to its tokenizer_config.json",
                *(name, lines),
            )
        ids = np.unique(np.fromiter(entries.values(), np.int64))
        prefix, suffix = special_affixes(tokenizer)
        maskable = np.ones(vocabulary_size(tokenizer), bool)
        maskable[special_ids(tokenizer)] = False
        maskable[[*prefix, *suffix, *(entries[token] for token in undeclared.values())]] = False
        random_ids = ids[maskable[ids] & (ids != tokenizer.unk_token_id)]
        pad = tokenizer.pad_token_id
        if pad is None:
            pad = entries[undeclared["pad"]] if "pad" in undeclared else 0
        return cls(pad, tokenizer.mask_token_id, maskable, random_ids, prefix, suffix)


def undeclared_roles(tokenizer) -> dict[str, str]:
    """Tokens without a role that are spelled like special ones, by the role that no token has."""
    entries = tokenizer.get_vocab().keys() - tokenizer.all_special_tokens
    without = [role for role in SPELLINGS if getattr(tokenizer, f"{role}_token") is None]
    found = {role: next((token for token in SPELLINGS[role] if token in entries), None) for role in without}
    return {role: token for role, token in found.items() if token}


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
