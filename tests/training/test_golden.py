"""The first losses of five runs are those of the file golden_losses.json: no change of the code changes training.

A change that must change them writes the file again, and says why in its commit:

    WRITE_GOLDEN_LOSSES=1 python -m pytest -m "slow or not slow" tests/training/test_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

import run_mlm_wwm
from conftest import character_tokenizer, run_two_processes, sample_lines, save_model, training_steps

FILE = Path(__file__).with_name("golden_losses.json")
WRITES = bool(os.environ.get("WRITE_GOLDEN_LOSSES"))
COMMON = "--use_cpu --do_train --max_steps 50 --logging_steps 1 --per_device_train_batch_size 4 --learning_rate 1e-3"
RUNS = {
    "whole word": "--max_seq_length 48",
    "n-gram": "--max_seq_length 48 --masking_strategy ngram --mlm_probability 0.3",
    "packed": "--max_seq_length 64 --pack_sequences --long_lines split",
    "streamed": "--max_seq_length 48 --streaming",
    "two processes": "--max_seq_length 48",
}

QUICK = ("whole word", "packed")  # what `make test` runs


def losses(name: str, folder: Path) -> list[float]:
    """The losses of a run, on one thread."""
    lines = sample_lines("english", 120)
    (folder / "text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = save_model(folder / "model", character_tokenizer(lines))
    argv = [
        "--model_name_or_path",
        model,
        "--train_file",
        str(folder / "text.txt"),
        "--output_dir",
        str(folder / "out"),
    ]
    argv += [*COMMON.split(), *RUNS[name].split()]
    if name == "two processes":
        run_two_processes([argv], folder / "commands.json")
    else:
        run_mlm_wwm.main(argv)
    return [step["loss"] for step in training_steps(folder / "out")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in RUNS]
)
def test_the_losses_are_those_of_the_file(name, tmp_path):
    found = losses(name, tmp_path)
    golden = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}
    if WRITES:
        written = {"torch": torch.__version__, "losses": golden.get("losses", {}) | {name: found}}
        FILE.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
        return
    expected = golden["losses"][name]
    assert len(found) == len(expected) == 50
    # The last digits differ between processors, and even between two runs on one.
    assert found == pytest.approx(expected, rel=1e-4 if golden["torch"] == torch.__version__ else 1e-3)
