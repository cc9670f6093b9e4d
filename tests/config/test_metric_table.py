"""The metrics that are in results, by any of their names."""

from __future__ import annotations

import pytest

from wordmask.config.metric_table import METRICS, metrics_in


def test_metrics_come_in_the_order_of_the_table_and_corpora_after_them():
    found = metrics_in(["news_loss", "accuracy", "probe_f1_low", "blog_loss", "loss"], "name")
    assert [metric.name for metric in found] == ["loss", "accuracy", "news_loss", "blog_loss"]
    assert [metric.corpus for metric in found] == ["", "", "news", "blog"]
    assert metrics_in([], "name") == []


@pytest.mark.parametrize("kind", ["name", "result", "trainer_name"])
def test_each_metric_is_found_by_its_name_of_a_kind(kind):
    for metric in (*METRICS.values(), *metrics_in(["news_loss"], "name")):
        assert metrics_in([getattr(metric, kind)], kind) == [metric]


def test_names_of_another_kind_are_none_of_a_metric():
    assert metrics_in(["train_loss", "perplexity", "eval_runtime"], "trainer_name") == []
    assert metrics_in(["train_loss", "eval_perplexity", "eval_loss_before"], "result") == []
