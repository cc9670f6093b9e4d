"""Parts on disk: an output that is made piece by piece, each piece once, by one run or by several.

A directory of parts has a record, which says what all parts are made from. Each part is a file with a stamp next to
it: `train-00002-of-00006.arrow` and `train-00002-of-00006.json`. The stamp holds the digest of the part's source, and
the part's size and digest. It is written last, so a part without a stamp is not finished. A run makes the parts that
are not finished or are damaged, and checks the source of the others. So parts do not depend on the number of workers,
on shards, or on interruptions.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, takewhile
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import file_xxh3, read_json, write_atomically, write_json
from wordmask.utils.workers import check_workers, parallel_map

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """How the work is divided.

    Attributes:
        num_workers: processes on this machine.
        part_lines: lines, or texts, in a part.
        num_shards: runs that share the parts, on any machines.
        shard_index: the number of this run, from 0.
        resume: whether the parts of an earlier run are kept.
    """

    num_workers: int = 1
    part_lines: int = 100_000
    num_shards: int = 1
    shard_index: int = 0
    resume: bool = False

    def __post_init__(self) -> None:
        for name in ("num_workers", "part_lines", "num_shards"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}: {getattr(self, name)} is not a positive number; give 1 or more")
        check_workers("--num_workers", self.num_workers)
        if not 0 <= self.shard_index < self.num_shards:
            raise InputError(
                f"--shard_index: {self.shard_index} is out of range for --num_shards {self.num_shards}; it counts "
                f"from 0 to {self.num_shards - 1}"
            )

    @property
    def shard(self) -> int | None:
        """The number of this run; `None` if it does all the work."""
        return self.shard_index if self.num_shards > 1 else None


class Digest(Protocol):
    """A running digest."""

    def hexdigest(self) -> str: ...


class PartSource(NamedTuple):
    """What one part is made from.

    Attributes:
        file: the name of the part's file.
        label: the name of the part in messages.
        batches: the items that the part is made from. Reading them feeds the digest.
        digest: their running digest.
    """

    file: str
    label: str
    batches: Iterable[Any]
    digest: Digest


@dataclass(frozen=True)
class PartsDirectory:
    """A directory of parts.

    Attributes:
        path: the directory.
        record: the name of the record in it.
        flag: the flag that names the directory or the output, for error messages.
        advice: what to do when the parts were made from something else.
    """

    path: Path
    record: str
    flag: str
    advice: str

    def claim(
        self, made_from: Any, differences: Callable[[dict[str, Any]], list[str]], start_over: bool = False
    ) -> None:
        """Make the directory and its record, or check that its parts are made from the same.

        Args:
            made_from: the record, a value that JSON can hold.
            differences: the names of what differs, given the record that is there.
            start_over: whether to remove earlier parts.

        Raises:
            InputError: if the directory holds something else, or its parts are made from something else.
        """
        record = self.path / self.record
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.flag}: {self.path} is a file; give another name")
        self.path.mkdir(parents=True, exist_ok=True)
        others = [file.name for file in self.path.iterdir() if not file.name.startswith(".")]
        if others and not record.exists():
            raise InputError(f"{self.flag}: {self.path} holds {min(others)} and is not ours; give another name")
        if start_over:
            shutil.rmtree(self.path)
        if not record.exists():  # shards that start together all write the same
            write_json(record, made_from)
        different = differences(self.read())
        if different:
            raise InputError(
                f"{self.flag}: {self.path} was made with another {', another '.join(different)}; give the same "
                f"flags, or {self.advice}"
            )

    def read(self) -> dict[str, Any]:
        """The record.

        Raises:
            FileNotFoundError: if there is none.
            InputError: if it cannot be read.
        """
        path = self.path / self.record
        try:
            return dict(read_json(path))
        except FileNotFoundError:
            raise
        except (ValueError, TypeError, OSError) as error:
            raise InputError(f"{self.flag}: {path} cannot be read ({one_line(error)}); {self.advice}") from None

    def is_finished(self, file: str) -> bool:
        """Whether a part and its stamp are there, and nobody has cut the part off. The part is not read."""
        path, stamp = self.path / file, self._read_stamp(file)
        return path.exists() and stamp.get("bytes") == path.stat().st_size

    def _is_intact(self, file: str) -> bool:
        """Whether a part is finished, and holds what was written."""
        if not self.is_finished(file):
            return False
        is_intact = self._read_stamp(file).get("content_xxh3_128") == file_xxh3(self.path / file)
        if not is_intact:
            logger.warning("%s: %s is damaged, so it is made again", self.flag, self.path / file)
        return is_intact

    def make(
        self,
        sources: Iterable[PartSource],
        function: Callable[[Any], Any],
        workers: int,
        write: Callable[[IO[bytes], Iterator[Any]], Any],
    ) -> None:
        """Make the parts that are not finished, and check the source of those that are.

        Args:
            sources: what each part is made from, in order.
            function: what to do with a batch. We send it to each worker once.
            workers: the number of processes.
            write: writes the results of a part to its file.

        Raises:
            InputError: if a finished part was made from another source.
        """
        stamps: dict[str, str] = {}

        def unfinished() -> Iterator[tuple[str, Any]]:
            """The batches of each part that is not finished, with its file; `None` ends a part."""
            for file, label, batches, digest in sources:
                finished = self._is_intact(file)
                for batch in batches:
                    if not finished:
                        yield file, batch
                stamps[file] = digest.hexdigest()
                if not finished:
                    yield file, None
                elif stamps[file] != self._read_stamp(file).get("sha256"):
                    raise InputError(f"{self.flag}: {label} in {self.path} was made from another text; {self.advice}")

        with parallel_map(partial(_of_part, function), workers) as map_batches:
            # All parts share one stream, so that workers stay busy where one part ends and the next begins.
            # The results (a, 1) (a, 2) (a, None) (b, 3) (b, None) become 1 2 in file a, and 3 in file b.
            for file, results in groupby(map_batches(unfinished()), key=itemgetter(0)):
                self._stamp(file).unlink(missing_ok=True)
                with write_atomically(self.path / file, binary=True) as output:
                    write(output, takewhile(lambda result: result is not None, map(itemgetter(1), results)))
                content = {"bytes": (self.path / file).stat().st_size, "content_xxh3_128": file_xxh3(self.path / file)}
                write_json(self._stamp(file), {"sha256": stamps[file], **content})

    def _read_stamp(self, file: str) -> dict[str, Any]:
        """The stamp of a part; empty if there is none that can be read."""
        try:
            return dict(read_json(self._stamp(file)))
        except (FileNotFoundError, ValueError, TypeError):
            return {}

    def _stamp(self, file: str) -> Path:
        return (self.path / file).with_suffix(".json")


def _of_part(function: Callable[[Any], Any], item: tuple[str, Any]) -> tuple[str, Any]:
    """The result of a batch, with the file of its part."""
    file, batch = item
    return file, None if batch is None else function(batch)
