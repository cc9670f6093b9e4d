"""The sums that go from layer to layer in half precision, with --no_residual_in_fp32.

Autocast computes norms in single precision, and leaves their results so. What a layer adds has half precision, but the
sum, the residual stream, is in single precision again: it takes twice the memory, also where a norm keeps it for the
backward pass, and twice the time to read. Here norms compute as before, and their results are rounded. Then these sums
have half precision, too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from wordmask.models.compilation import repeated_layers
from wordmask.models.probing import Unfit, hooked, some_ids


def _rounded(states: Any) -> Any:
    """Tensors in the type of autocast, if that is on; all else as it is."""
    if not isinstance(states, torch.Tensor) or not states.is_floating_point():
        return states
    device = states.device.type
    return states.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else states


def _norms(model: PreTrainedModel) -> list[nn.Module]:
    """By their name: some architectures have norms of their own, such as RMS norms."""
    return [module for module in model.modules() if type(module).__name__.endswith("Norm")]


class HalfResidual:
    """Rounds the results of a model's norms, and what its layers get: some embeddings have no norm (ESM, EuroBERT).

    Nothing changes outside of autocast.

    Args:
        model: gets hooks.
    """

    def __init__(self, model: PreTrainedModel):
        self.handles = [norm.register_forward_hook(lambda *call: _rounded(call[-1])) for norm in _norms(model)]
        self.handles += [
            layer.register_forward_pre_hook(lambda _, arguments: tuple(map(_rounded, arguments)))
            for layer in repeated_layers(model)
        ]

    def remove(self) -> None:
        """Take the hooks away again."""
        for handle in self.handles:
            handle.remove()


def halve_residual(model: PreTrainedModel) -> HalfResidual | Exception:
    """Give a model its residual stream in half precision, wherever autocast is on; else say why it cannot have it.

    Args:
        model: a masked language model, in any mode.
    """
    return hooked(model, HalfResidual(model), lambda: _is_halved(model))


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
