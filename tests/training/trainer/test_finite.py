"""Numbers that blow up stop the run, and nothing broken is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer

import run_mlm_wwm
from conftest import refusal
from wordmask.training.trainer.mlm_trainer import MlmTrainer


@pytest.fixture
def command(english_model, english_file, tmp_path) -> list[str]:
    return [
        *("--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(tmp_path / "out")),
        *"--use_cpu --do_train --max_steps 8 --max_seq_length 32 --per_device_train_batch_size 4".split(),
    ]


def break_at(monkeypatch, step: int, what: str = "loss") -> None:
    """Make the loss, the gradient or a weight NaN or infinite in a step, which counts from 1."""
    original = Trainer.training_step

    def broken(self, model, *args, **kwargs):
        loss = original(self, model, *args, **kwargs)
        if self.state.global_step + 1 != step:
            return loss
        weight = next(model.parameters())
        if what == "gradient":
            weight.grad[0] = torch.inf
        elif what == "weight":  # as Adam in float16, whose epsilon is 0
            self.optimizer.optimizer.register_step_post_hook(lambda *_: weight.data[0].fill_(torch.nan))
        return loss * torch.nan if what == "loss" else loss

    monkeypatch.setattr(Trainer, "training_step", broken)


def saved(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))


@pytest.mark.parametrize(
    "what, says", [("loss", "the loss of step 5 is"), ("gradient", "the gradient norm of step 5 is")]
)
@pytest.mark.parametrize("reads", ["--logging_steps 7 --save_steps 2", "--logging_steps 1 --save_steps 4"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(
    what, says, reads, command, tmp_path, monkeypatch, capsys
):
    break_at(monkeypatch, 5, what)
    sentence = refusal(capsys, run_mlm_wwm.main, *command, *reads.split())
    assert (
        sentence.startswith(f"{says} not finite")
        and f"the last checkpoint is {tmp_path}/out/checkpoint-4;" in sentence
    )
    assert "--learning_rate" in sentence and "--allow_nan" in sentence
    assert saved(tmp_path)[-1] == "checkpoint-4" and not (tmp_path / "out" / "model.safetensors").exists()


def test_a_gradient_norm_that_is_not_finite_is_remembered_until_the_next_log(command, monkeypatch, capsys):
    """Also if later ones are finite again."""
    original, steps = Trainer._get_grad_norm, []

    def infinite(self, *args, **kwargs):
        steps.append(self.state.global_step + 1)
        norm = original(self, *args, **kwargs)
        return torch.full_like(norm, torch.inf) if steps[-1] == 2 else norm

    monkeypatch.setattr(Trainer, "_get_grad_norm", infinite)
    argv = [*command, "--save_strategy", "no", "--logging_steps", "4"]
    assert refusal(capsys, run_mlm_wwm.main, *argv).startswith("the gradient norm of step 2 is not finite")
    assert steps == [1, 2, 3, 4], "it stops at the log"


def test_weights_that_are_not_finite_are_not_saved(command, tmp_path, monkeypatch, capsys):
    """The loss of the step that has broken them was finite, and the next one is not computed yet."""
    break_at(monkeypatch, 4, "weight")
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--save_steps", "2", "--logging_steps", "100")
    assert sentence.startswith("weights after step 4 are not finite") and saved(tmp_path) == ["checkpoint-2"]


def test_without_checkpoints_a_broken_model_is_not_saved_either(command, tmp_path, monkeypatch, capsys):
    break_at(monkeypatch, 8, "weight")
    sentence = refusal(capsys, run_mlm_wwm.main, *command, "--save_strategy", "no", "--logging_steps", "100")
    assert sentence.startswith("weights after step 8 are not finite") and "there is no checkpoint yet" in sentence
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_it_is_known_before_an_evaluation(command, english_file, monkeypatch, capsys):
    break_at(monkeypatch, 3)
    evaluation = ["--do_eval", "--validation_file", english_file, "--eval_strategy", "steps", "--eval_steps", "4"]
    monkeypatch.setattr(MlmTrainer, "evaluate", lambda *_, **__: pytest.fail("it was evaluated"))
    argv = [*command, *evaluation, "--eval_on_start", "False", "--logging_steps", "100", "--save_strategy", "no"]
    assert refusal(capsys, run_mlm_wwm.main, *argv).startswith("the loss of step 3 is not finite")


def test_steps_are_counted_anew_after_batches_that_did_not_fit(command, monkeypatch, capsys):
    original, sizes = MlmTrainer.compute_loss, []

    def limited(self, model, inputs, *args, **kwargs):
        sizes.append(len(inputs["input_ids"]))
        if self.state.global_step >= 3 and len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "compute_loss", limited)
    break_at(monkeypatch, 6)
    said = refusal(capsys, run_mlm_wwm.main, *command, "--auto_find_batch_size", "--save_strategy", "no")
    assert "the loss of step 6 is not finite" in said and {4, 3, 2} == {*sizes}


def test_float16_with_adam_stops(command, tmp_path, capsys):
    """Until there was a check, this run ended with a model of NaN and status 0."""
    argv = [*command, "--dtype", "float16", "--learning_rate", "1e-3", "--optim", "adamw_torch", "--save_steps", "1"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert " not finite (NaN or infinite)" in sentence and "--dtype float32" in sentence
    for checkpoint in (tmp_path / "out").glob("checkpoint-*"):
        assert all(weight.isfinite().all() for weight in load_file(checkpoint / "model.safetensors").values())


def test_allow_nan_trains_on(command, tmp_path, monkeypatch):
    break_at(monkeypatch, 5)
    run_mlm_wwm.main([*command, "--allow_nan", "--logging_steps", "4"])
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[0] > 0 and losses[1] != losses[1], "NaN is logged as such"


def test_a_gradient_scaler_may_meet_infinite_gradients(command, monkeypatch):
    """It skips such steps by design."""
    original = MlmTrainer._get_grad_norm

    def infinite(self, *args, **kwargs):
        self.accelerator.scaler = object() if scaled else None
        monkeypatch.setattr("transformers.Trainer._get_grad_norm", lambda *_, **__: torch.tensor(torch.inf))
        norm = original(self, *args, **kwargs)
        self.accelerator.scaler = None
        return norm

    monkeypatch.setattr(MlmTrainer, "_get_grad_norm", infinite)
    scaled = True
    run_mlm_wwm.main([*command, "--max_steps", "1"])
    scaled = False
    with pytest.raises(SystemExit):
        run_mlm_wwm.main([*command, "--max_steps", "2"])
