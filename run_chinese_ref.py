#!/usr/bin/env python
"""Segment Chinese text into words and write a reference file for whole word masking.

    python run_chinese_ref.py --file_name text.txt --segmenter jieba --bert bert-base-chinese --save_path ref.txt

    python run_chinese_ref.py --file_name text.txt --ltp LTP/small --bert bert-base-chinese --save_path ref.txt

`--help` lists the flags, README.md and docs/ say more.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from wordmask.config.parser import Parser, argument, build, check_vocab_size
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.references.provenance import Provenance
from wordmask.references.writer import Annotator, Output, check_output, write_references
from wordmask.utils.errors import InputError, reports_input_errors
from wordmask.utils.files import make_directory_atomically
from wordmask.utils.parts import Work
from wordmask.utils.progress import track_lines
from wordmask.utils.readers import Column, TextFiles, check_column_name, choose_column, text_files


@dataclass
class ReferenceArguments:
    """Which text, whose tokens, and where the references go."""

    file_name: list[str] = argument(
        "The text: files, globs or a directory of txt, csv, tsv, json, jsonl or parquet, also as .gz, .xz or .zst."
    )
    bert: str = argument("The tokenizer that training will use: a directory or a hub id.")
    save_path: str = argument(
        "The reference file to write; a name ending in .jsonl, .parquet or / takes text and references side by side."
    )
    text_column_name: str | None = argument(
        "The column of a table with the text, such as text or review.body; text, or the only one, if not given.",
        default=None,
    )
    vocab_size: int | None = argument(
        "Train a BERT tokenizer with so many entries on the text first, and save it as --bert.", default=None
    )
    overwrite: bool = argument("Replace an existing --save_path, and a --bert that --vocab_size makes.", default=False)
    resume: bool = argument("Go on where an interrupted run of the same flags stopped.", default=False)
    num_workers: int = argument("Processes that segment.", default=1)
    part_lines: int = argument("Lines in a part, the unit that is finished or done again.", default=100_000)
    num_shards: int = argument(
        "Divide the parts over so many runs, on any machines that share --save_path.", default=1
    )
    shard_index: int = argument("Which of these runs this one is, from 0.", default=0)

    def __post_init__(self) -> None:
        check_vocab_size(self.vocab_size)


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> Provenance | None:
    """Run with these arguments (`sys.argv[1:]` if `None`) and return what the references were made from."""
    parser = Parser((ReferenceArguments, SegmentationArguments))
    parser.set_defaults(segmenter="ltp")
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    arguments, segmentation = build(ReferenceArguments, namespace), build(SegmentationArguments, namespace)
    # Imported here, since a worker imports this script as it starts and needs neither.
    from wordmask.utils.hub import load_pretrained_tokenizer

    work = Work(
        arguments.num_workers, arguments.part_lines, arguments.num_shards, arguments.shard_index, arguments.resume
    )
    output = Output(arguments.save_path)
    files = text_files(arguments.file_name, "--file_name")
    _check(arguments, output, files)
    column = choose_column(files, "--file_name", arguments.text_column_name)
    check_column_name([column], arguments.text_column_name, files[0])
    load_tokenizer = partial(load_pretrained_tokenizer, "--bert", arguments.bert)
    annotator = Annotator(load_tokenizer, segmentation.load, segmentation.mixed_words)
    if arguments.vocab_size and not (os.path.exists(arguments.bert) and _goes_on(arguments)):
        _ = annotator.segmenter  # a mistake there shows before the text is read to its end
        _train_tokenizer(files, column, arguments.vocab_size, arguments.bert)

    with track_lines("Segmenting") as track:
        provenance = write_references(files, output, annotator, work, track, column)
    if provenance:
        print(f"{provenance.lines:,} lines, words from {provenance.segmenter['name']}: {arguments.save_path}")
    else:
        print(f"this shard is done; when all are, --resume without --num_shards makes {arguments.save_path}")
    return provenance


def _train_tokenizer(files: Sequence[str], column: Column | None, vocab_size: int, directory: str) -> None:
    """Train a tokenizer on a text, and save it whole or not at all."""
    from wordmask.tokenization.vocabulary import train_tokenizer

    with track_lines("Training a tokenizer") as track:
        texts = track(TextFiles(files, "--file_name", column))
        tokenizer = train_tokenizer("bert", texts, vocab_size)
    try:
        with make_directory_atomically(directory) as whole:
            tokenizer.save_pretrained(whole)
    except OSError as error:
        raise InputError(f"--bert: {directory} cannot be written ({error.strerror}); give another name") from None


def _goes_on(arguments: ReferenceArguments) -> bool:
    """Whether this run takes up what another one began."""
    return arguments.resume or arguments.num_shards > 1


def _check(arguments: ReferenceArguments, output: Output, files: Sequence[str]) -> None:
    """Raise an `InputError` where something would be lost, or a reference file would have no text of its own."""
    check_output(arguments.save_path, arguments.overwrite)
    if os.path.exists(arguments.save_path) and any(os.path.samefile(arguments.save_path, file) for file in files):
        raise InputError(f"--save_path: {arguments.save_path} is the text itself; give another name")
    if output.parts.exists() and not (_goes_on(arguments) or arguments.overwrite):
        raise InputError(
            f"--save_path: an interrupted run lies in {output.parts}; give --resume to go on, or --overwrite to start "
            "over"
        )
    if arguments.vocab_size and not _goes_on(arguments):
        check_output(arguments.bert, arguments.overwrite, flag="--bert")
    if arguments.vocab_size and arguments.num_shards > 1 and not os.path.exists(arguments.bert):
        raise InputError(
            f"--vocab_size: {arguments.bert} does not exist, and each of {arguments.num_shards} shards would train a "
            "tokenizer of its own; train it by a run without --num_shards first, for which a part of the text will "
            "do, then start the shards"
        )
    if len(files) > 1 and output.kind == "references":
        raise InputError(
            f"--file_name: {len(files)} files would share one reference file; run once for each, or let --save_path "
            "end in .jsonl, .parquet or /"
        )


if __name__ == "__main__":
    main()
