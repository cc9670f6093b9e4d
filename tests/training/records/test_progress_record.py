"""What is known of a checkpoint of the plain `Trainer`, which has no record of its progress."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerState

from wordmask.training.records.progress_record import StepSettings, read_progress
from wordmask.training.records.run_record import RunRecord


def plain_checkpoint(folder: Path, step: int, *log: dict[str, float]) -> str:
    state = TrainerState(global_step=step, train_batch_size=4, log_history=list(log))
    state.save_to_json(str(folder / "trainer_state.json"))
    return str(folder)


def test_steps_after_the_last_log_have_its_loss(tmp_path):
    path = plain_checkpoint(tmp_path, 5, {"loss": 3.0, "step": 2}, {"loss": 2.0, "step": 4})
    assert read_progress(path, StepSettings(4), None, 40).loss == pytest.approx(2 * 3 + 2 * 2 + 1 * 2)


def test_its_run_says_on_how_many_processes_its_steps_were_made(tmp_path):
    """It goes on with one process."""
    path, run = plain_checkpoint(tmp_path, 2), RunRecord({}, processes=2, trains=True, identity={})
    record = read_progress(path, StepSettings(4), run, 40)
    assert (record.settings.processes, record.progress.examples) == (2, 16)
