"""Real tokens per second and peak memory of training line by line, ours beside the plain Trainer.

    python benchmarks/train.py --tokenizer bert-base-uncased --text wikitext2-valid.txt

The same small model, lines, batch size, masking rate and seed; each side in processes of its own, in turn. Every side
is then evaluated on the same masks. `--device_flags` are given to both, for example `--bf16 --torch_compile`.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainingArguments, set_seed

from sides import run_in_turn
from wordmask.arguments import parse_arguments
from wordmask.collators import MaskingCollator
from wordmask.masking import IGNORED, Strategy
from wordmask.modeling import load_model
from wordmask.preparation import tokenized
from wordmask.rows import Rows, StagedRows
from wordmask.sampling import EVALUATION, Draw
from wordmask.sparse import sparse_prediction
from wordmask.textfiles import is_blank, read_lines
from wordmask.texts import load_texts
from wordmask.trainer import MlmTrainer
from wordmask.vocabulary import Vocabulary

EVALUATED = 200  # lines, the last of the text, which no side trains on


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--device_flags", nargs=argparse.REMAINDER, default=["--use_cpu"])
    options = parser.parse_args(argv)

    sides: dict[str, Callable[[], dict[str, float]]] = {
        "plain Trainer": partial(run_plain, options, False),
        "plain Trainer, grouped": partial(run_plain, options, True),
        "ours, random, full head": partial(run_ours, options, "random", False),
        "ours, random, sparse": partial(run_ours, options, "random", True),
        "ours, grouped, sparse": partial(run_ours, options, "group_by_length", True),
    }
    results = run_in_turn(sides, options.repeats)
    table = Table(title=f"{options.layers} × {options.hidden}, batch {options.batch}, {options.steps} steps")
    for column in ("", "real tokens/s", "times plain", "padding", "peak MB", "loss afterwards"):
        table.add_column(column, justify="right" if column else "left")
    plain = results["plain Trainer"]
    for name, found in results.items():
        table.add_row(
            name,
            f"{found['speed']:,.0f}",
            f"{found['speed'] / plain['speed']:.2f}×",
            f"{found['padding']:.1%}",
            f"{found['memory']:,.0f} ({found['memory'] / plain['memory']:.2f}×)",
            f"{found['loss']:.3f}",
        )
    Console().print(table)
    return results


class Counted:
    """A collator that counts real and padded tokens."""

    def __init__(self, collator: Callable[[Any], Any]):
        self.collator, self.real, self.all = collator, 0, 0

    def __call__(self, rows: Any) -> Any:
        batch = self.collator(rows)
        self.real += int(batch["attention_mask"].sum())
        self.all += batch["attention_mask"].numel()
        return batch


def _arguments(options: argparse.Namespace, folder: str, *flags: str) -> Any:
    model = ["--model_type", "bert", "--tokenizer_name", options.tokenizer, "--config_overrides"]
    size = f"hidden_size={options.hidden},num_hidden_layers={options.layers},num_attention_heads=6"
    run = ["--max_steps", options.steps, "--per_device_train_batch_size", options.batch, "--learning_rate", 5e-4]
    text = ["--train_file", options.text, "--max_seq_length", options.length, "--output_dir", folder]
    quiet = ["--disable_tqdm", "--report_to", "none", "--save_strategy", "no", "--logging_strategy", "no"]
    size += f",intermediate_size={4 * options.hidden}"
    argv = [*model, size, *run, *text, *quiet, *options.device_flags, *flags]
    return parse_arguments(list(map(str, argv)), line_by_line=True)


def _evaluate(model: Any, tokenizer: Any, rows: Any, count: int) -> float:
    """The loss on the last rows, under the same masks for every side."""
    collator = MaskingCollator(Vocabulary.of(tokenizer), Strategy.TOKEN, seed=0)
    model.eval()
    losses = labels = 0.0
    for start in range(count - EVALUATED, count, 20):
        batch = collator([rows[Draw(index, EVALUATION, 0.15)] for index in range(start, start + 20)])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        number = int(batch["labels"].ne(IGNORED).sum())
        with torch.no_grad():
            losses += float(model(**batch).loss) * number
        labels += number
    return losses / labels


def _figures(counted: Counted, seconds: float, loss: float) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    padding = 1 - counted.real / counted.all
    return {"speed": counted.real / seconds, "padding": padding, "memory": peak, "loss": loss}


def run_ours(options: argparse.Namespace, sampling: str, sparse: bool) -> dict[str, float]:
    """Our Trainer, as the script sets it up."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(options, folder, "--train_sampling_strategy", sampling)
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        set_seed(42)
        model = load_model(arguments.model, tokenizer)
        texts = load_texts(arguments.data, None, None, False)["train"]
        rows = Rows.of(tokenized(texts, tokenizer, arguments.data, None), tokenizer, arguments.data, options.length)
        limit = len(rows) - EVALUATED
        train = Rows.of(rows.stream, tokenizer, arguments.data, options.length, limit=limit)
        collator = MaskingCollator(Vocabulary.of(tokenizer), Strategy.TOKEN, seed=42)
        trainer = MlmTrainer(
            model,
            arguments.training,
            StagedRows([train]),
            None,
            tokenizer,
            collator,
            collator,
            (0.15, 0.15),
            sparse=sparse_prediction(model) if sparse else None,
        )
        trainer.collator = counted = Counted(collator)  # type: ignore[assignment]
        seconds = _time(trainer)
        return _figures(counted, seconds, _evaluate(model, tokenizer, rows, len(rows)))


def run_plain(options: argparse.Namespace, grouped: bool) -> dict[str, float]:
    """transformers' own Trainer and collator."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(options, folder)
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        set_seed(42)
        model = load_model(arguments.model, tokenizer)
        texts = load_texts(arguments.data, None, None, False)["train"]
        rows = Rows.of(tokenized(texts, tokenizer, arguments.data, None), tokenizer, arguments.data, options.length)
        lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)][: len(rows) - EVALUATED]
        encoded = tokenizer(lines, truncation=True, max_length=options.length, return_special_tokens_mask=True)
        dataset = [{name: encoded[name][index] for name in encoded} for index in range(len(lines))]
        counted = Counted(DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15))
        training = arguments.training.to_dict()
        plain = {name: training[name] for name in ("max_steps", "per_device_train_batch_size", "learning_rate")}
        plain |= {name: training[name] for name in ("use_cpu", "bf16", "fp16", "tf32", "torch_compile")}
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                folder,
                **plain,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                remove_unused_columns=False,
                train_sampling_strategy="group_by_length" if grouped else "random",
            ),
            train_dataset=dataset,
            processing_class=tokenizer,
            data_collator=counted,
        )
        seconds = _time(trainer)
        return _figures(counted, seconds, _evaluate(model, tokenizer, rows, len(rows)))


def _time(trainer: Trainer) -> float:
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
