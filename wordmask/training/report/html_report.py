"""The report of a run, `report.html`: one page without scripts and network, made from the files of the run.

`wordmask report DIR` makes it again. run_files.py gathers the figures; templates/report.html.jinja shows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wordmask.config.metric_table import metrics_in
from wordmask.training.evaluation.probe_display import ProbeResults
from wordmask.training.records.file_names import REPORT, RUN
from wordmask.training.report.pages import render, write_page
from wordmask.training.report.run_files import MOST_POINTS, RunFiles, read_or_empty
from wordmask.utils.errors import InputError, reported
from wordmask.utils.terminal import clean, use

HELP = "usage: wordmask report DIR\n\nMakes report.html in the output directory of a run again, from the files there."


def write_report(directory: str | Path) -> Path:
    """Write the report of a run into its output directory, and return its path."""
    run, path = RunFiles(Path(directory)), Path(directory, REPORT)
    probe = ProbeResults(run.results, "").rows()
    compared = metrics_in(run.results, "result")
    write_page(path, render("report.html.jinja", run=run, probe=probe, compared=compared, most_points=MOST_POINTS))
    return path


def main(argv: Sequence[str]) -> None:
    """The command `wordmask report DIR`.

    Raises:
        InputError: if there is no run in the directory, or if the report cannot be written.
    """
    if {"-h", "--help"} & {*argv}:
        print(HELP)
        return
    if len(argv) != 1 or argv[0].startswith("-"):
        raise InputError("wordmask report takes one word: the output directory of a run")
    directory = Path(argv[0])
    if not (directory / RUN).is_file():
        what = f"has no {RUN}" if directory.is_dir() else "is a file" if directory.exists() else "does not exist"
        raise InputError(f"wordmask report: {directory} {what}; give the output directory of a run")
    if not isinstance(read_or_empty(directory / RUN).get("arguments"), dict):
        raise InputError(f"wordmask report: {directory / RUN} is not the record of a run; give another directory")
    use(None)
    with reported(f"wordmask report: the files in {directory} make no report"):
        page = write_report(directory)
    print(clean(str(page)))
