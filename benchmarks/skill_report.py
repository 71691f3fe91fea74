"""What benchmarks/skill.py found: kept as JSON, printed as a table, drawn, and compared before and after a change."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.truths import KINDS
from pipeline.reporting.figures import BLUE, GREEN, GREY, VERMILION, empty_figure

Array = NDArray[np.float64]
Ceiling = Literal["own", "all"]

CROSS = "+x"
"""At the end of a learner's name: with the cross-sectional step"""
KNOWERS: Mapping[Ceiling, str] = {"own": "knows own window", "all": "knows everything"}
CLEAR = 2.0
"""A change is kept above so many standard errors, and dropped if any kind is worse by as many"""


@dataclass(frozen=True)
class Row:
    """One learner on one planted market. Sharpes are annual, over all test bars; None where not defined."""

    kind: str
    seed: int
    learner: str
    ceiling: Ceiling
    """Of the one who sees what the learner sees"""
    sharpe: float | None
    """Realised, net of costs"""
    sharpe_gross: float | None
    sharpe_gross_error: float | None
    """HAC standard error of the realised gross Sharpe"""
    true_sharpe: float
    """Net, expected over the noise that the positions meet"""
    true_sharpe_gross: float
    share_own: float | None
    """True net Sharpe by that of the trader who knows E[y | own window]"""
    share_all: float | None
    """True net Sharpe by that of the best portfolio given E[y | all]"""
    realised_share_own: float | None
    realised_share_all: float | None
    ic: float | None
    """Correlation of raw position and y over cells"""
    rank_ic: float | None
    """Mean over bars of the rank correlation of raw position and y between instruments"""
    slope: float | None
    """Calibration: y regressed on the forecast mean; below 1 the forecast is too sure of itself"""
    log_score_gain: float | None
    """Log score of the forecast distribution less that of the unconditional one, nats a cell; above 0 is better"""
    log_score_gain_error: float | None
    """Its HAC standard error"""
    volatility: float
    """Annual, of the realised gross portfolio return"""
    turnover: float
    """Annual sum of position changes, mean over instruments"""
    kept_epochs: list[int] = field(default_factory=list)
    """By fold, of each network, counted from 0"""
    seconds: float = 0.0

    @property
    def share(self) -> float | None:
        """Of the ceiling that the learner is scored against."""
        return self.share_own if self.ceiling == "own" else self.share_all

    @property
    def mean_kept_epoch(self) -> float | None:
        return float(np.mean(self.kept_epochs)) if self.kept_epochs else None


def write(path: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    path.write_text(json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=1))


def read(path: Path) -> list[Row]:
    return [Row(**row) for row in json.loads(path.read_text())["rows"]]


def known_or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def mean_and_error(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean of the values that are known and its standard error; NaN where there are too few."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return math.nan, math.nan
    error = float(known.std(ddof=1) / math.sqrt(len(known))) if len(known) > 1 else math.nan
    return float(known.mean()), error


def in_order(found: Sequence[str], order: Sequence[str]) -> list[str]:
    """Distinct names, those of `order` first and in that order."""
    distinct = dict.fromkeys(found)
    return [name for name in order if name in distinct] + [name for name in distinct if name not in order]


COLUMNS: Sequence[tuple[str, Callable[[Row], float | None], int]] = (
    ("Sharpe net", lambda row: row.sharpe, 2),
    ("gross", lambda row: row.sharpe_gross, 2),
    ("true net", lambda row: row.true_sharpe, 2),
    ("share of own", lambda row: row.share_own, 2),
    ("share of all", lambda row: row.share_all, 2),
    ("IC", lambda row: row.ic, 3),
    ("rank IC", lambda row: row.rank_ic, 3),
    ("log score gain", lambda row: row.log_score_gain, 4),
    ("slope", lambda row: row.slope, 2),
    ("volatility", lambda row: row.volatility, 3),
    ("kept epoch", lambda row: row.mean_kept_epoch, 1),
    ("seconds", lambda row: row.seconds, 1),
)
"""Heading, value, decimals"""


def table(rows: Sequence[Row]) -> str:
    """Means and standard errors over generator seeds, by kind and learner, in Markdown.

    Bold is the share of the ceiling that the learner is scored against.
    """
    headings = ["truth", "learner", "n", *(heading for heading, _, _ in COLUMNS)]
    lines = [f"| {' | '.join(headings)} |", "|" + "---|" * len(headings)]
    for kind in in_order([row.kind for row in rows], KINDS):
        of_kind = [row for row in rows if row.kind == kind]
        for learner in in_order([row.learner for row in of_kind], list(KNOWERS.values())):
            own = [row for row in of_kind if row.learner == learner]
            cells = [kind, learner, str(len(own))]
            for heading, value, decimals in COLUMNS:
                cell = _cell(*mean_and_error([value(row) for row in own]), decimals)
                scored = heading == f"share of {own[0].ceiling}" and cell != "-"
                cells.append(f"**{cell}**" if scored else cell)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(mean: float, error: float, decimals: int) -> str:
    if math.isnan(mean):
        return "-"
    return f"{mean:.{decimals}f}" + ("" if math.isnan(error) else f" ± {error:.{decimals}f}")


def remarks(rows: Sequence[Row]) -> list[str]:
    """What means do not show: how often noise looks like skill, and how often the first epoch is kept."""
    found = []
    learners = in_order([row.learner for row in rows if row.learner not in KNOWERS.values()], [])
    for learner in learners:
        own = [row for row in rows if row.learner == learner]
        noise = [row for row in own if row.kind == "noise" and row.sharpe_gross_error]
        if noise:
            within = sum(abs(row.sharpe_gross or 0.0) <= 2.0 * (row.sharpe_gross_error or 0.0) for row in noise)
            found.append(
                f"{learner}: on noise the gross Sharpe is within 2 HAC errors of 0 in {within} of {len(noise)}"
            )
        epochs = [epoch for row in own for epoch in row.kept_epochs if not learner.endswith(CROSS)]
        if epochs:
            found.append(f"{learner}: keeps the first epoch in {epochs.count(0)} of {len(epochs)} fits")
    return found


def figure(rows: Sequence[Row]) -> Figure:
    """Share of the ceiling that each learner is scored against, by kind, with standard errors over generator seeds.

    Filled: learners that see one instrument at a time; hollow: those that see all.
    """
    kinds = [kind for kind in in_order([row.kind for row in rows], KINDS) if kind != "noise"]
    rows = [row for row in rows if row.learner not in KNOWERS.values() and row.share is not None]
    learners = in_order([row.learner for row in rows], [])
    plain = in_order([learner.removesuffix(CROSS) for learner in learners], [])
    colours = dict(zip(plain, (GREY, GREEN, "#CC79A7", "#E69F00", "#56B4E9", BLUE, "#000000") * 2, strict=False))
    if "tft" in colours:
        colours["tft"] = VERMILION
    drawn, (axes,) = empty_figure(5.0, (1,))
    for place, learner in enumerate(learners):
        found = [
            mean_and_error([row.share for row in rows if row.learner == learner and row.kind == kind]) for kind in kinds
        ]
        x = np.arange(len(kinds)) + 0.8 * ((place + 0.5) / max(len(learners), 1) - 0.5)
        mean, error = np.array(found).reshape(-1, 2).T
        colour = colours[learner.removesuffix(CROSS)]
        face = "white" if learner.endswith(CROSS) else colour
        axes.errorbar(x, mean, np.nan_to_num(error), fmt="o", color=colour, mfc=face, ms=6, capsize=3, label=learner)
    for border in np.arange(len(kinds) - 1) + 0.5:
        axes.axvline(border, color="#BBBBBB", lw=0.8)
    axes.axhline(0.0, color="black", lw=0.8)
    axes.axhline(1.0, color="black", lw=0.8, ls="--")
    axes.grid(visible=False, axis="x")
    axes.set_xticks(np.arange(len(kinds)), kinds)
    axes.set_xlim(-0.5, max(len(kinds), 1) - 0.5)
    axes.set_ylabel("share of the ceiling")
    drawn.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False)
    return drawn


def comparison(before: Sequence[Row], after: Sequence[Row], *, learner: str, ceiling: Ceiling) -> str:
    """Gain of share, paired over (kind, seed), by kind and together, and whether the change is kept."""

    def shares(rows: Sequence[Row]) -> dict[tuple[str, int], float]:
        found = {
            (row.kind, row.seed): row.share_own if ceiling == "own" else row.share_all
            for row in rows
            if row.learner == learner
        }
        return {pair: share for pair, share in found.items() if share is not None}

    old, new = shares(before), shares(after)
    pairs = sorted(old.keys() & new.keys())
    if not pairs:
        raise ValueError(f"no pair of (kind, seed) for {learner!r} is in both files")
    gains = {pair: new[pair] - old[pair] for pair in pairs}
    kinds = in_order([kind for kind, _ in pairs], KINDS)
    lines = [
        f"| truth | pairs | {learner} before, share of {ceiling} | after | gain | in standard errors |",
        "|---|---|---|---|---|---|",
    ]
    in_errors = {}
    for name in [*kinds, "together"]:
        chosen = [pair for pair in pairs if name in (pair[0], "together")]
        gain, error = mean_and_error([gains[pair] for pair in chosen])
        in_errors[name] = gain / error if error > 0.0 else (0.0 if gain == 0.0 else math.nan)
        old_mean, new_mean = (float(np.mean([each[pair] for pair in chosen])) for each in (old, new))
        lines.append(
            f"| {name} | {len(chosen)} | {old_mean:.3f} | {new_mean:.3f} | {_cell(gain, error, 3)} "
            f"| {in_errors[name]:+.1f} |"
        )
    left_out = len(old.keys() ^ new.keys())
    if left_out:
        lines.append(f"{left_out} (kind, seed) are in one file only and are left out.")
    lines.append(_verdict(in_errors.pop("together"), in_errors))
    return "\n".join(lines)


def _verdict(together: float, by_kind: Mapping[str, float]) -> str:
    """By the rule: kept above 2 standard errors together, unless a kind is worse by 2."""
    if math.isnan(together):
        return "no verdict: a standard error needs at least two pairs that differ"
    worse = [kind for kind, gain in by_kind.items() if gain <= -CLEAR]
    if worse:
        return f"not kept: worse by {CLEAR:g} standard errors or more on {', '.join(worse)}"
    if together <= CLEAR:
        return f"not kept: the mean gain is {together:+.1f} standard errors, it must be above {CLEAR:g}"
    unknown = [kind for kind, gain in by_kind.items() if math.isnan(gain)]
    return "kept" + (f" (too few pairs to judge {', '.join(unknown)} alone)" if unknown else "")
