"""What several test files share: a small panel that is cheap to train on, and one run of the whole job."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run as MlflowRun
from mlflow.tracking import MlflowClient

from pipeline.tracking.runs import configure
from tft.model import ModelConfig
from tft.panel import Panel
from tft.train import Recipe, TrainingConfig
from tft.volatility import Timing

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
MICRO = ROOT / "configs" / "micro.yaml"


def small_panel(
    n_bars: int = 150,
    n_assets: int = 2,
    n_features: int = 3,
    *,
    seed: int = 0,
    missing: float = 0.03,
    signal: float = 0.0,
    delay_bars: int = 1,
) -> Panel:
    """Independent noise, `missing` of the feature values absent.

    With a `signal` the first feature of bar t is that much of the (standardised) return of bar t + 1 + delay_bars.
    """
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((n_bars + 1 + delay_bars, n_assets))
    features = rng.standard_normal((n_bars, n_assets, n_features))
    features[:, :, 0] = signal * noise[1 + delay_bars :] + np.sqrt(1.0 - signal**2) * features[:, :, 0]
    features[rng.random(features.shape) < missing] = np.nan
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(f"group_{i}" for i in range(n_features)),
        features=features.astype(np.float32),
        returns=0.01 * noise[:n_bars],
    )


def small_recipe(
    *,
    epochs: int = 3,
    seed: int = 5,
    n_context: int = 2,
    seq_len: int = 6,
    lr: float = 0.01,
    loss_mode: str = "joint_mle",
    patience: int = 0,
    dropout: float = 0.1,
    batch_size: int = 16,
) -> Recipe:
    return Recipe(
        model=ModelConfig(d_hidden=8, n_heads=2, dropout=dropout, seq_len=seq_len, n_context=n_context),
        training=TrainingConfig(lr=lr, batch_size=batch_size, loss_mode=loss_mode, patience=patience),
        timing=Timing(),
        epochs=epochs,
        seed=seed,
    )


@dataclass(frozen=True)
class Workplace:
    """A folder in which commands are run as a user would, each in a process of its own: own store, own cache."""

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

    def run(self, *arguments: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """`tft-pipeline` with these arguments; it must end with this code."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.commands", *arguments],
            cwd=self.folder,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
        return done

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
    """A workplace in which the whole job ran once on configs/micro.yaml."""

    run_id: str
    """Of the parent run."""
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


@pytest.fixture(scope="session")
def whole_job(tmp_path_factory: pytest.TempPathFactory) -> WholeJob:
    """`tft-pipeline production` run once; tests may add runs to its store, and change nothing that is there."""
    place = Workplace(tmp_path_factory.mktemp("whole_job"))
    done = place.run("production", "--config", str(MICRO))
    return WholeJob(place.folder, run_named(done.stdout), done.stdout, done.stderr)


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a store of its own for one test file: making one takes seconds. All is put back afterwards."""
    path = tmp_path_factory.mktemp("store")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            patch.setenv(name, "")  # so that it is put back as it was
            patch.delenv(name)
        before = mlflow.get_tracking_uri()
        configure()
        yield path
        mlflow.set_tracking_uri(before)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(autouse=True)
def no_active_experiment() -> Iterator[None]:
    """An experiment that one test makes active, of a store that is gone by then, is not the next test's."""
    yield
    mlflow.tracking.fluent._active_experiment_id = None
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@pytest.fixture
def mlflow_uri() -> Iterator[Callable[[str], None]]:
    """Points this process's MLflow at a store; afterwards it points nowhere in particular again."""
    before = signal.getsignal(signal.SIGTERM)
    yield mlflow.set_tracking_uri
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # set_tracking_uri leaves it there for child processes
    signal.signal(signal.SIGTERM, before)
