"""Each bad input of cases.yaml gets its sentence: no traceback, no answer that takes a minute, nothing trained."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import wordmask.__main__ as command
from bad_inputs.inputs import make_inputs
from conftest import refusal
from wordmask import cluster

LIMIT = 60  # seconds for an answer
SAMPLE = 12  # `make test` runs each twelfth case


class Case(NamedTuple):
    """One line of the table.

    Attributes:
        words: the command, `wordmask WORDS` or `python -m wordmask.WORDS`.
        sentence: what the answer begins with.
    """

    words: str
    sentence: str


def read_cases() -> dict[str, Case]:
    """The cases of the table, by the name of their group and their own words."""
    groups = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text(encoding="utf-8"))
    return {
        f"{name}: {words}": Case(f"{group['command']} {words}", sentence)
        for name, group in groups.items()
        for words, sentence in group["cases"].items()
    }


CASES = read_cases()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """The folder of all files."""
    folder = tmp_path_factory.mktemp("inputs")
    make_inputs(folder)
    return folder


@pytest.fixture
def folder(inputs, monkeypatch) -> Iterator[Path]:
    """The working directory. After the test, nothing of what is there may have changed."""
    before = {path: path.stat().st_mtime_ns for path in inputs.rglob("*") if path.is_file()}
    monkeypatch.chdir(inputs)
    monkeypatch.syspath_prepend(str(inputs))
    yield inputs
    new = {path for path in inputs.rglob("*") if path.is_file() and "__pycache__" not in path.parts} - before.keys()
    changed = [path for path, time in before.items() if not path.exists() or path.stat().st_mtime_ns != time]
    for name in ("out", "tokens"):
        shutil.rmtree(inputs / name, ignore_errors=True)
    for path in new:
        path.unlink(missing_ok=True)
    trained = [path for path in new if path.suffix in (".safetensors", ".ref", ".bin") or path.name == "obeyed"]
    assert not trained and not changed


@pytest.fixture(autouse=True)
def answers_in_time() -> Iterator[None]:
    """Fail after a minute."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no answer in {LIMIT} seconds")

    earlier = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)


def split(words: str) -> list[str]:
    """The words of a command line. {long}, {nul} and {not_utf8} stand for what a file of cases cannot hold."""
    special = {"{long}": "x" * 300, "{nul}": "\0", "{not_utf8}": os.fsdecode(b"\xff")}
    split = shlex.split(words)
    for name, value in special.items():
        split = [word.replace(name, value) for word in split]
    return split


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=str(number), marks=[pytest.mark.slow] if number % SAMPLE else [])
        for number, name in enumerate(CASES)
    ],
)
def test_a_bad_input_is_refused_in_one_sentence(name, folder, capsys, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    first, *others = split(CASES[name].words)
    main, argv = (cluster.main, others) if first == "cluster" else (command.main, [first, *others])
    monkeypatch.setattr(sys, "argv", ["wordmask", *argv])
    sentence = refusal(capsys, main, *argv)
    assert sentence.startswith(CASES[name].sentence), name


def test_the_table_is_large_and_covers_each_command():
    commands = [case.words.split()[0] for case in CASES.values()]
    assert len(CASES) >= 400 and {"mlm", "wwm", "ref", "report", "cluster"} <= {*commands}
    assert all(case.sentence.strip() for case in CASES.values())
