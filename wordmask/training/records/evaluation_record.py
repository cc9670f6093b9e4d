"""The file `wordmask_evaluations.json`: write the evaluations of a run to it, and read them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from wordmask.training.records.file_names import EVALUATIONS
from wordmask.utils.files import damage_is_warned, read_json, write_json_entries


@dataclass(frozen=True)
class Evaluation:
    """One evaluation.

    Attributes:
        step: the optimizer steps of the model; 0 before training.
        epoch: the epochs that it was trained.
        metrics: those of config/metric_table.py that were computed, by their names.
        masks: a digest of the masks, and of the tokens below them.
        predictions: the predictions for some lines, see `predictions.py`.
        probe: a digest of the labelled examples of the probe; empty without a probe.
        text: a digest of the validation text; older records have none.
        words: for the most frequent masked words, how often each was masked and predicted right. Only the first and
            the last evaluation of a run keep them.
    """

    step: int
    epoch: float
    metrics: dict[str, float]
    masks: int
    predictions: list[dict[str, Any]] = field(default_factory=list)
    words: dict[str, list[int]] = field(default_factory=dict)
    probe: str = ""
    text: str = ""

    def without_text(self) -> Evaluation:
        """The same figures without lines and words of the text."""
        return replace(self, predictions=[], words={})

    def is_of(self, text: str) -> bool:
        """Whether its validation text has this digest, as far as the record says."""
        return self.text in ("", text)

    def compares_with(self, earlier: Evaluation) -> bool:
        """Whether figures can be compared with those of an earlier evaluation: both have the same text and masks."""
        return self.masks == earlier.masks and earlier.is_of(self.text)

    def competes_with(self, earlier: Evaluation) -> bool:
        """Whether one of the two can be the better one by any metric: the probe is the same, too."""
        return self.compares_with(earlier) and self.probe == earlier.probe


class EvaluationRecord:
    """The evaluations of a run, in the order of their steps.

    Args:
        directory: the run's output directory; `None` if nothing is written.
        evaluations: those that were made before.
    """

    def __init__(self, directory: str | Path | None = None, evaluations: Sequence[Evaluation] = ()):
        self.directory, self.evaluations = directory, list(evaluations)

    @property
    def before(self) -> Evaluation | None:
        """The evaluation before training, if there is one."""
        first = self.evaluations[0] if self.evaluations else None
        return first if first is not None and first.step == 0 else None

    def add(self, evaluation: Evaluation) -> None:
        """Add an evaluation, in place of one at the same step, and write them all."""
        others = [other for other in self.evaluations if other.step != evaluation.step]
        ordered = sorted([*others, evaluation], key=lambda one: one.step)
        self.evaluations = [one if one is evaluation or one.step == 0 else replace(one, words={}) for one in ordered]
        self.write()

    def write(self) -> None:
        """Write the evaluations, one to a line."""
        if self.directory is not None and self.evaluations:
            write_json_entries(Path(self.directory) / EVALUATIONS, "evaluations", map(asdict, self.evaluations))


def read_evaluations(directory: str | Path, last_step: int) -> list[Evaluation]:
    """The evaluations in a run's directory, up to a step; without a file, or with a broken one, there are none.

    Args:
        directory: where the run lies.
        last_step: evaluations of later steps are left out: a resumed run makes them again.
    """
    path = Path(directory) / EVALUATIONS
    with damage_is_warned(path, "earlier evaluations are not shown"):
        entries = read_json(path)["evaluations"]
        evaluations = [_evaluation(**entry) for entry in entries]
        return sorted((one for one in evaluations if one.step <= last_step), key=lambda one: one.step)
    return []


def _evaluation(metrics: dict[str, float], words: dict[str, list[int]], **others: Any) -> Evaluation:
    """An evaluation, its figures checked to be numbers."""
    counts = {word: [int(masked), int(right)] for word, (masked, right) in words.items()}
    numbers = {name: value + 0 for name, value in metrics.items()}  # anything else is a `TypeError`
    return Evaluation(metrics=numbers, words=counts, **others)
