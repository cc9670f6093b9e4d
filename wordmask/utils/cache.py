"""The cache directory, inside that of `datasets`, and results about files that are remembered there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from wordmask.utils.files import write_atomically
from wordmask.utils.progress import tracked


def cache_directory(cache_dir: str | None) -> Path:
    """The directory of this suite's cache.

    Args:
        cache_dir: the user's choice, `None` for that of `datasets`.
    """
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE, "wordmask")


def hashed(*values: Any) -> str:
    """A name for values, the same in every process."""
    return datasets.fingerprint.Hasher.hash(values)


def stamps(files: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """The path, the size and the times of each file: that of its content, which a user can set, and of any change."""
    stats = [(os.path.abspath(file), os.stat(file)) for file in files]
    return [(path, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for path, status in stats]


def found_once(cache: Path, what: str, files: Sequence[str], find: Callable[[], Any], again: bool = False) -> Any:
    """What `find` returns for files, remembered until their names, sizes or times change.

    Args:
        cache: the directory that remembers it, if it can be written.
        what: its name there.
        files: the files.
        find: returns something that JSON can hold.
        again: whether to call `find` even if the result is remembered.
    """
    remembered = cache / f"{what}-{hashed(stamps(files))}.json"
    if not again and remembered.exists():
        return json.loads(remembered.read_text(encoding="utf-8"))
    found = find()
    with contextlib.suppress(OSError), write_atomically(remembered) as target:
        json.dump(found, target)
    return found


def content(file: str, cache: Path) -> str:
    """The digest of a file's content, so that a copy of it is known again."""
    return found_once(cache, "content", [file], partial(_digest, file))


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        blocks = iter(partial(source.read, 2**20), b"")
        for block in tracked(blocks, "looking for a copy", "bytes", os.path.getsize(file)):
            digest.update(block)
    return digest.hexdigest()
