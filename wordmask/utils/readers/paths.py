"""From names, globs and directories on the command line to files of one format."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from wordmask.utils.errors import InputError
from wordmask.utils.files import COMPRESSED

FORMATS = {"txt": "txt", "csv": "csv", "tsv": "tsv", "json": "json", "jsonl": "json", "parquet": "parquet"}
SIDECAR = ".meta.json"  # behind the name of a reference file
DATASET = ("dataset_dict.json", "state.json")  # which `save_to_disk` writes


def format_of(path: str) -> str | None:
    """The format of a file by its name, in capitals or not; a name without an ending is text. `None` if unknown."""
    name = Path(path.lower())
    suffix = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    return FORMATS.get(suffix[1:]) if suffix else "txt"


def expand_files(patterns: Sequence[str], flag: str, directories: bool = False) -> list[str]:
    """The files that names and globs stand for, in order; `**` stands for any folders.

    Args:
        patterns: names and globs.
        flag: the flag that they come from.
        directories: whether a directory stands for the files of text in it.

    Raises:
        InputError: naming `flag`, where a name or a pattern stands for no file.
    """
    files: list[str] = []
    for pattern in patterns:
        if os.path.isfile(pattern):
            files.append(pattern)
            continue
        if directories and os.path.isdir(pattern):
            files += _files_under(pattern, flag)
            continue
        found = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
        found = _without_copies(path for path in found if not path.endswith(SIDECAR))
        if not found:
            what = "is a directory, not a file" if os.path.isdir(pattern) else "does not exist"
            raise InputError(f"{flag}: {pattern} {what}; give a file or a glob that matches files")
        files += found
    return files


def text_files(patterns: Sequence[str], flag: str) -> list[str]:
    """The files of text that names, globs and directories stand for, which are of one format.

    Raises:
        InputError: naming `flag`, where there is none, a format is not known, or there are several.
    """
    files = expand_files(patterns, flag, directories=True)
    formats = Counter(format_of(path) for path in files)
    if None in formats:
        unknown = next(path for path in files if format_of(path) is None)
        raise InputError(
            f"{flag}: {unknown} is of no known format; its name must end in "
            f"{', '.join('.' + known for known in FORMATS)}, plain or with {', '.join(COMPRESSED)} behind"
        )
    if len(formats) > 1:
        found = ", ".join(f"{count} {known}" for known, count in sorted(formats.items(), key=str))
        raise InputError(f"{flag}: files of one format are needed, found {found}; give a glob such as *.txt")
    return files


def _without_copies(paths: Iterable[str]) -> list[str]:
    """Each file once: a link to a parent directory would show the same file again and again."""
    shortest: dict[str, str] = {}
    for path in sorted(paths, key=len):
        shortest.setdefault(os.path.realpath(path), path)
    return sorted(shortest.values())


def _files_under(directory: str, flag: str) -> list[str]:
    """The files of a known format under a directory, in order. Names that begin with `.` or `_` are passed over, as
    are the sidecars of reference files."""
    if any(Path(directory, name).exists() for name in DATASET):
        raise InputError(f"{flag}: {directory} is a dataset that save_to_disk wrote; give it as --dataset_name")
    inside = glob.glob("**", root_dir=directory, recursive=True)  # without names that begin with a dot
    names = [name for name in inside if not any(part.startswith("_") for part in Path(name).parts)]
    names = [name for name in names if Path(name.lower()).suffix and not name.endswith(SIDECAR) and format_of(name)]
    files = _without_copies(sorted(filter(os.path.isfile, (os.path.join(directory, name) for name in names))))
    if not files:
        raise InputError(
            f"{flag}: {directory} is a directory without a file that ends in "
            f"{', '.join('.' + known for known in FORMATS)}; give another one, or a file"
        )
    return files
