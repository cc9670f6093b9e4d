"""Flags of transformers without effect: a run is the same with them, and says so; the help says it, too."""

from __future__ import annotations

import re

import pytest

import run_mlm
from conftest import training_steps, trajectory
from wordmask.config.unused_flags import UNUSED

# For each such flag, a value that is not its default.
GIVEN = {
    "average_tokens_across_devices": "false",
    "batch_eval_metrics": "true",
    "dataloader_in_order": "false",
    "disable_tqdm": "true",
    "eval_accumulation_steps": "1",
    "eval_do_concat_batches": "false",
    "eval_use_gather_object": "true",
    "include_for_metrics": "inputs",
    "label_names": "input_ids",
    "length_column_name": "text",
    "remove_unused_columns": "false",
    "use_cache": "true",
}


def test_a_run_is_the_same_with_all_of_them(needed_flags, tmp_path, caplog):
    assert GIVEN.keys() == UNUSED.keys()
    more = "--max_steps 3 --logging_steps 1 --do_train --do_eval --dataloader_num_workers 1"
    flags = [*needed_flags, *more.split()]
    figures = run_mlm.main(flags)
    assert "has no effect" not in caplog.text
    unused = [word for name, value in GIVEN.items() for word in (f"--{name}", value)]
    again = run_mlm.main([*flags, *unused, "--output_dir", str(tmp_path / "again")])
    assert len(training_steps(tmp_path / "out")) == 3
    assert trajectory(tmp_path / "again") == trajectory(tmp_path / "out")
    assert again["eval_loss"] == figures["eval_loss"]
    for name, reason in UNUSED.items():
        assert f"--{name} has no effect here: {reason}" in caplog.text


def test_a_flag_that_a_newer_transformers_has_dropped_is_left_out(needed_flags, monkeypatch):
    monkeypatch.setitem(UNUSED, "a_dropped_flag", "nobody reads it")
    assert run_mlm.main([*needed_flags, "--max_steps", "1", "--do_train"])["train_samples"] > 0


def test_a_default_value_asks_for_nothing(needed_flags, caplog):
    """As in a file of old arguments that has all flags."""
    values = [
        "--no_disable_tqdm",
        "--no_use_cache",
        "--length_column_name",
        "length",
        "--dataloader_in_order",
        "--no_batch_eval_metrics",
    ]
    run_mlm.main([*needed_flags, "--max_steps", "1", "--do_train", *values])
    assert "has no effect" not in caplog.text


def test_the_report_of_a_tpu_is_left_out_where_there_is_none(needed_flags, caplog):
    """A NameError of transformers, in the first evaluation."""
    figures = run_mlm.main([*needed_flags, "--max_steps", "1", "--do_eval", "--tpu_metrics_debug"])
    assert "--debug tpu_metrics_debug has no effect: there is no TPU with torch_xla here" in caplog.text
    assert figures["eval_loss"] > 0


def test_the_help_names_them_as_not_used(capsys):
    with pytest.raises(SystemExit):
        run_mlm.main(["--help_all"])
    entries = re.split(r"\n  (?=--)", capsys.readouterr().out)
    words = {entry.split()[0].lstrip("-"): " ".join(entry.split()) for entry in entries}
    for name, reason in UNUSED.items():
        assert f"Not used: {reason}." in words[name]
