"""Locks that keep a second run out of a directory, or let it wait. The operating system drops those of a dead process.

    with locked(Path("out", ".wordmask"), "--output_dir: out"):  # makes out/.wordmask.lock, and removes it

Where a file system cannot lock, there is a warning, and the run goes on.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.write_errors import reason_of

logger = logging.getLogger(__name__)

# What a file system says that cannot lock.
_CANNOT = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
_PATIENCE = 1.0  # seconds: another run that starts now may look at the same lock


@contextlib.contextmanager
def locked(stem: Path, what: str, shard: int | None = None) -> Iterator[None]:
    """Keep other runs out: of a shard, those of the same shard and a run of all; of a run of all, every other run.

    Args:
        stem: how the names of the lock files begin. Its directory is made, and removed again if it stays empty.
        what: the flag and its value, for messages.
        shard: the number of this shard; `None` for a run of all.

    Raises:
        InputError: if another run holds the lock, or nothing can be written there.
    """
    with _made(stem.parent, what):
        path = Path(f"{stem}.lock" if shard is None else f"{stem}-{shard}.lock")
        with _held(path, what):
            for other in stem.parent.glob(glob.escape(stem.name) + ("-*.lock" if shard is None else ".lock")):
                with _held(other, what, _PATIENCE):  # nobody does
                    pass
            yield


@contextlib.contextmanager
def waiting(path: str | Path) -> Iterator[bool]:
    """Let one of several runs do something, while the others wait; tell whether they do. The lock's file stays."""
    lock = _acquired(Path(path), -1)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def _held(path: Path, what: str, patience: float = 0) -> Iterator[None]:
    """Hold a lock, with a file beside it that says who does. Both are removed."""
    holder = path.with_suffix(".holder")
    try:
        lock = _acquired(path, patience)
        if lock is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            holder.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since}))
    except Timeout:
        try:
            path.touch()  # filelock waits, too, where no file can be made, as in /proc
        except OSError as error:
            raise _not_writable(what, error) from None
        raise InputError(f"{what} is in use by {_described(holder)}; wait for it, or give another name") from None
    except (OSError, ValueError) as error:
        raise _not_writable(what, error) from None
    try:
        yield
    finally:
        if lock is not None:
            # Removed before the release: one who waits for this file sees that it is gone. On a full disk both files
            # may stay; without this process, they lock nothing.
            for file in (holder, path):
                with contextlib.suppress(OSError):
                    file.unlink()
            lock.release()


def _acquired(path: Path, timeout: float) -> FileLock | None:
    """A lock, once it is ours; `None` with a warning if the file system has none."""
    lock = FileLock(path, fallback_to_soft=False)  # a dead process would leave a soft lock behind
    try:
        lock.acquire(timeout=timeout)
        return lock
    except OSError as error:  # also a `Timeout`, without a number
        if error.errno not in _CANNOT:
            raise
        reason = one_line(error)
    logger.warning("%s: the file system cannot lock (%s), so make sure that no other run writes here", path, reason)
    return None


def _described(holder: Path) -> str:
    """Who holds a lock: `process 4711 on host since 2026-11-26 05:17:30`."""
    try:
        values = json.loads(holder.read_text())
        return f"process {values['process']} on {values['host']} since {values['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another run, which has just begun"


@contextlib.contextmanager
def _made(directory: Path, what: str) -> Iterator[None]:
    """Make a directory. What was made and stays empty is removed."""
    if os.path.lexists(directory) and not os.path.isdir(directory):
        kind = "a file" if os.path.exists(directory) else "a link to something that is not there"
        raise InputError(f"{what} is {kind}; give another name")
    missing = [path for path in (directory, *directory.parents) if not os.path.lexists(path)]
    try:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise _not_writable(what, error) from None
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError, ValueError):  # not empty, or an impossible name
                path.rmdir()


def _not_writable(what: str, error: Exception) -> InputError:
    return InputError(f"{what} cannot be written ({reason_of(error)}); give another name")
