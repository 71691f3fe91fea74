"""One production run against another: two that are there, or two that differ by their purge gap and are run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline import flow
from pipeline.config.bars import min_bars
from pipeline.config.reading import load_config
from pipeline.config.schema import Config, ConfigError
from pipeline.experiments.comparison_report import beside, differing, log, note
from pipeline.experiments.production_runs import ProductionRun, find_production_run, finished_production_run
from pipeline.job import Job, open_job
from pipeline.reporting import luck_figures
from pipeline.statistics.looks import HoldoutRecord
from pipeline.statistics.paired import Pair, compare, in_one_sentence, pair
from pipeline.tracking import ledger
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run, parent_run


@dataclass(frozen=True)
class Concluded:
    """A finished comparison: its MLflow run, what to print, and what could not be done in the runs it made."""

    run_id: str
    sentences: tuple[str, ...]
    trouble: tuple[str, ...] = ()


def compare_runs(baseline: str, candidate: str, *, holdout: bool) -> Concluded:
    """Compare two production runs by their ids. Raises ValueError as `find_production_run` and `pair` do."""
    runs = find_production_run(baseline), find_production_run(candidate)
    if runs[0].run_id == runs[1].run_id:
        raise ValueError(f"baseline and candidate are the same production run {runs[0].run_id}: give two runs")
    paired = _paired(*runs, holdout=holdout)
    with parent_run("compare", None) as parent:
        label = f"run {runs[1].run_id[:8]} against {runs[0].run_id[:8]}"
        return Concluded(parent.run_id, _conclude(parent, *runs, paired, label))


def compare_purge_gaps(
    purge_gaps: str, path: str, overrides: Sequence[str], *, holdout: bool, fresh: bool
) -> Concluded:
    """Run the whole job with two purge gaps (`"0,5"`), everything else equal, and compare the second with the first.

    A finished run of the same configuration, data and code is taken instead of a new one unless `fresh`. Raises
    ValueError for anything but two different gaps >= 0, and for what the configuration or the table lack.
    """
    gaps = parse_purge_gaps(purge_gaps)
    configured = load_config(path, overrides)
    configs = [with_purge_gap(configured, gap) for gap in gaps]
    with Reporter() as reporter:
        opened = open_job(configured, reporter.say, fresh=fresh, min_bars=max(min_bars(config) for config in configs))
        with parent_run("compare", None) as parent:
            parent.tags({"command": "compare", "config": path})
            runs: list[ProductionRun] = []
            trouble: list[str] = []
            for config in configs:
                if config.purge_gap < config.least_purge_gap:
                    reporter.say(
                        f"purge gap {config.purge_gap}: labels overlap below a gap of {config.least_purge_gap}, so "
                        f"allow_label_overlap is true for this run"
                    )
                run_id, said = _production_run(replace(opened, config=config), parent, reporter, path)
                runs.append(find_production_run(run_id))
                trouble += said
            baseline, candidate = runs
            paired = _paired(baseline, candidate, holdout=holdout)
            label = f"purge gap {gaps[1]} against {gaps[0]}"
            return Concluded(parent.run_id, _conclude(parent, baseline, candidate, paired, label), tuple(trouble))


def parse_purge_gaps(text: str) -> tuple[int, int]:
    """Two different whole numbers of bars, the baseline's first. Raises ValueError for anything else."""
    try:
        gaps = [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"purge_gaps is {text!r}, it must be two whole numbers of bars such as 0,5") from None
    if len(gaps) != 2:
        raise ValueError(f"purge_gaps is {text!r}, it must be two gaps such as 0,5: the baseline's and the candidate's")
    if min(gaps) < 0:
        raise ValueError(f"purge_gaps is {text!r}, the least gap is 0 bars")
    if gaps[0] == gaps[1]:
        raise ValueError(f"purge_gaps is {text!r}, which is the same run twice: give two different gaps such as 0,5")
    return gaps[0], gaps[1]


def with_purge_gap(config: Config, gap: int) -> Config:
    """The configuration with another purge gap; labels may overlap if the gap needs that, and nothing is promoted."""
    changed = replace(
        config,
        purge_gap=gap,
        allow_label_overlap=config.allow_label_overlap or gap < config.least_purge_gap,
        registry=replace(config.registry, promote="never"),
    )
    if faults := changed.faults():
        raise ConfigError(faults)
    return changed


def _production_run(job: Job, parent: Run, reporter: Reporter, path: str) -> tuple[str, Sequence[str]]:
    """Id of a production run of this job, and what could not be done in it: a finished one, or a new one nested below
    the comparison's run.
    """
    gap = job.config.purge_gap
    if not job.fresh and (finished := finished_production_run(job.key)):
        reporter.say(f"purge gap {gap}: nothing it depends on has changed, reusing run {finished}")
        return finished, ()
    reporter.say(f"purge gap {gap}: running the whole job")
    with parent.child(f"purge gap {gap}") as run:
        return run.run_id, flow.whole_job(job, run, reporter, path).result.trouble


def _paired(baseline: ProductionRun, candidate: ProductionRun, *, holdout: bool) -> Pair:
    return pair(baseline.record, candidate.record, "holdout" if holdout else "development")


def _conclude(
    parent: Run, baseline: ProductionRun, candidate: ProductionRun, pair: Pair, label: str
) -> tuple[str, ...]:
    """Compare and log; returns what to print. Each run's evaluation of a holdout goes into the ledger before its
    number is known.
    """
    parent.tags({"command": "compare", "baseline_run": baseline.run_id, "candidate_run": candidate.run_id})
    looks = []
    if pair.segment == "holdout":
        looks = [
            ledger.Look(
                kind="comparison",
                first=str(pair.times[0]),
                last=str(pair.times[-1]),
                symbols=pair.baseline.symbols,
                config_sha256=run.tags["config_sha256"],
                run=parent.run_id,
                evaluation=f"{run.run_id} in {baseline.run_id} against {candidate.run_id}",
                n_bars=len(pair.times),
            )
            for run in (baseline, candidate)
        ]
        for look in looks:
            ledger.enter(look)
    periods_per_year = float(baseline.settings["periods_per_year"])
    comparison = compare(pair)
    both = zip((baseline, candidate), (comparison.baseline, comparison.candidate), strict=True)
    for look, (run, figures) in zip(looks, both, strict=bool(looks)):
        seen = HoldoutRecord.of(run.record, np.isin(run.record.times, pair.times), run.record.times)
        ledger.enter(replace(look, sharpe=figures.sharpe), seen)

    settings = differing(baseline.settings, candidate.settings)
    sentences = (in_one_sentence(label, comparison), *beside(comparison, baseline, candidate))
    log(parent, comparison, baseline, candidate)
    parent.table(
        "differing_parameters.json",
        {
            "parameter": list(settings),
            "baseline": [str(values[0]) for values in settings.values()],
            "candidate": [str(values[1]) for values in settings.values()],
        },
    )
    parent.figure(
        "comparison.png",
        lambda: luck_figures.comparison(
            pair.times,
            *pair.net(),
            names=(
                f"baseline: {baseline.name} {baseline.run_id[:8]}",
                f"candidate: {candidate.name} {candidate.run_id[:8]}",
            ),
            annual=comparison.difference,
            periods_per_year=periods_per_year,
        ),
    )
    parent.tags({"mlflow.note.content": note(sentences, settings, baseline, candidate)})
    return sentences
