"""PyTorch's varlen attention on a CPU, which has no kernel for it: the operation that a GPU has."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import varlen

from wordmask.models import varlen_attention
from wordmask.models.varlen_attention import by_document


def on_cpu(query, key, value, bounds, bounds_k, longest, longest_k, is_causal, scale, window_size, *_):
    """What the kernel gives, with the numbers of our loop."""
    assert window_size != [-1, -1], "PyTorch may take cuDNN's kernel, which is slow here"
    reach = None if window_size[0] >= longest else tuple(window_size)
    assert int(bounds.diff().max()) <= longest, "the kernel would leave tokens out"
    output = by_document(query, key, value, bounds, longest, scale, reach).contiguous()
    return output, query.new_empty(query.shape[1::-1]), torch.zeros(2, dtype=torch.uint64)


def backward_on_cpu(gradient, query, key, value, out, lse, bounds, *settings):
    """Its gradients by their formulas, since an operation cannot use autograd."""
    scale, window_size = settings[-2:]
    place = torch.arange(len(query))
    document = torch.bucketize(place, bounds[1:], right=True)
    seen = document[:, None] == document
    seen &= (place[:, None] - place).abs() <= window_size[0]
    g, q, k, v = (states.transpose(0, 1) for states in (gradient, query, key, value))
    shares = (q @ k.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1)
    of_shares = g @ v.mT
    of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdim=True)) * scale
    found = (of_scores @ k, of_scores.mT @ q, shares.mT @ g)
    likes = (query, key, value)
    return tuple(torch.empty_like(like).copy_(part.transpose(0, 1)) for like, part in zip(likes, found, strict=True))


@pytest.fixture
def kernel(monkeypatch):
    """Let flat batches go through that operation. It replaces what another test or program has registered."""
    monkeypatch.setattr(varlen_attention, "_has_kernel", lambda query: True)
    for operation, function in ((varlen._varlen_attn, on_cpu), (varlen._varlen_attn_backward, backward_on_cpu)):
        operation.register_kernel("cpu")(function)
