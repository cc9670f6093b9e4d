"""Compute the metrics of an evaluation from sums over masked tokens and masked words.

To add a metric, add its row to `METRICS` in config/metric_table.py, and compute it in `MaskedLMMetric._compute`. If it
needs another sum, add the sum to `COUNTS` and to `add_batch`.
"""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from wordmask.masking import hash64
from wordmask.utils.arrays import IntArray

COUNTS = ("loss", "tokens", "right_tokens", "words", "right_words", "masks", "characters")
MASK_BITS = 24  # so that sums of this many bits over 500 million masked tokens are exact in a float


class MaskedLMMetric(evaluate.Metric):
    """Loss, perplexity, accuracy of tokens and of words, loss per character, the loss of each corpus, and the counts.

    `evaluate` would write every prediction to disk (5 million: 17 s, 40 MB); here `add_batch` keeps sums. A
    work-around; no thread known. It can go when `evaluate` has metrics without storage.

    Attributes:
        masks: a digest of what was masked, and how, in the evaluation that was computed last. It does not depend on
            the order of batches. Two evaluations with the same digest can be compared.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.sums = dict.fromkeys(COUNTS, 0.0)
        self.masks = 0

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Loss, perplexity and accuracies over masked tokens and masked words.",
            citation="",
            inputs_description="predictions, references: ids at the masked positions; words: their words' numbers",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _build_data_dir(self) -> str:
        return ""  # nothing is stored

    def add_batch(
        self,
        *,
        predictions: torch.Tensor | None = None,
        references: torch.Tensor | None = None,
        words: torch.Tensor | None = None,
        loss: float = 0.0,
        tokens: int = 0,
        masks: int = 0,
        corpus: str = "",
        **kwargs: Any,
    ) -> None:
        """Add a batch to the sums.

        Args:
            predictions: (masked tokens,) the predicted ids; `None` for no accuracies.
            references: (masked tokens,) the ids that were masked.
            words: (masked tokens,) the number of each token's word, unique in the batch.
            loss: the sum of the losses of the masked tokens.
            tokens: the number of masked tokens.
            masks: the digest of these masks, see `mask_digest`.
            corpus: the corpus of the batch, whose loss is computed apart, too; empty for none. On several processes,
                batches of all corpora come in the same order.
        """
        for name in ["", corpus] if corpus else [""]:
            for what, value in (("loss", loss), ("tokens", tokens)):
                key = f"{name} {what}".strip()
                self.sums[key] = self.sums.get(key, 0.0) + value
        self.sums["masks"] += masks
        if predictions is None or references is None or words is None:
            return
        right = (predictions == references).long()
        _, word = torch.unique(words, return_inverse=True)
        wrong = torch.zeros(int(word.max()) + 1 if len(word) else 0, dtype=torch.long, device=word.device)
        wrong.index_add_(0, word, 1 - right)
        self.sums["right_tokens"] += int(right.sum())
        self.sums["words"] += len(wrong)
        self.sums["right_words"] += int((wrong == 0).sum())

    def add_characters(self, count: int) -> None:
        """Add the number of characters of the masked tokens of a batch, for the loss per character."""
        self.sums["characters"] += count

    def compute(self, **kwargs: Any) -> dict[str, float]:
        """The metrics over all batches since the last call; empty if no token was masked."""
        sums, self.sums = self.sums, dict.fromkeys(COUNTS, 0.0)
        self.masks = int(sums.pop("masks"))
        metrics = self._compute(**{name: sums.pop(name) for name in COUNTS if name != "masks"})
        corpora = [name.removesuffix(" loss") for name in sums if name.endswith(" loss")]
        return metrics | {
            f"{one}_loss": sums[f"{one} loss"] / sums[f"{one} tokens"] for one in corpora if sums[f"{one} tokens"]
        }

    def _compute(  # type: ignore[override]
        self, loss: float, tokens: float, right_tokens: float, words: float, right_words: float, characters: float
    ) -> dict[str, float]:
        if not tokens:
            return {}
        mean = loss / tokens
        metrics = {
            "loss": mean,
            "perplexity": math.inf if mean >= 700 else math.exp(mean),
            "masked_tokens": int(tokens),
        }
        if characters:
            metrics["loss_per_character"] = loss / characters
        if words:
            metrics |= {"accuracy": right_tokens / tokens, "whole_word_accuracy": right_words / words}
            metrics["masked_words"] = int(words)
        return metrics

    def sums_as_array(self) -> np.ndarray:
        """The sums as one array, to add up over processes."""
        return np.array([*self.sums.values()])

    def replace_sums(self, sums: np.ndarray) -> None:
        """Replace the sums by those that were added up."""
        self.sums = dict(zip(self.sums, map(float, sums), strict=True))


def mask_digest(references: IntArray, seen: IntArray) -> int:
    """A digest of masks that can be added up over batches.

    Args:
        references: (masked tokens,) the ids that were masked.
        seen: (masked tokens,) what the model sees in their place.
    """
    return int((hash64(references, seen) >> np.uint64(64 - MASK_BITS)).sum())
