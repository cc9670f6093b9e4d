"""The flags of the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wordmask.config.parser import argument
from wordmask.utils.errors import InputError


@dataclass
class DataArguments:
    """Which text, and how it is made into rows."""

    _argument_group_name = "text"

    dataset_name: str | None = argument("A dataset of the hub, or a directory that save_to_disk wrote.", default=None)
    dataset_config_name: str | None = argument("The configuration of the hub's dataset.", default=None)
    train_file: list[str] | None = argument(
        "Files, globs or a directory to train on: txt, csv, tsv, json, jsonl or parquet, also as .gz, .xz or .zst.",
        default=None,
    )
    validation_file: list[str] | None = argument("Files or globs to evaluate on.", default=None)
    text_column_name: str | None = argument(
        "The column of a table with the text, such as text or review.body; text, or the only one, if not given.",
        default=None,
    )
    train_ref_file: list[str] | None = argument(
        "Chinese reference files of --train_file, one for each, made by run_chinese_ref.py.", default=None
    )
    validation_ref_file: list[str] | None = argument("Chinese reference files of --validation_file.", default=None)
    overwrite_cache: bool = argument("Prepare the text again, whatever the cache holds.", default=False)
    validation_split_percentage: int = argument(
        "Without validation data: the share of the training text, its first part, to evaluate on; 0 for none.",
        default=5,
    )
    max_seq_length: int | None = argument(
        "The most tokens in a row, special ones included; as much as the model takes, at most 1024, if not given.",
        default=None,
    )
    preprocessing_num_workers: int | None = argument("Processes that tokenize.", default=None)
    line_by_line: bool = argument("Make each line a row, instead of blocks of the joined text.", default=False)
    long_lines: Literal["truncate", "split"] = argument(
        "What --line_by_line does with a line longer than --max_seq_length.", default="truncate"
    )
    pack_sequences: bool = argument(
        "Put several lines into one row, attention inside each line only; for --line_by_line.", default=False
    )
    length_schedule: str | None = argument(
        "Instead of --max_seq_length: rows of several lengths, one after the other, each for a share of the steps, "
        "such as 128:0.9,512:0.1; shorter rows come as more of them, so that a step has about as many tokens.",
        default=None,
    )
    pad_to_max_length: bool = argument(
        "Pad every row to --max_seq_length, so that shapes never change (TPU).", default=False
    )
    max_train_samples: int | None = argument(
        "Train on no more than the first so many lines or blocks, or texts when streaming.", default=None
    )
    max_eval_samples: int | None = argument("Evaluate on no more than the first so many rows.", default=None)
    streaming: bool = argument("Read and tokenize the training text while training; needs --max_steps.", default=False)
    prepared_dir: str | None = argument(
        "Train on the tokenized text in this directory, which --prepare_only fills.", default=None
    )
    prepare_only: bool = argument("Tokenize the text into --prepared_dir and exit without training.", default=False)
    part_lines: int = argument(
        "--prepare_only: texts in a part, the unit that is finished or done again.", default=100_000
    )
    num_shards: int = argument(
        "--prepare_only: divide the parts over so many runs, on any machines that share --prepared_dir.", default=1
    )
    shard_index: int = argument("--prepare_only: which of these runs this one is, from 0.", default=0)

    def __post_init__(self) -> None:
        self._check_preparation()
        if not (self.dataset_name or self.train_file or self.validation_file or self.is_prepared):
            raise InputError("--train_file is missing; give a text file, or --dataset_name for a dataset")
        if self.dataset_name and (self.train_file or self.validation_file):
            raise InputError("--dataset_name and --train_file or --validation_file exclude each other; give one")
        for name in ("train", "validation"):
            files, references = getattr(self, f"{name}_file"), getattr(self, f"{name}_ref_file")
            if references and not files:
                raise InputError(f"--{name}_ref_file needs --{name}_file, the text that it was made from")
        if not 0 <= self.validation_split_percentage < 100:
            raise InputError(
                f"--validation_split_percentage: {self.validation_split_percentage} is not a share from 0 to 99"
            )
        self.stages = _parse_stages(self.length_schedule) if self.length_schedule else []
        if self.stages and self.max_seq_length:
            raise InputError(
                f"--length_schedule {self.length_schedule} and --max_seq_length {self.max_seq_length} both say how "
                "long rows are; drop one of them"
            )
        if self.pack_sequences and not self.line_by_line:
            raise InputError("--pack_sequences packs lines, and blocks are full already; add --line_by_line")
        if self.stages and self.line_by_line and not self.pack_sequences:
            raise InputError(
                "--length_schedule is for blocks and for packed lines, since lines are as long as they are; add "
                "--no_line_by_line or --pack_sequences"
            )
        if self.stages and self.streaming:
            raise InputError("--length_schedule needs to know the text beforehand; drop --streaming")
        for name in ("max_seq_length", "preprocessing_num_workers", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name}: {value} is not a positive number")

    @property
    def is_prepared(self) -> bool:
        """Whether the text comes tokenized, from --prepared_dir."""
        return bool(self.prepared_dir) and not self.prepare_only

    def _check_preparation(self) -> None:
        """Raise an `InputError` where flags of --prepare_only lack it, or it lacks what it needs."""
        if self.prepare_only and not self.prepared_dir:
            raise InputError("--prepare_only needs --prepared_dir, the directory that the tokenized text goes to")
        if not self.prepare_only and (self.num_shards, self.shard_index) != (1, 0):
            flag = "--shard_index" if self.num_shards == 1 else "--num_shards"
            raise InputError(f"{flag} divides the work of --prepare_only; add that, or drop {flag}")
        if self.prepared_dir and self.streaming:
            raise InputError("--streaming tokenizes while training and --prepared_dir before; drop one of them")


def _parse_stages(text: str) -> list[tuple[int, float]]:
    """The lengths and shares of `128:0.9,512:0.1`."""
    try:
        stages = [(int(length), float(share)) for length, share in (part.split(":") for part in text.split(","))]
    except ValueError:
        stages = []
    if not stages or not all(length > 0 and 0 < share <= 1 for length, share in stages):
        raise InputError(
            f"--length_schedule: {text} does not name lengths with shares of the steps, such as 128:0.9,512:0.1"
        )
    total = sum(share for _, share in stages)
    if abs(total - 1) > 1e-6:
        raise InputError(f"--length_schedule: the shares of {text} add up to {total:g}; make them add up to 1")
    return stages
