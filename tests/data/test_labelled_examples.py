"""Labelled examples: read from any table, and divided into what is learned and what is held out."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordmask.config.probe_arguments import ProbeArguments
from wordmask.data.labelled_examples import held_out_part, read_labelled
from wordmask.utils.errors import InputError

ROWS = [(f'text {number}, "so" 好', number % 3) for number in range(48)]


def write_rows(path: Path, rows: list[tuple[str, object]], comma: str = ",") -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8", newline="") as file:
        quoting = csv.QUOTE_NONE if comma == "\t" else csv.QUOTE_MINIMAL
        writer = csv.writer(file, delimiter=comma, quoting=quoting, quotechar=None if comma == "\t" else '"')
        writer.writerows([("label", "text"), *((label, text) for text, label in rows)])
    return str(path)


@pytest.fixture
def tables(tmp_path) -> list[str]:
    """The same examples in every format."""
    objects = [{"id": 7, "text": text, "label": label} for text, label in ROWS]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, objects)), encoding="utf-8")
    (tmp_path / "e.json").write_text(json.dumps(objects), encoding="utf-8")
    pa.parquet.write_table(pa.Table.from_pylist(objects), tmp_path / "f.parquet")
    return [
        *(write_rows(tmp_path / name, ROWS) for name in ("a.csv", "b.csv.gz")),
        write_rows(tmp_path / "c.tsv", ROWS, "\t"),
        *(str(tmp_path / name) for name in ("d.jsonl", "e.json", "f.parquet")),
    ]


def test_every_format_gives_the_same_examples(tables):
    first, *others = (read_labelled(ProbeArguments(path), seed=1) for path in tables)
    assert sorted(zip(first.texts, first.labels.tolist(), strict=True)) == sorted((text, str(n)) for text, n in ROWS)
    assert first.learned == 36 and {other.digest for other in others} == {first.digest}
    assert all(other.texts == first.texts for other in others)


def test_the_seed_chooses_the_held_out_part(tables):
    one, other = (read_labelled(ProbeArguments(tables[0]), seed) for seed in (1, 2))
    assert one.digest != other.digest and sorted(one.texts) == sorted(other.texts)
    assert Counter(one.held_out_labels.tolist()) == Counter({"0": 4, "1": 4, "2": 4})


def test_a_validation_file_is_held_out_whole(tables, tmp_path):
    rows = [(f"other {number}", number % 2) for number in range(10)]
    examples = read_labelled(ProbeArguments(tables[0], write_rows(tmp_path / "dev.csv", rows)), seed=1)
    assert [*examples.texts] == [text for text, _ in ROWS + rows] and examples.learned == 48
    assert examples.held_out_labels.tolist() == [str(label) for _, label in rows]


@given(st.lists(st.sampled_from("abcde"), min_size=4, max_size=60), st.integers(0, 2**32 - 1))
def test_a_quarter_of_each_label_is_held_out_and_every_label_can_be_learned(labels, seed):
    held_out = held_out_part(np.array(labels), seed)
    for label, count in Counter(labels).items():
        of_label = int(held_out[np.array(labels) == label].sum())
        assert of_label < count and abs(of_label - count / 4) < 1
    assert held_out.tolist() == held_out_part(np.array(labels), seed).tolist()


def test_texts_of_both_parts_are_reported(tmp_path, caplog):
    train = write_rows(tmp_path / "train.csv", ROWS)
    read_labelled(ProbeArguments(train, write_rows(tmp_path / "dev.csv", [(f"new {n}", n % 3) for n in range(12)])), 1)
    assert not caplog.records
    dev = write_rows(tmp_path / "other.csv", [*ROWS[:3], *((f"new {n}", n % 3) for n in range(9))])
    read_labelled(ProbeArguments(train, dev), 1)
    assert "--probe_file: 3 held-out texts are also among those to learn from" in caplog.text


MANY = [("a text", number % 2) for number in range(40)]


@pytest.mark.parametrize(
    "rows, words",
    [
        (MANY[:39], ("has 39 examples", "give 40 or more")),
        ([], ("has 0 examples",)),
        ([("a", "same")] * 40, ("every example", "label 'same'")),
        ([*MANY[:20], ("  ", 1), *MANY, ("", 0)], ("example 21", "no text", "1 other")),
        ([*MANY, ("a", "")], ("example 41", "no label")),
        ([("a", number / 7) for number in range(40)], ("40 different values in 40 examples",)),
    ],
)
def test_what_cannot_be_learned_is_refused(rows, words, tmp_path):
    with pytest.raises(InputError, match="--probe_file: ") as error:
        read_labelled(ProbeArguments(write_rows(tmp_path / "a.csv", rows)), seed=1)
    assert all(word in str(error.value) for word in (str(tmp_path / "a.csv"), *words)), error.value


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", "text,class\na,b\n", ("columns text and label", "no label", "text, class")),
        ("a.tsv", "sentence\tlabel\na\tb\n", ("columns text and label", "no text", "sentence, label")),
        ("a.jsonl", '{"text": "a"}\n', ("columns text and label", "no label")),
        ("a.jsonl", '{"text": ["a", "b"], "label": 1}\n', ("line 1", "a list in column text")),
        ("a.txt", "a\tb\n", ("text file", "no columns", "text and label")),
        ("a.csv", "", ("columns text and label",)),
    ],
)
def test_what_is_no_table_of_texts_and_labels_is_refused(name, content, words, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="--probe_file: ") as error:
        read_labelled(ProbeArguments(str(tmp_path / name)), seed=1)
    assert all(word in str(error.value) for word in (name, *words)), error.value


@pytest.mark.parametrize(
    "rows, words",
    [
        ([*MANY[:10], ("a", "2"), ("b", "3")], ("the label '2', '3'", "lacks")),
        (MANY[:9], ("has 9 examples", "give 10 or more")),
        ([("a", 1)] * 10, ("every example", "label '1'")),
    ],
)
def test_what_cannot_be_measured_is_refused(rows, words, tmp_path):
    train, dev = write_rows(tmp_path / "train.csv", MANY), write_rows(tmp_path / "dev.csv", rows)
    with pytest.raises(InputError, match="--probe_validation_file: ") as error:
        read_labelled(ProbeArguments(train, dev), seed=1)
    assert all(word in str(error.value) for word in (dev, *words)), error.value
