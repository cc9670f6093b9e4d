"""Mounts for one process and its children: a disk that takes no more writes, and a small disk that can be filled.

A process leaves the mounts of the machine, and mounts a directory read-only over itself. That refuses root, too, as
permissions do not. Nothing is to be undone: the mounts are gone when the process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # of Linux's unshare
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # of its mount
_DETACH = 2  # of umount2
_KEPT = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC | os.ST_NOATIME | os.ST_NODIRATIME | os.ST_RELATIME


def leave_mounts() -> None:
    """Give this process mounts of its own. Call it before it has threads.

    Raises:
        OSError: if the machine does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    if user:
        _call("unshare", _NEW_USER)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    _call("unshare", _NEW_MOUNTS)
    _mount(None, "/", _RECURSIVE | _PRIVATE)


def make_read_only(directory: Path) -> None:
    """Let nothing in a directory be changed. Files that are open for writing stay so, such as that of a lock."""
    kept = os.statvfs(directory).f_flag & _KEPT
    _mount(directory, directory, _BIND)
    _mount(None, directory, _REMOUNT | _BIND | _READ_ONLY | kept)


@contextlib.contextmanager
def small_disk(directory: Path, size: int) -> Iterator[None]:
    """Make a directory a disk of its own, in memory, of so many MiB."""
    _mount(None, directory, 0, "tmpfs", f"size={size}m")
    try:
        yield
    finally:
        _call("umount2", os.fsencode(directory), _DETACH)


def why_not(directory: Path) -> str:
    """Why this machine cannot do it; empty if it can. A child process tries it."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        try:
            leave_mounts()
            make_read_only(directory)
        except (OSError, AttributeError) as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with open(reader, encoding="utf-8") as file:
        return file.read()


def _mount(source: Path | None, target: Path | str, flags: int, kind: str = "none", options: str = "") -> None:
    paths = os.fsencode(source or kind), os.fsencode(target)
    _call("mount", *paths, kind.encode(), ctypes.c_ulong(flags), options.encode() or None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
