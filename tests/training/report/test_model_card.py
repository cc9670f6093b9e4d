"""The model card: its figures are those of the JSON files, its text is harmless, and its code loads the model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

import run_chinese_ref
import run_mlm_wwm
from conftest import sample_lines
from wordmask.config.metric_table import METRICS
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.data.text_counts import letters_in
from wordmask.training.records.run_record import SETTINGS
from wordmask.training.report.model_card import code, escaped, languages, write_card
from wordmask.utils.quantities import loss

NASTY = "a|b `c` <script>x</script> [d](javascript:e) *f* \x1b[31m \u202e ---\n# g: {h} & $i$ \\"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def command(model: str, text: str, out: Path, *more: str) -> list[str]:
    return [
        *("--model_name_or_path", model, "--train_file", text, "--output_dir", str(out), "--report_to", "none"),
        *"--use_cpu --max_steps 4 --max_seq_length 32 --learning_rate 0.03 --logging_steps 1".split(),
        *more,
    ]


@pytest.fixture(scope="module")
def out(english_model, tmp_path_factory) -> Path:
    """A finished run with an evaluation."""
    folder = tmp_path_factory.mktemp("cards")
    (folder / "train.txt").write_text("\n".join(sample_lines("english", 60)), encoding="utf-8")
    run_mlm_wwm.main(command(english_model, str(folder / "train.txt"), folder / "my-model"))
    return folder / "my-model"


def tables(card: Path | str) -> list[list[list[str]]]:
    """The cells of each table of a card, as a reader of GitHub or of the hub sees them."""
    text = card if isinstance(card, str) else card.read_text(encoding="utf-8")
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text.split("\n---\n", 1)[1]):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level > 3:
            parts = token.children or []
            found[-1][-1].append("".join(part.content for part in parts if part.type != "html_inline"))
    return found


def rows(card: Path | str) -> dict[str, list[str]]:
    """All rows of all tables, by their first cell."""
    return {row[0]: row[1:] for table in tables(card) for row in table if row}


def test_figures_are_those_of_the_json_files(out):
    shown, record = rows(out / "README.md"), read_json(out / "wordmask_run.json")
    results = read_json(out / "all_results.json")
    compared = [metric for metric in METRICS.values() if metric.result in results]
    assert len(compared) == 5
    for metric in compared:
        values = [results[f"{metric.result}_before"], results[metric.result]]
        assert shown[metric.label] == [metric.shown(value) for value in values]
    assert shown["mean training loss"] == [loss(results["train_loss"])]
    assert shown["training samples"] == [str(results["train_samples"])]
    assert shown["evaluation samples"] == [str(results["eval_samples"])]
    assert shown["vocabulary"] == [f"{read_json(out / 'config.json')['vocab_size']:,} tokens"]
    moment = read_json(out / "wordmask_speed.json")["moments"][-1]
    assert f"{moment['tokens']:,} tokens without padding" in shown["training took, without evaluations"][0]
    given, of_segmenter = record["arguments"], {flag.name for flag in fields(SegmentationArguments)}
    names = {name for name in SETTINGS if name in given and name not in of_segmenter}
    assert {name: shown[name] for name in names} == {name: [str(given[name])] for name in names}
    assert "hmm" in given and not of_segmenter & {*shown}, "no segmenter found these words"
    assert {"learning_rate", "adam_beta2", "mask_replace_prob", "per_device_train_batch_size"} < {*shown}
    text = (out / "README.md").read_text(encoding="utf-8")
    assert all(f"{name} {version}" in text for name, version in record["versions"].items())
    assert shown["masking"] == [record["described"]["masking"]] and shown["sequence length"] == ["up to 32 tokens"]


def test_the_curve_stands_beside_the_card(out):
    [picture] = re.findall(r"!\[.*?\]\((.*?)\)", (out / "README.md").read_text(encoding="utf-8"))
    svg = (out / picture).read_text(encoding="utf-8")
    assert svg.startswith("<svg xmlns=") and svg.count("<circle") == 4, "a point for each log"


def test_the_hub_can_read_the_front_matter(out):
    data = ModelCard.load(out / "README.md").data
    assert (data.pipeline_tag, data.library_name) == ("fill-mask", "transformers")
    assert {*data.tags} == {"masked-lm", "whole_word"}
    assert data.base_model is None and data.language is None, "a directory, and Latin letters of any language"


def test_each_way_to_load_the_model_is_three_lines_that_work(out, monkeypatch, capsys):
    monkeypatch.chdir(out.parent)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == 2 and all(snippet.count("\n") == 3 for snippet in found)
    pytest.importorskip("sentence_transformers")
    for snippet in found:
        names: dict = {}
        exec(compile(snippet, "README.md", "exec"), names)
        assert len(names["embeddings"]) == 2 if "embeddings" in names else "score" in capsys.readouterr().out


def test_a_finished_run_that_is_started_again_keeps_its_card_and_its_curve(out, english_model):
    before = {name: (out / name).read_bytes() for name in ("README.md", "loss.svg", "wordmask_speed.json")}
    run_mlm_wwm.main(command(english_model, str(out.parent / "train.txt"), out))
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_resumed_run_tells_the_time_and_the_tokens_of_both_parts(out, english_model, tmp_path):
    argv = command(english_model, str(out.parent / "train.txt"), tmp_path / "out", "--save_steps", "2")
    run_mlm_wwm.main(argv)
    whole = read_json(tmp_path / "out" / "wordmask_speed.json")["moments"]
    assert [moment["step"] for moment in whole] == [0, 1, 2, 3, 4]
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")
    run_mlm_wwm.main(argv)
    resumed = read_json(tmp_path / "out" / "wordmask_speed.json")["moments"]
    assert resumed[:3] == whole[:3]
    assert [moment["tokens"] for moment in resumed] == [moment["tokens"] for moment in whole]
    seconds = [moment["seconds"] for moment in resumed]
    assert seconds == sorted(seconds) and seconds[-1] > seconds[2]


@pytest.mark.parametrize("name", ["model_name_or_path", "dataset_name", "train_file", "segmenter", "optim"])
def test_what_markdown_obeys_is_text_in_a_card(name, out, tmp_path):
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    record = read_json(copy / "wordmask_run.json")
    record["arguments"][name] = NASTY
    record["described"]["text"] = NASTY
    (copy / "wordmask_run.json").write_text(json.dumps(record), encoding="utf-8")
    write_card(copy)
    text = (copy / "README.md").read_text(encoding="utf-8")
    assert "\x1b" not in text and "\u202e" not in text and "<script" not in text
    assert [line for line in text.splitlines() if line.startswith("# ")] == ["# copy"]
    front = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert {*front} <= {"library_name", "pipeline_tag", "tags", "base_model", "datasets"}
    for table in tables(text):
        assert len({len(row) for row in table}) == 1, "a text has split a row"
    shown = NASTY.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e").replace("\n", r"\n")
    assert rows(text)["text"] == [shown]
    html = MarkdownIt("commonmark").enable("table").render(text.split("\n---\n", 1)[1])
    assert "<script" not in html and 'href="javascript:' not in html and "<em>" not in html


def test_what_is_plain_stays_readable():
    assert escaped("up to 64 tokens: 80% become [MASK]") == "up to 64 tokens: 80% become [MASK]"
    assert code("bert-base_uncased") == "`bert-base_uncased`" and code("/data/mine/train.txt") == "`train.txt`"
    assert code(["a.txt", "/b/c.txt"]) == "`a.txt c.txt`" and code(0.1) == "`0.1`"
    assert code("hidden_size=64,ratio=1/2") == "`hidden_size=64,ratio=1/2`"


def test_a_setting_shows_no_directory_either():
    for value in ("dictionary=/home/me/acme/words,mode=C", ["dictionary=/home/me/acme/words,mode=C"]):
        assert code(value) == "`dictionary=words,mode=C`"
    assert code("dictionary=/home/me/my words/,mode=C") == "`dictionary=my words,mode=C`"
    assert code("dictionary=~/acme/words") == "`dictionary=words`"
    assert code("https://a.b/c=d") == "`https://a.b/c=d`" and code("hidden_size=64") == "`hidden_size=64`"


@pytest.mark.parametrize(
    "texts, expected",
    [
        (["the", "und"], []),
        (["研究 bert"], ["zh"]),
        (["研究する"], ["ja"]),
        (["カレー"], ["ja"]),
        (["ｶﾚｰ", "ＡＢＣ"], ["ja"]),
        (["研究する", "研究生命"], ["ja", "zh"]),
        (["연구"], ["ko"]),
        (["การ", "研究", "研究する"], ["ja", "th", "zh"]),
        ([], []),
        (["the", "of", "and the", "研"], []),
        ([*["the"] * 60, *["การ"] * 40], ["th"]),  # in any order of files
    ],
)
def test_a_language_is_named_only_where_the_script_tells_it(texts, expected):
    letters = letters_in(texts)
    assert languages({script: count / letters.total() for script, count in letters.items()}) == expected


def test_a_chinese_run_says_so(chinese_model, chinese_file, tmp_path):
    more = ["--segmenter", "whitespace", "--validation_file", chinese_file]
    run_mlm_wwm.main(command(chinese_model, chinese_file, tmp_path / "out", *more))
    assert ModelCard.load(tmp_path / "out" / "README.md").data.language == ["zh"]
    shown = rows(tmp_path / "out" / "README.md")
    assert shown["scripts of the text"][0].startswith("Chinese characters ")
    assert "words from whitespace" in shown["masking"][0]


def test_a_run_says_where_its_words_come_from(chinese_model, chinese_file, tmp_path):
    """Also where a table holds the references, and where the text was prepared."""
    table = str(tmp_path / "words.jsonl")
    of_text = ["--segmenter", "whitespace", "--bert", chinese_model]
    run_chinese_ref.main(["--file_name", chinese_file, "--save_path", table, *of_text])
    classic = tmp_path / "classic.ref"
    classic.write_text("[]\n" * 40)
    flags = ["--segmenter", "whitespace", "--prepare_only", "--prepared_dir", str(tmp_path / "prepared")]
    model = ["--model_name_or_path", chinese_model, "--use_cpu"]
    run_mlm_wwm.main([*model, "--train_file", chinese_file, *flags])
    texts = {
        "whitespace": ["--train_file", table],
        "whitespace ": ["--prepared_dir", str(tmp_path / "prepared")],
        "a reference file": ["--train_file", chinese_file, "--train_ref_file", str(classic)],
        "the text": ["--train_file", chinese_file],
    }
    for source, text in texts.items():
        preview = tmp_path / "preview.html"
        run_mlm_wwm.main([*model, *text, "--preview_masking", "1", "--preview_file", str(preview)])
        assert f"(words from {source.strip()})" in preview.read_text(encoding="utf-8")
        preview.unlink()


def test_a_card_on_the_hub_loads_what_is_there(out, tmp_path):
    """The directory may have the name of another model, such as the one that was continued."""
    copy = Path(shutil.copytree(out, tmp_path / "bert-base-uncased"))
    record = json.loads((copy / "wordmask_run.json").read_text(encoding="utf-8"))
    record["arguments"]["hub_model_id"] = "me/mine"
    (copy / "wordmask_run.json").write_text(json.dumps(record), encoding="utf-8")
    write_card(copy)
    text = (copy / "README.md").read_text(encoding="utf-8")
    assert 'pipeline("fill-mask", "me/mine")' in text and 'SentenceTransformer("me/mine")' in text


def test_a_card_without_a_record_says_what_is_known(tmp_path):
    """`MlmTrainer` in a program of its own writes no record."""
    write_card(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "trained with wordmask." in text and "None" not in text and "|" not in text and text.count("## ") == 1
    assert ModelCard.load(tmp_path / "README.md").data.pipeline_tag == "fill-mask"


def test_a_card_that_a_person_has_made_hers_is_kept(out, english_model, tmp_path, caplog):
    copy = Path(shutil.copytree(out, tmp_path / "copy"))
    (copy / "README.md").write_text("mine")
    run_mlm_wwm.main(command(english_model, str(out.parent / "train.txt"), copy))
    assert (copy / "README.md").read_text() == "mine" and "README.md was not made by wordmask" in caplog.text
