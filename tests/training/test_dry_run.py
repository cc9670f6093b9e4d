"""`--dry_run`: what it says is what a run then does, it leaves nothing behind, and what is short is one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from transformers import AutoModelForMaskedLM

import run_mlm
import run_mlm_wwm
from conftest import free_port, refusal, sample_lines, sample_tokenizer, save_model, slow_after, uneven_text
from wordmask.data.plan import Stage
from wordmask.training.dry_run import forecast
from wordmask.training.dry_run.rehearsal import Rehearsal
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.memory import _rooms_of_groups, available_memory, limited_memory, peak_memory

ROOT = Path(__file__).parent.parent.parent
MEGABYTE = 10**6


@pytest.fixture
def flags(english_model, tmp_path) -> list[str]:
    """A run over forty lines of very different lengths, in batches of 8."""
    return [
        *("--model_name_or_path", english_model, "--train_file", uneven_text(tmp_path, 40), "--report_to", "none"),
        *("--per_device_train_batch_size", "8", "--save_strategy", "no", "--validation_split_percentage", "0"),
        *("--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "2"),
    ]


@pytest.fixture
def computed(monkeypatch) -> list[tuple[int, int]]:
    """The tokens and the positions of each micro-batch that is trained on."""
    found, compute_loss = [], MlmTrainer.compute_loss

    def record(self, model, inputs, *args, **kwargs):
        shown = inputs["labels"].ne(-100).any(1)  # what only fills a step up has no label
        found.append((int(inputs["attention_mask"][shown].sum()), inputs["input_ids"].numel()))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "compute_loss", record)
    return found


def files_in(directory: Path) -> dict[str, tuple[int, int]]:
    """The size and the time of each file below a directory, except locks: some filelocks write them again."""
    paths = (path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


def steps_of(output: Path) -> int:
    return json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]


@pytest.mark.parametrize(
    "more",
    slow_after(
        2,
        [
            "",
            "--tokens_per_pass 128 --per_device_train_batch_size 12 --num_train_epochs 1.5 --dataloader_num_workers 1",
            "--pack_sequences --max_seq_length 64 --per_device_train_batch_size 2 --gradient_accumulation_steps 2",
            "--length_schedule 32:0.5,64:0.5 --pack_sequences --long_lines split --per_device_train_batch_size 2",
            "--train_sampling_strategy random --dataloader_drop_last --per_device_train_batch_size 7",
            "--tokens_per_pass 0 --max_steps 7",
            "--no_line_by_line --max_seq_length 32",
            "--attn_implementation varlen --dropout 0",
            "--pad_to_max_length --max_seq_length 64",
        ],
    ),
)
def test_steps_tokens_and_padding_are_those_of_the_run(flags, tmp_path, computed, more):
    children = psutil.Process().children()
    plan = run_mlm_wwm.main([*flags, *more.split(), "--dry_run"])
    assert not (tmp_path / "out").exists() and set(psutil.Process().children()) <= {*children}
    computed.clear()
    run_mlm_wwm.main([*flags, *more.split()])
    tokens, positions = (sum(column) for column in zip(*computed, strict=True))
    assert plan["steps"] == steps_of(tmp_path / "out")
    assert plan["tokens"] == tokens and plan["padding"] == pytest.approx(1 - tokens / positions, abs=1e-12)
    assert 0 < plan["seconds"] < 600 and 50 * MEGABYTE < plan["peak_memory"] < 1.1 * peak_memory()


def test_an_epoch_is_ordered_once_for_all_steps_that_are_timed(flags, monkeypatch):
    """It was ordered again for each step, which took minutes for millions of lines."""
    remaining, calls = Stage.remaining, []

    def counted(*args, **kwargs):
        calls.append(args[1])
        return remaining(*args, **kwargs)

    monkeypatch.setattr(Stage, "remaining", counted)
    plan = run_mlm_wwm.main([*flags, "--num_train_epochs", "2", "--dry_run"])
    assert plan["steps"] >= 8 and len(calls) <= 8, calls


@pytest.mark.slow
def test_a_long_training_is_counted_in_parts(flags, computed, monkeypatch, capsys):
    exact = run_mlm_wwm.main([*flags, "--num_train_epochs", "12", "--dry_run"])
    monkeypatch.setattr(forecast, "EXACT", 20)
    about = run_mlm_wwm.main([*flags, "--num_train_epochs", "12", "--dry_run"])
    assert about["steps"] == exact["steps"] == 60 and about["tokens"] != exact["tokens"]
    assert about["tokens"] == pytest.approx(exact["tokens"], rel=0.2)
    assert re.search(r"^tokens: about [\d.]+ k to train on", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("limit", [["--save_total_limit", "2"], ["--save_only_model"]])
def test_the_room_on_the_disk_is_that_of_the_run(flags, english_file, tmp_path, limit):
    more = ["--validation_file", english_file, "--save_strategy", "steps", "--save_steps", "3", *limit]
    plan = run_mlm_wwm.main([*flags, *more, "--dry_run"])
    run_mlm_wwm.main([*flags, *more])
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == (2 if "2" in limit else 4)
    used = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert plan["final_bytes"] == pytest.approx(used, rel=0.05)


def test_only_the_tokens_are_kept_and_the_run_takes_them(flags, tmp_path):
    run_mlm_wwm.main([*flags, "--dry_run"])
    tokens = files_in(tmp_path / "cache")
    assert tokens and not (tmp_path / "out").exists()
    run_mlm_wwm.main(flags)
    assert files_in(tmp_path / "cache") == tokens


def test_the_run_after_it_is_that_without_it(flags, tmp_path):
    losses = []
    for before in (False, True):
        if before:
            run_mlm_wwm.main([*flags, "--overwrite_output_dir", "--dry_run"])
        losses.append(run_mlm_wwm.main([*flags, "--overwrite_output_dir"])["train_loss"])
    assert losses[0] == losses[1]


def test_the_plan_of_a_resume_is_what_is_left(flags, tmp_path, computed, capsys):
    saving = [*flags, "--save_strategy", "steps", "--save_steps", "4"]
    run_mlm_wwm.main([*saving, "--num_train_epochs", "1"])  # five steps
    before = files_in(tmp_path / "out")
    plan = run_mlm_wwm.main([*saving, "--dry_run"])
    assert plan["steps"] == 5 and files_in(tmp_path / "out") == before
    shown = capsys.readouterr().err
    assert f"would go on from {tmp_path / 'out' / 'checkpoint-5'}" in shown and "5 of them done" in shown
    computed.clear()
    run_mlm_wwm.main(saving)
    assert plan["tokens"] == sum(tokens for tokens, _ in computed)
    finished = run_mlm_wwm.main([*saving, "--dry_run"])
    assert "steps" not in finished and "steps: 10, all of them done" in capsys.readouterr().err


def test_a_stream_says_what_it_cannot_know(flags, capsys, tmp_path):
    plan = run_mlm_wwm.main([*flags, "--streaming", "--max_steps", "6", "--dry_run"])
    assert plan["steps"] == 6 and "tokens" not in plan and plan["seconds"] > 0
    assert "tokens: unknown, and so are padding and epochs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_evaluation_alone(flags, english_file, capsys, tmp_path):
    plan = run_mlm_wwm.main([*flags, "--do_eval", "--validation_file", english_file, "--dry_run"])
    assert "steps" not in plan and plan["seconds"] > 0 and not (tmp_path / "out").exists()
    assert re.search(r"^time: about .*: 1 evaluation of [\d.]+ s$", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize("script", slow_after(1, [run_mlm_wwm, run_mlm]))
def test_a_model_from_scratch_and_prepared_text(script, english_model, english_file, tmp_path):
    scratch = ["--model_type", "bert", "--train_file", english_file, "--max_steps", "3", "--report_to", "none"]
    scratch += ["--config_overrides", "hidden_size=16,num_hidden_layers=1,num_attention_heads=2"]
    scratch += ["--output_dir", str(tmp_path / "out"), "--dry_run"]
    assert script.main([*scratch, "--vocab_size", "200"])["steps"] == 3
    more = ["--tokenizer_name", english_model, "--prepared_dir", str(tmp_path / "p")]
    more += ["--validation_split_percentage", "0"]
    script.main(["--model_type", "bert", "--train_file", english_file, *more, "--prepare_only"])
    before = files_in(tmp_path / "p")
    assert script.main([*scratch, *more])["steps"] == 3
    assert files_in(tmp_path / "p") == before and not (tmp_path / "out").exists()


def test_the_short_form_names_its_directory(english_model, english_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = [english_model, english_file, english_file, "--max_steps", "20", "--report_to", "none"]
    plan = run_mlm_wwm.main([*argv, "--dry_run"])
    assert plan["steps"] == 20 and not (tmp_path / "output").exists()
    shown = capsys.readouterr().err
    assert re.search(r"^output: output/english0-english-\d{8}-\d{4}$", shown, re.MULTILINE), shown
    assert "to resume" not in shown and "10 checkpoints of " in shown  # every tenth of the steps


def test_each_fact_is_one_plain_line(flags, english_file, capsys):
    more = ["--validation_file", english_file, "--eval_strategy", "epoch", "--save_strategy", "epoch", "--log_format"]
    run_mlm_wwm.main([*flags, *more, "plain", "--dry_run"])
    shown = capsys.readouterr()
    assert shown.out == "" and not re.search(r"[\x00-\x09\x0b-\x1f\x7f]|\{'", shown.err)
    lines = [line for line in shown.err.splitlines() if not line.endswith(" ...")]
    labels = [line.partition(": ")[0] for line in lines if not line.startswith("--")]  # the text, and advice on it
    header = ["model", "text", "masking", "device", "steps", "output"]
    facts = ["tokens", "padding", "disk", "time", "memory", "flags", "dry run"]
    assert labels == [*header, *facts]
    # One before training and one after each of two epochs: the last one is also that at the end.
    assert "10 steps of " in shown.err and "3 evaluations of " in shown.err and "2 checkpoints of " in shown.err
    assert "--optim adamw_torch_fused" in shown.err and "--train_sampling_strategy group_by_length" in shown.err


# What is short


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory) -> str:
    """A model that takes about 13 MB for each sequence of 64 tokens."""
    path = tmp_path_factory.mktemp("wide")
    return save_model(path, sample_tokenizer("bert"), intermediate_size=16384)


@pytest.fixture
def wide(wide_model, tmp_path) -> list[str]:
    """A step of 64 lines of it."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(sample_lines("english", 64)), encoding="utf-8")
    return [
        *("--model_name_or_path", wide_model, "--train_file", str(text), "--validation_split_percentage", "0"),
        *("--per_device_train_batch_size", "64", "--max_seq_length", "64", "--max_steps", "2", "--report_to", "none"),
        *("--output_dir", str(tmp_path / "out"), "--dry_run"),
    ]


# In a process of its own: after an allocation has failed, oneDNN does not work again in the same process.
WITH_ROOM = """
import json, sys
import wordmask.training.memory_errors as memory_errors
memory_errors.available_memory = lambda: {room}  # a limit of the system, so that the allocator really fails
import run_mlm_wwm
print(json.dumps(run_mlm_wwm.main(sys.argv[1:])))
"""


def dry_run(room: int, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """A dry run in a process that may take so many more megabytes."""
    program = WITH_ROOM.format(room=room * MEGABYTE)
    return subprocess.run([sys.executable, "-c", program, *argv], cwd=ROOT, capture_output=True, text=True)


def mistake(ended: subprocess.CompletedProcess[str]) -> str:
    """The sentence with which a process refused its command line."""
    *_, last = ended.stderr.splitlines()
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    return last.removeprefix("error: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "flag", "most"),
    [(["--tokens_per_pass", "0"], "--per_device_train_batch_size", 64), (["--tokens_per_pass", "4096"], "", 4096)],
)
def test_too_little_memory_names_what_fits(wide, tmp_path, limit, flag, most):
    said = mistake(dry_run(310, [*wide, *limit]))
    flag, number = flag or "--tokens_per_pass", r"(\d+)"
    more = r" --gradient_accumulation_steps (\d+)" if most == 64 else ""
    pattern = (
        rf"{flag} {most}: the largest step does not fit into the [\d.]+ [kMG]B of memory that are free; {number} "
    )
    found = re.fullmatch(rf"{pattern}fits, so give ({flag} {number}{more}), which trains the same", said)
    assert found and int(found[1]) < most, said
    if most == 64:
        assert int(found[1]) * int(found[4]) == most
    # The steps that are timed take more than the largest step alone, by chance up to twice as much: the more of them
    # fit into their time, the more memory is in pieces. Without the advice, this room is not enough either.
    assert "the largest step does not fit into the 800 MB" in mistake(dry_run(800, [*wide, *limit]))
    ended = dry_run(800, [*wide, *limit, *found[2].split()])
    assert ended.returncode == 0 and json.loads(ended.stdout)["steps"] == 2, ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_automatic_batches_are_made_smaller(wide):
    ended = dry_run(600, [*wide, "--tokens_per_pass", "0", "--auto_find_batch_size"])
    assert ended.returncode == 0 and json.loads(ended.stdout)["steps"] == 2, ended.stderr
    size = re.search(r"^steps: .* each of (\d+) sequences", ended.stderr, re.MULTILINE)
    assert size and 1 <= int(size[1]) < 64


def test_a_search_for_a_batch_size_goes_on_without_onednn(flags, monkeypatch):
    """After a failed allocation, oneDNN fails for each smaller batch, too, so the search found none."""
    tried, time_steps = [], Rehearsal.time_steps

    def failing(self, steps):
        tried.append(self.trainer._train_batch_size)
        if torch._C._get_mkldnn_enabled():
            raise RuntimeError("could not create a primitive")
        return time_steps(self, steps)

    monkeypatch.setattr(Rehearsal, "time_steps", failing)
    more = "--dry_run --tokens_per_pass 0 --auto_find_batch_size --per_device_train_batch_size 6"
    with torch.backends.mkldnn.flags(True, allow_tf32=None):
        run_mlm_wwm.main([*flags, *more.split()])
    assert tried == [6, 5]


@pytest.mark.parametrize(
    "more, advice",
    [
        ("", "2 fits, so give --per_device_train_batch_size 2 --gradient_accumulation_steps 4"),
        ("--tokens_per_step 200 --gradient_accumulation_steps 2", "give --gradient_accumulation_steps 4"),
    ],
)
def test_a_gpu_without_memory_names_what_fits(flags, capsys, monkeypatch, more, advice):
    forward = MlmTrainer.compute_loss

    def of_a_small_gpu(self, model, inputs, *args, **kwargs):
        if len(inputs["input_ids"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(MlmTrainer, "compute_loss", of_a_small_gpu)
    said = refusal(capsys, run_mlm_wwm.main, *flags, "--tokens_per_pass", "0", "--dry_run", *more.split())
    assert said.endswith(f"{advice}, which trains the same")


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit(wide, tmp_path):
    more = ["--do_eval", "--validation_file", str(tmp_path / "text.txt"), "--per_device_eval_batch_size", "512"]
    (tmp_path / "text.txt").write_text("\n".join(sample_lines("english", 64) * 8), encoding="utf-8")
    assert re.fullmatch(
        r"--per_device_eval_batch_size 512: the largest batch does not fit into the .* free; (\d+) fits, so give that",
        mistake(dry_run(310, [*wide, *more])),
    )


@pytest.mark.slow
def test_a_model_larger_than_the_memory_is_one_sentence(english_model, english_file, tmp_path):
    # A process of its own, with a limit as `ulimit -v` sets it.
    program = (
        "import resource, sys, torch, transformers, run_mlm, wordmask.training.run, psutil; "
        "room = psutil.Process().memory_info().vms + 400 * 10**6; "
        "resource.setrlimit(resource.RLIMIT_AS, (room, room)); run_mlm.main(sys.argv[1:])"
    )
    overrides = "hidden_size=2048,num_hidden_layers=4,num_attention_heads=8,intermediate_size=8192"
    command = [sys.executable, "-c", program, "--model_type", "bert", "--tokenizer_name", english_model]
    command += ["--config_overrides", overrides, "--train_file", english_file, "--dry_run", "--report_to", "none"]
    ended = subprocess.run([*command, "--output_dir", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    sentence = r"--config_overrides: .* do not fit into the \d+ MB of memory that are free; .*"
    assert re.fullmatch(sentence, mistake(ended))


def test_too_little_room_on_the_disk(flags, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    more = ["--save_strategy", "steps", "--save_steps", "1", "--dry_run"]
    said = refusal(capsys, run_mlm_wwm.main, *flags, *more)
    assert re.fullmatch(
        r"--output_dir: 10 checkpoints of \d+ kB and the model need [\d.]+ MB there, and 1.0 MB are free; give "
        r"--save_total_limit 1, --save_only_model, --save_strategy no, or another directory",
        said,
    )
    assert run_mlm_wwm.main([*flags, *more, "--save_total_limit", "1"])["steps"] == 10


def test_a_step_that_is_not_finite(flags, english_model, capsys, tmp_path):
    said = refusal(capsys, run_mlm_wwm.main, *flags, "--learning_rate", "1e30", "--dry_run")
    assert re.fullmatch(
        r"--learning_rate 1e\+30: loss or gradient is (nan|inf) after \d+ steps?; give a smaller .*", said
    )
    broken = AutoModelForMaskedLM.from_pretrained(english_model)
    torch.nn.init.constant_(broken.bert.embeddings.word_embeddings.weight, float("nan"))
    path = tmp_path / "broken"
    save_model(path, sample_tokenizer("bert"))
    broken.save_pretrained(path)
    said = refusal(capsys, run_mlm_wwm.main, *flags, "--model_name_or_path", str(path), "--dry_run")
    assert said == f"--model_name_or_path: {path} has a loss or a gradient of nan at once; give another model"


def test_control_groups_limit_memory(tmp_path):
    stat = "anon 5\ninactive_file 20\n"
    for path, limit in (("", None), ("a", "1000"), ("a/b", "max")):
        (tmp_path / path).mkdir(exist_ok=True)
        files = {"memory.max": limit, "memory.current": "300", "memory.stat": stat}
        for name, content in files.items() if limit else ():
            (tmp_path / path / name).write_text(content)
    (tmp_path / "of_process").write_text("0::/a/b\n")
    assert list(_rooms_of_groups(tmp_path / "of_process", tmp_path)) == [720]
    older = tmp_path / "memory" / "c"
    older.mkdir(parents=True)
    for name, content in {"limit_in_bytes": "500", "usage_in_bytes": "100", "stat": "total_inactive_file 7"}.items():
        (older / f"memory.{name}").write_text(content)
    (tmp_path / "of_process").write_text("4:memory:/c\n1:cpu:/\n")
    assert list(_rooms_of_groups(tmp_path / "of_process", tmp_path)) == [407]


def test_allocations_beyond_a_limit_fail_and_then_succeed():
    with limited_memory(300 * MEGABYTE):
        assert available_memory() <= 300 * MEGABYTE
        with pytest.raises(RuntimeError, match="can't allocate memory"):  # of torch alone: it works again at once
            torch.empty(2_000 * MEGABYTE, dtype=torch.uint8)
    assert len(torch.empty(2_000 * MEGABYTE, dtype=torch.uint8))


@pytest.mark.slow
def test_two_processes_show_one_plan(flags, tmp_path, computed):
    alone = run_mlm_wwm.main([*flags, "--dry_run"])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", free_port()]
    more = ["--per_device_train_batch_size", "4", "--use_cpu", "--dry_run"]
    ended = subprocess.run([*launch, "run_mlm_wwm.py", *flags, *more], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall(r"^tokens: .* to train on", ended.stderr, re.MULTILINE)) == 1
    assert f"tokens: {alone['tokens'] / 1000:.2f} k" in ended.stderr and "steps: 10 in 2 epochs" in ended.stderr
    assert not (tmp_path / "out").exists()
