"""From names, globs and directories on the command line to files of one format."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from wordmask.utils.errors import InputError
from wordmask.utils.files import COMPRESSED

FORMATS = {"txt": "txt", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "parquet": "parquet"}
NAMED = ", ".join(FORMATS)  # for help texts
ENDINGS = ", ".join(f".{ending}" for ending in FORMATS)
SIDECAR = ".meta.json"  # the end of the name of a file that describes a reference file


def format_of(path: str) -> str | None:
    """The format that a file's name says, in small or capital letters. A name without an ending is text. `None` if the
    ending is not known."""
    name = Path(path.lower())
    suffix = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    return FORMATS.get(suffix[1:]) if suffix else "txt"


def short_name(path: str) -> str:
    """What people call a file, a glob or a directory: the last part of its path that has a letter or a digit.

    `reviews` of `data/reviews.jsonl.gz`, `wiki` of `wiki/**/*.txt`; nothing of `*.txt`.
    """
    *folders, name = Path(path).parts or ("",)
    return next((part for part in [name.split(".")[0], *reversed(folders)] if re.search(r"\w", part)), "")


def is_saved_dataset(directory: str) -> bool:
    """Whether `save_to_disk` of `datasets` wrote this directory."""
    return any(Path(directory, name).exists() for name in ("dataset_dict.json", "state.json"))


def expand_files(patterns: Sequence[str], flag: str, directories: bool = False) -> list[str]:
    """The files that names and globs stand for, in order. `**` stands for any number of folders.

    Args:
        patterns: names and globs.
        flag: the flag that they come from.
        directories: whether a directory stands for the text files in it.

    Raises:
        InputError: naming `flag`, if a name or a pattern stands for no file.
    """
    files: list[str] = []
    for pattern in patterns:
        if not pattern:
            raise InputError(f"{flag}: the name is empty; give a file")
        if os.path.isfile(pattern):
            files.append(pattern)
        elif directories and os.path.isdir(pattern):
            files += _files_under(pattern, flag)
        elif matches := _once_each(glob.glob(pattern, recursive=True)):
            files += matches
        else:
            kind = "directory" if os.path.isdir(pattern) else "device or pipe" if os.path.exists(pattern) else ""
            what = f"is a {kind}, not a file" if kind else "does not exist"
            if not kind and directories and any(map(os.path.isdir, glob.glob(pattern, recursive=True))):
                what = f"matches directories alone, whose files {os.path.join(pattern, '**', '*.txt')} would match"
            raise InputError(f"{flag}: {pattern} {what}; give a file or a glob that matches files")
    return files


def find_text_files(patterns: Sequence[str], flag: str) -> list[str]:
    """The text files that names, globs and directories stand for. They have one format.

    Raises:
        InputError: naming `flag`, if there is no file, a format is not known, or there are several formats.
    """
    files = expand_files(patterns, flag, directories=True)
    formats = Counter(format_of(path) for path in files)
    if None in formats:
        unknown = next(path for path in files if format_of(path) is None)
        raise InputError(
            f"{flag}: {unknown} is of no known format; its name must end in {ENDINGS}, or in one of these and then "
            f"{', '.join(COMPRESSED)}"
        )
    if len(formats) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(formats.items(), key=str))
        raise InputError(
            f"{flag}: files of one format are needed, found {counts}; give those of one, such as *.txt, or convert "
            "the others"
        )
    return files


def _files_under(directory: str, flag: str) -> list[str]:
    """The files of a known format under a directory, in order, without names that begin with `.` or `_`."""
    if is_saved_dataset(directory):
        raise InputError(f"{flag}: {directory} is a dataset that save_to_disk wrote; give it as --dataset_name")
    names = glob.glob("**", root_dir=directory, recursive=True)  # leaves out names that begin with a dot
    visible = [name for name in names if not any(part.startswith("_") for part in Path(name).parts)]
    files = _once_each(os.path.join(directory, name) for name in visible if Path(name).suffix and format_of(name))
    if not files:
        raise InputError(
            f"{flag}: {directory} is a directory without a file that ends in {ENDINGS}; give another one, or a file"
        )
    return files


def _once_each(paths: Iterable[str]) -> list[str]:
    """The files among some paths, without sidecars, in order. A link to a parent directory shows a file many times; we
    keep its shortest path."""
    shortest: dict[str, str] = {}
    for path in sorted(filter(os.path.isfile, paths), key=lambda path: (len(path), path)):
        if not path.endswith(SIDECAR):
            shortest.setdefault(os.path.realpath(path), path)
    return sorted(shortest.values())
