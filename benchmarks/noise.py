"""On pure noise, is a placebo's p-value uniform, and how much does selection inflate the tuning Sharpe?

    python -m benchmarks.noise              # 20 seeds, 19 repetitions each: half an hour on two cores
    python -m benchmarks.noise --jobs 16    # the same, sixteen jobs at a time

For each seed a table without any signal is generated and the whole job runs on it with configs/micro.yaml, and again on
19 shifts of its targets, without early stopping and without MLflow; compared are the neutral Sharpes. Of 20 uniform
p-values at most 3 are <= 0.05 and at most 5 are <= 0.10 in about 98 % of cases each. Beside it stands the Sharpe of the
best trial on the bars that chose it. Writes benchmarks/noise.png.

The shifts have room because configs/micro.yaml says `feature_lookback_bars: 21`: of its twelve columns, none of which
is made from prices, the longest look-back is that of the transform _z21.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.config.reading import load_config
from pipeline.config.schema import Config
from pipeline.execution import in_processes
from pipeline.experiments.placebo_targets import best_trial_sharpe, repetition
from pipeline.flow import out_of_sample
from pipeline.job import open_job
from pipeline.reporting.figures import BLUE, GREY, VERMILION, empty_figure
from pipeline.statistics.drift import drift_of, skill_inference
from pipeline.statistics.significance import monte_carlo_p_value
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.sink import Silent

HERE = Path(__file__).resolve().parent
SEEDS = tuple(range(401, 421))
"""Fixed beforehand."""
REPETITIONS = 19


@dataclass(frozen=True)
class Piece:
    """Result of one run of the whole job; Sharpe ratios are annual, and net unless stated otherwise."""

    seed: int
    repetition: int
    """Number of the shift; 0 is the original table"""
    oos_sharpe: float
    oos_sharpe_neutral: float
    oos_sharpe_gross: float
    tuning_sharpe: float
    seconds: float


def config_of(seed: int) -> Config:
    settings = [f"seed={seed}", f"data.sample.seed={seed}", "data.sample.oracle_sharpe=0"]
    return load_config(HERE.parent / "configs" / "micro.yaml", [*settings, f"data.source=data/noise-{seed}.parquet"])


def run(_: None, which: tuple[int, int]) -> Piece:
    started = time.perf_counter()
    seed, number = which
    job, kept = open_job(config_of(seed), Quiet().say), Kept()
    walked = out_of_sample(
        repetition(job, number)[0] if number else job, Silent(kept), Quiet(), store=kept.folds(f"{seed}-{number}")
    )
    holdout = walked.record.performance("holdout")
    assert holdout is not None
    drift = drift_of(walked.record, walked.market, walked.last_positions, "holdout")
    neutral = skill_inference(drift, periods_per_year=job.config.periods_per_year).neutral.sharpe
    assert neutral is not None
    found = holdout.sharpe, neutral, holdout.sharpe_gross, best_trial_sharpe(walked)
    return Piece(seed, number, *found, seconds=time.perf_counter() - started)


def figure(
    seeds: tuple[int, ...],
    p_values: NDArray[np.float64],
    tuning: NDArray[np.float64],
    holdout: NDArray[np.float64],
) -> Figure:
    """Plot p-values (n seeds,) against a uniform distribution, and the tuning and holdout Sharpe of the same runs."""
    drawn, (above, below) = empty_figure(8.0, (1, 1), sharex=False)
    n = len(p_values)
    above.plot([0.0, 1.0], [0.0, 1.0], color=GREY, lw=1.2, label="uniform")
    above.step([0.0, *np.sort(p_values), 1.0], [0.0, *np.arange(1, n + 1) / n, 1.0], where="post", color=BLUE, lw=2.0)
    above.set(xlabel="placebo p-value", ylabel=f"share of {n} noise tables")
    above.legend(loc="upper left", frameon=False)
    x = np.arange(n)
    below.axhline(0.0, color="black", lw=0.8)
    below.vlines(x, holdout, tuning, color=GREY, lw=1.2, zorder=2)
    for values, colour, label in ((tuning, VERMILION, "best trial, tuning"), (holdout, BLUE, "holdout")):
        below.scatter(x, values, s=40, color=colour, zorder=3, label=f"{label} (mean {values.mean():+.2f})")
        below.axhline(float(values.mean()), color=colour, lw=1.2, ls="--")
    below.set_xticks(x, [str(seed) for seed in seeds], fontsize=8)
    below.set(xlabel="seed of the noise table", ylabel="Sharpe (annual, net)")
    below.legend(loc="upper right", frameon=False, ncols=2)
    return drawn


@click.command()
@click.option("--seeds", default=len(SEEDS), show_default=True, help="The first so many of the fixed seeds.")
@click.option("--repetitions", default=REPETITIONS, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="At a time, each in a process of one thread.")
def main(seeds: int, repetitions: int, jobs: int) -> None:
    started = time.perf_counter()
    chosen = SEEDS[:seeds]
    with tempfile.TemporaryDirectory() as folder, Reporter() as reporter:
        os.chdir(folder)
        for seed in chosen:
            open_job(config_of(seed), Quiet().say)  # written once, before workers read it
        work = [(seed, repetition) for seed in chosen for repetition in range(repetitions + 1)]
        reporter.start("noise", len(work))

        def on_done(piece: Piece) -> None:
            reporter.step(f"seed {piece.seed} repetition {piece.repetition} in {piece.seconds:.1f} s")

        pieces = list(in_processes(run, None, work, n_workers=jobs, on_done=on_done))
        os.chdir(HERE)
    p_values, real = [], [piece for piece in pieces if piece.repetition == 0]
    print("seed  p-value  holdout Sharpe net  neutral  gross  tuning Sharpe (unadjusted)  null: mean   sd  mean tuning")
    for own in real:
        null = [piece for piece in pieces if piece.seed == own.seed and piece.repetition]
        sharpes = np.array([piece.oos_sharpe_neutral for piece in null])
        p_values.append(monte_carlo_p_value(int((sharpes >= own.oos_sharpe_neutral).sum()), len(null)))
        print(
            f"{own.seed:4d} {p_values[-1]:8.2f} {own.oos_sharpe:19.2f} {own.oos_sharpe_neutral:8.2f} "
            f"{own.oos_sharpe_gross:6.2f} "
            f"{own.tuning_sharpe:27.2f} {sharpes.mean():11.2f} {sharpes.std():4.2f} "
            f"{np.mean([piece.tuning_sharpe for piece in null]):12.2f}"
        )
    p = np.array(p_values)
    tuning, holdout = (np.array([getattr(one, name) for one in real]) for name in ("tuning_sharpe", "oos_sharpe"))
    print(f"p <= 0.05: {(p <= 0.05).sum()} of {len(p)} (at most 3 of 20); p <= 0.10: {(p <= 0.10).sum()} (at most 5)")
    print(f"tuning Sharpe {tuning.mean():+.2f}, holdout Sharpe {holdout.mean():+.2f} on average of {len(p)} tables")
    print(
        f"{len(pieces)} jobs of {np.mean([piece.seconds for piece in pieces]):.1f} s each on {jobs} processes, "
        f"{time.perf_counter() - started:.0f} s in all"
    )
    figure(chosen, p, tuning, holdout).savefig(HERE / "noise.png")


if __name__ == "__main__":
    main()
