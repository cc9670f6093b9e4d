"""The loss of a head that ends in one linear layer, computed in that layer and in single precision.

Many models give their logits to `torch.nn.CrossEntropyLoss`. If the logits have half precision, it rounds each
log-probability to half precision, also inside autocast: a loss of 10.3 for a token becomes a multiple of 1/16. Other
models make the logits precise first, and keep them in memory twice. Here the layer itself returns the loss, in one of
two ways:

- `whole_loss` has the logits of all positions. `torch.compile` makes few kernels of it.
- `chunked_loss` never has all logits in memory: those of 5,000 positions over 50,000 tokens take 1 GB in single
  precision, and their gradients as much again. Each logit is computed twice for that. It needs torch 2.13. On a CPU it
  is many times slower, so it is for GPUs. In half precision, the loss of each position is rounded, but not their sum.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from wordmask.masking import IGNORED
from wordmask.models.autocast import autocast_dtype
from wordmask.models.probing import Unfit, close, hooked, some_ids

ALIGNED = 8  # the fast matrix kernels of GPUs read 16 bytes at a time, which are 8 numbers in half precision


def mean_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """() The mean loss of labels in single precision, or in double if the logits are.

    Args:
        logits: (..., vocabulary).
        labels: (...), in which -100 does not count.
    """
    precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return nn.functional.cross_entropy(
        precise.reshape(-1, precise.shape[-1]), labels.reshape(-1), ignore_index=IGNORED
    )


def whole_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """() The mean loss by the logits of all positions.

    Args:
        hidden: (positions, features).
        weight: (vocabulary, features). On a GPU it gets more rows if needed, whose logits are dropped: BERT's 30,522
            rows become 30,528, since the kernels for other numbers have a third of the speed.
        bias: (vocabulary,).
        labels: (positions,).
    """
    rows, missing = len(weight), -len(weight) % ALIGNED if hidden.is_cuda else 0
    if missing:
        weight = nn.functional.pad(weight, (0, 0, 0, missing))
        bias = None if bias is None else nn.functional.pad(bias, (0, missing))
    return mean_cross_entropy(nn.functional.linear(hidden, weight, bias)[:, :rows], labels)


def chunked_loss(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor
) -> torch.Tensor:
    """() The same mean loss, for some positions at a time."""
    dtype = autocast_dtype(weight)  # autocast does not know this function
    losses = nn.functional.linear_cross_entropy(
        hidden.to(dtype),
        weight.to(dtype),
        labels,
        linear_bias=None if bias is None else bias.to(dtype),
        ignore_index=IGNORED,
        # A mean would have the type of the states: in bfloat16, a loss of 2.5 would be off by up to 0.008. Errors of
        # single positions cancel out.
        reduction="none",
        options=nn.LinearCrossEntropyOptions(),
    )
    precise = torch.promote_types(dtype, torch.float32)
    return losses.sum(dtype=precise) / labels.ne(IGNORED).sum()


class LossHead:
    """Replaces the forward of a linear layer, which it leaves as it is outside of `at`.

    Inside, the layer returns the mean loss in place of logits, and so does the model, which must not get the labels.

    Args:
        linear: the last layer of a model.

    Attributes:
        chunks_from: the fewest positions for which the loss is computed in chunks; by default it never is.
    """

    def __init__(self, linear: nn.Linear):
        self.linear, self.plain, self.chunks_from = linear, linear.forward, math.inf
        self.whole_loss = whole_loss
        self.labels: torch.Tensor | None = None
        linear.forward = self._forward  # type: ignore[assignment, method-assign]

    def compile(self, backend: str) -> None:
        """Have the loss compiled when it is first computed, once for all numbers of positions."""
        self.whole_loss = torch.compile(whole_loss, backend=backend)

    def remove(self) -> None:
        """Give the layer its own forward again."""
        del self.linear.forward

    @contextlib.contextmanager
    def at(self, labels: torch.Tensor) -> Iterator[None]:
        """Let the layer return the mean loss of these labels, one for each position; -100 does not count."""
        self.labels = labels
        try:
            yield
        finally:
            self.labels = None

    def _forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.labels is None:
            return self.plain(hidden)
        labels, hidden = self.labels.reshape(-1), hidden.reshape(-1, hidden.shape[-1])
        if len(labels) >= self.chunks_from:
            return chunked_loss(hidden, self.linear.weight, self.linear.bias, labels)
        if not torch.compiler.is_compiling():  # else this is a part of a larger graph, which cannot hold the marks
            for tensor in (hidden, labels):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return self.whole_loss(hidden, self.linear.weight, self.linear.bias, labels)


def find_loss_head(model: PreTrainedModel, chunked: bool = False) -> LossHead | Exception:
    """Let the head of a model compute its loss, if loss and gradients stay the same; else why they do not.

    Args:
        model: a masked language model, in any mode, which is left as it is.
        chunked: whether the loss is computed in chunks, where that saves memory.
    """
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        return Unfit("its last layer is not linear")
    head = LossHead(linear)
    found = hooked(model, head, lambda: _agrees(model, head) and (not chunked or _same_in_chunks(linear)))
    # PyTorch says that chunks save nothing for fewer positions, or a smaller vocabulary, than features.
    if chunked and linear.in_features < linear.out_features:
        head.chunks_from = linear.in_features
    return found


@torch.enable_grad()
def _agrees(model: PreTrainedModel, head: LossHead) -> bool:
    """Whether a model has the same loss and the same gradients with this head and without."""
    ids = some_ids(model, 2, 8)
    labels = torch.where(torch.arange(8, device=ids.device) % 3 == 1, ids, IGNORED)
    whole = model(input_ids=ids, labels=labels)
    with head.at(labels):
        found = model(input_ids=ids).logits
    if not close(found, whole.loss):
        return False
    # The gradients of a model's own loss may be too rough to compare, if its weights have half precision.
    expected = mean_cross_entropy(whole.logits, labels) if model.dtype.itemsize == 2 else whole.loss
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    pairs = zip(*(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, expected)), strict=True)
    return all(a is b if a is None or b is None else close(a, b) for a, b in pairs)


@torch.enable_grad()
def _same_in_chunks(linear: nn.Linear) -> bool:
    """Whether a layer has the same loss and gradients in chunks, in single precision, whose rounding hides nothing."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(16, linear.in_features, generator=generator)
    labels = torch.randint(linear.out_features, (16,), generator=generator)
    labels[::4] = IGNORED
    tensors = [hidden, linear.weight, *([] if linear.bias is None else [linear.bias])]
    tensors = [tensor.detach().float().to(linear.weight.device).requires_grad_() for tensor in tensors]
    bias, labels = tensors[2] if len(tensors) > 2 else None, labels.to(linear.weight.device)
    with torch.autocast(linear.weight.device.type, enabled=False):
        losses = [loss(tensors[0], tensors[1], bias, labels) for loss in (whole_loss, chunked_loss)]
        whole, chunks = ([loss, *torch.autograd.grad(loss, tensors)] for loss in losses)
    return all(close(found, expected) for found, expected in zip(chunks, whole, strict=True))
