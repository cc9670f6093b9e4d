"""The sums that go from layer to layer in half precision, with --no_residual_in_fp32.

Autocast computes norms in single precision, and leaves their results so. What a layer adds has half precision, but the
sum, the residual stream, is in single precision again: it takes twice the memory, also where a norm keeps it for the
backward pass, and twice the time to read. Here norms compute as before, and their results are rounded. Then these sums
have half precision, too.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from wordmask.models.autocast import autocast_dtype
from wordmask.models.compilation import repeated_layers
from wordmask.models.probing import Unfit, some_ids, why_not


def _rounded(states: Any) -> Any:
    """Tensors in the type of autocast, if that is on; all else as it is."""
    if not isinstance(states, torch.Tensor) or not states.is_floating_point():
        return states
    return states.to(autocast_dtype(states))


def _norms(model: PreTrainedModel) -> list[nn.Module]:
    """By their name: some architectures have norms of their own, such as RMS norms."""
    return [module for module in model.modules() if type(module).__name__.endswith("Norm")]


def _round_result(norm: nn.Module, arguments: tuple[Any, ...], result: Any) -> Any:
    return _rounded(result)


def _round_states(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    # The states come first. A mask behind them must not be rounded: its lowest number would become infinite.
    return (*map(_rounded, arguments[:1]), *arguments[1:])


_handles: WeakKeyDictionary[nn.Module, list[RemovableHandle]] = WeakKeyDictionary()  # of the hooks of each model


def restore_residual(model: PreTrainedModel) -> None:
    """Take the hooks of a model away again, if it has any."""
    for handle in _handles.pop(model, []):
        handle.remove()


def halve_residual(model: PreTrainedModel) -> Exception | None:
    """Give a model its residual stream in half precision, wherever autocast is on; if it cannot have it, say why.

    Hooks round the results of its norms, and what its layers get: some embeddings have no norm (ESM, EuroBERT).

    Args:
        model: a masked language model, in any mode.
    """
    restore_residual(model)
    handles = [norm.register_forward_hook(_round_result) for norm in _norms(model)]
    handles += [layer.register_forward_pre_hook(_round_states) for layer in repeated_layers(model, least=1)]
    _handles[model] = handles
    reason = why_not(model, lambda: _is_halved(model))
    if reason is not None:
        restore_residual(model)
    return reason


def _is_halved(model: PreTrainedModel) -> bool:
    """Whether most norms get half precision; the one of BERT's embeddings never does."""
    halves: list[bool] = []
    handles = [
        norm.register_forward_pre_hook(lambda _, arguments: halves.append(arguments[0].dtype.itemsize == 2))
        for norm in _norms(model)
    ]
    try:
        with torch.autocast(model.device.type, torch.bfloat16):
            model(input_ids=some_ids(model, 2, 8))
    finally:
        for handle in handles:
            handle.remove()
    if 2 * sum(halves) <= len(halves):
        raise Unfit("most of its norms get single precision")
    return True
