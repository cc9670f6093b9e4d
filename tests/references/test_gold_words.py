"""A segmenter's words in scripts that are written without spaces: they are masked as they are, from every source.

A segmenter here gives the words that were written down for each line. Whatever the tokenizer, two tokens that meet
inside such scripts belong to one word if and only if no border is between them, on the spot and through references.
"""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import regex
from transformers import CONFIG_MAPPING, TOKENIZER_MAPPING, AutoTokenizer

import run_chinese_ref
import run_mlm_wwm
from conftest import character_tokenizer, refusal, save_model
from wordmask.config.arguments import DataArguments
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.sources import load_texts
from wordmask.data.text_tokenizer import TextTokenizer
from wordmask.references.positions import line_positions
from wordmask.references.provenance import sidecar
from wordmask.segmenters import Segmenter
from wordmask.tokenization.words import SCRIPTS
from wordmask.utils.errors import InputError

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


# Every way from references to training


@pytest.fixture(scope="module")
def thai(tmp_path_factory) -> dict[str, str]:
    """A model with a token to each character, and a text; the first line has four words."""
    path = tmp_path_factory.mktemp("thai")
    (path / "text.txt").write_text("\n".join(PLAIN) + "\n", encoding="utf-8")
    return {"model": save_model(path / "model", tokenizer_of("characters")), "text": str(path / "text.txt")}


def make(thai: dict[str, str], save: Path | str, *flags: str, segmenter: str = "test_gold_words:Gold"):
    argv = ["--file_name", thai["text"], "--bert", thai["model"], "--save_path", str(save), "--segmenter", segmenter]
    return run_chinese_ref.main([*argv, *flags])


def first_words(thai: dict[str, str], capsys, tmp_path: Path, *flags: str) -> list[str]:
    """The words of the first line, as --preview_masking shows them."""
    capsys.readouterr()
    argv = ["--model_name_or_path", thai["model"], "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    argv += ["--preview_masking", "1", "--mask_replace_prob", "1", "--random_replace_prob", "0"]
    run_mlm_wwm.main([*argv, "--cache_dir", str(tmp_path / "cache"), "--validation_split_percentage", "0", *flags])
    shown = capsys.readouterr().out.splitlines()[1].partition("): ")[2]
    return re.sub(r"[\[\]·]|##", "", shown.removeprefix("[CLS] ").removesuffix(" [SEP]")).split()


def test_the_first_words_of_a_run_are_those_of_the_segmenter_on_every_way(thai, tmp_path, capsys):
    """By the rule for text, the sentence is one word."""
    text = ["--train_file", thai["text"]]
    assert first_words(thai, capsys, tmp_path, *text) == ["ฉันชอบกินข้าวผัด"]
    make(thai, tmp_path / "ref")
    references = [*text, "--train_ref_file", str(tmp_path / "ref")]
    ways = [[*text, "--segmenter", "test_gold_words:Gold"], references, [*references, "--streaming"]]
    for kind in ("table.jsonl", "table.parquet", "directory/"):
        make(thai, f"{tmp_path}/{kind}")
        ways.append(["--train_file", f"{tmp_path}/{kind}"])
    prepared = ["--prepared_dir", str(tmp_path / "prepared")]
    run_mlm_wwm.main(
        ["--model_name_or_path", thai["model"], *references, *prepared, "--prepare_only"]
        + ["--validation_split_percentage", "0", "--output_dir", str(tmp_path / "out")]
    )
    for flags in [*ways, prepared]:
        assert first_words(thai, capsys, tmp_path, *flags) == ["ฉัน", "ชอบ", "กิน", "ข้าวผัด"], flags


@pytest.mark.slow
def test_references_are_the_same_bytes_in_parts_by_shards_and_after_an_interruption(thai, tmp_path):
    """White space says where the words are: a worker has no need of this module, whose imports take seconds."""
    (tmp_path / "text.txt").write_text("\n".join(map(" ".join, LINES)) + "\n", encoding="utf-8")
    thai, of_white_space = {**thai, "text": str(tmp_path / "text.txt")}, ["--segmenter", "whitespace"]
    make(thai, tmp_path / "whole", *of_white_space)
    make(thai, tmp_path / "parts", "--part_lines", "3", "--num_workers", "2", *of_white_space)
    for number in "01":
        shard = ["--num_shards", "2", "--shard_index", number]
        make(thai, tmp_path / "shards", "--part_lines", "3", *shard, *of_white_space)
    make(thai, tmp_path / "shards", "--part_lines", "3", "--resume", *of_white_space)
    whole = (tmp_path / "whole").read_bytes()
    assert whole == (tmp_path / "parts").read_bytes() == (tmp_path / "shards").read_bytes()
    sidecars = [json.loads(sidecar(tmp_path / name).read_text()) for name in ("whole", "parts", "shards")]
    assert sidecars[0] == sidecars[1] == sidecars[2] and sidecars[0]["decides"] == [*SCRIPTS]


def test_parts_of_a_version_whose_files_could_not_divide_are_not_completed(thai, tmp_path, capsys):
    make(thai, tmp_path / "ref", "--part_lines", "3", "--num_shards", "2", "--shard_index", "0")
    made_from = tmp_path / "ref.parts" / "made_from.json"
    made_from.write_text(json.dumps({**json.loads(made_from.read_text()), "decides": []}))
    argv = ["--file_name", thai["text"], "--bert", thai["model"], "--save_path", str(tmp_path / "ref")]
    argv += ["--segmenter", "test_gold_words:Gold", "--part_lines", "3", "--resume"]
    assert "another version of wordmask" in refusal(capsys, run_chinese_ref.main, *argv)


# What a file decides


def test_a_file_that_does_not_say_what_it_decides_only_joins(thai, tmp_path):
    """So do those of the classic script, which have no file beside them."""
    by_the_rule = bits(thai["model"], thai["text"])
    make(thai, tmp_path / "ref")
    dividing = bits(thai["model"], thai["text"], str(tmp_path / "ref"))
    beside = json.loads(sidecar(tmp_path / "ref").read_text())
    sidecar(tmp_path / "ref").unlink()
    classic = bits(thai["model"], thai["text"], str(tmp_path / "ref"))
    assert (classic >= by_the_rule).all() and (dividing < by_the_rule).sum() > 40
    # A file of an earlier version, with provenance: there, positions joined Chinese only.
    del beside["decides"], beside["any_script"]
    sidecar(tmp_path / "ref").write_text(json.dumps(beside))
    with pytest.raises(InputError, match="--train_ref_file: position 2 .* line 1 .* joins text that is not Chinese"):
        bits(thai["model"], thai["text"], str(tmp_path / "ref"))


def test_a_compressed_file_says_the_same(thai, tmp_path):
    """`gzip` leaves the file beside it under its old name. Without that, a phrase was one word again."""
    make(thai, tmp_path / "ref")
    plain = bits(thai["model"], thai["text"], str(tmp_path / "ref"))
    (tmp_path / "ref.gz").write_bytes(gzip.compress((tmp_path / "ref").read_bytes()))
    (tmp_path / "ref").unlink()
    assert (bits(thai["model"], thai["text"], str(tmp_path / "ref.gz")) == plain).all()


def test_the_cache_tells_a_file_that_decides_from_one_that_only_joins(thai, capsys, tmp_path):
    """With the same positions. Without the file beside it, the second run took the words of the first."""
    make(thai, tmp_path / "ref")
    references = ["--train_file", thai["text"], "--train_ref_file", str(tmp_path / "ref")]
    dividing = first_words(thai, capsys, tmp_path, *references)
    sidecar(tmp_path / "ref").unlink()
    joining = first_words(thai, capsys, tmp_path, *references)
    assert dividing == ["ฉัน", "ชอบ", "กิน", "ข้าวผัด"] and joining == ["".join(dividing)]


@pytest.mark.parametrize(
    "decides, why",
    [(["Han", "Javanese"], "says that the file decides the words of .*'Javanese'.* make the references again"),
     ("all", "is not a provenance file .decides is 'all'.; make the references again"),
     (["Thai"], ".* knows only files that decide those of Han, Hiragana, ")],
)  # fmt: skip
def test_a_file_that_decides_other_words_than_this_version_knows_is_refused(thai, tmp_path, capsys, decides, why):
    make(thai, tmp_path / "ref")
    beside = json.loads(sidecar(tmp_path / "ref").read_text())
    sidecar(tmp_path / "ref").write_text(json.dumps({**beside, "decides": decides}))
    argv = ["--model_name_or_path", thai["model"], "--train_file", thai["text"], "--output_dir", str(tmp_path / "out")]
    sentence = refusal(capsys, run_mlm_wwm.main, *argv, "--train_ref_file", str(tmp_path / "ref"), "--use_cpu")
    assert re.match(f"--train_ref_file: .*ref.meta.json {why}", sentence)


def test_a_validation_reference_with_words_of_another_segmenter_is_said(thai, tmp_path, caplog):
    make(thai, tmp_path / "ref")
    make(thai, tmp_path / "same")
    make(thai, tmp_path / "other", segmenter="whitespace")
    files = {
        "train_file": [thai["text"]],
        "train_ref_file": [str(tmp_path / "ref")],
        "validation_file": [thai["text"]],
    }
    for name, count in (("same", 0), ("other", 1)):
        caplog.clear()
        given = DataArguments(**files, validation_ref_file=[str(tmp_path / name)])
        load_texts(given, str(tmp_path), None, True)
        said = [message for message in caplog.messages if "the words come from" in message]
        assert len(said) == count
    start, *_, end = re.split(r" \(code \w{12}\)", said[0])
    assert (
        start == "--train_ref_file and --validation_ref_file: the words come from 2 segmenters (test_gold_words:Gold"
    )
    assert end.startswith(f" in {tmp_path / 'ref'}; whitespace in {tmp_path / 'other'}); make these references again")


# Chinese, as it always was

CHINESE = """\
研究生|的|研究|生命
二〇〇八年|T恤|3D打印|佐々木
𠮷野家|豈豈|\U00030000\U00030000|研\u200b究
卡拉|OK|。|说| 话|1.3万余人次"""


def test_references_of_chinese_are_the_same_bytes_as_ever(tmp_path):
    """The positions were written before words of other scripts could divide."""
    lines = [line.split("|") for line in CHINESE.split("\n")]
    Gold.known |= {"".join(words): words for words in lines}
    characters = sorted({*CHINESE} - {"|", "\n", " ", "\u200b"})
    tokenizer = character_tokenizer(characters)
    for mixed, expected in (
        (False, [[2, 3, 6, 8], [], [2, 3, 5, 9], [2]]),
        (True, [[2, 3, 6, 8], [2, 3, 4, 5, 7, 9, 10, 12, 13], [2, 3, 5, 9], [2]]),
    ):
        assert line_positions(tokenizer, Gold(), ["".join(words) for words in lines], mixed) == expected
