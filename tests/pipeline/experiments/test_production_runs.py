"""Finished production runs: found by id or by what they were run on; anything else is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow.tracking import MlflowClient

from pipeline.config.reading import load_config, to_mapping
from pipeline.config.schema import Config
from pipeline.config.sections import PlaceboConfig
from pipeline.experiments.production_runs import (
    find_production_run,
    neutral_sharpe,
    production_run_of,
)
from pipeline.job import Job
from pipeline.tracking.runs import EXPERIMENT, Run, parent_run
from tests.conftest import CPU, MICRO, small_panel
from tests.pipeline.jobs import dataset_of

pytestmark = pytest.mark.usefixtures("module_store")

CONFIG = load_config(MICRO)
N_BARS, N_HOLDOUT = 200, 90


def record(seed: int) -> pl.DataFrame:
    """A record of two instruments on the same market whatever the seed; the last 90 bars are the holdout."""
    rng, market = np.random.default_rng(seed), np.random.default_rng(99)
    held = 0.01 * market.standard_normal((N_BARS, 2))
    position = rng.uniform(-0.5, 0.5, (N_BARS, 2))
    day = np.repeat(np.arange(N_BARS), 2)
    gross = (position * held).ravel()
    return pl.DataFrame(
        {
            "time": np.datetime64("2024-01-01", "us") + day * np.timedelta64(1, "D"),
            "symbol": ["A", "B"] * N_BARS,
            "fold": day // 40,
            "raw_position": position.ravel(),
            "position": position.ravel(),
            "return": held.ravel(),
            "pnl": gross - 1e-4,
            "pnl_gross": gross,
            "segment": np.where(day < N_BARS - N_HOLDOUT, "development", "holdout"),
        }
    )


def production_run(
    seed: int = 0, *, status: str = "FINISHED", settings: dict[str, Any] | None = None, **tags: str
) -> str:
    """A run as `production` leaves it behind, with a record of our own; `settings` None: without artifacts."""
    client = MlflowClient()
    found = client.get_experiment_by_name(EXPERIMENT)
    experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
    run_id: str = client.create_run(experiment, run_name="production").info.run_id
    run = Run(run_id)
    run.tags({"command": "production", "config_sha256": f"config {seed}", "data_sha256": "one"} | tags)
    if settings is not None:
        run.text("config.json", json.dumps(to_mapping(CONFIG) | settings))
        file = Path("oos_record.parquet")
        record(seed).write_parquet(file)
        run.file(file)
        run.metrics({"oos_sharpe_neutral": seed + 0.5})
    if status != "RUNNING":
        client.set_terminated(run_id, status)
    return run_id


def child_of(run_id: str, phase: str) -> str:
    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    tags = {"mlflow.parentRunId": run_id, "phase": phase}
    child: str = client.create_run(experiment, tags=tags).info.run_id
    client.set_terminated(child)
    return child


# By id


def test_a_run_is_found_by_its_id_by_how_that_begins_and_by_its_production_child() -> None:
    run_id = production_run(settings={})
    child = child_of(run_id, "production")
    for wanted in (run_id, run_id[:12], child, child[:12]):
        assert find_production_run(wanted).run_id == run_id


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (lambda: "f" * 32, "no run in sqlite.* has an id that begins with f{32}"),
        (lambda: "0123456789ab", "no run in sqlite.* has an id that begins with 0123456789ab"),
        (lambda: "abc", "'abc' is no run id"),
        (lambda: "%' or 1=1", "is no run id"),
        (lambda: child_of(production_run(settings={}), "tuning"), "is no production run but tuning"),
        (lambda: production_run(settings={}, command="compare"), "is no production run but compare"),
        (lambda: production_run(settings={}, status="RUNNING"), "is RUNNING and not FINISHED"),
        (lambda: production_run(settings={}, status="KILLED"), "is KILLED and not FINISHED"),
        (lambda: production_run(), r"has no artifact oos_record.parquet and no config.json"),
    ],
)
def test_what_is_no_finished_production_run_is_refused(wanted: Callable[[], str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_production_run(wanted())


def test_a_beginning_that_several_runs_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MlflowClient, "search_runs", lambda *a, **k: [object(), object()])
    with pytest.raises(ValueError, match=r"more than one run in .* has an id that begins with abcd"):
        find_production_run("abcd")


# By table and configuration


def job_of(source: str, config: Config | None = None) -> Job:
    """`source` stands for the table, so that tests do not find each other's runs."""
    return Job(config or Config(), replace(dataset_of(small_panel(40)), sha256=source, source=source), CPU)


def finished(job: Job, *, status: str = "FINISHED", **tags: str) -> Run:
    own = {"command": "production", "data_sha256": job.data.sha256, "config_sha256": job.config.sha256}
    with parent_run("production", None) as run:
        run.tags(own | tags)
    run.client.set_terminated(run.run_id, status)
    return run


def test_the_newest_finished_production_run_on_the_same_table_and_configuration_is_judged(module_store: Path) -> None:
    job = job_of("judged")
    assert production_run_of(job, "") is None
    finished(job)
    newest = finished(job)
    for status, tags in (
        ("FAILED", {}),
        ("FINISHED", {"command": "placebo"}),
        ("FINISHED", {"data_sha256": "other"}),
        ("FINISHED", {"config_sha256": "other"}),
    ):
        finished(job, status=status, **tags)
    found = production_run_of(job, "")
    assert found is not None and found.run_id == newest.run_id
    judging = production_run_of(job_of("judged", Config(placebo=PlaceboConfig(repetitions=3))), "")
    assert judging is not None and judging.run_id == newest.run_id


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda job: finished(job, data_sha256="x"), r"same data can be judged, so give the config and set"),
        (lambda job: finished(job, config_sha256="x", data_sha256="x"), r"with the same data and config can be judged"),
        (lambda job: finished(job, command="tuning"), r"which is tuning \(FINISHED\)"),
        (lambda job: finished(job, status="KILLED"), r"which is production \(KILLED\): only one that ended"),
    ],
)
def test_a_run_that_cannot_be_judged_is_refused(module_store: Path, make: Callable[[Job], Run], said: str) -> None:
    job = job_of("refused")
    with pytest.raises(ValueError, match=said):
        production_run_of(job, make(job).run_id)
    with pytest.raises(ValueError, match="run_id is 'none', and this MLflow store holds no such run"):
        production_run_of(job, "none")


def test_a_run_without_a_holdout_sharpe_has_no_headline() -> None:
    job = job_of("headline")
    run = finished(job)
    with pytest.raises(ValueError, match="has no holdout Sharpe beyond drift to judge: raise holdout_fraction"):
        neutral_sharpe(run)
    run.metrics({"oos_sharpe_neutral": 1.25})
    assert neutral_sharpe(run) == 1.25
