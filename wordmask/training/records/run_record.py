"""The record of a run in its output directory, and how another run differs from it."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

import wordmask
from wordmask.config.arguments import CONCERNS, Arguments
from wordmask.config.run_arguments import RunArguments
from wordmask.models.configuration import is_dropout
from wordmask.models.identity import SCRATCH, architecture, base_model
from wordmask.tokenization.backend import tokenizer_digest
from wordmask.training.records.file_names import RUN
from wordmask.utils.errors import InputError, one_line
from wordmask.utils.files import read_json, write_json
from wordmask.utils.quantities import as_written, plain

LEFT_OUT = ("token", "hub_token", "overwrite_output_dir")  # secrets, and a flag that is meant for one run
ORDER = "train_sampling_strategy"
DEVICE = "device"  # what a run trains on, among what is described for people
# The flags that change sequences, masks or learning; model, tokenizer and text are compared by digests.
SETTINGS = (
    *("dtype", "attn_implementation", "max_train_samples", "line_by_line", "long_lines", "max_seq_length"),
    *("length_schedule", "pack_sequences", "streaming"),
    *("segmenter", "segmenter_options", "ltp", "user_dict", "hmm", "mixed_words"),
    *("masking_strategy", "mlm_probability", "mask_replace_prob", "random_replace_prob", "seed", "data_seed"),
    *("train_weights", ORDER, "tokens_per_step", "dataloader_drop_last"),
    *("max_steps", "num_train_epochs"),
    *("auto_find_batch_size", "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"),
    *("optim", "optim_args", "weight_decay"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor", "neftune_noise_alpha"),
    *("fp16", "bf16", "residual_in_fp32", "logging_steps", "eval_steps", "save_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
STEP = ("per_device_train_batch_size", "gradient_accumulation_steps", "processes")
# Flags that may differ between the machines of a launch, beside those of files and directories: paths, and secrets. Of
# models, tokenizers and texts, the content is compared.
OF_MACHINE = (
    *("model_name_or_path", "tokenizer_name", "config_name", "ltp", "user_dict", "deepspeed", "fsdp_config"),
    *("resume_from_checkpoint", "local_rank", "token", "hub_token", "log_level", "log_level_replica"),
)
_TEXT = ("dataset_name", "dataset_config_name", "train_file", "train_ref_file")  # where a text has no digest


@dataclass(frozen=True)
class Identity:
    """The model, tokenizer and text of a run, whatever they are called.

    Attributes:
        base_model: the digest of the weights that it starts from, or `from scratch`.
        architecture: the model's configuration.
        tokenizer: the tokenizer's digest.
        text: the digest of the training text; of a stream, that of the ends and sizes of its files; `None`
            for a streamed dataset and without training.
        validation: that of the validation text; `None` without an evaluation.
    """

    base_model: str
    architecture: dict[str, Any]
    tokenizer: str
    text: str | None
    validation: str | None = None

    @classmethod
    def of(cls, arguments: Arguments, model: Any, tokenizer: Any, texts: Mapping[str, Any]) -> Identity:
        """The identity of this run."""
        train = texts.get("train") if arguments.training.do_train else None
        with arguments.training.main_process_first(desc="reading the model"):
            base = base_model(arguments.model)
        text = None if train is None else train.fingerprint
        validation = texts["validation"].fingerprint if arguments.training.do_eval else None
        return cls(base, architecture(model), tokenizer_digest(tokenizer), text, validation)


@dataclass(frozen=True)
class RunRecord:
    """The record of a run that lies in its directory.

    Attributes:
        arguments: its flags.
        processes: the number of processes.
        trains: whether it trained; if not, it evaluated.
        identity: the fields of its `Identity`; older records lack some.
        resumes: see `resumes_with`.
        device: what it trained on, for people; empty if the record does not say.
    """

    arguments: Mapping[str, Any]
    processes: int
    trains: bool
    identity: Mapping[str, Any]
    resumes: Sequence[Mapping[str, Any]] = ()
    device: str = ""

    @property
    def order(self) -> str | None:
        """The order of its sequences, where its checkpoints do not tell it: lines were grouped by length."""
        given = self.arguments
        return given.get(ORDER) or ("group_by_length" if given.get("line_by_line") else "random")

    def differences(self, identity: Identity, given: Mapping[str, Any]) -> list[str]:
        """Why another run must not share the directory: its base model, tokenizer or architecture differs."""
        differences = []
        if self.identity["base_model"] != identity.base_model:
            old, new = (flags.get("model_name_or_path") or SCRATCH for flags in (self.arguments, given))
            differences.append("base model" + (f" ({old} -> {new})" if old != new else ""))
        # What a training text decides is taken from the checkpoint, so its size is told by the flag alone.
        sizes = ("vocab_size", "add_words") if str(given.get("add_words")).isdecimal() else ("vocab_size",)
        other_size = any(given.get(flag) not in (None, self.arguments.get(flag)) for flag in sizes)
        if self.identity["tokenizer"] != identity.tokenizer or other_size:
            differences.append("tokenizer")
        changed = [text for name, text in self._configured(identity) if not is_dropout(name)]
        if changed and not differences:
            differences.append(f"architecture ({', '.join(changed[:3])})")
        return differences

    def _configured(self, identity: Identity) -> Iterator[tuple[str, str]]:
        """The settings of the model's configuration that differ, with both values."""
        config = self.identity["architecture"]
        for name, value in identity.architecture.items():
            if name in config and config[name] != value:
                yield name, f"{name} {config[name]} -> {value}"

    def changes(self, identity: Identity, given: Mapping[str, Any], processes: int) -> list[str]:
        """A line for each setting that differs: its flag, the old value and the new one."""
        old = {**self.arguments, "processes": self.processes}
        new = {name: plain(value) for name, value in given.items()} | {"processes": processes}
        old_step, new_step = (math.prod(flags.get(name, 1) for name in STEP) for flags in (old, new))
        same_step = old_step == new_step and not new.get("streaming")  # as 8 x 1 and 4 x 2
        same_step |= bool(old.get("tokens_per_step") and new.get("tokens_per_step"))
        of_text = () if identity.text and self.identity.get("text") else _TEXT
        names = (*of_text, *SETTINGS, *(() if same_step else STEP))
        defaults = _defaults()  # of flags without a value, and of those that are newer than the record
        before = {name: old.get(name, defaults.get(name)) for name in names}
        changed = [
            f"{'' if name == 'processes' else '--'}{name}: {as_written(value)} -> {as_written(new.get(name))}"
            for name, value in before.items()
            if value != new.get(name) and (name != ORDER or new.get(ORDER))  # else that of the checkpoint goes on
        ]
        if dropout := [text for name, text in self._configured(identity) if is_dropout(name)]:
            changed.append(f"dropout: {', '.join(dropout)}")
        texts = {"training text, or its references": "text", "validation text": "validation"}
        pairs = {name: (self.identity.get(key), getattr(identity, key)) for name, key in texts.items()}
        other = [
            f"{name}: digest {was[:12]} -> {now[:12]}"
            for name, (was, now) in pairs.items()
            if was and now and was != now
        ]
        return [*other, *changed]


def read_run(directory: str | Path) -> RunRecord | None:
    """The record in a directory; `None` without one.

    Raises:
        InputError: if it cannot be read.
    """
    path = Path(directory) / RUN
    if not path.exists():
        return None
    try:
        record = read_json(path)
        arguments, identity = dict(record["arguments"]), dict(record["identity"])
        resumes, device = record.get("resumes", []), dict(record.get("described", {})).get(DEVICE, "")
        return RunRecord(arguments, record["processes"], record["trains"], identity, resumes, device)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--output_dir: {path} cannot be read as the record of a run ({one_line(error)}); give another directory"
        ) from None


def evaluates_a_training(training: RunArguments) -> bool:
    """Whether a run evaluates in the directory of a training, whose record, history and report stay."""
    run = read_run(training.output_dir)
    return run is not None and run.trains and not training.do_train


def check_processes_agree(arguments: Arguments, identity: Identity, checkpoint: str | None) -> None:
    """Check that each process of a launch has the flags, the text, the model and the checkpoint of the first one.

    Processes that differ would train on, and their weights or their order of sequences would not be the same.

    Args:
        arguments, identity: of the run, as this process has them.
        checkpoint: from which it continues, if it does.

    Raises:
        InputError: in a process that differs, with what is different.
    """
    if arguments.training.world_size == 1:
        return
    flags = {
        f"--{name}": as_written(plain(value))
        for name, value in arguments.given.items()
        if name not in OF_MACHINE and not name.endswith(("_file", "_dir"))
    }
    flags["the checkpoint to go on from"] = Path(checkpoint).name if checkpoint else "none"
    [(first, first_identity)] = broadcast_object_list([(flags, identity)])
    different = [
        f"{name} ({first.get(name)} -> {flags.get(name)})"
        for name in sorted({*first, *flags})
        if first.get(name) != flags.get(name)
    ]
    parts = {"base_model": "model", "text": "training text, or its references", "validation": "validation text"}
    different += [
        f"the {parts.get(name, name)}"
        for name, value in asdict(identity).items()
        if value != getattr(first_identity, name)
    ]
    if different:
        made_here = arguments.model.vocab_size and identity.tokenizer != first_identity.tokenizer
        shared = "an --output_dir and a --cache_dir" if made_here else "an --output_dir"
        raise InputError(
            f"this process differs from the first one of its launch: {', '.join(different)}; give all processes "
            f"the same flags and files, and {shared} that all machines share"
        )


def resumes_with(run: RunRecord | None, step: int, changes: Sequence[str]) -> list[dict[str, Any]]:
    """The resumes of a run with other settings, and the one that begins now: `{"step": 20, "changes": [...]}` each.

    Args:
        run: the record of the run up to now; `None` without one.
        step: the step to continue from. What was changed after it begins with it now.
        changes: a line for each setting that differs from this record.
    """
    earlier = [one | {"step": min(one["step"], step)} for one in map(dict, run.resumes if run else ())]
    return [*earlier, {"step": step, "changes": [*changes]}] if changes else earlier


def write_run(
    script: str,
    arguments: Arguments,
    identity: Identity,
    described: Mapping[str, str],
    resumes: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the record of a run, which is also an argument file that repeats it.

    An evaluation does not change the record of a training.

    Args:
        script, arguments, identity: of the run.
        described: what the run trains, on what and how, for people.
        resumes: see `resumes_with`.
    """
    training = arguments.training
    if evaluates_a_training(training):
        return
    left_out = {*LEFT_OUT, *(("do_train", "do_eval") if arguments.no_task_given else ())}
    packages = ("torch", "transformers", "datasets", "accelerate", "tokenizers", "evaluate")
    later = "; ".join(f"since step {one['step']:,}: {', '.join(one['changes'])}" for one in resumes)
    record = {
        "script": script,
        "versions": {"wordmask": wordmask.__version__, "python": platform.python_version()}
        | {name: version(name) for name in packages},
        "processes": training.world_size,
        "trains": training.do_train,
        "described": dict(described) | ({"other settings": later} if later else {}),
        "resumes": [*resumes],
        "identity": asdict(identity),
        "changed_arguments": _changed(arguments),
        "arguments": {name: plain(value) for name, value in sorted(arguments.given.items()) if name not in left_out},
    }
    write_json(Path(training.output_dir) / RUN, record)


def _defaults() -> dict[str, Any]:
    """The default of each flag, as a record has it."""
    flags = [flag for concern in CONCERNS for flag in fields(concern)]
    return {flag.name: plain(flag.default) for flag in flags if flag.default is not MISSING}


def _changed(arguments: Arguments) -> list[str]:
    """The flags that the user or the short form gives another value than their default."""
    defaults, given = _defaults(), {*arguments.named, *arguments.short_form} - {*LEFT_OUT}
    return sorted(name for name in given if plain(arguments.given.get(name)) != defaults.get(name))
