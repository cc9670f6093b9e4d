"""The commands of README.md and docs/, one after the other in one directory tree, as a reader would type them."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

import run_chinese_ref
import run_mlm
import run_mlm_wwm
from conftest import character_tokenizer, free_port, sample_lines, sample_tokenizer, save_model
from test_project import NO_HARDWARE, any_hardware, parse_launcher  # noqa: F401
from wordmask import cluster
from wordmask.__main__ import main as wordmask_command
from wordmask.config.arguments import parse_arguments
from wordmask.config.parser import Parser
from wordmask.config.short_form import split_words
from wordmask.segmenters import make_segmenter

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {"run_mlm.py": run_mlm.main, "run_mlm_wwm.py": run_mlm_wwm.main, "run_chinese_ref.py": run_chinese_ref.main}
SHORT = "--max_steps 2 --max_seq_length 32 --per_device_train_batch_size 4 --gradient_accumulation_steps 1 --use_cpu"


NEEDS = " # needs "  # marks a command that no test can run: it needs a device


def code_lines(page: Path) -> list[str]:
    """The lines in the code blocks of a page that are not Python; what continues on the next line is one line."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:^ {4}.*\n)+", prose, re.MULTILINE)
    return [line.strip() for line in "\n".join([*fenced, *indented]).replace("\\\n", " ").split("\n")]


def is_ours(line: str) -> bool:
    """Whether a line starts a script or a module of this project."""
    return bool(re.match(r"python (run_|-m wordmask)|wordmask |torchrun |accelerate launch ", line))


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page that the tests run."""
    return [shlex.split(line) for line in code_lines(page) if is_ours(line) and NEEDS not in line]


def script_of(command: list[str]) -> str:
    return next(word for word in command if word in SCRIPTS)


def output_dir(command: list[str]) -> str | None:
    """Where a command trains, if it does."""
    if (
        command[0] == "wordmask"
        or script_of(command) == "run_chinese_ref.py"
        or {"--prepare_only", "--preview_masking", "--dry_run"} & {*command}
    ):
        return None
    if "--output_dir" in command:
        return command[command.index("--output_dir") + 1]
    config = next((word for word in command if word.endswith(".yaml")), None)
    if config is None:  # the short form
        return "output"
    return re.search(r"^output_dir: (.*)$", (ROOT / config).read_text(encoding="utf-8"), re.MULTILINE)[1]


ALL = [command for page in PAGES for command in commands(page)]


def test_each_command_in_the_documentation_is_run_or_says_what_it_needs():
    others = (
        "pip install",
        "git clone",
        "make ",
        "python benchmarks/",
        "tensorboard ",
        "trackio ",
        "wordmask report ",
    )
    programs = ("python", "torchrun", "accelerate", "wordmask", "pytest", *(one.split()[0] for one in others))
    for page in PAGES:
        lines = [line for line in code_lines(page) if line.split(" ")[0] in programs]
        assert [line for line in lines if not is_ours(line) and not line.startswith(others)] == [], page
    assert len(ALL) >= 30


HARDWARE = [shlex.split(line.split(NEEDS)[0]) for page in PAGES for line in code_lines(page) if NEEDS in line]


@pytest.mark.usefixtures("any_hardware")
@pytest.mark.parametrize("command", HARDWARE, ids=" ".join)
def test_commands_for_other_hardware_are_understood_by_launcher_and_script(command):
    _, script, arguments = parse_launcher(command)
    strategy = {"masking_strategy": "whole_word", "line_by_line": True} if script == "run_mlm_wwm.py" else {}
    arguments = [argument for argument in arguments if argument != "--bf16"]
    assert parse_arguments([*arguments, *NO_HARDWARE], **strategy).training.do_train is not None


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]*)\)", re.sub(r"`[^`]*`", "", text)):
        path, _, anchor = target.partition("#")
        if ":" in path:
            assert re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", target), target
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_the_index_leads_to_every_page():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    index = readme.split("## Questions\n")[1].split("\n## ")[0]
    assert {*re.findall(r"\((docs/\w+\.md)\)", index)} == {f"docs/{page.name}" for page in PAGES[1:]}


def test_no_two_commands_share_an_output_directory():
    directories = [directory for directory in map(output_dir, ALL) if directory not in (None, "output")]
    assert len(directories) >= 6 and len(set(directories)) == len(directories)
    configs = [path.read_text(encoding="utf-8") for path in (ROOT / "configs").glob("*.yaml")]
    own = [directory for config in configs for directory in re.findall(r"^output_dir: (.*)$", config, re.MULTILINE)]
    assert len(own) >= 8 and len(set(own)) == len(own)


THAI, JAPANESE, KHMER = ["ฉันชอบกินข้าวผัด"], ["食べることが好きです。"], ["ខ្ញុំចូលចិត្តបាយឆា", "បាយ ABC"]


def khmer_example() -> str:
    """The code of the segmenter on the page about languages."""
    return python_blocks((ROOT / "docs/languages.md").read_text(encoding="utf-8"))[0]


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """A directory with the project's files, texts, and models of the names that the commands have."""
    for path in [*SCRIPTS, "configs", "wordmask"]:
        (tmp_path / path).symlink_to(ROOT / path)
    lines = [*sample_lines("english", 20), *sample_lines("chinese", 20)]
    text = "\n".join([*lines, *["Of immunoglobulin and immunoglobulin."] * 5]) + "\n"  # a word for --add_words
    for folder in ("clinic", "corpus"):
        (tmp_path / folder).mkdir()
    for name in (
        "train.txt",
        "valid.txt",
        "my_text.txt",
        "clinic/notes.txt",
        "wiki.txt",
        "clinic_dev.txt",
        "wiki_dev.txt",
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    with open(tmp_path / "labelled.csv", "w", encoding="utf-8", newline="") as file:
        rows = [(line[:50], len(line) % 3) for line in sample_lines("english", 60)]
        csv.writer(file).writerows([("text", "label"), *rows])
    for name in ("corpus.txt.zst", "corpus/one.txt.zst", "corpus/two.txt.zst"):
        with pa.output_stream(str(tmp_path / name), compression="zstd") as file:
            file.write(text.encode())
    save_model(tmp_path / "roberta-base", sample_tokenizer("roberta"), "roberta")
    save_model(tmp_path / "bert-base-uncased", sample_tokenizer("bert"))
    save_model(tmp_path / "bert-base-chinese", character_tokenizer(lines))
    save_model(tmp_path / "xlm-roberta-base", sample_tokenizer("roberta"), "roberta")
    for language, lines in {"thai": THAI, "japanese": JAPANESE, "khmer": KHMER}.items():
        (tmp_path / f"{language}.txt").write_text("\n".join(lines * 10) + "\n", encoding="utf-8")
    (tmp_path / "khmer_words.txt").write_text("ខ្ញុំ\nចូលចិត្ត\nបាយ\n", encoding="utf-8")
    (tmp_path / "my_khmer.py").write_text(khmer_example(), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_khmer", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def shortened(command: list[str]) -> list[str]:
    """A command with jieba for a segmenter of the hub, no tracker, and two steps for a training and its checkpoint."""
    command = [re.sub(r"/checkpoint-\d+$", "/checkpoint-2", word) for word in command]
    if "--report_to" in command:
        at = command.index("--report_to")
        command = [*command[:at], *command[at + 2 :]]
    at = command.index("--ltp") if "--ltp" in command else None
    if at is not None:
        command = [*command[:at], "--segmenter", "jieba", *command[at + 2 :]]
    return [*command, *SHORT.split()] if output_dir(command) or "--dry_run" in command else command


def run(command: list[str]) -> None:
    """Run a command in this process, or under its launcher; parse one that needs a cluster."""
    if command[0] == "torchrun":
        launched = [sys.executable, "-m", "torch.distributed.run", "--master_port", free_port(), *command[1:]]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(launched, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    elif command[0] == "wordmask":
        wordmask_command(command[1:])
    elif "slurm" in command:
        Parser(cluster.ClusterArguments).parse(command[3 : command.index("--")])
    elif command[1] == "-m":
        cluster.main(command[3:])
    else:
        SCRIPTS[command[1]](command[2:])


@pytest.mark.slow
def test_each_command_trains_its_own_model_whatever_ran_before(tree, caplog):
    """All of them wrote to one directory: the second was given the first one's model, and none said so."""
    for command in map(shortened, ALL):
        run(command)
        directory = output_dir(command)
        if directory and "--do_eval" in command:
            assert "eval_loss" in json.loads((tree / directory / "eval_results.json").read_text())
        elif directory:
            named = command[command.index("--model_name_or_path") + 1] if "--model_name_or_path" in command else None
            _, words, _ = split_words(command[command.index(script_of(command)) + 1 :])
            source = named or (words or ["bert-base-uncased"])[0]  # that of configs/english_wwm.yaml
            if directory == "output":
                directory = str(max((tree / "output").iterdir(), key=os.path.getmtime))
            assert json.loads((tree / directory / "trainer_state.json").read_text())["global_step"] == 2
            if "--model_type" in command:
                assert (tree / directory / "tokenizer.json").exists()
                continue
            config, expected = (json.loads((tree / name / "config.json").read_text()) for name in (directory, source))
            assert config["model_type"] == expected["model_type"]
            assert config["vocab_size"] == expected["vocab_size"] or "--add_words" in command
            record = json.loads((tree / directory / "wordmask_run.json").read_text(encoding="utf-8"))
            assert record["arguments"]["model_name_or_path"] == source
            assert f"`{Path(source).name}`" in (tree / directory / "README.md").read_text(encoding="utf-8")
    assert "going on from" not in caplog.text and "holds the end" not in caplog.text
    for name in ("train.ref", "corpus.ref", "tokens/wordmask_prepared.json"):
        assert (tree / name).exists()


def python_blocks(text: str) -> list[str]:
    """The Python code in a text."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def snippets(heading: str) -> list[str]:
    """The Python code in a section of README.md."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return python_blocks(readme.split(f"## {heading}\n")[1].split("\n## ")[0])


def test_the_examples_of_the_page_on_python_run_one_after_the_other(tree, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    names: dict[str, Any] = {}
    for code in python_blocks((ROOT / "docs/python.md").read_text(encoding="utf-8")):
        shorter = code.replace("max_length=128", "max_length=32").replace("--max_steps 100", "--max_steps 1")
        exec(compile(shorter, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "eval_whole_word_accuracy" in printed and (tree / "out/python/config.json").exists()
    losses = [float(loss) for loss in re.findall(r"^epoch \d: eval_loss (.*)$", printed, re.MULTILINE)]
    assert len(losses) == 2 and all(0 < loss < math.inf for loss in losses)
    assert names["references"] == [[3], [2, 4, 7]]
    assert "[[2, 4], [2, 4, 6]]" in printed, "the words of the own segmenter"
    assert names["figures"]["eval_loss"] > 0 and not torch.equal(names["batch"]["labels"], names["batch"]["input_ids"])


def test_the_segmenter_on_the_page_about_languages_finds_the_words_of_its_list(tree):
    words = {"words": "khmer_words.txt"}
    segmenter = make_segmenter("my_khmer:KhmerSegmenter", **words)
    assert segmenter.segment(KHMER) == [["ខ្ញុំ", "ចូលចិត្ត", "បាយ", "ឆ", "ា"], ["បាយ", " ", "A", "B", "C"]]
    for command in commands(ROOT / "docs/languages.md"):
        if "my_khmer:KhmerSegmenter" in command and "run_chinese_ref.py" in command:
            run(command)
    made = json.loads((tree / "khmer.ref.meta.json").read_text(encoding="utf-8"))
    assert made["segmenter"] == segmenter.identity
    (tree / "khmer_words.txt").write_text("បាយ\n", encoding="utf-8")
    assert make_segmenter("my_khmer:KhmerSegmenter", **words).identity != segmenter.identity


@pytest.fixture
def trained(tree) -> Path:
    """The output of README's first training."""
    command = next(command for command in commands(ROOT / "README.md") if "out/roberta" in command)
    run(shortened(command))
    return tree


WHAT_COMES_NEXT = ("fill-mask", "similarity", "SentenceTransformerTrainer", "AutoModelForSequenceClassification")


def test_each_use_of_a_model_is_five_lines():
    found = snippets("Then what")
    assert len(found) == len(WHAT_COMES_NEXT)
    for code, name in zip(found, WHAT_COMES_NEXT, strict=True):
        lines = [line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]
        assert name in code and len(lines) <= 5


@pytest.mark.parametrize("name", WHAT_COMES_NEXT)
def test_each_use_of_a_model_works_on_what_a_run_has_saved(name, trained, monkeypatch, capsys):
    code = next(code for code in snippets("Then what") if name in code)
    if "SentenceTransformer" in code:
        pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (trained / "pairs.csv").write_text("id,question,answer\n" + "1,a room,the room was quiet\n" * 8, encoding="utf-8")
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    if name == "fill-mask":
        assert len(re.findall(r"^\d+\.\d% .* text\.$", printed, re.MULTILINE)) == 5
    elif name == "SentenceTransformerTrainer":
        assert (trained / "out/embedder/modules.json").exists()
    elif name == "similarity":
        assert printed.count("1.0000") >= 3, "each sentence is like itself"
    else:
        saved = next(trained.glob("out/classifier/checkpoint-*"))
        config = json.loads((saved / "config.json").read_text(encoding="utf-8"))
        assert config["architectures"] == ["RobertaForSequenceClassification"] and len(config["id2label"]) == 3
        assert (saved / "tokenizer.json").exists()
