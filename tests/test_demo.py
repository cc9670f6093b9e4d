"""`make demo`, as a newcomer calls it: it ends with a model that has learned something."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, str]:
    """What `make demo` made and printed, in this environment: `--assume-old` leaves out the installation."""
    directory = tmp_path_factory.mktemp("demo")
    for name in ("Makefile", "configs", "wordmask", "run_chinese_ref.py", "run_mlm_wwm.py"):
        (directory / name).symlink_to(ROOT / name)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(directory / "cache")}
    command = ["make", "demo", "VENV=.venv", "--assume-old", ".venv/installed", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return directory / "demo_output", done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(demo) -> dict[str, float]:
    return json.loads((demo[0] / "english/all_results.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def lines(demo) -> tuple[list[str], list[str]]:
    """The validation lines, which are the first 5 % of the English text, and the training lines."""
    lines = (demo[0] / "english.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) > 900, "a line that comes twice may be in both parts"
    held_out = round(len(lines) * 0.05)
    return lines[:held_out], lines[held_out:]


def test_the_demo_masks_whole_chinese_words(demo):
    demo_output, printed = demo
    assert (demo_output / "chinese.ref").exists() and "]·[" in printed


def test_the_demo_predicts_words_far_better_than_the_most_frequent_word_would(results, lines):
    words = Counter(word for line in lines[0] for word in re.findall(r"\w+|[^\w\s]", line))
    assert results["eval_whole_word_accuracy"] > 2.5 * max(words.values()) / words.total()


def test_the_demo_learns_more_than_how_frequent_each_token_is(demo, results, lines):
    tokenizer = AutoTokenizer.from_pretrained(demo[0] / "english")
    held_out, training = ([token for line in part for token in tokenizer.tokenize(line)] for part in lines)
    seen = Counter(training)
    losses = [-math.log((seen[token] + 1) / (seen.total() + len(tokenizer))) for token in held_out]
    assert results["perplexity"] < math.exp(sum(losses) / len(losses)) / 2


def test_the_demo_takes_a_third_off_the_perplexity(results):
    assert results["perplexity"] < results["perplexity_before"] * 2 / 3
