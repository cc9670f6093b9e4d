"""Layers are compiled in place: few graphs for many layers, and the model stays as it was for everything else."""

from __future__ import annotations

import pytest
import torch
from test_sparse_prediction import tiny

from wordmask.models.compilation import compile_layers, repeated_layers


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(("model_type", "kinds"), [("bert", 1), ("modernbert", 3)])
def test_layers_that_are_alike_share_a_graph(model_type, kinds):
    """ModernBERT's first layer has no norm; others have a window, or none."""
    model = tiny(model_type, num_hidden_layers=12).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected, names = model(input_ids=ids).logits, list(model.state_dict())
        assert compile_layers(model, None, "eager", None)
        torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert 0 < graphs() <= kinds
    assert list(model.state_dict()) == names


def test_a_model_without_repeated_layers_is_left_alone():
    model = tiny("bert", num_hidden_layers=1)
    assert repeated_layers(model) == []
    assert not compile_layers(model, None, "eager", None)
