"""Japanese and Vietnamese with the tokenizers of their models: from the text to a model that is saved and loaded."""

from __future__ import annotations

import json
import pickle
import sys
from functools import partial
from itertools import groupby

import pytest
from transformers import AutoTokenizer, BertJapaneseTokenizer, PhobertTokenizer

import run_chinese_ref
import run_mlm
import run_mlm_wwm
import wordmask
from conftest import bpe_tokenizer, japanese_tokenizer, refusal, save_model
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.references.writer import Annotator
from wordmask.utils.hub import load_pretrained_tokenizer

LINES = ["食べ物が好きです。", "私は学校でｶﾚｰを食べた。", "東京タワーに行きました。"] * 4
WORDS = [["食べ物", "が", "好き", "です", "。"], ["私", "は", "学校", "で", "ｶﾚｰ", "を", "食べ", "た", "。"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose tokenizer has MeCab inside and makes a token of each character; and a text."""
    pytest.importorskip("fugashi")
    pytest.importorskip("unidic_lite")
    folder = tmp_path_factory.mktemp("japanese")
    options = {"word_tokenizer_type": "mecab", "subword_tokenizer_type": "character"}
    tokenizer = japanese_tokenizer(folder / "vocabulary", [*LINES[:3], "カレー"], **options)
    save_model(folder / "model", tokenizer)
    (folder / "text.txt").write_text("\n".join(LINES), encoding="utf-8")
    return folder


def command(folder, output, *flags: str) -> list[str]:
    argv = ["--model_name_or_path", str(folder / "model"), "--train_file", str(folder / "text.txt"), "--line_by_line"]
    return [*argv, "--output_dir", str(output), "--use_cpu", "--max_steps", "1", *flags]


def preview(folder, output, capsys, *flags: str) -> str:
    """The masked examples: words apart, their tokens joined by a dot; without the brackets of masked tokens."""
    masked = ["--preview_masking", "12", "--mlm_probability", "0.9", "--mask_replace_prob", "1"]
    run_mlm_wwm.main(command(folder, output, *masked, "--random_replace_prob", "0", *flags))
    return capsys.readouterr().out.replace("[", "").replace("]", "")


def test_whole_words_of_the_tokenizer_are_masked(folder, tmp_path, capsys):
    shown = preview(folder, tmp_path / "out", capsys, "--segmenter", "tokenizer")
    for words in WORDS:
        tokens = ["·".join(word.replace("ｶﾚｰ", "カレー")) for word in words]
        assert f"CLS {' '.join(tokens)} SEP" in shown


def test_references_give_the_same_masks_as_on_the_spot(folder, tmp_path, capsys):
    text, path = str(folder / "text.txt"), tmp_path / "ref.txt"
    argv = ["--file_name", text, "--bert", str(folder / "model"), "--segmenter", "tokenizer", "--save_path"]
    run_chinese_ref.main([*argv, str(path)])
    assert json.loads(path.read_text().splitlines()[0]) == [2, 3, 6, 8]
    capsys.readouterr()
    on_the_spot = preview(folder, tmp_path / "out", capsys, "--segmenter", "tokenizer")
    assert preview(folder, tmp_path / "out", capsys, "--train_ref_file", str(path)) == on_the_spot


def test_a_worker_gets_the_tokenizer_and_makes_the_same_references(folder):
    load = partial(load_pretrained_tokenizer, "--bert", str(folder / "model"))
    annotator = Annotator(load, SegmentationArguments(segmenter="tokenizer").load)
    sent = pickle.loads(pickle.dumps(annotator))
    assert sent((1, LINES)) == annotator((1, LINES)) and annotator((1, LINES))[0] == [2, 3, 6, 8]


def test_the_collator_takes_the_words_of_references(folder):
    """In a loop of one's own: the tokens have no mark, and the references say which continue a word."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    references = wordmask.make_references(LINES[:2], tokenizer, "tokenizer")
    examples = [
        {"input_ids": ids, "chinese_ref": reference}
        for ids, reference in zip(tokenizer(LINES[:2])["input_ids"], references, strict=True)
    ]
    batch = wordmask.WholeWordMaskCollator(tokenizer, return_word_ids=True)(examples)
    for numbers, words in zip(batch["word_ids"].tolist(), WORDS, strict=True):
        of_text = numbers[1 : 1 + sum(map(len, words))]
        assert [len([*same]) for _, same in groupby(of_text)] == [*map(len, words)]


def test_training_saves_a_tokenizer_that_can_be_loaded(folder, tmp_path):
    """Packed, with two processes to tokenize; then tokens, from the saved model."""
    flags = ["--segmenter", "tokenizer", "--pack_sequences", "--preprocessing_num_workers", "2"]
    run_mlm_wwm.main(command(folder, tmp_path / "out", *flags))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(tokenizer) is BertJapaneseTokenizer and tokenizer.tokenize("食べ物") == ["食", "べ", "物"]
    argv = command(folder, tmp_path / "more", "--streaming", "--segmenter", "tokenizer", "--no_do_eval")
    run_mlm_wwm.main([*argv, "--model_name_or_path", str(tmp_path / "out")])
    argv = command(folder, tmp_path / "tokens", "--model_name_or_path", str(tmp_path / "more"))
    assert run_mlm.main(argv)["train_samples"] == 11


def test_text_that_was_prepared_for_tokens_has_no_words(folder, tmp_path, capsys):
    argv = ["--model_name_or_path", str(folder / "model"), "--line_by_line"]
    with_text = [*argv, "--train_file", str(folder / "text.txt"), "--prepare_only", "--prepared_dir"]
    run_mlm.main([*with_text, str(tmp_path / "tokens")])
    run_mlm_wwm.main([*with_text, str(tmp_path / "words"), "--segmenter", "tokenizer"])
    train = [*argv, "--use_cpu", "--max_steps", "1", "--output_dir", str(tmp_path / "out"), "--prepared_dir"]
    sentence = refusal(capsys, run_mlm_wwm.main, *train, str(tmp_path / "tokens"))
    assert "was made for masking tokens and has no words" in sentence
    run_mlm_wwm.main([*train, str(tmp_path / "words")])


@pytest.mark.parametrize("package", ["fugashi", "unidic_lite"])
def test_a_missing_analyser_is_named(folder, tmp_path, capsys, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    sentence = refusal(capsys, run_mlm_wwm.main, *command(folder, tmp_path / "out"))
    assert sentence.startswith("--model_name_or_path") and sentence.endswith(f": pip install {package}")


def test_vietnamese_words_joined_by_an_underscore(tmp_path, capsys):
    lines = ["tôi làm_việc ở thành_phố Hồ_Chí_Minh .", "học_sinh đi học ở trường đại_học ."] * 3
    save_model(tmp_path / "model", bpe_tokenizer(tmp_path / "vocabulary", " ".join(lines).split()), "roberta")
    (tmp_path / "text.txt").write_text("\n".join(lines), encoding="utf-8")
    shown = preview(tmp_path, tmp_path / "out", capsys, "--segmenter", "whitespace")
    assert "<s> họ·c_·s·in·h đi họ·c ở tr·ườ·ng đạ·i_·họ·c . </s>" in shown
    assert "<s> tô·i là·m_·vi·ệc ở th·àn·h_·ph·ố Hồ·_C·hí·_M·in·h . </s>" in shown
    run_mlm_wwm.main(command(tmp_path, tmp_path / "out", "--segmenter", "whitespace"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert type(tokenizer) is PhobertTokenizer and tokenizer.tokenize("làm_việc") == ["là@@", "m_@@", "vi@@", "ệc"]
