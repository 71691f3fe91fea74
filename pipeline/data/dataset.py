"""Loading the data: from the `data` section of a configuration to a checked panel and its hash.

Shapes: T bars, A instruments, F features.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config.sections import DataConfig
from pipeline.data.files import read_table
from pipeline.data.findings import Finding
from pipeline.data.frame import benchmark_from_frame, read_frame
from tft.panel import Panel
from tft.table import TableFormat
from tft.volatility import MIN_RETURNS


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A checked table as a panel, with its hash and where it came from."""

    panel: Panel
    sha256: str
    """Hash of the content, by `panel_sha256`."""
    source: str
    """The file, glob or S3 object it was read from."""
    n_rows: int
    first: pl.DataFrame = field(default_factory=pl.DataFrame)
    """The first known value of each of the table's own columns, one row: their names and types."""
    sigma: NDArray[np.float64] | None = None
    """(T, A) volatility per bar that scales labels and positions; None: that of the panel's own returns."""
    benchmark: NDArray[np.float64] | None = None
    """(T,) return of the configured benchmark over each bar."""
    format: TableFormat = field(default_factory=TableFormat)
    """How the table was read, for the tables of live."""
    notes: tuple[Finding, ...] = ()
    """What was taken for what, left out or centred when it was read."""

    @property
    def benchmark_sha256(self) -> str:
        """Hash of the benchmark; empty without one. It decides on no record, and is no part of `sha256`."""
        if self.benchmark is None:
            return ""
        return hashlib.sha256(np.where(np.isnan(self.benchmark), np.nan, self.benchmark + 0.0).tobytes()).hexdigest()

    def first_bars(self, n_bars: int) -> Dataset:
        """The table as it stood after its first `n_bars` bars."""
        panel = self.panel.first_bars(n_bars)
        sigma = None if self.sigma is None else self.sigma[:n_bars]
        return replace(
            self,
            panel=panel,
            sha256=panel_sha256(panel, sigma),
            n_rows=panel.returns.size,
            sigma=sigma,
            benchmark=None if self.benchmark is None else self.benchmark[:n_bars],
        )


def load_panel(
    config: DataConfig,
    *,
    frame: pl.DataFrame | None = None,
    min_bars: int = 1,
    min_symbol_bars: int = MIN_RETURNS,
    execution_delay_bars: int = 1,
) -> Dataset:
    """Read `config.source`: a Parquet, CSV or Arrow IPC file, a glob of them, or `s3://bucket/key`.

    frame: the table itself, of which `config.source` is then only the name. `min_bars` is the fewest bars the table may
    have, `min_symbol_bars` the fewest returns an instrument may have. Raises DataError.
    """
    if frame is None:
        frame = read_table(config)
    read = read_frame(
        frame,
        config,
        min_bars=min_bars,
        min_symbol_bars=min_symbol_bars,
        execution_delay_bars=execution_delay_bars,
    )
    return Dataset(
        panel=read.panel,
        sha256=panel_sha256(read.panel),
        source=config.source,
        n_rows=frame.height,
        first=frame.select(pl.all().drop_nulls().first()),
        benchmark=benchmark_from_frame(frame, config, read.panel),
        format=read.format,
        notes=read.notes,
    )


def panel_sha256(panel: Panel, sigma: NDArray[np.float64] | None = None) -> str:
    """Hash of times, symbols, column names and values, and of `sigma` (T, A) where the panel is scaled by another
    volatility than its own. Equal content gives equal hashes: -0.0 counts as 0.0, and every NaN as the same NaN.
    """
    names = [list(panel.symbols), list(panel.feature_names), list(panel.features.shape)]
    digest = hashlib.sha256(json.dumps(names).encode())
    digest.update(panel.times.astype("datetime64[us]").astype("<i8").tobytes())
    arrays: list[tuple[NDArray[np.floating], str]] = [(panel.features, "<f4"), (panel.returns, "<f8")]
    if sigma is not None:
        arrays.append((sigma, "<f8"))
    for values, kind in arrays:
        digest.update(np.where(np.isnan(values), np.nan, values + 0.0).astype(kind).tobytes())
    return digest.hexdigest()
