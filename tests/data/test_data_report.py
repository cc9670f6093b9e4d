"""The data report: figures as counted by hand, the same however the text is tokenized, and advice where it helps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer

import run_mlm
import run_mlm_wwm
from conftest import character_tokenizer, sample_lines, sample_tokenizer, save_model
from wordmask.data import advice, text_counts, token_store
from wordmask.data.text_counts import letters_in, spread

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# With the vocabulary below: the cat walk ##ed . / the cat walk ##s . / the cat walk ##ed . / the [UNK] cat
ENGLISH = ["the cat walked.", "the cat walks.", "the cat walked.", "the ☃ cat"]


def word_pieces(*pieces: str, lower: bool = True) -> BertTokenizer:
    return BertTokenizer(vocab={piece: index for index, piece in enumerate([*SPECIALS, *pieces])}, do_lower_case=lower)


@pytest.fixture
def model(tmp_path) -> str:
    return save_model(tmp_path / "model", word_pieces("the", "cat", "walk", "##ed", "##s", ".", "a"))


@pytest.fixture
def write(tmp_path):
    """Write lines into a file, and return its name."""

    def to(name: str, lines: list[str]) -> str:
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return str(tmp_path / name)

    return to


@pytest.fixture
def prepared(tmp_path, capfd):
    """Tokenize with --prepare_only; what `data_report.json` holds there, and what was said."""
    number = 0

    def run(model, text, *argv: str, script=run_mlm_wwm, shards: int = 1) -> tuple[dict, str]:
        nonlocal number
        number += 1
        capfd.readouterr()
        directory = tmp_path / f"prepared{number}"
        flags = ["--model_name_or_path", model, "--train_file", text, "--prepared_dir", str(directory), *argv]
        for shard in range(shards):
            of_shard = ["--num_shards", str(shards), "--shard_index", str(shard)]
            script.main([*flags, *of_shard, "--prepare_only", "--validation_split_percentage", "0"])
        said = capfd.readouterr().err
        return json.loads((directory / "data_report.json").read_text(encoding="utf-8")), said

    return run


@pytest.fixture
def trained(tmp_path, capfd):
    """Train for a step; what `data_report.json` holds then (`None` without one), and what was said."""

    def run(model, *argv: str) -> tuple[dict | None, str]:
        capfd.readouterr()
        flags = ["--model_name_or_path", model, "--output_dir", str(tmp_path / "out"), "--overwrite_output_dir"]
        flags += ["--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--max_steps", "1", "--save_strategy", "no"]
        run_mlm_wwm.main([*flags, *argv])
        file = tmp_path / "out" / "data_report.json"
        said = capfd.readouterr().err
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None, said

    return run


def without_padding(report: dict | None) -> dict:
    assert report is not None
    return {**report, "train": {name: value for name, value in report["train"].items() if name != "padding_share"}}


# Figures


def test_every_figure_of_an_english_run_is_as_counted_by_hand(model, write, trained):
    files = ["--train_file", write("text", ENGLISH), "--validation_file", write("valid", ["the cat walks."])]
    shape = ["--line_by_line", "--max_seq_length", "6", "--pad_to_max_length", "--per_device_train_batch_size", "4"]
    report, said = trained(model, *files, *shape)
    assert report["train"] == {
        "examples": 4,
        "counted": 4,
        "words": 4 + 4 + 4 + 3,
        "tokens": 5 + 5 + 5 + 3,
        "tokens_per_word": 18 / 15,
        "split_words": [{"word": "walked", "tokens": 2, "count": 2}],
        "unknown_tokens": 1,
        "unknown_share": 1 / 18,
        "unknown_text_share": 1 / len("".join(ENGLISH)),
        "special_tokens": {},
        "unknown_characters": {"☃": 1},
        "unknown_words": {"☃": 1},
        "duplicates": 1,
        "long_lines": {"lines": 3, "room": 4, "lost": 3, "action": "cut"},
        "all_tokens": 18,
        "also_in_validation": 1,
        "scripts": {"LATIN": 1.0},
        "padding_share": pytest.approx(1 - (6 + 6 + 6 + 5) / 24),
    }
    assert (report["validation"]["examples"], report["validation"]["words"]) == (1, 4)
    assert said.count("data report of train, all 4 examples: words 15; tokens of text 18; tokens per word 1.20; ") == 1
    assert (
        "split most (tokens x times) walked 2 x 2; [UNK] 1 (5.6%): ☃ 1; lines cut at 4 tokens 3 (75%), and 3 (17%)"
        in said
    )
    assert report["advice"] and all(said.count(sentence) == 1 for sentence in report["advice"])
    joined = "\n".join(report["advice"])
    assert "--train_file: 75% of the train examples are cut at 4 tokens, so 17% of the tokens are lost" in joined
    assert "5.6% of the tokens are [UNK], most often for ☃" in joined
    assert "1 of 1 validation example is also in the training text" in joined
    assert "--validation_file: an evaluation has only about 1 masked token in 1 sequence, so accuracy" in joined


def test_masked_tokens_of_the_validation_text_are_those_of_its_sequences(model, write, trained):
    """100 lines of 4 tokens, of which 1 is cut off and half of the lines are left out: 50 times 3 tokens, 1 masked."""
    lines = write("text", ["a cat cat cat"] * 100)
    flags = "--line_by_line --do_eval --mlm_probability 0.2 --max_seq_length 5 --max_eval_samples 50".split()
    report, _ = trained(model, "--validation_file", lines, *flags)
    joined = "\n".join(report["advice"])
    assert "only about 50 masked tokens in 50 sequences, so" in joined
    assert (
        "--validation_file: the validation sequences have 3.0 tokens on average, and at least one word or token of "
        "each is masked, so about 33% of the tokens are masked instead of 20.0%; give --no_line_by_line to" in joined
    )


def test_far_too_long_evaluations_are_told(model, write, trained, monkeypatch):
    monkeypatch.setattr(advice, "LONG_EVALUATION", 20)
    flags = ["--validation_file", write("text", ["the cat walks."] * 20), "--line_by_line", "--do_eval"]
    report, _ = trained(model, *flags)
    assert any("each evaluation is on 20 sequences; --max_eval_samples" in one for one in report["advice"])
    report, _ = trained(model, *flags, "--max_eval_samples", "19")
    assert not any("each evaluation is on" in one for one in report["advice"])


def test_of_a_long_word_a_part_is_masked(model, write, trained):
    """A word of 30 tokens, as a phrase of Thai is without a segmenter, is masked in parts of 10: no half of a line."""
    word = "walk" + "s" * 29
    flags = ["--train_file", write("text", [f"{word} {word}"] * 20), "--line_by_line", "--do_train"]
    report, _ = trained(model, *flags)
    assert report["train"]["tokens_per_word"] == 30
    assert not any("masked instead of" in one for one in report["advice"]), report


def test_short_sequences_are_masked_more_and_told(model, write, trained):
    """Each line has two words of two tokens, of which one is masked: half of its tokens, not 15 %."""
    flags = ["--train_file", write("text", ["walked walks"] * 20), "--line_by_line", "--do_train"]
    report, _ = trained(model, *flags)
    assert any("so about 50% of the tokens are masked instead of 15.0%" in one for one in report["advice"]), report
    report, _ = trained(model, *flags, "--pack_sequences")
    assert not any("masked instead of" in one for one in report["advice"]), report


def test_special_tokens_that_are_written_in_the_text_are_told(model, write, trained):
    """Not as unknown tokens: of these, there is one."""
    lines = ["the [MASK] walks. [SEP] the cat", "a [UNK] cat", "a [UNK] ☃ [MASK]"]
    report, said = trained(model, "--train_file", write("text", lines), "--line_by_line", "--do_train")
    assert report["train"]["special_tokens"] == {"[MASK]": 2, "[UNK]": 2, "[SEP]": 1}
    assert (report["train"]["unknown_tokens"], report["train"]["unknown_words"]) == (1, {"☃": 1})
    assert report["train"]["unknown_text_share"] == 1 / len("".join(lines))
    assert "special tokens in the text [MASK] 2, [UNK] 2, [SEP] 1" in said
    assert "has special tokens of the tokenizer ([MASK] 2 times, [UNK] 2 times, [SEP] 1 time), and the" in said
    report, _ = trained(model, "--train_file", write("text", lines[:1] + ["the cat walks."] * 5500), "--do_train")
    assert report["train"]["special_tokens"] and not any("special tokens" in one for one in report["advice"])


def test_much_text_behind_few_unknown_tokens_is_said(model, write, trained):
    lines = ["the cat walks.", f"the {'ก' * 60} cat."]
    report, said = trained(model, "--train_file", write("text", lines), "--line_by_line", "--do_train")
    assert report["train"]["unknown_text_share"] == 60 / len("".join(lines))
    assert "[UNK] 1 (11%), 72.3% of the characters" in said
    lines = ["the cat walks."] * 9 + lines
    report, said = trained(model, "--train_file", write("text", lines), "--line_by_line", "--do_train")
    assert "28.7% of the characters stand behind [UNK] (1 token), and the model cannot learn them" in said
    assert "long text without a space becomes one [UNK] (in WordPiece, over 100 characters); take a" in said
    lines = ["the cat walks."] * 15 + ["ก" * 15]  # a word of such a length could be a token
    report, said = trained(model, "--train_file", write("text", lines), "--line_by_line", "--do_train")
    assert "6.7% of the characters stand behind [UNK]" in said and "add such words with --add_words, or take" in said


def test_a_few_long_lines_that_lose_much_text_are_said(model, write, trained):
    lines = [*ENGLISH, *["the cat"] * 20, "the cat walks. " * 40]
    text = write("text", lines)
    cut = "--train_file", text, "--line_by_line", "--max_seq_length", "16", "--do_train"
    _, said = trained(model, *cut)
    assert "4.0% of the train examples are cut at 14 tokens, so 72% of the tokens are lost; add --long_lines" in said


def test_a_text_without_letters_is_said(model, write, trained):
    sentence = "--train_file: the text has no letters; if it is a column of numbers, choose another --text_column_name"
    numbers = [f"{number}.5" for number in range(300)]
    for lines, is_said in ((numbers, True), ([*numbers[:7], "the cat", *numbers], False)):
        _, said = trained(model, "--train_file", write("text", lines), "--do_train", "--line_by_line")
        assert (sentence in said) == is_said


def test_lines_that_are_split_lose_nothing(model, write, trained):
    report, said = trained(
        *(model, "--train_file", write("text", ENGLISH), "--line_by_line", "--max_seq_length", "6", "--do_train"),
        *("--long_lines", "split", "--validation_split_percentage", "0"),
    )
    assert report["train"]["long_lines"] == {"lines": 3, "room": 4, "lost": 0, "action": "split"}
    assert "split at 4 tokens 3 (75%);" in said and "are cut at" not in said


def test_words_are_those_of_the_references(write, prepared):
    text = ["我喜欢你", "你喜欢我", "T恤"]
    tokenizer = save_model(Path(write("x", [])).parent / "chinese", character_tokenizer([*text, "t"]))
    references = write("ref", ["[3]", "[3]", "[]"])
    report, _ = prepared(tokenizer, write("text", text), "--train_ref_file", references, "--line_by_line")
    figures = report["train"]
    assert (figures["words"], figures["tokens"], figures["duplicates"]) == (3 + 3 + 2, 4 + 4 + 2, 0)
    assert figures["split_words"] == [], "a Chinese character has a token of its own"


def test_words_are_those_of_a_segmenter(write, prepared):
    tokenizer = save_model(Path(write("x", [])).parent / "chinese", character_tokenizer(["我喜欢你"]))
    report, _ = prepared(tokenizer, write("text", ["我 喜欢 你"]), "--segmenter", "whitespace")
    assert (report["train"]["words"], report["train"]["tokens"]) == (3, 4)


def test_a_byte_level_tokenizer_knows_all_and_splits_chinese_characters(tmp_path, write, prepared):
    model = save_model(tmp_path / "bytes", sample_tokenizer("roberta", 300), "roberta")
    report, said = prepared(model, write("text", ["中国 中国 ☃"]), "--segmenter", "whitespace")
    figures = report["train"]
    assert (figures["unknown_tokens"], figures["unknown_characters"], figures["words"]) == (0, {}, 3)
    assert {(one["word"], one["count"]) for one in figures["split_words"]} == {("中国", 2)}
    assert "[UNK] 0;" in said and "are [UNK]" not in said


def test_characters_are_unknown_at_the_start_of_a_word_or_within_it(write, prepared, tmp_path):
    model = save_model(tmp_path / "m", word_pieces("a", "b", "##a", "##c"))
    report, _ = prepared(model, write("text", ["ac ab bd", "aé"]))
    # `ab` lacks ##b, `bd` lacks ##d, and é becomes e, which is unknown.
    assert report["train"]["unknown_words"] == {"ab": 1, "aé": 1, "bd": 1}
    assert report["train"]["unknown_characters"] == {"b": 2, "d": 1, "é": 1}


def test_blank_examples_are_no_duplicates(tmp_path, model, prepared):
    import datasets

    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["", "the", "", "the"]})}).save_to_disk(
        tmp_path / "data"
    )
    run = ["--model_name_or_path", model, "--dataset_name", str(tmp_path / "data"), "--prepare_only"]
    run_mlm_wwm.main([*run, "--prepared_dir", str(tmp_path / "p"), "--validation_split_percentage", "0"])
    figures = json.loads((tmp_path / "p" / "data_report.json").read_text(encoding="utf-8"))["train"]
    assert (figures["examples"], figures["duplicates"]) == (4, 1)


# The same report, whoever tokenizes


@pytest.mark.slow
def test_workers_parts_shards_and_the_cache_give_the_same_report(english_model, english_file, prepared, trained):
    report, _ = prepared(english_model, english_file)
    assert report["train"]["examples"] == 40 and report["train"]["split_words"]
    assert prepared(english_model, english_file, "--part_lines", "7", shards=3)[0] == report
    assert prepared(english_model, english_file, "--preprocessing_num_workers", "2", "--part_lines", "9")[0] == report
    argv = [english_model, "--train_file", english_file, "--no_line_by_line", "--validation_split_percentage", "0"]
    first, _ = trained(*argv)
    again, said = trained(*argv)
    assert again == first and "data report of train, all 40 examples" in said
    assert without_padding(first)["train"]["split_words"] == report["train"]["split_words"]
    assert first["train"]["tokens"] == report["train"]["tokens"]


def test_prepared_text_keeps_its_report_and_an_older_one_has_none(model, write, trained, tmp_path, monkeypatch):
    text, flags = write("text", ENGLISH), ["--line_by_line", "--validation_split_percentage", "0"]

    def prepare(name: str) -> list[str]:
        prepared = ["--prepared_dir", str(tmp_path / name), *flags]
        run_mlm.main(["--model_name_or_path", model, "--train_file", text, *prepared, "--prepare_only"])
        return prepared

    report, _ = trained(model, *prepare("new"))
    assert (report["train"]["words"], report["train"]["duplicates"]) == (15, 1)
    with monkeypatch.context() as earlier:
        earlier.setattr("wordmask.data.text_counts.COUNTS", 1)
        older = prepare("older")
    report, said = trained(model, *older)
    assert report is None and "data report" not in said


@pytest.mark.parametrize("files", [[[*ENGLISH, *["a cat"] * 9]], [[line] for line in [*ENGLISH, *["a cat"] * 9]]])
def test_a_stream_reports_on_its_first_texts(model, write, trained, monkeypatch, files):
    """In one file, or in as many as there are texts: a batch ends with its file."""
    monkeypatch.setattr("wordmask.data.sequences.STREAM_BATCH", 2)
    monkeypatch.setattr("wordmask.data.sequences.FIRST_TEXTS", 4)
    paths = [write(f"text{number:02}", lines) for number, lines in enumerate(files)]
    report, said = trained(model, "--train_file", *paths, "--streaming", "--line_by_line", "--do_train")
    figures = report["train"]
    assert (figures["examples"], figures["counted"], figures["words"], figures["duplicates"]) == (None, 4, 15, 1)
    assert "data report of train, the first 4 examples of a stream: words 15; " in said


@pytest.mark.parametrize("total", [1, 499, 5_000, 5_001, 12_345, 200_001, 300_000, 3_000_000])
def test_at_most_a_hundred_thousand_examples_are_counted_and_they_are_spread_evenly(total):
    chosen = np.flatnonzero(spread(0, total, total))
    assert len(chosen) == total if total <= 5_000 else min(total / 20, 99_000) <= len(chosen) <= 100_000
    assert len(chosen) <= max(total / 20 + 1000, 5_000), "to count more would take more than 3 % of the time"
    gaps = np.diff(chosen, prepend=0, append=total)
    assert gaps.max() <= text_counts.STRETCH * (total / len(chosen) + 1)
    assert (spread(77, min(900, total), total) == spread(0, total + 900, total)[77 : 77 + min(900, total)]).all()


def test_the_heading_says_which_part_of_a_long_text_is_counted(model, write, prepared, monkeypatch):
    for name, value in (("STRETCH", 1), ("LEAST", 2)):
        monkeypatch.setattr(text_counts, name, value)
    report, said = prepared(model, write("text", ["the", "cat", "cat", "the cat", "cat"]))
    assert (report["train"]["examples"], report["train"]["counted"], report["train"]["tokens"]) == (5, 2, 3)
    assert "data report of train, 2 of 5 examples, spread evenly: words 3; tokens of text 3;" in said


def test_of_many_split_words_those_with_most_tokens_are_kept(model, write, prepared, monkeypatch):
    text = write("text", [*["walks walked"] * 2, *["walked"] * 2, "walkss"])
    everything = [{"word": "walked", "tokens": 2, "count": 4}, {"word": "walks", "tokens": 2, "count": 2}]
    assert prepared(model, text)[0]["train"]["split_words"] == everything
    monkeypatch.setattr(text_counts, "KEPT", 1)
    report, _ = prepared(model, text)
    assert report["train"]["split_words"] == everything[:1]


def test_long_words_and_characters_of_any_plane_are_counted_as_they_are(write, prepared, tmp_path):
    model = save_model(tmp_path / "m", word_pieces("a", "##a", "\U00020000"))
    lines = ["aa \U00020000\U00020001 \U0001f600", f"aa {'a' * 50}"]
    figures = prepared(model, write("text", lines))[0]["train"]
    assert figures["split_words"] == [{"word": "aa", "tokens": 2, "count": 2}], "50 letters are hardly a word"
    assert figures["unknown_words"] == {"\U0001f600": 1, "\U00020001": 1}


@pytest.mark.parametrize("line", ["ne\u0301ae\u0301", "ne\u0301ae\u0301\u0323\tb", "b ne\u0301ae\u0301. "])
def test_a_word_is_shown_with_the_marks_that_the_tokenizer_removes(write, prepared, tmp_path, line):
    """The last ones were cut off: no token covers them."""
    model = save_model(tmp_path / "m", word_pieces("n", "##e", "##a", "b", "."))
    (split,) = prepared(model, write("text", [line, line]))[0]["train"]["split_words"]
    assert split == {"word": line.strip("b. \t"), "tokens": 4, "count": 2}


# What is shown


def test_terminal_escapes_in_the_text_are_shown_as_text(tmp_path, write, prepared):
    model = save_model(tmp_path / "bytes", sample_tokenizer("roberta", 300), "roberta")
    report, said = prepared(model, write("text", ["zebra\x1b zebra\x1b zebra\x1b"]), "--log_format", "plain")
    assert report["train"]["split_words"][0]["word"] == "zebra\x1b"
    assert r"zebra\x1b" in said and "\x1b" not in said


def test_the_table_at_a_terminal_has_a_column_for_each_split(model, write, trained):
    files = ["--train_file", write("text", ENGLISH), "--validation_file", write("valid", ["the cat"])]
    _, said = trained(model, *files, "--log_format", "rich")
    table = said[said.index("data report") :]
    assert "train, all 4 examples" in " ".join(table.split()) and "tokens per word" in table


def test_an_evaluation_leaves_the_report_of_a_training(model, write, trained, tmp_path):
    trained(model, "--train_file", write("text", ENGLISH), "--validation_split_percentage", "0")
    out = str(tmp_path / "out")
    before = Path(out, "data_report.json").read_text(encoding="utf-8")
    argv = ["--model_name_or_path", out, "--validation_file", write("valid", ["the cat"]), "--do_eval", "--use_cpu"]
    run_mlm_wwm.main([*argv, "--output_dir", out])
    assert Path(out, "data_report.json").read_text(encoding="utf-8") == before


# Advice


def test_an_english_tokenizer_on_chinese_text_is_named(write, prepared, model):
    report, _ = prepared(model, write("text", sample_lines("chinese", 20)), script=run_mlm)
    (sentence,) = report["advice"]
    assert "[UNK]" in sentence and "the tokenizer is not for Chinese; start from a Chinese model" in sentence


def test_a_lower_case_vocabulary_without_lower_casing_is_named(tmp_path, write, prepared):
    model = save_model(tmp_path / "m", word_pieces(*"abc", lower=False))
    report, _ = prepared(model, write("text", ["A b c", "B a"]))
    assert '"do_lower_case": true' in report["advice"][0]


@pytest.mark.parametrize("copies, said", [(9, False), (10, True)])
def test_many_duplicates_are_named(model, write, prepared, copies, said):
    lines = [*sample_lines("english", 30), *["the cat"] * (copies + 1)]
    _, printed = prepared(model, write("text", lines))
    assert (f"{copies} of {31 + copies} examples repeat another one" in printed) is said


def test_nothing_is_advised_about_a_good_text(english_model, write, prepared):
    report, _ = prepared(english_model, write("text", sample_lines("english", 150)))
    assert report["advice"] == []


def test_tokens_whose_counts_an_older_version_made_are_made_again(model, write, trained, monkeypatch):
    text, flags = write("text", ENGLISH), ["--line_by_line", "--validation_split_percentage", "0"]
    with monkeypatch.context() as earlier:
        for module in (text_counts, token_store):
            earlier.setattr(module, "COUNTS", 1)
        trained(model, "--train_file", text, *flags)
    report, _ = trained(model, "--train_file", text, *flags)
    assert report is not None and report["train"]["words"] == 15


def test_letters_are_found_where_the_texts_that_are_counted_have_none():
    """Of 100 texts, each second one is counted."""
    assert letters_in(["1", "a", *["2"] * 98]) == {"LATIN": 1}
    assert [*letters_in(["かな"])] == ["HIRAGANA"], "no script without a letter"
