"""Commands run as a user would run them, in folders of their own, and what they leave there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib
import mlflow
from click.testing import CliRunner, Result
from filelock import FileLock
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.cli.commands import main


@contextmanager
def own_mlflow(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """This process in that folder, with this environment and MLflow as in a new process; all is put back afterwards."""
    before, handler, outside = dict(os.environ), signal.getsignal(signal.SIGTERM), Path.cwd()
    try:
        forget_mlflow()
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        yield
    finally:
        os.chdir(outside)
        forget_mlflow()
        mlflow.set_tracking_uri(before.get("MLFLOW_TRACKING_URI"))  # type: ignore[arg-type]
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGTERM, handler)


def forget_mlflow() -> None:
    """MLflow keeps for a whole process which experiment is active and where a run's artifacts lie, by the run's id
    alone: neither holds for another store, and a copy of a store has the same ids."""
    mlflow.tracking.fluent._active_experiment_id = None
    mlflow.tracking._tracking_service.utils._artifact_repos_cache.clear()
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@dataclass(frozen=True)
class Workplace:
    """A folder in which commands are run as a user would: own store, own cache, own home."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """Compiled kernels alone come from the user's own cache: they are the same for all."""
        compiled = self.folder / "cache" / "tft-native"
        if not compiled.is_symlink():
            compiled.parent.mkdir(exist_ok=True)
            compiled.symlink_to(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-native")
        own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        return own | {
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "HOME": str(self.folder / "home"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "MPLCONFIGDIR": os.environ.get(
                "MPLCONFIGDIR", matplotlib.get_cachedir()
            ),  # its list of fonts takes seconds
            "COLUMNS": "200",
        }

    def run(self, *arguments: str, code: int = 0, **environment: str) -> Result:
        """`tft-pipeline` with these arguments, in this process; it must end with this code."""
        with own_mlflow(self.folder, self.environment() | environment):
            done = CliRunner().invoke(main, arguments)
        raised = "".join(traceback.format_exception(*done.exc_info)) if done.exc_info and done.exit_code != code else ""
        assert done.exit_code == code, f"exit code {done.exit_code}, expected {code}\n{done.output}\n{raised}"
        return done

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """`tft-pipeline` with these arguments in a process of its own, its streams to be read."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline", *arguments],
            cwd=self.folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_in_a_process(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """As `run`, in a process of its own."""
        with self.start(*arguments, **environment) as process:
            try:
                output, errors = process.communicate(timeout=300)
            finally:
                process.kill()
        assert process.returncode == code, f"exit code {process.returncode}, expected {code}\n{output}\n{errors}"
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.store, registry_uri=self.store)

    def children(self, run_id: str) -> dict[str, list[MlflowRun]]:
        """The nested runs of a run, by phase."""
        experiment = self.client.get_run(run_id).info.experiment_id
        found = self.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
        phases: dict[str, list[MlflowRun]] = {}
        for run in found:
            phases.setdefault(run.data.tags["phase"], []).append(run)
        return phases

    def child(self, run_id: str, phase: str) -> MlflowRun:
        (only,) = self.children(run_id)[phase]
        return only


def artifacts(run: MlflowRun) -> Path:
    """The folder in which a run's artifacts lie."""
    return Path(run.info.artifact_uri.removeprefix("file://"))


@dataclass(frozen=True)
class WholeJob(Workplace):
    """A workplace in which one command ran to its end."""

    run_id: str
    """The run that the command's output names."""
    output: str
    errors: str

    @property
    def parent(self) -> MlflowRun:
        return self.client.get_run(self.run_id)


def run_named(output: str) -> str:
    """The MLflow run that a command's output names."""
    found = re.search(r"MLflow run\s+([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def made_once(folder: Path, command: Callable[[Workplace], Result | subprocess.CompletedProcess[str]]) -> WholeJob:
    """The command's workplace; whichever process asks first runs it, the others wait."""
    finished = folder / "job.json"
    with FileLock(f"{folder}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            done = command(Workplace(folder))
            job = WholeJob(folder, run_named(done.stdout), done.stdout, done.stderr)
            finished.write_text(json.dumps(asdict(job), default=str))
    known = json.loads(finished.read_text())
    return WholeJob(**known | {"folder": folder})


def copy_of(job: WholeJob, folder: Path) -> WholeJob:
    """A finished job in another folder, which must not exist, for a test that adds to it or changes it."""
    shutil.copytree(job.folder, folder, symlinks=True)
    store = sqlite3.connect(folder / "mlflow.db")
    with store:  # the store names artifacts by absolute paths
        for (table,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in store.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchall():
                (name,) = column
                store.execute(
                    f'UPDATE "{table}" SET "{name}" = replace("{name}", ?, ?) WHERE instr("{name}", ?)',
                    (f"{job.folder}/", f"{folder}/", f"{job.folder}/"),
                )
    store.close()
    return replace(job, folder=folder)
