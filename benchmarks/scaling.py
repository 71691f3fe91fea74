"""Growth of time and memory with bars, instruments, features, contexts and folds, one axis at a time from a base size.

    python -m benchmarks.scaling --out .cache/scaling            # table, and scaling.png in that folder
    python -m benchmarks.scaling --axes panel,stack --device cuda
    python -m benchmarks.scaling --quick                         # a smaller base, three sizes an axis

    panel        bars of the panel, the training block staying the same: a step must not cost more
    bars         bars of the training block, and with it of the panel
    instruments  more targets too, hence more steps an epoch
    features     columns
    contexts     context sequences a target
    folds        in stacks of one: as many at once as there are threads on a CPU, one after the other on a GPU
    stack        folds trained as one

Noise, nothing missing; seed, batch and everything else as in configs/default.yaml. Every size runs in a process of its
own, whose memory peaks it reports:

    step ms      one optimiser step of a stack: the median over the epochs after the first, at least 32 steps in all
    epoch s      one epoch of all folds
    forecast s   per 1,000 targets, one fold, the second of two passes over the last bars of the panel
    memory MiB   peak resident memory above what the imports hold, less the bytes of the panel
    GPU MiB      peak of allocated GPU memory, less the bytes of the panel's features, of which it holds a copy

Validation forecasts are timed apart and taken out of the first two. Beside each figure stands its local exponent, the
slope to the size above it on logarithmic scales; below, the slope of a least-squares line through all sizes. 0 does not
grow, 1 grows in proportion; where local exponents change there is a bend.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import numpy as np
import torch

from benchmarks.reference_run import TRAINING, noise_panel, peak_bytes, reset_peaks, work_of
from tft.fold_stack import FoldStack
from tft.fold_store import FoldFit
from tft.folds import Fold
from tft.market import Market, choose_device
from tft.model import ModelConfig
from tft.positions import PositionsConfig
from tft.train import EpochReport, Recipe, fit_folds, forecast_fit
from tft.volatility import Timing

ROOT = Path(__file__).resolve().parents[1]
VALIDATION_BARS, PURGE_GAP = 21, 5
N_TARGETS = 1000
SEED = 7
MIB = 2.0**20


@dataclass(frozen=True)
class Size:
    panel: int = 800
    """Bars of the panel; with fewer, contexts could not be drawn from all of their 504 bars"""
    bars: int = 48
    instruments: int = 4
    features: int = 64
    contexts: int = 16
    folds: int = 1
    stack: int = 1
    d_hidden: int = 48
    seq_len: int = 63
    steps: int = 32
    """Fewest optimiser steps to time"""

    def along(self, axis: str, factor: float) -> Size:
        value = round(getattr(self, axis) * factor)
        more: dict[str, int] = {axis: value}
        if axis == "bars":
            more["panel"] = self.panel + value - self.bars
        if axis == "stack":
            more["folds"] = value
        return replace(self, **more)


QUICK = Size(features=16, bars=16, contexts=4, d_hidden=16, seq_len=21, steps=12)
AXES = {
    "panel": (1, 2, 4, 8, 16),
    "bars": (0.5, 1, 2, 4, 8),
    "instruments": (0.25, 0.5, 1, 2, 4, 8),
    "features": (0.25, 0.5, 1, 2, 4),
    "contexts": (0.125, 0.25, 0.5, 1, 2),
    "folds": (1, 2, 4, 8),
    "stack": (1, 2, 4, 8, 16),
}
"""Sizes, as multiples of the base."""
MEASURES = ("step ms", "epoch s", "forecast s", "memory MiB", "GPU MiB")


def measure(size: Size, where: torch.device) -> dict[str, float]:
    """Measure one size in this process."""
    torch.zeros(1, device=where)  # what the device's libraries hold counts with the imports
    reset_peaks()
    held = peak_bytes()[0]
    panel = noise_panel(size.panel, size.instruments, size.features)
    market = Market(panel, Timing(), where)
    end = size.panel - market.timing.label_bars
    validation = range(end - VALIDATION_BARS, end)
    block = range(validation.start - PURGE_GAP - size.bars, validation.start - PURGE_GAP)
    folds = [Fold(index, block, validation, range(end, end)) for index in range(size.folds)]
    model = ModelConfig(d_hidden=size.d_hidden, seq_len=size.seq_len, n_context=size.contexts)
    recipe = Recipe(model, TRAINING, market.timing, 1, SEED, PositionsConfig())
    n_steps, _ = work_of(market, folds[0], recipe)
    recipe = replace(recipe, epochs=1 + math.ceil(size.steps / n_steps))

    epochs, fits, forecasts = watched_fit(market, folds, recipe, size.stack)
    step_s = (np.median(epochs) - np.median(forecasts)) / n_steps
    n_stacks = size.folds // size.stack
    at_once = min(n_stacks, torch.get_num_threads()) if where.type == "cpu" else 1

    last = range(size.panel - math.ceil(N_TARGETS / size.instruments), size.panel)
    for _ in range(2):
        synchronise(where)
        started = time.perf_counter()
        _, cells = forecast_fit(fits[0], market, recipe, range(max(last.start, size.seq_len - 1), last.stop))
        per_target_s = (time.perf_counter() - started) / len(cells)
    rss, gpu = peak_bytes()
    return {
        "epoch s": float(step_s) * n_steps * math.ceil(n_stacks / at_once),
        "step ms": 1e3 * float(step_s),
        "forecast s": N_TARGETS * per_target_s,
        "memory MiB": (rss - held - panel.features.nbytes - panel.returns.nbytes) / MIB,
        "GPU MiB": (gpu - panel.features.nbytes) / MIB if gpu else math.nan,
    }


def watched_fit(
    market: Market, folds: Sequence[Fold], recipe: Recipe, stack: int
) -> tuple[list[float], list[FoldFit], list[float]]:
    """Fit the folds; returns seconds per epoch of a stack, fits, seconds per validation forecast, without warm-up."""
    validate, forecast_s = FoldStack.validate, dict[int, list[float]]()  # by thread, which fits stack after stack
    epoch_s: list[float] = []

    def timed(*arguments: object, **named: object) -> object:
        synchronise(market.device)  # the epoch's last steps may still be under way
        started = time.perf_counter()
        result = validate(*arguments, **named)  # type: ignore[arg-type]
        synchronise(market.device)
        forecast_s.setdefault(threading.get_ident(), []).append(time.perf_counter() - started)
        return result

    def on_epoch(report: EpochReport) -> None:
        if report.epoch:
            epoch_s.append(report.seconds)

    FoldStack.validate = timed  # type: ignore[assignment, method-assign]
    try:
        fits = list(fit_folds(market, folds, recipe, stack_size=stack, on_epoch=on_epoch))
    finally:
        FoldStack.validate = validate  # type: ignore[method-assign]
    later = [one for own in forecast_s.values() for number, one in enumerate(own) if number % recipe.epochs]
    if len(later) != len(epoch_s):
        raise RuntimeError(f"{len(epoch_s)} epochs but {len(later)} forecasts: each should end with FoldStack.validate")
    return epoch_s, fits, later


def synchronise(where: torch.device) -> None:
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def apart(size: Size, device: str) -> dict[str, float]:
    """Measure one size in a new process."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--device", device, "--point", json.dumps(asdict(size))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of a power law through the values, by least squares on logarithms; NaN with fewer than two."""
    x, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    known = np.isfinite(y) & (y > 0.0)
    return float(np.polyfit(np.log(x[known]), np.log(y[known]), 1)[0]) if known.sum() > 1 else math.nan


Rows = Mapping[int, Mapping[str, float]]


def print_axis(axis: str, rows: Rows, measures: Sequence[str]) -> None:
    click.echo(f"\n{axis:>11}" + "".join(f"{name:>12}{'':>7}" for name in measures))
    before: int | None = None
    for value, row in rows.items():
        cells = ""
        for name in measures:
            local = slope([before, value], [rows[before][name], row[name]]) if before else math.nan
            cells += f"{row[name]:12.4g}" + (f"{local:7.2f}" if math.isfinite(local) else f"{'':>7}")
        click.echo(f"{value:11d}{cells}")
        before = value
    exponents = (slope(list(rows), [row[name] for row in rows.values()]) for name in measures)
    click.echo(f"{'exponent':>11}" + "".join(f"{exponent:19.2f}" for exponent in exponents))


def plot(found: Mapping[str, Rows], base: Size, measures: Sequence[str], file: Path) -> None:
    """Plot one panel per measure and one line per axis; sizes and values are relative to the base."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(measures), figsize=(4.2 * len(measures), 4.4), layout="constrained")
    for ax, name in zip(panels, measures, strict=True):
        for axis, rows in found.items():
            at_base = getattr(base, axis)
            sizes, values = list(rows), [row[name] for row in rows.values()]
            relative = [size / at_base for size in sizes], [value / rows[at_base][name] for value in values]
            ax.plot(*relative, marker="o", label=f"{axis} ({slope(sizes, values):.2f})")
        ax.set(title=name, xlabel="size / base")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log", base=2)
        low, high = ax.get_xlim()
        ax.plot([low, high], [low, high], color="0.6", linestyle=":", zorder=0)
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    panels[0].set_ylabel("value / base; dotted: in proportion")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--axes", default=",".join(AXES), show_default=True)
@click.option("--quick", is_flag=True)
@click.option("--out", default="", help="Folder for scaling.png; none if empty.")
@click.option("--point", default="", hidden=True)
def main(device: str, axes: str, quick: bool, out: str, point: str) -> None:
    where = choose_device(device)
    if point:
        click.echo(json.dumps(measure(Size(**json.loads(point)), where)))
        return
    chosen = [axis.strip() for axis in axes.split(",") if axis.strip()]
    if unknown := sorted(set(chosen) - set(AXES)):
        raise click.BadParameter(f"{', '.join(unknown)}; known are {', '.join(AXES)}", param_hint="--axes")
    base = QUICK if quick else Size()
    click.echo(f"{where.type}, {torch.get_num_threads()} threads, torch {torch.__version__}; base {base}")
    measures = [name for name in MEASURES if name != "GPU MiB" or where.type == "cuda"]
    known: dict[Size, dict[str, float]] = {}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for axis in chosen:
        factors = [factor for factor in AXES[axis] if 0.5 <= factor <= 4][:3] if quick else AXES[axis]
        for size in (base.along(axis, factor) for factor in factors):
            if size not in known:
                known[size] = apart(size, device)
            found.setdefault(axis, {})[getattr(size, axis)] = known[size]
        print_axis(axis, found[axis], measures)
    if out:
        file = Path(out) / "scaling.png"
        plot(found, base, measures, file)
        click.echo(f"\n{file}")


if __name__ == "__main__":
    main()
