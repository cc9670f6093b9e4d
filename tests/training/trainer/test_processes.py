"""One process or two, one part or four: the same rows, masks, losses, gradients, weights and evaluation."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import run_mlm_wwm
from conftest import run_two_processes, sample_lines, sample_tokenizer, save_model, trajectory, uneven_text

pytestmark = pytest.mark.slow  # two processes on two cores take a minute

ROOT = Path(__file__).parents[3]
STEP = 16  # the rows of a step, however they are divided
MODELS = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},  # its head ignores num_items_in_batch
    "modernbert": {"embedding_dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0},  # its head honours it
}


class Cell(NamedTuple):
    """One cell of the table."""

    model: str
    accumulation: int
    sparse: bool
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.model}, {self.processes} processes, accumulation {self.accumulation}, "
            f"{'sparse' if self.sparse else 'full'} head"
        )


CELLS = [Cell(*values) for values in itertools.product(MODELS, (1, 2, 4), (False, True), (1, 2))]


class Folder:
    """Where the runs of these tests lie, over 37 unequal lines: neither the last step nor the last batch is full."""

    def __init__(self, path: Path):
        self.path, self.text = path, path / "text.txt"
        uneven_text(path, 37)
        self.other = path / "other.txt"
        self.other.write_text("\n".join(sample_lines("english", 60)[48:]), encoding="utf-8")
        tokenizer = sample_tokenizer("bert")
        for name, settings in MODELS.items():
            save_model(path / name, tokenizer, name, **settings)

    def output(self, cell: Cell, rank: int | str = 0) -> Path:
        return self.path / f"rank{rank}" / f"{cell.model}-{cell.accumulation}-{cell.sparse}-{cell.processes}"

    def common(self, model: str, processes: int) -> list[str]:
        """What all runs have: processes of their own cache, so that the text is prepared for them once."""
        return [
            *("--model_name_or_path", str(self.path / model), "--cache_dir", str(self.path / f"cache{processes}")),
            *("--train_file", str(self.text), "--validation_file", str(self.text)),
            *"--use_cpu --do_train --do_eval --max_seq_length 48 --per_device_eval_batch_size 5".split(),
            *"--logging_steps 1 --report_to none".split(),
        ]

    def command(self, cell: Cell) -> list[str]:
        """A run of a cell. Without Adam, which divides rounding errors by themselves, weights can be compared."""
        return [
            *self.common(cell.model, cell.processes),
            *"--max_steps 4 --optim sgd --learning_rate 0.5 --max_grad_norm 1000 --save_strategy no".split(),
            *("--per_device_train_batch_size", str(STEP // cell.accumulation // cell.processes)),
            *("--gradient_accumulation_steps", str(cell.accumulation), "--sparse_prediction", str(cell.sparse)),
            # Batches of two processes go through in parts, as many on one process as on the other or not.
            *("--tokens_per_pass", "64" if cell.processes > 1 else "0"),
            *("--output_dir", str(self.output(cell, "{rank}" if cell.processes > 1 else 0))),
        ]

    def ddp(self, processes: int, rank: int | str = 0) -> Path:
        return self.path / f"rank{rank}" / f"ddp-{processes}"

    def ddp_command(self, processes: int) -> list[str]:
        """A run of configs/ddp.yaml, here on CPUs."""
        return [
            str(ROOT / "configs/ddp.yaml"),
            *self.common("bert", processes),
            *"--no_bf16 --num_train_epochs 1 --preprocessing_num_workers 1 --dataloader_num_workers 1".split(),
            *("--per_device_train_batch_size", str(STEP // processes)),
            *("--output_dir", str(self.ddp(processes, "{rank}" if processes > 1 else 0))),
        ]

    def muon(self, processes: int) -> Path:
        return self.path / f"muon-{processes}"

    def muon_command(self, processes: int) -> list[str]:
        """A run with Muon, here in a directory that processes share."""
        return [
            *self.common("modernbert", processes),
            *"--optim muon --learning_rate 1e-3 --max_steps 4 --save_strategy no".split(),
            *("--per_device_train_batch_size", str(STEP // processes), "--output_dir", str(self.muon(processes))),
        ]

    def by_tokens(self, processes: int) -> Path:
        return self.path / f"tokens-{processes}"

    def by_tokens_command(self, processes: int) -> list[str]:
        """A run in steps of some tokens; those of two processes are divided among accumulated batches, too."""
        return [
            *self.common("bert", processes),
            *"--tokens_per_step 300 --num_train_epochs 2 --optim sgd --learning_rate 0.5 --save_strategy no".split(),
            *("--gradient_accumulation_steps", str(processes), "--output_dir", str(self.by_tokens(processes))),
        ]

    def mixed(self, processes: int, rank: int | str = 0) -> Path:
        return self.path / f"rank{rank}" / f"mixed-{processes}"

    def mixed_command(self, processes: int) -> list[str]:
        """A run with all that is drawn: a corpus, a strategy and a rate for each sequence."""
        texts = [str(self.text), str(self.other)]
        return [
            *("--model_name_or_path", str(self.path / "bert"), "--cache_dir", str(self.path / f"cache{processes}")),
            *("--train_file", *texts, "--train_weights", "0.3", "0.7", "--validation_file", *texts),
            *"--masking_strategy whole_word:0.5,token:0.5 --mlm_probability 0.1..0.9 --max_seq_length 48".split(),
            *"--use_cpu --do_train --do_eval --per_device_eval_batch_size 5 --logging_steps 1".split(),
            *"--num_train_epochs 2 --optim sgd --learning_rate 0.5 --max_grad_norm 1000 --save_strategy no".split(),
            *("--per_device_train_batch_size", str(STEP // processes)),
            *("--output_dir", str(self.mixed(processes, "{rank}" if processes > 1 else 0))),
        ]

    def resumed(self, processes: int) -> Path:
        return self.path / f"resumed-{processes}"

    def resume_command(self, processes: int, batch_size: int) -> list[str]:
        """A run of two epochs with a checkpoint of every fourth step, here in a directory that processes share."""
        return [
            *self.common("bert", processes),
            *"--num_train_epochs 2 --optim sgd --learning_rate 0.5 --max_grad_norm 1000 --save_steps 4".split(),
            *("--per_device_train_batch_size", str(batch_size), "--output_dir", str(self.resumed(processes))),
        ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    return Folder(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def half_done(folder):
    """Three copies of a run of one process, as if it had been killed after four steps of 4."""
    run_mlm_wwm.main(folder.resume_command(1, 4))
    shutil.copytree(folder.resumed(1), folder.path / "whole")
    for path in folder.resumed(1).iterdir():
        if path.name.startswith("checkpoint-") and path.name != "checkpoint-4":
            shutil.rmtree(path)
        elif path.is_file() and path.name != "wordmask_run.json":
            path.unlink()
    shutil.copytree(folder.resumed(1), folder.resumed(2))
    shutil.copytree(folder.resumed(1), folder.path / "resumed-same")


@pytest.fixture(scope="module")
def alone(folder, half_done):
    """The runs of one process."""
    run_mlm_wwm.main(folder.resume_command(1, 8))
    for cell in CELLS:
        if cell.processes == 1:
            run_mlm_wwm.main(folder.command(cell))
    run_mlm_wwm.main(folder.ddp_command(1))
    run_mlm_wwm.main(folder.muon_command(1))
    run_mlm_wwm.main(folder.by_tokens_command(1))
    run_mlm_wwm.main(folder.mixed_command(1))


@pytest.fixture(scope="module")
def together(folder, half_done) -> str:
    """The runs of two processes, under torchrun over gloo, and what they print."""
    commands = [folder.command(cell) for cell in CELLS if cell.processes == 2]
    same = [*folder.resume_command(2, 2), "--output_dir", str(folder.path / "resumed-same")]
    again = [*folder.muon_command(2), "--overwrite_cache"]
    commands += [folder.ddp_command(2), again, folder.by_tokens_command(2), folder.mixed_command(2)]
    commands += [folder.resume_command(2, 4), same]
    return run_two_processes(commands, folder.path / "commands.json")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The greatest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def assert_same_run(found: Path, expected: Path, what: object) -> None:
    """Assert that two runs had the same losses, gradients and metrics."""
    for pair, other in zip(trajectory(found), trajectory(expected), strict=True):
        assert pair == pytest.approx(other, rel=1e-5), what
    results, wanted = (read_json(output / "eval_results.json") for output in (found, expected))
    for name in ("eval_loss", "perplexity", "eval_samples"):
        assert results[name] == pytest.approx(wanted[name], rel=1e-5), (what, name)
    for name, count in (("eval_accuracy", "eval_masked_tokens"), ("eval_whole_word_accuracy", "eval_masked_words")):
        # A rounding may decide which of two tokens is the likelier one.
        assert results[name] == pytest.approx(wanted[name], abs=1.01 / wanted[count]), (what, name)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_weights_train_to_the_same_trajectory_in_every_cell(folder, alone, together, model):
    reference, *others = (cell for cell in CELLS if cell.model == model)
    assert len(others) == 11 and len(trajectory(folder.output(reference))) == 4
    initial, trained = weights(folder.path / model), weights(folder.output(reference))
    assert distance(initial, trained) > 1e-2, "nothing was trained, so nothing is compared"
    for cell in others:
        assert_same_run(folder.output(cell), folder.output(reference), str(cell))
        assert distance(weights(folder.output(cell)), trained) < 1e-5, str(cell)


def files(directory: Path) -> set[str]:
    """All files in a directory, by their path in it."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def test_one_process_writes_and_prints(folder, together):
    runs = [str(folder.output(cell).name) for cell in CELLS if cell.processes == 2] + ["ddp-2", "mixed-2"]
    written = files(folder.path / "rank0")
    for run in runs:
        names = ("model.safetensors", "wordmask_run.json", "eval_results.json", "report.html", "README.md")
        assert {f"{run}/{name}" for name in names} <= written
    # In a checkpoint, each process saves the state of its random numbers, and the second nothing else.
    assert files(folder.path / "rank1") == {"ddp-2/checkpoint-3/rng_state_1.pth"}
    assert together.count("model and results: ") == len(runs) + 4


def test_the_tokens_of_both_processes_are_counted(folder, alone, together):
    """A process alone has half of them. The last step has one sequence more: the second process has nothing left."""
    one, two = (
        [moment["tokens"] for moment in read_json(directory / "wordmask_speed.json")["moments"]]
        for directory in (folder.ddp(1), folder.ddp(2))
    )
    assert len(one) == 4 and one[:-1] == two[:-1] and one[-1] < two[-1] <= one[-1] + 48


def test_the_text_is_tokenized_by_one_process_and_read_by_both(folder, together):
    first, second = (int((folder.path / f"tokenized-{rank}").read_text()) for rank in (0, 1))
    assert 0 < first <= 6 and second == 0, (
        "16 runs of the same two splits, one of them with --overwrite_cache, and one of two texts for each split"
    )


def test_the_config_for_several_processes_trains_as_one_does(folder, alone, together):
    assert len(trajectory(folder.ddp(1))) == 3
    assert_same_run(folder.ddp(2), folder.ddp(1), "configs/ddp.yaml")


def test_a_run_of_one_process_goes_on_with_two_as_if_it_had_not_stopped(folder, together):
    """The steps stay as large; test_elastic.py has the way back and the other kinds of training."""
    assert len(trajectory(folder.path / "whole")) == 20
    assert_same_run(folder.path / "resumed-same", folder.path / "whole", "the same steps on two processes")


def test_two_processes_draw_the_corpora_strategies_and_rates_of_one(folder, alone, together):
    assert len(trajectory(folder.mixed(1))) == 8
    assert_same_run(folder.mixed(2), folder.mixed(1), "mixed")
    one, two = (read_json(folder.mixed(processes) / "eval_results.json") for processes in (1, 2))
    for name in ("eval_text_loss", "eval_other_loss", "eval_text_loss_before", "eval_other_loss_before"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)
    assert one["eval_text_loss"] != one["eval_other_loss"]


def test_a_run_of_one_process_goes_on_with_two_in_twice_as_large_steps(folder, alone, together):
    """It was said to be at its end, and a half-trained model was saved: 16 of 37 rows, then 21 in 3 steps, then 5."""
    assert "processes: 1 -> 2" in together
    assert "with 8 examples in a step instead of 4: 21 examples of epoch 1 are left" in together
    assert len(trajectory(folder.resumed(2))) == 4 + 3 + 5
    assert read_json(folder.resumed(2) / "trainer_state.json")["epoch"] == 2.0
    assert_same_run(folder.resumed(2), folder.resumed(1), "resumed")


def test_muon_trains_on_two_processes_as_on_one(folder, alone, together):
    """It may multiply in bfloat16, where a rounding error of the mean gradient can grow to some thousandths."""
    for pair, other in zip(trajectory(folder.muon(2)), trajectory(folder.muon(1)), strict=True):
        assert pair == pytest.approx(other, rel=1e-2)
    assert trajectory(folder.muon(2))[0] == pytest.approx(trajectory(folder.muon(1))[0], rel=1e-5)
    trained = weights(folder.muon(1))
    moved = distance(weights(folder.path / "modernbert"), trained)
    assert moved > 1e-3 and distance(weights(folder.muon(2)), trained) < moved / 2


def test_steps_of_some_tokens_are_the_same_on_two_processes(folder, alone, together):
    assert len(trajectory(folder.by_tokens(1))) > 6
    assert_same_run(folder.by_tokens(2), folder.by_tokens(1), "tokens")
    assert distance(weights(folder.by_tokens(2)), weights(folder.by_tokens(1))) < 1e-5
    speeds = [read_json(folder.by_tokens(count) / "wordmask_speed.json")["moments"][-1]["tokens"] for count in (1, 2)]
    assert speeds[0] == speeds[1], "no sequence is there only to fill a batch"
