"""The file or the directory that references are written to: its forms, its parts, and what it may replace."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from wordmask.references.content import part_names
from wordmask.references.provenance import sidecar
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.files import COMPRESSED, write_atomically
from wordmask.utils.readers.paths import FORMATS

ROW_GROUP = 10  # batches
TABLES = {".parquet": "parquet", ".jsonl": "jsonl"}  # by the endings of their names
Block: TypeAlias = bytes | pa.Table  # what a batch becomes in the output
SCHEMA = pa.schema({"text": pa.string(), "chinese_ref": pa.list_(pa.int32())})


@dataclass(frozen=True)
class Output:
    """Where references go: into a reference file, one on each line, or into a table together with the text.

    A name that ends in .jsonl or .parquet is a table. A name that ends in / is a directory of Parquet files.

    Raises:
        InputError: if the name says that the file is compressed, or a table of another format.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.path.strip("/"):
            raise InputError(f"--save_path: {self.path!r} names no file; give a name")
        ending = Path(self.path).suffix.lower()
        if ending in COMPRESSED:
            name, suffix = os.path.splitext(self.path)
            raise InputError(
                f"--save_path: {self.path} would hold plain text, and {suffix} says that it is compressed; give "
                f"{name} and compress it afterwards, or a name that ends in .parquet"
            )
        if not self.path.endswith("/") and ending[1:] in {*FORMATS} - {"txt"} and ending not in TABLES:
            raise InputError(
                f"--save_path: {self.path} is named like a {ending} table, which is not written; give a name that "
                "ends in .jsonl or .parquet for a table with the text, or another one for references alone"
            )

    @property
    def parts(self) -> Path:
        """The directory of the parts until all of them are finished."""
        return Path(f"{self.path.rstrip('/')}.parts")

    @property
    def lock(self) -> Path:
        """How the names of the lock files beside the output begin, see `utils/lock.py`."""
        path = Path(self.path)
        return path.parent / f".{path.name}.wordmask"

    @property
    def kind(self) -> str:
        """`directory`, `parquet`, `jsonl` or `references`."""
        if self.path.endswith("/"):
            return "directory"
        return TABLES.get(Path(self.path).suffix.lower(), "references")

    def block(self, texts: Sequence[str], references: Sequence[list[int] | None]) -> Block:
        """Lines and their references in the form of a part. `None` is the reference of a blank line."""
        if self.kind in ("directory", "parquet"):
            return pa.table([texts, [reference or [] for reference in references]], SCHEMA)
        if self.kind == "jsonl":
            pairs = zip(texts, references, strict=True)
            objects = ({"text": text, "chinese_ref": reference or []} for text, reference in pairs)
            return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in objects).encode()
        # A list of integers looks the same in Python and in JSON.
        return "".join("\n" if reference is None else f"{reference}\n" for reference in references).encode()

    def write(self, file: IO[bytes], blocks: Iterable[Any]) -> None:
        """Write the blocks of a part."""
        if self.kind in ("directory", "parquet"):
            with pq.ParquetWriter(file, SCHEMA) as writer:
                for tables in batches(blocks, ROW_GROUP, weight=lambda table: table.nbytes):
                    writer.write_table(pa.concat_tables(tables))
        else:
            file.writelines(blocks)

    def join(self, parts: Sequence[Path]) -> None:
        """Make the output from its parts. An earlier output is replaced at the end, after its sidecar is removed."""
        final, complete = Path(self.path), Path(f"{self.parts}.whole")
        if self.kind == "directory":
            shutil.rmtree(complete, ignore_errors=True)
            complete.mkdir()
            for part, name in zip(parts, part_names(len(parts)), strict=True):
                shutil.copyfile(part, complete / name)  # the parts stay until the output is complete
        elif self.kind == "parquet":
            with write_atomically(complete, binary=True) as file, pq.ParquetWriter(file, SCHEMA) as writer:
                for part in parts:
                    source = pq.ParquetFile(part)
                    for group in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(group))
        else:
            with write_atomically(complete, binary=True) as file:
                for part in parts:
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, file)
        sidecar(self.path).unlink(missing_ok=True)
        if self.kind == "directory" and final.exists():
            shutil.rmtree(final)
        os.replace(complete, final)

    def has_positions(self) -> bool:
        """Whether any token of the written output continues a word. It reads up to the first one that does."""
        if self.kind in ("directory", "parquet"):
            files = sorted(Path(self.path).glob("*.parquet")) if self.kind == "directory" else [self.path]
            columns = (batch["chinese_ref"] for file in files for batch in pq.ParquetFile(file).iter_batches())
            return any(len(references.flatten()) for references in columns)
        with open(self.path, "rb") as lines:  # each ends in `[]`, or in `[]}` with its text
            return any(line.strip() and not line.rstrip(b"}\n").endswith(b"[]") for line in lines)


def check_output(path: str, overwrite: bool) -> None:
    """Raise an `InputError` if an output of references exists that we must not replace."""
    if path.endswith("/") and Path(path.rstrip("/")).exists() and not Path(path).is_dir():
        raise InputError(f"--save_path: {path} is a file, not a directory; give another name")
    if Path(path).is_dir():
        names = os.listdir(path)
        others = [name for name in names if not fnmatch(name, "part-*-of-*.parquet")]
        if others or not names and not path.endswith("/"):
            raise InputError(f"--save_path: {path} is a directory with other files; give another name")
        if not path.endswith("/"):
            raise InputError(f"--save_path: {path} is a directory of references; give {path}/ for such a directory")
    existing = [file for file in (path, str(sidecar(path))) if Path(file).exists()]
    if existing and not overwrite:
        raise InputError(f"--save_path: {existing[0]} exists; give another name, or --overwrite to replace it")


def check_new_tokenizer(directory: str, overwrite: bool) -> None:
    """Raise an `InputError` if something exists in the place of a new tokenizer that we must not replace."""
    if not Path(directory).exists():
        return
    if not overwrite:
        raise InputError(f"--bert: {directory} exists; give another name, or --overwrite to replace it")
    if not Path(directory).is_dir():
        raise InputError(f"--bert: {directory} is a file, not a directory; give another name")
