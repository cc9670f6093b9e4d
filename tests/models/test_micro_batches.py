"""--tokens_per_pass: a batch in parts has the loss and the gradients of the whole."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model, slow_after, trajectory, uneven_text
from wordmask.data.collator import positions_of
from wordmask.models.micro_batches import cheapest_sizes, divide_batch

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def batch_of(lengths: list[int], pads_left: bool = False) -> dict[str, torch.Tensor]:
    """A batch in which each token tells its row and its place."""
    filled = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    filled = filled.flip(1) if pads_left else filled
    numbers = torch.arange(filled.numel()).reshape(filled.shape) + 1
    return {"input_ids": numbers * filled, "attention_mask": filled.long(), "labels": -numbers * filled}


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    tokens=st.integers(1, 200),
    multiple=st.sampled_from([1, 8]),
    pads_left=st.booleans(),
)
def test_parts_hold_every_token_once_and_no_more_than_they_may(lengths, tokens, multiple, pads_left):
    batch = batch_of(lengths, pads_left)
    parts = list(divide_batch(batch, tokens, multiple))
    assert all(part.keys() == {*batch, "positions", "is_padded"} for part in parts)
    found = torch.cat([part["input_ids"][part["attention_mask"].bool()] for part in parts])
    assert found.sort().values.tolist() == batch["input_ids"][batch["attention_mask"].bool()].tolist()
    assert sum(len(part["input_ids"]) for part in parts) == len(lengths)
    for part in parts:
        rows, width = part["input_ids"].shape
        assert torch.equal(part["labels"], -part["input_ids"])
        assert torch.equal(part["positions"], torch.from_numpy(positions_of(part["labels"].numpy())))
        assert part["is_padded"] == bool((part["attention_mask"] == 0).any())
        assert rows == 1 or rows * width <= tokens
        longest = int(part["attention_mask"].sum(1).max())
        assert width == min(max(lengths), -(-max(longest, 1) // multiple) * multiple)


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), most=st.integers(1, 90), price=st.integers(0, 20))
def test_no_division_costs_less(lengths, most, price):
    widths = np.sort(lengths)[::-1]

    def cost(parts) -> float:
        starts = np.cumsum([0, *parts[:-1]])
        sizes = [rows * widths[start] for rows, start in zip(parts, starts, strict=True)]
        fits = all(size <= most or rows == 1 for rows, size in zip(parts, sizes, strict=True))
        return sum(sizes) + price * len(parts) if fits else np.inf

    rows = len(widths)
    every = (
        np.diff([0, *cuts, rows]) for count in range(rows) for cuts in itertools.combinations(range(1, rows), count)
    )
    assert cost(cheapest_sizes(widths, most, price)) == min(map(cost, every))


def test_rows_of_like_length_come_together():
    parts = list(divide_batch(batch_of([3, 9, 3, 9, 3]), 18))
    assert [tuple(part["input_ids"].shape) for part in parts] == [(2, 9), (3, 3)]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("model"), sample_tokenizer("bert"), **NO_DROPOUT)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    return uneven_text(tmp_path_factory.mktemp("text"), 60)


def run(model: str, text: str, directory: Path, *more: str) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    run_mlm_wwm.main(
        f"--model_name_or_path {model} --train_file {text} --output_dir {directory} --max_steps 4 --logging_steps 1 "
        "--learning_rate 1e-2 --max_seq_length 60 --use_cpu --save_strategy no --do_train "
        "--per_device_train_batch_size 16".split()
        + list(more)
    )
    return trajectory(directory)


@pytest.mark.parametrize(
    "more",
    slow_after(
        2,
        [
            "--gradient_accumulation_steps 4 --per_device_train_batch_size 4",
            "--pack_sequences",
            "--mlm_probability 0.01",  # parts without any label
            "--train_sampling_strategy random",
            "--train_sampling_strategy random --no_sparse_prediction",
        ],
    ),
)
def test_training_in_parts_is_training_on_whole_batches(model, text, tmp_path, monkeypatch, more):
    passes: list[int] = []
    monkeypatch.setattr(
        "wordmask.training.trainer.mlm_trainer.divide_batch",
        lambda *given: [passes.append(1) or part for part in divide_batch(*given)],
    )
    whole = run(model, text, tmp_path / "whole", *more.split(), "--tokens_per_pass", "0")
    assert not passes
    divided = run(model, text, tmp_path / "divided", *more.split(), "--tokens_per_pass", "100")
    assert len(passes) > 12 and len(whole) == 4
    for one, other in zip(whole, divided, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_fixed_shapes_are_not_divided(model, text, tmp_path, capsys):
    argv = f"--model_name_or_path {model} --train_file {text} --output_dir {tmp_path / 'out'} --use_cpu".split()
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--pad_to_max_length", "--tokens_per_pass", "64")
    assert sentence.startswith("--tokens_per_pass divides batches by their lengths, and --pad_to_max_length needs")
