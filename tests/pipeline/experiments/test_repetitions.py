"""Repetitions of a job: in order whatever order they finish in, delivered once, and never computed twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.config.schema import Config
from pipeline.config.sections import PlaceboConfig
from pipeline.data.dataset import Dataset
from pipeline.experiments.placebo import p_value_of
from pipeline.experiments.repetitions import KEPT, Repetitions, judged_run, null_targets
from pipeline.job import Job
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import Run, Silent, parent_run
from tests.conftest import CPU, small_panel
from tests.pieces import Drawn, draw
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.volatility import Timing


@pytest.fixture
def judged(module_store: Path) -> Run:
    """A run to be judged, in a store in the current folder."""
    shutil.rmtree("checkpoints", ignore_errors=True)
    with parent_run("production", None) as run:
        return run


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.experiments.repetitions.n_workers", lambda device: 2)


def job_of(source: str, config: Config | None = None) -> Job:
    """`source` is all its key depends on, so that tests do not find each other's repetitions."""
    data = Dataset(panel=small_panel(40), sha256=source, source=source, n_rows=80)
    return Job(config or Config(), data, Silent(), Quiet(), CPU)


def series(folder: Path, job: Job, judged: Run, count: int, **settings: Any) -> Repetitions[Drawn]:
    """Every repetition that is delivered leaves a file too."""

    class Heard(Repetitions[Drawn]):
        def _deliver(self, result: Drawn) -> None:
            super()._deliver(result)
            (folder / f"delivered-{result.repetition}").touch()

    return Heard("drawn", Drawn, partial(draw, folder), job, judged, count, **settings)


def computed(folder: Path) -> list[int]:
    """Repetitions in the order in which they were computed."""
    files = sorted(folder.glob("computed-*"), key=lambda path: int(path.name.split("-")[2]))
    return [int(path.name.split("-")[1]) for path in files]


def delivered(judged: Run) -> list[MlflowRun]:
    experiment = judged.client.get_run(judged.run_id).info.experiment_id
    below = f"tags.`mlflow.parentRunId` = '{judged.run_id}'"
    return list(MlflowClient().search_runs([experiment], below, order_by=["attributes.start_time"]))


def test_results_come_in_order_though_they_finish_in_another(tmp_path: Path, judged: Run) -> None:
    repetitions = series(tmp_path, job_of("order"), judged, 4)
    assert [one.repetition for one in repetitions] == [1, 2, 3, 4]
    assert computed(tmp_path).index(2) < computed(tmp_path).index(1)
    assert repetitions.n_computed == 4
    runs = delivered(judged)
    assert {run.info.run_name for run in runs} == {"drawn 1", "drawn 2", "drawn 3", "drawn 4"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["phase"] for run in runs} == {"drawn repetition"}
    assert sorted(run.data.metrics["oos_sharpe"] for run in runs) == [0.1, 0.2, 0.3, 0.4]
    assert not list(KEPT.glob("*"))


def test_a_second_call_computes_nothing_and_delivers_nothing(tmp_path: Path, judged: Run) -> None:
    first = list(series(tmp_path, job_of("again"), judged, 2))
    again = series(tmp_path, job_of("again"), judged, 2)
    assert list(again) == first
    assert again.n_computed == 0
    assert sorted(computed(tmp_path)) == [1, 2]
    assert len(delivered(judged)) == 2
    more = series(tmp_path, job_of("again"), judged, 4)  # a longer series goes on from a shorter one
    assert [one.repetition for one in more] == [1, 2, 3, 4]
    assert more.n_computed == 2
    fresh = series(tmp_path, replace(job_of("again"), fresh=True), judged, 2)
    assert list(fresh) == first
    assert fresh.n_computed == 2


def test_what_a_repetition_depends_on_is_in_its_key(tmp_path: Path, judged: Run) -> None:
    def keys(config: Config, source: str = "key", **settings: Any) -> dict[int, str]:
        return series(tmp_path, job_of(source, config), judged, 2, **settings).keys

    own = keys(Config())
    assert own[1] != own[2]
    assert keys(Config(placebo=PlaceboConfig(repetitions=5, exceedances=0))) == own
    for other in (keys(Config(seed=8)), keys(Config(), source="other"), keys(Config(), plan=3)):
        assert not set(other.values()) & set(own.values())


def test_what_was_finished_but_not_delivered_is_found_on_the_disk(
    tmp_path: Path, judged: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill, or where the store could not be reached."""
    cut = series(tmp_path, job_of("cut"), judged, 2)
    original = cut._deliver

    def fail(result: Drawn) -> None:
        (tmp_path / f"delivered-{result.repetition}").touch()
        raise ConnectionError("no store")

    monkeypatch.setattr(cut, "_deliver", fail)
    with pytest.raises(ConnectionError):
        list(cut)
    assert 2 in computed(tmp_path)
    assert (KEPT / cut.keys[2]).exists()
    assert delivered(judged) == []
    monkeypatch.setattr(cut, "_deliver", original)
    again = series(tmp_path, job_of("cut"), judged, 2)
    assert [one.repetition for one in again] == [1, 2]
    assert computed(tmp_path).count(2) == 1
    assert sorted(run.info.run_name for run in delivered(judged)) == ["drawn 1", "drawn 2"]
    assert not list(KEPT.glob("*"))


def test_stopping_early_goes_by_the_number_of_a_repetition_not_by_when_it_is_done(tmp_path: Path, judged: Run) -> None:
    """Repetitions 1 to 8 give 0.1 to 0.8, each pair in the wrong order: against 0.25 the second exceedance is the
    fourth draw, so that p = 2 / 4 whatever came first."""
    plan = PlaceboConfig(repetitions=8, exceedances=2)
    used: list[int] = []

    def exceeds(results: Any) -> Any:
        for one in results:
            used.append(one.repetition)
            yield one.oos_sharpe >= 0.25

    with closing(iter(series(tmp_path, job_of("early"), judged, 8))) as results:
        assert p_value_of(exceeds(results), plan) == 2 / 4
    assert used == [1, 2, 3, 4]
    assert len(computed(tmp_path)) < 8  # what was not needed was not awaited
    for h, p_value in ((1, 1 / 3), (3, 3 / 5), (0, (6 + 1) / (8 + 1)), (7, (6 + 1) / (8 + 1))):
        draws = iter([0.1 * i >= 0.25 for i in range(1, 9)])
        assert p_value_of(draws, PlaceboConfig(repetitions=8, exceedances=h)) == pytest.approx(p_value)


def finished(job: Job, *, status: str = "FINISHED", **tags: str) -> Run:
    own = {"command": "production", "data_sha256": job.data.sha256, "config_sha256": job.config.sha256}
    with parent_run("production", None) as run:
        run.tags(own | tags)
    run.client.set_terminated(run.run_id, status)
    return run


def test_the_newest_finished_production_run_on_the_same_table_and_configuration_is_judged(module_store: Path) -> None:
    job = job_of("judged")
    assert judged_run(job, "") is None
    finished(job)
    newest = finished(job)
    for status, tags in (
        ("FAILED", {}),
        ("FINISHED", {"command": "placebo"}),
        ("FINISHED", {"data_sha256": "other"}),
        ("FINISHED", {"config_sha256": "other"}),
    ):
        finished(job, status=status, **tags)
    found = judged_run(job, "")
    assert found is not None and found.run_id == newest.run_id
    judging = judged_run(job_of("judged", Config(placebo=PlaceboConfig(repetitions=3))), "")
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
        judged_run(job, make(job).run_id)
    with pytest.raises(ValueError, match="run_id is 'none', and this MLflow store holds no such run"):
        judged_run(job, "none")


def test_a_fold_without_targets_in_the_placebo_is_refused_before_anything_runs() -> None:
    """An instrument that begins late: its early folds hold no bar on which all trade."""
    panel = small_panel(300, 3)
    config = Config(
        walk_forward=WalkForwardConfig(train_window=80, validation_window=14),
        model=ModelConfig(d_hidden=8, n_heads=2, seq_len=6),
        periods_per_year=Timing().periods_per_year,
    )
    job = replace(job_of("late", config), data=Dataset(panel=panel, sha256="late", source="late", n_rows=900))
    null_targets(job)
    returns = panel.returns.copy()
    returns[:60, 1] = np.nan
    late = replace(job.data, panel=replace(panel, returns=returns))
    with pytest.raises(ValueError, match=r"of fold 0 hold 0 targets, the least is 10: .* \(S1 alone is missing in 60"):
        null_targets(replace(job, data=late))
