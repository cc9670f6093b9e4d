"""The fast paths of `tokenize`: text encoded piece by piece has to be what whole lines give."""

from __future__ import annotations

import gc
import io
import pickle
import tempfile
import unicodedata
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import cache

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast, RoFormerTokenizer

from conftest import character_tokenizer, sample_lines, sample_tokenizer, slow_after
from wordmask.tokenization.backend import Backend, tokenizer_digest
from wordmask.tokenization.encoding import Encodings, encode_lines
from wordmask.tokenization.recipes import Components, divider_of
from wordmask.tokenization.special_tokens import special_affixes, special_ids
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.word_cache import WordCache, word_cache_of
from wordmask.tokenization.words import CHINESE_BLOCKS, Characters

COMMON = "的一是了我不人在他有这来研究生命起源喜欢你中国〇"
COMPATIBILITY = ("\uf900\ufa0e\ufa6d\ufa70\ufad9\ufaff", "\U0002f800\U0002fa1d\U0002fa1f")
LEFT_TOGETHER = "\U0002b820\U0002b8ff\U0002b91f"  # Chinese, but set apart by BERT only, not by `tokenizers`
EDGES = "\u3400\u4dbf\u4e00\u9fff\U00020000\U0002a6df\U0002a6e0\U0002b73a\U0002b740\U0002b81f\U0002b920\U0002ceaf"
MARKS = "\u0301\u0300\u0308\u0338\u3099\u302a\ufe0f\ufe00\u200d\u20e3\u0e31\u094d"
CONTROL = "\x00\x01\x1b\x7f\x85\x9f\u00ad\u200b\u200e\u2060\ufeff\ufffd\ue000\U000e0001"
SPACES = " \t\r\n\x0b\x0c\u00a0\u2003\u2028\u2029\u3000"
EMOJI = ("👍", "👍🏽", "👨\u200d👩\u200d👧", "❤\ufe0f", "🇫🇷", "🇫")
SPECIAL = ("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", "[sep]", "[SEP", "##研", "##a")
LATIN = "abwalkedAÉéÅßİıſǅΣς0129３ＡﬁㄱカガかⅣ한글½≠"
PUNCTUATION = ".,-'[]()#，。、「」…—·$+~^｜"

pieces = st.one_of(
    st.sampled_from(COMMON),
    st.sampled_from(COMMON),
    st.sampled_from(COMMON + EDGES + "".join(COMPATIBILITY) + LEFT_TOGETHER),
    st.characters(min_codepoint=0xF900, max_codepoint=0xFAFF),
    st.characters(min_codepoint=0x2B820, max_codepoint=0x2B91F),
    st.characters(min_codepoint=0x2F800, max_codepoint=0x2FA1F),
    st.sampled_from([*MARKS, *CONTROL, *SPACES, *EMOJI, *SPECIAL]),
    st.sampled_from([*LATIN, *PUNCTUATION, "walked", "WALKED", "x" * 101]),
    st.characters(exclude_categories=["Cs"]),
)
lines = st.lists(st.lists(pieces, max_size=12).map("".join), max_size=5)


def piece_tokenizer(**options) -> BertTokenizer:
    """Like bert-base-chinese, with words of several pieces, and most but not all of the characters above."""
    wide = "".join([COMMON[:-4], *COMPATIBILITY, LEFT_TOGETHER[:2], EDGES, MARKS, *EMOJI, LATIN, LATIN.lower()])
    characters = dict.fromkeys(character for character in wide + PUNCTUATION if character not in "ßſ")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "walk", "##ed", "##WA", "한글", "##글"]
    vocab = dict.fromkeys([*special, *characters, *(f"##{character}" for character in characters)])
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(vocab)}, **options)


KINDS = {
    "uncased": {"do_lower_case": True},
    "cased": {"do_lower_case": False},
    "uncased, accents kept": {"do_lower_case": True, "strip_accents": False},
    "cased, accents stripped": {"do_lower_case": False, "strip_accents": True},
}


@cache
def like_bert_base_chinese(kind: str) -> BertTokenizer:
    return piece_tokenizer(**KINDS[kind])


def assert_equal(found: Encodings, expected: Encodings) -> None:
    for name in ("lengths", "ids", "first", "last", "continues"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name


def assert_equal_to_whole_lines(tokenizer, texts: list[str]) -> None:
    known = word_cache_of(tokenizer)
    assert known is not None, "the fast path does not apply, so nothing would be compared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordmask.tokenization.word_cache._LONG", 1000)  # divide texts with few spaces, too
        found = known(tokenizer, Characters(texts))
    assert_equal(found, encode_lines(tokenizer, Characters(texts)))


# The same tokens


@pytest.mark.parametrize("kind", slow_after(1, KINDS))
@settings(max_examples=250, deadline=None)
@given(texts=lines)
@example(texts=[])
@example(texts=["", " ", "\u200b", "研"])
@example(texts=["研\u0301究", "a\u0301研é", "\u0301"])
@example(texts=["walked研walked", "研x\ny究", "\n\n", "研\r究\r"])
@example(texts=["[SEP]研[MASK]", "[SEP][SEP]", "研[研SEP]"])
@example(texts=[LEFT_TOGETHER + "研" + LEFT_TOGETHER, f"a{LEFT_TOGETHER}b", "\ufa0e\uf900\U0002f800"])
@example(texts=["x" * 101 + "研" + "x" * 100, "한글研한국"])
def test_any_text_gives_the_tokens_of_whole_lines(kind, texts):
    assert_equal_to_whole_lines(like_bert_base_chinese(kind), texts)


@cache
def with_words(kind: str) -> BertTokenizer:
    tokenizer = piece_tokenizer(**KINDS[kind])
    words = ["walked", "한글", "é"] if kind == "cased" else ["walked"]
    tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=True) for word in words])
    return tokenizer


@pytest.mark.parametrize("kind", slow_after(1, KINDS))
@settings(max_examples=100, deadline=None)
@given(texts=lines)
@example(texts=["walked研walked", "研walkeds walked\u200b", f"walked{LEFT_TOGETHER}", "\u0301walked研\u0301walked"])
def test_added_words_give_the_tokens_of_whole_lines(kind, texts):
    assert_equal_to_whole_lines(with_words(kind), texts)


@pytest.mark.parametrize("kind", ["uncased", "cased"])
def test_every_chinese_character_gives_its_own_token(kind):
    """Unassigned ones too, compatibility ideographs that normalise to others, and one beyond each edge of a block.

    Each stands beside a letter, a space and another one, whole and as an unknown character.
    """
    tokenizer = like_bert_base_chinese(kind)
    for first, last in CHINESE_BLOCKS:
        points = [*range(first - 1, last + 2)]
        texts = [
            "".join(f"{chr(point)}a{chr(point)} " for point in points[at : at + 500])
            for at in range(0, len(points), 500)
        ]
        assert_equal_to_whole_lines(tokenizer, texts)


@pytest.mark.parametrize("added", [[], ["研究", "walked"]])
def test_the_backend_by_itself_gives_the_tokens_of_its_tokenizer(added):
    """It is what a worker has; sending it changes nothing either."""
    tokenizer = deepcopy(like_bert_base_chinese("uncased"))
    tokenizer.add_tokens(added)
    texts = ["研究 walked[SEP]生命é", "", "研\u200b究"]
    sent, expected = pickle.loads(pickle.dumps(Backend(tokenizer, special_ids(tokenizer)))), tokenize(tokenizer, texts)
    assert (tokenizer.convert_tokens_to_ids("研究") in expected.ids.tolist()) is bool(added)
    assert_equal(tokenize(sent, texts), expected)
    assert special_affixes(sent) == special_affixes(tokenizer) == ([2], [3])


@settings(max_examples=100, deadline=None)
@given(texts=lines)
def test_words_do_not_depend_on_the_way_they_were_encoded(texts):
    """What `tokenize` returns, with the fast path and without."""
    tokenizer = like_bert_base_chinese("uncased")
    fast = tokenize(tokenizer, texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordmask.tokenization.tokenize.word_cache_of", lambda tokenizer: None)
        assert_equal(fast, tokenize(tokenizer, texts))


@settings(max_examples=100, deadline=None)
@given(batches=st.lists(lines, min_size=2, max_size=4))
def test_what_is_remembered_and_forgotten_changes_no_tokens(batches):
    """Batches meet pre-tokens that are known, unknown and forgotten, in any order."""
    tokenizer = like_bert_base_chinese("cased")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordCache, "_most", 4)
        for texts in [*batches, *batches]:
            assert_equal_to_whole_lines(tokenizer, texts)


@pytest.mark.parametrize("added", ["foo", "foo bar", "é", "[unused1]", "Foo", "+", "  ", "b ", " b"])
@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_next_to_chinese_are_found_as_in_whole_lines(added, special):
    """Tokens that are not special are looked for in normalised text, in which Chinese has spaces around it."""
    tokenizer = piece_tokenizer(do_lower_case=True)
    tokenizer.add_tokens([AddedToken(added, special=special, normalized=not special)])
    if word_cache_of(tokenizer) is None:
        return  # not to use the fast path is right, too
    texts = [
        f"研{added}究",
        f"{added}研",
        f"研{added}",
        f"研 {added} 究",
        added,
        f"a{added}研",
        "ab研",
        "研 b",
        "研  究",
    ]
    assert_equal_to_whole_lines(tokenizer, [*texts, *(text.upper() for text in texts)])


# The same tokens, where words begin at spaces

ODD_SPACES = ["  ", "   ", *SPACES, "\x1c", "\x85", "\u1680", "\u202f", "\u180e"]
PREPENDED = "\u0600\u06dd\u070f\u0d4e\U000110bd"  # joined to the character behind
JOINED = "\u0e33\u0eb3\uff9e\u1160\u3164\u1100\u1161\u11a8"  # letters that are joined to others
MADE_OF_SPACES = "\u00a8\u00b4\u2017\u309b\ufdfa\ufe70"  # by compatibility
# The rules of a normalizer that is as bad as can be: it makes spaces, drops characters and takes others with them.
BAD_RULES = {"¶": " ", "§": "", "w": "w ", "q": " q", "ab": "X", "e\u0301": "é", "o\u0301": "", " \u0301": "Y"}
BAD_RULES |= {"\u0301": "", "™": "TM", "½": "1 2", "…": ". . .", "\u0600": "p", "\x01": "", "\xa0": " "}

spaced_pieces = st.one_of(
    st.just(" "),
    st.just(" "),
    st.sampled_from("abwqes"),
    st.sampled_from([*"stT09.,'\"`-()▁ĠÂé¶§™…½研究", "the", "don't", "walk", "``", "''", "<x>", "<mask>", "<s>"]),
    st.sampled_from([*ODD_SPACES, *MARKS, *CONTROL, *PREPENDED, *JOINED, *MADE_OF_SPACES, *EMOJI]),
    st.characters(exclude_categories=["Cs"]),
)
spaced_lines = st.lists(st.lists(spaced_pieces, max_size=14).map("".join), max_size=5)


@cache
def precompiled(bad: bool = False) -> normalizers.Precompiled:
    """A normalizer of the kind that comes with sentencepiece: its usual rules, or bad ones."""
    trained = io.BytesIO()
    with tempfile.NamedTemporaryFile("w") as file:
        file.writelines(
            "\t".join(" ".join(f"{ord(character):X}" for character in side) for side in rule) + "\n"
            for rule in BAD_RULES.items()
        )
        file.flush()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample_lines("english", 50)),
            model_writer=trained,
            vocab_size=100,
            minloglevel=3,
            **({"normalization_rule_tsv": file.name} if bad else {"normalization_rule_name": "nmt_nfkc"}),
        )
    # In the model, a protocol buffer, the rules stand behind their name: a tag, their length in 7 bits a byte, they.
    rest = trained.getvalue().rpartition(b"user_defined\x12" if bad else b"nmt_nfkc\x12")[2]
    digits = next(place for place, byte in enumerate(rest) if byte < 128) + 1
    length = sum((byte & 127) << 7 * place for place, byte in enumerate(rest[:digits]))
    return normalizers.Precompiled(rest[digits : digits + length])


def spaced_tokenizer(
    pre_tokenizer, *steps, model=None, processor=None, added: Sequence[AddedToken] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer from its parts: Unigram, or byte-level BPE, unless a model is given."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    by_bytes = "ByteLevel" in repr(pre_tokenizer)
    backend = Tokenizer(model or (models.BPE() if by_bytes else models.Unigram()))
    if steps:
        backend.normalizer = normalizers.Sequence(list(steps))
    backend.pre_tokenizer = pre_tokenizer
    options = {"vocab_size": 500, "special_tokens": special, "show_progress": False}
    if type(backend.model) is models.Unigram:
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **options)
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet() if by_bytes else []
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    backend.train_from_iterator(sample_lines("english", 100), trainer)
    if processor:
        backend.post_processor = processor
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>")
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False), *added])
    return tokenizer


def roberta_processing(**options) -> processors.RobertaProcessing:
    return processors.RobertaProcessing(("</s>", 2), ("<s>", 0), **options)


BYTES, METASPACE = pre_tokenizers.ByteLevel, pre_tokenizers.Metaspace
RIGHT = normalizers.Strip(left=False, right=True)
QUOTES = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
SQUEEZE = normalizers.Replace(Regex(" {2,}"), " ")
EXTRA = [
    AddedToken("  ", normalized=True),
    AddedToken("É", normalized=True, single_word=True),
    AddedToken("<x>", normalized=True, lstrip=True),
    AddedToken("a", normalized=False, single_word=True),
]
SPACED = {
    "roberta": lambda: spaced_tokenizer(BYTES(add_prefix_space=False), processor=roberta_processing()),
    "roberta with a prefix": lambda: spaced_tokenizer(BYTES(), processor=roberta_processing()),
    "roberta, not trimmed": lambda: spaced_tokenizer(
        BYTES(), processor=roberta_processing(trim_offsets=False), added=EXTRA
    ),
    "modernbert": lambda: spaced_tokenizer(BYTES(add_prefix_space=False), normalizers.NFC(), added=EXTRA),
    "digits apart": lambda: spaced_tokenizer(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES(add_prefix_space=False)]),
        normalizers.NFKC(),
        normalizers.Lowercase(),
        processor=processors.ByteLevel(add_prefix_space=False),
        added=EXTRA,
    ),
    "bytes of bad rules": lambda: spaced_tokenizer(BYTES(), precompiled(bad=True), processor=roberta_processing()),
    "xlm-roberta": lambda: spaced_tokenizer(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), METASPACE()]), precompiled()
    ),
    "t5": lambda: spaced_tokenizer(
        METASPACE(), precompiled(), RIGHT, normalizers.Replace(Regex(" {2,}"), "▁"), added=EXTRA[1:]
    ),
    "albert": lambda: spaced_tokenizer(
        METASPACE(),
        *QUOTES,
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        precompiled(),
        SQUEEZE,
    ),
    "deberta-v2": lambda: spaced_tokenizer(
        pre_tokenizers.Sequence([METASPACE()]),
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        RIGHT,
    ),
    "deberta-v3": lambda: spaced_tokenizer(METASPACE(), normalizers.Strip(), precompiled(), SQUEEZE, added=EXTRA[1:]),
    "sentencepiece": lambda: spaced_tokenizer(METASPACE(), normalizers.Nmt(), normalizers.NFKC(), SQUEEZE),
    "first words only": lambda: spaced_tokenizer(
        METASPACE(prepend_scheme="first"), model=models.BPE(byte_fallback=True, unk_token="<unk>"), added=EXTRA
    ),
    "bad rules": lambda: spaced_tokenizer(
        METASPACE(prepend_scheme="first"), precompiled(bad=True), RIGHT, SQUEEZE, added=EXTRA[1:]
    ),
    "stripped": lambda: spaced_tokenizer(METASPACE(prepend_scheme="first"), normalizers.Strip(), added=EXTRA[1:]),
    "stripped bytes": lambda: spaced_tokenizer(
        BYTES(add_prefix_space=False), normalizers.Strip(right=False), processor=roberta_processing(), added=EXTRA[1:]
    ),
    "never a prefix": lambda: spaced_tokenizer(METASPACE(prepend_scheme="never"), precompiled(bad=True)),
}


@cache
def spaced(kind: str) -> PreTrainedTokenizerFast:
    return SPACED[kind]()


@pytest.mark.parametrize("kind", slow_after(2, dict.fromkeys(["t5", "albert", "bad rules", *SPACED])))
@settings(max_examples=120, deadline=None)
@given(texts=spaced_lines)
@example(texts=["", " ", "a", " a", "a ", "  a  b ", "a b\nc d\n\ne", "\ta \tb"])
@example(texts=["He walked the dog, didn't he?", " He walked", "研究生命的起源", "研究 生命"])
@example(texts=["<mask>a b", "x <mask> <mask> y", "<mask> word <s>word<s> w", "a<mask>b c d", "x <x>y <x> z É É."])
@example(texts=["\x01a b c", "a <mask>\x01b c d", "a \u0301b c", "a b\u0600 c", "\xa0\u0e33 b", "a¨ ¨b c", "½ﾞ a"])
def test_any_text_gives_the_tokens_of_whole_lines_where_words_begin_at_spaces(kind, texts):
    assert_equal_to_whole_lines(spaced(kind), texts)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "digits apart", "albert", "t5", "bad rules"])
def test_every_odd_character_is_taken_as_in_whole_lines(kind):
    """Marks, white space, control characters, and what normalises to several characters, beside spaces and tokens."""
    odd = [
        character
        for character in map(chr, range(1, 0x11000))
        if unicodedata.category(character)[0] in "MZC"
        and unicodedata.category(character) not in ("Cn", "Co", "Cs")
        or len(unicodedata.normalize("NFKD", character)) > 1
        and not "가" <= character <= "힣"
        or character in PREPENDED + JOINED
    ]
    assert len(odd) > 2000
    contexts = ["{0}a b c", "a{0} b {0}c d", "x <mask>{0}a b <mask> {0} c", "\xa0{0} b {0}{0} {0}"]
    for context in contexts:
        assert_equal_to_whole_lines(spaced(kind), [context.format(character) for character in odd])


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(spaced_lines, min_size=2, max_size=4))
def test_words_at_spaces_that_are_remembered_and_forgotten_change_no_tokens(batches):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordCache, "_most", 4)
        for texts in [*batches, *batches]:
            assert_equal_to_whole_lines(spaced("t5"), texts)


# Where it applies


def bert_like(model, **options) -> PreTrainedTokenizerFast:
    """BERT's way to divide text before another model than WordPiece."""
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(**options)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]")


def with_token(content: str, **options) -> BertTokenizer:
    tokenizer = character_tokenizer(["研究ab"])
    tokenizer.add_tokens([AddedToken(content, **options)])
    return tokenizer


def test_it_applies_to_chinese_bert_cased_and_uncased():
    for kind in KINDS:
        assert word_cache_of(like_bert_base_chinese(kind)) is not None
    assert word_cache_of(character_tokenizer(["研究"])) is not None


@pytest.mark.parametrize(
    "make",
    [
        lambda: piece_tokenizer(tokenize_chinese_chars=False),
        lambda: with_token("研究"),
        lambda: with_token("a研"),
        lambda: with_token("\uf900"),
        lambda: with_token("x\ny"),
        lambda: with_token("x y"),
        lambda: with_token("x", lstrip=True),
        lambda: with_token("x", rstrip=True),
        lambda: with_token("x", single_word=True, normalized=False),
    ],
    ids=["chinese not apart", "chinese", "mixed", "compatibility", "line end", "space"]
    + ["lstrip", "rstrip", "single_word"],
)
def test_it_does_not_apply_where_a_token_may_reach_over_a_chinese_character(make):
    tokenizer = make()
    assert word_cache_of(tokenizer) is None
    assert len(tokenize(tokenizer, ["研究 ab研", "x 研x\ny究"]).ids)


@pytest.mark.parametrize(
    "model_type", ["roberta", "gpt2", "xlm-roberta", "camembert", "albert", "deberta-v2", "t5", "mbart", "big_bird"]
)
def test_it_applies_to_every_model_whose_words_begin_at_spaces(model_type):
    tokenizer = sample_tokenizer(model_type)
    assert_equal_to_whole_lines(tokenizer, ["He walked the dog, didn't he?", "  a  b ", "研究 <mask>a b"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: spaced_tokenizer(METASPACE(), added=[AddedToken("x", rstrip=True)]),
        lambda: spaced_tokenizer(METASPACE(), added=[AddedToken("foo bar")]),
        lambda: spaced_tokenizer(METASPACE(), added=[AddedToken(" b")]),
        lambda: spaced_tokenizer(METASPACE(), SQUEEZE, added=[AddedToken("  ")]),
        lambda: spaced_tokenizer(BYTES(), normalizers.NFKC(), added=[AddedToken("¨")]),
        lambda: spaced_tokenizer(METASPACE(split=False)),
        lambda: spaced_tokenizer(BYTES(use_regex=False)),
        lambda: spaced_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTES()])),
        lambda: spaced_tokenizer(METASPACE(), processor=roberta_processing()),
        lambda: spaced_tokenizer(METASPACE(), normalizers.Prepend("▁")),
        lambda: spaced_tokenizer(METASPACE(), normalizers.Replace(" ", "▁")),
        lambda: spaced_tokenizer(METASPACE(), normalizers.Replace(Regex(r"\s+"), " ")),
        lambda: spaced_tokenizer(METASPACE(), model=models.BPE(dropout=0.5, unk_token="<unk>")),
    ],
    ids=["rstrip", "space in a token", "space before a token", "token that becomes a space", "mark after a space"]
    + ["not split", "no regex", "punctuation before bytes", "trimmed after Metaspace", "prefix by a normalizer"]
    + ["spaces replaced", "unknown pattern", "dropout"],
)
def test_it_does_not_apply_where_nothing_is_proved_of_a_part(make):
    tokenizer = make()
    assert word_cache_of(tokenizer) is None
    assert len(tokenize(tokenizer, ["a foo bar x  b"]).ids)


@pytest.mark.parametrize(
    "model, options",
    [
        (lambda: models.BPE({"a": 0, "研": 1}, []), {}),
        (lambda: models.BPE({"a": 0, "[UNK]": 1}, [], unk_token="[UNK]"), {}),
        (lambda: models.BPE({"a": 0, **{f"<0x{n:02X}>": n + 1 for n in range(256)}}, [], byte_fallback=True), {}),
        (lambda: models.BPE({"研": 0, "##究": 1, "a</w>": 2}, [], end_of_word_suffix="</w>", unk_token="研"), {}),
        (lambda: models.Unigram([("<unk>", 0.0), ("a", -1.0), ("研", -1.0)], unk_id=0), {}),
        (lambda: models.WordLevel({"[UNK]": 0, "研": 1, "a": 2}, "[UNK]"), {"clean_text": False}),
    ],
    ids=["unknown dropped", "bpe", "bytes", "end of word", "unigram", "word level, text not cleaned"],
)
def test_other_models_behind_berts_division_work_as_with_whole_lines(model, options):
    """A Chinese character may be no token, or three of bytes."""
    tokenizer = bert_like(model(), **options)
    texts = ["研究a研", "", "aa 究究", "a\n\x00\u0301研a"]
    assert_equal(tokenize(tokenizer, texts), encode_lines(tokenizer, Characters(texts)))


def test_a_tokenizer_that_cuts_by_a_segmenter_of_its_own_is_taken():
    """RoFormer's Chinese models: their way to divide text is Python code, which cannot be written down as JSON."""
    pytest.importorskip("rjieba")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "研", "究", "研究", "生命"]
    tokenizer = RoFormerTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    assert tokenize(tokenizer, ["研究生命"]).ids.tolist() == [7, 8]
    assert tokenizer_digest(tokenizer) == tokenizer_digest(tokenizer)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_the_cache_can_be_turned_off_and_changes_no_tokens(kind, monkeypatch):
    texts, tokenizer = ["He walked the dog, didn't he?", "", "研究 walked"], spaced(kind)
    expected = tokenize(tokenizer, texts)
    monkeypatch.setattr(WordCache, "__call__", None)
    with pytest.raises(TypeError):
        tokenize(tokenizer, texts)
    monkeypatch.setenv("WORDMASK_WORD_CACHE", "off")
    assert_equal(tokenize(tokenizer, texts), expected)


@pytest.mark.parametrize(
    "make, why",
    [
        (lambda: with_token("x研"), "the added token `x研` contains a divider"),
        (lambda: spaced_tokenizer(METASPACE(), added=[AddedToken("foo bar")]), "`new wave` contains a divider"),
        (lambda: spaced_tokenizer(BYTES(use_regex=False)), "text is not split at spaces"),
        (lambda: spaced_tokenizer(pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), BYTES()])), "no recipe"),
        (lambda: PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())), "splits text by nothing"),
    ],
)
def test_a_tokenizer_without_the_cache_is_told_why(make, why):
    assert why in str(divider_of(Components(make())))


# What the user has set


def with_limits() -> BertTokenizer:
    tokenizer = piece_tokenizer(do_lower_case=True)
    tokenizer.backend_tokenizer.enable_truncation(4, stride=1, direction="left")
    tokenizer.backend_tokenizer.enable_padding(length=6, pad_to_multiple_of=2, direction="left")
    return tokenizer


@pytest.mark.parametrize("cache", ["on", "off"])
def test_truncation_and_padding_stay_as_the_user_has_set_them(cache, monkeypatch):
    monkeypatch.setenv("WORDMASK_WORD_CACHE", cache)
    tokenizer, expected = with_limits(), tokenize(piece_tokenizer(do_lower_case=True), ["walked 研究生命的起源"])
    backend = tokenizer.backend_tokenizer
    before = backend.truncation, backend.padding, backend.encode("研究生命的起源").ids
    assert special_affixes(tokenizer) == ([2], [3])
    assert_equal(tokenize(tokenizer, ["walked 研究生命的起源"]), expected)
    assert (backend.truncation, backend.padding, backend.encode("研究生命的起源").ids) == before


def test_threads_turn_truncation_on_only_when_none_encodes():
    tokenizer, texts = with_limits(), Characters(["研究生命的起源" * 20] * 20)
    expected = encode_lines(piece_tokenizer(do_lower_case=True), texts).ids.tolist()
    with ThreadPoolExecutor(4) as threads:
        found = [*threads.map(lambda _: encode_lines(tokenizer, texts).ids.tolist(), range(40))]
    assert all(ids == expected for ids in found)


# What it remembers


def test_words_of_other_scripts_are_remembered_one_by_one():
    tokenizer = piece_tokenizer(do_lower_case=True)
    tokenize(tokenizer, ["abc x walked", "walked研x"])
    assert sorted(word_cache_of(tokenizer).numbers) == ["abc", "walked", "x"]


@pytest.mark.parametrize("kind", SPACED)
def test_a_word_behind_a_space_is_encoded_once(kind, monkeypatch):
    tokenizer, known = spaced(kind), word_cache_of(spaced(kind))
    text = "He tells the dog, the other dog"
    before = tokenize(tokenizer, [text, "the dog"])
    assert {"\nHe", "\nthe", "tells", "the", "dog,", "other", "dog"} <= {*known.numbers}
    monkeypatch.setattr("wordmask.tokenization.word_cache.encode_lines", None)
    assert_equal(tokenize(tokenizer, [text, "the dog"]), before)
    assert tokenize(tokenizer, ["the other dog, the dog tells", "He tells"]).lengths.all()


def test_text_without_spaces_is_encoded_whole_and_not_remembered():
    tokenizer, known = spaced("xlm-roberta"), word_cache_of(spaced("xlm-roberta"))
    known._forget()
    tokenize(tokenizer, ["研究生命的起源，" * 5, "我喜欢研究生命的起源。" * 3])
    assert not known.numbers


@pytest.mark.parametrize("content", ["研究", "ab", "a"], ids=["chinese", "latin", "in the vocabulary already"])
def test_tokens_added_later_are_noticed(content):
    tokenizer = character_tokenizer(["研究abc"])
    before = tokenize(tokenizer, ["c研究 abc"]).ids.tolist()
    tokenizer.add_tokens([content])
    expected = encode_lines(tokenizer, Characters(["c研究 abc"]))
    assert expected.ids.tolist() != before, "the added token changes nothing, so nothing would be noticed"
    assert tokenize(tokenizer, ["c研究 abc"]).ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize(
    "make, part, new",
    [
        (lambda: piece_tokenizer(do_lower_case=True), "normalizer", normalizers.BertNormalizer(lowercase=False)),
        (lambda: spaced_tokenizer(METASPACE()), "normalizer", normalizers.Sequence([normalizers.Lowercase()])),
        (lambda: spaced_tokenizer(METASPACE()), "pre_tokenizer", pre_tokenizers.Whitespace()),
        (lambda: spaced_tokenizer(BYTES()), "pre_tokenizer", pre_tokenizers.WhitespaceSplit()),
    ],
    ids=["bert", "a sequence", "metaspace", "bytes"],
)
def test_another_normalizer_or_pre_tokenizer_is_noticed(make, part, new):
    tokenizer, texts = make(), ["Ab walked A.", "He Walked"]
    before = tokenize(tokenizer, texts).ids.tolist()
    setattr(tokenizer.backend_tokenizer, part, new)
    expected = encode_lines(tokenizer, Characters(texts))
    assert expected.ids.tolist() != before, "the new part changes nothing, so nothing would be noticed"
    assert_equal(tokenize(tokenizer, texts), expected)


def test_an_option_of_the_normalizer_that_changes_in_place_is_noticed():
    tokenizer, texts = piece_tokenizer(do_lower_case=True), ["Walked"]
    before = tokenize(tokenizer, texts).ids.tolist()
    tokenizer.backend_tokenizer.normalizer.lowercase = False
    assert tokenize(tokenizer, texts).ids.tolist() == encode_lines(tokenizer, Characters(texts)).ids.tolist() != before


def test_a_tokenizer_that_has_not_changed_keeps_its_cache():
    for kind in SPACED:
        assert word_cache_of(spaced(kind)) is word_cache_of(spaced(kind)) is not None, kind


def test_an_added_chinese_word_that_the_vocabulary_has_is_noticed():
    """The vocabulary does not grow, but from now on the word is one token."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "研", "究", "研究"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    assert tokenize(tokenizer, ["研究"]).ids.tolist() == [5, 6]
    tokenizer.add_tokens(["研究"])
    expected = encode_lines(tokenizer, Characters(["研究"]))
    assert expected.ids.tolist() == [7], "the added token changes nothing, so nothing would be noticed"
    assert tokenize(tokenizer, ["研究"]).ids.tolist() == [7]


def test_a_copy_of_a_tokenizer_has_a_memory_of_its_own():
    tokenizer = character_tokenizer(["研究ab"])
    tokenize(tokenizer, ["研a"])
    other = deepcopy(tokenizer)
    other.add_tokens(["ab"])
    for one in (tokenizer, other, tokenizer):
        expected = encode_lines(one, Characters(["研ab"]))
        assert tokenize(one, ["研ab"]).ids.tolist() == expected.ids.tolist()


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: like_bert_base_chinese("uncased"), lambda number: f"研{number}究"),
        (lambda: like_bert_base_chinese("uncased"), lambda number: "\t" * number + "研"),
        (lambda: like_bert_base_chinese("uncased"), lambda number: "\u200b" * number + "研"),
        (lambda: spaced("roberta"), lambda number: f"x {number}"),
        (lambda: spaced("xlm-roberta"), lambda number: f"{number} x"),
    ],
    ids=["tokens", "white space, no tokens", "dropped characters, no tokens", "words", "beginnings of lines"],
)
def test_what_is_remembered_is_bounded_however_many_texts_pass(make, text, monkeypatch):
    monkeypatch.setattr(WordCache, "_most", 50)
    tokenizer = make()
    known = word_cache_of(tokenizer)
    known._forget()
    sizes = []
    for batch in range(40):
        tokenize(tokenizer, [text(20 * batch + number) for number in range(1, 21)])
        sizes.append((len(known.numbers), len(known.memory.ids), len(known.edges)))
    # One batch of 20 lines, with up to 5 tokens and 2 pre-tokens each, may come on top.
    assert max(map(max, sizes)) <= 50 + 20 * 5 + 1
    assert max(map(max, sizes)) > 1, "nothing is remembered, so nothing is bounded"


def test_words_without_chinese_do_not_fill_the_memory_by_their_length(monkeypatch):
    """A word of a million letters is one token, [UNK]; 200,000 of those would be 200 GB."""
    monkeypatch.setattr(WordCache, "_most", 100)
    tokenizer = like_bert_base_chinese("uncased")
    known = word_cache_of(tokenizer)
    known._forget()
    for number in range(90):
        tokenize(tokenizer, [f"{number:03}" + "x" * 10_000])
    # A hundred characters to a token, as many again for good measure, and the last line.
    assert sum(map(len, known.numbers)) <= 2 * 100 * 100 + 10_003


def test_tokenizers_are_not_kept_alive():
    tokenizer = character_tokenizer(["研究ab"])
    tokenize(tokenizer, ["研a"])
    assert tokenizer in word_cache_of._known, "it was not remembered, so it could not be kept alive"
    gone = weakref.ref(tokenizer)
    del tokenizer
    gc.collect()
    assert gone() is None
