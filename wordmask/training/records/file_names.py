"""The names of the files that a run writes. Nothing large is imported here, so that any module may ask for one."""

# In the output directory; data/data_report.py names its own file.
RUN = "wordmask_run.json"
EVALUATIONS = "wordmask_evaluations.json"
SPEED = "wordmask_speed.json"
REPORT, CURVE = "report.html", "loss.svg"

# In a checkpoint.
PROGRESS = "wordmask_progress.json"
MANIFEST = "wordmask_manifest.json"

STATE = "trainer_state.json"  # the Trainer's own, in both
