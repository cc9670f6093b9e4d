"""Warnings of libraries: those that nobody can act on stay away, and the others come as one sentence each.

Each is named by its words and by where it comes from, so that a new warning of a library is seen.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wordmask.utils.terminal import Message, terminal

# How a warning begins (a regular expression), the module that it comes from, and why nothing is to be done.
WARNINGS = (
    (r"This DataLoader will create \d+ worker processes", r"torch\.utils\.data", "the user has chosen the number"),
    (r"Detected call of `lr_scheduler\.step\(\)` before", r"torch\.optim", "a first step in float16 overflows"),
    (r"None of the inputs have requires_grad=True", r"torch\.utils\.checkpoint", "ids have no gradient"),
    (r"barrier\(\): using the device under current context", r"torch\.distributed", "it is the right device"),
    (r"Online softmax is disabled on the fly", r"torch\._inductor", "inductor chooses what is fastest"),
    (r"Upcasted low precision parameters in", r"accelerate", "FSDP keeps float32 weights, as it should"),
    (r"FSDP upcast of low precision parameters", r"accelerate", "the same"),
    (r"Please use DTensor instead and we are deprecating", r"torch\.distributed", "accelerate's own business"),
    (r"FSDP\.state_dict_type\(\) and", r"torch\.distributed", "the same"),
    (r"FSDP2-wrapped module .* returned a view", r"torch\.distributed", "nothing writes into the logits"),
)
# The logger, how the message begins, and why nothing is to be done.
MESSAGES = (
    ("transformers.modeling_utils", r"The new (embeddings|lm_head weights) will be init", "models/loading.py says it"),
    ("transformers.trainer_utils", r"The tokenizer has new PAD/BOS/EOS", "the configuration follows the tokenizer"),
    ("accelerate.utils.other", r"Detected kernel version", "a user cannot change the kernel"),
    ("transformers.training_args", r"The speedups for torchdynamo mostly come with GPU", "a property of the card"),
    ("torch._inductor.utils", r"Not enough SMs to use max_autotune_gemm", "a property of the card"),
)


# What tokenizers and ltp read in a forked process, a worker of a loader. Without it, LTP prints three lines there, and
# both may start as many threads as there are cores in each worker.
_THREADS_AFTER_FORK = ("TOKENIZERS_PARALLELISM", "LTP_EXTENSION_PARALLELISM")


def _is_needed(pattern: str, record: logging.LogRecord) -> bool:
    return not re.match(pattern, record.getMessage())


_FILTERS = [(name, functools.partial(_is_needed, pattern)) for name, pattern, _ in MESSAGES]


@contextlib.contextmanager
def filtered_warnings() -> Iterator[None]:
    """Filter the warnings of libraries, and show those that are left as sentences."""
    for name, is_needed in _FILTERS:
        logging.getLogger(name).addFilter(is_needed)
    _say_no_threads_after_fork()
    try:
        with warnings.catch_warnings():
            for pattern, module, _ in WARNINGS:
                warnings.filterwarnings("ignore", pattern, module=module)
            warnings.showwarning = _show
            yield
    finally:
        for name, is_needed in _FILTERS:
            logging.getLogger(name).removeFilter(is_needed)


@contextlib.contextmanager
def errors_only(library: Any) -> Iterator[None]:
    """Let a library log only errors.

    Args:
        library: its module for logging, such as `transformers.utils.logging`.
    """
    verbosity = library.get_verbosity()
    library.set_verbosity_error()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)


@functools.cache  # Python calls these functions as often as they are registered
def _say_no_threads_after_fork() -> None:
    """Let forked processes know that these libraries start no threads there, which they would find out themselves."""
    unset: list[str] = []

    def before() -> None:
        unset[:] = [name for name in _THREADS_AFTER_FORK if name not in os.environ]
        os.environ.update(dict.fromkeys(unset, "false"))

    def after_in_parent() -> None:
        for name in unset:
            del os.environ[name]

    os.register_at_fork(before=before, after_in_parent=after_in_parent)


def _show(message: Any, category: Any, filename: str, *args: Any, **kwargs: Any) -> None:
    """Show a warning with the library that it comes from, instead of a path and a line of code."""
    _, installed, inside = filename.rpartition("site-packages/")
    library = Path(inside).parts[0].removesuffix(".py") if installed else ""
    terminal().show(Message(f"{library}: {message}" if library else str(message)))
