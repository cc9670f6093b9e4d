"""Report a mistake once when several processes of one launch meet it, before they can talk to each other.

The processes meet at a file in the directory for temporary files, which only one of them can create. The file's name
is made of digests of the launch and of the sentence. Each machine prints a sentence once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from pathlib import Path

import psutil

from wordmask.utils.processes import local_rank, world_size

PATIENCE = 3.0  # seconds that other processes wait for the first one. If all meet a mistake, it is said without a rank
FORGOTTEN = 300.0  # seconds; an older file is removed
# An older mark is of an earlier launch: the processes of one begin within seconds of each other.
BEGAN = psutil.Process().create_time() - 10


def first_to_say(sentence: str) -> bool:
    """Whether no other process of this launch, on this machine, has said this sentence. Then this process says it."""
    if world_size() == 1:
        return True
    mark, launch = _mark(sentence), _marks_of_launch()
    for old_mark in mark.parent.glob("wordmask-said-*"):
        with contextlib.suppress(OSError):  # another process has just removed it, or another user made it
            last = BEGAN if old_mark.name.startswith(launch.name) else time.time() - FORGOTTEN
            if old_mark.stat().st_mtime < last:
                old_mark.unlink()
    end = time.monotonic() + (PATIENCE if local_rank() else 0)
    while time.monotonic() < end and not mark.exists():
        time.sleep(0.05)
    process_id = str(os.getpid())
    try:
        with open(mark, "x") as file:
            file.write(process_id)
    except FileExistsError:
        with contextlib.suppress(OSError):
            return mark.read_text() == process_id
    except OSError:  # we cannot write there: better to say it twice than never
        pass
    return True


def leave_mark() -> None:
    """Let the other processes of this launch know that this one ends, since it was interrupted."""
    if world_size() > 1:
        with contextlib.suppress(OSError):
            _mark("interrupted").touch()


def others_said_something() -> bool:
    """Whether a process of this launch, on this machine, has said anything."""
    return bool(_marks())


def others_made_a_mistake() -> bool:
    """Whether a process of this launch, on this machine, has said more than that it was interrupted."""
    return bool(_marks() - {_mark("interrupted")})


def _marks() -> set[Path]:
    launch, found = _marks_of_launch(), set[Path]()
    for mark in launch.parent.glob(f"{launch.name}*") if world_size() > 1 else ():
        with contextlib.suppress(OSError):  # another process has just removed it
            if mark.stat().st_mtime >= BEGAN:
                found.add(mark)
    return found


def _mark(sentence: str) -> Path:
    return Path(f"{_marks_of_launch()}{_digest(sentence)}")


def _marks_of_launch() -> Path:
    """How the names of the files of this launch begin.

    A launch is known by the process that started it, by its restarts, and by where its processes meet. In a container
    that is started again, torchrun has the same process id, and marks of its earlier life may be there.
    """
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    launcher = os.getppid()
    began = None
    with contextlib.suppress(OSError):  # only Linux tells it: field 22, and the name in field 2 may hold anything
        began = Path(f"/proc/{launcher}/stat").read_bytes().rpartition(b")")[2].split()[19]
    launch = repr([launcher, began, *(os.environ.get(name) for name in names)])
    return Path(tempfile.gettempdir(), f"wordmask-said-{_digest(launch)}-")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
