"""Trying out on numbers what a model can take, instead of keeping a list of architectures."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


@contextlib.contextmanager
def unchanged(model: Any) -> Iterator[None]:
    """Undo all that passes through a model leave behind, so that a run is the same with and without them.

    That is its gradients, the state of random generators, and what modules keep: I-BERT the range of its activations,
    and BigBird goes over to full attention for good when it meets a short sequence.
    """
    modules = [(module, _held(vars(module))) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type in ("cuda", "xpu")}
    kind = next((device.type for device in devices), "cuda")
    try:
        with torch.random.fork_rng([device.index or 0 for device in devices], device_type=kind):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for module, held in modules:
            for value, entries in held.values():
                if entries is not None:  # the same dictionary: a hook's handle refers to the one that it is in
                    value.clear()
                    value.update(entries)
            vars(module).clear()
            vars(module).update({name: value for name, (value, _) in held.items()})
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        model.zero_grad(set_to_none=True)


def _held(attributes: dict[str, Any]) -> dict[str, tuple[Any, dict | None]]:
    """The attributes of a module, each with a copy of its entries where it is a dictionary."""
    return {name: (value, dict(value) if isinstance(value, dict) else None) for name, value in attributes.items()}


@torch.no_grad()
def why_not(model: Any, check: Callable[[], bool]) -> str | None:
    """Why a check of a model fails, `None` where it holds; each architecture fails in its own way.

    Args:
        model: a model in any mode, which is left as it is; the check sees it without dropout, gradients and TF32.
        check: compares what the model gives.
    """
    precision = torch.backends.fp32_precision  # type: ignore[attr-defined]
    torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        with unchanged(model):
            model.eval()
            return None if check() else "the numbers differ"
    except Exception as error:
        return type(error).__name__
    finally:
        torch.backends.fp32_precision = precision  # type: ignore[attr-defined]


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
    """Ids of many different tokens, none of a vocabulary's first ten (or first half), where special ones are."""
    most = min(embedded_ids(model), 1000)
    first = min(10, most // 2)  # the letters of DNA and BERT's special tokens are nine entries
    numbers = torch.arange(math.prod(shape), device=model.device)
    return (numbers * 7 % (most - first) + first).reshape(shape)


def embedded_ids(model: Any) -> int:
    """The ids that a model has an embedding for.

    Where DeepSpeed has divided the weight, its shape does not say; Perceiver gives its latents in place of a module.
    """
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, torch.Tensor):
        return model.config.vocab_size
    return getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0]
