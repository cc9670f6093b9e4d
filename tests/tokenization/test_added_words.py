"""Words that become tokens: which words are found, what they match, and what they leave as it was."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from conftest import SPECIAL, BertTokenizer, sample_tokenizer, slow_after
from wordmask.tokenization import added_words
from wordmask.tokenization.added_words import add_words, addable_words, decoded_wrongly, find_words, pieces_of
from wordmask.tokenization.encoding import encode_lines
from wordmask.tokenization.readable import ReadableTokens
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.word_cache import word_cache_of
from wordmask.tokenization.words import Characters
from wordmask.utils.errors import InputError

PIECES = ["a", "gr", "##af", "##t", "##s", "new", "lu", "##pus", "我", "们", ".", "-", "'", "x", "##x"]


def word_pieces() -> BertTokenizer:
    """A WordPiece tokenizer that makes letters small, and splits `graft` into three pieces, `lupus` into two."""
    return BertTokenizer(vocab={piece: index for index, piece in enumerate(SPECIAL + PIECES)})


def tokenizer_of(model_type: str) -> Any:
    return word_pieces() if model_type == "bert" else sample_tokenizer(model_type, 300)


TYPES = ["bert", "roberta", "xlm-roberta"]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_word_is_one_token_alone_and_is_cut_out_of_no_other(model_type):
    tokenizer = tokenizer_of(model_type)
    texts = {text: tokenizer.tokenize(text) for text in ("a grafts x", "xgraft", "graft_x a", "a new x")}
    add_words(tokenizer, ["graft"])
    assert {text: tokenizer.tokenize(text) for text in texts} == texts
    [graft] = tokenizer.convert_tokens_to_ids(["graft"])
    for text in ("a graft x", "graft", "new graft.", "graft-x", "a  graft"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids.count(graft) == 1, text


def test_byte_level_tokens_leave_no_lone_space():
    tokenizer = tokenizer_of("roberta")
    before = tokenizer.tokenize("a x, a")
    add_words(tokenizer, ["graft"])
    ids = tokenizer("a graft, a", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [before[0], "graft", *before[-2:]]
    assert ReadableTokens(tokenizer).line([[token] for token in ids]) == [
        *[("a", False), ("graft", True), (",", False), ("a", True)]
    ]


@pytest.mark.parametrize("model_type", TYPES)
def test_words_that_are_decoded_wrongly_are_known(model_type):
    tokenizer, words = tokenizer_of(model_type), ["graft", "naïve", "Schilddrüse", "жизнь"]
    if model_type == "bert":
        words = ["graft", "naive", "жизнь"]  # without marks
    tokens = add_words(tokenizer, words)
    wrong = [word for token, word in zip(tokens, words, strict=True) if tokenizer.decode([token]).strip() != word]
    assert decoded_wrongly(tokenizer, words) == wrong == (words[1:3] if model_type == "roberta" else [])


def test_capital_letters_are_found_where_the_tokenizer_makes_them_small():
    tokenizer = word_pieces()
    add_words(tokenizer, ["graft"])
    assert tokenizer("a GRAFT Graft", add_special_tokens=False)["input_ids"][1:] == [len(SPECIAL + PIECES)] * 2


@pytest.mark.parametrize("model_type", TYPES)
def test_pieces_are_those_of_a_word_behind_a_space(model_type):
    tokenizer = tokenizer_of(model_type)
    alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    words = ["graft", "lupus", "we're"]
    expected = [tokenizer(f"a {word}", add_special_tokens=False)["input_ids"][len(alone) :] for word in words]
    assert pieces_of(tokenizer, words) == expected and pieces_of(tokenizer, []) == []
    assert list(add_words(tokenizer, words[:2]).values()) == expected[:2]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_saved_tokenizer_gives_the_same_tokens(model_type, tmp_path):
    tokenizer, texts = tokenizer_of(model_type), ["A graft, new grafts.", "graft lupus x graft"]
    add_words(tokenizer, ["lupus", "graft"])
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert loaded.convert_tokens_to_ids(["lupus", "graft"]) == [len(loaded) - 2, len(loaded) - 1]


@pytest.mark.parametrize(
    "normalizer, pre_tokenizer",
    [(None, None), (normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"))],
    ids=["none", "Gemma"],
)
def test_a_space_belongs_to_the_word_behind_it_unless_the_tokenizer_divides_there(normalizer, pre_tokenizer):
    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    if normalizer:
        backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    add_words(tokenizer, ["graft"])
    assert tokenizer.added_tokens_decoder[1].lstrip
    assert decoded_wrongly(tokenizer, ["graft"]) == [], "it has no decoder"


# The search


def test_the_words_that_save_most_tokens_are_found():
    """Each `graft`, also as `Graft`, saves two tokens and each `lupus` one; `xx` is rare, and `a` is one token."""
    texts = [["lupus lupusx 17 17 17", "a a Graft graft,"] * 5, ["graft"] + ["lupus", "xx a", "我们 我们"] * 4]
    found = [find_words(word_pieces(), texts, count) for count in (9, 2, 1)]
    assert found == [["graft", "lupusx", "lupus"], ["graft", "lupusx"], ["graft"]]


def test_the_search_forgets_rare_words_alone_and_keeps_few(monkeypatch):
    """`graft` comes once in each of 60 batches, between 100 words that come in no other."""
    monkeypatch.setattr(added_words, "_MOST", 300)
    texts = [["graft " + " ".join(f"w{batch}x{number}" for number in range(100))] for batch in range(60)]
    assert find_words(word_pieces(), texts, 5) == ["graft"]


def test_of_too_many_words_the_rarer_half_is_forgotten(monkeypatch):
    monkeypatch.setattr(added_words, "_MOST", 2)
    texts = [["graft " * 9 + "lupus " * 4 + "x"], ["lupus"]]
    assert find_words(word_pieces(), texts, 5) == ["graft"]


def test_a_word_that_the_tokenizer_does_not_know_is_found():
    assert find_words(word_pieces(), [["a quay"] * 5], 5) == ["quay"]
    assert addable_words(word_pieces(), ["quay"]) == ["quay"]


def test_nothing_is_found_where_no_word_is_split():
    assert find_words(word_pieces(), [["new x a", ""] * 9], 5) == find_words(word_pieces(), [], 5) == []


# Mistakes


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("new graft", "--add_words: new graft: a word has no space inside; give one word in each line"),
        ("我们", "--add_words: 我们: it is of a script that is written without spaces"),
        ("ภาษา", "--add_words: ภาษา: it is of a script that is written without spaces"),
        ("\x00", "--add_words: \x00: the tokenizer's normalizer makes no single word of it; leave it out"),
        ("[MASK]", "--add_words: [MASK]: special tokens of this tokenizer are not added; leave them out"),
        ("##graft", "--add_words: ##graft: only pieces in a vocabulary begin with ## or ▁; leave the mark out"),
        ("##", "--add_words: ##: only pieces in a vocabulary begin with ## or ▁; leave the mark out"),
    ],
)
def test_words_that_cannot_be_added_are_refused(word, sentence):
    with pytest.raises(InputError) as refused:
        addable_words(word_pieces(), ["graft", word])
    assert str(refused.value).startswith(sentence)


def test_all_wrong_words_are_named_at_once():
    with pytest.raises(InputError, match="^--add_words: a b, c d, e f, g h, i j and 1 other: a word has no space"):
        addable_words(word_pieces(), ["graft", *"a b,c d,e f,g h,i j,k l".split(",")])


def test_words_are_added_as_the_normalizer_writes_them_and_known_ones_are_left_out(caplog):
    assert addable_words(word_pieces(), ["Graft", "graft", "new", "Lupus"]) == ["graft", "lupus"]
    assert caplog.messages == [
        "--add_words: the tokenizer's normalizer writes Graft as graft, Lupus as lupus",
        "--add_words: left out, since the vocabulary has them already: new",
    ]
    with pytest.raises(InputError, match="the vocabulary has all of these words already; drop the flag"):
        addable_words(word_pieces(), ["new", "A"])


def test_a_piece_of_longer_words_is_no_new_word():
    """A byte-level `graft` without `Ġ` stands inside of words; to add it would give it another meaning."""
    tokenizer = tokenizer_of("roberta")
    piece = next(token for token in tokenizer.get_vocab() if len(token) > 2 and token.isalpha() and token.isascii())
    assert piece not in addable_words(tokenizer, [piece, "immunoglobulin"])


# The word cache


@cache
def with_words(model_type: str) -> Any:
    tokenizer = tokenizer_of(model_type)
    add_words(tokenizer, ["graft", "lupus"])
    return tokenizer


parts = st.sampled_from(
    [*"graft lupus grafts Graft 我 们 x . , - _ ' é \u0301 \u200b a".split(), " ", " ", "  ", "\t"]
)


@pytest.mark.parametrize("model_type", slow_after(1, TYPES))
@given(texts=st.lists(st.lists(parts, max_size=12).map("".join), max_size=4))
def test_the_word_cache_gives_the_tokens_of_whole_lines(model_type, texts):
    tokenizer = with_words(model_type)
    known = word_cache_of(tokenizer)
    assert known is not None, "nothing would be compared"
    found, expected = known(tokenizer, Characters(texts)), encode_lines(tokenizer, Characters(texts))
    for name in ("lengths", "ids", "first", "last", "continues"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name


@pytest.mark.parametrize("model_type", TYPES)
def test_the_word_cache_forgets_what_a_word_was_before_it_was_added(model_type):
    tokenizer = tokenizer_of(model_type)
    before = tokenize(tokenizer, ["a graft x"])
    [graft] = add_words(tokenizer, ["graft"])
    after = tokenize(tokenizer, ["a graft x"])
    assert graft in after.ids.tolist() and len(after.ids) < len(before.ids)


def test_a_mark_that_the_normalizer_puts_before_a_text_is_no_part_of_a_word():
    """Tokenizers that are made from sentencepiece models put `▁` there, and in place of each space."""
    tokenizer = sample_tokenizer("xlm-roberta", 300)
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    assert addable_words(tokenizer, ["ossifluence"]) == ["ossifluence"]
