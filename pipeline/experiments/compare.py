"""Two recipes against each other: two purge gaps, each trained with several seeds here, or finished production runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from pipeline import flow
from pipeline.config.bars import min_bars
from pipeline.config.reading import load_config, to_mapping
from pipeline.config.schema import Config
from pipeline.experiments import comparison_report as report
from pipeline.experiments.production_runs import ProductionRun, find_production_run
from pipeline.experiments.purge_arms import check_equal_folds, n_compared, parse_purge_gaps, purge_arms
from pipeline.experiments.trainings import Kind, Trainings
from pipeline.job import Job, flattened, open_job
from pipeline.phase_run import log_inputs, run_name
from pipeline.phases.production import Choice
from pipeline.reporting import artifacts, links
from pipeline.reporting.comparison_figure import comparison
from pipeline.statistics.looks import HoldoutRecord
from pipeline.statistics.paired import Arms, Compared, on_the_same_bars, pair
from pipeline.statistics.seed_comparison import MIN_SEEDS, SeedDifference, seed_difference
from pipeline.tracking import ledger
from pipeline.tracking.experiment import save_view, view_link
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.runs import Run, parent_run
from pipeline.tracking.sink import Silent
from tft.metrics import MIN_INFERENCE_BARS

NO_PART_OF_A_RECIPE = ("seed", "device", "registry.", "placebo.", "tuning.timeout_seconds")
"""Settings, or beginnings of their names, in which the runs of one arm may differ."""


@dataclass(frozen=True)
class Concluded:
    """A finished comparison: its MLflow run, and what to print."""

    run_id: str
    sentences: tuple[str, ...]


# ---- two purge gaps


def compare_purge_gaps(
    purge_gaps: str, path: str, overrides: Sequence[str], *, kind: Kind, n_seeds: int, holdout: bool, fresh: bool
) -> Concluded:
    """Train `n_seeds` times with each of two purge gaps (`"0,5"`), all else equal; compare the second with the first.

    kind: `fixed-selection` chooses columns and parameters once, on the baseline's development bars with its first seed,
    and varies the seeds of the networks; `whole-job` explores, prunes and tunes anew for every arm and seed. Trainings
    that were finished before are not made again unless `fresh`. Raises ValueError for anything but two different gaps
    >= 0, for n_seeds < 1, and for what the configuration or the table lack.
    """
    gaps = parse_purge_gaps(purge_gaps)
    if n_seeds < 1:
        raise ValueError(f"seeds is {n_seeds}, the least is 1; a p-value needs {MIN_SEEDS}")
    configured = load_config(path, overrides)
    if kind == "fixed-selection" and configured.selection == "nested":
        raise ValueError(
            "comparison is fixed-selection, but with selection: nested every fold chooses anew: take --comparison "
            "whole-job, or selection: holdout"
        )
    arms = purge_arms(configured, gaps)
    segment: Compared = "holdout" if holdout else "development"
    with Reporter() as reporter:
        job = open_job(configured, reporter.say, fresh=fresh, min_bars=max(min_bars(arm) for arm in arms))
        n_bars = len(job.data.panel.times)
        baseline = replace(job, config=arms[0])
        check_equal_folds(arms, n_bars)
        n_development = 0 if configured.selection == "nested" else baseline.n_development  # as the record has it
        compared_bars = n_compared(arms[0], n_bars, n_development, segment)
        if compared_bars < MIN_INFERENCE_BARS:
            reporter.say(f"{compared_bars} {segment} bars are compared, any inference needs {MIN_INFERENCE_BARS}")
        _say_overlaps(arms, reporter)
        with parent_run(run_name(job, path, "compare", purge_gap=f"{gaps[0]}, {gaps[1]}"), None) as parent:
            log_inputs(job, parent, command="compare", config=path, comparison=kind)
            findings = flow.check(baseline, parent, reporter)
            chosen = _chosen_once(kind, baseline, parent, reporter)
            trainings = Trainings(kind, arms, segment, job, parent, reporter, n_seeds, chosen)
            trainings.announce()
            with closing(iter(trainings)) as results:
                done = list(results)
            by_arm = [[one for one in done if one.arm == arm] for arm in (0, 1)]
            earned = [[one.earned for one in own] for own in by_arm]
            paired = on_the_same_bars(earned[0], earned[1], segment, configured.periods_per_year)
            if holdout:
                for one in done:
                    ledger.enter(replace(trainings.look(one), sharpe=one.sharpe_neutral), trainings.seen(one))
            beside = (report.selection(by_arm, chosen, segment), report.equal_folds(arms, n_bars))
            concluded = _conclude(
                parent,
                paired,
                kind.replace("-", " "),
                f"purge gap {gaps[1]} minus {gaps[0]}",
                beside,
                [[f"seed {one.seed}" for one in own] for own in by_arm],
                [flattened(to_mapping(arm)) for arm in arms],
                report.trainings_view([trainings.runs[one.repetition] for one in done], segment),
            )
            artifacts.findings_counts(parent, findings)  # last: the UI shows first what was logged first
            return concluded


def _chosen_once(kind: Kind, baseline: Job, parent: Run, reporter: Reporter) -> Choice | None:
    """The columns and parameters of all trainings; None where each chooses its own."""
    if kind == "whole-job":
        # The one phase that all jobs share: done here, so that they do not all do it at once.
        flow.prefilter(baseline, Silent(Kept()), Quiet())
        return None
    reporter.say("fixed-selection: columns and parameters are chosen once, with the baseline's purge gap")
    return flow.choose(baseline, parent, reporter).choice


def _say_overlaps(arms: Sequence[Config], reporter: Reporter) -> None:
    for arm in arms:
        if arm.purge_gap < arm.least_purge_gap:
            reporter.say(
                f"purge gap {arm.purge_gap}: labels overlap below a gap of {arm.least_purge_gap}, so "
                f"allow_label_overlap is true for this arm"
            )


# ---- finished production runs


def compare_runs(baseline: str, candidate: str, *, holdout: bool) -> Concluded:
    """Compare finished production runs, given by their ids: one for each arm, or several with commas between them.

    The runs of an arm are of one recipe and have different seeds. Raises ValueError as `find_production_run` and `pair`
    do, and for arms that are no such arms.
    """
    arms = [[find_production_run(wanted.strip()) for wanted in text.split(",")] for text in (baseline, candidate)]
    ids = [run.run_id for arm in arms for run in arm]
    for run_id in ids:
        if ids.count(run_id) > 1:
            raise ValueError(f"production run {run_id} is given twice: a run is compared with another one")
    for name, arm in zip(("baseline", "candidate"), arms, strict=True):
        _check_one_recipe(name, arm)
    records = [[run.record for run in arm] for arm in arms]
    paired = pair(records[0], records[1], "holdout" if holdout else "development")
    short = [", ".join(run.run_id[:8] for run in arm) for arm in arms]
    with parent_run(f"compare · {short[1]} against {short[0]} · {datetime.now():%Y-%m-%d %H:%M}", None) as parent:
        joined = [",".join(run.run_id for run in arm) for arm in arms]
        parent.tags({"command": "compare", "baseline_run": joined[0], "candidate_run": joined[1]})
        if holdout:
            _enter_looks(parent, paired, arms)
        return _conclude(
            parent,
            paired,
            "whole job",
            f"run {short[1]} minus {short[0]}",
            report.runs(arms, paired),
            [[report.link(run) for run in arm] for arm in arms],
            [arm[0].settings for arm in arms],
            report.runs_view(ids),
            links.side_by_side({run.experiment_id for arm in arms for run in arm}, ids),
        )


def _check_one_recipe(name: str, arm: Sequence[ProductionRun]) -> None:
    """Raises ValueError where the runs of an arm are not the same but for their seeds."""
    first = arm[0]
    for place, other in enumerate(arm[1:], start=1):
        differ = [
            key for key in report.differing(first.settings, other.settings) if not key.startswith(NO_PART_OF_A_RECIPE)
        ]
        if differ or first.tags.get("data_sha256") != other.tags.get("data_sha256"):
            raise ValueError(
                f"the {name}'s runs {first.run_id[:8]} and {other.run_id[:8]} differ by "
                f"{', '.join(differ) or 'the table'}: an arm is one recipe on one table, its runs differ by seed alone"
            )
        if any(other.settings["seed"] == before.settings["seed"] for before in arm[:place]):
            raise ValueError(
                f"the {name}'s run {other.run_id[:8]} has seed {other.settings['seed']} like another of its runs: give "
                f"runs with different seeds"
            )


def _enter_looks(parent: Run, paired: Arms, arms: Sequence[Sequence[ProductionRun]]) -> None:
    """Each run's evaluation of the holdout goes into the ledger before its number is known."""
    ids = [",".join(run.run_id for run in arm) for arm in arms]
    for arm, of_arm in zip(arms, paired.both, strict=True):
        for run, one in zip(arm, of_arm, strict=True):
            look = ledger.Look(
                kind="comparison",
                first=one.times[0],
                last=one.times[-1],
                symbols=run.record.symbols,
                config_sha256=run.tags["config_sha256"],
                run=parent.run_id,
                evaluation=f"{run.run_id} in {ids[0]} against {ids[1]}",
                n_bars=len(one.times),
            )
            ledger.enter(look)
            compared = np.isin(run.record.times, np.array(one.times, dtype=run.record.times.dtype))
            seen = HoldoutRecord.of(run.record, compared, run.record.times)
            ledger.enter(replace(look, sharpe=run.oos_sharpe_neutral), seen)


# ---- both


def _conclude(
    parent: Run,
    arms: Arms,
    kind: str,
    label: str,
    beside: Sequence[str],
    trainings: Sequence[Sequence[str]],
    settings: Sequence[Mapping[str, Any]],
    view: str,
    *more: str,
) -> Concluded:
    """Compare and log.

    beside: sentences that belong beside the result · trainings: the name of each, by arm · view: what the UI shows of
    both arms (`tracking/experiment.py`) · more: further links.
    """
    found: SeedDifference = seed_difference(*arms.net(), periods_per_year=arms.periods_per_year)
    target = float(settings[0]["positions.vol_target"])
    sentences = (report.in_one_sentence(kind, label, found, arms.segment), report.figures(arms, target), *beside)
    report.log(parent, arms, found, target)
    differ = report.differing(*settings)
    parent.table(
        "differing_parameters.json",
        {
            "parameter": list(differ),
            "baseline": [str(values[0]) for values in differ.values()],
            "candidate": [str(values[1]) for values in differ.values()],
        },
    )
    drawn = comparison(arms, found, label)
    parent.figure("comparison.png", drawn)
    parent.figure(f"{links.SMALL}/comparison.png", drawn, links.SMALL_WIDTH)
    experiment = parent.client.get_run(parent.run_id).info.experiment_id
    name = f"compare-{parent.run_id[:8]}"
    save_view(experiment, name, view)
    shown = (f"[Both arms side by side]({view_link(experiment, name, 'CHART')})", *more)
    picture = links.picture(parent.run_id, f"{links.SMALL}/comparison.png", "Both arms, bar by bar")
    parent.describe(report.note(sentences, differ, trainings, shown, picture))
    parent.tags({"result": sentences[0]})
    return Concluded(parent.run_id, sentences)
