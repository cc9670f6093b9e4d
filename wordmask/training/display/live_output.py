"""What a person sees of a training: one bar, and a line for each evaluation; in a log file a line for each log, too.

The Trainer shows its own bars and dictionaries instead, unless `RunArguments.log_format` is set, as the scripts do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.columns import Columns
from rich.table import Table
from rich.text import Text
from transformers import TrainerCallback
from transformers.trainer_utils import has_length

from wordmask.config.metric_table import metrics_in
from wordmask.training.display.speed import Speed
from wordmask.training.display.utilisation import Utilisation
from wordmask.training.records.progress_record import saved_step
from wordmask.training.records.speed_record import TokenCount
from wordmask.utils.progress import Bar, Update, bar
from wordmask.utils.quantities import changed, counted, duration, loss, number, percent, plain
from wordmask.utils.terminal import labelled, terminal

REFRESHES = 2  # of the bar in a second; each takes some milliseconds from the training on a CPU


@dataclass(frozen=True)
class Logged:
    """The mean over the steps since the last log: `step 20 of 60, epoch 0.67: loss 6.163`; a stream has no epochs."""

    step: int
    steps: int
    epoch: float | None
    figures: Sequence[str]

    def line(self) -> str:
        """The step, and its figures."""
        epoch = "" if self.epoch is None else f", epoch {self.epoch:.2f}"
        return f"step {self.step:,} of {self.steps:,}{epoch}: {', '.join(self.figures)}"

    def __rich__(self) -> Table:
        return labelled(f"step {self.step:,}", Text(", ".join(self.figures)))


@dataclass(frozen=True)
class Evaluated:
    """The metrics of an evaluation, and how each differs from the last one.

    Attributes:
        step: the steps done before it.
        trains: whether it belongs to a training.
        metrics, earlier: the Trainer's metrics of this evaluation and of the last one, if any.
    """

    step: int
    trains: bool
    metrics: Mapping[str, float]
    earlier: Mapping[str, float]

    def _figures(self) -> list[tuple[str, str, bool | None]]:
        """Each metric, how it has changed, and whether that is for the better."""
        figures = []
        for metric in metrics_in(self.metrics, "trainer_name"):
            if not metric.short_label:
                continue
            value, old = self.metrics[metric.trainer_name], self.earlier.get(metric.trainer_name)
            shown = metric.shown(value)
            difference = "" if old is None else changed(shown, metric.shown(old))
            better = None if old is None or difference == "same" else (value > old) == metric.more_is_better
            figures.append((f"{metric.short_label} {shown}", difference, better))
        return figures

    def line(self) -> str:
        """`evaluation after step 20: loss 6.163 (-0.210), …`"""
        when = f" after step {self.step:,}" if self.step else " before training" if self.trains else ""
        figures = [f"{value} ({difference})" if difference else value for value, difference, _ in self._figures()]
        return f"evaluation{when}: {', '.join(figures) or 'no token is masked'}"

    def __rich__(self) -> Table:
        texts = []
        for value, difference, better in self._figures():
            style = {True: "green", False: "red", None: "default"}[better]
            texts.append(Text.assemble(value, (f" ({difference})" if difference else "", style)))
        label = f"step {self.step:,}" if self.step else "before" if self.trains else "evaluation"
        return labelled(label, Columns(texts, padding=(0, 2)) if texts else Text("no token is masked"))


@dataclass(frozen=True)
class Trained:
    """The end of a training."""

    figures: Sequence[str]

    def line(self) -> str:
        """`trained 60 steps in 1 min 05 s, mean loss 6.407, 12,300 tokens/s, 2.1% of the time for batches`"""
        return f"trained {', '.join(self.figures)}"

    def __rich__(self) -> Table:
        return labelled("trained", Text(", ".join(self.figures)))


@dataclass(frozen=True)
class _Evaluation:
    """What an evaluation has found.

    Attributes:
        step: the steps done before it.
        prefix: of the names of its metrics, as the Trainer returns them.
        text: its dataset.
        found: its metrics.
    """

    step: int = -1
    prefix: str = "eval"
    text: Any = None
    found: Mapping[str, float] = field(default_factory=dict)

    def is_comparable(self, other: _Evaluation) -> bool:
        """Whether both are of the same text."""
        return self.text is other.text and self.prefix == other.prefix

    def repeats(self, other: _Evaluation) -> bool:
        """Whether it says the same again."""
        return self.is_comparable(other) and (self.step, self.found) == (other.step, other.found)


class LiveOutput(TrainerCallback):
    """Shows the bar of a training, its logs and its evaluations.

    Args:
        tokens: counts the tokens of this process.
        predicted: the share of the tokens that the output embeddings see: 1 without sparse prediction.
        recorded: gives the figures that the first evaluation of a resumed training is compared with.
    """

    def __init__(
        self, tokens: TokenCount, predicted: float = 1.0, recorded: Callable[[], dict[str, float]] | None = None
    ):
        self.tokens, self.predicted, self.recorded = tokens, predicted, recorded
        self.loss: float | None = None
        self.last = _Evaluation()
        self.speed: Speed | None = None
        self.use: Utilisation | None = None
        self.training_bar: Bar | None = None
        self.evaluation, self.evaluated = contextlib.ExitStack(), 0  # the bar of an evaluation, and its batches
        self.move_evaluation: Update | None = None

    # Training

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Show the bar, or that the first steps compile."""
        self.speed = Speed(self.tokens, args.device, args.world_size, state.global_step, state.max_steps)
        self.use, self.loss = Utilisation.of(args, model, self.predicted), None
        self.training_bar = Bar("training", self._bar_figures)
        self.training_bar.completed, self.training_bar.total = state.global_step, state.max_steps
        if args.torch_compile:
            terminal().doing("compiling the model in the first steps")
        elif args.eval_on_start and not state.global_step:
            terminal().doing("evaluating before training")
        else:
            terminal().put(self.training_bar, REFRESHES)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.speed is None or self.training_bar is None:
            return
        if self.speed.first is None:  # in place of what came before the first step
            terminal().put(self.training_bar, REFRESHES)
        self.speed.advance(state.global_step)
        self.training_bar.completed = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """In a log file, show the loss since the last log; the bar shows it at a terminal."""
        logs = logs or {}
        if "train_loss" in logs:
            self._end_bar()
            steps = self.speed.done if self.speed else state.global_step
            included = " with evaluations" if args.eval_on_start or plain(args.eval_strategy) != "no" else ""
            figures = [f"{counted(steps, 'step')} in {duration(logs['train_runtime'])}{included}"]
            of_all = "" if steps == state.global_step else f" of all {counted(state.global_step, 'step')}"
            figures.append(f"mean loss{of_all} {loss(logs['train_loss'])}")
            if rate := logs.get("train_tokens_per_second"):
                figures.append(f"{number(rate, 3)} tokens/s")
            figures.append(f"{percent(logs.get('train_data_share', 0.0))} of the time for batches")
            terminal().show(Trained(figures))
        if "loss" not in logs or self.speed is None:
            return
        self.loss = logs["loss"]
        self.speed.logged()
        if not terminal().is_live:
            names = {"learning_rate": "learning rate", "grad_norm": "gradient norm"}
            figures = [f"loss {loss(logs['loss'])}"]
            figures += [f"{name} {number(float(logs[key]), 3)}" for key, name in names.items() if key in logs]
            epoch = state.epoch or 0.0 if has_length(kwargs["train_dataloader"]) else None
            terminal().show(Logged(state.global_step, state.max_steps, epoch, figures + self._speed()))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Remove the bar."""
        self._end_bar()

    def _end_bar(self) -> None:
        if self.training_bar is not None:
            self.training_bar = None
            terminal().close()

    def _bar_figures(self) -> list[str]:
        """The figures of this moment, the most important first."""
        speed = self.speed
        if speed is None:
            return []
        figures = [f"{speed.step:,}/{speed.steps:,}"]
        if self.loss is not None:
            figures.append(f"loss {loss(self.loss)}")
        figures += self._speed()[::-1]
        if self.use is not None:
            figures += self.use.figures((speed.rate or 0.0) / speed.processes)
        return figures

    def _speed(self) -> list[str]:
        speed = self.speed
        rate, left = (speed.rate, speed.left) if speed else (None, None)
        figures = [] if rate is None else [f"{number(rate, 3)} tokens/s"]
        return figures + ([] if left is None else [f"{duration(left)} left"])

    # Evaluation

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Move the bar of an evaluation."""
        if self.move_evaluation is None:
            self.move_evaluation, self.evaluated = self.evaluation.enter_context(bar("evaluating", "batches")), 0
        self.evaluated += 1
        total = len(eval_dataloader) if has_length(eval_dataloader) else None
        self.move_evaluation(self.evaluated, self.evaluated, total)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        """Show what an evaluation has found, unless it repeats the last one. Only the same text is compared."""
        self.evaluation.close()
        self.move_evaluation = None
        metrics = metrics or {}
        prefix = next((name.removesuffix("_runtime") for name in metrics if name.endswith("_runtime")), "eval")
        if self.speed is not None:
            self.speed.pause(metrics.get(f"{prefix}_runtime", 0.0))
        named = {f"eval_{name.removeprefix(f'{prefix}_')}": value for name, value in metrics.items()}
        found = {one.trainer_name: named[one.trainer_name] for one in metrics_in(named, "trainer_name")}
        trains = self.training_bar is not None
        step = state.global_step if trains else saved_step(args, state)
        dataset = getattr(eval_dataloader, "dataset", None)
        text = getattr(dataset, "dataset", dataset)  # each evaluation of a program's dataset wraps it anew
        last, self.last = self.last, _Evaluation(step, prefix, text, found)
        if not self.last.repeats(last):
            earlier = last.found if self.last.is_comparable(last) and step >= last.step else {}
            if not last.found and self.speed is not None and self.recorded is not None:
                earlier = self.recorded()
            terminal().show(Evaluated(step, trains, found, earlier))
        if self.training_bar is not None:
            terminal().put(self.training_bar, REFRESHES)
