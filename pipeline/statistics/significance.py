"""What luck alone would give: standard errors, tests and corrections for Sharpe ratios.

A Sharpe ratio (SR) here is mean / standard deviation (ddof 1) *per bar*; multiply by sqrt(periods per year) to
annualise. Skewness g3 and kurtosis g4 are population moments, kurtosis not excess (3 for a normal). Shapes: T bars,
N trials. Whatever is undefined raises ValueError; NaN is never returned. Sizes and coverages quoted below are printed
by `python -m benchmarks.significance_size`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.special import ndtr, ndtri, stdtr, stdtrit
from scipy.stats import rankdata

Array = NDArray[np.float64]

MIN_INFERENCE_BARS = 63
"""Fewer bars allow no inference."""


# ---- the standard error of one Sharpe ratio


def sharpe_standard_error(
    returns: ArrayLike, *, method: Literal["iid", "mertens", "hac"] = "hac", lags: int | None = None
) -> float:
    """Standard error, per bar, of the Sharpe ratio of `returns` (T,).

    "iid"      sqrt((1 + SR^2/2) / T): independent normal returns (Lo 2002)
    "mertens"  independent, any distribution (Mertens 2002), see `mertens_standard_error`
    "hac"      autocorrelated and heteroskedastic too: delta method on (mean, second moment) with Bartlett weights on
               `lags` autocovariances (Lo 2002; Ledoit & Wolf 2008, section 3.1), Andrews' (1991) automatic lags when
               None. The only method that reads `lags`.

    Measured coverage of SR ± 1.96 HAC errors over 63, 252, 1068 bars: iid t5 0.941, 0.945, 0.942; GARCH(1,1) 0.946,
    0.949, 0.948; AR(1) 0.2 0.925, 0.936, 0.938, where iid and mertens stay at 0.89.

    Raises ValueError for fewer than 2 bars, NaN or infinite returns, no variance, an unknown method, lags outside
    0..T-1, or a distribution for which the delta method gives zero.
    """
    r = _checked(returns)
    n, sharpe = len(r), _sharpe(r)
    if method == "iid":
        return math.sqrt((1.0 + sharpe**2 / 2.0) / n)
    if method == "mertens":
        z = (r - r.mean()) / r.std()
        return mertens_standard_error(sharpe, n, float((z**3).mean()), float((z**4).mean()))
    if method == "hac":
        return _hac_standard_error(_sharpe_scores(r), lags)
    raise ValueError(f"method is {method!r}, known are iid, mertens and hac: choose one of them")


def mertens_standard_error(sharpe: float, n_bars: int, skewness: float, kurtosis: float) -> float:
    """sqrt((1 - g3 SR + (g4 - 1)/4 SR^2) / (n - 1)) per bar, for independent returns of any distribution.

    Mertens 2002; with n - 1 as in Bailey & Lopez de Prado 2012. Raises ValueError for fewer than 2 bars,
    values that are not finite, moments that no distribution has, or a zero error.
    """
    _check_count("n_bars", n_bars, 2)
    return math.sqrt(_mertens_variance(sharpe, skewness, kurtosis) / (n_bars - 1))


# ---- one Sharpe ratio against a benchmark, and against the best of many trials


def probabilistic_sharpe_ratio(
    sharpe: float, *, n_bars: int, skewness: float = 0.0, kurtosis: float = 3.0, benchmark: float = 0.0
) -> float:
    """Probability that the true Sharpe exceeds `benchmark` (both per bar), given the one seen over `n_bars`.

    Phi((SR - SR*) / `mertens_standard_error`(SR)): Bailey & Lopez de Prado 2012, section 3. Raises ValueError as
    `mertens_standard_error` does, and for a benchmark that is not finite.
    """
    _check_finite(benchmark=benchmark)
    return float(ndtr((sharpe - benchmark) / mertens_standard_error(sharpe, n_bars, skewness, kurtosis)))


def expected_maximum(n_trials: int, variance: float = 1.0) -> float:
    """Expected maximum of `n_trials` independent normal Sharpes of mean 0 and this variance, in the variance's unit.

    sqrt(V) [(1 - gamma) Phi^-1(1 - 1/N) + gamma Phi^-1(1 - 1/(N e))], 0 for N = 1: Bailey & Lopez de Prado 2014, eq. 1
    (an approximation: 8 % below the exact expectation at N = 2, at most 2.6 % above it from N = 3 on). Raises
    ValueError for n_trials < 1 or a variance that is negative or not finite.
    """
    _check_count("n_trials", n_trials, 1)
    _check_finite(variance=variance)
    if variance < 0.0:
        raise ValueError(f"variance is {variance}, the least is 0: pass the variance of the trials' Sharpes")
    if n_trials == 1:
        return 0.0
    quantile = (1.0 - np.euler_gamma) * -ndtri(1.0 / n_trials) + np.euler_gamma * -ndtri(1.0 / (n_trials * math.e))
    return math.sqrt(variance) * float(quantile)


def deflated_sharpe_ratio(
    sharpe: float, *, n_bars: int, skewness: float, kurtosis: float, n_trials: int, trial_variance: float
) -> float:
    """Probability that the true Sharpe exceeds what the best of `n_trials` without skill would be expected to show.

    `probabilistic_sharpe_ratio` against `expected_maximum`(n_trials, trial_variance), all per bar: Bailey & Lopez de
    Prado 2014, eq. 2; with one trial, PSR against 0. Raises ValueError as these two do.

    Measured on the best of 10 independent trials of noise, 252 bars: PSR > 0.95 in 41.7 %, DSR > 0.95 in
    0.2 % (cautious: what the best is expected to show must be beaten with confidence). PSR > 0.95 of one trial: 5.9 %.
    """
    benchmark = expected_maximum(n_trials, trial_variance)
    return probabilistic_sharpe_ratio(sharpe, n_bars=n_bars, skewness=skewness, kurtosis=kurtosis, benchmark=benchmark)


def minimum_track_record_length(
    sharpe: float, *, benchmark: float = 0.0, skewness: float = 0.0, kurtosis: float = 3.0, confidence: float = 0.95
) -> float:
    """Bars (a fraction, round up) after which this Sharpe per bar would have a PSR of `confidence`.

    1 + (1 - g3 SR + (g4 - 1)/4 SR^2) (Phi^-1(confidence) / (SR - SR*))^2: Bailey & Lopez de Prado 2012, eq. 13.
    Raises ValueError when the Sharpe does not exceed the benchmark (no length would do), for a confidence outside
    (0.5, 1), and for moments as `mertens_standard_error` does.
    """
    _check_finite(benchmark=benchmark)
    variance = _mertens_variance(sharpe, skewness, kurtosis)
    if not 0.5 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, it lies between 0.5 and 1: 0.95 is usual")
    if sharpe <= benchmark:
        raise ValueError(
            f"the Sharpe {sharpe:.4g} is not above the benchmark {benchmark:.4g}, so that no record is long enough: "
            "report that instead of a length"
        )
    return 1.0 + variance * (float(ndtri(confidence)) / (sharpe - benchmark)) ** 2


def minimum_backtest_length(n_trials: int, target_annual_sharpe: float) -> float:
    """Years below which the best of `n_trials` without skill is expected to reach `target_annual_sharpe`.

    (`expected_maximum`(N) / target)^2, a Sharpe over y years having variance 1/y: Bailey, Borwein, Lopez de Prado &
    Zhu 2014. Raises ValueError for n_trials < 1 or a target that is not positive and finite.
    """
    _check_finite(target_annual_sharpe=target_annual_sharpe)
    if target_annual_sharpe <= 0.0:
        raise ValueError(f"target_annual_sharpe is {target_annual_sharpe}, it must be positive: 1 is usual")
    return (expected_maximum(n_trials) / target_annual_sharpe) ** 2


def best_of_epochs(n_epochs: int, n_bars: int, periods_per_year: float = 252) -> float:
    """Expected best annual Sharpe of `n_epochs` independent noise epochs, each validated on `n_bars` bars.

    Exact for normal returns of mean 0: SR sqrt(n) then has Student's t distribution F with n - 1 degrees of freedom,
    and E[max] is the integral over x > 0 of 1 - F(x)^E - F(-x)^E. 80 epochs on 21 bars: 9.28. Epochs of one training
    run are correlated, for which this is an upper bound. Raises ValueError for n_epochs < 1, n_bars < 3 (Student's t
    with one degree of freedom has no mean) or periods_per_year that is not positive and finite.
    """
    _check_count("n_epochs", n_epochs, 1)
    _check_count("n_bars", n_bars, 3)
    _check_finite(periods_per_year=periods_per_year)
    if periods_per_year <= 0.0:
        raise ValueError(f"periods_per_year is {periods_per_year}, it must be positive: 252 for daily bars")

    def tails(x: float) -> float:
        q = float(stdtr(n_bars - 1, -x))
        return -math.expm1(n_epochs * math.log1p(-q)) - q**n_epochs  # 1 - F^E without cancellation

    # Split where one exceedance is expected: the integrand is about 1 before it and a power tail after it.
    knee = float(-stdtrit(n_bars - 1, min(0.25, 1.0 / n_epochs)))
    expected = sum(float(quad(tails, *part, limit=200)[0]) for part in ((0.0, knee), (knee, math.inf)))
    return max(0.0, expected) * math.sqrt(periods_per_year / n_bars)


# ---- many trials: the probability of backtest overfitting


@dataclass(frozen=True, eq=False)
class BacktestOverfitting:
    """pbo: share of logits <= 0 · logits (n_combinations,): of the out-of-sample rank of the in-sample best."""

    pbo: float
    logits: Array
    n_combinations: int


def probability_of_backtest_overfitting(returns: ArrayLike, n_blocks: int) -> BacktestOverfitting:
    """How often the trial that is best on one half of the bars is below the median on the other half.

    `returns` (T, N), N trials on the same bars. Combinatorially symmetric cross-validation (Bailey, Borwein, Lopez de
    Prado & Zhu 2017, algorithm 2.3): T is cut into `n_blocks` blocks (as `numpy.array_split` does), each half of the
    blocks selects the trial of highest Sharpe, and the other half ranks it; logit = ln(rank / (N + 1 - rank)). Equal
    Sharpes share their mean rank, and of trials tied for the best the mean rank is taken.

    Measured on noise, 40 trials x 126 bars, 10 blocks: median 0.50, 5-95 % range 0.21 to 0.80.

    Raises ValueError for fewer than 2 trials, n_blocks odd, below 2 or above 20, fewer than 2 bars a block, NaN or
    infinite returns, and a trial without variance over some half.
    """
    r = np.asarray(returns, dtype=np.float64)
    if r.ndim != 2 or r.shape[1] < 2:
        raise ValueError(f"returns have shape {r.shape}, at least two trials are needed: pass an array (T, N >= 2)")
    n_bars, n_trials = r.shape
    if n_blocks % 2 or not 2 <= n_blocks <= 20:
        raise ValueError(f"n_blocks is {n_blocks}, it is an even number from 2 to 20: 10 or 16 are usual")
    if n_bars < 2 * n_blocks:
        raise ValueError(f"{n_bars} bars make no {n_blocks} blocks of 2 bars or more: use fewer blocks or more bars")
    if not np.isfinite(r).all():
        raise ValueError("returns hold NaN or infinite values, every bar must be finite: keep common bars")

    offset = r.mean(axis=0)
    blocks = np.array_split(r - offset, n_blocks)  # centred, so that sums of squares do not cancel
    sizes = np.array([len(block) for block in blocks])
    sums = np.stack([block.sum(axis=0) for block in blocks])
    squares = np.stack([(block**2).sum(axis=0) for block in blocks])

    halves = np.array(list(combinations(range(n_blocks), n_blocks // 2)))  # (C, S/2)
    count = sizes[halves].sum(axis=1)[:, None]
    total, square = np.zeros((2, len(halves), n_trials))
    for block in halves.T:
        total += sums[block]
        square += squares[block]
    variance = (square - total**2 / count) / (count - 1)
    flat = variance <= 1e-12 * (square / count + offset**2)
    if flat.any():
        trial = int(np.flatnonzero(flat.any(axis=0))[0])
        raise ValueError(f"trial {trial} has no variance over some half of the bars: drop it or use fewer blocks")
    inside = (total / count + offset) / np.sqrt(variance)  # (C, N)
    outside = inside[::-1]  # in lexicographic order the complement of half c is half C - 1 - c

    best = inside == inside.max(axis=1, keepdims=True)
    rank = (rankdata(outside, axis=1) * best).sum(axis=1) / best.sum(axis=1)
    logits = np.log(rank / (n_trials + 1 - rank))
    return BacktestOverfitting(pbo=float((logits <= 0.0).mean()), logits=logits, n_combinations=len(halves))


# ---- two return series on the same bars


@dataclass(frozen=True)
class SharpeDifference:
    """difference: SR of a minus SR of b · standard_error: HAC · p_value: two-sided, of no difference · interval: 95 %
    · detectable: the smallest true difference found with 80 % power at 5 % two-sided, 2.80 standard errors. Per bar."""

    difference: float
    standard_error: float
    p_value: float
    interval: tuple[float, float]
    detectable: float


def sharpe_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    lags: int | None = None,
    block_length: int | None = None,
    n_bootstrap: int = 4999,
    seed: int = 0,
) -> SharpeDifference:
    """Paired comparison of the Sharpe ratios of `a` and `b`, both (T,) and bar by bar on the same bars.

    Ledoit & Wolf 2008: standard error by HAC delta method (section 3.1, as in `sharpe_standard_error`); p-value and
    symmetric 95 % interval from the studentised circular block bootstrap, where the error of a resample comes from its
    own blocks (Goetze & Kuensch 1996). They agree: p <= 0.05 exactly when 0 is not inside. `lags` None: Andrews 1991.
    `block_length` None: the automatic lags + 1, since Bartlett weights on b - 1 lags are what blocks of b bars see.

    Identical series, or one a positive multiple of the other, differ by nothing with certainty: difference,
    error and detectable 0, p 1, interval (0, 0).

    Raises ValueError for series of different length, fewer than 2 bars, NaN or infinite returns, no variance, lags
    outside 0..T-1, block_length outside 1..T//2, n_bootstrap < 19, a difference without any sampling error, and too
    few bars or trades for the resamples to have a variance.

    Measured with shocks correlated 0.7 over 63, 252, 1068 bars, share of p <= 0.05 under no difference: iid t5 0.044,
    0.048, 0.051; GARCH 0.043, 0.056, 0.051; AR(1) 0.2 0.061, 0.060, 0.054. Power at `detectable`: 0.67-0.74 with 63
    bars, 0.77-0.82 with more.
    """
    x, y = _checked(a, "a"), _checked(b, "b")
    n = len(x)
    if len(y) != n:
        raise ValueError(f"a has {n} bars and b {len(y)}, they must be the same bars: align them first")
    if n_bootstrap < 19:
        raise ValueError(f"n_bootstrap is {n_bootstrap}, a 95 % interval needs at least 19: 4999 is usual")
    scores = _sharpe_scores(x) - _sharpe_scores(y)
    difference = _sharpe(x) - _sharpe(y)
    if np.abs(scores).max() <= 1e-9 and abs(difference) <= 1e-9:
        return SharpeDifference(0.0, 0.0, 1.0, (0.0, 0.0), 0.0)
    error = _hac_standard_error(scores, lags)
    block = _automatic_lags(scores) + 1 if block_length is None else block_length
    if not 1 <= block <= n // 2:
        raise ValueError(f"block_length is {block}, for {n} bars it lies in 1..{n // 2}: leave it None or choose there")

    deviations = np.sort(_studentised_deviations(x / x.std(), y / y.std(), block, n_bootstrap, seed))
    critical = float(deviations[-(-19 * (n_bootstrap + 1) // 20) - 1])
    if not math.isfinite(critical):
        raise ValueError(f"too few of the {n} bars vary for resampled Sharpes to have an error: use more bars")
    at_least = int((deviations >= abs(difference) / error).sum())
    return SharpeDifference(
        difference=difference,
        standard_error=error,
        p_value=monte_carlo_p_value(at_least, n_bootstrap),
        interval=(difference - critical * error, difference + critical * error),
        detectable=float(ndtri(0.975) + ndtri(0.8)) * error,
    )


def _studentised_deviations(x: Array, y: Array, block: int, n_bootstrap: int, seed: int) -> Array:
    """|resampled difference - difference| / its own standard error (n_bootstrap,); infinite where that is zero."""
    n, n_drawn = len(x), len(x) // block
    moments = np.stack([x, y, x**2, y**2], axis=1)
    wrapped = np.concatenate([moments, moments[: block - 1]])
    block_means = np.lib.stride_tricks.sliding_window_view(wrapped, block, axis=0).mean(axis=-1)  # (T, 4), by start
    centre = _difference_and_gradient(moments.mean(axis=0))[0]
    rng = np.random.default_rng(seed)
    deviations = []
    for chunk in np.array_split(np.arange(n_bootstrap), -(-n_bootstrap * n_drawn // 500_000)):  # bounds the memory
        drawn = block_means[rng.integers(n, size=(len(chunk), n_drawn))]  # (chunk, n_drawn, 4)
        with np.errstate(divide="ignore", invalid="ignore"):  # resamples without variance become infinite below
            difference, gradient = _difference_and_gradient(drawn.mean(axis=1))
            error = (drawn @ gradient[:, :, None])[:, :, 0].std(axis=1) / math.sqrt(n_drawn)
            deviation = np.abs(difference - centre) / error
        deviations.append(np.where(np.isfinite(deviation) & (error > 1e-12), deviation, np.inf))
    return np.concatenate(deviations)


def _difference_and_gradient(moments: Array) -> tuple[Array, Array]:
    """Sharpe difference (...) and its gradient (..., 4) by the moments (..., 4): E a, E b, E a^2, E b^2."""
    mean, second = moments[..., :2], moments[..., 2:]
    sd = np.sqrt(second - mean**2)
    sharpe = mean / sd
    gradient = np.concatenate([second / sd**3, -mean / (2.0 * sd**3)], axis=-1) * np.array([1.0, -1.0, 1.0, -1.0])
    return sharpe[..., 0] - sharpe[..., 1], gradient


# ---- randomisation tests


@dataclass(frozen=True)
class SequentialPValue:
    """p_value, and n_used: the draws it took."""

    p_value: float
    n_used: int


def monte_carlo_p_value(n_at_least: int, n_draws: int) -> float:
    """(b + 1) / (m + 1): b of m draws under the null were at least as large as what was seen, ties included.

    Davison & Hinkley 1997, eq. 4.11; P(p <= alpha) <= alpha exactly, and p is never 0. Raises ValueError for
    n_draws < 1 or n_at_least outside 0..n_draws.
    """
    _check_count("n_draws", n_draws, 1)
    if not 0 <= n_at_least <= n_draws:
        raise ValueError(f"n_at_least is {n_at_least}, of {n_draws} draws it lies in 0..{n_draws}: count it anew")
    return (n_at_least + 1) / (n_draws + 1)


def sequential_p_value(exceeds: Iterable[bool], h: int, m: int) -> SequentialPValue:
    """p-value from draws taken one by one, stopping at the `h`-th draw that is at least as large as what was seen.

    Besag & Clifford 1991: h / n_used when stopped, else (b + 1) / (m + 1) after `m` draws with b < h. `exceeds` is
    consumed lazily and not beyond the stop. Raises ValueError for h < 1, m < 1, or when `exceeds` ends too early.

    Measured under the null, h = 5, m = 99: p <= 0.01 in 1.0 %, p <= 0.05 in 4.9 %, p <= 0.10 in 9.8 %; 19 draws
    on average.
    """
    _check_count("h", h, 1)
    _check_count("m", m, 1)
    n_exceeding = n_used = 0
    for n_used, exceeding in enumerate(islice(exceeds, m), start=1):
        n_exceeding += bool(exceeding)
        if n_exceeding == h:
            return SequentialPValue(h / n_used, n_used)
    if n_used < m:
        raise ValueError(f"the draws ended after {n_used} of {m} with fewer than {h} exceedances: supply them all")
    return SequentialPValue(monte_carlo_p_value(n_exceeding, m), m)


def admissible_shifts(n_bars: int, *, lookback: int, window: int, horizon: int) -> range:
    """Circular shifts k of the target by which no feature window can see its own label: m <= k <= n_bars - m.

    m = lookback + window - 1 + horizon: from just before the oldest bar that the features of a window remember to
    the bar at which the label ends. All in bars; empty when n_bars < 2 m. Raises ValueError for n_bars, window or
    horizon < 1 or lookback < 0.
    """
    for name, value, least in (("n_bars", n_bars, 1), ("lookback", lookback, 0), ("window", window, 1)):
        _check_count(name, value, least)
    _check_count("horizon", horizon, 1)
    shortest = lookback + window - 1 + horizon
    return range(shortest, max(shortest, n_bars - shortest + 1))


# ---- pieces shared by the above


def _checked(returns: ArrayLike, name: str = "returns") -> Array:
    r = np.asarray(returns, dtype=np.float64)
    if r.ndim != 1 or len(r) < 2:
        raise ValueError(f"{name} have shape {r.shape}, at least 2 bars in one dimension are needed: pass (T,)")
    if not np.isfinite(r).all():
        raise ValueError(f"{name} hold NaN or infinite values, every bar must be finite: drop those bars first")
    if r.std() <= 1e-12 * np.abs(r).max():
        raise ValueError(f"{name} have no variance, so that a Sharpe ratio is undefined: pass returns that vary")
    return r


def _check_finite(**values: float) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}, it must be finite: find out where it was computed")


def _check_count(name: str, value: int, least: int) -> None:
    if not least <= value < math.inf:
        raise ValueError(f"{name} is {value}, the least is {least}: pass a larger count")


def _sharpe(r: Array) -> float:
    return float(r.mean() / r.std(ddof=1))


def _mertens_variance(sharpe: float, skewness: float, kurtosis: float) -> float:
    """T times the asymptotic variance of a Sharpe ratio of independent returns."""
    _check_finite(sharpe=sharpe, skewness=skewness, kurtosis=kurtosis)
    least = 1.0 + skewness**2
    if kurtosis < least * (1.0 - 1e-9):
        raise ValueError(f"kurtosis is {kurtosis:.4g}, with this skewness the least is {least:.4g}: pass it not excess")
    variance = 1.0 - skewness * sharpe + (kurtosis - 1.0) / 4.0 * sharpe**2
    if variance <= 1e-12:
        raise ValueError("the standard error is zero to first order as two-valued returns can make it: use others")
    return variance


def _sharpe_scores(r: Array) -> Array:
    """What each bar adds to the error of the Sharpe ratio: its gradient by (mean, second moment) times their errors."""
    z = (r - r.mean()) / r.std()
    return np.asarray(z - r.mean() / r.std() / 2.0 * (z**2 - 1.0))


def _hac_standard_error(scores: Array, lags: int | None) -> float:
    """sqrt(long-run variance / T) of the mean of `scores` (T,), with Bartlett weights (Newey & West 1987)."""
    n = len(scores)
    lags = _automatic_lags(scores) if lags is None else lags
    if not 0 <= lags < n:
        raise ValueError(f"lags is {lags}, for {n} bars it lies in 0..{n - 1}: leave it None or choose there")
    autocovariances = np.array([scores[k:] @ scores[: n - k] for k in range(lags + 1)]) / n
    weights = 2.0 * (1.0 - np.arange(lags + 1) / (lags + 1))
    weights[0] = 1.0
    variance = float(weights @ autocovariances)
    if variance <= 1e-12:
        raise ValueError("the standard error is zero to first order, as few-valued returns can make it: use others")
    return math.sqrt(variance / n)


def _automatic_lags(scores: Array) -> int:
    """Andrews 1991, eq. 6.2 with the AR(1) plug-in 6.4, for Bartlett weights; at most T/8, to leave eight blocks.

    The optimal block of a circular bootstrap (Politis & White 2004) under the same AR(1) has the same length.
    """
    n = len(scores)
    rho = float(scores[1:] @ scores[:-1]) / max(float(scores @ scores), 1e-300)
    alpha = (2.0 * rho / (1.0 - rho**2)) ** 2
    return min(int(1.1447 * (alpha * n) ** (1.0 / 3.0)), n // 8)
