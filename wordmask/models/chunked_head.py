"""The loss of a head that ends in one linear layer, without the logits of a batch in memory.

The logits of 5,000 positions over 50,000 tokens take 1 GB in single precision, and their gradients as much again. This
layer and the cross-entropy together compute both for some positions at a time. Each logit is computed twice for that.
It needs torch 2.13. On a CPU it is many times slower, so it is for GPUs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from wordmask.masking import IGNORED
from wordmask.models.probing import close, some_ids, why_not


class ChunkedHead:
    """Replaces the forward of a linear layer, which it leaves as it is outside of `at`.

    Inside, the layer returns the mean loss in place of logits, and so does the model, which must not get the labels.

    Args:
        linear: the last layer of a model.
    """

    def __init__(self, linear: nn.Linear):
        self.linear, self.plain = linear, linear.forward
        self.labels: torch.Tensor | None = None
        linear.forward = self._forward  # type: ignore[assignment, method-assign]

    def suits(self, labels: torch.Tensor) -> bool:
        """Whether it saves memory: as PyTorch's documentation says, not for fewer positions than hidden features."""
        return labels.numel() >= self.linear.in_features < self.linear.out_features

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
        labels, bias, device = self.labels.reshape(-1), self.linear.bias, hidden.device.type
        # Autocast does not know this function.
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.linear.weight.dtype
        losses = nn.functional.linear_cross_entropy(
            hidden.reshape(-1, hidden.shape[-1]).to(dtype),
            self.linear.weight.to(dtype),
            labels,
            linear_bias=None if bias is None else bias.to(dtype),
            ignore_index=IGNORED,
            # The mean would have the type of the states: in bfloat16, a loss of 2.5 would be off by up to 0.008.
            reduction="none",
            options=nn.LinearCrossEntropyOptions(),
        )
        precise = torch.promote_types(dtype, torch.float32)
        return losses.sum(dtype=precise) / labels.ne(IGNORED).sum()


def find_chunked_head(model: PreTrainedModel) -> ChunkedHead | str:
    """Let the head of a model compute its loss in chunks, if loss and gradients stay the same; else why they do not.

    Args:
        model: a masked language model, in any mode, which is left as it is.
    """
    linear = model.get_output_embeddings()
    if not isinstance(linear, nn.Linear):
        return "its last layer is not linear"
    head = ChunkedHead(linear)
    reason = why_not(model, lambda: _agrees(model, head))
    if reason is None:
        return head
    head.remove()
    return reason


@torch.enable_grad()
def _agrees(model: PreTrainedModel, head: ChunkedHead) -> bool:
    """Whether a model has the same loss and the same gradients with the head in chunks and without."""
    ids = some_ids(model, 2, 8)
    labels = torch.where(torch.arange(8, device=ids.device) % 3 == 1, ids, IGNORED)
    expected = model(input_ids=ids, labels=labels).loss
    with head.at(labels):
        found = model(input_ids=ids).logits
    if not close(found.float(), expected.float()):
        return False
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    pairs = zip(*(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (found, expected)), strict=True)
    return all(a is b if a is None or b is None else close(a, b) for a, b in pairs)
