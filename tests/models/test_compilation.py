"""Layers are compiled in place: few graphs for many layers, and the model stays as it was for everything else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from test_sparse_prediction import tiny

import run_mlm
from conftest import training_steps
from wordmask.models.compilation import compile_layers, repeated_layers

ROOT = Path(__file__).parent.parent.parent


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._functorch.config.activation_memory_budget = 1.0


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


@pytest.mark.parametrize("model_type", ["bert", "modernbert"])
def test_less_is_kept_and_gradients_are_the_same(monkeypatch, model_type):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    from activation_memory import kept_bytes

    ids = torch.arange(64 * 31).reshape(64, 31) % 50 + 5
    labels = ids.masked_fill(ids % 7 > 0, -100)

    def step(budget: float) -> tuple[int, list[torch.Tensor]]:
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = tiny(model_type, num_hidden_layers=4).train()
        # Graphs and their division into a forward and a backward pass, without a compiler behind them.
        assert compile_layers(model, None, "aot_eager_decomp_partition", None, budget)
        loss = model(input_ids=ids, labels=labels).loss
        kept = kept_bytes(loss, ids.numel())
        loss.backward()
        return kept, [loss, *(p.grad for p in model.parameters() if p.grad is not None)]

    (all_kept, expected), (some_kept, found) = step(1.0), step(0.5)
    assert some_kept < 0.7 * all_kept
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_model_without_repeated_layers_is_left_alone():
    model = tiny("bert", num_hidden_layers=1)
    assert repeated_layers(model) == []
    assert not compile_layers(model, None, "eager", None)


@pytest.mark.slow
def test_a_run_with_less_memory_trains_the_same(english_model, english_file, tmp_path):
    """Compiled for this processor, as a user does it."""
    argv = f"--model_name_or_path {english_model} --train_file {english_file} --do_train --use_cpu --max_steps 4"
    argv += " --pad_to_max_length --max_seq_length 32 --logging_steps 1 --per_device_train_batch_size 64 --dropout 0"
    losses, budgets = [], []
    for budget in ("1", "0.5"):
        torch._dynamo.reset()
        output = tmp_path / budget
        run_mlm.main(f"{argv} --torch_compile --activation_memory_budget {budget} --output_dir {output}".split())
        losses.append([step["loss"] for step in training_steps(output)])
        budgets.append(torch._functorch.config.activation_memory_budget)
    assert budgets == [1.0, 0.5] and graphs() > 0
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)
