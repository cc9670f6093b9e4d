"""Steps of so many tokens: each example once an epoch, less than one sequence too many, the same on any layout."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.order import EpochOrder, grouped, grouped_by_tokens, shuffled, token_ends
from wordmask.data.plan import Draw, Layout, Piece, Progress, Stage
from wordmask.data.sampler import Batches
from wordmask.data.token_steps import TokenBatches, TokenCuts
from wordmask.utils.errors import InputError

SEED = 3
WHOLE = Layout(1)
LINE, DRAWN = RateSchedule.of("0.3:0.1"), RateSchedule.of("0.1..0.9", SEED)


class InShortStretches(EpochOrder):
    """Similar lengths in the same step, with 3 steps sorted together: an epoch has several such stretches."""

    def in_steps(self, order: np.ndarray, size: int, epoch: int, carried: int | None = None) -> np.ndarray:
        shuffle = partial(shuffled, self.seed, epoch)
        if carried is None:
            return grouped(order, self.sequences, size, shuffle, steps=3)
        return grouped_by_tokens(order, self.sequences, size, carried, shuffle, steps=3)


def stage_of(lengths: np.ndarray, groups: bool, layout: Layout) -> Stage:
    order = (InShortStretches if groups else EpochOrder)("random", SEED, lengths)
    return Stage(len(lengths), order, layout)


class Training:
    """A training of a text of these lengths.

    Args:
        lengths: (sequences,) the tokens of each.
        tokens: of a step.
        groups: whether lengths are grouped.
    """

    def __init__(self, lengths: list[int], tokens: int, groups: bool):
        self.lengths, self.tokens, self.groups = np.array(lengths), tokens, groups

    def plan(self, layout: Layout = WHOLE, tokens: int = 0, rates: RateSchedule = LINE, **options) -> TokenBatches:
        cuts = TokenCuts(stage_of(self.lengths, self.groups, layout), self.lengths, tokens or self.tokens)
        return TokenBatches(cuts, layout, rates, **options)

    def by_size(self, size: int, **options) -> Batches:
        return Batches([stage_of(self.lengths, self.groups, Layout(size))], LINE, **options)


def batches(plan: Batches) -> list[list[Draw]]:
    """All batches of a process, epoch by epoch, as the Trainer asks for them."""
    found = []
    for epoch in range(plan.first_epoch, plan.planned_epochs):
        plan.set_epoch(epoch)
        before = len(found)
        found += list(plan)
        assert len(found) - before == len(plan) > 0, "the Trainer ends at an epoch without batches"
    return found


def steps(plans: list[Batches], accumulation: int = 1) -> list[list[Draw]]:
    """The sequences of each step, over accumulated batches and processes; without filler."""
    merged = [
        [draw for batch in parts for draw in batch if draw.rate] for parts in zip(*map(batches, plans), strict=True)
    ]
    return [sum(merged[at : at + accumulation], []) for at in range(0, len(merged), accumulation)]


@st.composite
def trainings(draw) -> Training:
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=30))
    return Training(lengths, max(lengths) + draw(st.integers(0, 60)), draw(st.booleans()))


EPOCHS = st.sampled_from([0.4, 1.0, 1.5, 2.0, 3.0, 4.25])


@settings(max_examples=150, deadline=None)
@given(training=trainings(), epochs=EPOCHS)
def test_each_sequence_comes_once_an_epoch_and_steps_have_less_than_one_too_many(training, epochs):
    plan = training.plan(epochs=epochs)
    found = steps([plan])
    assert len(found) == plan.planned_steps
    shown = [(draw.epoch, draw.index) for step in found for draw in step]
    count = len(training.lengths)
    wanted = int(np.ceil(round(epochs * count, 6)))
    assert len({*shown}) == len(shown) == wanted
    assert [epoch for epoch, _ in shown] == sorted(epoch for epoch, _ in shown), "epoch by epoch"
    sizes = [[int(training.lengths[draw.index]) for draw in step] for step in found]
    assert all(sum(step[:-1]) < training.tokens for step in sizes), "it ends at the first sequence that is enough"
    assert all(sum(step) >= training.tokens for step in sizes[:-1]), "only the last step may have less"
    total = sum(map(sum, sizes))
    assert total / (training.tokens + training.lengths.max()) <= len(found) < total / training.tokens + 1
    ends = np.cumsum([len(step) for step in sizes])
    assert [plan.epochs_at(step + 1) for step in range(len(found))] == pytest.approx(list(ends / count))


@settings(max_examples=150, deadline=None)
@given(
    training=trainings(),
    epochs=EPOCHS,
    layout=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
    rates=st.sampled_from([LINE, DRAWN]),
)
def test_a_step_has_the_same_sequences_and_rates_however_it_is_divided(training, epochs, layout, rates):
    layouts = [Layout(*layout, process) for process in range(layout[2])]
    plans = [training.plan(layout, rates=rates, epochs=epochs) for layout in layouts]
    found, whole = steps(plans, layout[1]), steps([training.plan(rates=rates, epochs=epochs)])
    assert [sorted(step) for step in found] == [sorted(step) for step in whole]
    everywhere = [batch for plan in plans for batch in batches(plan)]
    assert all(everywhere) and all(len(batch) == 1 for batch in everywhere if not batch[0].rate)
    if rates is LINE:
        assert [step[0].rate for step in found] == pytest.approx(
            [0.3 - 0.2 * step / len(found) for step in range(len(found))]
        )
    else:
        assert {draw.rate for step in found for draw in step} == {
            rates.at(np.zeros(1), draw.epoch, draw.index).item() for step in found for draw in step
        }


@settings(max_examples=150, deadline=None)
@given(training=trainings(), epochs=EPOCHS, data=st.data())
def test_a_training_goes_on_from_any_step_as_if_it_had_not_stopped(training, epochs, data):
    whole = training.plan(epochs=epochs)
    expected = steps([whole])
    step = data.draw(st.integers(0, len(expected)))
    resumed = training.plan(epochs=epochs, done=whole.progress(step))
    again = steps([resumed])
    assert again == expected[step:] and resumed.planned_steps == whole.planned_steps
    assert steps([whole.after(step)]) == expected[step:]
    for later in range(step + 1, len(expected) + 1):
        assert resumed.progress(later) == whole.progress(later)


@settings(max_examples=150, deadline=None)
@given(training=trainings(), data=st.data(), size=st.integers(1, 9), more=st.integers(0, 40))
def test_each_sequence_comes_once_an_epoch_whatever_the_next_steps_count(training, data, size, more):
    """Steps of some tokens, then of other tokens, or of sequences; and the other way round."""
    tokens = int(training.lengths.max()) + more
    plans = [
        lambda done: training.plan(epochs=3, done=done),
        lambda done: training.plan(epochs=3, tokens=tokens, done=done),
        lambda done: training.by_size(size, epochs=3, done=done),
    ]
    shown, done = [], Progress()
    for number in data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)):
        plan = plans[number](done)
        taken = data.draw(st.integers(0, max(plan.planned_steps - done.step, 0)))
        shown += steps([plan])[:taken]
        done = plan.progress(done.step + taken)
    plan = plans[data.draw(st.integers(0, 2))](done)
    shown += steps([plan])[: max(plan.planned_steps - done.step, 0)]
    found = [(draw.epoch, draw.index) for step in shown for draw in step]
    assert sorted(found) == [(epoch, index) for epoch in range(3) for index in range(len(training.lengths))]


@settings(max_examples=60, deadline=None)
@given(training=trainings(), limit=st.integers(1, 9))
def test_a_number_of_steps_is_met_and_a_longer_training_begins_alike(training, limit):
    found, longer = (steps([training.plan(steps=count)]) for count in (limit, limit + 3))
    assert len(found) == limit and len(longer) == limit + 3
    assert [[draw[:2] for draw in step] for step in longer[:limit]] == [[draw[:2] for draw in step] for step in found]


def test_a_finished_training_of_more_epochs_shows_the_rest_only():
    """The last step of the first one has what was left; in a longer one, it would have had sequences of epoch 3."""
    training = Training([5, 4, 3, 2, 6], 7, groups=False)
    two = training.plan(epochs=2)
    more = training.plan(epochs=3, done=two.progress(two.planned_steps))
    shown = [draw for step in steps([more]) for draw in step]
    assert sorted(draw[:2] for draw in shown) == [(index, 2) for index in range(5)]


def test_a_step_longer_than_the_text_goes_over_several_epochs():
    plan = Training([2, 2], 10, groups=False).plan(epochs=6)
    assert [[draw.epoch for draw in step] for step in steps([plan])] == [[0, 0, 1, 1, 2], [2, 3, 3, 4, 4], [5, 5]]
    assert plan.planned_epochs == 3, "the Trainer sees epochs that have a step"
    [step] = steps([Training([2, 2], 10_000, groups=False).plan(epochs=2500)])
    assert len(step) == 5000 and step[-1].epoch == 2499, "more epochs than Python nests functions"


def test_steps_end_at_the_first_sequence_that_is_enough():
    assert token_ends(np.array([3, 4, 2, 2, 5, 1]), 6, 0).tolist() == [2, 5]
    assert token_ends(np.array([3, 4, 2, 2, 5, 1]), 6, 5).tolist() == [1, 3, 5]
    assert token_ends(np.zeros(0, np.int64), 6, 0).tolist() == []


@settings(max_examples=60, deadline=None)
@given(training=trainings(), carried=st.integers(0, 40))
def test_an_arrangement_holds_each_sequence_and_steps_of_it_have_similar_lengths(training, carried):
    lengths, tokens = training.lengths, training.tokens
    order = shuffled(SEED, 0, len(lengths))
    arranged = grouped_by_tokens(
        order, lengths, tokens, min(carried, tokens - 1), partial(shuffled, SEED, 0), steps=10**6
    )
    assert sorted(arranged.tolist()) == list(range(len(lengths)))
    ends = token_ends(lengths[arranged], tokens, min(carried, tokens - 1)).tolist()
    first = ends[:1] if carried else [0]
    groups = [lengths[arranged[begin:end]] for begin, end in zip(first + ends, ends, strict=False) if begin < end]
    for one in groups:
        for other in groups:
            if one is not other:
                assert one.max() <= other.min() or other.max() <= one.min(), "sorted, since there is one stretch"


def test_steps_have_little_padding_also_where_one_stretch_of_sorted_sequences_ends():
    """Each stretch was sorted from short to long: the step at its end had the longest ones and the shortest ones."""
    drawn = np.random.default_rng(0).lognormal(3.3, 0.8, 10_000).astype(np.int64)
    training = Training(np.clip(drawn, 4, 128).tolist(), 1200, groups=True)
    arranged = grouped_by_tokens(np.arange(10_000), training.lengths, 1200, 0, partial(shuffled, SEED, 0))
    ends = token_ends(training.lengths[arranged], 1200, 0)
    groups = np.split(training.lengths[arranged], ends)[:-1]
    assert len(groups) > 150 and {sum(group) >= 1200 for group in groups} == {True}
    positions = sum(len(group) * group.max() for group in groups)
    assert 1 - sum(map(sum, groups)) / positions < 0.05


def test_batches_of_a_step_have_about_as_many_tokens():
    lengths = [int(length) for length in np.random.default_rng(0).integers(3, 40, 400)]
    training = Training(lengths, 1000, groups=True)
    plans = [training.plan(Layout(1, 2, 2, process)) for process in range(2)]
    for number, batch in enumerate([batch for plan in plans for batch in batches(plan)[:-2]]):
        assert abs(sum(lengths[draw.index] for draw in batch) - 250) < 40 + 40 / 4, number


def test_a_step_is_divided_by_the_middle_of_each_sequence():
    """Five of 4 tokens in four parts: by beginnings, they would be 0 0 1 2 3, and by ends 0 1 2 3 3."""
    lengths, order = [4] * 5, EpochOrder("sequential", SEED, range(5))
    parts = []
    for process in range(2):
        layout = Layout(1, 2, 2, process)
        cuts = TokenCuts(Stage(5, order, layout), np.array(lengths), 20)
        parts.append([[draw.index for draw in batch] for batch in TokenBatches(cuts, layout, LINE)])
    assert parts == [[[0], [2, 3]], [[1], [4]]]


def test_sequences_that_complete_a_step_of_the_epoch_before_stay_in_front():
    """They have the carried tokens of a step that has begun: what is behind them is grouped, and they are not."""
    lengths = np.random.default_rng(0).integers(1, 12, 30)
    order = InShortStretches("random", SEED, lengths)
    shown = Piece(40, 0, 0, 25)
    found = Stage(30, order, WHOLE).remaining(1, (), shown)
    expected = order.in_steps(order.of_epoch(1), 40, 1, 25)
    assert found.tolist() == expected.tolist() != order.in_steps(order.of_epoch(1), 40, 1, 0).tolist()
    head = int(token_ends(lengths[order.of_epoch(1)], 40, 25)[0])
    assert found[:head].tolist() == order.of_epoch(1)[:head].tolist()


def test_a_step_belongs_to_the_epoch_in_which_it_begins():
    """Two epochs of three sequences of 4 tokens, in steps of 6: the second step has a sequence of each epoch."""
    plan = Training([4, 4, 4], 6, groups=False).plan(epochs=2)
    assert [(epoch.steps, epoch.carried) for epoch in plan.epochs] == [(1, 0), (2, 4)]
    assert plan.trainer_epochs == [(0, range(0, 2)), (1, range(2, 3))]
    assert [len(step) for step in batches(plan)] == [2, 2, 2]


def test_an_epoch_is_begun_with_the_first_step_that_begins_in_it():
    """After two steps the first one that ends in epoch 1 is done, which is one of epoch 0 for the Trainer."""
    training = Training([4, 4, 4], 6, groups=False)
    whole = training.plan(epochs=2)
    begun = [training.plan(epochs=2, done=whole.progress(step)).begins_within_epoch for step in range(3)]
    assert begun == [False, True, False]
    assert training.plan(tokens=8, epochs=2, done=whole.progress(1)).begins_within_epoch, "in steps of another size"


def test_steps_of_other_tokens_that_would_end_at_the_same_place_hold_other_sequences():
    """Where lengths are grouped, the order depends on the tokens of a step: two steps of 17 end after 7, too."""
    training = Training([3, 2, 4, 5, 9, 5, 2, 4, 7, 9, 9, 11, 3, 10], 11, groups=True)
    first = training.plan(epochs=1)
    done = first.progress(2)
    assert done.examples == first.cuts.of(0, (), 0).ends[1] == training.plan(tokens=17).cuts.of(0, (), 0).ends[1] == 7
    later = training.plan(epochs=1, tokens=17, done=done)
    shown = [draw.index for step in [*steps([first])[:2], *steps([later])] for draw in step]
    assert sorted(shown) == list(range(14))


def test_a_share_of_an_epoch_is_not_rounded_up_by_an_error_of_arithmetic():
    """1.1 - 1 is a bit more than 0.1."""
    assert sum(map(len, steps([Training([3] * 10, 9, groups=False).plan(epochs=1.1)]))) == 11


def test_a_text_without_sequences_has_no_steps_to_show():
    for length in ({"epochs": 2}, {"steps": 3}):
        plan = Training([], 9, groups=False).plan(**length)
        assert batches(plan) == [] and plan.planned_steps == length.get("steps", 0)
        assert (plan.progress(0), plan.epochs_at(0), plan.steps_left(0)) == (Progress(constant=False), 0, 0)


def test_the_largest_step_is_one_of_the_longest_sequences():
    """Which is tried before a training begins; a text of less than one step is all in it."""
    lengths = [2, 7, 3, 7, 5]
    [batch] = Training(lengths, 14, groups=False).plan().largest(0.4)
    assert batch == [Draw(1, 0, 0.4), Draw(3, 0, 0.4)]
    [batch] = Training(lengths, 100, groups=False).plan().largest(0.4)
    assert [draw.index for draw in batch] == [1, 3, 4, 2, 0]


def test_the_trainer_sees_no_steps_outside_of_its_epochs():
    plan = Training([4, 4, 4], 6, groups=False).plan(epochs=2)
    assert [plan.steps_left(epoch) for epoch in (0, 1, 2)] == [2, 1, 0]
    assert plan.after(2).steps_left(0) == 0, "it begins in epoch 1"
    plan.set_epoch(2)
    assert list(plan) == [], "batches of an epoch behind the last one"
    assert plan.steps_in_epoch == 2 and Training([4], 100, groups=False).plan().steps_in_epoch == 1


def test_an_epoch_is_cut_anew_where_its_first_step_has_other_tokens_from_before():
    lengths = np.array([3, 4, 2, 2, 5, 1])
    cuts = TokenCuts(Stage(6, EpochOrder("sequential", SEED, range(6)), WHOLE), lengths, 6)
    for _ in range(2):
        assert cuts.of(1, (), 0).ends.tolist() == [2, 5] and cuts.of(1, (), 5).ends.tolist() == [1, 3, 5]
        assert (cuts.counts(1, (), 0, 6), cuts.counts(1, (), 5, 6)) == ((2, 1), (3, 1))


def test_a_step_shorter_than_a_sequence_is_refused():
    with pytest.raises(
        InputError, match="--tokens_per_step: 11 is less than the longest sequence, of 12 tokens; give 12"
    ):
        Training([3, 12], 11, groups=False).plan()


def test_a_finished_training_that_goes_on_in_the_same_process_shows_the_rest_only():
    """The last step of half an epoch was cut short, so the rest of the epoch is cut into steps anew."""
    half = Training([4] * 10, 12, False).plan(epochs=0.5)
    shown = [draw.index for batch in batches(half) for draw in batch]
    longer = TokenBatches(half.cuts, WHOLE, LINE, done=half.progress(half.planned_steps))
    rest = [draw.index for batch in batches(longer) for draw in batch]
    assert len(shown) == 5 and sorted(shown + rest) == [*range(10)]
