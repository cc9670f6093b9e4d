"""The command that resumes a run: as this process was started, without what would start over, without secrets."""

from __future__ import annotations

import shlex
import sys

import pytest

from wordmask.utils import command_line
from wordmask.utils.command_line import resume_command
from wordmask.utils.processes import RANKS


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No launcher."""
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "started, argv, expected",
    [
        (["python", "run_mlm.py", "bert", "a b.txt"], ["bert", "a b.txt"], "python run_mlm.py bert 'a b.txt'"),
        (["python3", "-m", "wordmask", "mlm", "bert", "a"], ["bert", "a"], "python3 -m wordmask mlm bert a"),
        (["/bin/python", "/bin/wordmask", "mlm", "bert", "a"], ["bert", "a"], "wordmask mlm bert a"),
        (["python", "-m", "pytest"], ["bert", "a"], "python run_mlm.py bert a"),  # called from Python
    ],
)
def test_a_run_is_resumed_as_it_was_started(monkeypatch, started, argv, expected):
    monkeypatch.setattr(sys, "orig_argv", started)
    monkeypatch.setattr(command_line.shutil, "which", lambda name: "/bin/wordmask" if name == "wordmask" else None)
    assert resume_command("run_mlm.py", argv, "out/1") == f"{expected} --output_dir out/1"
    assert resume_command("run_mlm.py", argv, None) == expected


@pytest.mark.parametrize(
    "given, kept",
    [
        ("a --overwrite_output_dir --seed 1", "a --seed 1"),
        ("a --overwrite_output_dir true --seed 1", "a --seed 1"),
        ("a --overwrite-output-dir=true --seed 1", "a --seed 1"),
        ("a --seed 1 --overwrite_output_dir", "a --seed 1"),
        ("a --token hf_x --seed 1", "a --token TOKEN --seed 1"),
        ("a --hub_token=hf_x --seed 1", "a --hub_token TOKEN --seed 1"),
        ("a --use_auth_token --seed 1", "a --use_auth_token --seed 1"),
    ],
)
def test_nothing_starts_over_and_no_secret_is_shown(given, kept):
    shown = resume_command("run_mlm.py", given.split(), None)
    assert shlex.split(shown)[2:] == kept.split() and "hf_x" not in shown
