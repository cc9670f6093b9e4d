#!/usr/bin/env python
"""Segment Chinese text into words and write a reference file for whole word masking.

    python run_chinese_ref.py --file_name text.txt --segmenter jieba --bert bert-base-chinese --save_path ref.txt

    python run_chinese_ref.py --file_name text.txt --ltp LTP/small --bert bert-base-chinese --save_path ref.txt

`--help` lists the flags, README.md and docs/ say more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from wordmask.commandline import Parser, argument, build
from wordmask.errors import reports_input_errors
from wordmask.hub import load_pretrained_tokenizer
from wordmask.progress import track_lines
from wordmask.references import Provenance, check_output, write_references
from wordmask.segmentation import SegmentationArguments
from wordmask.textfiles import expand_files, read_lines
from wordmask.vocabulary import train_tokenizer


@dataclass
class ReferenceArguments:
    """Which text, whose tokens, and where the references go."""

    file_name: str = argument("The text: UTF-8, a text to a line, plain or as .gz, .xz or .zst.")
    bert: str = argument("The tokenizer that training will use: a directory or a hub id.")
    save_path: str = argument("The reference file to write.")
    vocab_size: int | None = argument(
        "Train a BERT tokenizer with so many entries on the text first, and save it as --bert.", default=None
    )
    overwrite: bool = argument("Replace an existing --save_path, and a --bert that --vocab_size makes.", default=False)


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> Provenance:
    """Run with these arguments (`sys.argv[1:]` if `None`) and return what the file was made from."""
    parser = Parser((ReferenceArguments, SegmentationArguments))
    parser.set_defaults(segmenter="ltp")
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    arguments, segmentation = build(ReferenceArguments, namespace), build(SegmentationArguments, namespace)
    files = expand_files([arguments.file_name], "--file_name")
    check_output(arguments.save_path, arguments.overwrite)
    tokenizer = _tokenizer(arguments, files)
    segmenter = segmentation.load()
    with track_lines("Segmenting", files) as track:
        provenance = write_references(
            files, arguments.save_path, tokenizer, segmenter, segmentation.mixed_words, track
        )
    print(f"{provenance.lines:,} lines, words from {provenance.segmenter['name']}: {arguments.save_path}")
    return provenance


def _tokenizer(arguments: ReferenceArguments, files: Sequence[str]) -> PreTrainedTokenizerBase:
    """The tokenizer, trained on the text where --vocab_size asks for that."""
    if arguments.vocab_size:
        check_output(arguments.bert, arguments.overwrite, flag="--bert")
        texts = (line for file in files for line in read_lines(file, "--file_name"))
        train_tokenizer("bert", texts, arguments.vocab_size).save_pretrained(arguments.bert)
    return load_pretrained_tokenizer("--bert", arguments.bert)


if __name__ == "__main__":
    main()
