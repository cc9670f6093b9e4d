"""Write the references of a text of any size, with any number of processes. A run can continue after an interruption.

The lines are divided into parts of equal size, see `wordmask.utils.parts`. When all parts are finished, they are
joined into the output, see output.py. So the output does not depend on workers, interruptions or machines.
"""

from __future__ import annotations

import gc
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain, compress, count, islice
from typing import Any, TypeAlias

from wordmask.references.content import check_output_content, content_digests
from wordmask.references.output import Block, Output
from wordmask.references.positions import line_positions
from wordmask.references.provenance import (
    Provenance,
    TextDigest,
    check_text,
    check_tokenizer,
    read_provenance,
    write_provenance,
)
from wordmask.segmenters import Segmenter, identity_of
from wordmask.tokenization.backend import Backend, is_backend_alone, tokenizer_digest
from wordmask.tokenization.special_tokens import special_ids
from wordmask.tokenization.words import SCRIPTS
from wordmask.utils.batches import batches
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.parts import PartsDirectory, PartSource, Work
from wordmask.utils.progress import tracked_lines
from wordmask.utils.quantities import counted
from wordmask.utils.readers import Column, TextReader, summary
from wordmask.utils.write_errors import output_of_workers

logger = logging.getLogger(__name__)

Batch: TypeAlias = tuple[int, list[str]]  # the number of the first line in the text, and lines
NO_POSITION = (
    "--save_path: no token in %s continues a word, so it joins no tokens; either the words of %s are no words of this "
    "language (docs/languages.md names a segmenter for each), or the tokenizer has one token, such as [UNK], for each"
)
# What parts are made from: the keys of their record, and how we call each.
_COMPARED = {
    "tokenizer_sha256": "tokenizer",
    "segmenter": "segmenter",
    "any_script": "segmenter",
    "mixed_words": "--mixed_words",
    "part_lines": "--part_lines",
    "kind": "kind of output",
    "decides": "version of wordmask",
}


class Annotator:
    """Makes the references of lines. Each worker gets a copy, which loads what it needs.

    Args:
        load_tokenizer: returns a tokenizer.
        load_segmenter: returns a segmenter, given a function that returns the tokenizer. With several workers, pickle
            must be able to send both functions.
        mixed: whether words of mixed script count.
    """

    def __init__(
        self,
        load_tokenizer: Callable[[], Any],
        load_segmenter: Callable[[Callable[[], Any]], Segmenter],
        mixed: bool = False,
    ):
        self._load_tokenizer, self._load_segmenter, self.mixed = load_tokenizer, load_segmenter, mixed

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, loaded at its first use in this process."""
        return self._load_tokenizer()

    @cached_property
    def segmenter(self) -> Segmenter:
        """What finds the words, loaded at its first use in this process."""
        return self._load_segmenter(lambda: self.tokenizer)

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs: of the tokenizer only the backend, so the worker starts in a second, without
        transformers. If the tokenizer, or a part of it, is Python code, it cannot be sent, and the worker loads it."""
        state = {"_load_segmenter": self._load_segmenter, "mixed": self.mixed}
        if not is_backend_alone(self.tokenizer):
            return state | {"_load_tokenizer": self._load_tokenizer}
        return state | {"tokenizer": Backend(self.tokenizer, special_ids(self.tokenizer))}

    def __call__(self, batch: Batch) -> list[list[int] | None]:
        """The reference of each line, `None` for a blank one."""
        start, lines = batch
        visible = [not is_blank(line) for line in lines]
        numbers, texts = [*compress(count(start), visible)], [*compress(lines, visible)]
        references = iter(line_positions(self.tokenizer, self.segmenter, texts, self.mixed, numbers) if texts else [])
        return [next(references) if is_visible else None for is_visible in visible]


def _make_block(annotator: Annotator, output: Output, batch: Batch) -> Block:
    """A batch in the form of the output."""
    return output.block(batch[1], annotator(batch))


def write_references(
    text_paths: Sequence[str],
    output: Output,
    annotator: Annotator,
    work: Work,
    track: Callable[[TextReader], Iterable[str]] = lambda texts: texts,
    column: Column | None = None,
) -> Provenance | None:
    """Make the references of a text. Memory does not grow with the text.

    Args:
        text_paths: the files of the text, of one format.
        output: where the references go. The output appears when it is complete, and replaces what was there.
        annotator: makes the references.
        work: how the work is divided.
        track: wraps the text, for a progress bar.
        column: the text column of tables.

    Returns:
        What the references were made from; `None` for one of several shards.

    Raises:
        InputError: if the text cannot be read, the output cannot be written, or a worker dies. Finished parts stay.
    """
    gc.freeze()  # the garbage collector need not search what is loaded: transformers and torch take it 0.1 s
    with output_of_workers("--save_path", output.path, "--num_workers", "continue with --resume"):
        provenance = Provenance(
            tokenizer_sha256=tokenizer_digest(annotator.tokenizer),
            tokenizer=annotator.tokenizer.name_or_path,
            segmenter=identity_of(annotator.segmenter),
            mixed_words=annotator.mixed,
            any_script=annotator.segmenter.any_script,
            decides=[*SCRIPTS],
        )
        directory = _claim_parts(output, provenance, work)
        if done := sum(directory.is_finished(part.name) for part in directory.path.glob("*.part")):
            logger.warning("--save_path: keeping %s from before", counted(done, "part"))
        digest, files = TextDigest(), list[str]()
        sources = _sources(track(TextReader(text_paths, "--file_name", column)), digest, files, work)
        try:
            directory.make(sources, partial(_make_block, annotator, output), work.num_workers, output.write)
        except BaseException:
            if work.num_shards == 1 and not list(directory.path.glob("*.part")):
                shutil.rmtree(directory.path)  # no part is finished
            raise
        text_count = digest.lines - digest.blank
        logger.warning("--file_name: %s", summary(text_count, digest.blank, len(text_paths), column))
        if work.num_shards > 1:
            return None  # other shards may still run: a last run joins all parts
        if not text_count:
            shutil.rmtree(directory.path)
            raise InputError(f"--file_name: {text_paths[0]} has no text in it; give a file with a text to a line")
        provenance.lines, provenance.text_sha256 = digest.lines, digest.hexdigest()
        output.join([directory.path / file for file in files])
        provenance.contents = content_digests(output.path)
        write_provenance(output.path, provenance)
        shutil.rmtree(directory.path)
    if not output.has_positions():
        logger.warning(NO_POSITION, output.path, provenance.segmenter["name"])
    return provenance


def made_before(path: str, annotator: Annotator, text_paths: Sequence[str], column: Column | None) -> Provenance:
    """What a complete output was made from; raise an `InputError` if this run would make another one."""
    made = read_provenance(path, "--save_path") or Provenance()
    check_tokenizer(made, annotator.tokenizer, path, "--save_path")
    own = Provenance(segmenter=identity_of(annotator.segmenter), mixed_words=annotator.mixed)
    if made.words != own.words:
        raise InputError(
            f"--save_path: {path} has words from {made.words}, not from {own.words}; give --overwrite to make it again"
        )
    digest = TextDigest()
    for lines in batches(tracked_lines(TextReader(text_paths, "--file_name", column), "comparing the text")):
        digest.add(lines)
    others = f" and {counted(len(text_paths) - 1, 'other file')}" if len(text_paths) > 1 else ""
    check_text(
        made, digest, text_paths[0] + others, path, "--save_path", "give --overwrite to make the references again"
    )
    check_output_content(made, path, "--save_path")
    return made


def _claim_parts(output: Output, provenance: Provenance, work: Work) -> PartsDirectory:
    """The directory of parts. An earlier run must have made its parts from the same."""
    made_from = asdict(provenance) | {"part_lines": work.part_lines, "kind": output.kind}

    def differences(record: dict[str, Any]) -> list[str]:
        return [*dict.fromkeys(name for key, name in _COMPARED.items() if record.get(key) != made_from[key])]

    several = work.num_shards > 1  # which must not remove the parts of others
    advice = f"remove {output.parts} to start over" if several else "give --overwrite without --resume to start over"
    directory = PartsDirectory(output.parts, "made_from.json", "--save_path", advice)
    directory.claim(made_from, differences, start_over=not work.resume and work.num_shards == 1)
    return directory


def _sources(lines: Iterable[str], whole: TextDigest, files: list[str], work: Work) -> Iterator[PartSource]:
    """The source of each part of this shard, in order.

    Args:
        lines: all lines of the text.
        whole: a digest that all lines are added to.
        files: a list that the name of each part of this shard is added to.
        work: how the work is divided.
    """
    remaining = iter(lines)
    for number, first_line in enumerate(remaining):  # the first line of each part; the body takes the others
        digest = TextDigest()
        part_lines = chain([first_line], islice(remaining, work.part_lines - 1))
        numbered = _digested(batches(part_lines), whole, digest)
        if number % work.num_shards == work.shard_index:
            files.append(f"{number:06d}.part")
            yield PartSource(files[-1], f"part {number + 1}", numbered, digest)
        deque(numbered, maxlen=0)  # the lines of other shards count in the digest of the text


def _digested(line_batches: Iterable[list[str]], whole: TextDigest, part: TextDigest) -> Iterator[Batch]:
    """The same lines, with the number of the first one. They are added to both digests."""
    for lines in line_batches:
        start = whole.lines + 1
        whole.add(lines)
        part.add(lines)
        yield start, lines
