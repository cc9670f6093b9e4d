"""Real tokens per second and memory of training line by line, ours beside the plain Trainer.

    python benchmarks/train.py --tokenizer bert-base-uncased --text wikitext2-valid.txt

Every side sees the same lines once, which is checked, with the same small model, tokens in a step, masking rate and
seed, in a process of its own, in turn; then it is evaluated on the same masks of other lines, and losses further than
1 % from the first side's are named. MFU is the least arithmetic that this training takes, as a share of what matrix
products alone reach here, so that its inverse is what is left to gain; `--profile` shows where the time goes.
`--device_flags` are given to all sides, for example `--bf16 --torch_compile`.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import profile
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bundled import given_or_bundled
from meter import matrix_rate, now
from sides import forget_peak, peak_megabytes, run_in_turn
from wordmask.config.arguments import parse_arguments
from wordmask.data.collator import MaskingCollator
from wordmask.data.plan import EVALUATION, Draw
from wordmask.data.sequences import Sequences, StagedSequences
from wordmask.data.sources import load_texts
from wordmask.data.token_store import Tokenization, tokenized
from wordmask.masking import IGNORED, Strategy
from wordmask.models.choose_forward import choose_forward
from wordmask.models.configuration import load_config
from wordmask.models.loading import load_model
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.trainer.mlm_trainer import MlmTrainer
from wordmask.utils.errors import InputError
from wordmask.utils.files import is_blank
from wordmask.utils.readers import read_lines

EVALUATED = 200  # lines, the first of the text, which no side trains on
RATE = 0.15
TOLERANCE = 0.01  # of the loss
COLUMNS = {
    "speed": ("real tokens/s", "{:,.0f}"),
    "padding": ("padding", "{:.1%}"),
    "memory": ("MB added", "{:,.0f}"),
    "mfu": ("MFU", "{:.1%}"),
    "loss": ("loss", "{:.3f}"),
}


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Print the table and return the medians of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="of --batch lines; packed rows hold more")
    parser.add_argument("--warmup", type=int, default=1, help="steps that are not timed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="show what takes longest in each side")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--device_flags", nargs=argparse.REMAINDER, default=["--use_cpu"])
    with given_or_bundled(parser.parse_args(argv), "english") as options, tempfile.TemporaryDirectory() as folder:
        options.text, options.evaluated = write_lines(options, Path(folder))
        rates = [matrix_rate()]
        results = run_in_turn({name: partial(SIDES[name], options) for name in options.sides}, options.repeats)
        rates.append(matrix_rate())
    results = {side: found | {"mfu": found["operations"] / max(rates)} for side, found in results.items()}
    if len({found["lines"] for found in results.values()}) > 1:
        raise RuntimeError("the sides saw different lines")
    table = Table(title=f"{options.layers} × {options.hidden}, batch {options.batch}, {options.steps} steps")
    shown = [name for name in COLUMNS if any(found[name] for found in results.values())]
    for column in ("", *(COLUMNS[name][0] for name in shown)):
        table.add_column(column, justify="right" if column else "left")
    first, *_ = results.values()
    for side, found in results.items():
        cells = {name: COLUMNS[name][1].format(found[name]) for name in shown}
        for name in ("speed", "memory"):
            cells[name] += f" ({found[name] / first[name]:.2f}×)"
        cells["loss"] += f" ({found['loss'] / first['loss'] - 1:+.1%})"
        table.add_row(side, *cells.values())
    Console().print(table)
    beyond = [side for side, found in results.items() if abs(found["loss"] / first["loss"] - 1) > TOLERANCE]
    Console().print("all sides saw the same lines")
    Console().print(f"losses further than {TOLERANCE:.0%} from the first one's: {', '.join(beyond) or 'none'}")
    return results


def write_lines(options: argparse.Namespace, folder: Path) -> tuple[str, str]:
    """Files of the lines to train on and of those to evaluate on; a short text is repeated."""
    lines = [line for line in read_lines(options.text, "--text") if not is_blank(line)]
    if len(lines) <= EVALUATED:
        raise InputError(f"--text: {options.text} has {len(lines)} lines; give more than {EVALUATED}")
    trained = islice(cycle(lines[EVALUATED:]), options.steps * options.batch)
    paths = folder / "trained.txt", folder / "evaluated.txt"
    for path, chosen in zip(paths, (trained, lines[:EVALUATED]), strict=True):
        path.write_text("".join(f"{line}\n" for line in chosen), encoding="utf-8")
    return str(paths[0]), str(paths[1])


class Counted:
    """A collator that keeps count of the real and the labelled tokens of each batch, and a digest of all lines."""

    def __init__(self, collator: Callable[[Any], Any]):
        self.collator = collator
        self.pad_to_multiple_of = getattr(collator, "pad_to_multiple_of", 1)
        self.real: list[int] = []
        self.labels: list[int] = []
        self.lines = 0  # a sum, whatever the order of the lines, that a float holds exactly

    def __call__(self, rows: Any) -> Any:
        batch = self.collator(rows)
        self.real.append(int(batch["attention_mask"].sum()))
        self.labels.append(int(batch["labels"].ne(IGNORED).sum()))
        real = batch["attention_mask"].bool()
        real[[index for index, row in enumerate(rows) if getattr(row, "rate", RATE) == 0]] = False  # fill up a batch
        tokens = torch.where(batch["labels"] == IGNORED, batch["input_ids"], batch["labels"])[real]
        for line in torch.tensor_split(tokens, (tokens == batch["input_ids"][0, 0]).nonzero()[1:, 0]):
            digest = hashlib.sha256(line.numpy().tobytes()).digest()
            self.lines = (self.lines + int.from_bytes(digest[:6])) % 2**48
        return batch


class Clock(TrainerCallback):
    """When training began and when each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(now())

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.times.append(now())


class Setting:
    """What all sides share: the tokenizer, the model, and the lines to train and to evaluate on."""

    def __init__(self, options: argparse.Namespace, folder: str, *flags: str):
        model = ["--model_type", "bert", "--tokenizer_name", options.tokenizer, "--config_overrides"]
        size = f"hidden_size={options.hidden},num_hidden_layers={options.layers},num_attention_heads={options.heads}"
        size += f",intermediate_size={4 * options.hidden}"
        run = ["--num_train_epochs", 1, "--per_device_train_batch_size", options.batch, "--learning_rate", 5e-4]
        text = ["--train_file", options.text, "--validation_file", options.evaluated]
        text += ["--max_seq_length", options.length, "--output_dir", folder]
        quiet = ["--report_to", "none", "--save_strategy", "no", "--logging_strategy", "no"]
        argv = [*model, size, *run, *text, *quiet, *options.device_flags, *flags]
        self.options, self.folder = options, folder
        self.arguments = parse_arguments(list(map(str, argv)), line_by_line=True)
        self.arguments.training.disable_tqdm = True
        self.tokenizer = AutoTokenizer.from_pretrained(options.tokenizer)
        set_seed(42)
        self.model, _ = load_model(self.arguments.model, load_config(self.arguments.model), self.tokenizer)
        self.texts = load_texts(self.arguments.data, folder, None, True)
        self.evaluated = self.rows("validation")

    def rows(self, split: str, packed: bool = False) -> Sequences:
        """Our rows of some texts."""
        tokenization = Tokenization(self.tokenizer, self.arguments.data, None, self.folder)
        return Sequences(tokenized(self.texts[split], tokenization), tokenization, self.options.length, packed)

    def evaluate(self) -> float:
        """The loss on the lines set apart, under the same masks for every side."""
        collator = MaskingCollator(Vocabulary.of(self.tokenizer), Strategy.TOKEN, seed=0)
        self.model.eval()
        losses = labels = 0.0
        for start in range(0, EVALUATED, 20):
            batch = collator([self.evaluated[Draw(index, EVALUATION, RATE)] for index in range(start, start + 20)])
            batch = {name: tensor.to(self.model.device) for name, tensor in batch.items()}
            number = int(batch["labels"].ne(IGNORED).sum())
            with torch.no_grad():
                losses += float(self.model(**batch).loss) * number
            labels += number
        return losses / labels

    def figures(self, trainer: Trainer, counted: Counted) -> dict[str, float]:
        """Train, evaluate, and say what was measured."""
        clock, warmup, passed = Clock(), self.options.warmup, 0
        trainer.add_callback(clock)
        compute_loss = trainer.compute_loss

        def counting(model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
            nonlocal passed
            passed += inputs["input_ids"].numel()
            return compute_loss(model, inputs, *more, **options)

        trainer.compute_loss = counting  # type: ignore[method-assign]
        before = forget_peak()
        with profile() if self.options.profile else nullcontext() as recorded:
            trainer.train()
        if recorded:
            print(recorded.key_averages().table("self_cpu_time_total", row_limit=12, max_name_column_width=40))
        on_gpu = torch.cuda.is_available()
        added = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else peak_megabytes() - before
        steps = len(clock.times) - 1
        seconds = clock.times[-1] - clock.times[warmup]
        real = sum(counted.real[warmup:steps])
        return {
            "speed": real / seconds,
            "padding": 1 - sum(counted.real) / passed,
            "memory": added,
            "operations": self._operations(real, sum(counted.labels[warmup:steps])) / seconds,
            "loss": self.evaluate(),
            "lines": float(counted.lines),
        }

    def _operations(self, real: int, labels: int) -> float:
        """The least arithmetic that training on so many tokens and labels takes, attention between tokens left out."""
        config = self.model.config
        layers = sum(p.numel() for p in self.model.base_model.encoder.parameters())
        return 6.0 * (layers * real + config.vocab_size * config.hidden_size * labels)


def run_ours(sampling: str, packed: bool, options: argparse.Namespace) -> dict[str, float]:
    """Our Trainer, as the script sets it up."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--train_sampling_strategy", sampling]
        if packed:
            flags.append("--pack_sequences")
        if packed and "--torch_compile" in options.device_flags:  # so that nothing is compiled again
            flags.append("--pad_to_max_length")
        setting = Setting(options, folder, *flags)
        rows, training = setting.rows("train", packed), setting.arguments.training
        if packed:  # so many rows that a step has as many tokens
            training.per_device_train_batch_size = max(1, round(len(rows) / options.steps))
        forward = choose_forward(setting.arguments, setting.model, options.length)
        collator = MaskingCollator(
            Vocabulary.of(setting.tokenizer),
            Strategy.TOKEN,
            seed=42,
            fixed=forward.fixed,
            pad_to_multiple_of=8 if training.bf16 or training.fp16 else 1,
            packed=packed,
            flat=forward.flat,
            positions=forward.micro_batch_tokens is None,
            highest_rate=RATE if forward.fixed else None,
        )
        counted = Counted(collator)
        trainer = MlmTrainer(
            setting.model,
            training,
            StagedSequences([rows]),
            None,
            setting.tokenizer,
            counted,  # type: ignore[arg-type]
            collator,
            RATE,
            forward,
        )
        return setting.figures(trainer, counted)


def run_plain(sampling: str, options: argparse.Namespace) -> dict[str, float]:
    """transformers' own Trainer and collator."""
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options, folder)
        lines = list(read_lines(options.text, "--text"))
        encoded = setting.tokenizer(lines, truncation=True, max_length=options.length, return_special_tokens_mask=True)
        dataset = [{name: encoded[name][index] for name in encoded} for index in range(len(lines))]
        counted = Counted(DataCollatorForLanguageModeling(setting.tokenizer, mlm_probability=RATE))
        given = setting.arguments.training.to_dict()
        names = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "report_to", "save_strategy")
        names += ("logging_strategy", "disable_tqdm", "use_cpu", "bf16", "fp16", "tf32", "torch_compile")
        trainer = Trainer(
            model=setting.model,
            args=TrainingArguments(
                folder,
                **{name: given[name] for name in names},
                remove_unused_columns=False,
                train_sampling_strategy=sampling,
            ),
            train_dataset=dataset,
            processing_class=setting.tokenizer,
            data_collator=counted,
        )
        return setting.figures(trainer, counted)


SIDES: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "plain Trainer": partial(run_plain, "random"),
    "plain Trainer, grouped": partial(run_plain, "group_by_length"),
    "ours, random": partial(run_ours, "random", False),
    "ours, grouped": partial(run_ours, "group_by_length", False),
    "ours, packed": partial(run_ours, "random", True),
}


if __name__ == "__main__":
    main()
