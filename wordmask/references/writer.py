"""Making references: of a corpus of any size, on any number of processes, and going on where a run was interrupted.

The lines are divided into parts of equal number. A part is segmented in batches that its content alone decides, is
written under a temporary name and then renamed; when all parts are there, they are put together. So the result does
not depend on the number of workers, on interruptions, or on how parts were divided over machines.
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
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from wordmask.references.format import Provenance, TextDigest, sidecar, tokenizer_digest, write_provenance
from wordmask.references.positions import line_positions
from wordmask.segmenters import Segmenter
from wordmask.tokenization.encoding import Backend, backend_state, require_fast
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError, output_of_workers
from wordmask.utils.files import COMPRESSED, is_blank, write_atomically
from wordmask.utils.readers import Column, TextFiles, summary
from wordmask.utils.workers import parallel_map

logger = logging.getLogger(__name__)

ROW_GROUP = 10  # batches
Batch: TypeAlias = tuple[int, list[str]]  # the number of the first line in the text, and lines
Block: TypeAlias = bytes | pa.Table  # what a batch becomes in the output
Annotate: TypeAlias = Callable[[Iterable[Batch]], Iterable[tuple[Block, bool]]]  # whether there is text in it, too
SCHEMA = pa.schema({"text": pa.string(), "chinese_ref": pa.list_(pa.int32())})


class Annotator:
    """Gives the references of lines. It is sent to each worker, and loads what it needs there.

    Args:
        load_tokenizer: gives a fast tokenizer.
        load_segmenter: gives a segmenter; for several workers both functions must be such as can be pickled.
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
        """What a worker needs: the backend of the tokenizer alone, so that it starts in a second without transformers,
        or how to load the tokenizer where a part of it is written in Python."""
        state = {"_load_segmenter": self._load_segmenter, "mixed": self.mixed}
        if backend_state(self.tokenizer) is None:
            return state | {"_load_tokenizer": self._load_tokenizer}
        return state | {"tokenizer": Backend(self.tokenizer)}

    def __call__(self, batch: Batch) -> list[list[int] | None]:
        """The reference of each line, `None` for a blank one."""
        first, lines = batch
        places = [place for place, line in enumerate(lines) if not is_blank(line)]
        references: list[list[int] | None] = [None] * len(lines)
        if places:
            texts, numbers = [lines[place] for place in places], [first + place for place in places]
            positions = line_positions(self.tokenizer, self.segmenter, texts, self.mixed, numbers)
            for place, reference in zip(places, positions, strict=True):
                references[place] = reference
        return references


def _bytes(block: Block) -> int:
    return block.nbytes if isinstance(block, pa.Table) else len(block)


def _make_block(annotator: Annotator, output: Output, batch: Batch) -> tuple[Block, bool]:
    """A batch as it stands in the output, and whether there is text in it."""
    references = annotator(batch)
    return output.block(batch[1], references), any(reference is not None for reference in references)


@dataclass(frozen=True)
class Output:
    """Where references go: one to a line of a reference file, or side by side with the text in a table.

    A name that ends in .jsonl or .parquet is a table, one that ends in / a directory of Parquet files.

    Raises:
        InputError: where what is written, plain as it is, would be read as compressed.
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
        """The directory of the parts until all of them are there."""
        return Path(f"{self.path.rstrip('/')}.parts")

    @property
    def kind(self) -> str:
        """`directory`, `parquet`, `jsonl` or `references`."""
        if self.path.endswith("/"):
            return "directory"
        return {".parquet": "parquet", ".jsonl": "jsonl"}.get(Path(self.path).suffix, "references")

    def block(self, texts: Sequence[str], references: Sequence[list[int] | None]) -> Block:
        """What lines and their references become in a part, `None` being the reference of a blank line."""
        if self.kind in ("directory", "parquet"):
            return pa.table([texts, [reference or [] for reference in references]], SCHEMA)
        if self.kind == "jsonl":
            columns = zip(texts, references, strict=True)
            rows = ({"text": text, "chinese_ref": reference or []} for text, reference in columns)
            return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        # A list of integers looks the same in Python and in JSON.
        return "".join("\n" if reference is None else f"{reference}\n" for reference in references).encode()

    def write(self, path: Path, blocks: Iterable[Block]) -> None:
        """Write a part."""
        with write_atomically(path, binary=True) as file:
            if self.kind in ("directory", "parquet"):
                with pq.ParquetWriter(file, SCHEMA) as writer:
                    for tables in batches(blocks, ROW_GROUP, weight=_bytes):
                        writer.write_table(pa.concat_tables(tables))
            else:
                file.writelines(blocks)

    def put_together(self, parts: Sequence[Path]) -> None:
        """Make the output of its parts, which are in order; the sidecar of what was there goes before that does."""
        final, gathered = Path(self.path), Path(f"{self.parts}.whole")
        if self.kind == "directory":
            shutil.rmtree(gathered, ignore_errors=True)
            gathered.mkdir()
            for number, part in enumerate(parts):  # copied, so that the parts stay until all is done
                shutil.copyfile(part, gathered / f"part-{number:05d}-of-{len(parts):05d}.parquet")
        elif self.kind == "parquet":
            with write_atomically(gathered, binary=True) as file, pq.ParquetWriter(file, SCHEMA) as writer:
                for part in parts:
                    source = pq.ParquetFile(part)
                    for group in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(group))
        else:
            with write_atomically(gathered, binary=True) as file:
                for part in parts:
                    with open(part, "rb") as source:
                        shutil.copyfileobj(source, file)
        sidecar(self.path).unlink(missing_ok=True)
        if self.kind == "directory" and final.exists():
            shutil.rmtree(final)
        os.replace(gathered, final)


@dataclass(frozen=True)
class Work:
    """How the work is divided.

    Attributes:
        workers: processes on this machine.
        part_lines: lines in a part.
        shards: runs that share the parts, on any machines.
        shard: which of them this one is.
        resume: whether parts of an earlier run are kept.
    """

    workers: int = 1
    part_lines: int = 100_000
    shards: int = 1
    shard: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        for flag, value in (
            ("num_workers", self.workers),
            ("part_lines", self.part_lines),
            ("num_shards", self.shards),
        ):
            if value < 1:
                raise InputError(f"--{flag}: {value} is not a positive number")
        if not 0 <= self.shard < self.shards:
            raise InputError(
                f"--shard_index: {self.shard} is out of range for --num_shards {self.shards}; it counts from 0 to "
                f"{self.shards - 1}"
            )


def check_output(path: str, overwrite: bool, flag: str = "--save_path") -> None:
    """Raise an `InputError` where an output that may not be replaced exists."""
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
        output: appears when it is whole; what was there is replaced.
        annotator: gives the references.
        work: how the work is divided.
        track: wraps the texts, for a progress bar.
        column: the text column of tables.

    Returns:
        What the references were made from; `None` for one of several shards.

    Raises:
        InputError: where text or output cannot be had, or a worker dies. Finished parts stay, for `resume`.
    """
    tokenizer, segmenter = annotator.tokenizer, annotator.segmenter
    require_fast(tokenizer, "--bert")
    with _garbage_left(), output_of_workers("--save_path", output.path, "--num_workers", "go on with --resume"):
        provenance = Provenance(
            tokenizer_sha256=tokenizer_digest(tokenizer),
            tokenizer=tokenizer.name_or_path,
            segmenter=segmenter.identity,
            mixed_words=annotator.mixed,
        )
        digest = TextDigest()
        texts = track(TextFiles(text_paths, "--file_name", column))
        make_block = partial(_make_block, annotator, output)
        with _open_parts(output, provenance, work), parallel_map(make_block, work.workers) as annotate:
            parts = _write_parts(texts, digest, output, work, annotate)
            read = summary(digest.lines - digest.blank, digest.blank, len(text_paths), column)
            logger.warning("--file_name: %s", read)
            if work.shards > 1:
                return None  # another shard may be at work: a last run puts all parts together
            if not any(json.loads(_stamp(part).read_text())["text"] for part in parts):
                deque(map(Path.unlink, parts), maxlen=0)
                raise InputError(f"--file_name: {text_paths[0]} has no text in it; give a file with a text to a line")
        provenance.lines, provenance.text_sha256 = digest.lines, digest.hexdigest()
        output.put_together(parts)
        write_provenance(output.path, provenance)
        shutil.rmtree(output.parts)
    return provenance


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Do not look for garbage in what is there already: in all that transformers and torch hold, that takes 0.1 s."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def _open_parts(output: Output, provenance: Provenance, work: Work) -> Iterator[None]:
    """Make the directory of parts, or check that those in it were made from the same; an error before any part is
    finished leaves none."""
    record = output.parts / "made_from.json"
    settings = asdict(provenance) | {"part_lines": work.part_lines, "kind": output.kind}
    others = [path for path in output.parts.glob("*") if not path.name.startswith(f".{record.name}")]
    if others and not record.exists():
        raise InputError(f"--save_path: {output.parts}, where parts would go, is not this suite's; give another name")
    if output.parts.exists() and not (work.resume or work.shards > 1):
        shutil.rmtree(output.parts)
    output.parts.mkdir(parents=True, exist_ok=True)
    if not record.exists():
        with write_atomically(record) as file:
            json.dump(settings, file)
    before = json.loads(record.read_text())
    different = [name for name in settings if before.get(name) != settings[name] and name != "tokenizer"]
    if different:
        raise InputError(
            f"--resume: the parts in {output.parts} were made with another {', '.join(different)}; give the same "
            "flags, or --overwrite without --resume to start over"
        )
    try:
        yield
    except BaseException:
        if work.shards == 1 and not list(output.parts.glob("*.part")):
            shutil.rmtree(output.parts)
        raise


def _stamp(part: Path) -> Path:
    """Where the digest of a part's lines lies."""
    return part.with_suffix(".json")


def _write_parts(
    lines: Iterable[str],
    whole: TextDigest,
    output: Output,
    work: Work,
    annotate: Annotate,
) -> list[Path]:
    """Write this shard's parts that are not there yet, and return them all; `whole` takes in every line."""
    parts = []
    remaining = iter(lines)
    for number, first in enumerate(remaining):  # the body takes the rest of the part
        own = chain([first], islice(remaining, work.part_lines - 1))
        part, digest = output.parts / f"{number:06d}.part", TextDigest()
        read = _digested(batches(own), whole, digest)
        if number % work.shards != work.shard:
            deque(read, maxlen=0)
            continue
        parts.append(part)
        if not _stamp(part).exists():
            text = _write_part(part, read, output, annotate)
            with write_atomically(_stamp(part)) as file:
                json.dump({"sha256": digest.hexdigest(), "lines": digest.lines, "text": text}, file)
            continue
        deque(read, maxlen=0)
        if json.loads(_stamp(part).read_text())["sha256"] != digest.hexdigest():
            raise InputError(f"--resume: the text has changed since {output.parts} was made; start over")
    return parts


def _digested(read: Iterable[list[str]], whole: TextDigest, part: TextDigest) -> Iterator[Batch]:
    """The same lines, numbered in the whole text, and taken into account as they pass."""
    for lines in read:
        first = whole.lines + 1
        whole.add(lines)
        part.add(lines)
        yield first, lines


def _write_part(part: Path, read: Iterable[Batch], output: Output, annotate: Annotate) -> bool:
    """Write a part and say whether there is text in it."""
    some_text = False

    def blocks() -> Iterator[Block]:
        nonlocal some_text
        for block, has_text in annotate(read):
            some_text |= has_text
            yield block

    output.write(part, blocks())
    return some_text
