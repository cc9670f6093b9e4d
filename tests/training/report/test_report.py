"""report.html: its figures are those of the JSON files, its text is harmless, and a browser shows it well."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import run_mlm_wwm
from browser import CHROMIUM, Browser, Page
from conftest import refusal, sample_lines
from wordmask import __main__ as command
from wordmask.config.metric_table import METRICS
from wordmask.data.data_report import SplitReport
from wordmask.training.evaluation.probe_display import ProbeResults
from wordmask.training.report.charts import ticks

ROOT = Path(__file__).parents[3]
SECTIONS = ["run", "data", "curves", "result", "probe", "predictions", "cost"]
NASTY = "<script>alert('x')</script> & \"quoted\" \x1b[31mred\x1b[0m \u202e a|b `c`"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """Texts with what a page must not obey, and labelled examples."""
    folder = tmp_path_factory.mktemp("texts")
    lines = sample_lines("english", 60)
    (folder / "train & <b>.txt").write_text("\n".join([NASTY, *lines[:40], lines[0]]), encoding="utf-8")
    (folder / "dev.txt").write_text("\n".join([NASTY, *lines[40:56]]), encoding="utf-8")
    with open(folder / "labelled.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((line[:40], len(line) % 2) for line in lines)])
    return folder


@pytest.fixture(scope="module")
def command_line(texts, english_model):
    def command_line(out: Path, *more: str) -> list[str]:
        return [
            *("--model_name_or_path", english_model, "--train_file", str(texts / "train & <b>.txt")),
            *("--validation_file", str(texts / "dev.txt"), "--output_dir", str(out), "--use_cpu"),
            *"--max_steps 6 --eval_strategy steps --eval_steps 2 --save_steps 3 --logging_steps 1".split(),
            *"--learning_rate 0.03 --mlm_probability 0.3 --max_seq_length 48 --report_to none".split(),
            *more,
        ]

    return command_line


@pytest.fixture(scope="module")
def out(texts, command_line, tmp_path_factory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("runs") / "a 'run' <i>"
    run_mlm_wwm.main(command_line(out, "--probe_file", str(texts / "labelled.csv")))
    return out


@pytest.fixture(scope="module")
def page(out) -> Page:
    return Page(out / "report.html")


@pytest.fixture
def copy(out, tmp_path) -> Path:
    return Path(shutil.copytree(out, tmp_path / "copy"))


def rebuilt(directory: Path) -> Page:
    command.main(["report", str(directory)])
    return Page(directory / "report.html")


# Figures


def test_before_and_after_are_those_of_the_results(out, page):
    results = read_json(out / "all_results.json")
    compared = [metric for metric in METRICS.values() if metric.result in results]
    assert len(compared) == 7
    expected = [[results[f"{metric.result}_before"], results[metric.result]] for metric in compared]
    [caption] = [caption for caption in page.tables if caption.endswith("with the same masks")]
    assert page.figures(caption) == expected
    assert caption.startswith(f"On {results['eval_samples']} evaluation samples")


def test_curves_are_those_of_the_log_and_of_the_evaluations(out, page):
    evaluations = read_json(out / "wordmask_evaluations.json")["evaluations"]
    logged = [entry for entry in read_json(out / "trainer_state.json")["log_history"] if "loss" in entry]
    moments = read_json(out / "wordmask_speed.json")["moments"]
    assert len(logged) == 6 and len(evaluations) == 4
    loss = {entry["step"]: [entry["loss"]] for entry in logged}
    for one in evaluations:
        loss.setdefault(one["step"], []).append(one["metrics"]["loss"])
    assert page.figures("Loss by step") == [loss[step] for step in sorted(loss)]
    names = ("accuracy", "whole_word_accuracy")
    assert page.figures("Accuracy by step") == [[one["metrics"][name] for name in names] for one in evaluations]
    speeds = [
        [(now["tokens"] - before["tokens"]) / (now["seconds"] - before["seconds"])]
        for before, now in pairwise(moments)
        if now["seconds"] > before["seconds"]
    ]
    assert page.figures("Speed by step") == speeds
    baseline = read_json(out / "all_results.json")["probe_tfidf_f1"]
    probed = [
        [one["metrics"]["probe_f1"], baseline, one["metrics"]["probe_f1_low"], one["metrics"]["probe_f1_high"]]
        for one in evaluations
    ]
    assert page.figures("Probe by step") == probed


def test_cost_is_that_of_the_last_moment(out, page):
    last = read_json(out / "wordmask_speed.json")["moments"][-1]
    names = ("seconds", "evaluation_seconds", "step", "tokens")
    assert page.figures("What the training took") == [[last[name]] for name in names]


def test_the_data_report_is_that_of_its_file(out, page):
    data = read_json(out / "data_report.json")
    advice = data.pop("advice")
    assert advice and all(sentence in page.text for sentence in advice)
    assert '<span class="flag">--train_file</span>' in page.source, "no line ends inside a flag"
    for split in ("train", "validation"):
        report = SplitReport(**data[split])
        rows = [[label, re.sub("\x1b", r"\\x1b", value)] for label, value in report.rows()]
        assert (
            page.tables[f"Figures of the {split.replace('train', 'training')} text"] == rows
            and report.heading in page.text
        )
    words = data["train"]["split_words"]
    assert len(words) > 5
    assert page.figures("Words of the training text that cost the most tokens beyond one") == [
        [one["tokens"], one["count"]] for one in words
    ]


def test_the_probe_stands_beside_its_baselines(out, page):
    rows = ProbeResults(read_json(out / "all_results.json"), "").rows()
    assert len(rows) == 4
    shown = page.tables["Accuracy and macro-F1, with 95% intervals"][1:]
    assert shown == [[label, *figures] for label, figures in rows]
    assert "not fine-tuning" in page.text


def test_predictions_are_those_of_the_evaluations(out, page):
    evaluations = read_json(out / "wordmask_evaluations.json")["evaluations"]
    for number in range(5):
        [rows] = [rows for caption, rows in page.tables.items() if f"of line {number + 1}," in caption]
        assert rows[0] == ["masked word", "before training", "step 2", "step 4", "step 6"]
        versions = [one["predictions"][number]["words"] for one in evaluations]
        expected = [[word["predictions"][0]["probability"] for word in words] for words in zip(*versions, strict=True)]
        assert [[cell for cell in row if isinstance(cell, float)] for row in rows[1:]] == expected


def test_what_was_run_is_that_of_the_record(out, page, texts):
    record = read_json(out / "wordmask_run.json")
    shown = dict(page.tables["Arguments that differ from their defaults, of run_mlm_wwm.py"])
    assert {*shown} == {*record["changed_arguments"]}
    assert {"learning_rate", "max_steps", "probe_file", "masking_strategy"} - {*shown} == {"masking_strategy"}
    assert shown["learning_rate"] == "0.03" and shown["train_file"] == str(texts / "train & <b>.txt")
    assert dict(page.tables["Versions"]) == record["versions"]
    [digests] = [dict(rows) for caption, rows in page.tables.items() if caption.startswith("Digests")]
    assert [*digests.values()] == [record["identity"][name] for name in ("base_model", "tokenizer", "text")]
    assert len(page.tables["All arguments"]) == len(record["arguments"])


def test_a_flag_with_its_default_value_is_not_said_to_differ(command_line, tmp_path):
    run_mlm_wwm.main(command_line(tmp_path / "out", "--seed", "42", "--weight_decay", "0.5", "--max_steps", "1"))
    changed = read_json(tmp_path / "out" / "wordmask_run.json")["changed_arguments"]
    assert "weight_decay" in changed and "seed" not in changed


# A page for everybody


def test_text_from_outside_is_text(page):
    assert page.named("script") == [] and page.named("b") == [] and page.named("i") == []
    assert "a 'run' <i>" in page.text and "train & <b>.txt" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page.source)


def test_words_that_would_end_a_page_or_colour_a_terminal_are_shown(copy):
    for name in ("wordmask_evaluations.json", "wordmask_run.json", "data_report.json"):
        text = (copy / name).read_text(encoding="utf-8")
        changed = json.loads(text, object_hook=lambda one: {key: nasty(value) for key, value in one.items()})
        (copy / name).write_text(json.dumps(changed), encoding="utf-8")
    page = rebuilt(copy)
    assert page.named("script") == [] and page.text.count(r"\x1b[31mred") > 50
    assert "\x1b" not in page.source and "\u202e" not in page.source


def nasty(value):
    """A value whose texts hold what must not be obeyed; names and digests that decide what is shown stay."""
    kept = isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16,}|", value)
    return f"{value}</td></table>{NASTY}\ud800" if isinstance(value, str) and not kept else value


def test_a_page_needs_no_network_and_no_script(page):
    links = [value for _, found in page.tags for name, value in found.items() if name in ("href", "src", "xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in page.source and "@import" not in page.source
    assert not any(name.startswith("on") for _, found in page.tags for name in found)


def test_a_page_can_be_read_without_seeing_it(page):
    assert page.named("html") == [{"lang": "en"}] and [found["id"] for found in page.named("section")] == SECTIONS
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1 and levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len({*ids})
    named = [name for _, found in page.tags for name in found.get("aria-labelledby", "").split()]
    assert named and {*named} <= {*ids}
    assert {link["href"][1:] for link in page.named("a")} == {*SECTIONS}
    assert len(page.named("table")) == len(page.named("caption")) == len(page.tables)
    assert all(found["scope"] in ("row", "col") for found in page.named("th"))
    svgs = page.named("svg")
    assert len(svgs) == 8 and all(svg["role"] == "img" for svg in svgs)
    assert len(page.named("title")) == 9 and len(page.named("desc")) == 8
    assert {f"{name} by step" for name in ("Loss", "Accuracy", "Speed", "Probe")} <= {*page.tables}


@pytest.mark.parametrize("low, high", [(0, 1), (0.1, 0.9), (2.301, 9.992), (5, 5), (0, 0), (-3, 1e6), (1e-9, 2e-9)])
def test_axes_enclose_what_they_measure(low, high):
    found = ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12 and 2 <= len(found) <= 8
    assert len({f"{b - a:.6g}" for a, b in pairwise(found)}) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_all_of_it_on_a_phone_and_on_a_desktop(copy, tmp_path):
    text = (copy / "wordmask_run.json").read_text(encoding="utf-8")
    (copy / "wordmask_run.json").write_text(text.replace('"dev.txt', f'"{"long" * 60}'), encoding="utf-8")
    rebuilt(copy)
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            for dark in (False, True):
                browser.open(copy / "report.html", width, dark)
                browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
                assert browser.evaluate("innerWidth") == width
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
                seen = "[...document.querySelectorAll('section, svg')].map(one => one.getBoundingClientRect())"
                boxes = browser.evaluate(f"{seen}.map(box => [box.left, box.right, box.height])")
                assert len(boxes) == len(SECTIONS) + 8
                assert all(left >= 0 and right <= width and height > 40 for left, right, height in boxes)
                colour = browser.evaluate("getComputedStyle(document.body).backgroundColor")
                assert (colour == "rgb(255, 255, 255)") is not dark
        assert browser.errors == []


# When there is a page


def test_the_command_makes_the_page_that_the_run_made(out, capsys):
    before = (out / "report.html").read_bytes()
    command.main(["report", str(out)])
    assert capsys.readouterr().out == f"{out / 'report.html'}\n"
    assert (out / "report.html").read_bytes() == before


def test_a_run_says_where_its_report_is(command_line, tmp_path, capsys):
    run_mlm_wwm.main(command_line(tmp_path / "out", "--max_steps", "1"))
    assert capsys.readouterr().err.splitlines()[-1] == f"report: {tmp_path / 'out' / 'report.html'}"


def test_a_report_is_made_without_torch(copy):
    code = "import sys, wordmask.__main__ as main; main.main(['report', sys.argv[1]]); "
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'numba') if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code, str(copy)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines() == [str(copy / "report.html"), "[]"]


def test_the_command_has_help(capsys):
    command.main(["report", "--help"])
    assert "wordmask report DIR" in capsys.readouterr().out


def test_a_run_without_an_evaluation_shows_what_it_has(command_line, tmp_path):
    out = tmp_path / "out"
    run_mlm_wwm.main(command_line(out, "--do_train", "--eval_strategy", "no"))
    page = Page(out / "report.html")
    assert [found["id"] for found in page.named("section")] == ["run", "data", "curves", "cost"]
    run_mlm_wwm.main(command_line(tmp_path / "evaluated", "--do_eval", "--eval_strategy", "no"))
    page = Page(tmp_path / "evaluated" / "report.html")
    assert [found["id"] for found in page.named("section")] == ["run", "data", "result", "predictions"]
    assert "before training" not in page.text


def test_an_interrupted_or_older_run_has_a_report_of_the_files_that_are_there(copy):
    for name in ("all_results.json", "eval_results.json", "train_results.json", "trainer_state.json"):
        (copy / name).unlink()
    page = rebuilt(copy)
    assert [found["id"] for found in page.named("section")] == ["run", "data", "curves", "predictions", "cost"]
    assert len(page.figures("Loss by step")) == 7, "those of the last checkpoint"
    for name in ("wordmask_speed.json", "data_report.json"):
        (copy / name).unlink()
    record = read_json(copy / "wordmask_run.json")
    kept = {name: record[name] for name in ("script", "arguments")}
    (copy / "wordmask_run.json").write_text(json.dumps(kept), encoding="utf-8")
    page = rebuilt(copy)
    assert [found["id"] for found in page.named("section")] == ["run", "curves", "predictions"]
    assert "Speed by step" not in page.tables


def test_figures_that_only_another_version_knows_are_left_out(copy):
    data = read_json(copy / "data_report.json")
    data["train"]["characters_per_token"] = 4.2
    (copy / "data_report.json").write_text(json.dumps(data), encoding="utf-8")
    assert "data" in [found["id"] for found in rebuilt(copy).named("section")]


@pytest.mark.parametrize("name", ["data_report.json", "wordmask_evaluations.json", "wordmask_speed.json"])
def test_a_damaged_file_is_left_out_with_a_sentence(name, copy, caplog, monkeypatch):
    monkeypatch.setattr("wordmask.training.report.html_report.use", lambda mode: None)
    (copy / name).write_text('{"half', encoding="utf-8")
    assert rebuilt(copy).tables["Versions"]
    assert f"{copy / name} cannot be read" in caplog.text


def test_files_that_make_no_report_are_a_sentence(copy, capsys):
    (copy / "data_report.json").write_text('{"train": {"words": 3}}', encoding="utf-8")
    assert f"the files in {copy} make no report" in refusal(capsys, command.main, "report", str(copy))


def test_a_page_of_somebody_else_is_kept_and_the_run_ends_well(command_line, tmp_path, caplog, capsys):
    out = tmp_path / "out"
    run_mlm_wwm.main(command_line(out, "--max_steps", "1"))
    (out / "report.html").write_text("mine")
    assert "report.html was not made by wordmask" in refusal(capsys, command.main, "report", str(out))
    metrics = run_mlm_wwm.main(command_line(out, "--max_steps", "1", "--overwrite_output_dir"))
    assert metrics["train_loss"] > 0 and (out / "report.html").read_text() == "mine"
    assert "was not made by wordmask, so it is kept" in caplog.text and "Traceback" not in caplog.text


def test_an_error_in_the_report_is_a_warning(command_line, tmp_path, caplog, monkeypatch):
    def fail(directory):
        raise KeyError("anything")

    monkeypatch.setattr("wordmask.training.tasks.write_report", fail)
    monkeypatch.setattr("wordmask.training.trainer.mlm_trainer.write_card", fail)
    assert run_mlm_wwm.main(command_line(tmp_path / "out", "--max_steps", "1"))["train_loss"] > 0
    assert "the report of" in caplog.text and "the model card was not written ('anything')" in caplog.text
