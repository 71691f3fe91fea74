"""Four durations with a limit each, measured one at a time.

    python -m benchmarks.targets

What they are, and their limits:

    help      `tft-pipeline --help`, a new process, the median of nine: under 0.5 s
    pruning   500 columns, 20 probes and 50 folds, the best of five: under 0.1 s
    record    a walk through the reference run's 16 production folds that finds them fitted and kept: all test bars
              forecast, stitched to one record (73 columns, d_hidden 48, seq_len 63, n_context 16, 4 instruments):
              under 5 s
    two jobs  wall time of two training jobs started together, by that of one alone: at most 2.5 times. Each is
              `benchmarks.reference_run --engine-only` with a hundredth of the epochs and a quarter of the width
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import numpy as np
import torch

from benchmarks.reference_run import (
    N_BARS,
    N_INSTRUMENTS,
    N_SELECTED,
    PRODUCTION_FOLDS,
    PRODUCTION_STEP,
    PURGE_GAP,
    SEED,
    TRAINING,
    noise_panel,
)
from pipeline.config.sections import PruningConfig
from pipeline.phases.exploration import Explored
from pipeline.phases.pruning import prune
from pipeline.tracking.kept import LocalStore
from tft.backtest import walk
from tft.folds import WalkForwardConfig, walk_forward
from tft.market import Market, choose_device
from tft.model import ModelConfig
from tft.positions import PositionsConfig
from tft.record import stitch
from tft.train import Recipe, fit_folds
from tft.volatility import Timing

ROOT = Path(__file__).resolve().parents[1]
JOB = ("-m", "benchmarks.reference_run", "--engine-only", "--epochs-share", "0.01", "--d-hidden", "12")


def seconds(command: Sequence[str], at_once: int = 1) -> float:
    """Wall time in seconds of `at_once` processes of this command, started together."""
    started = time.perf_counter()
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(at_once)]
    if codes := [process.wait() for process in running if process.wait()]:
        raise click.ClickException(f"{' '.join(command)} ended with exit code {codes[0]}")
    return time.perf_counter() - started


def help_s() -> float:
    command = (str(Path(sys.executable).with_name("tft-pipeline")), "--help")
    return float(np.median([seconds(command) for _ in range(9)]))


def pruning_s() -> float:
    n_columns, n_probes, n_folds = 500, 20, 50
    rng = np.random.default_rng(SEED)

    def weights(n: int) -> tuple[tuple[float, ...], ...]:
        return tuple(tuple(row) for row in rng.gamma(4.0, 0.25, (n_folds, n)).tolist())

    explored = Explored(
        features=tuple(f"px_{i}" for i in range(n_columns)),
        fold_indices=tuple(range(n_folds)),
        validation_end=("2020-01-01",) * n_folds,
        weight=weights(n_columns),
        relative=weights(n_columns),
        probes=tuple(f"probe_{i}" for i in range(n_probes)),
        probe_relative=weights(n_probes),
        folds=(),
        oos_sharpe=None,
        train_loss=(),
        validation_score=(),
    )
    found = []
    for _ in range(5):
        started = time.perf_counter()
        prune(explored, PruningConfig())
        found.append(time.perf_counter() - started)
    return min(found)


def record_s() -> float:
    timing, windows, model = Timing(), WalkForwardConfig(), ModelConfig()
    warm_up = model.seq_len - 1
    found = walk_forward(
        N_BARS - timing.label_bars - warm_up,
        train_window=windows.train_window,
        validation_window=windows.validation_window,
        test_window=PRODUCTION_STEP,
        step_size=PRODUCTION_STEP,
        purge_gap=PURGE_GAP,
    )
    folds = [fold.shifted(warm_up) for fold in found[-PRODUCTION_FOLDS:]]
    market = Market(noise_panel(N_BARS, N_INSTRUMENTS, N_SELECTED), timing, choose_device("auto"))
    recipe = Recipe(model, TRAINING, timing, 1, SEED, PositionsConfig())
    with tempfile.TemporaryDirectory() as folder:
        for _ in fit_folds(market, folds, recipe, store=LocalStore(Path(folder))):
            pass
        started = time.perf_counter()
        walked = walk(market, folds, recipe, store=LocalStore(Path(folder)))
        forecasts = [outcome.forecast for _, outcome in walked]
        record = stitch(forecasts, market.panel, market.sigma, PositionsConfig(), timing, n_development=0)
        elapsed = time.perf_counter() - started
    assert np.isfinite(record.net()).sum() > 300
    return elapsed


@click.command()
def main() -> None:
    click.echo(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
    click.echo(f"help      {help_s():7.3f} s")
    click.echo(f"pruning   {pruning_s():7.4f} s")
    click.echo(f"record    {record_s():7.2f} s")
    command = (sys.executable, *JOB)
    seconds(command)  # compiles kernels where that has not been done
    alone, together = seconds(command), seconds(command, at_once=2)
    click.echo(f"two jobs  {together:7.2f} s together, {alone:.2f} s alone: {together / alone:.2f} times")


if __name__ == "__main__":
    main()
