"""After each evaluation: add it to the record, show its predictions, and compare it with the first one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from wordmask.config.metric_table import metrics_in
from wordmask.models.forward import Prediction
from wordmask.tokenization.readable import ReadableTokens
from wordmask.training.evaluation.before_after import Improved, frequent_words, metrics_before, most_improved
from wordmask.training.evaluation.masked_words import MaskedWords
from wordmask.training.evaluation.prediction_display import LinePrediction, PredictionsTitle
from wordmask.training.evaluation.predictions import PredictedLine, SampleLines
from wordmask.training.records.evaluation_record import Evaluation, EvaluationRecord, read_evaluations
from wordmask.training.records.file_names import EVALUATIONS
from wordmask.utils.terminal import terminal

logger = logging.getLogger(__name__)


class EvaluationHistory:
    """Keeps the evaluations of a run, and shows the predictions of each.

    Args:
        record: the evaluations so far.
        lines: the lines whose predictions are shown; `None` if no line and no word of the text is shown or kept.
        readable: turns tokens into text.
        trains: whether the run trains.
        foreign: whether the record is that of an earlier run, which trained; it stays as it is. May be set later.
        text: a digest of the validation text.

    Attributes:
        latest: the latest evaluation.
        improved: the words that had improved most when evaluations were compared.
    """

    def __init__(
        self,
        record: EvaluationRecord,
        lines: SampleLines | None,
        readable: ReadableTokens,
        trains: bool = True,
        foreign: bool = False,
        text: str = "",
    ):
        self.record, self.lines, self.readable, self.trains, self.foreign = record, lines, readable, trains, foreign
        self.text = text
        self.latest: Evaluation | None = None
        self.improved: list[Improved] = []
        self._shown: list[PredictedLine] = []
        self._take_over(record.evaluations)

    def _take_over(self, evaluations: Sequence[Evaluation]) -> None:
        """Take over earlier evaluations.

        Say at the start, and not only when evaluations are compared, that the validation text is another one.
        """
        self.record.evaluations = [one if self.lines else one.without_text() for one in evaluations]
        self._other_text = self.record.before is not None and not self.record.before.is_of(self.text)
        if self._other_text:
            logger.warning(
                "the validation text is not that of the evaluation before training, so there will be no figures "
                "before and after"
            )

    def continue_from(self, checkpoint: str, step: int, expected: bool) -> None:
        """Take over the evaluations before a checkpoint, which lie in the directory of its run.

        Args:
            checkpoint: its directory.
            step: its step.
            expected: whether the run should have evaluated before training.
        """
        directory = Path(checkpoint).parent
        self._take_over(read_evaluations(directory, step))
        if expected and self.record.before is None:
            logger.warning(
                "%s holds no evaluation before training, so this run shows the figures after training alone",
                directory / EVALUATIONS,
            )

    def add(
        self, evaluation: Evaluation, words: MaskedWords, forward: Callable[[dict[str, torch.Tensor]], Prediction]
    ) -> None:
        """Add an evaluation, with predictions and words. On several processes, all must call this.

        Args:
            evaluation: its figures.
            words: its masked words.
            forward: sends a batch through the model.
        """
        predictions = self.lines.predict(forward) if self.lines and "accuracy" in evaluation.metrics else []
        self.latest = replace(
            evaluation,
            # The best model is evaluated again at the end, when more epochs are done than it was trained.
            epoch={one.step: one.epoch for one in self.record.evaluations}.get(evaluation.step, evaluation.epoch),
            predictions=[asdict(line) for line in predictions],
            words=frequent_words(words, self.readable) if self.lines else {},
            text=self.text,
        )
        self._shown = predictions
        if not self.foreign:
            self.record.add(self.latest)

    def compares_with(self, step: int | None) -> bool:
        """Whether the latest evaluation has the text, masks and probe of the one at a step, as far as is known."""
        latest, earlier = self.latest, next((one for one in self.record.evaluations if one.step == step), None)
        return latest is None or earlier is None or latest.competes_with(earlier)

    def compares_with_last(self) -> bool:
        """The same as `compares_with`, for the last evaluation in the record."""
        last = self.record.evaluations[-1] if self.record.evaluations else None
        return self.compares_with(last.step if last else None)

    def others_than_last(self) -> set[int]:
        """The steps of the evaluations with another text, other masks or another probe than the last in the record."""
        earlier = self.record.evaluations
        return {one.step for one in earlier if not earlier[-1].competes_with(one)}

    def previous_metrics(self) -> dict[str, float]:
        """The figures of the evaluation before the latest one, as the Trainer names them; none with another text."""
        latest = self.latest
        earlier = [one for one in self.record.evaluations if latest is not None and one.step < latest.step]
        if not earlier or not self.compares_with(earlier[-1].step):
            return {}
        metrics = earlier[-1].metrics
        return {metric.trainer_name: metrics[metric.name] for metric in metrics_in(metrics, "name")}

    def show_predictions(self) -> None:
        """Show the predictions of the latest evaluation."""
        if self.latest is not None and self._shown:
            step = self.latest.step
            when = f"after step {step:,}" if step else "before training"
            terminal().show(PredictionsTitle(when if self.trains else ""))
            for number, line in enumerate(self._shown, 1):
                terminal().show(LinePrediction(number, line))

    def compare(self) -> dict[str, float]:
        """Compare the latest evaluation with the one before training, if both have the same text and masks.

        Returns:
            The figures before training, such as `eval_loss_before`; with a warning none, if text or masks differ.
        """
        before, latest = self.record.before, self.latest
        if before is None or latest is None or before is latest:
            return {}
        if not latest.compares_with(before):
            if not self._other_text:
                logger.warning(
                    "the masks of the validation text are not those of the evaluation before training, so there are "
                    "no figures before and after"
                )
            return {}
        self.improved = most_improved(before.words, latest.words)
        return metrics_before(before, latest)
