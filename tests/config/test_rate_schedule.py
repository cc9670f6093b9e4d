"""--mlm_probability: what each form says, and the rate of each sequence: its place and its key decide alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordmask.config.rate_schedule import RateSchedule
from wordmask.masking import Strategy, choose, hash64
from wordmask.utils.errors import InputError

UP_AND_DOWN, STEPS, DRAWN = "0.15:0.30:0.15", "0.30@0.7,0.15@0.3", "0.1..0.9"  # Chinese ModernBERT, mmBERT, diffusion


@settings(deadline=None)
@given(rate=st.floats(0.001, 0.999), places=st.lists(st.floats(0, 1), max_size=9))
def test_a_number_is_that_number_to_the_last_bit_everywhere(rate, places):
    schedule = RateSchedule.of(str(rate))
    assert schedule.at(np.array(places)).tolist() == [rate] * len(places)
    assert (schedule.final, schedule.highest, schedule.needs_length) == (rate, rate, False)


@pytest.mark.parametrize(
    "text, places, rates, final, highest",
    [
        ("0.30:0.15", [0, 0.5, 1], [0.30, 0.225, 0.15], 0.15, 0.30),
        (UP_AND_DOWN, [0, 0.25, 0.5, 0.75, 1], [0.15, 0.225, 0.30, 0.225, 0.15], 0.15, 0.30),
        ("0.1:0.4:0.2:0.5", [0, 1 / 6, 0.5, 5 / 6, 1], [0.1, 0.25, 0.3, 0.35, 0.5], 0.5, 0.5),
        (STEPS, [0, 0.699, 0.7, 0.701, 1], [0.30, 0.30, 0.15, 0.15, 0.15], 0.15, 0.30),
        ("0.3@0.1,0.2@0.2,0.1@0.7", [0.0999, 0.1, 0.2999, 0.3, 1], [0.3, 0.2, 0.2, 0.1, 0.1], 0.1, 0.3),
        ("0.4@0.5,0.4:0.2@0.5", [0, 0.49, 0.5, 0.75, 1], [0.4, 0.4, 0.4, 0.3, 0.2], 0.2, 0.4),
    ],
)
def test_lines_and_steps_are_where_they_are_said_to_be(text, places, rates, final, highest):
    schedule = RateSchedule.of(text)
    np.testing.assert_allclose(schedule.at(np.array(places, float)), rates, atol=1e-12)
    assert (schedule.final, schedule.highest) == (final, highest) and schedule.needs_length


def test_a_step_begins_at_its_sequence_and_not_one_later():
    """Of 1,000 sequences, 700 have the first rate, also where shares add up with rounding (0.1 + 0.2)."""
    places = np.arange(1000) / 1000
    assert np.count_nonzero(RateSchedule.of(STEPS).at(places) == 0.30) == 700
    rates = RateSchedule.of("0.5@0.1,0.4@0.2,0.3@0.7").at(places)
    assert [np.count_nonzero(rates == rate) for rate in (0.5, 0.4, 0.3)] == [100, 200, 700]


def test_drawn_rates_are_uniform_and_depend_on_seed_epoch_and_sequence_alone():
    schedule, indices = RateSchedule.of(DRAWN, seed=7), np.arange(20_000)
    rates = schedule.at(np.zeros(20_000), 3, indices)
    counts, _ = np.histogram(rates, bins=40, range=(0.1, 0.9))
    chi_square = ((counts - 500) ** 2 / 500).sum()
    assert counts.sum() == 20_000 and chi_square < 81, "0.9999 of chi-square with 39 degrees of freedom"
    order = np.random.default_rng(0).permutation(20_000)[:500]
    np.testing.assert_array_equal(schedule.at(np.linspace(0, 1, 500), 3, order), rates[order])
    np.testing.assert_array_equal(schedule.of_keys(hash64(7, 3, indices), np.zeros(20_000)), rates)
    for seed, epoch in ((7, 4), (8, 3)):
        other = RateSchedule.of(DRAWN, seed).at(np.zeros(20_000), epoch, indices)
        assert abs(np.corrcoef(rates, other)[0, 1]) < 0.04
    assert not schedule.needs_length and (schedule.final, schedule.highest) == (0.5, 0.9)


def test_a_drawn_rate_says_nothing_about_which_words_are_masked():
    """Each rate comes with every choice: tokens are masked as often as the rates of their sequences say."""
    keys = hash64(7, 0, np.arange(40_000))
    rates = RateSchedule.of("0.3..0.7", 7).of_keys(keys, np.zeros(40_000))
    whole = np.ones((40_000, 10), bool)
    masked = np.zeros(400_000, bool)
    masked[choose(whole, np.zeros_like(whole), rates, keys, Strategy.TOKEN)] = True
    shares = masked.reshape(40_000, 10).mean(0)
    assert np.abs(shares - rates.mean()).max() < 4 * np.sqrt(0.25 / 40_000)
    for low in (0.3, 0.4, 0.5, 0.6):
        inside = (rates >= low) & (rates < low + 0.1)
        assert abs(masked.reshape(40_000, 10)[inside].mean() - rates[inside].mean()) < 0.01


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["0.2", "0.5", "0.2:0.6", "0.6:0.1:0.3", "0.1..0.9"]), min_size=1, max_size=4),
    places=st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_parts_go_together_in_any_order(texts, places):
    schedule = RateSchedule.of(",".join(f"{text}@{1 / len(texts)}" for text in texts), seed=2)
    rates = schedule.at(np.array(places), 1, np.arange(len(places)))
    for number, (place, rate) in enumerate(zip(places, rates, strict=True)):
        part = min(int(place * len(texts) + 1e-9), len(texts) - 1)
        own = RateSchedule.of(texts[part], seed=2)
        inside = np.clip([place * len(texts) - part], 0, 1)
        assert abs(own.at(inside, 1, np.array([number]))[0] - rate) < 1e-5 or abs(place * len(texts) - part) < 1e-6
    assert rates.max() <= schedule.highest


@pytest.mark.parametrize(
    "text, said",
    [
        ("0.15", "15.0% of the tokens"),
        ("0.30:0.15", "30.0% to 15.0% of the tokens, in evaluations 15.0%"),
        (
            UP_AND_DOWN,
            "15.0% to 30.0% of the tokens for 50% of the training, then 30.0% to 15.0%, in evaluations 15.0%",
        ),
        (STEPS, "30.0% of the tokens for 70% of the training, then 15.0%, in evaluations 15.0%"),
        (DRAWN, "10.0% to 90.0% (drawn for each sequence) of the tokens, in evaluations 50.0%"),
    ],
)
def test_the_header_says_the_schedule_and_the_rate_of_evaluation(text, said):
    assert str(RateSchedule.of(text)) == said


@pytest.mark.parametrize(
    "text, reason",
    [
        *((text, "no masking rate") for text in ("0", "1", "15%", "nan", "", "0.1:1", "0.15::0.3", "..0.9", "0.1..")),
        *((text, "no masking rate") for text in ("0.3@0.7,,0.15@0.3", "0.3@", "@1", "0.1..0.5..0.9", "0.1:0.5..0.9")),
        *((text, "add up to") for text in ("0.3@0.7,0.15@0.2", "0.3@0.7,0.15@0.4", "0.3@0.7,0.15", "0.3,0.15")),
        *((text, "add up to") for text in ("0.3@0.5", "0.3@1.5,0.2@-0.5", "0.3@1,0.2@0", "0.3@nan,0.2@0.5")),
        *((text, "the lower rate first") for text in ("0.9..0.1", "0.5..0.5", "0.15@0.5,0.9..0.1@0.5")),
    ],
)
def test_what_leaves_a_part_of_the_training_without_a_rate_is_one_sentence(text, reason):
    with pytest.raises(InputError, match=reason) as refused:
        RateSchedule.of(text)
    assert str(refused.value).startswith("--mlm_probability:") and text in str(refused.value)
