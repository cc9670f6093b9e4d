"""Writing references: of a corpus of any size, on any number of processes, and after any interruption.

The lines are divided into parts of equal number, see `wordmask.utils.parts`. When all parts are finished, they are
joined into the output. So the output does not depend on workers, interruptions or machines.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from wordmask.references.positions import line_positions
from wordmask.references.provenance import Provenance, TextDigest, sidecar, tokenizer_digest, write_provenance
from wordmask.segmenters import Segmenter
from wordmask.tokenization.encoding import Backend, require_fast, serialized
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError, output_of_workers
from wordmask.utils.files import COMPRESSED, is_blank, write_atomically
from wordmask.utils.parts import PartsDirectory, PartSource, Work
from wordmask.utils.readers import Column, TextFiles, summary

logger = logging.getLogger(__name__)

ROW_GROUP = 10  # batches
Batch: TypeAlias = tuple[int, list[str]]  # the number of the first line in the text, and lines
Block: TypeAlias = bytes | pa.Table  # what a batch becomes in the output
SCHEMA = pa.schema({"text": pa.string(), "chinese_ref": pa.list_(pa.int32())})


class Annotator:
    """Gives the references of lines. It is sent to each worker, and loads what it needs there.

    Args:
        load_tokenizer: gives a fast tokenizer.
        load_segmenter: gives a segmenter. For several workers, pickle must be able to send both functions.
        mixed: whether words of mixed script count.
    """

    def __init__(
        self, load_tokenizer: Callable[[], Any], load_segmenter: Callable[[], Segmenter], mixed: bool = False
    ):
        self._load_tokenizer, self._load_segmenter, self.mixed = load_tokenizer, load_segmenter, mixed

    @cached_property
    def tokenizer(self) -> Any:
        return self._load_tokenizer()

    @cached_property
    def segmenter(self) -> Segmenter:
        return self._load_segmenter()

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs: only the backend of the tokenizer, so that it starts in a second, without transformers.
        A tokenizer with a part in Python cannot be sent, so the worker loads it."""
        state = {"_load_segmenter": self._load_segmenter, "mixed": self.mixed}
        if serialized(self.tokenizer.backend_tokenizer) is None:
            return state | {"_load_tokenizer": self._load_tokenizer}
        return state | {"tokenizer": Backend(self.tokenizer)}

    def __call__(self, batch: Batch) -> list[list[int] | None]:
        """The reference of each line, `None` for a blank one."""
        start, lines = batch
        visible = [index for index, line in enumerate(lines) if not is_blank(line)]
        references: list[list[int] | None] = [None] * len(lines)
        if visible:
            texts, numbers = [lines[index] for index in visible], [start + index for index in visible]
            positions = line_positions(self.tokenizer, self.segmenter, texts, self.mixed, numbers)
            for index, reference in zip(visible, positions, strict=True):
                references[index] = reference
        return references


def _make_block(annotator: Annotator, output: Output, batch: Batch) -> Block:
    """A batch as the output holds it."""
    return output.block(batch[1], annotator(batch))


@dataclass(frozen=True)
class Output:
    """Where references go: into a reference file, one to a line, or into a table beside the text.

    A name that ends in .jsonl or .parquet is a table, one that ends in / a directory of Parquet files.

    Raises:
        InputError: if the name says that the file is compressed, since plain text is written.
    """

    path: str

    def __post_init__(self) -> None:
        if self.path.endswith(COMPRESSED):
            name, suffix = os.path.splitext(self.path)
            raise InputError(
                f"--save_path: {self.path} would hold plain text, and {suffix} says that it is compressed; give "
                f"{name} and compress it afterwards, or a name that ends in .parquet"
            )

    @property
    def parts(self) -> Path:
        """The directory of the parts until all of them are finished."""
        return Path(f"{self.path.rstrip('/')}.parts")

    @property
    def kind(self) -> str:
        """`directory`, `parquet`, `jsonl` or `references`."""
        if self.path.endswith("/"):
            return "directory"
        return {".parquet": "parquet", ".jsonl": "jsonl"}.get(Path(self.path).suffix, "references")

    def block(self, texts: Sequence[str], references: Sequence[list[int] | None]) -> Block:
        """Lines and their references as a part holds them. `None` is the reference of a blank line."""
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
        """Make the output of its parts, which are in order. An earlier output goes last, its sidecar before it."""
        final, joined = Path(self.path), Path(f"{self.parts}.whole")
        if self.kind == "directory":
            shutil.rmtree(joined, ignore_errors=True)
            joined.mkdir()
            for number, part in enumerate(parts):  # copied: the parts stay until the output is whole
                shutil.copyfile(part, joined / f"part-{number:05d}-of-{len(parts):05d}.parquet")
        elif self.kind == "parquet":
            with write_atomically(joined, binary=True) as file, pq.ParquetWriter(file, SCHEMA) as writer:
                for part in parts:
                    source = pq.ParquetFile(part)
                    for group in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(group))
        else:
            with write_atomically(joined, binary=True) as file:
                for part in parts:
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, file)
        sidecar(self.path).unlink(missing_ok=True)
        if self.kind == "directory" and final.exists():
            shutil.rmtree(final)
        os.replace(joined, final)


def check_output(path: str, overwrite: bool, flag: str = "--save_path") -> None:
    """Raise an `InputError` if there is an output that may not be replaced."""
    beside = sidecar(path)
    if not overwrite and flag == "--save_path" and beside.exists():
        raise InputError(f"{flag}: {beside} exists; give another name, or --overwrite to replace it")
    if not Path(path).exists():
        return
    if not overwrite:
        raise InputError(f"{flag}: {path} exists; give another name, or --overwrite to replace it")
    if (path.endswith("/") or flag == "--bert") and not Path(path).is_dir():
        raise InputError(f"{flag}: {path} is a file, not a directory; give another name")
    if flag == "--save_path" and Path(path).is_dir():
        others = [name for name in os.listdir(path) if not fnmatch(name, "part-*-of-*.parquet")]
        if others or not path.endswith("/"):
            raise InputError(f"{flag}: {path} is a directory with other files; give another name")


def write_references(
    text_paths: Sequence[str],
    output: Output,
    annotator: Annotator,
    work: Work,
    track: Callable[[TextFiles], Iterable[str]] = lambda texts: texts,
    column: Column | None = None,
) -> Provenance | None:
    """Make the references of a text. Memory does not grow with the text.

    Args:
        text_paths: the files of the text, of one format.
        output: appears when it is whole, and replaces what was there.
        annotator: gives the references.
        work: how the work is divided.
        track: wraps the text, for a progress bar.
        column: the text column of tables.

    Returns:
        What the references were made from; `None` for one of several shards.

    Raises:
        InputError: if the text cannot be read, the output cannot be written, or a worker dies. Finished parts stay.
    """
    require_fast(annotator.tokenizer, "--bert")
    with _garbage_left(), output_of_workers("--save_path", output.path, "--num_workers", "go on with --resume"):
        provenance = Provenance(
            tokenizer_sha256=tokenizer_digest(annotator.tokenizer),
            tokenizer=annotator.tokenizer.name_or_path,
            segmenter=annotator.segmenter.identity,
            mixed_words=annotator.mixed,
        )
        directory = _claim_parts(output, provenance, work)
        digest, files = TextDigest(), list[str]()
        lines = track(TextFiles(text_paths, "--file_name", column))
        with _removed_if_empty(directory, work):
            sources = _sources(lines, digest, files, work)
            directory.make(sources, partial(_make_block, annotator, output), work.workers, output.write)
            read = summary(digest.lines - digest.blank, digest.blank, len(text_paths), column)
            logger.warning("--file_name: %s", read)
        if work.shards > 1:
            return None  # other shards may be at work: a last run joins all parts
        if digest.lines == digest.blank:
            shutil.rmtree(directory.path)
            raise InputError(f"--file_name: {text_paths[0]} has no text in it; give a file with a text to a line")
        provenance.lines, provenance.text_sha256 = digest.lines, digest.hexdigest()
        output.join([directory.path / file for file in files])
        write_provenance(output.path, provenance)
        shutil.rmtree(directory.path)
    return provenance


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Keep the garbage collector away from what is loaded: a search in transformers and torch takes 0.1 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _claim_parts(output: Output, provenance: Provenance, work: Work) -> PartsDirectory:
    """The directory of parts, for parts that are made from this."""
    made_from = asdict(provenance) | {"part_lines": work.part_lines, "kind": output.kind}

    def differences(record: dict[str, Any]) -> list[str]:
        return [name for name in made_from if record.get(name) != made_from[name] and name != "tokenizer"]

    directory = PartsDirectory(
        output.parts, "made_from.json", "--save_path", "--overwrite without --resume to start over"
    )
    directory.claim(made_from, differences, start_over=not work.resume and work.shards == 1)
    return directory


@contextmanager
def _removed_if_empty(directory: PartsDirectory, work: Work) -> Iterator[None]:
    """After an error, remove a directory in which no part is finished."""
    try:
        yield
    except BaseException:
        if work.shards == 1 and not list(directory.path.glob("*.part")):
            shutil.rmtree(directory.path)
        raise


def _sources(lines: Iterable[str], whole: TextDigest, files: list[str], work: Work) -> Iterator[PartSource]:
    """The source of each part of this shard, in order.

    Args:
        lines: all lines of the text.
        whole: takes in all lines.
        files: takes in the name of each part of this shard.
        work: how the work is divided.
    """
    remaining = iter(lines)
    for number, line in enumerate(remaining):  # the first line of each part: the body takes the rest
        digest = TextDigest()
        read = _digested(batches(chain([line], islice(remaining, work.part_lines - 1))), whole, digest)
        if number % work.shards == work.shard:
            files.append(f"{number:06d}.part")
            yield PartSource(files[-1], f"part {number + 1}", read, digest)
        deque(read, maxlen=0)  # the lines of other shards count in the digest of the text


def _digested(read: Iterable[list[str]], whole: TextDigest, part: TextDigest) -> Iterator[Batch]:
    """The same lines with the number of the first one. Both digests take them in."""
    for lines in read:
        start = whole.lines + 1
        whole.add(lines)
        part.add(lines)
        yield start, lines
