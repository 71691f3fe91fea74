"""The inputs of a run: configuration, table, device. Everything that a run does follows from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipeline.config import bars
from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig, SampleConfig
from pipeline.counted import counted
from pipeline.data.dataset import Dataset, load_panel, panel_sha256
from pipeline.data.sample import write_sample
from pipeline.phases.training_data import TrainingData
from pipeline.tracking.commit import git_commit
from pipeline.tracking.keys import key_of
from tft.kernels.cpu.compiling import SWITCH, unavailable
from tft.kernels.implementation import kernels_for
from tft.market import choose_device
from tft.panel import AHEAD, Panel

PHASES = {
    "prefilter": ("pipeline.phases.prefilter",),
    "exploration": ("pipeline.phases.exploration", "pipeline.phases.folds"),
    "pruning": ("pipeline.phases.pruning",),
    "tuning": ("pipeline.phases.tuning", "pipeline.phases.folds"),
    "production": (
        "pipeline.phases.production",
        "pipeline.phases.folds",
        "pipeline.phases.permutation",
        "pipeline.phases.combinatorial",
    ),
}
"""The phases in order, each with the modules that compute it: whatever these import is part of its key."""
GIVEN = "the table given"
"""The source of a table that was handed over in memory."""
RECORD_MODULES = tuple(dict.fromkeys(module for modules in PHASES.values() for module in modules))
"""What computes the record of a whole job."""


@dataclass(frozen=True, eq=False)
class Job:
    """One configuration on one table."""

    config: Config
    data: Dataset
    device: torch.device
    fresh: bool = False
    """Compute finished phases anew."""
    n_selection_bars: int | None = None
    """Bars that phases 1-4 may see; None: what the configuration says of the table's bars."""

    @cached_property
    def n_development(self) -> int:
        """Bars that phases 1-4 may see."""
        if self.n_selection_bars is not None:
            return self.n_selection_bars
        return bars.n_development(self.config, self.data.panel.times)

    @cached_property
    def development_panel(self) -> Panel:
        """The bars before the holdout, none of which looks ahead into it."""
        panel = self.data.panel.first_bars(self.n_development)
        ahead = [i for i, name in enumerate(panel.feature_names) if name.endswith(AHEAD)]
        if not ahead:
            return panel
        features = panel.features.copy()
        features[-1 - self.config.execution_delay_bars :, :, ahead] = np.nan
        return replace(panel, features=features)

    @property
    def development(self) -> TrainingData:
        """The bars that phases 1-4 may see."""
        return TrainingData(self.development_panel, self._sigma(self.n_development), self.device)

    @property
    def all_bars(self) -> TrainingData:
        """All bars of the table: the walk-forward of production goes through them."""
        return TrainingData(self.data.panel, self.data.sigma, self.device)

    @cached_property
    def development_sha256(self) -> str:
        return panel_sha256(self.development_panel, self._sigma(self.n_development))

    def _sigma(self, n_bars: int) -> NDArray[np.float64] | None:
        return None if self.data.sigma is None else self.data.sigma[:n_bars]

    def on(self, data: Dataset, *, n_selection_bars: int | None = None) -> Job:
        """A job with the same configuration on other data.

        n_selection_bars: bars that phases 1-4 may see there; by default the configuration decides.
        """
        return Job(self.config, data, self.device, self.fresh, n_selection_bars)

    @cached_property
    def key(self) -> str:
        """The key of all that the whole job's record depends on."""
        return self.key_of("record", modules=RECORD_MODULES)

    def key_of(self, what: str, *, modules: Sequence[str], **settings: Any) -> str:
        """The key of work that reads the whole table and whatever of the configuration decides a record.

        settings: what the work depends on besides.
        """
        return key_of(
            what,
            modules=modules,
            data_sha256=self.data.sha256,
            settings=self.config.record_settings() | settings,
            device=self.device,
        )

    def tags(self) -> dict[str, str]:
        """The tags that every MLflow run of this job carries."""
        return {
            "data_sha256": self.data.sha256,
            "config_sha256": self.config.sha256,
            "git_commit": git_commit(),
            "purge_gap": str(self.config.purge_gap),
            "selection": self.config.selection,
            "device": str(self.device),
            "kernels": kernels_for(self.device),
            "n_threads": str(torch.get_num_threads()),
        }


def open_job(
    config: Config,
    say: Callable[[str], None],
    *,
    frame: pl.DataFrame | None = None,
    fresh: bool = False,
    min_bars: int | None = None,
) -> Job:
    """The job on the configured table, which is generated where it is missing, and on the configured device.

    say: takes a line for the user · frame: the table itself, in place of the configured one · min_bars: what the table
    must hold, by default what the configuration needs. Raises ValueError for the table or the device.
    """
    device = choose_device(config.device)
    if device.type == "cpu" and os.environ.get(SWITCH) != "0" and (reason := unavailable()):
        say(f"no native code: {reason}; training takes two to three times as long as with a compiler, such as g++")
    if frame is None:
        ensure_sample(config, say)
    else:
        config = replace(config, data=replace(config.data, source=GIVEN, sample=None))
    data = load_panel(
        config.data,
        frame=frame,
        min_bars=min_bars or bars.min_bars(config),
        execution_delay_bars=config.execution_delay_bars,
    )
    n_bars, n_symbols, n_features = data.panel.features.shape
    for note in data.notes:
        say(f"{note.where}: {note.message}")
    table = f"{n_bars} bars, {counted(n_symbols, 'instrument')}, {counted(n_features, 'column')}"
    say(f"{data.source}: {table}; training on {device.type}")
    return Job(config, data, device, fresh)


def ensure_sample(config: Config, say: Callable[[str], None]) -> None:
    """Generate the table the configuration describes where its file does not exist yet."""
    sample, source = config.data.sample, Path(config.data.source)
    if sample is None and config.data.source == DataConfig().source:
        sample = SampleConfig()
    a_file = not config.data.source.startswith("s3://") and not set("*?[") & set(config.data.source)
    if sample is None or not a_file or source.exists():
        return
    write_sample(
        source,
        **asdict(sample),
        execution_delay_bars=config.execution_delay_bars,
        periods_per_year=config.periods_per_year,
    )
    say(
        f"{source} did not exist: generated it ({sample.n_bars} bars, {sample.n_symbols} instruments, "
        f"{sample.n_features} columns, oracle Sharpe {sample.oracle_sharpe:g}, seed {sample.seed})"
    )


def flattened(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b: value`, for the parameter table."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value and prefix.count(".") < 2:
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
