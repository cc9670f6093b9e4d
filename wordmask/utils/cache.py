"""The cache directory, inside the one of `datasets`. It also remembers results about files."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets

from wordmask.utils.files import read_json, write_atomically
from wordmask.utils.lock import waiting
from wordmask.utils.progress import tracked
from wordmask.utils.write_errors import write_reported


def cache_directory(cache_dir: str | None) -> Path:
    """The directory of this suite's cache.

    Args:
        cache_dir: the user's choice; `None` for the one of `datasets`.

    Raises:
        InputError: if the user's directory cannot be made.
    """
    directory = Path(cache_dir or datasets.config.HF_DATASETS_CACHE, "wordmask")
    if cache_dir:
        with write_reported(f"--cache_dir: {cache_dir}", "give another"):
            directory.mkdir(parents=True, exist_ok=True)
    return directory


def hashed(*values: Any) -> str:
    """A name for values, the same in every process."""
    return datasets.fingerprint.Hasher.hash(values)


def stamps(files: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """The path, the size and two times of each file: of its content, which a user can set, and of any change."""
    status = [(os.path.abspath(file), os.stat(file)) for file in files]
    return [(path, of_file.st_size, of_file.st_mtime_ns, of_file.st_ctime_ns) for path, of_file in status]


def made_once(path: Path, make: Callable[[], object], is_made: Callable[[Path], bool] = Path.exists) -> None:
    """Make a file or directory of the cache, unless it is there. Of several runs that start together, one makes it.

    Only the run that makes it has to be able to write there. What killed runs have left of it is removed.
    """
    if is_made(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with waiting(f"{path}.lock") as others_wait:
        if is_made(path):
            return
        for unfinished in path.parent.glob(f".{glob.escape(path.name)}.*") if others_wait else ():
            if unfinished.is_file():
                unfinished.unlink()
        make()


def found_once(cache: Path, what: str, files: Sequence[str], find: Callable[[], Any], again: bool = False) -> Any:
    """What `find` returns for some files. We remember it until their names, sizes or times change.

    Args:
        cache: the directory that remembers it, if we can write there.
        what: its name there.
        files: the files.
        find: returns something that JSON can hold.
        again: whether to call `find` even if its result is remembered.
    """
    remembered = cache / f"{what}-{hashed(stamps(files))}.json"
    if not again:
        with contextlib.suppress(OSError, ValueError):
            return read_json(remembered)
    result = find()
    with contextlib.suppress(OSError), write_atomically(remembered) as target:
        json.dump(result, target)
    return result


def content_digest(file: str, cache: Path) -> str:
    """The digest of a file's content. It is the same for each copy of the file."""
    return found_once(cache, "content", [file], partial(_digest, file))


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as source:
        blocks = iter(partial(source.read, 2**20), b"")
        for block in tracked(blocks, "looking for a copy", "bytes", os.path.getsize(file)):
            digest.update(block)
    return digest.hexdigest()
