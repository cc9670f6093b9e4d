"""The names of the files that a run writes, and what tells its pages from those of others.

Nothing large is imported here, so that any module may ask for one.
"""

from pathlib import Path

# In the output directory; data/data_report.py names its own file.
RUN = "wordmask_run.json"
EVALUATIONS = "wordmask_evaluations.json"
SPEED = "wordmask_speed.json"
REPORT, CURVE = "report.html", "loss.svg"

# In a checkpoint.
PROGRESS = "wordmask_progress.json"
MANIFEST = "wordmask_manifest.json"

STATE = "trainer_state.json"  # the Trainer's own, in both

MARK = "made by wordmask"  # in each page and card


def is_ours(path: Path) -> bool:
    """Whether a file says that we made it."""
    return MARK in path.read_text(encoding="utf-8", errors="replace")
