"""The cross-sectional step against inverted matrices, and the correlation that it takes against a loop over pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tft.cross_section import LARGEST_CORRELATION, error_correlation, hedged

Array = NDArray[np.float64]


def equicorrelation(n: int, r: float) -> Array:
    return np.asarray((1.0 - r) * np.eye(n) + r)


def sample(seed: int, n_bars: int, n_assets: int, missing: float) -> tuple[Array, NDArray[np.bool_]]:
    """Raw positions, NaN where there is none, and where there is one."""
    rng = np.random.default_rng(seed)
    raw = rng.uniform(-1.0, 1.0, (n_bars, n_assets))
    raw[rng.random(raw.shape) < missing] = np.nan
    return raw, np.isfinite(raw)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_assets=st.integers(1, 9),
    r=st.floats(0.0, LARGEST_CORRELATION),
    missing=st.sampled_from([0.0, 0.4]),
)
def test_positions_are_proportional_to_the_inverse_matrix_at_the_level_of_a_raw_one(
    seed: int, n_assets: int, r: float, missing: float
) -> None:
    """Bar by bar over the instruments that are known: R^-1 z by numpy, its rows divided by the diagonal of R^-1."""
    raw, known = sample(seed, 6, n_assets, missing)
    found = hedged(raw, known, r)
    for bar in range(len(raw)):
        there = known[bar]
        inverse = np.linalg.inv(equicorrelation(int(there.sum()), r))
        expected = (inverse @ raw[bar, there]) / np.diag(inverse)
        np.testing.assert_allclose(found[bar, there], expected, rtol=0.0, atol=1e-11)
        assert np.isnan(found[bar, ~there]).all()


@pytest.mark.parametrize("r", [0.0, 0.3, 0.9])
def test_it_is_the_raw_position_less_its_regression_on_the_others(r: float) -> None:
    """The regression of one error on the others, by least squares from the covariance matrix."""
    raw, known = sample(1, 4, 5, 0.0)
    matrix = equicorrelation(5, r)
    slope = np.linalg.solve(matrix[1:, 1:], matrix[1:, 0])
    np.testing.assert_allclose(hedged(raw, known, r)[:, 0], raw[:, 0] - raw[:, 1:] @ slope, atol=1e-14)


@pytest.mark.parametrize("r", [0.0, 0.5, 0.8, LARGEST_CORRELATION])
def test_an_instrument_alone_at_a_bar_keeps_its_raw_position(r: float) -> None:
    """So does each where the others have no view; a bar without any has nothing to change."""
    alone = np.array([[0.4, np.nan, np.nan], [np.nan] * 3])
    np.testing.assert_array_equal(hedged(alone, np.isfinite(alone), r), alone)
    without_view = np.array([[0.4, 0.0, 0.0]])
    assert hedged(without_view, without_view < 1.0, r)[0, 0] == 0.4


def test_without_correlation_nothing_changes() -> None:
    raw, known = sample(2, 20, 4, 0.3)
    np.testing.assert_array_equal(hedged(raw, known, 0.0), raw)


def test_a_view_that_all_share_is_held_smaller_and_a_relative_one_is_not() -> None:
    """Two of correlation 0.8: the common view at 1 - 0.8, the relative one at 1 + 0.8."""
    both = np.array([[0.5, 0.5], [0.5, -0.5]])
    np.testing.assert_allclose(hedged(both, both < 1.0, 0.8), [[0.1, 0.1], [0.9, -0.9]], atol=1e-15)


def test_tensors_of_stacked_folds_give_what_arrays_give() -> None:
    """Each fold with its own correlation, whatever stands where nothing is known."""
    cases = [sample(seed, 12, 5, 0.3) for seed in range(3)]
    correlations = [0.0, 0.5, 0.9]
    raw = torch.from_numpy(np.stack([np.nan_to_num(raw, nan=7.0) for raw, _ in cases]))
    known = torch.from_numpy(np.stack([known for _, known in cases]))
    found = hedged(raw, known, torch.tensor(correlations, dtype=torch.float64)).numpy()
    for k, (own, there) in enumerate(cases):
        expected = hedged(own, there, correlations[k])
        np.testing.assert_allclose(found[k][there], expected[there], rtol=0.0, atol=1e-13)
        assert (found[k][~there] == 7.0).all()


def test_a_bar_alone_is_what_it_is_among_others_to_the_last_bit() -> None:
    """With more instruments than numpy adds in a row: a live decision is one bar, a backtest many."""
    raw, known = sample(5, 40, 19, 0.2)
    together = hedged(raw, known, 0.6)
    for bar in range(len(raw)):
        one = hedged(raw[bar : bar + 1], known[bar : bar + 1], 0.6)
        np.testing.assert_array_equal(one[0], together[bar])


# The correlation of the labels


def test_the_correlation_is_the_mean_product_over_pairs_by_the_mean_square() -> None:
    """Pairs of known labels of one bar, by a loop."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((50, 4)) + rng.standard_normal((50, 1))
    y[rng.random(y.shape) < 0.3] = np.nan
    products, squares = [], []
    for bar in y:
        for i in range(4):
            if np.isfinite(bar[i]):
                squares.append(bar[i] ** 2)
            others = [j for j in range(4) if j != i and np.isfinite(bar[j])]
            products += [bar[i] * bar[j] for j in others if np.isfinite(bar[i])]
    assert error_correlation(y) == pytest.approx(np.mean(products) / np.mean(squares), rel=1e-12)


@pytest.mark.parametrize("r", [0.0, 0.3, 0.8])
def test_a_planted_correlation_is_recovered(r: float) -> None:
    """Labels missing at random do not bias it."""
    rng = np.random.default_rng(1)
    y = np.sqrt(1.0 - r) * rng.standard_normal((20_000, 5)) + np.sqrt(r) * rng.standard_normal((20_000, 1))
    y[rng.random(y.shape) < 0.2] = np.nan
    assert error_correlation(y) == pytest.approx(r, abs=0.02)


def test_it_lies_within_its_bounds_and_is_0_where_nothing_can_be_said() -> None:
    common = np.random.default_rng(2).standard_normal((30, 1))
    assert error_correlation(np.repeat(common, 3, axis=1)) == LARGEST_CORRELATION
    assert error_correlation(np.concatenate([common, -common], axis=1)) == 0.0
    assert error_correlation(common) == 0.0
    assert error_correlation(np.full((5, 3), np.nan)) == 0.0
    assert error_correlation(np.zeros((5, 3))) == 0.0
