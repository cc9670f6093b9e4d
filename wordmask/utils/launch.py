"""Whether a run is on a TPU, and how its processes wait for each other and leave their group."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import threading
from collections.abc import Iterator

import torch
from transformers.utils import is_torch_tpu_available, is_torch_xla_available

from wordmask.utils.errors import InputError
from wordmask.utils.processes import local_rank, world_size
from wordmask.utils.said_once import others_said_something
from wordmask.utils.signals import end_at_once

logger = logging.getLogger(__name__)

LONG_WAIT = 30.0  # seconds
_GONE = re.compile("gloo.*Connection (closed|reset) by peer", re.DOTALL)


def tpu_package() -> str | None:
    """The package that the Trainer uses on a TPU, `torch_xla` or `torch_tpu`; `None` without a TPU."""
    if is_torch_xla_available():
        return "torch_xla"
    return "torch_tpu" if is_torch_tpu_available() else None


@contextlib.contextmanager
def waits_reported(seconds: int) -> Iterator[None]:
    """Say in one sentence that another process has ended, or was waited for too long, on CPUs. (NCCL ends it itself.)

    Args:
        seconds: the value of --ddp_timeout.

    Raises:
        InputError: if it waited for so many seconds, or if the other one is gone and has not said why.
    """
    try:
        yield
    except RuntimeError as error:
        if is_of_lost_process(error) and not others_said_something():
            raise InputError(
                "another process of this launch has ended; look at what it says, and run again to go on from the last "
                "checkpoint"
            ) from error
        if not ("gloo" in str(error) and "Timed out" in str(error)):
            raise
        raise InputError(
            f"--ddp_timeout {seconds}: a process waited so many seconds for another one; give more, or look at what "
            "keeps the other one busy"
        ) from error


@contextlib.contextmanager
def meeting() -> Iterator[None]:
    """While the processes of a launch meet: a signal ends this one at once, and the first one says a long wait."""
    variables = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = ", ".join(f"{name}={os.environ.get(name)}" for name in variables)
    sentence = "waiting for the other processes (%s); start them all, or unset these variables to train in one process"
    timer = threading.Timer(LONG_WAIT, logger.warning, [sentence, found])
    timer.daemon = True
    if local_rank() == 0 and world_size() > 1:
        timer.start()
    try:
        with end_at_once():
            yield
    finally:
        timer.cancel()


def is_of_lost_process(error: BaseException) -> bool:
    """Whether an error says that another process of this launch, on CPUs, has ended."""
    return _GONE.search(str(error)) is not None


def leave() -> None:
    """Wait for the other processes, if there are any, leave their group, and end its threads.

    A thread of gloo that still has a tensor as Python ends aborts the process (pytorch#190489). The threads end with
    the last object that knows the group. A wrapped model knows it, and objects that know each other keep that model,
    so we collect these first.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        gc.collect()
        torch.distributed.destroy_process_group()
