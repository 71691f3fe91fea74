"""Losses of a record beside those of permuted ones: plain differences, and errors of another route."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.statistics.difference import sharpe_difference
from pipeline.statistics.group_losses import return_loss, sharpe_loss
from tft.metrics import sharpe


def series(seed: int, mean: float = 0.0) -> np.ndarray:
    return 0.01 * (mean + np.random.default_rng(seed).standard_normal(300))


def test_with_one_permutation_it_is_the_paired_difference_of_two_sharpes() -> None:
    a, b = series(0, 0.1), series(1)
    found, expected = sharpe_loss(a, [b], periods_per_year=252.0), sharpe_difference(a, b)
    assert found is not None
    assert found.value == pytest.approx(expected.difference * np.sqrt(252.0))
    assert found.standard_error == pytest.approx(expected.standard_error * np.sqrt(252.0))


def test_several_permutations_are_averaged_and_their_noise_averages_out() -> None:
    a, permuted = series(0, 0.1), [series(seed) for seed in range(1, 5)]
    found = sharpe_loss(a, permuted, periods_per_year=252.0)
    mean = sharpe(a, periods_per_year=252.0) - np.mean([sharpe(one, periods_per_year=252.0) for one in permuted])
    assert found is not None and found.value == pytest.approx(mean)
    single = sharpe_loss(a, permuted[:1], periods_per_year=252.0)
    assert single is not None and single.standard_error is not None and found.standard_error is not None
    # Variances of one and of a quarter of one, beside that of the record: sqrt(1.25 / 2).
    assert found.standard_error / single.standard_error == pytest.approx(np.sqrt(1.25 / 2.0), rel=0.1)
    lost = return_loss(a, permuted, periods_per_year=252.0)
    assert lost.value == pytest.approx(252.0 * (a.mean() - np.mean(permuted)))
    assert lost.standard_error is not None


def test_nothing_lost_is_exactly_nothing() -> None:
    a = series(0, 0.1)
    for found in (loss(a, [a, a, a], periods_per_year=252.0) for loss in (sharpe_loss, return_loss)):
        assert found is not None and (found.value, found.standard_error) == (0.0, None)


def test_there_is_no_loss_of_a_sharpe_that_has_no_error() -> None:
    assert sharpe_loss(series(0)[:62], [series(1)[:62]], periods_per_year=252.0) is None
    assert sharpe_loss(series(0), [np.zeros(300)], periods_per_year=252.0) is None
