"""Layers are compiled in place: few graphs for many layers, and the model stays as it was for everything else."""

from __future__ import annotations

import inspect
import pickle
import sys
from pathlib import Path

import pytest
import torch
from test_sparse_prediction import tiny
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

import run_mlm
from conftest import SMALL, slow_after, training_steps
from wordmask.models.compilation import _write_parts_in_place, compile_layers, keep_gradients, repeated_layers
from wordmask.models.loss_head import LossHead, whole_loss
from wordmask.training.trainer import mlm_trainer

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


@pytest.mark.parametrize(("model_type", "kinds"), slow_after(1, [("modernbert", 3), ("bert", 1)]))
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


@pytest.mark.parametrize(
    ("model_type", "settings", "layers"),
    [
        (
            "mobilebert",
            {
                **SMALL,
                "num_hidden_layers": 2,
                **dict.fromkeys(("embedding_size", "true_hidden_size", "intra_bottleneck_size"), 16),
            },
            ["MobileBertLayer"] * 2,
        ),
        (
            "funnel",
            {"d_model": 16, "n_head": 2, "d_head": 8, "d_inner": 16, "block_sizes": [2, 1], "num_decoder_layers": 1},
            ["FunnelLayer"] * 4,
        ),
    ],
)
def test_layers_are_found_beside_and_inside_other_lists(model_type, settings, layers):
    """Each layer of MobileBERT has a list of three small networks, and a Funnel Transformer has blocks of layers.

    A list of layers is not called, so nothing would be compiled.
    """
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[model_type](vocab_size=90, **settings)).eval()
    found, called = repeated_layers(model), []
    assert [type(layer).__name__ for layer in found] == layers
    for layer in found:
        layer.register_forward_hook(lambda module, *_: called.append(module))
    model(input_ids=torch.arange(5, 25)[None])
    assert called == found


@pytest.mark.parametrize(("backend", "asked"), [("eager", "eager"), (None, "inductor")])
def test_each_layer_and_the_loss_are_compiled_as_it_is_asked_for(monkeypatch, backend, asked):
    layers, losses = [], []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **options: layers.append(options))
    monkeypatch.setattr(LossHead, "compile", lambda self, backend: losses.append(backend))
    model = tiny("bert", num_hidden_layers=3)
    assert compile_layers(model, LossHead(model.get_output_embeddings()), backend, "max-autotune")
    assert layers == [{"backend": asked, "mode": "max-autotune"}] * 3 and losses == [asked]


@pytest.mark.parametrize(("before", "after"), [(8, 64), (100, 100)])
def test_what_a_program_has_set_for_its_own_graphs_stays(before, after):
    """Only a limit of graphs that is too low for all kinds of layers is raised."""
    of_graphs, of_memory = torch._dynamo.config, torch._functorch.config
    with of_graphs.patch(recompile_limit=before), of_memory.patch(activation_memory_budget=0.7):
        assert compile_layers(tiny("bert", num_hidden_layers=2), None, "eager", None)
        assert (of_graphs.recompile_limit, of_memory.activation_memory_budget) == (after, 0.7)


@pytest.mark.parametrize("model_type", slow_after(1, ["bert", "modernbert"]))
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
    """The Trainer compiles it as a whole then, and its loss with it."""
    model = tiny("bert", num_hidden_layers=1)
    head = LossHead(model.get_output_embeddings())
    assert repeated_layers(model) == []
    assert not compile_layers(model, head, "eager", None) and head.whole_loss is whole_loss


@pytest.mark.slow
def test_a_run_whose_model_is_compiled_as_a_whole_trains_the_same(english_model, english_file, tmp_path):
    """It has one layer. In half precision, its loss is a part of that graph, for any number of positions."""
    argv = (
        f"--model_name_or_path {english_model} --train_file {english_file} --do_train --use_cpu --bf16 --max_steps 6"
    )
    argv += " --pad_to_max_length --max_seq_length 32 --logging_steps 1 --dropout 0"
    compiled, losses = "--torch_compile --torch_compile_backend eager", []
    for more in ("", compiled):
        output = tmp_path / f"out{len(losses)}"
        run_mlm.main([*argv.split(), *more.split(), "--output_dir", str(output)])
        losses.append([step["loss"] for step in training_steps(output)])
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert 0 < graphs() <= 2, "one for the first number of positions, and one for all others"


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


def gated(states: torch.Tensor) -> torch.Tensor:
    """A gated activation, as ModernBERT has it, between products of matrices."""
    left, right = states.mm(WEIGHTS).chunk(2, -1)
    return (nn.functional.gelu(left) * right).mm(WEIGHTS[:, :16].t())


WEIGHTS = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_the_halves_of_a_gradient_are_computed_once(monkeypatch):
    """On a CPU only if we force it to do as on a GPU: then each number of a half costs the other half, too."""
    from torch._inductor import config, lowering
    from torch._inductor.utils import run_and_get_code

    monkeypatch.setattr(lowering, "pointwise_cat", inspect.unwrap(lowering.pointwise_cat))  # as PyTorch has it
    states = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def gradient(function) -> torch.Tensor:
        return torch.autograd.grad(function(states).square().sum(), states)[0]

    counts = []
    # Not by monkeypatch, which deletes settings of the compiler when it takes them back.
    with config.patch(force_pointwise_cat=True, force_disable_caches=True):
        for _ in range(2):
            found, code = run_and_get_code(gradient, torch.compile(gated))
            expected = gradient(gated)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
            counts.append(code[-1].count("erf("))
            torch._dynamo.reset()
            _write_parts_in_place.__wrapped__()
    assert counts == [2, 1], "error functions"


@pytest.mark.parametrize(
    ("backend", "mode", "marks"),
    [
        (None, "reduce-overhead", 1),
        ("inductor", "max-autotune", 1),
        ("cudagraphs", None, 1),
        ("inductor", "default", 0),
        ("eager", "reduce-overhead", 0),
    ],
)
def test_each_pass_begins_anew_for_cuda_graphs(monkeypatch, backend, mode, marks):
    """Else a layer may write to where the layer before it has its output, in an evaluation for example."""
    seen = []
    monkeypatch.setattr(nn.Module, "compile", lambda *_, **__: None)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: seen.append("pass"))
    model = tiny("bert", num_hidden_layers=2).eval()
    for layer in repeated_layers(model):
        layer.register_forward_hook(lambda *_: seen.append("layer"))
    compile_layers(model, None, backend, mode)
    for _ in range(2):
        model(input_ids=torch.arange(5, 25)[None])
    assert seen == [*["pass"] * marks, "layer", "layer"] * 2
    pickle.dumps(model.base_model._forward_pre_hooks)


@pytest.mark.parametrize(
    ("more", "passes"),
    [
        ("--gradient_accumulation_steps 2 --pad_to_max_length --torch_compile_mode reduce-overhead", 4),
        ("--gradient_accumulation_steps 2 --pad_to_max_length --torch_compile_mode default", 0),
        ("--pad_to_max_length --torch_compile_mode reduce-overhead", 0),
    ],
)
def test_gradients_of_each_of_several_passes_are_kept(monkeypatch, tmp_path, english_model, more, passes):
    kept = []
    monkeypatch.setattr(mlm_trainer, "compile_layers", lambda *_: True)
    monkeypatch.setattr(mlm_trainer, "keep_gradients", kept.append)
    (tmp_path / "text.txt").write_text("the old man walks\n" * 40)
    argv = (
        f"--model_name_or_path {english_model} --train_file {tmp_path}/text.txt --output_dir {tmp_path}/out --use_cpu"
    )
    argv += f" --max_steps 2 --max_seq_length 16 --save_strategy no --per_device_train_batch_size 4 --do_train {more}"
    run_mlm.main(argv.split())
    assert len(kept) == passes


def test_kept_gradients_are_copies_that_later_passes_add_to():
    weights = nn.Linear(3, 2)
    inputs = torch.ones(1, 3)
    weights(inputs).sum().backward()
    in_a_graph = weights.weight.grad
    keep_gradients(weights)
    kept, before = weights.weight.grad, weights.weight.grad.clone()
    in_a_graph.zero_()  # as the next run of the graph may do
    weights(inputs).sum().backward()
    keep_gradients(weights)
    assert weights.weight.grad is kept
    torch.testing.assert_close(kept, 2 * before)
