"""The verdict on a production run, in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pipeline.statistics.baseline_comparison import BaselineRow, listed
from pipeline.statistics.calibration import Calibration
from pipeline.statistics.calibration_in_words import worse
from pipeline.statistics.sharpe import SIGNIFICANT, SharpeInference


def verdict(
    holdout: SharpeInference | None,
    baselines: Sequence[BaselineRow] = (),
    *,
    selection: Literal["holdout", "nested"] = "holdout",
    calibration: Calibration | None = None,
) -> str:
    """One sentence on what a run's out-of-sample Sharpe, on whose bars nothing was selected, is worth.

    `holdout` is that Sharpe, None for a run without a holdout; `baselines` are the rows that compare it with simple
    rules; `calibration` is mentioned where the forecast distributions score worse than one that knows nothing.
    """
    if holdout is None:
        return "There is no holdout with a known return: no number of this run is out-of-sample."
    name = "Holdout Sharpe" if selection == "holdout" else "Nested out-of-sample Sharpe"
    sentence = _on_luck(name, holdout)
    if holdout.p_value_deflated is not None:
        sentence += _against_baselines(baselines)
    clause = worse(calibration)
    return f"{sentence}{f'; {clause}' if clause else ''}."


def _on_luck(name: str, holdout: SharpeInference) -> str:
    """The Sharpe of that name beside what luck alone would have given."""
    assert holdout.detectable_sharpe is not None  # it has bars
    smallest = f"the smallest Sharpe that this sample could have detected is {holdout.detectable_sharpe:.1f}"
    if holdout.sharpe is None:
        return f"{name} undefined: {holdout.undefined}; {smallest}"
    if holdout.p_value_deflated is None:
        return f"{name} {holdout.sharpe:z.2f}: {holdout.undefined}; {smallest}"
    assert holdout.standard_error is not None and holdout.high is not None
    figure = f"{name} {holdout.sharpe:z.2f} ± {holdout.standard_error:.2f}"
    p = _p_text(holdout)
    if holdout.p_value_deflated < SIGNIFICANT:
        found = f"{figure}: more than luck alone would give ({p})"
        # So small a sample exaggerates a true Sharpe that it finds.
        return f"{found}; {smallest}" if holdout.sharpe < holdout.detectable_sharpe else found
    if holdout.high < 0.0:
        return f"{figure}: it lost more than luck alone explains ({p}); {smallest}"
    if holdout.sharpe <= 0.0:
        return f"{figure}: no sign of skill ({p}); {smallest}"
    assert holdout.bars_needed is not None
    years = holdout.bars_needed * holdout.years / holdout.n_bars
    return f"{figure}: not distinguishable from luck ({p}); {_years(years)} of this would be needed; {smallest}"


def _p_text(one: SharpeInference) -> str:
    p = one.p_value_deflated
    assert p is not None
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    return text if one.n_trials == 1 else f"{text}, as one of {one.n_trials} configurations that have looked at it"


def _years(years: float) -> str:
    if years > 1000.0:
        return "more than 1,000 years"
    return f"about {years:.0f} years" if years >= 9.5 else f"about {years:.1f} years"


def _against_baselines(rows: Sequence[BaselineRow]) -> str:
    """The clause on simple rules; empty where none could be compared."""
    compared = [
        (row.difference_annual, row)
        for row in rows
        if row.segment == "holdout" and row.difference_annual is not None and row.interval_low_annual is not None
    ]
    not_beaten = sorted(
        ((difference, row) for difference, row in compared if (row.interval_low_annual or 0.0) <= 0.0),
        key=lambda pair: pair[0],
    )
    if not compared:
        return ""
    if not not_beaten:
        return f"; it beats {' and '.join(row.baseline for _, row in compared)}"
    difference, worst = not_beaten[0]
    error = "" if worst.difference_se_annual is None else f" ± {worst.difference_se_annual:.2f}"
    names = [f"{worst.baseline} (difference {difference:z.2f}{error})", *(row.baseline for _, row in not_beaten[1:])]
    return f"; it does not {'clearly ' if difference > 0.0 else ''}beat {listed(names, 'or')}"
