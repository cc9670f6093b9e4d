"""Find out what a model can do by running it and comparing its outputs, without a list of architectures."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from transformers import PreTrainedModel

T = TypeVar("T")
H = TypeVar("H", bound="Hook")


class Hook(Protocol):
    """Something that is added to a model, and can be taken away again."""

    def remove(self) -> object:
        """Take it away."""


@contextlib.contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Undo what forward and backward passes change, so that a run is the same with and without them.

    These are gradients, random states, and attributes and buffers of modules: I-BERT stores the range of its
    activations, and BigBird switches to full attention after a short sequence and does not switch back.
    """
    modules = []  # the attributes of each, a copy of them, and copies of those that are dictionaries
    for module in model.modules():
        attributes = vars(module)
        entries = [(value, dict(value)) for value in attributes.values() if isinstance(value, dict)]
        modules.append((attributes, dict(attributes), entries))
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    states = random.getstate(), np.random.get_state()
    devices = {tensor.device for tensor in model.parameters() if tensor.device.type in ("cuda", "xpu")}
    device_type = next((device.type for device in devices), "cuda")
    try:
        with torch.random.fork_rng([device.index or 0 for device in devices], device_type=device_type):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for attributes, copy, entries in modules:
            # We fill the same dictionary objects again, since the handles of hooks refer to them.
            for changed, original in [*entries, (attributes, copy)]:
                changed.clear()
                changed.update(original)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        model.zero_grad(set_to_none=True)


class Unfit(Exception):  # noqa: N818 - it is a reason, and no error of a program
    """Why a model cannot do something, in words for a message."""


def named(reason: Exception) -> str:
    """A reason of `why_not`, for a message."""
    return str(reason) if isinstance(reason, Unfit) else type(reason).__name__


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Multiply single precision as it is, also where a user allows TF32.

    `torch.compile` writes down the precision for matrix products that holds when it compiles, and from then on they no
    longer follow the one for everything. So both are set.
    """
    everything: Any = torch.backends
    products: Any = torch.backends.cuda.matmul
    before, of_products = everything.fp32_precision, products.fp32_precision
    everything.fp32_precision = products.fp32_precision = "ieee"
    try:
        yield
    finally:
        everything.fp32_precision = before
        products.fp32_precision = "none" if of_products == before else of_products  # none: follow the other


@torch.no_grad()
def why_not(model: PreTrainedModel, check: Callable[[], bool]) -> Exception | None:
    """Why a check of a model fails; `None` if it succeeds. Any exception counts, since architectures fail differently.

    It is `Unfit` if the check says that numbers differ, and else what the check has raised. Only too little memory
    says nothing about the architecture, and is raised.

    Args:
        model: a model in any mode, which is left as it is. The check runs without TF32, and without
            dropout and gradients unless it turns these on.
        check: compares outputs of the model.
    """
    try:
        with without_tf32(), unchanged(model):
            model.eval()
            return None if check() else Unfit("the numbers differ")
    except Exception as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        return error.with_traceback(None)  # whose frames would keep tensors in memory


def close(actual: torch.Tensor, expected: torch.Tensor, scale: torch.Tensor | None = None) -> bool:
    """Whether two tensors have the same shape and differ only by rounding, relative to a scale.

    Double precision is compared like single precision, since some layers round to it. A scale below 1 counts as 1,
    but not in half precision, where small numbers would always pass.
    """
    precision = max(torch.finfo(expected.dtype).eps, torch.finfo(torch.float32).eps)
    scale = expected.abs().max() if scale is None else scale
    half = precision > 1e-5
    bound = 4 * precision * scale if half else 100 * precision * scale.clamp(min=1)
    return actual.shape == expected.shape and bool((actual - expected).abs().max() <= bound)


def first_that_works(model: PreTrainedModel, candidates: Iterable[T], check: Callable[[T], bool]) -> T | Exception:
    """The first candidate with which a check of a model succeeds; if none does, why the last one fails."""
    reason: Exception | None = None
    for candidate in candidates:
        reason = why_not(model, partial(check, candidate))
        if reason is None:
            return candidate
    assert reason is not None, "there is a candidate at least"
    return reason


def hooked(model: PreTrainedModel, hook: H, check: Callable[[], bool]) -> H | Exception:
    """A hook on a model, if a check succeeds; if not, it is removed, and we return why the check fails."""
    reason = why_not(model, check)
    if reason is None:
        return hook
    hook.remove()
    return reason


def or_none(found: T | Exception) -> T | None:
    """What was found; `None` in place of a reason why there is nothing."""
    return None if isinstance(found, Exception) else found


def some_ids(model: PreTrainedModel, *shape: int) -> torch.Tensor:
    """Ids of many different tokens, without the first ten (or the first half), which special tokens often have.

    The second one is the mask token, if the configuration says which that is: ESM scales embeddings by its share.
    """
    embedded = embedded_ids(model)
    end = min(embedded, 1000)
    start = min(10, end // 2)  # a vocabulary of BERT's special tokens and the letters of DNA has nine entries
    numbers = torch.arange(math.prod(shape), device=model.device)
    ids = numbers * 7 % (end - start) + start
    mask = getattr(model.config, "mask_token_id", None)
    if mask is not None and mask < embedded:
        ids[1:2] = mask
    return ids.reshape(shape)


def embedded_ids(model: PreTrainedModel) -> int:
    """The number of ids that a model has embeddings for.

    The weight's shape is not used if the module knows it, since DeepSpeed divides weights. Perceiver returns its
    latents instead of a module.
    """
    embeddings: Any = model.get_input_embeddings()
    if isinstance(embeddings, torch.Tensor):
        return model.config.vocab_size
    return getattr(embeddings, "num_embeddings", None) or embeddings.weight.shape[0]
