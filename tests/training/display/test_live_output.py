"""What a run shows: exact lines in a pipe, nothing of libraries, one bar at a terminal."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm
import run_mlm_wwm
import wordmask
from conftest import free_port, refusal, slow_after
from wordmask.training.display.live_output import Evaluated, LiveOutput
from wordmask.training.display.speed import Speed
from wordmask.training.display.utilisation import Utilisation, flops_per_token, peak_rate
from wordmask.training.records.speed_record import TokenCount
from wordmask.utils import terminal as terminal_module
from wordmask.utils.progress import Bar

ROOT = Path(__file__).parents[3]
FIGURE = r"(?:\d[\d,]*(?:\.\d+)?(?:e-\d+)?)"
TIME = r"(?:\d+(?:\.\d)? s|\d+ min \d\d s)"
SPEED = rf"{FIGURE} tokens/s"
DIFFERENCE = rf"\((?:[+-]{FIGURE}|same)\)"


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """A terminal of this test's own."""
    monkeypatch.setattr(terminal_module, "_terminal", None)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def flags(english_model, english_file, tmp_path) -> list[str]:
    """A run of six steps over forty lines, with validation text."""
    return [
        *("--model_name_or_path", english_model, "--train_file", english_file, "--validation_file", english_file),
        *("--per_device_train_batch_size", "8", "--max_steps", "6", "--logging_steps", "2", "--report_to", "none"),
        *("--save_strategy", "no", "--output_dir", str(tmp_path / "out")),
    ]


def lines_of(capsys, main, *argv: str) -> list[str]:
    """The lines on stderr of a run that prints nothing else."""
    capsys.readouterr()
    main(argv)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]|\{'", shown.err)  # no control characters, no dictionaries
    return shown.err.splitlines()


def test_a_pipe_gets_exactly_these_lines(capsys, flags, english_model, english_file, tmp_path):
    lines = lines_of(capsys, run_mlm_wwm.main, *flags, "--eval_strategy", "steps", "--eval_steps", "3")
    loss = rf"loss {FIGURE}, learning rate {FIGURE}, gradient norm {FIGURE}"
    words = rf"tokens right {FIGURE}% {DIFFERENCE}, words right {FIGURE}% {DIFFERENCE}"
    texts = Path(english_file).read_text(encoding="utf-8").splitlines()
    tokens, rate = sum(map(len, AutoTokenizer.from_pretrained(english_model)(texts)["input_ids"])), FIGURE
    assert json.loads((tmp_path / "out" / "train_results.json").read_text())["train_tokens_per_second"] > 0
    expected = [
        re.escape("importing torch and transformers ..."),
        re.escape("reading the text ..."),
        re.escape(f"--validation_file: {english_file} is the training text, too, so evaluations tell little"),
        re.escape("--train_file: 40 texts from 1 file"),
        re.escape("--validation_file: 40 texts from 1 file"),
        re.escape("loading the tokenizer and the model ..."),
        re.escape("trying the model on two short sequences ..."),
        re.escape("tokenizing the text ..."),
        re.escape(f"model: bert, 13.9 k parameters, from {english_model}"),
        re.escape(f"text: train: {tokens:,} tokens in 40 sequences; validation: {tokens:,} tokens in 40 sequences"),
        re.escape(
            "masking: whole words (words from the text), 15.0% of the tokens: 80% become [MASK], 10% a random token, "
            "10% stay"
        ),
        re.escape("device: CPU with 1 thread, float32"),
        re.escape(f"steps: 6 in 1.2 epochs, each of 8 sequences, about {tokens / 5:.0f} tokens"),
        re.escape(f"output: {tmp_path / 'out'}"),
        rf"evaluation before training: loss {FIGURE}, perplexity {FIGURE}, tokens right {rate}%, words right {rate}%",
        rf"step 2 of 6, epoch 0\.40: {loss}, {SPEED}, {TIME} left",
        rf"evaluation after step 3: loss {FIGURE} {DIFFERENCE}, perplexity {FIGURE} {DIFFERENCE}, {words}",
        rf"step 4 of 6, epoch 0\.80: {loss}, {SPEED}, {TIME} left",
        rf"step 6 of 6, epoch 1\.20: {loss}, {SPEED}",
        rf"evaluation after step 6: loss {FIGURE} {DIFFERENCE}, perplexity {FIGURE} {DIFFERENCE}, {words}",
        rf"trained 6 steps in {TIME} with evaluations, mean loss {FIGURE}, {SPEED}, {FIGURE}% of the time for batches",
        re.escape("saving the model ..."),
        re.escape(f"model and results: {tmp_path / 'out'}"),
        re.escape(f"report: {tmp_path / 'out' / 'report.html'}"),
    ]
    found = [line for line in lines if not OF_REPORTS.match(line)]
    assert not any("training loss" in line for line in lines), "the line `trained` has said it"
    assert len(found) == len(expected), found
    for line, pattern in zip(found, expected, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


def test_packed_text_counts_documents_and_sequences(capsys, flags):
    lines = lines_of(capsys, run_mlm.main, *flags, "--line_by_line", "--pack_sequences", "--max_seq_length", "64")
    (text,) = (line for line in lines if line.startswith("text: "))
    packed = r"text: train: [\d,]+ tokens in 40 documents packed into \d+ sequences; validation: [\d,]+ tokens in 40 "
    assert re.fullmatch(packed + "sequences", text)


# Predictions, and the figures before and after.
OF_REPORTS = re.compile(
    r"predictions|\d\. |before and after: |words that improved most: |evaluating before|data report of |"
    r"--\w+_file: (an evaluation has only|\d+ of \d+ validation examples)"
)
# Each start shows these steps, and then the header; what libraries say would stand between them.
OURS = re.compile(
    r"(importing|reading|loading|trying|tokenizing|saving|evaluating|compiling) .*\.\.\."
    r"|(model|text|masking|device|steps|output): .*|step \d.*|evaluation.*|trained .*"
    r"|--(train|validation)_file: .*|going on from .*|this run was started with other settings: .*"
    r"|model and results: .*|report: .*"
)
STARTS = {
    "bf16": ["--bf16", "--use_cpu"],
    "packed": ["--pack_sequences"],
    "streamed": ["--streaming"],
    "workers": ["--dataloader_num_workers", "5"],
    "checkpointing": ["--activation_checkpointing"],
    "schedules": ["--pack_sequences", "--length_schedule", "32:0.5,64:0.5", "--mlm_probability", "0.30:0.15"],
    "best": ["--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "3", "--load_best_model_at_end"],
}


def of_others(lines: list[str]) -> list[str]:
    """The lines that are not ours."""
    return [line for line in lines if not (OURS.fullmatch(line) or OF_REPORTS.match(line))]


@pytest.mark.parametrize("start", slow_after(3, STARTS))
def test_libraries_print_nothing(capfd, flags, start):
    main, added = run_mlm_wwm.main, STARTS[start]
    flags = flags[:-4] + flags[-2:] if start == "best" else flags
    main([*flags, *added])
    shown = capfd.readouterr()
    assert shown.out == "" and of_others(shown.err.splitlines()) == []


def test_a_stream_has_steps_and_no_epochs(capfd, flags, tmp_path):
    run_mlm_wwm.main([*flags, "--streaming"])
    logged = [line for line in capfd.readouterr().err.splitlines() if line.startswith("step ")]
    assert logged and not any("epoch" in line for line in logged)
    assert re.search(r"^\| steps \| \d+ \|$", (tmp_path / "out" / "README.md").read_text(), flags=re.M)


def test_a_resume_does_not_call_tied_weights_missing(capfd, flags):
    flags = [*flags[:-4], *flags[-2:], "--save_steps", "3"]
    run_mlm_wwm.main(flags)
    capfd.readouterr()
    run_mlm_wwm.main([*flags, "--max_steps", "8"])
    lines = capfd.readouterr().err.splitlines()
    assert of_others(lines) == [] and any(line.startswith("going on from") for line in lines)
    assert any(
        line.startswith("steps: 8 in 1.6 epochs, 6 of them done, each of 8 sequences, about ") for line in lines
    )


def test_weights_that_a_checkpoint_really_lacks_are_named(english_model, tmp_path, caplog, monkeypatch):
    trainer = python_trainer(english_model, tmp_path)
    load_result = torch.nn.modules.module._IncompatibleKeys(["cls.predictions.decoder.weight", "bert.lost"], [])
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)  # caplog listens at the root
    trainer._issue_warnings_after_load(load_result)
    assert "missing keys in the checkpoint model loaded: ['bert.lost']" in caplog.text


def test_training_from_scratch_shows_only_our_lines(capfd, flags):
    flags = [*flags[2:], "--model_type", "bert", "--vocab_size", "300"]
    flags += ["--config_overrides", "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"]
    run_mlm_wwm.main(flags)
    lines = capfd.readouterr().err.splitlines()
    assert of_others(lines) == []
    assert any(re.fullmatch(r"model: bert, [\d.]+ k parameters, from scratch", line) for line in lines)


def test_an_evaluation_alone_shows_one_line_of_figures(capsys, english_model, english_file, tmp_path):
    argv = ["--model_name_or_path", english_model, "--validation_file", english_file, "--report_to", "none"]
    lines = lines_of(capsys, run_mlm_wwm.main, *argv, "--do_eval", "--output_dir", str(tmp_path / "out"))
    figures = rf"evaluation: loss {FIGURE}, perplexity {FIGURE}, tokens right {FIGURE}%, words right {FIGURE}%"
    assert len([line for line in lines if re.fullmatch(figures, line)]) == 1
    assert sum("perplexity" in line for line in lines) == 1 and lines[-2] == f"output: {tmp_path / 'out'}"
    assert of_others(lines) == [] and not any(line.startswith("steps: ") for line in lines)


def test_a_long_evaluation_says_in_a_log_how_far_it_is(capsys, english_model, english_file, tmp_path, monkeypatch):
    monkeypatch.setattr("wordmask.utils.progress.LOGGED", 0.0)
    argv = ["--model_name_or_path", english_model, "--validation_file", english_file, "--report_to", "none"]
    lines = lines_of(capsys, run_mlm_wwm.main, *argv, "--do_eval", "--output_dir", str(tmp_path / "out"))
    assert any(re.match(r"evaluating: \d+ batches, .* left, [\d,.]+ batches/s", line) for line in lines)


def test_names_with_terminal_escapes_are_shown_as_text(capsys, flags, tmp_path):
    lines = lines_of(capsys, run_mlm_wwm.main, *flags[:-1], str(tmp_path / "out\x1b[31m"))
    shown = rf"{tmp_path / 'out'}\x1b[31m"
    assert {f"output: {shown}", f"model and results: {shown}"} < {*lines}
    assert r"a\x1b[31m.txt" in refusal(capsys, run_mlm_wwm.main, *flags, "--train_file", "a\x1b[31m.txt")


# From Python


def python_trainer(model: str, tmp_path: Path, **settings) -> wordmask.MlmTrainer:
    """A Trainer over four examples, as a program makes it."""
    examples = [{"input_ids": [2, 30 + number, 31, 32, 3]} for number in range(4)]
    settings = {"max_steps": 2, "logging_steps": 1, "report_to": "none", "save_strategy": "no", **settings}
    args = wordmask.RunArguments(output_dir=str(tmp_path / "out"), per_device_train_batch_size=2, **settings)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return wordmask.MlmTrainer(
        AutoModelForMaskedLM.from_pretrained(model), args, examples, examples, processing_class=tokenizer
    )


def test_a_program_keeps_the_callbacks_of_the_trainer(english_model, tmp_path, capsys):
    python_trainer(english_model, tmp_path, disable_tqdm=True).train()
    shown = capsys.readouterr()
    assert "{'loss': " in shown.out and "step 1 of 2" not in shown.err


def test_a_program_can_ask_for_our_lines(english_model, tmp_path, capsys):
    trainer = python_trainer(english_model, tmp_path, log_format="plain")
    capsys.readouterr()  # transformers may have shown how it loads the model
    trainer.train(), trainer.evaluate()
    shown = capsys.readouterr()
    assert shown.out == ""
    kinds = [re.split(r":| in |,", line)[0] for line in shown.err.splitlines()]
    assert kinds == ["step 1 of 2", "step 2 of 2", "trained 2 steps", "evaluation after step 2"]


def test_a_program_compares_evaluations_of_one_text(english_model, tmp_path, capsys):
    trainer = python_trainer(english_model, tmp_path, log_format="plain")
    other = [{"input_ids": [2, 40 + number, 41, 3]} for number in range(4)]
    trainer.evaluate(), trainer.train(), trainer.evaluate()
    trainer.evaluate(other), trainer.evaluate(metric_key_prefix="test"), trainer.evaluate()
    trainer.evaluate(other), trainer.evaluate(other), trainer.train(), trainer.evaluate(other)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("evaluation")]
    assert ["(" in line for line in lines] == [*[False, True, False, False, False], False, True]
    figures = [line.split(": ")[1] for line in lines]
    assert figures[3] == figures[4] == re.sub(r" \([^)]*\)", "", figures[1]) != figures[2]


def test_tokens_per_second_count_no_padding(english_model, tmp_path):
    trainer = python_trainer(english_model, tmp_path)
    metrics = trainer.train().metrics
    assert trainer.tokens.read() == 20  # four examples of five tokens
    rate = metrics["train_tokens_per_second"]
    assert rate * metrics["train_runtime"] == pytest.approx(20, rel=1e-3)


# The parts


def test_a_speed_leaves_out_the_first_step_and_evaluations(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("wordmask.training.display.speed.time.monotonic", lambda: now[0])
    tokens = TokenCount()
    speed = Speed(tokens, torch.device("cpu"), processes=2, step=10, steps=20)
    assert speed.rate is None and speed.left is None
    tokens.total, now[0] = 100, 50.0  # the first step compiles
    speed.advance(11)
    assert speed.rate is None and speed.left is None
    tokens.total, now[0] = 200, 52.0
    speed.advance(12)
    assert (speed.rate, speed.left) == (2 * 100 / 2, 8 * 2.0)
    now[0] = 62.0
    speed.pause(10.0)  # an evaluation
    tokens.total, now[0] = 300, 64.0
    speed.advance(13)
    assert speed.rate == 2 * 200 / 4 and speed.left == 7 * 14 / 2  # evaluations are part of the time that is left


def test_between_logs_no_value_is_fetched_from_a_gpu(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("wordmask.training.display.speed.time.monotonic", lambda: now[0])

    class Waits(TokenCount):
        reads = 0

        def read(self) -> int:
            self.reads += 1
            return super().read()

    tokens = Waits()
    speed = Speed(tokens, torch.device("cuda"), processes=1, step=0, steps=100)
    for step in range(1, 51):
        tokens.total, now[0] = 10 * step, 1.0 * step
        speed.advance(step)
        if step == 20:
            speed.logged()
        _ = speed.rate, speed.left
    assert tokens.reads == 2 and speed.rate == pytest.approx(10) and speed.left == pytest.approx(50)


def test_an_evaluation_says_what_is_better():
    old = {"eval_loss": 6.4036, "eval_accuracy": 0.10}
    event = Evaluated(20, True, {"eval_loss": 6.1936, "eval_accuracy": 0.0951}, old)
    assert event.line() == "evaluation after step 20: loss 6.194 (-0.210), tokens right 9.5% (-0.5)"
    console = Console(width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    with console.capture() as capture:
        console.print(event)
    assert "\x1b[32m (-0.210)" in capture.get() and "\x1b[31m (-0.5)" in capture.get()


@pytest.mark.parametrize(
    "old, new, shown",
    [
        ((9.97251, 21430.0), (9.97249, 21429.8), "loss 9.972 (-0.001), perplexity 21,430 (same)"),
        ((9.97249, 21429.8), (9.97201, 21419.0), "loss 9.972 (same), perplexity 21,420 (-10)"),
        ((10.3424, 31030.0), (10.3404, 30970.0), "loss 10.340 (-0.002), perplexity 30,970 (-60)"),
        ((10.3688, 31849.3), (6.9014, 993.6), "loss 6.901 (-3.468), perplexity 993.6 (-30,856)"),
    ],
)
def test_a_change_agrees_with_the_figures_beside_it(old, new, shown):
    before, after = (dict(zip(("eval_loss", "eval_perplexity"), figures, strict=True)) for figures in (old, new))
    assert Evaluated(2, True, after, before).line() == f"evaluation after step 2: {shown}"


@pytest.mark.parametrize(
    "steps, size, shown",
    [(1, 8, "1 in 0.2 epochs"), (5, 8, "5 in 1 epoch"), (7, 8, "7 in 1.4 epochs"), (3, 12, "3 in 0.9 epochs")],
    ids=str,
)
def test_epochs_count_examples_and_have_two_decimals_at_most(capsys, flags, steps, size, shown):
    """Four steps of 12 show 40 lines: three are 0.9 epochs, as in the log."""
    argv = [*flags, "--max_steps", str(steps), "--line_by_line", "--per_device_train_batch_size", str(size)]
    lines = lines_of(capsys, run_mlm.main, *argv, "--no_eval_on_start")
    assert any(line.startswith(f"steps: {shown}, each of {size} sequences") for line in lines)


def test_the_model_flops_of_a_token_are_those_counted_by_hand(english_model):
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    head = model.get_output_embeddings()
    body = sum(module.weight.numel() for module in linear if module is not head)
    expected = 6 * (body + 0.15 * head.weight.numel()) + 12 * 1 * 16 * 100
    assert flops_per_token(model, 100, 0.15) == pytest.approx(expected, rel=1e-6)


def test_a_gpu_shows_its_utilisation_and_memory_where_the_card_is_known(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 12_300_000_000)
    whole = SimpleNamespace(total_memory=85_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    use = Utilisation(torch.device("cuda"), flops=600e6, peak=989e12)
    assert use.figures(500_000) == ["MFU 30%", "12.3 GB of 85.0 GB"]
    assert replace(use, peak=None).figures(500_000) == use.figures(0.0) == ["12.3 GB of 85.0 GB"]


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Tesla T4", 65e12),
        ("Some new card", None),
    ],
)
def test_a_card_has_its_own_peak_rate_or_none(name, peak):
    assert peak_rate(name, torch.bfloat16) == peak and peak_rate(name, torch.float32) is None


@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_bar_is_one_line_of_any_width(width, encoding, tmp_path):
    figures = ["1,234/5,000", "loss 6.163", "1 h 05 min left", "12,300 tokens/s", "MFU 41%", "12.3 GB of 80.0 GB"]
    bar = Bar("training", lambda: figures)
    bar.completed, bar.total = 1234, 5000
    with open(tmp_path / "screen", "w+", encoding=encoding) as file:  # strict: a sign that it lacks would raise
        Console(file=file, width=width, force_terminal=True, color_system=None).print(bar)
        file.seek(0)
        (line,) = file.read().splitlines()
    assert len(line.rstrip()) <= width
    assert ("MFU 41%" in line) == (width >= 120) and ("loss 6.163" in line) == (width >= 60)


def on_a_terminal(argv: list[str], columns: int = 80, **environment: str) -> str:
    """All that a program writes on a terminal."""
    child, terminal = pty.fork()
    if not child:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), **environment)
        os.execv(sys.executable, [sys.executable, *argv])
    written, end = b"", time.monotonic() + 120
    while time.monotonic() < end and select.select([terminal], [], [], 60)[0]:
        try:
            if not (data := os.read(terminal, 65536)):
                break
        except OSError:  # the program has ended
            break
        written += data
    os.waitpid(child, 0)
    os.close(terminal)
    return written.decode("utf-8", "replace")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}])
def test_a_terminal_shows_a_bar_that_is_gone_at_the_end(flags, environment, monkeypatch):
    monkeypatch.chdir(ROOT)
    shown = on_a_terminal([str(ROOT / "run_mlm_wwm.py"), *flags], **environment)
    assert "training" in shown and "6/6" in shown and "tokens/s" in shown
    assert "{'" not in shown and "step 2 of 6" not in shown
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l") and "Traceback" not in shown


@pytest.mark.slow
def test_the_first_line_comes_within_a_second(flags):
    """Of an idle machine, where it takes half a second. Here, it comes before the imports that take longer."""
    code = "import sys; from wordmask.utils import terminal as t\n"
    code += "def show(self, event):\n"
    code += "    print({'torch', 'transformers', 'datasets', 'numba'} & {*sys.modules}); sys.exit(0)\n"
    code += "t.Terminal.show = show; import run_mlm_wwm; run_mlm_wwm.main()"
    shown = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


@pytest.mark.slow
def test_two_processes_show_what_one_shows(flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # else torchrun itself says that it sets it
    for more in ([], ["--max_steps", "8"]):
        shown = subprocess.run(
            [*command, "run_mlm_wwm.py", *flags[:-4], *flags[-2:], "--save_steps", "3", "--use_cpu", *more],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert shown.stdout == "" and of_others(shown.stderr.splitlines()) == []
        assert "device: 2 processes, each on CPU with 1 thread, float32" in shown.stderr.splitlines()


def test_the_bar_is_drawn_only_where_a_person_looks(capsys, flags):
    lines_of(capsys, run_mlm_wwm.main, *flags, "--log_format", "rich")


def test_an_unknown_format_is_refused(flags):
    with pytest.raises(wordmask.InputError, match="--log_format: fancy is not known; choose from rich, plain"):
        wordmask.RunArguments(log_format="fancy")


def test_the_live_output_can_be_made_without_a_run():
    callback = LiveOutput(TokenCount())
    assert callback.training_bar is None
