"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest

from wordmask.utils.quantities import (
    changed,
    counted,
    duration,
    first_of_many,
    loss,
    number,
    percent,
    share,
    short,
    size,
)


@pytest.mark.parametrize(
    "value, shown",
    [
        (6.16284, "6.163"),
        (528.31, "528.3"),
        (12300.4, "12,300"),
        (0.00237123, "0.002371"),
        (9.99996, "10.00"),
        (5e-5, "5e-05"),
        (0.0, "0"),
        (2.5e12, "2.5e+12"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_has_four_significant_digits(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    "value, shown",
    [
        (10.3418, "10.342"),
        (9.9996, "10.000"),
        (6.16284, "6.163"),
        (0.00237123, "0.002371"),
        (0.0, "0"),
        (2e9, "2e+09"),
    ],
)
def test_a_loss_has_three_decimals_also_from_ten_on(value, shown):
    assert loss(value) == shown


@pytest.mark.parametrize(
    "new, old, difference",
    [
        ("9.972", "9.973", "-0.001"),
        ("9.972", "9.972", "same"),
        ("10.318", "10.342", "-0.024"),
        ("993.6", "31,850", "-30,856"),
        ("30,970", "31,030", "-60"),
        ("1,000", "999.9", "+0.1"),
        ("9.5%", "10.0%", "-0.5"),
        ("1.234e+12", "1.2e+09", "+1.233e+12"),
        ("5e-06", "0", "+5e-06"),
        ("inf", "3.200", "was 3.200"),
        ("3.200", "nan", "was nan"),
    ],
)
def test_a_change_is_that_of_the_figures_that_are_shown(new, old, difference):
    assert changed(new, old) == difference


@pytest.mark.parametrize(
    "seconds, shown",
    [
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.8, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (86_399, "1 d 00 h"),
        (math.nan, "?"),
    ],
)
def test_a_time_never_has_sixty_seconds_or_minutes(seconds, shown):
    assert duration(seconds) == shown


def test_units_change_where_the_number_would_need_a_fourth_digit():
    assert [short(value) for value in (0, 999, 999.6, 12_345, 99_960, 4_210_000)] == [
        "0",
        "999",
        "1.00 k",
        "12.3 k",
        "100 k",
        "4.21 M",
    ]
    assert [size(value) for value in (512, 999.6, 4.2e9, 123e6)] == ["512 B", "1.0 kB", "4.2 GB", "123 MB"]


def test_a_part_that_is_not_all_is_never_shown_as_all():
    shown = {(1, 3): "33%", (238_342, 239_200): ">99%", (3, 3): "100%", (41, 10_000): "0.41%", (1, 10**6): "0.0001%"}
    assert {pair: share(*pair) for pair in shown} == shown


def test_counts_and_shares_have_their_noun_and_sign():
    assert counted(1, "sequence") == "1 sequence" and counted(12_300, "token") == "12,300 tokens"
    assert counted(2, "process", "processes") == "2 processes"
    assert percent(0.2204) == "22.0%"


def test_of_many_names_the_first_ones_are_given():
    shown = [first_of_many([*"abcd"][:count], 2) for count in range(5)]
    assert shown == ["", "a", "a, b", "a, b and 1 other", "a, b and 2 others"]
