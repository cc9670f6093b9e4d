"""Open files, plain or compressed, and write files completely or not at all."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import xxhash

from wordmask.utils.errors import one_line

logger = logging.getLogger(__name__)

COMPRESSED = (".gz", ".xz", ".zst")
DECOMPRESSION_ERRORS = (OSError, EOFError, lzma.LZMAError, zlib.error)


def decompressed(packed: IO[bytes], path: str | Path) -> IO[bytes]:
    """The content of a file of this name. If the file was cut off, reading ends with one of `DECOMPRESSION_ERRORS`."""
    suffix = Path(path).suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(packed, "rb"))
    if suffix == ".xz":
        return lzma.open(packed, "rb")
    if suffix == ".zst":  # the reader of zstandard itself does not see that a file was cut off
        return io.BufferedReader(cast(Any, pa.input_stream(packed, compression="zstd")))
    return packed


def file_xxh3(path: str | Path, unpacked: bool = False) -> str:
    """The digest of a file's content that tells whether it is still what was written. It is as fast as the disk.

    Args:
        path: the file.
        unpacked: whether to take what is in a compressed file, so that the digest is the same for the plain one.
    """
    with open(path, "rb") as file, decompressed(file, path) if unpacked else file as content:
        return hashlib.file_digest(content, xxhash.xxh3_128).hexdigest()  # type: ignore[arg-type]


def is_blank(line: str) -> bool:
    """Whether a line has only white space. Such lines are skipped, in a text and in its references."""
    return not line or line.isspace()


@contextlib.contextmanager
def write_atomically(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """Write a file that appears under its name only when it is complete. After an error, nothing is left."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb") if binary else open(temporary, "w", encoding="utf-8", newline="\n") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON that people can read, see `write_atomically`."""
    with write_atomically(path) as file:
        json.dump(value, file, ensure_ascii=False, indent=2)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """The value in a JSON file in UTF-8."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def write_json_entries(path: str | Path, name: str, entries: Iterable[Any]) -> None:
    """Write `{name: entries}` as JSON with one entry to a line, so that people can read and compare entries."""
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    with write_atomically(path) as file:
        file.write(f'{{"{name}": [\n{lines}\n]}}\n')


@contextlib.contextmanager
def damage_is_warned(path: str | Path, consequence: str) -> Iterator[None]:
    """Warn, and go on after the block, if what it reads from a JSON file is not what was written there.

    Without the file, it goes on and says nothing.
    """
    try:
        yield
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read (%s), so %s", path, one_line(error), consequence)


@contextlib.contextmanager
def make_directory_atomically(path: str | Path) -> Iterator[Path]:
    """Make a directory that appears under its name only when it is complete. After an error, nothing is left.

    If the directory exists, its other files stay. The new files appear when all of them are complete.
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
