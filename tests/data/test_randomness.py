"""Generators of items: repeatable, different for different items, and uniform."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from fairseq_signals_ext.data.randomness import LEAD_MASKS, PAIR_START, item_draws, item_generator

number = st.integers(0, 2**31)


@given(seed=number, epoch=number, index=number)
def test_repeats_and_differs(seed, epoch, index):
    draw = item_generator(seed, epoch, index).random(4)
    assert np.array_equal(draw, item_generator(seed, epoch, index).random(4))
    for other in ((seed + 1, epoch, index), (seed, epoch + 1, index), (seed, epoch, index + 1), (epoch, seed, index)):
        if other != (seed, epoch, index):
            assert not np.array_equal(draw, item_generator(*other).random(4))


def test_first_draws_of_neighbouring_items_are_uniform_and_unrelated():
    draws = np.array([item_generator(1, 1, index).random(3) for index in range(20_000)])
    for column in draws.T:
        assert kstest(column, "uniform").pvalue > 1e-4
    cells, _ = np.histogramdd(np.column_stack([draws[:-1, 0], draws[1:, 0]]), bins=16, range=[(0, 1)] * 2)
    assert chisquare(cells.ravel()).pvalue > 1e-4


@given(seed=number, epoch=number, indices=st.lists(number, min_size=1, max_size=5))
def test_draws_of_an_item_do_not_depend_on_the_others(seed, epoch, indices):
    together = item_draws(seed, epoch, indices, 13, LEAD_MASKS)
    assert together.shape == (len(indices), 13) and (together >= 0).all() and (together < 1).all()
    for row, index in zip(together, indices):
        assert np.array_equal(row, item_draws(seed, epoch, [index], 13, LEAD_MASKS)[0])


def test_draws_are_uniform_and_unrelated():
    draws = item_draws(3, 2, range(20_000), 13, LEAD_MASKS)
    for column in draws.T:
        assert kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(np.column_stack([draws[:-1], draws[1:]]), rowvar=False)
    assert np.abs(correlation - np.eye(26)).max() < 0.035  # five standard deviations


def test_purposes_are_unrelated():
    masks = item_draws(1, 1, range(20_000), 1, LEAD_MASKS)[:, 0]
    starts = item_draws(1, 1, range(20_000), 1, PAIR_START)[:, 0]
    assert abs(np.corrcoef(masks, starts)[0, 1]) < 0.035
