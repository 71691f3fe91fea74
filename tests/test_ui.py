"""What a person sees of a finished job in the MLflow UI: what tags, descriptions and links say, and with a browser at
hand the pages themselves."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.parse import parse_qs

import polars as pl
import pytest

from pipeline.job import PHASES
from pipeline.reporting.produced import JOB_METRICS
from pipeline.tracking.runs import Run
from tests.workplace import WholeJob, artifacts, copy_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def note(job: WholeJob) -> str:
    return job.parent.data.tags["mlflow.note.content"]


def test_runs_are_named_by_what_they_are(whole_job: WholeJob) -> None:
    """The job by configuration, data and time, its phases by number, its trials by number and value."""
    assert re.fullmatch(r"micro · 3 instruments · purge 2 · \d{4}-\d\d-\d\d \d\d:\d\d", whole_job.parent.info.run_name)
    below = whole_job.children(whole_job.run_id)
    names = {phase: [run.info.run_name for run in runs] for phase, runs in below.items()}
    assert names == {phase: [f"{number} {phase}"] for number, phase in enumerate(PHASES, start=1)}
    trials = whole_job.children(below["tuning"][0].info.run_id)["trial"]
    for trial in trials:
        number, said = re.fullmatch(r"trial (\d) · (.+)", trial.info.run_name).groups()  # type: ignore[union-attr]
        state, value = trial.data.tags["trial_state"], trial.data.metrics.get("oos_sharpe_development")
        assert said == (f"Sharpe {value:.2f}" if state == "COMPLETE" else state.lower()) and number in "012"


def test_the_description_has_the_verdict_and_the_headline_and_leads_to_everything(whole_job: WholeJob) -> None:
    """Each link names a run, an artifact or a version that is there."""
    said, client = note(whole_job), whole_job.client
    assert said.startswith(f"**{whole_job.parent.data.tags['verdict']}**")
    assert f"| Sharpe, annual, net | {whole_job.parent.data.metrics['oos_sharpe']:.2f} |" in said
    for experiment, run_id in re.findall(r"#/experiments/(\d+)/runs/([0-9a-f]{32})", said):
        assert client.get_run(run_id).info.experiment_id == experiment
    linked = [run_id for _, run_id in re.findall(r"\[(\d \w+)\]\(#/experiments/\d+/runs/([0-9a-f]{32})\)", said)]
    assert linked == [whole_job.child(whole_job.run_id, phase).info.run_id for phase in PHASES]
    (report,) = re.findall(rf"runs/{whole_job.run_id}/artifacts/([\w.]+)\)", said)
    assert (artifacts(whole_job.parent) / report).exists()
    (name, number) = re.search(r"#/models/([\w-]+)/versions/(\d+)", said).groups()  # type: ignore[union-attr]
    version = client.get_model_version(name, number)
    for text in (said, version.description or ""):
        pictures = [parse_qs(query) for query in re.findall(r"!\[[^]]*\]\(get-artifact\?([^)]+)\)", text)]
        assert len(pictures) == 2
        for asked in pictures:
            run = client.get_run(asked["run_uuid"][0])
            assert (artifacts(run) / asked["path"][0]).read_bytes().startswith(b"\x89PNG")


def test_the_job_shows_its_headline_and_the_phase_everything(whole_job: WholeJob) -> None:
    """First the Sharpe: it is what the UI compares two runs by. Nothing of the parent is missing below."""
    parent = list(whole_job.parent.data.metrics)
    assert parent[0] == "oos_sharpe"
    single = [name for name in parent if not name.startswith(("fold_", "n_findings_"))]
    assert set(single) <= set(JOB_METRICS)
    below = whole_job.child(whole_job.run_id, "production").data.metrics
    assert {name: below[name] for name in parent} == whole_job.parent.data.metrics
    assert len(below) > 2 * len(parent)
    epochs = whole_job.client.get_metric_history(
        whole_job.child(whole_job.run_id, "production").info.run_id, "epochs/train_loss"
    )
    assert [metric.step for metric in epochs] == [0, 1]


def test_model_runs_and_table_are_tied_together(whole_job: WholeJob) -> None:
    """The model is an output of the job and of its phase, with the headline as metrics, on the table as it was read."""
    client = whole_job.client
    (model,) = client.search_logged_models(["1"])
    model_id = model.model_id
    for run in (whole_job.parent, whole_job.child(whole_job.run_id, "production")):
        assert [model.model_id for model in run.outputs.model_outputs] == [model_id]
    shown = {metric.key: metric for metric in model.metrics}
    assert shown["oos_sharpe"].value == whole_job.parent.data.metrics["oos_sharpe"]
    (given,) = whole_job.parent.inputs.dataset_inputs
    assert (shown["oos_sharpe"].dataset_name, shown["oos_sharpe"].dataset_digest) == (
        given.dataset.name,
        given.dataset.digest,
    )
    columns = json.loads(given.dataset.schema)["mlflow_colspec"]
    assert {"date": "datetime", "symbol": "string"}.items() <= {one["name"]: one["type"] for one in columns}.items()
    table = pl.read_parquet(whole_job.folder / "data/micro.parquet")
    assert [one["name"] for one in columns] == table.columns
    assert json.loads(given.dataset.profile) == {"num_rows": table.height, "num_elements": table.height * table.width}
    assert given.dataset.source_type == "local"


def test_a_description_that_a_person_has_changed_stays(job_copy: WholeJob, mlflow_uri: Callable[[str], None]) -> None:
    mlflow_uri(job_copy.store)
    run = Run(job_copy.run_id)
    run.describe("One.")
    assert note(job_copy) == "One."  # ours was there
    job_copy.client.set_tag(job_copy.run_id, "mlflow.note.content", "Mine.")
    run.describe("Two.")
    assert note(job_copy) == "Mine."


def test_a_placebo_rewrites_the_description(placebo_job: WholeJob) -> None:
    (judged,) = (
        run
        for run in placebo_job.client.search_runs(["1"], "tags.command = 'production'")
        if "placebo" in run.data.tags
    )
    assert judged.data.tags["mlflow.note.content"].startswith(f"**{judged.data.tags['verdict']}**")
    assert "repetitions of the whole job" in judged.data.tags["verdict"]


# The pages themselves


@pytest.fixture(scope="module")
def served(whole_job: WholeJob, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, WholeJob]]:
    """The UI on a copy of the finished job, and that copy."""
    if not CHROMIUM:
        pytest.skip("no Chromium is installed")
    job = copy_of(whole_job, tmp_path_factory.mktemp("served") / "job")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = job.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", job.store, "--workers", "1"]
    with subprocess.Popen(
        [*command, "--port", str(port)],
        cwd=job.folder,
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except (URLError, ConnectionError):
                    time.sleep(0.5)
            yield address, job
        finally:
            server.terminate()


def seen(address: str, folder: Path) -> str:
    """What a page holds once its scripts have run, as text."""
    assert CHROMIUM
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=30000", "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *options, f"--user-data-dir={folder}", "--window-size=1440,900", address],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", done.stdout))


@pytest.mark.slow
def test_the_page_of_a_job_shows_its_verdict(served: tuple[str, WholeJob], tmp_path: Path) -> None:
    address, job = served
    page = seen(f"{address}/#/experiments/1/runs/{job.run_id}", tmp_path)
    assert job.parent.info.run_name in page and "Holdout Sharpe: earned" in page


@pytest.mark.slow
def test_two_runs_are_compared_by_their_sharpe(served: tuple[str, WholeJob], tmp_path: Path) -> None:
    address, job = served
    runs = json.dumps([job.run_id, job.child(job.run_id, "production").info.run_id]).replace('"', "%22")
    page = seen(f"{address}/#/compare-runs?runs={runs.replace(' ', '')}&experiments=[%221%22]", tmp_path)
    assert re.search(r"Metrics: (\w+ )?oos_sharpe ", page)
