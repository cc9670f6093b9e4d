"""The commands of README.md and docs/, one after the other in one directory tree, as a reader would type them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import run_chinese_ref
import run_mlm
import run_mlm_wwm
from conftest import character_tokenizer, free_port, sample_lines, save_model, train_tokenizer
from wordmask import cluster
from wordmask.config.parser import Parser
from wordmask.config.short_form import split_words

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"run_mlm.py": run_mlm.main, "run_mlm_wwm.py": run_mlm_wwm.main, "run_chinese_ref.py": run_chinese_ref.main}
SHORT = "--max_steps 2 --max_seq_length 32 --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --use_cpu"


def commands(page: Path) -> list[list[str]]:
    """The command lines in the code blocks of a page that start a script or a module of this project."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(
        r"(?:^ {4}.*\n)+", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    )
    lines = "\n".join([*fenced, *indented]).replace("\\\n", " ").split("\n")
    return [shlex.split(line) for line in lines if re.match(r" *(python (run_|-m wordmask)|torchrun )", line)]


def script_of(command: list[str]) -> str:
    return next(word for word in command if word in SCRIPTS)


def output_dir(command: list[str]) -> str | None:
    """Where a command trains, if it does."""
    if script_of(command) == "run_chinese_ref.py" or "--prepare_only" in command:
        return None
    if "--output_dir" in command:
        return command[command.index("--output_dir") + 1]
    config = next((word for word in command if word.endswith(".yaml")), None)
    if config is None:  # the short form
        return "output"
    return re.search(r"^output_dir: (.*)$", (ROOT / config).read_text(encoding="utf-8"), re.MULTILINE)[1]


ALL = [command for page in PAGES for command in commands(page)]


def test_no_two_commands_share_an_output_directory():
    directories = [directory for directory in map(output_dir, ALL) if directory not in (None, "output")]
    assert len(directories) >= 6 and len(set(directories)) == len(directories)
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "configs").glob("*.yaml")]
    own = [re.search(r"^output_dir: (.*)$", config, re.MULTILINE)[1] for config in configs]
    assert len(set(own)) == len(own)


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A directory with the project's files, texts, and models of the names that the commands have."""
    for path in [*SCRIPTS, "configs", "wordmask"]:
        (tmp_path / path).symlink_to(ROOT / path)
    lines = [*sample_lines("english", 20), *sample_lines("chinese", 20)]
    text = "\n".join(lines) + "\n"
    for name in ("train.txt", "valid.txt", "my_text.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "corpus").mkdir()
    for name in ("corpus.txt.zst", "corpus/one.txt.zst", "corpus/two.txt.zst"):
        with pa.output_stream(str(tmp_path / name), compression="zstd") as file:
            file.write(text.encode())
    save_model(tmp_path / "roberta-base", train_tokenizer("roberta"), "roberta")
    save_model(tmp_path / "bert-base-uncased", train_tokenizer("bert"))
    save_model(tmp_path / "bert-base-chinese", character_tokenizer(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def shortened(command: list[str]) -> list[str]:
    """A command with jieba for a segmenter of the hub, no tracker, and two steps for a training."""
    if "--report_to" in command:
        at = command.index("--report_to")
        command = [*command[:at], *command[at + 2 :]]
    at = command.index("--ltp") if "--ltp" in command else None
    if at is not None:
        command = [*command[:at], "--segmenter", "jieba", *command[at + 2 :]]
    return [*command, *SHORT.split()] if output_dir(command) else command


def run(command: list[str]) -> None:
    """Run a command in this process, or under its launcher; parse one that needs a cluster."""
    if command[0] == "torchrun":
        launched = [sys.executable, "-m", "torch.distributed.run", "--master_port", free_port(), *command[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(launched, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    elif "slurm" in command:
        Parser(cluster.ClusterArguments).parse(command[3 : command.index("--")])
    elif command[1] == "-m":
        cluster.main(command[3:])
    else:
        SCRIPTS[command[1]](command[2:])


@pytest.mark.slow
def test_each_command_trains_its_own_model_whatever_ran_before(tree, caplog):
    """All of them wrote to one directory: the second was given the first one's model, and none said so."""
    for command in ALL:
        run(shortened(command))
        directory = output_dir(command)
        if directory:
            named = command[command.index("--model_name_or_path") + 1] if "--model_name_or_path" in command else None
            _, words, _ = split_words(command[command.index(script_of(command)) + 1 :])
            source = named or (words or ["bert-base-uncased"])[0]  # that of configs/english_wwm.yaml
            if directory == "output":
                directory = str(max((tree / "output").iterdir(), key=os.path.getmtime))
            config, expected = (json.loads((tree / name / "config.json").read_text()) for name in (directory, source))
            assert [config[name] for name in ("model_type", "vocab_size")] == [
                expected[name] for name in ("model_type", "vocab_size")
            ]
            record = json.loads((tree / directory / "wordmask_run.json").read_text(encoding="utf-8"))
            assert record["arguments"]["model_name_or_path"] == source
            assert json.loads((tree / directory / "trainer_state.json").read_text())["global_step"] == 2
            assert f"`{source}`" in (tree / directory / "README.md").read_text(encoding="utf-8")
    assert "going on from" not in caplog.text and "holds the end" not in caplog.text
    for name in ("train.ref", "corpus.ref", "tokens/wordmask_prepared.json"):
        assert (tree / name).exists()
