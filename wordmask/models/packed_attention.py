"""Attention inside each document of a batch: by masks, or by the bounds of the documents in a flat batch.

Architectures and implementations of attention need different masks: boolean, additive, or one for each kind of layer.
transformers makes most of them. Implementations that take the bounds of documents need none. We try each form, and
keep the first one that gives each document the same logits as alone.

Where another implementation of attention is refused: config/flag_checks.py refuses --pack_sequences with flex
attention before anything is loaded, since that trains on few devices only. Every other implementation is tried here.
If no form works, choose_forward.py refuses it. So for another implementation, drop the check there and add its mask to
`FORMS` here, or to `FLAT_FORMS` if it takes `cu_seq_lens_q`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)

from wordmask.models.positions import beyond_window, first_position_of, position_limits
from wordmask.models.probing import close, first_that_works, some_ids

Mask = Any  # the value of attention_mask: a tensor, a block mask, or one of these for each kind of layer


def _by_layer(**inputs: Any) -> Mask:
    return {
        "full_attention": create_bidirectional_mask(**inputs),
        "sliding_attention": create_bidirectional_sliding_window_mask(**inputs),
    }


Form = Callable[..., Mask]
FORMS: tuple[Form, ...] = (_by_layer, create_bidirectional_mask)


@dataclass(frozen=True)
class LayerMask:
    """How the mask is made that a model's layers get.

    Attributes:
        form: makes it.
        config: the model's configuration.
        dtype: the type of the model's weights.
    """

    form: Form
    config: PreTrainedConfig
    dtype: torch.dtype

    def mask(self, like: torch.Tensor, **options: Any) -> Mask:
        """The mask of a batch of the shape of `like`, (batch, length), on its device."""
        embeddings = torch.empty((*like.shape, 1), dtype=self.dtype, device=like.device)  # only its shape is read
        return self.form(config=self.config, inputs_embeds=embeddings, **options)


@dataclass(frozen=True)
class PackedAttention(LayerMask):
    """How a model keeps the documents of a packed sequence apart.

    Attributes:
        first_position: the first position of each document.
    """

    first_position: int

    def inputs(self, sequence_ids: torch.Tensor) -> dict[str, Mask]:
        """The attention mask and the positions of a packed batch.

        Args:
            sequence_ids: (batch, length), the number of each token's document in its sequence; padding is one more
                document. The tokens of a document stand next to each other.
        """
        # (batch, length): the place of each token in its document, which is its place less that of the first token
        # there. Ids 1 1 1 2 2 have first places 0 0 0 3 3, so the places 0 1 2 3 4 become 0 1 2 0 1.
        places = torch.arange(sequence_ids.shape[1], device=sequence_ids.device)
        begins = torch.nn.functional.pad(sequence_ids[:, 1:] != sequence_ids[:, :-1], (1, 0))
        positions = places - (places * begins).cummax(1).values
        same_document = packed_sequence_mask_function(sequence_ids)
        mask = self.mask(sequence_ids, attention_mask=None, and_mask_function=same_document)
        return {"attention_mask": mask, "position_ids": positions + self.first_position}


# Without a mask at all, the layers with sliding attention would get the mask of a whole batch, which nothing uses.
FLAT_FORMS: tuple[Mask, ...] = ({"full_attention": None, "sliding_attention": None}, None)


@dataclass(frozen=True)
class FlatAttention:
    """How a model keeps the documents of a flat batch apart, whose bounds its layers are given.

    Attributes:
        mask: stands for no mask.
        first_position: the first position of each document.
    """

    mask: Mask
    first_position: int

    def inputs(self, position_ids: torch.Tensor) -> dict[str, Mask]:
        """The attention mask and the positions of a flat batch.

        Args:
            position_ids: (1, tokens), the position of each token in its document, from 0.
        """
        return {"attention_mask": self.mask, "position_ids": position_ids + self.first_position}


def packed_attention(model: PreTrainedModel, longest: int | None = None) -> PackedAttention | Exception:
    """How this model keeps documents apart, so that each has the same logits as alone; or why it cannot.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        longest: the tokens of the longest sequence; `None` if it may have any length.
    """
    first = first_position_of(model)
    forms = (PackedAttention(form, model.config, model.dtype, first) for form in FORMS)
    return first_that_works(model, forms, lambda attention: _agrees(model, attention.inputs, longest))


def flat_attention(model: PreTrainedModel) -> FlatAttention | Exception:
    """The same for flat batches, in evaluation and in training.

    Args:
        model: a masked language model whose implementation of attention takes bounds, which is left as it is.
    """
    first = first_position_of(model)
    forms = (FlatAttention(mask, first) for mask in FLAT_FORMS)
    return first_that_works(model, forms, partial(_agrees_and_trains, model))


def _agrees_and_trains(model: PreTrainedModel, attention: FlatAttention) -> bool:
    """Whether a flat batch gives the same logits, and has gradients, which a kernel may lack; dropout changes them."""
    agrees = _agrees(model, lambda sequence_ids: _flat_inputs(attention, sequence_ids))
    model.train()
    ids = some_ids(model, 1, 4)
    with torch.enable_grad():
        model(input_ids=ids, **_flat_inputs(attention, torch.ones_like(ids))).logits.float().sum().backward()
    return agrees


def _flat_inputs(attention: FlatAttention, sequence_ids: torch.Tensor) -> dict[str, Any]:
    """What a model gets for one flat sequence of documents with these numbers."""
    sizes = sequence_ids.unique_consecutive(return_counts=True)[1]
    positions = torch.cat([torch.arange(size, device=sizes.device) for size in sizes.tolist()])[None]
    bounds = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).int()
    lengths = {f"max_length_{side}": int(sizes.max()) for side in "qk"}
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, **lengths, **attention.inputs(positions)}


def _agrees(
    model: PreTrainedModel, inputs: Callable[[torch.Tensor], dict[str, Any]], longest: int | None = None
) -> bool:
    """Whether two documents, packed with padding, get the same logits as each alone.

    The longer one is longer than the window of layers with sliding attention, if sequences can be so long.

    Args:
        model: the model.
        inputs: what it gets, beside ids, for a sequence of documents with these numbers.
        longest: see `packed_attention`.
    """
    limits = [limit - 7 for limit in position_limits(model)]
    sizes = [min([beyond_window(model, longest and max(longest - 7, 3)), *limits]), 5, 2]
    ids = some_ids(model, 1, sum(sizes))
    sequence_ids = torch.arange(3, device=ids.device).repeat_interleave(torch.tensor(sizes, device=ids.device))[None]
    packed = model(input_ids=ids, **inputs(sequence_ids)).logits
    pairs = zip(ids.split(sizes, dim=1), packed.split(sizes, dim=1), strict=True)
    return all(close(logits, model(input_ids=alone).logits) for alone, logits in pairs)
