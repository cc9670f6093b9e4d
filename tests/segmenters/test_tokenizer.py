"""`--segmenter tokenizer`: the words that a tokenizer finds itself, or one sentence."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast, RoFormerTokenizer

from conftest import SPECIAL, bpe_tokenizer, character_tokenizer, japanese_tokenizer
from wordmask import make_references
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.segmenters import Segmenter, make_segmenter, register, registry
from wordmask.utils.errors import InputError


def load(tokenizer) -> Segmenter:
    return SegmentationArguments(segmenter="tokenizer").load(lambda: tokenizer)


def test_the_words_of_mecab(tmp_path):
    pytest.importorskip("fugashi")
    pytest.importorskip("unidic_lite")
    tokenizer = japanese_tokenizer(
        tmp_path, ["食べ", "物"], word_tokenizer_type="mecab", subword_tokenizer_type="character"
    )
    words = load(tokenizer).segment(["食べ物が 好きです", "", "ﾊﾟﾝ\ud800"])
    assert words[:2] == [["食べ物", "が", "好き", "です"], []] and words[2][0] == "ﾊﾟﾝ"
    assert make_references(["食べ物が好き"], tokenizer, "tokenizer") == [[2, 3, 6]]


@pytest.mark.parametrize(
    "packages, options",
    [
        (["fugashi", "unidic_lite"], {"word_tokenizer_type": "mecab"}),
        (
            ["sudachipy", "sudachidict_small"],
            {"word_tokenizer_type": "sudachi", "sudachi_kwargs": {"sudachi_dict_type": "small"}},
        ),
    ],
    ids=["mecab", "sudachi"],
)
def test_a_character_that_becomes_several_words_is_one_word(packages, options, tmp_path):
    """The tokenizers normalize it first: `…` is `...`, and each of them may be a word."""
    for package in packages:
        pytest.importorskip(package)
    lines = ["そう…ですか。", "…", "株式会社㈱と½", "⑴は‥℃ℓ", "ﷺ か゛き゜ く", "é e\u0301。"]
    tokenizer = japanese_tokenizer(tmp_path, lines, subword_tokenizer_type="character", **options)
    for line, words in zip(lines, load(tokenizer).segment(lines), strict=True):
        assert "".join(words).replace(" ", "") == line.replace(" ", "") and all(words), words


def test_words_of_a_pre_tokenizer_in_python():
    """RoFormer's finds words by jieba, and leaves those whole that the vocabulary has."""
    pytest.importorskip("rjieba")
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *"我来到北京", "来到", "北京"])}
    assert load(RoFormerTokenizer(vocab=vocabulary)).segment(["我来到北京"]) == [["我", "来到", "北京"]]


def test_tokenizers_that_find_no_words_are_refused(tmp_path):
    fast, phobert = character_tokenizer(["研究"]), bpe_tokenizer(tmp_path / "phobert", ["làm_việc"])
    for tokenizer in (fast, phobert, PreTrainedTokenizerFast(tokenizer_object=fast.backend_tokenizer)):
        with pytest.raises(
            InputError, match=f"--segmenter tokenizer: {type(tokenizer).__name__} finds no words itself"
        ):
            load(tokenizer)
    with pytest.raises(InputError, match="--segmenter tokenizer needs tokenizer"):
        make_segmenter("tokenizer")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"word_tokenizer_type": "basic"}, "word_tokenizer_type basic"),
        ({"word_tokenizer_type": "mecab", "do_word_tokenize": False}, "do_word_tokenize false"),
    ],
)
def test_a_japanese_tokenizer_that_finds_no_words_is_told_by_its_option(tmp_path, options, named):
    tokenizer = japanese_tokenizer(tmp_path, ["食"], **options)
    with pytest.raises(
        InputError, match=f"with {named}, BertJapaneseTokenizer finds no words in .* --segmenter mecab"
    ):
        load(tokenizer)


def test_words_in_another_form_than_in_the_text_are_refused(tmp_path):
    pytest.importorskip("sudachipy")
    pytest.importorskip("sudachidict_small")
    options = {"sudachi_dict_type": "small", "sudachi_projection": "reading"}
    tokenizer = japanese_tokenizer(tmp_path, ["食"], word_tokenizer_type="sudachi", sudachi_kwargs=options)
    with pytest.raises(InputError, match="sudachi_projection reading"):
        load(tokenizer)


def test_a_class_of_one_s_own_gets_the_tokenizer_if_it_takes_one(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @register("by_tokenizer")
    class ByTokenizer(Segmenter):
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def segment(self, lines):
            return [self.tokenizer.tokenize(line) for line in lines]

    segmenter = make_segmenter("by_tokenizer", tokenizer=lambda: character_tokenizer(["研究"]))
    assert segmenter.segment(["研究"]) == [["研", "究"]]
