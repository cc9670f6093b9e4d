"""Which tokens form a word, for every family of tokenizers and every source of words.

Each tokenizer here has a vocabulary of single characters and a few longer pieces, so that the expected words can be
written down. A string of tokens with `|` between the words is what `divided` gives for a text.
"""

from __future__ import annotations

import string
import unicodedata
from copy import deepcopy
from functools import cache
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, BertTokenizer, PreTrainedTokenizerFast

from conftest import character_tokenizer, slow_after
from wordmask.masking import word_starts
from wordmask.references.positions import line_positions
from wordmask.segmenters import Segmenter
from wordmask.tokenization.segmented import segmented
from wordmask.tokenization.special_tokens import special_affixes
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.tokenization.words import (
    EXTEND,
    FLAG,
    LETTER,
    SCRIPTS,
    SPACE,
    SYMBOL,
    Characters,
    character_class,
    is_chinese,
    script_of,
)
from wordmask.utils.errors import InputError

SENTENCE = "He walked, unbelievably don't 2004 3.14"
CHINESE = "我用写代码恤打印卡拉研究生命的起源说活不易在东京野家喜欢你年，。"
EMOJI = "👍🏽👨👩👧❤\u200d\ufe0f🇫🇷🇩🇪"
CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation, *CHINESE, *EMOJI, *"éïカラオケ"]
FAMILIES = ["bert", "distilbert", "electra", "roberta", "modernbert", "albert", "xlm-roberta", "camembert"]
FAMILIES += ["deberta-v2", "metaspace", "metaspace unsplit", "byte-level unsplit", "no pre-tokenizer"]
WORDPIECE, BYTES, METASPACE = FAMILIES[:3], FAMILIES[3:5], FAMILIES[5:10]
PIECES = ["▁walk", "ed", "代码", "研究", "究生"]


def merges_of(*words: str) -> list[tuple[str, str]]:
    """The merges that make each word from its characters, from left to right."""
    return [(word[:end], word[end]) for word in words for end in range(1, len(word))]


def wrapped(backend: Tokenizer, pad: str = "[PAD]") -> PreTrainedTokenizerFast:
    """A tokenizer from its parts, with `[CLS]` and `[SEP]` set by a template."""
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $0 [SEP]", special_tokens=ids)
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, **special)


@cache
def family(name: str, *more: str):
    """A tokenizer of a family; `more` are the longer pieces that it has besides."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if name in WORDPIECE:
        pieces = ["un", "##believ", "##ably", "walk", "##ed", "20", "##04", "14", *CHARACTERS, *more]
        pieces += [f"##{character}" for character in CHARACTERS]
        return tokenizer_class(name)(vocab=numbered(special + pieces))
    if name in METASPACE[:4]:
        if name in ("xlm-roberta", "camembert"):
            special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        elif name == "albert":
            special = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
        vocab = [(token, 0.0) for token in special] + [(character, -10.0) for character in ["▁", *CHARACTERS]]
        return tokenizer_class(name)(vocab=vocab + [(piece, -5.0) for piece in (more or PIECES[:3])])
    if name == "roberta":
        merges = merges_of("Ġwalk", "ed", *more)
        pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        pieces += ["".join(merge) for merge in merges]
        return tokenizer_class(name)(vocab=numbered(pieces), merges=merges)
    by_bytes = name.startswith(("modernbert", "byte-level"))
    merges = merges_of("Ġwalk" if by_bytes else "▁walk", "ed", *more)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet()) if by_bytes else ["▁", *CHARACTERS]
    vocab = numbered([*special, *letters, *("".join(merge) for merge in merges)])
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="[UNK]"))
    if name == "no pre-tokenizer":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif by_bytes:
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name == "modernbert")
        backend.decoder = decoders.ByteLevel()
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(split=name == "metaspace")
    return wrapped(backend)


def tokenizer_class(model_type: str):
    return TOKENIZER_MAPPING[CONFIG_MAPPING[model_type]]


def numbered(pieces: list[str]) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def divided(tokenizer, text: str) -> str:
    """The tokens of a text, with `|` between two words."""
    tokens = tokenize(tokenizer, [text])
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    joined = "".join(
        f"{' ' if continues else ' | '}{piece}" for piece, continues in zip(pieces, tokens.continues, strict=True)
    )
    return joined.removeprefix(" | ")


def surfaces(tokenizer, text: str, dropped: str = "\u200d\ufe0f") -> list[str]:
    """The text of each word, by the tokenizer's own offsets; without joiners, which some tokenizers drop."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    words: list[list[int]] = []
    for (start, end), continues in zip(offsets, tokenize(tokenizer, [text]).continues, strict=True):
        if continues:
            words[-1][1] = max(end, words[-1][1])
        else:
            words.append([start, end])
    found = [text[start:end].strip() for start, end in words]
    return ["".join(character for character in word if character not in dropped) for word in found]


class Given(Segmenter):
    """Gives the words that it was made with."""

    def __init__(self, *lines: list[str]):
        self.lines = list(lines)

    def segment(self, lines):
        assert len(lines) == len(self.lines)
        return self.lines


def positions(tokenizer, words: str | list[str], line: str | None = None, mixed: bool = False) -> list[int]:
    """The reference of one line, whose words are written with `/` between them."""
    words = words.split("/") if isinstance(words, str) else words
    return line_positions(tokenizer, Given(words), ["".join(words) if line is None else line], mixed)[0]


# A tokenizer's own words

EXACT = {
    "wordpiece": "h ##e | walk ##ed | , | un ##believ ##ably | d ##o ##n | ' | t | 20 ##04 | 3 | . | 14",
    "bytes": "H e | Ġwalk ed | , | Ġ u n b e l i e v a b l y | Ġ d o n | ' | t | Ġ 2 0 0 4 | Ġ 3 | . | 1 4",
    "metaspace": "▁ H e | ▁walk ed | , | ▁ u n b e l i e v a b l y | ▁ d o n | ' | t | ▁ 2 0 0 4 | ▁ 3 | . | 1 4",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_an_english_sentence_has_exactly_these_words(name):
    """`walked,` is two words, `don't` three, `2004` one and `3.14` three, whatever the tokenizer."""
    if name in WORDPIECE:
        expected = EXACT["wordpiece"]
    else:
        expected = EXACT["bytes" if name in (*BYTES, "byte-level unsplit") else "metaspace"]
    found = divided(family(name), SENTENCE)
    assert found == (expected.replace("H", "h") if name == "albert" else expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_chinese_mixed_with_english_is_cut_at_every_chinese_character(name):
    text = "我用Python3写代,T恤2004年50%"
    found = surfaces(family(name), text)
    assert found == ["我", "用", "Python3", "写", "代", ",", "T", "恤", "2004", "年", "50", "%"]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WORDPIECE])
def test_chinese_characters_of_several_tokens_are_whole(name):
    """Three bytes are one character and one word; two characters in one token are one word too."""
    tokenizer = family(name)
    continues = tokenize(tokenizer, ["我代码。"]).continues
    counts = np.diff([*np.flatnonzero(~continues), len(continues)])
    if name in BYTES or name.startswith("byte"):
        assert counts.tolist() == [3, 3, 3, 3]
    elif name in METASPACE[:4]:
        assert divided(tokenizer, "我代码。") == "▁ 我 | 代码 | 。"
    else:
        assert divided(tokenizer, "我代码。") == "▁ 我 | 代 | 码 | 。"


@pytest.mark.parametrize("name", FAMILIES)
def test_emoji_sequences_are_one_word_and_two_emoji_are_two(name):
    text = "ok 👍🏽👍 👨‍👩‍👧👩 ❤️!"
    assert surfaces(family(name), text) == ["ok", "👍🏽", "👍", "👨👩👧", "👩", "❤", "!"]


@pytest.mark.parametrize("name", FAMILIES)
def test_two_flags_are_two_words_and_none_is_part_of_a_name(name):
    """A flag is two regional indicators: 🇫🇷🇩🇪 is 🇫🇷 and 🇩🇪."""
    assert surfaces(family(name), "Paris🇫🇷 🇫🇷🇩🇪!") == ["Paris", "🇫🇷", "🇫🇷", "🇩🇪", "!"]


@pytest.mark.parametrize("name", FAMILIES)
def test_symbols_and_punctuation_stand_alone(name):
    text = "$5.99 C++ a_b 1,000 (x@y) -- it's"
    words = "$ 5 . 99 C + + a _ b 1 , 000 ( x @ y ) - - it ' s"
    assert surfaces(family(name), text) == words.split()


@pytest.mark.parametrize("name", FAMILIES)
def test_accents_do_not_break_a_word(name):
    """Composed, and decomposed into a letter and a combining mark."""
    assert surfaces(family(name), "café nai\u0308ve", dropped="\u0308") == ["café", "naive"]


@pytest.mark.parametrize("mark", ["\u200f", "\u200e", "\u2060", "\ufeff", "\u2066"])
def test_a_format_character_behind_white_space_belongs_to_the_word_behind_it(mark):
    lines = [f"ab {mark}cd", f"{mark}ab", f"ab {mark}", f"ab {mark}{mark}！x"]
    words = np.split(Characters(lines).word_ids, np.cumsum([len(line) + 1 for line in lines])[:-1])
    groups = [[*np.diff(line[:-1], prepend=line[0] - 1)] for line in words]
    assert groups[0] == [1, 0, 1, 1, 0, 0] and groups[1] == [1, 0, 0] and groups[2] == [1, 0, 1, 1]
    assert groups[3] == [1, 0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "xlm-roberta", "metaspace unsplit"])
def test_characters_that_nobody_sees_do_not_break_a_word(name):
    """Control characters, soft hyphens, joiners and non-joiners stand inside a word."""
    dropped = "\u00ad\x07\u2060\u200c\ufeff"
    found = surfaces(family(name), "wal\u2060ked un\u00adder\x07go a\u200cb\ufeffc", dropped)
    assert found == ["walked", "undergo", "abc"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_zero_width_space_parts_words_unless_a_token_spans_it(name):
    """BERT drops it and then has the token `walk`, over it: no rule can mask half of that."""
    found = surfaces(family(name), "x\u200by wal\u200bked", dropped="\u200b")
    assert found == (["x", "y", "walked"] if name in WORDPIECE else ["x", "y", "wal", "ked"])


def test_wide_letters_and_kana_are_words_of_their_own_script():
    assert surfaces(family("xlm-roberta"), "ＡＢ１２，カラオケ。") == ["ＡＢ１２", "，", "カラオケ", "。"]


def test_a_byte_that_is_no_character_is_a_letter():
    """Half of one, at an edge of a sequence that is given as ids, becomes a surrogate."""
    assert Characters(["a\udcc3b c"]).word_ids.tolist() == [1, 1, 1, 2, 3, 3]


@pytest.mark.parametrize("code_point, script", [(0x2B81F, "Han"), (0x0F0B, "Tibetan"), (0x0F0C, "Tibetan")])
def test_what_has_a_script_though_it_is_no_letter_of_it(code_point, script):
    """Not assigned in a block of Chinese characters, and the two kinds of tsheg."""
    assert script_of(code_point) == 1 + SCRIPTS.index(script)


def test_a_merged_apostrophe_stays_one_token_and_begins_a_word():
    """RoBERTa has a token `'t`: it is a word of its own, not a part of the word before it."""
    assert divided(family("roberta", "'t"), "don't") == "d o n | 't"


def test_a_token_that_reaches_over_two_words_joins_them():
    """Unigram tokenizers learn `n't`: no rule can mask half of it, so `don't` is one word there."""
    assert divided(family("xlm-roberta", "n't"), "he don't go") == "▁ h e | ▁ d o n't | ▁ g o"


@pytest.mark.parametrize("name", METASPACE + ["metaspace unsplit", "no pre-tokenizer"])
def test_a_lone_word_mark_belongs_to_the_word_behind_it(name):
    assert divided(family(name), "x he").split(" | ")[1:] == ["▁ h e"]


@pytest.mark.parametrize("name", FAMILIES)
def test_white_space_of_any_length_separates_and_a_blank_line_has_no_words(name):
    tokenizer = family(name)
    spaced = surfaces(tokenizer, "  he \t  walked\u3000x\u00a0y ")
    assert [word for word in spaced if word] == ["he", "walked", "x", "y"]
    assert not tokenize(tokenizer, [" ", "", "\t"]).continues[:1].any()


@pytest.mark.parametrize("name", FAMILIES[:-1])  # the last one's normalizer changes added tokens too
def test_tokens_added_as_special_belong_to_no_word_and_others_do(name):
    """`[X]` is added as special, inside a word: what follows begins one. `covid` and `new wave` are added as text."""
    tokenizer = deepcopy(family(name))
    tokenizer.add_tokens(["[X]"], special_tokens=True)
    tokenizer.add_tokens(["covid", "new wave"])
    vocabulary = Vocabulary.of(tokenizer)
    tokens = tokenize(tokenizer, ["walk[X]ed covid new wave"])
    ids = tokens.ids[None]
    maskable = vocabulary.maskable[ids]
    starts = word_starts(maskable, tokens.continues[None])[0]
    pieces = tokenizer.convert_ids_to_tokens(tokens.ids.tolist())
    assert [pieces[place] for place in np.flatnonzero(~maskable[0])] == ["[X]"]
    assert starts[pieces.index("[X]") + 1], "the text behind a special token continues the word before it"
    for added in ("covid", "new wave"):
        place = pieces.index(added)
        lone_space = pieces[place - 1] in ("Ġ", "▁")  # it stands for the word that follows it
        assert starts[place - lone_space]
    assert starts[pieces.index("covid") + 1], "the word behind an added token continues it"
    added = tokenizer.convert_tokens_to_ids(["covid", "new wave", "[X]"])
    assert np.isin(added, vocabulary.random_ids).tolist() == [True, True, False]


@pytest.mark.parametrize("name", FAMILIES)
def test_special_affixes_are_those_of_the_tokenizer(name):
    tokenizer = family(name)
    assert special_affixes(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])


def test_special_affixes_are_found_where_the_letter_a_is_unknown_or_nothing_is_added():
    unknown = character_tokenizer(["研究"])
    assert special_affixes(unknown) == ([unknown.cls_token_id], [unknown.sep_token_id])
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert special_affixes(PreTrainedTokenizerFast(tokenizer_object=backend)) == ([], [])


def test_lines_are_tokenized_whole_whatever_the_tokenizer_was_used_for_before():
    """A tokenizer that was asked to cut and pad keeps these settings in its backend."""
    tokenizer = character_tokenizer(["研究"])
    tokenizer(["研究", "研"], truncation=True, max_length=3, padding="max_length")
    assert tokenize(tokenizer, ["研究研究", "研"]).lengths.tolist() == [4, 1]


ANY_TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\n"),
        st.sampled_from([*CHARACTERS, *"  \t\u3000\u200b\u0301\u2028\x85\x00\x1c𠮷𪜀豈ﬁ½ﷺ"]),
    ),
    max_size=25,
)


def numbers_by_the_rule(line: str) -> list[int]:
    """The number of each character's word, character by character."""
    number, before, halves, leading, numbers = 1, SPACE, 0, False, []  # leading: behind marks that follow white space
    for place, character in enumerate(line):
        kind = character_class(ord(character))
        halves = halves + 1 if kind == FLAG else 0
        joined = line[:place].endswith("\u200d")
        begins = {EXTEND: before == SPACE, LETTER: before != LETTER, SYMBOL: not joined, FLAG: halves % 2 == 1}
        number += begins.get(kind, True) and (kind == SPACE or not leading)
        numbers.append(number)
        leading = kind == EXTEND and before == SPACE
        before = before if kind == EXTEND else kind
    return numbers


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(ANY_TEXT | st.text("ab  .👍🏽🇫🇷\u200d\u0301研", max_size=12), max_size=3))
@example(lines=["\u0301a", "🇫\u0301🇷🇩🇪", "a\u0301\u0301b", "\u200d👍", "🇫", "🇷"])
def test_the_rule_for_text_holds_for_many_lines_at_once(lines):
    characters = Characters(lines)
    for line, start in zip(lines, characters.line_starts.tolist(), strict=True):
        found = characters.word_ids[start : start + len(line)].tolist()
        assert [after - before for before, after in pairwise(found)] == [
            after - before for before, after in pairwise(numbers_by_the_rule(line))
        ]
    assert len({*characters.word_ids[characters.line_starts + characters.line_lengths].tolist()}) == len(lines)


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "albert", "deberta-v2", "metaspace unsplit"])
@settings(max_examples=60, deadline=None)
@given(lines=st.lists(ANY_TEXT, min_size=1, max_size=4))
@example(lines=["a\u0301", "\u0301b", " ", "", "\u200d❤", "b  "])
def test_the_words_of_a_line_do_not_depend_on_the_lines_beside_it(name, lines):
    tokenizer = family(name)
    together = tokenize(tokenizer, lines)
    alone = [tokenize(tokenizer, [line]) for line in lines]
    assert together.lengths.tolist() == [len(tokens.ids) for tokens in alone]
    for field in ("ids", "continues"):
        np.testing.assert_array_equal(
            getattr(together, field), np.concatenate([getattr(tokens, field) for tokens in alone])
        )
    assert not together.continues[together.line_starts[together.lengths > 0]].any(), "a word reaches over a line's end"


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "xlm-roberta", "deberta-v2", "byte-level unsplit"])
@settings(max_examples=60, deadline=None)
@given(line=ANY_TEXT)
@example(line="\u200b a")
def test_no_word_reaches_over_white_space(name, line):
    tokenizer = family(name)
    offsets = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    continues = tokenize(tokenizer, [line]).continues
    # A token of U+200B alone is no word either: like one of white space, it goes with what comes behind it.
    visible = [at for at, (start, end) in enumerate(offsets) if line[start:end].replace("\u200b", " ").strip()]
    for before, after in pairwise(visible):
        if continues[before + 1 : after + 1].all():
            end = len(line[: offsets[before][1]].rstrip())
            start = offsets[after][1] - len(line[slice(*offsets[after])].lstrip())
            assert not any(character.isspace() for character in line[end:start])


# The words of any text, whatever the tokenizer


def whole_text_tokenizer(pre_tokenizer, model=None) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters, or bytes, without special tokens around a text."""
    letters = pre_tokenizers.ByteLevel.alphabet() if "ByteLevel" in repr(pre_tokenizer) else CHARACTERS
    backend = Tokenizer(model or models.BPE(numbered(["[UNK]", *sorted(letters)]), [], unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def with_added_tokens() -> PreTrainedTokenizerFast:
    tokenizer = deepcopy(family("modernbert"))
    options = [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}, {"normalized": False}]
    names = ["研究", "ab", "éx", "x.", "new wave"]
    tokenizer.add_tokens([AddedToken(name, **option) for name, option in zip(names, options, strict=True)])
    return tokenizer


BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)
KINDS = {
    "WordPiece, uncased": lambda: family("bert"),
    "WordPiece, cased": lambda: chinese_tokenizer(do_lower_case=False),
    "bytes, GPT-2": lambda: family("roberta"),
    "bytes, ModernBERT": lambda: family("modernbert"),
    "Unigram with Metaspace": lambda: family("xlm-roberta"),
    "characters": lambda: whole_text_tokenizer(pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")),
    "digits split": lambda: whole_text_tokenizer(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTE_LEVEL])
    ),
    "added tokens": with_added_tokens,
}


@cache
def kind(name: str):
    return KINDS[name]()


def continues_by_the_rule(line: str, offsets: list[tuple[int, int]]) -> list[bool]:
    """Which of the tokens with these offsets continue a word, token by token and character by character."""
    numbers = [*numbers_by_the_rule(line), 10**6]  # behind the line is a word of its own
    visible = [place for place, character in enumerate(line) if not character.isspace() and character != "\u200b"]
    last, continues = -1, []
    for start, end in offsets:
        inside = [place for place in visible if start <= place < end]
        end_of_line = visible[-1] if visible else len(line)
        inside = inside or [next((place for place in visible if place >= start), end_of_line)]
        continues.append(last == numbers[inside[0]])
        last = numbers[inside[-1]]
    return continues


@pytest.mark.parametrize("name", slow_after(3, KINDS))
@settings(max_examples=120, deadline=None)
@given(
    line=ANY_TEXT | st.lists(st.sampled_from([*"ab é研1._\u0301\u200b👍", "new wave", "ab"]), max_size=9).map("".join)
)
@example(line="Python3 re\u0301sume\u0301 हिन्दी\u200bx a_b")
@example(line="xabx éx. studynew wavex 研究院ab")
def test_the_words_of_any_text_are_those_of_its_characters_whatever_the_tokenizer(name, line):
    tokenizer = kind(name)
    offsets = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert tokenize(tokenizer, [line]).continues.tolist() == continues_by_the_rule(line, offsets)


def test_white_space_at_the_end_of_a_line_belongs_to_the_word_before_it():
    tokenizer = kind("bytes, GPT-2")
    assert tokenizer.tokenize("ab. ")[-2:] == [".", "Ġ"]
    tokens = tokenize(tokenizer, ["ab. ", "b", " ", "研 \u3000"])
    first, second, blank, last = np.split(tokens.continues, np.cumsum(tokens.lengths)[:-1])
    assert first.tolist()[-2:] == [False, True] and second.tolist() == [False] and not blank[0]
    assert last[1:].all()


@pytest.mark.parametrize("name", ["bytes, GPT-2", "digits split"])
@settings(max_examples=120, deadline=None)
@given(line=ANY_TEXT)
@example(line="Python3 re\u0301sume\u0301 हिन्दी\u200bx a_b  walked")
def test_the_bytes_of_the_tokens_of_a_word_are_that_word(name, line):
    """Without offsets: what the ids of each word stand for, put together, is what the text has there."""
    tokenizer, words = kind(name), []
    assume(
        not any(token in line for token in tokenizer.all_special_tokens)
    )  # of `<mask>` in a text, there are no words
    tokens = tokenize(tokenizer, [line])
    for token, continues in zip(tokens.ids.tolist(), tokens.continues.tolist(), strict=True):
        words += [] if continues else [[]]
        words[-1].append(token)
    found = [tokenizer.decode(word, clean_up_tokenization_spaces=False) for word in words]
    expected: dict[int, str] = {}
    for number, character in zip(numbers_by_the_rule(line), line, strict=True):
        expected[number] = expected.get(number, "") + character
    white = "".join({character for character in line if character_class(ord(character)) == SPACE})
    stripped = [[word.strip(white) for word in of if word.strip(white)] for of in (found, expected.values())]
    assert stripped[0] == stripped[1]


WORD_LISTS = {
    "Hindi": "हिन्दी भाषा बहुत सुन्दर है और किताब पढ़ना मैं विद्यालय में विज्ञान पढ़ता हूँ",
    "Bengali": "আমি বাংলায় গান গাই বিদ্যালয় বিজ্ঞান ক্‌ত",
    "Arabic with vowel signs": "بِسْمِ اللَّهِ الرَّحْمَٰنِ كِتَابٌ مُحَمَّدٌ",
    "decomposed Vietnamese": unicodedata.normalize("NFD", "Chúng tôi nghiên cứu tiếng Việt ở trường đại học"),
    "Khmer": "ខ្ញុំ ចូលចិត្ត អាន សៀវភៅ នៅ ផ្ទះ",
    "Tamil": "தமிழ் மொழி இனிமையானது",
    "Thai, with marks": "ผู้ใหญ่ น้ำ กำลัง",
}


def script_tokenizer(name: str, text: str):
    """A tokenizer of a kind that knows each character of a text by itself."""
    characters = sorted({*text} - {" "})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    if name == "WordPiece":
        pieces = [*special, *characters, *(f"##{character}" for character in characters)]
        return BertTokenizer(vocab=numbered(pieces), do_lower_case=False)
    if name == "Unigram":
        backend = Tokenizer(models.Unigram([("[UNK]", 0.0), *((piece, -1.0) for piece in ["▁", *characters])], 0))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    return family(name)


@pytest.mark.parametrize("name", ["roberta", "modernbert", "WordPiece", "Unigram"])
@pytest.mark.parametrize("language", WORD_LISTS)
@pytest.mark.parametrize("separator", [" ", "\u200b"], ids=["spaces", "zero-width spaces"])
def test_words_of_scripts_with_combining_marks_are_whole(name, language, separator):
    """A mark is no letter to GPT-2's pre-tokenisation, which cuts there; and Khmer parts words by U+200B."""
    words = WORD_LISTS[language].split()
    tokenizer = script_tokenizer(name, WORD_LISTS[language])
    text = separator.join(words)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    continues = tokenize(tokenizer, [text]).continues
    starts = [start for (start, _), joined in zip(offsets, continues, strict=True) if not joined]
    # To where the next word begins, since the offsets of a composed letter may leave out its marks.
    found = [text[start:end].strip(" \u200b") for start, end in pairwise([*starts, len(text)])]
    assert found == words


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("options", [{}, {"lstrip": True}, {"rstrip": True}, {"normalized": False}], ids=str)
def test_tokens_added_for_a_domain_are_text_like_any_other(name, options):
    """Inside a word, at its edges, beside punctuation, and as a word; a special one would part them."""
    tokenizer = deepcopy(family(name))
    tokenizer.add_tokens([AddedToken(word, **options) for word in ("graft", "covid", "lupus")])
    text = "my grafts and engrafted covid19 with lupus-like postcovid graft covidlupus signs"
    assert tokenizer.convert_tokens_to_ids("graft") in tokenize(tokenizer, [text]).ids.tolist()
    assert surfaces(tokenizer, text) == text.replace("-", " - ").split()


def test_added_tokens_that_stand_for_whole_words_only_are_found_and_are_words():
    tokenizer = deepcopy(family("roberta"))
    tokenizer.add_tokens([AddedToken("graft", single_word=True), AddedToken("new wave")])
    assert surfaces(tokenizer, "grafts graft new waves") == ["grafts", "graft", "new waves"]


# A segmenter's words


def chinese_tokenizer(*more: str, **options) -> BertTokenizer:
    """One token to a Chinese character, all that stand in `CHINESE` known; `more` are other pieces."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return BertTokenizer(vocab=numbered([*special, *CHARACTERS, *(f"##{c}" for c in CHARACTERS), *more]), **options)


@pytest.fixture(scope="module")
def chinese():
    return chinese_tokenizer("3", "##d", "ok")


@pytest.mark.parametrize(
    "words, expected",
    [
        ("研究生/研究/生命/的/起源", [2, 3, 5, 7, 10]),
        ("研究/生命/的/研究生/说/研究/生活/不易", [2, 4, 7, 8, 11, 13, 15]),
        ("𠮷野家/在/东京", [2, 3, 6]),
        ("我/喜欢/你", [3]),
        ("我/说/你", []),
        ("", []),
    ],
)
def test_references_are_exact_where_a_greedy_match_is_not(chinese, words, expected):
    """The first two are cut wrongly when words are matched as strings; the third begins with an unknown character."""
    assert positions(chinese, words) == expected


@pytest.mark.parametrize(
    "words, plain, mixed",
    [
        ("我/用/T恤", [], [4]),
        ("3D打印/的/生活", [7], [2, 3, 4, 7]),  # 3 ##d 打 印 的 生 活
        ("3D/打印", [4], [4]),
        ("卡拉OK/卡拉", [5], [2, 3, 5]),
        ("2004年/研究", [7], [2, 3, 4, 5, 7]),
        ("OK/研究/walk/，/。/打印", [3, 11], [3, 11]),  # ok 研 究 w ##a ##l ##k ， 。 打 印
        ("打印。/研究", [5], [5]),
    ],
)
def test_mixed_words_count_only_when_asked_for_and_move_nothing(chinese, words, plain, mixed):
    """A word with punctuation in it is none; words without a Chinese character are the tokenizer's."""
    assert positions(chinese, words) == plain
    assert positions(chinese, words, mixed=True) == mixed


@pytest.mark.parametrize(
    "words, expected",
    [
        ("研\u200b究/生命", [2, 4]),  # zero-width, which the tokenizer drops
        ("\ufeff/研究", [2]),
        ("研究\x00/\x07/生命", [2, 4]),  # control characters, dropped
        ("ＯＫ/研究", [3]),  # full-width, one unknown token
        ("café/naïve/研究/e\u0301", [11]),  # accents, stripped
        ("\U0002a6a5/𠮷𠮷/研究", [3, 5]),  # surrogate pairs in UTF-16, unknown
        ("豈豈/研究", [2, 4]),  # compatibility ideographs, normalised to others
        ("👨‍👩‍👧/研究/🇫🇷", [5]),  # 👨 ##👩 ##👧 研 究
        ("研究/👍🏽/生命", [2, 6]),
    ],
)
def test_characters_that_a_tokenizer_drops_or_changes_move_nothing(chinese, words, expected):
    assert positions(chinese, words) == expected


@pytest.mark.parametrize(
    "words, line, expected",
    [
        (["研究", "生命"], " 研究 \u3000 生命\t", [2, 4]),
        (["研究", "生命"], "研究\x07\u200b生命", [2, 4]),  # left out by the segmenter
        (["研究", " ", "生命"], "研究 生命", [2, 4]),  # given as a word
        (["研究 生命", "打印"], "研究 生命打印", [6]),  # white space inside a word, which then is none
        (["研 究"], "研 究", []),
        (["", "研究", ""], "研究", [2]),
        ([], " \t", []),
        (["研", "研究"], "研 研究", [3]),
        (["研究\u3000", "生命"], "研究\u3000生命", [2, 4]),  # at a word's edge, as LTP has it
        (["\u3000研究 ", "\t生命"], "\u3000研究 \t生命", [2, 4]),
        (["研究\u200b", "\u200b生命"], "研究\u200b\u200b生命", [2, 4]),
        (["研究\u3000\u3000", "生 命 "], "研究\u3000\u3000生 命 ", [2]),
    ],
)
def test_white_space_that_a_segmenter_leaves_out_moves_nothing(chinese, words, line, expected):
    assert positions(chinese, words, line) == expected


def test_tokens_of_several_characters_take_the_segmenters_words():
    """`▁研究 生 命 的 起 源`: no reference file of a character vocabulary fits this tokenizer."""
    tokenizer = family("xlm-roberta", "▁研究")
    assert positions(tokenizer, "研究/生命/的/起源") == [3, 6]
    assert positions(tokenizer, "研究生/命/的/起源") == [2, 6]


def test_a_token_that_reaches_over_two_of_the_segmenters_words_joins_them():
    """`▁ 研 究生 命`: half of `究生` cannot be masked, so 研究 and 生命 are masked together."""
    assert positions(family("xlm-roberta", "究生"), "研究/生命") == [2, 3, 4]


@pytest.mark.parametrize("name", [*BYTES, "byte-level unsplit"])
def test_bytes_of_a_segmenters_word_are_whole(name):
    """Three tokens to a character: 研究 / 的 / 你 are tokens 1 to 6, 7 to 9 and 10 to 12."""
    assert positions(family(name), "研究/的/你") == [2, 3, 4, 5, 6, 8, 9, 11, 12]


@pytest.mark.parametrize(
    "words, line, near",
    [
        (["研究", "生"], "研究生命", "'命'"),
        (["研究", "生命"], "研究的生命", "'的生命'"),
        (["研究", "研究"], "研究", "after its end, where it gives the word '研究'"),
        (["究研"], "研究", "'研究'"),
        ([], "研究", "'研究'"),
        (["研究"], "", "after its end"),
        (["ok"], "OK", "'OK'"),
    ],
)
def test_words_that_do_not_add_up_to_the_line_are_refused_with_its_number(chinese, words, line, near):
    with pytest.raises(InputError, match="--segmenter.*line 8,") as error:
        line_positions(chinese, Given(["你"], words), ["你", line], numbers=[7, 8])
    assert near in str(error.value)


def test_a_batch_of_lines_has_the_references_of_each(chinese):
    lines = [["研究", "生"], [], ["生命"], ["OK"], ["的", "起源"]]
    texts = ["".join(line) for line in lines]
    assert line_positions(chinese, Given(*lines), texts) == [[2], [], [2], [], [3]]
    assert line_positions(chinese, Given(), []) in ([], [[]])


def test_words_are_numbered_for_every_character_and_none_for_what_does_not_count(chinese):
    tokens = tokenize(chinese, ["研究T恤", "生 命"])
    words = segmented(tokens.characters, [["研究", "T恤"], ["生", "命"]])
    first, second = words[:4], words[5:8]
    assert first[0] == first[1] > 0 and not first[2:].any()
    assert len({0, *second.tolist()}) == 3 and second[1] == 0, "two words and white space"


def test_a_line_with_the_mark_that_words_are_put_together_with():
    words = segmented(Characters(["研\0究生", "命"]), [["研\0究", "生"], ["命"]]).tolist()
    assert words[0] == words[1] == words[2] and len({0, words[0], words[3], words[5]}) == 4


def belongs_to_chinese(character: str) -> bool:
    """Whether a character may stand in a Chinese word: an ideograph, or a mark or control without width of its own."""
    return is_chinese(character) or (
        unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Cc") and not character.isspace()
    )


IDEOGRAPHS = st.text(st.sampled_from([*"研究生命的起源", *"𠮷𪜀豈鿫㐀龥", "\U0002f800"]), min_size=1, max_size=4)
ODD = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\n🏻🏼🏽🏾🏿"),
        st.sampled_from([*"aAé1.，。 \u200b\u200d\u0301\ufe0f\x00\u3000👍研究", "\U0002b830"]),
    ),
    max_size=4,
)


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.one_of(IDEOGRAPHS, IDEOGRAPHS, ODD), max_size=8), leave_out=st.booleans())
def test_every_chinese_word_comes_out_exactly_on_any_text(lower, words, leave_out):
    """Of a Chinese word, the tokens that lie in it are joined, and no token is joined to anything else.

    Where the tokenizer drops a character, the word is what is left of it. A token that lies across a word's edge
    (ideographs that the tokenizer does not take for such) is the tokenizer's affair and no claim is made of it.
    """
    tokenizer = exactness_tokenizer(lower)
    line = "".join(words)
    offsets = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    given_words = [word.strip() for word in words if word.strip()] if leave_out else words
    found = positions(tokenizer, given_words, line)
    expected, across = [], False
    for end, word in zip(accumulate(map(len, words)), words, strict=True):
        start = end - len(word)
        core = word.strip()  # white space at an edge belongs to no word
        within = [at for at, (first, last) in enumerate(offsets, 1) if start <= first and last <= end]
        across |= any(first < end < last for first, last in offsets)
        if any(map(is_chinese, core)) and all(map(belongs_to_chinese, core)):
            expected += within[1:]
    if not across:
        assert found == expected


@cache
def exactness_tokenizer(lower: bool) -> BertTokenizer:
    return chinese_tokenizer(do_lower_case=lower)


def test_the_test_of_exactness_sees_words_that_matching_strings_gets_wrong():
    """Guards the property above against passing for nothing: its texts do hold words, and tokens that are dropped."""
    tokenizer = exactness_tokenizer(True)
    assert positions(tokenizer, ["研究", "生命", "\u200b", "研\u200b究"]) == [2, 4, 6]
    assert len(tokenizer.tokenize("研\u200b究")) == 2


@pytest.mark.parametrize(
    "first, last",
    [
        ("\u4e00", "\u9fff"),
        ("\u3400", "\u4dbf"),
        ("\U00020000", "\U0002a6df"),
        ("\U0002a700", "\U0002b73f"),
        ("\U0002b740", "\U0002b81f"),
        ("\U0002b820", "\U0002ceaf"),
        ("\uf900", "\ufaff"),
        ("\U0002f800", "\U0002fa1f"),
    ],
)
def test_chinese_characters_are_those_of_berts_blocks_to_their_ends(first, last):
    assert is_chinese(first) and is_chinese(last)
    before, behind = chr(ord(first) - 1), chr(ord(last) + 1)
    assert not is_chinese(before) or before == "\U0002b73f" or before == "\U0002b81f", "blocks that touch"
    assert not is_chinese(behind) or behind == "\U0002b740" or behind == "\U0002b820"


def test_a_flag_is_two_of_the_indicators_from_a_to_z():
    classes = [character_class(point) for point in range(0x1F1E5, 0x1F201)]
    assert [one == FLAG for one in classes] == [False, *[True] * 26, False]


def test_a_mark_has_no_script_so_a_line_with_one_alone_is_not_of_that_script():
    """Unicode calls the Thai vowel ำ and the half-width ﾞ letters."""
    assert not any(map(script_of, map(ord, "ำຳﾞﾟ"))) and not Characters(["中ﾞ"]).divides.any()
