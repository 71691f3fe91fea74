"""Simulation of how often two equal recipes are told apart, by two trainings and by several seeds an arm.

    nice -n 10 python -m benchmarks.comparison_size
    nice -n 10 python -m benchmarks.comparison_size --samples 200

Returns of seed k of an arm: its own true Sharpe, plus a market that all seeds of both arms share, plus what the seeds
of an arm share, plus its own noise, all with fat tails (Student t, 5 degrees of freedom, the same mixing for all at a
bar). The true Sharpes of the seeds scatter around 0.5 a year by the standard deviation in the column "scatter". Three
markets, by the correlation of two seeds of one arm and of two seeds of different arms: 0.4 and 0.4, 0.8 and 0.8, and
0.7 and 0.4 (recipes that trade differently).

"two runs" compares one training of each arm as if its bars were all that could have been otherwise (Ledoit & Wolf 2008,
`sharpe_difference`); the others are `seed_difference`. Size: share of p <= 0.05 at no difference. Power: the same at a
true difference of 2.8 standard deviations of the difference of the arms' means, where a test that knew this standard
deviation would find four of five. Read a share of 5.0 % of 2,000 samples as 5.0 ± 1.0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import click
import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.difference import sharpe_difference
from pipeline.statistics.seed_comparison import seed_difference

Array = NDArray[np.float64]
PERIODS_PER_YEAR = 252.0
SHARPE = 0.5
MARKETS = ((0.4, 0.4), (0.8, 0.8), (0.7, 0.4))
"""Correlation of two seeds of one arm, and of two seeds of different arms."""
LENGTHS = (252, 1050)
SEEDS = (5, 10)
SCATTERS = (0.0, 0.5, 1.0, 1.5)
"""Standard deviation of the seeds' true annual Sharpes."""
CHUNK = 100
"""Samples drawn at a time, which bounds the memory."""


def samples(
    n: int, n_seeds: int, n_bars: int, *, scatter: float, within: float, across: float, gain: float, seed: int
) -> Iterator[Array]:
    """`n` times the returns (2, K, T) of both arms, baseline first; `gain` is the candidate's annual advantage."""
    rng = np.random.default_rng([seed, n_seeds, n_bars])
    for start in range(0, n, CHUNK):
        size = min(CHUNK, n - start)
        market = rng.standard_normal((size, 1, 1, n_bars))
        of_arm = rng.standard_normal((size, 2, 1, n_bars))
        own = rng.standard_normal((size, 2, n_seeds, n_bars))
        noise = math.sqrt(across) * market + math.sqrt(within - across) * of_arm + math.sqrt(1.0 - within) * own
        noise *= np.sqrt(3.0 / 5.0) / np.sqrt(rng.chisquare(5, (size, 1, 1, n_bars)) / 5.0)
        annual = SHARPE + scatter * rng.standard_normal((size, 2, n_seeds)) + np.array([[0.0], [gain]])
        yield from noise + annual[..., None] / math.sqrt(PERIODS_PER_YEAR)


def p_value(baseline: Array, candidate: Array) -> float:
    """Two-sided p-value of two arms (K, T)."""
    found = seed_difference(baseline, candidate, periods_per_year=PERIODS_PER_YEAR).p_value
    assert found is not None, "there are seeds and bars enough"
    return found


def two_runs(arms: Array) -> float:
    """Two-sided p-value of the first seed of each arm (2, K, T) as the comparison of two realised runs has it."""
    return sharpe_difference(arms[1, 0], arms[0, 0], n_bootstrap=199).p_value


@click.command()
@click.option("--samples", "n_samples", default=2000, show_default=True, help="Samples an arm, of each cell.")
def main(n_samples: int) -> None:
    """Print a Markdown table of sizes and powers in percent."""
    print(
        "| correlation within, across | bars | scatter | two runs | " + " | ".join(f"{k} seeds" for k in SEEDS), end=""
    )
    print(" | " + " | ".join(f"power, {k} seeds" for k in SEEDS) + " |\n" + "|---" * (4 + 2 * len(SEEDS)) + "|")
    for within, across in MARKETS:
        for n_bars in LENGTHS:
            for scatter in SCATTERS:
                cell = {"scatter": scatter, "within": within, "across": across}
                of_runs: list[float] = []
                sizes, powers = [], []
                for n_seeds in SEEDS:
                    p_values, differences = [], []
                    for arms in samples(n_samples, n_seeds, n_bars, **cell, gain=0.0, seed=1):
                        p_values.append(p_value(arms[0], arms[1]))
                        means = (arms.mean(axis=2) / arms.std(axis=2, ddof=1)).mean(axis=1)
                        differences.append(float(means[1] - means[0]) * math.sqrt(PERIODS_PER_YEAR))
                        if n_seeds == SEEDS[0]:
                            of_runs.append(two_runs(arms))
                    gain = 2.8 * float(np.std(differences))
                    better = samples(n_samples, n_seeds, n_bars, **cell, gain=gain, seed=2)
                    sizes.append(np.mean(np.array(p_values) <= 0.05))
                    powers.append(np.mean([p_value(arms[0], arms[1]) <= 0.05 for arms in better]))
                shares = [np.mean(np.array(of_runs) <= 0.05), *sizes, *powers]
                figures = " | ".join(f"{100.0 * share:.1f}" for share in shares)
                print(f"| {within}, {across} | {n_bars} | {scatter} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
