"""Turning a long polars frame, one row per (bar, instrument), into a checked Panel.

Everything wrong with a table is found in one pass and raised together as one DataError. Rows are numbered from 1.
Shapes: R rows of the frame, one per (bar, instrument).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config.sections import DataConfig
from pipeline.data.columns import (
    centred,
    clock_column,
    counts_rows,
    left_out,
    offset_of,
    roles_of,
)
from pipeline.data.errors import DataError
from pipeline.data.findings import Finding
from pipeline.data.table_check import TableCheck
from tft.panel import AHEAD, Panel
from tft.table import CLOSE, RETURN, SYMBOL, TIME, TableFormat
from tft.volatility import MIN_RETURNS


@dataclass(frozen=True, eq=False)
class TableRead:
    """A checked table as a panel, how it was read, and what there is to say about that."""

    panel: Panel
    format: TableFormat
    notes: tuple[Finding, ...]


def read_frame(
    frame: pl.DataFrame,
    config: DataConfig,
    *,
    min_bars: int = 1,
    min_symbol_bars: int = MIN_RETURNS,
    execution_delay_bars: int = 1,
) -> TableRead:
    """Check a long table, one row per (bar, instrument), and pivot it.

    `min_bars` is the fewest bars the table may have, `min_symbol_bars` the fewest returns an instrument may have. For
    the columns in `config.known` the model also sees the value at the bar in which the position is held, which is
    1 + execution_delay_bars bars ahead. Raises DataError with every finding.
    """
    if frame.is_empty():
        raise DataError(config.source, ["it has no rows"])
    roles = roles_of(frame.columns, config)
    keys, faults = dict(roles.keys), dict(roles.faults)
    clock, apart = clock_column(frame, config)
    if clock and keys.get(TIME, clock) == clock:  # no choice between the columns helps
        keys.pop(TIME, None)
        faults[TIME] = apart
    table = TableCheck(frame, findings=[*faults.values()])
    table.read_keys(keys, config, unclear=faults.keys())
    table.check_order(apart)
    table.check_shared()
    prices = {key: table.numbers(keys[key]) for key in (CLOSE, RETURN) if key in keys}
    if CLOSE in prices:
        table.require(keys[CLOSE], ~(prices[CLOSE] <= 0.0), "are 0 or negative: a price is above 0")
    if RETURN in prices:
        table.require(keys[RETURN], ~(prices[RETURN] <= -1.0), "are -1 or less: a loss cannot exceed 100 %")
    table.check_length(prices, min_bars, min_symbol_bars)
    meant = table.check_return(keys, prices, config)

    table.check_listed(config)
    if not roles.features:
        table.findings.append(f"no feature column is left of the table's {frame.width} columns")
    for name in roles.features:
        if name.endswith(AHEAD):
            table.findings.append(f"column {name} ends in {AHEAD}, which is kept for data.known: rename it")
    # Without an instrument, a column of words may name it: the missing key is the fault then.
    words = set() if SYMBOL in keys else {*table.texts()}
    numbers = {name: table.numbers(name) for name in roles.features if name not in words}
    if table.findings:
        raise DataError(config.source, table.findings)

    _, asset = np.unique(table.symbols, return_inverse=True)
    notes = [*roles.notes, *meant]
    offsets: dict[str, float] = {}
    features: dict[str, NDArray[np.float32]] = {}
    for name, values in numbers.items():
        if name not in (*config.accept, *config.known) and (counts := counts_rows(values, table.times, asset)):
            notes.append(left_out(name, counts))
            continue
        if offset := offset_of(values, asset):
            offsets[name] = offset
            notes.append(centred(name, values, offset, asset))
        features[name] = (values - offset if offset else values).astype(np.float32)
    if not features:
        reasons = [f"{note.where}: {note.message}" for note in notes]
        raise DataError(config.source, ["no feature column is left", *reasons])
    columns: dict[str, NDArray[np.generic]] = {TIME: table.times, SYMBOL: table.symbols, **prices, **features}
    panel = Panel.from_columns(columns, known=config.known, lead_bars=1 + execution_delay_bars)
    return TableRead(panel, TableFormat(dict(keys), config.time_format, offsets), tuple(notes))


def benchmark_from_frame(frame: pl.DataFrame, config: DataConfig, panel: Panel) -> NDArray[np.float64] | None:
    """Return (T,) of the benchmark over each bar of a panel made from this frame; None where none is configured.

    Only the first bar may lack one: its close has nothing before it. Raises DataError with every finding.
    """
    name = config.benchmark
    if name is None:
        return None
    table = TableCheck(frame)
    table.read_keys(roles_of(frame.columns, config).keys, config)
    values = table.numbers(name)
    table.require(name, ~(values <= -1.0), "are -1 or less: a loss cannot exceed 100 %")
    rows = pl.DataFrame({"time": table.times, "value": pl.Series(values).fill_nan(None)})
    bars = pl.DataFrame({"time": panel.times.astype("datetime64[us]")})
    by_bar = (
        rows.group_by("time")
        .agg(pl.col("value").min().alias("low"), pl.col("value").max().alias("high"))
        .join(bars, on="time", how="semi")
        .sort("time")
    )
    unequal = by_bar.filter(pl.col("low") != pl.col("high"))["time"]
    missing = by_bar.slice(1).filter(pl.col("low").is_null())["time"]
    for times, what in ((unequal, "differs between instruments"), (missing, "is missing")):
        if len(times):
            first = str(times[0]).removesuffix(" 00:00:00")
            table.findings.append(
                f"column {name} (data.benchmark) {what} on {len(times)} of {len(by_bar)} bars, first {first}: give it "
                f"one value a bar, or leave data.benchmark empty"
            )
    if table.findings:
        raise DataError(config.source, table.findings)
    return by_bar["low"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
