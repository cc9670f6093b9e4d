"""--preview_masking shows what training masks, and stops."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm
import run_mlm_wwm

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("script", [run_mlm, run_mlm_wwm])
def test_preview_prints_examples_and_trains_nothing(script, english_model, english_file, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(output)]
    assert script.main([*arguments, "--use_cpu", "--preview_masking", "3"]) == {}
    shown = capsys.readouterr().out
    examples = re.findall(r"^(\d+)\. (\d+) of (\d+) tokens \((.+?)%\)", shown, flags=re.M)
    assert [number for number, *_ in examples] == ["1", "2", "3"]
    for _, chosen, tokens, share in examples:
        assert float(share) == pytest.approx(100 * int(chosen) / int(tokens), abs=0.06)
    assert "\x1b" not in shown  # not a terminal, so no colours
    assert not output.exists()


def test_preview_marks_every_chosen_token(english_model, english_file, tmp_path, capsys):
    run_mlm_wwm.main(
        ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(tmp_path / "out")]
        + ["--use_cpu", "--preview_masking", "20", "--mlm_probability", "0.3"]
    )
    for line in capsys.readouterr().out.splitlines()[1:]:
        head, _, text = line.partition(": ")
        chosen = int(head.split()[1])
        marks = re.findall(r"\[(?!CLS|SEP)[^\[\]]+\]|\{[^{}]+>[^{}]+\}|<[^<>]+>", text)
        assert len(marks) == chosen


@pytest.mark.slow
@pytest.mark.parametrize("variable, coloured", [("FORCE_COLOR", True), ("NO_COLOR", False)])
def test_preview_honours_the_terminal(variable, coloured, english_model, english_file, tmp_path):
    environment = {**os.environ, "FORCE_COLOR": "1", variable: "1", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, str(ROOT / "run_mlm_wwm.py"), "--model_name_or_path", english_model, "--use_cpu"]
        + ["--train_file", english_file, "--output_dir", str(tmp_path / "out"), "--preview_masking", "1"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ("\x1b[1;31m" in shown) == coloured
