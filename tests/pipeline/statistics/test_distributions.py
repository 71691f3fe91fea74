"""Scores of a forecast distribution, against numerical integration, scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, stats

from pipeline.statistics.distributions import centre, crps, log_score, pit, unconditional
from tft.head import QUANTILE_LEVELS

Array = NDArray[np.float64]

QUANTILES = np.array([[-2.0, -1.0, -0.5, 0.25, 1.0, 2.0, 4.0]])


@pytest.mark.parametrize("mu", [-0.7, 0.0, 0.4])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("y", [-3.0, 0.0, 0.11, 5.0])
def test_the_crps_of_a_gaussian_is_the_integral_of_its_definition(mu: float, sigma: float, y: float) -> None:
    """Of (F(x) - 1{y <= x})^2 over x, in two pieces because it jumps at y."""
    law = stats.norm(mu, sigma)
    low, high = min(mu - 12.0 * sigma, y), max(mu + 12.0 * sigma, y)
    below, _ = integrate.quad(lambda x: law.cdf(x) ** 2, low, y, epsabs=1e-11, limit=200)
    above, _ = integrate.quad(lambda x: (law.cdf(x) - 1.0) ** 2, y, high, epsabs=1e-11, limit=200)
    assert crps(np.array([y]), np.array([[mu, sigma]]))[0] == pytest.approx(below + above, abs=1e-8)


def test_log_score_and_pit_of_gaussians_are_scipys() -> None:
    rng = np.random.default_rng(0)
    y, law = rng.standard_normal(50), np.stack([rng.standard_normal(50), rng.uniform(0.2, 3.0, 50)], axis=1)
    expected = stats.norm(law[:, 0], law[:, 1])
    np.testing.assert_allclose(log_score(y, law), expected.logpdf(y), rtol=1e-12)
    np.testing.assert_allclose(pit(y, law), expected.cdf(y), rtol=1e-12)
    np.testing.assert_array_equal(centre(law), law[:, 0])


def test_the_crps_of_quantiles_is_twice_their_mean_pinball_loss() -> None:
    """By a loop; for a Gaussian's quantiles it is near the Gaussian's own, seven levels being few."""
    rng = np.random.default_rng(1)
    y = rng.standard_normal(40)
    quantiles = np.sort(rng.standard_normal((40, 7)), axis=1)
    losses = [
        sum(
            level * (t - q) if t >= q else (1.0 - level) * (q - t)
            for level, q in zip(QUANTILE_LEVELS, row, strict=True)
        )
        / 7.0
        for t, row in zip(y, quantiles, strict=True)
    ]
    np.testing.assert_allclose(crps(y, quantiles), 2.0 * np.array(losses), rtol=1e-12)
    assert np.isnan(log_score(y, quantiles)).all()

    many = rng.standard_normal(4000)
    own = np.broadcast_to(stats.norm.ppf(QUANTILE_LEVELS), (4000, 7))
    closed = crps(many, np.broadcast_to([0.0, 1.0], (4000, 2))).mean()
    assert crps(many, own).mean() == pytest.approx(closed, rel=0.2)


@pytest.mark.parametrize(
    ("y", "u"),
    [
        (-9.0, 0.025),
        (-2.0, 0.05),
        (-1.5, 0.075),  # half of the way from 0.05 to 0.1
        (0.25, 0.5),
        (0.625, 0.625),  # half of the way from 0.5 to 0.75
        (4.0, 0.95),
        (4.1, 0.975),
    ],
)
def test_the_pit_of_quantiles_is_linear_between_the_levels(y: float, u: float) -> None:
    assert pit(np.array([y]), QUANTILES)[0] == pytest.approx(u, abs=1e-12)
    assert centre(QUANTILES)[0] == 0.25


def test_the_unconditional_distribution_is_the_familys_fit() -> None:
    """The Gaussian that maximises the log score of the labels themselves, and the quantiles that minimise the CRPS."""
    y = np.random.default_rng(2).standard_t(5, 401)
    mean, deviation = unconditional(y, 2)
    assert (mean, deviation) == pytest.approx(stats.norm.fit(y))
    levels = unconditional(y, 7)
    assert levels[3] == np.sort(y)[200]

    def score(law: Array) -> float:
        return float(crps(y, np.broadcast_to(law, (401, 7))).mean())

    for number in range(7):
        for shift in (-0.05, 0.05):
            moved = levels.copy()
            moved[number] += shift
            assert score(moved) >= score(levels)
