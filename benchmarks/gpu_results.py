"""What gpu.py finds: gpu.json, and the table of it in gpu.md. Both are written whenever something is added."""

from __future__ import annotations

import json
import threading
from itertools import takewhile
from pathlib import Path
from typing import Any

from gpu_trials import TRIALS
from wordmask.utils.errors import InputError
from wordmask.utils.files import write_atomically, write_json

COLUMNS = {
    "tokens_per_second": ("real tokens/s", "{:,.0f}"),
    "times_plain": ("× plain", "{:.2f}"),
    "utilisation": ("utilisation", "{:.1%}"),
    "peak_memory_mb": ("peak memory, MB", "{:,.0f}"),
    "allocated_memory_mb": ("of tensors", "{:,.0f}"),
    "memory_of_plain": ("of plain's", "{:.0%}"),
    "seconds_to_first_step": ("first step, s", "{:.1f}"),
    "compilations_after_warmup": ("compiled after warm-up", "{:.0f}"),
    "captures_after_warmup": ("graphs captured after it", "{:.0f}"),
    "padding": ("padding", "{:.1%}"),
    "waiting_for_data": ("waits for data", "{:.1%}"),
    "loss": ("loss", "{:.3f}"),
}
SHARES = {"times_plain": "tokens_per_second", "memory_of_plain": "peak_memory_mb"}


class Results:
    """The results in a directory, to which a second call adds what is missing.

    Args:
        directory: holds gpu.json and gpu.md.
        facts: about the machine and the text.

    Raises:
        InputError: if the directory holds the results of another machine, text, code or tokenizer.
    """

    SAME = ("card", "versions", "text", "code", "tiny")

    def __init__(self, directory: str, facts: dict[str, Any]):
        self.directory, self.found, self.adding = Path(directory), facts, threading.Lock()
        path = self.directory / "gpu.json"
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            for name in self.SAME:
                if earlier.get(name) != facts[name]:
                    raise InputError(
                        f"--output_dir: {path} has results of another {name} ({earlier.get(name)}, and now "
                        f"{facts[name]}); give another directory"
                    )
            self.found = earlier
        self.write()

    def add(self, part: str, side: str | None, figures: dict[str, Any]) -> None:
        """Add what was found for a side of a part, or for the whole part, and write."""
        with self.adding:  # several parts may be measured at once
            if side is None:
                self.found[part] = figures
            else:
                self.found.setdefault(part, {})[side] = figures
                self._compare()
            self.write()

    def _compare(self) -> None:
        """Give each side its shares of what the fastest plain with these documents reaches, be it one of a trial."""
        parts = {name: sides for name, sides in measured(self.found).items() if name != "tests"}
        for name, sides in parts.items():
            alike = [other for other in parts if without_trials(other) == without_trials(name)]
            plains = {other: parts[other]["plain"] for other in alike if "loss" in parts[other].get("plain", {})}
            if plains:
                fastest = max(plains, key=lambda other: plains[other]["tokens_per_second"])
                for found in sides.values():
                    found["plain_of"] = fastest
                    for share, of in SHARES.items():
                        if plains[fastest].get(of) and of in found:
                            found[share] = found[of] / plains[fastest][of]

    def write(self) -> None:
        """Write both files."""
        write_json(self.directory / "gpu.json", self.found)
        with write_atomically(self.directory / "gpu.md") as file:
            file.write(markdown(self.found))


def without_trials(part: str) -> str:
    """The name of a part without those of its trials."""
    return "-".join(takewhile(lambda word: word not in TRIALS, part.split("-")))


def measured(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What gpu.json holds beside the facts: the sides of each part, and the tests."""
    return {name: found for name, found in results.items() if isinstance(found, dict) and name != "versions"}


def markdown(results: dict[str, Any]) -> str:
    """The results of gpu.json as text: what was measured, and the table with a line for each side."""
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    lines = [
        f"{results['card']}, driver {results['driver'] or 'unknown'}; {versions}. Matrix products alone: "
        f"{results['matrix_rate'] / 1e12:.3g} TFLOP/s.",
        "",
        *_row("model and length", "side", *(title for title, _ in COLUMNS.values())),
        *_row("---", "---", *("---:" for _ in COLUMNS)),
    ]
    remarks = []
    for part, sides in measured(results).items():
        if part == "tests":
            counts = ", ".join(f"{number} {outcome}" for outcome, number in sides["counts"].items())
            remarks.append(f"Tests: {counts or 'none'}{'' if sides['ended'] else ', and then they were stopped'}.")
            remarks += [f"Failed: {name}." for name in sides["failed"]]
        else:
            lines += [line for side, figures in sides.items() for line in _row(part, side, *_cells(figures))]
            remarks += [f"{part}, {side}: {_why(found)}." for side, found in sides.items() if _why(found)]
            others = {found["plain_of"] for found in sides.values() if "plain_of" in found}
            others -= {part, without_trials(part)}
            remarks += [f"{part} is compared with plain of {other}." for other in others]
    return "\n".join([*lines, *([""] if remarks else []), *(f"- {remark}" for remark in remarks), ""])


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cells(figures: dict[str, Any]) -> list[str]:
    if _why(figures):
        return ["skipped" if "skipped" in figures else "failed", *[""] * (len(COLUMNS) - 1)]
    return [form.format(figures[name]) if name in figures else "" for name, (_, form) in COLUMNS.items()]


def _why(figures: dict[str, Any]) -> str | None:
    """Why a side has no figures, if it has none."""
    return figures.get("skipped") or figures.get("error")
