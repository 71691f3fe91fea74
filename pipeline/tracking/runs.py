"""MLflow: runs, metrics in batches, tables, figures, and the end of a run whatever happens."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import polars as pl
from mlflow.data.polars_dataset import from_polars
from mlflow.entities import Dataset, DatasetInput, Experiment, InputTag, LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from pipeline.tracking.experiment import NOTE, WORKFLOW, set_up
from pipeline.tracking.finished import finished_runs
from pipeline.tracking.peaks import peaks
from pipeline.tracking.sink import RESULT, Found

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "tft-production"
PHASE_KEY = "phase_key"
"""Tag of a finished phase: the key under which its result is found again."""
COMMAND = "command"
"""Tag of a command's own run: which one it was."""
_NOTE_SHA256 = "mlflow.note.sha256"
"""Tag: hash of the description that was written here, by which one that a person has changed is told. The UI shows no
tag of this prefix."""
DEFAULT_STORE = "sqlite:///mlflow.db"
_PLAIN_TYPES: dict[Any, Any] = {
    pl.Date: pl.Datetime,
    pl.Categorical: pl.String,
    pl.Decimal: pl.Float64,
    pl.UInt8: pl.Int32,
    pl.UInt16: pl.Int32,
    pl.UInt32: pl.Int64,
    pl.UInt64: pl.Int64,
}
"""Types of columns that MLflow has no name for, and those that come nearest."""
_BATCH = 1000
"""Metrics MLflow takes in one call."""


class Killed(BaseException):
    """SIGTERM arrived: the run ends as KILLED."""


def configure() -> None:
    """Choose the store (`MLFLOW_TRACKING_URI`, else a SQLite file here), keep retries short, end runs on SIGTERM."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_STORE)
    if uri.startswith("sqlite:///"):  # absolute, so that it holds wherever the process goes
        file = Path(uri.removeprefix("sqlite:///")).resolve()
        file.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{file}"
    mlflow.set_tracking_uri(uri)
    mlflow.set_system_metrics_sampling_interval(5)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # misses pip, which no environment here needs

    def end(signum: int, frame: object) -> None:
        raise Killed(f"signal {signum}")

    signal.signal(signal.SIGTERM, end)


def store() -> str:
    """The tracking store, as `--backend-store-uri` takes it."""
    return str(mlflow.get_tracking_uri())


def how_to_look(run_id: str) -> list[str]:
    """Lines that say where a run can be looked at; the last one is a link to it in the MLflow UI.

    It says which kind of work is looked at: without that, a new browser is shown the pages for language models.
    """
    at, lines = store(), []
    if not at.startswith(("http://", "https://")):
        lines = [f"MLflow UI: mlflow ui --workers 1 --backend-store-uri {at}"]
        at = "http://127.0.0.1:5000"
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    return [*lines, f"{at}/#/experiments/{experiment}/runs/{run_id}?{WORKFLOW}"]


class Run:
    """One MLflow run. Whatever is written goes to this run, active or not."""

    shows = True

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.client = MlflowClient()

    def metrics(self, values: Mapping[str, float | None], step: int = 0) -> None:
        self.metric_steps({name: {step: value} for name, value in values.items()})

    def metric_steps(self, values: Mapping[str, Mapping[int, float | None]]) -> None:
        """Values by name and step, in batches; what is None or not finite is left out, MLflow cannot hold it."""
        now = int(time.time() * 1000)
        batch = [
            Metric(name, float(value), now, step)
            for name, steps in values.items()
            for step, value in steps.items()
            if value is not None and math.isfinite(value)
        ]
        for start in range(0, len(batch), _BATCH):
            self.client.log_batch(self.run_id, metrics=batch[start : start + _BATCH])

    def params(self, values: Mapping[str, Any]) -> None:
        existing = self.client.get_run(self.run_id).data.params
        items = [
            Param(name, str(value)[:6000])
            for name, value in values.items()
            if name not in existing  # a parameter cannot be changed once logged
        ]
        for start in range(0, len(items), 100):
            self.client.log_batch(self.run_id, params=items[start : start + 100])

    def tags(self, values: Mapping[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(name, str(value)[:8000]) for name, value in values.items()])

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """A table the UI shows and pivots across runs; `name` ends in .json."""
        plain = {
            key: [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]
            for key, values in columns.items()
        }
        rows = [list(row) for row in zip(*plain.values(), strict=True)]
        self.text(name, json.dumps({"columns": list(plain), "data": rows}))
        # What the UI's table view looks for, as mlflow.log_table would have written it.
        self.tags({"mlflow.loggedArtifacts": json.dumps(self._tables(name))})

    def _tables(self, name: str) -> list[dict[str, str]]:
        logged = json.loads(self.client.get_run(self.run_id).data.tags.get("mlflow.loggedArtifacts", "[]"))
        entry = {"path": name, "type": "table"}
        return logged if entry in logged else [*logged, entry]

    def text(self, name: str, text: str) -> None:
        self.client.log_text(self.run_id, text, name)

    def figure(self, name: str, figure: Figure | Callable[[], Figure], width_pixels: int | None = None) -> None:
        drawn = figure() if callable(figure) else figure
        size = {"dpi": width_pixels / drawn.get_figwidth()} if width_pixels else {}
        self.client.log_figure(self.run_id, drawn, name, save_kwargs=size)

    def file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def dataset(self, name: str, source: str, digest: str, first: pl.DataFrame | None = None, n_rows: int = 0) -> None:
        """The feature table as an input of the run, with its columns and their types, and how large it is.

        first: a row with a known value of every column that has one; without it the columns are unknown.
        """
        first = pl.DataFrame() if first is None else first.cast(_PLAIN_TYPES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a path could be a local file or one on a mounted file system
            table = from_polars(first, source=source, name=name, digest=digest[:36])
        given = table.to_dict()
        size = json.dumps({"num_rows": n_rows, "num_elements": n_rows * first.width})
        entity = Dataset(table.name, table.digest, given["source_type"], given["source"], given["schema"], size)
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])

    def describe(self, text: str) -> None:
        """Make this the run's description in the UI (Markdown), unless a person has changed the one there."""
        tags = self.client.get_run(self.run_id).data.tags
        there = tags.get(NOTE, "")
        if not there or tags.get(_NOTE_SHA256) == _sha256(there):
            self.client.set_tag(self.run_id, NOTE, text)
            self.client.set_tag(self.run_id, _NOTE_SHA256, _sha256(text))

    def model(self, model_id: str, metrics: Mapping[str, float | None]) -> None:
        """Show a logged model as an output of the run, and these metrics of the run on the model's page.

        The metrics are written to the run as well, and tied to the data set that it was given.
        """
        if all(model.model_id != model_id for model in self._outputs()):
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model_id, step=0)])
        now = int(time.time() * 1000)
        inputs = self.client.get_run(self.run_id).inputs
        tables = [one.dataset for one in inputs.dataset_inputs] if inputs else []
        given = {"dataset_name": tables[0].name, "dataset_digest": tables[0].digest} if tables else {}
        shown = [
            Metric(name, float(value), now, 0, model_id=model_id, run_id=self.run_id, **given)
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        self.client.log_batch(self.run_id, metrics=shown)

    def _outputs(self) -> list[LoggedModelOutput]:
        outputs = self.client.get_run(self.run_id).outputs
        return list(outputs.model_outputs) if outputs else []

    def phases(self) -> dict[str, str]:
        """The newest run of each phase below this one, by the phase's name."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        found = self.client.search_runs(
            [experiment], f"tags.mlflow.parentRunId = '{self.run_id}'", order_by=["attributes.start_time ASC"]
        )
        return {run.data.tags["phase"]: run.info.run_id for run in found if "phase" in run.data.tags}

    def read_text(self, name: str) -> str:
        """Raises mlflow.exceptions.MlflowException or OSError if the artifact is gone."""
        return self.read_bytes(name).decode()

    def read_bytes(self, name: str) -> bytes:
        """Raises mlflow.exceptions.MlflowException or OSError if the artifact is gone."""
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.client.download_artifacts(self.run_id, name, scratch)).read_bytes()

    def link(self, name: str) -> str | None:
        """The address that opens an artifact without a server; None where it lies on no disk of this machine."""
        folder = str(self.client.get_run(self.run_id).info.artifact_uri)
        path = Path(folder.removeprefix("file://")) / name
        return path.as_uri() if path.is_file() else None

    def find_result(self, key: str) -> Found | None:
        """The newest finished phase with this key, in any experiment, whose result can still be read."""
        for finished in finished_runs({PHASE_KEY: key}):
            run_id = str(finished.info.run_id)
            try:
                return Found(run_id, Run(run_id).read_text(RESULT))
            except (MlflowException, OSError):  # its artifacts were deleted: look for an older one
                continue
        return None

    def finish(self, text: str, key: str | None) -> None:
        self.text(RESULT, text)
        if key:
            self.tags({PHASE_KEY: key})

    @contextmanager
    def child(self, name: str) -> Iterator[Run]:
        """A run nested below this one, in the same experiment. If a run is active, it must be this one."""
        with _run(name, below=self) as run:
            yield run

    @contextmanager
    def phase(self, name: str, title: str = "") -> Iterator[Run]:
        """A child run of a phase, with its wall time, memory peaks and system metrics. `title`: its name in the UI."""
        with _run(title or name, below=self, system_metrics=True) as run:
            run.tags({"phase": name})
            with peaks() as measured:
                try:
                    yield run
                finally:
                    run.metrics(measured())


@contextmanager
def parent_run(name: str, run_id: str | None) -> Iterator[Run]:
    """The run of the whole command, in experiment `tft-production` or the one that MLFLOW_EXPERIMENT_NAME or
    MLFLOW_EXPERIMENT_ID names, which is set up for the UI if it is not yet.

    `run_id` resumes that run, whose name stays. Started by `mlflow run`, its run is taken if it is in an experiment the
    user chose, and is given this name; the experiment `Default`, where MLflow puts a project's run otherwise, only gets
    a pointer to ours.
    """
    given = run_id or os.environ.get("MLFLOW_RUN_ID")
    client = MlflowClient()
    pointer = None
    if given and not run_id and client.get_run(given).info.experiment_id == "0":
        pointer, given = given, None
    os.environ.pop("MLFLOW_RUN_ID", None)
    experiment_id = os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if given or pointer:
        experiment_id = None  # of the run that `mlflow run` made
    if given:  # MLflow refuses a run of another experiment than the active one
        chosen = mlflow.set_experiment(experiment_id=client.get_run(given).info.experiment_id)
    else:
        chosen = _chosen_experiment(experiment_id)
    set_up(chosen.experiment_id)
    # There MLflow notes the active experiment for processes it starts; the next command here has to choose for itself.
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if experiment_id is not None:
        os.environ["MLFLOW_EXPERIMENT_ID"] = experiment_id
    with _run(name, run_id=given) as run:
        if given and not run_id and COMMAND not in client.get_run(given).data.tags:
            client.update_run(given, name=name)  # `mlflow run` gives a new run a name of its own invention
        if pointer:
            client.set_tag(
                pointer, "mlflow.note.content", f"The runs of this job are in experiment {EXPERIMENT}: {run.run_id}"
            )
            client.set_tag(pointer, "production_run", run.run_id)
        yield run


def _chosen_experiment(experiment_id: str | None) -> Experiment:
    """The experiment that the environment names, by id or by name, made active; `tft-production` without either."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if experiment_id is None:
        return mlflow.set_experiment(name or EXPERIMENT)
    found = MlflowClient().get_experiment(experiment_id)
    if name is not None and name != found.name:
        raise ValueError(
            f"MLFLOW_EXPERIMENT_ID={experiment_id} is the experiment {found.name}, but MLFLOW_EXPERIMENT_NAME says "
            f"{name}: set one of them"
        )
    return mlflow.set_experiment(experiment_id=experiment_id)


@contextmanager
def _run(
    name: str, *, run_id: str | None = None, below: Run | None = None, system_metrics: bool = False
) -> Iterator[Run]:
    active = mlflow.start_run(
        run_id=run_id,
        run_name=None if run_id else name,
        nested=below is not None,
        parent_run_id=below.run_id if below else None,
        experiment_id=below.client.get_run(below.run_id).info.experiment_id if below else None,
        log_system_metrics=system_metrics,
    )
    status = "FINISHED"
    try:
        yield Run(active.info.run_id)
    except BaseException as error:
        status = "KILLED" if isinstance(error, (Killed, KeyboardInterrupt)) else "FAILED"
        raise
    finally:
        mlflow.end_run(status)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
