"""The placebo of a whole run: from the command line, reused, killed and gone on with."""

from __future__ import annotations

import html
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Run as MlflowRun

from pipeline.config.reading import from_json, load_config
from pipeline.experiments.placebo import Placebo
from pipeline.experiments.placebo_targets import PlaceboRepetition, repetition
from pipeline.job import open_job
from pipeline.registry.evidence import Evidence
from pipeline.reporting import luck_figures
from pipeline.tracking.progress import Quiet
from tests.conftest import MICRO
from tests.pipeline.jobs import out_of_sample
from tests.workplace import WholeJob, artifacts, copy_of, run_named

REPETITIONS = 3


def of(numbers: tuple[float, ...], *, real: float, p_value: float, early: bool = False) -> Placebo:
    return Placebo(
        p_value=p_value,
        oos_sharpe_neutral=real,
        method="shift",
        repetitions=tuple(
            PlaceboRepetition(i, 40 + i, x - 0.3, x, x + 0.1, 2.0 + x, 1.0, 7.0, 3.0)
            for i, x in enumerate(numbers, start=1)
        ),
        stopped_early=early,
        n_computed=len(numbers),
        long_only_sharpe=0.3,
        tuning_sharpe=2.5,
    )


def test_what_came_of_it_is_one_sentence() -> None:
    assert of((-1.0, 0.5, 2.0), real=0.5, p_value=0.75).sentence == (
        "Sharpe 0.50 beyond drift is not distinguishable from luck: 2 of 3 repetitions on targets without signal did "
        "as well (p = 0.750; shift), their mean 0.50 and 95th percentile 1.85; the best trials of the same "
        "repetitions show a tuning Sharpe of 2.50; long only earned 0.30, all of it drift."
    )
    assert "is distinguishable from luck: 0 of 2" in of((-1.0, 0.5), real=3.0, p_value=0.05).sentence
    assert "(p = 0.500, where it stopped early; shift)" in of((1.0, 2.0), real=0.5, p_value=0.5, early=True).sentence


def test_the_figure_shows_the_null_and_where_the_real_run_lies_in_it() -> None:
    null = np.array([-1.0, 0.0, 0.5, 2.0])
    figure = luck_figures.placebo(null, null + 2.0, real=1.25, real_tuning=4.0, long_only=0.3, p_value=0.4)
    above, below = figure.axes
    assert sum(patch.get_height() for patch in above.patches) == len(null)  # type: ignore[attr-defined]
    assert sum(patch.get_height() for patch in below.patches) == len(null)  # type: ignore[attr-defined]
    upright = {line.get_label(): line.get_xdata()[0] for line in above.lines if len(line.get_xdata()) == 2}
    assert upright == {
        "their mean 0.38": null.mean(),
        "long only, drift alone 0.30": 0.3,
        "real run 1.25 (p = 0.400)": 1.25,
    }


def runs_of(work: WholeJob, command: str) -> list[MlflowRun]:
    (experiment,) = (e for e in work.client.search_experiments() if e.name == "tft-production")
    return list(work.client.search_runs([experiment.experiment_id], f"tags.command = '{command}'"))


def table(run: MlflowRun) -> list[dict[str, Any]]:
    found = json.loads((artifacts(run) / "placebo.json").read_text())
    return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def test_without_a_production_run_it_makes_one_and_says_so(placebo_job: WholeJob) -> None:
    work, messages = placebo_job, placebo_job.errors
    assert "placebo: no finished production run on this table and configuration: running one first" in messages
    (production,) = runs_of(work, "production")
    assert production.info.status == "FINISHED"
    assert set(work.children(production.info.run_id)) >= {"prefilter", "exploration", "pruning", "tuning", "production"}


def test_the_result_is_on_both_runs(placebo_job: WholeJob) -> None:
    work, output = placebo_job, placebo_job.output
    (production,), (own,) = runs_of(work, "production"), runs_of(work, "placebo")
    assert run_named(output) == own.info.run_id
    assert own.data.tags["mlflow.parentRunId"] == production.info.run_id
    rows = table(production)
    assert rows == table(own)
    assert list(rows[0])[:4] == ["repetition", "shift", "oos_sharpe", "oos_sharpe_neutral"]
    assert [row["repetition"] for row in rows] == [1, 2, 3]
    null = np.array([row["oos_sharpe_neutral"] for row in rows])
    real = production.data.metrics["oos_sharpe_neutral"]
    for run in (production, own):
        metrics = run.data.metrics
        assert metrics["placebo_p_value"] == (int((null >= real).sum()) + 1) / (REPETITIONS + 1)
        assert metrics["placebo_repetitions"] == REPETITIONS
        assert metrics["placebo_null_mean"] == pytest.approx(null.mean())
        assert metrics["placebo_null_sd"] == pytest.approx(null.std(ddof=1))
        assert metrics["placebo_null_p95"] == pytest.approx(np.quantile(null, 0.95))
        assert (artifacts(run) / "placebo.png").stat().st_size > 10_000
        assert run.data.tags["placebo_method"] == "shift"
    assert production.data.tags["placebo"] in output.replace("\n", " ")


def test_the_verdict_is_written_anew_everywhere_and_nothing_is_promoted(placebo_job: WholeJob) -> None:
    """The larger of both p-values is the verdict's: on the runs, on the page, on the card, and in the result."""
    work = placebo_job
    (production,) = runs_of(work, "production")
    verdict, metrics = production.data.tags["verdict"], production.data.metrics
    placebo = metrics["placebo_p_value"]
    assert metrics["oos_verdict_p_value"] == pytest.approx(max(placebo, metrics["oos_p_value_deflated"]))
    if placebo > metrics["oos_p_value_deflated"]:
        assert f"by {REPETITIONS} repetitions of the whole job without signal" in verdict
    phase = work.child(production.info.run_id, "production")
    assert phase.data.tags["verdict"] == verdict
    stored = json.loads((artifacts(phase) / "result.json").read_text())["inference"]
    assert stored["verdict"] == verdict and stored["placebo"] == {
        "p_value": placebo,
        "n_repetitions": REPETITIONS,
        "benchmark_sha256": "",
    }
    for run in (production, phase):
        page = html.unescape((artifacts(run) / "report.html").read_text()).replace("−", "-")
        assert page.count(verdict) == 1
    (version,) = work.client.search_model_versions("name = 'tft-micro'")
    assert verdict in version.description
    kept = from_json(Evidence, version.tags["evidence"])
    assert kept.verdict == verdict and kept.finds_skill == (metrics["oos_verdict_p_value"] < 0.05)
    card = (version.description or "").splitlines()
    assert len([line for line in card if "Sharpe: earned" in line]) == 1


def test_every_repetition_is_a_run_below_the_production_run_and_nothing_else(
    placebo_job: WholeJob,
) -> None:
    """No model is registered but the production run's, and nothing is entered in the ledger of looks."""
    work = placebo_job
    (production,) = runs_of(work, "production")
    repetitions = work.children(production.info.run_id)["placebo repetition"]
    assert sorted(run.info.run_name for run in repetitions) == ["placebo 1", "placebo 2", "placebo 3"]
    by_name = {row["repetition"]: row for row in table(production)}
    for run in repetitions:
        own = json.loads((artifacts(run) / "result.json").read_text())
        assert own == by_name[own["repetition"]]
        assert run.data.metrics["oos_sharpe"] == own["oos_sharpe"]
    versions = work.client.search_model_versions("name = 'tft-micro'")
    assert len(versions) == 1
    looks = [e for e in work.client.search_experiments() if e.name == "tft-holdout-looks"]
    for experiment in looks:
        for look in work.client.search_runs([experiment.experiment_id]):
            assert look.data.tags["run"] == production.info.run_id


def test_a_longer_call_goes_on_from_a_shorter_one_and_from_one_that_was_killed(
    placebo_job: WholeJob, tmp_path: Path
) -> None:
    """The first three were finished before; killed once another is, the next call computes only the rest."""
    work = copy_of(placebo_job, tmp_path / "job")
    (production,) = runs_of(work, "production")
    before = {run.info.run_name: run.info.run_id for run in repetitions_of(work, production)}
    command = ["placebo", "--config", str(MICRO), "--repetitions", "6", "--set", "placebo.exceedances=0"]
    started = work.start(*command)
    deadline = time.monotonic() + 120.0
    while len(repetitions_of(work, production)) <= REPETITIONS:
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.1)
    os.kill(started.pid, signal.SIGKILL)
    _, messages = started.communicate()
    assert f"placebo: {REPETITIONS} of 6 repetitions are finished already, reusing them" in messages
    survived = {run.info.run_name: run.info.run_id for run in repetitions_of(work, production)}
    assert survived.items() > before.items()

    done = work.run(*command)
    reused = next(line for line in done.stderr.splitlines() if "reusing them" in line)
    assert int(reused.split()[1]) >= len(survived)
    finished = repetitions_of(work, production)
    assert sorted(run.info.run_name for run in finished) == [f"placebo {i}" for i in range(1, 7)]
    assert {run.info.run_name: run.info.run_id for run in finished}.items() > survived.items()
    (newest,) = runs_of(work, "production")  # the same run was judged every time
    assert [row["repetition"] for row in table(newest)] == list(range(1, 7))


def repetitions_of(work: WholeJob, production: MlflowRun) -> list[MlflowRun]:
    """Those that are delivered."""
    found = work.children(production.info.run_id).get("placebo repetition", [])
    return [run for run in found if run.info.status == "FINISHED"]


def test_with_too_few_shifts_rows_are_resampled_and_the_result_says_so(
    placebo_job: WholeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = placebo_job
    monkeypatch.chdir(tmp_path)
    settings = ["data.feature_lookback_bars=252", f"data.source={work.folder / 'data/micro.parquet'}"]
    job = open_job(load_config(MICRO, settings), Quiet().say)

    def once() -> PlaceboRepetition:
        without_signal, measure = repetition(job, 1)
        return measure(out_of_sample(replace(without_signal, fresh=True)), 2.5)

    one = once()
    assert one.shift is None and one.seconds == 2.5
    assert np.isfinite([one.oos_sharpe, one.oos_sharpe_gross, one.tuning_sharpe]).all()
    assert once() == one


@pytest.mark.slow
def test_a_signal_planted_into_named_columns(job_copy: WholeJob) -> None:
    work = job_copy
    columns = "fut_basis_z21,inst_dii_net"
    done = work.run(
        *("planted", "--config", str(MICRO), "--repetitions", "2", "--oracle-sharpe", "6", "--columns", columns)
    )
    (production,), (own,) = runs_of(work, "production"), runs_of(work, "planted")
    assert "A signal worth an oracle Sharpe of 6 was found" in done.stdout
    for run in (production, own):
        found = json.loads((artifacts(run) / "planted.json").read_text())
        rows = [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]
        assert [row["columns"] for row in rows] == ["fut_basis_z21, inst_dii_net"] * 2
        metrics = run.data.metrics
        assert metrics["planted_power"] == np.mean([row["p_value"] < 0.05 for row in rows])
        assert metrics["planted_columns_kept"] == pytest.approx(np.mean([row["planted_kept"] for row in rows]))
        assert metrics["planted_others_kept"] == pytest.approx(np.mean([row["others_kept"] for row in rows]))
        assert (artifacts(run) / "planted.png").exists()
    assert len(work.children(production.info.run_id)["planted repetition"]) == 2
