"""Attention inside each document of a packed sequence.

Architectures and implementations of attention need different masks: boolean, additive, or one for each kind of layer.
transformers makes most of them. We try each one, and keep the first that gives each document
the same logits as alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)

from wordmask.models.probing import close, some_ids, why_not

Mask = Any  # the value of attention_mask: a tensor, a block mask, or one of these for each kind of layer


def position_embeddings(model: Any) -> list[nn.Embedding]:
    """The absolute position embeddings of a model."""
    return [
        module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("position_embeddings", "embed_positions")
    ]


def first_position(embeddings: nn.Embedding) -> int:
    """The first position of a text: RoBERTa and similar models count from padding_idx + 1."""
    return 0 if embeddings.padding_idx is None else embeddings.padding_idx + 1


def _whole(config: Any, like: torch.Tensor, sequence_ids: torch.Tensor) -> Mask:
    return create_bidirectional_mask(config, like, None, and_mask_function=packed_sequence_mask_function(sequence_ids))


def _by_layer(config: Any, like: torch.Tensor, sequence_ids: torch.Tensor) -> Mask:
    inside = packed_sequence_mask_function(sequence_ids)
    return {
        "full_attention": create_bidirectional_mask(config, like, None, and_mask_function=inside),
        "sliding_attention": create_bidirectional_sliding_window_mask(config, like, None, and_mask_function=inside),
    }


FORMS: tuple[Callable[[Any, torch.Tensor, torch.Tensor], Mask], ...] = (_by_layer, _whole)


@dataclass(frozen=True)
class PackedAttention:
    """How a model keeps the documents of a packed sequence apart.

    Attributes:
        form: makes the mask.
        config: the model's configuration.
        first_position: the first position of each document.
        dtype: the type of the model's weights.
    """

    form: Callable[[Any, torch.Tensor, torch.Tensor], Mask]
    config: Any
    first_position: int
    dtype: torch.dtype

    def inputs(self, sequence_ids: torch.Tensor) -> dict[str, Mask]:
        """The attention mask and the positions of a packed batch.

        Args:
            sequence_ids: (batch, length), the number of each token's document in its
                sequence; padding is one more document.
        """
        like = torch.empty((*sequence_ids.shape, 1), dtype=self.dtype, device=sequence_ids.device)
        # (batch, length): numbers 1 1 1 2 2 give 0 1 2 0 1, for each position the earlier ones of the same document:
        # tril(-1) keeps the pairs (position, earlier position).
        before = (sequence_ids[:, :, None] == sequence_ids[:, None, :]).tril(-1).sum(-1)
        return {
            "attention_mask": self.form(self.config, like, sequence_ids),
            "position_ids": before + self.first_position,
        }


def packed_attention(model: Any) -> PackedAttention | None:
    """How this model keeps documents apart, so that each has the same logits as alone; `None` if it cannot.

    Args:
        model: a masked language model, in any mode, which is left as it is.
    """
    first = max(map(first_position, position_embeddings(model)), default=0)
    for form in FORMS:
        attention = PackedAttention(form, model.config, first, model.dtype)
        if why_not(model, lambda attention=attention: _agrees(model, attention)) is None:  # type: ignore[misc]
            return attention
    return None


def _agrees(model: Any, attention: PackedAttention) -> bool:
    """Whether two documents, packed with padding, get the same logits as each alone.

    The longer one is longer than the window of layers with sliding attention, if the model has so many positions.
    """
    window = getattr(model.config, "sliding_window", None) or 4
    positions = min(
        (table.num_embeddings - first_position(table) for table in position_embeddings(model)), default=10**6
    )
    sizes = [min(2 * window + 3, positions - 7), 5, 2]
    ids = some_ids(model, 1, sum(sizes))
    sequence_ids = torch.arange(3, device=ids.device).repeat_interleave(torch.tensor(sizes, device=ids.device))[None]
    packed = model(input_ids=ids, **attention.inputs(sequence_ids)).logits
    pairs = zip(ids.split(sizes, dim=1), packed.split(sizes, dim=1), strict=True)
    return all(close(logits, model(input_ids=alone).logits) for alone, logits in pairs)
