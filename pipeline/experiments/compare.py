"""One production run against another: two that are there, or two that differ by their purge gap and are run here."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import mlflow
import polars as pl
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.config.bars import min_bars
from pipeline.config.reading import load_config
from pipeline.config.schema import Config, ConfigError
from pipeline.job import JOB_KEY, Job, flattened
from pipeline.phases import production
from pipeline.prepare import prepare
from pipeline.reporting import luck_figures as luck_plots
from pipeline.reporting.figures import bar_label
from pipeline.statistics.paired import Book, Comparison, FoldPair, Pair, compare, in_one_sentence, pair
from pipeline.tracking import ledger
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run, parent_run
from tft.metrics import Performance

RECORD = "oos_record.parquet"
PARAMETERS_SHOWN = 40


# ---- production runs in the tracking store


@dataclass(frozen=True, eq=False)
class ProductionRun:
    """What a comparison reads of a finished production run."""

    run_id: str
    experiment_id: str
    name: str
    tags: Mapping[str, str]
    settings: Mapping[str, Any]
    """The configuration, flattened to `section.key`."""
    seed_sharpe_spread: float | None
    """Standard deviation of the Sharpes of its seeds, each alone; None with one seed."""
    book: Book

    @property
    def n_seeds(self) -> int:
        return int(self.settings["production.seeds"])


def find_production_run(wanted: str) -> ProductionRun:
    """The finished production run with this id, or whose id alone begins so; of its `production` child the parent.

    Raises ValueError if there is none, or if it holds no record.
    """
    client = MlflowClient()
    run = _find(client, wanted)
    if run.data.tags.get("phase") == "production" and "mlflow.parentRunId" in run.data.tags:
        run = client.get_run(run.data.tags["mlflow.parentRunId"])
    run_id, tags = run.info.run_id, run.data.tags
    if tags.get("command") != "production":
        what = tags.get("command") or tags.get("phase") or "something else"
        raise ValueError(f"run {run_id} is no production run but {what}: give the id of a run of `production`")
    if run.info.status != "FINISHED":
        raise ValueError(f"production run {run_id} is {run.info.status} and not FINISHED: let it finish first")
    held = {file.path for file in client.list_artifacts(run_id)}
    missing = [name for name in (RECORD, "config.json") if name not in held]
    if missing:
        raise ValueError(
            f"production run {run_id} has no artifact {' and no '.join(missing)}: its files were deleted, run it again"
        )
    with tempfile.TemporaryDirectory() as scratch:
        record = pl.read_parquet(client.download_artifacts(run_id, RECORD, scratch))
    return ProductionRun(
        run_id=run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name,
        tags=tags,
        settings=flattened(json.loads(Run(run_id).read_text("config.json"))),
        seed_sharpe_spread=run.data.metrics.get("seed_sharpe_spread"),
        book=Book.from_table(record),
    )


def _find(client: MlflowClient, wanted: str) -> MlflowRun:
    if not re.fullmatch(r"[0-9a-f]{4,32}", wanted):
        raise ValueError(f"{wanted!r} is no run id: give 32 digits from 0 to f, or the first few of them (4 or more)")
    try:
        return client.get_run(wanted)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    experiments = [experiment.experiment_id for experiment in mlflow.search_experiments()]
    found = client.search_runs(experiments, f"attributes.run_id LIKE '{wanted}%'", max_results=2)
    if len(found) != 1:
        how_many = "no run" if not found else "more than one run"
        raise ValueError(f"{how_many} in {mlflow.get_tracking_uri()} has an id that begins with {wanted}: see the UI")
    return found[0]


def differing(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same in both, by name."""
    names = [*baseline, *(name for name in candidate if name not in baseline)]
    both = {name: (baseline.get(name), candidate.get(name)) for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


# ---- the command


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
        data, device = prepare(max(configs, key=min_bars), reporter)
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
                job = Job(config, data, parent, reporter, device, fresh=fresh)
                run_id, said = _production_run(job, path)
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
    """The same configuration with another purge gap, labels let overlap where it needs that, and nothing promoted."""
    changed = replace(
        config,
        purge_gap=gap,
        allow_label_overlap=config.allow_label_overlap or gap < config.least_purge_gap,
        registry=replace(config.registry, promote="never"),
    )
    if faults := changed.faults():
        raise ConfigError(faults)
    return changed


def _production_run(job: Job, path: str) -> tuple[str, Sequence[str]]:
    """Id of a production run of this job, and what could not be done in it: a finished one, or a new one nested below
    the job's run.
    """
    gap = job.config.purge_gap
    if not job.fresh and (finished := finished_production_run(job.key)):
        job.reporter.say(f"purge gap {gap}: nothing it depends on has changed, reusing run {finished}")
        return finished, ()
    job.reporter.say(f"purge gap {gap}: running the whole job")
    with job.parent.child(f"purge gap {gap}") as run:
        job = replace(job, parent=run)
        job.log_inputs(command="production", config=path)
        job.check()
        return run.run_id, production.run(job).trouble


def finished_production_run(key: str) -> str | None:
    """The newest finished production run with this `Job.key` that still has its record."""
    client = MlflowClient()
    runs = client.search_runs(
        [experiment.experiment_id for experiment in mlflow.search_experiments()],
        f"tags.{JOB_KEY} = '{key}' and tags.command = 'production' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    for run in runs:
        if RECORD in {file.path for file in client.list_artifacts(run.info.run_id)}:
            return str(run.info.run_id)
    return None


def _paired(baseline: ProductionRun, candidate: ProductionRun, *, holdout: bool) -> Pair:
    years = [run.settings["periods_per_year"] for run in (baseline, candidate)]
    if years[0] != years[1]:
        raise ValueError(f"the runs have {years[0]:g} and {years[1]:g} periods_per_year: compare runs on the same bars")
    return pair(baseline.book, candidate.book, "holdout" if holdout else "development")


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
    comparison = compare(pair, periods_per_year=periods_per_year)
    for look, figures in zip(looks, (comparison.baseline, comparison.candidate), strict=bool(looks)):
        ledger.enter(replace(look, sharpe=figures.sharpe))

    settings = differing(baseline.settings, candidate.settings)
    sentences = (in_one_sentence(label, comparison), *beside(comparison, baseline, candidate))
    _log(parent, comparison, baseline, candidate)
    parent.table(
        "differing_parameters.json",
        {
            "parameter": list(settings),
            "baseline": [str(values[0]) for values in settings.values()],
            "candidate": [str(values[1]) for values in settings.values()],
        },
    )
    figure = luck_plots.comparison(
        pair.times,
        *pair.net(),
        names=(
            f"baseline: {baseline.name} {baseline.run_id[:8]}",
            f"candidate: {candidate.name} {candidate.run_id[:8]}",
        ),
        annual=comparison.difference,
        periods_per_year=periods_per_year,
    )
    parent.figure("comparison.png", figure)
    parent.tags({"mlflow.note.content": note(sentences, settings, baseline, candidate)})
    return sentences


def beside(comparison: Comparison, baseline: ProductionRun, candidate: ProductionRun) -> list[str]:
    """What belongs beside a difference: both runs' figures, selection, the noise floor, data that are not the same."""
    one, other = comparison.baseline, comparison.candidate
    said = [
        f"Baseline and candidate from {bar_label(comparison.first)} to {bar_label(comparison.last)}: annual net Sharpe "
        f"{one.sharpe:.2f} and {other.sharpe:.2f}, worst drawdown {one.max_drawdown:.1%} and {other.max_drawdown:.1%}, "
        f"turnover {one.turnover:.0f} and {other.turnover:.0f} a year."
    ]
    if comparison.segment == "development":
        said.append("Columns and parameters were chosen on development bars: neither Sharpe is out-of-sample.")
    else:
        said.append("This was a look at the holdout, and is counted as one.")
    one_seed = [name for name, run in (("baseline", baseline), ("candidate", candidate)) if run.n_seeds == 1]
    if one_seed:
        said.append(
            f"The noise floor is unknown: the {' and the '.join(one_seed)} trained one seed; production.seeds above 1 "
            f"(such as 5) measures how far seeds alone spread."
        )
    else:
        said.append(
            f"Seeds alone spread by a standard deviation of {_number(baseline.seed_sharpe_spread)} (baseline) and "
            f"{_number(candidate.seed_sharpe_spread)} (candidate) in the annual Sharpe of their headline segment."
        )
    if baseline.tags.get("data_sha256") != candidate.tags.get("data_sha256"):
        said.append("The two runs read different feature tables.")
    if baseline.tags.get("git_commit") != candidate.tags.get("git_commit"):
        said.append("The two runs were made at different commits of the code.")
    return said


def _log(run: Run, comparison: Comparison, baseline: ProductionRun, candidate: ProductionRun) -> None:
    """The metrics, `comparison.json` and `comparison_folds.json`."""
    found = comparison.difference
    of_both: dict[str, tuple[float | None, float | None]] = {
        field.name: (getattr(comparison.baseline, field.name), getattr(comparison.candidate, field.name))
        for field in fields(Performance)
    }
    of_both["seed_sharpe_spread"] = baseline.seed_sharpe_spread, candidate.seed_sharpe_spread
    for name, (one, other) in of_both.items():
        if name != "n_bars":
            run.metrics({f"{name}_baseline": one, f"{name}_candidate": other})
    run.metrics(
        {
            "n_bars": comparison.n_bars,
            "sharpe_difference": comparison.candidate.sharpe - comparison.baseline.sharpe,
            "sharpe_difference_standard_error": found.standard_error if found else None,
            "sharpe_difference_low": found.interval[0] if found else None,
            "sharpe_difference_high": found.interval[1] if found else None,
            "sharpe_difference_p_value": found.p_value if found else None,
            "sharpe_difference_detectable": found.detectable if found else None,
        }
    )
    differences = [None if None in pair else pair[1] - pair[0] for pair in of_both.values()]  # type: ignore[operator]

    def only_sharpe(value: float | None) -> list[float | None]:
        return [value if name == "sharpe" else None for name in of_both]

    run.table(
        "comparison.json",
        {
            "figure": list(of_both),
            "baseline": [pair[0] for pair in of_both.values()],
            "candidate": [pair[1] for pair in of_both.values()],
            "difference": differences,
            "standard_error": only_sharpe(found.standard_error if found else None),
            "low": only_sharpe(found.interval[0] if found else None),
            "high": only_sharpe(found.interval[1] if found else None),
            "p_value": only_sharpe(found.p_value if found else None),
            "detectable": only_sharpe(found.detectable if found else None),
        },
    )
    columns = {f.name: [getattr(row, f.name) for row in comparison.folds] for f in fields(FoldPair)}
    columns["difference"] = [row.sharpe_candidate - row.sharpe_baseline for row in comparison.folds]
    run.table("comparison_folds.json", columns)


def note(
    sentences: Sequence[str],
    settings: Mapping[str, tuple[Any, Any]],
    baseline: ProductionRun,
    candidate: ProductionRun,
) -> str:
    """The comparison run's description in the UI (Markdown): the result, links to both runs, how they differ."""

    def link(run: ProductionRun) -> str:
        return f"[{run.name} {run.run_id[:8]}](#/experiments/{run.experiment_id}/runs/{run.run_id})"

    lines = [f"**{sentences[0]}**", "", f"Baseline: {link(baseline)}, candidate: {link(candidate)}", ""]
    lines += [*(f"- {sentence}" for sentence in sentences[1:]), ""]
    if not settings:
        return "\n".join([*lines, "The configurations are the same."])
    lines += ["| parameter | baseline | candidate |", "|---|---|---|"]
    shown = list(settings.items())[:PARAMETERS_SHOWN]
    lines += [f"| {name} | {values[0]} | {values[1]} |" for name, values in shown]
    if len(shown) < len(settings):
        lines += ["", f"And {len(settings) - len(shown)} more, in differing_parameters.json."]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
