"""The whole configuration: its sections, the faults between them, and the settings that identify a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

import numpy as np

from pipeline.config.sections import (
    BaselinesConfig,
    CombinatorialConfig,
    DataConfig,
    ExplorationConfig,
    PlaceboConfig,
    PrefilterConfig,
    ProductionConfig,
    PruningConfig,
    RegistryConfig,
    TuningConfig,
    at_least,
)
from pipeline.config.space import SECTION_OF, WHOLE_NUMBERS
from tft.blocks import burn_in_bars
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.positions import PositionsConfig, RegimeConfig
from tft.recipe import Recipe, TrainingConfig
from tft.volatility import Timing

Separation = Literal["holdout", "nested"]
Selection = Literal[Separation, "combinatorial"]
MIN_INNER_FOLDS = 3
"""The fewest exploration folds on which `selection: nested` chooses columns and parameters."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message has one sentence a line for each fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Config:
    """The settings of a production run, section by section. Windows, gaps, delay and horizon are in bars."""

    seed: int = 7
    device: str = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    periods_per_year: float = 252.0
    execution_delay_bars: int = 1
    horizon: int = 1
    selection: Selection = "holdout"
    """holdout: phases 1-4 choose once, before the holdout, and only the holdout is out of sample. nested: the choice is
    made again for every production fold, on its own past, so that the whole record is out of sample; for the deployed
    model it is made on all bars, and the two keys below are not read. combinatorial: as holdout; besides, the chosen
    recipe is evaluated by combinatorial purged cross-validation on the development bars."""
    holdout_fraction: float = 0.3
    holdout_start: str | None = None
    """First bar (ISO date or time) of the holdout; prevails over the fraction."""
    prior_looks: int = 0
    """Configurations that looked at the holdout elsewhere, unknown to the ledger: they deflate its Sharpe as well."""
    purge_gap: int = 5
    allow_label_overlap: bool = False
    walk_forward: WalkForwardConfig = field(default_factory=WalkForwardConfig)
    prefilter: PrefilterConfig = field(default_factory=PrefilterConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    production: ProductionConfig = field(default_factory=ProductionConfig)
    combinatorial: CombinatorialConfig = field(default_factory=CombinatorialConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    positions: PositionsConfig = field(default_factory=PositionsConfig)
    regime: RegimeConfig = field(default_factory=RegimeConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    placebo: PlaceboConfig = field(default_factory=PlaceboConfig)

    @property
    def sha256(self) -> str:
        """Hash of all settings but those that say how a finished run is examined and judged, and not how it is made; so
        that `selection: combinatorial` counts as `holdout`."""
        examined = ("baselines", "placebo", "combinatorial", "prior_looks")
        made = {name: value for name, value in asdict(self).items() if name not in examined}
        return sha256_of(made | {"selection": self.separation})

    @property
    def separation(self) -> Separation:
        """How the bars that are judged are kept apart from the choices: with `combinatorial` as with `holdout`."""
        return "nested" if self.selection == "nested" else "holdout"

    @property
    def timing(self) -> Timing:
        """When a decision takes effect and when its label ends."""
        return Timing(self.periods_per_year, self.execution_delay_bars, self.horizon)

    def record_settings(self) -> dict[str, Any]:
        """The settings that can change the record of a run, as plain values.

        Left out is what cannot. `data` leads to a table, whose content is hashed by itself; the kind of device that
        `device` stands for is named beside the settings wherever they identify a run. `registry` and `regime` concern
        the finished model, `baselines` what it is compared with, `placebo` other runs, `combinatorial` what is
        evaluated beside the record, which with `selection: combinatorial` is that of `holdout`, and `prior_looks` what
        the record is worth. `tuning.timeout_seconds` only ends a search early, and such a search is never taken for a
        finished one.
        """
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        for name in ("data", "device", "baselines", "registry", "regime", "placebo", "combinatorial", "prior_looks"):
            del settings[name]
        settings["selection"] = self.separation
        del settings["tuning"]["timeout_seconds"]
        return settings

    def training_settings(self) -> dict[str, Any]:
        """The settings that a walk-forward reads: the part of a phase's key that all training phases share."""
        sections = {name: asdict(getattr(self, name)) for name in ("walk_forward", "model", "training", "positions")}
        return sections | {
            "seed": self.seed,
            "timing": asdict(self.timing),
            "purge_gap": self.purge_gap,
            "warm_up_bars": self.warm_up_bars,
            "burn_in_bars": self.burn_in_bars,
        }

    @property
    def least_purge_gap(self) -> int:
        """Bars that labels reach past the first bar of the next block: with a smaller gap they overlap it."""
        return self.execution_delay_bars + self.horizon - 1

    @property
    def warm_up_bars(self) -> int:
        """Bars before the first decision: the longest `seq_len` that any trial can have, less one."""
        tuned = self.tuning.space.get("seq_len")
        candidates = [self.model.seq_len, *(int(value) for value in (tuned.extremes() if tuned else ()))]
        return max(candidates) - 1

    @property
    def first_decision_bar(self) -> int:
        """The first bar of the table that a fold may hold: what is left out follows the warm-up."""
        return self.warm_up_bars + self.walk_forward.first_bar

    @property
    def embargo_bars(self) -> int:
        """Bars after a test block, beyond the purge gap, that combinatorial cross-validation does not train on."""
        return self.warm_up_bars + 1 if self.combinatorial.embargo is None else self.combinatorial.embargo

    @property
    def burn_in_bars(self) -> int:
        """Bars before the scored ones of a training block: enough for the largest smoothing that any trial can have.

        With objective pooled, which has no blocks, it is 1, so that no key moves with a search of smoothing.
        """
        if self.training.objective == "pooled":
            return 1
        tuned = self.tuning.space.get("position_smooth")
        candidates = [self.positions.position_smooth, *(float(each) for each in (tuned.extremes() if tuned else ()))]
        return burn_in_bars(max(candidates))

    def recipe(self, epochs: int, *, number: int = 0) -> Recipe:
        """How a fold is fitted in so many epochs, as network `number` of those that are averaged."""
        return Recipe(
            self.model, self.training, self.timing, epochs, self.seed + number, self.positions, self.burn_in_bars
        )

    def untuned(self) -> dict[str, Any]:
        """The configured values of the parameters in the search space."""
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
        """One sentence for each fault of the values, within sections and between them."""
        least = {"seed": 0, "periods_per_year": 1, "execution_delay_bars": 0, "horizon": 1, "purge_gap": 0}
        found = at_least("", self, least | {"prior_looks": 0})
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
        if self.training.objective == "portfolio" and self.horizon > 1:
            found.append(
                f"training.objective is portfolio, which holds a position for one bar, but horizon is {self.horizon}: "
                f"set horizon to 1, or training.objective to pooled"
            )
        if self.training.objective == "portfolio" and "batch_size" in self.tuning.space:
            found.append(
                "tuning.space has batch_size, which training.objective portfolio does not read: remove it, or set "
                "training.objective to pooled"
            )
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


def sha256_of(*values: Any) -> str:
    """One hash of plain values and dataclasses; the order of keys does not matter."""
    plain = [asdict(value) if is_dataclass(value) and not isinstance(value, type) else value for value in values]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
