"""The model's Sharpe compared with that of simple rules on the bars that both have: a row for each rule, and a sentence
on all of them. What depends on the size of a record is in comparable.py.

Shapes: T bars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.statistics.arguments import is_constant
from pipeline.statistics.difference import sharpe_difference
from tft.metrics import MIN_BARS, MIN_INFERENCE_BARS, sharpe
from tft.record import Record, Segment


@dataclass(frozen=True)
class BaselineRow:
    """A baseline on one segment, and the model compared with it, over the bars on which both net returns are known.

    Fields that end in _annual are annual: Sharpes and their differences are multiplied by sqrt(periods per year). None
    means undefined.
    """

    baseline: str
    segment: str
    n_bars: int
    """Bars on which both net returns are known; every figure of this row is computed on them."""
    sharpe_annual: float | None
    """Sharpe of the baseline, net of costs."""
    sharpe_gross_annual: float | None
    model_sharpe_annual: float | None
    """Net Sharpe of the model on these bars: the headline Sharpe unless the baseline begins later."""
    difference_annual: float | None
    """Net Sharpe of the model minus net Sharpe of the baseline."""
    difference_se_annual: float | None
    """HAC standard error; it and the figures below are None under MIN_INFERENCE_BARS bars."""
    interval_low_annual: float | None
    interval_high_annual: float | None
    """95 % interval of the difference, by studentised block bootstrap."""
    p_value: float | None
    """Two-sided p-value of no difference."""
    detectable_annual: float | None
    """The smallest true difference found with 80 % power at 5 % two-sided."""
    remark: str
    """A sentence on which figures are None and why; empty where all are known."""


def against(model: Record, baselines: Mapping[str, Record], segment: Segment) -> tuple[BaselineRow, ...]:
    """Compare the model with each baseline on one segment: one row for each, in the order given.

    The paired difference is `sharpe_difference` of the net portfolio returns, made annual.
    """
    return tuple(_row(model, name, baseline, segment) for name, baseline in baselines.items())


def _row(model: Record, name: str, baseline: Record, segment: Segment) -> BaselineRow:
    assert np.array_equal(baseline.bars, model.bars), "a baseline is made over the model's bars"
    periods_per_year = model.timing.periods_per_year
    annual = float(np.sqrt(periods_per_year))
    model_net, net = model.net(), baseline.net()
    rows = (model.segment == segment) & np.isfinite(model_net) & np.isfinite(net)
    n_bars = int(rows.sum())
    figures = baseline.performance_of(rows)
    model_sharpe = _known(sharpe(model_net[rows], periods_per_year=periods_per_year)) if figures else None
    own_sharpe = _known(figures.sharpe) if figures else None
    compared, remark = None, ""
    if not n_bars:
        remark = "It has no position on any bar of the segment whose return is known."
    elif figures is None:
        remark = f"{n_bars} common bars are too few for a Sharpe: {MIN_BARS} are the least."
    elif n_bars < MIN_INFERENCE_BARS:
        remark = f"{n_bars} common bars are too few for any inference: {MIN_INFERENCE_BARS} are the least."
    elif unmoved := [who for who, series in (("model", model_net), ("baseline", net)) if is_constant(series[rows])]:
        remark = f"No inference: the return of the {' and of the '.join(unmoved)} is the same on every bar."
    else:
        try:
            compared = sharpe_difference(model_net[rows], net[rows])
        except ValueError as error:  # returns of only a few distinct values have no standard error
            remark = f"No inference: {error}."
    return BaselineRow(
        baseline=name,
        segment=segment,
        n_bars=n_bars,
        sharpe_annual=own_sharpe,
        sharpe_gross_annual=_known(figures.sharpe_gross) if figures else None,
        model_sharpe_annual=model_sharpe,
        difference_annual=None if model_sharpe is None or own_sharpe is None else model_sharpe - own_sharpe,
        difference_se_annual=compared.standard_error * annual if compared else None,
        interval_low_annual=compared.interval[0] * annual if compared else None,
        interval_high_annual=compared.interval[1] * annual if compared else None,
        p_value=compared.p_value if compared else None,
        detectable_annual=compared.detectable * annual if compared else None,
        remark=remark,
    )


def metrics(rows: Sequence[BaselineRow]) -> dict[str, float | None]:
    """Annual figures by the names they are logged under: `baseline_<name>_sharpe`, `_difference` and `_p_value`."""
    named: dict[str, float | None] = {}
    for row in rows:
        prefix = f"baseline_{re.sub('[^a-z0-9]+', '_', row.baseline.lower())}"
        named[f"{prefix}_sharpe"] = row.sharpe_annual
        named[f"{prefix}_difference"] = row.difference_annual
        named[f"{prefix}_p_value"] = row.p_value
    return named


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def verdict(rows: Sequence[BaselineRow]) -> str:
    """One sentence on how the model compares with simple rules; empty without rows.

    The model beats a rule if the 95 % interval of its difference lies above 0. That it beats all of them needs no
    correction for their number, since each must be beaten.
    """
    if not rows:
        return ""
    low, high, difference = (
        {row.baseline: value for row in rows if (value := getattr(row, name)) is not None}
        for name in ("interval_low_annual", "interval_high_annual", "difference_annual")
    )
    compared = [row for row in rows if row.baseline in low]
    if not compared:
        return "The model could not be compared with any simple rule."
    missed = [row for row in compared if not low[row.baseline] > 0.0]
    if not missed:
        return f"The model beats every simple rule beyond chance: {listed([row.baseline for row in compared])}."
    named = "any simple rule" if len(missed) == len(compared) else listed([row.baseline for row in missed])
    sentence = f"The model does not beat {named} beyond chance"
    if worse := [row for row in missed if high[row.baseline] < 0.0]:
        sentence += f", and is worse beyond chance than {_with_sharpes(worse)}"
    elif equal := [row for row in missed if difference[row.baseline] <= 0.0]:
        sentence += f"; at least as well did {_with_sharpes(equal)}"
    return f"{sentence}."


def _with_sharpes(rows: Sequence[BaselineRow]) -> str:
    return listed([f"{row.baseline} (Sharpe {row.sharpe_annual:z.2f})" for row in rows])


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names as a list in a sentence: a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
