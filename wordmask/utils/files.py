"""Opening files, plain or compressed, and writing them whole or not at all."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import lzma
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

COMPRESSED = (".gz", ".xz", ".zst")
DECOMPRESSION_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


def decompressed(packed: IO[bytes], path: str | Path) -> IO[bytes]:
    """What is in a file of this name; one of `DECOMPRESSION_ERRORS` ends reading where the file was cut off."""
    suffix = Path(path).suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(packed, "rb"))
    if suffix == ".xz":
        return lzma.open(packed, "rb")
    if suffix == ".zst":  # zstandard's own reader takes a frame that was cut off for a whole one
        return io.BufferedReader(cast(Any, pa.input_stream(packed, compression="zstd")))
    return packed


def is_blank(line: str) -> bool:
    """Whether a line holds nothing but white space; such lines are passed over in a text and in its references."""
    return not line or line.isspace()


@contextlib.contextmanager
def write_atomically(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A file that appears under its name only when it is whole; after an error nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") if binary else open(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as a file of JSON for people, see `write_atomically`."""
    with write_atomically(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


@contextlib.contextmanager
def make_directory_atomically(path: str | Path) -> Iterator[Path]:
    """A directory that appears under its name only when it is whole; after an error nothing is left.

    Where there is one already, what else it holds stays, and each file appears when all are whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        whole = Path(temporary, "whole")
        whole.mkdir()
        yield whole
        if path.exists():
            for file in whole.iterdir():
                os.replace(file, path / file.name)
        else:
            os.replace(whole, path)
