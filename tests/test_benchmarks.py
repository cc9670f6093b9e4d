"""The benchmarks run, at sizes of seconds; nothing here judges a time."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conftest import SAMPLES, character_tokenizer, sample_lines, train_tokenizer

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


def test_masking_prints_every_side(tmp_path, capsys):
    import masking

    train_tokenizer("bert").save_pretrained(tmp_path)
    results = masking.main(
        ["--tokenizer", str(tmp_path), "--text", str(SAMPLES / "english.txt"), "--repeats", "1", "--shapes", "32x4"]
    )
    assert set(results[0]) == {
        "token",
        "whole word",
        "ngram",
        "span",
        "v5 token",
        "v5 whole word",
        "classic whole word",
    }
    assert "32 × 4" in capsys.readouterr().out


def test_exactness_is_judged_by_the_tokenizers_own_offsets(tmp_path, capsys):
    import chinese_ref

    gold = ["研究生 研究 生命 的 起源", "我 喜欢 你"]
    (tmp_path / "gold.txt").write_text("\n".join(gold))
    tokenizer = character_tokenizer(["".join(gold), *sample_lines("chinese", 5)])
    results = chinese_ref.print_exactness(str(tmp_path / "gold.txt"), tokenizer)
    assert results == {"classic": (1, 3), "ours": (2, 5)}
    assert "2 of 2" in capsys.readouterr().out
