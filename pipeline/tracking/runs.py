"""MLflow: runs, metrics in batches, tables, figures, and the end of a run whatever happens."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import torch
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from tft.backtest import FoldRow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "tft-production"
DEFAULT_STORE = "sqlite:///mlflow.db"
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

    def end(signum: int, frame: object) -> None:
        raise Killed(f"signal {signum}")

    signal.signal(signal.SIGTERM, end)


def store() -> str:
    """The tracking store, as `--backend-store-uri` takes it."""
    return str(mlflow.get_tracking_uri())


class Run:
    """One MLflow run. Whatever is written goes to this run, active or not."""

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

    def figure(self, name: str, figure: Figure) -> None:
        self.client.log_figure(self.run_id, figure, name)

    def file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def dataset(self, name: str, source: str, digest: str) -> None:
        """The feature table as an input of the run."""
        entity = Dataset(name, digest[:36], "local", json.dumps({"uri": source}))
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])])

    def read_text(self, name: str) -> str:
        """Raises mlflow.exceptions.MlflowException or OSError if the artifact is gone."""
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self.client.download_artifacts(self.run_id, name, scratch)).read_text()

    @contextmanager
    def child(self, name: str) -> Iterator[Run]:
        """A run nested below this one, in the same experiment. If a run is active, it must be this one."""
        with _run(name, below=self) as run:
            yield run

    @contextmanager
    def phase(self, name: str) -> Iterator[Run]:
        """A child run of a phase, with its wall time and memory peaks as metrics."""
        with self.child(name) as run:
            run.tags({"phase": name})
            with peaks() as measured:
                try:
                    yield run
                finally:
                    run.metrics(measured())


class Silent(Run):
    """A run that takes everything, writes nothing and knows no MLflow; its children are itself."""

    def __init__(self) -> None:
        self.run_id = ""

    def metric_steps(self, values: Mapping[str, Mapping[int, float | None]]) -> None:
        pass

    def params(self, values: Mapping[str, Any]) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def table(self, name: str, columns: Mapping[str, Sequence[Any]]) -> None:
        pass

    def text(self, name: str, text: str) -> None:
        pass

    def figure(self, name: str, figure: Figure) -> None:
        pass

    def file(self, path: Path, folder: str | None = None) -> None:
        pass

    def dataset(self, name: str, source: str, digest: str) -> None:
        pass

    def read_text(self, name: str) -> str:
        raise FileNotFoundError(f"{name} was given to a run that writes nothing")

    @contextmanager
    def child(self, name: str) -> Iterator[Run]:
        yield self

    @contextmanager
    def phase(self, name: str) -> Iterator[Run]:
        yield self


@contextmanager
def parent_run(name: str, run_id: str | None) -> Iterator[Run]:
    """The run of the whole command, in experiment `tft-production`.

    `run_id` resumes that run. Started by `mlflow run`, its run is taken if it is in an experiment the user chose;
    the experiment `Default`, where MLflow puts a project's run otherwise, only gets a pointer to ours.
    """
    given = run_id or os.environ.get("MLFLOW_RUN_ID")
    client = MlflowClient()
    pointer = None
    if given and not run_id and client.get_run(given).info.experiment_id == "0":
        pointer, given = given, None
    os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    if given:  # MLflow refuses a run of another experiment than the active one
        mlflow.set_experiment(experiment_id=client.get_run(given).info.experiment_id)
    else:
        chosen = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT))
        # The UI opens such an experiment with its runs, not with the pages for language models.
        client.set_experiment_tag(chosen.experiment_id, "mlflow.experimentKind", "custom_model_development")
    with _run(name, run_id=given) as run:
        if given and not run_id:
            client.update_run(given, name=name)  # `mlflow run` gives it a name of its own invention
        if pointer:
            client.set_tag(
                pointer, "mlflow.note.content", f"The runs of this job are in experiment {EXPERIMENT}: {run.run_id}"
            )
            client.set_tag(pointer, "production_run", run.run_id)
        yield run


@contextmanager
def _run(name: str, *, run_id: str | None = None, below: Run | None = None) -> Iterator[Run]:
    active = mlflow.start_run(
        run_id=run_id,
        run_name=None if run_id else name,
        nested=below is not None,
        parent_run_id=below.run_id if below else None,
        experiment_id=below.client.get_run(below.run_id).info.experiment_id if below else None,
        log_system_metrics=True,
    )
    status = "FINISHED"
    try:
        yield Run(active.info.run_id)
    except BaseException as error:
        status = "KILLED" if isinstance(error, (Killed, KeyboardInterrupt)) else "FAILED"
        raise
    finally:
        mlflow.end_run(status)


_open: list[dict[str, float]] = []
"""Peaks of the blocks that are open, up to when the latest of them began: it starts the process's marks anew."""


@contextmanager
def peaks() -> Iterator[Any]:
    """Yields a function that gives phase_seconds, peak_rss_bytes and peak_gpu_bytes since the block began."""
    started = time.perf_counter()
    for outer in _open:
        outer |= _highest(outer)
    own: dict[str, float] = {}
    _open.append(own)
    _reset_peak_rss()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def measured() -> dict[str, float]:
        return {"phase_seconds": time.perf_counter() - started} | _highest(own)

    try:
        yield measured
    finally:
        _open.pop()


def _highest(before: Mapping[str, float]) -> dict[str, float]:
    marks = {"peak_rss_bytes": float(_peak_rss_bytes())}
    if torch.cuda.is_available():
        marks["peak_gpu_bytes"] = float(torch.cuda.max_memory_allocated())
    return {name: max(value, before.get(name, 0.0)) for name, value in marks.items()}


def _reset_peak_rss() -> None:
    """Linux forgets a process's high-water mark when asked to; elsewhere the mark is the process's own so far."""
    marks = Path("/proc/self/clear_refs")
    if marks.exists() and os.access(marks, os.W_OK):
        marks.write_text("5")


def _peak_rss_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


FOLD_METRICS = {
    "fold_val_sharpe": "val_sharpe",
    "fold_val_sharpe_best_epoch": "val_sharpe_best_epoch",
    "fold_oos_sharpe": "oos_sharpe",
    "fold_val_oos_gap": "val_oos_gap",
}


def log_folds(run: Run, rows: Sequence[FoldRow], more: Mapping[str, Sequence[float | None]] | None = None) -> None:
    """The fold table, and its Sharpes as metrics with the fold as step. `more`: further columns, metrics as well."""
    more = more or {}
    run.metric_steps(
        {name: {row.fold: getattr(row, key) for row in rows} for name, key in FOLD_METRICS.items()}
        | {
            f"fold_{name}": {row.fold: value for row, value in zip(rows, values, strict=True)}
            for name, values in more.items()
        }
    )
    gaps = [row.val_oos_gap for row in rows if row.val_oos_gap is not None]
    run.metrics({"val_oos_gap_mean": sum(gaps) / len(gaps) if gaps else None})
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(FoldRow)}
    run.table("folds.json", {**columns, **more})


def git_commit() -> str:
    """The commit of the code that runs, marked if there are changes; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False)
        except FileNotFoundError:  # no git here
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit or "unknown"
