"""How much of what can be known does the model learn? Planted truths, two ceilings, and rivals on the same bars.

    python -m benchmarks.skill --out skill                      # six kinds, five seeds, one network, one GPU
    python -m benchmarks.skill --out skill --small              # minutes on two cores, to see that it runs
    python -m benchmarks.skill --out after --learners tft --set "training.lr=0.003;model.seq_len=63"
    python -m benchmarks.skill --out costs --costs              # 5 bps, smoothing 0.5
    python -m benchmarks.skill --compare before/skill.json after/skill.json
    python -m benchmarks.skill --out report --seeds report      # once, when the recipe is frozen
    python -m benchmarks.skill --show a/skill.json --show b/skill.json --out both

A market (benchmarks/truths.py) has 8 instruments, 40 columns, 2,200 bars and a delay of 1. Five expanding folds test
the last 1,250 bars that have a label. Every learner gives raw positions on them, and gets the same cap, smoothing,
volatility scaling by the estimated sigma, costs, and stitched record. The settings of the network and of sizing are
those of benchmarks/skill.yaml with --set on top.

Two ceilings (benchmarks/ceilings.py): a trader who knows E[y | own window], and the best portfolio given E[y | all] and
the covariance of the noise. With costs they smooth as much as pays. `share` is a learner's *true* Sharpe, net, by that
of a ceiling: the noise of the test bars is averaged out, which is possible because the truth is known. On `noise` the
true gross Sharpe is 0 by construction: there the realised one, with its HAC standard error, is what counts.

Who sees what, and which ceiling is therefore theirs (bold in the table; both shares are given):

    ridge, trees     pipeline/statistics/regressions.py on the columns of the bar         own
    lags             ridge whose true column is its kernel mean (else the same as ridge) own
    products         ridge on all columns and their 780 products: can it be found?       own
    ...-gls          the same, fitted by generalised least squares: what a loss that knows
                     that noise is shared gets out of the same cells                     own
    lstm             positions trained on the Sharpe (Lim, Zohren & Roberts 2019)        own
    neuralforecast   its TFT as its documentation trains it, where it is installed       own
    tft              this project, by tft.backtest.walk; objective portfolio makes the
                     cross-sectional step itself                                         all (pooled: own)
    ...+x            the same forecasts with the cross-sectional step (cross_section.py) all

The files of --out: skill.json (one row a learner and market, written as they come), skill.md, skill.png.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # cases run in processes of their own: a thread each
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.ceilings import all_trader, knower_record, own_trader
from benchmarks.rival_networks import lstm, neuralforecast_installed, neuralforecast_tft
from benchmarks.rivals import REGRESSIONS
from benchmarks.skill_measure import measure
from benchmarks.skill_report import (
    CROSS,
    KNOWERS,
    Ceiling,
    Row,
    comparison,
    figure,
    read,
    remarks,
    table,
    write,
)
from benchmarks.skill_task import WARM_UP_BARS, FoldForecast, Size, Task, joined
from benchmarks.truths import KINDS, Kind
from pipeline.config.reading import load_config, split_overrides
from pipeline.config.schema import Config, ConfigError
from pipeline.execution import in_processes
from pipeline.phases.stitching import average
from tft.backtest import FoldOutcome, walk
from tft.cross_section import error_correlation, hedged
from tft.market import choose_device
from tft.recalibration import centre_and_spread
from tft.record import Record

Array = NDArray[np.float64]

RECIPE = Path(__file__).with_name("skill.yaml")
SEEDS: Mapping[str, range] = {"development": range(1, 21), "report": range(101, 121)}
"""Of the generator. Whatever is tried is tried on the first; the second are run once, with a recipe that is frozen"""
N_SEEDS = 5
"""By default the first so many of them"""
TFT = "tft"
NEURALFORECAST = "neuralforecast"
SMALL = Size(n_bars=900, n_folds=2, test_bars=150, validation_bars=150)
SMALL_KINDS: tuple[Kind, ...] = ("linear", "relative")
SMALL_SETTINGS = ("production.epochs=3", "model.d_hidden=8", "model.seq_len=16")
COSTS = ("positions.cost_bps=5", "positions.position_smooth=0.5")


# ---- this project


def tft(task: Task) -> list[FoldForecast]:
    """This project's networks on every fold, averaged as in production."""
    return averaged(task, trained_networks(task))


def trained_networks(task: Task) -> list[list[FoldOutcome]]:
    """The outcome of every fold (outer) under every seed (inner), trained side by side where a GPU has room."""
    config, n_seeds = task.config, task.config.production.seeds
    recipes = [
        replace(config, seed=task.seed + 1000 * number).recipe(config.production.epochs) for number in range(n_seeds)
    ]
    folds = [fold for fold in task.folds for _ in recipes]
    walked = [outcome for _, outcome in walk(task.market, folds, recipes * len(task.folds))]
    return [walked[start : start + n_seeds] for start in range(0, len(walked), n_seeds)]


def averaged(task: Task, by_fold: Sequence[Sequence[FoldOutcome]]) -> list[FoldForecast]:
    forecasts = []
    for of_fold in by_fold:
        outcome, train = average(of_fold, task.market, task.config.positions), of_fold[0].fold.train
        forecasts.append(
            FoldForecast(
                outcome.forecast.raw_position,
                error_correlation(task.market.y[train.start : train.stop]),
                centre_and_spread(outcome.distribution)[0] if outcome.distribution.shape[-1] else None,
                tuple(one.kept_epoch for one in of_fold),
                outcome,
            )
        )
    return forecasts


LEARNERS: Mapping[str, Callable[[Task], list[FoldForecast]]] = {
    TFT: tft,
    NEURALFORECAST: neuralforecast_tft,
    "lstm": lstm,
    **REGRESSIONS,
}
"""The slowest first, so that processes end together"""
DEFAULT_LEARNERS = (TFT, "lstm", "ridge", "trees", "lags", "products")


# ---- cases


@dataclass(frozen=True)
class Setting:
    """What all cases share."""

    config: Config
    size: Size
    device: str


@dataclass(frozen=True)
class Case:
    """One learner on one market."""

    kind: Kind
    seed: int
    learner: str


def run(setting: Setting, case: Case) -> list[Row]:
    """The rows of one case: the learner without and with the cross-sectional step, or those who know."""
    networks = case.learner not in REGRESSIONS and case.learner != "knowers"
    device = choose_device(setting.device if networks else "cpu")
    task = Task.of(case.kind, case.seed, setting.size, setting.config, device)
    knowers: dict[Ceiling, Record] = {
        "own": knower_record(task, own_trader(task.truth)),
        "all": knower_record(task, all_trader(task.truth)),
    }
    if case.learner == "knowers":
        return [measure(task, name, ceiling, knowers[ceiling], knowers) for ceiling, name in KNOWERS.items()]
    started = time.perf_counter()
    if case.learner == TFT and setting.config.training.objective == "portfolio":
        return _tft_rows(task, trained_networks(task), knowers, time.perf_counter() - started)
    forecasts = LEARNERS[case.learner](task)
    seconds = time.perf_counter() - started
    mu = [forecast.mu for forecast in forecasts if forecast.mu is not None]
    kept_epochs = [epoch for forecast in forecasts for epoch in forecast.kept_epochs]
    plain = joined([forecast.raw for forecast in forecasts])
    crossed = joined([hedged(each.raw, np.isfinite(each.raw), each.rho) for each in forecasts])
    outcomes = [forecast.outcome for forecast in forecasts if forecast.outcome is not None]
    measured = partial(measure, task, knowers=knowers, kept_epochs=kept_epochs, seconds=seconds, outcomes=outcomes)
    return [
        measured(case.learner, "own", task.record(plain), mu=joined(mu) if mu else None),
        measured(case.learner + CROSS, "all", task.record(crossed)),
    ]


def _tft_rows(
    task: Task, by_fold: Sequence[Sequence[FoldOutcome]], knowers: Mapping[Ceiling, Record], seconds: float
) -> list[Row]:
    """The rows of this project with objective portfolio, which makes the cross-sectional step itself: its networks
    averaged, and the first of them alone where there are several.
    """
    n_networks = len(by_fold[0])
    names = {TFT: n_networks} | ({f"{TFT}, one network": 1} if n_networks > 1 else {})
    rows = []
    for name, n_used in names.items():
        forecasts = averaged(task, [of_fold[:n_used] for of_fold in by_fold])
        mu = [forecast.mu for forecast in forecasts if forecast.mu is not None]
        rows.append(
            measure(
                task,
                name,
                "all",
                task.record(joined([forecast.raw for forecast in forecasts])),
                knowers,
                mu=joined(mu) if mu else None,
                kept_epochs=[epoch for forecast in forecasts for epoch in forecast.kept_epochs],
                seconds=seconds * n_used / n_networks,
                outcomes=[forecast.outcome for forecast in forecasts if forecast.outcome is not None],
            )
        )
    return rows


def read_config(overrides: Sequence[str]) -> Config:
    """The recipe with these settings on top."""
    try:
        config = load_config(RECIPE, overrides)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    if config.model.seq_len > WARM_UP_BARS + 1:
        raise click.UsageError(
            f"model.seq_len is {config.model.seq_len}, the folds begin after {WARM_UP_BARS} bars: at most "
            f"{WARM_UP_BARS + 1}"
        )
    return config


def read_seeds(text: str) -> range:
    """The seeds of a name in SEEDS, or first and last with a hyphen between."""
    first, hyphen, last = text.partition("-")
    if text in SEEDS:
        return SEEDS[text]
    if not (hyphen and first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
        raise click.UsageError(f"seeds is {text!r}: give {', '.join(SEEDS)}, or the first and the last as 106-110")
    return range(int(first), int(last) + 1)


def chosen(text: str, known: Sequence[str], what: str) -> list[str]:
    """The names in `text`, separated by commas, in the order of `known`; `all` is all of them."""
    names = known if text == "all" else [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"{what} {', '.join(unknown)} is not known: choose from {', '.join(known)}, or all")
    return [name for name in known if name in names]


def show(rows: Sequence[Row], folder: Path) -> None:
    text = "\n".join([table(rows), "", *remarks(rows)])
    (folder / "skill.md").write_text(text + "\n")
    figure(rows).savefig(folder / "skill.png")
    click.echo(text)


@click.command(help="How much of what can be known does the model learn? See the top of the file.")
@click.option("--kinds", default="all", show_default=True, help=f"Of {', '.join(KINDS)}, separated by commas.")
@click.option("--learners", default=",".join(DEFAULT_LEARNERS), show_default=True, help="Separated by commas, or all.")
@click.option("--seeds", default="development", show_default=True, help="Of the generator; report, or as 106-110.")
@click.option("--n-seeds", type=click.IntRange(1, 20), help=f"The first so many of them; {N_SEEDS}, or 1 if small.")
@click.option("--networks", default=1, show_default=True, help="Networks of this project, averaged.")
@click.option("--costs", is_flag=True, help="5 bps and a smoothing of 0.5, instead of neither.")
@click.option("--set", "overrides", multiple=True, help='Settings on top of skill.yaml, as "a.b=1;c.d=2".')
@click.option("--small", is_flag=True, help="Two kinds, one seed, 900 bars, a few epochs.")
@click.option("--jobs", type=int, help="Cases at a time: one a core, at most 8, unless said.")
@click.option("--device", default="auto", show_default=True, help="Of networks: auto, cpu or cuda.")
@click.option("--out", type=click.Path(path_type=Path), default="skill", show_default=True)
@click.option("--show", "shown", type=click.Path(path_type=Path, exists=True), multiple=True, help="Of these, no run.")
@click.option("--compare", nargs=2, type=click.Path(path_type=Path, exists=True), help="Before and after: JSON files.")
@click.option("--learner", default=TFT, show_default=True, help="Whom to compare.")
@click.option(
    "--ceiling", type=click.Choice(get_args(Ceiling)), default="own", show_default=True, help="In a comparison."
)
def main(
    kinds: str,
    learners: str,
    seeds: str,
    n_seeds: int | None,
    networks: int,
    costs: bool,
    overrides: tuple[str, ...],
    small: bool,
    jobs: int | None,
    device: str,
    out: Path,
    shown: tuple[Path, ...],
    compare: tuple[Path, Path] | None,
    learner: str,
    ceiling: Ceiling,
) -> None:
    if compare:
        click.echo(comparison(*(read(path) for path in compare), learner=learner, ceiling=ceiling))
        return
    out.mkdir(parents=True, exist_ok=True)
    if shown:
        show([row for path in shown for row in read(path)], out)
        return
    settings = [*(SMALL_SETTINGS if small else ()), *(COSTS if costs else ()), f"production.seeds={networks}"]
    config = read_config([*settings, *split_overrides(overrides)])
    names = SMALL_KINDS if small and kinds == "all" else chosen(kinds, KINDS, "kind")
    wanted_kinds = [kind for kind in KINDS if kind in names]
    wanted = chosen(learners, list(LEARNERS), "learner")
    if NEURALFORECAST in wanted and not neuralforecast_installed():
        click.echo("neuralforecast is not installed and is left out: put it on PYTHONPATH (benchmarks/peers.py)")
        wanted.remove(NEURALFORECAST)
    setting = Setting(config, SMALL if small else Size(), device)
    some_seeds = read_seeds(seeds)[: n_seeds or (1 if small else N_SEEDS)]
    cases = [Case(kind, seed, name) for name in [*wanted, "knowers"] for seed in some_seeds for kind in wanted_kinds]
    n_jobs = jobs or min(len(os.sched_getaffinity(0)), 8)
    used = {"seeds": seeds, "size": asdict(setting.size), **config.record_settings()}
    rows: list[Row] = []
    started = time.perf_counter()

    def on_done(found: list[Row]) -> None:
        rows.extend(found)
        write(out / "skill.json", used, rows)
        row = found[0]
        click.echo(
            f"{row.kind} {row.seed} {row.learner}: true Sharpe {row.true_sharpe:.2f}, {row.seconds:.1f} s", err=True
        )

    in_turn = [row for found in in_processes(run, setting, cases, n_workers=n_jobs, on_done=on_done) for row in found]
    write(out / "skill.json", used, in_turn)
    show(in_turn, out)
    click.echo(f"{len(cases)} cases in {time.perf_counter() - started:.0f} s, {n_jobs} at a time")


if __name__ == "__main__":
    main()
