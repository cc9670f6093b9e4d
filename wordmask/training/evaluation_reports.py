"""What a run keeps and shows of its evaluations: figures, predictions, and the words that improved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from wordmask.models.forward import Prediction
from wordmask.tokenization.readable import ReadableTokens
from wordmask.training.before_after import Improved, comparable, frequent_words, most_improved
from wordmask.training.evaluation_record import FILE, Evaluation, EvaluationRecord, read_evaluations
from wordmask.training.masked_words import MaskedWords
from wordmask.training.prediction_events import LinePrediction, PredictionsTitle
from wordmask.training.predictions import PredictedLine, SampleLines
from wordmask.utils.terminal import terminal

logger = logging.getLogger(__name__)


class EvaluationReports:
    """Keeps the evaluations of a run, and shows the predictions of each.

    Args:
        record: the evaluations so far.
        lines: the lines whose predictions are shown.
        readable: turns tokens into text.
        foreign: whether the evaluations are of a model that an earlier run trained, whose record stays as it is.

    Attributes:
        latest: the latest evaluation.
    """

    def __init__(self, record: EvaluationRecord, lines: SampleLines, readable: ReadableTokens, foreign: bool = False):
        self.record, self.lines, self.readable, self.foreign = record, lines, readable, foreign
        self.latest: Evaluation | None = None
        self._shown: list[PredictedLine] = []

    def continue_from(self, checkpoint: str, step: int, expected: bool) -> None:
        """Take over the evaluations before a checkpoint, which lie in the directory of its run.

        Args:
            checkpoint: its directory.
            step: its step.
            expected: whether the run should have evaluated before training.
        """
        directory = Path(checkpoint).parent
        self.record.evaluations = read_evaluations(directory, step)
        if expected and self.record.before is None:
            logger.warning(
                "%s holds no evaluation before training, so this run shows the figures after training alone",
                directory / FILE,
            )

    def add(
        self,
        evaluation: Evaluation,
        words: MaskedWords,
        forward: Callable[[dict[str, torch.Tensor]], Prediction],
    ) -> None:
        """Add an evaluation, with predictions and words. On several processes, all must call this.

        Args:
            evaluation: its figures.
            words: its masked words.
            forward: sends a batch through the model.
        """
        predictions = self.lines.predict(forward) if words.masked.any() else []
        evaluation.predictions[:] = [line.as_json() for line in predictions]
        evaluation.words.update(frequent_words(words, self.readable))
        self.latest, self._shown = evaluation, predictions
        if not self.foreign:
            self.record.add(evaluation)

    def show_predictions(self) -> None:
        """Show the predictions of the latest evaluation."""
        if self.latest is not None and self._shown:
            terminal().show(PredictionsTitle(self.latest.step))
            for number, line in enumerate(self._shown, 1):
                terminal().show(LinePrediction(number, line))

    def before(self) -> Evaluation | None:
        """The evaluation before training, if the latest one can be compared with it."""
        return comparable(self.record.before, self.latest)

    def improved(self) -> list[Improved]:
        """The words that improved most from before training to the latest evaluation."""
        before = self.before()
        return most_improved(before.words, self.latest.words) if before and self.latest else []
