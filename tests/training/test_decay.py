"""A decay that starts from a checkpoint with a constant learning rate: its rates, and AdamW's moments."""

from __future__ import annotations

import json
import math

import pytest
import torch

import run_mlm_wwm
from conftest import refusal, run_until, sample_lines, sample_tokenizer, save_model, training_steps, trajectory
from wordmask.training.trainer.mlm_trainer import MlmTrainer

FLAGS = ["--use_cpu", "--report_to", "none", "--logging_steps", "1", "--max_seq_length", "32", "--dropout", "0"]
DECAY = ["--lr_scheduler_type", "warmup_stable_decay", "--learning_rate", "8e-4"]
REST = ["--lr_scheduler_kwargs", '{"num_stable_steps": 0, "decay_type": "1-sqrt"}']


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a text, and a run with a constant rate that leaves checkpoint-3 and checkpoint-4."""
    folder = tmp_path_factory.mktemp("stable")
    save_model(folder / "model", sample_tokenizer("bert", 300))
    (folder / "text.txt").write_text("\n".join(sample_lines("english", 48)), encoding="utf-8")
    argv = ["--model_name_or_path", str(folder / "model"), "--train_file", str(folder / "text.txt"), *FLAGS]
    stable = ["--lr_scheduler_type", "constant", "--learning_rate", "8e-4", "--max_steps", "4", "--save_steps", "3"]
    run_mlm_wwm.main([*argv, *stable, "--output_dir", str(folder / "stable")])
    return folder


def from_checkpoint(folder, output, *flags: str) -> list[str]:
    argv = ["--model_name_or_path", str(folder / "stable/checkpoint-3"), "--train_file", str(folder / "text.txt")]
    return [*argv, *FLAGS, *DECAY, "--output_dir", str(output), *flags]


@pytest.fixture
def rates(monkeypatch) -> list[float]:
    """The learning rate of each step, as the optimizer uses it."""
    seen: list[float] = []
    original = MlmTrainer.training_step

    def step(self, *args, **kwargs):
        seen.append(self.optimizer.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "training_step", step)
    return seen


def test_the_rate_falls_from_the_first_step_of_the_run_to_the_last(folder, tmp_path, rates):
    """48 lines in batches of 8, twice: 12 steps, whose number is given nowhere."""
    run_mlm_wwm.main(from_checkpoint(folder, tmp_path, *REST, "--num_train_epochs", "2"))
    assert rates == [pytest.approx(8e-4 * (1 - math.sqrt(step / 12))) for step in range(12)]
    record = json.loads((tmp_path / "wordmask_run.json").read_text(encoding="utf-8"))
    assert record["arguments"]["lr_scheduler_kwargs"] == REST[1]


def test_phases_may_be_shares_of_the_steps(folder, tmp_path, rates):
    """Of 10 steps, 2 to warm up and the last 4 to decay; then 2 to warm up, 3 of the same rate, and the others."""
    flags = ["--max_steps", "10", "--warmup_steps", "0.2", "--lr_scheduler_kwargs"]
    run_mlm_wwm.main(
        from_checkpoint(folder, tmp_path / "a", *flags, '{"num_decay_steps": 0.4, "decay_type": "linear"}')
    )
    expected = [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert rates == [pytest.approx(8e-4 * share) for share in expected]
    rates.clear()
    run_mlm_wwm.main(
        from_checkpoint(folder, tmp_path / "b", *flags, '{"num_stable_steps": 0.3, "decay_type": "linear"}')
    )
    expected = [0, 0.5, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]
    assert rates == [pytest.approx(8e-4 * share) for share in expected]


def test_a_resumed_decay_goes_on_where_it_was(folder, tmp_path, rates):
    argv = from_checkpoint(folder, tmp_path / "out", *REST, "--max_steps", "6", "--keep_optimizer")
    run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "whole")])
    whole, rates[:] = list(rates), []
    run_until(3, argv)
    run_mlm_wwm.main(argv)
    assert rates == whole == [pytest.approx(8e-4 * (1 - math.sqrt(step / 6))) for step in range(6)]
    assert trajectory(tmp_path / "out") == trajectory(tmp_path / "whole")


def moments(checkpoint) -> dict[int, dict[str, torch.Tensor]]:
    return torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]


def test_a_kept_optimizer_starts_with_the_moments_of_the_checkpoint(folder, tmp_path, caplog):
    """After one step, AdamW's moments are those of the checkpoint moved towards the gradient; without, towards 0."""
    argv = from_checkpoint(folder, tmp_path / "kept", *REST, "--max_steps", "1", "--adam_beta1", "0.8")
    run_mlm_wwm.main([*argv, "--keep_optimizer"])
    run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "new")])
    assert f"--keep_optimizer: the optimizer starts with its state in {folder}" in caplog.text
    old = moments(folder / "stable/checkpoint-3")
    kept, new = (moments(tmp_path / name / "checkpoint-1") for name in ("kept", "new"))
    for number, state in kept.items():
        # The same gradient, since dropout is off: the difference is what is left of the old moments.
        left = state["exp_avg"] - new[number]["exp_avg"]
        torch.testing.assert_close(left, 0.8 * old[number]["exp_avg"])
        torch.testing.assert_close(state["exp_avg_sq"] - new[number]["exp_avg_sq"], 0.999 * old[number]["exp_avg_sq"])
        assert (old[number]["step"], state["step"], new[number]["step"]) == (3, 4, 1)
    first = [training_steps(tmp_path / name)[0] for name in ("kept", "new")]
    assert first[0]["loss"] == first[1]["loss"]  # the same weights, data and masks


@pytest.mark.parametrize("optimizer", ["adafactor", "muon"])
def test_another_optimizer_is_refused(folder, tmp_path, capsys, optimizer):
    argv = from_checkpoint(folder, tmp_path / "out", *REST, "--max_steps", "1", "--optim", optimizer)
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--keep_optimizer")
    assert sentence.startswith(f"--keep_optimizer: {folder}/stable/checkpoint-3 holds no state for this optimizer")
    assert "but that of AdamW" in sentence and sentence.endswith("; give its --optim, or drop the flag")


def test_other_weights_than_those_of_the_checkpoint_are_refused(folder, tmp_path, capsys):
    argv = from_checkpoint(folder, tmp_path / "out", *REST, "--max_steps", "1", "--max_position_embeddings", "90")
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--keep_optimizer")
    assert sentence.startswith("--keep_optimizer: ") and "holds no state for this optimizer and model" in sentence


def test_an_evaluation_keeps_no_optimizer(folder, tmp_path, capsys):
    argv = ["--model_name_or_path", str(folder / "stable/checkpoint-3"), "--validation_file", str(folder / "text.txt")]
    argv += ["--keep_optimizer", "--do_eval", "--use_cpu", "--output_dir", str(tmp_path / "out")]
    assert refusal(capsys, run_mlm_wwm.main, *argv).startswith("--keep_optimizer has no effect in an evaluation")


def test_the_working_directory_is_no_model(folder, tmp_path, capsys, monkeypatch):
    """From scratch, the files of a checkpoint there counted, and the flag did nothing."""
    monkeypatch.chdir(folder / "stable/checkpoint-3")
    argv = ["--model_type", "bert", "--vocab_size", "300", "--train_file", str(folder / "text.txt"), "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--keep_optimizer", "--output_dir", str(tmp_path / "out"))
    assert sentence.startswith("--keep_optimizer: there is no state of an optimizer in a model from scratch; give")


@pytest.mark.parametrize("stable, decay", [(2, 3), (8, 8), (0.4, 0.2)])
def test_phases_that_leave_a_gap_are_refused(stable, decay, folder, tmp_path, capsys):
    """Else the rate would be 0 for the last steps, or never fall to 0. Of 10 steps, 1 is for the warm-up."""
    phases = json.dumps({"num_stable_steps": stable, "num_decay_steps": decay})
    flags = ["--max_steps", "10", "--warmup_steps", "0.1", "--lr_scheduler_kwargs", phases]
    sentence = refusal(capsys, run_mlm_wwm.main, *from_checkpoint(folder, tmp_path, *flags))
    assert "follow the warm-up; give one of the two" in sentence


def test_shares_of_phases_that_add_up_are_rounded_to_fit(folder, tmp_path, rates):
    phases = json.dumps({"num_stable_steps": 0.45, "num_decay_steps": 0.45, "decay_type": "linear"})
    run_mlm_wwm.main(
        from_checkpoint(
            folder, tmp_path, "--max_steps", "11", "--warmup_steps", "0.1", "--lr_scheduler_kwargs", phases
        )
    )
    assert rates == [pytest.approx(8e-4 * share) for share in (0, 0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2)]


def test_phases_that_are_longer_than_the_training_are_refused(folder, tmp_path, capsys):
    """transformers would start in the middle of the decay."""
    long = ["--lr_scheduler_kwargs", '{"num_decay_steps": 10}']
    expected = "--lr_scheduler_kwargs: num_decay_steps 10 is not possible where 6 of 6 steps follow the warm-up"
    for steps in (["--max_steps", "6"], ["--num_train_epochs", "1"]):  # at the start, and once the steps are known
        sentence = refusal(capsys, run_mlm_wwm.main, *from_checkpoint(folder, tmp_path, *long, *steps))
        assert sentence.startswith(expected)
