"""Sums over masked tokens and masked words."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.config.metric_table import METRICS
from wordmask.masking import MAX_UNIT
from wordmask.training.evaluation import masked_words
from wordmask.training.evaluation.masked_words import MaskedWords, WordCounts
from wordmask.training.evaluation.metrics import MaskedLMMetric, mask_digest


def test_figures_by_hand():
    """In two batches, 3 of 5 masked tokens and 2 of 4 masked words are right."""
    metric = MaskedLMMetric()
    ids = torch.tensor
    metric.add_batch(predictions=ids([5, 6, 7]), references=ids([5, 6, 8]), words=ids([1, 9, 9]), loss=6.0, tokens=3)
    metric.add_batch(predictions=ids([5, 1]), references=ids([5, 2]), words=ids([1, 2]), loss=4.0, tokens=2)
    metric.add_characters(8)
    figures = metric.compute()
    assert figures == {
        "loss": 2.0,
        "perplexity": math.exp(2.0),
        "loss_per_character": 10 / 8,
        "accuracy": 3 / 5,
        "whole_word_accuracy": 2 / 4,
        "masked_tokens": 5,
        "masked_words": 4,
    }
    counts = {"masked_tokens", "masked_words"}
    assert figures.keys() - counts == {name for name in METRICS if not name.startswith("probe_")}
    assert metric.compute() == {}, "the sums begin anew"


def test_masks_that_show_other_tokens_are_other_masks():
    """Evaluations are compared by this digest: a token that is kept is easier than one behind the mask token."""
    ids = np.array([7, 8])
    assert mask_digest(ids, np.array([3, 3])) != mask_digest(ids, ids)


def test_a_corpus_without_a_masked_token_has_no_loss():
    """Such as a corpus of one empty batch: its loss is none, and no division by zero."""
    metric = MaskedLMMetric()
    metric.add_batch(loss=3.0, tokens=2, corpus="news")
    metric.add_batch(loss=0.0, tokens=0, corpus="wiki")
    assert metric.compute() == {"loss": 1.5, "perplexity": math.exp(1.5), "masked_tokens": 2, "news_loss": 1.5}


def test_without_predictions_there_are_no_accuracies():
    metric = MaskedLMMetric()
    metric.add_batch(loss=1.0, tokens=1)
    assert metric.compute() == {"loss": 1.0, "perplexity": math.e, "masked_tokens": 1}


def test_the_loss_per_character_by_hand():
    metric = MaskedLMMetric()
    for loss, tokens, characters in ((6.0, 2, 5), (4.0, 1, 3)):
        metric.add_batch(loss=loss, tokens=tokens)
        metric.add_characters(characters)
    assert metric.compute()["loss_per_character"] == 10 / 8


def test_a_huge_loss_has_an_infinite_perplexity():
    metric = MaskedLMMetric()
    metric.add_batch(loss=800.0, tokens=1)
    assert metric.compute()["perplexity"] == math.inf


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=9))
def test_the_digest_of_masks_depends_on_the_masks_and_not_on_batches(pairs):
    whole = mask_digest(*np.array(pairs).T)
    pairs = pairs[::-1]
    half = len(pairs) // 2
    parts = [np.array(part, np.int64).reshape(-1, 2) for part in (pairs[:half], pairs[half:])]
    assert sum(mask_digest(*part.T) for part in parts) == whole
    changed = [(reference + 1, seen) for reference, seen in pairs[:1]] + pairs[1:]
    assert mask_digest(*np.array(changed).T) != whole


def test_the_digest_goes_through_the_metric():
    metric = MaskedLMMetric()
    for masks in (3, 4):
        metric.add_batch(loss=1.0, tokens=1, masks=masks)
    metric.replace_sums(metric.sums_as_array() * 2)  # as over two processes
    metric.compute()
    assert metric.masks == 14


# Masked words


def test_the_words_of_a_batch_by_hand():
    """Of the words 7 8, 9, 7 8 and 5, the first is masked in part and right there, the third wholly and wrong."""
    tokens, words = np.array([7, 8, 9, 7, 8, 5]), np.array([1, 1, 2, 3, 3, 4])
    masked = np.array([True, False, False, True, True, True])
    right = np.array([True, False, True, True, False, True])
    found = MaskedWords.of_batch(tokens, words, masked, right)
    assert [[token for token in word if token >= 0] for word in found.tokens.tolist()] == [[7, 8], [7, 8], [5]]
    assert found.right.tolist() == [1, 0, 1]
    summed = found.summed(9)
    assert [word[:2] for word in summed.tokens.tolist()] == [[7, 8], [5, -1]]
    assert (summed.masked.tolist(), summed.right.tolist()) == ([2, 1], [1, 1])


def test_a_word_of_the_most_tokens_that_one_unit_has_counts():
    everywhere = np.ones(MAX_UNIT, bool)
    found = MaskedWords.of_batch(np.arange(MAX_UNIT), np.ones(MAX_UNIT, np.int64), everywhere, everywhere)
    assert found.tokens.tolist() == [[*range(MAX_UNIT)]] and found.right.tolist() == [1]


def test_a_word_of_too_many_tokens_is_left_out():
    size = MAX_UNIT + 1
    everywhere = np.ones(size + 1, bool)
    words = np.array([1] * size + [2])
    found = MaskedWords.of_batch(np.arange(size + 1), words, everywhere, everywhere)
    assert found.tokens[:, 0].tolist() == [size]


@settings(deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=12), max_size=6))
def test_sums_over_batches_are_those_of_a_loop(batches):
    counts = WordCounts()
    for batch in batches:
        tokens, right = np.array([token for token, _ in batch]), np.array([one for _, one in batch], bool)
        counts.add(MaskedWords.of_batch(tokens, np.arange(len(batch)), np.ones(len(batch), bool), right))
    words = counts.over_all(Accelerator(cpu=True))
    expected = Counter(token for batch in batches for token, _ in batch)
    assert dict(zip(words.tokens[:, 0].tolist(), words.masked.tolist(), strict=True)) == expected
    right = Counter(token for batch in batches for token, one in batch if one)
    assert Counter(dict(zip(words.tokens[:, 0].tolist(), words.right.tolist(), strict=True))) == right


def test_memory_is_bounded_and_the_first_words_stay(monkeypatch):
    monkeypatch.setattr(masked_words, "LIMIT", 8)
    counts, yes = WordCounts(), np.ones(2, bool)
    for number in range(100):  # 1 comes each time, the others once
        counts.add(MaskedWords.of_batch(np.array([1, 1000 + number]), np.array([1, 2]), yes, yes))
        assert counts._size <= 2 * masked_words.LIMIT
    words = counts.over_all(Accelerator(cpu=True))
    assert len(words.tokens) == 8 and words.masked[0] == 100 == words.right[0]
    assert words.tokens[1:, 0].tolist() == [1000 + number for number in range(7)]


@pytest.mark.parametrize("batches", [0, 1])
def test_an_evaluation_without_a_masked_word_has_no_words(batches):
    counts, none = WordCounts(), np.zeros(0, np.int64)
    for _ in range(batches):
        counts.add(MaskedWords.of_batch(none, none, none.astype(bool), none.astype(bool)))
    assert len(counts.over_all(Accelerator(cpu=True)).tokens) == 0
