"""Where a record comes from: what is known about it, and the tables and figures that a run keeps of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from pipeline.phases.combinatorial import Paths
from pipeline.reporting import origins_figures
from pipeline.statistics.attribution import Attribution, Drawdown, Part
from pipeline.statistics.course import Course
from pipeline.statistics.group_losses import GroupLoss, GroupLosses
from pipeline.statistics.information_coefficient import LagRow
from pipeline.tracking.sink import Sink

CONTRIBUTIONS, MONTHS, COURSE = "contributions.png", "months.png", "course.png"
COEFFICIENTS, LOSSES, PATHS = "information_coefficient.png", "group_losses.png", "paths.png"
FIGURES = (CONTRIBUTIONS, MONTHS, COURSE, COEFFICIENTS, LOSSES, PATHS)
"""Figures that stand in this section of the page."""
ESTIMATES = ("net", "sharpe", "ic", "rank_ic", "sharpe_loss", "return_loss", "sharpe_of_walk_forward_bars")
"""Columns of the tables that have a standard error beside them."""


@dataclass(frozen=True, eq=False)
class Origins:
    """A record taken apart."""

    attributions: tuple[Attribution, ...]
    """The parts of holdout and development, as far as there are any."""
    course: Course
    lags: tuple[LagRow, ...]
    """Rows of both segments."""
    groups: GroupLosses | None
    paths: Paths | None
    """Paths of `selection: combinatorial`; None otherwise."""

    @property
    def n_rows(self) -> int:
        """Figures with an error, of which one in twenty stands out by luck."""
        parts = sum(part.sharpe is not None for one in self.attributions for part in one.parts)
        lags = sum((row.ic is not None) + (row.rank_ic is not None) for row in self.lags)
        return parts + lags + (len(self.groups.rows) if self.groups else 0)


def figures(one: Origins) -> dict[str, partial[Figure]]:
    """How each figure is drawn, by file name."""
    drawn: dict[str, partial[Figure]] = {}
    if one.attributions:
        drawn[CONTRIBUTIONS] = partial(origins_figures.contributions, one.attributions[0])
        drawn[MONTHS] = partial(origins_figures.months, one.attributions)
        drawn[COURSE] = partial(origins_figures.course, one.course)
    if any(row.ic for row in one.lags):
        drawn[COEFFICIENTS] = partial(origins_figures.information_coefficients, one.lags)
    if one.groups and one.groups.rows:
        drawn[LOSSES] = partial(origins_figures.group_losses, one.groups)
    if one.paths and one.paths.sharpes:
        drawn[PATHS] = partial(origins_figures.paths, one.paths)
    return drawn


def log(sink: Sink, one: Origins) -> None:
    """Log the tables, and the paths' mean Sharpe and their spread."""
    for name, columns in tables(one).items():
        sink.table(name, columns)
    if one.paths and (sharpes := one.paths.sharpes):
        sink.metrics({"cpcv_sharpe": sum(sharpes) / len(sharpes)})
        sink.metrics({"cpcv_sharpe_lowest": min(sharpes), "cpcv_sharpe_highest": max(sharpes)})


def tables(one: Origins) -> dict[str, dict[str, list[Any]]]:
    """`attribution.json`, `drawdowns.json`, `best_bars.json`, `information_coefficient.json`, `group_losses.json` and
    `paths.json`, as far as there is something to put into them.

    An estimate has its standard error beside it (`_se`). Only rows of the holdout are out-of-sample.
    """
    found: dict[str, dict[str, list[Any]]] = {}
    if attributions := one.attributions:
        owners = [(each.segment, part) for each in attributions for part in (each.total, *each.parts)]
        found["attribution.json"] = _segments(owners) | _columns(Part, [part for _, part in owners])
        falls = [(each.segment, fall) for each in attributions for fall in each.drawdowns]
        found["drawdowns.json"] = _segments(falls) | _columns(Drawdown, [fall for _, fall in falls])
        best = [each.concentration for each in attributions]
        found["best_bars.json"] = {
            "segment": [each.segment for each in attributions],
            "n_best": [each.n_best for each in best],
            "best": [each.best for each in best],
            "worst": [each.worst for each in best],
            "total": [each.total for each in best],
            "share": [each.share for each in best],
            "best_if_normal": [each.best_if_normal for each in best],
        }
    if one.lags:
        found["information_coefficient.json"] = _columns(LagRow, one.lags)
    if one.groups:
        found["group_losses.json"] = {"segment": [one.groups.segment] * len(one.groups.rows)} | _columns(
            GroupLoss, one.groups.rows
        )
    if one.paths:
        rows = [(f"path {row.path}", row.n_bars, row.sharpe, row.sharpe_of_walk_forward_bars) for row in one.paths.rows]
        single = one.paths.walk_forward
        rows.append(("walk-forward", one.paths.walk_forward_bars, single, single))
        names = ("history", "n_bars", "sharpe", "sharpe_of_walk_forward_bars")
        found["paths.json"] = _with_errors(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    return found


def _segments(rows: Sequence[tuple[str, object]]) -> dict[str, list[Any]]:
    return {"segment": [segment for segment, _ in rows]}


def _columns(kind: type[Part | Drawdown | LagRow | GroupLoss], rows: Sequence[object]) -> dict[str, list[Any]]:
    """The fields of rows as columns, an estimate as two."""
    return _with_errors({field.name: [getattr(row, field.name) for row in rows] for field in fields(kind)})


def _with_errors(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    plain: dict[str, list[Any]] = {}
    for name, values in columns.items():
        if name in ESTIMATES:
            plain[name] = [value.value if value else None for value in values]
            plain[f"{name}_se"] = [value.standard_error if value else None for value in values]
        else:
            plain[name] = values
    return plain
