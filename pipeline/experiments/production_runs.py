"""Finished production runs in the tracking store: found by id, or by what they were run on, and read back."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlflow
import polars as pl
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.job import Job, flattened
from pipeline.tracking.finished import finished_runs
from pipeline.tracking.runs import Run
from tft.record import Record
from tft.volatility import Timing

RECORD = "oos_record.parquet"


@dataclass(frozen=True, eq=False)
class ProductionRun:
    """A finished production run, as a comparison reads it."""

    run_id: str
    experiment_id: str
    name: str
    tags: Mapping[str, str]
    settings: Mapping[str, Any]
    """The configuration, flattened to `section.key`."""
    seed_sharpe_spread: float | None
    """Standard deviation of the Sharpes of its seeds, each alone; None with one seed."""
    oos_sharpe_neutral: float | None
    """Holdout Sharpe beyond drift, as it was logged."""
    record: Record

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
        table = pl.read_parquet(client.download_artifacts(run_id, RECORD, scratch))
    settings = flattened(json.loads(Run(run_id).read_text("config.json")))
    timing = Timing(
        float(settings["periods_per_year"]), delay_bars=settings["execution_delay_bars"], horizon=settings["horizon"]
    )
    return ProductionRun(
        run_id=run_id,
        experiment_id=run.info.experiment_id,
        name=run.info.run_name,
        tags=tags,
        settings=settings,
        seed_sharpe_spread=run.data.metrics.get("seed_sharpe_spread"),
        oos_sharpe_neutral=run.data.metrics.get("oos_sharpe_neutral"),
        record=Record.from_columns({name: table[name].to_numpy() for name in table.columns}, timing),
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


def production_run_of(job: Job, run_id: str) -> Run | None:
    """The production run with this id, or without an id the newest finished one on the job's table and configuration.

    None if there is none. Raises ValueError for a run that is not one on this table and configuration.
    """
    own = {"data_sha256": job.data.sha256, "config_sha256": job.config.sha256}
    if run_id:
        try:
            found = Run(run_id).client.get_run(run_id)
        except MlflowException:
            raise ValueError(f"run_id is {run_id!r}, and this MLflow store holds no such run: leave it empty") from None
        differing = [name.removesuffix("_sha256") for name in own if found.data.tags.get(name) != own[name]]
        if found.data.tags.get("command") != "production" or found.info.status != "FINISHED" or differing:
            why = (
                f"a finished production run with the same {' and '.join(differing)}" if differing else "one that ended"
            )
            raise ValueError(
                f"run_id is {run_id}, which is {found.data.tags.get('command', 'no command')} ({found.info.status}): "
                f"only {why} can be judged, so give the config and set that it was made with, or leave run_id empty"
            )
        return Run(run_id)
    newest = next(finished_runs({"command": "production"} | own), None)
    return Run(newest.info.run_id) if newest else None


def neutral_sharpe(production: Run) -> float:
    """What a production run is judged by: annual, net, beyond drift. Raises ValueError if the run has none."""
    value = production.client.get_run(production.run_id).data.metrics.get("oos_sharpe_neutral", math.nan)
    if not math.isfinite(value):
        raise ValueError(
            f"production run {production.run_id} has no holdout Sharpe beyond drift to judge: raise holdout_fraction, "
            f"bring more bars, or run it again if an earlier version of this project made it"
        )
    return float(value)
