"""The null of probes and columns: worked out by hand, uniform where it says so, and the rate of false discoveries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.statistics.false_discovery import ProbeNull, benjamini_hochberg
from pipeline.statistics.pooled_null import PooledNull, pooled_null
from tests.pipeline.statistics.nulls import NULLS, PLANTED

Array = NDArray[np.float64]


def test_a_fit_worked_out_by_hand() -> None:
    """Logarithms 0, 1, .. 37 and two censored ones: a quarter of 40 is 10, two of them censored, and 10 is the
    least that is seen.

    u = 27, the ten above it lie 1 to 10 beyond, and the two censored at 10: scale = (55 + 20) / 10 = 7.5.
    """
    null = PooledNull.fit(np.exp(np.arange(38.0)), n_censored=2)
    assert (null.n, null.n_tail, null.start, null.scale) == (40, 10, 27.0, pytest.approx(7.5))
    p = null.p_values(np.exp([42.0, 27.0, 20.5, -1.0, math.nan]))
    assert p[0] == pytest.approx(12 / 40 * (1 + 15 / 75) ** -10)
    assert p[1:4].tolist() == pytest.approx([(11 + 2) / 40, (17 + 2) / 40, 1.0]) and math.isnan(p[4])
    assert null.weight_at(float(p[0])) == pytest.approx(math.exp(42.0))
    assert null.weight_at(0.9) == pytest.approx(math.exp(27.0))


def test_what_is_censored_does_not_move_the_scale_of_an_exponential_tail() -> None:
    """Mean over 1,000 draws of 200 weights whose logarithms are exponential with a scale of 0.2, within 3 errors."""
    rng = np.random.default_rng(2)
    for r in (0, 5, 30):
        scales = []
        for _ in range(1000):
            x = np.sort(rng.exponential(0.2, 200))
            scales.append(PooledNull.fit(np.exp(x[: 200 - r]), r).scale)
        assert abs(np.mean(scales) - 0.2) < 3.0 * np.std(scales) / math.sqrt(len(scales)), r


def test_as_many_columns_are_left_out_as_are_discovered() -> None:
    """Five columns far out among 200 that are alike: five are censored, and five are discoveries by the null."""
    rng = np.random.default_rng(3)
    columns = np.exp(np.concatenate([[2.0, 2.1, 2.2, 2.4, 2.5], 0.1 * rng.standard_normal(200)]))
    probes = np.exp(0.1 * rng.standard_normal(20))
    null = pooled_null(columns, probes, columns >= 1.0, rate=0.1)
    assert null is not None and null.n_censored == 5
    found, _ = benjamini_hochberg(null.p_values(columns), 0.1)
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 3, 4]


def test_columns_that_may_not_be_discovered_are_never_left_out() -> None:
    """Unstable or light ones end the row of candidates; what is heavier than probes but not eligible stays noise."""
    rng = np.random.default_rng(4)
    columns = np.exp(np.concatenate([[2.5, 2.4], 0.1 * rng.standard_normal(200)]))
    eligible = np.ones(len(columns), dtype=bool)
    eligible[1] = False
    null = pooled_null(columns, columns[:0], eligible, rate=0.1)
    assert null is None or null.n_censored <= 1


@pytest.mark.parametrize("name", list(NULLS))
def test_the_larger_of_both_discoveries_has_few_false_ones(name: str) -> None:
    """Over 120 tables of 276 columns, five of them planted from doubtful to clear, and 40 probes, at a rate of 0.1.

    As pruning does it, by whichever null discovers more: at most 0.15 within 2 errors, for any of these tails.
    """
    rng = np.random.default_rng([7, len(name)])
    n_tables, rate = 120, 0.1
    false = []
    for _ in range(n_tables):
        probes = np.exp(NULLS[name](rng, 40))
        columns = np.exp(np.concatenate([PLANTED, NULLS[name](rng, 271)]))
        nulls = [ProbeNull.of(probes), pooled_null(columns, probes, columns > 0.0, rate)]
        found = [benjamini_hochberg(null.p_values(columns), rate)[0] for null in nulls if null]
        most = max(found, key=np.sum)
        false.append(most[5:].sum() / max(1, most.sum()))
    assert np.mean(false) <= 0.15 + 2.0 * np.std(false) / math.sqrt(n_tables), np.mean(false)


def test_where_many_columns_carry_information_it_discovers_less_than_the_probes() -> None:
    """It errs upwards: with a third of the columns well above the probes, they are taken for the tail."""
    rng = np.random.default_rng(8)
    columns = np.exp(np.concatenate([rng.uniform(0.5, 1.2, 30), 0.1 * rng.standard_normal(60)]))
    probes = np.exp(0.1 * rng.standard_normal(40))
    alone, _ = benjamini_hochberg(ProbeNull.of(probes).p_values(columns), 0.1)
    null = pooled_null(columns, probes, columns > 0.0, 0.1)
    together = 0 if null is None else int(benjamini_hochberg(null.p_values(columns), 0.1)[0].sum())
    assert together < alone[:30].sum()


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0] * 100])
def test_too_few_weights_or_equal_ones_have_no_tail(weights: list[float]) -> None:
    assert pooled_null(weights, [], [True] * len(weights), 0.1) is None
