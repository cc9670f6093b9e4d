"""From files and datasets to rows of tokens."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from transformers import AutoTokenizer

import run_mlm
import run_mlm_wwm
from conftest import refusal, sample_lines, slow_after
from wordmask.config.arguments import DataArguments
from wordmask.config.rate_schedule import Phase, RateSchedule
from wordmask.data.collator import MaskingCollator
from wordmask.data.division import divide, long_lines
from wordmask.data.plan import Draw
from wordmask.data.sequences import Sequences, StreamedSequences
from wordmask.data.sources import load_texts
from wordmask.data.text_tokenizer import TextTokenizer
from wordmask.data.token_store import Tokenization, tokenized
from wordmask.masking import Strategy
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.utils.errors import InputError
from wordmask.utils.readers import TextReader
from wordmask.utils.readers.paths import find_text_files

LINES = ["one, two", 'three "four" five', "sixième", "seven\u2028eight\x85nine\x0bten", "NA", "null"]
OPENERS = {"": open, ".gz": gzip.open, ".xz": lzma.open, ".zst": zstandard.open}


def write(path: Path, lines: list[str], column: str = "text") -> str:
    """Write texts in the format that the name of a file says."""
    kind, *_ = [suffix for suffix in path.suffixes if suffix not in OPENERS]
    if kind == ".parquet":
        pyarrow.parquet.write_table(pa.table({"number": range(len(lines)), column: lines}), path.with_suffix(".tmp"))
        content = path.with_suffix(".tmp").read_bytes()
        path.with_suffix(".tmp").unlink()
        with OPENERS.get(path.suffix, open)(path, "wb") as file:
            file.write(content)
        return str(path)
    with OPENERS.get(path.suffix, open)(path, "wt", encoding="utf-8", newline="") as file:
        if kind == ".txt":
            file.write("".join(line + "\n" for line in lines))
        elif kind in (".csv", ".tsv"):
            options = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if kind == ".tsv" else {}
            csv.writer(file, lineterminator="\n", **options).writerows([["number", column], *enumerate(lines)])
        else:
            rows = [json.dumps({"number": number, column: line}) for number, line in enumerate(lines)]
            file.write("[" + ",\n".join(rows) + "]" if path.name.startswith("array") else "\n".join(rows))
    return str(path)


def texts_of(evaluate: bool = False, split: str = "train", **arguments) -> list[str]:
    """The texts of a split, as a run would read them."""
    settings = DataArguments(**arguments)
    texts = load_texts(settings, None, None, evaluate)[split]
    if settings.streaming:
        tables = (
            table for shard in range(len(texts.source.shard_sizes)) for table in texts.source.tables(shard, 1000)
        )
        return [text for table in tables for text in table["text"].to_pylist()]
    return pa.concat_tables(texts.batches())["text"].to_pylist()


def batches_of(tokenizer, path: str, length: int, **arguments) -> list[dict]:
    """Each row that a text file is divided into, as a batch of its own with nothing masked."""
    settings = DataArguments(train_file=[path], **arguments)
    texts = load_texts(settings, None, None, False)["train"]
    if settings.streaming:
        examples = list(
            StreamedSequences(
                texts, Tokenization(tokenizer, settings), length, RateSchedule((Phase(1.0, 0.0, 0.0),))
            ).one_epoch(0)
        )
    else:
        tokenization = Tokenization(tokenizer, settings)
        rows = Sequences(tokenized(texts, tokenization), tokenization, length)
        examples = [rows[Draw(index, 0, 0.0)] for index in range(len(rows))]
    collator = MaskingCollator(Vocabulary.of(tokenizer), Strategy.TOKEN, seed=0, word_ids=True)
    return [collator([example]) for example in examples]


def rows_of(tokenizer, path: str, length: int, **arguments) -> list[list[str]]:
    """The tokens of each row that a text file is divided into."""
    batches = batches_of(tokenizer, path, length, **arguments)
    return [tokenizer.convert_ids_to_tokens(batch["input_ids"][0].tolist()) for batch in batches]


@pytest.fixture(scope="module")
def tokenizer(english_model):
    return AutoTokenizer.from_pretrained(english_model)


@pytest.mark.parametrize("compression", OPENERS)
@pytest.mark.parametrize("kind", ["txt", "csv", "tsv", "json", "jsonl", "parquet"])
def test_every_format_gives_the_same_texts(tmp_path, kind, compression):
    path = write(tmp_path / f"text.{kind}{compression}", LINES)
    assert texts_of(train_file=[path]) == LINES


@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_compressed_file_of_several_frames_is_read_to_its_end(tmp_path, kind, compression):
    """As `cat` joins them, and as compressors on several cores write them."""
    first, second = (write(tmp_path / f"{name}.{kind}{compression}", LINES) for name in ("first", "second"))
    whole = tmp_path / f"whole.{kind}{compression}"
    with OPENERS[compression](tmp_path / f"end{compression}", "wb") as file:
        file.write(b"\n")
    frames = [Path(first), tmp_path / f"end{compression}", Path(second)]
    whole.write_bytes(b"".join(frame.read_bytes() for frame in frames))
    assert texts_of(train_file=[str(whole)]) == LINES * 2


@pytest.mark.parametrize("compression", slow_after(1, OPENERS))
def test_how_far_files_have_been_read_is_told_by_their_size_on_disk(tmp_path, compression):
    paths = [tmp_path / f"{name}.txt{compression}" for name in ("a", "b")]
    for path in paths:
        with OPENERS[compression](path, "wb") as file:
            file.write(b"".join(b"%d\n" % (number * 7919**3 % 10**9) for number in range(100_000)))
    lines = TextReader(paths, "--file_name")
    assert lines.position == 0
    positions = [lines.position for _ in lines]
    sizes = [path.stat().st_size for path in paths]
    assert positions == sorted(positions) and positions[-1] == lines.position == lines.size == sum(sizes)
    for part in (0.25, 0.5, 0.75):  # buffers are read ahead
        assert positions[int(part * len(positions))] == pytest.approx(part * lines.size, rel=0.4)


def test_a_json_file_may_be_one_array(tmp_path):
    assert texts_of(train_file=[write(tmp_path / "array.json", LINES)]) == LINES


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl.gz"])
def test_several_files_and_globs_are_read_in_order(tmp_path, kind):
    for number in (2, 1, 3):
        write(tmp_path / f"part{number}.{kind}", [f"text {number}"])
    first = write(tmp_path / f"first.{kind}", ["first"])
    assert texts_of(train_file=[first, str(tmp_path / f"part*.{kind}")]) == ["first", "text 1", "text 2", "text 3"]


def test_a_name_with_the_characters_of_a_glob_is_a_name(tmp_path):
    for kind in ("txt", "jsonl"):
        path = write(tmp_path / f"text[1].{kind}", LINES)
        assert texts_of(train_file=[path]) == LINES


def test_tables_of_two_kinds_are_not_read_as_one(tmp_path):
    comma, tab = write(tmp_path / "a.csv", ["one, two"]), write(tmp_path / "b.tsv", ["three, four"])
    try:
        assert texts_of(train_file=[comma, tab]) == ["one, two", "three, four"]
    except InputError as refused:
        assert "--train_file" in str(refused)


def test_files_of_two_kinds_are_refused(tmp_path):
    files = [write(tmp_path / "a.txt", ["one"]), write(tmp_path / "b.jsonl", ["two"])]
    with pytest.raises(InputError, match="--train_file"):
        load_texts(DataArguments(train_file=files), None, None, False)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_column_that_was_named_is_read(tmp_path, kind):
    path = write(tmp_path / f"text.{kind}", LINES, column="content")
    assert texts_of(train_file=[path], text_column_name="content") == LINES


@pytest.mark.parametrize("kind, copy", [("txt", "txt"), ("txt", "txt.gz"), ("jsonl", "jsonl"), ("csv", "csv")])
def test_a_copy_of_a_file_is_known_by_its_content(tokenizer, tmp_path, monkeypatch, kind, copy):
    """Neither its name nor its time matters, nor the number of workers: nothing is tokenized again."""

    def stream(path, **arguments):
        settings, cache = DataArguments(train_file=[str(path)], **arguments), str(tmp_path / "cache")
        return tokenized(
            load_texts(settings, cache, None, False)["train"], Tokenization(tokenizer, settings, None, cache)
        )

    first = stream(write(tmp_path / f"text.{kind}", ["some text", "and more"]))
    (tmp_path / "elsewhere").mkdir()
    other = write(tmp_path / "elsewhere" / f"copy.{copy}", ["some text", "and more"])
    os.utime(other, (1, 1))
    calls: list = []
    prepare = TextTokenizer.__call__
    monkeypatch.setattr(TextTokenizer, "__call__", lambda self, batch: calls.append(1) or prepare(self, batch))
    again = stream(other, preprocessing_num_workers=2)
    assert again.read(0, 3).tolist() == first.read(0, 3).tolist() and not calls
    stream(tmp_path / f"text.{kind}", overwrite_cache=True)
    assert calls, "a guard: where text is tokenized, this test notices"


def test_no_copy_is_made_of_text_files(english_model, english_file, tmp_path):
    """What a run keeps of its text is two bytes a token."""
    argv = [
        "--model_name_or_path",
        english_model,
        "--train_file",
        english_file,
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    run_mlm_wwm.main([*argv, "--do_train", "--max_steps", "1", "--use_cpu", "--output_dir", str(tmp_path / "out")])
    (tokens,) = (tmp_path / "cache").rglob("*.arrow")
    assert tokens.name.startswith("tokens-")
    others = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path != tokens]
    assert sum(path.stat().st_size for path in others) < 1000 < os.path.getsize(english_file)


@pytest.mark.parametrize("left", [0, 5, 1000, -8])
def test_tokens_in_the_cache_that_were_cut_off_are_made_again(left, english_model, english_file, tmp_path):
    """Arrow reads a file that ends between two batches as if it were whole."""
    argv = [
        "--model_name_or_path",
        english_model,
        "--train_file",
        english_file,
        "--cache_dir",
        str(tmp_path / "cache"),
    ]
    argv += ["--preview_masking", "1", "--validation_split_percentage", "0"]
    run_mlm_wwm.main(argv)
    (tokens,) = (tmp_path / "cache").rglob("*.arrow")
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:left])
    for remembered in (tmp_path / "cache").rglob("*.json"):
        remembered.write_bytes(remembered.read_bytes()[:5])
    run_mlm_wwm.main(argv)
    assert tokens.read_bytes() == whole


def test_a_cache_that_cannot_be_written_gets_a_sentence(english_model, english_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    argv = ["--model_name_or_path", english_model, "--train_file", english_file, "--cache_dir", str(tmp_path / "file")]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--use_cpu", "--output_dir", str(tmp_path / "out"))
    assert "--cache_dir" in sentence and "cannot be written" in sentence


def test_a_changed_file_is_not_read_from_the_cache(tmp_path):
    for kind in ("txt", "csv"):
        write(tmp_path / f"text.{kind}", ["old text"])
        assert texts_of(train_file=[str(tmp_path / f"text.{kind}")]) == ["old text"]
        write(tmp_path / f"text.{kind}", ["new text"])
        assert texts_of(train_file=[str(tmp_path / f"text.{kind}")], overwrite_cache=kind == "csv") == ["new text"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("saved", ["dataset", "splits"])
def test_a_dataset_saved_on_disk_is_read(tmp_path, saved, streaming):
    rows = datasets.Dataset.from_dict({"text": LINES, "other": range(len(LINES))})
    if saved == "splits":
        part = datasets.Dataset.from_dict({"text": ["for evaluation"], "other": [1]})
        datasets.DatasetDict({"train": rows, "validation": part}).save_to_disk(tmp_path / "saved")
        arguments = DataArguments(dataset_name=str(tmp_path / "saved"), streaming=streaming)
        (found,) = load_texts(arguments, None, None, True)["validation"].batches()  # which is never a stream
        assert found["text"].to_pylist() == ["for evaluation"]
    else:
        rows.save_to_disk(tmp_path / "saved")
    assert texts_of(dataset_name=str(tmp_path / "saved"), streaming=streaming) == LINES


def test_a_pattern_that_matches_directories_alone_is_told_what_would_match(tmp_path):
    (tmp_path / "one").mkdir()
    write(tmp_path / "one" / "text.txt", ["a text"])
    with pytest.raises(InputError, match=r"matches directories alone, whose files .*/o\*/\*\*/\*.txt would match"):
        find_text_files([str(tmp_path / "o*")], "--train_file")
    assert find_text_files([str(tmp_path / "o*/**/*.txt")], "--train_file") == [str(tmp_path / "one" / "text.txt")]


WRONG_DATASETS = {
    "an empty train split": ({"text": []}, None, "cannot be loaded"),  # by datasets
    "a column of nothing": ({"text": [None, None]}, None, "holds no text in the split train"),
    "blank texts": ({"text": [" ", ""]}, None, "holds no text in the split train"),
    "bytes that are not UTF-8": ({"content": [b"\xff"]}, "content", "holds bytes that are not UTF-8"),
    "a reference of letters": ({"text": ["a"], "chinese_ref": ["[a]"]}, None, "not a list of positions such as"),
    "a reference of half numbers": ({"text": ["a"], "chinese_ref": [[0.5]]}, None, "not a list of positions such as"),
}


@pytest.mark.parametrize("case", WRONG_DATASETS)
def test_a_dataset_is_checked_as_files_are(case, english_model, tmp_path, capsys):
    columns, column, sentence = WRONG_DATASETS[case]
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "saved")
    argv = ["--model_name_or_path", english_model, "--dataset_name", str(tmp_path / "saved"), "--do_train"]
    argv += ["--use_cpu", "--cache_dir", str(tmp_path / "cache"), *(["--text_column_name", column] if column else [])]
    for flags in ((), ("--prepare_only", "--prepared_dir", str(tmp_path / "tokens"))):
        refused = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"), *flags)
        assert "--dataset_name: " in refused and sentence in refused


def test_a_dataset_may_hold_bytes_and_references_as_csv_has_them(tmp_path):
    table = {"content": [b"\xe7\xa0\x94\xe7\xa9\xb6", None], "chinese_ref": ["[2]", None]}
    datasets.Dataset.from_dict(table).save_to_disk(tmp_path / "saved")
    arguments = DataArguments(dataset_name=str(tmp_path / "saved"), text_column_name="content")
    (found,) = load_texts(arguments, str(tmp_path), None, False)["train"].batches()
    assert found.select(["text", "chinese_ref"]).to_pydict() == {"text": ["研究", ""], "chinese_ref": [[2], []]}


@pytest.mark.parametrize("flags", [(), ("--streaming", "--max_steps", "2")])
def test_a_damaged_file_of_a_dataset_is_one_sentence(flags, english_model, tmp_path, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"\n', encoding="utf-8")
    argv = ["--model_name_or_path", english_model, "--dataset_name", str(folder), "--use_cpu", "--do_train", *flags]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"))
    assert f"--dataset_name: {folder} cannot be " in sentence and "JSON" in sentence


@pytest.mark.parametrize("flags", [(), ("--streaming",)])
def test_a_dataset_saved_on_disk_is_trained_on(flags, english_model, tmp_path):
    datasets.Dataset.from_dict({"text": sample_lines("english", 20)}).save_to_disk(tmp_path / "saved")
    argv = ["--model_name_or_path", english_model, "--dataset_name", str(tmp_path / "saved"), "--max_steps", "1"]
    metrics = run_mlm_wwm.main([*argv, "--use_cpu", "--output_dir", str(tmp_path / "out"), *flags])
    if not flags:  # of a stream, nothing is set apart
        assert (metrics["train_samples"], metrics["eval_samples"]) == (19, 1)


@pytest.mark.parametrize("percentage, count", [(5, 2), (25, 10), (1, 1), (0, 0)])
def test_the_first_part_of_the_text_is_set_apart_for_evaluation(english_file, percentage, count):
    lines = Path(english_file).read_text(encoding="utf-8").split("\n")[:-1]
    settings = DataArguments(train_file=[english_file], validation_split_percentage=percentage)
    texts = load_texts(settings, None, None, True)
    found = {split: pa.concat_tables(texts[split].batches())["text"].to_pylist() for split in texts}
    assert found == {"train": lines[count:], **({"validation": lines[:count]} if count else {})}


def test_no_text_is_set_apart_where_there_is_validation_text_or_no_evaluation(tmp_path, english_file):
    other = write(tmp_path / "other.txt", ["other"])
    with_other = load_texts(DataArguments(train_file=[english_file], validation_file=[other]), None, None, True)
    assert [len(with_other[split].source) for split in ("train", "validation")] == [40, 1]
    assert list(load_texts(DataArguments(train_file=[english_file]), None, None, False)) == ["train"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("streaming", [False, True])
def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path, end, streaming):
    lines = ["a\u2028b", "c\x85d", "e\x0bf", "g\x0ch\x1ci", "j\u2029k", "l\rm"]
    path = tmp_path / "text.txt"
    path.write_bytes(end.join(lines).encode())
    assert texts_of(train_file=[str(path)], streaming=streaming) == lines


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\n\n  \t\r\ntwo")
    assert texts_of(train_file=[str(path)]) == ["one", "two"]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("length", [6, 7, 9, 50, 70])
def test_blocks_hold_all_text_and_one_pair_of_special_tokens(tokenizer, english_file, length, streaming):
    lines = Path(english_file).read_text(encoding="utf-8").split("\n")[:-1]
    joined: list[str] = []
    for line in lines:
        joined += [*tokenizer.tokenize(line), "[SEP]"]
    blocks = rows_of(tokenizer, english_file, length, streaming=streaming)
    assert all(block[0] == "[CLS]" and block[-1] == "[SEP]" for block in blocks)
    assert [token for block in blocks for token in block[1:-1]] == joined[:-1]
    assert all(len(block) == length for block in blocks[:-1])
    assert 2 < len(blocks[-1]) <= length
    assert "[CLS]" not in [token for block in blocks for token in block[1:]]


def test_a_last_block_that_just_fits_is_not_followed_by_an_empty_one(tokenizer, tmp_path):
    path = write(tmp_path / "text.txt", ["the the", "the the the"])
    for streaming in (False, True):
        blocks = rows_of(tokenizer, path, 5, streaming=streaming)
        assert blocks == [["[CLS]", "the", "the", "[SEP]", "[SEP]"], ["[CLS]", "the", "the", "the", "[SEP]"]]


def test_blocks_are_not_cut_where_batches_of_a_thousand_lines_end(tokenizer, tmp_path):
    path = write(tmp_path / "text.txt", ["the"] * 2501)
    blocks = rows_of(tokenizer, path, 66)
    assert sum(len(block) - 2 for block in blocks) == 2 * 2501 - 1
    assert {len(block) for block in blocks[:-1]} == {66}


def test_a_stream_loses_no_token_where_batches_of_a_thousand_lines_end(tokenizer, tmp_path):
    """There a block ends early, so that each worker can tokenize its own lines alone."""
    path = write(tmp_path / "text.txt", ["the"] * 2501)
    blocks = rows_of(tokenizer, path, 66, streaming=True)
    assert sum(block.count("the") for block in blocks) == 2501
    assert sum(len(block) < 66 for block in blocks) == 3


@pytest.mark.parametrize("streaming", [False, True])
def test_a_line_is_a_row_and_a_long_one_is_cut_or_split(tokenizer, tmp_path, streaming):
    path = write(tmp_path / "text.txt", ["the the", "the and the and the and the", "and"])
    short = [["[CLS]", "the", "the", "[SEP]"], ["[CLS]", "and", "[SEP]"]]
    parts = [["[CLS]", *middle, "[SEP]"] for middle in (["the", "and", "the"], ["and", "the", "and"], ["the"])]
    settings = {"line_by_line": True, "streaming": streaming}
    assert rows_of(tokenizer, path, 5, long_lines="truncate", **settings) == [short[0], parts[0], short[1]]
    assert rows_of(tokenizer, path, 5, long_lines="split", **settings) == [short[0], *parts, short[1]]


@pytest.mark.parametrize("long_lines", ["truncate", "split"])
def test_long_lines_are_counted_and_reported(english_model, tmp_path, capsys, long_lines):
    path = write(tmp_path / "text.txt", ["the the", "the and the and the", "and and and and", "and"])
    argv = ["--model_name_or_path", english_model, "--train_file", path, "--max_seq_length", "5", "--use_cpu"]
    argv += ["--validation_split_percentage", "0", "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    metrics = run_mlm_wwm.main([*argv, "--long_lines", long_lines])
    printed = capsys.readouterr().err
    shown = {
        "truncate": "cut at 3 tokens 2 (50%), and 3 (25%) of the tokens lost",
        "split": "split at 3 tokens 2 (50%)",
    }
    assert shown[long_lines] in printed
    assert printed.count("add --long_lines split") == (long_lines == "truncate")
    assert metrics["train_samples"] == (4 if long_lines == "truncate" else 6)


def test_nothing_is_reported_where_no_line_is_long(english_model, tmp_path, capsys):
    path = write(tmp_path / "text.txt", ["the the", "and the and"])
    argv = ["--model_name_or_path", english_model, "--train_file", path, "--max_seq_length", "5", "--use_cpu"]
    argv += ["--validation_split_percentage", "0", "--max_steps", "1", "--output_dir", str(tmp_path / "out")]
    run_mlm_wwm.main(argv)
    printed = capsys.readouterr().err
    assert "cut at 3 tokens 0;" in printed and "long_lines" not in printed


def test_the_words_of_a_row_are_those_of_its_text(tokenizer, tmp_path):
    path = write(tmp_path / "text.txt", ["arithmetic arithmetic", "arithmetic"])
    pieces = len(tokenizer.tokenize("arithmetic"))
    assert pieces > 1
    for words, batch in zip((2, 1), batches_of(tokenizer, path, 70, line_by_line=True), strict=True):
        numbers = batch["word_ids"][0].tolist()[1:-1]
        assert [numbers.count(number) for number in dict.fromkeys(numbers)] == [pieces] * words


@pytest.mark.parametrize("kind", slow_after(1, ["csv", "jsonl", "parquet"]))
def test_tables_are_trained_on_by_both_scripts(english_model, tmp_path, kind):
    path = write(tmp_path / f"text.{kind}", sample_lines("english", 20))
    argv = ["--model_name_or_path", english_model, "--train_file", path, "--use_cpu", "--max_steps", "1"]
    assert run_mlm_wwm.main([*argv, "--output_dir", str(tmp_path / "wwm")])["train_samples"] == 19
    assert run_mlm.main([*argv, "--output_dir", str(tmp_path / "mlm")])["train_samples"] > 5


def test_references_in_a_column_are_used_like_those_of_a_file(chinese_model, tmp_path):
    lines = [line for line in sample_lines("chinese", 60) if all("\u4e00" <= char <= "\u9fff" for char in line[:2])]
    text, references, table = tmp_path / "text.txt", tmp_path / "ref.txt", tmp_path / "text.jsonl"
    text.write_text("\n".join(lines), encoding="utf-8")
    references.write_text("[2]\n" * len(lines))
    table.write_text("\n".join(json.dumps({"text": line, "chinese_ref": [2]}) for line in lines))
    argv = ["--model_name_or_path", chinese_model, "--do_train", "--max_steps", "1", "--use_cpu"]
    argv += ["--mlm_probability", "0.4", "--output_dir"]
    by_file = [str(tmp_path / "file"), "--train_file", str(text), "--train_ref_file", str(references)]
    column = run_mlm_wwm.main([*argv, str(tmp_path / "column"), "--train_file", str(table)])
    file = run_mlm_wwm.main([*argv, *by_file])
    none = run_mlm_wwm.main([*argv, str(tmp_path / "none"), "--train_file", str(text)])
    assert column["train_loss"] == file["train_loss"] != none["train_loss"]


def test_references_stay_with_their_lines_when_a_part_is_set_apart(chinese_model, tmp_path, capsys):
    """The last line's reference is wrong, and so must be found in the part that is trained on."""
    lines = [line for line in sample_lines("chinese", 60) if all("\u4e00" <= char <= "\u9fff" for char in line[:2])]
    text, references = tmp_path / "text.txt", tmp_path / "ref.txt"
    text.write_text("\n\n".join(lines), encoding="utf-8")
    references.write_text("[2]\n\n" * (len(lines) - 1) + "[999]\n")
    argv = ["--model_name_or_path", chinese_model, "--train_file", str(text), "--train_ref_file", str(references)]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--output_dir", str(tmp_path / "out"), "--use_cpu")
    assert f"line {2 * len(lines) - 1} of the text" in sentence


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_that_is_given_twice_is_said(tmp_path, caplog, streaming):
    """Also by another name of it, and as training and validation text."""
    text, link = tmp_path / "text.txt", tmp_path / "link.txt"
    text.write_text("a b\nc d\n")
    link.symlink_to(text)
    files = DataArguments(train_file=[str(text), str(link)], validation_file=[str(link)], streaming=streaming)
    load_texts(files, None, None, True)
    assert f"--train_file: {text} is given 2 times, and its examples count as often" in caplog.text
    assert f"--validation_file: {text} is the training text, too, so evaluations tell little" in caplog.text
    assert f"--validation_file: {text} is given" not in caplog.text


def test_different_files_get_no_warning(tmp_path, caplog):
    for name in ("one.txt", "other.txt"):
        (tmp_path / name).write_text("a b\nc d\n")
    files = DataArguments(train_file=[str(tmp_path / "one.txt")], validation_file=[str(tmp_path / "other.txt")])
    load_texts(files, None, None, True)
    assert "times" not in caplog.text and "too" not in caplog.text


AS_LINES = SimpleNamespace(line_by_line=True, long_lines="truncate")


def test_a_line_without_a_token_is_no_sequence():
    division = divide(np.array([3, 0, 2], np.int32), False, 2, 10, AS_LINES, False)
    assert division.documents(range(len(division))) == [[(0, 3)], [(3, 5)]]


def test_a_line_that_just_fits_is_not_cut():
    assert long_lines(np.array([4, 5, 6, 8]), 5, AS_LINES) == (2, 5, 4, "cut")
