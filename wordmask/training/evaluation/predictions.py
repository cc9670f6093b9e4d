"""What a model predicts for the masked words of the first lines of the validation text, at each evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wordmask.data.plan import EVALUATION, Draw
from wordmask.masking import IGNORED, original_ids
from wordmask.models.forward import Prediction
from wordmask.tokenization.readable import ReadableTokens
from wordmask.utils.arrays import IntArray

LINES = 5  # lines that are shown
BEST = 3  # predictions for each masked word
SEARCHED = 1000  # sequences that are searched for lines with a masked word
ROWS = 64  # positions whose probabilities are computed at once, since each has as many as the vocabulary has tokens


@dataclass(frozen=True)
class Guess:
    """A word that the model predicts, and its probability: the product of those of its masked tokens."""

    word: str
    probability: float


@dataclass(frozen=True)
class MaskedWord:
    """A masked word of a line.

    Attributes:
        word: the word in the text.
        start: where it begins in the text of its line.
        right: whether the best prediction is this word.
        predictions: the best ones, the most probable first.
    """

    word: str
    start: int
    right: bool
    predictions: list[Guess]


@dataclass(frozen=True)
class PredictedLine:
    """A line of text, and its masked words."""

    text: str
    words: list[MaskedWord]


@dataclass(frozen=True)
class _Line:
    """Where a line lies in a batch.

    Attributes:
        batch: the number of the batch.
        words: the positions of each of its words in the flat batch.
    """

    batch: int
    words: list[IntArray]


class SampleLines:
    """The first lines of the validation text that have a masked word, with the masks of every evaluation.

    A line is what stands between special tokens: a line of the file or a part of it, also where a sequence holds
    several lines.

    Args:
        sequences: the validation text, in file order.
        collator: masks it, and numbers its words.
        rate: the masking rate of evaluation.
        batch_size: the most sequences in a batch.
        fixed: whether every batch has this size.
        readable: turns tokens into text.
    """

    def __init__(
        self, sequences: Any, collator: Any, rate: float, batch_size: int, fixed: bool, readable: ReadableTokens
    ):
        self.sequences, self.collator, self.rate, self.readable = sequences, collator, rate, readable
        self.batch_size, self.fixed = batch_size if fixed else min(batch_size, LINES), fixed

    @cached_property
    def _found(self) -> tuple[list[dict[str, torch.Tensor]], list[_Line]]:
        """The batches to predict, and the lines in them. They are the same at each evaluation."""
        batches: list[dict[str, torch.Tensor]] = []
        lines: list[_Line] = []
        for start in range(0, min(len(self.sequences), SEARCHED), self.batch_size):
            indices = range(start, min(start + self.batch_size, len(self.sequences)))
            draws = [Draw(index, EVALUATION, self.rate) for index in indices]
            if self.fixed:
                draws += [draws[0]._replace(rate=0.0)] * (self.batch_size - len(draws))
            batch = self.collator(self.sequences.__getitems__(draws))
            found = [_Line(len(batches), words) for words in self._lines_in(batch)]
            if found:
                batches.append(batch)
                lines += found
            if len(lines) >= LINES:
                break
        return batches, lines[:LINES]

    def _lines_in(self, batch: dict[str, torch.Tensor]) -> Iterator[list[IntArray]]:
        """The words of each line that has a masked word."""
        labels = batch["labels"].numpy()
        tokens = original_ids(batch["input_ids"].numpy(), labels)
        maskable = self.collator.vocabulary.maskable[tokens] & (batch["attention_mask"].numpy() > 0)
        width = labels.shape[1]
        for row in np.flatnonzero((labels != IGNORED).any(1)):
            places = np.flatnonzero(maskable[row])
            # Places 1 2 3 and 5 6 are two lines: a special token stands at 4.
            for line in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1):
                if (labels[row, line] != IGNORED).any():
                    numbers = batch["word_ids"].numpy()[row, line]
                    yield np.split(row * width + line, np.flatnonzero(np.diff(numbers)) + 1)

    def predict(self, forward: Callable[[dict[str, torch.Tensor]], Prediction]) -> list[PredictedLine]:
        """Predict the masked words of these lines. On several processes, all must call this.

        Args:
            forward: sends a batch, without `word_ids`, through the model.
        """
        batches, lines = self._found
        predicted = []
        for number, batch in enumerate(batches):
            inputs = {name: tensor for name, tensor in batch.items() if name != "word_ids"}
            labels = batch["labels"].numpy().ravel()
            best = _best_tokens(forward(inputs), len(labels))
            tokens, masked = original_ids(batch["input_ids"].numpy().ravel(), labels), labels != IGNORED
            predicted += [
                self._line([(tokens[word], masked[word], *(part[word] for part in best)) for word in line.words])
                for line in lines
                if line.batch == number
            ]
        return predicted

    def _line(self, words: Sequence[tuple[NDArray, ...]]) -> PredictedLine:
        """A line from the tokens of each word, whether they are masked, their best predictions and probabilities."""
        text, shown = "", []
        readable = self.readable.line([tokens.tolist() for tokens, *_ in words])
        for (word, space), (tokens, masked, best, probabilities) in zip(readable, words, strict=True):
            text += " " * space
            if masked.any():
                guesses = best_words(best[masked], probabilities[masked])
                right = guesses[0][0] == tokens[masked].tolist()
                wholes = [np.array(tokens) for _ in guesses]
                for whole, (guess, _) in zip(wholes, guesses, strict=True):
                    whole[masked] = guess
                names = told_apart([tokens.tolist(), *(whole.tolist() for whole in wholes)], self.readable)[1:]
                shares = [float(f"{probability:.4g}") for _, probability in guesses]
                shown.append(MaskedWord(word, len(text), right, list(map(Guess, names, shares))))
            text += word
        return PredictedLine(text, shown)


def _best_tokens(prediction: Prediction, size: int) -> tuple[IntArray, NDArray[np.float64]]:
    """(size, `BEST`) The most probable tokens at each position of a flat batch, and their probabilities.

    Where the model predicts nothing, they are 0. On the device, all shapes depend on the batch alone, not on masks.
    """
    logits = prediction.logits.view(-1, prediction.logits.shape[-1])
    parts = [rows.float().softmax(-1).topk(min(BEST, logits.shape[-1])) for rows in logits.split(ROWS)]
    best, probabilities = (torch.cat(part).cpu() for part in ([one[1] for one in parts], [one[0] for one in parts]))
    positions = np.arange(size) if prediction.positions is None else prediction.positions.cpu().numpy()
    tokens, shares = np.zeros((size, best.shape[1]), np.int64), np.zeros((size, best.shape[1]))
    tokens[positions], shares[positions] = best.numpy(), probabilities.numpy()
    return tokens, shares


def best_words(tokens: IntArray, probabilities: NDArray[np.float64]) -> list[tuple[list[int], float]]:
    """The most probable combinations of the tokens of a word, each with the product of their probabilities.

    Two positions with the tokens 5 6 of probabilities 0.6 0.3, and 7 8 of 0.9 0.1, give 5 7 (0.54), 6 7 (0.27) and
    5 8 (0.06). It is enough to keep the best beginnings: a worse one stays worse, whatever follows.

    Args:
        tokens, probabilities: (positions, candidates), the most probable candidate first.
    """
    best: list[tuple[list[int], float]] = [([], 1.0)]
    for ids, shares in zip(tokens.tolist(), probabilities.tolist(), strict=True):
        longer = [
            ([*word, token], product * share)
            for word, product in best
            for token, share in zip(ids, shares, strict=True)
        ]
        best = sorted(longer, key=lambda one: -one[1])[:BEST]
    return best


def told_apart(words: Sequence[list[int]], readable: ReadableTokens) -> list[str]:
    """The text of each word; the names of its tokens, if a word before it has this text: `the` and `Ġthe`.

    Args:
        words: the tokens of each word.
        readable: turns tokens into text.
    """
    texts = [readable.word(word) for word in words]
    shown = []
    for number, (word, text) in enumerate(zip(words, texts, strict=True)):
        before = zip(words[:number], texts, strict=False)
        is_double = any(text == other and word != tokens for tokens, other in before)
        shown.append(readable.names(word) if is_double else text)
    return shown
