"""The data report of a run: the padding in its batches is added, then it is shown and kept."""

from __future__ import annotations

from pathlib import Path

from wordmask.data.data_report import FILE, DataReport
from wordmask.training.padding import padding_share
from wordmask.training.records.run_record import read_run
from wordmask.training.trainer import MlmTrainer
from wordmask.utils.files import write_json


def report_data(report: DataReport, trainer: MlmTrainer) -> None:
    """Show the report, and write it to the output directory. An evaluation leaves the report of a training there."""
    args = trainer.args
    if args.do_train:
        report = report.with_padding(padding_share(trainer))
    report.show()
    run = read_run(str(args.output_dir))
    if report.splits and trainer.is_world_process_zero() and (args.do_train or run is None or not run.trains):
        write_json(Path(str(args.output_dir), FILE), report.to_json())
