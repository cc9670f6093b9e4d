"""One training, by the plain Trainer of transformers or by our script: what it took, and the loss it ends with.

With one thread, the clock is the CPU time of the training process. With several, which wait for each other, it is
wall-clock time. It runs from the first step to the last: loading the model, tokenizing the text and evaluating do not
count on either side. Run each training in a process of its own (`apart`), so that none leaves anything to the next.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from meter import watching
from sides import Case, Figures, Process
from wordmask.training.run import run
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines

RATE = 0.15  # of masked tokens
EVALUATED_TOKENS = 8192  # in a batch of the evaluation, padding included
LONGEST_RUN = 3600.0  # wall-clock seconds of one training, on a busy machine


@dataclass(frozen=True)
class Side:
    """A way to train.

    Attributes:
        plain: whether it is the Trainer of transformers; else it is our script.
        flags: the arguments of that Trainer, or flags of our script, in addition to what all sides share. `{packed}`
            stands for the packed batch.
        tries_rates: whether it gets the best of several learning rates; else it has that of the plain Trainer.
    """

    plain: bool
    flags: tuple[str, ...] = ()
    tries_rates: bool = False


@dataclass(frozen=True)
class Training(Case):
    """What all sides of a comparison share. `evaluated` is what `write_evaluation` has written.

    Attributes:
        cache: a directory for tokens, which all trainings of our script share.
        seed: of the order of the examples, and of masks and dropout.
        threads: that compute.
    """

    cache: str
    seed: int
    threads: int = 1


class Stopwatch(TrainerCallback):
    """Times a Trainer, and counts its real tokens."""

    def __init__(self, pad: int):
        self.pad, self.steps = pad, 0
        self.counts: list[torch.Tensor] = []
        self.model: Any = None

    def count(self, batch: dict[str, torch.Tensor]) -> None:
        """Count the real tokens of a batch; a masked token may have become padding."""
        self.counts.append((batch["input_ids"].ne(self.pad) | batch["labels"].ne(-100)).sum())

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **options: Any) -> None:
        """The clock starts."""
        self.model = model
        self.began = self.ended = time.process_time(), time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **options: Any) -> None:
        """The clock may stop here, if this is the last step."""
        self.ended, self.steps = (time.process_time(), time.perf_counter()), state.global_step

    def figures(self) -> Figures:
        """CPU seconds, wall-clock seconds, steps and real tokens."""
        seconds, wall = (end - begin for begin, end in zip(self.began, self.ended, strict=True))
        tokens = float(torch.stack(self.counts).sum())
        return {"seconds": seconds, "wall": wall, "steps": float(self.steps), "tokens": tokens}


def use_threads(threads: int) -> None:
    """Have this process, and what it starts, compute with so many threads each."""
    os.environ |= {"OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    torch.set_num_threads(threads)


def apart(work: Callable[[], Any]) -> Any:
    """The result of some work, in a process of its own."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # Python 3.11 does not hand it on
    return Process("trained", "forkserver").run(work, LONGEST_RUN)


def train(side: Side, case: Training, steps: int, rate: float, save_to: str | None = None) -> Figures:
    """Train for some steps, and say what it took and which loss it ends with.

    Args:
        side: how to train.
        case: what to train.
        steps: of the optimizer; the learning rate falls over all of them.
        rate: the highest learning rate.
        save_to: a directory for the trained model, if it is needed.
    """
    use_threads(case.threads)
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    watch = Stopwatch(tokenizer.pad_token_id)
    with tempfile.TemporaryDirectory() as folder, watching(watch, watch.count):
        (_train_plainly if side.plain else _train_ours)(side, case, steps, rate, folder)
    model = BertForMaskedLM.from_pretrained(case.model, dtype=torch.float32)  # without any hook of the side
    model.load_state_dict(watch.model.state_dict())
    if save_to:
        model.save_pretrained(save_to)
        tokenizer.save_pretrained(save_to)
    figures = watch.figures()
    seconds = figures["seconds" if case.threads == 1 else "wall"]
    return {**figures, "seconds": seconds, "loss": evaluate(model, case.evaluated), "rate": rate}


def _train_plainly(side: Side, case: Training, steps: int, rate: float, folder: str) -> None:
    """transformers' Trainer and collator, as its documentation puts them together."""
    tokenizer = AutoTokenizer.from_pretrained(case.model)
    lines = list(read_lines(case.train, "--text"))
    encoded = tokenizer(lines, truncation=True, max_length=case.length, return_special_tokens_mask=True)
    dataset = [{name: encoded[name][index] for name in encoded} for index in range(len(lines))]
    given = dict(flag.split("=") for flag in side.flags)
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        learning_rate=rate,
        per_device_train_batch_size=case.batch,
        seed=case.seed,
        use_cpu=True,
        bf16=given.get("bf16") == "True",
        train_sampling_strategy=given.get("train_sampling_strategy", "random"),
        warmup_steps=float(given.get("warmup_steps", 0)),
        remove_unused_columns=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    set_seed(case.seed)
    model = BertForMaskedLM.from_pretrained(case.model, dtype=torch.float32)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=RATE)
    with contextlib.redirect_stdout(io.StringIO()):
        Trainer(model, arguments, collator, train_dataset=dataset, processing_class=tokenizer).train()


def _train_ours(side: Side, case: Training, steps: int, rate: float, folder: str) -> None:
    """Our script. The flags of a side win over those that all sides share."""
    shared: dict[str, Any] = {
        "model_name_or_path": case.model,
        "train_file": case.train,
        "line_by_line": True,
        "max_seq_length": case.length,
        "per_device_train_batch_size": case.batch,
        "max_steps": steps,
        "learning_rate": rate,
        "seed": case.seed,
        "output_dir": str(Path(folder, "out")),
        "cache_dir": case.cache,
        "do_train": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "log_format": "plain",
    }
    given = [flag.format(packed=case.packed_batch) for flag in side.flags]
    config = [flag for flag in given if flag.endswith(".yaml")]
    flags = [flag for flag in given if flag not in config]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        run("run_mlm.py", [*config, *(f"--{name}={value}" for name, value in shared.items()), *flags])


def new_model(tokenizer: str, layers: int, hidden: int, length: int, seed: int, folder: str) -> str:
    """A directory with a BERT of random weights and its tokenizer."""
    words = AutoTokenizer.from_pretrained(tokenizer)
    set_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        intermediate_size=4 * hidden,
        max_position_embeddings=length,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def split_text(text: str, evaluated: int, folder: Path) -> tuple[str, list[str]]:
    """A file of the lines of a text to train on, in random order, and the other lines, to evaluate on."""
    lines = [line for line in read_lines(text, "--text") if not is_blank(line)]
    random.Random(0).shuffle(lines)
    folder.mkdir(parents=True, exist_ok=True)
    trained = folder / f"{Path(text).stem}-train.txt"
    trained.write_text("".join(f"{line}\n" for line in lines[evaluated:]), encoding="utf-8")
    return str(trained), lines[:evaluated]


def tokens_per_example(text: str, tokenizer: str, length: int) -> float:
    """The mean over a thousand examples, special tokens included."""
    lines = list(islice(read_lines(text, "--text"), 1000))
    encoded = AutoTokenizer.from_pretrained(tokenizer)(lines, truncation=True, max_length=length)["input_ids"]
    return sum(map(len, encoded)) / len(encoded)


def write_evaluation(lines: list[str], tokenizer: str, length: int, path: Path) -> str:
    """Mask 15 % of the tokens of some lines, once for all sides, each by the mask token, and write the batches."""
    words, batches, generator = AutoTokenizer.from_pretrained(tokenizer), [], torch.Generator().manual_seed(0)
    ordered = sorted(lines, key=len)
    size = max(1, EVALUATED_TOKENS // length)
    for first in range(0, len(ordered), size):
        encoded = words(
            ordered[first : first + size],
            truncation=True,
            max_length=length,
            padding="longest",
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"].bool()
        chosen = (torch.rand(ids.shape, generator=generator) < RATE) & ~special
        masked = ids.masked_fill(chosen, words.mask_token_id)
        batches.append((masked, encoded["attention_mask"], chosen, ids[chosen]))
    torch.save(batches, path)
    return str(path)


def evaluate(model: BertForMaskedLM, evaluated: str) -> float:
    """The mean loss over the masked tokens of an evaluation. It is computed here, by the code of no side."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids, attention, chosen, labels in torch.load(evaluated):
            hidden = model.bert(ids, attention_mask=attention).last_hidden_state
            total += float(torch.nn.functional.cross_entropy(model.cls(hidden[chosen]), labels, reduction="sum"))
            count += len(labels)
    return total / count


def loss_by_frequency(text: str, tokenizer: str, length: int, evaluated: str) -> float:
    """The loss of a model that knows only how often each token is in a text, where each counts once more."""
    words, counts = AutoTokenizer.from_pretrained(tokenizer), Counter[int]()
    lines = list(read_lines(text, "--text"))
    for ids in words(lines, add_special_tokens=False, truncation=True, max_length=length)["input_ids"]:
        counts.update(ids)
    labels = torch.cat([labels for *_, labels in torch.load(evaluated)]).tolist()
    total = counts.total() + len(words)
    return -sum(math.log((counts[label] + 1) / total) for label in labels) / len(labels)
