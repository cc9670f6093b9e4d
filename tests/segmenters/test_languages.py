"""The segmenters of Japanese, Thai, Khmer and others: their words, their options, and what they say if one is wrong.

What every segmenter promises is in test_segmenters.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from wordmask.segmenters import make_segmenter
from wordmask.segmenters.libraries import LineSegmenter, LostTextError, restore
from wordmask.utils.errors import InputError


def words(name: str, line: str, **options) -> list[str]:
    return make_segmenter(name, **options).segment([line])[0]


def rejected(message: str, name: str, **options) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_segmenter(name, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500, "an error is one sentence"


# What libraries leave out


def test_words_are_found_in_a_line_from_which_a_library_left_something_out():
    assert restore("a\ud800 中国", "a\ufffd 中国", ["a\ufffd", "", "中国"]) == ["a\ud800", "中国"]
    assert restore("\x00中国 人 ", "\x00中国 人 ", ["中国", "人"]) == ["\x00", "中国", "人"]
    assert restore(" \x00", " \x00", []) == [" \x00"] and restore("  ", "  ", []) == []


@pytest.mark.parametrize("found", [["中", "人"], ["中国"], ["中国", "x"], ["国", "中"]])
def test_words_that_do_not_add_up_are_noticed(found):
    with pytest.raises(LostTextError, match="do not add up"):
        restore("中国人", "中国人", found)


class Halves(LineSegmenter):
    """Stands for a library: it finds words of two characters, and refuses long texts and surrogates."""

    longest = 5

    def __init__(self):
        self._identity = {"name": "halves"}

    def cut(self, text: str) -> list[str]:
        assert len(text) <= 5
        text.encode()
        return [text[start : start + 2].strip() for start in range(0, len(text), 2)]


def test_a_library_gets_what_it_can_read_and_a_line_keeps_its_own_characters():
    found = Halves().segment(["中国人民。银\ud800", "", "中\x00\t"])
    assert found == [["中国", "人民", "。", "银\ud800"], [], ["中\x00"]]
    assert Halves().identity == {"name": "halves"}


# Sudachi


def test_sudachi_finds_words_of_two_lengths():
    pytest.importorskip("sudachipy")
    line = "価格に見合う"
    assert words("sudachi", line, mode="A") == ["価格", "に", "見", "合う"]
    assert words("sudachi", line, mode="B") == words("sudachi", line) == ["価格", "に", "見合う"]


def test_sudachi_finds_long_words_with_a_larger_dictionary():
    pytest.importorskip("sudachidict_core")
    line = "選挙管理委員会"
    assert words("sudachi", line, dictionary="core", mode="A") == ["選挙", "管理", "委員", "会"]
    assert words("sudachi", line, dictionary="core", mode="B") == ["選挙", "管理", "委員会"]
    assert words("sudachi", line, dictionary="core") == [line]


def test_sudachi_says_what_it_cannot_use(tmp_path, monkeypatch):
    pytest.importorskip("sudachipy")
    rejected("--segmenter_options: mode=Z is not known; give A, B or C", "sudachi", mode="Z")
    monkeypatch.setitem(sys.modules, "sudachidict_core", None)
    rejected("needs the package sudachidict_core.*pip install sudachidict_core", "sudachi", dictionary="core")
    rejected("dictionary=missing.dic is no file; give one, or small, core", "sudachi", dictionary="missing.dic")
    rejected("--user_dict missing.dic: cannot read it", "sudachi", user_dict="missing.dic")
    (tmp_path / "text.dic").write_text("words")
    rejected("dictionary=.*text.dic: Sudachi cannot use it", "sudachi", dictionary=str(tmp_path / "text.dic"))
    rejected("--user_dict .*text.dic: Sudachi cannot use it", "sudachi", user_dict=tmp_path / "text.dic")


def test_sudachi_takes_lines_longer_than_it_reads():
    """It refuses 49,150 bytes, and 65,536 bytes after its normalization."""
    pytest.importorskip("sudachipy")
    segmenter = make_segmenter("sudachi")
    sentence = "私は食べることが好きです。"
    assert segmenter.segment([sentence * 2000]) == [segmenter.segment([sentence])[0] * 2000]
    for line in ("あ" * 17000, "ﷺ" * 4000, "𠮷" * 13000):
        assert "".join(segmenter.segment([line])[0]) == line


def test_a_dictionary_by_its_path_is_known_by_its_content(tmp_path):
    resources = Path(pytest.importorskip("sudachidict_small").__file__).parent / "resources"
    path = tmp_path / "mine.dic"
    path.symlink_to(resources / "system.dic")
    segmenter = make_segmenter("sudachi", dictionary=str(path))
    assert segmenter.segment(["食べること"]) == [["食べる", "こと"]]
    assert len(segmenter.identity["dictionary"]) == 64


# MeCab


def test_mecab_finds_words():
    pytest.importorskip("unidic_lite")
    assert words("mecab", "食べることが 好き\tです") == ["食べる", "こと", "が", "好き", "です"]


def test_mecab_reads_on_after_a_nul():
    pytest.importorskip("unidic_lite")
    assert words("mecab", "食べる\x00こと") == ["食べる", "\x00", "こと"]


@pytest.mark.slow
def test_mecab_takes_a_line_that_would_end_the_process():
    pytest.importorskip("unidic_lite")
    line = "あ" * 1_000_000
    assert "".join(words("mecab", line)) == line


def test_mecab_says_what_it_cannot_use(tmp_path, monkeypatch):
    directory = Path(pytest.importorskip("unidic_lite").DICDIR)
    rejected("dictionary=missing: cannot read it.*give a directory, or one of", "mecab", dictionary="missing")
    monkeypatch.setitem(sys.modules, "ipadic", None)
    rejected("needs the package ipadic.*pip install ipadic", "mecab", dictionary="ipadic")
    rejected("--user_dict missing.dic: cannot read it", "mecab", user_dict="missing.dic")
    (tmp_path / "sys.dic").write_text("words")
    rejected("dictionary=.*: MeCab cannot use it .*dicrc", "mecab", dictionary=str(tmp_path))
    rejected("--user_dict .*: MeCab cannot use it .*broken", "mecab", user_dict=tmp_path / "sys.dic")
    segmenter = make_segmenter("mecab", dictionary=str(directory))
    assert segmenter.segment(["食べること"]) == [["食べる", "こと"]] and len(segmenter.identity["dictionary"]) == 64


# PyThaiNLP


def test_pythainlp_finds_words_and_those_of_the_user(tmp_path):
    pytest.importorskip("pythainlp")
    assert words("pythainlp", "ฉันชอบกินข้าวผัด") == ["ฉัน", "ชอบ", "กิน", "ข้าวผัด"]
    (tmp_path / "words.txt").write_text("กินข้าวผัด\n\n", encoding="utf-8")
    segmenter = make_segmenter("pythainlp", user_dict=tmp_path / "words.txt")
    assert segmenter.segment(["ฉันชอบกินข้าวผัด"]) == [["ฉัน", "ชอบ", "กินข้าวผัด"]]
    assert len(segmenter.identity["user_dict"]) == 64


def test_pythainlp_says_what_it_cannot_use(monkeypatch):
    pytest.importorskip("pythainlp")
    rejected("engine=longest is not known; give newmm, nlpo3 or deepcut", "pythainlp", engine="longest")
    rejected("--user_dict missing.txt: cannot read it", "pythainlp", user_dict="missing.txt")
    monkeypatch.setitem(sys.modules, "nlpo3", None)
    rejected("needs the package nlpo3.*pip install nlpo3", "pythainlp", engine="nlpo3")


@pytest.mark.slow
def test_pythainlp_leaves_no_directory_in_the_users_home(tmp_path):
    """Importing it makes one for downloads."""
    pytest.importorskip("pythainlp")
    code = "import os; from wordmask.segmenters import make_segmenter; before = dict(os.environ); "
    code += "make_segmenter('pythainlp').segment(['กินข้าว']); assert before == dict(os.environ)"
    root = Path(__file__).parent.parent.parent
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-X", "utf8", "-c", code], check=True, env=environment)
    assert not [*tmp_path.iterdir()]


# pkuseg


def test_pkuseg_says_what_it_cannot_use(tmp_path, monkeypatch):
    pkuseg = pytest.importorskip("spacy_pkuseg")
    rejected(f"model={tmp_path}: there is no file features.msgpack; give", "pkuseg", model=str(tmp_path))
    (tmp_path / "features.pkl").write_bytes(b"a pickle, which may run code")
    rejected("there is no file features.msgpack", "pkuseg", model=str(tmp_path))
    for name in ("features.msgpack", "weights.npz"):
        (tmp_path / name).write_text("no model")
    rejected("model=.*: cannot read it", "pkuseg", model=str(tmp_path))
    rejected("--user_dict missing.txt: cannot read it", "pkuseg", user_dict="missing.txt")

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(pkuseg, "download_model", no_network)
    monkeypatch.setattr(pkuseg.config, "pkuseg_home", str(tmp_path))
    rejected("model=spacy_ontonotes: cannot download it .*where there is a network", "pkuseg")


# ICU


def test_icu_finds_words_in_each_script():
    pytest.importorskip("icu")
    lines = {
        "ฉันชอบกินข้าว": ["ฉัน", "ชอบ", "กิน", "ข้าว"],
        "ខ្ញុំចូលចិត្តបាយឆា": ["ខ្ញុំ", "ចូលចិត្ត", "បាយ", "ឆា"],
        "𠮷食べることが好き": ["𠮷", "食べる", "こと", "が", "好き"],
    }
    assert make_segmenter("icu").segment([*lines]) == [*lines.values()]
    assert make_segmenter("icu", locale="km").segment([*lines]) == [*lines.values()]


def test_icu_says_which_locale_it_does_not_know():
    pytest.importorskip("icu")
    rejected("locale=zz is no language that ICU knows; give one such as th", "icu", locale="zz")
