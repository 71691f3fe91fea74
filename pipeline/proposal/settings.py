"""The settings that fit a table, each with its reason, and the YAML file that holds them.

The recipe is that of configs/realdata.yaml; names, frequency and windows are the table's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.config.sections import DataConfig
from pipeline.counted import counted
from pipeline.proposal import windows as cut
from pipeline.proposal.calendar import Calendar
from pipeline.proposal.windows import Windows
from pipeline.statistics.sharpe import detectable_sharpe
from tft.panel import Panel

Settings = dict[str, tuple[Any, str]]
"""Value and reason of each setting by its dotted key, in the order of the file."""
MOST_FEATURES = 40
_WIDTH = 48

SECTIONS = {
    "data": "the table",
    "walk_forward": "how a fold is cut",
    "prefilter": "phase 1: which columns carry no information",
    "exploration": "phase 2: a training on all columns, for their selection weights",
    "pruning": "phase 3: which columns stay",
    "tuning": "phase 4: the search over hyper-parameters",
    "tuning.space": "what is searched; what is not named stays as configured below",
    "production": "phase 5: the walk-forward that is reported, and the last fit",
    "model": "the network of the untuned trial",
    "training": "how it is fitted",
    "positions": "from a forecast to a position",
    "registry": "the name of the registered model",
}


def settings_for(
    data: DataConfig, panel: Panel, calendar: Calendar, windows: Windows, *, name: str, device: str
) -> Settings:
    """Every setting of a first configuration, with its reason.

    data: the section as it reads the table, every key column named · name: of the registered model · device: what
    `auto` stands for here.
    """
    n_bars, n_symbols, n_features = panel.features.shape
    holdout = windows.n_bars - windows.n_development
    smallest = detectable_sharpe(holdout - cut.DELAY - cut.HORIZON, calendar.periods_per_year)
    first_held_out = str(panel.times[windows.n_development].astype("datetime64[s]")).removesuffix("T00:00:00")
    n_kept = min(n_features, MOST_FEATURES)
    fold = "all earlier bars, of which these are the first fold's" if windows.expanding else "a window of so many bars"
    return {
        "seed": (7, "of every random draw"),
        "device": ("auto", f"the GPU where there is one; here {device}"),
        **_of_data(data, n_features, n_symbols),
        "periods_per_year": (calendar.periods_per_year, f"{calendar.name}: {calendar.why}"),
        "execution_delay_bars": (cut.DELAY, "a decision of bar t is held over bar t + 2; 0 if you trade the next bar"),
        "horizon": (cut.HORIZON, "bars that a forecast looks ahead"),
        "holdout_fraction": (
            windows.holdout_fraction,
            f"the last {holdout} of {n_bars} bars, from {first_held_out}, judge what the others chose"
            + (f": more than {cut.HOLDOUT}, so that they can" if windows.holdout_fraction > cut.HOLDOUT else "")
            + f"; a true Sharpe under {smallest:.1f} would be missed",
        ),
        "purge_gap": (cut.PURGE_GAP, "bars left out between blocks; labels reach 1 bar past the first one"),
        "walk_forward.train_window": (windows.train, f"{fold}, validation included"),
        "walk_forward.validation_window": (windows.validation, "the last bars of it, for reported scores"),
        "walk_forward.expanding": (
            windows.expanding,
            "a table this short trains on all of its past"
            if windows.expanding
            else f"above {cut.MOST_EXPANDING} bars windows roll",
        ),
        "prefilter.max_nan_fraction": (0.5, "dropped if missing more often in every instrument"),
        "prefilter.max_correlation": (0.999999, "of two columns above it one is dropped"),
        "exploration.step_size": (windows.exploration_step, "three folds over the development bars"),
        "exploration.epochs": (12, "fewer than in production: weights show early"),
        "exploration.max_folds": (3, "the most recent ones"),
        "exploration.n_probes": (40, "columns shifted in time, which show what noise gets"),
        "pruning.weight_threshold": (1.0, "times the weight that every column would have alike"),
        "pruning.false_discovery_rate": (0.1, "share of kept columns that may be false"),
        "pruning.min_stability": (0.3, "share of folds in which a column has to reach the threshold"),
        "pruning.max_features": (n_kept, f"of {n_features} columns"),
        "tuning.n_trials": (5, "each is trained on all tuning folds: more find better ones, and overfit"),
        "tuning.folds": (cut.TUNING_FOLDS, "test blocks of a trial"),
        "tuning.epochs": (12, "of each"),
        "tuning.space.d_hidden": ({"choices": [8, 16, 24]}, "width of the network"),
        "tuning.space.dropout": ({"low": 0.1, "high": 0.5}, "share of units left out in a step"),
        "tuning.space.lr": ({"low": 0.001, "high": 0.01, "log": True}, "learning rate"),
        "tuning.space.mle_weight": ({"low": 1.0, "high": 20.0, "log": True}, "of the likelihood beside the Sharpe"),
        "tuning.space.max_position": ({"low": 0.1, "high": 1.0}, "cap of a position"),
        "tuning.space.position_smooth": ({"low": 0.0, "high": 0.9}, "share of yesterday's position that stays"),
        "production.step_size": (windows.production_step, f"{cut.PRODUCTION_FOLDS} folds up to the last bar"),
        "production.epochs": (16, "of each fold and seed"),
        "production.seeds": (5, "networks averaged; their spread is part of the error. 1 costs a fifth"),
        "model.d_hidden": (16, "width"),
        "model.n_heads": (2, "of attention"),
        "model.lstm_layers": (1, "of the recurrent part"),
        "model.dropout": (0.3, "share of units left out in a step"),
        "model.seq_len": (cut.SEQ_LEN, "bars that a forecast looks back"),
        "model.n_context": (0, "windows of other times and instruments beside it; 0: none"),
        "training.lr": (0.003, "learning rate"),
        "training.loss_mode": ("joint_mle", "a Gaussian forecast; or joint_quantile, or sharpe"),
        "training.mle_weight": (5.0, "of the likelihood beside the portfolio's Sharpe"),
        "positions.max_position": (0.5, "cap of a position, as a share of an instrument's capital"),
        "positions.position_smooth": (0.9, "share of the last position that stays: turnover costs"),
        "positions.vol_target": (0.15, "annual volatility that a full position aims at"),
        "positions.max_leverage": (4, "most that a calm instrument is scaled up"),
        "positions.cost_bps": (5, "cost of a position change of 1, in basis points: yours?"),
        "registry.name": (name, "registered under this name, after the table"),
        "registry.promote": ("if_better", "or always, or never"),
    }


def _of_data(data: DataConfig, n_features: int, n_symbols: int) -> Settings:
    """The section `data`: what names the table, its keys, and what is left out."""
    reasons = {
        "source": f"{counted(n_features, 'feature column')}, {counted(n_symbols, 'instrument')}",
        "time_column": "the bar's time",
        "time_format": "how it is written",
        "symbol_column": "the instrument",
        "close_column": "the close, from which returns are taken where there are none",
        "return_column": "the bar's own close-to-close simple return",
        "exclude": "columns that are no features",
        "known": "columns known in advance (calendar, expiries): none was assumed",
        "benchmark": "a benchmark's return over each bar, in place of the long-only portfolio",
        "feature_lookback_bars": "history in the longest of your features: correct it; placebo trials read it",
        "accept": "columns that may stay although a check objects",
    }
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(data).items()}
    dropped = {name for name in ("time_format", "benchmark", "accept") if not values[name]}
    return {f"data.{name}": (values[name], reason) for name, reason in reasons.items() if name not in dropped}


def overridden(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """The settings with the nested values that were given by hand, in their places or at the end of their section."""
    by_hand: Settings = {name: (value, "as given by --set") for name, value in _leaves(given)}
    return {name: by_hand.get(name, setting) for name, setting in settings.items()} | by_hand


def _leaves(given: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, dict) and f"{path}{key}" in SECTIONS:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def to_yaml(settings: Settings, head: Sequence[str]) -> str:
    """The settings as a YAML file with a comment on every line; `head` are the lines of comment above them."""
    return "\n".join([*(f"# {line}" for line in head), *_lines(nested(settings))]) + "\n"


def nested(settings: Settings) -> dict[str, Any]:
    """The settings by section, each still with its reason."""
    tree: dict[str, Any] = {}
    for name, setting in settings.items():
        *sections, key = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = setting
    return tree


def _lines(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for key, value in tree.items():
        text, comment = (f"{key}:", SECTIONS[path + key]) if isinstance(value, dict) else (_shown(key, *value))
        yield f"{'  ' * path.count('.') + text:<{_WIDTH}} # {comment}"
        if isinstance(value, dict):
            yield from _lines(value, f"{path}{key}.")


def _shown(key: str, value: Any, reason: str) -> tuple[str, str]:
    return f"{key}: {json.dumps(value, ensure_ascii=False)}", reason
