"""The command line: dataclasses, argument files, and the flags that people know from ten years of scripts."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers import MODEL_FOR_MASKED_LM_MAPPING, HfArgumentParser, TrainingArguments

from wordmask.errors import InputError
from wordmask.masking import Strategy

logger = logging.getLogger(__name__)

MODEL_TYPES = tuple(sorted({config.model_type for config in MODEL_FOR_MASKED_LM_MAPPING}))


def _help(text: str, **default: Any) -> Any:
    """A dataclass field with its help text."""
    return field(metadata={"help": text}, **default)


@dataclass
class ModelArguments:
    """Which model and which tokenizer, and where they come from."""

    model_name_or_path: str | None = _help("The model to go on from: a directory or a hub id.", default=None)
    model_type: str | None = _help("Train from scratch a model of this type, for example bert.", default=None)
    config_overrides: str | None = _help(
        "From scratch: settings other than the type's own, as in hidden_size=256,num_hidden_layers=4.", default=None
    )
    config_name: str | None = _help("A configuration other than the model's: a directory or a hub id.", default=None)
    tokenizer_name: str | None = _help("A tokenizer other than the model's: a directory or a hub id.", default=None)
    vocab_size: int | None = _help(
        "From scratch: train a tokenizer with this many entries on the training text.", default=None
    )
    cache_dir: str | None = _help("Where what comes from the hub and what is prepared is kept.", default=None)
    use_fast_tokenizer: bool = _help("Use a fast tokenizer; only one of these can tell words apart.", default=True)
    model_revision: str = _help("The branch, tag or commit of a model on the hub.", default="main")
    token: str | None = _help("The hub's access token, instead of the one stored by hf auth login.", default=None)
    trust_remote_code: bool = _help("Run the code that a model on the hub brings along.", default=False)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _help(
        "The type of the weights; auto takes the checkpoint's own.", default="float32"
    )
    attn_implementation: str | None = _help(
        "The attention to use, for example sdpa, eager, flash_attention_2; the model's own choice if not given.",
        default=None,
    )

    def __post_init__(self) -> None:
        if self.model_name_or_path and self.model_type:
            raise InputError(
                f"--model_type {self.model_type} trains from scratch and --model_name_or_path "
                f"{self.model_name_or_path} goes on from a model; give one of the two"
            )
        if self.model_name_or_path and self.config_overrides:
            raise InputError("--config_overrides is for training from scratch; drop it or --model_name_or_path")
        if not (self.model_name_or_path or self.model_type or self.config_name):
            raise InputError("--model_name_or_path is missing; give a model, or --model_type to train from scratch")
        if self.model_type and self.model_type not in MODEL_TYPES:
            raise InputError(
                f"--model_type: {self.model_type} has no masked language model{_suggest(self.model_type, MODEL_TYPES)}; "
                f"known types are {', '.join(MODEL_TYPES)}"
            )
        if self.vocab_size is not None and self.vocab_size < 10:
            raise InputError(f"--vocab_size: {self.vocab_size} leaves no room for words; give some thousands")


@dataclass
class DataArguments:
    """Which text, and how it is made into rows."""

    dataset_name: str | None = _help("A dataset of the hub, or a directory that save_to_disk wrote.", default=None)
    dataset_config_name: str | None = _help("The configuration of the hub's dataset.", default=None)
    train_file: list[str] | None = _help(
        "Files or globs to train on: txt, csv, tsv, json, jsonl or parquet, also as .gz, .xz or .zst.", default=None
    )
    validation_file: list[str] | None = _help("Files or globs to evaluate on.", default=None)
    text_column_name: str | None = _help(
        "The column with the text; text, or the first one, if not given.", default=None
    )
    train_ref_file: list[str] | None = _help(
        "Chinese reference files of --train_file, one for each, made by run_chinese_ref.py.", default=None
    )
    validation_ref_file: list[str] | None = _help("Chinese reference files of --validation_file.", default=None)
    overwrite_cache: bool = _help("Prepare the text again, whatever the cache holds.", default=False)
    validation_split_percentage: int = _help(
        "Without validation data: the share of the training text, its first part, to evaluate on; 0 for none.",
        default=5,
    )
    max_seq_length: int | None = _help(
        "The most tokens in a row, special ones included; as much as the model takes, at most 1024, if not given.",
        default=None,
    )
    preprocessing_num_workers: int | None = _help("Processes that tokenize.", default=None)
    line_by_line: bool = _help("Make each line a row, instead of blocks of the joined text.", default=False)
    long_lines: Literal["truncate", "split"] = _help(
        "What --line_by_line does with a line longer than --max_seq_length.", default="truncate"
    )
    pad_to_max_length: bool = _help(
        "Pad every row to --max_seq_length, so that shapes never change (TPU).", default=False
    )
    max_train_samples: int | None = _help("Train on no more than the first so many rows.", default=None)
    max_eval_samples: int | None = _help("Evaluate on no more than the first so many rows.", default=None)
    streaming: bool = _help("Read and tokenize the training text while training; needs --max_steps.", default=False)

    def __post_init__(self) -> None:
        if not (self.dataset_name or self.train_file or self.validation_file):
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
        for name in ("max_seq_length", "preprocessing_num_workers", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"--{name}: {value} is not a positive number")


@dataclass
class MaskingArguments:
    """What is masked, how much, and what stands in its place."""

    masking_strategy: Strategy = _help(
        "What is masked as one: token, whole_word, ngram (runs of 1 to 4 words, MacBERT) or span (runs of 1 to 10 "
        "words of geometric length, SpanBERT).",
        default=Strategy.TOKEN,
    )
    mlm_probability: str = _help(
        "The share of tokens to mask, or a schedule, linear over training, such as 0.30:0.15.", default="0.15"
    )
    mask_replace_prob: float = _help("The share of the chosen tokens that become the mask token.", default=0.8)
    random_replace_prob: float = _help("The share of the chosen tokens that become a random token.", default=0.1)
    preview_masking: int = _help("Print so many masked examples and exit without training.", default=0)

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

    overwrite_output_dir: bool = _help(
        "Start over in an --output_dir that holds a run; without it, the run goes on from its last checkpoint.",
        default=False,
    )

    def __post_init__(self) -> None:
        self.neither = not (self.do_train or self.do_eval or self.do_predict)
        try:
            super().__post_init__()
        except (ValueError, ImportError) as error:
            raise InputError(" ".join(str(error).split())) from None


@dataclass
class Arguments:
    """One run, as the command line and the argument file describe it.

    Attributes:
        model, data, masking, training: the flags by their concern.
        given: every flag with its value, as a new run could take them from a file.
    """

    model: ModelArguments
    data: DataArguments
    masking: MaskingArguments
    training: RunArguments
    given: dict[str, Any]


# Old flags. A string is the new flag, which takes the same value; a function makes new arguments of the value (None
# where there is none); an InputError it raises, or a `Gone`, says in a sentence what to do instead.
@dataclass(frozen=True)
class Gone:
    """An old flag that has no translation: what to do instead."""

    advice: str


def _boolean(then: Sequence[str]) -> Callable[[str | None], list[str]]:
    """An old switch: new arguments where it was on, none where it was off."""
    return lambda value: list(then) if value is None or _is_true(value) else []


def _is_true(value: str) -> bool:
    return value.lower() in ("true", "yes", "y", "t", "1")


def _token(value: str | None) -> list[str]:
    stored = value is None or value.lower() in ("true", "false")
    return [] if stored else ["--token", str(value)]


def _logging_dir(value: str | None) -> list[str]:
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(value)
    return []


def _safetensors(value: str | None) -> list[str]:
    if value is not None and not _is_true(value):
        raise InputError("--save_safetensors false is gone: weights are always saved as safetensors; drop the flag")
    return []


OLD_FLAGS: Mapping[str, tuple[str, Callable[[str | None], list[str]]] | str | Gone] = {
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
    "torch_dtype": "dtype",
    "train_data_file": "train_file",
    "eval_data_file": "validation_file",
    "eval_ref_file": "validation_ref_file",
    "block_size": "max_seq_length",
    "no_cuda": ("--use_cpu", _boolean(["--use_cpu"])),
    "group_by_length": (
        "--train_sampling_strategy group_by_length",
        _boolean(["--train_sampling_strategy", "group_by_length"]),
    ),
    "adafactor": ("--optim adafactor", _boolean(["--optim", "adafactor"])),
    "evaluate_during_training": ("--eval_strategy steps", _boolean(["--eval_strategy", "steps"])),
    "tpu_metrics_debug": ("--debug tpu_metrics_debug", _boolean(["--debug", "tpu_metrics_debug"])),
    "use_auth_token": ("--token, not needed after hf auth login", _token),
    "logging_dir": ("the environment variable TENSORBOARD_LOGGING_DIR, set for this run", _logging_dir),
    "save_safetensors": ("no flag: weights are always saved as safetensors", _safetensors),
    "use_mps_device": ("no flag: an Apple GPU is used where there is one", _boolean([])),
    "low_cpu_mem_usage": ("no flag: models always load that way", _boolean([])),
    "mlm": ("no flag: these scripts always mask", _boolean([])),
    "local_rank": ("the environment variable LOCAL_RANK, which torchrun sets", _boolean([])),
    "fp16_backend": Gone("--fp16 or --bf16 alone chooses mixed precision; drop the flag"),
    "half_precision_backend": Gone("--fp16 or --bf16 alone chooses mixed precision; drop the flag"),
    "fp16_opt_level": Gone("it was apex's; use --bf16 or --fp16 without it"),
    "tpu_num_cores": Gone("the launcher sets the number of cores; start with accelerate launch --tpu"),
    "sharded_ddp": Gone("use --fsdp instead"),
    "fsdp_min_num_params": Gone("give it as min_num_params in --fsdp_config"),
    "fsdp_transformer_layer_cls_to_wrap": Gone("give it as transformer_layer_cls_to_wrap in --fsdp_config"),
    "use_ipex": Gone("PyTorch itself has what it did; drop the flag"),
    "jit_mode_eval": Gone("use --torch_compile instead"),
    "torchdynamo": Gone("use --torch_compile_backend instead"),
    "past_index": Gone("masked language models have no past; drop the flag"),
    "mp_parameters": Gone("it was SageMaker's own; drop the flag"),
    "ray_scope": Gone("hyperparameter search has no flag here; drop it"),
    "use_legacy_prediction_loop": Gone("there is one evaluation loop; drop the flag"),
    "include_inputs_for_metrics": Gone("use --include_for_metrics inputs instead"),
    "include_tokens_per_second": Gone("use --include_num_input_tokens_seen instead"),
    "dispatch_batches": Gone('use --accelerator_config \'{"dispatch_batches": false}\' instead'),
    "split_batches": Gone('use --accelerator_config \'{"split_batches": true}\' instead'),
    "xpu_backend": Gone("use --ddp_backend instead"),
    "push_to_hub_organization": Gone("use --hub_model_id ORGANIZATION/NAME instead"),
}

FILE_SUFFIXES = (".yaml", ".yml", ".json")


class Parser(HfArgumentParser):
    """The parser of `transformers`, with one sentence for an error and `--no_x` for every switch."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print below the usage of two hundred flags."""
        raise InputError(message.removeprefix("argument "))

    @property
    def flags(self) -> dict[str, argparse.Action]:
        """Each flag's name, without dashes, and its action."""
        return {
            option.lstrip("-"): action
            for action in self._actions
            for option in action.option_strings
            if option.startswith("--") and "-" not in option[2:]
        }

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command line that may begin with an argument file; later values win."""
        arguments = list(argv)
        if arguments and not arguments[0].startswith("-") and arguments[0].endswith(FILE_SUFFIXES):
            arguments = [*self._from_file(arguments[0]), *arguments[1:]]
        namespace, unknown = self.parse_known_args(self._modernize(arguments))
        if unknown:
            name = unknown[0].split("=")[0]
            what = "is not a flag" if name.startswith("-") else "belongs to no flag"
            raise InputError(f"{name} {what} of this script{_suggest(name.lstrip('-'), self.flags)}")
        return namespace

    def _from_file(self, path: str) -> list[str]:
        """The arguments of a YAML or JSON file as a command line, so that they are checked like one."""
        arguments = []
        for name, value in _read_mapping(path).items():
            if name not in self.flags and name not in OLD_FLAGS:
                raise InputError(f"{path}: {name} is not a flag of this script{_suggest(name, self.flags)}")
            if value is None or value == []:
                continue
            if isinstance(value, dict):
                value = json.dumps(value)
            elif isinstance(value, list):
                arguments += [f"--{name}", *map(str, value)]
                continue
            # One word, so that a value may begin with a dash.
            arguments.append(f"--{name}={value}")
        return arguments

    def _modernize(self, arguments: list[str]) -> list[str]:
        """Translate old flags, with one warning for each, and `--no_x` into `--x false`."""
        flags, result, position = self.flags, [], 0
        while position < len(arguments):
            argument, position = arguments[position], position + 1
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            if not argument.startswith("--") or name in flags:
                result.append(argument)
            elif name.startswith("no_") and _is_switch(flags.get(name[3:])):
                result += [f"--{name[3:]}", "false"]
            elif name in OLD_FLAGS:
                follows = position < len(arguments) and not arguments[position].startswith("--")
                given = value if equals else arguments[position] if follows else None
                translation = _translate(name, given)
                if translation is None:  # the new flag takes the same values
                    result.append(f"--{OLD_FLAGS[name]}{equals}{value}")
                else:
                    result += translation
                    position += follows and not equals
            else:
                result.append(argument)
        return result


def _translate(name: str, value: str | None) -> list[str] | None:
    """New arguments for an old flag and its value, `None` where only the name is new."""
    new = OLD_FLAGS[name]
    if isinstance(new, Gone):
        raise InputError(f"--{name} is gone: {new.advice}")
    if isinstance(new, str):
        logger.warning("--%s is now --%s", name, new)
        return None
    description, translate = new
    logger.warning("--%s is now %s", name, description)
    return translate(value)


def _is_switch(action: argparse.Action | None) -> bool:
    return action is not None and getattr(action.type, "__name__", "") == "string_to_bool"


def _suggest(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    """The nearest known name, as the tail of a sentence."""
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _read_mapping(path: str) -> dict[str, Any]:
    """The names and values in an argument file, or those of the run whose record it is."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        if path.endswith(".json"):
            values = json.loads(text)
        else:
            import yaml

            values = yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"the argument file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"the argument file {path} cannot be read: {' '.join(str(error).split())}") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise InputError(f"the argument file {path} is not YAML: {' '.join(str(error).split())}") from None
    if isinstance(values, dict) and isinstance(values.get("arguments"), dict):
        values = values["arguments"]
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"the argument file {path} does not hold names with values, such as learning_rate: 1e-4")
    return values


def parse_arguments(argv: Sequence[str] | None, **defaults: Any) -> Arguments:
    """Parse the command line of a training script.

    Args:
        argv: the arguments, `sys.argv[1:]` if `None`: an argument file, if any, then flags.
        defaults: what this script does differently from the dataclasses.

    Raises:
        InputError: naming the flag that is wrong.
    """
    concerns = (ModelArguments, DataArguments, MaskingArguments, RunArguments)
    parser = Parser(concerns)
    parser.set_defaults(**defaults)
    namespace = parser.parse(sys.argv[1:] if argv is None else argv)
    given = {name: value for name, value in vars(namespace).items() if value is not None}
    model, data, masking, training = (
        concern(**{name: value for name, value in vars(namespace).items() if name in concern.__dataclass_fields__})
        for concern in concerns
    )
    return Arguments(model, data, masking, training, given)
