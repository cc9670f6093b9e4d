"""The order of an epoch: every row once, the same step on any layout, the same masks with any number of workers."""

from __future__ import annotations

import tracemalloc
from functools import partial
from itertools import islice

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from transformers import AutoModelForMaskedLM

from conftest import character_tokenizer, save_model, slow_after
from wordmask.config.arguments import DataArguments, RunArguments
from wordmask.config.rate_schedule import RateSchedule
from wordmask.data.collator import Example, MaskingCollator
from wordmask.data.order import EpochOrder, grouped, shuffled
from wordmask.data.plan import EVALUATION, Draw, Layout, Progress, Stage
from wordmask.data.sampler import Batches, EvaluationBatches
from wordmask.data.sequences import Sequences, StagedSequences
from wordmask.data.token_store import StoredTokens, Tokenization
from wordmask.masking import Strategy
from wordmask.tokenization.vocabulary import Vocabulary
from wordmask.training.trainer.mlm_trainer import MlmTrainer

CONSTANT = RateSchedule.of("0.15:0.15")


def epoch_batches(
    rows: int, layout: Layout, rates: RateSchedule = CONSTANT, seed: int = 3, epoch: int = 0, **options
) -> Batches:
    batches = Batches([Stage(rows, EpochOrder("random", seed, range(rows)), layout)], rates, **options)
    batches.set_epoch(epoch)
    return batches


def of_all_processes(rows: int, batch_size: int, accumulation: int, processes: int, **options) -> list[list[list]]:
    """For each process its batches."""
    layouts = [Layout(batch_size, accumulation, processes, process) for process in range(processes)]
    return [list(epoch_batches(rows, layout, **options)) for layout in layouts]


def peak_of_planning(count: int, **more) -> int:
    """The most bytes that Python's objects take from the division of `count` lines to the first step of an epoch."""
    sizes = np.random.default_rng(0).integers(5, 70, count)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    tokens = pa.ListArray.from_arrays(offsets, np.zeros(sizes.sum(), np.uint16))
    stored = StoredTokens(datasets.Dataset(pa.table({"tokens": tokens})))
    arguments = DataArguments(train_file=["text.txt"], line_by_line=True, **more)
    tokenization = Tokenization(character_tokenizer(["a"]), arguments)
    tracemalloc.start()
    sequences = Sequences(stored, tokenization, 64, arguments.pack_sequences)
    stage = Stage(len(sequences), EpochOrder("group_by_length", 3, sequences), Layout(32))
    next(iter(Batches([stage], CONSTANT, epochs=2)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("more", slow_after(1, [{}, {"long_lines": "split"}, {"pack_sequences": True}]))
def test_bytes_for_each_line_of_a_training(more):
    """docs/adapt.md has the figure, of numbers of 32 bits for most that a line needs."""
    peak_of_planning(100, **more)  # what is imported and compiled for the first time does not count
    count = 200_000
    found = peak_of_planning(count, **more) / count
    print(f"{found:.0f} bytes for each line")
    assert found < 60


# Order

LAYOUTS = st.tuples(st.integers(0, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 5))


@settings(max_examples=200, deadline=None)
@given(layout=LAYOUTS, fill=st.booleans(), epoch=st.integers(0, 3))
def test_every_row_comes_exactly_once_on_any_layout(layout, fill, epoch):
    rows, batch_size, accumulation, processes = layout
    everywhere = of_all_processes(*layout, fill=fill, epoch=epoch)
    draws = [draw for batches in everywhere for batch in batches for draw in batch]
    assert sorted(draw.index for draw in draws if draw.rate) == list(range(rows))
    assert all(draw.epoch == epoch and draw.rate in (0.0, 0.15) and draw.index < rows for draw in draws)
    # All processes have as many batches, none is empty, none too large: one that waits for another waits for ever.
    counts = {len(batches) for batches in everywhere}
    assert counts == {-(-rows // (batch_size * accumulation * processes)) * accumulation}
    assert len(epoch_batches(rows, Layout(batch_size, accumulation, processes, processes - 1))) in counts
    sizes = {len(batch) for batches in everywhere for batch in batches}
    assert sizes <= ({batch_size} if fill else set(range(1, batch_size + 1)))


@settings(max_examples=60, deadline=None)
@given(layout=LAYOUTS)
def test_rows_that_fill_up_have_no_weight_and_are_as_few_as_can_be(layout):
    batch_size, accumulation = layout[1:3]
    for fill in (False, True):
        for batches in of_all_processes(*layout, fill=fill):
            for batch in batches:
                real, filler = (sum(bool(draw.rate) == kind for draw in batch) for kind in (True, False))
                assert filler == (batch_size - real if fill else int(real == 0))
            before = [draw for batch in batches[:-accumulation] for draw in batch]
            assert all(draw.rate for draw in before), "filler before the last step"


@settings(max_examples=60, deadline=None)
@given(layout=LAYOUTS)
def test_dropping_the_last_rows_drops_less_than_a_step_however_it_is_divided(layout):
    rows, batch_size, accumulation, processes = layout
    everywhere = of_all_processes(*layout, drop_last=True)
    draws = [draw for batches in everywhere for batch in batches for draw in batch]
    assert {len(batch) for batches in everywhere for batch in batches} <= {batch_size}
    draws = [draw for draw in draws if draw.rate]
    assert len({draw.index for draw in draws}) == len(draws) == rows - rows % (batch_size * accumulation * processes)


def steps(rows: int, batch_size: int, accumulation: int, processes: int, **options) -> list[list]:
    """The rows of each optimizer step, over accumulated batches and processes; without filler."""
    everywhere = of_all_processes(rows, batch_size, accumulation, processes, **options)
    merged = [[draw for batch in batches for draw in batch if draw.rate] for batches in zip(*everywhere, strict=True)]
    return [sum(merged[at : at + accumulation], []) for at in range(0, len(merged), accumulation)]


@pytest.mark.parametrize("schedule", ["0.3:0.15", "0.3@0.7,0.15@0.3", "0.1..0.9"])
@pytest.mark.parametrize("rows", [160, 165, 161, 175, 7])
@pytest.mark.parametrize("layout", [(4, 4, 1), (8, 1, 2), (1, 16, 1), (2, 2, 4), (4, 2, 2), (1, 1, 16)], ids=str)
def test_a_step_has_the_same_rows_however_it_is_divided(rows, layout, schedule):
    """1 × 16, 4 × 4 and two processes × 8, with a schedule: the same rows at the same rates."""
    rates = RateSchedule.of(schedule, seed=3)
    for epoch in (0, 1):
        whole = steps(rows, 16, 1, 1, rates=rates, epochs=2, epoch=epoch)
        assert [len(step) for step in whole] == [16] * (rows // 16) + [rows % 16] * (rows % 16 > 0)
        divided = steps(rows, *layout, rates=rates, epochs=2, epoch=epoch)
        assert [sorted(step) for step in divided] == [sorted(step) for step in whole]


def test_a_step_counts_the_rows_of_all_batches_and_processes():
    assert Layout(4, 3, 2, 1).step_size == 24


@given(seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000), rows=st.integers(0, 100))
@settings(max_examples=50, deadline=None)
def test_an_order_holds_every_row_and_is_the_same_whenever_asked_for(seed, epoch, rows):
    order = shuffled(seed, epoch, rows)
    assert sorted(order.tolist()) == list(range(rows))
    np.testing.assert_array_equal(order, shuffled(seed, epoch, rows))


def test_orders_differ_by_seed_and_by_epoch():
    """Seed 1 of epoch 2 is not seed 2 of epoch 1 either."""
    orders = {tuple(shuffled(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_an_epoch_is_the_same_each_time_and_another_one_is_new():
    """What a resume skips is what the interrupted run has seen."""
    batches = epoch_batches(50, Layout(8))
    first = list(batches)
    assert list(batches) == first
    batches.set_epoch(1)
    second = list(batches)
    assert [draw.index for batch in second for draw in batch] != [draw.index for batch in first for draw in batch]
    assert {draw.epoch for batch in second for draw in batch} == {1}
    batches.set_epoch(0)
    assert list(islice(batches, 3, None)) == first[3:]


def test_an_evaluation_shows_all_sequences_once_in_its_order_and_with_its_epoch():
    batches = EvaluationBatches(np.arange(10)[::-1], Layout(4), 0.2, fill=False)
    assert [len(batch) for batch in batches] == [4, 4, 2] and len(batches) == 3
    draws = [(row, EVALUATION, 0.2) for row in reversed(range(10))]
    for _ in range(2):
        assert [tuple(draw) for batch in batches for draw in batch] == draws


def test_the_processes_of_an_evaluation_have_as_many_batches_as_each_other():
    """Of 9 sequences in steps of 2 × 3, the third process has none in the last step: one of rate 0 takes its place."""
    shown = [[*EvaluationBatches(np.arange(9), Layout(2, 1, 3, process), 0.2, fill=False)] for process in range(3)]
    assert [[[draw.index for draw in batch] for batch in batches] for batches in shown] == [
        [[0, 1], [6, 7]],
        [[2, 3], [8]],
        [[4, 5], [6]],
    ]
    assert shown[2][1] == [Draw(6, EVALUATION, 0.0)]
    filled = [*EvaluationBatches(np.arange(9), Layout(2, 1, 3, 1), 0.2, fill=True)]
    assert filled[1] == [Draw(8, EVALUATION, 0.2), Draw(6, EVALUATION, 0.0)]


# Other steps in the middle of a training


class InShortStretches(EpochOrder):
    """Rows of like length in the same step, with 3 steps sorted together: an epoch has several such stretches."""

    def in_steps(self, order: np.ndarray, size: int, epoch: int, carried: int | None = None) -> np.ndarray:
        lengths = np.arange(len(self.sequences)) * 7 % 11
        return grouped(order, lengths, size, partial(shuffled, self.seed, epoch), steps=3)


def of_step_sizes(rows: int, layout: tuple[int, int, int], done: Progress, **options) -> list[Batches]:
    """The batches of each process, with rows of like length in the same step."""
    order = InShortStretches("random", 3, range(rows))
    layouts = [Layout(*layout, process) for process in range(layout[2])]
    rates = RateSchedule.of("0.4:0.1")
    return [Batches([Stage(rows, order, own)], rates, done=done, **options) for own in layouts]


def go_on(processes: list[Batches], until: int) -> list[tuple[int, list[Draw]]]:
    """The epoch and the rows of each step, from where these batches begin to so many steps of the whole training."""
    step, found = processes[0].base + processes[0].skipped, []
    for epoch in range(processes[0].first_epoch, processes[0].planned_epochs):
        for batches in processes:
            batches.set_epoch(epoch)
        everywhere = [list(batches) for batches in processes]
        assert {len(batches) for batches in everywhere} == {len(processes[0])}
        accumulation = processes[0].stages[0].layout.accumulation
        for at in range(0, len(everywhere[0]), accumulation):
            if step == until:
                return found
            parts = [batch for batches in everywhere for batch in batches[at : at + accumulation]]
            found.append((epoch, [draw for batch in parts for draw in batch if draw.rate]))
            step += 1
    return found


CHANGES = st.lists(
    st.tuples(st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3)), st.integers(1, 12)), max_size=4
)


@settings(max_examples=300, deadline=None)
@given(rows=st.integers(1, 60), epochs=st.sampled_from([1, 2, 3]), changes=CHANGES, fill=st.booleans())
def test_every_row_comes_once_an_epoch_however_often_the_steps_change(rows, epochs, changes, fill):
    done, shown = Progress(), []
    for layout, steps in [*changes, ((4, 1, 1), None)]:
        processes = of_step_sizes(rows, layout, done, epochs=epochs, fill=fill)
        planned = processes[0].planned_steps
        until = planned if steps is None else min(done.step + steps, planned)
        shown += go_on(processes, until)
        assert len(shown) == until, "the number of the step goes on"
        done = processes[0].progress(until)
        part = [draw for epoch, draws in shown for draw in draws if epoch == done.epoch]
        assert until == 0 or (done.step, done.examples) == (until, len(part))
        assert processes[0].epochs_at(until) == pytest.approx(done.epoch + len(part) / rows)
    assert planned == len(shown)
    for epoch in range(epochs):
        draws = [draw for own, step in shown for draw in step if own == epoch]
        assert sorted(draw.index for draw in draws) == list(range(rows))
        assert {draw.epoch for draw in draws} == {epoch}
    assert all(0.1 <= draw.rate <= 0.4 for _, step in shown for draw in step)


@settings(max_examples=100, deadline=None)
@given(rows=st.integers(2, 60), changes=CHANGES, at=st.integers(1, 9), steps=st.sampled_from([None, 25]))
def test_a_training_that_goes_on_in_the_same_steps_is_one_that_was_not_interrupted(rows, changes, at, steps):
    """After any changes, with the rates."""
    done = Progress()
    for layout, count in changes:
        batches = of_step_sizes(rows, layout, done, epochs=3, steps=steps)[0]
        done = batches.progress(min(done.step + count, batches.planned_steps))
    layout = changes[-1][0] if changes else (4, 1, 1)
    first = of_step_sizes(rows, layout, done, epochs=3, steps=steps)
    whole = go_on(first, first[0].planned_steps)
    at = min(at, len(whole))
    again = of_step_sizes(rows, layout, first[0].progress(done.step + at), epochs=3, steps=steps)
    assert again[0].planned_steps == first[0].planned_steps
    assert go_on(again, again[0].planned_steps) == whole[at:]


def test_a_tenth_of_an_epoch_of_ten_steps_is_one_step_behind_steps_of_another_size():
    """1.1 - 1 is a little more than 0.1. Of 40 rows, 8 are shown in one step, 32 are left in 8, and 4 come again."""
    first = of_step_sizes(40, (8, 1, 1), Progress(), epochs=1.1)[0]
    assert of_step_sizes(40, (4, 1, 1), first.progress(1), epochs=1.1)[0].planned_steps == 1 + 8 + 1


def test_the_rate_runs_over_the_steps_done_and_those_left():
    """Of 24 rows 8 are shown in 2 steps of 4; 16 are left, 2 steps of 8: the third of four steps begins half way."""
    first = of_step_sizes(24, (4, 1, 1), Progress(), epochs=1)[0]
    second = of_step_sizes(24, (8, 1, 1), first.progress(2), epochs=1)
    rates = [[draw.rate for draw in draws] for _, draws in go_on(second, 4)]
    np.testing.assert_allclose(rates, 0.4 - 0.3 * (np.array([[2], [3]]) + np.arange(8) / 8) / 4)


def test_steps_of_another_size_are_known_although_an_epoch_has_as_many():
    """8 rows are 2 steps of 4, and 2 of 5: the rate goes on by steps, since those of the first epoch were smaller."""
    first = of_step_sizes(8, (4, 1, 1), Progress(), epochs=2)[0]
    second = of_step_sizes(8, (5, 1, 1), first.progress(2), epochs=2)
    rates = [[draw.rate for draw in draws] for _, draws in go_on(second, 4)]
    np.testing.assert_allclose(np.concatenate(rates), 0.4 - 0.3 * (2 + np.arange(8) / 5) / 4)
    assert not second[0].progress(4).constant


def test_an_epoch_that_steps_of_another_size_have_begun_is_begun():
    first = of_step_sizes(24, (4, 1, 1), Progress(), epochs=1)[0]
    assert not first.begins_within_epoch
    again = [of_step_sizes(24, (size, 1, 1), first.progress(2), epochs=1)[0] for size in (4, 8)]
    assert [batches.begins_within_epoch for batches in again] == [True, True]


def test_what_is_dropped_counts_neither_in_the_progress_nor_in_the_rates():
    """Of 11 rows, steps of 4 show 8 an epoch; the rate ends with the last row shown."""
    layout, rates = Layout(2, 2), RateSchedule.of("0.4:0.2")
    batches = epoch_batches(11, layout, rates, epochs=2, drop_last=True)
    assert [batches.progress(step).examples for step in range(5)] == [0, 4, 8, 4, 8]
    assert [batches.epochs_at(step) for step in range(5)] == [0, 0.5, 1, 1.5, 2]
    drawn = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn += [draw.rate for batch in batches for draw in batch if draw.rate]
    np.testing.assert_allclose(drawn, 0.4 - 0.2 * np.arange(16) / 16)


def test_rows_that_an_epoch_has_dropped_are_not_shown_by_smaller_steps():
    """Steps of 8 have dropped 5 of 61 rows, at the end of both epochs; for steps of 4, nothing is left of them."""
    first = epoch_batches(61, Layout(8), epochs=2, drop_last=True)
    assert first.planned_steps == 14
    for layout in (Layout(4), Layout(4, 2), Layout(2, 2, 2)):
        second = epoch_batches(61, layout, epochs=2, drop_last=True, done=first.progress(14))
        assert second.planned_steps == 14, layout
        halfway = epoch_batches(61, layout, epochs=2, drop_last=True, done=first.progress(7))
        assert halfway.first_epoch == 1 and halfway.steps_left(1) == (15 if layout.step_size == 4 else 7), layout


def test_an_epoch_behind_one_of_two_step_sizes_is_counted_by_its_own_rows():
    """With 3 of 10 rows shown, batches of 4 drop 3 of the other 7, and 2 of the next epoch."""
    first = epoch_batches(10, Layout(3), epochs=2, drop_last=True)
    second = epoch_batches(10, Layout(4), epochs=2, drop_last=True, done=first.progress(1))
    assert [second.epochs_at(step) for step in (1, 2, 3, 4)] == [3 / 7, 1, 1.5, 2]


def test_rows_of_like_length_share_a_step_of_the_new_size():
    first = of_step_sizes(60, (2, 1, 1), Progress(), epochs=1)[0]
    second = of_step_sizes(60, (5, 1, 1), first.progress(3), epochs=1)
    lengths = np.arange(60) * 7 % 11
    spans = [np.ptp(lengths[[draw.index for draw in draws]]) for _, draws in go_on(second, 12)]
    assert np.mean(spans) < 4 < np.ptp(lengths)


# Rates


def test_a_schedule_is_a_straight_line_over_training_that_ends_at_its_last_rate():
    rates = RateSchedule.of("0.30:0.15")
    np.testing.assert_allclose(rates.at(np.array([0, 0.5, 1])), [0.30, 0.225, 0.15])
    np.testing.assert_allclose(CONSTANT.at(np.arange(5.0)), [0.15] * 5)
    np.testing.assert_allclose(RateSchedule.of("0.1:0.4").at(np.arange(4) / 3), [0.1, 0.2, 0.3, 0.4])


def test_a_row_has_the_rate_of_its_place_in_training():
    """Over two epochs of ten rows: the second goes on where the first has ended."""
    batches = epoch_batches(10, Layout(3), RateSchedule.of("0.4:0.2"), epochs=2)
    drawn = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        drawn += [draw.rate for batch in batches for draw in batch]
    np.testing.assert_allclose(drawn, 0.4 - 0.01 * np.arange(20))


# Masks


class Lines(Sequences):
    """Rows that tell themselves apart by their tokens, with words of two tokens."""

    lengths, evaluated_apart = None, ()  # which `Sequences` computes

    def __init__(self, rows: int):
        rng = np.random.default_rng(0)
        self.rows = [
            np.concatenate([[10 + row], rng.integers(10, 60, rng.integers(6, 20))]) * 2 for row in range(rows)
        ]
        for row in self.rows:
            row[2::2] += 1

        self.lengths, self.length = np.array([len(row) + 2 for row in self.rows]), 30
        self.bounds = [0, rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, draw) -> Example:
        return Example([self.rows[draw.index]], *draw, self.length)

    def __getitems__(self, draws, first=0) -> list[Example]:
        return [self[draw] for draw in draws]


def collator(seed: int = 5, **options) -> MaskingCollator:
    vocabulary = Vocabulary(0, 3, np.arange(100) > 3, np.arange(60, 90), prefix=[1], suffix=[2])
    return MaskingCollator(vocabulary, Strategy.WHOLE_WORD, seed, **options)


def two_epochs(batches: Batches, workers: int, persistent: bool = False) -> list[list[dict[str, torch.Tensor]]]:
    """The batches of two epochs, by workers that live on where `persistent`."""
    loader = DataLoader(
        Lines(batches.stages[0].sequence_count),
        batch_sampler=batches,
        collate_fn=collator(),
        num_workers=workers,
        persistent_workers=persistent,
    )
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epochs.append(list(loader))
    return epochs


def masks_of_rows(epochs) -> list[dict[tuple, list[tuple]]]:
    """For each epoch, the masked tokens and labels of every row, by its text."""
    found = []
    for batches in epochs:
        masks: dict[tuple, list[tuple]] = {}
        for batch in batches:
            for ids, labels, filled in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
                ids, labels = ids[filled.bool()], labels[filled.bool()]
                text = torch.where(labels == -100, ids, labels)
                masks.setdefault(tuple(text.tolist()), []).append((*ids.tolist(), *labels.tolist()))
        found.append(masks)
    return found


ROWS = 23
SCHEDULE = RateSchedule.of("0.5:0.2")


@pytest.fixture(scope="module")
def without_workers() -> list[list[dict[str, torch.Tensor]]]:
    return two_epochs(epoch_batches(ROWS, Layout(4), SCHEDULE, epochs=2), workers=0)


def test_masks_are_new_at_every_epoch(without_workers):
    """Guards the tests below: masks that never changed would be the same for any number of workers."""
    first, second = masks_of_rows(without_workers)
    assert first.keys() == second.keys() and len(first) == ROWS
    assert sum(first[text] != second[text] for text in first) > ROWS * 0.8
    assert all(len(found) == 1 for found in first.values())


@pytest.mark.parametrize("workers, persistent", [(1, False), (2, True)])
def test_batches_do_not_depend_on_the_number_of_workers(without_workers, workers, persistent):
    """Persistent workers hold a copy of the dataset from before the first epoch, which no `set_epoch` reaches."""
    found = two_epochs(epoch_batches(ROWS, Layout(4), SCHEDULE, epochs=2), workers, persistent)
    for expected, batches in zip(without_workers, found, strict=True):
        assert len(batches) == len(expected) == 6
        for one, other in zip(expected, batches, strict=True):
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("batch_size", [1, 3, 16, 40])
def test_masks_do_not_depend_on_the_batch_size(without_workers, batch_size):
    found = two_epochs(epoch_batches(ROWS, Layout(batch_size), SCHEDULE, epochs=2), workers=0)
    assert masks_of_rows(found) == masks_of_rows(without_workers)


@pytest.mark.parametrize("fill", [True, False])
def test_masks_do_not_depend_on_the_number_of_processes(without_workers, fill):
    """Two processes together have the masks of one; a row that fills up has no label."""
    together: list[list] = [[], []]
    for process in (0, 1):
        layout = Layout(4, processes=2, process=process)
        for epoch, batches in enumerate(
            two_epochs(epoch_batches(ROWS, layout, SCHEDULE, epochs=2, fill=fill), workers=0)
        ):
            together[epoch] += batches
    expected, found = masks_of_rows(without_workers), masks_of_rows(together)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for text, masks in one.items():
            assert masks[0] in other[text]
            assert all(set(mask[len(text) :]) == {-100} for mask in other[text] if mask != masks[0])


def test_the_trainers_loader_gives_the_same_batches_with_persistent_workers(tmp_path):
    """Through accelerate and the Trainer's own `set_epoch`, with nothing set on the dataset."""
    tokenizer = character_tokenizer([chr(ord("一") + number) for number in range(60)])
    model = AutoModelForMaskedLM.from_pretrained(save_model(tmp_path / "model", tokenizer))
    found = []
    for workers in (0, 2):
        arguments = RunArguments(
            output_dir=str(tmp_path / "run"),
            use_cpu=True,
            report_to="none",
            per_device_train_batch_size=8,
            per_device_eval_batch_size=5,
            num_train_epochs=2,
            data_seed=9,
            dataloader_num_workers=workers,
            dataloader_persistent_workers=workers > 0,
        )
        rows, rates = Lines(ROWS), SCHEDULE
        trainer = MlmTrainer(
            model, arguments, StagedSequences([rows]), rows, tokenizer, collator(9), collator(9, word_ids=True), rates
        )
        loader, batches = trainer.get_train_dataloader(), []
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            batches += list(loader)
        found.append([*batches, *trainer.get_eval_dataloader(), *trainer.get_eval_dataloader()])
    evaluated = [draw for batch in trainer.get_eval_dataloader().batch_sampler for draw in batch]
    assert {draw.rate for draw in evaluated} == {0.2}, "the rate at which the schedule ends, whatever is usual"
    one, other = found
    assert len(one) == len(other) == 2 * 3 + 2 * 5
    for first, second in zip(one, other, strict=True):
        assert all(torch.equal(first[name], second[name]) for name in first)
    train, evaluation, again = one[:6], one[6:11], one[11:]
    assert masks_of_rows([train[:3]]) != masks_of_rows([train[3:]])
    assert masks_of_rows([evaluation]) == masks_of_rows([again])
    # At 0.5 to 0.35 in the first epoch, 0.35 to 0.2 in the second, 0.2 in evaluation.
    parts = (train[:3], train[3:], evaluation)
    labels = [sum(int((batch["labels"] != -100).sum()) for batch in part) for part in parts]
    assert labels[0] > labels[1] > labels[2] > 0


def trainer_of(rows: Lines, folder, rates: str, **options) -> MlmTrainer:
    """A trainer that trains and evaluates on these rows."""
    tokenizer = character_tokenizer([chr(ord("一") + number) for number in range(60)])
    model = AutoModelForMaskedLM.from_pretrained(save_model(folder / "model", tokenizer))
    arguments = RunArguments(output_dir=str(folder / "run"), use_cpu=True, report_to="none", **options)
    staged = StagedSequences([rows])
    return MlmTrainer(model, arguments, staged, rows, tokenizer, collator(9), collator(9, word_ids=True), rates)


def test_an_evaluation_of_several_corpora_shows_each_sequence_once_the_longest_of_a_corpus_first(tmp_path):
    """Each corpus has a stage of its own: without its place, the first corpus would be evaluated again and again."""
    rows = Lines(ROWS)
    rows.bounds, rows.evaluated_apart = [0, 9, ROWS], ["news", "wiki"]
    loader = trainer_of(rows, tmp_path, "0.2", per_device_eval_batch_size=5).get_eval_dataloader()
    batches = [[draw.index for draw in batch] for batch in loader.batch_sampler]
    by_length = [sorted(range(*span), key=lambda row: -rows.lengths[row]) for span in ((0, 9), (9, ROWS))]
    assert batches == [own[at : at + 5] for own in by_length for at in range(0, len(own), 5)]
    assert [*loader.batch_sampler.corpora()] == ["news"] * 2 + ["wiki"] * 3


def test_rates_that_are_drawn_follow_the_seed_of_the_run(tmp_path):
    """And not the seed with which the schedule was made: another seed is another sample."""
    trainer = trainer_of(Lines(ROWS), tmp_path, "0.1..0.9", data_seed=9)
    drawn = {draw.index: draw.rate for batch in trainer.batches(trainer.train_sequences) for draw in batch}
    expected = RateSchedule.of("0.1..0.9", 9).at(np.zeros(ROWS), 0, np.arange(ROWS))
    assert drawn == dict(enumerate(expected.tolist()))
