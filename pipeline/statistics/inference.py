"""What one production run is worth: each of its Sharpes beside what luck alone would have given, and the verdict.

Sharpes are annual unless a name says per_bar. Shapes: T bars, N completed trials, E epochs, n bars of a validation
block. Nothing is read or written here; results are frozen and plain, so that they can be stored with the phase's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pipeline.statistics.baselines import BaselineRow
from pipeline.statistics.significance import (
    MIN_INFERENCE_BARS,
    best_of_epochs,
    deflated_sharpe_ratio,
    expected_maximum,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
    sharpe_standard_error,
)
from tft.backtest import FoldOutcome, Record, Segment
from tft.metrics import MIN_BARS

Array = NDArray[np.float64]

SIGNIFICANT = 0.05
"""One-sided p-value below which a Sharpe is called found."""
POWER = 0.8
MIN_LOOKS = 5
"""Fewer Sharpes say too little about how far Sharpes of a holdout scatter: the squared standard error is used."""
MIN_PBO_TRIALS = 10
MIN_BLOCK_BARS = 10
BLOCKS = (4, 10)
"""Fewest and most blocks of the cross-validation for PBO."""
NOISE_DRAWS = 200
"""Of whole searches, for the range that PBO has on noise."""
EPOCH_DRAWS = 500
"""Of whole trainings: the expected best is then known to about 1 %."""


# ---- one Sharpe


@dataclass(frozen=True)
class SharpeInference:
    """One Sharpe, net and annual, and what is known about it; None where `undefined` says why."""

    n_bars: int
    years: float
    sharpe: float | None
    sharpe_per_bar: float | None
    detectable_sharpe: float | None
    """See `detectable_sharpe`."""
    n_trials: int
    """Configurations of which this is, or may be, the best: what it is deflated by."""
    standard_error: float | None = None
    """HAC."""
    low: float | None = None
    """95 % interval: 1.96 standard errors on each side."""
    high: float | None = None
    p_value: float | None = None
    """One-sided, of no skill: Phi(-Sharpe / standard error)."""
    benchmark: float | None = None
    """What the best of `n_trials` without skill is expected to show; 0 for one."""
    p_value_deflated: float | None = None
    """The same p-value against `benchmark`."""
    psr: float | None = None
    """Probabilistic Sharpe ratio against 0."""
    dsr: float | None = None
    """Deflated Sharpe ratio: PSR against `benchmark`."""
    min_trl_bars: float | None = None
    """Minimum track record length: bars after which this Sharpe would have a PSR of 0.95. None if not positive."""
    bars_needed: float | None = None
    """Bars after which this Sharpe would have a deflated p-value of 0.05. None if not positive."""
    undefined: str = ""
    """Why there is no inference, or no Sharpe at all."""


def detectable_sharpe(n_bars: int, periods_per_year: float) -> float | None:
    """Smallest true annual Sharpe found with 80 % power at 5 % one-sided on `n_bars`: 2.49 sqrt(periods / n).

    The standard error is 1/sqrt(years) to first order (Lo 2002). None without bars.
    """
    if n_bars < 1:
        return None
    return float(ndtri(1.0 - SIGNIFICANT) + ndtri(POWER)) * math.sqrt(periods_per_year / n_bars)


def sharpe_inference(
    returns: Array, *, periods_per_year: float, n_trials: int = 1, trial_variance: float | None = None
) -> SharpeInference:
    """Everything about the Sharpe of per-bar net returns (T,); NaN bars are left out.

    `trial_variance`: of the per-bar Sharpes of the `n_trials`, over as many bars as these; None: the squared (HAC)
    standard error, which is what it would be if they had no skill and nothing in common.
    """
    r = returns[np.isfinite(returns)]
    n, annual = len(r), math.sqrt(periods_per_year)
    known = SharpeInference(
        n_bars=n,
        years=n / periods_per_year,
        sharpe=None,
        sharpe_per_bar=None,
        detectable_sharpe=detectable_sharpe(n, periods_per_year),
        n_trials=n_trials,
    )
    if n < MIN_BARS:
        return replace(known, undefined=f"{n} bars have a known return, a Sharpe needs {MIN_BARS}")
    if r.std() <= 1e-12 * max(float(np.abs(r).max()), 1e-12):
        return replace(known, undefined="the returns do not vary: the positions stayed flat")
    z = (r - r.mean()) / r.std()
    moments = {"skewness": float((z**3).mean()), "kurtosis": float((z**4).mean())}
    per_bar = float(r.mean() / r.std(ddof=1))
    known = replace(known, sharpe=per_bar * annual, sharpe_per_bar=per_bar)
    if n < MIN_INFERENCE_BARS:
        return replace(known, undefined=f"{n} bars are too few for any inference, {MIN_INFERENCE_BARS} are needed")
    try:
        error = sharpe_standard_error(r)
    except ValueError as reason:  # few-valued returns, of which a standard error is zero to first order
        return replace(known, undefined=str(reason))
    variance = error**2 if trial_variance is None else trial_variance
    benchmark = expected_maximum(n_trials, variance)
    deflated = deflated_sharpe_ratio(per_bar, n_bars=n, n_trials=n_trials, trial_variance=variance, **moments)
    positive = per_bar > 0.0
    return replace(
        known,
        standard_error=error * annual,
        low=(per_bar + float(ndtri(0.025)) * error) * annual,
        high=(per_bar + float(ndtri(0.975)) * error) * annual,
        p_value=float(ndtr(-per_bar / error)),
        benchmark=benchmark * annual,
        p_value_deflated=float(ndtr((benchmark - per_bar) / error)),
        psr=probabilistic_sharpe_ratio(per_bar, n_bars=n, **moments),
        dsr=deflated,
        min_trl_bars=minimum_track_record_length(per_bar, **moments) if positive else None,
        bars_needed=_bars_needed(per_bar, n, error, benchmark) if positive else None,
    )


def _bars_needed(per_bar: float, n_bars: int, error: float, benchmark: float) -> float:
    """The minimum track record length, for the test that the verdict makes.

    Bailey & Lopez de Prado 2012, eq. 13, with the HAC error in the place of the independent one; error and benchmark
    both fall with sqrt(T). It exceeds `n_bars` exactly when the deflated p-value exceeds 0.05.
    """
    return 1.0 + (n_bars - 1) * ((float(ndtri(1.0 - SIGNIFICANT)) * error + benchmark) / per_bar) ** 2


# ---- the search


@dataclass(frozen=True, eq=False)
class Trials:
    """The tuning search as it is judged here."""

    returns: Array
    """(T, N) net out-of-sample portfolio returns of the completed trials, on the same bars"""
    best: int
    """Column of the trial that was chosen."""
    n_started: int
    """All trials, pruned and failed ones included."""

    def variance(self, n_bars: int) -> float | None:
        """Variance of the trials' per-bar Sharpes, carried over to `n_bars`; None for fewer than two that vary."""
        varying = self.returns[:, self.returns.std(axis=0) > 1e-12]
        if varying.shape[1] < 2 or len(varying) < 2:
            return None
        sharpes = varying.mean(axis=0) / varying.std(axis=0, ddof=1)
        return float(sharpes.var(ddof=1)) * len(varying) / n_bars


@dataclass(frozen=True)
class Overfitting:
    """Probability of backtest overfitting of the search, and its 5-95 % range on noise."""

    n_trials: int
    """Completed, whose returns vary."""
    n_bars: int
    n_blocks: int
    pbo: float | None = None
    noise_low: float | None = None
    noise_high: float | None = None
    not_computable: str = ""


def overfitting(returns: Array, *, seed: int = 0) -> Overfitting:
    """PBO (Bailey et al. 2017) of trials (T, N) on the same bars, beside what noise of the same kind gives.

    The noise: T independent bars of N normal returns without any mean and with the trials' own correlations (trials
    of one search resemble each other), drawn `NOISE_DRAWS` times. At least 10 trials and 10 bars a block; 4 to 10
    blocks, as many as the bars make.
    """
    r = returns[:, returns.std(axis=0) > 1e-12]
    n_bars, n_trials = r.shape
    n_blocks = min(BLOCKS[1], n_bars // MIN_BLOCK_BARS // 2 * 2)
    said = Overfitting(n_trials, n_bars, n_blocks)
    if n_trials < MIN_PBO_TRIALS:
        return replace(
            said, not_computable=f"{n_trials} trials were completed and traded, at least {MIN_PBO_TRIALS} are needed"
        )
    if n_blocks < BLOCKS[0]:
        least = BLOCKS[0] * MIN_BLOCK_BARS
        return replace(said, not_computable=f"the trials have {n_bars} out-of-sample bars, at least {least} are needed")
    try:
        pbo = probability_of_backtest_overfitting(r, n_blocks).pbo
    except ValueError as reason:  # a trial that traded only now and then
        return replace(said, not_computable=str(reason))
    rng = np.random.default_rng(seed)
    factor = _correlation_factor(r.T)
    noise = [
        probability_of_backtest_overfitting(rng.standard_normal((n_bars, factor.shape[1])) @ factor.T, n_blocks).pbo
        for _ in range(NOISE_DRAWS)
    ]
    low, high = np.quantile(noise, (0.05, 0.95))
    return replace(said, pbo=pbo, noise_low=float(low), noise_high=float(high))


def _correlation_factor(series: Array) -> Array:
    """F (K, r) with F F' the correlation matrix of K series (K, T), r <= min(K, T)."""
    centred = series - series.mean(axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(centred / np.linalg.norm(centred, axis=1, keepdims=True), full_matrices=False)
    return np.asarray(u * s)


# ---- the epochs of one fold


@dataclass(frozen=True)
class FoldLuck:
    """What noise would have shown on a fold's validation block, as the best annual Sharpe over its epochs."""

    fold: int
    n_validation_bars: int
    best_of_independent_epochs: float | None
    """Exact for as many independent epochs: an upper bound, as those of one training resemble each other."""
    best_of_correlated_epochs: float | None
    """With the correlations that the epochs' validation returns had."""


def fold_luck(outcome: FoldOutcome, *, periods_per_year: float, seed: int = 0) -> FoldLuck:
    """Both None for validation blocks under 3 bars, or where no epoch's returns vary."""
    returns = outcome.validation_returns[:, np.isfinite(outcome.validation_returns).all(axis=0)]
    n_epochs, n_bars = outcome.validation_returns.shape[0], returns.shape[1]
    return FoldLuck(
        fold=outcome.fold.index,
        n_validation_bars=n_bars,
        best_of_independent_epochs=best_of_epochs(n_epochs, n_bars, periods_per_year) if n_bars >= 3 else None,
        best_of_correlated_epochs=best_of_correlated_epochs(returns, periods_per_year=periods_per_year, seed=seed),
    )


def best_of_correlated_epochs(
    returns: Array, *, periods_per_year: float, n_draws: int = EPOCH_DRAWS, seed: int = 0
) -> float | None:
    """Expected best annual Sharpe over epochs without skill, correlated as the validation returns (E, n) are.

    `n_draws` times, n independent bars of E normal returns of mean 0 with these correlations; half the mean distance
    between the best and the worst Sharpe, which by symmetry is the expected best. Equal epochs: 0, as for one alone.
    Independent epochs: `best_of_epochs`, less a few percent where they outnumber the bars, whose sample correlations
    are then not all 0. Epochs that did not trade are left out; None under 3 bars or without any other.
    """
    traded = returns[returns.std(axis=1) > 1e-12] if returns.shape[1] >= 3 else returns[:0]
    if not len(traded):
        return None
    factor = _correlation_factor(traded)
    (n_epochs, rank), n_bars = factor.shape, returns.shape[1]
    rng = np.random.default_rng(seed)
    span = 0.0
    for chunk in np.array_split(np.arange(n_draws), -(-n_draws * n_bars * n_epochs // 4_000_000)):  # bounds the memory
        noise = rng.standard_normal((len(chunk), n_bars, rank)) @ factor.T  # (draws, n, E)
        sharpes = noise.mean(axis=1) / noise.std(axis=1, ddof=1)
        span += float((sharpes.max(axis=1) - sharpes.min(axis=1)).sum())
    return span / (2.0 * n_draws) * math.sqrt(periods_per_year)


# ---- the whole run


@dataclass(frozen=True)
class Looked:
    """What another configuration showed on an overlapping holdout; `sharpe` annual, None where it has none."""

    sharpe: float | None
    n_bars: int


@dataclass(frozen=True)
class Inference:
    """Everything that is said of a production run's numbers."""

    verdict: str
    holdout: SharpeInference | None
    """Of the bars that took no part in selection; deflated by the configurations that have looked at them."""
    development: SharpeInference | None
    """Of the bars on which columns and parameters were chosen: not out-of-sample. Deflated by the trials."""
    tuning: SharpeInference | None
    """Of the chosen trial, on the bars that chose it. Deflated by the trials."""
    overfitting: Overfitting | None
    folds: tuple[FoldLuck, ...]
    against_untuned: BaselineRow | None
    """The run against the same walk-forward with the untuned configuration (trial 0), on the holdout."""
    baselines: tuple[BaselineRow, ...]


def infer(
    record: Record,
    outcomes: Sequence[FoldOutcome],
    *,
    selection: Literal["holdout", "nested"] = "holdout",
    trials: Trials | None = None,
    others: Sequence[Looked] = (),
    against_untuned: BaselineRow | None = None,
    baselines: Sequence[BaselineRow] = (),
    seed: int = 0,
) -> Inference:
    """Judge a walk-forward. `others`: the other configurations that have looked at an overlapping holdout.

    `trials`: the search on development bars; None where there was none, or where each fold had its own.
    """
    periods = record.timing.periods_per_year

    def returns(segment: Segment) -> Array | None:
        chosen = record.net()[record.segment == segment]
        return chosen if np.isfinite(chosen).any() else None

    clean, selected_on = returns("holdout"), returns("development")
    holdout = development = None
    if clean is not None:
        variance = _looks_variance(clean, others, periods)
        holdout = sharpe_inference(clean, periods_per_year=periods, n_trials=1 + len(others), trial_variance=variance)
    if selected_on is not None:
        development = sharpe_inference(
            selected_on,
            periods_per_year=periods,
            n_trials=trials.n_started if trials else 1,
            trial_variance=trials.variance(int(np.isfinite(selected_on).sum())) if trials else None,
        )
    return Inference(
        verdict=verdict(holdout, baselines, selection=selection),
        holdout=holdout,
        development=development,
        tuning=sharpe_inference(
            trials.returns[:, trials.best],
            periods_per_year=periods,
            n_trials=trials.n_started,
            trial_variance=trials.variance(len(trials.returns)),
        )
        if trials
        else None,
        overfitting=overfitting(trials.returns, seed=seed) if trials else None,
        folds=tuple(fold_luck(outcome, periods_per_year=periods, seed=seed) for outcome in outcomes),
        against_untuned=against_untuned,
        baselines=tuple(baselines),
    )


def _looks_variance(returns: Array, others: Sequence[Looked], periods_per_year: float) -> float | None:
    """Variance of the per-bar Sharpes of all configurations that looked, carried over to the length of `returns`."""
    r = returns[np.isfinite(returns)]
    sharpes = [
        other.sharpe * math.sqrt(other.n_bars / len(r) / periods_per_year)  # the error of a Sharpe falls with sqrt(T)
        for other in others
        if other.sharpe is not None
    ]
    if len(sharpes) + 1 < MIN_LOOKS or len(r) < MIN_BARS or not r.std() > 1e-12:
        return None
    return float(np.var([*sharpes, float(r.mean() / r.std(ddof=1))], ddof=1))


def metrics(result: Inference) -> dict[str, float | None]:
    """The figures as MLflow metrics, by name; annual unless a name says otherwise."""
    named: dict[str, float | None] = {}
    for prefix, one in (("oos", result.holdout), ("development", result.development)):
        if one:
            named |= {
                f"{prefix}_sharpe_se": one.standard_error,
                f"{prefix}_sharpe_low": one.low,
                f"{prefix}_sharpe_high": one.high,
                f"{prefix}_p_value": one.p_value,
                f"{prefix}_p_value_deflated": one.p_value_deflated,
                f"{prefix}_psr": one.psr,
                f"{prefix}_dsr": one.dsr,
                f"{prefix}_min_trl_bars": one.min_trl_bars,
            }
    if result.holdout:
        named["n_configurations_looked"] = result.holdout.n_trials
    if result.tuning:
        named |= {"tuning_sharpe": result.tuning.sharpe, "tuning_sharpe_dsr": result.tuning.dsr}
    if result.overfitting:
        named |= {
            "pbo": result.overfitting.pbo,
            "pbo_noise_low": result.overfitting.noise_low,
            "pbo_noise_high": result.overfitting.noise_high,
        }
    if result.against_untuned:
        named["oos_sharpe_over_untuned"] = result.against_untuned.difference_annual
    return named


# ---- the verdict


def verdict(
    holdout: SharpeInference | None,
    baselines: Sequence[BaselineRow] = (),
    *,
    selection: Literal["holdout", "nested"] = "holdout",
) -> str:
    """What the run's one clean number is worth, in a sentence."""
    name = "Holdout Sharpe" if selection == "holdout" else "Nested out-of-sample Sharpe"
    if holdout is None:
        return "There is no holdout with a known return: no number of this run is out-of-sample."
    assert holdout.detectable_sharpe is not None  # it has bars
    smallest = f"the smallest Sharpe that this sample could have detected is {holdout.detectable_sharpe:.1f}"
    if holdout.sharpe is None:
        return f"{name} undefined: {holdout.undefined}; {smallest}."
    if holdout.p_value_deflated is None:
        return f"{name} {holdout.sharpe:z.2f}: {holdout.undefined}; {smallest}."
    assert holdout.standard_error is not None and holdout.high is not None
    figure = f"{name} {holdout.sharpe:z.2f} ± {holdout.standard_error:.2f}"
    p = _p_text(holdout)
    if holdout.p_value_deflated < SIGNIFICANT:
        said = f"{figure}: more than luck alone would give ({p})"
        if holdout.sharpe < holdout.detectable_sharpe:  # such a find owes something to luck even where it is true
            said = f"{said}; {smallest}"
    elif holdout.high < 0.0:
        said = f"{figure}: it lost more than luck alone explains ({p}); {smallest}"
    elif holdout.sharpe <= 0.0:
        said = f"{figure}: no sign of skill ({p}); {smallest}"
    else:
        assert holdout.bars_needed is not None
        years = holdout.bars_needed * holdout.years / holdout.n_bars
        said = f"{figure}: not distinguishable from luck ({p}); {_years(years)} of this would be needed; {smallest}"
    return f"{said}{_against_baselines(baselines)}."


def _p_text(one: SharpeInference) -> str:
    p = one.p_value_deflated
    assert p is not None
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text if one.n_trials == 1 else f"{text}, as one of {one.n_trials} configurations that have looked at it"


def _years(years: float) -> str:
    if years > 1000.0:
        return "more than 1,000 years"
    return f"about {years:.0f} years" if years >= 9.5 else f"about {years:.1f} years"


def _against_baselines(rows: Sequence[BaselineRow]) -> str:
    """Empty where nothing could be compared."""
    compared = [
        (row.difference_annual, row)
        for row in rows
        if row.segment == "holdout" and row.difference_annual is not None and row.interval_low_annual is not None
    ]
    level = sorted(
        ((difference, row) for difference, row in compared if (row.interval_low_annual or 0.0) <= 0.0),
        key=lambda pair: pair[0],
    )
    if not compared:
        return ""
    if not level:
        return f"; it beats {' and '.join(row.baseline for _, row in compared)}"
    difference, worst = level[0]
    error = "" if worst.difference_se_annual is None else f" ± {worst.difference_se_annual:.2f}"
    names = [f"{worst.baseline} (difference {difference:z.2f}{error})", *(row.baseline for _, row in level[1:])]
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    return f"; it does not {'clearly ' if difference > 0.0 else ''}beat {listed}"
