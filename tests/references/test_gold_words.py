"""A segmenter's words in scripts that are written without spaces: they are masked as they are, from every source.

A segmenter here gives the words that were written down for each line. Whatever the tokenizer, two tokens that meet
inside such scripts belong to one word if and only if no border is between them, on the spot and through references.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import regex
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, AutoTokenizer

import run_chinese_ref
from wordmask.config.arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.sources import load_texts
from wordmask.data.tokenize import TextTokenizer
from wordmask.segmenters import Segmenter

IN_SCRIPTS = regex.compile(
    r"[\p{L}\p{M}\p{N}&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{scx=Thai}\p{scx=Lao}\p{scx=Khmer}"
    r"\p{scx=Myanmar}\p{scx=Tibetan}]]",
    regex.V1,
)
# Words between bars; a space between words is in the text.
TEXT = """\
ฉัน|ชอบ|กิน|ข้าวผัด
วันนี้|อากาศ|ดี|มาก|ๆ|  |เรา|ไป|กิน|น้ำ|ที่|ร้าน|๒|แห่ง
食べる|こと|が|好き|です|。
人々|は|カレーライス|を|二〇〇八年|から|作っ|て|い|ます|！
佐々木|さん|の|スーパー|で|ﾊﾟｰﾃｨｰ|を|する
か\u3099くせい|か\u3099|来|た
ຂ້ອຍ|ມັກ|ກິນ|ເຂົ້າ|ຢູ່|ບ້ານ
ខ្ញុំ|ចូលចិត្ត|អាន|សៀវភៅ|នៅ|ផ្ទះ|។
ကျွန်တော်|စာအုပ်|ဖတ်|ရတာ|ကြိုက်|တယ်|။
བོད|ཡིག|དང་|བཀྲ་ཤིས་|བདེ་ལེགས|།
研究生|的|研究|生命|。
我|喜欢|กิน|ข้าว|和|カレー|。
He| |ชอบ|walking| |と|2004|年|のこと|3.14|%
"""
LINES = [line.split("|") for line in TEXT.splitlines()]
PLAIN = ["".join(words) for words in LINES]


class Gold(Segmenter):
    """Gives the words that are written down for a line."""

    known = dict(zip(PLAIN, LINES, strict=True))

    def segment(self, lines):
        return [self.known[line] for line in lines]


def tokenizer_of(kind: str):
    """A tokenizer that was trained on the texts: all but the first know pieces of several characters."""
    model_type = {"characters": "bert", "wordpiece": "bert", "bytes": "roberta", "unigram": "xlm-roberta"}[kind]
    options = {"do_lower_case": False, "strip_accents": False} if model_type == "bert" else {}
    untrained = TOKENIZER_MAPPING[CONFIG_MAPPING[model_type]](**options)
    characters = len({*"".join(PLAIN)})
    if kind == "characters":  # a token to each character, at the start of a word and inside it
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({*"".join(PLAIN)} - {" "})]
        pieces += [f"##{character}" for character in pieces[5:]]
        return type(untrained)(vocab={piece: number for number, piece in enumerate(pieces)}, **options)
    size = {"wordpiece": 2 * characters + 100, "bytes": 261 + 150, "unigram": characters + 90}[kind]
    pieces = [piece for words in LINES for word in words for piece in (word, word[:2])]
    return untrained.train_new_from_iterator(PLAIN + pieces, size)


KINDS = ("characters", "wordpiece", "bytes", "unigram")


@pytest.fixture(scope="module", params=KINDS)
def model(request, tmp_path_factory) -> str:
    """The directory of a tokenizer."""
    path = tmp_path_factory.mktemp(request.param)
    tokenizer_of(request.param).save_pretrained(path)
    return str(path)


def bits(model: str, text: str, references: str | None = None, segmenter: str | None = None, **flags) -> np.ndarray:
    """(tokens,) Which tokens of a text continue a word, as training has them."""
    given = DataArguments(train_file=[text], train_ref_file=[references] if references else None)
    texts = load_texts(given, str(Path(text).parent), None, False)["train"]
    segmentation = SegmentationArguments(segmenter=segmenter, **flags)
    tokenizer = TextTokenizer(AutoTokenizer.from_pretrained(model), texts, None, segmentation)
    return np.concatenate([tokenizer(table).tokens.values.to_numpy() % 2 for table in texts.batches()])


def expected(model: str) -> tuple[list[bool], list[bool]]:
    """For each token whether no border is between it and the token before it; and whether both meet in the scripts."""
    tokenizer, joined, inside = AutoTokenizer.from_pretrained(model), [], []
    for words, line in zip(LINES, PLAIN, strict=True):
        borders = {*np.cumsum([len(word) for word in words]).tolist()}
        offsets = tokenizer(line, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        # A token without the space before it; a lone space belongs to what follows.
        spans = [(end - len(line[start:end].lstrip() or line[end]), end) for start, end in offsets]
        for number, (start, _) in enumerate(spans):
            last = spans[number - 1][1] - 1 if number else -1
            joined.append(number > 0 and not borders & {*range(last + 1, start + 1)})
            inside.append(number > 0 and all(IN_SCRIPTS.match(line[place]) for place in (last, start)))
    return joined, inside


@pytest.mark.parametrize("mixed", [False, True])
def test_gold_words_are_reproduced_exactly_on_the_spot_and_through_references(model, mixed, tmp_path):
    text, references = str(tmp_path / "text.txt"), str(tmp_path / "references")
    Path(text).write_text("\n".join(PLAIN) + "\n", encoding="utf-8")
    flags, segmenter = ["--mixed_words"] * mixed, "test_gold_words:Gold"
    argv = ["--file_name", text, "--bert", model, "--save_path", references, "--segmenter", segmenter]
    run_chinese_ref.main([*argv, *flags])
    on_the_spot = bits(model, text, segmenter=segmenter, mixed_words=mixed)
    assert on_the_spot.tolist() == bits(model, text, references).tolist()
    joined, inside = expected(model)
    assert on_the_spot[inside].tolist() == np.array(joined)[inside].tolist()
    by_the_rule = bits(model, text)
    assert (by_the_rule > on_the_spot).sum() > 20 and (on_the_spot > by_the_rule).sum() > 2, "they divide and join"
    assert sum(inside) > 100
