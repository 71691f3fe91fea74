"""Proposals without the timing of steps."""

from __future__ import annotations

import numpy as np
import yaml

from pipeline.config.reading import config_from
from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig
from pipeline.proposal.calendar import Calendar
from pipeline.proposal.settings import Settings, settings_for, to_yaml
from pipeline.proposal.windows import windows_for
from tft.panel import Panel


def proposed(n_bars: int) -> Settings:
    panel = Panel(
        times=np.datetime64("2000-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=("A",),
        feature_names=("px_x",),
        features=np.zeros((n_bars, 1, 1), np.float32),
        returns=np.zeros((n_bars, 1)),
    )
    return settings_for(
        DataConfig(source="t.csv"),
        panel,
        Calendar("daily", 365, "weekends included"),
        windows_for(n_bars),
        name="tft-t",
        device="cpu",
    )


def proposed_config(n_bars: int) -> Config:
    return config_from(yaml.safe_load(to_yaml(proposed(n_bars), [])))
