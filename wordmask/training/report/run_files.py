"""What a run has left in its output directory, as the report and the model card show it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.config.metric_table import METRICS, metrics_in
from wordmask.data.data_report import DATA_REPORT, SplitReport
from wordmask.training.evaluation.before_after import most_improved
from wordmask.training.records.evaluation_record import Evaluation, read_evaluations
from wordmask.training.records.file_names import RUN, STATE
from wordmask.training.records.manifest import checkpoints_in
from wordmask.training.records.speed_record import read_speed
from wordmask.training.report.charts import LOSS, SHARE, SPEED, Measure, Scale, Values
from wordmask.utils.files import damage_is_warned, read_json

MOST_POINTS, COLUMNS = 200, 4  # of a curve, and evaluations whose predictions are shown


class RunFiles:
    """What the files in the output directory of a run hold. Only the record is always there.

    Args:
        directory: the output directory.

    Attributes:
        record: `wordmask_run.json`.
        results: `all_results.json`, or the results of an evaluation alone.
        data, advice: the data report of each split, and what looks wrong in the text.
        evaluations: those with the masks of the last one, since only they can be compared.
        before, after: the evaluation before training, and that of the model that was saved, if there are any.
        moments: the tokens and the time up to each log.
        state: that of the Trainer, from the last checkpoint if training has not ended.
    """

    def __init__(self, directory: Path):
        self.directory, self.record = directory, read_or_empty(directory / RUN)
        self.results = read_or_empty(directory / "all_results.json") or read_or_empty(directory / "eval_results.json")
        data = read_or_empty(directory / DATA_REPORT)
        self.advice: list[str] = data.pop("advice", [])
        self.data = {split: SplitReport.read(report) for split, report in data.items()}
        evaluations, self.moments = read_evaluations(directory, sys.maxsize), read_speed(directory)
        self.evaluations = [one for one in evaluations if one.masks == evaluations[-1].masks]
        self.before = next((one for one in self.evaluations if self.record.get("trains") and not one.step), None)
        last = map(read_or_empty, [directory / STATE, *(path / STATE for path in checkpoints_in(directory)[-1:])])
        self.state = max(last, key=lambda state: state.get("global_step", -1))
        others = [one for one in self.evaluations if one is not self.before]
        keeps_best = self.record.get("arguments", {}).get("load_best_model_at_end")
        best = [one for one in others if keeps_best and one.step == self.state.get("best_global_step")]
        self.after = next(iter(best or others[-1:]), None)

    @property
    def changed(self) -> dict[str, Any]:
        """The arguments that differ from their defaults. Older records do not tell."""
        return {name: self.record["arguments"][name] for name in self.record.get("changed_arguments", ())}

    @property
    def is_streamed(self) -> bool:
        """Whether the text is a stream, so that the number of texts and of epochs is unknown."""
        return "train" in self.data and self.data["train"].examples is None

    @property
    def compares(self) -> bool:
        """Whether there are figures before training and after it."""
        return any(name.endswith("_before") for name in self.results)

    @property
    def improved(self) -> list[Any]:
        """The words that improved most."""
        return (
            most_improved(self.before.words, self.after.words) if self.compares and self.before and self.after else []
        )

    @cached_property
    def measures(self) -> dict[str, Measure]:
        """What is drawn and listed, by name: what has values at two steps or more."""
        every = (
            self._measure("loss", LOSS, self._losses()),
            self._measure("corpora", LOSS, self._losses_of_corpora()),
            self._measure("accuracy", SHARE, self._accuracies()),
            self._measure("speed", SPEED, self._speeds()),
            self._measure("probe", SHARE, self._probe_scores()),
        )
        return {one.name: one for one in every if len(one.steps) > 1}

    def _losses(self) -> dict[str, Values]:
        logged = {entry["step"]: entry["loss"] for entry in self.state.get("log_history", []) if "loss" in entry}
        return {"training loss": logged, METRICS["loss"].label: self._values("loss")}

    def _losses_of_corpora(self) -> dict[str, Values]:
        metrics = metrics_in(sorted({name for one in self.evaluations for name in one.metrics}), "name")
        return {metric.label: self._values(metric.name) for metric in metrics if metric.corpus}

    def _accuracies(self) -> dict[str, Values]:
        return {METRICS[name].label: self._values(name) for name in ("accuracy", "whole_word_accuracy")}

    def _speeds(self) -> dict[str, Values]:
        intervals = [(one, other) for one, other in pairwise(self.moments) if other.seconds > one.seconds]
        speeds = {other.step: (other.tokens - one.tokens) / (other.seconds - one.seconds) for one, other in intervals}
        return {"tokens per second": speeds}

    def _probe_scores(self) -> dict[str, Values]:
        """The macro-F1 of the probe of the last evaluation, beside that of character n-grams, which stays the same."""
        probe = self.evaluations[-1].probe if self.evaluations else ""
        f1 = self._values("probe_f1", probe)
        ngrams = {step: self.results["probe_tfidf_f1"] for step in f1 if "probe_tfidf_f1" in self.results}
        ends = {f"{end} end of its interval": self._values(f"probe_f1_{end}", probe) for end in ("low", "high")}
        return {METRICS["probe_f1"].label: f1, "character n-grams": ngrams, **ends}

    def _values(self, name: str, probe: str | None = None) -> Values:
        """A figure of the evaluations; with `probe`, of those with this probe."""
        same = [one for one in self.evaluations if probe in (None, one.probe)]
        return {one.step: one.metrics[name] for one in same if name in one.metrics}

    def _measure(self, name: str, scale: Scale, series: Mapping[str, Values]) -> Measure:
        """A measure of finite values, of at most `MOST_POINTS` in each curve; a curve without any is left out."""
        finite = {label: [step for step in values if math.isfinite(values[step])] for label, values in series.items()}
        kept = {
            label: {step: series[label][step] for step in thinned(steps)} for label, steps in finite.items() if steps
        }
        return Measure(name, scale, kept, self.moments)

    @property
    def predictions(self) -> tuple[list[Evaluation], list[dict[str, Any]]]:
        """The evaluations that are shown; for each line its text, in parts, and what they predict for each word."""
        last = self.after or self.before
        shown = thinned(
            [one for one in self.evaluations if last and one.step <= last.step and one.predictions], COLUMNS
        )
        lines = []
        for versions in zip(*(one.predictions for one in shown), strict=False):
            text, words = versions[-1]["text"], [*zip(*(version["words"] for version in versions), strict=False)]
            parts, end = [], 0
            for word in versions[-1]["words"]:
                stop = word["start"] + len(word["word"])
                parts += [(text[end : word["start"]], False), (text[word["start"] : stop], True)]
                end = stop
            lines.append({"parts": [*parts, (text[end:], False)], "words": words})
        return shown, lines


def thinned(items: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """At most so many items, spread evenly, with the first and the last one."""
    return [items[place] for place in np.linspace(0, len(items) - 1, min(len(items), most)).round().astype(int)]


def read_or_empty(path: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing if there is none, or, with a warning, if it is damaged."""
    with damage_is_warned(path, "the report does without"):
        return dict(read_json(path))
    return {}
