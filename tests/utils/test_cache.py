"""The cache: what is there needs no lock, what killed runs have left is removed, and damage is repaired."""

from __future__ import annotations

import contextlib
import json

import pytest

import run_mlm_wwm
from conftest import sample_lines, sample_tokenizer, save_model
from wordmask.utils import cache


def test_what_is_there_is_taken_without_a_lock(tmp_path, monkeypatch):
    """The lock may be of another user, or the file system cannot be written."""
    made = tmp_path / "made"
    made.write_text("whole")

    def refused(path):
        raise PermissionError(path)

    monkeypatch.setattr(cache, "waiting", refused)
    cache.made_once(made, pytest.fail)
    with pytest.raises(PermissionError):
        cache.made_once(tmp_path / "other", pytest.fail)


def test_what_killed_runs_have_left_is_removed_and_nothing_else(tmp_path):
    made, others = tmp_path / "tokens-1.arrow", [".tokens-10.arrow.5331a646", "tokens-1.arrow.lock", ".tokens-1"]
    for name in (".tokens-1.arrow.3842b57d", ".tokens-1.arrow.5331a646", *others):
        (tmp_path / name).write_text("half")
    cache.made_once(made, lambda: made.write_text("whole"))
    assert {path.name for path in tmp_path.iterdir()} == {made.name, *others}


def test_without_a_lock_nothing_of_another_run_is_removed(tmp_path, monkeypatch):
    """It may be making the same file."""
    monkeypatch.setattr(cache, "waiting", lambda path: contextlib.nullcontext(False))
    (tmp_path / ".made.3842b57d").write_text("half")
    cache.made_once(tmp_path / "made", lambda: None)
    assert (tmp_path / ".made.3842b57d").exists()


@pytest.mark.parametrize("place", [0, 900], ids=["schema", "batch"])
def test_a_damaged_file_of_tokens_is_made_again_with_a_sentence(tmp_path, caplog, place):
    """As a disk leaves blocks of zeros: the size and the end are right."""
    model, text = save_model(tmp_path / "model", sample_tokenizer("bert")), tmp_path / "text.txt"
    text.write_text("\n".join(sample_lines("english", 20)))
    argv = (
        f"--model_name_or_path {model} --train_file {text} --cache_dir {tmp_path} --max_steps 1 --use_cpu --do_train"
    )
    losses = []
    for name in ("first", "second", "third"):
        argv_of_run = [*argv.split(), "--save_strategy", "no", "--output_dir", str(tmp_path / name)]
        losses.append(run_mlm_wwm.main(argv_of_run)["train_loss"])
        [tokens] = (tmp_path / "wordmask").glob("tokens-*.arrow")
        assert ("is damaged" in caplog.text) == (name == "second")
        if name == "first":
            content = tokens.read_bytes()
            tokens.write_bytes(content[:place] + bytes(200) + content[place + 200 :])
        caplog.clear()
    assert losses[1:] == losses[:1] * 2
    assert json.loads((tmp_path / "third" / "data_report.json").read_text())["train"]["examples"] == 20
