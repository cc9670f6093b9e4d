"""Did training help: the figures before and after it, what keeps them over a resume, and how they look."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

import run_mlm
import run_mlm_wwm
from conftest import run_two_processes, sample_lines, sample_tokenizer, slow_after
from wordmask.tokenization.readable import ReadableTokens
from wordmask.training.evaluation import before_after
from wordmask.training.evaluation.before_after import Improved, ImprovedWords, Results, most_improved
from wordmask.training.evaluation.masked_words import MaskedWords
from wordmask.training.records.evaluation_record import Evaluation
from wordmask.training.trainer.evaluating import EvaluatingTrainer
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.quantities import loss

FILE = "wordmask_evaluations.json"
NAMES = ("eval_loss", "perplexity", "eval_accuracy", "eval_whole_word_accuracy")


class Killed(Exception):
    """What ends a run of these tests, as a signal would."""


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def evaluations(out: Path) -> list[dict]:
    return read_json(out / FILE)["evaluations"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Training and validation text, and a cache of their tokens."""
    folder = tmp_path_factory.mktemp("folder")
    lines = sample_lines("english", 36)
    (folder / "train.txt").write_text("\n".join(lines[:24]), encoding="utf-8")
    (folder / "dev.txt").write_text("\n".join(lines[24:]), encoding="utf-8")
    return folder


@pytest.fixture
def command(folder, english_model):
    """A command line of four steps that learn something."""

    def command(out: Path, *more: str, model: str = english_model) -> list[str]:
        return [
            *("--model_name_or_path", model, "--cache_dir", str(folder / "cache"), "--output_dir", str(out)),
            *("--train_file", str(folder / "train.txt"), "--validation_file", str(folder / "dev.txt")),
            *"--use_cpu --max_seq_length 48 --max_steps 4 --learning_rate 0.03 --mlm_probability 0.3".split(),
            *("--save_steps", "2", *more),
        ]

    return command


@pytest.fixture
def counted(monkeypatch) -> list[int]:
    """The step of each evaluation that is made."""
    steps, loop = [], EvaluatingTrainer.evaluation_loop

    def spied(self, *args, **kwargs):
        steps.append(self.state.global_step)
        return loop(self, *args, **kwargs)

    monkeypatch.setattr(EvaluatingTrainer, "evaluation_loop", spied)
    return steps


@pytest.fixture
def killed_after(monkeypatch):
    """Kill a run before the step after this one."""

    def killed_after(last: int, argv: list[str]) -> None:
        step = MlmTrainer.training_step

        def spied(self, *args):
            if self.state.global_step == last:
                raise Killed
            return step(self, *args)

        with monkeypatch.context() as patch:
            patch.setattr(MlmTrainer, "training_step", spied)
            with pytest.raises(Killed):
                run_mlm_wwm.main(argv)

    return killed_after


def alone(command, model: str, out: Path, *more: str) -> list[float]:
    """The figures of an evaluation by itself."""
    metrics = run_mlm_wwm.main(command(out, "--do_eval", *more, model=model))
    return [metrics[name] for name in NAMES]


def before_and_after(metrics: dict) -> tuple[list[float], list[float]]:
    return [metrics[f"{name}_before"] for name in NAMES], [metrics[name] for name in NAMES]


# The figures


@pytest.mark.parametrize("rate, is_worse", [("30", True), ("0.003", False)])
def test_a_model_that_became_worse_is_said_to_be(rate, is_worse, command, tmp_path, caplog):
    """A learning rate of 5 gave a loss of 738 after 10, and the run ended as any other."""
    metrics = run_mlm_wwm.main(command(tmp_path / "out", "--learning_rate", rate))
    assert (metrics["eval_loss"] > metrics["eval_loss_before"]) is is_worse
    assert ("higher than before training" in caplog.text) is is_worse


def test_a_loss_that_is_no_number_is_no_better_one(command, tmp_path, caplog):
    metrics = run_mlm_wwm.main(command(tmp_path / "out", "--learning_rate", "1e30", "--allow_nan"))
    assert math.isnan(metrics["eval_loss"]) and "or no number" in caplog.text
    caplog.clear()
    metrics = run_mlm_wwm.main(command(tmp_path / "again", "--do_eval", model=str(tmp_path / "out")))
    assert math.isnan(metrics["eval_loss"]) and "or no number" not in caplog.text, "nothing is compared"


@pytest.mark.parametrize(
    "more",
    slow_after(1, [[], ["--label_smoothing_factor", "0.2"], ["--pad_to_max_length"], ["--masking_strategy", "token"]]),
    ids=["plain", "smoothed", "fixed", "tokens"],
)
def test_before_and_after_are_two_separate_evaluations_to_the_last_digit(more, command, english_model, tmp_path):
    out = tmp_path / "out"
    metrics = run_mlm_wwm.main(command(out, *more))
    before, after = before_and_after(metrics)
    assert before[0] - after[0] > 0.1, "nothing was learned, so nothing is compared"
    assert before == alone(command, english_model, tmp_path / "before", *more)
    assert after == alone(command, str(out), tmp_path / "after", *more)
    for name in ("all_results.json", "eval_results.json"):
        assert before_and_after(read_json(out / name)) == (before, after)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert f"| evaluation loss | {loss(before[0])} | {loss(after[0])} |" in card
    first, last = evaluations(out)
    assert (first["step"], last["step"]) == (0, 4)
    assert [first["metrics"]["loss"], last["metrics"]["loss"]] == [before[0], after[0]]


@pytest.mark.parametrize("sparse", slow_after(1, ["true", "false"]))
@pytest.mark.parametrize("fixed", [[], ["--pad_to_max_length"]], ids=["", "fixed"])
def test_label_smoothing_changes_no_evaluation(sparse, fixed, command, english_model, tmp_path):
    """Perplexity was 554 where it is 528: that of the smoothed loss."""
    argv = ["--sparse_prediction", sparse, *fixed, "--label_smoothing_factor"]
    plain, smoothed = (alone(command, english_model, tmp_path / value, *argv, value) for value in ("0", "0.3"))
    assert plain == smoothed
    assert smoothed[1] == math.exp(smoothed[0])


def test_training_is_still_smoothed(command, tmp_path):
    losses = [
        run_mlm_wwm.main(command(tmp_path / value, "--label_smoothing_factor", value))["train_loss"]
        for value in ("0", "0.3")
    ]
    assert losses[0] != losses[1]


def test_an_evaluation_changes_nothing_of_the_training(command, tmp_path):
    """Dropout would draw other numbers: a loader takes one from the same generator."""
    outs = tmp_path / "with", tmp_path / "without"
    run_mlm_wwm.main(command(outs[0], "--eval_strategy", "steps", "--eval_steps", "1"))
    metrics = run_mlm_wwm.main(command(outs[1], "--no_eval_on_start"))
    assert outs[0].joinpath("model.safetensors").read_bytes() == outs[1].joinpath("model.safetensors").read_bytes()
    assert "eval_loss" in metrics and "eval_loss_before" not in metrics


def test_there_is_no_figure_before_without_an_evaluation_or_without_training(command, english_model, tmp_path):
    for name, more in (("trains", ["--do_train"]), ("evaluates", ["--do_eval"])):
        metrics = run_mlm_wwm.main(command(tmp_path / name, *more))
        assert not [name for name in metrics if name.endswith("_before")]
    assert not (tmp_path / "trains" / FILE).exists() and len(evaluations(tmp_path / "evaluates")) == 1


def test_eval_on_start_alone_asks_for_an_evaluation(command, tmp_path):
    metrics = run_mlm_wwm.main(command(tmp_path / "out", "--do_train", "--eval_on_start"))
    assert {"eval_loss", "eval_loss_before"} <= metrics.keys()


def test_the_last_evaluation_of_a_training_is_not_made_again(counted, command, tmp_path, capsys):
    metrics = run_mlm_wwm.main(command(tmp_path / "out", "--eval_strategy", "steps", "--eval_steps", "2"))
    assert counted == [0, 2, 4]
    assert metrics["eval_loss"] == evaluations(tmp_path / "out")[-1]["metrics"]["loss"]
    shown = capsys.readouterr().err
    assert [shown.count(f"predictions {when}") for when in ("before training", "after step 2", "after step 4")] == [
        1,
        1,
        1,
    ]


def test_the_last_evaluation_is_made_again_in_the_precision_that_was_asked_for(counted, command, tmp_path):
    """In training, transformers evaluates in the precision that trains, whatever --bf16_full_eval says."""
    out, half = tmp_path / "out", "--bf16_full_eval"
    metrics = run_mlm_wwm.main(command(out, "--eval_strategy", "steps", "--eval_steps", "4", half))
    assert counted == [0, 4, 4]
    assert before_and_after(metrics)[1] == alone(command, str(out), tmp_path / "after", half)


def test_after_is_the_model_that_is_saved(command, counted, tmp_path):
    """The model of step 2 is the best: it has the larger loss, and that is what was asked for here."""
    out = tmp_path / "out"
    more = "--eval_strategy steps --eval_steps 2 --load_best_model_at_end".split()
    more += ["--metric_for_best_model", "loss", "--greater_is_better", "true"]
    metrics = run_mlm_wwm.main(command(out, *more))
    assert counted == [0, 2, 4, 4]
    assert [(one["step"], one["epoch"]) for one in evaluations(out)] == [(0, 0.0), (2, 2 / 3), (4, 4 / 3)]
    assert metrics["eval_loss"] == evaluations(out)[1]["metrics"]["loss"] != evaluations(out)[2]["metrics"]["loss"]
    assert before_and_after(metrics)[1] == alone(command, str(out), tmp_path / "after")


# Over a resume


@pytest.mark.slow
def test_a_resume_takes_the_figures_from_the_record_and_evaluates_no_more(
    command, counted, killed_after, english_model, tmp_path
):
    more = ["--eval_strategy", "steps", "--eval_steps", "1"]
    run_mlm_wwm.main(command(tmp_path / "whole", *more))
    counted.clear()
    out = tmp_path / "out"
    killed_after(3, command(out, *more))
    assert [one["step"] for one in evaluations(out)] == [0, 1, 2, 3] and counted == [0, 1, 2, 3]
    counted.clear()
    metrics = run_mlm_wwm.main(command(out, *more))
    assert counted == [3, 4], "the checkpoint is of step 2"
    assert before_and_after(metrics)[0] == alone(command, english_model, tmp_path / "before")
    assert evaluations(out) == evaluations(tmp_path / "whole")


def test_the_first_evaluation_after_a_resume_is_compared_with_the_last_one_before_it(
    command, killed_after, tmp_path, capsys
):
    more = ["--eval_strategy", "steps", "--eval_steps", "1"]
    run_mlm_wwm.main(command(tmp_path / "whole", *more))
    (expected,) = re.findall("evaluation after step 3: .*", capsys.readouterr().err)
    killed_after(2, command(tmp_path / "out", *more))
    capsys.readouterr()
    run_mlm_wwm.main(command(tmp_path / "out", *more))
    assert re.findall("evaluation after step 3: .*", capsys.readouterr().err) == [expected] and " (" in expected


def test_evaluations_behind_the_checkpoint_are_dropped(command, counted, killed_after, tmp_path):
    out = tmp_path / "out"
    killed_after(3, command(out, "--eval_strategy", "steps", "--eval_steps", "3"))
    run_mlm_wwm.main(command(out))
    assert [one["step"] for one in evaluations(out)] == [0, 4]


def test_a_checkpoint_of_another_directory_brings_its_figures(command, killed_after, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    killed_after(3, command(first))
    before = (first / FILE).read_bytes()
    argv = command(second, "--resume_from_checkpoint", str(first / "checkpoint-2"), "--save_steps", "1")
    killed_after(3, argv)
    assert [one["step"] for one in evaluations(second)] == [0], "kept, should this run be killed, too"
    metrics = run_mlm_wwm.main(command(second))
    assert metrics["eval_loss_before"] == evaluations(first)[0]["metrics"]["loss"]
    assert [one["step"] for one in evaluations(second)] == [0, 4] and (first / FILE).read_bytes() == before


@pytest.mark.parametrize("content", slow_after(2, [None, "{bad", '{"evaluations": [{"step": 0}]}', "[1]"]))
def test_without_a_record_that_can_be_read_there_is_one_column(
    content, command, killed_after, tmp_path, caplog, capsys
):
    out = tmp_path / "out"
    killed_after(3, command(out))
    (out / FILE).unlink() if content is None else (out / FILE).write_text(content)
    capsys.readouterr()
    metrics = run_mlm_wwm.main(command(out))
    assert "holds no evaluation before training" in caplog.text
    assert ("cannot be read" in caplog.text) == (content is not None)
    assert "eval_loss" in metrics and "eval_loss_before" not in metrics
    shown = capsys.readouterr().err
    assert "evaluation after step 4: loss" in shown and "before and after:" not in shown
    assert [one["step"] for one in evaluations(out)] == [4]


def test_other_masks_are_not_compared(command, killed_after, tmp_path, caplog):
    out = tmp_path / "out"
    run_mlm_wwm.main(command(out))
    results = read_json(out / "all_results.json")
    assert "eval_loss_before" in results
    metrics = run_mlm_wwm.main(command(out, "--data_seed", "7"))
    assert caplog.text.count("not those of the evaluation before training") == 1
    for found in (metrics, read_json(out / "eval_results.json")):
        assert "eval_loss" in found and not [name for name in found if name.endswith("_before")]
    assert read_json(out / "all_results.json") == results, "the settings are not those of the training"


def test_a_finished_run_that_is_started_again_keeps_its_figures(command, counted, tmp_path):
    out = tmp_path / "out"
    metrics = run_mlm_wwm.main(command(out))
    results, record = read_json(out / "eval_results.json"), (out / FILE).read_bytes()
    again = run_mlm_wwm.main(command(out))
    assert before_and_after(again) == before_and_after(metrics)
    assert before_and_after(read_json(out / "eval_results.json")) == before_and_after(results)
    assert (out / FILE).read_bytes() == record and counted == [0, 4, 4]


def test_fewer_steps_than_a_finished_run_has_change_none_of_its_results(command, tmp_path, caplog, capsys):
    out = tmp_path / "out"
    run_mlm_wwm.main(command(out))
    results = [read_json(out / f"{name}_results.json") for name in ("train", "all")]
    capsys.readouterr()
    again = run_mlm_wwm.main(command(out, "--max_steps", "3", "--do_train"))
    assert again == results[0] and [read_json(out / f"{name}_results.json") for name in ("train", "all")] == results
    assert "holds the end of this run and more: 4 steps, of which this command asks for 3; its results" in caplog.text
    assert "steps: none; 4 are done, 3 asked for" in capsys.readouterr().err


def test_another_validation_text_is_said_once_at_the_start(command, folder, counted, tmp_path, caplog):
    out, other = tmp_path / "out", str(folder / "train.txt")
    run_mlm_wwm.main(command(out))
    for more, model in ((["--max_steps", "5"], {}), (["--do_eval"], {"model": str(out)})):
        caplog.clear()
        made = len(counted)
        metrics = run_mlm_wwm.main(command(out, *more, "--validation_file", other, **model))
        (said,) = (record for record in caplog.records if "before training" in record.getMessage())
        assert said.getMessage().startswith("the validation text is not that of the evaluation before training")
        assert caplog.records.index(said) < 4 and len(counted) == made + 1 and "eval_loss_before" not in metrics


def test_another_validation_text_with_the_same_masks_is_another_text(command, folder, tmp_path, capsys):
    out, other = tmp_path / "out", tmp_path / "other.txt"
    run_mlm_wwm.main(command(out))
    lines = (folder / "dev.txt").read_text().split("\n")
    other.write_text("\n".join(line + "  " for line in lines))  # the same tokens
    capsys.readouterr()
    metrics = run_mlm_wwm.main(command(out, "--max_steps", "5", "--validation_file", str(other)))
    before, after = evaluations(out)[0], evaluations(out)[-1]
    assert before["masks"] == after["masks"] and before["text"] != after["text"]
    assert "eval_loss" in metrics and "eval_loss_before" not in metrics
    [shown] = [line for line in capsys.readouterr().err.split("\n") if line.startswith("evaluation after step 5")]
    assert "(" not in shown


@pytest.mark.slow
def test_the_masks_of_evaluations_are_the_same_for_each_seed(command, tmp_path):
    """But not for each `--data_seed`, and not in training."""
    masks, losses = {}, {}
    for flags in ("--seed 1", "--seed 2", "--seed 2 --data_seed 1"):
        out = tmp_path / flags.replace(" ", "_")
        losses[flags] = run_mlm_wwm.main(command(out, *flags.split()))["train_loss"]
        masks[flags] = {one["masks"] for one in evaluations(out)}
    assert masks["--seed 1"] == masks["--seed 2"] != masks["--seed 2 --data_seed 1"]
    assert len({*losses.values()}) == 3


def test_an_evaluation_of_what_was_trained_is_compared_and_changes_no_record(command, tmp_path):
    out = tmp_path / "out"
    metrics = run_mlm_wwm.main(command(out))
    record = (out / FILE).read_bytes()
    again = run_mlm_wwm.main(command(out, "--do_eval", model=str(out)))
    assert before_and_after(again) == before_and_after(metrics) and (out / FILE).read_bytes() == record


def test_a_run_that_overwrites_another_begins_its_own_record(command, tmp_path):
    out = tmp_path / "out"
    run_mlm_wwm.main(command(out, "--eval_strategy", "steps", "--eval_steps", "1"))
    run_mlm_wwm.main(command(out, "--do_train", "--overwrite_output_dir"))
    assert not (out / FILE).exists()


# Words


def test_the_words_that_improved_most_are_those_with_the_largest_gain():
    before = {"the": [40, 12], "lake": [9, 0], "of": [30, 5], "sea": [5, 4], "shore": [4, 0], "gone": [7, 0]}
    after = {"the": [40, 31], "lake": [9, 4], "of": [30, 9], "sea": [5, 3], "shore": [3, 3]}
    assert most_improved(before, after) == [
        Improved("the", 40, 12, 31),
        Improved("lake", 9, 0, 4),
        Improved("of", 30, 5, 9),
    ]


def test_of_words_with_the_same_gain_the_one_that_is_masked_less_often_comes_first():
    before = {"the": [40, 12], "sea": [5, 1], "ash": [9, 0], "oak": [5, 0]}
    after = {"the": [40, 15], "sea": [5, 4], "ash": [9, 3], "oak": [5, 3]}
    assert [one.word for one in most_improved(before, after)] == ["oak", "sea", "ash", "the"]


def test_spellings_of_a_word_are_one_although_each_is_rarer_than_the_words_that_are_kept(monkeypatch):
    """`The` and `ĠThe` are masked 4 and 2 times: cut to one entry too early, the 2 would be lost."""
    monkeypatch.setattr(before_after, "MOST_FREQUENT", 1)
    words = MaskedWords(np.array([[1, -1], [2, -1], [3, -1]]), np.array([4, 2, 1]), np.array([1, 2, 0]))
    texts = {1: "The", 2: "The", 3: "sea"}
    readable = SimpleNamespace(word=lambda tokens: texts[tokens[0]], has_text=lambda tokens: True)
    assert before_after.frequent_words(words, readable) == {"The": [6, 3]}


def test_unknown_tokens_are_no_words():
    """The model card called a Japanese text Latin, since UNK are three Latin letters."""
    tokenizer = sample_tokenizer("bert")
    the, unknown = tokenizer.convert_tokens_to_ids("the"), tokenizer.unk_token_id
    tokens = np.array([[the, -1], [unknown, -1], [unknown, the]])
    words = MaskedWords(tokens, np.array([4, 9, 9]), np.array([1, 2, 2]))
    assert before_after.frequent_words(words, ReadableTokens(tokenizer)) == {"the": [4, 1]}


def test_figures_of_a_probe_on_other_examples_are_not_those_before():
    metrics = {"loss": 2.0, "probe_f1": 0.5}
    before, same, other = (Evaluation(step, 0.0, metrics, 7, probe=probe) for step, probe in enumerate("aab"))
    assert before_after.metrics_before(before, same) == {"eval_loss_before": 2.0, "eval_probe_f1_before": 0.5}
    assert before_after.metrics_before(before, other) == {"eval_loss_before": 2.0}


def test_words_are_counted_by_their_text_over_the_whole_evaluation(command, folder, tmp_path):
    """Against a count by hand: the sums of all words are those of the metrics, with punctuation left aside."""
    text = folder / "two_words.txt"
    text.write_text("\n".join(["the water"] * 40), encoding="utf-8")
    out = tmp_path / "out"
    argv = command(out, "--train_file", str(text), "--validation_file", str(text), "--max_steps", "30")
    metrics = run_mlm_wwm.main([*argv, "--save_strategy", "no", "--mlm_probability", "0.5"])
    first, last = (one["words"] for one in evaluations(out))
    assert first.keys() == last.keys() == {"the", "water"}
    masked, right = (sum(counts[index] for counts in last.values()) for index in (0, 1))
    assert masked == 40 and right / masked == metrics["eval_whole_word_accuracy"] > 0.9


@pytest.mark.slow
def test_chinese_words_are_words_and_not_characters(chinese_model, tmp_path, capsys):
    text, references = tmp_path / "text.txt", tmp_path / "text.ref"
    text.write_text("我们喜欢\n" * 12, encoding="utf-8")
    references.write_text("[2, 4]\n" * 12)
    run_mlm_wwm.main(
        [
            *("--model_name_or_path", chinese_model, "--output_dir", str(tmp_path / "out")),
            *("--train_file", str(text), "--train_ref_file", str(references)),
            *("--validation_file", str(text), "--validation_ref_file", str(references)),
            *"--use_cpu --max_steps 30 --learning_rate 0.03 --mlm_probability 0.5 --save_strategy no".split(),
        ]
    )
    assert {*evaluations(tmp_path / "out")[0]["words"]} == {"我们", "喜欢"}
    shown = re.search("words that improved most: .*", capsys.readouterr().err)
    assert shown is not None and re.search(r"(我们|喜欢) 0 of (\d+) -> \d+ of \2", shown[0])


# How it looks


def test_the_plain_lines():
    metrics = {"eval_loss": 2.3101, "perplexity": 10.0754, "eval_accuracy": 0.551, "eval_loss_before": 7.601}
    metrics |= {"perplexity_before": 2000.2, "eval_accuracy_before": 0.0121}
    assert Results(metrics, [("training examples", "1,300")]).line() == (
        "before and after: evaluation loss 7.601 -> 2.310, perplexity 2,000 -> 10.08, masked tokens right "
        "1.2% -> 55.1%, training examples 1,300"
    )
    improved = [Improved("the", 1040, 12, 1031), Improved("\x1b[31mred", 3, 0, 2)]
    assert ImprovedWords(improved).line() == (
        r"words that improved most: the 12 of 1,040 -> 1,031 of 1,040, \x1b[31mred 0 of 3 -> 2 of 3"
    )


def test_the_table_leaves_a_place_empty_where_nothing_was_known_before():
    def drawn(metrics: dict) -> str:
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(Results(metrics, [("training examples", "25")]))
        return console.export_text()

    both = drawn({"eval_loss": 2.0, "eval_loss_before": 7.0})
    assert re.search(r"before +.*after", both) and re.search(r"evaluation loss.*7\.000.*2\.000", both)
    one = drawn({"eval_loss": 2.0, "eval_loss_before": 7.0, "eval_probe_f1": 0.5})
    assert re.search(r"probe macro-F1 +\S +\S +50\.0%", one)


# Two processes


@pytest.mark.slow
def test_two_processes_give_the_figures_of_their_own_separate_evaluations(command, english_model, tmp_path):
    out = tmp_path / "{rank}" / "out"
    commands = [
        command(out),
        command(tmp_path / "{rank}" / "before", "--do_eval"),
        command(tmp_path / "{rank}" / "after", "--do_eval", model=str(tmp_path / "0" / "out")),
    ]
    printed = run_two_processes(commands, tmp_path / "commands.json")
    both = read_json(tmp_path / "0" / "out" / "all_results.json")
    separate = [read_json(tmp_path / "0" / name / "all_results.json") for name in ("before", "after")]
    assert list(before_and_after(both)) == [[found[name] for name in NAMES] for found in separate]
    assert not (tmp_path / "1" / "out" / FILE).exists() and printed.count("predictions before training") == 1
    # The words are those of one process, and so are the predictions but for rounding.
    torch.set_num_threads(1)
    run_mlm_wwm.main(command(tmp_path / "single", "--do_eval"))
    two, one = evaluations(tmp_path / "0" / "before")[0], evaluations(tmp_path / "single")[0]
    assert (two["words"], two["masks"]) == (one["words"], one["masks"])
    assert [line["text"] for line in two["predictions"]] == [line["text"] for line in one["predictions"]]


def test_blocks_are_compared_too(command, tmp_path):
    metrics = run_mlm.main(command(tmp_path / "out"))
    assert metrics["eval_loss_before"] > metrics["eval_loss"]
    shutil.rmtree(tmp_path / "out")
