"""What luck alone would have given: the whole job again, with the same budget, on targets that can hold no signal.

The share of repetitions in which luck did at least as well as the real run is its p-value. Every repetition chooses its
columns and parameters anew, so that whatever selection adds to a Sharpe ratio is in the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.sections import PlaceboConfig
from pipeline.experiments.null_targets import NullTargets
from pipeline.experiments.placebo_targets import PlaceboRepetition, repetition
from pipeline.experiments.placebo_verdict import rewrite_verdict
from pipeline.experiments.production_runs import neutral_sharpe
from pipeline.experiments.repetitions import Repetitions, table_of
from pipeline.job import Job
from pipeline.reporting import luck_figures
from pipeline.statistics.sharpe import SIGNIFICANT, is_significant
from pipeline.statistics.significance import monte_carlo_p_value, sequential_p_value
from pipeline.statistics.verdict import PlaceboLuck, least_repetitions
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run


@dataclass(frozen=True)
class Placebo:
    """A production run against luck. Sharpes are annual and net."""

    p_value: float
    oos_sharpe_neutral: float
    """Holdout Sharpe of the real run beyond drift."""
    method: str
    """Which null it was: `shift` or `stationary bootstrap`."""
    repetitions: tuple[PlaceboRepetition, ...]
    """The repetitions that the p-value rests on, in order."""
    stopped_early: bool
    n_computed: int
    """Repetitions that this command computed; the others were finished before."""
    long_only_sharpe: float
    """Sharpe of being long in the real market on the same bars: what drift alone gave."""
    tuning_sharpe: float
    """Tuning Sharpe of the real run's best trial."""

    @property
    def null(self) -> NDArray[np.float64]:
        """(m,) Sharpes beyond drift under the null, each beside the drift of its own targets."""
        return np.array([one.oos_sharpe_neutral for one in self.repetitions])

    @property
    def tuning(self) -> NDArray[np.float64]:
        """(m,) the best trials' Sharpes under the null."""
        return np.array([one.tuning_sharpe for one in self.repetitions])

    @property
    def sentence(self) -> str:
        null, m = self.null, len(self.repetitions)
        at_least = int((null >= self.oos_sharpe_neutral).sum())
        found = "distinguishable" if is_significant(self.p_value) else "not distinguishable"
        early = ", where it stopped early" if self.stopped_early else ""
        return (
            f"Sharpe {self.oos_sharpe_neutral:.2f} beyond drift is {found} from luck: {at_least} of {m} repetitions on "
            f"targets without signal did as well (p = {self.p_value:.3f}{early}; {self.method}), their mean "
            f"{null.mean():.2f} and 95th percentile {np.quantile(null, 0.95):.2f}; the best trials of the same "
            f"repetitions show a tuning Sharpe of {self.tuning.mean():.2f}; long only earned "
            f"{self.long_only_sharpe:.2f}, all of it drift."
        )


def run(job: Job, own: Run, production: Run, reporter: Reporter, null: NullTargets) -> Placebo:
    """Set a production run against luck, and log what came of it in the placebo's own run and in the production run.
    The production run's verdict is written anew, with the larger of both p-values.

    Raises ValueError for a run without a holdout Sharpe.
    """
    real = neutral_sharpe(production)
    plan = replace(job.config.placebo, repetitions=null.most(job.config.placebo.repetitions))
    reporter.say(f"placebo: {null.description}; at most {plan.repetitions} repetitions of the whole job")
    metrics = production.client.get_run(production.run_id).data.metrics
    n_trials = round(metrics["n_configurations_looked"])
    if plan.repetitions < (least := least_repetitions(n_trials)):
        of_n = f", with {n_trials} recipes that have looked at this holdout," if n_trials > 1 else ""
        reporter.say(
            f"placebo: {plan.repetitions} repetitions can refute skill and not confirm it: their smallest p-value"
            f"{of_n} is above {SIGNIFICANT:g}, and {least} would be needed"
        )
    series = Repetitions("placebo", PlaceboRepetition, repetition, job, production, reporter, plan.repetitions)
    used: list[PlaceboRepetition] = []

    def exceeds() -> Iterator[bool]:
        for one in results:
            used.append(one)
            yield one.oos_sharpe_neutral >= real

    with closing(iter(series)) as results:
        p_value = p_value_of(exceeds(), plan)
    result = Placebo(
        p_value=p_value,
        oos_sharpe_neutral=real,
        method=null.method,
        repetitions=tuple(used),
        stopped_early=len(used) < plan.repetitions,
        n_computed=series.n_computed,
        long_only_sharpe=metrics["baseline_long_only_sharpe"],
        tuning_sharpe=tuning_sharpe(production),
    )
    for target in (own, production):
        _log(target, result)
    luck = PlaceboLuck(p_value, plan.repetitions, job.data.benchmark_sha256)
    reporter.say(f"placebo: {rewrite_verdict(production, luck)}")
    return result


def p_value_of(exceeds: Iterator[bool], plan: PlaceboConfig) -> float:
    """The p-value from draws in their order, of which no more are consumed than it needs."""
    if plan.exceedances:
        return sequential_p_value(exceeds, plan.exceedances, plan.repetitions).p_value
    return monte_carlo_p_value(sum(exceeds), plan.repetitions)


def tuning_sharpe(production: Run) -> float:
    """Annual, of the best trial of a production run."""
    table = json.loads(production.read_text("trials.json"))
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    (best,) = (row["oos_sharpe"] for row in rows if row["best"])
    return float(best)


def _log(run: Run, result: Placebo) -> None:
    null = result.null
    development = [one.development_sharpe for one in result.repetitions if one.development_sharpe is not None]
    run.metrics(
        {
            "placebo_p_value": result.p_value,
            "placebo_repetitions": len(null),
            "placebo_null_mean": float(null.mean()),
            "placebo_null_sd": float(null.std(ddof=1)) if len(null) > 1 else None,
            "placebo_null_p95": float(np.quantile(null, 0.95)),
            "placebo_tuning_sharpe_mean": float(result.tuning.mean()),
            "placebo_development_sharpe_mean": float(np.mean(development)) if development else None,
            "placebo_long_only_sharpe": result.long_only_sharpe,
        }
    )
    run.tags({"placebo_method": result.method, "placebo": result.sentence})
    run.table("placebo.json", table_of(result.repetitions))
    run.figure(
        "placebo.png",
        lambda: luck_figures.placebo(
            null,
            result.tuning,
            real=result.oos_sharpe_neutral,
            real_tuning=result.tuning_sharpe,
            long_only=result.long_only_sharpe,
            p_value=result.p_value,
        ),
    )
