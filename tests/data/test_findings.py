"""What a run says of its text: once, in every run, wherever its tokens come from and whoever made them."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

import run_mlm
import run_mlm_wwm
from conftest import sample_lines
from wordmask.config.arguments import DataArguments
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.findings import Findings, total
from wordmask.data.segmenter_advice import without_words
from wordmask.data.sequences import StreamedSequences
from wordmask.data.sources import load_texts
from wordmask.data.token_store import Tokenization
from wordmask.utils.files import write_atomically

NO_WORDS, SINGLE = "nothing says which of them form words", "single characters are masked"
LEFT_OUT, NOT_FOR = "are left out of the masks", "is not made for them"
PREVIEW = ["--preview_masking", "1", "--use_cpu"]


@pytest.fixture
def said(capfd):
    """How often each sentence is said by a run, in this process and in those that it starts."""

    def of(script, *argv: str) -> list[str]:
        capfd.readouterr()
        script.main([*argv, *PREVIEW])
        return capfd.readouterr().err.splitlines()

    return lambda *argv: [line for line in of(*argv) if any(part in line for part in (NO_WORDS, LEFT_OUT, NOT_FOR))]


@pytest.fixture
def chinese(chinese_model, chinese_file, tmp_path) -> list[str]:
    model = ["--model_name_or_path", chinese_model, "--cache_dir", str(tmp_path / "cache")]
    return [*model, "--output_dir", str(tmp_path / "out"), "--train_file", chinese_file]


@pytest.fixture
def classic(chinese, chinese_file, tmp_path) -> list[str]:
    """Classic references, of which those of three lines join over white space."""
    lines = [
        f"研 究{line}" if number in (3, 20, 31) else line for number, line in enumerate(sample_lines("chinese", 40))
    ]
    Path(chinese_file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with write_atomically(tmp_path / "ref") as file:
        file.writelines("[2, 5]\n" if line.startswith("研 究") else "[]\n" for line in lines)
    return [*chinese, "--train_ref_file", str(tmp_path / "ref")]


# Single characters


@pytest.mark.slow
def test_chinese_text_without_words_is_reported_in_every_run(chinese, said, tmp_path):
    """The first run makes tokens, the second finds them; two processes; prepared text; a stream; validation text."""
    (sentence,) = said(run_mlm_wwm, *chinese)
    assert sentence.startswith("--train_file: ") and "% of the characters are Chinese" in sentence
    assert "--segmenter jieba" in sentence and "--train_ref_file" in sentence
    assert said(run_mlm_wwm, *chinese) == [sentence]
    workers = ["--preprocessing_num_workers", "2", "--overwrite_cache"]
    assert said(run_mlm_wwm, *chinese, *workers) == [sentence]
    assert len(said(run_mlm_wwm, *chinese, "--validation_file", chinese[-1])) == 1
    assert len(said(run_mlm_wwm, *chinese, "--streaming")) == 1
    assert said(run_mlm_wwm, *chinese, "--masking_strategy", "span") == [sentence]


def test_chinese_text_without_words_is_reported_of_prepared_text_too(chinese, said, tmp_path, caplog):
    prepared = ["--prepared_dir", str(tmp_path / "prepared")]
    run_mlm_wwm.main([*chinese, *prepared, "--prepare_only", "--part_lines", "9"])
    assert len([message for message in caplog.messages if SINGLE in message]) == 1
    (sentence,) = said(run_mlm_wwm, *chinese[:-2], *prepared)
    assert sentence.startswith("--prepared_dir: ") and "prepare the text again with --segmenter" in sentence
    assert said(run_mlm, *chinese[:-2], *prepared, "--line_by_line") == []


@pytest.mark.parametrize("flags", [[], ["--streaming"]], ids=["", "streaming"])
def test_nothing_is_reported_where_words_are_given_or_not_masked(chinese, said, tmp_path, flags):
    assert said(run_mlm, *chinese, *flags) == []
    assert said(run_mlm_wwm, *chinese, *flags, "--segmenter", "whitespace") == []
    (tmp_path / "ref").write_text("[]\n" * 40)
    assert said(run_mlm_wwm, *chinese, *flags, "--train_ref_file", str(tmp_path / "ref")) == []


def test_nothing_is_reported_of_english_with_a_few_chinese_names(english_model, said, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(f"{line} 北京" for line in sample_lines("english", 20)), "utf-8")
    argv = ["--model_name_or_path", english_model, "--train_file", str(tmp_path / "text.txt")]
    assert said(run_mlm_wwm, *argv, "--output_dir", str(tmp_path / "out")) == []


@pytest.mark.parametrize("characters, single, said", [(100, 10, True), (100, 9, False), (0, 0, False), (9, 9, True)])
def test_a_tenth_of_the_characters_is_a_substantial_share(characters, single, said):
    assert bool(without_words(Findings(characters, Counter(Han=single)), "--train_file")) is said


@pytest.mark.parametrize(
    "scripts, sentence",
    [
        (
            {"Han": 300, "Hiragana": 500, "Katakana": 100, "Thai": 99},
            "90% of the characters are Japanese (900) and nothing says which of them form words, so single kanji and "
            "whole rows of kana are masked; give --segmenter sudachi (or mecab), or --train_ref_file with references "
            "that run_chinese_ref.py makes",
        ),
        ({"Han": 901, "Katakana": 99}, "90% of the characters are Chinese (901) and .* --segmenter jieba "),
        ({"Thai": 1000}, "100% .* Thai .* so all that stands between two spaces is masked as one .* pythainlp "),
        ({"Lao": 1000}, ".* Lao .* --segmenter icu, or "),
        ({"Khmer": 1000}, ".* Khmer .* --segmenter icu, or "),
        ({"Myanmar": 1000}, ".* Burmese .* --segmenter icu, or "),
        ({"Tibetan": 1000}, ".* Tibetan .* so single syllables are masked; give --segmenter package.module:Class, "),
        ({"Tibetan": 500, "Thai": 500}, ".* Thai .*; give --segmenter package.module:Class, "),
        (
            {"Han": 200, "Thai": 300, "Lao": 500},
            "50% of the characters are Lao (500), 30% of the characters are Thai (300), 20% of the characters are "
            "Chinese (200) and .* is masked as one word, and single characters are masked; give --segmenter icu, ",
        ),
        ({"Thai": 99}, None),
        ({}, None),
    ],
)
def test_each_language_has_its_segmenter_in_the_sentence(scripts, sentence):
    """And texts with a few characters of it have no sentence."""
    found = without_words(Findings(1000, Counter(scripts)), "--train_file")
    pattern = re.escape(sentence or "").replace(re.escape(".*"), ".*")
    assert len(found) == bool(sentence) and all(re.match(f"--train_file: {pattern}", said) for said in found)


def test_a_segmenter_for_several_languages_is_advised_where_one_knows_only_a_part():
    """Else jieba would be advised for Chinese and Thai with pythainlp, and pythainlp with jieba."""
    (thai,) = without_words(Findings(1000, Counter(Thai=320)), "--file_name", "jieba")
    assert thai.endswith("32% of the characters are Thai (320), and jieba is not made for them; give --segmenter icu")
    (prepared,) = without_words(Findings(1000, Counter(Thai=900)), "--prepared_dir", "jieba")
    assert prepared.endswith("prepare the text again with --segmenter pythainlp (or icu) or --train_ref_file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "line, language, count, segmenter",
    [
        ("ฉันชอบกินข้าวผัด กับ rice", "Thai", 19, "pythainlp"),
        ("食べることが好きです。カレー", "Japanese", 13, "sudachi"),
    ],
)
def test_text_without_words_is_counted_with_its_marks_and_reported_once(
    chinese, said, tmp_path, line, language, count, segmenter
):
    (tmp_path / "text.txt").write_text(f"{line}\n" * 20, "utf-8")
    argv = [*chinese[:-1], str(tmp_path / "text.txt")]
    (sentence,) = said(run_mlm_wwm, *argv)
    share = f"{count / len(line.replace(' ', '')):.0%}"
    assert sentence.startswith(f"--train_file: {share} of the characters are {language} ({20 * count - count})")
    assert f"give --segmenter {segmenter} " in sentence
    assert said(run_mlm_wwm, *argv, "--segmenter", "whitespace") == said(run_mlm, *argv) == []
    (other,) = said(run_mlm_wwm, *argv, "--segmenter", "jieba")
    assert re.match(rf"--train_file: \d+% of the characters are {language} \(", other)
    assert re.search(rf"jieba \(.*\) is not made for them; give --segmenter {segmenter} \(or", other)


@pytest.mark.parametrize("mark", [" ", "\u200b"])
def test_nothing_is_reported_where_marks_already_separate_the_words(chinese, said, tmp_path, mark):
    words = ["ฉัน", "ชอบ", "กิน", "ข้าวผัด", "ខ្ញុំ", "ចូលចិត្ត", "បាយ"]
    (tmp_path / "text.txt").write_text(f"{mark.join(words)}\n" * 20, "utf-8")
    assert said(run_mlm_wwm, *chinese[:-1], str(tmp_path / "text.txt")) == []


def test_references_that_only_join_give_no_words_of_thai(chinese, said, tmp_path):
    """Those of the classic script, and of wordmask before files could divide."""
    (tmp_path / "text.txt").write_text("ฉันชอบกินข้าวผัด\n" * 20, "utf-8")
    (tmp_path / "ref").write_text("[]\n" * 20)
    argv = [*chinese[:-1], str(tmp_path / "text.txt"), "--train_ref_file", str(tmp_path / "ref")]
    assert len(said(run_mlm_wwm, *argv)) == 1


# Positions that are left out


@pytest.mark.slow
def test_positions_that_are_left_out_are_reported_in_every_run(classic, said, tmp_path):
    """All of them are counted, in whatever batches and processes they were found."""
    (sentence,) = said(run_mlm_wwm, *classic)
    assert sentence.startswith(
        "--train_ref_file: 3 of 6 positions join characters that stand apart in the text or are not all Chinese, and "
    )
    assert f"the first is position 2 of the reference for line 4 of the text ({tmp_path / 'ref'})" in sentence
    assert said(run_mlm_wwm, *classic) == [sentence]
    assert said(run_mlm_wwm, *classic, "--preprocessing_num_workers", "2", "--overwrite_cache") == [sentence]


def test_positions_that_are_left_out_are_counted_over_batches_and_parts(classic, said, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("wordmask.utils.batches.rebatched.__defaults__", (4,))
    (sentence,) = said(run_mlm_wwm, *classic, "--validation_split_percentage", "0")
    assert "--train_ref_file: 3 of 6 positions" in sentence and "for line 4 of the text" in sentence
    prepared, caplog_before = ["--prepared_dir", str(tmp_path / "prepared")], len(caplog.messages)
    shard = ["--prepare_only", "--part_lines", "9", "--num_shards", "2", "--validation_split_percentage", "0"]
    for number in "01":
        run_mlm_wwm.main([*classic, *prepared, *shard, "--shard_index", number])
    of_shards = [message for message in caplog.messages[caplog_before:] if LEFT_OUT in message]
    assert [message.split()[1] for message in of_shards] == ["2", "3"], "a shard counts its own parts, the last all"
    (sentence,) = said(run_mlm_wwm, *classic[:-4], *prepared)
    assert sentence.startswith("--prepared_dir: 3 of 6 positions") and "for line 4 of the text" in sentence


def test_the_workers_of_a_stream_say_once_that_positions_are_left_out(classic, chinese_model, tmp_path, monkeypatch):
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 4)
    texts = {name: [value] for name, value in zip(("train_file", "train_ref_file"), classic[-3::2], strict=True)}
    arguments = DataArguments(**texts, streaming=True, line_by_line=True)
    tokenizer = AutoTokenizer.from_pretrained(chinese_model)
    rows = StreamedSequences(
        load_texts(arguments, None, None, False)["train"],
        Tokenization(tokenizer, arguments),
        60,
        RateSchedule.of("0.15"),
    )
    log = logging.FileHandler(tmp_path / "log")
    logging.getLogger("wordmask").addHandler(log)
    try:
        # Workers that are forked, which is not the default from Python 3.14 on: others do not know this log.
        forked = {"num_workers": 2, "multiprocessing_context": "fork"}
        for _ in zip(range(100), DataLoader(rows, batch_size=1, collate_fn=list, **forked), strict=False):
            pass
    finally:
        logging.getLogger("wordmask").removeHandler(log)
    (sentence,) = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert sentence.startswith("--train_ref_file: 1 of 2 positions") and "and so will be those" in sentence


def test_findings_add_up_and_keep_the_first_place():
    han = [Counter(Han=3), Counter(Han=4, Thai=2)]
    one, two = Findings(10, han[0], 2, 1, "line 1"), Findings(5, han[1], 6, 2, "line 9")
    sum_of_all = total([Findings(), one, two])
    assert replace(sum_of_all, counts=one.counts) == Findings(15, han[0] + han[1], 8, 3, "line 1", one.counts)
    assert total([Findings(5), two]).example == "line 9"
