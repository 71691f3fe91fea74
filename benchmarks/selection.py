"""Of the columns that pruning keeps, how many are false, and how many of the planted ones does it find?

    python -m benchmarks.selection                                    # 40 tables, two at a time
    python -m benchmarks.selection --jobs 12 --device cuda            # the same beside each other on a GPU
    python -m benchmarks.selection --tables 3 --bars 1400 --assets 4  # a try: two minutes on one core

Each table has 276 columns, of which one to five carry a truth (benchmarks/truths.py; linear, interaction and regime in
turn) and all others are autoregressive noise. Exploration runs once, on three expanding folds; then two rules choose
from the same weights:

    percentile   mean relative weight above the 95th percentile of the first 20 probes', and at least the threshold
    rate         the false discovery rate, as pipeline/phases/pruning.py controls it: by all probes, or by probes and
                 the other columns, whichever finds more

Realised share of false ones: the mean over tables of false / kept, 0 for a table on which nothing passed. Power: the
mean over tables of the share of planted columns that is kept. Both with standard errors over tables; the share of false
ones should be at most 0.15 at a rate of 0.1. How far p-values of noise columns are from uniform is shown beside them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.truths import Kind, plant
from pipeline.config.schema import Config
from pipeline.config.sections import ExplorationConfig, PruningConfig
from pipeline.execution import in_processes
from pipeline.phases.exploration import Explored, explore
from pipeline.phases.folds import exploration_folds
from pipeline.phases.pruning import Pruned, prune
from pipeline.phases.training_data import TrainingData
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig

KINDS: tuple[Kind, ...] = ("linear", "interaction", "regime")
FIRST_SEED = 9001
"""Fixed beforehand; the shape of the fitted tail was settled on others (11 to 26)."""
N_FEATURES = 276
PERCENTILE, N_PERCENTILE_PROBES = 0.95, 20
LEVELS = (0.05, 0.01, 0.002)


@dataclass(frozen=True)
class Size:
    """What a table and its exploration cost."""

    n_bars: int
    n_assets: int
    n_probes: int
    epochs: int
    device: str
    rate: float


@dataclass(frozen=True)
class Piece:
    """What the two rules made of one table."""

    number: int
    kind: Kind
    planted: tuple[str, ...]
    by_percentile: tuple[str, ...]
    by_rate: tuple[str, ...]
    """Empty where nothing passed: the columns that pruning then falls back on are called false by itself."""
    expected_false: float
    """Of those kept by rate, as pruning states it."""
    noise_p_values: tuple[float, ...]
    fit_refused: bool
    """Whether the probes' tail was too heavy to be extrapolated."""
    seconds: float


def config_of(number: int, size: Size) -> Config:
    """A small exploration of three expanding folds, the last of which ends with the table."""
    validation, step = size.n_bars // 11, size.n_bars // 8
    return Config(
        seed=FIRST_SEED + number,
        walk_forward=WalkForwardConfig(train_window=size.n_bars // 2, validation_window=validation, expanding=True),
        exploration=ExplorationConfig(step_size=step, epochs=size.epochs, max_folds=3, n_probes=size.n_probes),
        pruning=PruningConfig(false_discovery_rate=size.rate),
        model=ModelConfig(d_hidden=12, n_heads=2, dropout=0.3, seq_len=8, n_context=0),
    )


def run(size: Size, number: int) -> Piece:
    started = time.perf_counter()
    torch.set_num_threads(1)
    kind, config = KINDS[number % len(KINDS)], config_of(number, size)
    truth = plant(kind, config.seed, n_bars=size.n_bars, n_assets=size.n_assets, n_features=N_FEATURES)
    data = TrainingData(truth.panel, None, torch.device(size.device))
    explored = explore(data, config, exploration_folds(config, size.n_bars))
    pruned = prune(explored, config.pruning)
    planted = tuple(truth.panel.feature_names[column] for column in truth.columns)
    return Piece(
        number=number,
        kind=kind,
        planted=planted,
        by_percentile=kept_by_percentile(explored, pruned, config.pruning),
        by_rate=pruned.selected if pruned.n_passed else (),
        expected_false=(pruned.n_expected_false or 0.0) if pruned.n_passed else 0.0,
        noise_p_values=tuple(row.p_value for row in pruned.ranked if row.feature not in planted),
        fit_refused="nothing is extrapolated" in pruned.warning,
        seconds=time.perf_counter() - started,
    )


def kept_by_percentile(explored: Explored, pruned: Pruned, config: PruningConfig) -> tuple[str, ...]:
    """The columns above a percentile of the first probes, otherwise by the same settings."""
    probes = np.array(explored.probe_relative)[:, :N_PERCENTILE_PROBES].mean(axis=0)
    needed = max(config.weight_threshold, float(np.quantile(probes, PERCENTILE)))
    passed = [
        row.feature for row in pruned.ranked if row.relative_weight >= needed and row.stability >= config.min_stability
    ]
    return tuple(passed[: config.max_features])


def share_false(kept: Sequence[str], planted: Sequence[str]) -> float:
    return len(set(kept) - set(planted)) / max(1, len(kept))


def share_found(kept: Sequence[str], planted: Sequence[str]) -> float:
    return len(set(kept) & set(planted)) / len(planted)


def mean_and_error(values: Sequence[float]) -> str:
    """Mean, and its standard error over tables."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):5.2f} ± {error:4.2f}"


@click.command()
@click.option("--tables", default=40, show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Tables at a time, each in a process of one thread.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--bars", default=1400, show_default=True)
@click.option("--assets", default=8, show_default=True)
@click.option("--epochs", default=12, show_default=True)
@click.option("--probes", default=ExplorationConfig.n_probes, show_default=True)
@click.option("--rate", default=PruningConfig.false_discovery_rate, show_default=True)
def main(tables: int, jobs: int, device: str, bars: int, assets: int, epochs: int, probes: int, rate: float) -> None:
    started = time.perf_counter()
    size = Size(bars, assets, probes, epochs, device, rate)

    def on_done(piece: Piece) -> None:
        old, new = (len(set(kept) & set(piece.planted)) for kept in (piece.by_percentile, piece.by_rate))
        print(
            f"table {piece.number:3d} {piece.kind:11s} planted {len(piece.planted)}; percentile keeps "
            f"{len(piece.by_percentile):3d}, {old} of them planted; rate keeps {len(piece.by_rate):3d}, {new} of them "
            f"planted, {piece.expected_false:.1f} expected false; {piece.seconds:.0f} s",
            flush=True,
        )

    pieces = list(in_processes(run, size, range(tables), n_workers=jobs, on_done=on_done))
    print("\nrule        tables       kept   share false    power (planted columns kept)  nothing passed")
    for kinds in (KINDS, *((kind,) for kind in KINDS)):
        own = [piece for piece in pieces if piece.kind in kinds]
        for rule in ("percentile", "rate"):
            kept = [piece.by_percentile if rule == "percentile" else piece.by_rate for piece in own]
            false = [share_false(names, piece.planted) for names, piece in zip(kept, own, strict=True)]
            found = [share_found(names, piece.planted) for names, piece in zip(kept, own, strict=True)]
            if own:
                print(
                    f"{rule:11s} {'all' if len(kinds) > 1 else kinds[0]:11s} {np.mean([len(n) for n in kept]):5.1f} "
                    f"{mean_and_error(false):>14s} {mean_and_error(found):>24s} {sum(not names for names in kept):15d}"
                )
    noise: NDArray[np.float64] = np.concatenate([piece.noise_p_values for piece in pieces])
    shares = ", ".join(f"{np.mean(noise <= level) / level:.2f} at {level:g}" for level in LEVELS)
    print(f"noise columns with a p-value up to a level, in units of the level: {shares}")
    print(
        f"false ones expected {np.mean([piece.expected_false for piece in pieces]):.2f} a table, found "
        f"{np.mean([len(set(piece.by_rate) - set(piece.planted)) for piece in pieces]):.2f}; tail refused on "
        f"{sum(piece.fit_refused for piece in pieces)} of {len(pieces)} tables; {probes} probes"
    )
    print(
        f"{np.mean([piece.seconds for piece in pieces]):.0f} s a table, {jobs} at a time on {device}, "
        f"{time.perf_counter() - started:.0f} s in all"
    )


if __name__ == "__main__":
    main()
