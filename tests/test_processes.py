"""Two processes train as one does: the same rows, masks, loss and gradients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm_wwm
from conftest import sample_lines, save_model, train_tokenizer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A run of unequal lines whose number is odd, so that the last batch does not go round."""
    folder = tmp_path_factory.mktemp("processes")
    model = save_model(
        folder / "model", train_tokenizer("bert"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    text = folder / "text.txt"
    text.write_text("\n".join(sample_lines("english", 37)), encoding="utf-8")
    flags = (
        "--use_cpu --num_train_epochs 1 --logging_steps 1 --save_strategy no --learning_rate 1e-3 --do_train --do_eval"
    )
    return [
        *("--model_name_or_path", model, "--train_file", str(text), "--validation_file", str(text)),
        *("--cache_dir", str(folder / "cache"), "--max_seq_length", "48", "--per_device_eval_batch_size", "5"),
        *flags.split(),
    ]


def trajectory(output: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [(entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


def test_two_processes_train_and_evaluate_as_one(command, tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    one = run_mlm_wwm.main([*command, "--output_dir", str(alone), "--per_device_train_batch_size", "16"])
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29571"]
        + [str(ROOT / "run_mlm_wwm.py"), *command, "--output_dir", str(together)]
        + ["--per_device_train_batch_size", "8", "--dataloader_num_workers", "1"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    expected, found = trajectory(alone), trajectory(together)
    assert len(found) == len(expected) == 3
    for pair, other in zip(found, expected, strict=True):
        assert pair == pytest.approx(other, rel=1e-5)
    results = json.loads((together / "eval_results.json").read_text())
    for name in ("eval_loss", "eval_accuracy", "eval_whole_word_accuracy", "eval_samples"):
        assert results[name] == pytest.approx(one[name], rel=1e-5)
