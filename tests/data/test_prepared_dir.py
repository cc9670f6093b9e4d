"""Text tokenized ahead of training: the same files however the work is divided, and the same training from them."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import subprocess
import sys
from itertools import chain, cycle
from pathlib import Path

import datasets
import pytest
import zstandard

import run_mlm
import run_mlm_wwm
from conftest import PEAK, character_tokenizer, refusal, sample_lines, sample_tokenizer, save_model, slow_after
from wordmask.config.arguments import RunArguments
from wordmask.data import prepared_dir
from wordmask.data.data_report import DATA_REPORT
from wordmask.data.file_source import count_texts
from wordmask.data.split_files import SplitFiles
from wordmask.utils import parts
from wordmask.utils.batches import rebatched
from wordmask.utils.errors import InputError
from wordmask.utils.lock import locked

ROOT = Path(__file__).parent.parent.parent
OPENERS = {".txt": open, ".ref": open, ".gz": gzip.open, ".zst": zstandard.open}
STEPS = ["--max_steps", "3", "--per_device_train_batch_size", "4", "--use_cpu", "--report_to", "none"]


def prepare(script, argv: list[str], directory: Path, *flags: str) -> dict[str, bytes]:
    """Tokenize a text into a directory and return its files."""
    script.main([*argv, "--prepare_only", "--prepared_dir", str(directory), "--part_lines", "7", "--use_cpu", *flags])
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def trained(script, argv: list[str], output: Path, *flags: str) -> list[dict[str, float]]:
    """What a short run logs at each step and at the end, but for times."""
    metrics = script.main([*argv, *STEPS, "--logging_steps", "1", "--output_dir", str(output), *flags])
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    names = ("loss", "grad_norm", "train_loss", "train_samples", "eval_loss", "eval_accuracy", "eval_samples")
    return [{name: entry[name] for name in names if name in entry} for entry in (*history, metrics)]


def without_text(argv: list[str]) -> list[str]:
    """The flags of a command line that name no text."""
    pairs = zip(argv[::2], argv[1::2], strict=True)
    return [word for flag, value in pairs if not flag.endswith("_file") for word in (flag, value)]


def lines_with_words() -> list[str]:
    """Chinese lines whose first two characters may be a word."""
    return [line for line in sample_lines("chinese", 60) if all("\u4e00" <= char <= "\u9fff" for char in line[:2])]


@pytest.fixture
def english(english_model, english_file) -> list[str]:
    return ["--model_name_or_path", english_model, "--train_file", english_file]


@pytest.fixture
def chinese(chinese_model, tmp_path) -> list[str]:
    """Chinese with references, other ones for validation, and with blank lines."""
    lines = lines_with_words()
    argv = ["--model_name_or_path", chinese_model, "--mlm_probability", "0.3"]
    for split, own in (("train", lines[:20]), ("validation", lines[20:])):
        text, references = tmp_path / f"{split}.txt", tmp_path / f"{split}.ref"
        text.write_text("\n\n".join(own) + "\n", encoding="utf-8")
        references.write_text("[2]\n\n" * len(own))
        argv += [f"--{split}_file", str(text), f"--{split}_ref_file", str(references)]
    return argv


@pytest.mark.parametrize(
    "script, language, flags",
    slow_after(
        1,
        [
            (run_mlm, "english", []),
            (run_mlm_wwm, "english", []),
            (run_mlm_wwm, "chinese", []),
            (run_mlm_wwm, "chinese", ["--no_line_by_line"]),
        ],
    ),
)
def test_training_from_prepared_text_is_training_from_the_text(request, tmp_path, script, language, flags):
    argv = request.getfixturevalue(language)
    prepare(script, argv, tmp_path / "prepared", *flags)
    expected = trained(script, argv, tmp_path / "text", *flags)
    assert len({entry.get("loss") for entry in expected} - {None}) == 3 and "eval_loss" in expected[-1]
    directory = ["--prepared_dir", str(tmp_path / "prepared")]
    assert trained(script, without_text(argv), tmp_path / "out", *flags, *directory) == expected


def test_a_segmenter_of_ones_own_is_needed_for_the_preparation_alone(english, tmp_path, monkeypatch):
    code = "from wordmask.segmenters.whitespace import WhitespaceSegmenter\nclass Own(WhitespaceSegmenter): pass\n"
    (tmp_path / "own_words.py").write_text(code)
    flags = ["--segmenter", "own_words:Own"]
    with monkeypatch.context() as importable:
        importable.syspath_prepend(str(tmp_path))
        importable.setattr(sys, "dont_write_bytecode", True)
        prepare(run_mlm_wwm, english, tmp_path / "prepared", *flags)
    sys.modules.pop("own_words")
    directory = ["--prepared_dir", str(tmp_path / "prepared")]
    assert trained(run_mlm_wwm, without_text(english), tmp_path / "out", *flags, *directory)


@pytest.mark.slow
def test_words_of_references_and_of_a_segmenter_are_prepared_too(chinese, tmp_path):
    with_references = prepare(run_mlm_wwm, chinese, tmp_path / "references")
    plain = [word for word in chinese if not word.endswith(".ref") and not word.endswith("_ref_file")]
    without = prepare(run_mlm_wwm, plain, tmp_path / "plain")
    segmented = prepare(run_mlm_wwm, plain, tmp_path / "segmented", "--segmenter", "whitespace")
    first = "train-00000-of-00003.arrow"
    assert len({files[first] for files in (with_references, without, segmented)}) == 3
    for name, flags in (("segmented", ["--segmenter", "whitespace"]), ("plain", [])):
        expected = trained(run_mlm_wwm, plain, tmp_path / f"{name}_text", *flags)
        directory = ["--prepared_dir", str(tmp_path / name)]
        assert trained(run_mlm_wwm, without_text(chinese), tmp_path / f"{name}_out", *directory) == expected


@pytest.mark.slow
def test_a_run_goes_on_with_the_tokens_of_its_text_and_is_told_of_other_words(chinese, tmp_path, caplog):
    """It was told that the text had changed, and lost its figures before training; of other words it was not told."""
    plain = [word for word in chinese if not word.endswith(".ref") and not word.endswith("_ref_file")]
    for segmenter in ("whitespace", "jieba"):
        prepare(run_mlm_wwm, plain, tmp_path / segmenter, "--segmenter", segmenter)
    more = [*STEPS, "--save_steps", "3", "--output_dir", str(tmp_path / "out"), "--segmenter", "whitespace"]
    before = run_mlm_wwm.main([*plain, *more])["eval_loss_before"]
    prepared = [*without_text(chinese), *more[:-2], "--prepared_dir"]
    caplog.clear()
    figures = run_mlm_wwm.main([*prepared, str(tmp_path / "whitespace"), "--max_steps", "6"])
    said = [line for line in caplog.messages if "other settings" in line or "before and after" in line]
    assert figures["eval_loss_before"] == before
    assert said == ["this run was started with other settings: --max_steps: 3 -> 6"]
    run_mlm_wwm.main([*prepared, str(tmp_path / "jieba"), "--max_steps", "9"])
    assert "this run was started with other settings: --segmenter: whitespace -> jieba" in caplog.messages
    record = json.loads((tmp_path / "out" / "wordmask_run.json").read_text(encoding="utf-8"))
    assert record["arguments"]["segmenter"] == "jieba"


@pytest.mark.parametrize(
    "flags",
    slow_after(
        1,
        [
            ["--max_seq_length", "20", "--masking_strategy", "span", "--max_train_samples", "11"],
            ["--max_seq_length", "24", "--masking_strategy", "token", "--long_lines", "split", "--pack_sequences"],
            ["--pack_sequences", "--length_schedule", "24:0.5,48:0.5"],
        ],
    ),
)
def test_rows_and_masks_are_chosen_when_training(english, tmp_path, flags):
    prepare(run_mlm_wwm, english, tmp_path / "prepared")
    expected = trained(run_mlm_wwm, english, tmp_path / "text", *flags)
    found = trained(
        run_mlm_wwm, without_text(english), tmp_path / "out", *flags, "--prepared_dir", str(tmp_path / "prepared")
    )
    assert found == expected


def test_the_files_do_not_depend_on_how_the_work_is_divided(english, tmp_path):
    alone = prepare(run_mlm_wwm, english, tmp_path / "alone")
    # Parts of 38 texts to train on, of 2 to evaluate on, stamps, the record, and the data report.
    assert len(alone) == 2 * (6 + 1) + 1 + 1
    for shard in ("2", "0", "1"):
        sharded = prepare(run_mlm_wwm, english, tmp_path / "shards", "--num_shards", "3", "--shard_index", shard)
        assert (len(sharded) == len(alone)) is (shard == "1")
    assert sharded == alone


def write_lines(path: Path, lines: list[str]) -> str:
    """A file of lines, every fifth of them with a blank one behind it."""
    with OPENERS[path.suffix](path, "wt", encoding="utf-8") as file:
        file.write("\n".join(line + "\n  " * (number % 5 == 0) for number, line in enumerate(lines)))
    return str(path)


def write_corpus(folder: Path, split: str, names: list[str], with_references: bool) -> tuple[list[str], list[str]]:
    """Texts, no two of them alike, in files of these names and in one dataset: the flags that name the files, and
    the dataset."""
    files, reference_files, rows = [], [], []
    for name in names:
        texts = [f"{line} {number} {name}" for number, line in zip(range(1300), cycle(lines_with_words()))]
        references = [[2] * (number % 3 == 0) for number in range(1300)]
        files.append(write_lines(folder / name, texts))
        reference_files.append(write_lines(folder / f"{name}.ref", [*map(str, references)]))
        for text, reference in zip(texts, references, strict=True):
            rows.append({"text": text, "chinese_ref": reference} if with_references else {"text": text})
    flags = [f"--{split}_file", *files]
    if with_references:
        flags += [f"--{split}_ref_file", *reference_files]
    return flags, datasets.Dataset.from_list(rows)


@pytest.mark.parametrize(
    "splits, references, flags",
    [
        ({"train": ["text.txt"]}, False, []),
        ({"train": ["text.txt.zst"]}, False, ["--validation_split_percentage", "37"]),
        ({"train": ["one.txt", "two.txt.gz", "three.txt"]}, False, ["--no_line_by_line"]),
        ({"train": ["one.txt.gz", "two.txt"]}, True, []),
        ({"train": ["text.txt"], "validation": ["one.txt", "two.txt"]}, True, []),
    ],
    ids=["plain", "compressed", "several", "references", "validation"],
)
def test_shards_copy_no_text_and_make_the_same_parts(chinese_model, tmp_path, monkeypatch, splits, references, flags):
    """Parts and batches end elsewhere than the thousand lines that are read together, and so do files.

    A dataset of the same texts, whose rows are found by their numbers, tells what the parts must be.
    """
    corpora = [write_corpus(tmp_path, split, names, references) for split, names in splits.items()]
    model = ["--model_name_or_path", chinese_model]
    text = [*model, *chain(*(own for own, _ in corpora))]
    datasets.DatasetDict(zip(splits, (rows for _, rows in corpora), strict=True)).save_to_disk(tmp_path / "saved")
    table = [*model, "--dataset_name", str(tmp_path / "saved")]
    flags = [*flags, "--part_lines", "450"]
    monkeypatch.setattr(rebatched, "__defaults__", (200,))
    expected = prepare(run_mlm_wwm, table, tmp_path / "table", *flags)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())

    alone = prepare(run_mlm_wwm, text, tmp_path / "alone", *flags)
    stems = [name.removesuffix(".arrow") for name in alone if name.endswith(".arrow")]
    files = [name for name in alone if name not in (prepared_dir.RECORD, DATA_REPORT)]  # these name the flags
    assert [alone[name] for name in files] == [expected[name] for name in files] and alone.keys() == expected.keys()
    there = {prepared_dir.RECORD}
    for shard in (2, 0, 1):
        shards = ["--num_shards", "3", "--shard_index", str(shard)]
        together = prepare(run_mlm_wwm, text, tmp_path / "together", *flags, *shards)
        added = {part + end for part in stems[shard::3] for end in (".arrow", ".json")}
        assert together.keys() - there == (added | {DATA_REPORT} if shard == 1 else added)  # the last one to end
        there = together.keys()
    assert together == alone
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"alone", "together", "cache"}
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(cached) == len(splits) and sum(path.stat().st_size for path in cached) < 1000, "the number of texts"


def test_mistakes_in_what_other_shards_do_are_found_by_all(chinese, tmp_path, capsys):
    text, references = (Path(chinese[chinese.index(f"--train_{kind}") + 1]) for kind in ("file", "ref_file"))
    argv = [*chinese, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    argv += ["--num_shards", "20", "--shard_index", "0"]
    good = references.read_text()
    references.write_text(good + "[2]\n")
    assert "21 references" in refusal(capsys, run_mlm_wwm.main, *argv)
    references.write_text(good)
    lines = text.read_bytes().split(b"\n")
    text.write_bytes(b"\n".join([*lines[:-2], b"\xff"]))
    assert f"line {len(lines) - 1}: byte 0xff" in refusal(capsys, run_mlm_wwm.main, *argv)
    text.write_text("\n \n")
    references.write_text("\n")
    assert "no text in it" in refusal(capsys, run_mlm_wwm.main, *argv)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("content", ["one\ntwo\n", "", "one\ntwo\nthree\nfour\n", "one\ntwo\nTHREE\n", None])
def test_a_text_that_is_changed_while_it_is_read_is_refused(tmp_path, content):
    """What is known of it, by which its tokens are found again, would be another text's."""
    path = tmp_path / "text.txt"
    path.write_text("one\ntwo\nthree\n")
    texts = count_texts(SplitFiles((str(path),), "--train_file"), tmp_path, again=False)
    tables_of = lambda *spans: chain.from_iterable(texts.tables(spans))  # noqa: E731
    assert [table["text"].to_pylist() for table in tables_of(range(1, 2))] == [["two"]]
    tables = tables_of(range(1), range(1, 3))
    assert next(tables)["text"].to_pylist() == ["one"]
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
        os.utime(path, (1, 1))
    for rest in (tables, tables_of(range(3))):
        with pytest.raises(InputError, match="--train_file: .*text.txt changed"):
            list(rest)


def test_a_run_that_was_killed_is_gone_on_with(english, tmp_path):
    directory = tmp_path / "prepared"
    whole = prepare(run_mlm_wwm, english, directory)
    missing, kept = directory / "train-00003-of-00006.arrow", directory / "train-00002-of-00006.arrow"
    missing.unlink()
    (directory / ".train-00003-of-00006.arrow.x1y2z3").write_bytes(b"half a part")
    before = kept.stat()
    assert prepare(run_mlm_wwm, english, directory) == whole
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_part_without_its_stamp_is_not_finished(english, tmp_path, capsys):
    directory = tmp_path / "prepared"
    whole = prepare(run_mlm_wwm, english, directory)
    part = directory / "train-00003-of-00006.arrow"
    part.write_bytes(b"what a process had written when it was killed")
    part.with_suffix(".json").unlink()
    argv = [*without_text(english), *STEPS, "--prepared_dir", str(directory), "--output_dir", str(tmp_path / "out")]
    assert "part 4 of 6 of train (train-00003-of-00006.arrow) is missing" in refusal(capsys, run_mlm_wwm.main, *argv)
    assert prepare(run_mlm_wwm, english, directory) == whole


def test_a_part_that_is_damaged_but_has_its_size_is_made_again(english, tmp_path, caplog):
    """As a disk leaves blocks of zeros."""
    directory = tmp_path / "prepared"
    whole = prepare(run_mlm_wwm, english, directory)
    part = directory / "train-00003-of-00006.arrow"
    content = part.read_bytes()
    middle = len(content) // 2
    part.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    assert part.read_bytes() != content
    caplog.clear()
    assert prepare(run_mlm_wwm, english, directory) == whole
    assert f"--prepared_dir: {part} is damaged, so it is made again" in caplog.text
    caplog.clear()
    assert prepare(run_mlm_wwm, english, directory) == whole and "damaged" not in caplog.text


def test_a_part_that_was_cut_off_is_not_finished(english, tmp_path, capsys):
    directory = tmp_path / "prepared"
    whole = prepare(run_mlm_wwm, english, directory)
    part = directory / "train-00003-of-00006.arrow"
    part.write_bytes(part.read_bytes()[:-100])
    argv = [*without_text(english), *STEPS, "--prepared_dir", str(directory), "--output_dir", str(tmp_path / "out")]
    assert "part 4 of 6 of train (train-00003-of-00006.arrow) is missing" in refusal(capsys, run_mlm_wwm.main, *argv)
    assert prepare(run_mlm_wwm, english, directory) == whole


def test_a_second_run_into_a_directory_is_refused_but_for_other_shards(english, tmp_path, capsys):
    """Two that ran together once ended one of them."""
    directory, argv = tmp_path / "prepared", [*english, "--prepare_only", "--part_lines", "7", "--use_cpu"]
    argv += ["--prepared_dir", str(directory)]
    with locked(directory / ".wordmask", "x", 1):
        sentence = refusal(capsys, run_mlm_wwm.main, *argv)
        assert sentence.startswith(f"--prepared_dir: {directory} is in use by process {os.getpid()} on ")
        assert "in use" in refusal(capsys, run_mlm_wwm.main, *argv, "--num_shards", "2", "--shard_index", "1")
        run_mlm_wwm.main([*argv, "--num_shards", "2"])
    assert prepare(run_mlm_wwm, english, directory) == prepare(run_mlm_wwm, english, tmp_path / "other")


def test_a_full_disk_gets_a_sentence_and_keeps_what_is_done(english, tmp_path, capsys, monkeypatch):
    write = parts.write_atomically

    def full(path, binary=False):
        if Path(path).name.startswith("train-00002"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(path, binary)

    monkeypatch.setattr(parts, "write_atomically", full)
    argv = [*english, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert "--prepared_dir" in sentence and "No space left" in sentence and "run again" in sentence
    assert len(list((tmp_path / "d").glob("train-*.arrow"))) == 2
    monkeypatch.undo()
    assert prepare(run_mlm_wwm, english, tmp_path / "d") == prepare(run_mlm_wwm, english, tmp_path / "other")


@pytest.mark.slow
def test_workers_write_the_same_files_and_report_a_mistake_in_one_sentence(chinese, tmp_path, capsys):
    alone = prepare(run_mlm_wwm, chinese, tmp_path / "alone")
    references = Path(chinese[chinese.index("--validation_ref_file") + 1])
    good = references.read_text().split()
    references.write_text("\n".join([*good[:-1], "[99]"]))
    argv = [*chinese, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--preprocessing_num_workers", "2")
    assert "--validation_ref_file" in sentence and "position 99" in sentence
    assert f"line {2 * len(good) - 1} of the text" in sentence
    (*others, last) = sorted(name for name in alone if name.endswith(".arrow"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").glob("*.arrow")} == {
        name: alone[name] for name in others
    }
    assert last.startswith("validation") and len(others) > 4


def test_no_weights_are_needed_and_no_output_is_claimed(english, tmp_path, capsys):
    with_model = prepare(run_mlm_wwm, english, tmp_path / "with")
    bare = tmp_path / "bare"
    shutil.copytree(english[1], bare, ignore=shutil.ignore_patterns("*.safetensors"))
    argv = ["--model_type", "bert", "--tokenizer_name", str(bare), *english[2:], "--output_dir", str(tmp_path / "out")]
    capsys.readouterr()
    without = prepare(run_mlm_wwm, argv, tmp_path / "without")
    assert capsys.readouterr().out == f"38 texts of train, 2 texts of validation in 7 parts: {tmp_path / 'without'}\n"
    assert {name: content for name, content in without.items() if name.endswith(".arrow")} == {
        name: content for name, content in with_model.items() if name.endswith(".arrow")
    }
    assert not (tmp_path / "out").exists()


def test_the_splits_are_those_that_the_run_would_use(english, tmp_path, capsys):
    directory = tmp_path / "prepared"
    prepare(run_mlm_wwm, english, directory, "--do_train")
    assert not list(directory.glob("validation*"))
    argv = [*without_text(english), "--prepared_dir", str(directory)]
    assert trained(run_mlm_wwm, argv, tmp_path / "out")[-1]["train_samples"] == 40
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--do_eval", "--use_cpu", "--output_dir", str(tmp_path / "o"))
    assert "--prepared_dir" in sentence and "no validation text" in sentence
    evaluated = tmp_path / "evaluated"
    prepare(run_mlm_wwm, english, evaluated, "--do_eval", "--validation_split_percentage", "50")
    assert not list(evaluated.glob("train*"))
    argv = [
        *without_text(english),
        "--prepared_dir",
        str(evaluated),
        "--use_cpu",
        "--output_dir",
        str(tmp_path / "eval"),
    ]
    assert run_mlm_wwm.main(argv)["eval_samples"] == 20


def test_the_command_line_of_preparation_may_be_repeated(english, tmp_path, capsys):
    prepare(run_mlm_wwm, english, tmp_path / "prepared", "--validation_split_percentage", "10")
    argv = [*STEPS, "--prepared_dir", str(tmp_path / "prepared"), "--output_dir", str(tmp_path / "out")]
    again = run_mlm_wwm.main([*english, *argv, "--validation_split_percentage", "10"])
    assert (again["train_samples"], again["eval_samples"]) == (36, 4)
    for flags in (["--validation_split_percentage", "20"], ["--train_file", "b.txt"], ["--segmenter", "jieba"]):
        sentence = refusal(capsys, run_mlm_wwm.main, *english, *argv, *flags)
        assert flags[0] in sentence and flags[1] in sentence and "not what" in sentence


def test_the_processes_of_a_launcher_are_refused(english, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(RunArguments, "world_size", 2)
    argv = [*english, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--use_cpu"]
    assert "--num_shards" in refusal(capsys, run_mlm_wwm.main, *argv) and not (tmp_path / "d").exists()


def test_nothing_is_written_where_something_else_lies(english, tmp_path, capsys):
    directory = tmp_path / "mine"
    argv = [*english, "--prepare_only", "--use_cpu", "--prepared_dir"]
    directory.write_text("precious")
    assert "is a file" in refusal(capsys, run_mlm_wwm.main, *argv, str(directory))
    assert "cannot be written" in refusal(capsys, run_mlm_wwm.main, *argv, str(directory / "below"))
    directory.unlink()
    directory.mkdir()
    (directory / "precious.txt").write_text("precious")
    assert "precious.txt" in refusal(capsys, run_mlm_wwm.main, *argv, str(directory))
    assert [path.name for path in directory.iterdir()] == ["precious.txt"]


@pytest.mark.parametrize(
    "change, words",
    [
        (["--no_line_by_line"], ["another --line_by_line"]),
        (["--part_lines", "8"], ["another --part_lines"]),
        (["--validation_split_percentage", "50"], ["another text"]),
        (["--segmenter", "whitespace"], ["another segmenter"]),
        (["--do_train"], ["another choice of splits"]),
    ],
)
def test_parts_of_something_else_are_not_mixed_in(english, tmp_path, capsys, change, words):
    whole = prepare(run_mlm_wwm, english, tmp_path / "d")
    argv = [*english, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, *change)
    assert all(word in sentence for word in words), sentence
    assert whole == {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}


def test_parts_of_another_text_or_tokenizer_are_found(english, english_file, tmp_path, capsys):
    prepare(run_mlm_wwm, english, tmp_path / "d")
    argv = ["--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    lines = sample_lines("english", 40)
    other = save_model(tmp_path / "other", sample_tokenizer("bert", 500))
    assert "another tokenizer" in refusal(capsys, run_mlm_wwm.main, *argv, *english, "--tokenizer_name", other)
    Path(english_file).write_text("\n".join([*lines[:20], "another line", *lines[21:]]), encoding="utf-8")
    for shard in ([], ["--num_shards", "2", "--shard_index", "1"]):
        assert "was made with another text;" in refusal(capsys, run_mlm_wwm.main, *argv, *english, *shard)


def test_parts_of_another_dataset_are_found(english, tmp_path, capsys):
    """What a dataset holds is compared part by part."""
    lines, path = sample_lines("english", 40), tmp_path / "dataset"
    path.mkdir()

    def write() -> None:
        (path / "train.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))

    write()
    at = english.index("--train_file")
    english[at : at + 2] = ["--dataset_name", str(path)]
    prepare(run_mlm_wwm, english, tmp_path / "d")
    lines[20] = "another line"
    write()
    argv = [*english, "--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert "part 3 of 6 of train" in sentence and "another text" in sentence
    (tmp_path / "d" / "train-00001-of-00006.arrow").unlink()
    assert refusal(capsys, run_mlm_wwm.main, *argv) == sentence
    assert (tmp_path / "d" / "train-00001-of-00006.arrow").exists()


def test_references_are_part_of_the_text(chinese, tmp_path, capsys):
    prepare(run_mlm_wwm, chinese, tmp_path / "d")
    Path(chinese[chinese.index("--train_ref_file") + 1]).write_text("[2]\n" * 19 + "[]\n")
    argv = ["--prepare_only", "--prepared_dir", str(tmp_path / "d"), "--part_lines", "7", "--use_cpu"]
    assert "was made with another text;" in refusal(capsys, run_mlm_wwm.main, *argv, *chinese)


def test_prepared_text_that_does_not_fit_is_refused(english, tmp_path, capsys):
    directory = tmp_path / "prepared"
    prepare(run_mlm_wwm, english, directory)
    argv = [*STEPS, "--prepared_dir", str(directory), "--output_dir", str(tmp_path / "out")]
    assert "--line_by_line" in refusal(capsys, run_mlm.main, *without_text(english), *argv)
    blocks = tmp_path / "blocks"
    prepare(run_mlm, english, blocks)
    sentence = refusal(capsys, run_mlm_wwm.main, *without_text(english), *argv, "--prepared_dir", str(blocks))
    assert "joined text" in sentence and "--no_line_by_line" in sentence
    other = save_model(tmp_path / "other", character_tokenizer(["other"]))
    sentence = refusal(capsys, run_mlm_wwm.main, "--model_name_or_path", other, *argv)
    assert "another tokenizer" in sentence and other in sentence
    assert not (tmp_path / "out").exists()


def test_a_directory_that_is_not_whole_is_refused(english, tmp_path, capsys):
    directory = tmp_path / "prepared"
    prepare(run_mlm_wwm, english, directory)
    argv = [*without_text(english), *STEPS, "--prepared_dir", str(directory), "--output_dir", str(tmp_path / "out")]
    part = directory / "train-00002-of-00006.arrow"
    content = part.read_bytes()
    part.write_bytes(content[:200] + b"?" * (len(content) - 200))
    assert "cannot be read" in refusal(capsys, run_mlm_wwm.main, *argv)
    part.unlink()
    assert "part 3 of 6 of train (train-00002-of-00006.arrow) is missing" in refusal(capsys, run_mlm_wwm.main, *argv)
    (directory / "validation-00000-of-00001.arrow").unlink()
    assert "part 3 of 6 of train (train-00002-of-00006.arrow) and 1 more are missing" in refusal(
        capsys, run_mlm_wwm.main, *argv
    )
    (directory / prepared_dir.RECORD).unlink()
    assert "was not made with --prepare_only" in refusal(capsys, run_mlm_wwm.main, *argv)


MEMORY = (
    PEAK
    + """
import sys
import run_mlm_wwm

folder, tokenizer = sys.argv[1:]
for lines in ("few", "many", "few again"):
    if lines == "few again":
        with open(f"{folder}/many.txt", encoding="utf-8") as text:
            held = text.readlines()
    run_mlm_wwm.main(
        ["--train_file", f"{folder}/{lines}.txt", "--train_ref_file", f"{folder}/{lines}.ref", "--model_type", "bert"]
        + ["--tokenizer_name", tokenizer, "--prepare_only", "--prepared_dir", f"{folder}/{lines}", "--use_cpu"]
    )
    print(peak())
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_from_10_000_lines_to_100_000(chinese_model, tmp_path):
    """The peak of one process, which only ever rises: what the second text adds to that of the first.

    That would show: the peak rises as the first text is prepared again while the lines of the second are held.
    All but the validation texts are one part. 14 MiB are allowed: 6 for what allocators do not give back, and 8 for
    the data report, which counts at most 100,000 examples.
    """
    tolerance = 14
    block = "".join(f"{line * 4}\n" for line in sample_lines("chinese"))
    block = "\n".join((block * 100).split("\n")[:10_000]) + "\n"
    for name, times in (("few", 1), ("many", 10), ("few again", 1)):
        (tmp_path / f"{name}.txt").write_text(block * times, encoding="utf-8")
        (tmp_path / f"{name}.ref").write_text("[]\n" * 10_000 * times, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), chinese_model],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        | {"HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    few, many, held = (int(line) for line in result.stdout.splitlines() if line.isdigit())
    assert many - few <= tolerance, f"{few} MiB for 10,000 lines, {many} MiB for 100,000"
    assert held - few > tolerance, "lines that are held do not show, so nothing is measured"
    assert "95,000 texts of train, 5,000 texts of validation in 2 parts" in result.stdout
