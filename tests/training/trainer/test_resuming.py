"""A run that goes on, whatever the size of its steps: each example once an epoch, and the right end."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers.models.bert.modeling_bert import BertModel

import run_mlm
import run_mlm_wwm
from conftest import refusal, run_until, sample_lines, sequences_in, training_steps
from wordmask.training.records.manifest import write_manifest
from wordmask.training.trainer.mlm_trainer import MlmTrainer


class Killed(Exception):
    """What ends a run of these tests, as a signal would."""


class Spy:
    """Notes the rows that a run trains on, each as its tokens, and kills the run after a step.

    Attributes:
        rows: (step, tokens) of each row with a label, in order; steps count from 0.
        last: the step after which the run is killed, if at all.
    """

    def __init__(self) -> None:
        self.rows: list[tuple[int, tuple[int, ...]]] = []
        self.last: int | None = None

    def note(self, step: int, inputs: dict[str, torch.Tensor]) -> None:
        if step == self.last:
            raise Killed
        self.rows += [(step, sequence) for sequence in sequences_in(inputs)]

    def epochs(self, rows: int) -> list[Counter]:
        """The rows of each epoch, with how often they came; each step is counted as often as it was done."""
        return [Counter(row for _, row in self.rows[at : at + rows]) for at in range(0, len(self.rows), rows)]

    def run(self, argv: list[str], last: int | None = None, script=run_mlm_wwm) -> dict[str, float]:
        """Run, up to a step."""
        self.last = last
        if last is None:
            return script.main(argv)
        with pytest.raises(Killed):
            script.main([*argv, "--save_steps", str(last)])
        return {}


@pytest.fixture
def spy(monkeypatch) -> Spy:
    spy, step = Spy(), MlmTrainer.training_step

    def spied(self, model, inputs, *more):
        spy.note(self.state.global_step, inputs)
        rows = len(spy.rows)
        try:
            return step(self, model, inputs, *more)
        except RuntimeError:  # out of memory: the step was not done
            del spy.rows[rows - len(inputs["labels"]) :]
            raise

    monkeypatch.setattr(MlmTrainer, "training_step", spied)
    return spy


LINES = 24


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """Lines of different lengths, no two alike."""
    lines = [f"{line[: 20 + 9 * (number % 7)]} {number}" for number, line in enumerate(sample_lines("english", LINES))]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def command(english_model, text, tmp_path):
    """A command line that trains for some epochs; a run that is killed has a checkpoint of its last step."""

    def command(batch: int, epochs: float = 2, *more: str, out: str = "out") -> list[str]:
        return [
            *("--model_name_or_path", english_model, "--train_file", text, "--output_dir", str(tmp_path / out)),
            *("--cache_dir", str(Path(text).parent / "cache"), "--per_device_train_batch_size", str(batch)),
            *("--num_train_epochs", str(epochs)),
            *"--use_cpu --do_train --max_seq_length 48 --logging_steps 1".split(),
            *more,
        ]

    return command


def state(tmp_path: Path, out: str = "out") -> dict:
    return json.loads((tmp_path / out / "trainer_state.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 10))])
def test_every_example_comes_once_an_epoch_whatever_changes(seed, spy, command, tmp_path):
    """Ten random changes of batch size, accumulation, order and shape."""
    draw = random.Random(seed)
    more = draw.choice([[], [], ["--train_sampling_strategy", "random"], ["--pad_to_max_length"]])
    first = draw.choice([2, 3, 4, 8])
    stop = draw.randrange(1, 2 * LINES // first)
    spy.run(command(first, 2, *more), stop)
    other = draw.choice([size for size in (1, 3, 4, 5, 8) if size != first])
    accumulation = draw.choice([1, 1, 2])
    spy.run(command(other, 2, *more, "--gradient_accumulation_steps", str(accumulation)))
    epochs = spy.epochs(LINES)
    assert [set(epoch.values()) for epoch in epochs] == [{1}, {1}] and len(epochs[0]) == LINES
    assert epochs[0] == epochs[1]
    steps = sorted({step for step, _ in spy.rows})
    assert steps == list(range(state(tmp_path)["global_step"])), "the step number goes on"


def test_several_changes_leave_several_pieces_in_a_checkpoint(spy, command, tmp_path):
    """Steps of 4, then of 3, then of 5: 24 = 2 x 4 + 3 x 3 + 5 + 2."""
    spy.run(command(4, 1), 2)
    spy.run(command(3, 1), 5)
    spy.run(command(5, 1, "--save_steps", "1"))
    assert spy.epochs(LINES) == [Counter({row: 1 for _, row in spy.rows})]
    record = json.loads((tmp_path / "out" / "checkpoint-6" / "wordmask_progress.json").read_text(encoding="utf-8"))
    seen = [(piece["step_size"], piece["steps"], piece["examples"]) for piece in record["seen"]]
    assert (record["epoch"], seen) == (0, [(4, 2, 8), (3, 3, 9), (5, 1, 5)])
    saved = json.loads((tmp_path / "out" / "checkpoint-6" / "trainer_state.json").read_text(encoding="utf-8"))
    assert saved["train_batch_size"] == 5, "--auto_find_batch_size begins with it"
    assert state(tmp_path)["global_step"] == 7


@pytest.mark.parametrize("more", [[], ["--tokens_per_step", "100"]], ids=["sequences", "tokens"])
def test_a_checkpoint_keeps_its_order_where_another_one_is_the_default(spy, command, tmp_path, more):
    """Flat batches have lines in random order, and batches with padding group them by length."""
    varlen, sdpa = ([*more, "--dropout", "0", "--attn_implementation", name] for name in ("varlen", "sdpa"))
    spy.run(command(4, 1, *varlen), 3)
    spy.run(command(4, 1, *sdpa))
    assert spy.epochs(LINES) == [Counter({row: 1 for _, row in spy.rows})]
    resumed = spy.rows.copy()
    spy.rows.clear()
    spy.run(command(4, 1, *sdpa, "--train_sampling_strategy", "random", out="random"))
    assert spy.rows == resumed
    spy.rows.clear()
    spy.run(command(4, 1, *sdpa, out="grouped"))
    assert spy.rows != resumed


def test_an_older_checkpoint_goes_on_in_the_order_that_lines_had_then(spy, command, tmp_path):
    """It does not tell its order, and neither does the record of its run: lines were grouped, also in flat batches."""
    flat = ["--dropout", "0", "--attn_implementation", "varlen"]
    spy.run(command(4, 1, *flat, "--train_sampling_strategy", "group_by_length"), 3)
    checkpoint, run = tmp_path / "out" / "checkpoint-3", tmp_path / "out" / "wordmask_run.json"
    record, progress = json.loads(run.read_text()), json.loads((checkpoint / "wordmask_progress.json").read_text())
    del record["arguments"]["train_sampling_strategy"], progress["order"]
    run.write_text(json.dumps(record))
    (checkpoint / "wordmask_progress.json").write_text(json.dumps(progress))
    (checkpoint / "wordmask_manifest.json").unlink()
    write_manifest(checkpoint)
    spy.run(command(4, 1, *flat))
    assert spy.epochs(LINES) == [Counter({row: 1 for _, row in spy.rows})]


def test_an_order_that_goes_on_is_no_other_setting(spy, command, tmp_path, caplog):
    spy.run(command(4, 1, "--train_sampling_strategy", "random"), 3)
    spy.run(command(4, 1))
    assert "train_sampling_strategy" not in caplog.text
    assert spy.epochs(LINES) == [Counter({row: 1 for _, row in spy.rows})]
    described = json.loads((tmp_path / "out" / "wordmask_run.json").read_text(encoding="utf-8"))["described"]
    assert described["order"] == "random" and "train_sampling_strategy" not in described.get("other settings", "")


def test_numbers_go_on_and_schedules_run_over_the_steps_done_and_those_left(spy, command, tmp_path, caplog):
    """Of 12 steps of 4 in two epochs, 3 are done; 12 examples in 2 steps of 8 and an epoch of 3 are left: 8 in all."""
    more = ["--learning_rate", "1e-3", "--mlm_probability", "0.5:0.1"]
    spy.run(command(4, 2, *more), 3)
    result = spy.run(command(8, 2, *more))
    assert "holds the end" not in caplog.text
    assert "8 examples in a step instead of 4: 12 examples of epoch 1 are left, and the run ends with step 8" in (
        caplog.text
    )
    steps = training_steps(tmp_path / "out")
    assert [step["step"] for step in steps] == list(range(1, 9))
    expected = [1e-3 * (1 - step / 12) for step in range(3)] + [1e-3 * (1 - step / 8) for step in range(3, 8)]
    assert [step["learning_rate"] for step in steps] == pytest.approx(expected)
    seen = [4, 8, 12, 20, 24, 32, 40, 48]
    assert [step["epoch"] for step in steps] == pytest.approx([examples / 24 for examples in seen])
    mean = sum(step["loss"] for step in steps) / 8
    assert result["train_loss"] == pytest.approx(mean, rel=1e-6)
    results = json.loads((tmp_path / "out" / "train_results.json").read_text(encoding="utf-8"))
    assert results["train_loss"] == result["train_loss"] and results["epoch"] == 2.0


def test_a_broken_number_of_epochs_is_met_in_examples(spy, command, tmp_path):
    """One and two thirds of an epoch are 40 examples: 2 steps of 4, then 16 in 2 steps of 8, and 16 in 2 more."""
    spy.run(command(4, 5 / 3), 2)
    spy.run(command(8, 5 / 3))
    assert (
        len(spy.rows) == 40
        and state(tmp_path)["global_step"] == 6
        and state(tmp_path)["epoch"] == pytest.approx(5 / 3)
    )


def test_max_steps_is_the_plan_whatever_the_step_size(spy, command, tmp_path):
    spy.run(command(4, 1, "--max_steps", "8"), 1)
    spy.run(command(8, 1, "--max_steps", "8"))
    assert state(tmp_path)["global_step"] == 8 and len(spy.rows) == 4 + 20 + 24 + 8
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}, {1}]


@pytest.mark.parametrize(
    "script, more",
    [
        (run_mlm_wwm, ["--pack_sequences"]),
        (run_mlm_wwm, ["--max_train_samples", "13"]),
        (run_mlm, []),
    ],
    ids=["packed", "max_train_samples", "blocks"],
)
def test_rows_of_every_kind_come_once_an_epoch(script, more, spy, command, tmp_path):
    spy.run(command(2, 2, *more), 3, script)
    spy.run(command(3, 2, *more), None, script)
    rows = len(set(spy.rows and [row for _, row in spy.rows]))
    assert rows > 6 and [set(epoch.values()) for epoch in spy.epochs(rows)] == [{1}, {1}]


def test_dropping_the_last_rows_still_shows_no_row_twice(spy, command, tmp_path):
    """24 rows: 2 steps of 3 leave 18, of which steps of 4 drop 2."""
    spy.run(command(3, 1, "--dataloader_drop_last"), 2)
    spy.run(command(4, 1, "--dataloader_drop_last"))
    assert len(spy.rows) == 22 == len({row for _, row in spy.rows}) and state(tmp_path)["global_step"] == 6


def test_a_resume_after_a_change_ends_as_if_it_had_not_been_interrupted(spy, command, tmp_path):
    """Byte for byte: in the epoch of the change, at its end, and in the next one."""
    more = ["--mlm_probability", "0.4:0.1"]
    spy.run(command(4, 2, *more), 2)
    for name in ("early", "between", "late"):
        shutil.copytree(tmp_path / "out", tmp_path / name)
    spy.run(command(6, 2, *more))
    for name, stop in (("early", 3), ("between", 5), ("late", 6)):
        spy.run(command(6, 2, *more, out=name), stop)
        spy.run(command(6, 2, *more, out=name))
        files = [(tmp_path / where / "model.safetensors").read_bytes() for where in ("out", name)]
        assert files[0] == files[1]
        assert training_steps(tmp_path / name) == training_steps(tmp_path / "out")
        losses = [
            json.loads((tmp_path / where / "train_results.json").read_text())["train_loss"] for where in ("out", name)
        ]
        assert losses[0] == losses[1]


def test_the_end_of_a_run_is_said_only_where_it_is(spy, command, tmp_path, caplog):
    """6 steps of 4 are an epoch; as many steps of 8 are not what is left."""
    spy.run(command(4, 1))
    spy.run(command(8, 1))
    assert "holds the end of this run" in caplog.text and len(spy.rows) == LINES
    caplog.clear()
    spy.run(command(8, 2))
    assert "holds the end" not in caplog.text and state(tmp_path)["global_step"] == 6 + 3


def test_another_dropout_is_told_and_taken(spy, command, tmp_path, caplog):
    spy.run(command(4, 1, "--dropout", "0.1"), 3)
    spy.run(command(4, 1, "--dropout", "0"))
    assert "dropout: attention_probs_dropout_prob 0.1 -> 0.0, hidden_dropout_prob 0.1 -> 0.0" in caplog.text
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_dropout_prob"] == 0 and state(tmp_path)["global_step"] == 6


def test_a_new_learning_rate_and_weight_decay_are_taken(spy, command, tmp_path, caplog):
    """transformers keeps those that lie in the checkpoint, and says nothing."""
    spy.run(command(4, 1, "--learning_rate", "1e-3", "--weight_decay", "0.1"), 3)
    spy.run(command(4, 1, "--learning_rate", "1e-4", "--weight_decay", "0.2"))
    assert "--learning_rate: 0.001 -> 0.0001" in caplog.text and "--weight_decay: 0.1 -> 0.2" in caplog.text
    assert training_steps(tmp_path / "out")[3]["learning_rate"] == pytest.approx(1e-4 * 0.5)
    state = torch.load(tmp_path / "out" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert state["param_groups"][0]["weight_decay"] == 0.2


@pytest.mark.parametrize("optims", [("adamw_torch_fused", "adamw_torch"), ("adamw_torch", "adamw_torch_fused")])
def test_another_kernel_of_the_same_optimizer_is_taken(spy, command, tmp_path, caplog, optims):
    """The state in a checkpoint says which one it had."""
    for stop, optim in zip((3, None), optims, strict=True):
        spy.run(command(4, 1, "--optim", optim), stop)
    assert "--optim: {} -> {}".format(*optims) in caplog.text and "without its old state" not in caplog.text
    state = torch.load(tmp_path / "out" / "checkpoint-6" / "optimizer.pt", weights_only=True)
    assert [bool(group["fused"]) for group in state["param_groups"]] == 2 * [optims[1] == "adamw_torch_fused"]
    assert {int(values["step"]) for values in state["state"].values()} == {6}


def test_another_optimizer_begins_with_a_state_of_its_own(spy, command, tmp_path, caplog):
    spy.run(command(4, 1), 3)
    spy.run(command(4, 1, "--optim", "sgd", "--learning_rate", "0.1"))
    assert "the optimizer starts without its old state" in caplog.text
    assert training_steps(tmp_path / "out")[3]["learning_rate"] == pytest.approx(0.05)


def test_a_checkpoint_without_an_optimizer_keeps_its_place_in_the_schedule(spy, command, tmp_path, caplog):
    spy.run(command(4, 1, "--save_only_model", "--learning_rate", "1e-3"), 3)
    spy.run(command(4, 1, "--save_only_model", "--learning_rate", "1e-3"))
    assert training_steps(tmp_path / "out")[3]["learning_rate"] == pytest.approx(0.5e-3)
    assert "holds the model alone (--save_only_model), so the optimizer and the random numbers" in caplog.text


def test_a_plain_checkpoint_had_steps_of_the_size_that_the_run_was_started_with(spy, command, tmp_path):
    spy.run(command(4, 2, "--gradient_accumulation_steps", "2"), 4)  # 8 examples of the second epoch
    for path in (tmp_path / "out").glob("checkpoint-*/wordmask_*.json"):
        path.unlink()
    result = spy.run(command(4, 2, "--gradient_accumulation_steps", "1"))
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}]
    steps = training_steps(tmp_path / "out")
    assert len(steps) == 4 + 4
    assert result["train_loss"] == pytest.approx(sum(step["loss"] for step in steps) / 8, rel=1e-6)


@pytest.mark.parametrize("batch, accumulation", [(4, 1), (2, 2), (2, 1), (3, 2)])
def test_a_plain_checkpoint_alone_tells_by_its_epochs_what_it_has_seen(batch, accumulation, spy, command, tmp_path):
    """The accumulation of the new run was taken for that of the old one: examples were shown twice, or never."""
    spy.run(command(4, 2), 3)
    for path in [*(tmp_path / "out").glob("wordmask_*"), *(tmp_path / "out").glob("checkpoint-*/wordmask_*")]:
        path.unlink()
    more = ["--gradient_accumulation_steps", str(accumulation), "--output_dir", str(tmp_path / "other")]
    spy.run([*command(batch, 2), *more, "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-3")])
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}] and len(spy.rows) == 2 * LINES


# Streams and schedules


def test_a_stream_refuses_steps_of_another_size(spy, command, tmp_path, capsys):
    argv = ["--streaming", "--max_steps", "6", "--validation_split_percentage", "0"]
    spy.run(command(4, 1, *argv), 3)
    sentence = refusal(capsys, run_mlm_wwm.main, *command(6, 1, *argv))
    assert sentence.startswith("--streaming: ") and "--per_device_train_batch_size 4" in sentence
    spy.run(command(2, 1, *argv, "--gradient_accumulation_steps", "2"))  # the same size in other parts
    assert state(tmp_path)["global_step"] == 6 and len(set(spy.rows)) == 24
    run_mlm_wwm.main(command(6, 1, *argv))  # of a training that is over, nothing is read
    assert state(tmp_path)["global_step"] == 6


def test_a_stream_of_several_workers_refuses_batches_of_another_size(command, tmp_path, capsys):
    """Each batch is of one worker, in turn: two small ones have not the sequences of one of twice the size."""
    argv = ["--streaming", "--validation_split_percentage", "0", "--dataloader_num_workers", "2"]
    run_mlm_wwm.main(command(4, 1, *argv, "--max_steps", "1", "--save_steps", "1"))
    longer = [*argv, "--max_steps", "2"]
    sentence = refusal(capsys, run_mlm_wwm.main, *command(2, 1, *longer, "--gradient_accumulation_steps", "2"))
    assert sentence.startswith("--streaming: ") and "--per_device_train_batch_size 4" in sentence
    run_mlm_wwm.main(command(4, 1, *longer))
    assert state(tmp_path)["global_step"] == 2


def test_a_stream_may_be_read_from_its_beginning_again(spy, command, text, tmp_path, caplog):
    argv = ["--streaming", "--max_steps", "5", "--validation_split_percentage", "0"]
    spy.run(command(4, 1, *argv), 3)
    shutil.copy(text, tmp_path / "copy.txt")
    spy.run(command(6, 1, *argv, "--ignore_data_skip", "--train_file", str(tmp_path / "copy.txt")))
    assert "other settings: training text" not in caplog.text, "a copy is the same text"
    assert "--train_file: " not in caplog.text.partition("other settings")[2]
    assert "the stream is read from its beginning again" in caplog.text
    rows = [row for _, row in spy.rows]
    assert rows[12:16] == rows[:4] and len(rows) == 3 * 4 + 2 * 6


def test_a_length_schedule_refuses_steps_of_another_size(spy, command, tmp_path, capsys):
    def argv(batch: int, schedule: str = "16:0.5,48:0.5") -> list[str]:
        given = command(batch, 2, "--length_schedule", schedule)
        at = given.index("--max_seq_length")
        return given[:at] + given[at + 2 :]

    spy.run(argv(2), 3, run_mlm)
    sentence = refusal(capsys, run_mlm.main, *argv(3))
    assert sentence.startswith("--length_schedule: ") and "--per_device_train_batch_size 2" in sentence
    other = refusal(capsys, run_mlm.main, *argv(2, "24:0.5,48:0.5"))
    assert "was trained with --length_schedule 16:0.5,48:0.5, and a schedule continues only with the same" in other


# --auto_find_batch_size

SEARCH = ("--auto_find_batch_size", "--tokens_per_pass", "0")


@pytest.fixture
def small_gpu(monkeypatch):
    """A device on which more than so many rows run out of memory, from some step on."""
    forward, limit = BertModel.forward, {"rows": 4, "calls": 0, "says": "CUDA out of memory. Tried to allocate more"}

    def limited(self, input_ids=None, *args, **kwargs):
        if self.training and len(input_ids) > limit["rows"] and limit["calls"] == 0:
            raise RuntimeError(limit["says"])
        limit["calls"] -= self.training and limit["calls"] > 0
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(BertModel, "forward", limited)
    return limit


def test_a_batch_size_that_was_found_is_that_of_the_resumed_run(spy, command, small_gpu, tmp_path, caplog):
    argv = command(5, 2, *SEARCH)
    spy.run(argv, 5)
    assert Counter(step for step, _ in spy.rows) == dict.fromkeys(range(5), 4)
    caplog.clear()
    spy.run(argv)
    assert "with batches of 4, as --auto_find_batch_size found them" in caplog.text
    assert "holds the end" not in caplog.text and "run out of memory" not in caplog.text
    assert state(tmp_path)["global_step"] == 12
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}]


def test_a_search_does_not_begin_with_another_size_than_that_of_the_checkpoint(
    spy, command, small_gpu, tmp_path, capsys
):
    """The Trainer takes the size of the checkpoint, and the record said that the new one was used."""
    spy.run(command(5, 2, *SEARCH), 5)  # with batches of 4
    for size in (2, 6):
        sentence = refusal(capsys, run_mlm_wwm.main, *command(size, 2, *SEARCH))
        assert "was trained with batches of 4, and the search goes on from there; drop the flag" in sentence
        assert f"--per_device_train_batch_size {size}" in sentence
    spy.run(command(4, 2, *SEARCH), 8)
    spy.run(command(2, 2, "--tokens_per_pass", "0"))
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}]
    run_mlm_wwm.main(command(3, 2, *SEARCH))  # of a training that is over, nothing is searched


def test_without_a_record_a_search_says_with_which_size_it_begins(spy, command, tmp_path, caplog):
    spy.run(command(4, 1), 3)
    (tmp_path / "out" / "wordmask_run.json").unlink()
    more = ["--auto_find_batch_size", "--resume_from_checkpoint", str(tmp_path / "out" / "checkpoint-3")]
    spy.run([*command(6, 1, *more), "--output_dir", str(tmp_path / "other")])
    assert "checkpoint-3 was trained with batches of 4, and the search goes on from there" in caplog.text
    assert Counter(step for step, _ in spy.rows) == dict.fromkeys(range(6), 4)


def test_a_run_that_is_stopped_in_its_last_step_has_no_epoch_more(command, tmp_path):
    run_until(12, command(4, 2))
    run_mlm_wwm.main(command(4, 2))
    assert state(tmp_path)["num_train_epochs"] == 2
    run_until(4, command(4, 1, "--max_steps", "4", "--overwrite_output_dir"))
    run_mlm_wwm.main(command(2, 1, "--max_steps", "4"))
    assert state(tmp_path)["num_train_epochs"] == 1


def test_the_search_goes_on_where_a_library_says_otherwise_that_memory_is_short(spy, command, small_gpu, caplog):
    """As oneDNN does on a CPU, in words that accelerate does not know."""
    small_gpu["says"] = "could not create a primitive"
    spy.run(command(5, 1, *SEARCH))
    assert "run out of memory after step 0, trying 4" in caplog.text
    assert spy.epochs(LINES) == [Counter({row: 1 for _, row in spy.rows})]


def test_the_speed_is_that_of_the_last_attempt(spy, command, small_gpu):
    """Two steps of 5 come before it: neither their tokens count, nor their time."""
    small_gpu["calls"] = 3  # the first one is the trial of the model
    result = spy.run(command(5, 2, *SEARCH))
    tokens = sum(len(row) for step, row in spy.rows if step >= 2)
    assert result["train_tokens_per_second"] * result["train_runtime"] == pytest.approx(tokens, rel=0.01)


@pytest.mark.parametrize(
    "flags", [("--streaming", "--max_steps", "6"), ("--length_schedule", "24:0.5,48:0.5", "--no_line_by_line")]
)
def test_memory_that_runs_out_after_some_steps_is_one_sentence_where_they_cannot_be_divided_anew(
    flags, command, small_gpu, capsys
):
    small_gpu["calls"] = 3  # the first one is the trial of the model
    argv = command(5, 2, *SEARCH, *flags)
    if "--length_schedule" in flags:
        at = argv.index("--max_seq_length")
        del argv[at : at + 2]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert f"run out of memory after step 2, and {flags[0]} continues only in steps of the same size" in sentence


def test_memory_that_runs_out_in_the_first_step_of_a_stream_is_only_a_smaller_batch(spy, command, small_gpu):
    spy.run(command(5, 1, *SEARCH, "--streaming", "--max_steps", "6"))
    assert Counter(step for step, _ in spy.rows) == dict.fromkeys(range(6), 4)


def test_a_finished_run_that_is_started_again_keeps_its_data_report(spy, command, tmp_path):
    spy.run(command(4, 1))
    before = (tmp_path / "out" / "data_report.json").read_bytes()
    spy.run(command(4, 1))
    assert (tmp_path / "out" / "data_report.json").read_bytes() == before and b'"padding_share": 0.' in before


def test_memory_that_runs_out_after_some_steps_repeats_none_of_them(spy, command, small_gpu, tmp_path, caplog):
    """transformers begins again at step 0, with the weights of the steps that it has done."""
    small_gpu["calls"] = 3  # the first one is the trial of the model
    argv = command(5, 2, *SEARCH, "--learning_rate", "1e-3")
    result = spy.run(argv)
    assert "batches of 5 run out of memory after step 2, trying 4" in caplog.text
    assert [set(epoch.values()) for epoch in spy.epochs(LINES)] == [{1}, {1}]
    steps = training_steps(tmp_path / "out")
    assert [step["step"] for step in steps] == list(range(1, 2 + 4 + 6 + 1))
    assert [step["learning_rate"] for step in steps[2:]] == pytest.approx([1e-3 * (1 - s / 12) for s in range(2, 12)])
    assert result["train_loss"] == pytest.approx(sum(step["loss"] for step in steps) / 12, rel=1e-6)
    assert (tmp_path / "out" / "checkpoint-12" / "wordmask_progress.json").exists()
