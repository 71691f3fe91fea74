"""Repetitions of a job: in order whatever order they finish in, delivered once, and never computed twice."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.config.schema import Config
from pipeline.config.sections import ExplorationConfig, PlaceboConfig, ProductionConfig, TuningConfig
from pipeline.config.space import Range
from pipeline.experiments.placebo import p_value_of
from pipeline.experiments.repetitions import Repetitions
from pipeline.job import Job
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import Run, parent_run
from tests.conftest import CPU, small_panel
from tests.pieces import Drawn, draw
from tests.pipeline.jobs import dataset_of
from tft.folds import WalkForwardConfig
from tft.model import ModelConfig
from tft.train import TrainingConfig

SMALLEST = Config(
    holdout_fraction=0.2,
    purge_gap=1,
    walk_forward=WalkForwardConfig(train_window=24, validation_window=4),
    exploration=ExplorationConfig(step_size=20, epochs=1, max_folds=1, n_probes=0),
    tuning=TuningConfig(n_trials=1, folds=1, epochs=1, space={"lr": Range(low=0.001, high=0.1)}),
    production=ProductionConfig(step_size=30, epochs=1, max_folds=1),
    model=ModelConfig(d_hidden=2, n_heads=1, seq_len=2, n_context=0),
    training=TrainingConfig(batch_size=16),
)
"""About the smallest whole job, on 80 bars."""


@pytest.fixture
def judged(module_store: Path) -> Run:
    """A run to be judged, in a store in the current folder."""
    shutil.rmtree("checkpoints", ignore_errors=True)
    with parent_run("production", None) as run:
        return run


@pytest.fixture(autouse=True)
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.experiments.repetitions.n_workers", lambda device: 2)


def job_of(source: str, config: Config = SMALLEST) -> Job:
    """`source` stands for the table in keys, so that tests do not find each other's repetitions."""
    return Job(config, replace(dataset_of(small_panel(80)), sha256=source, source=source), CPU)


def series(folder: Path, job: Job, judged: Run, count: int, **settings: Any) -> Repetitions[Drawn]:
    """Every repetition that is delivered leaves a file too."""

    class Heard(Repetitions[Drawn]):
        def _deliver(self, result: Drawn) -> None:
            super()._deliver(result)
            (folder / f"delivered-{result.repetition}").touch()

    return Heard("drawn", Drawn, partial(draw, folder), job, judged, Quiet(), count, **settings)


def computed(folder: Path) -> list[int]:
    """Repetitions in the order in which they were computed."""
    files = sorted(folder.glob("computed-*"), key=lambda path: int(path.name.split("-")[2]))
    return [int(path.name.split("-")[1]) for path in files]


def nothing_is_kept(repetitions: Repetitions[Drawn]) -> bool:
    """Neither results nor folds of theirs wait on the disk."""
    kept = Kept()
    return not any(kept.result(key) or kept.folds(key).root.exists() for key in repetitions.keys.values())


def delivered(judged: Run) -> list[MlflowRun]:
    experiment = judged.client.get_run(judged.run_id).info.experiment_id
    below = f"tags.`mlflow.parentRunId` = '{judged.run_id}'"
    return list(MlflowClient().search_runs([experiment], below, order_by=["attributes.start_time"]))


@pytest.mark.slow
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
    assert nothing_is_kept(repetitions)


@pytest.mark.slow
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

    own = keys(SMALLEST)
    assert own[1] != own[2]
    assert keys(replace(SMALLEST, placebo=PlaceboConfig(repetitions=5, exceedances=0))) == own
    for other in (keys(replace(SMALLEST, seed=8)), keys(SMALLEST, source="other"), keys(SMALLEST, plan=3)):
        assert not set(other.values()) & set(own.values())


@pytest.mark.slow
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
    assert Kept().result(cut.keys[2]) is not None
    Kept().folds(cut.keys[2]).put("fold", {"fit": b""})  # as if it was killed before it removed them
    assert delivered(judged) == []
    monkeypatch.setattr(cut, "_deliver", original)
    again = series(tmp_path, job_of("cut"), judged, 2)
    assert [one.repetition for one in again] == [1, 2]
    assert computed(tmp_path).count(2) == 1
    assert sorted(run.info.run_name for run in delivered(judged)) == ["drawn 1", "drawn 2"]
    assert nothing_is_kept(again)


@pytest.mark.slow
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
