"""A small good table, and what is found in one that is not."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.config.sections import DataConfig
from pipeline.data.dataset import panel_sha256
from pipeline.data.errors import DataError
from pipeline.data.frame import read_frame
from tft.panel import Panel

N_BARS = 30


def good_table(n_bars: int = N_BARS, symbols: tuple[str, ...] = ("A", "B")) -> pl.DataFrame:
    """Rows by date, then symbol; px_x is another in every row, so that every value says where it comes from."""
    n = n_bars * len(symbols)
    moves = np.array([0.001 * (i % 7 - 3) for i in range(n)])
    levels = np.cumprod(1.0 + moves.reshape(n_bars, len(symbols)), axis=0) * (100.0 + np.arange(len(symbols)))
    return pl.DataFrame(
        {
            "date": [date(2024, 1, 1) + timedelta(days=i // len(symbols)) for i in range(n)],
            "symbol": [symbols[i % len(symbols)] for i in range(n)],
            "close": levels.ravel(),
            "ret_1d": moves,
            "px_x": [float(i + i % 3) for i in range(n)],
            "vix_y": [i % 5 for i in range(n)],
        }
    )


def put(frame: pl.DataFrame, column: str, row: int, value: Any) -> pl.DataFrame:
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, strict=False))


def config(source: Path | str = "table.parquet", **options: Any) -> DataConfig:
    return DataConfig(source=str(source), **options)


def panel_from_frame(frame: pl.DataFrame, data: DataConfig, **options: Any) -> Panel:
    return read_frame(frame, data, **options).panel


def findings(frame: pl.DataFrame, *, min_bars: int = 1, **options: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        panel_from_frame(frame, config(**options), min_bars=min_bars)
    return caught.value.findings


def same(a: Panel, b: Panel) -> bool:
    return panel_sha256(a) == panel_sha256(b)
