"""A disk that takes no more writes, for one process and its children. It refuses root, too, as permissions do not.

The process leaves the mounts of the machine, and mounts a directory read-only over itself. Nothing is to be undone:
when the process ends, the directory can be written again.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000  # of Linux's unshare
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18  # of its mount
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


def _mount(source: Path | None, target: Path | str, flags: int) -> None:
    _call("mount", os.fsencode(source) if source else None, os.fsencode(target), None, ctypes.c_ulong(flags), None)


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
