"""The mask of padding, made without looking at it.

In each batch, transformers looks whether there is padding at all, and a GPU is waited for. The collator knows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from wordmask.models.packed_attention import FORMS, Form, Mask
from wordmask.models.positions import beyond_window, position_limits
from wordmask.models.probing import close, some_ids, why_not

LONGEST_TRIAL = 10_000  # the most tokens of a trial, for a model with a wide window


@dataclass(frozen=True)
class PaddingMask:
    """The mask that a model's layers get where a batch has padding.

    Attributes:
        form: makes it.
        config: the model's configuration.
        dtype: the type of the model's weights.
    """

    form: Form
    config: PreTrainedConfig
    dtype: torch.dtype

    def of(self, attention_mask: torch.Tensor) -> Mask:
        """The mask for an `attention_mask`, (batch, length), which is 0 for padding."""
        like = torch.empty((*attention_mask.shape, 1), dtype=self.dtype, device=attention_mask.device)
        # Only the last one keeps transformers from looking at the mask.
        inputs = {"config": self.config, "inputs_embeds": like, "attention_mask": attention_mask}
        return self.form(**inputs, allow_is_bidirectional_skip=False)


def padding_mask(model: PreTrainedModel, longest: int | None = None) -> PaddingMask | None:
    """The mask with which this model has the logits that `attention_mask` gives; `None` if it takes none.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        longest: the tokens of the longest sequence; `None` if it may have any length.
    """
    for form in FORMS:
        mask = PaddingMask(form, model.config, model.dtype)
        if why_not(model, partial(_agrees, model, mask, longest)) is None:
            return mask
    return None


def _agrees(model: PreTrainedModel, mask: PaddingMask, longest: int | None) -> bool:
    """Whether a batch with padding and one without have the same logits as with their `attention_mask`."""
    ids = some_ids(model, 2, min(beyond_window(model, longest), *position_limits(model), LONGEST_TRIAL))
    attended = torch.ones_like(ids)
    whole = model(input_ids=ids, attention_mask=attended).logits
    attended[1, ids.shape[1] // 2 :] = 0
    shown = attended > 0
    expected = model(input_ids=ids, attention_mask=attended).logits[shown]
    found = model(input_ids=ids, attention_mask=mask.of(attended)).logits[shown]
    return close(found, expected) and close(model(input_ids=ids).logits, whole)
