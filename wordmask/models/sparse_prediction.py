"""Sparse prediction: the head and the loss at the labelled positions only.

Only about 15 % of the positions have a label, but a masked-LM head multiplies every position by the whole vocabulary.
A forward hook on the base model keeps only some positions of `last_hidden_state`, so the model's own forward computes
head and loss for these alone. This needs no code for an architecture, and nothing is saved with the model.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers import PreTrainedModel

from wordmask.masking import IGNORED
from wordmask.models.probing import close, hooked, named, or_none, some_ids
from wordmask.utils.errors import InputError, kind_of

logger = logging.getLogger(__name__)


def labelled_positions(labels: torch.Tensor) -> torch.Tensor:
    """(labelled,) The flat positions with a label; [[-100, 7], [-100, 9]] gives 1 3."""
    return labels.reshape(-1).ne(IGNORED).nonzero()[:, 0]


def last_hidden_state(output: Any) -> torch.Tensor:
    """The last hidden states among the outputs of an encoder."""
    return output["last_hidden_state"] if isinstance(output, dict) else output[0]


class SparsePrediction:
    """The hook on a model; it does nothing outside of `at`.

    Args:
        model: a masked language model of transformers.
    """

    def __init__(self, model: PreTrainedModel):
        self.positions: torch.Tensor | None = None
        self._handle = model.base_model.register_forward_hook(self._keep)

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if self.positions is None:
            return None
        hidden = last_hidden_state(output)
        # (batch, length, hidden) becomes (1, positions, hidden), one sequence; of 2 × 8, position 9 is [1, 1].
        kept = hidden.reshape(-1, hidden.shape[-1])[self.positions][None]
        if isinstance(output, dict):
            output["last_hidden_state"] = kept
            return output
        return (kept, *output[1:])

    @contextlib.contextmanager
    def at(self, positions: torch.Tensor) -> Iterator[None]:
        """Let the model predict at these flat positions of (batch × length) only, as one sequence of these tokens."""
        self.positions = positions
        try:
            yield
        finally:
            self.positions = None


def find_sparse_prediction(model: PreTrainedModel) -> SparsePrediction | None:
    """Hook a model for sparse prediction, if its loss and logits stay the same; `None`, with a warning, if not.

    Args:
        model: a masked language model, in any mode, which is left as it is.
    """
    sparse = _hook(model)
    if isinstance(sparse, Exception):
        name, reason = type(model).__name__, named(sparse)
        logger.warning("--sparse_prediction: %s predicts at every position (%s)", name, reason)
    return or_none(sparse)


def _hook(model: PreTrainedModel) -> SparsePrediction | Exception:
    """The hook on a model, or why the model cannot use it."""
    sparse = SparsePrediction(model)
    return hooked(model, sparse, lambda: _agrees(model, sparse))


@contextlib.contextmanager
def sparse_prediction(model: PreTrainedModel) -> Iterator[None]:
    """Let a model predict at labelled positions only, in any loop: the same loss in less time and memory.

        with wordmask.sparse_prediction(model):
            for batch in loader:
                loss = model(**batch).loss
                loss.backward()

    or `with wordmask.sparse_prediction(model): trainer.train()`. The model takes its usual inputs. Where `labels`
    are among them, its `logits` have the shape (1, labelled positions, vocabulary); without labels, nothing
    changes. `MlmTrainer` does this by itself. A copy of the model that is made inside, such as a moving average of its
    weights, goes on predicting so.

    Args:
        model: a masked language model of transformers, also one that is compiled, or wrapped for several
            processes.

    Raises:
        InputError: (a `ValueError`) if the model would have another loss.
    """
    is_model = isinstance(model, nn.Module)
    inner = extract_model_from_parallel(model, keep_torch_compile=False) if is_model else model
    if not isinstance(inner, PreTrainedModel):
        raise InputError(f"sparse_prediction: {kind_of(inner)} is no model of transformers; give one")
    if any(isinstance(getattr(hook, "__self__", None), _AtLabels) for hook in inner._forward_pre_hooks.values()):
        raise InputError("sparse_prediction: this model predicts at labelled positions already; use it as it is")
    sparse = _hook(inner)
    if isinstance(sparse, Exception):
        raise InputError(
            f"sparse_prediction: {type(inner).__name__} does not give the same loss at labelled positions alone "
            f"({named(sparse)}); use the model without it"
        )

    at_labels = _AtLabels(inner, sparse)
    try:
        yield
    finally:
        sparse.remove()
        at_labels.remove()


class _AtLabels:
    """The hooks that let a model predict at its labels. Methods, unlike local functions, are copied with a model.

    Args:
        model: a masked language model of transformers.
        sparse: the hook on its encoder.
    """

    def __init__(self, model: PreTrainedModel, sparse: SparsePrediction):
        self.sparse = sparse
        self._handles = [
            model.register_forward_pre_hook(self._keep_labelled, with_kwargs=True),
            model.register_forward_hook(self._keep_all, always_call=True),
        ]

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()

    def _keep_labelled(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        labels, ids = kwargs.get("labels"), kwargs.get("input_ids", args[0] if args else None)
        # Labels of another shape are those of the labelled positions already.
        if labels is None or (ids is not None and ids.shape != labels.shape):
            return None
        positions = self.sparse.positions = labelled_positions(labels)
        return args, kwargs | {"labels": labels.reshape(-1)[positions][None]}

    def _keep_all(self, *_: Any) -> None:
        self.sparse.positions = None


def _agrees(model: PreTrainedModel, sparse: SparsePrediction) -> bool:
    """Whether a model has the same loss and logits with sparse prediction and without."""
    ids = some_ids(model, 2, 8)
    positions = torch.tensor([1, 3, 10], device=ids.device)
    labels = torch.full_like(ids, IGNORED)
    labels.view(-1)[positions] = ids.view(-1)[positions]
    whole = model(input_ids=ids, labels=labels)
    with sparse.at(positions):
        part = model(input_ids=ids, labels=labels.view(-1)[positions][None])
    expected = whole.logits.reshape(-1, whole.logits.shape[-1])[None, positions]
    scale = torch.maximum(expected.abs().max(), whole.loss.abs())
    return close(part.logits, expected) and close(part.loss, whole.loss, scale)
