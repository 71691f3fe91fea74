"""The whole job at the size of the reference run: seconds, memory, optimiser steps and arithmetic of each phase.

    python -m benchmarks.reference_run                          # hours on two cores
    python -m benchmarks.reference_run --epochs-share 0.1       # a tenth of the epochs, the seconds of all extrapolated
    python -m benchmarks.reference_run --engine-only            # training alone: no MLflow, Optuna or polars needed
    python -m benchmarks.reference_run --epochs-share 0.01 --d-hidden 8 --seq-len 8 --n-context 2       # does it run?

600 bars of 4 instruments, model and training of configs/default.yaml, no holdout. Exploration: 276 columns, 11 folds,
40 epochs. Pruning: to 73 columns. Tuning: 10 trials of 3 folds and 40 epochs. Production: the 16 most recent folds and
the final fit, 80 epochs. What would make the amount of work depend on luck is off: no early stopping, no pruned trial,
no probes, and the search space holds only parameters that leave the arithmetic as it is. The generated table has 36
columns more, which prefilter takes out.

Exploration steps by 36 bars, not by the 42 of the reference run: of 600 bars the first 62 only fill the look-back of
the first decision, which leaves 10 folds at a step of 42, and 11 at one of 36.

The job runs as the command line runs it, in a new temporary folder with an MLflow store of its own; wall seconds and
memory peaks of a phase are those it logs there. `--engine-only` passes folds of the same bounds over a panel of noise,
nothing missing, through `tft.backtest.walk`, phase by phase: what prefilter, pruning, MLflow, Optuna, figures and the
registry take is not in it. A longer `--seq-len` also moves the first decision, which may leave fewer folds.

`training s` is the wall time of the epochs, each with its validation forecast; on a CPU, where each thread trains a
fold of its own, from the first one's begin to the last one's end. Steps are those of single folds: a stack of 16 folds
makes 16 at once. An epoch has 31 where no bar of an instrument is missing, in the generated table 30 (28 where the last
instrument is yet to begin). FLOP are counted by benchmarks/flops.py, for all cells in reach of a fold's windows, and
divided by `training s`. `extrapolated s`, with a share of the epochs, is the wall time plus the epochs left out, each
at the mean of those after the first (of the first where there is no other), fold by fold.
"""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import numpy as np
import torch

from benchmarks.flops import step_flops
from pipeline.phases.candidates import CandidateWalks
from tft import backtest, record
from tft.fold_store import FoldFit
from tft.folds import Fold, WalkForwardConfig, final_fold, walk_forward
from tft.market import Market, choose_device
from tft.model import ModelConfig
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.train import EpochReport, Recipe, TrainingConfig, per_fold
from tft.volatility import Timing
from tft.windows import CONTEXT_POOL_BARS

ROOT = Path(__file__).resolve().parents[1]
N_BARS, N_INSTRUMENTS, N_COLUMNS, N_SELECTED = 600, 4, 276, 73
EXPLORATION_STEP, PRODUCTION_STEP, PURGE_GAP = 36, 21, 5
EXPLORATION_FOLDS, PRODUCTION_FOLDS = 11, 16
N_TRIALS, TRIAL_FOLDS = 10, 3
EPOCHS = {"exploration": 40, "tuning": 40, "production": 80}
LR, DROPOUT, SMOOTH = (0.0003, 0.01), (0.05, 0.5), (0.0, 0.9)
"""What trials vary."""
SEED = 7
TRAINING = TrainingConfig(objective="pooled", lr=0.0027, weight_decay=0.0, mle_weight=0.186, patience=0)
"""That of the reference run, whose epochs are all used."""


class Peaks(NamedTuple):
    wall_s: float
    rss_bytes: float
    gpu_bytes: float
    """Peak GPU memory in bytes; 0 without a GPU"""


@dataclass
class Stack:
    """Folds trained in one stack, and the time of their epochs."""

    steps: list[int]
    """Steps of an epoch by fold"""
    epoch_flops: float
    epoch_s: list[float] = field(default_factory=list)


@dataclass
class Fit:
    """Stacks trained by one call of `map_fits`."""

    phase: str
    at_once: int
    """Most stacks that train at the same time: one per thread on a CPU"""
    stacks: dict[tuple[int, ...], Stack] = field(default_factory=dict)
    """By the indices of their folds, in the order in which training began"""

    def flops(self) -> float:
        return sum(stack.epoch_flops * len(stack.epoch_s) for stack in self.stacks.values())

    def training_s(self) -> float:
        return self._span([sum(stack.epoch_s) for stack in self.stacks.values()])

    def left_out_s(self) -> float:
        """Seconds that the epochs left out would have taken."""
        whole = []
        for stack in self.stacks.values():
            later = stack.epoch_s[1:] or stack.epoch_s
            left_out = EPOCHS[self.phase] - len(stack.epoch_s)
            whole.append(sum(stack.epoch_s) + left_out * float(np.mean(later)))
        return self._span(whole) - self.training_s()

    def _span(self, seconds: Sequence[float]) -> float:
        """Seconds from the start of the first stack to the end of the last; each starts when a thread is free."""
        busy_until = [0.0] * self.at_once
        for one in seconds:
            first_free = int(np.argmin(busy_until))
            busy_until[first_free] += one
        return max(busy_until)


class Meter:
    """Records every fit of `tft.backtest.walk` under the current `phase`."""

    def __init__(self, phase: Callable[[], str]) -> None:
        self.phase, self.fits = phase, list[Fit]()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        map_fits = backtest.map_fits

        def watched(
            function: Callable[[int, FoldFit], Any],
            market: Market,
            folds: Sequence[Fold],
            recipe: Recipe | Sequence[Recipe],
            *,
            on_epoch: Callable[[EpochReport], None] | None = None,
            **options: Any,
        ) -> Iterator[Any]:
            fit = Fit(self.phase(), torch.get_num_threads() if market.device.type == "cpu" else 1)
            self.fits.append(fit)
            by_index = {fold.index: fold for fold in folds}
            alike = per_fold(recipe, len(folds))[0]  # what recipes differ in leaves the arithmetic as it is

            def report(epoch: EpochReport) -> None:
                if epoch.folds not in fit.stacks:
                    work = [work_of(market, by_index[index], alike) for index in epoch.folds]
                    steps = [steps for steps, _ in work]
                    fit.stacks[epoch.folds] = Stack(steps, sum(steps * each for steps, each in work))
                fit.stacks[epoch.folds].epoch_s.append(epoch.seconds)
                if on_epoch:
                    on_epoch(epoch)

            return map_fits(function, market, folds, recipe, on_epoch=report, **options)

        backtest.map_fits = watched
        try:
            yield
        finally:
            backtest.map_fits = map_fits

    def of(self, phase: str) -> list[Fit]:
        return [fit for fit in self.fits if fit.phase == phase]


def work_of(market: Market, fold: Fold, recipe: Recipe) -> tuple[int, float]:
    """Optimiser steps of an epoch of the fold, and counted FLOP per step."""
    model, batch_size, panel = recipe.model, recipe.training.batch_size, market.panel
    rows = slice(fold.train.start, fold.train.stop)
    trained = np.isfinite(market.y[rows]) & np.isfinite(panel.features[rows]).any(axis=-1)
    back = max(CONTEXT_POOL_BARS, model.seq_len) if model.n_context else model.seq_len
    in_reach = (fold.train.stop - max(fold.train.start - back + 1, 0)) * len(panel.symbols)
    in_windows = batch_size * (1 + model.n_context) * model.seq_len
    flops = step_flops(
        model,
        n_variables=len(panel.feature_names),
        n_cells=min(in_reach, in_windows),
        batch_size=batch_size,
    )
    return max(1, int(trained.sum()) // batch_size), flops


def whole_job(device: str, epochs: Mapping[str, int], model: ModelConfig, meter: Meter) -> dict[str, Peaks]:
    """Run `tft-pipeline production` in the current folder."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{Path.cwd()}/mlflow.db"
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow
    import optuna

    from pipeline import flow
    from pipeline.cli.phases import PHASES, run_phase
    from pipeline.tracking.runs import EXPERIMENT

    open_study = flow.open_study

    def open_study_without_pruner(*arguments: Any, **named: Any) -> optuna.Study:
        study = open_study(*arguments, **named)
        study.pruner = optuna.pruners.NopPruner()
        return study

    def space(low_high: tuple[float, float], *, log: bool = False) -> str:
        return f"{{low: {low_high[0]}, high: {low_high[1]}, log: {str(log).lower()}}}"

    settings = [
        f"seed={SEED}",
        f"device={device}",
        f"data.sample={{n_bars: {N_BARS}, n_symbols: {N_INSTRUMENTS}, n_features: {N_COLUMNS}}}",
        "holdout_fraction=0",
        f"purge_gap={PURGE_GAP}",
        f"exploration.epochs={epochs['exploration']}",
        f"exploration.step_size={EXPLORATION_STEP}",
        f"exploration.max_folds={EXPLORATION_FOLDS}",
        "exploration.n_probes=0",
        f"pruning={{weight_threshold: 0, min_stability: 0, max_features: {N_SELECTED}}}",
        f"tuning.epochs={epochs['tuning']}",
        f"tuning.n_trials={N_TRIALS}",
        f"tuning.folds={TRIAL_FOLDS}",
        f"tuning.space={{lr: {space(LR, log=True)}, dropout: {space(DROPOUT)}, position_smooth: {space(SMOOTH)}}}",
        f"production.epochs={epochs['production']}",
        f"production.step_size={PRODUCTION_STEP}",
        f"production.max_folds={PRODUCTION_FOLDS}",
        f"model.d_hidden={model.d_hidden}",
        f"model.seq_len={model.seq_len}",
        f"model.n_context={model.n_context}",
        "training.patience=0",
        "registry.promote=never",
    ]
    flow.open_study = open_study_without_pruner
    try:
        with meter.watching():
            code = run_phase("production", str(ROOT / "configs" / "default.yaml"), settings, run_id=None, fresh=False)
    finally:
        flow.open_study = open_study
    if code:
        raise click.ClickException(f"the job ended with exit code {code}")

    found: dict[str, Peaks] = {}
    for run in mlflow.search_runs(experiment_names=[EXPERIMENT], output_format="list"):
        logged, phase = run.data.metrics, run.data.tags.get("phase", "")
        if phase in PHASES:
            gpu_bytes = logged.get("peak_gpu_bytes", 0.0)
            found[phase] = Peaks(logged["phase_seconds"], logged["peak_rss_bytes"], gpu_bytes)
        if phase == "production":
            columns = [int(logged[f"n_features_{name}"]) for name in ("initial", "prefiltered", "selected")]
            click.echo(f"\nColumns: {columns[0]} in the table, {columns[1]} after prefilter, {columns[2]} selected.")
    return {phase: found[phase] for phase in PHASES}


def engine(device: torch.device, epochs: Mapping[str, int], model: ModelConfig) -> tuple[Meter, dict[str, Peaks]]:
    """Run the training phases by `walk` and `stitch` alone."""
    timing, windows, positions = Timing(), WalkForwardConfig(), PositionsConfig()
    wide = noise_panel(N_BARS, N_INSTRUMENTS, N_COLUMNS)
    narrow = wide.select(wide.feature_names[:N_SELECTED])
    warm_up = model.seq_len - 1
    n_decisions = N_BARS - timing.label_bars - warm_up
    blocks = {
        "train_window": windows.train_window,
        "validation_window": windows.validation_window,
        "purge_gap": PURGE_GAP,
    }

    def folds(step_size: int) -> list[Fold]:
        found = walk_forward(n_decisions, test_window=step_size, step_size=step_size, **blocks)
        return [fold.shifted(warm_up) for fold in found]

    def recipe(phase: str, **changed: float) -> Recipe:
        training = replace(TRAINING, lr=changed.get("lr", TRAINING.lr))
        tuned = replace(model, dropout=changed.get("dropout", model.dropout))
        return Recipe(tuned, training, timing, epochs[phase], SEED, positions)

    def explore() -> None:
        market = Market(wide, timing, device)
        chosen = folds(EXPLORATION_STEP)[-EXPLORATION_FOLDS:]
        outcomes = [outcome for _, outcome in backtest.walk(market, chosen, recipe("exploration"))]
        stitch(market, outcomes, positions)

    def tune() -> None:
        market = Market(narrow, timing, device)
        step_size = (n_decisions - windows.train_window - PURGE_GAP) // TRIAL_FOLDS
        rng = np.random.default_rng(SEED)
        trials = [recipe("tuning")]  # the first with the untuned values, as in the study
        for _ in range(1, N_TRIALS):
            lr, dropout, smooth = np.exp(rng.uniform(*np.log(LR))), rng.uniform(*DROPOUT), rng.uniform(*SMOOTH)
            tuned = recipe("tuning", lr=float(lr), dropout=dropout)
            trials.append(replace(tuned, positions=replace(positions, position_smooth=smooth)))
        walks = CandidateWalks(market, folds(step_size)[:TRIAL_FOLDS], trials)
        for trial in trials:
            outcomes: list[backtest.FoldOutcome] = []
            for outcome in walks.outcomes(trial):
                outcomes.append(outcome)
                stitch(market, outcomes, trial.positions)

    def produce() -> None:
        market = Market(narrow, timing, device)
        chosen, own = folds(PRODUCTION_STEP)[-PRODUCTION_FOLDS:], recipe("production")
        last = final_fold(chosen[-1].index + 1, n_decisions, **blocks).shifted(warm_up)
        walked = backtest.walk(market, [*chosen, last], own, test_until=N_BARS)
        stitch(market, [outcome for _, outcome in walked if outcome.fold.test], positions)

    running = ""
    meter, found = Meter(lambda: running), dict[str, Peaks]()
    with meter.watching():
        for running, work in (("exploration", explore), ("tuning", tune), ("production", produce)):
            click.echo(f"{running}: {epochs[running]} epochs", err=True)
            reset_peaks()
            started = time.perf_counter()
            work()
            found[running] = Peaks(time.perf_counter() - started, *peak_bytes())
    return meter, found


def stitch(market: Market, outcomes: Sequence[backtest.FoldOutcome], positions: PositionsConfig) -> None:
    forecasts = [outcome.forecast for outcome in outcomes]
    panel = market.panel
    record.stitch(forecasts, panel, market.sigma, positions, market.timing, n_development=len(panel.times))


def noise_panel(n_bars: int, n_instruments: int, n_columns: int) -> Panel:
    """A panel of noise without missing values."""
    rng = np.random.default_rng(SEED)
    return Panel(
        times=np.datetime64("2000-01-01") + np.arange(n_bars).astype("timedelta64[D]"),
        symbols=tuple(f"S{i}" for i in range(n_instruments)),
        feature_names=tuple(f"px_{i}" for i in range(n_columns)),
        features=rng.standard_normal((n_bars, n_instruments, n_columns), dtype=np.float32),
        returns=0.01 * rng.standard_normal((n_bars, n_instruments)),
    )


def reset_peaks() -> None:
    """Reset the peak memory figures of this process, where the system supports it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> tuple[float, float]:
    """Peak memory and peak GPU memory of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024.0, gpu_peak_bytes()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0, gpu_peak_bytes()


def gpu_peak_bytes() -> float:
    return float(torch.cuda.max_memory_allocated()) if torch.cuda.is_available() else 0.0


def print_table(meter: Meter, peaks: Mapping[str, Peaks], total_s: float, share: float) -> None:
    headings = {
        "phase": 11,
        "wall s": 9,
        "extrapolated s": 14,
        "training s": 10,
        "folds": 5,
        "epochs": 6,
        "steps/epoch": 11,
        "steps": 7,
        "TFLOP": 9,
        "GFLOP/s": 8,
        "peak RSS bytes": 15,
        "peak GPU bytes": 15,
    }
    if share == 1.0:
        del headings["extrapolated s"]

    def show(cells: Mapping[str, str]) -> None:
        click.echo("  ".join(f"{cells.get(name, ''):>{width}}" for name, width in headings.items()))

    click.echo()
    show({name: name for name in headings})
    for phase, peak in peaks.items():
        fits = meter.of(phase)
        stacks = [stack for fit in fits for stack in fit.stacks.values()]
        row = {
            "phase": phase,
            "wall s": f"{peak.wall_s:.1f}",
            "extrapolated s": f"{peak.wall_s + sum(fit.left_out_s() for fit in fits):.1f}",
            "peak RSS bytes": f"{peak.rss_bytes:.0f}",
            "peak GPU bytes": f"{peak.gpu_bytes:.0f}" if peak.gpu_bytes else "-",
        }
        if stacks:
            per_epoch = [steps for stack in stacks for steps in stack.steps]
            low, high = min(per_epoch), max(per_epoch)
            flops, training_s = sum(fit.flops() for fit in fits), sum(fit.training_s() for fit in fits)
            row |= {
                "training s": f"{training_s:.1f}",
                "folds": f"{len(per_epoch)}",
                "epochs": f"{len(stacks[0].epoch_s)}",
                "steps/epoch": f"{low}" if low == high else f"{low} to {high}",
                "steps": f"{sum(sum(stack.steps) * len(stack.epoch_s) for stack in stacks)}",
                "TFLOP": f"{flops / 1e12:.3f}",
                "GFLOP/s": f"{flops / 1e9 / training_s:.1f}",
            }
        show(row)
    left_out_s = sum(fit.left_out_s() for fit in meter.fits)
    show({"phase": "everything", "wall s": f"{total_s:.1f}", "extrapolated s": f"{total_s + left_out_s:.1f}"})


@click.command()
@click.option("--device", default="auto", show_default=True)
@click.option("--epochs-share", default=1.0, show_default=True, type=click.FloatRange(0.0, 1.0), help="At least one.")
@click.option("--engine-only", is_flag=True, help="Fits, forecasts and stitching, without the pipeline around them.")
@click.option("--d-hidden", default=ModelConfig().d_hidden, show_default=True)
@click.option("--seq-len", default=ModelConfig().seq_len, show_default=True)
@click.option("--n-context", default=ModelConfig().n_context, show_default=True)
def main(device: str, epochs_share: float, engine_only: bool, d_hidden: int, seq_len: int, n_context: int) -> None:
    where = choose_device(device)
    epochs = {phase: max(1, round(epochs_share * whole)) for phase, whole in EPOCHS.items()}
    model = replace(ModelConfig(), d_hidden=d_hidden, seq_len=seq_len, n_context=n_context)
    started = time.perf_counter()
    if engine_only:
        meter, peaks = engine(where, epochs, model)
    else:
        import mlflow  # what runs is the phase whose MLflow run is open

        meter = Meter(lambda: mlflow.active_run().info.run_name)
        with contextlib.chdir(tempfile.mkdtemp(prefix="reference-run-")):
            peaks = whole_job(device, epochs, model, meter)
    total_s = time.perf_counter() - started
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"{torch.get_num_threads()} threads"
    click.echo(
        f"\n{where.type}: {name}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}; "
        f"d_hidden {d_hidden}, seq_len {seq_len}, n_context {n_context}"
    )
    print_table(meter, peaks, total_s, epochs_share)


if __name__ == "__main__":
    main()
