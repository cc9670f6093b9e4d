"""Each evaluation stands by itself, whatever was loaded, evaluated or left in the middle before it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm_wwm
import wordmask
from conftest import run_until, sample_lines, slow_after, trajectory
from wordmask.data.tokenized_dataset import TokenizedDataset
from wordmask.training.records.evaluation_record import read_evaluations
from wordmask.training.trainer.evaluating import _FlatBatch
from wordmask.training.trainer.mlm_trainer import MlmTrainer

NAMES = ["eval_loss", "eval_news_loss", "eval_wiki_loss"]


class TwoCorpora(TokenizedDataset):
    bounds, evaluated_apart = [0, 5, 8], ["news", "wiki"]


@pytest.fixture
def trainer(english_model, tmp_path) -> wordmask.MlmTrainer:
    tokenizer = AutoTokenizer.from_pretrained(english_model)
    rows = TwoCorpora([tokenizer(line) for line in sample_lines("english", 8)], "eval_dataset")
    arguments = wordmask.RunArguments(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none", per_device_eval_batch_size=2
    )
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    return wordmask.MlmTrainer(model, arguments, eval_dataset=rows, processing_class=tokenizer)


def losses(metrics: dict[str, float]) -> list[float]:
    return [metrics[name] for name in NAMES]


def test_corpora_are_those_of_the_loader_that_is_read(trainer):
    expected, loader = losses(trainer.evaluate()), trainer.get_eval_dataloader()
    next(iter(trainer.get_eval_dataloader()))
    for _ in range(2):
        assert losses(trainer.evaluation_loop(loader, "Evaluation").metrics) == expected
    assert len({*expected}) == 3


def test_only_an_evaluation_of_the_trainers_own_text_is_kept(trainer):
    trainer.history = history = Mock()
    trainer.evaluate()
    trainer.evaluate(trainer.eval_sequences.dataset)
    trainer.evaluation_loop(trainer.get_eval_dataloader(), "Prediction")
    assert (history.add.call_count, history.show_predictions.call_count) == (1, 1)


def test_an_evaluation_that_fails_leaves_nothing_to_the_next_one(trainer, monkeypatch):
    expected, prepare, batches = losses(trainer.evaluate()), trainer._prepare_inputs, []

    def fails(inputs):
        batches.append(inputs)
        if len(batches) == 3:
            raise MemoryError
        return prepare(inputs)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(trainer, "_prepare_inputs", fails)
        trainer.evaluate()
    assert losses(trainer.evaluate()) == expected


def test_padding_belongs_to_no_word_where_a_token_of_text_fills_up(trainer):
    """A tokenizer without a padding token pads with 0, which may be text, and continues the last word then."""
    seen, words = torch.tensor([20, 21, 20, 20]), torch.tensor([1, 1, 1, 1])
    labels, attended = torch.tensor([30, -100, -100, -100]), torch.tensor([True, True, False, False])
    batch, best = _FlatBatch(seen, labels, words, attended), torch.tensor([30, -101, -101, -101])
    found = batch.masked_words(best, trainer.eval_collator.vocabulary.maskable)
    assert [token for token in found.tokens[0].tolist() if token >= 0] == [30, 21]
    assert (found.masked.tolist(), found.right.tolist()) == ([1], [1])


def test_tokens_without_text_of_their_own_count_as_one_character(trainer):
    """`[UNK]` is no text of five characters, though it stands for text and may be masked."""
    tokenizer = trainer.processing_class
    ids = [tokenizer.unk_token_id, tokenizer.mask_token_id, tokenizer.convert_tokens_to_ids("the")]
    assert trainer._characters[ids].tolist() == [1, 1, 3]


def test_the_best_step_is_one_of_those_that_were_evaluated_on_the_same_text(english_model, tmp_path, capsys):
    """A resume with another validation text compared losses of two texts, and kept the worse model."""
    lines = sample_lines("english", 40)
    easy, hard = tmp_path / "easy.txt", tmp_path / "hard.txt"
    easy.write_text("\n".join(lines[:8]) + "\n", encoding="utf-8")
    hard.write_text("\n".join(lines[8:]) + "\n", encoding="utf-8")
    out = tmp_path / "out"

    def run(validation: Path, steps: int) -> None:
        argv = ["--model_name_or_path", english_model, "--train_file", str(easy), "--validation_file", str(validation)]
        argv += ["--max_steps", str(steps), "--eval_strategy", "steps", "--eval_steps", "10", "--save_steps", "10"]
        argv += ["--learning_rate", "5e-3", "--load_best_model_at_end", "--use_cpu", "--output_dir", str(out)]
        run_mlm_wwm.main([*argv, "--no_eval_on_start", "--lr_scheduler_type", "constant"])

    run(easy, 20)
    losses = {one.step: one.metrics["loss"] for one in read_evaluations(out, 20)}
    capsys.readouterr()
    run(hard, 30)
    printed = capsys.readouterr().err
    losses |= {one.step: one.metrics["loss"] for one in read_evaluations(out, 30) if one.step == 30}
    assert losses[20] < losses[30], "else the step on the other text would be the best one anyway"
    assert "this run was started with other settings: validation text: digest " in printed
    assert "the evaluation of step 20, the best one so far, had another text" in printed
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_global_step"] == 30 and state["best_metric"] == losses[30]
    assert state["best_model_checkpoint"].endswith("checkpoint-30")


@pytest.fixture
def evaluating(needed_flags) -> list[str]:
    """A run that evaluates after each second step, and keeps the best model."""
    more = "--eval_strategy steps --eval_steps 2 --save_steps 2 --load_best_model_at_end --no_eval_on_start --use_cpu"
    return [*needed_flags, *more.split(), "--per_device_train_batch_size", "4"]


def tell_losses(monkeypatch, losses: dict[int, float]) -> None:
    """Let the evaluations of a training find these losses, by step."""
    evaluate = MlmTrainer.evaluate

    def told(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        return metrics | ({"eval_loss": losses[self.state.global_step]} if self.is_in_train else {})

    monkeypatch.setattr(MlmTrainer, "evaluate", told)


def saved_steps(out: Path) -> list[int]:
    """The steps of the checkpoints that hold the weights of the saved model."""
    saved = AutoModelForMaskedLM.from_pretrained(out).state_dict()
    found = []
    for path in sorted(out.glob("checkpoint-*")):
        weights = AutoModelForMaskedLM.from_pretrained(path).state_dict()
        found += [int(path.name.partition("-")[2])] if all(map(torch.equal, weights.values(), saved.values())) else []
    return found


def test_the_best_model_is_one_that_was_saved(evaluating, tmp_path, monkeypatch, capsys):
    """The step with the lowest loss was called the saved one, and its record got the figures of another one."""
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0, 6: 2.0, 8: 4.0})
    run_mlm_wwm.main([*evaluating, "--save_steps", "4", "--max_steps", "8"])
    out = tmp_path / "out"
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    assert (saved_steps(out), state["best_global_step"], state["best_metric"]) == ([4], 4, 3.0)
    assert "saved model: that of step 4" in capsys.readouterr().err
    losses = {one.step: one.metrics["loss"] for one in read_evaluations(out, 8)}
    assert len({*losses.values()}) == 4, "the record of a step keeps the figures of that step"


def test_a_signal_makes_no_other_model_the_best_one(evaluating, tmp_path, monkeypatch):
    """The checkpoint of a step that would not be saved otherwise."""
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0, 6: 2.0, 8: 4.0})
    argv = [*evaluating, "--save_steps", "4", "--max_steps", "8"]
    run_until(2, argv)
    run_mlm_wwm.main(argv)
    assert saved_steps(tmp_path / "out") == [4]


@pytest.mark.parametrize("best", [2, 4])
def test_the_best_model_is_found_if_the_last_evaluation_is_made_by_a_resume(best, evaluating, tmp_path, monkeypatch):
    """Also in a directory that was moved: of the best model, the one before was saved, or the last one."""
    tell_losses(monkeypatch, {2: 2.0, 4: 2.0} | {best: 1.0})
    run_until(4, [*evaluating, "--max_steps", "4"])
    moved = tmp_path / "moved"
    (tmp_path / "out").rename(moved)
    figures = run_mlm_wwm.main([*evaluating, "--max_steps", "4", "--output_dir", str(moved)])
    assert saved_steps(moved) == [best]
    if best == 2:  # else it is the loss that we told
        assert figures["eval_loss"] == read_evaluations(moved, 2)[0].metrics["loss"]


def zero_the_middle(path: Path) -> None:
    """Damage a file so that it keeps its size, and can be read."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(1000) + content[middle + 1000 :])


DAMAGES = {
    "it is not there": lambda weights: shutil.rmtree(weights.parent),
    "model.safetensors is missing": Path.unlink,
    "model.safetensors has 1 bytes instead of": lambda weights: weights.write_bytes(b"x"),
    "model.safetensors is not what was written": zero_the_middle,
}


@pytest.mark.parametrize("problem", slow_after(2, reversed(DAMAGES)))
def test_another_model_is_the_best_one_if_the_checkpoint_of_the_best_one_is_damaged(
    problem, evaluating, tmp_path, monkeypatch, capsys
):
    """Its damaged weights were saved, and called those of the best step."""
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0, 6: 2.0, 8: 4.0})
    run_mlm_wwm.main([*evaluating, "--max_steps", "4"])
    DAMAGES[problem](tmp_path / "out" / "checkpoint-2" / "model.safetensors")
    run_mlm_wwm.main([*evaluating, "--max_steps", "8"])
    printed = capsys.readouterr().err
    assert f"checkpoint-2, the best checkpoint so far, is not used: {problem}" in printed
    assert "the best step is one from step 4 on" in printed
    shutil.rmtree(tmp_path / "out" / "checkpoint-2", ignore_errors=True)
    assert saved_steps(tmp_path / "out") == [6]


def test_the_best_model_is_saved_without_the_optimizer_of_its_checkpoint(evaluating, tmp_path, monkeypatch, capsys):
    """Who makes room on the disk may remove that."""
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0, 6: 2.0})
    run_mlm_wwm.main([*evaluating, "--max_steps", "4"])
    (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").unlink()
    run_mlm_wwm.main([*evaluating, "--max_steps", "6"])
    assert "is not used" not in capsys.readouterr().err
    assert saved_steps(tmp_path / "out") == [2]


def test_the_checkpoint_of_another_step_is_not_taken_for_that_of_the_best_one(
    evaluating, tmp_path, monkeypatch, capsys
):
    """A run that loads no best model notes a best step without a checkpoint, beside the best checkpoint."""
    tell_losses(monkeypatch, {2: 5.0, 4: 3.0, 6: 1.0, 8: 4.0, 10: 7.0, 12: 6.0})
    argv = [*evaluating, "--save_steps", "4", "--metric_for_best_model", "loss"]
    run_mlm_wwm.main([*argv, "--load_best_model_at_end", "false", "--max_steps", "8"])
    run_mlm_wwm.main([*argv, "--max_steps", "12"])
    assert "checkpoint-6, the best checkpoint so far, is not used: it is not there" in capsys.readouterr().err
    assert saved_steps(tmp_path / "out") == [12]


def test_the_last_model_is_saved_if_the_best_one_was_damaged_since(evaluating, tmp_path, monkeypatch, capsys):
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0})
    weights = tmp_path / "out" / "checkpoint-2" / "model.safetensors"
    finalize = MlmTrainer._finalize_training

    def damaged_first(self, *args, **kwargs):
        zero_the_middle(weights)
        return finalize(self, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "_finalize_training", damaged_first)
    run_mlm_wwm.main([*evaluating, "--max_steps", "4"])
    assert "is not used: model.safetensors is not what was written; the model of step 4" in capsys.readouterr().err
    assert saved_steps(tmp_path / "out") == [4]
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["best_global_step"], state["best_model_checkpoint"]) == (None, None)


def test_a_finished_run_is_evaluated_at_the_step_of_its_model(evaluating, tmp_path):
    """A run that was made longer and stopped, and is then asked for its first steps, has checkpoints of later ones."""
    run_mlm_wwm.main([*evaluating, "--max_steps", "4"])
    run_until(6, [*evaluating, "--max_steps", "8"])
    before = [(one.step, one.metrics["loss"]) for one in read_evaluations(tmp_path / "out", 8)]
    run_mlm_wwm.main([*evaluating, "--max_steps", "4"])
    assert [(one.step, one.metrics["loss"]) for one in read_evaluations(tmp_path / "out", 8)] == before


@pytest.mark.parametrize(
    "more", [["--save_total_limit", "1"], ["--save_strategy", "best", "--metric_for_best_model", "loss"]]
)
def test_a_finished_run_is_not_trained_again_if_its_best_checkpoint_is_not_its_last_one(
    more, evaluating, tmp_path, monkeypatch, capsys
):
    """The last one was removed, or never saved, so the same command trained from the best one on."""
    tell_losses(monkeypatch, {2: 1.0, 4: 3.0})
    argv = [*evaluating, "--max_steps", "4", *more]
    run_mlm_wwm.main(argv)
    capsys.readouterr()
    run_mlm_wwm.main(argv)
    assert "holds the end of this run; its results stay" in capsys.readouterr().err
    assert saved_steps(tmp_path / "out") == [2]


def test_an_evaluation_that_a_resume_makes_saves_no_checkpoint_again(evaluating, tmp_path):
    """With --save_strategy best it did: it removed the only checkpoint first, and saved other random numbers."""
    argv = [*evaluating, "--save_strategy", "best", "--max_steps", "4", "--logging_steps", "1"]
    argv += ["--metric_for_best_model", "loss", "--learning_rate", "1e-3"]
    run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "whole")])
    run_until(2, argv)
    run_mlm_wwm.main(argv)
    assert trajectory(tmp_path / "out") == trajectory(tmp_path / "whole")


@pytest.mark.parametrize(
    "name, flags",
    [("eval_loss", ["--greater_is_better", "true"]), ("eval_accuracy", ["--metric_for_best_model", "accuracy"])],
)
def test_another_metric_chooses_the_best_model_among_the_earlier_ones_too(name, flags, evaluating, tmp_path, capsys):
    """Its values were compared with those of the metric before it, so no later model was better."""
    argv = [*evaluating, "--learning_rate", "1e-2"]
    run_mlm_wwm.main([*argv, "--max_steps", "4"])
    run_mlm_wwm.main([*argv, "--max_steps", "8", *flags])
    printed = capsys.readouterr().err
    assert f"chosen by eval_loss, less, and is by {name}, more now: step " in printed
    assert f"with other settings: {flags[0]}: none -> {flags[1].replace('true', 'True')}" in printed
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))
    found = {entry["step"]: entry[name] for entry in state["log_history"] if name in entry}
    best = max(found, key=found.__getitem__)
    assert (state["best_global_step"], state["best_metric"]) == (best, found[best]) and len(found) == 4
    assert saved_steps(tmp_path / "out") == [best]


def best_in(out: Path) -> tuple[int, float, dict[int, float]]:
    """The best step of a run, its metric, and the losses of all its evaluations by step."""
    state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
    found = {entry["step"]: entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry}
    return state["best_global_step"], state["best_metric"], found


def test_a_metric_is_not_compared_with_another_one_from_before_a_run_without_any(evaluating, tmp_path, capsys):
    """The accuracy of step 2 stayed the best loss, below all others."""
    argv = [*evaluating, "--learning_rate", "1e-2"]
    run_mlm_wwm.main([*argv, "--max_steps", "4", "--metric_for_best_model", "accuracy"])
    run_mlm_wwm.main([*argv, "--max_steps", "6", "--load_best_model_at_end", "false"])
    run_mlm_wwm.main([*argv, "--max_steps", "8"])
    assert "chosen by eval_accuracy, more, and is by eval_loss, less now: step " in capsys.readouterr().err
    step, metric, found = best_in(tmp_path / "out")
    assert (step, metric) == (min(found, key=found.__getitem__), min(found.values())) and len(found) == 4


def test_another_metric_chooses_among_evaluations_of_the_same_text(evaluating, english_file, tmp_path, capsys):
    """Losses fall, so the highest one with the second text is that of step 6, and of all that of step 2."""
    (tmp_path / "other.txt").write_text("\n".join(sample_lines("english", 40)[20:]), encoding="utf-8")
    argv = [*evaluating, "--learning_rate", "1e-2", "--validation_file"]
    run_mlm_wwm.main([*argv, english_file, "--max_steps", "4"])
    run_mlm_wwm.main([*argv, str(tmp_path / "other.txt"), "--max_steps", "8"])
    run_mlm_wwm.main([*argv, str(tmp_path / "other.txt"), "--max_steps", "10", "--greater_is_better", "true"])
    assert "and is by eval_loss, more now: step 6 so far" in capsys.readouterr().err
    step, metric, found = best_in(tmp_path / "out")
    assert (step, metric) == (6, found[6]) and found[6] == max(found[6], found[8], found[10])


def groups_in(checkpoint: Path) -> list[dict]:
    """The settings of the optimizer in a checkpoint."""
    return torch.load(checkpoint / "optimizer.pt", weights_only=True)["param_groups"]


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_follow_evaluations_resume_with_the_settings_of_today(schedule, evaluating, tmp_path):
    """Those of the checkpoint went on, and the run said that they had changed."""
    argv, out = [*evaluating, "--lr_scheduler_type", schedule, "--max_steps"], tmp_path / "out"
    halving = '{"patience": 0, "factor": 0.5, "threshold": 1, "min_lr": 0}'
    constant = '{"patience": 100, "factor": 0.5, "threshold": 1, "min_lr": 0}'
    run_mlm_wwm.main([*argv, "4", "--learning_rate", "1e-3", "--lr_scheduler_kwargs", halving])
    first, before = (groups_in(out / f"checkpoint-{step}")[0]["lr"] for step in (2, 4))
    run_mlm_wwm.main([*argv, "8", "--learning_rate", "1e-5", "--lr_scheduler_kwargs", constant])
    after = [group["lr"] for step in (6, 8) for group in groups_in(out / f"checkpoint-{step}")]
    assert before == first / 2 and after == pytest.approx([before / 100] * len(after))


def test_a_schedule_that_has_seen_no_evaluation_is_no_lost_one(evaluating, tmp_path, capsys):
    """It counts evaluations, so it is at 0, like the schedule of a checkpoint without any."""
    argv = [*evaluating, "--lr_scheduler_type", "reduce_lr_on_plateau", "--eval_steps", "4", "--save_steps", "4"]
    run_until(2, [*argv, "--max_steps", "8"])
    run_mlm_wwm.main([*argv, "--max_steps", "8"])
    printed = capsys.readouterr().err
    assert "going on from" in printed and "--save_only_model" not in printed


def test_all_settings_of_optim_args_are_those_of_today(evaluating, tmp_path):
    argv = [*evaluating, "--optim", "rmsprop", "--max_steps"]
    run_mlm_wwm.main([*argv, "2", "--optim_args", "alpha=0.9"])
    run_mlm_wwm.main([*argv, "4", "--optim_args", "alpha=0.5,centered=False"])
    assert {group["alpha"] for group in groups_in(tmp_path / "out" / "checkpoint-4")} == {0.5}
