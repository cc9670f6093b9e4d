"""The output of a run: its own events and log messages go to the terminal, and the bars of libraries stay away."""

from __future__ import annotations

import logging
import os

import datasets
import huggingface_hub.utils
import transformers

from wordmask.config.run_arguments import RunArguments
from wordmask.utils.terminal import use


def set_up_output(training: RunArguments) -> None:
    """Choose the form of what is shown, and show the log messages of this package, but no bars of libraries."""
    level = training.get_process_log_level()
    is_quiet = training.log_level in ("error", "critical") and not training.dry_run  # whose plan is all that it does
    says = training.should_log and not is_quiet
    logging.getLogger("wordmask").setLevel(min(level, logging.WARNING) if says else logging.ERROR)
    transformers.utils.logging.set_verbosity(max(level, logging.WARNING))
    datasets.utils.logging.set_verbosity(logging.CRITICAL)  # its errors become ours, of one sentence
    # The type is checked by `AddedArguments`.
    terminal = use(training.log_format, ("wordmask", "transformers", "huggingface_hub"))  # type: ignore[arg-type]
    terminal.hidden = training.process_index != 0 or is_quiet
    training.log_format = terminal.mode
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") is None:
        huggingface_hub.utils.disable_progress_bars()
