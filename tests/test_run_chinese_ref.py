"""run_chinese_ref.py as a user runs it, and its files in training."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import BertTokenizer

import run_chinese_ref
import run_mlm_wwm
from conftest import character_tokenizer, sample_lines, save_model, slow_after
from wordmask.__main__ import main as wordmask_command
from wordmask.references.provenance import TextDigest, write_provenance
from wordmask.references.reader import pair_tables
from wordmask.utils import progress
from wordmask.utils.progress import tracked_lines
from wordmask.utils.readers import TextReader

TEXT = "我喜欢你\n\n研究生命的起源，T恤 hello\r\n二〇〇八年\n"


@pytest.fixture
def tokenizer(tmp_path) -> str:
    path = tmp_path / "tokenizer"
    character_tokenizer([TEXT, *sample_lines("chinese")]).save_pretrained(path)
    return str(path)


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return str(path)


def make(text: str, tokenizer: str, save: Path, *flags: str):
    return run_chinese_ref.main(
        ["--file_name", text, "--bert", tokenizer, "--save_path", str(save), "--segmenter", "jieba", *flags]
    )


def refused(capsys, *arguments: str) -> str:
    """The one line on stderr of a command that is refused."""
    with pytest.raises(SystemExit) as stop:
        run_chinese_ref.main(list(arguments))
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_classic_format_and_blank_lines_in_step(text, tokenizer, tmp_path):
    provenance = make(text, tokenizer, tmp_path / "ref")
    lines = (tmp_path / "ref").read_text().split("\n")
    assert lines[0] == "[3]" and lines[1] == "" and json.loads(lines[2])[0] == 2 and lines[-1] == ""
    assert len(lines) == 5 and provenance.lines == 4


def test_a_text_in_a_language_that_the_segmenter_is_not_made_for_is_told(tokenizer, tmp_path, caplog):
    text = tmp_path / "thai.txt"
    text.write_text("ฉันชอบกินข้าวผัด\n研究生命\n", encoding="utf-8")
    make(str(text), tokenizer, tmp_path / "ref")
    (said,) = (message for message in caplog.messages if "is not made for" in message)
    assert said.startswith(
        "--file_name: 80% of the characters are Thai (16), and jieba is not made for them; give --se"
    )
    caplog.clear()
    make(str(text), tokenizer, tmp_path / "other", "--segmenter", "whitespace")
    assert not [message for message in caplog.messages if "is not made for" in message]


def test_mixed_words_join_only_when_asked_for(tokenizer, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("买 T恤 去\n")
    with_mixed, without = tmp_path / "with", tmp_path / "without"
    make(str(text), tokenizer, without, "--segmenter", "whitespace")
    make(str(text), tokenizer, with_mixed, "--segmenter", "whitespace", "--mixed_words")
    assert without.read_text() == "[]\n" and with_mixed.read_text() == "[3]\n"
    model = save_model(tmp_path / "model", character_tokenizer(["买T恤去"]))
    make(str(text), model, with_mixed, "--segmenter", "whitespace", "--mixed_words", "--overwrite")
    run_mlm_wwm.main(
        ["--model_name_or_path", model, "--train_file", str(text), "--train_ref_file", str(with_mixed), "--use_cpu"]
        + ["--output_dir", str(tmp_path / "out"), "--max_steps", "1", "--do_train"]
    )


JAPANESE = "価格に見合う\n\n食べることが好きです。\nTシャツを買う\n"


@pytest.fixture
def japanese(tmp_path) -> list[str]:
    """The flags of a Japanese text and its tokenizer."""
    pytest.importorskip("sudachipy")
    (tmp_path / "japanese.txt").write_text(JAPANESE, encoding="utf-8")
    character_tokenizer([JAPANESE]).save_pretrained(tmp_path / "characters")
    return ["--file_name", str(tmp_path / "japanese.txt"), "--bert", str(tmp_path / "characters")]


@pytest.mark.slow
def test_segmenters_of_other_languages_work_in_workers_and_after_an_interruption(japanese, tmp_path):
    flags = [*japanese, "--segmenter", "sudachi", "--segmenter_options", "mode=A", "--part_lines", "2"]
    one, other = tmp_path / "one", tmp_path / "other"
    provenance = run_chinese_ref.main([*flags, "--save_path", str(one)])
    assert provenance.segmenter["mode"] == "A" and provenance.lines == 4
    run_chinese_ref.main([*flags, "--save_path", str(other), "--num_shards", "2", "--shard_index", "1"])
    assert not other.exists() and [*tmp_path.glob("other.parts/*.part")]
    run_chinese_ref.main([*flags, "--save_path", str(other), "--num_workers", "2", "--resume"])
    for suffix in ("", ".meta.json"):
        assert Path(f"{one}{suffix}").read_bytes() == Path(f"{other}{suffix}").read_bytes()


def test_options_of_a_segmenter_come_from_a_file_too(japanese, tmp_path):
    made = []
    for options in ("mode=A,dictionary=small", "{mode: A, dictionary: small}", "mode=B"):
        (tmp_path / "flags.yaml").write_text(f"segmenter: sudachi\nsegmenter_options: {options}\n")
        save = tmp_path / f"ref{len(made)}"
        made.append(run_chinese_ref.main([str(tmp_path / "flags.yaml"), *japanese, "--save_path", str(save)]))
    assert made[0] == made[1] and made[0].segmenter["mode"] == "A" and made[2].segmenter["mode"] == "B"


def test_help_says_that_it_serves_every_language(capsys):
    with pytest.raises(SystemExit):
        run_chinese_ref.main(["--help"])
    assert "any other language" in " ".join(capsys.readouterr().out.split())
    wordmask_command(["--help"])
    assert re.search(r"wordmask ref .* in any language .*run_chinese_ref.py", capsys.readouterr().out)


@pytest.mark.slow
def test_compressed_text_gives_the_same_references(text, tokenizer, tmp_path):
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(Path(text).read_bytes()))
    assert make(text, tokenizer, tmp_path / "one") == make(str(packed), tokenizer, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_end_of_compressed_text_is_foretold(tmp_path, monkeypatch):
    packed, shown = tmp_path / "text.txt.gz", []
    packed.write_bytes(gzip.compress(TEXT.encode()))

    @contextlib.contextmanager
    def bar(description):
        yield lambda count, completed, total: shown.append((count, completed, total))

    monkeypatch.setattr("wordmask.utils.progress.bar", bar)
    assert len(list(tracked_lines(TextReader([packed], "--file_name"), "Reading", every=1))) == 4
    size = packed.stat().st_size
    counts, completed, totals = zip(*shown, strict=True)
    assert counts == (1, 2, 3, 4, 4) and completed[-1] == size and {*totals} == {size}


def test_a_log_file_says_how_far_the_work_is(text, tokenizer, tmp_path, monkeypatch, capsys):
    """At once what is loaded, and after ten seconds a line, which then comes less and less often."""
    now = iter(range(0, 10_000, 6))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(progress.tracked_lines, "__defaults__", (1,))
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 10)
    make(str(long), tokenizer, tmp_path / "ref")
    said = capsys.readouterr().err.split("\n")
    assert said[0] == "loading the segmenter ..."
    shown = [re.match(r"segmenting: ([\d,]+) lines, .* left, .* lines/s$", line) for line in said]
    counts = [int(line[1]) for line in shown if line]
    assert 3 <= len(counts) < 10 and np.diff(np.diff(counts)).min() >= 0


def test_existing_output_is_kept_without_overwrite(text, tokenizer, tmp_path, capsys):
    save = tmp_path / "ref"
    save.write_text("precious")
    line = refused(capsys, "--file_name", text, "--bert", tokenizer, "--save_path", str(save), "--segmenter", "jieba")
    assert "--save_path" in line and "--overwrite" in line and save.read_text() == "precious"
    make(text, tokenizer, save, "--overwrite")
    assert save.read_text().startswith("[3]")


@pytest.mark.parametrize(
    "content, words", [(b"\n \n", ["no text"]), ("好\n".encode() + b"\xff\n", ["line 2", "UTF-8"])]
)
def test_unusable_text_leaves_no_file_behind(content, words, tokenizer, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "text.txt").write_bytes(content)
    line = refused(
        capsys,
        *("--file_name", str(folder / "text.txt"), "--bert", tokenizer, "--segmenter", "jieba"),
        *("--save_path", str(folder / "ref")),
    )
    assert "--file_name" in line and all(word in line for word in words)
    assert [path.name for path in folder.iterdir()] == ["text.txt"]


def test_tokenizer_trained_on_the_spot_serves_training_too(text, tmp_path):
    tokenizer = str(tmp_path / "made")
    make(text, tokenizer, tmp_path / "ref", "--vocab_size", "60")
    assert BertTokenizer.from_pretrained(tokenizer).model_max_length == 512
    model = ["--model_type", "bert", "--tokenizer_name", tokenizer, "--config_overrides"]
    small = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=32"
    metrics = run_mlm_wwm.main(
        [*model, small, "--train_file", text, "--train_ref_file", str(tmp_path / "ref"), "--max_steps", "1"]
        + ["--output_dir", str(tmp_path / "out"), "--use_cpu", "--validation_file", text]
        + ["--validation_ref_file", str(tmp_path / "ref")]
    )
    assert metrics["train_samples"] == 3 and metrics["eval_loss"] > 0


@pytest.mark.slow
def test_shards_that_start_together_train_no_tokenizer_each(text, tmp_path, capsys):
    made, flags = tmp_path / "made", ["--vocab_size", "60", "--num_shards", "2"]
    paths = ["--file_name", text, "--bert", str(made), "--save_path", str(tmp_path / "ref"), "--segmenter", "jieba"]
    line = refused(capsys, *paths, *flags)
    assert "--vocab_size" in line and str(made) in line and "--num_shards" in line
    assert not made.exists() and not (tmp_path / "ref.parts").exists()
    make(text, str(made), tmp_path / "first", "--vocab_size", "60")
    for shard in ("0", "1"):
        make(text, str(made), tmp_path / "ref", *flags, "--shard_index", shard)
    make(text, str(made), tmp_path / "ref", "--resume")
    assert (tmp_path / "ref").read_bytes() == (tmp_path / "first").read_bytes()


def test_a_tokenizer_is_saved_whole_or_not_at_all(text, tmp_path, monkeypatch):
    made, save = tmp_path / "made", BertTokenizer.save_pretrained

    def killed(tokenizer, directory):
        save(tokenizer, directory)
        assert not made.exists(), "a kill would leave half of it"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(BertTokenizer, "save_pretrained", killed)
        make(text, str(made), tmp_path / "ref", "--vocab_size", "60")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]
    make(text, str(made), tmp_path / "ref", "--vocab_size", "60")
    (tmp_path / "beside").mkdir()
    assert made.stat().st_mode == (tmp_path / "beside").stat().st_mode, "others may not read it"


def test_a_tokenizer_that_replaces_another_leaves_other_files_alone(text, tokenizer, tmp_path):
    before = Path(tokenizer, "tokenizer.json").read_bytes()
    Path(tokenizer, "model.safetensors").write_text("precious")
    make(text, tokenizer, tmp_path / "ref", "--vocab_size", "60", "--overwrite")
    assert Path(tokenizer, "tokenizer.json").read_bytes() != before
    assert Path(tokenizer, "model.safetensors").read_text() == "precious"


@pytest.mark.parametrize("name, flags", [("file", ["--overwrite"]), ("file/made", [])])
def test_a_tokenizer_that_cannot_be_saved(name, flags, text, tmp_path, capsys):
    (tmp_path / "file").write_text("precious")
    paths = ["--file_name", text, "--bert", str(tmp_path / name), "--save_path", str(tmp_path / "ref")]
    assert "--bert" in refused(capsys, *paths, "--segmenter", "jieba", "--vocab_size", "60", *flags)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_wrong_segmenter_shows_before_a_tokenizer_is_trained(text, tmp_path, capsys):
    paths = ["--file_name", text, "--bert", str(tmp_path / "made"), "--save_path", str(tmp_path / "ref")]
    assert "--ltp nowhere" in refused(capsys, *paths, "--ltp", "nowhere", "--vocab_size", "60")
    assert not (tmp_path / "made").exists()


def test_references_of_another_text_or_tokenizer_are_refused(text, tokenizer, tmp_path, capsys):
    make(text, tokenizer, tmp_path / "ref")
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("喜欢", "热爱"))
    model = save_model(tmp_path / "model", character_tokenizer([TEXT]))

    def train(file: str) -> str:
        with pytest.raises(SystemExit):
            run_mlm_wwm.main(
                ["--model_name_or_path", model, "--train_file", file, "--train_ref_file", str(tmp_path / "ref")]
                + ["--output_dir", str(tmp_path / "out"), "--use_cpu"]
            )
        return capsys.readouterr().err.splitlines()[-1]

    assert "--train_ref_file" in train(str(other)) and "another text" in train(str(other))
    assert "--train_ref_file" in train(text) and "another tokenizer" in train(text)


LINES = ["我喜欢你", "", "研究生命的起源，T恤 hello", "二〇〇八年\n我喜欢你"]


def tables(folder: Path) -> dict[str, Path]:
    """A file of `LINES` in each format; only a table can hold the last one."""
    rows = [{"id": str(number), "body": line} for number, line in enumerate(LINES)]
    with open(folder / "a.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "body"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a.json").write_text(json.dumps({"version": "1", "body": [row["body"] for row in rows]}))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return {kind: folder / f"a.{kind}" for kind in ("csv", "jsonl", "json", "parquet")}


@pytest.mark.parametrize("kind", slow_after(1, ["csv", "jsonl", "json", "parquet"]))
def test_every_format_has_one_reference_for_each_text_and_trains_with_it(kind, tmp_path, tokenizer, capsys, caplog):
    path, save = str(tables(tmp_path)[kind]), tmp_path / "ref"
    flags = ["--text_column_name", "body"]
    provenance = make(path, tokenizer, save, *flags)
    said = [message for message in caplog.messages if message.startswith("--file_name")]
    assert said == ["--file_name: 3 texts from column body of 1 file (and 1 blank one)"]
    lines = save.read_text().split("\n")
    assert len(lines) == 5 and (lines[0], lines[1], lines[-1]) == ("[3]", "", "") and provenance.lines == 4
    digest = TextDigest()
    digest.add(LINES)
    assert provenance.text_sha256 == digest.hexdigest(), "the same in every format"
    save_model(Path(tokenizer), character_tokenizer([TEXT, *sample_lines("chinese")]))
    argv = [
        "--model_name_or_path",
        tokenizer,
        "--train_file",
        path,
        "--train_ref_file",
        str(save),
        *flags,
        "--use_cpu",
    ]
    argv += ["--do_train", "--mlm_probability", "0.5", "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    argv += ["--overwrite_output_dir"]
    assert run_mlm_wwm.main(argv)["train_samples"] == 3
    if kind == "csv":
        run_mlm_wwm.main([*argv, "--streaming"])
    save.write_text("\n".join([*lines[:3], "[999]", ""]))
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(argv)
    assert f"--train_ref_file: {save} has changed since it was written" in capsys.readouterr().err
    write_provenance(save, replace(provenance, contents=[]))  # as of an older version
    with pytest.raises(SystemExit):
        run_mlm_wwm.main(argv)
    assert "line 4 of the text" in capsys.readouterr().err


def test_columns_are_listed_and_plain_text_has_none(text, tokenizer, tmp_path, capsys):
    flags = ["--bert", tokenizer, "--save_path", str(tmp_path / "ref"), "--segmenter", "jieba"]
    path = str(tables(tmp_path)["jsonl"])
    assert "several columns" in refused(capsys, "--file_name", path, *flags)
    assert "--text_column_name" in refused(capsys, "--file_name", text, "--text_column_name", "body", *flags)
    assert not (tmp_path / "ref").exists()


def test_a_tokenizer_is_trained_on_the_text_column(tmp_path):
    path, made = str(tables(tmp_path)["csv"]), tmp_path / "made"
    make(path, str(made), tmp_path / "ref", "--vocab_size", "60", "--text_column_name", "body")
    vocabulary = BertTokenizer.from_pretrained(made).get_vocab()
    assert "研" in vocabulary and "1" not in vocabulary


def test_a_directory_of_references_is_read_as_files_and_keeps_its_sidecar(tokenizer, tmp_path, caplog):
    """Positions of files without provenance are taken as classic ones, and so would be left out in part."""
    text = tmp_path / "text.txt"
    text.write_text("买 T恤 去\n" * 5)
    model = save_model(tmp_path / "model", character_tokenizer(["买T恤去"]))
    save = f"{tmp_path / 'table'}/"
    flags = ["--segmenter", "whitespace", "--mixed_words", "--part_lines", "2"]
    run_chinese_ref.main(["--file_name", str(text), "--bert", model, "--save_path", save, *flags])
    argv = ["--model_name_or_path", model, "--do_train", "--use_cpu", "--max_steps", "1", "--output_dir"]
    run_mlm_wwm.main([*argv, str(tmp_path / "out"), "--train_file", save])
    assert not [message for message in caplog.messages if "left out" in message]
    assert "--train_file: 5 texts from column text of 3 files" in caplog.messages


@pytest.mark.parametrize("lines, length", [(1, 1_300_000), (4, 300_000)], ids=["a book on one line", "long lines"])
def test_lines_longer_than_a_block_of_json(tokenizer, tmp_path, lines, length):
    """Their references are over a MiB, the block of pyarrow's JSON reader."""
    text, save = tmp_path / "text.txt", tmp_path / "ref"
    text.write_text("".join("我喜欢 " * (length // 4) + "\n" for _ in range(lines)) + "我喜欢你\n")
    flags = ["--segmenter", "whitespace"]
    run_chinese_ref.main(["--file_name", str(text), "--bert", tokenizer, "--save_path", str(save), *flags])
    with open(save) as file:
        assert len(file.readline()) > 2**20 and json.loads(file.readline())[:3] == (
            [2, 3, 4] if lines == 1 else [2, 3, 5]
        )
    pairs = list(pair_tables(TextReader([text], "--train_file"), str(save), "--train_ref_file"))
    assert sum(map(len, pairs)) == lines + 1


@pytest.mark.slow
def test_a_line_of_five_megabytes_is_done_in_seconds(tokenizer, tmp_path):
    """The work grows with the length of a line, and not with its square."""
    text, save = tmp_path / "long.txt", tmp_path / "ref"
    text.write_text("我喜欢你，研究生命的起源" * 140_000 + "\n", encoding="utf-8")
    make(str(text), tokenizer, save)
    [positions] = map(json.loads, save.read_text().splitlines())
    assert len(positions) >= 140_000 and positions == sorted({*positions})


def test_several_processes_of_a_launcher_are_refused(text, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0"), monkeypatch.setenv("WORLD_SIZE", "2")
    argv = ["--file_name", text, "--bert", tokenizer, "--save_path", str(tmp_path / "ref"), "--segmenter", "jieba"]
    line = refused(capsys, *argv)
    assert "--save_path: 2 processes of a launcher cannot divide this work; " in line and "--num_workers" in line
    assert run_chinese_ref.main([*argv, "--num_shards", "2", "--shard_index", "0"]) is None, "divided already"


@pytest.mark.parametrize("name", ["ref.csv", "ref.tsv", "ref.json", "REF.CSV"])
def test_references_are_not_written_under_the_name_of_another_table(name, text, tokenizer, tmp_path, capsys):
    argv = ["--file_name", text, "--bert", tokenizer, "--save_path", str(tmp_path / name), "--segmenter", "jieba"]
    assert f"{name} is named like a {Path(name).suffix.lower()} table, which is not written" in refused(capsys, *argv)
    assert not list(tmp_path.glob(f"*{name}*"))


def test_the_ending_of_a_table_may_have_capitals(text, tokenizer, tmp_path):
    make(text, tokenizer, tmp_path / "ref.JSONL")
    first = json.loads((tmp_path / "ref.JSONL").read_text(encoding="utf-8").splitlines()[0])
    assert first.keys() == {"text", "chinese_ref"}
