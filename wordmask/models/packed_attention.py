"""Attention inside each line of a row that holds several of them.

Each architecture and each implementation of attention wants such a mask in a form of its own: boolean, to be added, by
kind of layer. transformers makes most of them; which one a model takes is found by trying them on numbers.
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

Mask = Any  # what a model takes as attention_mask: a tensor, a block mask, or one of them for each kind of layer


def position_embeddings(model: Any) -> list[nn.Embedding]:
    """The tables of absolute positions of a model."""
    return [
        module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Embedding) and name.split(".")[-1] in ("position_embeddings", "embed_positions")
    ]


def first_position(embeddings: nn.Embedding) -> int:
    """The number of a line's first position: RoBERTa and its kin count from padding_idx + 1."""
    return 0 if embeddings.padding_idx is None else embeddings.padding_idx + 1


def _whole(config: Any, like: torch.Tensor, lines: torch.Tensor) -> Mask:
    return create_bidirectional_mask(config, like, None, and_mask_function=packed_sequence_mask_function(lines))


def _by_layer(config: Any, like: torch.Tensor, lines: torch.Tensor) -> Mask:
    inside = packed_sequence_mask_function(lines)
    return {
        "full_attention": create_bidirectional_mask(config, like, None, and_mask_function=inside),
        "sliding_attention": create_bidirectional_sliding_window_mask(config, like, None, and_mask_function=inside),
    }


FORMS: tuple[Callable[[Any, torch.Tensor, torch.Tensor], Mask], ...] = (_by_layer, _whole)


@dataclass(frozen=True)
class PackedAttention:
    """How a model keeps the lines of a row apart.

    Attributes:
        form: makes the mask.
        config: the model's configuration.
        first_position: the number of each line's first position.
        dtype: the type of the model's weights.
    """

    form: Callable[[Any, torch.Tensor, torch.Tensor], Mask]
    config: Any
    first_position: int
    dtype: torch.dtype

    def inputs(self, lines: torch.Tensor) -> dict[str, Mask]:
        """What a model needs besides the ids.

        Args:
            lines: (batch, length), the number of each position's line in its row; padding counts as one more line.
        """
        like = torch.empty((*lines.shape, 1), dtype=self.dtype, device=lines.device)
        # (batch, length): lines 1 1 1 2 2 give 0 1 2 0 1; tril(-1) keeps the pairs whose second place comes first.
        before = (lines[:, :, None] == lines[:, None, :]).tril(-1).sum(-1)  # positions of the same line
        return {
            "attention_mask": self.form(self.config, like, lines),
            "position_ids": before + self.first_position,
        }


def packed_attention(model: Any) -> PackedAttention | None:
    """How this model keeps lines apart; `None` where it cannot: a row must give the logits of its lines by themselves.

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
    """Whether two lines that share a row with padding get the logits that each gets by itself.

    The longer one is longer than the window of layers that see no further, as far as positions go.
    """
    window = getattr(model.config, "sliding_window", None) or 4
    room = min((table.num_embeddings - first_position(table) for table in position_embeddings(model)), default=10**6)
    sizes = [min(2 * window + 3, room - 7), 5, 2]
    ids = some_ids(model, 1, sum(sizes))
    lines = torch.arange(3, device=ids.device).repeat_interleave(torch.tensor(sizes, device=ids.device))[None]
    packed = model(input_ids=ids, **attention.inputs(lines)).logits
    pairs = zip(ids.split(sizes, dim=1), packed.split(sizes, dim=1), strict=True)
    return all(close(found, model(input_ids=line).logits) for line, found in pairs)
