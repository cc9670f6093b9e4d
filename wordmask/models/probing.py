"""Trying out on numbers what a model can take, instead of keeping a list of architectures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch


@torch.no_grad()
def why_not(model: Any, check: Callable[[], bool]) -> str | None:
    """Why a check of a model fails, `None` where it holds; any architecture may take offence in a way of its own.

    Args:
        model: a model in any mode, which is left as it is; the check sees it without dropout, gradients and TF32.
        check: compares what the model gives.
    """
    training, precision = model.training, torch.backends.fp32_precision  # type: ignore[attr-defined]
    model.eval()
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        return None if check() else "the numbers differ"
    except Exception as error:
        return type(error).__name__
    finally:
        torch.backends.fp32_precision = precision  # type: ignore[attr-defined]
        model.train(training)


def close(found: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor | None = None) -> bool:
    """Whether two tensors of one shape agree but for rounding, as a share of their scale.

    In double precision, too, single precision is asked for, since some layers round to it on the way. Small numbers
    have a share of 1; but not in half precision, where that would say nothing of them.
    """
    precision = max(torch.finfo(expected.dtype).eps, torch.finfo(torch.float32).eps)
    scale = expected.abs().max() if scale is None else scale
    half = precision > 1e-5
    bound = 4 * precision * scale if half else 100 * precision * scale.clamp(min=1)
    return found.shape == expected.shape and bool((found - expected).abs().max() <= bound)


def some_ids(model: Any, *shape: int) -> torch.Tensor:
    """Ids of many different tokens, none of a vocabulary's first ten, where special ones are."""
    weight = model.get_input_embeddings().weight
    numbers = torch.arange(math.prod(shape), device=weight.device)
    return (numbers * 7 % (min(weight.shape[0], 1000) - 10) + 10).reshape(shape)
