"""A user's mistake gets one line that names the flag, before anything is trained, and nothing is lost."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from transformers import EsmTokenizer, TrainingArguments, Wav2Vec2CTCTokenizer

import run_mlm
import run_mlm_wwm
from conftest import character_tokenizer, refusal, sample_lines, save_model
from wordmask.config.run_arguments import RunArguments
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError

SCRIPTS = [run_mlm, run_mlm_wwm]
TEXT = "我喜欢你\n今天天气很好\n他们在图书馆看书\nT恤很好看\n"
REFERENCES = ["[3]", "[2, 4]", "[2, 5, 6]", "[4]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A tiny BERT that knows the characters of `TEXT`."""
    return save_model(tmp_path_factory.mktemp("model"), character_tokenizer([TEXT, "abcdefghijklmnopqrstuvwxyz"]))


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture
def refuse(capsys, tmp_path, model, text):
    """A function that gives the sentence with which a command line is refused, and sees that nothing was trained."""

    def check(*argv: str, script=run_mlm_wwm, **values: str | None) -> str:
        values = {"model_name_or_path": model, "train_file": text, "output_dir": str(tmp_path / "out"), **values}
        given = [word for name, value in values.items() if value is not None for word in (f"--{name}", value)]
        sentence = refusal(capsys, script.main, *given, *argv, "--use_cpu", "--max_steps", "1")
        written = {path.name for path in (tmp_path / "out").rglob("*")}
        assert not written & {"model.safetensors", "trainer_state.json", "train_results.json", "checkpoint-1"}
        return sentence

    return check


def holds(sentence: str, *words: str) -> bool:
    missing = [word for word in words if word not in sentence]
    assert missing == [], sentence
    return not missing


def test_the_command_line_that_is_broken_below_works(model, text, tmp_path):
    references = tmp_path / "ref.txt"
    references.write_text("\n".join(REFERENCES[:3]) + "\n[]\n")
    argv = ["--model_name_or_path", model, "--train_file", text, "--train_ref_file", str(references), "--use_cpu"]
    metrics = run_mlm_wwm.main([*argv, "--max_steps", "1", "--output_dir", str(tmp_path / "out")])
    assert metrics["train_samples"] == 3


@pytest.mark.parametrize("name", ["broken.parquet", "broken.jsonl", "broken.json", "broken.csv.gz", "broken.txt.zst"])
def test_a_file_that_is_not_what_its_name_says(refuse, tmp_path, name, caplog):
    (tmp_path / name).write_bytes(b"this is something else\n" * 3)
    assert holds(refuse(train_file=str(tmp_path / name)), "--train_file", name)
    assert caplog.messages == [], "what is logged is a second line on stderr"


@pytest.mark.parametrize(
    "name, content", [("text.txt", TEXT), ("text.jsonl", '{"text": "a b"}\n'), ("text.ref", "[]\n" * 4)]
)
@pytest.mark.parametrize(
    "suffix, compress",
    [(".gz", gzip.compress), (".xz", lzma.compress), (".zst", zstandard.ZstdCompressor().compress)],
    ids=[".gz", ".xz", ".zst"],
)
def test_a_compressed_file_that_was_cut_off(refuse, tmp_path, suffix, compress, name, content):
    """Cut in its only frame, or in its second one, after all of the first."""
    frame, path = compress(content.encode() * 100), tmp_path / (name + suffix)
    flag = "train_ref_file" if name == "text.ref" else "train_file"
    for whole in (b"", frame):
        path.write_bytes(whole + frame[: len(frame) // 2])
        assert holds(refuse(**{flag: str(path)}), f"--{flag}", path.name, "cannot be")


@pytest.fixture
def slow_model(tmp_path) -> str:
    """A tiny model whose tokenizer has no fast form."""
    pieces = ["<cls>", "<pad>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    assert not tokenizer.is_fast
    return save_model(tmp_path / "slow", tokenizer, mask_token_id=tokenizer.mask_token_id)


def test_a_slow_tokenizer_that_says_nothing_about_a_text(refuse, tmp_path):
    """Wav2Vec2's writes `|` for a space, and its tokens have no mark. Tokens can be masked all the same."""
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "a": 3, "b": 4, "<mask>": 5}')
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), mask_token="<mask>")
    model = save_model(tmp_path / "model", tokenizer, mask_token_id=tokenizer.mask_token_id)
    (tmp_path / "letters.txt").write_text("a b\nab\n" * 5)
    sentence = refuse(model_name_or_path=model, train_file=str(tmp_path / "letters.txt"))
    assert holds(sentence, "--tokenizer_name", "Wav2Vec2CTCTokenizer", "'a b'", "run_mlm.py")
    argv = ["--model_name_or_path", model, "--train_file", str(tmp_path / "letters.txt"), "--line_by_line"]
    run_mlm.main([*argv, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "trained")])


def test_a_slow_tokenizer_will_do_where_tokens_are_masked(slow_model, tmp_path):
    (tmp_path / "letters.txt").write_text("a b c d\nd c b a\n" * 5)
    argv = ["--model_name_or_path", slow_model, "--train_file", str(tmp_path / "letters.txt"), "--line_by_line"]
    metrics = run_mlm.main([*argv, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "trained")])
    assert metrics["eval_samples"] == 1 and metrics["train_samples"] == 9


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md", "training_args.bin"])
def test_overwriting_takes_no_directory_of_others(capsys, model, text, tmp_path, name):
    directory = tmp_path / "others"
    directory.mkdir()
    (directory / name).write_text("years of work")
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(directory), "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--max_steps", "1", "--overwrite_output_dir")
    assert holds(sentence, "--output_dir", str(directory))
    assert (directory / name).read_text() == "years of work"
    assert len(list(directory.iterdir())) == 1


def test_logs_and_trackers_are_left_aside(model, text, tmp_path):
    directory = tmp_path / "out"
    for name in ("runs/Nov01_host/events.out.tfevents.1", "wandb/run-1/files.yaml", "train.log", "logs/a.log"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("kept")
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(directory), "--use_cpu"]
    run_mlm_wwm.main([*argv, "--max_steps", "1", "--do_train"])
    assert (directory / "model.safetensors").exists()
    kept = [path for path in directory.rglob("*") if path.is_file() and path.read_bytes() == b"kept"]
    assert len(kept) == 4


def test_several_gpus_under_plain_python(refuse, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    for script in SCRIPTS:
        assert holds(refuse(script=script), "torchrun", "2")


def test_a_preview_needs_no_gpu_so_several_are_no_mistake(monkeypatch, model, text, tmp_path, capsys):
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    run_mlm_wwm.main([*argv, "--preview_masking", "1"])
    assert "[" in capsys.readouterr().out


def test_several_gpus_in_a_program_of_ones_own(monkeypatch, tmp_path):
    """`DataParallel` must not start silently: its loss is another one."""
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    arguments = RunArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(InputError, match="^4 GPUs under plain python; start with torchrun --nproc_per_node 4 "):
        MlmTrainer(None, arguments)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_bytes_of_a_table_that_are_not_utf8(refuse, tmp_path, kind, caplog):
    path = tmp_path / f"legacy.{kind}"
    lines = ['{"text": "今天天气很好"}\n'] if kind == "jsonl" else ["text\n", "今天天气很好\n"]
    path.write_bytes("".join([*lines, lines[-1] * 5]).encode("gb18030"))
    assert holds(refuse(train_file=str(path)), "--train_file", path.name)
    assert caplog.messages == [], "what is logged is a second line on stderr"


def test_an_internal_bug_keeps_its_traceback(model, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr("wordmask.training.inputs.tokens_of", broken)
    path = tmp_path / "text.txt"
    path.write_text("\n".join(sample_lines("english", 5)), encoding="utf-8")
    argv = ["--model_name_or_path", model, "--train_file", str(path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(RuntimeError, match="a bug"):
        run_mlm.main([*argv, "--use_cpu"])


@pytest.mark.slow
def test_a_process_ends_with_one_line_and_a_status_of_its_own(model, tmp_path):
    """What the tests above see in process, for once as a user sees it."""
    (tmp_path / "legacy.txt").write_bytes("今天天气很好\n".encode("gb18030"))
    argv = ["--model_name_or_path", model, "--train_file", "legacy.txt", "--output_dir", "out", "--use_cpu"]
    script = Path(run_mlm_wwm.__file__).resolve()
    done = subprocess.run([sys.executable, script, *argv], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    *steps, last = done.stderr.splitlines()
    assert last.startswith("error: --train_file: legacy.txt, line 1") and all(step.endswith(" ...") for step in steps)
    assert done.stdout == ""
