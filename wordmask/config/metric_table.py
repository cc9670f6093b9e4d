"""The table of the metrics of an evaluation: their names, and how people read them.

To add a metric, add a row here, and compute it in training/evaluation/metrics.py (those of a probe: in probe.py). Then
the terminal, the table "before and after", the model card and `--metric_for_best_model` know it. Of what the model
predicts, training/trainer/evaluating.py passes on the loss and the best token at each masked position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from wordmask.utils.quantities import loss, number, percent


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: its name in the code, in `wordmask_evaluations.json` and in `--metric_for_best_model`.
        label: its name in the results at the end of a run.
        short_label: its name in the line of an evaluation; empty for a metric that has no place there.
        shown: how people read a value.
        more_is_better: whether a larger value is better.
        needs_predictions: whether `--prediction_loss_only` turns it off.
        corpus: the corpus that it is of; empty for the whole text.
    """

    name: str
    label: str
    short_label: str
    shown: Callable[[float], str]
    more_is_better: bool
    needs_predictions: bool
    corpus: str = ""

    @property
    def trainer_name(self) -> str:
        """Its name in what the Trainer returns and logs."""
        return f"eval_{self.name}"

    @property
    def result(self) -> str:
        """Its name in the files of results: as the Trainer's, but for `perplexity`, as in transformers' example."""
        return self.name if self.name == "perplexity" else self.trainer_name


_SHARE_OF_PREDICTIONS: dict[str, Any] = {"shown": percent, "more_is_better": True, "needs_predictions": True}
_OF_PROBE: dict[str, Any] = {"shown": percent, "more_is_better": True, "needs_predictions": False}
_OF_LOSS: dict[str, Any] = {"more_is_better": False, "needs_predictions": False}

METRICS = {
    metric.name: metric
    for metric in (
        Metric("loss", "evaluation loss", "loss", loss, **_OF_LOSS),
        Metric("perplexity", "perplexity", "perplexity", number, **_OF_LOSS),
        # To compare runs with different vocabularies.
        Metric("loss_per_character", "loss per character", "", loss, **_OF_LOSS),
        Metric("accuracy", "masked tokens right", "tokens right", **_SHARE_OF_PREDICTIONS),
        Metric("whole_word_accuracy", "masked words right", "words right", **_SHARE_OF_PREDICTIONS),
        Metric("probe_accuracy", "probe accuracy", "probe accuracy", **_OF_PROBE),
        Metric("probe_f1", "probe macro-F1", "probe macro-F1", **_OF_PROBE),
    )
}


# Of a probe: the names of its figures and their labels, and what follows a name in the ends of its 95 % interval.
PROBE_FIGURES = (("accuracy", "accuracy"), ("f1", "macro-F1"))
INTERVAL = ("", "_low", "_high")


def metrics_in(names: Iterable[str], kind: Literal["name", "result", "trainer_name"]) -> list[Metric]:
    """The metrics of these names: those of the table, in its order, and the losses of corpora, such as `news_loss`.

    Args:
        names: also those of other figures.
        kind: which of its names a metric has here.
    """
    given, prefix = [*names], "" if kind == "name" else "eval_"
    corpora = [found[1] for name in given if (found := re.fullmatch(rf"{prefix}(\w+)_loss", name))]
    losses = [
        Metric(f"{one}_loss", f"evaluation loss of {one}", f"loss of {one}", loss, **_OF_LOSS, corpus=one)
        for one in corpora
    ]
    return [*(metric for metric in METRICS.values() if getattr(metric, kind) in given), *losses]
