"""Tokenizers that give no offsets: the same tokens as from themselves, and the words of the text."""

from __future__ import annotations

import json
import pickle
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import (
    AutoTokenizer,
    BertJapaneseTokenizer,
    BertweetTokenizer,
    EsmTokenizer,
    PerceiverTokenizer,
    PhobertTokenizer,
    RoCBertTokenizer,
    Wav2Vec2CTCTokenizer,
    XLMTokenizer,
)

from conftest import SPECIAL, bpe_tokenizer, japanese_tokenizer, slow_after
from wordmask.segmenters.tokenizer import TokenizerSegmenter
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.tokenization.encoding import Encodings
from wordmask.tokenization.tokenize import tokenize
from wordmask.utils.errors import InputError

JAPANESE = [
    "私は学校でカレーを食べた。",
    "ＡＢＣ社の㌔は２０キロメートルです",
    "東京 タワー\u3000ｶﾞｲﾄﾞ",
    "",
    "食べる🙂こと",
]
PIECES = ["学校", "食べ", "カレー", "東京", "私は", "キロ", "メートル", "abc社", "ことのでをタワガイドたるす。です"]
VIETNAMESE = ["tôi làm_việc ở thành_phố Hồ_Chí_Minh .", "làm việc, học_sinh!", "x"]
ANALYSERS = {
    "mecab": {"word_tokenizer_type": "mecab"},
    "sudachi": {"word_tokenizer_type": "sudachi", "sudachi_kwargs": {"sudachi_dict_type": "small"}},
    "basic": {"word_tokenizer_type": "basic", "do_lower_case": True},
    "none": {"do_word_tokenize": False},
}


def japanese(folder, analyser: str = "mecab", **options) -> BertJapaneseTokenizer:
    for package in {"mecab": ("fugashi", "unidic_lite"), "sudachi": ("sudachipy", "sudachidict_small")}.get(
        analyser, ()
    ):
        pytest.importorskip(package)
    return japanese_tokenizer(folder, PIECES, **ANALYSERS[analyser], **options)


def phobert(folder) -> PhobertTokenizer:
    return bpe_tokenizer(folder, " ".join(VIETNAMESE).split())


def surfaces_of(tokenizer, encodings: Encodings) -> list[str]:
    """The text that each token covers."""
    text = encodings.characters.text
    return [text[first : last + 1] for first, last in zip(encodings.first, encodings.last, strict=True)]


def gold_bits(encodings: Encodings, words: list[list[str]]) -> list[bool]:
    """Which tokens continue a word, if these are the words of the lines."""
    number, numbers = 0, []
    for line, line_words in zip(encodings.characters.lines, words, strict=True):
        place = 0
        ids = [0] * (len(line) + 1)
        for word in line_words:
            place, number = line.index(word, place), number + 1
            ids[place : place + len(word)] = [number] * len(word)
            place += len(word)
        numbers += ids
    return encodings.continuations(np.array(numbers)).tolist()


@pytest.mark.parametrize("subwords", ["wordpiece", "character"])
@pytest.mark.parametrize("analyser", ANALYSERS)
def test_tokens_are_the_tokenizer_s_own(tmp_path, analyser, subwords):
    tokenizer = japanese(tmp_path, analyser, subword_tokenizer_type=subwords)
    tokenizer.add_tokens(["食べた", "カレー"])
    lines = [*JAPANESE, "[MASK]です [UNK] た", "a##b"]
    for _ in range(2):  # the second time from memory
        encodings = tokenize(tokenizer, lines)
        own = tokenizer(lines, add_special_tokens=False)["input_ids"]
        assert encodings.ids.tolist() == [token for line in own for token in line]
        assert encodings.lengths.tolist() == [*map(len, own)]
    assert encodings.characters.lines == lines, "all of them align"


@pytest.mark.parametrize("subwords", ["wordpiece", "character"])
@pytest.mark.parametrize("analyser", ["mecab", "sudachi"])
def test_each_token_covers_its_characters_through_width_case_and_composition(tmp_path, analyser, subwords):
    tokenizer = japanese(tmp_path, analyser, subword_tokenizer_type=subwords, do_lower_case=False)
    encodings = tokenize(tokenizer, JAPANESE)
    covered = surfaces_of(tokenizer, encodings)
    tokens = tokenizer.convert_ids_to_tokens(encodings.ids.tolist())
    known = [(token, text) for token, text in zip(tokens, covered, strict=True) if token != "[UNK]"]
    assert len(known) > 30
    for token, text in known:
        assert token.removeprefix("##") in unicodedata.normalize("NFKC", text)
    assert ("ガ", "ｶﾞ") in known or ("##ガ", "ｶﾞ") in known


@pytest.mark.parametrize("subwords", ["wordpiece", "character"])
@pytest.mark.parametrize("analyser", ["mecab", "sudachi"])
def test_its_own_words_are_those_of_the_analyser(tmp_path, analyser, subwords):
    """Gold words: those that the analyser gives if we call it; each token after the first continues."""
    tokenizer = japanese(tmp_path, analyser, subword_tokenizer_type=subwords)
    line = "私は学校でカレーを食べた。"
    words = TokenizerSegmenter(tokenizer).segment([line])
    assert words == [[*tokenizer.word_tokenizer.tokenize(line)]] and "カレー" in words[0]
    bits = gold_bits(tokenize(tokenizer, [line]), words)
    expected = [number > 0 for word in words[0] for number, _ in enumerate(tokenizer.subword_tokenizer.tokenize(word))]
    assert bits == expected
    # A word without a token of its own is one [UNK] in WordPiece, and characters otherwise.
    assert any(bits) or subwords == "wordpiece"


def test_words_in_a_line_are_written_as_in_the_line(tmp_path):
    tokenizer = japanese(tmp_path)
    line = "ＡＢＣ社の㌔は ｶﾞｲﾄﾞ"
    words = TokenizerSegmenter(tokenizer).segment([line])[0]
    assert "".join(words) == line.replace(" ", "") and "ｶﾞｲﾄﾞ" in words


@pytest.mark.parametrize("tokenizer_class", [PhobertTokenizer, BertweetTokenizer])
def test_pieces_with_a_mark_at_their_end(tmp_path, tokenizer_class):
    tokenizer = bpe_tokenizer(tmp_path, " ".join(VIETNAMESE).split(), tokenizer_class)
    encodings = tokenize(tokenizer, VIETNAMESE)
    own = tokenizer(VIETNAMESE, add_special_tokens=False)["input_ids"]
    assert encodings.ids.tolist() == [token for line in own for token in line]
    assert encodings.characters.lines == VIETNAMESE
    tokens = tokenizer.convert_ids_to_tokens(encodings.ids.tolist())
    assert [token.removesuffix("@@") for token in tokens] == surfaces_of(tokenizer, encodings)
    words = [line.split() for line in VIETNAMESE]
    expected = [number > 0 and tokens[number - 1].endswith("@@") for number in range(len(tokens))]
    assert gold_bits(encodings, words) == expected, "each `_`-joined word is one word"


def test_an_unknown_token_covers_its_text(tmp_path):
    tokenizer = phobert(tmp_path)
    encodings = tokenize(tokenizer, ["làm ŵŷ việc"])
    unknown = encodings.ids == tokenizer.unk_token_id
    assert unknown.any()
    assert "".join(np.array(surfaces_of(tokenizer, encodings))[unknown]) == "ŵŷ"


def test_tweets_that_are_rewritten_have_their_words_from_the_mark(tmp_path):
    """BERTweet makes @USER and HTTPURL of names and links: no part of the text."""
    words = ["hello", "@USER", "HTTPURL", "see", ","]
    tokenizer = bpe_tokenizer(tmp_path, words, BertweetTokenizer, normalization=True)
    lines = ["hello @anna, see https://x.org", "hello , see"]
    encodings = tokenize(tokenizer, lines)
    assert [line.split() for line in encodings.characters.lines] == [
        ["hello", "@USER", ",", "see", "HTTPURL"],
        lines[1].split(),
    ]
    assert encodings.characters.lines[1] == lines[1], "what was not rewritten stays the text"
    own = tokenizer(lines, add_special_tokens=False)["input_ids"]
    assert encodings.ids.tolist() == [token for line in own for token in line]
    tokens = tokenizer.convert_ids_to_tokens(encodings.ids.tolist())
    mark = np.array([False, *(token.endswith("@@") for token in tokens[:-1])])
    joined = mark & ~np.array([token.startswith("US") for token in tokens])  # `@` is a word of its own, as in any text
    assert encodings.continues.tolist() == joined.tolist()


def test_what_stands_behind_a_word_that_is_rewritten_keeps_its_own_characters(tmp_path):
    """What is rebuilt is shorter or longer than the text, so all that follows in its line moves."""
    tokenizer = bpe_tokenizer(tmp_path, ["hello", "URL", "see"])
    plain = tokenizer.tokenize
    tokenizer.tokenize = lambda text: plain("URL" if text.startswith("http") else text)
    encodings = tokenize(tokenizer, ["hello https://x.org see hello", "see http: hello"])
    assert encodings.characters.lines == ["hello URL  see hello", "see URL  hello"]
    text = "".join(encodings.characters.text)
    spans = zip(encodings.first.tolist(), encodings.last.tolist(), strict=True)
    tokens = tokenizer.convert_ids_to_tokens(encodings.ids.tolist())
    assert [text[first : last + 1] for first, last in spans] == [token.removesuffix("@@") for token in tokens]
    assert encodings.continues.tolist() == [False, *(token.endswith("@@") for token in tokens[:-1])]


def test_a_refusal_where_nothing_says_what_tokens_cover(tmp_path):
    """Wav2Vec2's writes `|` for a space, and has no mark."""
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "<mask>": 4}')
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), mask_token="<mask>")
    assert tokenize(tokenizer, ["AA"]).ids.tolist() == [3, 3]
    with pytest.raises(InputError, match="--bert: Wav2Vec2CTCTokenizer .*'A A'.*run_mlm.py"):
        tokenize(tokenizer, ["AA", "A A"], "--bert")


def test_other_tokenizers_without_offsets(tmp_path):
    (tmp_path / "esm.txt").write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", "A", "C", "<mask>"]))
    esm = tokenize(EsmTokenizer(str(tmp_path / "esm.txt")), ["AC xy A"])
    assert esm.first.tolist() == [0, 1, 3, 6] and esm.last.tolist() == [0, 1, 4, 6]
    as_bytes = tokenize(PerceiverTokenizer(), ["a 中"])
    assert as_bytes.first.tolist() == [0, 2, 2, 2, 2] and as_bytes.continues.tolist() == [
        False,
        False,
        True,
        True,
        True,
    ]
    vocabulary = [*SPECIAL, "研", "究", "walk", "##ed"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    for name in ("shape", "pronunciation"):
        (tmp_path / f"{name}.json").write_text(json.dumps({one: number for number, one in enumerate(vocabulary)}))
    files = [str(tmp_path / name) for name in ("vocab.txt", "shape.json", "pronunciation.json")]
    rocbert = tokenize(RoCBertTokenizer(*files), ["WALKED研究 zebra"])
    assert rocbert.last.tolist() == [3, 5, 6, 7, 13] and rocbert.continues.tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


def test_moses_and_its_punctuation(tmp_path):
    pytest.importorskip("sacremoses")
    (tmp_path / "vocab.json").write_text(
        '{"<unk>": 0, "<s>": 1, "a</w>": 2, "b</w>": 3, ".</w>": 4, "\\"</w>": 5, "a": 6}'
    )
    (tmp_path / "merges.txt").write_text("a b</w> 1\n")
    tokenizer = XLMTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    encodings = tokenize(tokenizer, ["“A b” a."])
    assert encodings.characters.lines == ["“A b” a."]
    assert encodings.first.tolist() == [0, 1, 3, 4, 6, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Gives the tokenizer of a kind, made once."""

    @cache
    def make(kind: str):
        folder, words = tmp_path_factory.mktemp(kind), " ".join(VIETNAMESE).split()
        if kind in ANALYSERS:
            return japanese(folder, kind, subword_tokenizer_type="character" if kind == "none" else "wordpiece")
        if kind == "phobert":
            return bpe_tokenizer(folder, words)
        return bpe_tokenizer(folder, words, BertweetTokenizer, normalization=True)

    return make


TEXTS = st.lists(
    st.text(
        st.sampled_from("aBÉ 私は学校カレー食べた。ｶﾞ㌔Ａ１ làm_việcกินมี…🙂👍🏽한\u0301\u200b\u3000\x00\ud800\n#@"),
        max_size=20,
    ),
    max_size=3,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(TEXTS)
@pytest.mark.parametrize("kind", slow_after(2, ["mecab", "phobert", "sudachi", "basic", "none", "bertweet"]))
def test_any_text_has_spans_in_order_within_it(made, kind, lines):
    """The tokens are the tokenizer's own; each covers something of its line, in order; what it keeps is covered."""
    tokenizer = made(kind)
    encodings = tokenize(tokenizer, lines)
    valid = [line.replace("\ud800", "\ufffd") for line in lines]
    own = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(line)) for line in valid]
    assert encodings.ids.tolist() == [token for line in own for token in line]
    assert encodings.lengths.tolist() == [*map(len, own)]
    characters = encodings.characters
    line_of = np.repeat(np.arange(len(lines)), encodings.lengths)
    starts = characters.line_starts[line_of]
    ends = starts + characters.line_lengths[line_of]  # the line end stands for a token of nothing
    assert (starts <= encodings.first).all() and (encodings.first <= encodings.last).all()
    assert (encodings.last <= ends).all()
    same = np.diff(line_of) == 0
    assert (np.diff(encodings.first)[same] >= 0).all() and (np.diff(encodings.last)[same] >= 0).all()
    covered = {
        place for first, last in zip(encodings.first, encodings.last, strict=True) for place in range(first, last + 1)
    }
    # These keep all that can be seen; but MeCab stops at a null character.
    if kind in ("sudachi", "phobert") or (kind == "mecab" and "\x00" not in "".join(lines)):
        # A half-width ﾞ is a letter, but the tokenizer makes a combining mark of it.
        normal = [unicodedata.normalize("NFKC", one) for one in characters.text]
        # U+FFFD may go to a neighbour, where the tokenizer has changed the order of marks: we forget both there.
        seen = [
            place
            for place, text in enumerate(normal)
            if any(unicodedata.category(one)[0] in "LNPS" and one != "\ufffd" for one in text)
        ]
        assert covered.issuperset(seen)


def test_the_same_after_a_round_trip_and_with_the_same_name(tmp_path):
    """Saved, loaded and pickled, a tokenizer has the same words and the same digest; other options give another."""
    made = [japanese(tmp_path / "japanese"), phobert(tmp_path / "phobert")]
    for number, tokenizer in enumerate(made):
        tokenizer.save_pretrained(tmp_path / f"saved{number}")
        lines = JAPANESE + VIETNAMESE
        for other in (
            AutoTokenizer.from_pretrained(tmp_path / f"saved{number}"),
            pickle.loads(pickle.dumps(tokenizer)),
        ):
            assert type(other) is type(tokenizer) and tokenizer_digest(other) == tokenizer_digest(tokenizer)
            one, two = tokenize(tokenizer, lines), tokenize(other, lines)
            for name in ("ids", "first", "last"):
                assert getattr(one, name).tolist() == getattr(two, name).tolist()
    digests = [tokenizer_digest(tokenizer) for tokenizer in made]
    digests.append(tokenizer_digest(japanese(tmp_path / "lower", do_lower_case=True)))
    digests.append(tokenizer_digest(japanese(tmp_path / "characters", subword_tokenizer_type="character")))
    digests.append(tokenizer_digest(japanese(tmp_path / "raw", mecab_kwargs={"normalize_text": False})))
    digests.append(tokenizer_digest(bpe_tokenizer(tmp_path / "merges", " ".join(VIETNAMESE).split()[:-1])))
    made[0].add_tokens(["学校へ"])
    digests.append(tokenizer_digest(made[0]))
    assert len({*digests}) == len(digests)


def test_added_tokens_change_what_is_remembered(tmp_path):
    tokenizer = phobert(tmp_path)
    assert tokenize(tokenizer, ["làm_việc"]).lengths.tolist() == [4]
    tokenizer.add_tokens(["làm_việc"])
    assert tokenize(tokenizer, ["làm_việc"]).lengths.tolist() == [1]


def test_a_line_that_is_too_long_for_sudachi(tmp_path):
    tokenizer = japanese(tmp_path, "sudachi")
    line = "私は学校でカレーを食べた。" * 3000
    encodings = tokenize(tokenizer, [line])
    assert "".join(surfaces_of(tokenizer, encodings)) == line


def test_another_version_of_the_analyser_is_another_tokenizer(tmp_path, monkeypatch):
    tokenizer = japanese(tmp_path)
    before, identity = tokenizer_digest(tokenizer), TokenizerSegmenter(tokenizer).identity
    assert {"fugashi", "unidic_lite"} < identity.keys() and identity["name"] == "tokenizer"
    monkeypatch.setattr("wordmask.segmenters.tokenizer.version", lambda package: "0.0.1")
    assert tokenizer_digest(tokenizer) != before and TokenizerSegmenter(tokenizer).identity != identity


def test_a_line_break_inside_a_text_is_text_like_any_other():
    """A row of a table may hold several lines."""
    tokenizer = PerceiverTokenizer()
    encodings = tokenize(tokenizer, ["ab\ncd"])
    assert encodings.ids.tolist() == tokenizer("ab\ncd", add_special_tokens=False)["input_ids"]
    assert encodings.lengths.tolist() == [5]


def test_a_memory_that_was_full_keeps_what_comes_after(tmp_path, monkeypatch):
    monkeypatch.setattr("wordmask.tokenization.aligned._MOST", 40)
    tokenizer, asked = phobert(tmp_path), []
    plain = tokenizer.tokenize
    tokenizer.tokenize = lambda text: asked.append(text) or plain(text)
    tokenize(tokenizer, [f"làm{number}" for number in range(9)])
    tokenize(tokenizer, ["ở", "x", "ở", "x"])
    assert asked[9:] == ["ở", "x"], "each is asked for once"
