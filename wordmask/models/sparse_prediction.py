"""Sparse prediction: the head and the loss at the labelled positions only.

Only about 15 % of the positions have a label, yet a masked-LM head multiplies every position by the whole vocabulary.
A forward hook on the base model keeps only the rows of `last_hidden_state` that are asked for, so that the model's own
forward computes head and loss on those alone: no code for any architecture, and nothing that is saved with a model.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from wordmask.models.probing import close, some_ids, why_not

logger = logging.getLogger(__name__)


class SparsePrediction:
    """The hook on a model; it does nothing outside of `at`.

    Args:
        model: a masked language model of transformers.
    """

    def __init__(self, model: Any):
        self._positions: torch.Tensor | None = None
        self._handle = model.base_model.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self._positions is None:
            return None
        hidden = output["last_hidden_state"] if isinstance(output, dict) else output[0]
        # (batch, length, hidden) becomes (1, positions, hidden), one sequence; of 2 × 8, position 9 is [1, 1].
        kept = hidden.reshape(-1, hidden.shape[-1])[self._positions][None]
        if isinstance(output, dict):
            output["last_hidden_state"] = kept
            return output
        return (kept, *output[1:])

    @contextlib.contextmanager
    def at(self, positions: torch.Tensor) -> Iterator[None]:
        """Let the model predict at these flat positions of (batch × length) only, as one row of so many tokens."""
        self._positions = positions
        try:
            yield
        finally:
            self._positions = None

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()


def sparse_prediction(model: Any, length: int = 8) -> SparsePrediction | None:
    """Hook a model for sparse prediction, if it then gives the same loss and logits; `None`, with a warning, if not.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        length: the tokens in each of the two rows that are tried.
    """
    sparse = SparsePrediction(model)
    reason = why_not(model, lambda: _agrees(model, sparse, length))
    if reason is None:
        return sparse
    sparse.remove()
    logger.warning("--sparse_prediction: %s predicts at every position (%s)", type(model).__name__, reason)
    return None


def _agrees(model: Any, sparse: SparsePrediction, length: int) -> bool:
    """Whether a model's loss and logits at some positions are those of all positions."""
    ids = some_ids(model, 2, length)
    positions = torch.tensor([1, 3, length + 2], device=ids.device)
    labels = torch.full_like(ids, -100)
    labels.view(-1)[positions] = ids.view(-1)[positions]
    whole = model(input_ids=ids, labels=labels)
    with sparse.at(positions):
        part = model(input_ids=ids, labels=labels.view(-1)[positions][None])
    expected = whole.logits.reshape(-1, whole.logits.shape[-1])[None, positions]
    scale = torch.maximum(expected.abs().max(), whole.loss.abs())
    return close(part.logits, expected) and close(part.loss, whole.loss, scale)
