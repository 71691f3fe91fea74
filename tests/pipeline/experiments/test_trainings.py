"""The trainings of a comparison: what varies in them, what they cost, and that none is made or forgotten twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import flow
from pipeline.config.sections import ProductionConfig
from pipeline.experiments.comparison_report import trainings_view
from pipeline.experiments.purge_arms import purge_arms
from pipeline.experiments.trained import Training, arm_and_config
from pipeline.experiments.trainings import Kind, Trainings
from pipeline.job import Job
from pipeline.statistics.paired import Compared, on_the_same_bars
from pipeline.tracking import ledger
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import Killed, Run, parent_run
from pipeline.tracking.sink import Silent
from tests.conftest import CPU, small_panel
from tests.pipeline.experiments.test_repetitions import SMALLEST
from tests.pipeline.jobs import dataset_of

CONFIG = replace(SMALLEST, production=ProductionConfig(step_size=18, epochs=1))
ARMS = purge_arms(CONFIG, (0, 2))


class Heard(Quiet):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def step(self, detail: str, n: int = 1) -> None:
        self.lines.append(detail)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, module_store: Path) -> list[int]:
    """Trainings one after the other and not in processes of their own; returns how many may be made until a kill."""
    shutil.rmtree("checkpoints", ignore_errors=True)
    left = [100]

    def one_by_one(
        work: Callable[[Any, Any], Any], common: Any, items: Sequence[Any], *, n_workers: int, on_done: Any
    ) -> Iterator[Any]:
        for item in items:
            if not left[0]:
                raise Killed("signal 15")
            left[0] -= 1
            result = work(common, item)
            on_done(result)
            yield result

    monkeypatch.setattr("pipeline.experiments.repetitions.in_processes", one_by_one)
    return left


def job_of(source: str) -> Job:
    """`source` stands for the table, so that tests do not find each other's trainings and looks."""
    panel = replace(small_panel(80), symbols=(f"{source}-A", f"{source}-B"))
    return Job(CONFIG, replace(dataset_of(panel), sha256=source, source=source), CPU)


def trainings(
    job: Job, own: Run, n_seeds: int, *, kind: Kind = "fixed-selection", segment: Compared = "holdout", **more: Any
) -> Trainings:
    chosen = None
    if kind == "fixed-selection":
        chosen = flow.choose(replace(job, config=ARMS[0]), Silent(Kept()), Quiet()).choice
    return Trainings(kind, ARMS, segment, job, own, more.get("reporter", Quiet()), n_seeds, chosen)


def looks_at(job: Job) -> list[ledger.Look]:
    panel = job.data.panel
    return ledger.overlapping(str(panel.times[0]), str(panel.times[-1]), panel.symbols)


def test_the_arms_take_turns_and_no_two_trainings_of_an_arm_share_a_network() -> None:
    several = tuple(replace(arm, production=replace(arm.production, seeds=3)) for arm in ARMS)
    found = [arm_and_config((several[0], several[1]), number) for number in range(1, 7)]
    assert [(arm, config.purge_gap, config.seed) for arm, config in found] == [
        (0, 0, 7),
        (1, 2, 7),
        (0, 0, 10),
        (1, 2, 10),
        (0, 0, 13),
        (1, 2, 13),
    ]


@pytest.mark.slow
def test_what_was_killed_goes_on_more_seeds_add_to_it_and_every_training_is_a_look(in_this_process: list[int]) -> None:
    job = job_of("resumed")
    in_this_process[0] = 1
    with pytest.raises(Killed), parent_run("compare", None) as killed:
        list(trainings(job, killed, 1))
    assert len(looks_at(job)) == 1
    in_this_process[0] = 100
    with parent_run("compare", None) as own:
        second = trainings(job, own, 1)
        assert [one.repetition for one in second] == [1, 2] and second.n_computed == 1
        reporter = Heard()
        more = trainings(job, own, 2, reporter=reporter)
        more.announce()
        done = list(more)
    assert more.n_computed == 2 and 100 - in_this_process[0] == 3
    (line,) = (line for line in reporter.lines if "trainings" in line)
    assert line.startswith("fixed-selection: 4 trainings (2 seeds for each of two arms) of one selection; 2 are")
    assert "about 1 min for 2, at " in line
    assert [(one.arm, one.purge_gap, one.seed) for one in done] == [(0, 0, 7), (1, 2, 7), (0, 0, 8), (1, 2, 8)]
    # One selection for all; other networks; the same dates.
    assert len({one.n_features for one in done}) == 1
    assert len({one.earned.net for one in done}) == 4
    arms = on_the_same_bars([one.earned for one in done[::2]], [one.earned for one in done[1::2]], "holdout", 252.0)
    assert len(arms.times) == 80 - 64 - CONFIG.timing.label_bars
    # Four looks, each once, though three commands saw some of them.
    looks = looks_at(job)
    assert len(looks) == 4 and {look.kind for look in looks} == {"comparison"}
    assert len({look.config_sha256 for look in looks}) == 4
    # Finished trainings are runs below the comparison that made them.
    below = f"tags.`mlflow.parentRunId` = '{own.run_id}'"
    experiment = own.client.get_run(own.run_id).info.experiment_id
    runs = own.client.search_runs([experiment], below)
    names = {run.info.run_name for run in runs}
    assert all("oos_sharpe" in run.data.metrics and "development_sharpe" not in run.data.metrics for run in runs)
    assert names == {"purge gap 2 seed 7", "purge gap 0 seed 8", "purge gap 2 seed 8"}


@pytest.mark.slow
def test_a_whole_job_chooses_for_itself_and_development_is_no_look() -> None:
    job, reporter = job_of("whole"), Heard()
    with parent_run("compare", None) as own:
        series = trainings(job, own, 1, kind="whole-job", segment="development", reporter=reporter)
        series.announce()
        done: list[Training] = list(series)
        fixed = trainings(job, own, 1, segment="development")
    assert [one.purge_gap for one in done] == [0, 2]
    assert reporter.lines[0] == (
        "whole-job: 2 whole jobs (1 seed for each of two arms), each with its own exploration and tuning; how long "
        "that takes is said once the first is done"
    )
    assert any("about 1 min for 1, at" in line for line in reporter.lines[1:])
    assert looks_at(job) == []
    # Development bars took part in the choices: nothing that is said or logged of them is called out-of-sample.
    told = [line for line in reporter.lines if "Sharpe" in line]
    assert len(told) == 2 and all(
        re.search(r": Sharpe -?\d+\.\d\d on development bars in \d+ s$", line) for line in told
    )
    view = json.loads(trainings_view(list(series.runs.values()), "development"))
    charted = [chart["metricKey"] for chart in view["compareRunCharts"]]
    assert charted == ["development_sharpe", "development_sharpe_neutral"]
    assert not any("oos" in column for column in view["selectedColumns"])
    for one in done:
        logged = own.client.get_run(series.runs[one.repetition]).data.metrics
        assert logged["development_sharpe"] == one.sharpe
        assert logged.get("development_sharpe_neutral") == one.sharpe_neutral
        assert not any("oos" in name for name in logged)
    assert not set(fixed.keys.values()) & set(series.keys.values())
    other_segment = trainings(job, own, 1, kind="whole-job", segment="holdout")
    assert not set(other_segment.keys.values()) & set(series.keys.values())
