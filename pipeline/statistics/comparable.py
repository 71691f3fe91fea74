"""A record's figures in a form in which records can be compared: at one volatility, per unit of risk, and against costs
and delays."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.equal_volatility import at_volatility, realised_volatility
from pipeline.statistics.frictions import (
    COSTS_BPS,
    DELAYS_BARS,
    break_even_cost_bps,
    cost_per_risk,
    sharpe_by_cost,
    sharpe_by_delay,
)
from tft.record import Record, Segment

MODEL = "model"


@dataclass(frozen=True)
class Comparable:
    """One record on one segment. Figures are annual but for the drawdown; None means undefined."""

    name: str
    segment: str
    n_bars: int
    """Bars with a known net return."""
    volatility: float | None
    """Realised, of net returns; None too where they do not vary, and then nothing is scaled."""
    volatility_target: float
    """The volatility to which the record is scaled, ex post, for the next three figures."""
    return_at_target: float | None
    """Net of costs."""
    max_drawdown_at_target: float | None
    """Net of costs, as a negative fraction of the peak."""
    turnover_at_target: float | None
    sharpe: float | None
    """Net of costs."""
    sharpe_gross: float | None
    cost_per_risk: float | None
    """Annual cost divided by annual volatility: what costs take from the Sharpe."""
    break_even_cost_bps: float | None
    """The cost of a position change of 1 at which the net Sharpe is 0."""
    sharpe_by_cost: tuple[float | None, ...]
    """Net, at each of COSTS_BPS."""
    sharpe_by_delay: tuple[float | None, ...]
    """Net, at each of DELAYS_BARS; on the bars whose return is known at the longest."""


def comparable(
    records: Mapping[str, Record], segment: Segment, *, volatility_target: float, returns: NDArray[np.float64]
) -> tuple[Comparable, ...]:
    """The records by name, on one segment. returns: (T, A) of the panel that their bars count in."""
    return tuple(_comparable(name, one, segment, volatility_target, returns) for name, one in records.items())


def _comparable(name: str, record: Record, segment: Segment, target: float, returns: NDArray[np.float64]) -> Comparable:
    rows = record.segment == segment
    figures = at_volatility(record, rows, target).performance_of(rows)
    return Comparable(
        name=name,
        segment=segment,
        n_bars=int(np.isfinite(record.net()[rows]).sum()),
        volatility=realised_volatility(record, rows),
        volatility_target=target,
        return_at_target=figures.annual_return if figures else None,
        max_drawdown_at_target=figures.max_drawdown if figures else None,
        turnover_at_target=figures.turnover if figures else None,
        sharpe=figures.sharpe if figures and np.isfinite(figures.sharpe) else None,
        sharpe_gross=figures.sharpe_gross if figures and np.isfinite(figures.sharpe_gross) else None,
        cost_per_risk=cost_per_risk(record, rows),
        break_even_cost_bps=break_even_cost_bps(record, rows),
        sharpe_by_cost=sharpe_by_cost(record, rows),
        sharpe_by_delay=sharpe_by_delay(record, rows, returns),
    )


def metrics(rows: Sequence[Comparable]) -> dict[str, float | None]:
    """Figures by the names they are logged under: of the model `<segment>_...`, of a baseline `baseline_<name>_...`."""
    named: dict[str, float | None] = {}
    for row in rows:
        prefix = row.segment if row.name == MODEL else f"baseline_{re.sub('[^a-z0-9]+', '_', row.name.lower())}"
        if row.name != MODEL:
            named[f"{prefix}_annual_volatility"] = row.volatility
        for figure in (
            "return_at_target",
            "max_drawdown_at_target",
            "turnover_at_target",
            "cost_per_risk",
            "break_even_cost_bps",
        ):
            named[f"{prefix}_{figure}"] = getattr(row, figure)
    return named


def curves(rows: Sequence[Comparable]) -> dict[str, list[str | float | None]]:
    """A long table of net Sharpes: a row for each record, and cost or delay."""
    columns: dict[str, list[str | float | None]] = {"name": [], "segment": [], "against": [], "value": [], "sharpe": []}
    for row in rows:
        for against, values, sharpes in (
            ("cost_bps", COSTS_BPS, row.sharpe_by_cost),
            ("delay_bars", DELAYS_BARS, row.sharpe_by_delay),
        ):
            for value, sharpe in zip(values, sharpes, strict=True):
                for column, entry in zip(columns, (row.name, row.segment, against, float(value), sharpe), strict=True):
                    columns[column].append(entry)
    return columns
