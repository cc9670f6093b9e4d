"""A trial leaves nothing behind: a run is the same, byte for byte, with and without it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

import run_mlm_wwm
from conftest import SMALL, character_tokenizer, sample_tokenizer, save_model
from wordmask.models.probing import some_ids, unchanged


def test_a_run_is_the_same_with_and_without_a_trial(english_model, english_file, tmp_path, monkeypatch):
    argv = ["--model_type", "bert", "--tokenizer_name", english_model, "--train_file", english_file, "--use_cpu"]
    argv += ["--config_overrides", "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"]
    argv += ["--do_train", "--max_steps", "2", "--output_dir"]
    run_mlm_wwm.main([*argv, str(tmp_path / "with")])
    monkeypatch.setattr("wordmask.models.trial.try_model", lambda *args: None)
    run_mlm_wwm.main([*argv, str(tmp_path / "without")])
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("with", "without")]
    assert weights[0] == weights[1]


def test_a_vocabulary_of_nine_entries_is_enough(tmp_path):
    tokenizer = character_tokenizer(["一丁"])
    assert len(tokenizer) == 9
    (tmp_path / "text.txt").write_text("一丁丁一一丁\n" * 8, encoding="utf-8")
    argv = ["--model_name_or_path", save_model(tmp_path / "model", tokenizer), "--use_cpu", "--max_steps", "1"]
    argv += ["--train_file", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "out")]
    assert 1 < run_mlm_wwm.main(argv)["train_loss"] < 4


def all_of(model: torch.nn.Module) -> tuple:
    """What passes may change, besides attributes of modules."""
    tensors = [tensor.detach().clone() for tensor in model.state_dict().values()]
    tensors += [buffer.clone() for buffer in model.buffers()]
    states = torch.get_rng_state(), torch.from_numpy(np.random.get_state()[1].copy()), random.getstate()
    return tensors, states


def same(first: tuple, second: tuple) -> bool:
    """Whether two of the above are equal."""
    tensors = zip(first[0], second[0], strict=True)
    return all(torch.equal(a, b) for a, b in tensors) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(first[1], second[1], strict=True)
    )


@pytest.mark.parametrize("model_type", ["bert", "ibert", "big_bird"])
def test_passes_leave_a_model_as_it_was(model_type):
    settings = {"quant_mode": True} if model_type == "ibert" else {}
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[model_type](vocab_size=90, **SMALL, **settings))
    modules, before = dict(model.named_modules()), all_of(model)
    attributes = {name: dict(vars(module)) for name, module in modules.items()}

    def use() -> None:
        model.eval()
        model.train()
        ids = some_ids(model, 2, 8)
        model(input_ids=ids, labels=ids).loss.backward()
        random.random(), np.random.rand()
        assert any(parameter.grad is not None for parameter in model.parameters())

    with unchanged(model):
        use()
    assert same(all_of(model), before) and dict(model.named_modules()) == modules
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, module in modules.items():
        assert vars(module).keys() == attributes[name].keys()
        assert all(vars(module)[key] is value for key, value in attributes[name].items())
    use()
    assert not same(all_of(model), before), "guards the comparison above"


def test_big_bird_keeps_its_sparse_attention_after_short_sequences():
    """It goes over to full attention for good at the first sequence that is too short for blocks."""
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["big_bird"](vocab_size=90, **SMALL))
    assert model.base_model.attention_type == "block_sparse"
    with unchanged(model):
        model(input_ids=some_ids(model, 2, 8))
        assert model.base_model.attention_type == "original_full"
    assert model.base_model.attention_type == "block_sparse"
    assert {layer.attention_type for layer in model.base_model.encoder.layer} == {"block_sparse"}


def test_a_hook_can_be_taken_off_after_a_trial():
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING["bert"](vocab_size=90, **SMALL))
    calls: list[int] = []
    handle = model.base_model.register_forward_hook(lambda *args: calls.append(1))
    with unchanged(model):
        model(input_ids=some_ids(model, 2, 8))
    handle.remove()
    model(input_ids=some_ids(model, 2, 8))
    assert calls == [1]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_model_that_cannot_evaluate_in_half_precision_says_so_before_it_trains(
    precision, english_file, tmp_path, capsys
):
    model = save_model(tmp_path / "model", sample_tokenizer("bert"), "fnet")
    argv = f"--model_name_or_path {model} --train_file {english_file} --do_train --do_eval --use_cpu --max_steps 1"
    argv += f" --{precision}_full_eval --output_dir"
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*argv.split(), str(tmp_path / "out")])
    error = f"error: --{precision}_full_eval: an FNetForMaskedLM cannot evaluate in half precision; a trial failed ("
    assert error in capsys.readouterr().err and not (tmp_path / "out").exists()
    only_trains = argv.replace("--do_eval ", "")  # without an evaluation, nothing is converted
    assert run_mlm_wwm.main([*only_trains.split(), str(tmp_path / "out")])["train_loss"] > 0
