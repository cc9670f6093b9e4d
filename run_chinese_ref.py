#!/usr/bin/env python
"""Split text of any language into words, and write a reference file for whole word masking.

    python run_chinese_ref.py --file_name text.txt --segmenter jieba --bert bert-base-chinese --save_path ref.txt

    python run_chinese_ref.py --file_name text.txt --ltp LTP/small --bert bert-base-chinese --save_path ref.txt

Its other name is `wordmask ref`. `--help` lists the flags. docs/languages.md and docs/chinese.md say more.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from wordmask.utils.script import reports_input_errors, while_importing

with while_importing(__name__):
    from wordmask.config.number_checks import check_vocab_size
    from wordmask.config.parser import Parser, argument, build
    from wordmask.config.segmenter_arguments import SegmentationArguments
    from wordmask.references.output import Output, check_new_tokenizer, check_output
    from wordmask.references.provenance import Provenance, sidecar
    from wordmask.references.writer import Annotator, made_before, write_references
    from wordmask.segmenters import Segmenter
    from wordmask.utils.errors import InputError
    from wordmask.utils.files import make_directory_atomically
    from wordmask.utils.lock import locked
    from wordmask.utils.parts import Work
    from wordmask.utils.processes import check_one_process, world_size
    from wordmask.utils.progress import tracked_lines
    from wordmask.utils.quantities import counted
    from wordmask.utils.readers import Column, TextReader, check_column_name, choose_column
    from wordmask.utils.readers.paths import NAMED, find_text_files
    from wordmask.utils.terminal import clean, terminal, use
    from wordmask.utils.write_errors import write_reported

logger = logging.getLogger(__name__)

FIRST_LINES = 1000  # that are read to see their language
DESCRIPTION = (
    "Find the words of a text in Chinese, Japanese, Thai, Khmer or any other language, and write them to a reference "
    "file for whole word masking. docs/languages.md names a segmenter for each language."
)


@dataclass
class ReferenceArguments:
    """The text, the tokenizer, and the output."""

    file_name: list[str] = argument(f"The text: files, globs or a directory. Formats: {NAMED}, also .gz, .xz or .zst.")
    bert: str = argument("The tokenizer that you will train with: a directory or a hub id.")
    save_path: str = argument(
        "The reference file to write. If its name ends in .jsonl, .parquet or /, it has the text, too."
    )
    trust_remote_code: bool = argument("Run code that comes with the tokenizer.", default=False)
    text_column_name: str | None = argument(
        "The column with the text, for example review.body. Without it: text, or the only column.", default=None
    )
    vocab_size: int | None = argument(
        "First train a BERT tokenizer with this many entries on the text, and save it as --bert.", default=None
    )
    overwrite: bool = argument(
        "Replace an existing --save_path, and an existing --bert if --vocab_size is given.", default=False
    )
    resume: bool = argument("Continue an interrupted run. Give the same flags again.", default=False)
    num_workers: int = argument("The number of worker processes.", default=1)
    part_lines: int = argument(
        "The number of examples in a part of the work. --resume repeats only unfinished parts.", default=100_000
    )
    num_shards: int = argument(
        "Divide the work between this many runs. Their machines share the directory of --save_path.", default=1
    )
    shard_index: int = argument("The number of this run, from 0 to --num_shards - 1.", default=0)

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> Provenance | None:
    """Write the references of a text.

    Args:
        argv: the arguments; `sys.argv[1:]` if `None`.

    Returns:
        What the references were made from; `None` if this run is one of several shards.
    """
    parser = Parser((ReferenceArguments, SegmentationArguments), description=DESCRIPTION)
    parser.set_defaults(segmenter="ltp")
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    arguments, segmentation = build(ReferenceArguments, namespace), build(SegmentationArguments, namespace)
    work = Work(
        arguments.num_workers, arguments.part_lines, arguments.num_shards, arguments.shard_index, arguments.resume
    )
    if work.num_shards == 1:
        check_one_process(world_size(), "--save_path", "--num_workers")
    output = Output(arguments.save_path)
    use(None)  # shows log messages, with what a terminal would obey as text
    files = find_text_files(arguments.file_name, "--file_name")
    with locked(output.lock, f"--save_path: {arguments.save_path}", work.shard):
        try:
            return _make(arguments, segmentation, work, output, files)
        except KeyboardInterrupt:
            if output.parts.exists():
                print("\nto go on with what is done, run the same command with --resume", end="", file=sys.stderr)
            raise


def _make(
    arguments: ReferenceArguments,
    segmentation: SegmentationArguments,
    work: Work,
    output: Output,
    files: Sequence[str],
) -> Provenance | None:
    """Make the references, and before them a tokenizer with --vocab_size."""
    # Imported here, because each worker imports this script when it starts and does not need the hub.
    from wordmask.utils.hub import load_pretrained_tokenizer

    _check(arguments, output, files)
    _check_names(arguments, segmentation)
    column = choose_column(files, "--file_name", arguments.text_column_name)
    check_column_name([column], arguments.text_column_name, files[0])
    load_tokenizer = partial(
        load_pretrained_tokenizer, "--bert", arguments.bert, trust_remote_code=arguments.trust_remote_code
    )
    annotator = Annotator(load_tokenizer, segmentation.load, segmentation.mixed_words)
    if arguments.vocab_size:
        _ = annotator.segmenter  # shows a mistake in its flags before we read the whole text
        path = Path(arguments.bert)
        with locked(path.parent / f".{path.name}.wordmask", f"--bert: {path}"):
            if not (path.exists() and _continues(arguments)):
                check_new_tokenizer(arguments.bert, arguments.overwrite)
                _train_tokenizer(files, column, arguments.vocab_size, arguments.bert)
    if _is_complete(arguments, output):
        made = made_before(arguments.save_path, annotator, files, column)
        print(clean(f"{arguments.save_path} is complete; --overwrite makes it again"))
        return made
    terminal().doing("loading the segmenter")
    _warn_of_other_language(files, column, annotator.segmenter, str(segmentation.segmenter))
    track = partial(tracked_lines, description="segmenting")
    provenance = write_references(files, output, annotator, work, track, column)
    if provenance:
        sentence = (
            f"{counted(provenance.lines, 'line')}, words from {provenance.segmenter['name']}: {arguments.save_path}"
        )
    else:
        sentence = f"this shard is done; when all are, --resume without --num_shards makes {arguments.save_path}"
    terminal().close()
    print(clean(sentence))
    return provenance


def _warn_of_other_language(files: Sequence[str], column: Column | None, segmenter: Segmenter, name: str) -> None:
    """Log a warning if the first lines are in a language that a segmenter was not made for."""
    from wordmask.data.findings import Findings, unknown_scripts
    from wordmask.data.segmenter_advice import without_words
    from wordmask.tokenization.words import Characters

    if scripts := unknown_scripts(segmenter):
        lines = [*islice(TextReader(files, "--file_name", column), FIRST_LINES)]
        for sentence in without_words(Findings.of(Characters(lines), scripts), "--file_name", name):
            logger.warning(sentence)


def _check_names(arguments: ReferenceArguments, segmentation: SegmentationArguments) -> None:
    """Raise an `InputError` if there is no such tokenizer or LTP model. Loading would try the hub for a minute."""
    from huggingface_hub import constants

    from wordmask.utils.hub import check_model_exists

    names = {"--bert": None if arguments.vocab_size else arguments.bert, "--ltp": segmentation.ltp}
    for flag, name in names.items():
        if name and not constants.is_offline_mode():  # offline, loading fails as fast
            check_model_exists(name, flag)


def _train_tokenizer(files: Sequence[str], column: Column | None, vocab_size: int, directory: str) -> None:
    """Train a tokenizer on a text and save it. If saving fails, no directory is left."""
    from wordmask.tokenization.train_tokenizer import train_tokenizer

    texts = tracked_lines(TextReader(files, "--file_name", column), "training a tokenizer")
    tokenizer = train_tokenizer("bert", texts, vocab_size)
    with write_reported(f"--bert: {directory}", "give another name"), make_directory_atomically(directory) as whole:
        tokenizer.save_pretrained(whole)


def _continues(arguments: ReferenceArguments) -> bool:
    """Whether this run may continue the work of another run."""
    return arguments.resume or arguments.num_shards > 1


def _is_complete(arguments: ReferenceArguments, output: Output) -> bool:
    """Whether --resume finds all references there, and nothing left to do."""
    is_there = os.path.exists(arguments.save_path) and sidecar(arguments.save_path).exists()
    return arguments.resume and is_there and not (arguments.overwrite or output.parts.exists())


def _check(arguments: ReferenceArguments, output: Output, files: Sequence[str]) -> None:
    """Raise an `InputError` if this run would overwrite something, or mix the references of several texts."""
    # A run that was killed between the output and its sidecar has both its parts and the output, and no sidecar.
    completes = arguments.resume and output.parts.exists() and not sidecar(arguments.save_path).exists()
    if not _is_complete(arguments, output):
        check_output(arguments.save_path, arguments.overwrite or completes)
    if os.path.exists(arguments.save_path) and any(os.path.samefile(arguments.save_path, file) for file in files):
        raise InputError(f"--save_path: {arguments.save_path} is the text itself; give another name")
    if output.parts.exists() and not (_continues(arguments) or arguments.overwrite):
        raise InputError(
            f"--save_path: {output.parts} holds an interrupted run; give --resume to continue it, or --overwrite to "
            "start again"
        )
    if arguments.vocab_size and not _continues(arguments):
        check_new_tokenizer(arguments.bert, arguments.overwrite)
    if arguments.vocab_size and arguments.num_shards > 1 and not os.path.exists(arguments.bert):
        raise InputError(
            f"--vocab_size: {arguments.bert} does not exist, and each of {arguments.num_shards} shards would train "
            "its own tokenizer; first train one with a run without --num_shards, on a piece of the text, then start "
            "the shards"
        )
    if len(files) > 1 and output.kind == "references":
        raise InputError(
            f"--file_name: {len(files)} files would share one reference file; run once for each file, or give a "
            "--save_path that ends in .jsonl, .parquet or /"
        )


if __name__ == "__main__":
    main()
