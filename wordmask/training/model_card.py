"""The model card, `README.md` next to the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData


@dataclass
class Card:
    """The content of a model card.

    Attributes:
        base: the model that training started from: a hub id or a directory; `None` if from scratch.
        model_type: the architecture.
        strategy: the unit that was masked.
        datasets: hub ids of the data.
        settings: other settings of the training, by name.
        metrics: the results, by name.
        head_is_new: whether weights of the masked-LM head began at random, since the base model had none.
    """

    base: str | None = None
    model_type: str = ""
    strategy: str = ""
    datasets: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    head_is_new: bool = False


def write_card(directory: str, card: Card) -> None:
    """Write `README.md`, with links to the hub only for what is on the hub."""
    on_hub = card.base is not None and not os.path.isdir(card.base)
    name = Path(directory).resolve().name
    data = ModelCardData(
        base_model=card.base if on_hub else None,
        datasets=list(card.datasets) or None,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["masked-lm", card.strategy] if card.strategy else ["masked-lm"],
    )
    base = f"[{card.base}](https://huggingface.co/{card.base})" if on_hub else f"`{Path(card.base or '').name}`"
    origin = f"It was fine-tuned from {base}." if card.base else "It was trained from scratch."
    if card.head_is_new:
        origin += " That model had no masked-LM head, or a part of one: the head began with random weights."
    lines = [
        f"# {name}",
        f"A {card.model_type} masked language model, trained with {card.strategy} masking by wordmask. {origin}",
        _table("Training", card.settings),
        _table("Evaluation", {metric: f"{value:.4f}" for metric, value in card.metrics.items()}),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(filter(None, lines)) + "\n").save(
        os.path.join(directory, "README.md")
    )


def _table(title: str, values: Mapping[str, Any]) -> str:
    """A heading and a table of two columns; empty without values."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in values.items())
    return f"## {title}\n\n| | |\n|---|---|\n{rows}" if rows else ""
