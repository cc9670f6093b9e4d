"""The memory of this process: let it keep what is freed, and know how much it has used and may use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
_LARGEST = 2**30  # bytes of a tensor


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors for new ones.

    glibc gives large blocks back to the system at once. The system then fills them with zeros for every new tensor,
    which takes a tenth of the time of training on two cores. Other C libraries are left as they are.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    if peak := process_size("VmHWM"):  # not `ru_maxrss`, which begins with the peak of the parent process
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def children_memory() -> int:
    """The bytes that the processes which this one has started have for themselves alone."""
    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True))


def available_memory() -> int:
    """The bytes that this process may still take: of the machine, of its control groups, and of its own limits."""
    process = psutil.Process().memory_info()
    rooms = [psutil.virtual_memory().available, *_rooms_of_groups(Path("/proc/self/cgroup"))]
    for limit, used in ((resource.RLIMIT_AS, process.vms), (resource.RLIMIT_DATA, process_size("VmData"))):
        if (most := resource.getrlimit(limit)[0]) != resource.RLIM_INFINITY:
            rooms.append(most - used)
    return max(0, min(rooms))


def _rooms_of_groups(path: Path, root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    """The room in each control group of this process. Cached files count as room: the system drops them if needed."""
    for line in path.read_text().splitlines() if path.exists() else ():
        _, controllers, place = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        limit, used = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        group = top / place.lstrip("/")
        for folder in (group, *group.parents):  # in a container, the group's own folder is the top
            if top in (folder, *folder.parents):
                with contextlib.suppress(OSError, ValueError):  # no such file, or no limit: `max`
                    most, now = (int((folder / f"memory.{name}").read_text()) for name in (limit, used))
                    counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    cached = counts.get("total_inactive_file", counts.get("inactive_file", 0))
                    yield most - now + int(cached)


@contextlib.contextmanager
def limited_memory(room: int) -> Iterator[None]:
    """Let allocations of more than `room` further bytes fail: without it, the system would kill the process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if used := process_size("VmData"):  # only Linux tells, and keeps to such a limit
        limit = used + room if soft == resource.RLIM_INFINITY else min(used + room, soft)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def process_size(name: str) -> int:
    """A size of this process, such as `VmRSS`, in bytes; 0 where the system does not tell, as only Linux does."""
    path = Path(f"/proc/{os.getpid()}/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)
