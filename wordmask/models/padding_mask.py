"""The mask of padding, made without looking at the batch.

transformers looks for padding in each batch, so the CPU waits for the GPU. The collator already knows the answer.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers import PreTrainedModel

from wordmask.models.packed_attention import FORMS, LayerMask, Mask
from wordmask.models.positions import beyond_window, position_limits
from wordmask.models.probing import close, first_that_works, some_ids

LONGEST_TRIAL = 10_000  # the most tokens of a trial, for a model with a wide window


class PaddingMask(LayerMask):
    """The mask that a model's layers get where a batch has padding."""

    def inputs(self, attention_mask: torch.Tensor, is_padded: bool = True) -> dict[str, Mask]:
        """The mask for an `attention_mask`, (batch, length), which is 0 for padding; none without padding."""
        if not is_padded:
            return {"attention_mask": None}
        # Without this option, transformers looks at the mask.
        mask = self.mask(attention_mask, attention_mask=attention_mask, allow_is_bidirectional_skip=False)
        return {"attention_mask": mask}


def padding_mask(model: PreTrainedModel, longest: int | None = None) -> PaddingMask | Exception:
    """The mask with which this model has the logits that `attention_mask` gives; or why it takes none.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        longest: the tokens of the longest sequence; `None` if it may have any length.
    """
    forms = (PaddingMask(form, model.config, model.dtype) for form in FORMS)
    return first_that_works(model, forms, partial(_agrees, model, longest))


def _agrees(model: PreTrainedModel, longest: int | None, padding: PaddingMask) -> bool:
    """Whether a batch with padding and one without have the same logits as with their `attention_mask`."""
    ids = some_ids(model, 2, min(beyond_window(model, longest), *position_limits(model), LONGEST_TRIAL))
    attended = torch.ones_like(ids)
    whole = model(input_ids=ids, attention_mask=attended).logits
    attended[1, ids.shape[1] // 2 :] = 0
    shown = attended > 0
    expected = model(input_ids=ids, attention_mask=attended).logits[shown]
    found = model(input_ids=ids, **padding.inputs(attended)).logits[shown]
    return close(found, expected) and close(model(input_ids=ids).logits, whole)
