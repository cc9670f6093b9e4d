"""A user's mistake gets one line that names the flag, before anything is trained, and nothing is lost."""

from __future__ import annotations

import gzip
import lzma
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from transformers import AutoTokenizer, EsmTokenizer, PreTrainedTokenizerFast, TrainingArguments, Wav2Vec2CTCTokenizer

import run_mlm
import run_mlm_wwm
from conftest import character_tokenizer, refusal, sample_lines, sample_tokenizer, save_model
from wordmask.config.run_arguments import RunArguments
from wordmask.references.provenance import Provenance, TextDigest, write_provenance
from wordmask.tokenization.backend import tokenizer_digest
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


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("flag", ["train_file", "validation_file", "train_ref_file", "validation_ref_file"])
@pytest.mark.parametrize("name", ["missing.txt", "missing*.txt", "missing/text.txt"])
def test_a_missing_file(refuse, text, flag, name, script):
    others = {"validation_file": text} if flag == "validation_ref_file" else {}
    sentence = refuse("--masking_strategy", "whole_word", **others, **{flag: name}, script=script)
    assert holds(sentence, f"--{flag}", name, "does not exist")


@pytest.mark.parametrize("flag", ["train_file", "validation_file"])
def test_a_directory_for_a_file(refuse, tmp_path, flag):
    (tmp_path / "text.txt").mkdir()
    assert holds(refuse(**{flag: str(tmp_path / "text.txt")}), f"--{flag}", "text.txt", "directory")


def test_an_argument_file_that_is_missing(capsys):
    assert holds(refusal(capsys, run_mlm.main, "missing.yaml", "--seed", "1"), "missing.yaml", "does not exist")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("flag", ["train_file", "validation_file"])
@pytest.mark.parametrize("content", ["", "\n \n\t\r\n", "\ufeff"])
def test_a_file_without_text(refuse, tmp_path, content, flag, streaming):
    path = tmp_path / "empty.txt"
    path.write_text(content, encoding="utf-8")
    more = ["--streaming"] if streaming else []
    assert holds(refuse(*more, **{flag: str(path)}), f"--{flag}", "empty.txt", "no text in it")


@pytest.mark.parametrize(
    "name, content",
    [
        ("empty.csv", ""),
        ("empty.csv", "text\n"),
        ("empty.csv", 'text\n""\n""\n""\n'),
        ("empty.tsv", "text\tother\n"),
        ("empty.jsonl", ""),
        ("empty.json", "[]"),
        ("empty.jsonl", '{"text": ""}\n{"text": " "}\n{"text": ""}\n'),
        ("empty.jsonl", '{"text": null}\n{"text": null}\n'),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_table_without_text(refuse, tmp_path, name, content, streaming):
    path = tmp_path / name
    path.write_text(content)
    more = ["--streaming"] if streaming else []
    assert refuse(*more, train_file=str(path)).startswith(("--train_file", "--text_column_name"))


def test_a_parquet_file_without_rows(refuse, tmp_path):
    pyarrow.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    assert holds(refuse(train_file=str(tmp_path / "empty.parquet")), "--train_file", "empty.parquet")


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


def test_a_file_of_a_kind_that_is_not_known(refuse, tmp_path):
    (tmp_path / "text.docx").write_text("text")
    assert holds(refuse(train_file=str(tmp_path / "text.docx")), "--train_file", "text.docx", ".txt", ".parquet")


@pytest.mark.parametrize("content", ["[3]\n[2, 4]\n[2, 5]\n", "[3]\n[2, 4]\n[2]\n[]\n[]\n", ""])
def test_references_too_few_or_too_many(refuse, tmp_path, content):
    path = tmp_path / "ref.txt"
    path.write_text(content)
    sentence = refuse(train_ref_file=str(path))
    assert holds(sentence, "--train_ref_file", "ref.txt", f"{content.count('[')} references", "4 lines")


def test_references_of_the_validation_text_are_checked_too(refuse, text, tmp_path):
    path = tmp_path / "ref.txt"
    path.write_text("[3]\n")
    sentence = refuse(validation_file=text, validation_ref_file=str(path))
    assert holds(sentence, "--validation_ref_file", "1 references", "4 lines")


def test_as_many_reference_files_as_text_files(refuse, text, tmp_path):
    path = tmp_path / "ref.txt"
    path.write_text("[3]\n")
    assert holds(refuse("--train_ref_file", str(path), str(path)), "--train_ref_file", "2", "1")


@pytest.mark.parametrize(
    "line", ["喜欢", "3", "[3", "[3.5]", '["3"]', "[true]", "{}", "null", "[3] [4]", "[[3]]", "3, 4"]
)
@pytest.mark.parametrize("number", [1, 4])
def test_a_reference_that_is_no_list_of_integers(refuse, tmp_path, line, number):
    lines = [*REFERENCES[:3], "[]"]
    lines[number - 1] = line
    path = tmp_path / "ref.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sentence = refuse(train_ref_file=str(path))
    assert holds(sentence, "--train_ref_file", "ref.txt", f"line {number}", "JSON list of integers")


@pytest.mark.parametrize(
    "position, why",
    [
        (-1, "out of range"),
        (0, "special token"),  # [CLS]
        (1, "not joined"),  # the first character, with nothing before it
        (5, "special token"),  # [SEP]
        (6, "out of range"),
        (10**6, "out of range"),
        (2**31, "integers below 2147483648"),
        (10**30, "integers below 2147483648"),
    ],
)
def test_a_position_that_cannot_be(refuse, tmp_path, position, why):
    path = tmp_path / "ref.txt"
    path.write_text(f"[{position}]\n" + "\n".join([*REFERENCES[1:3], "[]"]) + "\n")
    assert holds(refuse(train_ref_file=str(path)), "--train_ref_file", str(position), "line 1", why)


@pytest.mark.parametrize(
    "line, position, why",
    [
        ("我 喜欢", 2, "not joined"),
        ("我\u3000喜欢", 2, "not joined"),
        ("喜欢 abc", 3, "not joined"),
        ("T恤很好看", 2, "not Chinese"),
        ("恤T很好看", 2, "not Chinese"),
        ("很好，看", 3, "not Chinese"),
        ("[MASK]很好", 1, "special token"),
        ("[MASK]很好", 2, "not joined"),
    ],
)
def test_a_position_that_joins_what_is_not_together(refuse, model, tmp_path, line, position, why):
    text, references, tokenizer = tmp_path / "text.txt", tmp_path / "ref.txt", AutoTokenizer.from_pretrained(model)
    text.write_text(f"我喜欢你\n\n{line}\n", encoding="utf-8")
    references.write_text(f"[3]\n\n[{position}]\n")
    digest = TextDigest()
    digest.add(["我喜欢你", "", line])
    write_provenance(references, Provenance(3, digest.hexdigest(), tokenizer_digest(tokenizer)))
    sentence = refuse(train_file=str(text), train_ref_file=str(references))
    assert holds(sentence, "--train_ref_file", f"position {position}", "line 3", why)


def test_references_without_their_text(refuse, text, tmp_path):
    path = tmp_path / "ref.txt"
    path.write_text("[3]\n")
    assert holds(refuse(validation_ref_file=str(path)), "--validation_ref_file", "--validation_file")


def test_a_tokenizer_without_a_mask_token(refuse, tmp_path):
    backend = sample_tokenizer("bert").backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path / "tokenizer")
    for script in SCRIPTS:
        sentence = refuse(tokenizer_name=str(tmp_path / "tokenizer"), script=script)
        assert holds(sentence, "--tokenizer_name", "tokenizer", "mask token")


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


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5", "15", "nan", "inf", "some", "0.1:2", "0.1:0.2:3", ""])
def test_a_rate_outside_of_0_to_1(refuse, value, script):
    assert holds(refuse(f"--mlm_probability={value}", script=script), "--mlm_probability", value)


CONTENT = {"csv": "number,text\n1,a b\n", "jsonl": '{"number": 1, "text": "a b"}\n', "txt": "a b\n"}


@pytest.mark.parametrize("kind", CONTENT)
def test_a_text_column_that_is_not_there(refuse, tmp_path, kind):
    path = tmp_path / f"text.{kind}"
    path.write_text(CONTENT[kind] * 3)
    sentence = refuse(train_file=str(path), text_column_name="content")
    assert holds(sentence, "--text_column_name", "content")


def test_a_text_column_that_holds_no_text(refuse, tmp_path):
    (tmp_path / "text.jsonl").write_text('{"number": 1, "text": "a b"}\n')
    sentence = refuse(train_file=str(tmp_path / "text.jsonl"), text_column_name="number")
    assert holds(sentence, "--text_column_name", "number")


@pytest.mark.parametrize("more", [[], ["--do_train"], ["--do_eval"]])
def test_an_output_directory_of_others(capsys, model, text, tmp_path, more):
    directory = tmp_path / "others"
    directory.mkdir()
    (directory / "thesis.docx").write_text("years of work")
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(directory), "--use_cpu"]
    assert holds(refusal(capsys, run_mlm_wwm.main, *argv, *more), "--output_dir", str(directory), "thesis.docx")
    assert [path.name for path in directory.iterdir()] == ["thesis.docx"]


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


def test_an_output_directory_that_is_a_file(capsys, model, text, tmp_path):
    (tmp_path / "out").write_text("mine")
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert holds(refusal(capsys, run_mlm_wwm.main, *argv), "--output_dir", "out")
    assert (tmp_path / "out").read_text() == "mine"


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


@pytest.mark.parametrize("flag", ["train_file", "validation_file", "train_ref_file"])
def test_bytes_that_are_not_utf8(refuse, tmp_path, flag):
    path = tmp_path / "legacy.txt"
    path.write_bytes("我喜欢你\n".encode() + "今天天气很好\n".encode("gb18030"))
    assert holds(refuse(**{flag: str(path)}), f"--{flag}", "legacy.txt", "line 2", "UTF-8")


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_bytes_of_a_table_that_are_not_utf8(refuse, tmp_path, kind, caplog):
    path = tmp_path / f"legacy.{kind}"
    lines = ['{"text": "今天天气很好"}\n'] if kind == "jsonl" else ["text\n", "今天天气很好\n"]
    path.write_bytes("".join([*lines, lines[-1] * 5]).encode("gb18030"))
    assert holds(refuse(train_file=str(path)), "--train_file", path.name)
    assert caplog.messages == [], "what is logged is a second line on stderr"


@pytest.mark.parametrize(
    "flag, others",
    [
        ("model_name_or_path", {}),
        ("tokenizer_name", {}),
        ("config_name", {}),
        ("dataset_name", {"train_file": None}),
    ],
)
def test_the_hub_out_of_reach(refuse, flag, others):
    assert holds(refuse(**others, **{flag: "nobody/nothing-of-this-name"}), f"--{flag}", "nobody/nothing-of-this-name")


def test_a_directory_without_a_model(refuse, tmp_path):
    (tmp_path / "empty").mkdir()
    assert holds(refuse(model_name_or_path=str(tmp_path / "empty")), "--model_name_or_path", "empty")


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--max_seq_length", "2"], ["--max_seq_length", "2"]),
        (["--max_seq_length", "71"], ["--max_seq_length", "71", "70"]),  # the model has 70 positions
        (["--max_seq_length", "-5"], ["--max_seq_length", "-5"]),
        (["--max_train_samples", "0"], ["--max_train_samples", "0"]),
        (["--validation_split_percentage", "100"], ["--validation_split_percentage", "100"]),
        (["--validation_split_percentage", "-1"], ["--validation_split_percentage", "-1"]),
        (["--mask_replace_prob", "0.8", "--random_replace_prob", "0.3"], ["--mask_replace_prob", "0.8", "0.3"]),
        (["--resume_from_checkpoint", "nowhere"], ["--resume_from_checkpoint", "nowhere"]),
        (["--do_eval", "--validation_split_percentage", "0"], ["--do_eval", "--validation_file"]),
        (["--learning_rat", "1"], ["--learning_rat", "learning_rate"]),
        (["--per_device_train_batch_size", "0"], ["--per_device_train_batch_size", "0"]),
        (["--per_device_eval_batch_size", "-2"], ["--per_device_eval_batch_size", "-2"]),
        (["--dataloader_num_workers", "-1"], ["--dataloader_num_workers"]),
        (["--save_strategy", "best"], ["--save_strategy", "--metric_for_best_model"]),
        (["--gradient_accumulation_steps", "0"], ["--gradient_accumulation_steps", "0"]),
        (["--report_to", "a_tracker_that_is_not"], ["--report_to", "a_tracker_that_is_not"]),
        (["--deepspeed", "missing.json"], ["--deepspeed"]),
        (["--dataset_name", "some/dataset"], ["--dataset_name", "--train_file"]),
    ],
)
def test_a_value_that_cannot_be(refuse, argv, words):
    assert holds(refuse(*argv), *words)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"model_name_or_path": None}, ["--model_name_or_path"]),
        ({"train_file": None}, ["--train_file"]),
        ({"model_name_or_path": None, "model_type": "brt", "vocab_size": "300"}, ["--model_type", "brt", "bert"]),
        ({"model_name_or_path": None, "model_type": "gpt2", "vocab_size": "300"}, ["--model_type", "gpt2"]),
        ({"model_name_or_path": None, "model_type": "bert"}, ["--tokenizer_name", "--vocab_size"]),
        (
            {"model_name_or_path": None, "model_type": "bert", "vocab_size": "90", "config_overrides": "hiden_size=8"},
            ["--config_overrides", "hiden_size"],
        ),
        (
            {"model_name_or_path": None, "model_type": "bert", "vocab_size": "90", "config_overrides": "hidden_size"},
            ["--config_overrides", "hidden_size"],
        ),
    ],
)
def test_a_model_that_cannot_be(refuse, values, words):
    assert holds(refuse(**values), *words)


def test_streaming_without_an_end(capsys, model, text, tmp_path):
    argv = ["--model_name_or_path", model, "--train_file", text, "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    assert holds(refusal(capsys, run_mlm.main, *argv, "--streaming"), "--streaming", "--max_steps")


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


@pytest.mark.parametrize("flag, value", [("seed", 2**32), ("data_seed", 2**64)])
def test_a_seed_that_is_too_large(refuse, flag, value):
    assert holds(refuse(f"--{flag}", str(value)), f"--{flag}: {value} is not possible", f"to {value - 1}")
