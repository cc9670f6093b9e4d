"""--preview_masking shows what training masks, and stops."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import run_mlm
import run_mlm_wwm
from browser import CHROMIUM, Browser, Page
from conftest import character_tokenizer, refusal, save_model
from wordmask.masking import Strategy
from wordmask.training.header import _UNITS
from wordmask.training.preview import MaskedExample, Piece, write_examples

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def flags(english_model, english_file, tmp_path) -> list[str]:
    flags = ["--model_name_or_path", english_model, "--train_file", english_file, "--use_cpu"]
    return [*flags, "--output_dir", str(tmp_path / "out"), "--mlm_probability", "0.3", "--preview_masking", "20"]


@pytest.mark.parametrize("script", [run_mlm, run_mlm_wwm])
def test_preview_prints_examples_and_trains_nothing(script, english_model, english_file, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(output)]
    assert script.main([*arguments, "--use_cpu", "--preview_masking", "3"]) == {}
    shown = capsys.readouterr().out
    examples = re.findall(r"^(\d+)\. (\d+) of (\d+) tokens \((.+?)%\)", shown, flags=re.M)
    assert [number for number, *_ in examples] == ["1", "2", "3"]
    for _, chosen, tokens, share in examples:
        assert float(share) == pytest.approx(100 * int(chosen) / int(tokens), abs=0.06)
    assert "\x1b" not in shown  # not a terminal, so no colours
    assert not output.exists()


def test_preview_marks_every_chosen_token(english_model, english_file, tmp_path, capsys):
    run_mlm_wwm.main(
        ["--model_name_or_path", english_model, "--train_file", english_file, "--output_dir", str(tmp_path / "out")]
        + ["--use_cpu", "--preview_masking", "20", "--mlm_probability", "0.3"]
    )
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == 20
    for line in lines:
        head, _, text = line.partition(": ")
        chosen = int(head.split()[1])
        marks = re.findall(r"\[(?!CLS|SEP)[^\[\]]+\]|\{[^{}]+>[^{}]+\}|<[^<>]+>", text)
        assert len(marks) == chosen


def test_the_header_has_words_for_each_strategy():
    assert _UNITS.keys() == {*Strategy}


@pytest.mark.slow
@pytest.mark.parametrize("variable, coloured", [("FORCE_COLOR", True), ("NO_COLOR", False)])
def test_preview_honours_the_terminal(variable, coloured, english_model, english_file, tmp_path):
    environment = {**os.environ, "FORCE_COLOR": "1", variable: "1", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, str(ROOT / "run_mlm_wwm.py"), "--model_name_or_path", english_model, "--use_cpu"]
        + ["--train_file", english_file, "--output_dir", str(tmp_path / "out"), "--preview_masking", "1"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert ("\x1b[1;31m" in shown) == coloured


def test_a_bracket_of_the_text_does_not_look_like_a_mask(tmp_path, capsys):
    save_model(tmp_path / "model", character_tokenizer(["ab[]{}<>"]))
    (tmp_path / "train.txt").write_text("a [ b ] { a } < b > z\n" * 20, encoding="utf-8")
    flags = ["--model_name_or_path", str(tmp_path / "model"), "--train_file", str(tmp_path / "train.txt"), "--use_cpu"]
    flags += ["--output_dir", str(tmp_path / "out"), "--mlm_probability", "0.4", "--preview_masking", "20"]
    run_mlm_wwm.main(flags)
    legend, *lines = capsys.readouterr().out.splitlines()
    assert legend.endswith(r"<kept>   \[ a bracket of the text")
    seen = set()
    for line in lines:
        cls, *tokens, sep = line.partition(": ")[2].split(" ")
        assert (cls, sep) == ("[CLS]", "[SEP]")
        for text, token in zip(r"a \[ b \] \{ a \} \< b \> [UNK]".split(), tokens, strict=True):
            seen.add(token)
            assert token in (text, f"[{text}]", f"<{text}>") or re.fullmatch(rf"{{{re.escape(text)}>.+}}", token)
    assert {r"\[", r"[\[]", r"<\[>"} < seen, "each kind was there"


def test_an_example_names_the_rate_and_the_strategy_that_it_drew(flags, tmp_path, capsys):
    def examples(*more: str) -> list[tuple[str, str]]:
        run_mlm_wwm.main([*flags, "--mlm_probability", "0.1..0.9", *more])
        lines = [line.partition(": ") for line in capsys.readouterr().out.splitlines()[1:]]
        return [(head, text) for head, _, text in lines]

    alone = {one: dict(examples("--masking_strategy", one)) for one in ("token", "whole_word")}
    mixed, drawn = examples("--masking_strategy", "token:0.5,whole_word:0.5"), set()
    for head, text in mixed:
        alike, _, strategy = head.partition(", strategy ")
        drawn.add(strategy)
        assert alone[strategy][alike] == text
        share, rate = map(float, re.fullmatch(r".* tokens \((.+)%\), rate (.+)%", alike).groups())
        assert 10 <= rate <= 90 and share == pytest.approx(rate, abs=25)
    assert drawn == {*alone}, "both were drawn"
    mix = ["--mlm_probability", "0.1..0.9", "--masking_strategy", "token:0.5,whole_word:0.5"]
    run_mlm_wwm.main([*flags, *mix, "--preview_file", str(tmp_path / "masks.html")])
    text = Page(tmp_path / "masks.html").text
    assert all(head.partition(". ")[2].replace("%),", "%) masked,") in text for head, _ in mixed)


# --preview_file


def test_the_page_shows_what_the_terminal_shows(flags, tmp_path, capsys):
    run_mlm_wwm.main(flags)
    printed = [line for line in capsys.readouterr().out.splitlines() if re.match(r"\d+\. ", line)]
    run_mlm_wwm.main([*flags, "--preview_file", str(tmp_path / "new" / "masks.html")])
    captured = capsys.readouterr()
    assert captured.out == "" and f"preview: {tmp_path / 'new' / 'masks.html'}" in captured.err
    page = Page(tmp_path / "new" / "masks.html")
    shown = [line for line in page.text.split("\n") if line.startswith("[CLS]")]
    assert len(printed) == 20 and shown == [line.partition(": ")[2] for line in printed]
    assert all(line.partition(": ")[0].partition(". ")[2] in page.text for line in printed)
    kinds = [found["class"] for found in page.named("span")][3:]  # three are the legend
    joined = " ".join(shown)
    assert kinds.count("masked") == len(re.findall(r"\[(?!CLS|SEP)[^\[\]]+\]", joined)) > 20
    assert {*kinds} == {"masked", "random", "kept", "special"} and not (tmp_path / "out").exists()


def test_a_page_of_tokens_with_tags_has_none_of_them(tmp_path):
    pieces = [Piece("<script>", "</div>\x1b[31m", kind, " ") for kind in ("masked", "random", "kept", "", "special")]
    write_examples([MaskedExample(pieces, 5, 3)], str(tmp_path / "masks.HTML"), "<b> & 'quoted'")
    page = Page(tmp_path / "masks.HTML")
    assert page.named("script") == page.named("b") == [] and "<b> & 'quoted'" in page.text
    expected = r"[<script>] {<script>></div>\x1b[31m} <<script>> <script> <script>"
    assert expected in page.text and "\x1b" not in page.source


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_page_of_a_preview(flags, english_file, tmp_path):
    Path(english_file).write_text("a" * 400 + " and more words\n" + Path(english_file).read_text())
    run_mlm_wwm.main([*flags, "--preview_file", str(tmp_path / "masks.html")])
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.open(tmp_path / "masks.html", width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            assert browser.evaluate("document.querySelectorAll('ol li').length") == 20
        assert browser.errors == []


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("there.html", "--preview_file: there.html exists already; give another name, or remove it"),
        ("folder.html", "--preview_file: folder.html exists already; give another name, or remove it"),
        ("x.txt", "--preview_file: x.txt does not end in .html; give a name for a page, such as masks.html"),
        ("there.html/x.html", "--preview_file: there.html/x.html cannot be written (File exists); give another"),
    ],
)
def test_a_page_that_cannot_be_written_is_a_sentence(name, sentence, flags, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    assert refusal(capsys, run_mlm_wwm.main, *flags, "--preview_file", name) == sentence
    assert (tmp_path / "there.html").read_text() == "mine"
