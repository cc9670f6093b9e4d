"""Reference files: what is written, what is read back, and every way in which a file and a text can disagree."""

from __future__ import annotations

import gzip
import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizer

import run_mlm_wwm
from conftest import character_tokenizer, pair_with_text, read_positions, refusal, save_model
from wordmask.config.arguments import DataArguments
from wordmask.data.sources import load_texts
from wordmask.references import writer
from wordmask.references.output import Output, check_output
from wordmask.references.positions import LineReferences, continuations
from wordmask.references.provenance import Provenance, check_tokenizer, read_provenance, sidecar, write_provenance
from wordmask.references.reader import pairs_blank_lines
from wordmask.segmenters import Segmenter
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.tokenization.tokenize import tokenize
from wordmask.utils.errors import InputError
from wordmask.utils.parts import Work
from wordmask.utils.readers import TextReader

TEXT = ["研究生命", "", "我喜欢你。", "  \t", "OK研究", "\u3000", "生"]
REFERENCES = [[2, 4], [3], [4], []]  # 研究/生命  我/喜欢/你/。  o ##k 研究  生
FLAG, TEXT_FLAG = "--train_ref_file", "--train_file"


def write_references(texts, path, tokenizer, segmenter, mixed=False):
    return writer.write_references(
        texts, Output(path), writer.Annotator(lambda: tokenizer, lambda _: segmenter, mixed), Work()
    )


class Known(Segmenter):
    """Finds the words that it knows; every other character is one."""

    def __init__(self, *words: str, name: str = "known"):
        self.words, self.name = words, name
        self.seen: list[str] = []

    def segment(self, lines):
        self.seen += lines
        return [self._cut(line) for line in lines]

    def _cut(self, line: str) -> list[str]:
        cut = []
        while line:
            word = next((word for word in self.words if line.startswith(word)), line[0])
            cut.append(word)
            line = line[len(word) :]
        return cut

    @property
    def identity(self):
        return {"name": self.name, "version": "1"}


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer(["研究生命我喜欢你。okab恤T"])


@pytest.fixture
def write(tmp_path):
    """A function that writes lines to a file and gives its path."""

    def write_lines(name: str, lines, end: str = "\n") -> str:
        path = tmp_path / name
        path.write_text("".join(f"{line}{end}" for line in lines), encoding="utf-8", newline="")
        return str(path)

    return write_lines


def made(write, tokenizer, lines=TEXT, **options) -> tuple[str, str, Provenance]:
    """The text and the reference file that was made from it."""
    text = write("text.txt", lines)
    path = text.replace("text.txt", "ref.txt")
    return text, path, write_references([text], path, tokenizer, Known("研究", "生命", "喜欢", "T恤"), **options)


def lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return file.read().split("\n")


# Writing


def test_a_reference_has_a_line_for_each_line_and_a_blank_one_for_a_blank_one(write, tokenizer):
    _, path, _ = made(write, tokenizer)
    assert lines_of(path) == ["[2, 4]", "", "[3]", "", "[4]", "", "[]", ""]


def test_lines_are_segmented_as_they_stand(write, tokenizer):
    """Stripping would move the offsets of everything behind it; only blank lines are not segmented."""
    segmenter, text = Known("研究"), write("text.txt", [" 研究 ", "", "我\u2028研究\r我", "研究\t"])
    write_references([text], text + ".ref", tokenizer, segmenter)
    assert segmenter.seen == [" 研究 ", "我\u2028研究\r我", "研究\t"]
    assert lines_of(text + ".ref") == ["[2]", "", "[3]", "[2]", ""]


def test_several_files_of_any_compression_make_one_reference_file(write, tokenizer, tmp_path):
    first, second = write("a.txt", ["研究", "我"], end="\r\n"), str(tmp_path / "b.txt.gz")
    with gzip.open(second, "wt", encoding="utf-8") as file:
        file.write("\n生命")  # no line end behind the last line
    path = str(tmp_path / "ref.txt")
    provenance = write_references([first, second], path, tokenizer, Known("研究", "生命"))
    assert lines_of(path) == ["[2]", "[]", "", "[2]", ""]
    assert provenance.lines == 4
    whole = write("whole.txt", ["研究", "我", "", "生命"])
    assert write_references([whole], path, tokenizer, Known()).text_sha256 == provenance.text_sha256


def test_batches_of_lines_keep_their_order_and_their_numbers(write, tokenizer, monkeypatch):
    """Blank lines, and more lines than one batch: an error names the line of the file, not of the batch."""
    lines = ["研究", "", "生命研究", "我"] * 3
    text, path, provenance = made(write, tokenizer, lines)
    whole = lines_of(path)
    small = text + ".small"
    monkeypatch.setattr("wordmask.utils.batches.batches.__defaults__", (5,))
    write_references([text], small, tokenizer, Known("研究", "生命", "喜欢", "T恤"))
    assert lines_of(small) == whole == ["[2]", "", "[2, 4]", "[]"] * 3 + [""]
    assert provenance.lines == 12


@pytest.mark.parametrize("blank_before", [0, 1, 3])
def test_a_segmenter_that_loses_text_is_reported_with_the_line_of_the_file(write, tokenizer, blank_before):
    class Loses(Segmenter):
        def segment(self, lines):
            return [[line.replace("命", "")] for line in lines]

    text = write("text.txt", ["研究", *[""] * blank_before, "生命"])
    with pytest.raises(InputError, match=f"line {blank_before + 2},"):
        write_references([text], text + ".ref", tokenizer, Loses())


@pytest.mark.parametrize("lines", [[], ["", " \t", "\u3000"]], ids=["empty", "blank"])
def test_a_text_without_text_leaves_no_reference_file(write, tokenizer, lines, tmp_path):
    text = write("text.txt", lines)
    with pytest.raises(InputError, match="--file_name.*text.txt has no text"):
        write_references([text], str(tmp_path / "ref.txt"), tokenizer, Known())
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_after_an_error_the_old_reference_file_stands(write, tokenizer, tmp_path):
    """Nothing half-written appears under the final name, and no temporary file stays."""
    _, path, _ = made(write, tokenizer)
    before, broken = lines_of(path), tmp_path / "broken.txt"
    broken.write_bytes("研究\n".encode() + b"\xff\n")
    with pytest.raises(InputError, match="line 2.*0xff.*UTF-8"):
        write_references([str(broken)], path, tokenizer, Known())
    assert lines_of(path) == before
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"broken.txt", "ref.txt", "ref.txt.meta.json", "text.txt"}


def test_an_existing_output_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "ref.txt"
    check_output(str(path), overwrite=False)
    path.write_text("[]\n")
    with pytest.raises(InputError, match="--save_path.*exists.*--overwrite"):
        check_output(str(path), overwrite=False)
    check_output(str(path), overwrite=True)


# Provenance


def test_two_dictionaries_have_two_names_in_a_message():
    """Only a digest is shortened: small and core both begin with sudachidict_."""
    small, own = ({"name": "sudachi", "dictionary": value} for value in ("sudachidict_small 20260101", "0a" * 32))
    assert Provenance(segmenter=small).words == "sudachi (dictionary sudachidict_small 20260101)"
    assert Provenance(segmenter=own).words == "sudachi (dictionary 0a0a0a0a0a0a)"


def test_provenance_says_what_a_file_was_made_from(write, tokenizer):
    _, path, returned = made(write, tokenizer, mixed=True)
    provenance = read_provenance(path, FLAG)
    assert provenance == returned
    assert (provenance.lines, provenance.mixed_words) == (len(TEXT), True)
    assert provenance.segmenter == {"name": "known", "version": "1"}
    assert provenance.tokenizer_sha256 == tokenizer_digest(tokenizer)
    assert sidecar(path).name == "ref.txt.meta.json"


@pytest.mark.parametrize(
    "change, same",
    [
        (lambda text: text.replace(b"\n", b"\r\n"), True),
        (lambda text: b"\xef\xbb\xbf" + text, True),
        (lambda text: text.removesuffix(b"\n"), True),
        (lambda text: text.replace("研".encode(), "你".encode(), 1), False),
        (lambda text: text.replace(b"\n", b" \n", 1), False),
        (lambda text: text.replace("。".encode(), "。\n".encode()), False),
    ],
    ids=["line ends", "byte order mark", "no last line end", "a character", "a space", "a line more"],
)
def test_the_digest_of_a_text_sees_its_lines_and_nothing_else(write, tokenizer, tmp_path, change, same):
    text, _, provenance = made(write, tokenizer)
    other = tmp_path / "other.txt"
    other.write_bytes(change((tmp_path / "text.txt").read_bytes()))
    digest = write_references([str(other)], str(tmp_path / "o"), tokenizer, Known()).text_sha256
    assert (digest == provenance.text_sha256) is same


def test_a_classic_file_has_no_provenance(write):
    assert read_provenance(write("ref.txt", ["[2]"]), FLAG) is None


WRONG_VALUES = ['{"contents": 5}', '{"contents": {"a": 1}}', '{"segmenter": null}', '{"segmenter": ["a"]}']
WRONG_VALUES += ['{"segmenter": {"name": 5}}', '{"mixed_words": "no"}', '{"lines": "7"}', '{"decides": [1]}']


@pytest.mark.parametrize("content", ["", "{", "[]", '{"unknown": 1}', "3", "\x00", *WRONG_VALUES])
def test_a_sidecar_that_is_none_is_named(write, content):
    path = write("ref.txt", ["[2]"])
    sidecar(path).write_text(content)
    with pytest.raises(InputError, match=f"{FLAG}.*ref.txt.meta.json"):
        read_provenance(path, FLAG)


def test_another_tokenizer_is_refused_and_the_same_one_elsewhere_is_not(write, tokenizer, tmp_path):
    _, path, provenance = made(write, tokenizer)
    tokenizer.save_pretrained(tmp_path / "copy")
    check_tokenizer(provenance, BertTokenizer.from_pretrained(tmp_path / "copy"), path, FLAG)
    vocabulary = tokenizer.get_vocab()
    others = [
        character_tokenizer(["研究"]),
        BertTokenizer(vocab=vocabulary, do_lower_case=False),
        BertTokenizer(vocab=vocabulary, tokenize_chinese_chars=False),
    ]
    for number, other in enumerate(others):
        other.name_or_path = f"other-{number}"
        with pytest.raises(
            InputError, match=f"{FLAG}.*ref.txt was made with another tokenizer.*--bert other-{number}"
        ):
            check_tokenizer(provenance, other, path, FLAG)


def test_a_tokenizer_of_the_same_name_is_said_to_have_changed(write, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "bert")
    same = BertTokenizer.from_pretrained(tmp_path / "bert")
    _, path, provenance = made(write, same)
    same.add_tokens(["研究"])
    with pytest.raises(
        InputError, match=f"{FLAG}.*ref.txt was made with the tokenizer given here.*changed.*--bert"
    ) as e:
        check_tokenizer(provenance, same, path, FLAG)
    assert "another tokenizer" not in str(e.value)


def test_truncation_and_padding_do_not_make_another_tokenizer(tokenizer):
    """They are settings of a call; a digest that held them would refuse good files."""
    before = tokenizer_digest(tokenizer)
    tokenizer(["研究", "研"], truncation=True, max_length=3, padding="max_length")
    assert tokenizer_digest(tokenizer) == before


# Reading


def test_references_are_read_as_they_stand_and_blank_lines_are_passed_over(write):
    path = write("ref.txt", ["[2, 5]", "", " [ ] ", "\t", "[0,-1,99]"])
    assert list(read_positions(path, FLAG)) == [[2, 5], [], [0, -1, 99]]


@settings(max_examples=40, deadline=None)
@given(references=st.lists(st.lists(st.integers(0, 600), max_size=5), max_size=8), size=st.integers(1, 4))
def test_any_references_are_read_back(tmp_path_factory, references, size):
    path = tmp_path_factory.mktemp("read") / "ref.txt"
    path.write_text("".join(f"{json.dumps(reference)}\n\n" for reference in references))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordmask.utils.batches.batches.__defaults__", (size,))
        assert list(read_positions(path, FLAG)) == references


@pytest.mark.parametrize(
    "line",
    [
        "2, 5",
        "[2, 5",
        "2, 5]",
        "[2.0]",
        "[true]",
        "[null]",
        '["2"]',
        "[[2]]",
        "{}",
        "null",
        "7",
        "研究",
        "[2] [3]",
        "[2], [3]",
        "[2],",
        ",",
        "[NaN]",
        "[" * 100_000,
        "[" + "1" * 5000 + "]",
    ],
    ids=lambda line: line[:12],
)
def test_a_line_that_is_no_reference_is_named(write, line):
    path = write("ref.txt", ["[2]", "", line, "[3]"])
    with pytest.raises(InputError, match=f"{FLAG}.*ref.txt, line 3.*not a JSON list of integers.*run_chinese_ref.py"):
        list(read_positions(path, FLAG))


def test_lines_that_are_references_only_when_put_together_are_refused(write):
    """`[1],[2` and `3]`: two lines that parse as two lists when joined by a comma."""
    path = write("ref.txt", ["[1],[2", "3]"])
    with pytest.raises(InputError, match="line 1"):
        list(read_positions(path, FLAG))


@pytest.mark.parametrize("lines", [["[1, 2", "3]"], ["[1]", "[2", "3], [4]"]])
def test_a_reference_broken_over_two_lines_is_refused(write, lines):
    with pytest.raises(InputError, match=f"line {len(lines) - 1}"):
        list(read_positions(write("ref.txt", lines), FLAG))


def test_bytes_that_are_not_utf8_and_missing_files_are_named(tmp_path):
    path = tmp_path / "ref.txt"
    with pytest.raises(InputError, match=f"{FLAG}.*ref.txt cannot be read"):
        list(read_positions(str(path), FLAG))
    path.write_bytes(b"[2]\n[\xff]\n")
    with pytest.raises(InputError, match=f"{FLAG}.*ref.txt, line 2.*0xff"):
        list(read_positions(str(path), FLAG))


# Pairing


@pytest.mark.parametrize("blank", [True, False], ids=["blank lines in both", "classic: none in the references"])
@pytest.mark.parametrize("provenance", [True, False])
def test_text_and_references_are_paired_with_or_without_blank_lines(write, tokenizer, blank, provenance):
    text, path, _ = made(write, tokenizer)
    if not blank:
        write("ref.txt", [line for line in lines_of(path) if line])
    if not provenance:
        sidecar(path).unlink()
    expected = list(zip([1, 3, 5, 7], [TEXT[0], TEXT[2], TEXT[4], TEXT[6]], REFERENCES, strict=True))
    assert list(pair_with_text(text, path, TEXT_FLAG, FLAG)) == expected


@pytest.mark.parametrize(
    "references, count", [(REFERENCES[:-1], 3), ([*REFERENCES, [2]], 5), ([], 0), (REFERENCES * 3, 12)]
)
def test_too_few_and_too_many_references_are_counted(write, references, count):
    text, path = write("text.txt", TEXT), write("ref.txt", map(json.dumps, references))
    with pytest.raises(InputError, match=f"{FLAG}.*ref.txt has {count} references and .*text.txt has 4 lines of text"):
        list(pair_with_text(text, path, TEXT_FLAG, FLAG))


def test_an_empty_text_with_an_empty_reference_file_has_no_pairs(write):
    assert list(pair_with_text(write("text.txt", [""]), write("ref.txt", []), TEXT_FLAG, FLAG)) == []


@pytest.mark.parametrize(
    "lines, found",
    [
        (TEXT[::-1], "of as many lines, 7, but these are others, or in another order"),
        ([*TEXT, ""], "7 lines where this one has 8"),
        (
            [line.replace("我", "你") for line in TEXT],
            "of as many lines, 7, but these are others, or in another order",
        ),
        ([line for line in TEXT if line.strip()], "7 lines where this one has 4"),
    ],
    ids=["another order", "a blank line more", "a character", "without blank lines"],
)
def test_a_text_changed_since_is_refused_though_its_lines_are_as_many(write, tokenizer, lines, found):
    """The count of references fits each of these texts; only the digest tells."""
    _, path, _ = made(write, tokenizer)
    other = write("other.txt", lines)
    with pytest.raises(InputError, match=rf"{FLAG}.*ref.txt was made from another text than .*other.txt \({found}\)"):
        list(pair_with_text(other, path, TEXT_FLAG, FLAG))


ONE_A_LINE = ["[2, 4]", "[]", "[3]", "[]", "[4]", "[]", "[]"]  # also for the blank lines of TEXT


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_classic_file_may_have_an_empty_reference_for_each_blank_line(write, monkeypatch, size):
    """In batches that are blank throughout, begin or end with a blank line."""
    monkeypatch.setattr("wordmask.utils.batches.batches.__defaults__", (size,))
    text, path = write("text.txt", TEXT), write("ref.txt", ONE_A_LINE)
    expected = list(zip([1, 3, 5, 7], [TEXT[0], TEXT[2], TEXT[4], TEXT[6]], REFERENCES, strict=True))
    assert list(pair_with_text(text, path, TEXT_FLAG, FLAG)) == expected


def test_a_reference_of_a_blank_line_that_is_not_empty_is_named(write):
    text, path = write("text.txt", TEXT), write("ref.txt", ["[2, 4]", "[]", "[3]", "[4]", "[]", "[]", "[]"])
    with pytest.raises(
        InputError, match=rf"{FLAG}: .*ref.txt has the reference \[4\] for line 4 of .*text.txt.* blank"
    ):
        list(pair_with_text(text, path, TEXT_FLAG, FLAG))


def test_a_file_with_provenance_has_no_references_for_blank_lines(write, tokenizer):
    text, path, _ = made(write, tokenizer)
    write("ref.txt", ONE_A_LINE)
    with pytest.raises(InputError, match="ref.txt has 7 references and .*text.txt has 4 lines of text"):
        list(pair_with_text(text, path, TEXT_FLAG, FLAG))


def test_a_file_that_changes_is_counted_again(write):
    """The counts are remembered, so that a stream does not count in each pass."""
    text, path = write("text.txt", TEXT), write("ref.txt", ONE_A_LINE)
    before = list(pair_with_text(text, path, TEXT_FLAG, FLAG))
    write("ref.txt", map(json.dumps, REFERENCES))
    assert list(pair_with_text(text, path, TEXT_FLAG, FLAG)) == before
    write("ref.txt", ONE_A_LINE[:3])
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match="ref.txt has 3 references"):
        list(pair_with_text(text, path, TEXT_FLAG, FLAG))


def streamed(texts: list[str], references: list[str]):
    arguments = DataArguments(train_file=texts, train_ref_file=references, streaming=True)
    rows = load_texts(arguments, None, None, False)["train"].source
    return [
        row
        for shard in range(len(rows.shard_sizes))
        for table in rows.tables(shard, 1000)
        for row in table.to_pylist()
    ]


@pytest.mark.parametrize("provenance", [True, False])
def test_a_stream_of_another_text_is_refused_before_it_begins(write, tokenizer, provenance):
    """The second file is the wrong one, and its first lines are right."""
    text, path, _ = made(write, tokenizer)
    other = write("other.txt", [*TEXT, "生"])
    if not provenance:
        sidecar(path).unlink()
    assert [row["chinese_ref"] for row in streamed([text, text], [path, path])] == REFERENCES * 2
    found = "was made from another text than" if provenance else "has 4 references and"
    with pytest.raises(InputError, match=f"{FLAG}: .*ref.txt {found} .*other.txt"):
        streamed([text, other], [path, path])


def test_each_file_of_a_stream_pairs_its_blank_lines_in_its_own_way(write):
    text, each, few = write("text.txt", TEXT), write("each", ONE_A_LINE), write("few", map(json.dumps, REFERENCES))
    assert [row["chinese_ref"] for row in streamed([text, text], [each, few])] == REFERENCES * 2


def test_lines_of_a_classic_file_are_counted_again_when_it_changes(write):
    """A stream asks in each epoch. The texts have the same size, and the second one has two blank lines."""
    for lines, pairs_blank in ((["a", "b"], False), (["a", "", ""], True)):
        text, references = write("text.txt", lines), write("ref.txt", ["[]" for _ in lines])
        os.utime(text, ns=(0, 0))  # the size stays, and so does this time
        assert pairs_blank_lines(TextReader([text], TEXT_FLAG), references, FLAG) is pairs_blank
        time.sleep(0.02)  # longer than the clock of the file system


# From references to tokens


def continues(tokenizer, lines, references, mixed=False, numbers=None, special=(), classic=None, left_out=None):
    """`continuations`, with the tokenizer's prefix of one; `classic` says which lines are, none if it is `None`."""
    ids = np.array([*tokenizer.convert_tokens_to_ids(["[PAD]", "[CLS]", "[SEP]", "[MASK]"]), *special])
    numbers = numbers or range(1, len(lines) + 1)
    classic = np.array(classic or [False] * len(lines))
    tokens, name_line = tokenize(tokenizer, lines), lambda index: f"{numbers[index]} of the text"
    any_script = np.full(len(lines), mixed)
    given = LineReferences(references, name_line, classic, any_script, ~classic, f"{FLAG} ref.txt")
    found, wrong = continuations(tokens, given, 1, np.isin(tokens.ids, ids))
    assert not len(wrong) or classic.any()
    assert found.dtype == bool
    if left_out is not None:
        left_out += [given.place(number) for number in wrong.tolist()]
    return found.astype(int).tolist()


def test_positions_become_tokens_that_continue_each_in_its_line(tokenizer):
    assert continues(tokenizer, ["研究生命", "我", "ok研究"], [[2, 4], [], [4]]) == [0, 1, 0, 1, 0, 0, 0, 0, 1]


def test_lines_without_tokens_and_no_lines_at_all_are_taken(tokenizer):
    """A line of characters that the tokenizer drops has no token, and its reference no position."""
    assert continues(tokenizer, ["\u200b", "研究", "\u200b"], [[], [2], []]) == [0, 1]
    assert continues(tokenizer, ["\u200b"], [[]]) == []


def test_written_references_are_taken_back_as_they_are(write, tokenizer):
    text, path, _ = made(write, tokenizer)
    pairs = list(pair_with_text(text, path, TEXT_FLAG, FLAG))
    found = continues(tokenizer, [line for _, line, _ in pairs], [reference for *_, reference in pairs])
    assert found == [0, 1, 0, 1] + [0, 0, 1, 0, 0] + [0, 0, 0, 1] + [0]


@pytest.mark.parametrize(
    "position, why",
    [
        (-1, "out of range"),
        (0, "special token"),
        (1, "first token of its line"),
        (5, "special token"),
        (6, "out of range"),
        (10**6, "out of range"),
        (2**63, "out of range"),
        (10**30, "out of range"),
        (-(10**30), "out of range"),
    ],
)
def test_a_position_that_cannot_be_is_named_with_its_line(tokenizer, position, why):
    """[CLS] 研 究 生 命 [SEP]: 0 and 5 are special, 1 has nothing before it, 6 is nowhere."""
    with pytest.raises(InputError) as error:
        continues(tokenizer, ["我喜欢你", "研究生命"], [[3], [2, position]], numbers=[7, 9])
    message = str(error.value)
    assert message.startswith(FLAG) and f"position {position} of the reference for line 9 " in message
    assert why in message and "run_chinese_ref.py" in message


@pytest.mark.parametrize(
    "line, position, why",
    [
        ("研 究", 2, "not joined to the token before it"),
        ("研\u3000究", 2, "not joined to the token before it"),
        ("研[SEP]究", 2, "special token"),
        ("研[SEP]究", 3, "not joined to the token before it"),
        ("研a", 2, "not Chinese"),
        ("研。", 2, "not Chinese"),
        ("a研", 2, "not Chinese"),
        ("ab", 2, "not Chinese"),
        ("", 1, "special token"),
        ("", 2, "out of range"),
    ],
)
def test_a_position_that_joins_what_is_no_word_is_refused(tokenizer, line, position, why):
    with pytest.raises(InputError, match=f"position {position} of the reference for line 1 .*{why}"):
        continues(tokenizer, [line], [[position]])


def test_mixed_words_are_taken_from_a_file_that_says_that_it_has_them(tokenizer):
    assert continues(tokenizer, ["我T恤"], [[3]], mixed=True) == [0, 0, 1]
    with pytest.raises(InputError, match="not Chinese.*mixed"):
        continues(tokenizer, ["我T恤"], [[3]])


def test_characters_that_nobody_sees_join_and_white_space_does_not_even_in_mixed_words(tokenizer):
    assert continues(tokenizer, ["研\u200b究"], [[2]]) == [0, 1]
    with pytest.raises(InputError, match="not joined"):
        continues(tokenizer, ["T 恤"], [[2]], mixed=True)


def test_the_first_wrong_position_of_a_batch_is_the_one_that_is_named(tokenizer):
    with pytest.raises(InputError, match="position 9 of the reference for line 2 "):
        continues(tokenizer, ["研究", "研究", "研究"], [[2], [2, 9], [8]])


# Classic files


CLASSIC = ["研 究 研究", "研\ufffd究生命", "研究生命"]  # BERT drops U+FFFD


@pytest.fixture
def classic(monkeypatch, tokenizer):
    """A function that gives references as the classic run_chinese_ref.py makes them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent.parent / "benchmarks"))
    from peers import classic_references

    return lambda lines: classic_references(lines, tokenizer, [["研究", "生命"]] * len(lines))


def test_what_the_classic_script_joins_over_gaps_is_left_out(tokenizer, classic):
    references, left_out = classic(CLASSIC), []
    assert references == [[2, 4], [2, 4], [2, 4]]
    found = continues(tokenizer, CLASSIC, references, classic=[True] * 3, numbers=[4, 7, 9], left_out=left_out)
    assert found == [0, 0, 0, 1] + [0, 0, 0, 1] + [0, 1, 0, 1]
    assert left_out == [f"position 2 of the reference for line {line} of the text" for line in (4, 7)]


def test_exact_references_of_a_classic_file_warn_of_nothing(tokenizer, classic):
    left_out = []
    assert continues(tokenizer, CLASSIC[2:], classic(CLASSIC[2:]), classic=[True], left_out=left_out) == [0, 1, 0, 1]
    assert left_out == []


@pytest.mark.parametrize("line, why", [(CLASSIC[0], "not joined"), (CLASSIC[1], "not Chinese")])
def test_only_lines_of_a_classic_file_may_join_over_gaps(tokenizer, line, why):
    """The same line in a file with provenance, behind one of a file without."""
    with pytest.raises(InputError, match=f"position 2 of the reference for line 2 .*{why}"):
        continues(tokenizer, [line, line], [[2, 4], [2, 4]], classic=[True, False])


@pytest.mark.parametrize(
    "position, why", [(-1, "out of range"), (0, "special"), (1, "first"), (3, "special"), (4, "out")]
)
def test_a_position_that_cannot_be_is_refused_in_a_classic_file_too(tokenizer, position, why):
    with pytest.raises(InputError, match=f"position {position} of the reference for line 1 .*{why}"):
        continues(tokenizer, ["研 究"], [[2, position]], classic=[True])


@pytest.mark.parametrize("flags", [[], ["--streaming"]], ids=["", "streaming"])
def test_a_classic_file_is_trained_on_with_one_warning(
    write, tokenizer, classic, tmp_path, caplog, monkeypatch, flags
):
    """Of many batches; where provenance stands beside the same file, the run ends."""
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 2)
    monkeypatch.setattr("wordmask.utils.batches.batches.__defaults__", (2,))
    lines = CLASSIC[2:] + CLASSIC * (10 if flags else 400)
    text = write("text.txt", lines)
    path = write("ref.txt", map(json.dumps, classic(lines)))
    argv = ["--model_name_or_path", save_model(tmp_path / "model", tokenizer), "--use_cpu", "--max_steps", "4"]
    argv += ["--train_file", text, FLAG, path, "--output_dir", str(tmp_path / "out"), *flags]
    argv += ["--validation_split_percentage", "0"]
    with caplog.at_level(logging.WARNING):
        run_mlm_wwm.main(argv)
    (warning,) = [message for message in caplog.messages if "left out" in message]
    assert (
        warning.startswith(f"{FLAG}: ") and f"position 2 of the reference for line 2 of the text ({path})" in warning
    )


def test_a_file_with_provenance_that_joins_over_gaps_ends_the_run(write, tokenizer, classic, tmp_path, capsys):
    """Though a file without comes first."""
    text, path, _ = made(write, tokenizer, CLASSIC)
    old = write("old.txt", map(json.dumps, classic(CLASSIC)))
    write("ref.txt", map(json.dumps, classic(CLASSIC)))
    write_provenance(path, replace(read_provenance(path, FLAG), contents=[]))
    argv = ["--model_name_or_path", save_model(tmp_path / "model", tokenizer), "--use_cpu", "--max_steps", "1"]
    argv += ["--train_file", text, text, FLAG, old, path, "--output_dir", str(tmp_path / "out")]
    argv += ["--validation_split_percentage", "0"]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv)
    assert f"position 2 of the reference for line 1 of the text ({path}) is not joined" in sentence


@pytest.mark.parametrize("reference, position", [([2, 4, 3], 3), ([2, 2], 2)])
def test_positions_that_do_not_rise_are_refused(tokenizer, reference, position):
    with pytest.raises(InputError, match=f"position {position} of .* line 2 .* not above the position before it"):
        continues(tokenizer, ["我喜欢你", "研究生命"], [[3], reference])
