"""The benchmarks run, at sizes of seconds; nothing here judges a time."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import datasets
import pytest
import torch
import transformers

from conftest import SAMPLES, character_tokenizer, sample_lines, sample_tokenizer

ROOT = Path(__file__).parent.parent
PROGRAMS = ("masking", "prepare", "chinese_ref", "neural", "train")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def program(monkeypatch):
    """A benchmark by name, which runs its sides in this process, once each: to start one takes seconds."""

    def load(name: str) -> ModuleType:
        module = importlib.import_module(name)
        if hasattr(module, "run_in_turn"):
            monkeypatch.setattr(
                module, "run_in_turn", lambda sides, repeats: {side: run() for side, run in sides.items()}
            )
        monkeypatch.setattr(module, "use_one_core", lambda: None, raising=False)
        return module

    verbosity = transformers.logging.get_verbosity()
    yield load
    transformers.logging.set_verbosity(verbosity)
    datasets.enable_progress_bars()


def test_masking_prints_every_side(tmp_path, capsys):
    import masking

    sample_tokenizer("bert").save_pretrained(tmp_path)
    results = masking.main(
        ["--tokenizer", str(tmp_path), "--text", str(SAMPLES / "english.txt"), "--repeats", "1", "--shapes", "32x4"]
    )
    assert set(results[0]) == {
        "token",
        "whole word",
        "whole word, any loop",
        "ngram",
        "span",
        "v5 token",
        "v5 whole word",
        "classic whole word",
    }
    assert all(figures["ms"] > 0 for figures in results[0].values())
    printed = capsys.readouterr().out
    assert printed.count("32 × 4") == 2 and "ms per batch" in printed and "MB that a batch adds" in printed


def test_exactness_is_judged_by_the_tokenizers_own_offsets(tmp_path, capsys):
    import chinese_ref

    gold = ["研究生 研究 生命 的 起源", "我 喜欢 你"]
    (tmp_path / "gold.txt").write_text("\n".join(gold))
    tokenizer = character_tokenizer(["".join(gold), *sample_lines("chinese", 5)])
    results = chinese_ref.print_exactness(str(tmp_path / "gold.txt"), tokenizer)
    assert results == {"classic": (1, 3), "ours": (2, 5)}
    assert "2 of 2" in capsys.readouterr().out


@pytest.mark.slow
def test_prepare_prints_both_sides_with_the_tokens_that_the_classic_one_loses(program, english_model, capsys):
    prepare = program("prepare")
    results = prepare.main(["--tokenizer", english_model, "--text", str(SAMPLES / "english.txt"), "--times", "7"])
    classic, ours = results["classic example"], results["ours"]
    assert list(results) == ["classic example", "ours", "data report"]
    assert results["data report"]["counted"] == 1988, "all of a short text"
    assert ours["kept"] == ours["tokens"] == classic["tokens"] > 20_000
    assert 0 < classic["tokens"] - classic["kept"] < 2 * 128  # of a first thousand lines and of a second, shorter one
    assert 0 < 5 * ours["MB on disk"] < classic["MB on disk"]
    printed = capsys.readouterr().out
    assert "classic" in printed and "0.00%" in printed and "MB on" in printed
    assert re.search(r"^data report of 1,988 examples: .* s with it, .* s without it, .*% more$", printed, re.M)


@pytest.mark.parametrize("figure", ["tokens", "text", "first"])
def test_prepare_refuses_to_compare_different_tokens(figure):
    import prepare

    same = {"tokens": 2.0, "text": 3.0, "first": 4.0}
    prepare.check_tokens({"one": same, "other": dict(same)})
    with pytest.raises(RuntimeError, match="different tokens"):
        prepare.check_tokens({"one": same, "other": same | {figure: 5.0}})


def test_the_classic_example_joins_a_thousand_lines_and_cuts_them(english_model, tmp_path):
    from peers import classic_preparation

    (tmp_path / "text.txt").write_text("a b c\n" * 1500)
    tokenizer = transformers.AutoTokenizer.from_pretrained(english_model)
    lines, blocks = classic_preparation(str(tmp_path / "text.txt"), tokenizer, 32, str(tmp_path), None)
    row = tokenizer("a b c")["input_ids"]
    assert lines["input_ids"][:] == [row] * 1500
    assert set(blocks.column_names) == {"input_ids", "token_type_ids", "special_tokens_mask", "attention_mask"}
    assert len(blocks) == len(row) * 1000 // 32 + len(row) * 500 // 32
    assert blocks["input_ids"][1] == (row * 32)[32:64]


@pytest.mark.slow
def test_chinese_ref_compares_with_jieba_where_no_ltp_model_is_given(program, capsys):
    results = program("chinese_ref").main(["--lines", "60", "--repeats", "1"])
    ours = ["ours, jieba", "ours, jieba, 2 workers", "ours, jieba, 2 runs", "ours, jieba without HMM"]
    assert list(results) == ["classic, jieba", *ours]
    assert results["classic, jieba"].keys() <= results["ours, jieba"].keys()
    assert len({figures["digest"] for figures in results.values()}) == 1
    printed = capsys.readouterr().out
    assert "60 lines" in printed and "segmenter alone" in printed and "reading the references" in printed


def test_chinese_ref_refuses_to_compare_different_lines(program, monkeypatch):
    chinese_ref = program("chinese_ref")
    monkeypatch.setattr(chinese_ref, "run_classic", lambda *settings: {"digest": 1.0})
    for ours in ("run_ours", "run_two"):
        monkeypatch.setattr(chinese_ref, ours, lambda *settings: {"digest": 2.0})
    with pytest.raises(RuntimeError, match="different lines"):
        chinese_ref.main(["--lines", "5"])


def test_neural_reads_a_model_with_random_weights_as_both_do(program, chinese_model, capsys):
    pytest.importorskip("ltp")
    results = program("neural").main(["--tokenizer", chinese_model, "--lines", "30", "--layers", "1"])
    assert list(results) == ["classic", "ours"] and all(found["seconds"] > 0 for found in results.values())
    printed = " ".join(capsys.readouterr().out.split())
    assert "30 lines" in printed
    same = int(re.search(r"the same words in (\d+) of 30 lines", printed)[1])
    assert same >= 29, "rounding"


@pytest.mark.slow
def test_all_sides_of_train_see_the_same_lines_and_reach_the_same_loss(program, english_model, capsys):
    train = program("train")
    size = "--layers 1 --hidden 16 --heads 2 --length 64 --batch 8 --steps 4"
    results = train.main(["--tokenizer", english_model, *size.split()])
    assert list(results) == list(train.SIDES)
    assert len({figures["lines"] for figures in results.values()}) == 1
    losses = [figures["loss"] for figures in results.values()]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=0.01)
    assert all(math.isfinite(figures["speed"]) and figures["speed"] > 0 for figures in results.values())
    printed = capsys.readouterr().out
    assert "MFU" in printed and "MB added" in printed and "packed" in printed
    assert "from the first one's: none" in " ".join(printed.split())


def test_train_evaluates_on_lines_that_it_does_not_train_on(program, tmp_path):
    train, text = program("train"), tmp_path / "text.txt"
    text.write_text("".join(f"line {number}\n" for number in range(230)), encoding="utf-8")
    options = SimpleNamespace(text=str(text), steps=5, batch=8)
    trained, evaluated = (Path(path).read_text().splitlines() for path in train.write_lines(options, tmp_path))
    assert (len(trained), len({*trained}), len(evaluated)) == (40, 30, 200) and not {*trained} & {*evaluated}


@pytest.mark.slow
def test_train_tells_lines_apart_and_losses_that_are_not_the_same(program, monkeypatch, capsys):
    train = program("train")

    def counted(*lines: list[int]) -> float:
        batch = {"input_ids": torch.tensor([[2, *line, 3] for line in lines])}
        batch |= {"attention_mask": torch.ones_like(batch["input_ids"]), "labels": batch["input_ids"].clone()}
        batch["labels"][:, 1], batch["input_ids"][:, 2] = -100, 4  # one is not predicted, another one is masked
        collator = train.Counted(lambda rows: batch)
        collator(lines)
        return float(collator.lines)

    assert counted([7, 8, 9], [5, 6, 7]) == counted([5, 6, 7], [7, 8, 9])
    assert counted([7, 8, 9], [5, 6, 7]) == (counted([7, 8, 9]) + counted([5, 6, 7])) % 2**48  # in two batches
    assert len({counted([7, 8, 9]), counted([7, 9, 9]), counted([7, 8, 9], [7, 8, 9]), counted([8, 8, 9])}) == 4

    same = {"speed": 1.0, "padding": 0.0, "memory": 1.0, "operations": 0.0, "loss": 5.0, "lines": 1.0}
    sides = {"plain Trainer": same, "ours, random": same | {"loss": 5.04}, "ours, packed": same | {"loss": 5.06}}
    monkeypatch.setattr(train, "SIDES", {name: lambda options, found=found: found for name, found in sides.items()})
    train.main(["--sides", *sides])
    assert "from the first one's: ours, packed" in " ".join(capsys.readouterr().out.split())
    sides["ours, random"]["lines"] = 2.0
    with pytest.raises(RuntimeError, match="different lines"):
        train.main(["--sides", *sides])


def test_sides_run_in_processes_of_their_own_and_give_medians_or_their_error():
    from sides import run_in_turn

    assert run_in_turn({"one": partial(dict, a=1.0), "other": partial(dict, a=2.0)}, 1) == {
        "one": {"a": 1.0},
        "other": {"a": 2.0},
    }
    with pytest.raises(ValueError, match="x"):
        run_in_turn({"one": partial(float, "x")}, 1)


def test_memory_is_that_since_the_peak_was_forgotten():
    from sides import forget_peak, peak_megabytes

    bytearray(b"x") * 300 * 2**20  # a peak that is over
    before = forget_peak()
    assert peak_megabytes() - before < 100
    held = bytearray(b"x") * 200 * 2**20
    assert peak_megabytes() - before > 150
    del held


def test_gold_words_are_right_at_every_border_and_wrong_words_are_noticed(program, tmp_path, monkeypatch):
    words = program("words")
    gold = words.sample("thai")
    (tmp_path / "gold.txt").write_text("\n".join(map(" ".join, gold)) + "\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("\n".join(map("".join, gold)) + "\n", encoding="utf-8")
    right = words.count_borders(tmp_path, "characters", 0)
    assert right.on_the_spot == right.by_references == right.borders > 40 and (right.spanning, right.others) == (
        0,
        set(),
    )
    monkeypatch.setattr(words.Gold, "segment", lambda self, lines: [[line] for line in lines])
    (tmp_path / "characters.ref").unlink(), (tmp_path / "characters.ref.meta.json").unlink()
    wrong = words.count_borders(tmp_path, "characters", 0)
    borders_of_gold = sum(len(line) - 1 for line in gold)
    assert wrong.on_the_spot == wrong.by_references == right.borders - borders_of_gold
    assert "ชอบ" in wrong.others


def test_words_of_a_segmenter_are_counted_where_they_are_those_of_the_gold(program):
    words = program("words")

    class Pairs(words.Segmenter):
        def segment(self, lines):
            return [["中国", "人 民"] for line in lines]

    assert words.score(Pairs(), [["中国", "人民"]], 1)[0] == 1
    assert words.score(Pairs(), [["中国", "人", "民"]], 1)[0] == 2 * 1 / (2 + 3)
    assert words.spans(["a", "", "bc"]) == {(0, 1), (1, 3)}


@pytest.mark.slow
def test_words_prints_both_tables_for_each_language(program, capsys):
    borders, scores = program("words").main(["--repeats", "1"])
    assert len(borders) == 3 * 4 and all(found.on_the_spot == found.borders for found in borders.values())
    assert {language for language, _ in scores} >= {"chinese", "japanese", "thai"}
    assert all(0.5 < f1 <= 1 for f1 in scores.values())
    printed = capsys.readouterr().out
    assert "by references" in printed and "lines/s" in printed and "disagrees" not in printed


@pytest.mark.slow
def test_chinese_ref_runs_other_segmenters_on_the_same_lines(program):
    pytest.importorskip("sudachipy")
    only = ["ours, jieba", "ours, sudachi"]
    results = program("chinese_ref").main(["--lines", "20", "--segmenters", "sudachi", "--only", *only])
    assert list(results) == only and all(found["total"] > 0 for found in results.values())


def test_make_bench_gives_every_program_flags_that_it_has(monkeypatch):
    command = ["make", "-n", "bench", "TOKENIZER=t", "TEXT=x", "CHINESE_TOKENIZER=c", "CHINESE_TEXT=y", "LTP=l"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    calls = [shlex.split(line)[1:] for line in shown.splitlines() if "benchmarks/" in line]
    assert [script for script, *_ in calls] == [f"benchmarks/{name}.py" for name in PROGRAMS]

    class Parsed(Exception):
        pass

    def stop(options, sample):
        raise Parsed(options.tokenizer, options.text, getattr(options, "ltp", None))

    for script, *flags in calls:
        module = importlib.import_module(Path(script).stem)
        monkeypatch.setattr(module, "given_or_bundled", stop)
        with pytest.raises(Parsed) as parsed:
            module.main(flags)
        given = {"chinese_ref": ("c", "y", "l"), "neural": ("c", "y", None)}
        assert parsed.value.args == given.get(Path(script).stem, ("t", "x", None))


@pytest.mark.parametrize("sample", ["english", "chinese"])
def test_a_sample_and_a_tokenizer_made_of_it_stand_in_where_none_is_given(sample, tmp_path):
    from bundled import given_or_bundled

    given = argparse.Namespace(tokenizer=None, text=None, other=1)
    with given_or_bundled(given, sample) as options:
        line = next(line for line in Path(options.text).read_text(encoding="utf-8").split("\n") if line)
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.tokenizer)
        assert tokenizer.unk_token_id not in tokenizer(line)["input_ids"] and options.other == 1
    assert not Path(options.tokenizer).exists() and given.text is None
    given = argparse.Namespace(tokenizer="t", text="x")
    with given_or_bundled(given, sample) as options:
        assert options == given
