"""The flags of the text and of the sequences made from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from wordmask.config.number_checks import check_shares
from wordmask.config.parser import argument
from wordmask.utils.errors import InputError
from wordmask.utils.quantities import counted
from wordmask.utils.readers.paths import NAMED
from wordmask.utils.workers import check_workers

LONGEST = 1024  # tokens in a sequence, if the user sets no length and the model takes more


@dataclass
class DataArguments:
    """Which text, and how it becomes sequences."""

    _argument_group_name = "text"

    train_file: list[str] | None = argument(
        f"Files, patterns or a directory: {NAMED}, also .gz, .xz, .zst.", default=None
    )
    validation_file: list[str] | None = argument("Validation text, in the same forms.", default=None)
    train_weights: list[float] | None = argument("The share of each --train_file in the sequences.", default=None)
    dataset_name: str | None = argument("A dataset of the hub, or what save_to_disk made.", default=None)
    dataset_config_name: str | None = argument("The configuration of the hub's dataset.", default=None)
    text_column_name: str | None = argument("The column of the text, such as review.body.", default=None)
    train_ref_file: list[str] | None = argument("Of run_chinese_ref.py, one for each --train_file.", default=None)
    validation_ref_file: list[str] | None = argument("The same for --validation_file.", default=None)
    validation_split_percentage: int = argument(
        "Without validation text: the first N percent of the training text; 0: none.", default=5
    )
    max_seq_length: int | None = argument(f"In tokens; by default the model's limit, up to {LONGEST}.", default=None)
    line_by_line: bool = argument("Each line is a sequence; else blocks of joined text.", default=False)
    long_lines: Literal["truncate", "split"] = argument("For lines above --max_seq_length.", default="truncate")
    pack_sequences: bool = argument("Put lines into one sequence; each sees only itself.", default=False)
    length_schedule: str | None = argument("Sequence lengths by share of steps: 128:0.9,512:0.1.", default=None)
    pad_to_max_length: bool = argument("Always pad to --max_seq_length (TPU, torch.compile).", default=False)
    max_train_samples: int | None = argument("Train on the first N examples or blocks.", default=None)
    max_eval_samples: int | None = argument("The same for each --validation_file.", default=None)
    streaming: bool = argument("Read and tokenize while training; needs --max_steps.", default=False)
    preprocessing_num_workers: int | None = argument("Processes that tokenize; by default 1.", default=None)
    overwrite_cache: bool = argument("Tokenize again, also what the cache has.", default=False)
    prepared_dir: str | None = argument("Tokens: --prepare_only writes, training reads them.", default=None)
    prepare_only: bool = argument("Tokenize the text into --prepared_dir and exit.", default=False)
    part_lines: int = argument("--prepare_only: examples in a part.", default=100_000)
    num_shards: int = argument("--prepare_only: divide into N runs.", default=1)
    shard_index: int = argument("--prepare_only: the number of this run.", default=0)

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
        self._check_weights()
        if not 0 <= self.validation_split_percentage < 100:
            raise InputError(
                f"--validation_split_percentage: {self.validation_split_percentage} is out of range; give 0 to 99"
            )
        if self.stages and self.max_seq_length:
            raise InputError(
                f"--length_schedule {self.length_schedule} and --max_seq_length {self.max_seq_length} both say how "
                "long sequences are; drop one of them"
            )
        if self.pack_sequences and not self.line_by_line:
            raise InputError("--pack_sequences packs lines, and blocks are already full; add --line_by_line")
        if self.stages and self.line_by_line and not self.pack_sequences:
            raise InputError(
                "--length_schedule: lines keep their own lengths, so it needs blocks or packed lines; add "
                "--no_line_by_line or --pack_sequences"
            )
        if self.stages and self.streaming:
            raise InputError("--length_schedule needs the whole text before training; drop --streaming")
        whole = ("max_seq_length", "preprocessing_num_workers", "max_train_samples", "max_eval_samples", "part_lines")
        for name in whole:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name}: {value} is not above 0; give 1 or more, or drop the flag")
        check_workers("--preprocessing_num_workers", self.preprocessing_num_workers or 1)

    @cached_property
    def stages(self) -> list[tuple[int, float]]:
        """The stages of `--length_schedule`: the length in tokens and the share of the steps of each."""
        return _parse_stages(self.length_schedule) if self.length_schedule else []

    @property
    def is_prepared(self) -> bool:
        """Whether the text comes tokenized, from --prepared_dir."""
        return bool(self.prepared_dir) and not self.prepare_only

    def _check_weights(self) -> None:
        """Raise an `InputError` if `--train_weights` cannot be, or do not fit the files."""
        weights, entries = self.train_weights, self.train_file
        if weights is None:
            return
        shown = " ".join(f"{weight:g}" for weight in weights)
        if self.streaming:
            raise InputError("--train_weights needs the number of sequences before training; drop --streaming")
        if not entries and not self.is_prepared:
            raise InputError("--train_weights mixes the files of --train_file; give these, or drop it")
        if entries:
            check_number_of_weights(weights, len(entries), "--train_file", "a file, a pattern or a directory")
        if not all(0 < weight <= 1 for weight in weights):
            raise InputError(
                f"--train_weights: {shown} are not all above 0 and at most 1; give each file a share, or leave it out"
            )
        check_shares("--train_weights", weights, shown)

    def _check_preparation(self) -> None:
        """Raise an `InputError` if flags of --prepare_only are given without it, or it is given without those."""
        if self.prepare_only and not self.prepared_dir:
            raise InputError("--prepare_only needs --prepared_dir, the directory for the tokenized text; add it")
        if not self.prepare_only and (self.num_shards, self.shard_index) != (1, 0):
            flag = "--shard_index" if self.num_shards == 1 else "--num_shards"
            raise InputError(f"{flag} divides the work of --prepare_only; add --prepare_only, or drop {flag}")
        if self.prepared_dir and self.streaming:
            raise InputError("--streaming tokenizes during training and --prepared_dir before it; drop one of them")


def _parse_stages(text: str) -> list[tuple[int, float]]:
    """The lengths and shares of `128:0.9,512:0.1`."""
    try:
        stages = [(int(length), float(share)) for length, share in (part.split(":") for part in text.split(","))]
    except ValueError:
        stages = []
    if not stages or not all(length > 0 and 0 < share <= 1 for length, share in stages):
        raise InputError(
            f"--length_schedule: {text} does not name lengths with shares of the steps; write 128:0.9,512:0.1"
        )
    check_shares("--length_schedule", [share for _, share in stages], f"the shares of {text}")
    return stages


def check_number_of_weights(weights: Sequence[float], corpora: int, where: str, what: str) -> None:
    """Raise an `InputError` if there are more or fewer weights than corpora; `what` says what a corpus is."""
    if len(weights) != corpora:
        raise InputError(
            f"--train_weights: {counted(len(weights), 'weight')} for {corpora} of {where}; give one for each ({what})"
        )
