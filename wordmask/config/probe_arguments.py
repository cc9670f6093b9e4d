"""The flags of the probe: does the model get better for a task?"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from wordmask.config.parser import argument
from wordmask.utils.errors import InputError


@dataclass
class ProbeArguments:
    """Which labelled text shows whether the model gets better for a task."""

    _argument_group_name = "probe"

    probe_file: str | None = argument("Texts with labels: do embeddings tell them apart?", default=None)
    probe_validation_file: str | None = argument("By default, a quarter of --probe_file.", default=None)

    def __post_init__(self) -> None:
        if self.probe_validation_file and not self.probe_file:
            raise InputError("--probe_validation_file needs --probe_file, the labelled text to learn from; add it")
        if self.probe_file and importlib.util.find_spec("sklearn") is None:
            raise InputError("--probe_file needs scikit-learn: pip install scikit-learn")
