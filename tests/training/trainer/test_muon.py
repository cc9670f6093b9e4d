"""`--optim muon`: the matrices that it takes, its rule, and that all else sees one optimizer."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

import run_mlm_wwm
import wordmask
from conftest import SMALL, refusal, training_steps
from wordmask.training.trainer import muon
from wordmask.training.trainer.muon import Muon, hidden_matrices, orthogonal

IN_BERT = [
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
]


def tiny(model_type: str, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](vocab_size=90, **{**SMALL, **settings})
    config.pad_token_id = 0
    return AutoModelForMaskedLM.from_config(config)


def with_gradients(model: torch.nn.Module) -> torch.nn.Module:
    """Every weight gets a gradient."""
    drawn = torch.Generator().manual_seed(1)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=drawn).to(weight.dtype) / 10
    return model


@pytest.fixture
def exact(monkeypatch):
    """Matrices are multiplied in single precision, on any CPU."""
    monkeypatch.setattr(muon, "cpu_has_bfloat16", lambda: False)


def steps(optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    for _ in range(count):
        optimizer.step()


def test_matrices_are_those_of_the_encoder_and_each_weight_is_in_one_group():
    """Neither embeddings nor the head, which is tied to them, nor its dense layer; no bias and no norm."""
    model = tiny("bert", num_hidden_layers=2)
    names = {weight: name for name, weight in model.named_parameters()}
    found = hidden_matrices(model)
    expected = [f"bert.encoder.layer.{layer}.{name}.weight" for layer in range(2) for name in IN_BERT]
    assert [names[weight] for weight in found] == expected and {*found.values()} == {1}
    optimizer = Muon(model.parameters(), found)
    grouped = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize(
    "model_type", ["albert", "deberta-v2", "distilbert", "electra", "esm", "modernbert", "roberta"]
)
def test_no_architecture_gives_an_embedding_or_a_head_to_muon(model_type):
    model = tiny(model_type, tie_word_embeddings=False)
    found = hidden_matrices(model)
    embeddings = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    assert found and not embeddings & {*found} and model.get_output_embeddings().weight not in found
    assert all(weight.ndim == 2 and len(weight) % count == 0 for weight, count in found.items())
    assert {*found.values()} == ({1, 2, 3} if model_type == "modernbert" else {1})


def test_frozen_weights_stay_as_they_are():
    model = tiny("bert")
    query = model.bert.encoder.layer[0].attention.self.query.weight
    query.requires_grad = False
    assert query not in hidden_matrices(model) and len(hidden_matrices(model)) == 5


@pytest.mark.parametrize("shape", [(3, 6, 6), (2, 4, 12), (2, 12, 4)])
def test_a_matrix_keeps_its_singular_vectors_and_its_singular_values_come_near_1(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    expected = values / values.norm(dim=1, keepdim=True)
    for _ in range(5):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    found = orthogonal(matrices)
    torch.testing.assert_close(found, left @ torch.diag_embed(expected) @ right)
    large = values / values.norm(dim=1, keepdim=True) > 0.05
    assert large.sum() > len(matrices) and expected[large].min() > 0.6 and expected[large].max() < 1.3


def test_a_matrix_whose_gradient_is_0_does_not_become_nan():
    assert not orthogonal(torch.zeros(1, 3, 5)).any()


def test_a_matrix_without_a_gradient_stays_as_it_is():
    """Such as that of a pooler, which the head does not read."""
    model = with_gradients(tiny("bert"))
    start = copy.deepcopy(model)
    query = model.bert.encoder.layer[0].attention.self.query.weight
    query.grad = None
    steps(Muon(model.parameters(), hidden_matrices(model)))
    changed = [not torch.equal(*pair) for pair in zip(model.parameters(), start.parameters(), strict=True)]
    assert changed == [weight is not query for weight in model.parameters()]


def test_a_layer_that_shares_the_weight_of_an_embedding_or_is_the_head_stays_with_adamw():
    """In a model whose encoder is all of it."""
    embedding, tied, hidden, head = torch.nn.Embedding(9, 4), *(torch.nn.Linear(4, rows) for rows in (9, 4, 9))
    tied.weight = embedding.weight
    model = torch.nn.Sequential(embedding, hidden, tied, head)
    model.get_output_embeddings = lambda: head
    assert [*hidden_matrices(model)] == [hidden.weight]


def test_matrices_are_trained_as_by_torch_and_other_weights_as_by_adamw(exact):
    """torch multiplies in bfloat16, so its updates differ by some hundredths of their size."""
    model, other = with_gradients(tiny("bert")), with_gradients(tiny("bert"))
    start = copy.deepcopy(model)
    decayed = {"lr": 0.01, "weight_decay": 0.1}
    steps(Muon(model.parameters(), hidden_matrices(model), **decayed, betas=(0.8, 0.9), eps=1e-6))
    matrices = [*hidden_matrices(other)]
    steps(torch.optim.Muon(matrices, **decayed, adjust_lr_fn="match_rms_adamw"))
    rest = [weight for weight in other.parameters() if weight not in {*matrices}]
    steps(torch.optim.AdamW(rest, **decayed, betas=(0.8, 0.9), eps=1e-6))
    for found, expected, before in zip(model.parameters(), other.parameters(), start.parameters(), strict=True):
        if expected in {*matrices}:
            moved = (expected - before).norm()
            assert moved > 0.01 and (found - expected).norm() < 0.1 * moved
        else:
            assert torch.equal(found, expected)


def test_weight_decay_makes_matrices_smaller_as_it_does_other_weights(exact):
    """Without a gradient to follow, decay is all that moves a weight, at the rate of its group."""
    model = tiny("bert")
    before = copy.deepcopy(model)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer = Muon(model.parameters(), hidden_matrices(model), lr=0.9, weight_decay=0.5)
    for group in optimizer.param_groups:
        group["lr"] = 0.1  # as a schedule sets it
    steps(optimizer)
    for found, start in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(found, start * (1 - 0.1 * 0.5) ** 3)


def test_an_update_has_the_size_of_one_of_adamw_in_each_shape(exact):
    model = with_gradients(tiny("bert"))
    start = copy.deepcopy(model)
    steps(Muon(model.parameters(), hidden_matrices(model), lr=0.01), 1)
    for weight, before in zip(hidden_matrices(model), hidden_matrices(start), strict=True):
        assert 0.14 < (weight - before).square().mean().sqrt() / 0.01 < 0.26


def test_the_momentum_is_a_mean_over_steps_that_looks_one_step_ahead(exact):
    weight = torch.nn.Parameter(torch.zeros(4, 6))
    optimizer = Muon([weight], {weight: 1}, lr=1.0)
    optimizer.param_groups[0]["lr"] = 0.01  # as a schedule sets it
    first, second = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    momentum = torch.zeros(4, 6)
    expected = torch.zeros(4, 6)
    for gradient in (first, second):
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        expected -= 0.01 * 0.2 * 6**0.5 * orthogonal(ahead[None])[0]
        weight.grad = gradient
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_a_closure_gives_the_gradient_and_the_loss():
    weight, bias = torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = Muon([weight, bias], {weight: 1}, lr=0.1)

    def closure() -> torch.Tensor:
        loss = (weight.sum(1) + bias).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12
    assert not torch.equal(weight, torch.eye(3)) and bias.tolist() == pytest.approx([0.9] * 3)


def test_rates_that_are_loaded_are_those_of_all_weights():
    """Each group is a new one then, also for AdamW."""
    weight, bias = torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.ones(3))
    optimizer = Muon([weight, bias], {weight: 1}, lr=0.1)
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = 0.0
    optimizer.load_state_dict(state)
    weight.grad, bias.grad = torch.ones(3, 3), torch.ones(3)
    steps(optimizer)
    assert torch.equal(weight, torch.eye(3)) and torch.equal(bias, torch.ones(3))


def test_a_run_gives_its_settings_to_both_parts():
    """And AdamW's step is one kernel, but not on a TPU, which has none."""
    given = {"learning_rate": 0.02, "adam_beta1": 0.8, "adam_beta2": 0.98, "adam_epsilon": 1e-5}
    model = tiny("bert")
    args = wordmask.RunArguments(output_dir="out", use_cpu=True, optim="muon", optim_args="momentum=0.9", **given)
    kind, settings = muon.muon_of(model, args)
    optimizer = kind(model.parameters(), **settings)
    of_matrices, of_others = optimizer.param_groups
    assert (of_matrices["lr"], of_matrices["momentum"]) == (0.02, 0.9)
    found = {name: of_others[name] for name in ("lr", "betas", "eps", "fused")}
    assert found == {"lr": 0.02, "betas": (0.8, 0.98), "eps": 1e-5, "fused": True}


def test_the_parts_of_a_fused_weight_are_trained_as_three_weights(exact):
    drawn = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    fused, parts = torch.nn.Parameter(torch.zeros(12, 4)), [torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(3)]
    fused.grad = drawn
    for part, gradient in zip(parts, drawn.chunk(3), strict=True):
        part.grad = gradient.clone()
    steps(Muon([fused], {fused: 3}))
    steps(Muon(parts, dict.fromkeys(parts, 1)))
    torch.testing.assert_close(fused, torch.cat(parts))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_trained(dtype):
    model = with_gradients(tiny("bert").to(dtype))
    start = copy.deepcopy(model)
    steps(Muon(model.parameters(), hidden_matrices(model), lr=0.01, eps=1e-4))  # 1e-8 is 0 in float16
    for weight, before in zip(model.parameters(), start.parameters(), strict=True):
        assert weight.dtype == dtype and weight.isfinite().all() and not torch.equal(weight, before)


def test_many_matrices_are_updated_in_stretches_and_the_same(exact, monkeypatch):
    together, apart = with_gradients(tiny("bert")), with_gradients(tiny("bert"))
    steps(Muon(together.parameters(), hidden_matrices(together)))
    monkeypatch.setattr(muon, "_TOGETHER", 1)
    steps(Muon(apart.parameters(), hidden_matrices(apart)))
    for one, other in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(one, other)


# A run

FLAGS = "--use_cpu --do_train --max_seq_length 32 --per_device_train_batch_size 8 --logging_steps 1 --save_steps 2"


@pytest.fixture
def argv(needed_flags) -> list[str]:
    return [
        *needed_flags,
        *FLAGS.split(),
        *"--optim muon --learning_rate 3e-3 --weight_decay 0.1 --max_steps 6".split(),
    ]


def test_a_run_goes_on_to_the_bit(argv, tmp_path):
    """Also the schedule of both kinds of groups, and their states."""
    run_mlm_wwm.main(argv)
    out, whole = tmp_path / "out", tmp_path / "whole"
    shutil.copytree(out, whole)
    for path in [out / "checkpoint-6", out / "checkpoint-4"]:
        shutil.rmtree(path)
    for name in ("model.safetensors", "train_results.json", "all_results.json"):
        (out / name).unlink()
    run_mlm_wwm.main(argv)
    assert training_steps(out) == training_steps(whole)
    for name in ("model.safetensors", "checkpoint-6/scheduler.pt"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    states = [torch.load(path / "checkpoint-6/optimizer.pt", weights_only=True)["state"] for path in (out, whole)]
    assert states[0].keys() == states[1].keys()
    for number, state in states[1].items():
        assert all(torch.equal(states[0][number][name], value) for name, value in state.items())
    assert {tuple(state) for state in states[1].values()} == {("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")}


def test_what_a_run_writes_says_muon(argv, tmp_path):
    run_mlm_wwm.main([*argv, "--optim_args", "momentum=0.9"])
    out = tmp_path / "out"
    assert '"optim": "muon"' in (out / "wordmask_run.json").read_text(encoding="utf-8")
    assert "| `optim` | `muon` |" in (out / "README.md").read_text(encoding="utf-8")
    assert torch.load(out / "training_args.bin", weights_only=False).optim == "muon"
    groups = torch.load(out / "checkpoint-6" / "optimizer.pt", weights_only=True)["param_groups"]
    kinds = [(group["stacked"], group["weight_decay"], group.get("momentum")) for group in groups]
    assert kinds == [(1, 0.1, 0.9), (0, 0.1, None), (0, 0.0, None)], "neither bias nor norm decays, as in the Trainer"


def test_another_optimizer_begins_with_a_state_of_its_own(argv, tmp_path, caplog):
    run_mlm_wwm.main([*argv, "--max_steps", "2"])
    run_mlm_wwm.main([*argv, "--optim", "adamw_torch", "--max_steps", "4"])
    assert "the optimizer starts without its old state" in caplog.text
    run_mlm_wwm.main(argv)
    assert len(training_steps(tmp_path / "out")) == 6


@pytest.mark.parametrize("setting", ["momentum=1", "momentum=much", "nesterov=0"])
def test_a_setting_that_it_has_not_is_refused(argv, capsys, setting):
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--optim_args", setting)
    assert sentence.startswith(f"--optim_args: {setting} is no setting of --optim muon; give momentum=0.95")


def test_a_model_without_a_matrix_for_it_is_refused(english_model):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    model.bert.requires_grad_(False)
    with pytest.raises(wordmask.InputError, match="the encoder of a BertForMaskedLM has no linear layer to train"):
        muon.muon_of(model, wordmask.RunArguments(output_dir="out", use_cpu=True, optim="muon"))


def test_wrappers_that_cut_matrices_are_refused_and_others_are_not(monkeypatch):
    monkeypatch.setattr("wordmask.config.run_arguments.check_sharding", lambda *flags: None)
    given = {"output_dir": "out", "use_cpu": True, "optim": "muon", "fsdp": True}
    assert wordmask.RunArguments(**given).optim == "muon"
    with pytest.raises(wordmask.InputError, match="--optim muon multiplies whole matrices, and --fsdp_config with"):
        wordmask.RunArguments(**given, fsdp_config={"version": 1})
    arguments = wordmask.RunArguments(**given)
    arguments.deepspeed_plugin = object()
    with pytest.raises(wordmask.InputError, match="--optim muon multiplies whole matrices, and --deepspeed leaves"):
        wordmask.config.trainer_checks.check_after(arguments)


# FSDP2


@pytest.fixture
def mesh(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_divided_matrices_are_trained_as_whole_ones_and_stay_divided(mesh):
    whole, divided = with_gradients(tiny("modernbert")), tiny("modernbert")
    fully_shard(divided, mesh=mesh)
    parts = dict(divided.named_parameters())
    for name, weight in whole.named_parameters():
        parts[name].grad = distribute_tensor(weight.grad, mesh, [Shard(0)])
    optimizers = [Muon(model.parameters(), hidden_matrices(model), lr=0.01) for model in (whole, divided)]
    for optimizer in optimizers:
        steps(optimizer)
    for name, weight in whole.named_parameters():
        assert isinstance(parts[name], DTensor) and parts[name].placements == (Shard(0),)
        assert torch.equal(weight, parts[name].full_tensor())
    state = get_optimizer_state_dict(divided, optimizers[1])["state"]  # what a checkpoint of FSDP2 holds
    buffers = [values["momentum_buffer"] for values in state.values() if "momentum_buffer" in values]
    assert len(buffers) == len(hidden_matrices(whole)) and all(isinstance(buffer, DTensor) for buffer in buffers)
