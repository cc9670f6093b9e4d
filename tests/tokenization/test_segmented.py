"""A segmenter's words where scripts are written without spaces: they join and divide, and part no grapheme cluster."""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from wordmask.references.positions import LineReferences, continuations, line_positions
from wordmask.segmenters import Segmenter
from wordmask.tokenization.segmented import segmented
from wordmask.tokenization.tokenize import tokenize
from wordmask.tokenization.words import Characters
from wordmask.utils.errors import InputError

OTHER = r"\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}\p{scx=Myanmar}\p{scx=Tibetan}"
OTHER_SCRIPT = regex.compile(rf"(?=[\p{{L}}\p{{N}}])[{OTHER}]")
IN_SCRIPTS = regex.compile(rf"(?=[\p{{L}}\p{{M}}\p{{N}}])[{OTHER}\p{{scx=Han}}]")
MARK = regex.compile(r"[\p{M}\p{GCB=Extend}\p{GCB=SpacingMark}]")


class Given(Segmenter):
    """Gives the words that it was made with, perhaps in any script."""

    def __init__(self, words: list[list[str]], any_script: bool = False):
        self.words, self.any_script = words, any_script

    def segment(self, lines):
        return self.words


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a token to each character (all of them unknown), or to each byte; both see white space."""
    special = {f"{role}_token": f"[{role.upper()}]" for role in ("unk", "cls", "sep", "pad", "mask")}
    if kind == "bytes":
        alphabet = ["[UNK]", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        backend = Tokenizer(models.BPE({piece: number for number, piece in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        backend = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


def joined(words: list[str], kind: str = "characters", mixed: bool = False, any_script: bool = False) -> list[bool]:
    """Whether each character of a line continues the word of the one before it.

    References give the same, but for words of any script, which they have only on some lines.
    """
    line, tokenizer = "".join(words), tokenizer_of(kind)
    tokens = tokenize(tokenizer, [line])
    character_words = segmented(tokens.characters, [words], mixed, any_script=any_script)
    continues = tokens.with_words(tokens.continuations(character_words), tokens.characters.decided)
    if not any_script:
        positions = line_positions(tokenizer, Given([words]), [line], mixed)
        of_lines = (np.full(1, value) for value in (False, mixed, True))
        references = LineReferences(positions, str, *of_lines, "--ref")
        by_positions, left_out = continuations(tokens, references, 0, np.zeros(len(tokens.ids), bool))
        assert not len(left_out)
        assert tokens.with_words(by_positions, references.decided(tokens.characters)).tolist() == continues.tolist()
    offsets = [start for start, _ in tokenizer(line, return_offsets_mapping=True)["offset_mapping"]]
    of_character: dict[int, bool] = {}
    for start, continued in zip(offsets, continues.tolist(), strict=True):
        assert continued or start not in of_character, "a character of several tokens is whole"
        of_character.setdefault(start, continued)
    return [of_character[place] for place in range(len(line))]


def shown(words: str, **options: bool) -> str:
    """The words that a segmenter's words, given with bars between them, become; white space left aside."""
    line = words.replace("|", "")
    borders = ["" if continued else "|" for continued in joined(words.split("|"), **options)]
    found = "".join(map("".join, zip(borders, line, strict=True))).replace("\u200b", " ").split("|")
    return "|".join(word.strip() for word in found if word.strip())


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize(
    "words",
    [
        "ฉัน|ชอบ|กิน|ข้าวผัด",
        "食べる|こと|が|好き|です",
        "ຂ້ອຍ|ມັກ|ກິນ|ເຂົ້າ",
        "ខ្ញុំ|ចូលចិត្ត|អាន|សៀវភៅ",
        "ကျွန်တော်|စာအုပ်|ဖတ်|တယ်",
        "བཀྲ་ཤིས་|བདེ་ལེགས|།",
        "我|喜欢|กิน|ข้าว|和|カレー|。",
        "人々|は|二〇〇八年|に|〆切|を|スーパー|で|ﾊﾟｰﾃｨｰ|。",
        "か\u3099くせい|か\u3099|来|た",
    ],
)
def test_words_are_those_of_the_segmenter(words, kind):
    """By the rule for text, a Thai sentence is one word, 好き is two and こと goes on with べる."""
    assert shown(words, kind=kind) == words


@pytest.mark.parametrize(
    "words, plain, mixed",
    [
        ("Tシャツ|を|3枚|買う", "T|シャツ|を|3|枚|買う", "Tシャツ|を|3枚|買う"),
        ("กิน|ข้าว3จาน", "กิน|ข้าว|3|จาน", "กิน|ข้าว3จาน"),
        ("ミス・ワールド|walking", "ミス|・|ワールド|walking", "ミス|・|ワールド|walking"),
        ("ok|ไทย|20|04|%", "ok|ไทย|2004|%", "ok|ไทย|2004|%"),  # outside, borders and joins follow the rule
        ("He|walk|ing|กิน|ๆ", "Hewalking|กิน|ๆ", "Hewalking|กิน|ๆ"),
        ("T恤|は", "T|恤|は", "T恤|は"),
        ("กิน|๒๓|จาน", "กิน|๒๓|จาน", "กิน|๒๓|จาน"),  # Thai digits are of the script
        ("བཀྲ་ཤིས2|བདེ", "བཀྲ་ཤིས|2|བདེ", "བཀྲ་ཤིས2|བདེ"),  # and so is the Tibetan tsheg
        # Chinese is the only such script: characters of CHINESE_BLOCKS only, and others with --mixed_words only.
        ("T恤|二〇〇八年|人々", "T|恤|二|〇〇|八|年|人|々", "T恤|二〇〇八年|人々"),
        ("3D打印|的", "3D|打|印|的", "3D打印|的"),
    ],
)
def test_what_mixes_scripts_is_divided_unless_words_may_mix(words, plain, mixed):
    assert shown(words) == plain
    assert shown(words, mixed=True) == mixed


@pytest.mark.parametrize(
    "words, expected",
    [
        ("กิน |ข้าว", "กิน|ข้าว"),
        ("กิน ข้าว", "กิน|ข้าว"),  # white space inside a word ends it
        ("ចូល\u200bចិត្ត|\u200bអាន", "ចូល|ចិត្ត|អាន"),
        ("กิน|\u3000ข้าว\u3000", "กิน|ข้าว"),
    ],
)
def test_white_space_and_zero_width_spaces_divide_words_of_such_scripts(words, expected):
    assert shown(words) == expected


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("end", ["  ", "\u200b", "\u3000 \u200b"])
def test_white_space_at_the_end_of_a_line_belongs_to_the_last_word(end, kind):
    """As it does without a segmenter; it was a word of its own, and was masked as such."""
    for words in (["กิน", f"ข้าว{end}"], ["กิน", "ข้าว", end]):
        assert joined(words, kind)[-len(end) :] == [True] * len(end)
        assert joined(words, kind)[3] is False, "the border between the words stays"


@pytest.mark.parametrize(
    "words, expected",
    [
        ("ก|ำ|ลั|ง", "กำ|ลั|ง"),  # a vowel that Unicode calls a letter, and joins
        ("ข|้าว", "ข้าว"),
        ("か|\u3099|ｶ|ﾞ", "か\u3099|ｶﾞ"),
        ("ខ|្|ញ|ុំ", "ខ្ញុំ"),  # a stacked consonant
        ("က|္|က", "က္က"),
        ("ཀ|ྱ", "ཀྱ"),
        ("👍|🏽|กิน", "👍🏽|กิน"),
        ("กิน|👨|\u200d👩", "กิน|👨\u200d👩"),
    ],
)
def test_a_border_inside_a_grapheme_cluster_is_ignored(words, expected):
    assert shown(words) == expected


def test_words_in_any_script_join_what_the_rule_divides_elsewhere():
    """And divide what it joins inside of such scripts only."""
    assert shown("làm_việc|, |3.14|กิน|ข้าว", any_script=True) == "làm_việc|,|3.14|กิน|ข้าว"
    assert shown("làm_việc|, |3.14|กิน|ข้าว") == "làm|_|việc|,|3|.|14|กิน|ข้าว"


@pytest.mark.parametrize(
    ("words", "where"),
    [
        (["ดื่ม", "น้ำ"], "near 'น้ํา', where it gives the word 'น้ำ'; use another segmenter"),
        (["ดื่ม"], "near 'น้ํา', where it gives no more words; "),
        (["ดื่ม", "น้ํา", "ๆ"], "after its end, where it gives the word 'ๆ'; "),
    ],
)
def test_words_that_do_not_add_up_because_a_package_normalized_them_are_refused(words, where):
    """A package may compose the vowel ํา of น้ํา to ำ, or drop what it does not know."""
    with pytest.raises(InputError, match=f"--segmenter: its words do not add up to the text of a line, {where}"):
        line_positions(tokenizer_of("characters"), Given([words]), ["ดื่มน้ํา"])


# On any text

CHARACTERS = [
    *"กขาเแัิุ้่ำๆฯ๒",  # Thai
    *"ກຂາເັິ້ຳໆ໒",  # Lao
    *"កខញំុា្័៖ៗ២",  # Khmer
    *"ကခာိ္်ွ့၂",  # Burmese
    *"ཀཤྱི་།༢",  # Tibetan
    *"かきがーゝ々〆〇ヽカガｶﾞﾟｰ\u3099\u309a",  # kana, half and full width, iteration and prolonged sound marks
    *"研究生命𠮷\U00030000",
    *"aTé\u0301\u03233１,。、・_%",
    *"👍🏽👨\u200d👩\ufe0f🇫🇷1\u20e3",
    *" \u3000\u200b\u200e",
]
WORDS = st.lists(st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=5), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.sampled_from(["characters", "bytes"]), st.booleans(), st.booleans())
@example(["ក", "្", "ខ"], "bytes", False, False)
@example(["ក្ຳ", "ក"], "characters", False, False)  # a vowel behind the linker
def test_no_grapheme_cluster_is_divided_and_each_word_is_whole_on_any_text(words, kind, mixed, any_script):
    """Also where the segmenter divides a cluster; and a border between two clusters in such scripts stays."""
    line = "".join(words)
    continues = joined(words, kind, mixed, any_script)
    borders = {*accumulate(map(len, words))}
    divides = OTHER_SCRIPT.search(MARK.sub("", line))
    before = ""
    for cluster in regex.finditer(r"\X", line):
        text, start = cluster.group(), cluster.start()
        visible = [place for place, one in enumerate(text, start) if not (one.isspace() or one == "\u200b")]
        if not regex.match(r"\P{InCB=Consonant}\p{M}*\p{InCB=Linker}", text):  # only a consonant can carry another one
            assert all(continues[place] for place in visible[1:]), f"{text!r} is divided"
        # Two clusters of such scripts. A linker at the end of a cluster would stack what follows on it.
        met = before and all(IN_SCRIPTS.match(one) and not MARK.match(one) for one in (before, text))
        if divides and met and not regex.search(r"\p{InCB=Linker}\p{M}*$", before):
            assert continues[start] == (start not in borders), f"{before!r} and {text!r}"
        before = text


def test_of_mixed_words_only_those_with_chinese_letters_and_digits_count():
    """An English word is left to the rule for text, and a flag is no letter."""
    words = ["恤", "T恤", "shirt", "生🇫🇷", "9年"]
    ids = segmented(Characters(["".join(words)]), [words], mixed=True)
    counts = [
        ids[end - len(word) : end].tolist() for word, end in zip(words, accumulate(map(len, words)), strict=True)
    ]
    assert [len({*of_word}) == 1 and of_word[0] > 0 for of_word in counts] == [True, True, False, False, True]
    assert counts[2] == [0] * 5 and counts[3] == [0] * 3


def test_words_of_a_segmenter_do_not_depend_on_the_lines_beside_them():
    """Clusters are kept whole where a segmenter divides. A mark parts no Chinese word from the next one elsewhere."""
    words = ["中", "\ufe0f国"]
    alone = segmented(Characters(["中\ufe0f国"]), [words])
    beside = segmented(Characters(["中\ufe0f国", "กิน"]), [words, ["กิน"]])
    assert np.array_equal(alone, beside[:4]) and alone[0] != alone[2]


def test_a_zero_width_space_parts_words_in_any_script_but_no_chinese_ones():
    ids = segmented(Characters(["làm\u200bviệc"]), [["làm\u200bviệc"]], any_script=True)
    assert 0 < ids[0] == ids[2] < ids[4] == ids[-2]
    assert len({*segmented(Characters(["T\u200b恤"]), [["T\u200b恤"]], mixed=True)[:3]} - {0}) == 1
