"""The record of a run: what makes it, and how another one differs."""

from __future__ import annotations

import json
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import wordmask
from wordmask.config.arguments import Arguments, RunArguments
from wordmask.data.tokenize import tokenizer_identity
from wordmask.models.identity import SCRATCH, architecture, base_model
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import write_atomically

logger = logging.getLogger(__name__)

RECORD = "wordmask_run.json"
LEFT_OUT = ("token", "hub_token", "overwrite_output_dir")  # secrets, and what is asked for once
# The flags that name a model and a tokenizer, for records without digests.
_NAMES = {
    "base_model": ("model_name_or_path", "model_type", "config_name", "config_overrides"),
    "tokenizer": ("tokenizer_name", "vocab_size"),
}
# The flags that decide what is seen, how it is masked and how it is learned, besides model, tokenizer and text.
_SETTINGS = (
    *("dtype", "attn_implementation", "max_train_samples", "line_by_line", "long_lines", "max_seq_length"),
    *("length_schedule", "pack_sequences", "streaming", "segmenter", "ltp", "user_dict", "hmm", "mixed_words"),
    *("masking_strategy", "mlm_probability", "mask_replace_prob", "random_replace_prob", "seed", "data_seed"),
    *("train_sampling_strategy", "dataloader_drop_last", "max_steps", "num_train_epochs"),
    *("auto_find_batch_size", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"),
    *("fp16", "bf16", "logging_steps", "eval_steps", "save_steps"),
)
_STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
_TEXT = ("dataset_name", "dataset_config_name", "train_file", "train_ref_file")  # of a stream, whose text is not read


@dataclass(frozen=True)
class Identity:
    """What makes a run besides its flags.

    Attributes:
        base_model: the digest of the weights that it starts from, or that it starts from scratch.
        architecture: the model's configuration.
        tokenizer: the tokenizer's digest.
        text: the digest of the training text; `None` for a stream and without training.
    """

    base_model: str
    architecture: dict[str, Any]
    tokenizer: str
    text: str | None

    @classmethod
    def of(cls, arguments: Arguments, model: Any, tokenizer: Any, texts: Mapping[str, Any]) -> Identity:
        """What makes this run."""
        train = texts.get("train") if arguments.training.do_train else None
        with arguments.training.main_process_first(desc="looking at the model"):
            base = base_model(arguments.model)
        text = None if train is None or arguments.data.streaming else train.fingerprint
        return cls(base, architecture(model), tokenizer_identity(tokenizer), text)


@dataclass(frozen=True)
class Run:
    """The record of a run that lies in its directory.

    Attributes:
        arguments: its flags.
        processes: how many trained together.
        trains: whether it trained, or evaluated only.
        identity: what makes it, without what an older record does not have.
    """

    arguments: Mapping[str, Any]
    processes: int
    trains: bool
    identity: Mapping[str, Any]

    def others(self, identity: Identity, given: Mapping[str, Any]) -> list[str]:
        """What makes another run a stranger here: the base model, the tokenizer or the architecture."""
        found = []
        for name, flags in _NAMES.items():
            here, there = self.identity.get(name), getattr(identity, name)
            before, now = self.arguments.get(flags[0]), given.get(flags[0])
            changed = [flag for flag in flags if self.arguments.get(flag) != _plain(given.get(flag))]
            if changed if here is None else here != there:
                shown = f" ({before or SCRATCH} -> {now or SCRATCH})" if name == "base_model" and before != now else ""
                found.append(name.replace("_", " ") + shown)
        config = self.identity.get("architecture", {})
        changed = [
            f"{name} {config[name]} -> {value}"
            for name, value in identity.architecture.items()
            if name in config and config[name] != value
        ]
        if changed and not found:
            found.append(f"architecture ({', '.join(changed[:3])})")
        return found

    def changes(self, identity: Identity, given: Mapping[str, Any], processes: int) -> list[str]:
        """A line for each setting that differs: its flag, the old value and the new one."""
        before = {**self.arguments, "processes": self.processes}
        now = {name: _plain(value) for name, value in given.items()} | {"processes": processes}
        step, other = (math.prod(run.get(name, 1) for name in _STEP) for run in (before, now))
        same = _STEP if step == other and not now.get("streaming") else ()  # 8 x 1 and 4 x 2 are the same step
        changed = [
            f"{name if name == 'processes' else f'--{name}'}: {_shown(before.get(name))} -> {_shown(now.get(name))}"
            for name in (*(() if identity.text else _TEXT), *_SETTINGS, *_STEP)
            if before.get(name) != now.get(name) and name not in same
        ]
        text = self.identity.get("text")
        if text and identity.text and text != identity.text:
            changed.insert(0, f"training text: digest {text[:12]} -> {identity.text[:12]}")
        return changed


def read_run(directory: str | Path) -> Run | None:
    """The record in a directory, `None` where there is none.

    Raises:
        InputError: where it cannot be read.
    """
    path = Path(directory) / RECORD
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        arguments = record["arguments"]
        only_evaluates = arguments.get("do_eval") and not arguments.get("do_train")
        trains = record.get("trains", not only_evaluates)
        return Run(arguments, record.get("processes", 1), trains, record.get("identity", {}))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"--output_dir: {path} cannot be read as the record of a run ({one_line(error)}); give another directory"
        ) from None


def write_run(script: str, arguments: Arguments, identity: Identity) -> None:
    """Write down what makes a run; the file can be given to the script again as its argument file.

    An evaluation leaves the record of a training alone.
    """
    training: RunArguments = arguments.training
    before = read_run(training.output_dir)
    if before and before.trains and not training.do_train:
        return
    packages = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "evaluate")
    record = {
        "script": script,
        "versions": {"wordmask": wordmask.__version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
        "processes": training.world_size,
        "trains": training.do_train,
        "identity": asdict(identity),
        "arguments": {name: _plain(value) for name, value in sorted(arguments.given.items()) if name not in LEFT_OUT},
    }
    with write_atomically(Path(training.output_dir) / RECORD) as file:
        json.dump(record, file, ensure_ascii=False, indent=2)
        file.write("\n")


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _shown(value: Any) -> str:
    return "none" if value is None else " ".join(value) if isinstance(value, list) else str(value)
