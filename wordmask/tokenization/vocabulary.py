"""What masking needs to know about a tokenizer's vocabulary."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordmask.tokenization.special_tokens import special_affixes, special_ids, vocabulary_size
from wordmask.utils.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

# How tokenizers spell special tokens, for tokenizers that do not say which token has which role.
SPELLINGS = {
    "mask": ("[MASK]", "<mask>"),
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
}


@dataclass(frozen=True)
class Vocabulary:
    """What masking needs to know about a tokenizer.

    Attributes:
        pad_token_id, mask_token_id: ids.
        maskable: (ids,) whether a token may be masked: all but special ones. The unknown token stands for text, so it
            belongs to a word and is masked with it.
        random_ids: the ids that may replace a masked token: no special token, no unknown token, no id without an
            entry.
        prefix, suffix: the ids of the special tokens before and after a sequence.
    """

    pad_token_id: int
    mask_token_id: int
    maskable: NDArray[np.bool_]
    random_ids: NDArray[np.int64]
    prefix: Sequence[int] = ()
    suffix: Sequence[int] = ()

    @property
    def highest_used(self) -> int:
        """The highest id that a batch is sure to need: of text, masks, padding and the tokens around a text."""
        return max(int(self.random_ids.max()), self.mask_token_id, self.pad_token_id, *self.prefix, *self.suffix)

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, flag: str = "--tokenizer_name") -> Vocabulary:
        """The vocabulary of a tokenizer of transformers.

        Tokens that are spelled like special ones are not masked either. If there is no padding token, we pad with 0:
        no model attends to padding, and padding has no label. Messages begin with the flag that gave the tokenizer.

        Raises:
            InputError: if it has no mask token, or no token of text.
        """
        entries, undeclared = tokenizer.get_vocab(), undeclared_roles(tokenizer)
        name = tokenizer.name_or_path or type(tokenizer).__name__
        settings = ", ".join(f'"{role}_token": "{token}"' for role, token in undeclared.items())
        advice = f"add {settings} to its tokenizer_config.json"
        if mask := undeclared.get("mask"):
            raise InputError(f"{flag}: {name} does not say that {mask} is its mask token; {advice}")
        if tokenizer.mask_token_id is None:
            raise InputError(f"{flag}: {name} has no mask token; give that of a masked language model")
        if undeclared:
            logger.warning("%s: %s does not say that it has special tokens; %s", flag, name, advice)
        ids = np.unique(np.fromiter(entries.values(), np.int64))
        prefix, suffix = special_affixes(tokenizer)
        maskable = np.ones(vocabulary_size(tokenizer), bool)
        maskable[special_ids(tokenizer)] = False
        maskable[[*prefix, *suffix, *(entries[token] for token in undeclared.values())]] = False
        random_ids = ids[maskable[ids] & (ids != tokenizer.unk_token_id)]
        if not len(random_ids):  # transformers makes such a tokenizer of a directory that lacks tokenizer.json
            raise InputError(f"{flag}: {name} has special tokens only; check that its files are all there")
        pad = tokenizer.pad_token_id
        if pad is None:
            pad = entries.get(undeclared.get("pad", ""), 0)
        return cls(pad, tokenizer.mask_token_id, maskable, random_ids, prefix, suffix)


def undeclared_roles(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """For each role that no token has, a token that is spelled like it: {"mask": "[MASK]"}."""
    entries = tokenizer.get_vocab().keys() - tokenizer.all_special_tokens
    without = [role for role in SPELLINGS if getattr(tokenizer, f"{role}_token") is None]
    spelled = {role: next((token for token in SPELLINGS[role] if token in entries), None) for role in without}
    return {role: token for role, token in spelled.items() if token}
