"""With --no_residual_in_fp32, what goes from layer to layer has half precision, and training stays as good."""

from __future__ import annotations

import pickle

import pytest
import torch
from datasets import Dataset
from test_sparse_prediction import ARCHITECTURES, tiny
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM
from transformers.utils import ModelOutput

import run_mlm
from conftest import SMALL, sample_tokenizer, save_model, slow_after, training_steps
from wordmask.config.run_arguments import RunArguments
from wordmask.models.choose_forward import default_forward
from wordmask.models.compilation import repeated_layers
from wordmask.models.half_residual import halve_residual, restore_residual
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError

# Without these, which compute in single precision themselves, or not in bfloat16 (deberta).
HALVED = [name for name in ARCHITECTURES if name not in ("deberta", "fnet")]
NO_NORM_AFTER_EMBEDDINGS = {"esm": {"mask_token_id": 4, "pad_token_id": 0}, "eurobert": {"pad_token_id": 0}}
IDS = torch.arange(10, 30)[None]


def model_of(model_type: str, layers: int = 4) -> nn.Module:
    """A tiny model in single precision, without dropout."""
    if model_type in ARCHITECTURES:
        return tiny(model_type, **{"n_layers" if model_type == "distilbert" else "num_hidden_layers": layers}).float()
    torch.manual_seed(0)
    settings = {**SMALL, "num_hidden_layers": layers, **NO_NORM_AFTER_EMBEDDINGS[model_type]}
    return AutoModelForMaskedLM.from_config(CONFIG_MAPPING[model_type](vocab_size=90, **settings)).eval()


def gradients(model: nn.Module, half: bool = True) -> torch.Tensor:
    """Those of all weights in one tensor, under autocast or without."""
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        logits = model(input_ids=IDS).logits
    nn.functional.cross_entropy(logits[0].float(), IDS[0]).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def kept_bytes(model: nn.Module) -> int:
    """The bytes of all tensors that a forward pass under autocast keeps for the backward pass, without the weights."""
    weights, kept = {weight.data_ptr() for weight in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.arange(10, 74).remainder(80)[None].repeat(40, 1))
    return sum(kept.values())


def dtype_of(output: torch.Tensor | tuple[torch.Tensor, ...] | ModelOutput) -> torch.dtype:
    return (output if isinstance(output, torch.Tensor) else output[0]).dtype


@pytest.mark.parametrize("model_type", slow_after(5, [*HALVED, *NO_NORM_AFTER_EMBEDDINGS]))
def test_layers_give_half_precision_under_autocast_alone(model_type):
    model, seen = model_of(model_type), []
    before, names = model(input_ids=IDS).logits, list(model.state_dict())
    for layer in repeated_layers(model) or [model.base_model]:  # ALBERT has one layer, again and again
        layer.register_forward_hook(lambda *call: seen.append(dtype_of(call[-1])))
    assert halve_residual(model) is None
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=IDS)
    assert {*seen} == {torch.bfloat16}
    assert torch.equal(model(input_ids=IDS).logits, before) and list(model.state_dict()) == names


@pytest.mark.parametrize("model_type", slow_after(5, [*HALVED, *NO_NORM_AFTER_EMBEDDINGS]))
def test_gradients_are_near_those_of_single_precision(model_type):
    """They differ by up to twice as much as with autocast alone. Another CPU rounds in another order."""
    model = model_of(model_type)
    precise = gradients(model, half=False)
    autocast = gradients(model)
    halve_residual(model)
    halved = gradients(model)
    off = [float((given - precise).norm() / precise.norm()) for given in (autocast, halved)]
    assert off[1] < 4 * off[0], off
    restore_residual(model)
    assert torch.equal(gradients(model), autocast)


@pytest.mark.parametrize("model_type, share", [("bert", 0.8), ("modernbert", 0.9)])
def test_less_is_kept_for_the_backward_pass(model_type, share):
    model = model_of(model_type).train()
    before = kept_bytes(model)
    halve_residual(model)
    assert kept_bytes(model) < share * before


@pytest.mark.parametrize("layers", [1, 3])
def test_a_mask_behind_the_states_stays_as_it_is(layers):
    """Rounded, its lowest number is infinite, and a row of padding alone has no number at all."""
    model, mask = model_of("megatron-bert", layers), torch.ones_like(IDS)
    model.set_attn_implementation("eager")
    halve_residual(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=IDS, attention_mask=mask * 0).logits.isfinite().all()
        assert model(input_ids=IDS, output_hidden_states=True).hidden_states[1].dtype == torch.bfloat16


def test_another_training_of_the_same_model_decides_anew():
    """The model can be pickled in between, as for a process of its own."""
    model, dtypes = model_of("bert"), []
    for in_fp32 in (True, False, True):
        args = RunArguments("out", residual_in_fp32=in_fp32, bf16=True, use_cpu=True, report_to="none")
        default_forward(args, model)
        with torch.autocast("cpu", torch.bfloat16):
            dtypes.append(
                pickle.loads(pickle.dumps(model))(input_ids=IDS, output_hidden_states=True).hidden_states[1].dtype
            )
    assert dtypes == [torch.float32, torch.bfloat16, torch.float32]


def test_a_model_whose_sums_stay_precise_says_why():
    found = halve_residual(model_of("fnet"))
    assert str(found) == "most of its norms get single precision"


def test_a_run_learns_as_much(english_model, english_file, tmp_path, capsys):
    argv = f"--model_name_or_path {english_model} --train_file {english_file} --do_train --use_cpu --bf16"
    argv += " --max_steps 12 --logging_steps 1 --learning_rate 1e-2"
    losses = []
    for more in ("--residual_in_fp32", "--no_residual_in_fp32"):
        run_mlm.main(f"{argv} {more} --output_dir {tmp_path / more}".split())
        losses.append([step["loss"] for step in training_steps(tmp_path / more)])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1][-1] < losses[1][0]
    printed = capsys.readouterr().err
    assert printed.count("bfloat16 autocast\n") == printed.count("bfloat16 autocast, the residual too\n") == 1


def test_a_program_of_ones_own_has_it_too(tmp_path):
    tokenizer, dataset = sample_tokenizer("bert"), Dataset.from_dict({"input_ids": [[2, 10, 11, 12, 3]] * 8})
    args = RunArguments(str(tmp_path), residual_in_fp32=False, bf16=True, use_cpu=True, report_to="none")
    bert, fnet = (
        AutoModelForMaskedLM.from_pretrained(save_model(tmp_path / name, tokenizer, name)) for name in ("bert", "fnet")
    )
    MlmTrainer(bert, args, dataset, processing_class=tokenizer)
    with torch.autocast("cpu", torch.bfloat16):
        assert bert(input_ids=IDS, output_hidden_states=True).hidden_states[1].dtype == torch.bfloat16
    with pytest.raises(InputError, match="--no_residual_in_fp32: an FNetForMaskedLM cannot .* drop the flag"):
        MlmTrainer(fnet, args, dataset, processing_class=tokenizer)
