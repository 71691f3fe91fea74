"""Simulation of the size of standard errors, intervals and p-values of `pipeline.statistics.significance`.

    python -m benchmarks.significance_size

Three kinds of returns, Sharpe 0.05 per bar (0.8 a year) unless it says noise: iid Student t with 5 degrees of freedom,
GARCH(1,1) with normal shocks (0.08, 0.90), AR(1) with coefficient 0.2. Seeded, a minute and a half on one core; the
results stated in the docstrings of `pipeline/statistics/significance.py` come from here. Read a share of 0.050 out of
2,000 repetitions as 0.050 ± 0.010.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.significance import (
    best_of_epochs,
    deflated_sharpe_ratio,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
    sequential_p_value,
    sharpe_difference,
    sharpe_standard_error,
)

Array = NDArray[np.float64]
REPETITIONS = 2000
LENGTHS = (63, 252, 1068)
PROCESSES = ("iid t5", "GARCH", "AR 0.2")
SHARPE = 0.05


def simulate(process: str, n_bars: int, shocks: Array, rng: np.random.Generator) -> Array:
    """Unit-variance, mean-zero series (..., n_bars) driven by standard normal shocks (..., 100 + n_bars)."""
    out = np.empty_like(shocks)
    if process == "iid t5":
        out = shocks / np.sqrt(rng.chisquare(5, size=shocks.shape) / 5) / np.sqrt(5 / 3)
    elif process == "AR 0.2":
        out[..., 0] = shocks[..., 0]
        for t in range(1, shocks.shape[-1]):
            out[..., t] = 0.2 * out[..., t - 1] + np.sqrt(1 - 0.2**2) * shocks[..., t]
    else:
        variance = np.ones(shocks.shape[:-1])
        for t in range(shocks.shape[-1]):
            out[..., t] = np.sqrt(variance) * shocks[..., t]
            variance = 0.02 + 0.08 * out[..., t] ** 2 + 0.90 * variance
    return out[..., -n_bars:]


def pairs(process: str, n_bars: int, rng: np.random.Generator) -> Array:
    """Pairs of series (REPETITIONS, 2, n_bars) whose shocks have a correlation of 0.7."""
    first, own = rng.standard_normal((2, REPETITIONS, 100 + n_bars))
    second = 0.7 * first + np.sqrt(1 - 0.7**2) * own
    return simulate(process, n_bars, np.stack([first, second], axis=1), rng)


def coverage() -> None:
    print(f"\n95 % interval of a Sharpe ratio, SR ± 1.96 standard errors: coverage, {REPETITIONS} repetitions")
    print("process    bars     iid  mertens      hac")
    for process in PROCESSES:
        for n_bars in LENGTHS:
            returns = SHARPE + pairs(process, n_bars, np.random.default_rng(n_bars))[:, 0]
            errors = np.abs(returns.mean(axis=1) / returns.std(axis=1, ddof=1) - SHARPE)
            shares = [
                np.mean([e <= 1.96 * sharpe_standard_error(r, method=m) for e, r in zip(errors, returns, strict=True)])
                for m in ("iid", "mertens", "hac")
            ]
            print(f"{process:8} {n_bars:6d} " + " ".join(f"{share:8.3f}" for share in shares), flush=True)


def difference() -> None:
    print(f"\nSharpe difference, shocks correlated 0.7, {REPETITIONS} repetitions, 499 resamples")
    print("size: share of p <= 0.05 at no difference; power: the same where a's Sharpe is larger by `detectable`")
    print("process    bars    size   power  |z| > 1.96 with the HAC error, no bootstrap")
    for process in PROCESSES:
        for n_bars in LENGTHS:
            returns = SHARPE + pairs(process, n_bars, np.random.default_rng(n_bars + 1))
            results = [sharpe_difference(a, b, n_bootstrap=499, seed=i) for i, (a, b) in enumerate(returns)]
            size = np.mean([r.p_value <= 0.05 for r in results])
            normal = np.mean([abs(r.difference) > 1.96 * r.standard_error for r in results])
            detectable = float(np.median([r.detectable for r in results]))
            better = [(a + detectable, b) for a, b in returns[:500]]
            power = np.mean([sharpe_difference(a, b, n_bootstrap=499).p_value <= 0.05 for a, b in better])
            print(f"{process:8} {n_bars:6d} {size:7.3f} {power:7.3f} {normal:7.3f}", flush=True)


def probabilities() -> None:
    rng = np.random.default_rng(3)
    noise = rng.standard_t(5, size=(REPETITIONS, 10, 252))
    sharpes = noise.mean(axis=2) / noise.std(axis=2, ddof=1)
    z = (noise - noise.mean(axis=2, keepdims=True)) / noise.std(axis=2, keepdims=True)
    g3, g4 = (z**3).mean(axis=2), (z**4).mean(axis=2)
    psr = [
        probabilistic_sharpe_ratio(s, n_bars=252, skewness=a, kurtosis=b)
        for s, a, b in zip(sharpes[:, 0], g3[:, 0], g4[:, 0], strict=True)
    ]
    dsr, undeflated = [], []
    for i, best in enumerate(sharpes.argmax(axis=1)):
        moments = {"n_bars": 252, "skewness": g3[i, best], "kurtosis": g4[i, best]}
        undeflated.append(probabilistic_sharpe_ratio(sharpes[i, best], **moments))
        variance = float(sharpes[i].var(ddof=1))
        dsr.append(deflated_sharpe_ratio(sharpes[i, best], **moments, n_trials=10, trial_variance=variance))
    print(f"\nNoise (iid t5), 252 bars, {REPETITIONS} repetitions")
    print(f"one trial: PSR > 0.95 in {np.mean(np.array(psr) > 0.95):.3f}")
    print(f"best of 10: PSR > 0.95 in {np.mean(np.array(undeflated) > 0.95):.3f}", end=", ")
    print(f"DSR > 0.95 in {np.mean(np.array(dsr) > 0.95):.3f}")


def overfitting() -> None:
    rng = np.random.default_rng(4)
    pbo = [probability_of_backtest_overfitting(rng.standard_normal((126, 40)), 10).pbo for _ in range(REPETITIONS)]
    low, middle, high = np.quantile(pbo, [0.05, 0.5, 0.95])
    print(f"\nPBO of noise, 40 trials x 126 bars, 10 blocks: median {middle:.2f}, 5-95 % range {low:.2f} to {high:.2f}")


def epochs() -> None:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((REPETITIONS, 80, 21))
    best = (noise.mean(axis=2) / noise.std(axis=2, ddof=1)).max(axis=1) * np.sqrt(252)
    simulated = f"{best.mean():.2f} ± {best.std() / np.sqrt(REPETITIONS):.2f}"
    print(f"\nbest of 80 noise epochs on 21 bars: exact {best_of_epochs(80, 21):.2f}, simulated {simulated}")


def sequential() -> None:
    rng = np.random.default_rng(6)
    results = [sequential_p_value(rng.random(99) >= rng.random(), 5, 99) for _ in range(20 * REPETITIONS)]
    p, used = np.array([r.p_value for r in results]), np.array([r.n_used for r in results])
    print(f"\nsequential p-value under the null, h = 5, m = 99, {len(results)} repetitions:", end=" ")
    print(", ".join(f"p <= {level} in {np.mean(p <= level):.4f}" for level in (0.01, 0.05, 0.1)), end="; ")
    print(f"draws used: mean {used.mean():.0f}, median {np.median(used):.0f}")


if __name__ == "__main__":
    for part in (coverage, difference, probabilities, overfitting, epochs, sequential):
        part()
