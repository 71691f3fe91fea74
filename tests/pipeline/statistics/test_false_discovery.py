"""p-values from probes: worked out by hand, exact where they say so, and the false discovery rate that they give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from pipeline.statistics.false_discovery import FIT_LEVEL, MIN_SHAPE, ProbeNull, benjamini_hochberg
from tests.pipeline.statistics.nulls import NULLS, PLANTED

Array = NDArray[np.float64]
SomeWeights = st.lists(st.floats(0.1, 10.0), min_size=2, max_size=30, unique=True)


def test_p_values_worked_out_by_hand() -> None:
    """Logarithms 0, 1, 2, 4; of the two heaviest u = 1, so that scale = ((2 - 1) + (4 - 1) + (4 - 1)) / 2 = 3.5.

    At 4 + 7 the p-value is (1 + 0.5 * 7 / 3.5)^-2 / 5 = 1 / 20; up to 4 it is a rank, a tie counts against the column.
    """
    null = ProbeNull.of(np.exp([4.0, 0.0, 2.0, 1.0]))
    assert null.n_tail == 2 and null.shape == 0.5 and null.scale == pytest.approx(3.5)
    weights = np.exp([11.0, 4.001, 4.0, 3.0, 2.0, 1.5, -1.0])
    expected = [0.05, pytest.approx(0.2, abs=1e-3), 0.4, 0.4, 0.6, 0.6, 1.0]
    assert null.p_values(weights).tolist() == pytest.approx(expected)
    assert math.isnan(null.p_values([math.nan])[0])
    assert null.weight_at(0.05) == pytest.approx(math.exp(11.0))
    assert [null.weight_at(p) for p in (0.4, 0.6, 1.0)] == pytest.approx([math.exp(2.0), math.exp(1.0), 0.0])


@pytest.mark.parametrize("n_probes", [2, 5, 12])
def test_a_noise_columns_p_value_is_uniform_if_the_tail_is_exponential(n_probes: int) -> None:
    """P(p <= a) = a for every a below 1 / (N + 1), and for its multiples; the tail is fitted anew in each draw."""
    rng = np.random.default_rng(n_probes)
    n_draws, n_columns = 4000, 20
    levels = np.array([1.0, 0.3, 0.1, 0.02]) / (n_probes + 1)
    shares = []
    for _ in range(n_draws):
        null = ProbeNull.of(np.exp(rng.exponential(0.3, n_probes)))
        p = null.p_values(np.exp(rng.exponential(0.3, n_columns)))
        shares.append([(p <= level * (1 + 1e-12)).mean() for level in levels])
    mean, error = np.mean(shares, axis=0), np.std(shares, axis=0) / math.sqrt(n_draws)
    refused = FIT_LEVEL * levels if n_probes >= 8 else 0.0  # then nothing is extrapolated, and p is too large
    assert (np.abs(mean - levels) <= 3.0 * error + 2.0 * refused).all(), (mean, levels, error)


@given(weights=SomeWeights, p=st.floats(1e-4, 1.0))
def test_the_weight_at_a_p_value_is_where_it_begins(weights: list[float], p: float) -> None:
    null = ProbeNull.of(weights)
    needed = null.weight_at(p)
    if math.isinf(needed) or needed > 1e12:
        return
    assert null.p_values([needed * (1 + 1e-6)])[0] <= p * (1 + 1e-9)
    if needed > 0.0:
        assert null.p_values([needed * (1 - 1e-6)])[0] > p * (1 - 1e-4)


@given(probes=SomeWeights, columns=SomeWeights, more=st.floats(0.0, 5.0), rate=st.floats(0.01, 1.0))
def test_a_heavier_probe_never_adds_a_discovery(
    probes: list[float], columns: list[float], more: float, rate: float
) -> None:
    """Neither a further one that is as heavy as any column, nor the heaviest one made heavier."""
    before = ProbeNull.of(probes).p_values(columns)
    heaviest = max(probes)
    for changed in (
        [*probes, max(*columns, heaviest) + more],
        [probe + more if probe == heaviest else probe for probe in probes],
    ):
        after = ProbeNull.of(changed).p_values(columns)
        assert (after >= before * (1 - 1e-9)).all()
        kept, kept_before = (benjamini_hochberg(p, rate)[0] for p in (after, before))
        assert not (kept & ~kept_before).any()


@given(
    p=st.lists(st.sampled_from([*np.linspace(0.0, 1.0, 41).tolist(), 0.001, 0.0123]), min_size=1, max_size=60),
    rate=st.floats(0.01, 0.9),
)
def test_discoveries_are_those_of_statsmodels(p: list[float], rate: float) -> None:
    found, limit = benjamini_hochberg(p, rate)
    np.testing.assert_array_equal(found, multipletests(p, alpha=rate, method="fdr_bh")[0])
    assert limit == pytest.approx(rate * max(1, found.sum()) / len(p))


@pytest.mark.parametrize(("p", "rate", "word"), [([0.5, 1.5], 0.1, "p-values"), ([math.nan], 0.1, "p-values")])
def test_what_is_no_p_value_is_refused(p: list[float], rate: float, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        benjamini_hochberg(p, rate)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1])
def test_what_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        benjamini_hochberg([0.5], rate)


@pytest.mark.parametrize("name", list(NULLS))
@pytest.mark.parametrize("n_probes", [20, 60])
def test_the_false_discovery_rate_is_at_most_the_one_asked_for(name: str, n_probes: int) -> None:
    """Over 400 tables of 276 columns, five of them planted at weights from doubtful to clear, within 2 errors."""
    rng = np.random.default_rng([n_probes, len(name)])
    n_tables, rate = 400, 0.1
    false = []
    for _ in range(n_tables):
        null = ProbeNull.of(np.exp(NULLS[name](rng, n_probes)))
        columns = np.concatenate([PLANTED, NULLS[name](rng, 271)])
        found, _ = benjamini_hochberg(null.p_values(np.exp(columns)), rate)
        false.append(found[5:].sum() / max(1, found.sum()))
    assert np.mean(false) <= rate + 2.0 * np.std(false) / math.sqrt(n_tables)


def test_a_tail_heavier_than_the_fitted_one_is_said_and_not_extrapolated() -> None:
    """Squared exponentials as logarithms: 60 probes are refused in most draws, and then no p-value is below 1/61."""
    rng = np.random.default_rng(1)
    nulls = [ProbeNull.of(np.exp(rng.exponential(size=60) ** 2)) for _ in range(50)]
    refused = [null for null in nulls if null.too_heavy]
    assert len(refused) > 25
    for null in refused:
        assert null.p_values([1e9 * null.weights[-1]])[0] == pytest.approx(1.0 / 61.0)
        assert null.weight_at(0.001) == math.inf
        assert "nothing is extrapolated" in null.remark and "1/61" in null.remark
    exponential = [ProbeNull.of(np.exp(rng.exponential(size=60))) for _ in range(400)]
    assert sum(null.too_heavy for null in exponential) <= 400 * 3 * FIT_LEVEL
    assert exponential[0].shape == MIN_SHAPE and not exponential[0].remark


def test_probes_that_are_few_or_all_alike() -> None:
    """One probe, or equal ones, give ranks and nothing beyond; that the fit is unchecked is said."""
    for probes in ([0.9], [0.9] * 12):
        null = ProbeNull.of([*probes, math.nan])
        assert null.p_values([50.0, 0.9, 0.1]).tolist() == pytest.approx([1.0 / (len(probes) + 1), 1.0, 1.0])
        assert "cannot be checked" in null.remark
    for wrong in ([], [math.nan]):
        with pytest.raises(ValueError, match="no probe"):
            ProbeNull.of(wrong)
    with pytest.raises(ValueError, match="above 0"):
        ProbeNull.of([0.0, 1.0])
