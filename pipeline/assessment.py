"""A record beside luck, drift, simple rules, calibration and the ledger of looks: what the verdict is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from pipeline.job import Job
from pipeline.phases.folds import production_folds
from pipeline.phases.production import Choice, Walked
from pipeline.phases.stitching import stitch_by_fold
from pipeline.phases.tuning import Tuned
from pipeline.statistics.baseline_comparison import against
from pipeline.statistics.baselines import run_baselines
from pipeline.statistics.calibration import calibration
from pipeline.statistics.inference import Inference, Looked, infer
from pipeline.statistics.overfitting import Trials
from pipeline.statistics.sharpe import detectable_sharpe
from pipeline.tracking.ledger import Look, by_configuration, enter, overlapping
from pipeline.tracking.progress import Reporter
from pipeline.tracking.sink import Sink
from tft.metrics import MIN_INFERENCE_BARS
from tft.record import Record


@dataclass(frozen=True, eq=False)
class Assessment:
    """How a walk-forward is judged."""

    inference: Inference
    looks: tuple[Look, ...]
    """Looks at an overlapping holdout, this one last; none without a holdout."""
    baselines: Mapping[str, Record]
    """The record of each simple rule."""


def say_what_can_be_found(job: Job, sink: Sink, reporter: Reporter) -> None:
    """Before training: the smallest true Sharpe that the clean bars of the record could detect."""
    start = production_folds(job.config, len(job.data.panel.times))[0].test.start
    first = start if job.config.selection == "nested" else max(start, job.n_development)
    n_bars = len(job.data.panel.times) - job.config.timing.label_bars - first
    smallest = detectable_sharpe(n_bars, job.config.periods_per_year)
    sink.metrics({"detectable_sharpe": smallest})
    if smallest is None:
        reporter.say("production: there is no holdout, nothing of this run will be out-of-sample")
    else:
        short = "" if n_bars >= MIN_INFERENCE_BARS else f"; any inference needs {MIN_INFERENCE_BARS}"
        reporter.say(
            f"production: the out-of-sample record will have {n_bars} bars, on which a true Sharpe under "
            f"{smallest:.1f} is likely to be missed (5 % one-sided, 80 % power){short}"
        )


def enter_look(job: Job, walked: Walked, *, run_id: str, key: str) -> Look | None:
    """Enter the walk-forward in the ledger of looks, before anything of its holdout is computed.

    run_id: the MLflow run that looks · key: of the phase, equal for the same evaluation in another run. None without a
    holdout.
    """
    record = walked.record
    known = np.flatnonzero((record.segment == "holdout") & np.isfinite(record.net()))
    if not len(known):
        return None
    return enter(
        Look(
            kind="production",
            first=str(record.times[known[0]]),
            last=str(record.times[known[-1]]),
            symbols=record.symbols,
            config_sha256=job.config.sha256,
            run=run_id,
            evaluation=key,
        )
    )


def assess(job: Job, chosen: Choice, walked: Walked, untuned: Record | None, look: Look | None) -> Assessment:
    """Judge the walk-forward.

    chosen: what the deployed model uses, whose search it is · untuned: the record of the untuned configuration, None
    where tuning chose it.
    """
    record = walked.record
    simple = run_baselines(
        job.data.panel,
        walked.folds,
        [walked.choices[fold.index].features for fold in walked.folds],
        walked.market.sigma,
        chosen.config.timing,
        lambda own: stitch_by_fold(own, walked.positions, walked.market, n_development=walked.n_development),
        cross_section=chosen.config.training.objective == "portfolio",
        test_until=len(job.data.panel.times),
    )
    looks = overlapping(look.first, look.last, look.symbols) if look else []
    others = [one for one in by_configuration(looks).values() if look and one.config_sha256 != look.config_sha256]
    against_untuned = None
    if untuned:
        same_bars = record.rows(np.isin(record.bars, untuned.bars))
        (against_untuned,) = against(same_bars, {"untuned": untuned}, "holdout")
    inference = infer(
        record,
        walked.outcomes,
        selection=walked.selection,
        trials=_trials(chosen.tuned),
        # The untuned configuration is no look: the headline was settled before it was computed.
        others=[Looked(one.sharpe, one.n_bars or 0) for one in others],
        against_untuned=against_untuned,
        baselines=against(record, simple, "holdout") if look else (),
        calibration=calibration(record, walked.outcomes, walked.market.y),
        seed=job.config.seed,
    )
    if look and inference.holdout:
        look = enter(replace(look, sharpe=inference.holdout.sharpe, n_bars=inference.holdout.n_bars))
        looks = [*(one for one in looks if one.key != look.key), look]
    return Assessment(inference, tuple(looks), simple)


def _trials(tuned: Tuned) -> Trials:
    completed = [trial for trial in tuned.trials if trial.oos_returns]
    return Trials(
        returns=np.array([trial.oos_returns for trial in completed], dtype=np.float64).T,
        best=[trial.number for trial in completed].index(tuned.best_trial),
        n_started=len(tuned.trials),
    )
