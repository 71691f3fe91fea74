"""How often is drift certified as skill, and how often is skill found? 2,000 samples an arm, a nominal 5 %.

    python -m benchmarks.verdict_size                       # 4 minutes on one core
    python -m benchmarks.verdict_size --samples 200         # a try

A market of 12 instruments: Student-t noise (5 degrees of freedom), half of it common, constant volatility, and mean
returns that give the long-only portfolio the stated Sharpe and spread around it from instrument to instrument. Records
of 252 and 1,050 bars, no costs (costs only lower every figure). Nobody in the upper table knows anything:

    random timing       long in every instrument, and independent noise anew on every bar
    persistent timing   the same with noise that lasts (AR 0.97)
    learned tilts       each instrument held by the mean return of the 500 bars before the record, and a little noise
    momentum            the sign of each instrument's return over the last 20 bars

For each: the share of samples that pass p < 0.05 by the Sharpe against 0, by a regression on long only alone, and by
the verdict's regression (pipeline/statistics/drift.py). The lower table: half the market, and returns uncorrelated
with it whose true Sharpe is the stated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import click
import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.drift import Drift, skill_inference
from pipeline.statistics.sharpe import SIGNIFICANT, sharpe_inference

Array = NDArray[np.float64]

N_ASSETS, N_PAST, PERIODS = 12, 500, 252.0
N_BARS = (252, 1050)
MARKET_SHARPES = (0.0, 0.5, 1.0)
SKILLS = (0.5, 1.0, 2.0)
VOLATILITY = 0.01
"""Of an instrument, per bar"""


def market(n_bars: int, market_sharpe: float, rng: np.random.Generator) -> Array:
    """(N_PAST + n, A) returns; the record is the last n bars."""
    shape = (N_PAST + n_bars, N_ASSETS)
    common, own = rng.standard_t(5, (shape[0], 1)), rng.standard_t(5, shape)
    noise = (math.sqrt(0.5) * common + math.sqrt(0.5) * own) / math.sqrt(5.0 / 3.0)
    portfolio_sd = math.sqrt(0.5 + 0.5 / N_ASSETS)
    mean = market_sharpe / math.sqrt(PERIODS) * portfolio_sd + 0.5 / math.sqrt(PERIODS) * rng.standard_normal(N_ASSETS)
    return np.asarray(VOLATILITY * (mean + noise))


def random_timing(returns: Array, n_bars: int, rng: np.random.Generator) -> Array:
    return np.asarray(0.5 + 0.5 * rng.standard_normal((n_bars, N_ASSETS)))


def persistent_timing(returns: Array, n_bars: int, rng: np.random.Generator) -> Array:
    rho = 0.97
    state = rng.standard_normal(N_ASSETS)
    out = np.empty((n_bars, N_ASSETS))
    for t in range(n_bars):
        out[t] = state
        state = rho * state + math.sqrt(1.0 - rho**2) * rng.standard_normal(N_ASSETS)
    return 0.5 + 0.5 * out


def learned_tilts(returns: Array, n_bars: int, rng: np.random.Generator) -> Array:
    tilt = returns[:N_PAST].mean(axis=0) / VOLATILITY * math.sqrt(PERIODS)
    return np.asarray(tilt + 0.2 * rng.standard_normal((n_bars, N_ASSETS)))


def momentum(returns: Array, n_bars: int, rng: np.random.Generator) -> Array:
    summed = np.cumsum(returns, axis=0)
    known = np.arange(len(returns) - n_bars - 1, len(returns) - 1)  # decided before the bar that is earned
    return np.sign(summed[known] - summed[known - 20])


STRATEGIES: dict[str, Callable[[Array, int, np.random.Generator], Array]] = {
    "random timing": random_timing,
    "persistent timing": persistent_timing,
    "learned tilts": learned_tilts,
    "momentum": momentum,
}


def drift_of(position: Array, legs: Array) -> Drift:
    """Positions and returns (n, A) as the verdict sees them."""
    tilt = (position.mean(axis=0) * legs).mean(axis=1)
    return Drift((position * legs).mean(axis=1), legs.mean(axis=1), tilt, varies=True)


def passes(drift: Drift) -> tuple[bool, bool, bool]:
    """Whether p < 0.05 by the Sharpe against 0, by long only alone, and by the verdict."""
    p_values = (
        sharpe_inference(drift.net, periods_per_year=PERIODS).p_value,
        skill_inference(replace(drift, tilt=drift.market), periods_per_year=PERIODS).neutral.p_value,
        skill_inference(drift, periods_per_year=PERIODS).neutral.p_value,
    )
    return tuple(p is not None and p < SIGNIFICANT for p in p_values)  # type: ignore[return-value]


@click.command()
@click.option("--samples", default=2000, show_default=True, help="Samples an arm.")
@click.option("--seed", default=0, show_default=True)
def main(samples: int, seed: int) -> None:
    print("| strategy without skill | market Sharpe | bars | Sharpe against 0 | long only alone | verdict |")
    print("|---|---|---|---|---|---|")
    largest = 0.0
    for arm, (name, strategy) in enumerate(STRATEGIES.items()):
        for sharpe in MARKET_SHARPES:
            for n_bars in N_BARS:
                found = []
                for sample in range(samples):
                    rng = np.random.default_rng([seed, arm, sample])
                    returns = market(n_bars, sharpe, rng)
                    found.append(passes(drift_of(strategy(returns, n_bars, rng), returns[-n_bars:])))
                shares = np.mean(found, axis=0)
                largest = max(largest, shares[2])
                print(
                    f"| {name} | {sharpe:g} | {n_bars:,} | " + " | ".join(f"{x:.1%}" for x in shares) + " |", flush=True
                )
    print(
        f"\nlargest share that the verdict certifies: {largest:.1%} (standard error at 5 %: "
        f"{math.sqrt(0.05 * 0.95 / samples):.1%})\n"
    )
    print("| true Sharpe beyond drift | bars | found |")
    print("|---|---|---|")
    for skill in SKILLS:
        for n_bars in N_BARS:
            found = []
            for sample in range(samples):
                rng = np.random.default_rng([seed, sample])
                long_only = market(n_bars, 0.5, rng)[-n_bars:].mean(axis=1)
                active = rng.standard_t(5, n_bars) / math.sqrt(5.0 / 3.0) + skill / math.sqrt(PERIODS)
                drift = Drift(0.5 * long_only + 0.5 * VOLATILITY * active, long_only, 0.5 * long_only, varies=True)
                found.append(passes(drift)[2])
            print(f"| {skill:g} | {n_bars:,} | {np.mean(found):.0%} |", flush=True)


if __name__ == "__main__":
    main()
