"""Predictions for the first validation lines: which lines, which words, and how they look at a terminal."""

from __future__ import annotations

import io
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer

import run_mlm
import run_mlm_wwm
import wordmask
from conftest import sample_lines, sample_tokenizer, save_model, slow_after
from wordmask.tokenization.readable import ReadableTokens
from wordmask.training.evaluation.prediction_display import LinePrediction, PredictionsTitle, excerpt
from wordmask.training.evaluation.predictions import BEST, Guess, MaskedWord, PredictedLine, best_words, told_apart


def predictions(out: Path, at: int = -1) -> list[dict]:
    return json.loads((out / "wordmask_evaluations.json").read_text(encoding="utf-8"))["evaluations"][at][
        "predictions"
    ]


@pytest.fixture
def argv(english_model, tmp_path):
    def argv(text: list[str], *more: str, model: str = english_model, out: str = "out") -> list[str]:
        path = tmp_path / f"{len(text)}.txt"
        path.write_text("\n".join(text), encoding="utf-8")
        return [
            *("--model_name_or_path", model, "--validation_file", str(path), "--output_dir", str(tmp_path / out)),
            *("--cache_dir", str(tmp_path / "cache"), "--use_cpu", "--max_seq_length", "48", *more),
        ]

    return argv


# Which lines


def test_the_first_five_lines_of_the_file_come_in_its_order(argv, tmp_path):
    """Evaluation takes the longest line first; the lines shown are the first ones all the same."""
    lines = [f"{line[: 20 + 9 * (number % 5)]}" for number, line in enumerate(sample_lines("english", 12))]
    run_mlm_wwm.main(argv([lines[0], "", *lines[1:]], "--do_eval", "--mlm_probability", "0.3"))
    shown = predictions(tmp_path / "out")
    assert len(shown) == 5
    for found, line in zip(shown, lines, strict=False):
        assert found["text"].replace(" ", "") == line.lower().replace(" ", "")
        assert found["words"]
        for word in found["words"]:
            assert found["text"][word["start"] :].startswith(word["word"])


def test_a_block_shows_the_lines_in_it(argv, tmp_path):
    """A sequence of joined text holds several lines, and a line may go on in the next one."""
    lines = [
        "the water was cold",
        "a boat came in",
        "the light went out",
        "we went home",
        "the end of it",
        "good night",
    ]
    run_mlm.main(argv(lines, "--do_eval", "--mlm_probability", "0.5"))
    shown = [found["text"] for found in predictions(tmp_path / "out")]
    assert len(shown) == 5 and all(text in lines for text in shown)
    assert shown == sorted(shown, key=lines.index)


def test_parts_of_a_long_line_are_lines(argv, tmp_path):
    text = " ".join(["water"] * 60)
    run_mlm_wwm.main(argv([text], "--do_eval", "--long_lines", "split", "--max_seq_length", "16"))
    lines = [found["text"].split() for found in predictions(tmp_path / "out")]
    assert len(lines) == 5 and all(0 < len(line) <= 14 and {*line} == {"water"} for line in lines)  # and [CLS], [SEP]


def test_fewer_lines_than_five_are_all_there_are(argv, tmp_path):
    run_mlm_wwm.main(argv(["the water", "a boat"], "--do_eval"))
    assert [found["text"] for found in predictions(tmp_path / "out")] == ["the water", "a boat"]


# Which words


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(
    "more", slow_after(1, [[], ["--pad_to_max_length"], ["--no_sparse_prediction"]]), ids=["", "fixed", "full"]
)
def test_they_are_the_best_combinations_of_what_the_model_itself_gives(kind, more, argv, tmp_path):
    """Against the model by hand: its three most probable tokens at each position, every combination of them."""
    model = save_model(tmp_path / kind, sample_tokenizer(kind, 400), kind, initializer_range=0.5)
    lines = sample_lines("english", 6)
    run_mlm_wwm.main(
        argv(lines, "--do_eval", "--mask_replace_prob", "1", "--random_replace_prob", "0", *more, model=model)
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    network, readable = AutoModelForMaskedLM.from_pretrained(model).eval(), ReadableTokens(tokenizer)
    several = 0
    for line, found in zip(lines, predictions(tmp_path / "out"), strict=False):
        encoding = tokenizer(
            line[:400], return_tensors="pt", return_offsets_mapping=True, max_length=48, truncation=True
        )
        ids, offsets = encoding["input_ids"][0], encoding["offset_mapping"][0].tolist()
        spans = masked_spans(line, found, offsets)
        seen = ids.clone()
        for places in spans:
            seen[places] = tokenizer.mask_token_id
        with torch.no_grad():
            shares = network(input_ids=seen[None], attention_mask=encoding["attention_mask"]).logits[0].softmax(-1)
        for places, word in zip(spans, found["words"], strict=True):
            tops = [
                [(float(shares[place, token]), int(token)) for token in shares[place].topk(BEST)[1]]
                for place in places
            ]
            ranked = sorted(itertools.product(*tops), key=lambda one: -math.prod(share for share, _ in one))[:BEST]
            guesses = [[token for _, token in one] for one in ranked]
            expected_words = told_apart([ids[places].tolist(), *guesses], readable)[1:]
            assert [guess["word"] for guess in word["predictions"]] == expected_words
            expected = [math.prod(share for share, _ in one) for one in ranked]
            assert [guess["probability"] for guess in word["predictions"]] == pytest.approx(expected, rel=1e-3)
            assert word["right"] == ([token for _, token in ranked[0]] == ids[places].tolist())
            several += len(places) > 1
    assert several, "no word has several tokens, so no combination is compared"


def masked_spans(line: str, found: dict, offsets: list[list[int]]) -> list[list[int]]:
    """The positions of the tokens of each masked word, by its place in the line without white space."""
    spans = []
    for word in found["words"]:
        start = len(found["text"][: word["start"]].replace(" ", ""))
        end = start + len(word["word"].replace(" ", ""))
        visible = [len(line[:begin].replace(" ", "")) if stop else -1 for begin, stop in offsets]
        spans.append([place for place, at in enumerate(visible) if start <= at < end])
    return spans


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_best_words_are_those_of_all_combinations(shares):
    shares = [sorted(place, reverse=True) for place in shares]
    found = best_words(np.tile(np.arange(3), (len(shares), 1)), np.array(shares))
    products = sorted(map(math.prod, itertools.product(*shares)), reverse=True)[:BEST]
    assert [product for _, product in found] == pytest.approx(products)
    for word, product in found:
        assert math.prod(place[token] for place, token in zip(shares, word, strict=True)) == pytest.approx(product)


def test_where_tokens_are_masked_the_rest_of_the_word_is_given(argv, tmp_path):
    model = save_model(tmp_path / "small", sample_tokenizer("bert", 120))  # most words have several tokens
    run_mlm.main(argv(["unbelievable"], "--do_eval", "--line_by_line", model=model))
    (line,) = predictions(tmp_path / "out")
    (word,) = line["words"]
    assert line["text"] == word["word"] == "unbelievable"
    for guess in word["predictions"]:
        letters = guess["word"].replace(" ", "")
        assert letters != word["word"] or word["right"]
        assert letters.startswith("unb") or letters.endswith("ble"), "one or two of twelve tokens are masked"


def test_right_is_what_the_metric_counts_as_right(argv, tmp_path, capsys):
    """All lines are shown, so their share of right words is that of the evaluation; and the signs say the same."""
    train = ["--train_file", str(tmp_path / "5.txt"), *"--max_steps 15 --learning_rate 0.03".split()]
    metrics = run_mlm_wwm.main(argv(["the water"] * 5, *train, "--mlm_probability", "0.5", "--save_strategy", "no"))
    words = [word for line in predictions(tmp_path / "out") for word in line["words"]]
    right = sum(word["right"] for word in words)
    assert metrics["eval_whole_word_accuracy"] == right / len(words) > 0
    assert all(word["right"] == (word["predictions"][0]["word"] == word["word"]) for word in words)
    last = capsys.readouterr().err.rpartition("predictions after step 15")[2]
    assert (last.count("✓"), last.count("✗")) == (right + 1, len(words) - right + 1), "one of each is in the title"


# Where there are none


def test_there_are_none_where_only_the_loss_is_wanted(argv, tmp_path, capsys):
    run_mlm_wwm.main(argv(["the water"], "--do_eval", "--prediction_loss_only"))
    assert predictions(tmp_path / "out") == [] and "predictions" not in capsys.readouterr().err


def test_from_python_an_evaluation_shows_and_writes_nothing(english_model, tmp_path, capsys):
    tokenizer = AutoTokenizer.from_pretrained(english_model)
    rows = [tokenizer(line) for line in sample_lines("english", 4)]
    model = AutoModelForMaskedLM.from_pretrained(english_model)
    arguments = wordmask.RunArguments(output_dir=str(tmp_path / "out"), use_cpu=True, disable_tqdm=True)
    metrics = wordmask.MlmTrainer(model, arguments, eval_dataset=rows, processing_class=tokenizer).evaluate()
    assert metrics["eval_perplexity"] == math.exp(metrics["eval_loss"])
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    assert "predictions" not in capsys.readouterr().err


# How they look


def predicted(text: str, *words: str) -> PredictedLine:
    """A line with some of its words masked, each with itself as the best guess."""
    masked = [
        MaskedWord(word, text.index(word), True, [Guess(word, 0.62), Guess("fish", 0.004), Guess("sea", 0.0)])
        for word in words
    ]
    return PredictedLine(text, masked)


def drawn(line: PredictedLine, width: int, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    console = Console(file=file, width=width, force_terminal=False, highlight=False)
    console.print(LinePrediction(1, line))
    file.flush()
    return file.buffer.getvalue().decode(encoding).rstrip("\n").split("\n")


def test_a_plain_line():
    line = LinePrediction(2, predicted("On the shore of the lake", "shore", "lake")).line()
    assert line == (
        "2. On the [shore] of the [lake] | ✓ shore: shore 62% · fish <1% · sea <1% | "
        "✓ lake: lake 62% · fish <1% · sea <1%"
    )


def test_a_terminal_without_these_signs_gets_others():
    line = predicted("On the shore of the lake", "shore")
    assert "✓ shore" in "".join(drawn(line, 80)) and "+ shore" in "".join(drawn(line, 80, "ascii"))
    assert all(ord(character) < 128 for character in "".join(drawn(line, 30, "ascii")))


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_a_long_line_is_cut_around_its_masked_words(width, language):
    spaced = language == "english"
    text = (" " if spaced else "").join(sample_lines(language, 20))
    starts = [text.index(" ", place) + 1 if spaced else place for place in (4, 100, 150)]
    masked = [MaskedWord(text[start : start + 2], start, False, [Guess("a", 0.5)]) for start in starts]
    words = [word.word for word in masked]
    lines = drawn(PredictedLine(text, masked), width)
    assert all(cell_len(line) <= width for line in lines)
    assert f"[{words[0]}]" in lines[0] and "…" in lines[0]
    if width >= 40:
        assert all(f"[{word}]" in lines[0] for word in words)
        assert cell_len(lines[0]) > 0.75 * width, "the text around them fills the line"


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["a", "boat", "shore", "面包", "。"]), min_size=1, max_size=40),
    st.integers(10, 90),
    st.data(),
)
def test_an_excerpt_holds_its_words_in_order_and_fits(words, width, data):
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    chosen = sorted(data.draw(st.sets(st.integers(0, len(words) - 1), min_size=1, max_size=6)))
    masked = [MaskedWord(words[number], starts[number], True, []) for number in chosen]
    shown = data.draw(st.integers(1, len(masked)))
    parts = excerpt(" ".join(words), masked, shown, width)
    kept = [word for _, word in parts if word is not None]
    assert kept == masked[: len(kept)] and kept
    total = sum(cell_len(text) + 2 * (word is not None) for text, word in parts)
    assert total <= max(width, cell_len(masked[0].word) + 2 + 4)
    text = "".join(text for text, _ in parts).replace("…", "")
    assert all(any(piece in word for word in words) for piece in text.split())


def test_of_many_masked_words_some_are_shown_and_the_rest_is_counted():
    words = [f"word{number}" for number in range(9)]
    line = predicted(" ".join(words), *words)
    for width, shown in ((160, 3), (100, 2), (50, 1)):
        text, guesses = drawn(line, width)
        assert guesses.count("✓") == shown and guesses.endswith(f"   +{9 - shown}")
    assert drawn(line, 160)[0].endswith(" ".join(f"[word{number}]" for number in range(9))), "all are masked"
    assert drawn(line, 50)[0].endswith("[word0] [word1] [word2] [word3] [word4] …")
    assert "[word5] [word6] [word7] [word8] | " in LinePrediction(1, line).line()
    assert LinePrediction(1, line).line().endswith("and 3 more masked words")


def test_different_guesses_look_different():
    tokenizer = sample_tokenizer("roberta")
    tokens = ["a", "Ġa", "Ã", "å", "Ġof"]
    ids = tokenizer.convert_tokens_to_ids(tokens)
    assert tokenizer.unk_token_id not in ids
    readable = ReadableTokens(tokenizer)
    assert told_apart([[token] for token in ids], readable) == ["a", "Ġa", r"\xc3", r"\xe5", "of"]
    assert told_apart([[ids[1]], [ids[1]]], readable) == ["a", "a"], "a word and the right guess"


def test_escapes_in_text_and_predictions_are_shown_as_text():
    line = PredictedLine("a \x1b[31mred\x07 b", [MaskedWord("\x1b[31mred\x07", 2, False, [Guess("\x1b]0;x", 0.5)])])
    for shown in (LinePrediction(1, line).line(), *drawn(line, 80)):
        assert "\x1b" not in shown and "\x07" not in shown
    assert r"[\x1b\[31mred\x07]" in drawn(line, 80)[0] and r"\x1b]0;x" in drawn(line, 80)[1]


@pytest.mark.parametrize("text", ["a [b] c", r"a \[b] c", "a b c", "a b] c", "[a b c]", "a \\[b\\] c"])
def test_brackets_of_the_text_are_not_those_of_masks(text):
    start = text.index("b")
    shown = LinePrediction(1, PredictedLine(text, [MaskedWord("b", start, False, [])])).line()
    line = shown.removeprefix("1. ").partition(" | ")[0]
    # As one reads it: behind a backslash stands a character of the text, and other brackets are those of a mask.
    read, at, marks = "", 0, []
    while at < len(line):
        if line[at] in "[]":
            marks.append(len(read))
        else:
            at += line[at] == "\\"
            read += line[at]
        at += 1
    assert read == text and marks == [start, start + 1]


def test_the_title_says_what_the_signs_mean():
    assert PredictionsTitle("after step 1,200").line() == (
        "predictions after step 1,200, the best words for each [masked] word, ✓ right, ✗ wrong:"
    )
    assert PredictionsTitle("").line().startswith("predictions, ")


NAMES = ("xavieroglu", "yvonneska", "zork", "☃")


@pytest.fixture
def private(english_model, tmp_path, capfd):
    """Run with texts that hold `NAMES`; which of them the results hold, and what is printed."""
    train, validation = tmp_path / "train.txt", tmp_path / "validation.txt"
    train.write_text("Xavieroglu walked home with ☃☃☃.\n" * 12, encoding="utf-8")
    validation.write_text("Yvonneska walked home again with zork.\n" * 12, encoding="utf-8")
    argv = ["--model_name_or_path", english_model, "--train_file", str(train), "--validation_file", str(validation)]
    argv += ["--output_dir", str(tmp_path / "out"), "--cache_dir", str(tmp_path / "cache"), "--use_cpu"]

    def run(*more: str) -> set[str]:
        capfd.readouterr()
        run_mlm_wwm.main([*argv, *more])
        printed = capfd.readouterr()
        texts = [printed.out.lower(), printed.err.lower()]
        for path in [*tmp_path.glob("out/*"), *tmp_path.glob("prepared/*.json")]:
            if path.suffix in (".json", ".html", ".md", ".svg") and "tokenizer" not in path.name:
                texts.append(path.read_text(encoding="utf-8").lower())
        return {name for name in NAMES if any(name in text for text in texts)}

    return run


def test_without_text_in_results_no_word_of_the_text_is_shown_or_kept(private):
    """Also not what an earlier run has left: if it is resumed, or its model evaluated."""
    training = ("--max_steps", "2", "--save_steps", "2", "--do_train", "--do_eval")
    assert private(*training, "--no_text_in_results") == set()
    assert private(*training, "--overwrite_output_dir") == set(NAMES)
    assert private("--do_eval") == set(NAMES)
    assert private("--do_eval", "--no_text_in_results") == set()
    assert private(*training, "--overwrite_output_dir") == set(NAMES)
    assert private(*training, "--max_steps", "4", "--no_text_in_results") == set()


def test_without_text_in_results_a_preparation_shows_no_word(private, tmp_path):
    prepare = ("--prepare_only", "--prepared_dir", str(tmp_path / "prepared"))
    assert private(*prepare, "--no_text_in_results") == set()
    shutil.rmtree(tmp_path / "prepared")
    assert "☃" in private(*prepare)
