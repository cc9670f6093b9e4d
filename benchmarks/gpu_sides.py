"""The sides of gpu.py: the plain Trainer of transformers, our script, and our script with configs/gpu.yaml.

Each starts from the same weights, sees the same text once, in steps of the same number of tokens, and is evaluated by
the same code, which is neither's own.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from gpu_trials import TRIALS
from meter import Meter
from sides import Case
from wordmask.training.start import start

ROOT = Path(__file__).parent.parent
RATE = 0.15
SEED = 42
WORKERS = 4  # of the plain Trainer's data loader; its collator takes too long for one process
MULTIPLE = 64  # the plain Trainer pads to multiples of it, so that lengths, and so compiled graphs, are few
EVALUATED_TOKENS = 8192  # in a batch of the evaluation
TRAINING = {
    "num_train_epochs": 1,
    "learning_rate": 5e-4,
    "warmup_steps": 0.1,
    "weight_decay": 0.01,
    "seed": SEED,
    "bf16": True,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
}


@dataclass(frozen=True)
class GpuTraining(Case):
    """What the sides of one measurement share. `evaluated` is a text file, too.

    Attributes:
        full: whether all documents have the full length.
        warmup: the steps that are not timed.
        turn: a file that a side locks from its first step to its end, and the next one while it imports.
        tokens: those of the text.
        flops: the operations that one real token takes.
        rate: the operations per second of matrix products alone.
        trials: the names of what is tried.
        on_cpu: whether this is a trial on a CPU, where graphs are captured and counted, and run as they are.
    """

    full: bool
    warmup: int
    turn: str
    tokens: int
    flops: float
    rate: float
    trials: tuple[str, ...]
    on_cpu: bool

    def measured(self, train: Callable[[str, PreTrainedTokenizerBase], None]) -> dict[str, float]:
        """Train in a directory, and say what was measured, and the loss on other documents."""
        tokenizer = AutoTokenizer.from_pretrained(self.model)
        meter = Meter(self.warmup, tokenizer.pad_token_id, self.turn)
        with meter:
            with tempfile.TemporaryDirectory() as folder, meter.attached():
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "compiled"))  # nothing of an earlier side
                train(folder, tokenizer)
            figures = meter.figures(self.flops, self.rate, self.tokens)
            return figures | {"loss": evaluate(self, meter.model, tokenizer)}


def run_plain(case: GpuTraining) -> dict[str, float]:
    """transformers' Trainer and collator, with flags that make them faster, and what it tries."""
    trials = [TRIALS[name] for name in case.trials]
    workers = next((trial.workers for trial in trials if trial.workers is not None), 0 if case.on_cpu else WORKERS)
    settings: dict[str, Any] = {name: value for trial in trials for name, value in trial.settings}
    compiles = all(trial.compiles for trial in trials)
    mode = next((trial.mode for trial in trials if trial.mode), None)
    if not case.full:  # else graphs for the first length are compiled, and then again for all lengths
        os.environ["ACCELERATE_DYNAMO_USE_DYNAMIC"] = "true"

    def train(folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        lines = Path(case.train).read_text(encoding="utf-8").splitlines()
        encoded = tokenizer(lines, truncation=True, max_length=case.length, return_special_tokens_mask=True)
        names = ("input_ids", "attention_mask", "special_tokens_mask")
        dataset = [{name: encoded[name][index] for name in names} for index in range(len(lines))]
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=case.batch,
            optim="adamw_torch_fused",
            torch_compile=compiles,
            torch_compile_mode=mode,
            train_sampling_strategy="group_by_length",
            dataloader_num_workers=workers,
            remove_unused_columns=False,
            tf32=None if case.on_cpu else True,
            use_cpu=case.on_cpu,
            torch_compile_backend="eager" if case.on_cpu and compiles else None,
            disable_tqdm=True,
            **TRAINING,
        )
        settings.update(attn_implementation="sdpa", dtype=torch.float32)
        model = AutoModelForMaskedLM.from_pretrained(case.model, **settings)
        multiple = min(MULTIPLE, case.length)
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE, pad_to_multiple_of=multiple)
        Trainer(model, arguments, collator, train_dataset=dataset, processing_class=tokenizer).train()

    return case.measured(train)


def run_ours(case: GpuTraining) -> dict[str, float]:
    """Our script with its defaults, in bfloat16."""
    return case.measured(lambda folder, tokenizer: _script(case, folder, case.batch))


def run_ours_gpu(case: GpuTraining) -> dict[str, float]:
    """Our script with configs/gpu.yaml, and what it tries."""
    trials = [TRIALS[name] for name in case.trials]
    passes, times = math.prod(trial.passes for trial in trials), math.prod(trial.times for trial in trials)
    config = str(ROOT / "configs/gpu.yaml")
    on_cpu = ["--no_tf32", "--torch_compile_backend", "eager"] if case.on_cpu else []
    divided = ["--gradient_accumulation_steps", str(passes)] if passes > 1 else []
    flags = [config, *on_cpu, *divided, *(flag for trial in trials for flag in trial.flags)]

    def train(folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        with ExitStack() as changes:
            for trial in trials:
                changes.enter_context(trial.change())
            _script(case, folder, case.packed_batch * times // passes, *flags)

    return case.measured(train)


def _script(case: GpuTraining, folder: str, batch: int, *more: str) -> None:
    flags: dict[str, Any] = {
        "model_name_or_path": case.model,
        "train_file": case.train,
        "line_by_line": True,
        "max_seq_length": case.length,
        "per_device_train_batch_size": batch,
        "mlm_probability": RATE,
        "output_dir": str(Path(folder, "out")),
        "cache_dir": folder,
        "do_train": True,
        "use_cpu": case.on_cpu,
        **TRAINING,
    }
    config = [name for name in more if name.endswith(".yaml")]
    argv = [*config, *(f"--{name}={value}" for name, value in flags.items()), *more[len(config) :]]
    start("run_mlm.py", argv)


def evaluate(case: GpuTraining, trained: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> float:
    """The mean loss over 15 % of the tokens of documents that no side trains on, all replaced by the mask token.

    The weights go into a fresh model, without any hook, kernel or wrapper of the side that trained them.
    """
    model = AutoModelForMaskedLM.from_pretrained(case.model, attn_implementation="sdpa", dtype=torch.float32)
    model.load_state_dict(trained.state_dict())
    device = next(trained.parameters()).device
    model.to(device).eval()
    lines = Path(case.evaluated).read_text(encoding="utf-8").splitlines()
    total, count, generator = 0.0, 0, torch.Generator().manual_seed(SEED)
    size = max(1, EVALUATED_TOKENS // case.length)
    for first in range(0, len(lines), size):
        encoded = tokenizer(
            lines[first : first + size],
            truncation=True,
            max_length=case.length,
            padding="longest",
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        special = encoded.pop("special_tokens_mask").bool()
        chosen = (torch.rand(special.shape, generator=generator) < RATE) & ~special
        labels = encoded["input_ids"][chosen].to(device)
        encoded["input_ids"][chosen] = tokenizer.mask_token_id
        inputs = {name: encoded[name].to(device) for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            logits = model(**inputs).logits[chosen.to(device)].float()
        total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return total / count


SIDES: dict[str, Callable[[GpuTraining], dict[str, float]]] = {
    "plain": run_plain,
    "ours": run_ours,
    "ours_gpu": run_ours_gpu,
}
