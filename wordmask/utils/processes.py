"""Which process of a launch this is, by the variables that a launcher sets. It needs no torch; launch.py does."""

from __future__ import annotations

import os

from wordmask.utils.errors import InputError

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


def world_size() -> int:
    """The number of processes of a launch by torchrun; 1 without torchrun."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if is_of_torchrun() and size.isdecimal() else 1


def check_one_process(processes: int, flag: str, workers: str) -> None:
    """Raise an `InputError` if a launcher has started several processes, each of which would do all of the work.

    Args:
        processes: how many it has started.
        flag: the flag that asks for the work.
        workers: the flag that divides it.
    """
    if processes > 1:
        raise InputError(
            f"{flag}: {processes} processes of a launcher cannot divide this work; start with plain python, and "
            f"divide it with {workers}, or with --num_shards and --shard_index"
        )
