"""Which groups of columns the record lives on: the test bars forecast again with one group's timing destroyed.

The networks stay as they are; so do their gains, which are part of what was fitted. The columns of a group are permuted
in blocks along time, all of the group together and in all instruments alike, so that values, cross-section and memory
stay and only the timing is lost, as with the probes of exploration. Blocks change places within the bars that the
forecasts of the judged bars can read: their whole look-back, contexts included, is permuted, or else the first bars
of a test block would still see the group as it was, and a short block little else. Nothing is chosen by the result.

The cost is a forecast pass over the judged folds for each group and permutation, which is why the groups are limited to
those with the most weight. Shapes: n judged bars, T bars, A instruments, K permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.phases.production import Walked, recipes
from pipeline.phases.stitching import stitch_by_fold
from pipeline.phases.training_data import TrainingData
from pipeline.statistics.group_losses import GroupLoss, GroupLosses, return_loss, sharpe_loss
from tft.backtest import FoldOutcome, forecast_bars
from tft.fold_store import FoldFit
from tft.forecast import mean_of_seeds
from tft.market import Market
from tft.metrics import MIN_BARS
from tft.panel import Panel, group_of
from tft.recipe import Recipe
from tft.record import RawForecast, Segment
from tft.runtime.store import Store
from tft.runtime.threads import run_in_threads
from tft.train import warn_if_not_stored
from tft.windows import CONTEXT_POOL_BARS, seed_from

Array = NDArray[np.float64]

N_PERMUTATIONS = 3
MAX_GROUPS = 10
MIN_BLOCK_BARS = 63
MIN_BLOCKS = 4
NET = "net"
"""Name of the stored entry's one file"""


@dataclass(frozen=True, eq=False)
class _Judged:
    """The part of a walk-forward that is judged."""

    segment: Segment
    rows: NDArray[np.bool_]
    """Rows of the record that are judged: those of the segment with a known return"""
    outcomes: tuple[FoldOutcome, ...]
    """Outcomes of the folds that own any of these rows"""
    span: range
    """Bars that their forecasts can read"""
    block_bars: int


def n_passes(walked: Walked) -> int:
    """Forecast passes that `group_losses` makes."""
    judged = _judged(walked)
    return min(len(group_weights(walked, judged.outcomes)), MAX_GROUPS) * N_PERMUTATIONS if judged else 0


def group_losses(
    data: TrainingData,
    walked: Walked,
    *,
    seed: int,
    store: Store | None = None,
    on_pass: Callable[[str], None] = lambda group: None,
) -> GroupLosses | None:
    """What the holdout of a walk-forward, or development where there is none, loses without each group of columns.

    data: what the folds were fitted on · store: where finished passes wait in case the process dies · on_pass: called
    with the group after each pass. None without MIN_BARS judged bars.
    """
    judged = _judged(walked)
    if judged is None:
        return None
    weights = group_weights(walked, judged.outcomes)
    groups = sorted(weights, key=lambda group: (-weights[group], group))
    used = {name for outcome in judged.outcomes for name in walked.choices[outcome.fold.index].features}
    panel = data.panel.select([name for name in data.panel.feature_names if name in used])
    net, periods = walked.record.net()[judged.rows], walked.record.timing.periods_per_year
    rows = []
    for group in groups[:MAX_GROUPS]:
        columns = [number for number, name in enumerate(panel.feature_names) if group_of(name) == group]
        permuted = []
        for number in range(N_PERMUTATIONS):
            rng = np.random.default_rng([seed, seed_from("permuted", group, number)])
            one = permuted_panel(panel, columns, judged.span, judged.block_bars, rng)
            permuted.append(_stored(f"{seed_from(group)}-{number}", store, partial(_net, data, one, walked, judged)))
            on_pass(group)
        rows.append(
            GroupLoss(
                group=group,
                n_columns=len(columns),
                weight=weights[group],
                sharpe_loss=sharpe_loss(net, permuted, periods_per_year=periods),
                return_loss=return_loss(net, permuted, periods_per_year=periods),
            )
        )
    return GroupLosses(
        segment="holdout" if judged.segment == "holdout" else "development",
        n_bars=len(net),
        n_permutations=N_PERMUTATIONS,
        block_bars=judged.block_bars,
        rows=tuple(rows),
        left_out=tuple(groups[MAX_GROUPS:]),
    )


def group_weights(walked: Walked, outcomes: Sequence[FoldOutcome]) -> dict[str, float]:
    """Selection weight by group: summed over its columns, mean over the folds, 0 where a fold does not read it."""
    total: dict[str, float] = {}
    for outcome in outcomes:
        features = walked.choices[outcome.fold.index].features
        for name, weight in zip(features, np.nan_to_num(outcome.vsn_weight).tolist(), strict=True):
            total[group_of(name)] = total.get(group_of(name), 0.0) + weight / len(outcomes)
    return total


def permuted_panel(
    panel: Panel, columns: Sequence[int], span: range, block_bars: int, rng: np.random.Generator
) -> Panel:
    """The panel with these columns permuted in blocks over the bars of `span`, all instruments alike."""
    order = span.start + permuted_blocks(len(span), block_bars, rng)
    features = panel.features.copy()
    features[span.start : span.stop, :, columns] = panel.features[order][:, :, columns]
    return replace(panel, features=features)


def permuted_blocks(n: int, block_bars: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """An order (n,) of n bars: blocks of about `block_bars`, at least MIN_BLOCKS, each in the place of another.

    They tile the bars, as on a ring, from a random one on. Places are drawn by Sattolo's algorithm (1986), whose
    permutations are one cycle, so that no block stays where it was.
    """
    start = int(rng.integers(n))
    blocks = np.array_split(np.roll(np.arange(n), -start), min(n, max(MIN_BLOCKS, n // block_bars)))
    for last in range(len(blocks) - 1, 0, -1):
        other = int(rng.integers(last))
        blocks[last], blocks[other] = blocks[other], blocks[last]
    return np.roll(np.concatenate(blocks), start)


def _judged(walked: Walked) -> _Judged | None:
    record = walked.record
    known = np.isfinite(record.net())
    segments: tuple[Segment, ...] = ("holdout", "development")
    for segment in segments:
        rows = known & (record.segment == segment)
        if rows.sum() < MIN_BARS:
            continue
        owners = set(np.unique(record.fold[rows]).tolist())
        outcomes = tuple(outcome for outcome in walked.outcomes if outcome.fold.index in owners)
        models = [walked.choices[outcome.fold.index].config.model for outcome in outcomes]
        look_back = max(max(CONTEXT_POOL_BARS, one.seq_len) if one.n_context else one.seq_len for one in models)
        first, stop = outcomes[0].forecast.bars.start, outcomes[-1].forecast.bars.stop
        block_bars = max(MIN_BLOCK_BARS, 2 * max(one.seq_len for one in models))
        return _Judged(segment, rows, outcomes, range(max(first - look_back + 1, 0), stop), block_bars)
    return None


def _net(data: TrainingData, panel: Panel, walked: Walked, judged: _Judged) -> Array:
    """Net portfolio returns (n,) of the judged bars where their folds forecast from this panel."""
    forecasts = _forecasts(replace(data, panel=panel, sigma=walked.market.sigma), walked, judged.outcomes)
    record = stitch_by_fold(
        [forecasts.get(outcome.fold.index, outcome.forecast) for outcome in walked.outcomes],
        walked.positions,
        walked.market,
        n_development=walked.n_development,
    )
    return np.nan_to_num(record.net()[judged.rows], nan=0.0)  # a group that moved can leave nothing to start with


def _forecasts(data: TrainingData, walked: Walked, outcomes: Sequence[FoldOutcome]) -> dict[int, RawForecast]:
    """Raw positions of each fold by its index, its seeds averaged, with its gain."""
    markets: dict[str, Market] = {}
    tasks = []
    for number, outcome in enumerate(walked.outcomes):
        if outcome not in outcomes:
            continue
        choice = walked.choices[outcome.fold.index]
        if choice.sha256 not in markets:
            markets[choice.sha256] = data.select(choice.features).market(choice.config.timing)
        for fits, recipe in zip(walked.seed_fits, recipes(choice.config), strict=True):
            market = markets[choice.sha256]
            tasks.append(partial(_raw_positions, fits[number], market, recipe, outcome.forecast.bars))
    n_threads = torch.get_num_threads() if data.device.type == "cpu" else 1
    raw = list(run_in_threads(tasks, n_threads, lambda report: None))
    n_seeds = len(walked.seed_fits)
    found = {}
    for number, outcome in enumerate(outcomes):
        of_seeds = raw[number * n_seeds : (number + 1) * n_seeds]
        bars = outcome.forecast.bars
        found[outcome.fold.index] = RawForecast(outcome.fold, bars, outcome.gain * mean_of_seeds(of_seeds))
    return found


def _raw_positions(fit: FoldFit, market: Market, recipe: Recipe, bars: range, report: Callable[[None], None]) -> Array:
    report(None)
    return forecast_bars(fit, market, recipe, bars)[0]


def _stored(name: str, store: Store | None, compute: Callable[[], Array]) -> Array:
    """The array of this name, computed and stored unless it is."""
    if store is None:
        return compute()
    if (files := store.get(name)) is not None:
        return np.frombuffer(files[NET], dtype=np.float64)
    values = compute()
    with warn_if_not_stored(store):
        store.put(name, {NET: values.tobytes()})
    return values
