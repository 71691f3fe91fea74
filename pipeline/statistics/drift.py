"""Drift is not skill: how much of a record's Sharpe a portfolio without any timing would have earned on the same bars.

Shapes: T bars, A instruments, n bars of a record, N bars that are judged, k regressors, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.sharpe import (
    SIGNIFICANT,
    SharpeInference,
    bars_needed,
    deflated_sharpe_ratio,
    expected_maximum,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    sharpe_inference,
)
from pipeline.statistics.standard_errors import error_of_mean, satterthwaite
from tft.market import Market
from tft.metrics import MIN_INFERENCE_BARS
from tft.positions import PositionsConfig, portfolio_return, position_path
from tft.record import Record, Segment, block_earnings

Array = NDArray[np.float64]

COLLINEAR = 0.01
"""A regressor that the others explain up to this share of its standard deviation is left out: what it could still
explain is too small to matter, and its coefficient too uncertain to be read."""
STILL = 1e-6
"""Positions that vary by less than this share of their mean do not vary: that is rounding."""
MIN_ACTIVE = 0.01
"""A record whose active return has less than this share of its volatility has none: that is trading costs and start-up,
and no skill of such a size would show in a Sharpe ratio."""
_ROUNDING = 1e-9
NO_ACTIVE_RETURN = "no active return: the exposure does not vary"


@dataclass(frozen=True, eq=False)
class Drift:
    """What a portfolio without any timing earns on the N bars on which a record is judged."""

    net: Array
    """(N,) net portfolio return of the record"""
    market: Array
    """(N,) gross return of the long-only portfolio, a position of 1 in every instrument, or of a benchmark"""
    tilt: Array
    """(N,) gross return of each instrument held at the record's own mean position"""
    varies: bool
    """Whether any instrument's position, before its volatility scaling, is not the same on all bars"""


def drift_of(
    record: Record, market: Market, positions: PositionsConfig, segment: Segment, benchmark: Array | None = None
) -> Drift:
    """The record's returns on one segment beside those of long only and of its own mean positions.

    Both are of the same instruments, bars and volatility scaling, start without smoothing, and cost nothing; where the
    record holds no position they hold none. `benchmark` (T,) returns by bar take the place of long only.
    """
    panel, first = market.panel, int(record.bars[0])
    bars = range(first, first + len(record.bars))
    assert np.array_equal(record.bars, np.arange(bars.start, bars.stop)), "a record is of neighbouring bars"
    rows = slice(bars.start, bars.stop)
    unsmoothed = replace(positions, max_position=1.0, position_smooth=0.0, cost_bps=0.0)
    everywhere = np.ones(record.position.shape)
    traded = np.isfinite(panel.returns[rows])
    full = position_path(everywhere, market.sigma[rows], unsmoothed, market.timing, traded=traded).position  # (n, A)
    legs = block_earnings(full, bars, panel.returns, unsmoothed, market.timing).gross  # (n, A)
    judged = record.segment == segment
    legs, exposure = (
        np.where(np.isfinite(record.earned.net), values, np.nan)[judged] for values in (legs, record.position / full)
    )  # (N, A)
    held = np.isfinite(exposure)
    mean = np.where(held, exposure, 0.0).sum(axis=0) / np.maximum(held.sum(axis=0), 1)  # (A,)
    spread = np.abs(np.where(held, exposure - mean, 0.0)).max(initial=0.0)
    long_only = portfolio_return(legs)
    if benchmark is not None:
        lead = market.timing.label_bars
        ahead = np.concatenate([benchmark, np.full(lead, np.nan)])[bars.start + lead : bars.stop + lead]
        long_only = ahead[judged]
    return Drift(
        net=record.net()[judged],
        market=long_only,
        tilt=portfolio_return(legs * mean),
        varies=bool(spread > STILL * np.abs(mean).max(initial=0.0)),
    )


@dataclass(frozen=True)
class Skill:
    """A net Sharpe taken apart into drift and skill, which add up to it. What is undefined is None.

    Sharpes are annual. The standard errors of `skill`, `alpha_annual` and of the neutral Sharpe are one error in three
    units: it holds the sampling error (HAC) and, where it is known, that of the choice of the seeds.
    """

    neutral: SharpeInference
    """The Sharpe of what the regression leaves, alpha + e, and what is known of it; its p-values are those of alpha."""
    sharpe: float | None = None
    """Sharpe as earned, drift included."""
    skill: float | None = None
    """alpha / sd(s) sqrt(periods per year)."""
    skill_se: float | None = None
    drift: float | None = None
    """`sharpe` minus `skill`."""
    alpha_annual: float | None = None
    """Return a year beyond drift, net."""
    alpha_annual_se: float | None = None
    beta: float | None = None
    """b1: coefficient on long only at a position of 1, or on the benchmark, beside the record's own mean positions. A
    long bias is shared out between b1 and b2, so that b1 alone is not the exposure to the market."""
    beta_se: float | None = None
    """HAC standard error."""
    beta_p_value: float | None = None
    """Two-sided p-value of b1 = 0."""
    hac_se: float | None = None
    """Sampling error of `skill` alone."""
    n_seeds: int = 1
    seed_sd: float | None = None
    """Standard deviation of the skills of single seeds; None with one: not known."""
    degrees_of_freedom: float | None = None
    """Degrees of freedom of the Student t by which p-values and intervals are taken (Satterthwaite 1946)."""


def skill_inference(
    drift: Drift,
    *,
    periods_per_year: float,
    n_trials: int = 1,
    trial_variance: float | None = None,
    seed_skills: Sequence[float] = (),
) -> Skill:
    """Everything about the skill of a record: by least squares with a constant on the judged bars alone,

        s_t = alpha + b1 m_t + b2 c_t + e_t

    s the net return, m that of the market, c that of the record's mean positions, so that neither a long bias nor a
    tilt learned from the past is skill; timing is. Jensen 1968 with a second factor. c is left out where m explains it.
    alpha's sampling error is HAC (Bartlett weights, Andrews' lags, n - k). With the annual skills of single seeds,
    SE^2 = HAC^2 + v / K and Student t with Satterthwaite's degrees of freedom; `seed_skills` with fewer than two says
    nothing of seeds.

    `trial_variance` is the variance of the per-bar neutral Sharpes of the `n_trials` over as many bars; None stands for
    the squared standard error. Bars without a known return are left out.
    """
    known = np.isfinite(drift.net) & np.isfinite(drift.market)
    s, annual = drift.net[known], math.sqrt(periods_per_year)
    earned = sharpe_inference(s, periods_per_year=periods_per_year, n_trials=n_trials)
    bare = SharpeInference(
        n_bars=earned.n_bars,
        years=earned.years,
        sharpe=None,
        sharpe_per_bar=None,
        detectable_sharpe=earned.detectable_sharpe,
        n_trials=n_trials,
        undefined=earned.undefined,
    )
    nothing = Skill(bare, sharpe=earned.sharpe, n_seeds=max(len(seed_skills), 1))
    if earned.sharpe is None or len(s) < MIN_INFERENCE_BARS:
        return nothing
    if not drift.varies:
        return _inactive(nothing, earned.sharpe)
    fit = _least_squares(s, drift.market[known], drift.tilt[known])
    if fit.residual.std() <= MIN_ACTIVE * s.std():
        return _inactive(nothing, earned.sharpe)
    try:
        alpha_hac, beta_hac = fit.standard_error(0), fit.standard_error(1) if fit.has_market else None
    except ValueError as reason:  # returns of only a few distinct values have no standard error
        return replace(nothing, neutral=replace(bare, undefined=str(reason)))

    sd, sd_residual = float(s.std(ddof=1)), float(fit.residual.std(ddof=fit.k))
    skill, hac = float(fit.coefficients[0]) / sd * annual, alpha_hac / sd * annual
    seed_variance = float(np.var(seed_skills, ddof=1)) if len(seed_skills) > 1 else None
    error, freedom = _with_seeds(hac, len(s) - fit.k, seed_variance, len(seed_skills))
    to_neutral = sd / sd_residual
    neutral = _neutral(
        bare,
        fit.coefficients[0] + fit.residual,
        per_bar=skill * to_neutral / annual,
        error=error * to_neutral / annual,
        freedom=freedom,
        annual=annual,
        trial_variance=trial_variance,
    )
    beta = float(fit.coefficients[1]) if fit.has_market else None
    return Skill(
        neutral=neutral,
        sharpe=earned.sharpe,
        skill=skill,
        skill_se=error,
        drift=earned.sharpe - skill,
        alpha_annual=float(fit.coefficients[0]) * periods_per_year,
        alpha_annual_se=error * sd * annual,
        beta=beta,
        beta_se=beta_hac,
        beta_p_value=None
        if not beta_hac or beta is None
        else 2.0 * float(stats.t.sf(abs(beta) / beta_hac, len(s) - fit.k)),
        hac_se=hac,
        n_seeds=max(len(seed_skills), 1),
        seed_sd=None if seed_variance is None else math.sqrt(seed_variance),
        degrees_of_freedom=freedom,
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """A least-squares fit."""

    coefficients: Array
    """(k,) constant, market, tilt, as far as they are in"""
    influence: Array
    """(N, k) each bar's share in the error of each coefficient, of mean 0"""
    residual: Array
    """(N,)"""
    has_market: bool
    """Whether the second coefficient is the market's: it is not where the market does not vary."""

    @property
    def k(self) -> int:
        return len(self.coefficients)

    def standard_error(self, which: int) -> float:
        """HAC standard error of a coefficient. Raises ValueError where it is zero."""
        n = len(self.residual)
        return error_of_mean(self.influence[:, which]) * math.sqrt(n / (n - self.k))


def _least_squares(s: Array, market: Array, tilt: Array) -> _Fit:
    """s (N,) on a constant and those of market and tilt (N,) that the regressors before them do not explain."""
    x = np.ones((len(s), 1))
    included = []
    for regressor in (market, tilt):
        unexplained = regressor - x @ np.linalg.lstsq(x, regressor, rcond=None)[0]
        least = max(float(regressor.std()), _ROUNDING * float(np.abs(regressor).max()))
        included.append(bool(unexplained.std() > COLLINEAR * least))
        if included[-1]:
            x = np.column_stack([x, regressor])
    scale = np.sqrt((x**2).mean(axis=0))  # returns are small beside the constant
    inverse = np.linalg.inv((x / scale).T @ (x / scale) / len(s))
    coefficients = np.linalg.lstsq(x / scale, s, rcond=None)[0]
    residual = s - (x / scale) @ coefficients
    influence = residual[:, None] * ((x / scale) @ inverse)
    return _Fit(coefficients / scale, influence / scale, residual, included[0])


def _with_seeds(hac: float, freedom: int, seed_variance: float | None, n_seeds: int) -> tuple[float, float]:
    """Standard error of a mean over seeds, and its degrees of freedom."""
    if seed_variance is None:
        return hac, float(freedom)
    of_seeds = seed_variance / n_seeds
    return math.hypot(hac, math.sqrt(of_seeds)), satterthwaite((hac**2, freedom), (of_seeds, n_seeds - 1))


def _neutral(
    bare: SharpeInference,
    returns: Array,
    *,
    per_bar: float,
    error: float,
    freedom: float,
    annual: float,
    trial_variance: float | None,
) -> SharpeInference:
    """Inference on the Sharpe of the returns (N,) that the regression leaves; `per_bar` and its `error` are given."""
    n, n_trials = bare.n_bars, bare.n_trials
    variance = error**2 if trial_variance is None else trial_variance
    benchmark = expected_maximum(n_trials, variance)
    z = (returns - returns.mean()) / returns.std()
    moments = {"skewness": float((z**3).mean()), "kurtosis": float((z**4).mean())}
    half = float(stats.t.ppf(0.975, freedom)) * error
    positive = per_bar > 0.0
    critical = float(stats.t.ppf(1.0 - SIGNIFICANT, freedom))
    return replace(
        bare,
        sharpe=per_bar * annual,
        sharpe_per_bar=per_bar,
        standard_error=error * annual,
        low=(per_bar - half) * annual,
        high=(per_bar + half) * annual,
        p_value=float(stats.t.sf(per_bar / error, freedom)),
        benchmark=benchmark * annual,
        p_value_deflated=float(stats.t.sf((per_bar - benchmark) / error, freedom)),
        psr=probabilistic_sharpe_ratio(per_bar, n_bars=n, **moments),
        dsr=deflated_sharpe_ratio(per_bar, n_bars=n, n_trials=n_trials, trial_variance=variance, **moments),
        min_trl_bars=minimum_track_record_length(per_bar, **moments) if positive else None,
        bars_needed=bars_needed(per_bar, n, error, benchmark, critical=critical) if positive else None,
    )


def _inactive(nothing: Skill, sharpe: float) -> Skill:
    """All that was earned is drift."""
    neutral = replace(nothing.neutral, sharpe=0.0, sharpe_per_bar=0.0, p_value=1.0, p_value_deflated=1.0)
    return replace(nothing, neutral=replace(neutral, undefined=NO_ACTIVE_RETURN), skill=0.0, drift=sharpe)


def seed_skills(
    records: Sequence[Record],
    market: Market,
    positions: PositionsConfig,
    segment: Segment,
    benchmark: Array | None = None,
) -> tuple[float, ...]:
    """The annual skill of each of K single-seed records, beside its own mean positions; 0 for one that stayed flat."""
    periods = market.timing.periods_per_year
    skills = [
        skill_inference(drift_of(record, market, positions, segment, benchmark), periods_per_year=periods).skill
        for record in records
    ]
    return tuple(skill or 0.0 for skill in skills)
