"""Which process of a launch this is, by the variables that a launcher sets. It needs no torch; launch.py does."""

from __future__ import annotations

import os

# What torchrun and the launchers of MPI call the number of a process; accelerate looks at the same names.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")


def is_first_process() -> bool:
    """Whether this is the first process of its launch, on all machines, or the only one."""
    return all(os.environ.get(name, "0") in ("", "0") for name in RANKS)


def is_of_torchrun() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return "RANK" in os.environ


def local_rank() -> int:
    """Which process of a launch by torchrun this is on its machine; 0 without torchrun."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return int(rank) if is_of_torchrun() and rank.isdecimal() else 0
