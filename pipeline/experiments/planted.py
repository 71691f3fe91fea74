"""What the job finds when there is something to find: how often, how much of it, and in which columns."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from pipeline.experiments.null_targets import NullTargets
from pipeline.experiments.planted_targets import Plan, PlantedRepetition, repetition
from pipeline.experiments.repetitions import Repetitions, table_of
from pipeline.job import Job
from pipeline.reporting import luck_figures
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run


@dataclass(frozen=True)
class Planted:
    """How well the job finds what is there."""

    plan: Plan
    repetitions: tuple[PlantedRepetition, ...]
    n_computed: int
    """Repetitions that this command computed; the others were finished before."""

    @property
    def power(self) -> float:
        """Share of repetitions whose holdout Sharpe beyond drift has p < 0.05."""
        return float(np.mean([one.p_value < 0.05 for one in self.repetitions]))

    @property
    def recovered(self) -> float:
        """Mean holdout Sharpe as a share of the oracle's on the same bars."""
        found, oracle = (
            float(np.mean([getattr(one, name) for one in self.repetitions])) for name in ("oos_sharpe", "oracle_sharpe")
        )
        return found / oracle

    @property
    def planted_kept(self) -> float:
        return float(np.mean([one.planted_kept for one in self.repetitions]))

    @property
    def others_kept(self) -> float:
        return float(np.mean([one.others_kept for one in self.repetitions]))

    @property
    def sentence(self) -> str:
        n = len(self.repetitions)
        return (
            f"A signal worth an oracle Sharpe of {self.plan.oracle_sharpe:g} was found (holdout p < 0.05) in "
            f"{round(self.power * n)} of {n} repetitions; the job recovered {self.recovered:.0%} of the oracle's "
            f"Sharpe and kept {self.planted_kept:.0%} of the planted columns, {self.others_kept:.0%} of the others."
        )


def run(job: Job, own: Run, production: Run, reporter: Reporter, null: NullTargets, plan: Plan) -> Planted:
    """Plant the signal again and again, and log what came of it in the experiment's own run and in the production run.

    Raises ValueError where the columns cannot carry so strong a signal.
    """
    count = null.most(plan.repetitions)
    reporter.say(f"planted: {null.description}; {count} repetitions of the whole job")
    settings = {name: value for name, value in asdict(plan).items() if name != "repetitions"}
    series = Repetitions(
        "planted", PlantedRepetition, partial(repetition, plan), job, production, reporter, count, plan=settings
    )
    with closing(iter(series)) as results:
        result = Planted(plan, tuple(results), series.n_computed)
    for target in (own, production):
        _log(target, result)
    return result


def _log(run: Run, result: Planted) -> None:
    rows = result.repetitions
    run.metrics(
        {
            "planted_oracle_sharpe": result.plan.oracle_sharpe,
            "planted_repetitions": len(rows),
            "planted_power": result.power,
            "planted_recovered": result.recovered,
            "planted_columns_kept": result.planted_kept,
            "planted_others_kept": result.others_kept,
        }
    )
    run.tags({"planted": result.sentence})
    run.table("planted.json", table_of(rows))
    run.figure(
        "planted.png",
        lambda: luck_figures.planted(
            [one.oracle_sharpe for one in rows],
            [one.oos_sharpe for one in rows],
            [one.p_value for one in rows],
            [one.planted_kept for one in rows],
            [one.others_kept for one in rows],
        ),
    )
