"""From files of any format to texts: nothing lost, nothing mangled, and a sentence for what cannot be read."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import lzma
import os
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import run_mlm_wwm
from conftest import refusal, sample_lines, slow_after
from wordmask.config.arguments import DataArguments
from wordmask.data.sources import load_texts
from wordmask.data.text_counts import REPORTED
from wordmask.data.token_store import Tokenization, tokenized
from wordmask.references.provenance import TextDigest
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.readers import delimited, read_words

COMPRESS = {
    "": lambda content: content,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def texts_of(*paths, flag: str = "train", **arguments) -> list[str]:
    """The texts of files as a run would read them."""
    settings = DataArguments(**{f"{flag}_file": [str(path) for path in paths]}, **arguments)
    texts = load_texts(settings, None, None, False)[flag]
    if settings.streaming:
        tables = (
            table for shard in range(len(texts.source.shard_sizes)) for table in texts.source.tables(shard, 1000)
        )
    else:
        tables = texts.batches()
    return [text for table in tables for text in table["text"].to_pylist()]


def refused(*paths, **arguments) -> str:
    """The sentence with which files are refused, the same for a stream."""
    sentences = []
    for streaming in (False, True):
        with pytest.raises(InputError) as error:
            texts_of(*paths, streaming=streaming, **arguments)
        sentences.append(str(error.value))
    assert sentences[0] == sentences[1] and "\n" not in sentences[0]
    return sentences[0]


@pytest.fixture
def write(tmp_path):
    """A function that writes a file and gives its path."""

    def write_file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return str(path)

    return write_file


# Every character that hurts, in every format


def as_csv(texts: list[str], **options) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows([["id", "text"], *enumerate(texts)])
    return file.getvalue().encode()


def as_json_lines(texts: list[str], ascii_only: bool = True) -> bytes:
    rows = ({"id": number, "text": text} for number, text in enumerate(texts))
    return "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()


def as_array(texts: list[str], **options) -> bytes:
    return json.dumps([{"id": number, "text": text} for number, text in enumerate(texts)], **options).encode()


def as_parquet(texts: list[str], kind: pa.DataType | None = None) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "text": pa.array(texts).cast(kind or pa.string())}), file)
    return file.getvalue()


def as_tsv(texts: list[str]) -> bytes:
    rows = [["id", "text"], *([str(number), text] for number, text in enumerate(texts))]
    return "".join("\t".join(row) + "\n" for row in rows).encode()


def as_unix_csv(texts: list[str]) -> bytes:
    """A CSV file with the line ends of Unix. Python does not quote a lone `\\r` there, which then ends a line."""
    quoting = csv.QUOTE_ALL if any("\r" in text for text in texts) else csv.QUOTE_MINIMAL
    return as_csv(texts, lineterminator="\n", quoting=quoting)


FORMATS = {
    "a.csv": as_csv,
    "unix.csv": as_unix_csv,
    "mark.csv": lambda texts: b"\xef\xbb\xbf" + as_csv(texts, quoting=csv.QUOTE_ALL),
    "semicolon.csv": lambda texts: as_csv(texts, delimiter=";"),
    "tab.csv": lambda texts: as_csv(texts, delimiter="\t"),
    "a.jsonl": as_json_lines,
    "unicode.jsonl": lambda texts: as_json_lines(texts, ascii_only=False),
    "array.json": as_array,
    "pretty.json": lambda texts: as_array(texts, indent=2, ensure_ascii=False),
    "a.parquet": as_parquet,
    "large.parquet": lambda texts: as_parquet(texts, pa.large_string()),
    "view.parquet": lambda texts: as_parquet(texts, pa.string_view()),
    "dictionary.parquet": lambda texts: as_parquet(texts, pa.dictionary(pa.int32(), pa.string())),
    "a.tsv": as_tsv,
    "a.txt": lambda texts: "".join(f"{text}\n" for text in texts).encode(),
}
HURTFUL = ['"', "'", ",", ";", "\t", "|", "\u2028", "\x85", "\x0b", "\x00", "=", "\ufeff", "\\", "\r", "\n", "a", "中"]
TEXTS = st.lists(st.text(st.sampled_from(HURTFUL) | st.characters(exclude_categories=["Cs"]), max_size=8), max_size=5)


def content_of(name: str, texts: list[str]) -> tuple[bytes, list[str]]:
    """A file of some texts, and those that it can hold, blank ones left out."""
    if name.endswith((".txt", ".tsv")):
        texts = [text.translate({ord("\n"): "n", ord("\t"): "t"}).rstrip("\r") for text in texts]
        texts = [text.lstrip("\ufeff") for text in texts]
    if name.endswith(".tsv"):
        texts = ['" a lone quotation mark', *texts]
    return FORMATS[name](["one", *texts]), ["one", *(text for text in texts if text.strip())]


@pytest.mark.parametrize("name", slow_after(5, FORMATS))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(texts=TEXTS, compression=st.sampled_from(list(COMPRESS)), streaming=st.booleans())
def test_texts_come_back_exactly(tmp_path, name, texts, compression, streaming):
    content, expected = content_of(name, texts)
    path = tmp_path / f"{name}{compression}"
    path.write_bytes(COMPRESS[compression](content))
    assert texts_of(path, streaming=streaming, overwrite_cache=True) == expected


@pytest.mark.slow
def test_formats_change_neither_tokens_nor_the_processes_that_make_them(english_model, tmp_path):
    """Nor is a text tokenized again that was read from another format before."""
    texts = [*sample_lines("english", 30), 'a "lone quote', "=1+1, and; more|", "two\u2028lines"]
    tokenizer, cache = AutoTokenizer.from_pretrained(english_model), str(tmp_path / "cache")
    tokens = {}
    for name in ("a.txt", "a.csv", "array.json", "a.parquet", "a.tsv"):
        (tmp_path / name).write_bytes(FORMATS[name](texts))
        arguments = DataArguments(train_file=[str(tmp_path / name)])
        own = load_texts(arguments, cache, None, False)["train"]
        tokens[name] = tokenized(own, Tokenization(tokenizer, arguments, None, cache))
        assert tokens[name].read(0, 10**6).tolist() == tokens["a.txt"].read(0, 10**6).tolist()
    assert len(list(Path(cache).rglob("tokens-*.arrow"))) == 1
    again = DataArguments(train_file=[str(tmp_path / "a.csv")], preprocessing_num_workers=2, overwrite_cache=True)
    own = load_texts(again, cache, None, False)["train"]
    assert (
        tokenized(own, Tokenization(tokenizer, again, None, cache)).read(0, 10**6).tolist()
        == tokens["a.txt"].read(0, 10**6).tolist()
    )


# What was read is said


@pytest.mark.parametrize("again", [False, True], ids=["counted", "from the cache"])
def test_a_line_says_what_was_read(write, caplog, again):
    for number in range(4):
        write(f"t/{number}.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n' + '{"text": " "}\n' * (number > 0))
        write(f"t/{number}.txt", "a\nb\nc\n" + "\n" * (number > 0))
    folder = str(Path(write("t/x", "")).parent)
    for name in ("*.jsonl", "*.txt"):
        for _ in range(1 + again):
            caplog.clear()
            assert len(texts_of(f"{folder}/{name}")) == 12
        (said,) = caplog.messages
        column = "column text of " * (name == "*.jsonl")
        assert said == f"--train_file: 12 texts from {column}4 files (and 3 blank ones)"
    caplog.clear()
    texts_of(f"{folder}/0.txt", streaming=True)
    assert caplog.messages == ["--train_file: a stream of texts from 1 file"]


def test_each_split_is_said_once(english_model, english_file, tmp_path, caplog):
    argv = ["--model_name_or_path", english_model, "--train_file", english_file, "--validation_file", english_file]
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main([*argv, "--max_steps", "1", "--use_cpu", "--output_dir", str(tmp_path / "out")])
    said = [message for message in caplog.messages if " texts from " in message]
    assert said == ["--train_file: 40 texts from 1 file", "--validation_file: 40 texts from 1 file"]
    caplog.clear()
    run_mlm_wwm.main([*argv, "--prepare_only", "--prepared_dir", str(tmp_path / "prepared"), "--use_cpu"])
    assert [message for message in caplog.messages if " texts from " in message] == said


# Which files


def test_stars_stand_for_folders_and_a_directory_for_its_files(write, tmp_path):
    for name in ("top", "a/one", "a/b/two", "a/b/c/three", "_left/out", ".hidden/out", "a/_out", "a/.out"):
        write(f"tree/{name}.txt", f"{name} 1\n{name} 2\n")
    write("tree/a/one.txt.meta.json", "{}")
    write("tree/README.md", "not a text")
    expected = [f"{name} {line}" for name in ("a/b/c/three", "a/b/two", "a/one", "top") for line in (1, 2)]
    for streaming in (False, True):
        assert texts_of(tmp_path / "tree", streaming=streaming) == expected
    assert [text for text in texts_of(tmp_path / "tree/**/*.txt") if "out" not in text] == expected


@pytest.mark.parametrize("name", ["tree", "tree/*"])
def test_files_of_several_formats_are_counted_and_refused(write, tmp_path, name):
    for file in ("a.txt", "b.txt", "c.jsonl"):
        write(f"tree/{file}", "x\n")
    assert "--train_file: files of one format are needed, found 1 json, 2 txt" in refused(tmp_path / name)


def test_a_directory_without_texts_is_refused(write, tmp_path):
    write("tree/.hidden.txt", "x\n")
    assert "tree is a directory without a file" in refused(tmp_path / "tree")
    write("saved/state.json", "{}")
    assert "--dataset_name" in refused(tmp_path / "saved")


@pytest.mark.parametrize("name", ["A.TXT", "A.Txt.GZ", "corpus"])
def test_names_in_capitals_and_without_an_ending(write, name):
    assert texts_of(write(name, COMPRESS[".gz" if "GZ" in name else ""](b"a\nb\n"))) == ["a", "b"]


# Which column


@pytest.mark.parametrize(
    "content, names",
    [
        ('{"news_id": "61", "title": "Clock", "content": "The clock."}\n', ["news_id", "title", "content"]),
        ('{"thread": "clocks", "posts": ["One.", "Two."]}\n' * 2, ["thread", "posts"]),
        ('{"version": "1", "data": [{"title": "a", "text": "b"}]}', ["version", "data.title", "data.text"]),
        ('{"version": "1",\n"data": [{"text": "b"}]}', ["version", "data.text"]),
    ],
)
def test_several_columns_that_could_be_the_text_are_listed(write, content, names):
    sentence = refused(write("a.json", content))
    assert "--text_column_name" in sentence and sentence.endswith(": " + ", ".join(names))


def test_every_column_of_csv_could_be_the_text(write):
    assert refused(write("a.csv", "number,content\n1,a b\n")).endswith(": number, content")
    assert refused(write("a.csv", ",content\n1,a b\n")).endswith(": (a column without a name), content")
    assert texts_of(write("a.csv", ",text,x,x\n1,a b,2,3\n")) == ["a b"]
    assert texts_of(write("a.csv", "content\na b\n")) == ["a b"]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_the_name_of_a_column_may_hold_what_separates_others(write, separator):
    """A line break, and each other separator, also where the text holds them."""
    others = [mark for mark in (",", ";", "\t", "|") if mark != separator]
    names = ["id", "text", '"Befund\nlang"', *(f"Alter{mark} Jahre" for mark in others)]
    rows = [names, ["1", f"RR 142/89{others[0]} ok", "x", *others], ["2", "stabil", "y", "", "", ""]]
    path = write("a.csv", "".join(f"{separator.join(row)}\n" for row in rows))
    assert texts_of(path) == [f"RR 142/89{others[0]} ok", "stabil"]
    assert texts_of(path, text_column_name="Befund\nlang") == ["x", "y"]


@pytest.mark.parametrize(
    "content, texts",
    [
        ("id;Age, years;text\n7;45;a, b\n8;46;c\n", ["a, b", "c"]),  # not each row has the comma
        ('id;"Age, years";text\n7;45,5;a\n', ["a"]),  # a quotation mark within a name
        ('id,"tags;a;b;c",text\n1,"x;y;z;w",hello\n', ["hello"]),  # both fit: a comma is the likely one
        ("id,lang|domain|year,text\n1,en|wiki|2020,hello\n", ["hello"]),
        ('id;text\n1;"two\nlines, and"\n2;b\n', ["two\nlines, and", "b"]),
    ],
)
def test_the_separator_is_what_all_first_rows_agree_on(write, content, texts):
    assert texts_of(write("a.csv", content)) == texts


def test_the_separator_is_found_where_the_first_rows_are_very_long(write, monkeypatch):
    """Only the first lines are searched: a file may have lines of any length."""
    monkeypatch.setattr(delimited, "HEAD", 25)
    rows = "".join(f'{number};{number};"one\ntwo, three"\n' for number in range(30))
    path = write("a.csv", f"id;Age, years;text\n{rows}")
    assert texts_of(path) == ["one\ntwo, three"] * 30


def test_the_first_line_of_excel_may_name_the_separator(write):
    for line in ("sep=;", '"sep=;"'):
        assert texts_of(write("a.csv", f"{line}\nid;text\n1;RR 142, ok\n")) == ["RR 142, ok"]
    assert "line 4 has 3 fields" in refused(write("a.csv", "sep=;\nid;text\n1;a\n2;b;c\n"))


def test_a_table_that_pandas_wrote_column_by_column_is_told(write):
    texts = {"text_of_note": {str(number): f"a {number} b" for number in range(30)}}
    assert "as pandas writes it; write rows, with to_json(..., orient" in refused(write("a.json", json.dumps(texts)))


def test_an_abbreviation_is_the_name_of_a_column(write):
    assert texts_of(write("a.csv", "Fall-Nr.;Befund;text\n1;a;b\n")) == ["b"]
    assert refused(write("a.csv", "Fall-Nr.;Befund\n1;a\n")).endswith("--text_column_name: Fall-Nr., Befund")
    sentence = refused(write("a.csv", "Fall-Nr.;Was ist passiert?\n1;a\n"))
    assert "'Was ist passiert?' looks like a text; if this line is the header, choose its column" in sentence
    assert sentence.endswith("--text_column_name: Fall-Nr., Was ist passiert?; if not, add a header before it")


@pytest.mark.parametrize(
    "name, texts",
    [
        ("posts", ["One.", "Two.", "Three."]),
        ("review.body", ["inside", "and again"]),
        ("a.b", ["key with a dot", ""]),
        ("parts.text", ["p", "q", "r"]),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_lists_and_fields_inside_others_are_read_where_they_are_named(write, name, texts, kind):
    rows = [
        {"posts": ["One.", "Two."], "review": {"body": "inside"}, "a.b": "key with a dot", "a": {"b": "other"}},
        {"posts": ["Three."], "review": {"body": "and again"}, "a.b": None, "a": {"b": "other"}},
    ]
    for row, parts in zip(rows, (["p"], ["q", "r"]), strict=True):
        row["parts"] = [{"text": part, "number": 1} for part in parts]
    path = write(f"a.{kind}", json.dumps(rows) if kind == "json" else "\n".join(map(json.dumps, rows)))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    for streaming in (False, True):
        assert texts_of(path, text_column_name=name, streaming=streaming) == [text for text in texts if text]


@pytest.mark.parametrize("name", ["number", "numbers", "inside", "flag", "nothing_like_it"])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_no_text_is_refused_where_it_is_named(write, name, kind):
    rows = [{"content": "a", "number": 1, "numbers": [1, 2], "inside": {"text": "a"}, "flag": True}]
    path = write(f"a.{kind}", json.dumps(rows[0]))
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    sentence = refused(path, text_column_name=name)
    assert sentence.startswith("--text_column_name: ") and f"column {name}" in sentence and "content" in sentence
    assert texts_of(path) == ["a"], "without being asked, the only text is taken"


def test_bytes_are_text_only_where_they_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"raw": ["é".encode(), b"\xff"], "number": [1, 2]}), path)
    assert "raw" in refused(path)
    assert "row 2 holds bytes that are not UTF-8" in refused(path, text_column_name="raw")


@pytest.fixture(params=[sys.int_info.default_max_str_digits, sys.int_info.str_digits_check_threshold])
def most_digits(request):
    """How many digits Python turns into an integer, which a user may lower."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(request.param)
    yield
    sys.set_int_max_str_digits(before)


def test_other_columns_may_be_anything(write, most_digits):
    """Another type in each file and block, other columns, numbers first, more digits than Python reads, NaN."""
    first = write("1.jsonl", '{"text": "a", "source": "x"}\n')
    long = ", ".join("1" + "0" * digits for digits in (700, 5000))
    rows = '{"score": 0.5, "text": "b"}', '{"text": "c", "score": ["y"], "n": NaN, "m": [' + long + "]}"
    second = write("2.jsonl", "\n".join(rows))
    third = write("3.jsonl", '{"text": 100}\n{"text": null}\n{"text": "d"}\n')
    for streaming in (False, True):
        assert texts_of(first, second, third, streaming=streaming) == ["a", "b", "c", "100", "d"]
    numbers = write("n.csv", "text\n" + "".join(f"{number}\n" for number in range(3000)) + "words\n")
    assert texts_of(numbers)[2998:] == ["2998", "2999", "words"]


@pytest.mark.parametrize("begin, between, end", [("", "", ""), ("[", ",", "]")], ids=["lines", "array"])
@pytest.mark.parametrize(
    "before, other", [({}, "text"), ({}, "body"), ({"body": None}, "body"), ({"body": 3}, "body")]
)
def test_a_text_in_another_column_after_the_first_rows_is_not_lost(write, begin, between, end, before, other):
    """The first 1,000 rows alone chose the column, and a text in another one was left out."""
    rows = [{"title": "a", **before}] * 1500 + [{"title": "b", other: "long"}] * 3
    path = write("a.json", begin + between.join(f"{json.dumps(row)}\n" for row in rows) + end)
    sentence = refused(path)
    assert all(part in sentence for part in ("a.json, line 1501", f"column {other}", f"title, {other}")), sentence
    assert texts_of(path, text_column_name="title") == ["a"] * 1500 + ["b"] * 3
    assert texts_of(path, text_column_name=other)[-3:] == ["long"] * 3


def test_a_column_that_begins_with_numbers_is_read(write):
    path = write("a.jsonl", '{"text": 1}\n' * 1500 + '{"text": "a"}\n')
    assert texts_of(path) == ["1"] * 1500 + ["a"]


def test_a_column_that_one_file_lacks_is_said_of_the_files(write):
    """Nobody gave --text_column_name, which the sentence blamed."""
    sentence = refused(write("1.csv", "id,text\n1,a\n"), write("2.csv", "body,lab\nb,c\n"))
    assert sentence.startswith("--train_file: ") and "2.csv has no column text, as another file has" in sentence


def test_a_column_may_begin_late_and_is_missed_where_no_row_has_it(write):
    path = write("a.jsonl", '{"content": "a"}\n' * 2500 + '{"late": "b"}\n')
    assert texts_of(path, text_column_name="late") == ["b"]
    other = write("b.jsonl", '{"content": "a"}\n')
    assert "b.jsonl has no column late" in refused(path, other, text_column_name="late")


def test_tables_and_plain_text_go_together_with_a_named_column(write):
    arguments = {"train_file": [write("a.csv", "id,body\n1,a b\n")], "validation_file": [write("a.txt", "plain\n")]}
    texts = load_texts(DataArguments(**arguments, text_column_name="body"), None, None, True)
    assert [next(texts[split].batches())["text"].to_pylist() for split in texts] == [["a b"], ["plain"]]
    assert "--text_column_name" in refused(arguments["validation_file"][0], text_column_name="body")


# What cannot be read


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "text\nI ate pie, ice cream.\n", ["line 2", "2 fields", "header has 1"]),
        ("a.csv", 'id,text\n1,"two\nlines"\n\n2,a,b\n', ["line 5", "3 fields", "header has 2"]),
        ("a.csv", 'id,text\n1,"two\nlines",b\n', ["line 2", "3 fields", "header has 2"]),
        ("a.csv", 'id,text\n1,ok\n2,"Never, he said\n3,x\n', ["line 3", "no row of CSV"]),
        ("a.csv", 'id,text\n1,"Ok" they said\n', ["line 2", "no row of CSV"]),
        ("a.csv", "The old clock struck twelve\nEverybody slept\n", ["line 1", "looks like a text"]),
        ("a.csv", "我喜欢你。\n今天\n", ["line 1", "looks like a text"]),
        ("a.csv", "0,words\n1,more\n", ["line 1", "'0'", "looks like a text"]),
        ("a.csv", "text,text\na,b\n", ["line 1", "text twice"]),
        ("a.csv", "body,body\na,b\n", ["line 1", "body twice"]),
        ("a.tsv", "body\tchinese_ref\tchinese_ref\na\t[]\t[]\n", ["line 1", "chinese_ref twice"]),
        ("a.csv", "id,text\r1,a\r2,b\r", ["line 1", "\\r alone"]),
        ("a.tsv", 'id\ttext\n1\t"a ""b"""\n2\t"c"\n', ["quoted as in CSV", "rename it to .csv"]),
        ("a.tsv", "id,text\n1,a\n", ["without a tab", "rename the file to .csv"]),
        ("a.tsv", "id\ttext\n1\ta\tb\n", ["line 2", "3 fields", "header has 2"]),
        ("a.jsonl", '{"text": "a"}\n{"text": }\n', ["line 2", "not JSON"]),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', ["line 2", '["b"]', "not an object"]),
        ("a.jsonl", '{"text": "a"}\n{"text": {"en": "b"}}\n', ["line 2", "an object"]),
        ("a.jsonl", '{"text": "a"}\n{"text": "\\ud800"}\n', ["line 2", "\\ud800"]),
        ("a.jsonl", '{"text": "a"}\n{"text": %s\n' % ("[" * 100_000), ["line 2", "nested too deep"]),
        ("a.json", '[{"text": "a"},\n {"text": b}]', ["line 2", "not JSON"]),
        ("a.json", '[{"text": "a"},\n {"text": "b"}', ["line 2", "not JSON"]),
        ("a.json", '[{"text": "a"}]\n[]', ["line 2", "behind the array"]),
        ("a.json", '["a", "b"]', ["not an object"]),
        ("a.json", "[" * 100_000, ["line 1", "nested too deep"]),
        ("a.json", b'[{"text": "a"},\n {"text": "\xff"}]', ["line 2", "0xff", "UTF-8"]),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', ["line 2", "0xff", "UTF-8"]),
        ("a.csv", b"text\na\n\xff\n", ["line 3", "0xff", "UTF-8"]),
        ("a.tsv", b"text\na\n\xff\n", ["line 3", "0xff", "UTF-8"]),
        ("a.parquet", b"PAR1 or not", ["cannot be read as Parquet"]),
    ],
)
def test_a_mistake_in_a_file_is_located(write, name, content, words):
    path = write(name, content)
    with pytest.raises(InputError) as error:
        texts_of(path)
    sentence = str(error.value)
    assert sentence.startswith(f"--train_file: {path}") and all(word in sentence for word in words), sentence


def test_mistakes_are_one_line_for_both_scripts(write, english_model, tmp_path, capsys):
    path = write("a.csv", "text\nI ate pie, ice cream.\n")
    argv = ["--model_name_or_path", english_model, "--train_file", path, "--output_dir", str(tmp_path / "out")]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--use_cpu")
    assert "--train_file" in sentence and "line 2 has 2 fields where the header has 1" in sentence


def test_a_header_that_was_named_is_one(write):
    path = write("a.csv", "How satisfied are you with it?,n\nvery,1\n")
    assert "looks like a text" in refused(path)
    assert texts_of(path, text_column_name="How satisfied are you with it?") == ["very"]


def test_a_field_may_be_larger_than_pythons_limit(write):
    assert texts_of(write("a.csv", f"id,text\n1,{'x' * 200_000}\n")) == ["x" * 200_000]


def test_quotation_marks_of_tsv_are_characters(write):
    texts = ["plain", '"Never, he said and left', 'she answered "no"', '"Ok" they said', "last"]
    assert texts_of(write("a.tsv", "id\ttext\n" + "".join(f"1\t{text}\n" for text in texts))) == texts


def test_one_document_is_read_element_by_element(write, monkeypatch):
    """Wherever a block of it ends: in a string, an escape, a number, a name."""
    rows = [{"n": 12345, "text": f'"{number}" \\ é\u2028 \U0001f600', "t": [True, None]} for number in range(20)]
    documents = {
        "array.json": (json.dumps(rows), None),
        "fields.json": (json.dumps({"v": {"a": 1}, "data": rows, "end": [1]}, indent=1), "data.text"),
        "several.json": ("\n".join(json.dumps(row, indent=1) for row in rows), None),
    }
    for size in (1, 3, 7, 10**6):
        monkeypatch.setattr("wordmask.utils.readers.json_file.CHUNK", size)
        for name, (content, column) in documents.items():
            path = write(name, content)
            assert texts_of(path, text_column_name=column, overwrite_cache=True) == [row["text"] for row in rows]


# Long texts


def test_batches_are_bounded_by_characters(monkeypatch):
    monkeypatch.setattr("wordmask.utils.batches.CHARACTERS", 10)
    assert list(batches(["a" * 4] * 7, 5)) == [["a" * 4] * 3, ["a" * 4] * 3, ["a" * 4]]
    assert list(batches(["a" * 50, "b", "c"], 2)) == [["a" * 50], ["b", "c"]]


def test_long_texts_of_a_span_come_in_smaller_tables(write, monkeypatch):
    monkeypatch.setattr("wordmask.utils.batches.CHARACTERS", 10)
    path = write("a.txt", "".join(f"{'x' * 6}{number}\n" for number in range(9)))
    texts = load_texts(DataArguments(train_file=[path]), None, None, False)["train"]
    assert [len(table) for tables in texts.tables([range(1, 4), range(4, 9)]) for table in tables] == [2, 1, 2, 2, 1]


def test_the_digest_of_texts_with_line_ends_is_that_of_no_other_texts():
    digests = set()
    for texts in (["a\nb"], ["a", "b"], ["a\n", "b"], ["a", "\nb"], ["a\0\nb"]):
        digest = TextDigest()
        digest.add(texts)
        digests.add(digest.hexdigest())
    assert len(digests) == 5


# References beside the texts, and datasets


def test_references_beside_the_texts_are_read_in_every_format(write, tmp_path):
    rows = [
        {"text": "我喜欢你", "chinese_ref": [3]},
        {"text": " ", "chinese_ref": []},
        {"text": "我", "chinese_ref": []},
    ]
    paths = [
        write("a.jsonl", "\n".join(map(json.dumps, rows))),
        write("a.csv", 'text,chinese_ref\n我喜欢你,[3]\n" ",[]\n我,\n'),
        write("a.tsv", "text\tchinese_ref\n我喜欢你\t[3]\n \t[]\n我\t[]\n"),
        str(tmp_path / "a.parquet"),
    ]
    pq.write_table(pa.Table.from_pylist(rows), paths[-1])
    expected = [{"line": 1, "text": "我喜欢你", "chinese_ref": [3], "file": 0}]
    expected += [{"line": 3, "text": "我", "chinese_ref": [], "file": 0}]
    for path in paths:
        texts = load_texts(DataArguments(train_file=[path]), None, None, False)["train"]
        assert [row for table in texts.batches() for row in table.drop_columns(REPORTED).to_pylist()] == expected


@pytest.mark.parametrize("wrong", ['[1, "x"]', "3", '{"a": 1}', "[2.5]", "[99999999999]"])
def test_a_reference_beside_a_text_that_is_none_is_refused(write, wrong):
    path = write("a.jsonl", f'{{"text": "a b", "chinese_ref": []}}\n{{"text": "b", "chinese_ref": {wrong}}}\n')
    with pytest.raises(InputError, match="--train_file: .*a.jsonl.*(line 2 holds|out of range)"):
        texts_of(path)


def test_columns_of_a_dataset_are_chosen_in_the_same_way(tmp_path):
    def read(name: str | None, **columns) -> list[str]:
        datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / str(len(list(tmp_path.iterdir()))))
        path = max(tmp_path.iterdir(), key=lambda path: int(path.name))
        arguments = DataArguments(dataset_name=str(path), text_column_name=name)
        tables = load_texts(arguments, str(tmp_path.parent / "cache"), None, False)["train"].batches()
        return [text for table in tables for text in table["text"].to_pylist()]

    assert read(None, number=[1], content=["a"]) == ["a"]
    assert read("posts", thread=["t", "u"], posts=[["a", "b"], ["c"]]) == ["a", "b", "c"]
    assert read("review.body", review=[{"body": "a"}, {"body": "b"}]) == ["a", "b"]
    with pytest.raises(InputError, match="several columns that could be the text.*: news, content"):
        read(None, news=["1"], content=["a"])


# What a stranger tried


@pytest.mark.parametrize(
    "row, listed",
    [
        ({"id": "a1", "review": {"title": "t", "body": "hello"}}, "id, review.title, review.body"),
        ({"id": "a1", "messages": [{"role": "user", "content": "hi"}]}, "id, messages.role, messages.content"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_an_id_beside_fields_inside_others_is_not_taken_for_the_text(write, tmp_path, row, listed, kind):
    path = tmp_path / f"table.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    assert refused(path).endswith(": " + listed)
    assert texts_of(path, text_column_name="id") == ["a1"]


def test_a_named_column_may_begin_with_many_numbers(write):
    rows = [{"text": number} for number in range(1100)] + [{"text": "at last"}]
    path = write("late.jsonl", "\n".join(map(json.dumps, rows)))
    assert texts_of(path, text_column_name="text")[-2:] == ["1099", "at last"]


def test_a_missing_text_of_pandas_is_blank(write):
    assert texts_of(write("nan.jsonl", '{"text": "a"}\n{"text": NaN}\n{"text": "b"}\n')) == ["a", "b"]


def test_a_name_that_two_columns_of_parquet_have_is_refused(tmp_path):
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "two.parquet")
    assert "several columns named text" in refused(tmp_path / "two.parquet")


def test_a_link_to_a_parent_directory_shows_no_file_twice(write, tmp_path):
    write("tree/a.txt", "one\n")
    (tmp_path / "tree" / "loop").symlink_to(tmp_path / "tree", target_is_directory=True)
    assert texts_of(tmp_path / "tree") == texts_of(tmp_path / "tree" / "**" / "*.txt") == ["one"]


def test_a_text_of_the_same_size_and_time_is_read_again(write, tmp_path):
    def fingerprint() -> str:
        return load_texts(DataArguments(train_file=[str(path)]), str(tmp_path), None, False)["train"].fingerprint

    path = Path(write("text.txt", "alpha\n"))
    times = path.stat()
    assert texts_of(path) == ["alpha"]
    first = fingerprint()
    path.write_text("omega\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert texts_of(path) == ["omega"]
    assert fingerprint() != first, "tokens in the cache are known by it"


def test_a_list_behind_many_texts_is_not_taken_without_being_asked(write):
    path = write("late.jsonl", '{"text": "a"}\n' * 1100 + '{"text": ["b", "c"]}\n')
    with pytest.raises(InputError, match="line 1101 .*list.*--text_column_name text"):
        texts_of(path)
    assert texts_of(path, text_column_name="text")[-2:] == ["b", "c"]


# Words


def test_a_file_of_words_is_read_as_text_is(tmp_path):
    content = "\ufeffgraft\r\n\n new\u2028wave\t\ngraft\nword".encode()
    (tmp_path / "words.txt").write_bytes(content)
    (tmp_path / "words.txt.gz").write_bytes(gzip.compress(content))
    for name in ("words.txt", "words.txt.gz"):
        assert read_words(tmp_path / name, "--add_words") == ["graft", "new\u2028wave", "word"]
    (tmp_path / "words.txt").write_bytes(b"graft\n\xff\n")
    with pytest.raises(InputError, match="--add_words: .*words.txt, line 2: byte 0xff at column 1 is not UTF-8"):
        read_words(tmp_path / "words.txt", "--add_words")
