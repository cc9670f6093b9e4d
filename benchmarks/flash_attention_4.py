"""Attention by the bounds of documents with the kernels of the package flash-attn-4, as operations of PyTorch.

PyTorch's own way to these kernels (`activate_flash_attention_impl`) refuses windows before 2.13, and does not fit
newer versions of the package, whose functions return more. As operations, they go through `torch.compile` whole.
"""

from __future__ import annotations

from typing import Any

import torch

Output = tuple[torch.Tensor, torch.Tensor]
Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _kernels() -> Any:
    from flash_attn.cute import interface

    return interface


def _settings(bounds: torch.Tensor, longest: int, scale: float, reach: int) -> dict[str, Any]:
    """What both passes get; a reach of -1 is no window."""
    window = None if reach < 0 else reach
    return {
        "cu_seqlens_q": bounds,
        "cu_seqlens_k": bounds,
        "max_seqlen_q": longest,
        "max_seqlen_k": longest,
        "softmax_scale": scale,
        "window_size_left": window,
        "window_size_right": window,
    }


@torch.library.custom_op("wordmask_trials::attend", mutates_args=())
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float,
    reach: int,
) -> Output:
    """(tokens, heads, size) The output, and (heads, tokens) the logarithms of the sums of the scores."""
    settings = _settings(bounds, longest, scale, reach)
    output, sums, *_ = _kernels()._flash_attn_fwd(query, key, value, **settings, return_lse=True)
    return output, sums.contiguous()


@_attend.register_fake
def _(query: torch.Tensor, *more: Any) -> Output:
    return query.new_empty(query.shape), query.new_empty(query.shape[1::-1], dtype=torch.float32)


@torch.library.custom_op("wordmask_trials::attend_backward", mutates_args=())
def _backward(
    gradient: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    output: torch.Tensor,
    sums: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float,
    reach: int,
) -> Gradients:
    settings = _settings(bounds, longest, scale, reach)
    found = _kernels()._flash_attn_bwd(query, key, value, output, gradient, sums, **settings)
    return found[0], found[1], found[2]


@_backward.register_fake
def _(gradient: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any) -> Gradients:
    return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Output) -> None:
    query, key, value, bounds, *ctx.settings = inputs
    ctx.save_for_backward(query, key, value, *output, bounds)


def _gradients(ctx: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    found = _backward(gradient.contiguous(), *ctx.saved_tensors, *ctx.settings)
    return (*found, None, None, None, None)


_attend.register_autograd(_gradients, setup_context=_keep)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scale: float | None,
    reach: tuple[int, int] | None,
) -> torch.Tensor:
    """(tokens, heads, size) The same as `by_document` of wordmask/models/varlen_attention.py."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return _attend(query, key, value, bounds, longest, scale, -1 if reach is None else reach[0])[0]
