"""A run with --tokens_per_step: it goes on to the bit, and any division of a step trains the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import run_mlm_wwm
from conftest import refusal, run_until, sample_tokenizer, save_model, training_steps, trajectory, uneven_text

TOKENS, LINES, EPOCHS = 150, 37, 3
FLAGS = "--use_cpu --do_train --max_seq_length 48 --logging_steps 1 --save_strategy no"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Uneven lines, and two models: one with dropout, and one without, whose runs can be compared."""
    folder = tmp_path_factory.mktemp("tokens")
    uneven_text(folder, LINES)
    tokenizer = sample_tokenizer("bert")
    save_model(folder / "dropout", tokenizer)
    save_model(folder / "plain", tokenizer, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return folder


def command(folder: Path, out: Path, *more: str, model: str = "plain") -> list[str]:
    return [
        *("--model_name_or_path", str(folder / model), "--train_file", str(folder / "text.txt")),
        *("--cache_dir", str(folder / "cache"), "--output_dir", str(out), "--num_train_epochs", str(EPOCHS)),
        *FLAGS.split(),
        *("--tokens_per_step", str(TOKENS)),
        *more,
    ]


def state(out: Path) -> dict:
    return json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))


SAVING = ("--save_strategy", "steps", "--save_steps", "1")


@pytest.fixture(scope="module")
def whole(folder) -> Path:
    """A run that nothing happens to, with a checkpoint of each step."""
    run_mlm_wwm.main(command(folder, folder / "whole", *SAVING, model="dropout"))
    return folder / "whole"


def test_a_run_that_was_stopped_after_its_last_step_ends_when_it_goes_on(folder, whole, tmp_path):
    """It ended in a traceback: for the Trainer, a length of 0 was none."""
    argv, last = command(folder, tmp_path / "out", *SAVING, model="dropout"), state(whole)["global_step"]
    run_until(last, argv)
    metrics = run_mlm_wwm.main(argv)
    assert trajectory(tmp_path / "out") == trajectory(whole)
    assert metrics["train_loss"] == state(whole)["log_history"][-1]["train_loss"]


@pytest.mark.parametrize("more", [(), ("--max_steps", "4")])
def test_the_sequences_in_a_second_are_those_that_were_trained(folder, tmp_path, more):
    """It counted as many in a step as --per_device_train_batch_size says, which such a step does not have."""
    metrics = run_mlm_wwm.main(command(folder, tmp_path / "out", *more))
    sequences = round(seen(tmp_path / "out")[-1] * LINES)
    # Both are rounded to three and four digits.
    assert metrics["train_samples_per_second"] * metrics["train_runtime"] == pytest.approx(sequences, rel=0.01)


def seen(out: Path) -> list[float]:
    """The epochs seen after each step."""
    return [step["epoch"] for step in training_steps(out)]


@pytest.mark.parametrize("where", ["within an epoch", "over the end of an epoch", "before the last step"])
def test_a_run_goes_on_to_the_bit(where, folder, whole, tmp_path):
    """A step that ends in a later epoch than it begins is the last one of its epoch for the Trainer."""
    epochs = [0.0, *seen(whole)]
    over_the_end = next(step for step in range(1, len(epochs)) if int(epochs[step - 1]) < int(epochs[step]))
    assert epochs[over_the_end] % 1 > 0, "this step shows sequences of two epochs"
    steps = {"within an epoch": 2, "over the end of an epoch": over_the_end, "before the last step": len(epochs) - 2}
    (tmp_path / "out").mkdir()
    shutil.copy(whole / "wordmask_run.json", tmp_path / "out")
    shutil.copytree(whole / f"checkpoint-{steps[where]}", tmp_path / "out" / f"checkpoint-{steps[where]}")
    run_mlm_wwm.main(command(folder, tmp_path / "out", *SAVING, model="dropout"))
    assert training_steps(tmp_path / "out") == training_steps(whole)
    last = f"checkpoint-{len(epochs) - 1}"
    for name in ("model.safetensors", f"{last}/scheduler.pt", f"{last}/rng_state.pth"):
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def test_the_number_of_steps_and_of_tokens_is_known_at_the_start(folder, whole, tmp_path, capsys):
    planned = run_mlm_wwm.main(command(folder, tmp_path / "out", "--dry_run", model="dropout"))
    shown = capsys.readouterr().err
    assert planned["steps"] == state(whole)["global_step"] == state(whole)["max_steps"] == len(training_steps(whole))
    trained = json.loads((whole / "wordmask_speed.json").read_text(encoding="utf-8"))["moments"][-1]["tokens"]
    assert planned["tokens"] == trained
    assert planned["tokens"] / (TOKENS + 48) < planned["steps"] < planned["tokens"] / TOKENS + 1
    assert f"{planned['steps']:.0f} in {EPOCHS} epochs, each of {TOKENS} tokens or a few more" in shown
    assert f"--tokens_per_step {TOKENS}" in shown and seen(whole)[-1] == EPOCHS


def test_accumulated_batches_and_their_sizes_do_not_change_a_step(folder, tmp_path):
    plain = "--optim sgd --learning_rate 0.5 --max_grad_norm 1000".split()
    ways = [[], "--gradient_accumulation_steps 3 --per_device_train_batch_size 1 --tokens_per_pass 64".split()]
    for number, way in enumerate(ways):
        run_mlm_wwm.main(command(folder, tmp_path / str(number), *plain, *way))
    one, other = (trajectory(tmp_path / str(number)) for number in range(2))
    assert len(one) > 10
    for pair, same in zip(one, other, strict=True):
        assert pair == pytest.approx(same, rel=1e-5)


def test_packed_lines_and_a_number_of_steps_can_be_given(folder, tmp_path):
    run_mlm_wwm.main(command(folder, tmp_path / "out", "--pack_sequences", "--max_steps", "7"))
    assert len(training_steps(tmp_path / "out")) == 7 and 0 < state(tmp_path / "out")["epoch"] < EPOCHS


@pytest.mark.parametrize(
    "tokens, change",
    [("240", "240 tokens in a step instead of 150"), (None, "8 examples in a step instead of 150 tokens")],
)
def test_another_size_of_steps_goes_on_with_what_is_left(tokens, change, folder, whole, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    shutil.copy(whole / "wordmask_run.json", tmp_path / "out")
    shutil.copytree(whole / "checkpoint-2", tmp_path / "out" / "checkpoint-2")
    argv = command(folder, tmp_path / "out", model="dropout")
    place = argv.index("--tokens_per_step")
    argv[place : place + 2] = ["--tokens_per_step", tokens] if tokens else []
    run_mlm_wwm.main(argv)
    left = LINES - round(seen(whole)[1] * LINES)
    assert f"with {change}: {left} examples of epoch 1 are left" in caplog.text
    assert seen(tmp_path / "out")[-1] == EPOCHS and state(tmp_path / "out")["global_step"] == len(
        seen(tmp_path / "out")
    )


@pytest.mark.parametrize(
    "more, sentence",
    [
        ("--tokens_per_step 20", "--tokens_per_step: 20 is less than the longest sequence, of "),
        ("--tokens_per_step 0", "--tokens_per_step: 0 is not possible; give a whole number from 1 to 1000000000000"),
        (
            "--pad_to_max_length",
            "--tokens_per_step: --pad_to_max_length gives every batch the same number of sequences",
        ),
        ("--streaming --max_steps 3", "--tokens_per_step: --streaming does not know the lengths of all sequences"),
        ("--pack_sequences --length_schedule 24:0.5,48:0.5", "--tokens_per_step: --length_schedule gives all steps a"),
        (
            "--auto_find_batch_size",
            "--tokens_per_step cuts steps at a number of tokens, and --auto_find_batch_size is",
        ),
        (
            "--dataloader_drop_last",
            "--tokens_per_step cuts steps at a number of tokens, and --dataloader_drop_last is",
        ),
    ],
)
def test_what_it_does_not_go_with_is_one_sentence(more, sentence, folder, tmp_path, capsys):
    argv = command(folder, tmp_path / "out", *more.split())
    if "schedule" in more:
        place = argv.index("--max_seq_length")
        del argv[place : place + 2]
    assert refusal(capsys, run_mlm_wwm.main, *argv).startswith(sentence)
