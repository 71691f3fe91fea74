"""What every job begins with: the feature table, generated where it is missing, and the device to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from pipeline.config.bars import min_bars
from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig, SampleConfig
from pipeline.data.dataset import Dataset, load_panel
from pipeline.data.sample import write_sample
from pipeline.tracking.progress import Reporter
from tft.train import choose_device


def prepare(config: Config, reporter: Reporter) -> tuple[Dataset, torch.device]:
    """The checked table and the device, which the reporter tells of. Raises ValueError for either."""
    device = choose_device(config.device)
    ensure_sample(config, reporter.say)
    data = load_panel(config.data, min_bars=min_bars(config), execution_delay_bars=config.execution_delay_bars)
    n_bars, n_symbols, n_features = data.panel.features.shape
    reporter.say(
        f"{data.source}: {n_bars} bars, {n_symbols} instruments, {n_features} columns; training on {device.type}"
    )
    return data, device


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
