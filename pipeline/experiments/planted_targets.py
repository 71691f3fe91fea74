"""Targets with a signal of known strength, planted into the user's own columns, and what a repetition makes of them.

    r_t = sigma_(t-1) * (z_(t-k) + m * s_(t-1-delay))

On targets without signal (null_targets.py), the return in which a decision is held moves with the signal s that was
known to it: some columns, standardised, of either sign. Whoever knew s, held s_t / sigma_t of each instrument, equally
weighted and without costs, would earn the oracle's Sharpe; the strength m makes that what was asked for.

Shapes: T bars, A instruments, F columns, n complete bars.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import MAX_REPETITIONS
from pipeline.experiments.null_targets import NullTargets
from pipeline.job import Job
from pipeline.phases.prefilter import prefilter
from pipeline.phases.production import Walked
from pipeline.statistics.drift import drift_of, skill_inference
from tft.metrics import sharpe
from tft.record import Record
from tft.volatility import Timing, held_return

Array = NDArray[np.float64]
_COLUMNS = 3
"""Stream of random numbers."""


@dataclass(frozen=True)
class Plan:
    """The signal to plant, and how often."""

    oracle_sharpe: float
    """Annual, before costs."""
    columns: tuple[str, ...] = ()
    """Columns that carry the signal in every repetition; if empty, they are drawn anew for each."""
    n_drawn: int = 5

    repetitions: int = 5

    @classmethod
    def of(cls, oracle_sharpe: float, columns: str, repetitions: int) -> Plan:
        """Make a plan from `columns` as a person types them: how many to draw, or names with commas between."""
        if columns.strip().lstrip("-").isdigit():
            return cls(oracle_sharpe, n_drawn=int(columns), repetitions=repetitions)
        names = tuple(name.strip() for name in columns.split(",") if name.strip())
        return cls(oracle_sharpe, names, repetitions=repetitions)

    def check(self, known: Sequence[str]) -> None:
        """Raises ValueError for what a table with the columns `known` cannot have; all faults together."""
        absent = [name for name in self.columns if name not in known]
        found = [f"columns names {', '.join(absent)}, which the table does not have"] if absent else []
        if not self.columns and not 1 <= self.n_drawn <= len(known):
            found.append(f"columns is {self.n_drawn}, it must lie between 1 and the table's {len(known)}")
        if not 0.0 < self.oracle_sharpe < math.inf:
            found.append(f"oracle_sharpe is {self.oracle_sharpe:g}, it must be above 0 and finite")
        if not 1 <= self.repetitions <= MAX_REPETITIONS:
            found.append(f"repetitions is {self.repetitions}, it must lie between 1 and {MAX_REPETITIONS}")
        if found:
            raise ValueError("\n".join(found))


@dataclass(frozen=True)
class PlantedRepetition:
    """Result of the whole job on a planted signal. Sharpes are annual, and net unless their name says gross."""

    repetition: int
    shift: int | None
    """Shift of the noise, in complete bars; None where rows were resampled."""
    columns: tuple[str, ...]
    """Columns that carry the signal."""
    strength: float
    """Expected return of a signal of 1, in units of volatility."""
    oracle_sharpe: float
    """Sharpe that the signal itself earned on the holdout, before costs, luck included."""
    oos_sharpe: float
    oos_sharpe_gross: float
    p_value: float
    """One-sided, of no skill beyond drift on the holdout."""
    planted_kept: float
    """Share of the planted columns that pruning kept."""
    others_kept: float
    """Share of the other columns that went into exploration."""
    seconds: float


def repetition(plan: Plan, job: Job, number: int) -> tuple[Job, Callable[[Walked, float], PlantedRepetition]]:
    """The job on the repetition's targets, and what makes a result of the walk-forward on it and its seconds.

    Raises ValueError where the columns cannot carry so strong a signal.
    """
    config, panel = job.config, job.data.panel
    null = NullTargets(job.data, config)
    candidates = prefilter(job.development_panel, config.prefilter).kept
    rng = np.random.default_rng([config.seed, _COLUMNS, number])
    columns = plan.columns or tuple(rng.choice(candidates, min(plan.n_drawn, len(candidates)), replace=False).tolist())
    places = [panel.feature_names.index(name) for name in columns]
    signal = signal_of(panel.features[:, :, places], rng.choice([-1.0, 1.0], len(columns)))
    returns, strength = plant(null, number, signal, oracle_sharpe=plan.oracle_sharpe, timing=config.timing)

    def measure(walked: Walked, seconds: float) -> PlantedRepetition:
        holdout = walked.record.performance("holdout")
        if holdout is None:
            raise ValueError(f"repetition {number} has too few complete bars in the holdout: bring more bars")
        kept = [
            (set(choice.features) & set(columns), set(choice.features) - set(columns), set(choice.filtered.kept))
            for choice in walked.choices.values()
        ]
        return PlantedRepetition(
            repetition=number,
            shift=null.shift(number),
            columns=columns,
            strength=strength,
            oracle_sharpe=oracle_sharpe(signal, null.sigma, returns, walked.record, config.timing),
            oos_sharpe=holdout.sharpe,
            oos_sharpe_gross=holdout.sharpe_gross,
            p_value=p_value_beyond_drift(walked),
            planted_kept=float(np.mean([len(own) / len(columns) for own, _, _ in kept])),
            others_kept=float(np.mean([len(others) / max(1, len(all_ - set(columns))) for _, others, all_ in kept])),
            seconds=seconds,
        )

    return job.on(null.dataset(number, returns)), measure


def signal_of(columns: NDArray[np.float32], signs: Array) -> Array:
    """s (T, A) of variance 1: columns (T, A, F), each standardised over all its values, of signs (F,), added up.

    A missing value says nothing: 0.
    """
    values = columns.astype(np.float64)
    deviation = np.nanstd(values, axis=(0, 1))
    standard = (values - np.nanmean(values, axis=(0, 1))) / np.where(deviation > 0.0, deviation, 1.0)
    added = np.nan_to_num(standard, nan=0.0) @ signs
    return np.asarray(added / added.std())


def plant(
    null: NullTargets, repetition: int, signal: Array, *, oracle_sharpe: float, timing: Timing
) -> tuple[Array, float]:
    """Returns (T, A) that signal (T, A) moves, and its strength m.

    The oracle earns a + m b, by bar the means over instruments of k s z and k s^2 with k = sigma_(t+delay) / sigma_t.
    Noise has no mean: its Sharpe is m E[b] / sqrt(var a + m^2 var b), solved for m with the moments of these bars.
    Raises ValueError where no strength is enough.
    """
    lead = 1 + timing.delay_bars
    bars = null.complete
    noise = null.scaled[null.rows(repetition)]  # (n, A)
    before = np.where(bars >= lead, bars - lead, 0)
    known = np.where((bars >= lead)[:, None], signal[before], 0.0)  # s (n, A) of the decision held over that bar
    ratio = null.scale / null.sigma[before]  # k
    usable = (bars >= lead) & np.isfinite(ratio).all(axis=1)
    a, b = ((ratio * known * x)[usable].mean(axis=1) for x in (noise, known))
    per_bar = oracle_sharpe / math.sqrt(timing.periods_per_year)
    room = b.mean() ** 2 - per_bar**2 * b.var()
    if room <= 0.0:
        most = b.mean() / b.std() * math.sqrt(timing.periods_per_year)
        raise ValueError(f"oracle_sharpe is {oracle_sharpe:g}, these columns carry less than {most:.1f}: lower it")
    strength = per_bar * a.std() / math.sqrt(room)
    returns = null.returns(repetition)
    returns[bars] += strength * null.scale * known
    return returns, float(strength)


def oracle_sharpe(signal: Array, sigma: Array, returns: Array, record: Record, timing: Timing) -> float:
    """Annual, before costs, of holding signal / sigma (T, A) over the record's holdout bars."""
    pnl = ((signal / sigma) * held_return(returns, timing))[record.bars].mean(axis=1)
    return sharpe(pnl[record.segment == "holdout"], periods_per_year=timing.periods_per_year)


def p_value_beyond_drift(walked: Walked) -> float:
    """One-sided p-value of no skill beyond drift on the holdout. Raises ValueError where there is none."""
    drift = drift_of(walked.record, walked.market, walked.last_positions, "holdout")
    neutral = skill_inference(drift, periods_per_year=walked.market.timing.periods_per_year).neutral
    if neutral.p_value is None:
        raise ValueError(f"the holdout has no p-value: {neutral.undefined}; raise holdout_fraction or bring more bars")
    return neutral.p_value
