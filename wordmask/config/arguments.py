"""The flags of the training scripts."""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, TrainingArguments
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.training_args import OptimizerNames
from transformers.utils import is_flash_attn_2_available

from wordmask.config.launch_checks import check_environment, check_sharding, choose_optimizer
from wordmask.config.legacy_flags import OLD_FLAGS
from wordmask.config.parser import Parser, argument, build, check_vocab_size, is_true, suggest
from wordmask.config.segmenter_arguments import SegmentationArguments
from wordmask.config.trackers import check_trackers
from wordmask.masking import Strategy
from wordmask.utils.errors import InputError, one_line

logger = logging.getLogger(__name__)

METRICS = ("loss", "perplexity", "accuracy", "whole_word_accuracy")
SAMPLING = ("random", "group_by_length", "sequential")
MODEL_TYPES = tuple(
    sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING if not config.is_encoder_decoder})
)


def refuse_encoder_decoder(flag: str, name: str, config: Any) -> None:
    """Raise an `InputError` for the configuration, or its class, of a model whose decoder sees the masked words."""
    if config.is_encoder_decoder:
        raise InputError(
            f"{flag}: {name} is an encoder-decoder, whose decoder would be fed the words that it has to predict; give "
            "an encoder, for example bert or roberta"
        )


@dataclass
class ModelArguments:
    """Which model and which tokenizer, and where they come from."""

    model_name_or_path: str | None = argument("The model to go on from: a directory or a hub id.", default=None)
    model_type: str | None = argument("Train from scratch a model of this type, for example bert.", default=None)
    config_overrides: str | None = argument(
        "From scratch: settings other than the type's own: hidden_size=256,num_hidden_layers=4; a list as [1,2].",
        default=None,
    )
    config_name: str | None = argument(
        "A configuration other than the model's: a directory or a hub id.", default=None
    )
    tokenizer_name: str | None = argument("A tokenizer other than the model's: a directory or a hub id.", default=None)
    vocab_size: int | None = argument(
        "From scratch: train a tokenizer with this many entries on the training text.", default=None
    )
    cache_dir: str | None = argument("Where what comes from the hub and what is prepared is kept.", default=None)
    use_fast_tokenizer: bool = argument("Use a fast tokenizer; only one of these can tell words apart.", default=True)
    model_revision: str = argument("The branch, tag or commit of a model on the hub.", default="main")
    token: str | None = argument("The hub's access token, instead of the one stored by hf auth login.", default=None)
    trust_remote_code: bool = argument("Run the code that a model on the hub brings along.", default=False)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "The type of the weights; auto takes the checkpoint's own.", default="float32"
    )
    attn_implementation: str | None = argument(
        "The attention to use, for example sdpa, eager, flash_attention_2; the model's own choice if not given.",
        default=None,
    )

    sparse_prediction: bool = argument(
        "Predict at the masked positions only, where the model can: the same loss, with less time and memory.",
        default=True,
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path and self.model_type:  # as in the lines of run_language_modeling.py
            logger.warning(
                "--model_type %s is for training from scratch; the model says its own type", self.model_type
            )
            self.model_type = None
        if self.vocab_size is not None and (self.model_name_or_path or self.tokenizer_name):
            other = "--tokenizer_name" if self.tokenizer_name else "--model_name_or_path"
            raise InputError(
                f"--vocab_size {self.vocab_size} trains a tokenizer and {other} brings one; drop one of them"
            )
        if self.model_name_or_path and self.config_overrides:
            raise InputError("--config_overrides is for training from scratch; drop it or --model_name_or_path")
        if not (self.model_name_or_path or self.model_type or self.config_name):
            raise InputError("--model_name_or_path is missing; give a model, or --model_type to train from scratch")
        if self.model_type and self.model_type in CONFIG_MAPPING:
            refuse_encoder_decoder("--model_type", self.model_type, CONFIG_MAPPING[self.model_type])
        if self.model_type and self.model_type not in MODEL_TYPES:
            raise InputError(
                f"--model_type: {self.model_type} has no masked language model"
                f"{suggest(self.model_type, MODEL_TYPES)}; "
                f"known types are {', '.join(MODEL_TYPES)}"
            )
        implementations = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
        asked = self.attn_implementation
        if asked and asked not in implementations and "/" not in asked:  # a kernel of the hub has a slash
            raise InputError(f"--attn_implementation: {asked} is not known{suggest(asked, implementations)}")
        if asked == "flash_attention_2" and not is_flash_attn_2_available():
            raise InputError("--attn_implementation flash_attention_2 needs a GPU and flash-attn; give sdpa instead")
        check_vocab_size(self.vocab_size)


@dataclass
class DataArguments:
    """Which text, and how it is made into rows."""

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


@dataclass
class MaskingArguments:
    """What is masked, how much, and what stands in its place."""

    masking_strategy: Strategy = argument(
        "What is masked as one: token, whole_word, ngram (runs of 1 to 4 words, MacBERT) or span (runs of 1 to 10 "
        "words of geometric length, SpanBERT).",
        default=Strategy.TOKEN,
    )
    mlm_probability: str = argument(
        "The share of tokens to mask, or a schedule, linear over training, such as 0.30:0.15.", default="0.15"
    )
    mask_replace_prob: float = argument("The share of the chosen tokens that become the mask token.", default=0.8)
    random_replace_prob: float = argument("The share of the chosen tokens that become a random token.", default=0.1)
    preview_masking: int = argument("Print so many masked examples and exit without training.", default=0)

    def __post_init__(self) -> None:
        self.masking_strategy = Strategy(self.masking_strategy)
        self.rates = _parse_rates(self.mlm_probability)
        for name in ("mask_replace_prob", "random_replace_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name}: {getattr(self, name)} is not a probability; give a number from 0 to 1")
        if self.mask_replace_prob + self.random_replace_prob > 1 + 1e-9:
            raise InputError(
                f"--mask_replace_prob {self.mask_replace_prob} and --random_replace_prob {self.random_replace_prob} "
                "add up to more than 1; lower one of them"
            )
        if self.preview_masking < 0:
            raise InputError(f"--preview_masking: {self.preview_masking} is not a number of examples")


def _parse_rates(text: str) -> tuple[float, float]:
    """The first and the last rate of `0.15` or `0.30:0.15`."""
    try:
        rates = [float(part) for part in str(text).split(":")]
    except ValueError:
        rates = []
    if not (1 <= len(rates) <= 2 and all(0 < rate < 1 for rate in rates)):
        raise InputError(
            f"--mlm_probability: {text} is neither a number between 0 and 1, such as 0.15, nor two of them, such as "
            "0.30:0.15"
        )
    return rates[0], rates[-1]


@dataclass
class RunArguments(TrainingArguments):
    """All of transformers' `TrainingArguments`, and the flag that it lost."""

    output_dir: str = argument("Where the model, its checkpoints and the results go.", default="trainer_output")
    train_sampling_strategy: str | None = argument(  # type: ignore[assignment]
        "The order of an epoch: random, group_by_length (rows of like length in one step) or sequential; "
        "group_by_length if not given and --line_by_line, else random.",
        default=None,
    )
    optim: str | None = argument(  # type: ignore[assignment]
        "The optimizer; adamw_torch_fused if not given, adamw_torch on a TPU, which has no fused one.", default=None
    )
    tokens_per_pass: int | None = argument(
        "The most tokens, padding included, that go through the model at once: a larger batch is divided into parts "
        "of rows of like length, with the same loss and gradients, less memory and less padding; 2048 on a CPU and "
        "no limit elsewhere if not given, 0 for none.",
        default=None,
    )
    overwrite_output_dir: bool = argument(
        "Start over in an --output_dir that holds a run; without it, the run goes on from its last checkpoint.",
        default=False,
    )

    def __post_init__(self) -> None:
        self.neither = not (self.do_train or self.do_eval)
        check_environment(self.use_cpu, self.ddp_backend)
        self._check()
        check_sharding(self.fsdp, self.fsdp_config, self.deepspeed, self.use_cpu)
        self.optim = choose_optimizer(self.optim, TrainingArguments.optim)
        self.sampling_is_given = self.train_sampling_strategy is not None
        self.train_sampling_strategy = self.train_sampling_strategy or "random"
        try:
            super().__post_init__()
        except torch.distributed.DistError as error:
            raise InputError(
                f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}: the "
                f"processes cannot meet there ({one_line(error)})"
            ) from None
        except (ValueError, ImportError, OSError, TypeError) as error:
            raise InputError(one_line(error)) from None

    @property
    def mask_seed(self) -> int:
        """The seed of the order of rows and of their masks."""
        return self.seed if self.data_seed is None else self.data_seed

    def _check(self) -> None:
        """Raise an `InputError` for what transformers lets pass, or reports without naming a flag."""
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name}: {getattr(self, name)} is not a positive number")
        for name in ("seed", "data_seed", "learning_rate", "weight_decay", "tokens_per_pass"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"--{name}: {getattr(self, name)} is below 0; give 0 or more")
        for name, bits in (("seed", 32), ("data_seed", 64)):
            if (getattr(self, name) or 0) >= 2**bits:
                raise InputError(f"--{name}: {getattr(self, name)} is too large; give a number below 2^{bits}")
        metric = (self.metric_for_best_model or "loss").removeprefix("eval_")
        if metric not in METRICS:
            raise InputError(f"--metric_for_best_model: {metric} is not known; choose from {', '.join(METRICS)}")
        if self.dataloader_num_workers < 0:
            raise InputError(f"--dataloader_num_workers: {self.dataloader_num_workers} is not a number of workers")
        if self.max_steps == 0 or self.num_train_epochs <= 0:
            raise InputError("--max_steps and --num_train_epochs must be above 0; use --do_eval to evaluate only")
        if self.do_predict:
            raise InputError("--do_predict: there is no test data in masked language modelling; use --do_eval")
        if self.train_sampling_strategy not in (None, *SAMPLING):
            raise InputError(
                f"--train_sampling_strategy: {self.train_sampling_strategy} is not offered; choose from "
                f"{', '.join(SAMPLING)}"
            )
        check_trackers([self.report_to] if isinstance(self.report_to, str) else self.report_to or [])
        if self.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
            raise InputError("--use_liger_kernel needs its package: pip install liger-kernel")
        optimizers = [name.value for name in OptimizerNames]
        if self.optim not in (None, *optimizers):
            raise InputError(f"--optim: {self.optim} is not known{suggest(str(self.optim), optimizers)}")
        if str(self.save_strategy) in ("best", "SaveStrategy.BEST") and not self.metric_for_best_model:
            raise InputError("--save_strategy best needs --metric_for_best_model, for example eval_loss")
        for name in (
            "lr_scheduler_kwargs",
            "activation_checkpointing_kwargs",
            "accelerator_config",
            "fsdp_config",
            "deepspeed",
        ):
            value = getattr(self, name)
            if isinstance(value, str) and value:
                _check_json(name, value)


def _check_json(name: str, value: str) -> None:
    """Raise an `InputError` where a value is neither a JSON object nor a file that holds one."""
    is_file = os.path.exists(value)
    try:
        fine = isinstance(json.loads(Path(value).read_text(encoding="utf-8") if is_file else value), dict)
    except (OSError, ValueError):
        fine = False
    if not fine:
        found = "holds no JSON object" if is_file else 'is neither a file nor a JSON object such as {"name": 1}'
        raise InputError(f"--{name}: {value} {found}")


@dataclass
class Arguments:
    """One run, as the command line and the argument file describe it.

    Attributes:
        model, data, masking, segmentation, training: the flags by their concern.
        given: every flag with its value, as a new run could take them from a file.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    segmentation: SegmentationArguments
    training: RunArguments
    given: dict[str, Any]

    @property
    def words(self) -> SegmentationArguments | None:
        """Where words come from besides the tokenizer; `None` where none are needed."""
        return None if self.masking.masking_strategy is Strategy.TOKEN else self.segmentation


def parse_arguments(argv: Sequence[str] | None, **defaults: Any) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, then flags.
        defaults: what this script does differently from the dataclasses.

    Raises:
        InputError: naming the flag that is wrong.
    """
    concerns: tuple[Any, ...] = (ModelArguments, DataArguments, MaskingArguments, SegmentationArguments, RunArguments)
    parser = Parser(concerns, OLD_FLAGS)
    parser.flags["include_num_input_tokens_seen"].type = _tokens_seen
    parser.flags["fsdp"].type = _fsdp
    parser.set_defaults(**defaults)
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    given = {name: value for name, value in vars(namespace).items() if value is not None}

    model, data, masking, segmentation, training = (build(concern, namespace) for concern in concerns)
    arguments = Arguments(model, data, masking, segmentation, training, given)
    _check_words(arguments)
    _check_prepared(arguments)
    if data.line_by_line and not training.sampling_is_given:
        training.train_sampling_strategy = "group_by_length"
    return arguments


def _tokens_seen(value: str) -> str | bool:
    """A switch that may also say which tokens are counted."""
    return value if value in ("all", "non_padding", "no") else is_true(value)


def _fsdp(value: str) -> str | bool:
    """A switch that was once a list of options."""
    try:
        return is_true(value)
    except argparse.ArgumentTypeError:
        return value


def _check_words(arguments: Arguments) -> None:
    """Raise an `InputError` where words have two sources, or a source and no use."""
    references = [
        f"--{name}_ref_file" for name in ("train", "validation") if getattr(arguments.data, f"{name}_ref_file")
    ]
    sources = references + ["--segmenter"] * bool(arguments.segmentation.segmenter)
    if sources and arguments.masking.masking_strategy is Strategy.TOKEN:
        raise InputError(
            f"{sources[0]} marks whole words and --masking_strategy token masks tokens; use run_mlm_wwm.py, or "
            "--masking_strategy whole_word"
        )
    if references and arguments.segmentation.segmenter:
        raise InputError(f"{references[0]} and --segmenter both say what the words are; give one of the two")
    if arguments.data.streaming and arguments.training.sampling_is_given:
        raise InputError(
            "--train_sampling_strategy needs to know the text beforehand, and a stream comes in its own order; drop "
            "it, or --streaming"
        )
    if arguments.data.streaming and arguments.masking.rates[0] != arguments.masking.rates[1]:
        raise InputError("--mlm_probability: a schedule needs to know the length of training; drop --streaming")


def _check_prepared(arguments: Arguments) -> None:
    """Raise an `InputError` where other flags do not go with prepared text."""
    data, vocab_size = arguments.data, arguments.model.vocab_size
    if data.prepared_dir and vocab_size:
        raise InputError(
            f"--vocab_size {vocab_size} trains a tokenizer for one run and --prepared_dir needs one that stays; give "
            "--tokenizer_name, for example the --output_dir of a run with --vocab_size"
        )
    if data.prepare_only and arguments.masking.preview_masking:
        raise InputError("--prepare_only and --preview_masking both do one thing and exit; drop one of them")
