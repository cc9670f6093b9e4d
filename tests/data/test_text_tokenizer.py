"""Words as a run has them, from the command line to the masks; and tokens of another version."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import run_mlm_wwm
from conftest import refusal, sample_tokenizer, save_model
from wordmask.config.data_arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.sources import Texts
from wordmask.data.text_counts import REPORTED, TextCounts
from wordmask.data.text_tokenizer import TextTokenizer
from wordmask.data.token_store import Tokenization
from wordmask.references.provenance import Provenance, TextDigest, write_provenance
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.tokenization.words import SCRIPTS

VIETNAMESE = "Chúng_tôi là những nghiên_cứu_viên làm_việc tại trường đại_học ở Hà_Nội ."
MIXED = "我 用 T恤 研究 làm_việc a\u200bb_c 研究，生命 ，"


def letters_of(text: str, *added: AddedToken) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for each character of a text, white space left aside, and these tokens."""
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*text} - {" ", "\u200b"})]
    backend = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate(letters)}, "[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"[\s\u200b]"), "removed"), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    special = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $0 [SEP]", special_tokens=special)
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
    tokenizer.add_tokens(list(added))
    return tokenizer


def words_shown(capsys, model: str, text: Path, *flags: str) -> list[str]:
    """The words of the first line, as --preview_masking shows them; without special tokens, pieces and marks."""
    return lines_shown(capsys, model, text, *flags)[0]


def lines_shown(capsys, model: str, text: Path, *flags: str) -> list[list[str]]:
    """The same for each line that it shows."""
    capsys.readouterr()
    argv = ["--model_name_or_path", model, "--train_file", str(text), "--output_dir", str(text.parent / "out")]
    argv += ["--use_cpu", "--preview_masking", "1", "--mask_replace_prob", "1", "--random_replace_prob", "0"]
    run_mlm_wwm.main([*argv, *flags])
    shown = [line.partition("): ")[2] for line in capsys.readouterr().out.splitlines()]
    lines = (line.removeprefix("[CLS] ").removesuffix(" [SEP]") for line in shown if line)
    return [re.sub(r"[\[\]·]|##", "", line).split() for line in lines]


def test_whitespace_on_the_spot_serves_any_script(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(VIETNAMESE + "\n", encoding="utf-8")
    model = save_model(tmp_path / "model", letters_of(VIETNAMESE), max_position_embeddings=120)
    assert words_shown(capsys, model, text) == VIETNAMESE.replace("_", " _ ").split()
    assert words_shown(capsys, model, text, "--segmenter", "whitespace") == VIETNAMESE.split()


@pytest.mark.parametrize(
    "flags, words",
    [
        ([], "我 用 T 恤 研 究 làm _ việc a b _ c 研 究 ， 生 命 ，"),
        (["--segmenter", "whitespace"], "我 用 T 恤 研究 làm_việc a b_c 研 究 ， 生 命 ，"),
        (["--segmenter", "whitespace", "--mixed_words"], "我 用 T恤 研究 làm_việc a b_c 研 究 ， 生 命 ，"),
        (["--segmenter", "jieba"], "我 用 T 恤 研究 làm _ việc a b _ c 研究 ， 生命 ，"),
    ],
)
def test_words_that_mix_chinese_with_others_count_only_when_asked_for(tmp_path, capsys, flags, words):
    """And only white space says anything about a word without a Chinese character; a zero-width space parts words."""
    text = tmp_path / "text.txt"
    text.write_text(MIXED + "\n", encoding="utf-8")
    tokenizer = letters_of(MIXED)
    assert words_shown(capsys, save_model(tmp_path / "model", tokenizer), text, *flags) == words.split()


def reference_file(path: Path, positions: list[int], **made: object) -> str:
    """A reference file of one line, with a provenance if anything is given for it."""
    path.write_text(f"{positions}\n", encoding="utf-8")
    if made:
        write_provenance(path, Provenance(**made))
    return str(path)


def test_each_reference_file_has_the_rule_of_its_own_provenance(tmp_path, capsys):
    """The classic script joined 究 to the letter before it; a file beside it may hold words of any script."""
    text, tokenizer = tmp_path / "a.txt", letters_of("研a究中b")
    model = save_model(tmp_path / "model", tokenizer)
    text.write_text("研a究中\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b\n", encoding="utf-8")
    files = [str(text), str(tmp_path / "b.txt")]
    digest = TextDigest()
    digest.add(["b"])
    classic = reference_file(tmp_path / "a.ref", [2])
    tokens = {"tokenizer_sha256": tokenizer_digest(tokenizer), "segmenter": {"name": "whitespace"}}
    made = {"lines": 1, "text_sha256": digest.hexdigest(), **tokens}
    for any_script in (False, True):
        other = reference_file(tmp_path / "b.ref", [], any_script=any_script, **made)
        flags = ["--train_file", *files, "--train_ref_file", classic, other, "--preview_masking", "2"]
        flags += ["--validation_split_percentage", "0"]
        assert sorted(lines_shown(capsys, model, text, *flags)) == [["b"], ["研", "a", "究", "中"]]


@pytest.mark.parametrize("fact", [{"any_script": True}, {"mixed_words": True}, {"decides": [*SCRIPTS]}, {}])
def test_tokens_are_made_again_for_references_of_another_provenance(tmp_path, fact):
    """The same positions give other words, by what the provenance says, and in which of two files it says so."""
    tokenizer = letters_of("ab")
    tokenizer_sha256 = tokenizer_digest(tokenizer)
    plain = reference_file(tmp_path / "plain.ref", [2], tokenizer_sha256=tokenizer_sha256)
    other = reference_file(
        tmp_path / "other.ref", [2], **({"tokenizer_sha256": tokenizer_sha256, **fact} if fact else {})
    )

    def identity(*references: str) -> dict:
        texts = Texts(None, "--train_file", "--train_ref_file", references)
        return TextTokenizer(tokenizer, texts, None, SegmentationArguments()).identity()

    assert identity(plain) == identity(plain) and identity(other, plain) != identity(plain, other)
    if fact:  # a file without provenance is classic, and one alone has always had the identity of any
        assert identity(plain) != identity(other)


def test_special_tokens_part_words_and_tokens_added_as_text_do_not(tmp_path, capsys):
    """`GRAFT` is text and [X] is special, though both are letters in a word; a segmenter joins over neither."""
    text = tmp_path / "text.txt"
    text.write_text("enGRAFTed grXYZafts XYZ sGRAFT\n", encoding="utf-8")
    added = [AddedToken("GRAFT"), AddedToken("XYZ", special=True)]
    model = save_model(tmp_path / "model", letters_of("engraftsd", *added))
    for flags in ([], ["--segmenter", "whitespace"]):
        expected = ["enGRAFTed", "gr", "XYZ", "afts", "XYZ", "sGRAFT"]
        assert words_shown(capsys, model, text, *flags) == expected


@pytest.mark.parametrize("version", [3, 99, None])
def test_tokens_that_another_version_prepared_are_refused(english_model, english_file, tmp_path, capsys, version):
    directory = tmp_path / "prepared"
    argv = ["--model_name_or_path", english_model, "--use_cpu", "--prepared_dir", str(directory)]
    run_mlm_wwm.main([*argv, "--train_file", english_file, "--prepare_only"])
    record = directory / "wordmask_prepared.json"
    made = json.loads(record.read_text(encoding="utf-8"))
    made["made_with"]["train"]["version"] = version
    record.write_text(json.dumps(made), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    for more in (["--output_dir", str(tmp_path / "out")], ["--train_file", english_file, "--prepare_only"]):
        sentence = refusal(capsys, run_mlm_wwm.main, *argv, *more)
        assert (
            sentence.startswith(f"--prepared_dir: {directory} was made by another version") and "new dir" in sentence
        )
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert not (tmp_path / "out").exists()


def identity_of(tokenizer: PreTrainedTokenizerFast) -> dict:
    return TextTokenizer(tokenizer, Texts(None, "--train_file"), None, SegmentationArguments()).identity()


def counts_of(tokenizer: PreTrainedTokenizerFast, text: str) -> TextCounts:
    """What the data report counts in a text of one line."""
    tokenize = TextTokenizer(tokenizer, Texts(None, "--train_file"), None, SegmentationArguments())
    return tokenize(pa.table({"text": [text], REPORTED: [True]})).findings.counts


def test_tokens_are_made_again_for_another_number_of_special_tokens():
    """References count them, and the digest of a tokenizer leaves them out."""
    first = sample_tokenizer("bert")
    other = copy.deepcopy(first)
    other.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$0 [SEP]", special_tokens=[("[SEP]", other.sep_token_id)]
    )
    assert tokenizer_digest(first) == tokenizer_digest(other)
    assert identity_of(first) != identity_of(other)


@pytest.fixture
def ends_only() -> PreTrainedTokenizerFast:
    """A tokenizer with an end of text, which is its unknown token, too, as in GPT-2, and no separator."""
    backend = Tokenizer(models.WordLevel({"<end>": 0, "<mask>": 1, "a": 2}, "<end>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<end>", mask_token="<mask>")


def test_blocks_are_separated_by_the_end_of_text_where_there_is_no_separator(ends_only):
    blocks, lines = (DataArguments(train_file=["a.txt"], line_by_line=by_line) for by_line in (False, True))
    assert Tokenization(ends_only, blocks).separator == ends_only.eos_token_id
    assert Tokenization(ends_only, lines).separator is None


def test_an_end_of_text_in_the_text_is_no_unknown_word(ends_only):
    counts = counts_of(ends_only, "a <end> a")
    assert (counts.unknown, dict(counts.special)) == (0, {"0": 1})


def test_a_special_token_inside_a_word_makes_two_words_of_it_in_the_report():
    counts = counts_of(letters_of("grafts", AddedToken("XYZ", special=True)), "grXYZafts")
    assert (counts.words, dict(counts.split)) == (2, {"gr": 1, "afts": 1})
