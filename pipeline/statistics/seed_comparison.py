"""Two arms of a comparison, each trained several times with different seeds: the difference of their Sharpe ratios.

The estimand is the Sharpe that a training of the candidate's recipe is expected to have, over its seeds, minus the same
of the baseline's. Two things separate what was seen from it: the seeds that happened to be drawn, and the bars.

Shapes: K seeds of an arm, T bars.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from pipeline.statistics.arguments import is_constant
from pipeline.statistics.standard_errors import (
    automatic_lags,
    long_run_variance,
    per_bar_sharpe,
    satterthwaite,
    sharpe_scores,
)
from tft.metrics import MIN_INFERENCE_BARS

Array = NDArray[np.float64]

MIN_SEEDS = 5
"""No interval or p-value is given from fewer seeds of an arm: with fewer, how far seeds scatter is itself a guess."""
TOO_FEW_SEEDS = f"a p-value needs {MIN_SEEDS} seeds an arm, since seeds alone move a Sharpe"


@dataclass(frozen=True)
class SeedDifference:
    """The candidate's expected Sharpe minus the baseline's, annual. What cannot be said is None."""

    n_bars: int
    sharpes: tuple[tuple[float, ...], tuple[float, ...]]
    """Sharpe of each seed of the baseline and of the candidate."""
    difference: float
    """Mean Sharpe of the candidate minus the baseline's."""
    standard_error: float | None = None
    """Error by bars and seeds together; by the bars alone where an arm has a single seed. None without inference."""
    sampling_error: float | None = None
    """The part that other bars would change."""
    seed_error: float | None = None
    """The part that other seeds would change; the two add up in squares. None where an arm has a single seed."""
    degrees_of_freedom: float | None = None
    p_value: float | None = None
    """Two-sided p-value of no difference."""
    interval: tuple[float, float] | None = None
    """95 % interval."""
    detectable: float | None = None
    """The smallest true difference found with 80 % power at 5 % two-sided."""
    undefined: str = ""
    """Why there is no p-value; empty where there is one."""

    @property
    def n_seeds(self) -> tuple[int, int]:
        """Seeds of the baseline and of the candidate."""
        return len(self.sharpes[0]), len(self.sharpes[1])


def seed_difference(
    baseline: ArrayLike, candidate: ArrayLike, *, periods_per_year: float, lags: int | None = None
) -> SeedDifference:
    """Compare two arms by the net returns of their seeds, (K, T) each, all over the same T bars.

    Seed k's Sharpe is that of its arm, plus what this seed makes of it, plus the sampling error of the bars. The seeds
    of an arm share the bars, so that their sampling errors are alike, and a mean over seeds does not average them out.
    With z the scores of the delta method (`sharpe_scores`), a bar over them for their mean over an arm's seeds, and HAC
    the long-run variance of a mean (Bartlett weights, one number of lags):

        H      = HAC(bar z_candidate - bar z_baseline)                 sampling variance of the difference
        c_arm  = sum_k HAC(z_k - bar z) / (K - 1)                      the part of it that a seed has for itself
        shared = max(H - c_baseline / K - c_candidate / K, 0)          the part that all seeds of an arm share
        SE^2   = shared + s_baseline^2 / K + s_candidate^2 / K         s^2 the variance of the K Sharpes of an arm

    s^2 holds both the variance between seeds and c, which is why c is taken out of H. It is Welch's (1947) error where
    nothing is shared, and Ledoit & Wolf's (2008) where seeds do not differ. The test is Student's t with the degrees of
    freedom SE^4 / sum(s^4 / K^2 / (K - 1)) of Satterthwaite (1946): the shared part is taken as known.

    There is no p-value under MIN_SEEDS seeds, under MIN_INFERENCE_BARS bars, or with returns that never move. `lags`
    None: Andrews 1991. Raises ValueError for arms on different bars and for returns that are missing.
    """
    arms = [np.atleast_2d(np.asarray(arm, dtype=np.float64)) for arm in (baseline, candidate)]
    n = arms[0].shape[1]
    if arms[1].shape[1] != n:
        raise ValueError(f"the baseline has {n} bars and the candidate {arms[1].shape[1]}: compare the same bars")
    if not all(np.isfinite(arm).all() for arm in arms):
        raise ValueError("a return is missing or infinite: compare the bars on which all seeds have one")
    still = [[is_constant(r) for r in arm] for arm in arms]
    sharpes = [
        np.array([0.0 if flat else per_bar_sharpe(r) for r, flat in zip(arm, own, strict=True)])
        for arm, own in zip(arms, still, strict=True)
    ]
    annual = math.sqrt(periods_per_year)
    known = SeedDifference(
        n_bars=n,
        sharpes=(tuple((annual * sharpes[0]).tolist()), tuple((annual * sharpes[1]).tolist())),
        difference=annual * float(sharpes[1].mean() - sharpes[0].mean()),
    )
    if n < MIN_INFERENCE_BARS:
        return replace(known, undefined=f"{n} bars allow no inference, {MIN_INFERENCE_BARS} do")
    if any(map(any, still)):
        names = [name for name, own in zip(("baseline", "candidate"), still, strict=True) if any(own)]
        return replace(known, undefined=f"the returns of a seed of the {' and of the '.join(names)} never move")

    scores = [np.array([sharpe_scores(r) for r in arm]) for arm in arms]
    of_bars, shared = sampling_variances(scores[0], scores[1], lags)
    fewest = min(known.n_seeds)
    if fewest == 1:
        error = annual * math.sqrt(of_bars)
        return replace(known, standard_error=error, sampling_error=error, undefined=TOO_FEW_SEEDS)
    variance, freedom = welch(*sharpes, shared=shared)
    error = annual * math.sqrt(variance)
    known = replace(
        known,
        standard_error=error,
        sampling_error=min(annual * math.sqrt(of_bars), error),
        seed_error=annual * math.sqrt(max(variance - of_bars, 0.0)),
    )
    if fewest < MIN_SEEDS:
        return replace(known, undefined=TOO_FEW_SEEDS)
    if error <= 1e-9:
        return replace(known, undefined="neither bars nor seeds tell the arms apart")
    critical = float(student.ppf(0.975, freedom)) * error
    return replace(
        known,
        degrees_of_freedom=freedom,
        p_value=float(2.0 * student.sf(abs(known.difference) / error, freedom)),
        interval=(known.difference - critical, known.difference + critical),
        detectable=critical + float(student.ppf(0.8, freedom)) * error,
    )


def welch(baseline: Array, candidate: Array, *, shared: float) -> tuple[float, float]:
    """Squared error of the difference of two means over seeds (K,), and its degrees of freedom (Satterthwaite 1946).

    shared: variance of the difference that more seeds would not reduce, taken as known. With 0 this is Welch's test;
    where seeds do not differ at all, the degrees of freedom are infinite.
    """
    own = [(float(arm.var(ddof=1)) / len(arm), len(arm) - 1.0) for arm in (baseline, candidate)]
    return shared + sum(variance for variance, _ in own), satterthwaite((shared, math.inf), *own)


def sampling_variances(baseline: Array, candidate: Array, lags: int | None = None) -> tuple[float, float]:
    """Sampling variance, per bar, of the difference of the arms' mean Sharpes, and the part of it that the seeds of an
    arm share, from their scores (K, T). Where an arm has one seed, what is its own cannot be told apart: all is shared.
    """
    means = [scores.mean(axis=0) for scores in (baseline, candidate)]
    paired = means[1] - means[0]
    lags = automatic_lags(paired) if lags is None else lags
    of_bars = _of_the_mean(paired, lags)
    own = sum(
        sum(_of_the_mean(one, lags) for one in scores - mean) / (len(scores) - 1) / len(scores)
        for scores, mean in zip((baseline, candidate), means, strict=True)
        if len(scores) > 1
    )
    return of_bars, max(of_bars - own, 0.0)


def _of_the_mean(scores: Array, lags: int) -> float:
    """Variance of the mean of `scores` (T,); 0 for scores that vanish."""
    return max(long_run_variance(scores, lags), 0.0) / len(scores)
