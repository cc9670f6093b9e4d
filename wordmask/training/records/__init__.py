"""What a run writes down, so that we can recognize and resume it."""

RECORD = "wordmask_run.json"  # here, since run_record.py imports torch, and `wordmask report` does not
