"""Whatever a file or a segmenter gives, its reader returns a value or refuses it in one sentence."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import run_mlm_wwm
from conftest import character_tokenizer, save_model
from wordmask.config.arguments import DataArguments
from wordmask.config.data_arguments import DataArguments as OwnData
from wordmask.config.masking_arguments import MaskingArguments
from wordmask.config.parser import Parser, build
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.prepared_dir import load_prepared
from wordmask.data.prepared_record import RECORD
from wordmask.data.token_store import Tokenization
from wordmask.references.positions import LineReferences, continuations, line_positions
from wordmask.references.reader import parse_references
from wordmask.segmenters import Segmenter
from wordmask.tokenization.special_tokens import special_affixes
from wordmask.tokenization.tokenize import tokenize
from wordmask.utils.errors import InputError

LINES = ["我喜欢你", "T恤很好看", "他们 在图书馆"]
TOKENIZER = character_tokenizer([*LINES, "abc"])
settings.register_profile("reader", max_examples=40, deadline=None, derandomize=True)
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
QUICK = settings(settings.get_profile("reader"), suppress_health_check=CHECKS)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
# What looks like references, and what does not.
REFERENCE_LINES = st.text("[]0123456789-, .e", max_size=12) | VALUES.map(json.dumps) | st.text(max_size=12)


@QUICK
@given(st.lists(REFERENCE_LINES, max_size=4))
@example(["[1],[2", "3]"])
@example(["[" * 3000])
def test_lines_of_a_reference_file(lines):
    """A line is taken only if JSON says that it is a list of integers, and then for this list."""
    try:
        found = parse_references([*enumerate(lines, 1)], "a.ref", "--train_ref_file").to_pylist()
    except InputError as error:
        assert str(error).startswith("--train_ref_file: a.ref, line ")
        return
    assert found == [json.loads(line) for line in lines]
    assert all(type(position) is int for positions in found for position in positions)


@QUICK
@given(st.lists(st.lists(st.integers(-3, 12) | st.integers(), max_size=5), min_size=3, max_size=3), st.booleans())
def test_positions_of_references(positions, classic):
    """Each position is used, left out, or refused by its line."""
    of_lines = (np.full(3, value) for value in (classic, False, not classic))
    places = LineReferences(positions, str, *of_lines, "--train_ref_file")
    tokens = tokenize(TOKENIZER, LINES)
    try:
        continues, left_out = continuations(
            tokens, places, len(special_affixes(TOKENIZER)[0]), np.zeros(len(tokens.ids), bool)
        )
    except InputError as error:
        assert "of the reference for line" in str(error)
        return
    assert continues.sum() == sum(map(len, positions)) - len(left_out)


class Any(Segmenter):
    """Gives words that hypothesis chooses."""

    def __init__(self, words: list[list[str]]):
        self.words = words

    def segment(self, lines):
        return self.words


@QUICK
@given(
    st.lists(
        st.lists(st.sampled_from([*"我喜欢你T恤很好看他们在图书馆", "", " ", "喜欢", "\x00"]), max_size=9), max_size=4
    )
)
@example([["我", "喜欢", "你"], ["T恤", "很", "好看"], ["他们", "在", "图书馆"]])
def test_words_of_a_segmenter(words):
    """Words that do not add up to their line are refused, and others give positions in order."""
    try:
        found = line_positions(TOKENIZER, Any(words), LINES)
    except InputError as error:
        assert str(error).startswith("--segmenter: ")
        return
    assert ["".join(line).replace(" ", "") for line in words] == [line.replace(" ", "") for line in LINES]
    assert all(positions == sorted({*positions}) for positions in found)


NAMES = st.sampled_from(
    ["masking_strategy", "mlm_probability", "preview_masking", "train_file", "max_seq_length", "line_by_line", "x", ""]
)
FILES = st.dictionaries(NAMES, VALUES, max_size=4).map(json.dumps) | VALUES.map(json.dumps) | st.text(max_size=30)


@QUICK
@given(FILES, st.sampled_from([".yaml", ".json"]))
@example("[" * 3000, ".yaml")
@example("a: &a [*a]", ".yaml")
@example("mlm_probability: 2026-11-26", ".yaml")
@example("? [a]\n: b", ".yaml")
def test_argument_files(tmp_path, content, suffix):
    path = tmp_path / f"run{suffix}"
    with contextlib.suppress(UnicodeEncodeError):  # surrogates
        path.write_text(content, encoding="utf-8")
    with contextlib.suppress(InputError):
        namespace = Parser((MaskingArguments, OwnData)).parse([str(path)])
        build(MaskingArguments, namespace)
        build(OwnData, namespace)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Tokenized text in two parts."""
    folder = tmp_path_factory.mktemp("prepared")
    model = save_model(folder / "model", TOKENIZER)
    (folder / "text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    argv = ["--model_name_or_path", model, "--train_file", str(folder / "text.txt"), "--prepare_only"]
    argv += ["--validation_split_percentage", "0", "--part_lines", "2", "--prepared_dir", str(folder / "tokens")]
    run_mlm_wwm.main([*argv, "--use_cpu"])
    return folder / "tokens"


def read(directory: Path) -> list[int] | None:
    """The number of tokens of each text in a directory; `None` if it is refused."""
    try:
        arguments = DataArguments(prepared_dir=str(directory), line_by_line=True)
        texts = load_prepared(arguments, SegmentationArguments())
        stored = {split: of.tokens(Tokenization(TOKENIZER, arguments, None, None)) for split, of in texts.items()}
        return [len(row["tokens"]) for split in stored.values() for row in split.dataset]
    except InputError as error:
        assert str(error).startswith("--")
        return None


@QUICK
@given(st.data())
def test_records_of_prepared_text(prepared, tmp_path, data):
    record = json.loads((prepared / RECORD).read_text(encoding="utf-8"))
    name = data.draw(st.sampled_from([*record, "other"]))
    if data.draw(st.booleans()):
        record.pop(name, None)
    else:
        record[name] = data.draw(VALUES)
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(prepared, copy)
    (copy / RECORD).write_text(json.dumps(record), encoding="utf-8")
    read(copy)


@QUICK
@given(st.floats(0, 1), st.booleans(), st.integers(0, 1))
def test_parts_of_prepared_text_that_are_cut(prepared, tmp_path, share, is_stamped, number):
    """Also where the stamp of the part says that it has this size: then the library has to find it."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(prepared, copy)
    path = sorted(copy.glob("*.arrow"))[number]
    size = path.stat().st_size
    os.truncate(path, int(size * share))
    if is_stamped:
        stamp = json.loads(path.with_suffix(".json").read_text())
        path.with_suffix(".json").write_text(json.dumps(stamp | {"bytes": path.stat().st_size}))
    found = read(copy)
    assert found == read(prepared) if path.stat().st_size == size else found is None or is_stamped
