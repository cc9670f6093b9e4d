"""Words of ids alone are those of the text, for every way in which tokens show where words begin."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import CanineTokenizer, PerceiverTokenizer, PreTrainedTokenizerFast

from conftest import sample_lines, sample_tokenizer, slow_after
from wordmask.tokenization.added_words import add_words
from wordmask.tokenization.special_tokens import special_ids
from wordmask.tokenization.surfaces import CHARACTERS, Surfaces, mark_of
from wordmask.tokenization.tokenize import tokenize

AWKWARD = [
    "don't walk!  e-mail: a.b@c.com, 3.14%; foo_bar (x)",
    "Zu\u0308rich a\u0301b !\u0301x",
    "研究生命的起源。T恤 2008年",
    "हिन्दी भाषा की किताब",
    "",
    "🇩🇪🇫🇷 👍🏽 👩‍👩‍👧",
]


def surfaces(tokenizer) -> Surfaces:
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    return Surfaces(tokenizer, np.append(special_ids(tokenizer), unknown).astype(np.int64))


def differences(tokenizer, lines: list[str]) -> list[tuple[list[str], bool]]:
    """The tokens about which ids and text say different things, each with the one before it."""
    tokens = tokenize(tokenizer, lines)
    expected = tokens.continues
    assert expected.any() and not expected.all(), "nothing would be told"
    found = surfaces(tokenizer).encodings(tokens.ids.astype(np.int64), tokens.lengths).continues
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    return [(pieces[place - 1 : place + 1], bool(found[place])) for place in np.flatnonzero(expected != found)]


@pytest.mark.parametrize("language", ["english", "chinese"])
@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta", "xlm-roberta", "albert", "deberta-v2"])
def test_words_of_ids_are_those_of_the_text(model_type, language):
    tokenizer = sample_tokenizer(model_type, 800 if language == "english" else 3000, language)
    lines = sample_lines(language, 60) + AWKWARD
    # What an unknown letter stands for, ids do not say.
    assert [pair for pair in differences(tokenizer, lines) if tokenizer.unk_token not in pair[0]] == []


def test_a_byte_level_tokenizer_loses_nothing_even_inside_characters():
    """A vocabulary of bytes alone, where a Chinese character is three tokens."""
    tokenizer = sample_tokenizer("roberta", 270)
    assert differences(tokenizer, AWKWARD) == []
    ids = tokenizer("生", add_special_tokens=False)["input_ids"]
    assert len(ids) == 3
    whole = surfaces(tokenizer).encodings(np.array([*ids, *ids]), np.array([6])).continues
    assert whole.tolist() == [False, True, True, False, True, True]
    cut = surfaces(tokenizer).encodings(np.array([*ids, *ids[:2]]), np.array([3, 2])).continues
    assert cut[:4].tolist() == [False, True, True, False], "what is cut changes nothing before it"


def test_every_byte_is_a_byte_also_those_that_utf_8_never_has():
    """A vocabulary has the byte FF, and ids may be anything: what stands behind it keeps its place."""
    tokenizer = sample_tokenizer("roberta", 270)
    vocabulary = tokenizer.get_vocab()
    for byte in ("\u00ff", "\u0122"):  # how FF and 80 are written
        ids = np.array([vocabulary[piece] for piece in ("a", byte, "b", "\u0120", "c")])
        found = surfaces(tokenizer).encodings(ids, np.array([5])).continues
        expected = (
            surfaces(tokenizer)
            .encodings(np.where(ids == vocabulary[byte], vocabulary["a"], ids), np.array([5]))
            .continues
        )
        assert found[[0, 3, 4]].tolist() == expected[[0, 3, 4]].tolist() == [False, False, True]


@pytest.mark.parametrize("lstrip", [False, True])
def test_an_added_token_of_bytes_has_white_space_before_it_only_if_it_takes_that_in(lstrip):
    """`un` and an added `seen` are one word, unless the token stands for ` seen`."""
    tokenizer = sample_tokenizer("roberta", 270)
    tokenizer.add_tokens([AddedToken("seen", lstrip=lstrip)])
    ids = [tokenizer.get_vocab()[token] for token in ("u", "n", "seen")]
    assert surfaces(tokenizer).encodings(np.array(ids), np.array([3])).continues.tolist() == [False, True, not lstrip]


def with_tokens(*tokens: str, decoder=None) -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate(["[UNK]", "[MASK]", *tokens])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    if decoder:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]")


@pytest.mark.parametrize(
    "tokens, decoder",
    [
        (["un", "##seen", "thing", "##s", ",", "good"], None),
        (["un", "##seen", "thing", "##s", ",", "good"], decoders.WordPiece()),
        (["un", "@@seen", "thing", "@@s", ",", "good"], decoders.WordPiece("@@")),
        (["un", "seen", "\u0120thing", "s", ",", "\u0120good"], None),
        (["\u2581un", "seen", "\u2581thing", "s", ",", "\u2581good"], None),
        (["un@@", "seen", "thing@@", "s", ",", "good"], None),
        (["un", "seen</w>", "thing", "s</w>", ",</w>", "good</w>"], None),
        (["un", "seen</w>", "thing", "s</w>", ",</w>", "good</w>"], decoders.BPEDecoder("</w>")),
        (["un", "seenX", "thing", "sX", ",X", "goodX"], decoders.BPEDecoder("X")),
    ],
    ids=str,
)
def test_every_mark_of_a_word_is_read(tokens, decoder):
    """unseen things, good — with a decoder that names the mark, or without one, as slow tokenizers have it."""
    tokenizer = with_tokens(*tokens, decoder=decoder)
    found = surfaces(tokenizer).encodings(np.array(tokenizer.convert_tokens_to_ids(tokens)), np.array([6])).continues
    assert found.tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize(
    "tokenizer_class, adds", slow_after(2, product([PerceiverTokenizer, CanineTokenizer], [True, False]))
)
def test_tokens_of_one_byte_or_character_are_the_text_as_it_is(tokenizer_class, adds):
    tokenizer, line = tokenizer_class(), "walking é, on 山"
    if adds:
        tokenizer.add_tokens(["<entity>"])
    ids = np.array(tokenizer(line, add_special_tokens=False)["input_ids"])
    encodings = surfaces(tokenizer).encodings(ids, np.array([len(ids)]))
    assert encodings.characters.lines == [line]
    # A space goes with the word after it.
    starts = [line.index(word) for word in ("walking", " é", ",", " on", " 山")]
    sizes = [1] * len(line) if tokenizer_class is CanineTokenizer else [len(letter.encode()) for letter in line]
    firsts = np.cumsum([0, *sizes])[starts]
    assert np.flatnonzero(~encodings.continues).tolist() == firsts.tolist()


@pytest.mark.parametrize("decoder", [decoders.Metaspace(), decoders.Replace("\u2581", " ")], ids=["own", "replace"])
def test_what_the_decoder_says_counts_more_than_how_often_a_mark_is_there(decoder):
    """Maltese words begin with `Ġ`."""
    tokenizer = with_tokens("\u2581un", "seen", "\u0120enna", "\u0120or\u0121", decoder=decoder)
    assert mark_of(tokenizer) == ("space", "\u2581")


@pytest.mark.parametrize("letters", [["a", "\xff"], [*map(chr, range(0x4E00, 0x4E00 + 255))]], ids=["few", "256"])
def test_only_a_vocabulary_of_all_bytes_is_one_of_bytes(letters):
    assert mark_of(with_tokens(" ", *letters)) == CHARACTERS
    assert mark_of(with_tokens(*letters)) is None, "without a space, they may be words of one letter"


def test_an_added_token_of_characters_has_no_white_space_before_it():
    tokenizer = with_tokens(" ", "a", "b")
    tokenizer.add_tokens(["cd"])
    assert surfaces(tokenizer).encodings(np.array([3, 5]), np.array([2])).characters.lines == ["acd"]


def test_a_token_of_a_mark_alone_is_a_word_by_itself():
    tokenizer = with_tokens("un", "##seen", "##")
    found = surfaces(tokenizer).encodings(np.array([2, 3, 4, 2]), np.array([4])).continues
    assert found.tolist() == [False, True, False, False]


@pytest.mark.parametrize("decoder", [None, decoders.WordPiece("")], ids=["none", "empty"])
def test_tokens_without_a_mark_are_words(decoder):
    tokenizer = with_tokens("unseen", "things", decoder=decoder)
    assert surfaces(tokenizer).encodings(np.array([2, 3, 2]), np.array([3])).continues.tolist() == [False] * 3


def test_an_unknown_token_is_a_word_by_itself():
    tokenizer = with_tokens("\u2581un", "seen")
    assert surfaces(tokenizer).encodings(np.array([2, 0, 3, 3]), np.array([4])).continues.tolist() == [
        False,
        False,
        False,
        True,
    ]


def test_bytes_of_a_unigram_vocabulary_are_characters():
    """生 is E7 94 9F."""
    tokenizer = with_tokens("\u2581un", "<0xE7>", "<0x94>", "<0x9F>")
    found = surfaces(tokenizer).encodings(np.array([2, 3, 4, 5, 3, 4, 5]), np.array([7])).continues
    assert found.tolist() == [False, False, True, True, False, True, True]


@pytest.mark.parametrize("model_type, words", [("bert", 2), ("xlm-roberta", 2), ("roberta", 1)])
def test_an_added_token_begins_a_word_where_white_space_cannot_be_seen(model_type, words):
    """In byte-level tokenizers it can: `the` + `graft` is one word, `the graft` is two."""
    tokenizer = sample_tokenizer(model_type)
    tokenizer.add_tokens(["graft"])
    for text, expected in (("the graft", 2), ("thegraft", words)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        continues = surfaces(tokenizer).encodings(np.array(ids), np.array([len(ids)])).continues
        assert (~continues).sum() == expected, text


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta"])
def test_the_characters_of_all_tokens_are_those_of_the_text(model_type):
    """Also where a character has several tokens, and for an added word."""
    tokenizer = sample_tokenizer(model_type, 400)
    add_words(tokenizer, ["graft"])
    text = "The graft of grafts, walked away" + "\t中é \n x" * (model_type == "roberta")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    characters = surfaces(tokenizer).characters
    assert tokenizer.unk_token_id not in ids and characters[ids].sum() == len("".join(text.split()))
    assert characters[tokenizer.convert_tokens_to_ids("graft")] == 5
    assert (characters[tokenizer.all_special_ids] == 1).all()


def test_an_added_token_of_bytes_may_have_any_characters():
    """`研` and a space are no letters that a byte-level vocabulary writes bytes with."""
    tokenizer = sample_tokenizer("roberta", 270)
    tokenizer.add_tokens(["研究", "New York"])
    ids = tokenizer("a研究b New York", add_special_tokens=False)["input_ids"]
    encodings = surfaces(tokenizer).encodings(np.array(ids), np.array([len(ids)]))
    assert encodings.characters.lines == ["a研究b New York"]
