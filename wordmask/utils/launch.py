"""Whether a run is on a TPU, and how a process leaves the group of its run."""

from __future__ import annotations

import gc

import torch
from transformers.utils import is_torch_tpu_available, is_torch_xla_available


def tpu_package() -> str | None:
    """The package that the Trainer uses on a TPU, `torch_xla` or `torch_tpu`; `None` without a TPU."""
    if is_torch_xla_available():
        return "torch_xla"
    return "torch_tpu" if is_torch_tpu_available() else None


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
