"""What is masked, and with what it is replaced: properties of every mask, and rates against stated thresholds.

Rates are tested with chi-square at the level 0.001 on fixed seeds, so that a test either always passes or always
fails. What is chosen is spread evenly within a row, which makes the statistic of a right rate smaller than chance
would have it.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import slow_after
from wordmask.masking import NGRAM_LENGTHS, RATE, Mix, Strategy, choose, drawn, hash64, replace, uniform, word_starts
from wordmask.utils.jit import compiled

MASK, PAD, SPECIAL = 3, 0, 2  # ids; text begins at 10
MIX = Mix({Strategy.WHOLE_WORD: 0.5, Strategy.TOKEN: 0.2, Strategy.SPAN: 0.3})
EVERY = pytest.mark.parametrize("strategy", [*Strategy, MIX], ids=[*Strategy, "mix"])
RUNS = pytest.mark.parametrize("strategy", [Strategy.NGRAM, Strategy.SPAN], ids=lambda strategy: strategy.value)


def chi_square_limit(freedom: int, z: float = 3.09) -> float:
    """What a chi-square exceeds with probability 0.001 (z = 3.09), by Wilson and Hilferty."""
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3


def chi_square(observed, shares) -> float:
    """Pearson's statistic of counts against the shares that they should have."""
    observed, shares = np.asarray(observed, float), np.asarray(shares, float)
    expected = observed.sum() * shares / shares.sum()
    return float(((observed - expected) ** 2 / expected).sum())


def arrays(rows: list[list[int]], width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """`maskable` and `continues` of rows of word lengths, where 0 is a special token; padded to the same width."""
    width = max(width, *(sum(max(word, 1) for word in row) for row in rows))
    maskable, continues = np.zeros((2, len(rows), width), bool)
    for number, row in enumerate(rows):
        for start, word in spans(row):
            maskable[number, start : start + word] = True
            continues[number, start + 1 : start + word] = True
    return maskable, continues


def spans(row: list[int]) -> list[tuple[int, int]]:
    """The start and the length of each word of a row."""
    places, at = [], 0
    for word in row:
        if word:
            places.append((at, word))
        at += max(word, 1)
    return places


def repeated(row: list[int], rows: int, shuffle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Many rows with the same words, in the same order or each in its own."""
    length, rng = sum(row), np.random.default_rng(5)
    continues = np.ones((rows, length), bool)
    for number in range(rows if shuffle else 1):
        order = rng.permutation(row) if shuffle else np.array(row)
        continues[number if shuffle else slice(None), np.cumsum(order) - order] = False
    return np.ones((rows, length), bool), continues


def chosen_mask(maskable, continues, rates, keys, strategy) -> np.ndarray:
    """`choose`, as an array of the batch's shape; no position may come twice."""
    chosen = choose(maskable, continues, np.broadcast_to(np.float64(rates), len(maskable)), keys, strategy)
    mask = np.zeros(maskable.shape, bool)
    mask.flat[chosen] = True
    assert mask.sum() == len(chosen), "a position was chosen twice"
    return mask


def keys_of(rows: int, epoch: int = 0) -> np.ndarray:
    return hash64(7, epoch, np.arange(rows))


def long_words(longest: int):
    return st.lists(st.lists(st.integers(0, longest), min_size=1, max_size=30), min_size=1, max_size=5)


RATES = st.one_of(st.floats(0.001, 1.0), st.sampled_from([0.05, 0.15, 0.3, 0.4, 1.0]))
SEEDS = st.integers(0, 2**32 - 1)


# Properties


@settings(max_examples=150, deadline=None)
@given(rows=long_words(25), rate=RATES, seed=SEEDS)
def test_no_word_of_up_to_ten_tokens_is_half_masked(rows, rate, seed):
    maskable, continues = arrays(rows)
    for strategy in (Strategy.WHOLE_WORD, Strategy.NGRAM, Strategy.SPAN):
        mask = chosen_mask(maskable, continues, rate, hash64(seed, 0, np.arange(len(rows))), strategy)
        for row, row_mask in zip(rows, mask, strict=True):
            for start, length in spans(row):
                for part in range(start, start + length, 10):
                    share = row_mask[part : min(part + 10, start + length)]
                    assert share.all() or not share.any(), (strategy, row, row_mask.nonzero())


@settings(max_examples=150, deadline=None)
@given(rows=long_words(30), rates=st.lists(RATES, min_size=5, max_size=5), seed=SEEDS)
def test_no_row_passes_its_budget_and_none_with_text_goes_unmasked(rows, rates, seed):
    maskable, continues = arrays(rows)
    rates = np.array(rates[: len(rows)])
    for strategy in (*Strategy, MIX):
        mask = chosen_mask(maskable, continues, rates, hash64(seed, 0, np.arange(len(rows))), strategy)
        assert not (mask & ~maskable).any(), "a special token or padding was chosen"
        for row_mask, row_maskable, rate in zip(mask, maskable, rates, strict=True):
            budget = math.ceil(Fraction(float(rate)) * int(row_maskable.sum()))
            assert min(1, row_maskable.sum()) <= row_mask.sum() <= budget + 9 * bool(budget)


@EVERY
def test_short_rows_do_not_outgrow_their_budget(strategy):
    """Where the budget is a few tokens, a run must not be one of ten."""
    maskable, continues = repeated([1] * 20, 2000)
    labels = chosen_mask(maskable, continues, 0.15, keys_of(2000), strategy).sum(1)
    assert labels.max() <= 2 * 3, "a run longer than the whole budget of 3 tokens was taken"


@EVERY
def test_a_rate_of_zero_masks_nothing_and_of_one_everything(strategy):
    maskable, continues = arrays([[0, 3, 1, 14, 0, 2, 0], [0, 3, 1, 14, 0, 2, 0], [0, 0]])
    mask = chosen_mask(maskable, continues, [0.0, 1.0, 1.0], keys_of(3), strategy)
    np.testing.assert_array_equal(mask, maskable & np.array([[False], [True], [True]]))


@EVERY
def test_a_batch_without_anything_to_mask_chooses_nothing(strategy):
    assert len(choose(*arrays([[0, 0], [0]]), np.full(2, 0.15), keys_of(2), strategy)) == 0


@settings(max_examples=100, deadline=None)
@given(rows=long_words(15), padding=st.integers(0, 40), rate=RATES, seed=SEEDS, data=st.data())
def test_a_mask_does_not_depend_on_the_other_rows_nor_on_padding(rows, padding, rate, seed, data):
    order = data.draw(st.permutations(range(len(rows))))
    ids = np.array(order)
    rates = np.linspace(rate, rate / 2, len(rows))
    for strategy in (*Strategy, MIX):
        together = chosen_mask(*arrays([rows[i] for i in order]), rates[ids], hash64(seed, 0, ids), strategy)
        for place, row in enumerate(order):
            maskable, continues = arrays([rows[row]], width=together.shape[1] + padding)
            alone = chosen_mask(maskable, continues, rates[[row]], hash64(seed, 0, np.array([row])), strategy)
            np.testing.assert_array_equal(alone[0, : together.shape[1]], together[place])


@settings(max_examples=100, deadline=None)
@given(rows=long_words(15), rate=RATES, seed=SEEDS)
def test_labels_say_exactly_what_was_chosen_and_inputs_stay_as_they_were(rows, rate, seed):
    maskable, continues = arrays(rows)
    ids = np.where(maskable, 10 + np.arange(maskable.size).reshape(maskable.shape), SPECIAL)
    keys, rates = hash64(seed, 0, np.arange(len(rows))), np.full(len(rows), rate)
    inputs = (maskable, continues, ids, keys, rates)
    before = [array.copy() for array in inputs]
    for strategy in (*Strategy, MIX):
        chosen = choose(maskable, continues, rates, keys, strategy)
        masked, labels = replace(ids, chosen, keys, MASK, np.array([5, 6]), (0.5, 0.25))
        mask = np.zeros(ids.shape, bool)
        mask.flat[chosen] = True
        np.testing.assert_array_equal(labels, np.where(mask, ids, -100))
        np.testing.assert_array_equal(masked[~mask], ids[~mask])
        assert np.isin(masked[mask], [MASK, 5, 6]).sum() + (masked == ids)[mask].sum() == mask.sum()
        for array, copy in zip(inputs, before, strict=True):
            np.testing.assert_array_equal(array, copy)


@EVERY
@pytest.mark.parametrize("rows, tokens", [(2, 100_000), (3000, 6)])
def test_the_largest_batches_are_masked_as_any_other(strategy, rows, tokens):
    maskable, continues = repeated([1, 2, 3] * (tokens // 6) + [1] * (tokens % 6), rows)
    keys = keys_of(rows)
    for place in (0, rows - 1):
        mask = chosen_mask(maskable, continues, 0.3, keys, strategy)[place]
        alone = chosen_mask(maskable[[place]], continues[[place]], 0.3, keys[[place]], strategy)[0]
        np.testing.assert_array_equal(mask, alone)
    assert chosen_mask(maskable, continues, 1.0, keys, strategy).all()


def test_arrays_of_any_memory_order_give_the_same_mask():
    """A transposed array is no copy in numpy, and what is written to a flattened one may be lost."""
    maskable, continues = arrays([[1, 2, 3, 4, 0, 5], [2] * 8])
    ids, keys = 10 + np.arange(maskable.size).reshape(maskable.shape), keys_of(2)
    results = []
    for order in "CF":
        inputs = [np.array(array, order=order) for array in (maskable, continues, ids)]
        chosen = choose(inputs[0], inputs[1], np.full(2, 0.5), keys, Strategy.WHOLE_WORD)
        results.append(replace(inputs[2], chosen, keys, MASK, np.array([5])))
    (masked, labels), others = results
    assert (labels != -100).any()
    np.testing.assert_array_equal(others, (masked, labels))


def test_word_starts_begin_a_word_at_the_row_and_behind_special_tokens():
    """A block that begins in the middle of a word, and a special token inside one: what follows begins anew."""
    maskable = np.array([[1, 1, 0, 1, 1, 1, 0]], bool)
    continues = np.array([[1, 1, 0, 1, 1, 0, 0]], bool)
    np.testing.assert_array_equal(word_starts(maskable, continues), np.array([[1, 0, 0, 1, 0, 1, 0]], bool))


def test_word_starts_do_not_reach_over_the_edge_of_a_row():
    continues = np.array([[0, 1], [1, 1]], bool)
    np.testing.assert_array_equal(word_starts(np.ones((2, 2), bool), continues), np.array([[1, 0], [1, 0]], bool))


def test_words_of_more_than_ten_tokens_are_masked_in_parts_of_ten():
    """23 tokens are 10, 10 and 3; each part is drawn by itself, so that a row keeps its budget."""
    mask = chosen_mask(*repeated([23], 3000), 0.15, keys_of(3000), Strategy.WHOLE_WORD)
    for part in (slice(0, 10), slice(10, 20), slice(20, 23)):
        assert (mask[:, part].all(1) | ~mask[:, part].any(1)).all()
    taken = mask[:, [0, 10, 20]]
    assert (taken.sum(1) == 1).all(), "0.15 of 23 tokens is one part"
    assert chi_square(taken.sum(0), np.ones(3)) < chi_square_limit(2)


# Chances


WORDS = {
    20: [1, 2, 3, 4] * 2,
    40: [1, 2, 3, 4] * 4,
    128: [1, 2, 3, 4] * 12 + [4, 4],
    512: [1, 2, 3, 4] * 51 + [2],
}  # the words of a row, by its number of tokens; each row has them in its own order


@EVERY
@pytest.mark.parametrize("tokens", slow_after(2, [20, 128, 40, 512]))
def test_the_expected_share_is_the_rate_at_every_length(strategy, tokens):
    """Within 4 standard errors, and 0.1 percentage points for rows that hold less than one run (BERT: 2 points)."""
    rows = 200_000 // tokens
    maskable, continues = repeated(WORDS[tokens], rows, shuffle=True)
    assert maskable.shape[1] == tokens
    share = chosen_mask(maskable, continues, 0.15, keys_of(rows), strategy).mean(1)
    error = share.std() / math.sqrt(rows)
    assert error < 0.0015, "too few rows to tell"
    assert abs(share.mean() - 0.15) < 4 * error + 0.001


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("tokens", [20, 40])
def test_every_word_has_the_same_chance_whatever_its_length(strategy, tokens):
    """BERT's rule gives words of 1, 2, 3, 4 tokens 35, 19, 13 and 0 % on lines of 20 tokens."""
    rows = 12_000
    maskable, continues = repeated(WORDS[tokens], rows, shuffle=True)
    mask = chosen_mask(maskable, continues, 0.15, keys_of(rows), strategy)
    starts = np.flatnonzero(~continues)
    lengths = np.diff([*starts, maskable.size])
    if strategy is Strategy.TOKEN:  # tokens of long words have the chance of any other token
        counts, sizes = np.zeros(4), np.array([1, 2, 3, 4]) * (rows * tokens // 10)
        np.add.at(counts, np.repeat(lengths - 1, lengths), mask.ravel())
    else:
        counts, sizes = np.bincount(lengths[mask.ravel()[starts]] - 1), np.bincount(lengths - 1)
        assert mask.sum() == (np.arange(1, 5) * counts).sum()
    # Of 12,000 rows some 14,000 words are taken: a chance that is off by a tenth for one length would show.
    assert chi_square([*counts, (sizes - counts).sum()], [*(sizes * 0.15), sizes.sum() * 0.85]) < chi_square_limit(4)


@EVERY
@pytest.mark.parametrize("tokens", [20, 64])
def test_every_position_has_the_same_chance(strategy, tokens):
    rows = 12_000
    mask = chosen_mask(*repeated([1] * tokens, rows), 0.15, keys_of(rows), strategy)
    assert chi_square(mask.sum(0), np.ones(tokens)) < chi_square_limit(tokens - 1)


@EVERY
def test_rows_too_short_for_their_rate_mask_one_unit_each_as_likely(strategy):
    rows = 6000
    mask = chosen_mask(*repeated([1, 1, 1], rows), 0.15, keys_of(rows), strategy)
    assert (mask.sum(1) == 1).all()
    assert chi_square(mask.sum(0), np.ones(3)) < chi_square_limit(2)


@EVERY
def test_epochs_and_neighbouring_rows_are_independent(strategy):
    """A token masked in one epoch, or in the row before, is as likely as any other in the next."""
    rows = 4000
    maskable, continues = repeated([1] * 40, rows)
    first, second = (chosen_mask(maskable, continues, 0.15, keys_of(rows, epoch), strategy) for epoch in (0, 1))
    for one, other in ((first, second), (first[:-1], first[1:])):
        both, single, none = (one & other).sum(), (one ^ other).sum(), (~one & ~other).sum()
        assert chi_square([both, single, none], [0.15**2, 2 * 0.15 * 0.85, 0.85**2]) < chi_square_limit(2)


def maximal_runs(mask: np.ndarray) -> np.ndarray:
    """The lengths of the runs of chosen tokens that touch neither end of their row."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, begins = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    inside = (begins > 0) & (ends < mask.shape[1])
    assert len(rows) == len(ends)
    return (ends - begins)[inside]


def touching(lengths: np.ndarray, rate: float, longest: int) -> np.ndarray:
    """The distribution of maximal runs, where the run behind a chosen one is chosen too with probability `rate`."""
    single = np.concatenate([[0.0], lengths])
    total, several = np.zeros(longest + 1), np.array([1.0])
    for count in range(6):
        several = np.convolve(several, single)[: longest + 1]
        total[: len(several)] += (1 - rate) * rate**count * several
    return total[1:]


@RUNS
@pytest.mark.parametrize("word", [1, 2])
@pytest.mark.parametrize("longest", slow_after(1, [6, 3, 10]))
def test_run_lengths_have_the_distribution_of_the_paper_as_far_as_they_fit(strategy, word, longest):
    """40, 30, 20, 10 % for n-grams; geometric with p = 0.2, cut at 10, for spans; and no run above the row's budget.

    On long rows of words of one or two tokens, at a rate so low that few runs touch; those that do are reckoned with.
    """
    tokens = 2000
    rate = 0.02 if longest == 10 else (longest + 0.5) / tokens
    rows = 1200 if longest == 10 else 4000
    papers = {
        Strategy.NGRAM: np.array([0.4, 0.3, 0.2, 0.1]),
        Strategy.SPAN: 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10),
    }
    np.testing.assert_allclose(NGRAM_LENGTHS[strategy], papers[strategy])
    mask = chosen_mask(*repeated([word] * (tokens // word), rows), rate, keys_of(rows), strategy)
    assert not (maximal_runs(mask) % word).any()
    lengths = maximal_runs(mask) // word
    assert len(lengths) > 5000
    cells = min(len(papers[strategy]), longest // word)
    shares = np.array([*papers[strategy][: cells - 1], papers[strategy][cells - 1 :].sum()])
    expected = touching(shares, rate, 60)
    observed = np.bincount(lengths, minlength=61)[1:]
    # Touching runs longer than any single one are one cell.
    observed = [*observed[:cells], observed[cells:].sum()]
    expected = [*expected[:cells], 1 - expected[:cells].sum()]
    assert chi_square(observed, expected) < chi_square_limit(cells)


@RUNS
def test_runs_are_of_words_and_at_most_ten_tokens(strategy):
    """On two-token words: runs hold whole words, and at most five of them unless they touch."""
    mask = chosen_mask(*repeated([2] * 1000, 400), 0.01, keys_of(400), strategy)
    lengths = Counter(maximal_runs(mask).tolist())
    assert not any(length % 2 for length in lengths)
    # A touching pair is one in a hundred runs, and not all of those pass ten tokens.
    assert sum(count for length, count in lengths.items() if length > 10) < 0.01 * lengths.total()
    assert lengths[2] and lengths[4] and lengths[6] and lengths[8]


@RUNS
def test_runs_stop_at_special_tokens(strategy):
    """Words on either side of a special token are not one run: each side is taken by itself at times."""
    rows = 3000
    mask = chosen_mask(*arrays([[1] * 10 + [0] + [1] * 10] * rows), 0.3, keys_of(rows), strategy)
    assert not mask[:, 10].any()
    left, right = mask[:, 9], mask[:, 11]
    joint = [(left & right).sum(), (left ^ right).sum(), (~left & ~right).sum()]
    assert joint[1] > joint[0], "the two sides are always taken together"


# Replacement


def replaced(mask_replace_prob: float, random_replace_prob: float, random_ids: np.ndarray, rows: int = 2000):
    """What became of the chosen tokens of many rows: their new ids, and their old ones."""
    maskable, continues = repeated([1, 2, 3, 4] * 12 + [4, 4], rows)
    ids = np.full(maskable.shape, 10_000) + np.arange(maskable.shape[1])
    chosen = choose(maskable, continues, np.full(rows, 0.5), keys_of(rows), Strategy.WHOLE_WORD)
    shares = mask_replace_prob, random_replace_prob
    masked, labels = replace(ids, chosen, keys_of(rows), MASK, random_ids, shares)
    return masked.ravel()[chosen], labels.ravel()[chosen]


@pytest.mark.parametrize("mask_replace_prob, random_replace_prob", [(0.8, 0.1), (0.5, 0.5), (0.2, 0.3)])
def test_replacement_has_the_stated_shares(mask_replace_prob, random_replace_prob):
    random_ids = np.arange(100, 150)
    new, old = replaced(mask_replace_prob, random_replace_prob, random_ids)
    counts = [(new == MASK).sum(), np.isin(new, random_ids).sum(), (new == old).sum()]
    assert sum(counts) == len(new) > 100_000
    shares = [mask_replace_prob, random_replace_prob, 1 - mask_replace_prob - random_replace_prob]
    if shares[2] < 1e-9:
        assert counts.pop() == 0
    assert chi_square(counts, shares[: len(counts)]) < chi_square_limit(len(counts) - 1)


def test_random_tokens_are_drawn_evenly_from_those_allowed_and_from_no_other():
    random_ids = np.array([100, 101, 105, 250, 999])  # with gaps, where special tokens lie
    new, _ = replaced(0.0, 1.0, random_ids)
    assert set(new.tolist()) == set(random_ids.tolist())
    assert chi_square(np.unique(new, return_counts=True)[1], np.ones(5)) < chi_square_limit(4)


def test_random_tokens_are_even_also_where_they_are_few():
    """One number says what becomes of a token and which token: what it says first may not decide the second."""
    random_ids = np.arange(100, 140)
    new, _ = replaced(0.8, 0.1, random_ids)
    drawn = new[np.isin(new, random_ids)]
    assert len(drawn) > 10_000
    assert chi_square(np.bincount(drawn - 100, minlength=40), np.ones(40)) < chi_square_limit(39)


def test_what_stands_in_place_does_not_depend_on_what_was_chosen():
    """With the numbers that chose a token, the first position would always be masked and the last one never."""
    rows, tokens = 30_000, 20
    maskable, continues = repeated([1] * tokens, rows)
    ids = np.full(maskable.shape, 10)
    chosen = choose(maskable, continues, np.full(rows, 0.15), keys_of(rows), Strategy.WHOLE_WORD)
    masked, labels = replace(ids, chosen, keys_of(rows), MASK, np.array([5]), (0.5, 0.5))
    counts = [((masked == token) & (labels != -100)).sum(0) for token in (MASK, 5)]
    assert chi_square(np.concatenate(counts), np.ones(2 * tokens)) < chi_square_limit(2 * tokens - 1)


def test_replacement_is_independent_of_the_place_in_the_word():
    """The tokens of a word are drawn one by one: a word is not replaced as one."""
    new, _ = replaced(0.5, 0.5, np.array([7]))
    mask = new == MASK
    pairs = np.bincount(mask[:-1] * 2 + mask[1:], minlength=4)
    assert chi_square(pairs, np.ones(4)) < chi_square_limit(3)


@pytest.mark.parametrize("probs, kept", [((1.0, 0.0), MASK), ((0.0, 0.0), None)], ids=["all masked", "all kept"])
def test_replacement_at_its_limits_is_exact(probs, kept):
    new, old = replaced(*probs, np.array([7]), rows=50)
    np.testing.assert_array_equal(new, old if kept is None else np.full_like(old, kept))


# Compiled loops


def test_loops_are_compiled_where_the_result_cannot_be_kept(caplog):
    """Code without a file stands for a package and a home that cannot be written: numba knows no place then."""
    scope: dict = {}
    exec("def double(number): return 2 * number", scope)
    with caplog.at_level("WARNING"):
        assert compiled(scope["double"])(21) == 42
        compiled(scope["double"])
    assert caplog.text.count("NUMBA_CACHE_DIR") == 1


def test_an_index_out_of_bounds_is_an_error_and_reads_no_other_memory():
    ids, keys = np.full((1, 4), 10), keys_of(1)
    with pytest.raises(IndexError):
        replace(ids, np.array([4]), keys, MASK, np.array([5]))


# Random numbers


def test_hashes_of_neighbouring_parts_are_all_different_and_even():
    """Seed, epoch and index lie close together: a hash that mixed them badly would repeat masks."""
    keys = hash64(np.arange(8)[:, None, None], np.arange(8)[:, None], np.arange(2000))
    assert len(np.unique(keys)) == keys.size
    counts = np.bincount((uniform(keys.ravel()) * 64).astype(int), minlength=64)
    assert chi_square(counts, np.ones(64)) < chi_square_limit(63)


def test_hashes_take_every_seed_that_a_flag_can_give():
    seeds = [0, 1, -1, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
    hashes = np.concatenate([hash64(seed, 0, 1) for seed in seeds])
    assert len(np.unique(hashes)) == len(np.unique(np.array([seed % 2**64 for seed in seeds], np.uint64)))
    drawn = uniform(hashes)
    assert ((drawn >= 0) & (drawn < 1)).all()


# A mix of strategies


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.25, 0.25, 0.25, 0.25), (0.01, 0.09, 0.9)], ids=str)
def test_each_strategy_of_a_mix_has_its_share_of_the_sequences(shares):
    mix = Mix(dict(zip(Strategy, shares, strict=False)))
    for seed in range(3):
        counts = np.bincount(mix.drawn(hash64(seed, 4, np.arange(20_000))), minlength=len(shares))
        assert chi_square(counts, np.array(shares)) < chi_square_limit(len(shares) - 1)


def test_a_sequence_of_a_mix_has_the_mask_of_the_strategy_that_it_draws():
    """To the bit, and it draws by its own key: in any batch the same, in another epoch another."""
    maskable, continues = repeated([1, 2, 3, 4] * 8, 300)
    keys = keys_of(300)
    mask, drawn = chosen_mask(maskable, continues, 0.2, keys, MIX), MIX.drawn(keys)
    for number, strategy in enumerate(MIX.shares):
        own = drawn == number
        assert own.sum() > 30
        np.testing.assert_array_equal(mask[own], chosen_mask(maskable, continues, 0.2, keys, strategy)[own])
    np.testing.assert_array_equal(MIX.drawn(keys[::-7]), drawn[::-7])
    again = MIX.drawn(hash64(0, 99, np.arange(300)))
    assert 0.25 < (again == drawn).mean() < 0.55, "as often as two draws agree by chance: 0.38"


def test_the_strategy_that_is_drawn_says_nothing_about_the_rate_that_is_drawn():
    """From the same number, all sequences of the first strategy would have the low rates of `0.1..0.9`."""
    keys = keys_of(6000)
    strategies, rates = MIX.drawn(keys), drawn(keys, RATE)
    counts = [np.bincount((rates[strategies == number] * 5).astype(int), minlength=5) for number in range(3)]
    assert chi_square(np.concatenate(counts), np.repeat([0.5, 0.2, 0.3], 5)) < chi_square_limit(14)


def test_what_is_drawn_says_nothing_about_what_is_masked():
    """Each token of a sequence is masked as often, whatever strategy the sequence draws."""
    maskable, continues = repeated([1] * 20, 30_000)
    keys = keys_of(30_000)
    mask, drawn = chosen_mask(maskable, continues, 0.15, keys, MIX), MIX.drawn(keys)
    for number in range(3):
        assert mask[drawn == number].mean() == pytest.approx(0.15, abs=0.004)
