"""Whether a reference file, or a directory of references, still is what was written.

Without this check, a run would train on less text after a part was lost in a copy, and nobody would know.
"""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

from wordmask.references.provenance import Provenance, sidecar
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import DECOMPRESSION_ERRORS, file_xxh3

ADVICE = "copy it again, or make the references again with run_chinese_ref.py"


def part_names(count: int) -> list[str]:
    """The names of the files in a directory of so many parts."""
    return [f"part-{number:05d}-of-{count:05d}.parquet" for number in range(count)]


def described(path: str) -> str:
    """The path that has the sidecar: for a file in a directory of references, this is the directory."""
    parent = os.path.dirname(path) or "."
    is_part = fnmatch(os.path.basename(path), "part-*-of-*.parquet") and not sidecar(path).exists()
    return parent if is_part and sidecar(parent).exists() else path


def content_digests(path: str) -> list[str]:
    """The digest of a reference file, or of each part in a directory, in order. It ignores compression."""
    if not os.path.isdir(path):
        return [file_xxh3(path, unpacked=True)]
    return [file_xxh3(Path(path, name)) for name in part_names(len(os.listdir(path)))]


def check_content(provenance: Provenance, path: str, flag: str) -> None:
    """Raise an `InputError` if a file with references is not what was written.

    Args:
        provenance: what the file was made from. One of an older version has no digests: then nothing is checked.
        path: the file, which may be a part of a directory.
        flag: the flag that names it.
    """
    digests, made = provenance.contents, described(path)
    if not digests:
        return
    name = os.path.basename(path)
    names = [name] if made == path else part_names(len(digests))
    try:
        same = name in names and file_xxh3(path, unpacked=True) == digests[names.index(name)]
    except DECOMPRESSION_ERRORS as error:
        raise InputError(f"{flag}: {path} cannot be read ({one_line(error)}); {ADVICE}") from None
    if not same:
        raise InputError(
            f"{flag}: {path} has changed since it was written; {ADVICE}, or remove {sidecar(made)} if the change is "
            "right"
        )


def check_complete(provenance: Provenance, directory: str, flag: str) -> None:
    """Raise an `InputError` if a part of a directory of references is missing."""
    for name in part_names(len(provenance.contents)):
        if not Path(directory, name).exists():
            raise InputError(f"{flag}: {directory} is not complete, {name} is missing; {ADVICE}")


def check_output_content(provenance: Provenance, path: str, flag: str) -> None:
    """The same for all of an output: a file, or each part of a directory."""
    if not os.path.isdir(path):
        check_content(provenance, path, flag)
        return
    check_complete(provenance, path, flag)
    for name in part_names(len(provenance.contents)):
        check_content(provenance, os.path.join(path.rstrip("/"), name), flag)
