"""Corpora: their names, their shares of an epoch, and an order that visits each as often as its weight says."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import character_tokenizer
from wordmask.config.arguments import DataArguments
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.corpora import Corpus, InTurn, corpus_names, quotas, within
from wordmask.data.order import EpochOrder, grouped, grouped_by_tokens, mixed, ranks, shuffled
from wordmask.data.plan import Draw, Layout, Progress, Stage
from wordmask.data.sampler import Batches
from wordmask.data.sequences import Sequences
from wordmask.data.sources import load_texts
from wordmask.data.token_steps import TokenBatches, TokenCuts
from wordmask.data.token_store import Tokenization, tokenized


@pytest.mark.parametrize(
    "entries, names",
    [
        (["news.txt", "data/wiki.jsonl.gz"], ["news", "wiki"]),
        (["wiki/*.txt", "books/**/*.txt", "folder/"], ["wiki", "books", "folder"]),
        (["a/train.txt", "b/train.txt", "c.txt"], ["a_train", "b_train", "c"]),
        (["a/x.txt", "a/x.csv"], ["a_x_1", "a_x_2"]),
        (["新闻.txt", "my text-2.txt", "*.txt"], ["新闻", "my_text_2", "corpus"]),
    ],
)
def test_names_are_short_and_differ(entries, names):
    assert corpus_names(entries) == names


WEIGHTS = st.lists(st.integers(1, 50), min_size=1, max_size=5).map(lambda parts: [part / sum(parts) for part in parts])


@given(weights=WEIGHTS, count=st.integers(1, 10_000))
def test_each_corpus_has_its_weight_of_an_epoch_to_less_than_one_sequence(weights, count):
    found = quotas(weights, count)
    assert sum(found) == count
    assert all(abs(quota - weight * count) < 1 for quota, weight in zip(found, weights, strict=True))


def test_quotas_are_those_of_the_largest_remainders():
    assert (
        quotas([0.7, 0.3], 7) == [5, 2]
        and quotas([0.7, 0.3], 10) == [7, 3]
        and quotas([0.1, 0.2, 0.7], 10) == [1, 2, 7]
    )


def test_what_spans_hold_of_each_corpus():
    corpora = [Corpus("a", 5), Corpus("b", 3), Corpus("c", 4)]
    assert within(corpora, [range(2, 6), range(10, 12)]) == [Corpus("a", 3), Corpus("b", 1), Corpus("c", 2)]
    assert within(corpora, [range(5, 8)]) == [Corpus("b", 3)] and within([], [range(3)]) == []


# Order


def of_pass(number: int, one: int, size: int) -> np.ndarray:
    return shuffled(3, number << 32 | one, size)


def test_the_order_in_the_docstring():
    in_file_order = lambda number, one, size: np.arange(size)  # noqa: E731
    assert mixed(0, [0, 4, 5], [3, 2], in_file_order).tolist() == [0, 4, 1, 9, 2]
    assert mixed(1, [0, 4, 5], [3, 2], in_file_order).tolist() == [3, 14, 5, 19, 6]


SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, data=st.data(), epochs=st.integers(1, 5))
def test_a_corpus_shows_all_of_its_sequences_before_one_comes_again(sizes, data, epochs):
    count, bounds = sum(sizes), np.cumsum([0, *sizes]).tolist()
    parts = [data.draw(st.integers(1, 20)) for _ in sizes]
    of_each = quotas([part / sum(parts) for part in parts], count)
    visits = [mixed(epoch, bounds, of_each, of_pass) for epoch in range(epochs)]
    for order in visits:
        corpora = np.searchsorted(bounds, order % count, side="right") - 1
        assert np.bincount(corpora, minlength=len(sizes)).tolist() == of_each
        for number, quota in enumerate(of_each):  # spread evenly: any beginning of the epoch has its share
            shown = np.cumsum(corpora == number)
            assert np.abs(shown - np.arange(1, count + 1) * quota / count).max() <= len(sizes)
    everything = np.concatenate(visits)
    assert len({*everything.tolist()}) == len(everything), "a visit comes once, so no mask comes twice"
    for start, stop in zip(bounds, bounds[1:], strict=False):
        own = everything[(everything % count >= start) & (everything % count < stop)]
        times = np.bincount(own % count - start, minlength=stop - start)
        assert np.ptp(times) <= 1
        for sequence in range(start, stop):
            passes = own[own % count == sequence] // count
            assert passes.tolist() == list(range(len(passes))), "its visits are numbered"


def test_what_is_drawn_from_a_corpus_is_random():
    """Each sequence is as likely at the begin of an epoch, and not in one order each time: chi-square."""
    first = [mixed(epoch, [0, 10, 40], [20, 20], of_pass) for epoch in range(3000)]
    for place, corpus, size in ((0, 0, 10), (1, 10, 30)):
        counts = Counter(int(order[place] % 40) for order in first)
        assert {*counts} <= {*range(corpus, corpus + size)}
        expected = 3000 / size
        statistic = sum((counts[one] - expected) ** 2 / expected for one in range(corpus, corpus + size))
        assert statistic < (size - 1) + 4.5 * np.sqrt(2 * (size - 1))


def test_ranks_are_within_a_corpus():
    lengths, corpora = np.array([5, 9, 7, 30, 20]), np.array([0, 0, 0, 1, 1])
    assert ranks(lengths, corpora) == pytest.approx([1 / 6, 5 / 6, 3 / 6, 3 / 4, 1 / 4])
    assert len(ranks(*[np.zeros(0, np.int64)] * 2)) == 0


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(1, 4), st.booleans())
def test_stretches_are_sorted_by_length_and_in_steps_up_and_down_in_turn(lengths, step, by_tokens):
    """Of sequences of equal length, the earlier one in the random order comes first."""
    lengths, order = np.array(lengths, np.int32), shuffled(1, 0, len(lengths))
    own, tokens, begun = lengths[order].tolist(), 9 * step, [0, *itertools.accumulate(lengths[order].tolist())]
    if by_tokens:
        arranged = grouped_by_tokens(order, lengths, tokens, 0, np.arange, steps=3)
        keys = [(begun[place] // (3 * tokens), own[place]) for place in range(len(own))]
        keys = [(stretch, -length if stretch % 2 else length) for stretch, length in keys]
    else:
        arranged = grouped(order, lengths, step, np.arange, steps=3)
        keys = [(place // (3 * step), own[place]) for place in range(len(own))]
    assert arranged.tolist() == [order[place] for place in sorted(range(len(own)), key=keys.__getitem__)]


@given(st.integers(2, 12), st.lists(st.integers(1, 60), min_size=2, max_size=3), st.booleans(), st.data())
def test_grouped_steps_keep_their_shares_and_similar_lengths(step, sizes, by_tokens, data):
    """Whatever the lengths: no step misses its share of a corpus by more than one sequence of each corpus."""
    bounds = [0, *itertools.accumulate(sizes)]
    count, corpora = bounds[-1], np.repeat(np.arange(len(sizes)), sizes)
    lengths = np.array(data.draw(st.lists(st.integers(1, 50), min_size=count, max_size=count)))
    order = mixed(0, bounds, sizes, of_pass)
    if by_tokens:
        arranged = grouped_by_tokens(order, np.full(count, 3), 3 * step, 0, partial(shuffled, 3, 0), corpora=corpora)
    else:
        arranged = grouped(order, lengths, step, partial(shuffled, 3, 0), corpora=corpora)
    assert sorted(arranged.tolist()) == sorted(order.tolist())
    for at in range(0, count - step + 1, step):
        own = np.bincount(corpora[arranged[at : at + step]], minlength=len(sizes))
        assert np.abs(own - step * np.array(sizes) / count).max() <= len(sizes)


# Batches


def test_batches_in_turn_know_their_corpora():
    parts = [["first", "second"], ["third"]]
    assert list(InTurn(parts)) == ["first", "second", "third"]
    assert list(InTurn(parts, ["news", "wiki"]).corpora()) == ["news", "news", "wiki"]
    assert list(InTurn(parts).corpora()) == [""] * 3


LENGTHS = np.arange(50) * 7 % 11 + 1
ORDER = EpochOrder("group_by_length", 3, SimpleNamespace(bounds=[0, 40, 50], lengths=LENGTHS), [25, 25])


def mixture(layout: Layout, done: Progress | None = None, **options) -> Batches:
    return Batches([Stage(50, ORDER, layout)], RateSchedule.of("0.1..0.9", 3), done=done, **options)


def run(layout: tuple[int, int, int], epochs: int = 4, done: Progress | None = None) -> list[list[Draw]]:
    """The draws of each step from where `done` says, over accumulated batches and processes."""
    processes = [mixture(Layout(*layout, rank), done, epochs=epochs) for rank in range(layout[2])]
    steps = []
    for epoch in range(processes[0].first_epoch, epochs):
        for batches in processes:
            batches.set_epoch(epoch)
        everywhere = zip(*processes, strict=True)
        merged = [[draw for batch in batches for draw in batch if draw.rate] for batches in everywhere]
        steps += [sum(merged[at : at + layout[1]], []) for at in range(0, len(merged), layout[1])]
    return steps


@pytest.mark.parametrize("layout", [(4, 2, 1), (4, 1, 2), (2, 2, 2), (1, 1, 8)], ids=str)
def test_a_mixture_is_the_same_on_any_layout(layout):
    assert list(map(sorted, run(layout))) == list(map(sorted, run((8, 1, 1))))


@pytest.mark.parametrize("at", [1, 6, 7, 8, 20])
def test_a_mixture_goes_on_exactly_where_it_stopped(at):
    whole = run((8, 1, 1))
    assert run((8, 1, 1), done=mixture(Layout(8), epochs=4).progress(at)) == whole[at:]


def test_a_mixture_that_goes_on_in_other_steps_shows_the_rest_of_its_epoch():
    done = mixture(Layout(8), epochs=4).progress(9)  # 2 steps of epoch 1
    shown = sum(run((8, 1, 1))[:9], []) + sum(run((5, 1, 1), done=done), [])
    whole = sum(run((8, 1, 1)), [])
    assert sorted(draw[:2] for draw in shown) == sorted(draw[:2] for draw in whole)
    assert len({draw[:2] for draw in whole}) == len(whole) == 200, "no sequence comes twice with one mask"
    counts = Counter(draw.index for draw in whole)
    assert {counts[index] for index in range(40)} == {2, 3} and {counts[index] for index in range(40, 50)} == {10}


def token_steps(layout: Layout, done: Progress | None = None) -> TokenBatches:
    """The batches of a process in steps of at least 60 tokens."""
    cuts = TokenCuts(Stage(50, ORDER, Layout(1)), LENGTHS, 60)
    return TokenBatches(cuts, layout, RateSchedule.of("0.1..0.9", 3), epochs=4, done=done)


def run_by_tokens(accumulation: int, processes: int, done: Progress | None = None) -> list[list[Draw]]:
    everywhere = [token_steps(Layout(1, accumulation, processes, rank), done) for rank in range(processes)]
    steps = []
    for epoch in range(everywhere[0].first_epoch, everywhere[0].planned_epochs):
        for batches in everywhere:
            batches.set_epoch(epoch)
        merged = [
            [draw for batch in batches for draw in batch if draw.rate] for batches in zip(*everywhere, strict=True)
        ]
        steps += [sorted(sum(merged[at : at + accumulation], [])) for at in range(0, len(merged), accumulation)]
    return steps


def test_steps_of_tokens_are_cut_from_the_running_sequence_of_a_mixture():
    whole = run_by_tokens(1, 1)
    assert run_by_tokens(2, 2) == whole and len(whole) > 10
    visits = sorted(draw[:2] for step in whole for draw in step)
    assert visits == sorted(draw[:2] for step in run((8, 1, 1)) for draw in step), "those of other steps"
    assert all(60 <= sum(LENGTHS[draw.index] for draw in step) < 71 for step in whole[:-1])
    for at in (1, 5, 9):
        assert run_by_tokens(1, 1, token_steps(Layout(1)).progress(at)) == whole[at:]


# Sequences


@pytest.mark.parametrize(
    "settings", [{"line_by_line": True}, {"line_by_line": False}, {"pack_sequences": True}], ids=str
)
def test_no_sequence_has_text_of_two_corpora(settings, tmp_path):
    tokenizer = character_tokenizer(["天地玄黄"])
    texts = {"a": ["天" * 5, "天" * 3] * 4, "b": ["地" * 4] * 3, "c": ["黄" * 9]}
    for name, lines in texts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    files = [str(tmp_path / f"{name}.txt") for name in texts]
    arguments = DataArguments(train_file=files, **{"line_by_line": True, **settings})
    loaded = load_texts(arguments, str(tmp_path), None, False)["train"]
    assert loaded.corpora == [Corpus("a", 8), Corpus("b", 3), Corpus("c", 1)]
    tokenization = Tokenization(tokenizer, arguments, None, str(tmp_path))
    packed = bool(settings.get("pack_sequences"))
    options = tokenized(loaded, tokenization), tokenization, 12, packed, None
    sequences = Sequences(*options, loaded.corpora)
    alone = []
    for number, (name, letter) in enumerate(zip(texts, "天地黄", strict=True)):
        own = range(*sequences.bounds[number : number + 2])
        documents = [one for index in own for one in sequences[Draw(index, 0, 0.0)].documents]
        ids = {int(code) >> 1 for document in documents for code in document} - {tokenizer.sep_token_id}
        assert ids == {tokenizer.convert_tokens_to_ids(letter)}
        letters = sum(int(code) >> 1 != tokenizer.sep_token_id for document in documents for code in document)
        assert letters == sum(map(len, texts[name])), "all of it is there"
        alone.append(len(own))
    assert sum(alone) == len(sequences) == len(sequences.lengths) and min(alone) > 0
    for index in range(len(sequences)):
        documents = sequences[Draw(index, 0, 0.0)].documents
        assert sum(map(len, documents)) + 2 * len(documents) == sequences.lengths[index] <= 12


def test_corpora_of_one_size_have_orders_of_their_own():
    order = EpochOrder("random", 3, SimpleNamespace(bounds=[0, 30, 60]), [30, 30]).of_epoch(0)
    first, second = order[order < 30], order[order >= 30] - 30
    assert sorted(first) == sorted(second) == [*range(30)] and first.tolist() != second.tolist()


def test_steps_of_similar_lengths_come_in_another_order_in_each_epoch():
    """Also where the same sequences are in them, as in file order."""
    sequences = SimpleNamespace(lengths=LENGTHS, bounds=[0, 50])
    order = EpochOrder("group_by_length", 3, sequences)
    of_epochs = [order.in_steps(np.arange(50), 5, epoch).tolist() for epoch in (0, 1, 0)]
    assert of_epochs[0] == of_epochs[2] != of_epochs[1]
    assert sorted(of_epochs[0]) == sorted(of_epochs[1]) == [*range(50)]


def test_steps_of_tokens_keep_the_shares_of_corpora_where_lengths_are_grouped():
    visits, shuffle = ORDER.of_epoch(0), partial(shuffled, 3, 0)
    corpora = np.repeat([0, 1], [40, 10])
    expected = grouped_by_tokens(visits, LENGTHS, 40, 0, shuffle, corpora=corpora)
    assert ORDER.in_steps(visits, 40, 0, 0).tolist() == expected.tolist()
    assert expected.tolist() != grouped_by_tokens(visits, LENGTHS, 40, 0, shuffle).tolist()


def test_a_name_begins_and_ends_with_a_letter_or_digit():
    assert corpus_names(["(news).txt", "a/[wiki].txt"]) == ["news", "wiki"]
