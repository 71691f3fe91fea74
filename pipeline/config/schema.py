"""The whole configuration: read from YAML, checked in one pass, frozen, hashed.

Windows and gaps are in bars, so that the same code serves daily bars and minutes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml
from numpy.typing import NDArray

from tft.folds import WalkForwardConfig, bars_needed
from tft.metrics import MIN_BARS, MIN_INFERENCE_BARS
from tft.model import LOSS_MODES, ModelConfig
from tft.positions import PositionsConfig, RegimeConfig
from tft.train import TrainingConfig
from tft.volatility import Timing

T = TypeVar("T")


class ConfigError(ValueError):
    """Everything wrong with a configuration, one sentence a line."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class SampleConfig:
    """The table that is generated where `data.source` names a local file that does not exist."""

    n_bars: int = 600
    n_symbols: int = 4
    n_features: int = 276
    """Columns that survive prefilter."""
    n_degenerate: int = 36
    """Columns that do not."""
    oracle_sharpe: float = 0.0
    """Annual Sharpe of a trader who knew the truth; 0 is pure noise."""
    seed: int = 7


@dataclass(frozen=True)
class DataConfig:
    """Where the feature table is and how to read it."""

    source: str = "data/sample.parquet"
    """A local Parquet, CSV or Arrow file, a glob of them, or s3://bucket/key."""
    exclude: tuple[str, ...] = ()
    """Columns that are not features."""
    known: tuple[str, ...] = ()
    """Columns known in advance (calendar, expiries): the model also sees their value at the bar of the position."""
    accept: tuple[str, ...] = ()
    """Columns that may stay although a check calls them an error, such as a leak: somebody has looked at them."""
    feature_lookback_bars: int = 252
    """The longest look-back that went into a feature."""
    time_column: str | None = None
    """null: `date` or `timestamp`, whichever is there."""
    symbol_column: str = "symbol"
    close_column: str = "close"
    return_column: str = "ret_1d"
    sample: SampleConfig | None = None

    def key_columns(self) -> dict[str, str]:
        """What the table calls its key columns, where that is not their usual name."""
        named = {
            "timestamp": self.time_column or "timestamp",
            "symbol": self.symbol_column,
            "close": self.close_column,
            "ret_1d": self.return_column,
        }
        return {usual: name for usual, name in named.items() if name != usual and name != "date"}


@dataclass(frozen=True)
class PrefilterConfig:
    max_nan_fraction: float = 0.5
    """A column missing more often than this in every instrument is dropped."""
    max_correlation: float = 0.999999
    """Of two columns with a larger absolute correlation the one with more data stays."""

    def faults(self) -> list[str]:
        found = []
        if not 0.0 <= self.max_nan_fraction <= 1.0:
            found.append(f"prefilter.max_nan_fraction is {self.max_nan_fraction}, it must lie in [0, 1]")
        if not 0.0 < self.max_correlation <= 1.0:
            found.append(f"prefilter.max_correlation is {self.max_correlation}, it must lie in (0, 1]")
        return found


@dataclass(frozen=True)
class ExplorationConfig:
    step_size: int = 42
    epochs: int = 40
    max_folds: int | None = None
    """Keep only this many, the most recent ones."""
    n_probes: int = 20
    """Block-permuted copies of columns that show what weight a column without information gets."""

    def faults(self) -> list[str]:
        found = _at_least("exploration", self, {"step_size": 1, "epochs": 1, "n_probes": 0})
        if self.max_folds is not None and self.max_folds < 1:
            found.append(f"exploration.max_folds is {self.max_folds}, the least is 1 (null: all)")
        return found


@dataclass(frozen=True)
class PruningConfig:
    weight_threshold: float = 1.0
    """Least mean VSN weight relative to uniform."""
    min_stability: float = 0.25
    """Least share of folds in which a column reaches the threshold."""
    max_features: int = 80

    def faults(self) -> list[str]:
        found = _at_least("pruning", self, {"max_features": 1})
        if not 0.0 <= self.min_stability <= 1.0:
            found.append(f"pruning.min_stability is {self.min_stability}, it must lie in [0, 1]")
        if self.weight_threshold < 0.0:
            found.append(f"pruning.weight_threshold is {self.weight_threshold}, it must be at least 0")
        return found


SECTION_OF = {
    "d_hidden": "model",
    "n_heads": "model",
    "lstm_layers": "model",
    "dropout": "model",
    "seq_len": "model",
    "n_context": "model",
    "lr": "training",
    "batch_size": "training",
    "mle_weight": "training",
    "loss_mode": "training",
    "max_position": "positions",
    "position_smooth": "positions",
}
"""The twelve parameters that can be tuned, and the section each belongs to."""
WHOLE_NUMBERS = {"d_hidden", "n_heads", "lstm_layers", "seq_len", "n_context", "batch_size"}


@dataclass(frozen=True)
class Range:
    """Values of one tuned parameter: either `choices`, or from `low` to `high`, on a log scale or in steps if said."""

    choices: tuple[Any, ...] | None = None
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None

    def extremes(self) -> tuple[Any, ...]:
        """Values between which all others lie."""
        return self.choices if self.choices is not None else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a trial can have this value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None and self.high is not None
        on_grid = (
            self.step is None or abs((value - self.low) / self.step - round((value - self.low) / self.step)) < 1e-9
        )
        return bool(self.low <= value <= self.high and on_grid)

    def faults(self, name: str) -> list[str]:
        where = f"tuning.space.{name}"
        if name == "loss_mode" and self.choices is None:
            return [f"{where} needs choices: it is text"]
        if name in WHOLE_NUMBERS and any(
            value is not None and not float(value).is_integer() for value in (self.low, self.high, self.step)
        ):
            return [f"{where} needs a whole low, high and step"]
        if self.choices is not None:
            if self.low is not None or self.high is not None:
                return [f"{where} has both choices and low/high: give one of them"]
            if not self.choices:
                return [f"{where}.choices is empty: give at least one value"]
            kind = (str,) if name == "loss_mode" else (int,) if name in WHOLE_NUMBERS else (int, float)
            odd = [value for value in self.choices if not isinstance(value, kind) or isinstance(value, bool)]
            odd += [value for value in self.choices if name == "loss_mode" and value not in (*LOSS_MODES, *odd)]
            return [f"{where}.choices has {value!r}, which {name} cannot be" for value in odd]
        if self.low is None or self.high is None:
            return [f"{where} needs choices, or low and high"]
        if self.low > self.high:
            return [f"{where}.low ({self.low}) exceeds high ({self.high})"]
        if self.log and (self.low <= 0 or self.step is not None):
            return [f"{where} is on a log scale, which needs low > 0 and no step"]
        if self.step is not None and self.step <= 0:
            return [f"{where}.step is {self.step}, it must be positive"]
        return []


@dataclass(frozen=True)
class TuningConfig:
    n_trials: int = 40
    timeout_seconds: float = 0.0
    """No new trial starts after this long; 0 is no limit. Can be changed while the study runs."""
    folds: int = 3
    epochs: int = 40
    space: dict[str, Range] = field(default_factory=dict)

    def faults(self) -> list[str]:
        found = _at_least("tuning", self, {"n_trials": 1, "folds": 1, "epochs": 1, "timeout_seconds": 0})
        for name, values in self.space.items():
            if name not in SECTION_OF:
                found.append(f"tuning.space.{name} cannot be tuned: {_nearest(name, SECTION_OF)}")
            else:
                found += values.faults(name)
        return found


@dataclass(frozen=True)
class ProductionConfig:
    step_size: int = 21
    epochs: int = 80
    max_folds: int | None = None
    seeds: int = 1
    """Networks a fold trains with different seeds; their raw positions are averaged."""

    def faults(self) -> list[str]:
        found = _at_least("production", self, {"step_size": 1, "epochs": 1, "seeds": 1})
        if self.max_folds is not None and self.max_folds < 1:
            found.append(f"production.max_folds is {self.max_folds}, the least is 1 (null: all)")
        return found


@dataclass(frozen=True)
class RegistryConfig:
    name: str = "tft-production"
    promote: Literal["always", "never", "if_better"] = "if_better"


Selection = Literal["holdout", "nested"]
MIN_INNER_FOLDS = 3
"""Exploration folds that a choice needs to be made on, with `selection: nested`."""


@dataclass(frozen=True)
class PlaceboConfig:
    """The whole job again on targets without signal (`tft-pipeline placebo`)."""

    repetitions: int = 99
    exceedances: int = 10
    """Stop at this many repetitions that do as well as the real run (Besag & Clifford 1991); 0 never stops early."""

    def faults(self) -> list[str]:
        found = _at_least("placebo", self, {"repetitions": 1, "exceedances": 0})
        if self.repetitions > MAX_REPETITIONS:
            found.append(f"placebo.repetitions is {self.repetitions}, the most is {MAX_REPETITIONS}")
        return found


MAX_REPETITIONS = 99


@dataclass(frozen=True)
class Config:
    """One production run. Sections as in the YAML file."""

    seed: int = 7
    device: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    periods_per_year: float = 252.0
    execution_delay_bars: int = 1
    horizon: int = 1
    selection: Selection = "holdout"
    """holdout: phases 1-4 decide once, before the holdout, which alone is out-of-sample. nested: every production fold
    decides anew on its own past, so that its whole record is, and the deployed model decides on all bars; the two keys
    below do not count then."""
    holdout_fraction: float = 0.3
    holdout_start: str | None = None
    """First bar (ISO date or time) of the holdout; prevails over the fraction."""
    purge_gap: int = 5
    allow_label_overlap: bool = False
    walk_forward: WalkForwardConfig = field(default_factory=WalkForwardConfig)
    prefilter: PrefilterConfig = field(default_factory=PrefilterConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    production: ProductionConfig = field(default_factory=ProductionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    regime: RegimeConfig = field(default_factory=RegimeConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    placebo: PlaceboConfig = field(default_factory=PlaceboConfig)

    @property
    def sha256(self) -> str:
        """Of what decides how a run is made; how it is judged afterwards (`placebo`) is left out."""
        return sha256_of({name: value for name, value in asdict(self).items() if name != "placebo"})

    @property
    def timing(self) -> Timing:
        return Timing(self.periods_per_year, self.execution_delay_bars, self.horizon)

    def training_settings(self) -> dict[str, Any]:
        """What a walk-forward reads besides its data: the part of a phase's key that all training phases share."""
        sections = {name: asdict(getattr(self, name)) for name in ("walk_forward", "model", "training", "positions")}
        return sections | {
            "seed": self.seed,
            "timing": asdict(self.timing),
            "purge_gap": self.purge_gap,
            "warm_up_bars": self.warm_up_bars,
        }

    @property
    def least_purge_gap(self) -> int:
        """Bars by which labels reach past the first bar of the next block: a smaller gap lets them overlap."""
        return self.execution_delay_bars + self.horizon - 1

    @property
    def warm_up_bars(self) -> int:
        """Bars before the first decision: the longest look-back any trial can ask for, less one."""
        tuned = self.tuning.space.get("seq_len")
        candidates = [self.model.seq_len, *(int(value) for value in (tuned.extremes() if tuned else ()))]
        return max(candidates) - 1

    @property
    def min_development_bars(self) -> int:
        """Development bars for which every phase has its folds, those of tuning with bars enough for a Sharpe."""
        one_fold = bars_needed(train_window=self.walk_forward.train_window, purge_gap=self.purge_gap)
        return self.warm_up_bars + one_fold + MIN_BARS * self.tuning.folds - 1 + self.timing.label_bars

    @property
    def min_inner_bars(self) -> int:
        """Bars before the end of a fold's validation block for which its own choice can be made (selection: nested)."""
        one_fold = bars_needed(train_window=self.walk_forward.train_window, purge_gap=self.purge_gap)
        folds = one_fold + (MIN_INNER_FOLDS - 1) * self.exploration.step_size
        return max(self.min_development_bars, self.warm_up_bars + folds + self.timing.label_bars)

    @property
    def min_nested_bars(self) -> int:
        """Bars of a table for which `selection: nested` has a record of MIN_INFERENCE_BARS with a label."""
        first_end = self.warm_up_bars + self.walk_forward.train_window
        first_fold = _ceil(max(0, self.min_inner_bars - first_end) / self.production.step_size)
        first_test = first_end + first_fold * self.production.step_size + self.purge_gap
        return first_test + MIN_INFERENCE_BARS + self.timing.label_bars

    @property
    def min_bars(self) -> int:
        """Bars of a table for which every phase has its folds in development (by the holdout fraction)."""
        if self.holdout_start is not None or self.selection == "nested":
            return self.min_development_bars
        needed = self.min_development_bars
        while needed - _ceil(self.holdout_fraction * needed) < self.min_development_bars:
            needed += 1
        return needed

    def n_development(self, times: NDArray[np.datetime64]) -> int:
        """Bars that phases 1-4 may see, of `times` (T,) datetime64: those before the holdout; all if nested.

        Raises ConfigError if they are too few.
        """
        if self.selection == "nested":
            n_bars = len(times)
        elif self.holdout_start is not None:
            n_bars = int(np.searchsorted(times, np.datetime64(self.holdout_start)))
        else:
            n_bars = len(times) - _ceil(self.holdout_fraction * len(times))
        if n_bars < self.min_development_bars:
            raise ConfigError(
                [
                    f"development holds {n_bars} of the table's {len(times)} bars, {self.min_development_bars} are "
                    f"needed for one fold in every phase: add bars, or lower holdout_fraction, "
                    f"walk_forward.train_window or model.seq_len (tuning.space included)"
                ]
            )
        return n_bars

    def untuned(self) -> dict[str, Any]:
        """The configured values of the parameters that are tuned."""
        return {name: getattr(getattr(self, SECTION_OF[name]), name) for name in self.tuning.space}

    def with_tuned(self, parameters: Mapping[str, Any]) -> Config:
        """This configuration with tuned parameters put into their sections. Raises ConfigError for bad values."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in parameters.items():
            changed.setdefault(SECTION_OF[name], {})[name] = int(value) if name in WHOLE_NUMBERS else value
        tuned = replace(self, **{name: replace(getattr(self, name), **new) for name, new in changed.items()})
        if found := tuned.faults():
            raise ConfigError(found)
        return tuned

    def faults(self) -> list[str]:
        found = _at_least(
            "", self, {"seed": 0, "periods_per_year": 1, "execution_delay_bars": 0, "horizon": 1, "purge_gap": 0}
        )
        for section in fields(self):
            value = getattr(self, section.name)
            if is_dataclass(value) and hasattr(value, "faults"):
                found += value.faults()
        for name, values in self.tuning.space.items():
            if name in SECTION_OF and not values.faults(name):
                untuned = getattr(getattr(self, SECTION_OF[name]), name)
                if not values.holds(untuned):
                    found.append(
                        f"{SECTION_OF[name]}.{name} ({untuned}) lies outside tuning.space.{name}: trial 0 is the "
                        f"untuned configuration, so widen the space or change the value"
                    )
        if not 0.0 <= self.holdout_fraction < 1.0:
            found.append(f"holdout_fraction is {self.holdout_fraction}, it must lie in [0, 1)")
        if self.selection == "nested" and (self.exploration.max_folds or MIN_INNER_FOLDS) < MIN_INNER_FOLDS:
            found.append(
                f"exploration.max_folds is {self.exploration.max_folds}, selection: nested chooses on at least "
                f"{MIN_INNER_FOLDS} folds: raise it or set null"
            )
        if self.holdout_start is not None:
            try:
                np.datetime64(self.holdout_start)
            except ValueError:
                found.append(f"holdout_start is {self.holdout_start!r}, it must be an ISO date or time")
        if self.purge_gap < self.least_purge_gap and not self.allow_label_overlap:
            found.append(
                f"purge_gap is {self.purge_gap}, but labels reach {self.least_purge_gap} bars past the first bar of "
                f"the next block: set purge_gap to at least {self.least_purge_gap}, or allow_label_overlap: true to "
                f"compare"
            )
        window = self.walk_forward
        if window.train_window - window.validation_window - self.purge_gap < 1:
            found.append(
                f"walk_forward.train_window ({window.train_window}) leaves no bar to train on after validation_window "
                f"({window.validation_window}) and purge_gap ({self.purge_gap})"
            )
        if window.test_window is not None and window.test_window < self.production.step_size:
            found.append(
                f"walk_forward.test_window ({window.test_window}) is smaller than production.step_size "
                f"({self.production.step_size}): bars between test blocks would never be tested; raise it or set null"
            )
        return found


def _ceil(x: float) -> int:
    """Ceiling that does not take 0.3 * 10 for more than 3."""
    return -int(-(x - 1e-9) // 1)


def _at_least(section: str, config: object, least: Mapping[str, float]) -> list[str]:
    prefix = f"{section}." if section else ""
    return [
        f"{prefix}{name} is {getattr(config, name)}, the least is {limit}"
        for name, limit in least.items()
        if getattr(config, name) < limit
    ]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `a.b=value` overrides, check everything. Raises ConfigError with all faults."""
    try:
        document = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(
            [f"{path} does not exist: give --config a YAML file such as configs/quickstart.yaml"]
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"{path} is not readable as YAML: {reason}"]) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError([f"{path} holds a {type(document).__name__}, it must hold keys such as `seed: 7`"])
    faults: list[str] = []
    for override in overrides:
        _apply(document, override, faults)
    config = build(Config, document, "", faults)
    assert config is not None, "every key of Config has a default"
    faults += config.faults()
    if faults:
        raise ConfigError(faults)
    return config


def split_overrides(texts: Sequence[str]) -> list[str]:
    """`a=1;b=2` to separate overrides; empty ones are dropped."""
    return [part.strip() for text in texts for part in text.split(";") if part.strip()]


def _apply(document: dict[str, Any], override: str, faults: list[str]) -> None:
    name, separator, text = override.partition("=")
    if not separator:
        faults.append(f"--set {override!r} lacks an equals sign: write section.key=value")
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        faults.append(f"--set {override!r} has a value that is not YAML: quote it")
        return
    *sections, last = name.strip().split(".")
    target = document
    for section in sections:
        child = target.get(section)
        if child is None:
            child = target[section] = {}
        if not isinstance(child, dict):
            faults.append(f"--set {override!r}: {section} is a single value, not a section")
            return
        target = child
    target[last] = value


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def build(kind: type[T], mapping: Mapping[str, Any], where: str, faults: list[str]) -> T | None:
    """A frozen dataclass from nested plain values, every fault noted with its key.

    A faulty value is replaced by its default, so that what else is wrong can be said too; None if there is none.
    """
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    missing = [
        name
        for name, f in known.items()
        if name not in mapping and f.default is MISSING and f.default_factory is MISSING
    ]
    faults += [f"{where}.{name} is missing".lstrip(".") for name in missing]
    for name, raw in mapping.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in known:
            faults.append(f"{path} is not a known key: {_nearest(str(name), known)}")
        else:
            n_before = len(faults)
            value = _convert(hints[name], raw, path, faults)
            if len(faults) == n_before or is_dataclass(value):
                values[name] = value
    try:
        return kind(**values)
    except TypeError:  # a required key is missing or faulty, which has been noted
        return None


def _convert(hint: Any, raw: Any, path: str, faults: list[str]) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return raw
    if origin in (Union, types.UnionType):
        if raw is None and type(None) in arguments:
            return None
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return _convert(inner, raw, path, faults)
    if origin is Literal:
        if raw not in arguments:
            faults.append(f"{path} is {raw!r}, it must be one of {', '.join(map(str, arguments))}")
        return raw
    if origin is tuple:
        if not isinstance(raw, (list, tuple)):
            faults.append(f"{path} is {raw!r}, it must be a list such as [a, b]")
            return ()
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{path}[{i}]", faults) for i, item in enumerate(raw))
        return tuple(_convert(kind, item, path, faults) for kind, item in zip(arguments, raw, strict=True))
    if origin is dict:
        if not isinstance(raw, Mapping):
            faults.append(f"{path} is {raw!r}, it must be a mapping such as {{name: value}}")
            return {}
        return {str(name): _convert(arguments[1], item, f"{path}.{name}", faults) for name, item in raw.items()}
    if is_dataclass(hint):
        if not isinstance(raw, Mapping):
            faults.append(f"{path} is {raw!r}, it must be a section with keys of its own")
            return None
        section: type[Any] = hint  # type: ignore[assignment]
        return build(section, raw, path, faults)
    return _scalar(hint, raw, path, faults)


def _scalar(hint: Any, raw: Any, path: str, faults: list[str]) -> Any:
    if hint is float and isinstance(raw, (int, float)) and not isinstance(raw, bool):
        return float(raw)
    if hint is float and isinstance(raw, str):
        try:  # YAML reads 1e-3 as text
            return float(raw)
        except ValueError:
            pass
    if hint is int and isinstance(raw, float) and raw.is_integer():
        return int(raw)
    if hint is str and hasattr(raw, "isoformat"):  # YAML reads 2025-06-01 as a date
        return raw.isoformat()
    if type(raw) is hint:
        return raw
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    faults.append(f"{path} is {raw!r}, it must be {names[hint]}")
    return raw


def to_mapping(value: Any) -> Any:
    """A frozen dataclass as plain values, as `build` reads them."""
    return json.loads(json.dumps(asdict(value)))


def sha256_of(*values: Any) -> str:
    """One hash of plain values and dataclasses; the order of keys does not matter."""
    plain = [asdict(value) if is_dataclass(value) and not isinstance(value, type) else value for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
