"""How long each side trains until it has the plain Trainer's loss, and which loss it has after the same time.

    python benchmarks/time_to_loss.py --tokenizer bert-base-chinese --text newspaper.txt --seconds 60

The plain Trainer trains for `--steps` (or `--seconds`), with each of its learning rates; the best one counts. Then
we look for the shortest training of each side that ends with its loss: each training is a whole one, whose learning
rate falls to 0 at its own end. Two trainings whose lengths differ by 1.4 times, one that reaches the loss and one that
does not, give the figures, interpolated between them. `--before OTHER.txt` has all sides start from a model that the
plain Trainer has trained on another text. Times are CPU seconds of one thread. With `--threads 2` they are
wall-clock seconds, of a machine that does nothing else (trained.py says what counts).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import xxhash
from rich.console import Console
from rich.table import Table

from bundled import given_or_bundled
from kept import Kept, by_content, digest
from sides import Figures
from trained import (
    Side,
    Training,
    apart,
    loss_by_frequency,
    new_model,
    split_text,
    tokens_per_example,
    train,
    use_threads,
    write_evaluation,
)
from wordmask.training.trainer.muon import cpu_has_bfloat16

CONFIG = str(Path(__file__).parent.parent / "configs/cpu.yaml")
STEP = 1.4  # the lengths of two trainings, one next to the other
LONGEST = 4.0  # times the plain Trainer's steps, after which a side has not reached its loss
WIDTH = 118  # of the tables, also in a file
CALIBRATION = 6  # steps that say how long a step of the plain Trainer takes
RATES = (0.5, 1.0, 2.0)
BFLOAT16 = ("--bf16",) if cpu_has_bfloat16() else ()
PLAIN = "plain Trainer"
KNOWING = "plain, a knowing user's"
SIDES = {
    PLAIN: Side(True, tries_rates=True),
    KNOWING: Side(
        True, ("train_sampling_strategy=group_by_length", "warmup_steps=0.1", f"bf16={cpu_has_bfloat16()}"), True
    ),
    "ours, defaults": Side(False),
    "ours, random order": Side(False, ("--train_sampling_strategy", "random")),
    "ours, packed": Side(False, ("--pack_sequences", "--per_device_train_batch_size={packed}")),
    "ours, no dropout": Side(False, ("--dropout", "0")),
    "ours, bf16": Side(False, BFLOAT16),
    "ours, muon": Side(False, ("--optim", "muon"), True),
    "ours, configs/cpu.yaml": Side(False, (CONFIG,), True),
    "ours, all flags": Side(False, (CONFIG, *BFLOAT16), True),
}
TINY = "--layers 1 --hidden 16 --length 32 --batch 4 --steps 3 --seeds 1 --evaluated 8 --longest 2"


def main(argv: Sequence[str] | None = None) -> dict[str, list[Figures]]:
    """Print the tables, and return for each side what it took, one entry for each seed."""
    options = parse(argv)
    use_threads(options.threads)
    with given_or_bundled(options, options.sample) as options, tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(options, Path(options.results or folder))
        found = {PLAIN: comparison.plain()}
        for name in options.sides:
            found[name] = comparison.reach(name, [run["loss"] for run in found[PLAIN]])
        equal = {name: comparison.after_the_same_time(name, found) for name in options.equal_seconds}
    show(options, found, comparison.by_frequency)
    if equal:
        show_equal(found[PLAIN], equal)
    return found


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options. A side can be added: `--add_side "ours, small batch=--per_device_train_batch_size 16"`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", help="by default one trained on the text")
    parser.add_argument("--text", help="by default a bundled sample")
    parser.add_argument("--sample", choices=["english", "chinese"], default="english", help="which one")
    parser.add_argument("--before", help="a text on which the plain Trainer trains the model that all start from")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="examples in a step")
    parser.add_argument("--seconds", type=float, default=60, help="for which the plain Trainer trains")
    parser.add_argument("--steps", type=int, help="its steps, instead")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="what the factors below multiply")
    parser.add_argument(
        "--plain_rates", nargs="+", type=float, default=list(RATES), help="factors that plain sides try"
    )
    parser.add_argument("--side_rates", nargs="+", type=float, default=list(RATES), help="factors that our sides try")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="with which each training computes")
    parser.add_argument("--evaluated", type=int, default=500, help="lines that no side trains on")
    parser.add_argument("--longest", type=float, default=LONGEST, help="times the plain steps, then a side gives up")
    parser.add_argument("--sides", nargs="*", help="by default all")
    parser.add_argument("--add_side", nargs="*", default=[], help="NAME=FLAGS of our script")
    parser.add_argument("--equal_seconds", nargs="*", default=["ours, defaults"], help="sides to train as long")
    parser.add_argument("--results", help="a directory of all trainings; those that it has are not repeated")
    parser.add_argument("--tiny", action="store_true", help="sizes of seconds, to see that all runs")
    given = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(given)
    if options.tiny:
        options = parser.parse_args([*TINY.split(), *given])
    added = dict(side.split("=", 1) for side in options.add_side)
    options.known = SIDES | {name: Side(False, tuple(flags.split())) for name, flags in added.items()}
    options.sides = [name for name in options.known if name != PLAIN] if options.sides is None else options.sides
    options.sides += [name for name in (*added, *options.equal_seconds) if name not in options.sides]
    if unknown := {*options.sides, *options.equal_seconds} - {*options.known}:
        parser.error(f"--sides: {', '.join(sorted(unknown))}: there is none of that name; give {list(options.known)}")
    return options


class Comparison:
    """All trainings of a comparison; each is printed when it ends."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.steps = options, options.steps or 0
        folder.mkdir(parents=True, exist_ok=True)
        text, lines = split_text(options.text, options.evaluated, folder)
        evaluated = write_evaluation(lines, options.tokenizer, options.length, folder / "evaluated.pt")
        self.by_frequency = loss_by_frequency(text, options.tokenizer, options.length, evaluated)
        tokens = tokens_per_example(text, options.tokenizer, options.length)
        packed = max(1, round(options.batch * tokens / options.length))
        self.pace: dict[str, float] = {}  # seconds of a step, in the last training of each side
        self.kept = Kept(folder / "trainings.jsonl")
        self.cases = []
        for seed in range(options.seeds):
            sizes = options.layers, options.hidden, options.length, seed
            model = new_model(options.tokenizer, *sizes, str(folder / f"model{seed}"))
            batch = options.batch, packed
            shared = evaluated, options.length, *batch, str(folder / "cache")
            self.cases.append(Training(model, text, *shared, seed, options.threads))
        self._warm_up()
        if not self.steps:
            tried = self._train(PLAIN, self.cases[0], CALIBRATION, 1.0)
            self.steps = max(1, round(options.seconds / tried["seconds"] * CALIBRATION))
        if options.before:
            self.cases = [self._trained_before(case, folder) for case in self.cases]

    def _warm_up(self) -> None:
        """Compile what our script compiles once on each machine, which is no part of a training."""
        apart(partial(train, Side(False), self.cases[0], 1, self.options.learning_rate))

    def _trained_before(self, case: Training, folder: Path) -> Training:
        """The same case, from a model that was trained on another text."""
        text, _ = split_text(self.options.before, 0, folder / "before")
        case_before = replace(case, train=text)
        training = json.dumps(self._key(PLAIN, case_before, self.steps, 1.0))
        model = str(folder / "before" / xxhash.xxh3_64_hexdigest(training.encode()))
        self._train(PLAIN, case_before, self.steps, 1.0, model)
        return replace(case, model=model)

    def _train(self, name: str, case: Training, steps: int, factor: float, save_to: str | None = None) -> Figures:
        training = [*self._key(name, case, steps, factor), bool(save_to)]
        rate = factor * self.options.learning_rate
        found: Figures = self.kept.once(training, partial(self._trained, name, case, steps, rate, save_to))
        self.pace[name] = found["seconds"] / found["steps"]
        return found

    def _key(self, name: str, case: Training, steps: int, factor: float) -> list[Any]:
        """All that a training depends on."""
        side, options = self.options.known[name], self.options
        files = [digest(path) for path in (case.model, case.train, case.evaluated)]
        shared = [by_content(side.flags), files, options.length, options.batch]
        return [side.plain, *shared, case.seed, case.threads, steps, factor * options.learning_rate]

    def _trained(self, name: str, case: Training, steps: int, rate: float, save_to: str | None) -> Figures:
        side = self.options.known[name]
        found = apart(partial(train, side, case, steps, rate, save_to))
        print(
            f"{name}, seed {case.seed}: " + ", ".join(f"{key} {value:.6g}" for key, value in found.items()), flush=True
        )
        return found

    def plain(self) -> list[Figures]:
        """The plain Trainer, for each seed, at the rate that is best for the first."""
        first, *others = self.cases
        tried = [self._train(PLAIN, first, self.steps, factor) for factor in self.options.plain_rates]
        best = min(tried, key=lambda found: found["loss"])
        self.best = best["rate"] / self.options.learning_rate
        return [best, *(self._train(PLAIN, case, self.steps, self.best) for case in others)]

    def reach(self, name: str, targets: Sequence[float]) -> list[Figures]:
        """What a side takes to have the loss of each seed's plain training."""
        side, steps, found = self.options.known[name], self.steps, []
        factor = self.best
        if side.tries_rates:  # what is tried is kept, so the best one is not trained again
            factors = self.options.plain_rates if side.plain else self.options.side_rates
            tried = {factor: self._train(name, self.cases[0], steps, factor) for factor in factors}
            factor = min(tried, key=lambda factor: tried[factor]["loss"])
        for case, target in zip(self.cases, targets, strict=True):
            run: Callable[[int], Figures] = partial(self._train, name, case, factor=factor)
            found.append(shortest(run, target, steps, self.options.longest * self.steps))
            steps = max(1, round(min(found[-1]["steps"], self.options.longest * self.steps)))
        return found

    def after_the_same_time(self, name: str, found: dict[str, list[Figures]]) -> list[Figures]:
        """A side that trains as long as the plain Trainer."""
        runs = []
        for case, plain, own in zip(self.cases, found[PLAIN], found[name], strict=True):
            steps = max(1, round(plain["seconds"] / self.pace[name]))
            runs.append(self._train(name, case, steps, own["rate"] / self.options.learning_rate))
        return runs


def shortest(run: Callable[[int], Figures], target: float, steps: int, longest: float) -> Figures:
    """The shortest training that ends with a loss: of two that enclose it, interpolated.

    Args:
        run: trains for so many steps.
        target: the loss.
        steps: of the first training.
        longest: steps, above which a side has not reached it.

    Returns:
        `seconds`, `wall`, `steps` and `tokens`; all infinite, if it is not reached.
    """
    above: Figures | None = None  # the longest training that has not reached it
    reached: Figures | None = None  # the shortest one that has
    while above is None or reached is None:
        found = run(steps)
        if found["loss"] <= target:
            reached, following = found, min(steps - 1, math.floor(steps / STEP))
        else:
            above, following = found, max(steps + 1, math.ceil(steps * STEP))
        if following < 1 or following > longest and reached is None:
            break
        steps = following
    if reached is None:
        return {**found, **dict.fromkeys(("seconds", "wall", "steps", "tokens"), math.inf)}
    return between(above, reached, target) if above else reached


def between(above: Figures, reached: Figures, target: float) -> Figures:
    """What a training takes that ends with a loss between those of two others: a straight line over log(steps)."""
    share = (above["loss"] - target) / (above["loss"] - reached["loss"])
    names = ("seconds", "wall", "steps", "tokens")
    taken = {name: above[name] ** (1 - share) * reached[name] ** share for name in names}
    return {**reached, **taken, "loss": target}


def show(options: argparse.Namespace, found: dict[str, list[Figures]], by_frequency: float) -> None:
    """Print what each side took: means over the seeds, and the ratio with its spread. `inf`: it was not reached.

    Below stands the loss of a model that knows only how frequent each token is.
    """
    start = f"after {Path(options.before).name}" if options.before else "from scratch"
    title = f"{options.layers} × {options.hidden}, batch {options.batch}, {start}: to the plain Trainer's loss"
    table = Table(title=title, caption=f"the frequencies of the tokens alone: a loss of {by_frequency:.3f}")
    seconds = "CPU s" if options.threads == 1 else "s"
    for column in ("", "loss", "learning rate", seconds, "wall-clock s", "steps", "tokens", "times as fast"):
        table.add_column(column, justify="right" if column else "left")
    for name, runs in found.items():
        means = {key: statistics.mean(run[key] for run in runs) for key in runs[0]}
        ratios = [plain["seconds"] / run["seconds"] for plain, run in zip(found[PLAIN], runs, strict=True)]
        shown = (f"{means[key]:,.1f}" for key in ("seconds", "wall"))
        more = (f"{means[key]:,.0f}" for key in ("steps", "tokens"))
        ratio = statistics.mean(run["seconds"] for run in found[PLAIN]) / means["seconds"]
        spread = f"{ratio:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        table.add_row(name, f"{means['loss']:.3f}", f"{means['rate']:g}", *shown, *more, spread)
    Console(width=WIDTH).print(table)


def show_equal(plain: list[Figures], equal: dict[str, list[Figures]]) -> None:
    """Print the losses after the same time."""
    table = Table(title="after the same seconds")
    for column in ("", "seconds", "steps", "loss", "difference"):
        table.add_column(column, justify="right" if column else "left")
    for name, runs in {PLAIN: plain, **equal}.items():
        less = [run["loss"] - other["loss"] for run, other in zip(runs, plain, strict=True)]
        seconds, steps, loss = (statistics.mean(run[key] for run in runs) for key in ("seconds", "steps", "loss"))
        spread = f"{statistics.mean(less):+.3f} ({min(less):+.3f} to {max(less):+.3f})"
        table.add_row(name, f"{seconds:,.1f}", f"{steps:,.0f}", f"{loss:.3f}", spread)
    Console(width=WIDTH).print(table)


if __name__ == "__main__":
    main()
