"""Tokens as a person reads them, whatever the tokenizer writes before and behind them."""

from __future__ import annotations

import pytest
from transformers import BertTokenizer

from conftest import character_tokenizer, sample_tokenizer
from wordmask.tokenization.readable import BLANK, ReadableTokens

SENTENCE = "the unseen lake, he said twice. it's deep."


def word_piece(*tokens: str) -> BertTokenizer:
    """A tokenizer of these tokens, the first of which has the id 5."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]
    return BertTokenizer(vocab={token: index for index, token in enumerate(names)})


def words_of(tokenizer, text: str) -> list[list[int]]:
    """The tokens of each word, as the tokenizer's own words have them."""
    encoding = tokenizer(text, add_special_tokens=False)
    words: dict[int, list[int]] = {}
    for token, word in zip(encoding["input_ids"], encoding.word_ids(), strict=True):
        words.setdefault(word, []).append(token)
    return list(words.values())


def line(readable: ReadableTokens, words: list[list[int]]) -> str:
    return "".join(" " * space + word for word, space in readable.line(words))


@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "albert"])
def test_a_line_reads_as_it_was_written(kind):
    tokenizer = sample_tokenizer(kind, 400)
    readable, words = ReadableTokens(tokenizer), words_of(tokenizer, SENTENCE)
    assert any(len(word) > 1 for word in words), "no word is split, so nothing is put together"
    assert line(readable, words) == SENTENCE
    for word in words:
        assert not {*readable.word(word)} & {*"#Ġ▁ "}


def test_chinese_has_no_spaces_between_its_characters():
    tokenizer = character_tokenizer(["面包好吃，今天 bert 很快。"])
    readable = ReadableTokens(tokenizer)
    ids = tokenizer("面包", add_special_tokens=False)["input_ids"]
    assert readable.word(ids) == "面包"
    assert line(readable, words_of(tokenizer, "面包好吃，今天很快。")) == "面包好吃，今天很快。"


def test_korean_keeps_its_spaces():
    readable = ReadableTokens(word_piece("나는", "밥"))
    assert line(readable, [[5], [6]]) == "나는 밥"


def test_two_beginnings_of_words_are_told_apart_from_one_word():
    """A model may predict `un` and `lake` for a word of two tokens; that is not `unlake`."""
    readable = ReadableTokens(word_piece("un", "lake", "##seen"))
    assert [readable.word(ids) for ids in ([5, 7], [5, 6], [7], [4], [1])] == [
        "unseen",
        "un lake",
        "seen",
        "[MASK]",
        "[UNK]",
    ]


def test_an_id_beyond_the_vocabulary_is_blank():
    """Embeddings are padded to a multiple of 64, and a model may predict such an id."""
    assert ReadableTokens(sample_tokenizer("bert", 300)).word([1_000_000]) == BLANK


def test_a_token_that_is_a_part_of_a_character_shows_its_bytes():
    tokenizer = sample_tokenizer("roberta", 300)  # knows no Chinese, so 插 is three bytes
    readable = ReadableTokens(tokenizer)
    ids = tokenizer("a 插", add_special_tokens=False)["input_ids"]
    shown = [readable.token(index) for index in ids]
    assert "".join(shown).replace(BLANK, "") == r"a\xe6\x8f\x92"
    assert readable.token(tokenizer.mask_token_id) == tokenizer.mask_token
    assert readable.token(1_000_000) == BLANK
