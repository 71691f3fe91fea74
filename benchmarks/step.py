"""Milliseconds per optimiser step and fold, compared with the TFT as it is usually written and the machine's limits.

    python benchmarks/step.py             # 73 features, d_hidden 48, seq_len 63, n_context 16, batch 16, 4 instruments
    python benchmarks/step.py --stack 2 --no-loop
    python benchmarks/step.py --instruments 500 --bars 2500 --features 276 --train-bars 2 --validation-bars 1

The objective is that of the reference run, `pooled`. `ours` is forward, loss, backward, clipping and Adam, the average
of the weights included, through the code that trains, `tft.train.fit_folds` on a generated
panel: the wall time of an epoch, less the validation forecast at its end (timed apart), divided by the epoch's steps
and by the folds that train at the same time: stacked, on a CPU also side by side, one on each thread. Drawing and
shuffling the epoch's windows, gathering them and scaling them is in it. The first epoch of a fit is the warm-up and is
left out, unless it is the only one.

`loop` is benchmarks/loop_tft.py: forward, the same loss, backward, clipping and `torch.optim.Adam`, one fold on all
threads, batches that lie ready on the device. Fits and loop steps alternate, --rounds times, in one process. That both
compute the same is measured too: the largest difference of their outputs, dropout off, with the same parameters
(drawn, then shaken, so that no bias is 0) and with 2 % of the values missing. Both in float32 (TF32 off in cuDNN).

The floor is what the step would take at the machine's measured ceilings for its least arithmetic and its least memory
traffic: `least_work` says what is counted. It is the same for both; GFLOP a step are each one's own.

An epoch is instruments * train-bars / 16 steps. To keep a large panel's run short give it few --train-bars: every step
has the same size, and with 500 instruments 2 bars are 62 steps. Contexts still come from the 504 bars before, so that
a step's windows touch as many distinct cells as they would with more. Likewise few --validation-bars: each epoch ends
with a forecast of all instruments there. A panel of 2,500 bars, 500 instruments and 276 features holds 1.4 GB, and a
loop step on it about 13 GB of activations (`--no-loop` leaves it out).

OMP_NUM_THREADS sets the threads. With one the ratio is fairest: it then says nothing of spreading over cores.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import click
import loop_tft
import numpy as np
import torch
from loop_tft import LoopTFT
from numpy.typing import NDArray
from torch import Tensor

from tft.fold_stack import MAX_GRADIENT_NORM, FoldStack
from tft.folds import Fold
from tft.loss import training_loss
from tft.market import Market, choose_device
from tft.model import ModelConfig, TemporalFusionTransformer
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.scaling import Scaler
from tft.train import EpochReport, Recipe, TrainingConfig, fit_folds
from tft.volatility import Timing

PURGE_BARS = 5
MISSING = 0.02
"""Share of the feature values."""
N_BATCHES = 4
"""Batches that the loop takes in turn, and over which distinct cells are averaged."""


class Drawn(NamedTuple):
    """Windows of a batch as flat cells (bar * A + instrument)."""

    windows: NDArray[np.int64]  # (W, L) the B targets' first, then their contexts target by target
    has_context: NDArray[np.bool_]  # (B, C)


class Work(NamedTuple):
    flops: float
    n_bytes: float


def panel(n_bars: int, n_assets: int, n_features: int) -> Panel:
    """Noise in float32, generated in place to avoid a second copy of a large panel."""
    rng = np.random.default_rng(7)
    features = np.empty((n_bars, n_assets, n_features), dtype=np.float32)
    rng.standard_normal(dtype=np.float32, out=features)
    features.reshape(-1)[rng.integers(features.size, size=int(MISSING * features.size))] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01") + np.arange(n_bars),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"px_{i}" for i in range(n_features)),
        features=features,
        returns=0.01 * rng.standard_normal((n_bars, n_assets)),
    )


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sizes(market: Market) -> dict[str, int]:
    return {"n_variables": len(market.panel.feature_names), "n_assets": len(market.panel.symbols)}


def draw(market: Market, targets: NDArray[np.int64], scaler: Scaler, recipe: Recipe) -> Iterator[Drawn]:
    """Yield batches of training targets (flat cells) with contexts drawn as in training."""
    n_assets, size = len(market.panel.symbols), recipe.training.batch_size
    space = market.space(scaler, recipe.model)
    back = np.arange(recipe.model.seq_len - 1, -1, -1) * n_assets
    for i in range(N_BATCHES):
        chosen = np.random.default_rng([recipe.seed, i]).choice(targets, size)  # (B,)
        contexts = space.contexts(chosen, recipe.seed + i)  # (B, C), negative where there is none
        filled = np.where(contexts >= 0, contexts, chosen[:, None])
        ends = np.concatenate([chosen, filled.reshape(-1)])  # (W,)
        yield Drawn(ends[:, None] - back, contexts >= 0)


def values_of(market: Market, cells: NDArray[np.int64], scaler: Scaler) -> tuple[Tensor, Tensor, Tensor]:
    """cells (...) -> standardised values, 0 where missing, present (..., V), instrument (...), on the device."""
    features = market.panel.features
    scaled = scaler.transform(features.reshape(-1, features.shape[-1])[cells])
    present = np.isfinite(scaled)
    parts = (np.where(present, scaled, np.float32(0.0)), present.astype(np.float32), cells % features.shape[1])
    values, flags, asset = (torch.from_numpy(part).to(market.device) for part in parts)
    return values, flags, asset


def loop_batch(market: Market, drawn: Drawn, scaler: Scaler) -> tuple[loop_tft.Batch, Tensor]:
    """Inputs of the loop implementation, and the targets' y (B,)."""
    n_targets, n_context = drawn.has_context.shape
    values, present, asset = values_of(market, drawn.windows, scaler)  # (W, L, V), (W, L)
    asset = asset[:, -1]  # (W,)

    def of_contexts(part: Tensor) -> Tensor:
        return part[n_targets:].view(n_targets, n_context, *part.shape[1:])

    batch = loop_tft.Batch(
        values=values[:n_targets],
        present=present[:n_targets],
        asset=asset[:n_targets],
        context_values=of_contexts(values),
        context_present=of_contexts(present),
        context_asset=of_contexts(asset),
        has_context=torch.from_numpy(drawn.has_context).to(market.device),
    )
    y = np.nan_to_num(market.y.reshape(-1)[drawn.windows[:n_targets, -1]]).astype(np.float32)
    return batch, torch.from_numpy(y).to(market.device)


class Fitted(NamedTuple):
    """Times of one call of `fit_folds`."""

    step_s: list[float]
    """Per step and fold, for each epoch except the warm-up"""
    forecast_s: float
    """Validation forecast per fold"""
    n_stacked: int
    at_once: float
    """Mean number of stacks that trained at the same time"""
    n_params: int


def time_fit(market: Market, folds: Sequence[Fold], recipe: Recipe, stack: int | None, n_steps: int) -> Fitted:
    training: Any = FoldStack
    validate, forecast_s = training.validate, []
    reports: list[tuple[float, EpochReport]] = []

    def timed_forecast(*arguments: Any, **named: Any) -> Any:
        synchronise(market.device)  # the epoch's last steps may still be under way
        started = time.perf_counter()
        result = validate(*arguments, **named)  # ends with its numbers on the host
        forecast_s.append(time.perf_counter() - started)
        return result

    def on_epoch(report: EpochReport) -> None:
        reports.append((time.perf_counter(), report))

    training.validate = timed_forecast
    try:
        fits = list(fit_folds(market, folds, recipe, stack_size=stack, on_epoch=on_epoch))
    finally:
        training.validate = validate
    assert len(forecast_s) == len(reports), "every epoch ends with one call of FoldStack.validate"
    counted = [(ended, report) for ended, report in reports if report.epoch > 0] or reports
    busy = sum(report.seconds for _, report in counted)
    span = max(ended for ended, _ in counted) - min(ended - report.seconds for ended, report in counted)
    at_once = max(1.0, busy / span)
    of_forecast = float(np.median(forecast_s))
    return Fitted(
        step_s=[(one.seconds - of_forecast) / n_steps / len(one.folds) / at_once for _, one in counted],
        forecast_s=of_forecast / len(reports[0][1].folds),
        n_stacked=len(reports[0][1].folds),
        at_once=at_once,
        n_params=sum(value.numel() for value in fits[0].parameters.values()),
    )


class LoopTimer:
    """Training steps of the loop implementation, a few at a time."""

    def __init__(self, market: Market, batches: Sequence[Drawn], scaler: Scaler, recipe: Recipe) -> None:
        self.recipe, self.device = recipe, market.device
        self.loop = LoopTFT(recipe.model, **sizes(market), loss_mode=recipe.training.loss_mode).to(self.device)
        self.optimiser = torch.optim.Adam(self.loop.parameters(), lr=recipe.training.lr)
        self.batches = [loop_batch(market, drawn, scaler) for drawn in batches]
        self.seconds: list[float] = []
        for _ in range(3 if self.device.type == "cuda" else 1):  # warm-up
            self.step(*self.batches[0])

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            synchronise(self.device)
            started = time.perf_counter()
            self.step(*self.batches[len(self.seconds) % len(self.batches)])
            synchronise(self.device)
            self.seconds.append(time.perf_counter() - started)

    def step(self, batch: loop_tft.Batch, y: Tensor) -> None:
        output = self.loop(batch)
        loss = training_loss(
            output.position,
            output.distribution,
            y,
            torch.ones_like(y),
            loss_mode=self.recipe.training.loss_mode,
            mle_weight=self.recipe.training.mle_weight,
            periods_per_year=self.recipe.timing.periods_per_year,
        )
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.loop.parameters(), MAX_GRADIENT_NORM)
        self.optimiser.step()


@torch.no_grad()
def agreement(market: Market, drawn: Drawn, scaler: Scaler, recipe: Recipe) -> dict[str, float]:
    """Largest absolute difference of each output between the two implementations, without dropout."""
    torch.manual_seed(recipe.seed)
    model = TemporalFusionTransformer(recipe.model, **sizes(market), loss_mode=recipe.training.loss_mode)
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    loop = LoopTFT(recipe.model, **sizes(market), loss_mode=recipe.training.loss_mode)
    loop_tft.load(loop, dict(model.named_parameters()))
    model, loop = model.to(market.device).eval(), loop.to(market.device).eval()

    cells, rows = np.unique(drawn.windows, return_inverse=True)
    windows = torch.from_numpy(rows.reshape(drawn.windows.shape)).to(market.device)  # (W, L)
    batch, _ = loop_batch(market, drawn, scaler)
    ours, of_cells = model(*values_of(market, cells, scaler), windows, batch.has_context)
    theirs: loop_tft.Output = loop(batch)
    n_targets = len(drawn.has_context)
    pairs = {
        "position": (ours.position, theirs.position),
        "distribution": (ours.distribution, theirs.distribution),
        "attention": (ours.attention, theirs.attention),
        "context attention": (ours.context_attention, theirs.context_attention),
        "selection weights": (of_cells.weights[windows[:n_targets]], theirs.weights),
    }
    return {name: float((a - b).abs().max()) if a.numel() else 0.0 for name, (a, b) in pairs.items()}


def reader_flops(c: ModelConfig, n_targets: int) -> float:
    """Operations of the forward pass after the LSTM. Matrix products only, an (n, i) by (i, o) one being 2*n*i*o.

    h hidden, w width of a head, mw of all heads.
    """
    h, w = c.d_hidden, max(1, c.d_hidden // c.n_heads)
    mw, bars, contexts = c.n_heads * w, n_targets * c.seq_len, n_targets * c.n_context
    grn, gate = 8 * h * h, 4 * h * h  # first H*H, second H*H, gate H*2H | gate alone
    after_lstm = (bars + contexts) * gate  # every bar of a target, the last bar of a context
    enrichment = bars * grn + n_targets * 2 * h * h
    from_contexts = 0
    if c.n_context:
        # query, out, gate a bar; key, value a context; scores and their product with values a pair
        from_contexts = bars * (2 * h * mw + 2 * w * h + gate) + contexts * (2 * h * mw + 2 * h * w)
        from_contexts += bars * c.n_context * (2 * mw + 2 * w)
    # key, value, scores and product a bar; query, out, two gates and a GRN a target; the head is left out
    temporal = bars * (2 * h * mw + 2 * h * w + 2 * mw + 2 * w)
    last = n_targets * (2 * h * mw + 2 * w * h + 2 * gate + grn)
    return after_lstm + enrichment + from_contexts + temporal + last


def least_work(
    c: ModelConfig, *, n_variables: int, n_assets: int, n_targets: int, n_cells: float, n_params: int
) -> Work:
    """Operations per step and fold; each of N distinct cells encoded once, rank-1 maps folded. V variables, W windows.

    FLOPs, forward and backward = 3 times forward (each product has two in its backward); multiplications with a single
    number count, other elementwise work does not:

        cell      V * (6H² + 4H)                   per-variable GRNs: second H*H, gate H*2H; rank-1 layer, weighted sum
                  + 4VH + 4V² + 2H² + 4HV          selection GRN: first and skip from (x, present), second, gate
                  + 8H²                            input projection of the first LSTM layer
        once      8VH² + 4V²H                      embeddings folded into three layers
        asset     4 * 8H² + 2H²                    four static contexts, one of them projected
        window    L * (8H² + (layers - 1) * 16H²)  recurrence
        target    see `reader_flops`

    Bytes, float32, everything else staying on the chip or computed again: parameters 10 times (read forward and
    backward; gradient written and read; parameter and two moments read and written by Adam); x of every cell read
    forward and backward; what a cell hands on (H selected, 4H gates, V weights) and its gradient each written and read;
    LSTM state and memory of every bar and layer written and read. No implementation reaches both at once: it is a
    floor.
    """
    h, v, windows = c.d_hidden, n_variables, n_targets * (1 + c.n_context)
    cell = v * (6 * h * h + 4 * h) + 4 * v * h + 4 * v * v + 2 * h * h + 4 * h * v + 8 * h * h
    once = 8 * v * h * h + 4 * v * v * h + n_assets * 34 * h * h
    recurrence = windows * c.seq_len * (8 + (c.lstm_layers - 1) * 16) * h * h
    flops = 3.0 * (n_cells * cell + once + recurrence + reader_flops(c, n_targets))
    numbers = 10 * n_params + n_cells * (2 * v + 4 * (5 * h + v)) + windows * c.seq_len * c.lstm_layers * 4 * h
    return Work(flops, 4.0 * numbers)


def loop_flops(c: ModelConfig, *, n_variables: int, n_targets: int) -> float:
    """Operations of a loop step: every bar of every window, nothing folded; forward and backward as above."""
    h, v, windows = c.d_hidden, n_variables, n_targets * (1 + c.n_context)
    # A variable: embedding, GRN, weighted sum, and its part of the selection GRN's first and skip layers.
    cell = v * (2 * h + 8 * h * h + 2 * h + 2 * h * h + 2 * h * v) + 2 * h * h + 4 * h * v
    bar = cell + c.lstm_layers * 16 * h * h
    return 3.0 * (windows * (c.seq_len * bar + 34 * h * h) + reader_flops(c, n_targets))


def best_seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    found = []
    for _ in range(repeats):
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        found.append(time.perf_counter() - started)
    return min(found)


def ceilings(device: torch.device) -> Work:
    """Limits of the machine: FLOP/s of a square float32 product, bytes/s (read and written) of a copy."""
    on_gpu = device.type == "cuda"
    side, length = (8192, 2**28) if on_gpu else (2048, 2**26)
    a, b = torch.randn(2, side, side, device=device)
    out = torch.empty_like(a)
    flops = 2.0 * side**3 / best_seconds(lambda: torch.mm(a, b, out=out), device, 10)
    source, target = torch.ones(length, device=device), torch.empty(length, device=device)
    return Work(flops, 8.0 * length / best_seconds(lambda: target.copy_(source), device, 10))


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


def rss_gb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # KiB on Linux


@click.command()
@click.option("--features", default=73, show_default=True)
@click.option(
    "--bars", default=288, show_default=True, help="Bars of the panel; the fold at its end reaches back over 260."
)
@click.option("--instruments", default=4, show_default=True)
@click.option("--train-bars", default=124, show_default=True, help="Bars of the training block.")
@click.option("--validation-bars", default=21, show_default=True, help="Bars of the validation block.")
@click.option("--stack", default=None, type=click.IntRange(1), help="Folds stacked; default: as tft.train does of 16.")
@click.option("--rounds", default=2, type=click.IntRange(1), show_default=True, help="Fits, each with its loop steps.")
@click.option("--epochs", default=3, type=click.IntRange(1), show_default=True, help="Of a fit, the first a warm-up.")
@click.option("--device", default="auto", show_default=True)
@click.option("--loop/--no-loop", "with_loop", default=True, show_default=True, help="Time the usual implementation.")
@click.option("--loop-steps", default=1, type=click.IntRange(1), show_default=True, help="After each fit.")
def main(
    features: int,
    bars: int,
    instruments: int,
    train_bars: int,
    validation_bars: int,
    stack: int | None,
    rounds: int,
    epochs: int,
    device: str,
    with_loop: bool,
    loop_steps: int,
) -> None:
    where, n_threads = choose_device(device), torch.get_num_threads()
    on_gpu = where.type == "cuda"
    torch.backends.cudnn.allow_tf32 = False  # nn.LSTM's only; products are float32 unless asked
    training = TrainingConfig(objective="pooled", lr=0.0027, weight_decay=0.0, mle_weight=0.186, patience=0)
    recipe = Recipe(ModelConfig(), training, Timing(), epochs, 7, PositionsConfig())
    end = bars - recipe.timing.label_bars
    stop = end - validation_bars - PURGE_BARS
    if stop - train_bars < 0:
        raise click.UsageError(f"{bars} bars do not hold {train_bars} to train on: at least {train_bars + bars - stop}")
    n_folds = stack or 16 if on_gpu else (stack or 1) * n_threads
    folds = [
        Fold(i, range(stop - train_bars, stop), range(end - validation_bars, end), range(end, end))
        for i in range(n_folds)
    ]

    market = Market(panel(bars, instruments, features), recipe.timing, where)
    scaler = Scaler.fit(market.panel.features[folds[0].train.start : folds[0].train.stop])
    targets = market.space(scaler, recipe.model).targets(folds[0].train)
    targets = targets[np.isfinite(market.y.reshape(-1)[targets])]
    if not len(targets):
        raise click.UsageError(f"no training target in bars {folds[0].train}: the look-back is {recipe.model.seq_len}")
    n_steps = max(1, len(targets) // recipe.training.batch_size)
    batches = list(draw(market, targets, scaler, recipe))
    n_cells = float(np.mean([len(np.unique(drawn.windows)) for drawn in batches]))

    fitted: list[Fitted] = []
    baseline: LoopTimer | None = None
    resident: dict[str, float] = {}
    on_device: dict[str, float] = {}

    def note_memory(whose: str) -> None:  # of the first round: later the other's tensors are there too
        if whose not in resident:
            resident[whose] = rss_gb()
            if on_gpu:
                on_device[whose] = torch.cuda.max_memory_allocated(where) / 1e9
                torch.cuda.reset_peak_memory_stats(where)

    for _ in range(rounds):
        fitted.append(time_fit(market, folds, recipe, stack, n_steps))
        note_memory("ours")
        torch.set_num_threads(n_threads)  # threads that train folds set their own, and in part everyone's
        if with_loop:
            baseline = baseline or LoopTimer(market, batches, scaler, recipe)
            baseline.run(loop_steps)
            note_memory("loop")

    n_params = fitted[0].n_params
    count = {"n_variables": features, "n_targets": recipe.training.batch_size}
    least = least_work(recipe.model, **count, n_assets=instruments, n_cells=n_cells, n_params=n_params)
    ceiling = ceilings(where)
    floor_s = max(least.flops / ceiling.flops, least.n_bytes / ceiling.n_bytes)
    steps = [seconds for one in fitted for seconds in one.step_s]
    loop_s = baseline.seconds if baseline else []
    rows = [("ours", steps, least.flops)]
    if loop_s:
        rows.append(("loop", loop_s, loop_flops(recipe.model, **count)))

    print(
        f"{features} features, {instruments} instruments, {bars} bars, {train_bars} to train on\n{recipe.model}, batch "
        f"{recipe.training.batch_size}, {recipe.training.loss_mode}\n{n_params:,} parameters, {n_cells:,.0f} distinct "
        f"cells a step, {batches[0].windows.size:,} seen through its windows"
    )
    print(f"{where.type}: {processor(where)}, torch {torch.__version__}\n")
    print("                ms a step and fold            GFLOP a step   GFLOP/s    floor in")
    print("          median       min       max   timed       and fold  achieved   the median")
    for name, seconds, flops in rows:
        median = float(np.median(seconds))
        print(
            f"{name:6}{1e3 * median:10.2f}{1e3 * min(seconds):10.2f}{1e3 * max(seconds):10.2f}{len(seconds):8d}"
            f"{flops / 1e9:15.2f}{flops / median / 1e9:10.0f}{floor_s / median:13.1%}"
        )
    print(
        f"\nours: epochs of {n_steps} steps{', warm-up included' if epochs == 1 else ''}; {fitted[0].n_stacked} folds "
        f"stacked, {fitted[0].at_once:.2f} stacks at the same time; validation forecast "
        f"{1e3 * float(np.median([one.forecast_s for one in fitted])):.1f} ms a fold, each alone"
    )
    if loop_s:
        print(f"loop / ours: {np.median(loop_s) / np.median(steps):.1f} times, of medians")
        found = agreement(market, batches[0], scaler, recipe)
        print("largest difference: " + ", ".join(f"{name} {value:.1e}" for name, value in found.items()))
    print(
        f"floor: {1e3 * floor_s:.3f} ms = the larger of {least.flops / 1e9:.2f} GFLOP at {ceiling.flops / 1e9:,.0f} "
        f"GFLOP/s and {least.n_bytes / 1e6:.1f} MB at {ceiling.n_bytes / 1e9:.1f} GB/s, both measured now"
    )
    print("most memory held: " + ", ".join(f"{gb:.2f} GB resident after {whose}" for whose, gb in resident.items()))
    if on_gpu:
        print("allocated on the GPU: " + ", ".join(f"{whose} {gb:.2f} GB" for whose, gb in on_device.items()))


if __name__ == "__main__":
    main()
