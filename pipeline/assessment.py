"""A record beside luck, drift, simple rules, calibration and the ledger of looks: what the verdict is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.reading import from_json
from pipeline.job import Job
from pipeline.phases.folds import production_folds
from pipeline.phases.production import Choice, Walked
from pipeline.phases.stitching import stitch_by_fold
from pipeline.phases.tuning import Tuned
from pipeline.statistics.baseline_comparison import against
from pipeline.statistics.baselines import Baseline, NetworkSettings, run_baselines
from pipeline.statistics.calibration import calibration
from pipeline.statistics.comparable import MODEL, Comparable, comparable
from pipeline.statistics.drift import drift_of, seed_skills
from pipeline.statistics.inference import Inference, Looked, infer
from pipeline.statistics.looks import HoldoutRecord
from pipeline.statistics.overfitting import Trials
from pipeline.statistics.sharpe import detectable_sharpe
from pipeline.statistics.verdict import PlaceboLuck
from pipeline.tracking.finished import finished_runs
from pipeline.tracking.ledger import EXPERIMENT, Look, by_recipe, enter, is_empty, overlapping, restore, stands_for
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import PHASE_KEY
from tft.metrics import MIN_INFERENCE_BARS
from tft.record import Record, Segment

PLACEBO = "placebo_luck"
"""Tag of a run that a placebo has judged: what it found, as JSON."""


@dataclass(frozen=True, eq=False)
class Assessment:
    """How a walk-forward is judged."""

    inference: Inference
    looks: tuple[Look, ...]
    """Looks at the same holdout, this one last, each with the number of its recipe; none without a holdout."""
    baselines: Mapping[str, Baseline]
    """Each simple rule, by its name."""
    comparable: tuple[Comparable, ...]
    """The model on the holdout and on development, then each simple rule on the holdout."""


def clean_bars(job: Job) -> range:
    """The bars of decision that no choice of a production run sees and whose return is known: its holdout."""
    n_bars = len(job.data.panel.times)
    start = production_folds(job.config, n_bars)[0].test.start
    first = start if job.config.selection == "nested" else max(start, job.n_development)
    return range(first, n_bars - job.config.timing.label_bars)


def say_what_can_be_found(job: Job, reporter: Reporter) -> None:
    """Before training: the smallest true Sharpe that the clean bars of the record could detect; whether looks at them
    are known.
    """
    if restore():
        reporter.say(f"production: the ledger of looks (experiment {EXPERIMENT}) had been deleted: its looks are back")
    bars = clean_bars(job)
    n_bars = bars.stop - bars.start  # below 0 where there is no holdout
    smallest = detectable_sharpe(n_bars, job.config.periods_per_year)
    if smallest is None:
        reporter.say("production: there is no holdout, nothing of this run will be out-of-sample")
    else:
        short = "" if n_bars >= MIN_INFERENCE_BARS else f"; any inference needs {MIN_INFERENCE_BARS}"
        reporter.say(
            f"production: the out-of-sample record will have {n_bars} bars, on which a true Sharpe (beyond "
            f"drift) under {smallest:.1f} is likely to be missed (5 % one-sided, 80 % power){short}"
        )
        if not job.config.prior_looks and is_empty():
            reporter.say(
                "production: this MLflow store is new and knows of no earlier look at any holdout: if these bars were "
                "looked at elsewhere, set prior_looks, or use `tft-pipeline looks add` or `tft-pipeline looks import`"
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


def earlier_placebo(key: str, benchmark_sha256: str) -> PlaceboLuck | None:
    """What repetitions without signal have left of this evaluation before, in whichever run; None where none were made.

    key: of the production phase, equal for the same record · benchmark_sha256: of what it is judged beside.
    """
    for run in finished_runs({PHASE_KEY: key}):
        if PLACEBO in run.data.tags:
            found = from_json(PlaceboLuck, run.data.tags[PLACEBO])
            if found.benchmark_sha256 == benchmark_sha256:
                return found
    return None


def assess(job: Job, chosen: Choice, walked: Walked, untuned: Record | None, look: Look | None) -> Assessment:
    """Judge the walk-forward.

    chosen: what the deployed model uses, whose search it is · untuned: the record of the untuned configuration, None
    where tuning chose it.
    """
    record = walked.record
    baselines = _baselines(job, chosen, walked)
    simple = {name: baseline.record for name, baseline in baselines.items()}
    looks, others = _looks(record, look, job.data.panel.times) if look else ([], [])
    against_untuned = None
    if untuned:
        same_bars = record.rows(np.isin(record.bars, untuned.bars))
        (against_untuned,) = against(same_bars, {"untuned": untuned}, "holdout")
    market, sized = walked.market, walked.last_positions
    inference = infer(
        record,
        walked.outcomes,
        drift=drift_of(record, market, sized, "holdout", job.data.benchmark) if look else None,
        seed_skills=seed_skills(walked.seed_records, market, sized, "holdout", job.data.benchmark) if look else (),
        selection=walked.selection,
        trials=_trials(chosen.tuned),
        # The untuned configuration is no look: the headline was settled before it was computed.
        others=[*others, *[Looked(None, 0)] * job.config.prior_looks],
        against_untuned=against_untuned,
        baselines=against(record, simple, "holdout") if look else (),
        calibration=calibration(record, walked.outcomes, walked.market.y),
        seed=job.config.seed,
    )
    if look and inference.skill:
        neutral = inference.skill.neutral
        look = enter(replace(look, sharpe=neutral.sharpe, n_bars=neutral.n_bars))
        (own,) = (one for one in looks if one.key == look.key)
        looks = [*(one for one in looks if one.key != look.key), replace(look, recipe=own.recipe)]
        if placebo := earlier_placebo(look.evaluation, job.data.benchmark_sha256):
            inference = inference.with_placebo(placebo)
    return Assessment(inference, tuple(looks), baselines, _comparable(job, walked, simple))


def _baselines(job: Job, chosen: Choice, walked: Walked) -> dict[str, Baseline]:
    """The baselines on the walk-forward's folds, each with the columns that its prefilter kept."""
    nested = walked.selection == "nested"
    return run_baselines(
        job.data.panel,
        walked.folds,
        [walked.choices[fold.index].filtered.kept for fold in walked.folds],
        walked.market.sigma,
        chosen.config.timing,
        lambda own, positions: stitch_by_fold(own, positions, walked.market, n_development=walked.n_development),
        positions=job.config.positions,
        chosen_before=[fold.validation.stop if nested else job.n_development for fold in walked.folds],
        cross_section=chosen.config.training.objective == "portfolio",
        test_until=len(job.data.panel.times),
        lstm=NetworkSettings(job.config.seed, walked.market.device) if job.config.baselines.lstm else None,
    )


def _comparable(job: Job, walked: Walked, simple: Mapping[str, Record]) -> tuple[Comparable, ...]:
    """The model on each segment on which its return is known, then the simple rules on the holdout."""
    of_model = {MODEL: walked.record}

    def rows(records: Mapping[str, Record], segment: Segment) -> tuple[Comparable, ...]:
        if not np.isfinite(walked.record.net()[walked.record.segment == segment]).any():
            return ()
        target = job.config.positions.vol_target
        return comparable(records, segment, volatility_target=target, returns=walked.market.panel.returns)

    return (*rows(of_model, "holdout"), *rows(of_model, "development"), *rows(simple, "holdout"))


def _looks(record: Record, look: Look, times: NDArray[np.datetime64]) -> tuple[list[Look], list[Looked]]:
    """Add what this look saw to the ledger; returns the looks at the same holdout, oldest first, and what stands for
    each recipe but this one's.

    times: of the panel's bars (T,).
    """
    seen = HoldoutRecord.of(record, record.segment == "holdout", times)
    enter(look, seen)
    groups = by_recipe(overlapping(look.first, look.last, look.symbols, seen))
    looks = sorted((one for group in groups for one in group), key=lambda one: (one.entered, one.entry))
    stand = [stands_for(group) for group in groups if all(one.key != look.key for one in group)]
    return looks, [Looked(one.sharpe if one.n_bars else None, one.n_bars or 0) for one in stand]


def _trials(tuned: Tuned) -> Trials:
    completed = [trial for trial in tuned.trials if trial.oos_returns]
    return Trials(
        returns=np.array([trial.oos_returns for trial in completed], dtype=np.float64).T,
        best=[trial.number for trial in completed].index(tuned.best_trial),
        n_started=len(tuned.trials),
    )
