"""Attention inside each document of a flat batch, by the bounds of the documents and without a mask.

A flat batch is one sequence of all its tokens. The kernels of `torch.nn.attention.varlen` compute each document alone,
so nothing grows with the square of the batch. They need a GPU and half precision, and have no attention dropout.
Elsewhere a loop over the documents gives the same numbers. A batch without bounds, such as one of an evaluation, gets
the masks and the attention of `sdpa`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from wordmask.config.model_arguments import VARLEN
from wordmask.models.autocast import autocast_dtype

# A window that is wider than any document: each token sees all of its document. FlashAttention computes this as
# attention without a window. But without one, PyTorch 2.14 and newer takes cuDNN's kernel on a GPU like an H100. An
# encoder trained several times slower with it: https://github.com/pytorch/pytorch/issues/187770
EVERYTHING = (1 << 30, 1 << 30)


class AttentionDropoutError(ValueError):
    """A model has attention dropout, which these kernels do not have."""


def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as `transformers.AttentionInterface` wants it.

    Args:
        module: the layer.
        query, key, value: (batch, heads, length, size); of a flat batch, (1, heads, tokens, size).
        attention_mask: used only without bounds.
        options: `cu_seq_lens_q`, (documents + 1,) int32, the bounds of the documents of a flat batch, 0 first;
            `max_length_q`, the tokens of the longest one; `scaling`, `dropout`, `sliding_window` and others.

    Returns:
        (batch, length, heads, size), and no weights.

    Raises:
        AttentionDropoutError: for a flat batch in a training with attention dropout.
    """
    bounds = options.get("cu_seq_lens_q")
    if bounds is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if options.get("dropout"):
        raise AttentionDropoutError("attention by bounds has no dropout")
    # transformers counts the token itself in a window, and the kernel does not: 5 there is 4 to each side here.
    reach = (options["sliding_window"] - 1,) * 2 if options.get("sliding_window") else None
    query, key, value = (_flat(states, query.shape[1]) for states in (query, key, value))
    # ModernBERT's value is a view of the one product that also holds the query and the key from before their rotation.
    # A copy lets go of these: the backward pass needs the value alone.
    value = value.contiguous()
    attend = _kernel if _has_kernel(query) else by_document
    return attend(query, key, value, bounds, options["max_length_q"], options.get("scaling"), reach)[None], None


def _has_kernel(query: torch.Tensor) -> bool:
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)


def _flat(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(tokens, heads, size) The states of a flat batch, in the type that autocast gives to a multiplication."""
    flat = states.transpose(1, 2).squeeze(0)  # the gradient of [0] would be a copy
    if flat.shape[1] < heads:  # several query heads share a head of keys and values
        flat = flat.repeat_interleave(heads // flat.shape[1], 1)
    return flat.to(autocast_dtype(flat))


def _kernel(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float | None,
    reach: tuple[int, int] | None,
) -> torch.Tensor:
    """The kernel of PyTorch; see `by_document`."""
    from torch.nn.attention.varlen import varlen_attn  # here, since it takes two seconds, and a CPU never needs it

    lengths = (bounds, bounds, longest, longest)
    return varlen_attn(query, key, value, *lengths, scale=scale, window_size=reach or EVERYTHING)  # type: ignore


@torch.compiler.disable
def by_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float | None = None,
    reach: tuple[int, int] | None = None,
) -> torch.Tensor:
    """(tokens, heads, size) Attention in one document after the other, on any device.

    Args:
        query, key, value: (tokens, heads, size).
        bounds: (documents + 1,) where documents begin and end: 0 3 3 5 is three tokens, none, and two.
        longest: the tokens of the longest document. The kernel needs it.
        scale: of the scores; by default, one over the root of the size.
        reach: how many tokens before and after itself a token sees; `None` for all of its document.
    """
    outputs = []
    for begin, end in pairwise(bounds.tolist()):
        q, k, v = (states[begin:end].transpose(0, 1)[None] for states in (query, key, value))
        mask = None
        if reach is not None:
            place = torch.arange(end - begin, device=query.device)
            after = place[None] - place[:, None]  # by how much the key comes after the query
            mask = (after >= -reach[0]) & (after <= reach[1])
        if end > begin:
            outputs.append(scaled_dot_product_attention(q, k, v, mask, scale=scale)[0].transpose(0, 1))
    return torch.cat(outputs)


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, sdpa_mask)
