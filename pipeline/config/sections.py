"""The sections of a configuration: one frozen dataclass each, its defaults, and the faults its values can have.

The sections `walk_forward`, `model`, `training`, `positions` and `regime` belong to tft/. Windows and steps are in
bars, so that the same code serves daily bars and minutes.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, Literal

from pipeline.config.space import SECTION_OF, Range
from tft.table import CLOSE, RETURN, SYMBOL, TIME
from tft.times import EPOCH_UNITS, known_format

MAX_REPETITIONS = 99
"""The most repetitions of a placebo or of a planted signal."""
MAX_SPLITS = 100
"""The most splits of combinatorial cross-validation."""


@dataclass(frozen=True)
class SampleConfig:
    """The table that is generated where `data.source` names a local file that does not exist."""

    n_bars: int = 600
    n_symbols: int = 4
    n_features: int = 276
    """Feature columns that the prefilter keeps."""
    n_degenerate: int = 36
    """Further columns, which the prefilter drops."""
    oracle_sharpe: float = 0.0
    """Annual Sharpe ratio of a trader who knew the planted signal; 0 plants none."""
    seed: int = 7


@dataclass(frozen=True)
class DataConfig:
    """The feature table: where it is, what its columns are called, and which of them are features."""

    source: str = "data/sample.parquet"
    """A local Parquet, CSV or Arrow file, a glob of them, or s3://bucket/key."""
    exclude: tuple[str, ...] = ()
    """Columns that are not features."""
    known: tuple[str, ...] = ()
    """Columns known in advance (calendar, expiries): the model also sees their value at the bar of the position."""
    accept: tuple[str, ...] = ()
    """Columns that may stay although a check calls them an error, such as a leak: somebody has looked at them."""
    feature_lookback_bars: int = 252
    """Bars of history that went into a feature, at most."""
    time_column: str | None = None
    """Column of the bar's time; null, here and for the next three: the column that has a usual name (tft/table.py)."""
    time_format: str | None = None
    """How times are written that are no dates and no ISO text: a strptime pattern such as %m/%d/%Y or %Y%m%d, or
    epoch_s, epoch_ms, epoch_us, epoch_ns."""
    symbol_column: str | None = None
    close_column: str | None = None
    return_column: str | None = None
    benchmark: str | None = None
    """Column of a benchmark's return over each bar, the same for all instruments; no feature. The verdict takes it for
    the market in place of the long-only portfolio."""
    sample: SampleConfig | None = None

    def key_columns(self) -> dict[str, str]:
        """The columns that are named here, by key."""
        named = {
            TIME: self.time_column,
            SYMBOL: self.symbol_column,
            CLOSE: self.close_column,
            RETURN: self.return_column,
        }
        return {key: name for key, name in named.items() if name is not None}

    def faults(self) -> list[str]:
        if self.time_format is None or known_format(self.time_format):
            return []
        return [
            f"data.time_format is {self.time_format!r}, it must be a pattern with year, month and day such as "
            f"%m/%d/%Y, or one of {', '.join(EPOCH_UNITS)}"
        ]


@dataclass(frozen=True)
class PrefilterConfig:
    """Phase 1: which columns carry no information."""

    max_nan_fraction: float = 0.5
    """A column missing more often than this in every instrument is dropped."""
    max_correlation: float = 0.999999
    """Largest absolute correlation of two columns that both stay; above it, only the one with more data does."""

    def faults(self) -> list[str]:
        found = []
        if not 0.0 <= self.max_nan_fraction <= 1.0:
            found.append(f"prefilter.max_nan_fraction is {self.max_nan_fraction}, it must lie in [0, 1]")
        if not 0.0 < self.max_correlation <= 1.0:
            found.append(f"prefilter.max_correlation is {self.max_correlation}, it must lie in (0, 1]")
        return found


@dataclass(frozen=True)
class ExplorationConfig:
    """Phase 2: training on all columns, for the weights of variable selection. Steps are in bars."""

    step_size: int = 42
    epochs: int = 40
    max_folds: int | None = None
    """The largest number of folds, of which the most recent are kept; null: all."""
    n_probes: int = 40
    """Copies of columns, shifted in time, that show what weight a column without information gets."""

    def faults(self) -> list[str]:
        found = at_least("exploration", self, {"step_size": 1, "epochs": 1, "n_probes": 0})
        if self.max_folds is not None and self.max_folds < 1:
            found.append(f"exploration.max_folds is {self.max_folds}, the least is 1 (null: all)")
        return found


@dataclass(frozen=True)
class PruningConfig:
    """Phase 3: which columns are kept."""

    weight_threshold: float = 1.0
    """Least mean variable-selection weight, relative to the same weight for every column."""
    false_discovery_rate: float = 0.1
    """Share of the kept columns that may be false on average, by what probes get; with 1 any column passes."""
    min_stability: float = 0.25
    """Least share of folds in which a column reaches the threshold."""
    max_features: int = 80
    """Columns kept at most."""

    def faults(self) -> list[str]:
        found = at_least("pruning", self, {"max_features": 1})
        if not 0.0 < self.false_discovery_rate <= 1.0:
            found.append(f"pruning.false_discovery_rate is {self.false_discovery_rate}, it must lie in (0, 1]")
        if not 0.0 <= self.min_stability <= 1.0:
            found.append(f"pruning.min_stability is {self.min_stability}, it must lie in [0, 1]")
        if self.weight_threshold < 0.0:
            found.append(f"pruning.weight_threshold is {self.weight_threshold}, it must be at least 0")
        return found


@dataclass(frozen=True)
class TuningConfig:
    """Phase 4: the search over hyper-parameters, each trial scored by a short walk-forward."""

    n_trials: int = 40
    timeout_seconds: float = 0.0
    """No new trial starts after this many seconds; 0 is no limit. Can be changed while the study runs."""
    folds: int = 3
    """Test blocks a trial is scored on."""
    epochs: int = 40
    space: dict[str, Range] = field(default_factory=dict)
    """The values that each tuned parameter may have; a parameter that is not named stays as configured."""

    def faults(self) -> list[str]:
        found = at_least("tuning", self, {"n_trials": 1, "folds": 1, "epochs": 1, "timeout_seconds": 0})
        for name, values in self.space.items():
            if name not in SECTION_OF:
                found.append(f"tuning.space.{name} cannot be tuned: {nearest(name, SECTION_OF)}")
            else:
                found += values.faults(name)
        return found


@dataclass(frozen=True)
class ProductionConfig:
    """Phase 5: the full walk-forward and the final fit. Steps are in bars."""

    step_size: int = 21
    epochs: int = 80
    max_folds: int | None = None
    """The largest number of folds, of which the most recent are kept; null: all."""
    seeds: int = 1
    """Networks trained on each fold, with different seeds; their raw positions are averaged."""

    def faults(self) -> list[str]:
        found = at_least("production", self, {"step_size": 1, "epochs": 1, "seeds": 1})
        if self.max_folds is not None and self.max_folds < 1:
            found.append(f"production.max_folds is {self.max_folds}, the least is 1 (null: all)")
        return found


@dataclass(frozen=True)
class BaselinesConfig:
    """What the model is compared with besides simple rules, ridge and trees."""

    lstm: bool = False
    """A plain LSTM trained on the Sharpe of its positions (Lim, Zohren & Roberts 2019), on the columns that prefilter
    kept: one network a fold, 25 to 100 epochs."""


@dataclass(frozen=True)
class CombinatorialConfig:
    """Combinatorial purged cross-validation of the chosen recipe (`selection: combinatorial`). Gaps are in bars."""

    n_groups: int = 6
    """Groups of neighbouring development bars."""
    n_test_groups: int = 2
    """Groups that a split tests; it trains on the others. 2 of 6 are 15 splits, which give 5 paths."""
    embargo: int | None = None
    """Bars after a test block, beyond the purge gap, that are not trained on; null: the longest look-back, so that the
    window of no training target reaches into a test block."""

    def faults(self) -> list[str]:
        found = at_least("combinatorial", self, {"n_groups": 2, "n_test_groups": 1})
        if self.n_test_groups >= self.n_groups:
            found.append(
                f"combinatorial.n_test_groups is {self.n_test_groups}, it must be less than n_groups ({self.n_groups})"
            )
        if comb(self.n_groups, self.n_test_groups) > MAX_SPLITS:
            found.append(
                f"combinatorial: {self.n_test_groups} of {self.n_groups} groups are "
                f"{comb(self.n_groups, self.n_test_groups)} splits, each of which is trained; the most is {MAX_SPLITS}"
            )
        if self.embargo is not None and self.embargo < 0:
            found.append(f"combinatorial.embargo is {self.embargo}, the least is 0 (null: the longest look-back)")
        return found


@dataclass(frozen=True)
class RegistryConfig:
    """The name that the final model is registered under, and when it is promoted."""

    name: str = "tft-production"
    promote: Literal["always", "never", "if_better"] = "if_better"

    def faults(self) -> list[str]:
        if not self.name.strip():
            return ["registry.name is empty, a registered model needs a name"]
        if held := sorted({"/", ":"} & set(self.name)):
            return [f"registry.name is {self.name!r}, the registry takes no {' and no '.join(held)} in a name"]
        return []


@dataclass(frozen=True)
class PlaceboConfig:
    """Repetitions of the whole job on targets without signal (`tft-pipeline placebo`)."""

    repetitions: int = 99
    exceedances: int = 10
    """Stop at this many repetitions that do as well as the real run (Besag & Clifford 1991); 0 never stops early."""

    def faults(self) -> list[str]:
        found = at_least("placebo", self, {"repetitions": 1, "exceedances": 0})
        if self.repetitions > MAX_REPETITIONS:
            found.append(f"placebo.repetitions is {self.repetitions}, the most is {MAX_REPETITIONS}")
        return found


def at_least(section: str, config: object, least: Mapping[str, float]) -> list[str]:
    """A fault for each field of a section that is below its least value."""
    prefix = f"{section}." if section else ""
    return [
        f"{prefix}{name} is {getattr(config, name)}, the least is {limit}"
        for name, limit in least.items()
        if getattr(config, name) < limit
    ]


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """A hint at the known name most like an unknown one; at all of them where none is alike."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
