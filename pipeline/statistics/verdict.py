"""The verdict on a production run, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.statistics.baseline_comparison import BaselineRow, listed
from pipeline.statistics.calibration import Calibration
from pipeline.statistics.calibration_in_words import worse
from pipeline.statistics.drift import NO_ACTIVE_RETURN, Skill
from pipeline.statistics.sharpe import SIGNIFICANT, SharpeInference, is_significant


@dataclass(frozen=True)
class PlaceboLuck:
    """What the whole job found on targets without signal."""

    p_value: float
    """Share of repetitions in which the neutral Sharpe was at least the run's, by (b + 1) / (m + 1)."""
    n_repetitions: int
    """Repetitions that were computed, or planned where it stopped early."""
    benchmark_sha256: str = ""
    """Hash of the benchmark that stood for the market, in the run and in the repetitions; empty: long only."""

    def p_value_of_best(self, n_trials: int) -> float:
        """That one of `n_trials` independent configurations has so small a p-value by luck (Sidak 1967)."""
        return float(1.0 - (1.0 - self.p_value) ** n_trials)


def least_repetitions(n_trials: int) -> int:
    """Repetitions without which a placebo's p-value, of the best of `n_trials`, cannot reach the level of the verdict:
    with fewer it can refute skill and not confirm it."""
    smallest: float = 1.0 - (1.0 - SIGNIFICANT) ** (1.0 / n_trials)
    return math.ceil(1.0 / smallest - 1.0 - 1e-9)


def p_value_beyond_drift(skill: Skill | None, placebo: PlaceboLuck | None = None) -> float | None:
    """One-sided p-value of no skill, deflated by the configurations that looked; None where there is no inference.

    The larger of the regression's and, where the whole job was repeated on targets without signal, of that one's.
    """
    p = skill.neutral.p_value_deflated if skill else None
    if skill is None or p is None or placebo is None:
        return p
    return max(p, placebo.p_value_of_best(skill.neutral.n_trials))


def verdict(
    holdout: SharpeInference | None,
    skill: Skill | None = None,
    baselines: Sequence[BaselineRow] = (),
    *,
    selection: Literal["holdout", "nested"] = "holdout",
    calibration: Calibration | None = None,
    placebo: PlaceboLuck | None = None,
) -> str:
    """One sentence on what a run's out-of-sample Sharpe, on whose bars nothing was selected, is worth.

    `holdout` is that Sharpe, None for a run without a holdout; `skill` takes it apart into drift and what is beyond it;
    `baselines` are the rows that compare it with simple rules; `calibration` is mentioned where the forecast
    distributions score worse than one that knows nothing; `placebo` where the job was repeated without signal.
    """
    if holdout is None or skill is None:
        return "There is no holdout with a known return: no number of this run is out-of-sample."
    name = "Holdout Sharpe" if selection == "holdout" else "Nested out-of-sample Sharpe"
    sentence = _on_luck(name, holdout, skill, placebo)
    if skill.neutral.p_value_deflated is not None:
        sentence += _against_baselines(baselines)
    if skill.skill_se is not None and skill.seed_sd is None:
        sentence += "; seed spread unknown: it is of one network, and another seed would have given another number"
    clause = worse(calibration)
    return f"{sentence}{f'; {clause}' if clause else ''}."


def _on_luck(name: str, holdout: SharpeInference, skill: Skill, placebo: PlaceboLuck | None) -> str:
    """The Sharpe of that name, its drift, and the rest beside what luck alone would have given."""
    neutral = skill.neutral
    assert neutral.detectable_sharpe is not None  # it has bars
    smallest = (
        f"the smallest Sharpe beyond drift that this sample could have detected is {neutral.detectable_sharpe:.1f}"
    )
    if holdout.sharpe is None:
        return f"{name} undefined: {holdout.undefined}; {smallest}"
    p = p_value_beyond_drift(skill, placebo)
    if p is None:
        return f"{name} {holdout.sharpe:z.2f}: {neutral.undefined}; {smallest}"
    if neutral.undefined == NO_ACTIVE_RETURN:
        return (
            f"{name}: earned {holdout.sharpe:z.2f}, all of it drift: {NO_ACTIVE_RETURN} ({_p_text(p, skill, placebo)})"
        )
    assert skill.skill is not None and skill.drift is not None and skill.skill_se is not None
    assert neutral.sharpe is not None and neutral.high is not None
    figure = (
        f"{name}: earned {holdout.sharpe:z.2f}, of which drift {skill.drift:z.2f}; beyond it {skill.skill:z.2f} ± "
        f"{skill.skill_se:.2f}"
    )
    text = _p_text(p, skill, placebo)
    if is_significant(p):
        found = f"{figure}: more than luck alone would give ({text})"
        # So small a sample exaggerates a true Sharpe that it finds.
        return f"{found}; {smallest}" if neutral.sharpe < neutral.detectable_sharpe else found
    if neutral.high < 0.0:
        return f"{figure}: it lost more than luck alone explains ({text}); {smallest}"
    if skill.skill <= 0.0:
        return f"{figure}: no sign of skill ({text}); {smallest}"
    assert neutral.bars_needed is not None
    if neutral.bars_needed <= neutral.n_bars:  # the regression alone would have found it, the placebo did not
        return f"{figure}: not distinguishable from luck ({text}); {smallest}"
    years = neutral.bars_needed * neutral.years / neutral.n_bars
    return f"{figure}: not distinguishable from luck ({text}); {_years(years)} of this would be needed; {smallest}"


def _p_text(p: float, skill: Skill, placebo: PlaceboLuck | None) -> str:
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
    if placebo is not None and p > (skill.neutral.p_value_deflated or 0.0):
        text += f" by {placebo.n_repetitions} repetitions of the whole job without signal"
        if placebo.n_repetitions < (least := least_repetitions(skill.neutral.n_trials)):
            text += f", of which at least {least} would be needed to confirm it"
    n_trials = skill.neutral.n_trials
    return text if n_trials == 1 else f"{text}, as one of {n_trials} configurations that have looked at it"


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
    lower = [row for difference, row in not_beaten if difference <= 0.0]
    unclear = [row for difference, row in not_beaten if difference > 0.0]
    difference, worst = not_beaten[0]
    error = "" if worst.difference_se_annual is None else f" ± {worst.difference_se_annual:.2f}"
    names = {row.baseline: row.baseline for _, row in not_beaten}
    names[worst.baseline] += f" (difference {difference:z.2f}{error})"
    if not lower:
        return f"; it does not clearly beat {listed([names[row.baseline] for row in unclear], 'or')}"
    nor = f", nor clearly {listed([names[row.baseline] for row in unclear], 'or')}" if unclear else ""
    return f"; it does not beat {listed([names[row.baseline] for row in lower], 'or')}{nor}"
