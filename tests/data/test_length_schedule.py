"""--length_schedule: short rows first, then long ones; as many tokens in each step, and a resume that fits in."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import run_mlm
import run_mlm_wwm
from conftest import refusal, sample_lines, sample_tokenizer, save_model, training_steps
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.order import EpochOrder
from wordmask.data.plan import Layout, Stage
from wordmask.data.sampler import StagedBatches


def batches(rows=(40, 10), sizes=(4, 1), shares=(0.75, 0.25), accumulation=1, processes=1, process=0, **options):
    """A stage of short rows and one of rows four times as long."""
    stages = []
    for number, (count, size, share) in enumerate(zip(rows, sizes, shares, strict=True)):
        layout = Layout(size, accumulation, processes, process)
        order = EpochOrder("random", number, range(count))
        stages.append(Stage(count, order, layout, share, sum(rows[:number])))
    return StagedBatches(stages, RateSchedule.of("0.3:0.1"), **options)


def whole_training(epochs: int, **options) -> list[list]:
    """The batches of all epochs."""
    sampler = batches(epochs=epochs, **options)
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += list(sampler)
    return found


def test_stages_follow_each_other_at_their_shares_of_the_steps():
    found = whole_training(4)
    assert len(found) == 4 * 10
    assert [len(batch) for batch in found] == [4] * 30 + [1] * 10
    short, long = found[:30], found[30:]
    assert all(draw.index < 40 for batch in short for draw in batch)
    assert all(40 <= draw.index < 50 for batch in long for draw in batch)
    # Each passes through its own rows in epochs of its own: three and one.
    for epoch in range(3):
        assert sorted(draw.index for batch in short[10 * epoch : 10 * epoch + 10] for draw in batch) == list(range(40))
        assert {draw.epoch for batch in short[10 * epoch : 10 * epoch + 10] for draw in batch} == {epoch}
    assert sorted(draw.index for batch in long for draw in batch) == list(range(40, 50))


def test_the_rate_goes_on_through_the_stages():
    rates = [batch[0].rate for batch in whole_training(4)]
    np.testing.assert_allclose(rates, 0.3 - 0.2 * np.arange(40) / 40, atol=1e-12)


@pytest.mark.parametrize("rows, sizes", [((50, 45), (4, 1)), ((9, 40), (4, 1)), ((37, 21), (16, 5))])
@pytest.mark.parametrize("steps", [None, 29])
def test_the_rate_falls_evenly_whatever_the_stages_epochs(rows, sizes, steps):
    """Row by row: a stage may pass through its rows more often than the other one, and leave its last epoch early."""
    sampler = batches(rows, sizes, steps=steps, epochs=2)
    draws = []
    for epoch in range(2 if steps is None else -(-steps // len(sampler))):
        sampler.set_epoch(epoch)
        draws += list(sampler)
    draws = draws[:steps]
    first = sum(batch[0].index < rows[0] for batch in draws)
    for stage, start, end in ((draws[:first], 0.3, 0.15), (draws[first:], 0.15, 0.1)):
        rates = [draw.rate for batch in stage for draw in batch]
        np.testing.assert_allclose(rates, np.linspace(start, end, len(rates), endpoint=False), atol=1e-12)


@pytest.mark.parametrize("accumulation, processes", [(2, 1), (1, 2), (2, 2)])
def test_a_step_has_the_same_rows_however_it_is_divided(accumulation, processes):
    """40 and 10 rows in steps of 16 and 4: the last step of each of a stage's epochs is not full."""
    sizes = (16 // accumulation // processes, 4 // accumulation // processes)
    whole = whole_training(3, sizes=(16, 4))
    parts = [
        whole_training(3, sizes=sizes, accumulation=accumulation, processes=processes, process=process)
        for process in range(processes)
    ]
    merged = [[draw for batch in together for draw in batch if draw.rate] for together in zip(*parts, strict=True)]
    steps = [sum(merged[at : at + accumulation], []) for at in range(0, len(merged), accumulation)]
    assert [sorted(step) for step in steps] == [sorted(step) for step in whole]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), sample_tokenizer("bert"))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(sample_lines("english", 120)), encoding="utf-8")
    return str(path)


def run(script, model: str, text: str, directory: Path, *more: str) -> list[dict[str, float]]:
    """The steps of a run of a dozen."""
    script.main(
        f"--model_name_or_path {model} --train_file {text} --output_dir {directory} --max_steps 12 --logging_steps 1 "
        "--length_schedule 16:0.75,64:0.25 --per_device_train_batch_size 2 --do_train --save_steps 5 --use_cpu "
        "--learning_rate 1e-2 --lr_scheduler_type linear --include_num_input_tokens_seen all".split()
        + list(more)
    )
    names = ("loss", "grad_norm", "learning_rate", "num_input_tokens_seen")
    return [{name: entry[name] for name in names} for entry in training_steps(directory)]


@pytest.mark.parametrize(
    "script, more", [(run_mlm, ()), (run_mlm_wwm, ("--pack_sequences",))], ids=["blocks", "packed"]
)
def test_each_step_has_as_many_tokens_and_a_resume_goes_on_in_the_middle(script, more, model, text, tmp_path):
    steps = run(script, model, text, tmp_path / "whole", *more, "--pad_to_max_length")
    seen = [step["num_input_tokens_seen"] for step in steps]
    assert seen == [128 * number for number in range(1, 13)]
    rates = [step["learning_rate"] for step in steps]
    assert np.diff(rates) == pytest.approx([-1e-2 / 12] * 11), "one line over both stages"
    for at in (5, 10):  # before and after the ninth step, where rows become longer
        shutil.copytree(tmp_path / "whole", tmp_path / f"{at}")
        for name in ("checkpoint-12", "checkpoint-10") if at == 5 else ("checkpoint-12",):
            shutil.rmtree(tmp_path / f"{at}" / name)
        assert run(script, model, text, tmp_path / f"{at}", *more, "--pad_to_max_length") == steps


@pytest.mark.parametrize(
    "argv, words",
    [
        ("--length_schedule 16:0.9,2:0.1", "leave no room"),
        ("--length_schedule 16:0.9,32:0.1 --streaming --max_steps 5", "drop --streaming"),
        ("--length_schedule 16:0.99,32:0.01 --max_steps 9", "32:0.01 of 9 steps is not one step"),
    ],
)
def test_a_schedule_that_cannot_be_met_is_refused(argv, words, model, text, tmp_path, capsys):
    common = f"--model_name_or_path {model} --train_file {text} --output_dir {tmp_path / 'out'} --use_cpu --do_train"
    sentence = refusal(capsys, run_mlm.main, *common.split(), *argv.split())
    assert sentence.startswith("--length_schedule") and words in sentence
    assert not list((tmp_path / "out").glob("*"))


def test_roberta_places_fewer_tokens_than_it_has_positions(text, tmp_path, capsys):
    model = save_model(tmp_path / "roberta", sample_tokenizer("bert"), "roberta")
    argv = f"--model_name_or_path {model} --train_file {text} --output_dir {tmp_path / 'out'} --use_cpu".split()
    sentence = refusal(capsys, run_mlm.main, *argv, "--length_schedule", "16:0.5,70:0.5")
    assert "70 tokens are more than the 69" in sentence
