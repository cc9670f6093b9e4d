"""The probe: how well the frozen model's embeddings tell labels apart. It is a measurement and not fine-tuning.

scikit-learn's logistic regression learns from the embeddings of labelled examples, and predicts held-out ones. It
starts anew in each evaluation, and the model learns nothing from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray

from wordmask.config.metric_table import INTERVAL, PROBE_FIGURES
from wordmask.data.labelled_examples import LabelledExamples
from wordmask.models.text_embedding import Batch, Embedder

RESAMPLES = 2000  # of the held-out examples, for the interval of macro-F1
NAMES = [f"probe_{name}{part}" for name, _ in PROBE_FIGURES for part in INTERVAL]


class Probe:
    """Measures a model on labelled examples.

    Args:
        examples: the labelled examples.
        embedder: embeds their texts, in the same order.
        batch_size: texts in a batch of one process.

    Attributes:
        baselines: figures without a model, such as `probe_tfidf_accuracy`; known after the first measurement.
    """

    def __init__(self, examples: LabelledExamples, embedder: Embedder, batch_size: int):
        self.examples, self.embedder, self.batch_size = examples, embedder, batch_size
        self.baselines: dict[str, float] = {}

    def measure(self, forward: Callable[[Batch], object], accelerator: Accelerator) -> dict[str, float]:
        """The figures of a model: `probe_accuracy` and `probe_f1`, with `_low` and `_high` of their 95 % intervals.

        All processes must call this; the first one computes the figures.

        Args:
            forward: sends a batch through the model.
            accelerator: of the launch.
        """
        embeddings = self.embedder.embed(forward, self.batch_size, accelerator)
        found: list[Any] = [None, None]
        if accelerator.is_main_process:
            figures = dict.fromkeys(NAMES, math.nan)
            if np.isfinite(embeddings).all():  # they are not after a training that has diverged
                predicted = predict(standardized(embeddings, self.examples.learned), self.examples)
                figures = self._figures("probe", predicted)
            found = [figures, self.baselines or self._baselines()]
        if accelerator.num_processes > 1:
            broadcast_object_list(found)
        self.baselines = found[1]
        return found[0]

    def _figures(self, name: str, predicted: NDArray[np.str_]) -> dict[str, float]:
        return {
            f"{name}_{metric}": value for metric, value in scores(self.examples.held_out_labels, predicted).items()
        }

    def _baselines(self) -> dict[str, float]:
        from sklearn.feature_extraction.text import TfidfVectorizer

        examples = self.examples
        names, counts = np.unique(examples.labels[: examples.learned], return_counts=True)
        majority = np.full(len(examples.held_out_labels), names[counts.argmax()])
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), max_features=30_000, sublinear_tf=True)
        vectorizer.fit(examples.texts[: examples.learned])
        ngrams = predict(vectorizer.transform(examples.texts), examples)
        return self._figures("probe_majority", majority) | self._figures("probe_tfidf", ngrams)


def standardized(embeddings: NDArray[np.float32], learned: int) -> NDArray[np.float64]:
    """(examples, hidden) Embeddings whose dimensions have the same mean and deviation, over the first `learned` ones.

    They have a length of about 1, as TF-IDF vectors do, so that both are regularized alike.
    """
    features = embeddings.astype(np.float64)
    mean, deviation = features[:learned].mean(0), features[:learned].std(0)
    return (features - mean) / np.where(deviation > 0, deviation, 1) / np.sqrt(embeddings.shape[1])


def predict(features: Any, examples: LabelledExamples) -> NDArray[np.str_]:
    """(held-out examples,) The labels that a logistic regression on features predicts.

    Args:
        features: (examples, features), dense or sparse.
        examples: their labels, and which of them are there to learn from.
    """
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=10, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 1000 iterations are enough for a comparison
        classifier.fit(features[: examples.learned], examples.labels[: examples.learned])
    return classifier.predict(features[examples.learned :])


def scores(labels: NDArray[np.str_], predicted: NDArray[np.str_]) -> dict[str, float]:
    """Accuracy and macro-F1, each with `_low` and `_high` of its 95 % interval.

    The interval of accuracy is Wilson's. That of macro-F1 is a bootstrap over the examples, with a fixed seed.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, f1_score

    right = int((labels == predicted).sum())
    wilson = binomtest(right, len(labels)).proportion_ci(method="wilson")
    # To draw examples again is to draw those cells of the confusion matrix that are not empty. `row` and `column` say
    # which label a cell belongs to, (cells, labels). F1 is twice the hits, divided by the sum of row and column.
    confusion = confusion_matrix(labels, predicted)
    cells = confusion.nonzero()
    drawn = np.random.default_rng(0).multinomial(len(labels), confusion[cells] / len(labels), RESAMPLES).astype(float)
    row, column = (np.equal.outer(cell, np.arange(len(confusion))).astype(float) for cell in cells)
    hits, seen = drawn @ (row * column), drawn @ (row + column)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a label that was not drawn does not count
        low, high = np.quantile(np.nanmean(2 * hits / np.where(seen, seen, np.nan), axis=1), (0.025, 0.975))
    return {
        "accuracy": right / len(labels),
        "accuracy_low": float(wilson.low),
        "accuracy_high": float(wilson.high),
        "f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
        "f1_low": float(low),
        "f1_high": float(high),
    }
