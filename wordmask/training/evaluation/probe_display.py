"""How the results of a probe look: the model before and after training, beside the baselines, which need no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.box import ROUNDED
from rich.console import Group
from rich.table import Table
from rich.text import Text

from wordmask.config.metric_table import INTERVAL, PROBE_FIGURES

TITLE = "probe: logistic regression on embeddings of the frozen model, not fine-tuning"
# The lines of the table: the name of each, and what surrounds the name of a figure in the metrics of a run.
COMPARED = (
    ("most frequent label", "probe_majority_", ""),
    ("character n-grams (TF-IDF)", "probe_tfidf_", ""),
    ("model before training", "eval_probe_", "_before"),
    ("model", "eval_probe_", ""),
)


@dataclass(frozen=True)
class ProbeResults:
    """What the probe has found: accuracy and macro-F1 of the model, and of the baselines without one.

    Attributes:
        metrics: those of the run.
        examples: how many labelled examples there are, for people.
    """

    metrics: Mapping[str, float]
    examples: str

    def rows(self) -> list[tuple[str, list[str]]]:
        """What is compared, and its accuracy and macro-F1: `70.0% (65.1 to 74.2)`."""
        trained = "eval_probe_f1_before" in self.metrics
        rows = []
        for label, begin, end in COMPARED:
            if f"{begin}f1{end}" in self.metrics:
                values = [
                    [self.metrics[f"{begin}{name}{part}{end}"] for part in INTERVAL] for name, _ in PROBE_FIGURES
                ]
                after = " after training" if trained and begin == "eval_probe_" and not end else ""
                figures = [f"{value:.1%} ({100 * low:.1f} to {100 * high:.1f})" for value, low, high in values]
                rows.append((label + after, figures))
        return rows

    def line(self) -> str:
        """`probe: logistic regression ...: most frequent label: accuracy 46.4% (42.1 to 50.8), macro-F1 ...`"""
        rows = [
            f"{label}: {', '.join(f'{name} {value}' for (_, name), value in zip(PROBE_FIGURES, figures, strict=True))}"
            for label, figures in self.rows()
        ]
        return f"{TITLE} ({self.examples}; 95% intervals); {'; '.join(rows)}"

    def __rich__(self) -> Group:
        table = Table(box=ROUNDED, header_style="")
        for name in ("", *(name for _, name in PROBE_FIGURES)):
            table.add_column(name, justify="right" if name else "left")
        for label, figures in self.rows():
            table.add_row(label, *figures, style="bold" if label.startswith("model") and "before" not in label else "")
        return Group(Text(f"\n{TITLE}", "bold"), table, Text(f"{self.examples}; 95% intervals", "dim"))
