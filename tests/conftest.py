"""What several test files share: a small panel that is cheap to train on, finished jobs, and where commands run.

The suite runs in parallel processes (`make test`), in any order, with any number of them:

- A finished job is made once for all processes and only read: `whole_job` (production), `nested_job`, `placebo_job`. A
  test that adds to it or changes it takes a copy of its own: `job_copy`, or `copy_of(job, folder)`.
- `Workplace.run` runs a command in this process, with the environment, folder and store of a user of its own. What a
  process boundary is part of (signals, exit codes, streams) is `Workplace.run_in_a_process` or `Workplace.start`.
- `module_store` is an MLflow store for one test file; `store_in(folder)` puts an empty one anywhere, in no time.
- `@pytest.mark.alone`: the test counts threads, processes or time; no other test runs meanwhile.
- `@pytest.mark.slow`: it takes more than about three seconds; the daily loop leaves it out. Whatever uses `nested_job`
  or `placebo_job` is marked by itself.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import mlflow
import mlflow.db
import numpy as np
import pytest
import sqlalchemy
import torch
from click.testing import CliRunner
from filelock import FileLock

from pipeline.tracking.runs import configure
from tests.workplace import WholeJob, Workplace, copy_of, forget_mlflow, made_once, own_mlflow
from tft import blocks
from tft.model import ModelConfig
from tft.panel import Panel
from tft.positions import PositionsConfig
from tft.recipe import Objective, Recipe, TrainingConfig
from tft.volatility import Timing

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
MICRO = ROOT / "configs" / "micro.yaml"
NESTED_MICRO = ROOT / "configs" / "nested_micro.yaml"

torch.set_num_threads(1)  # as many processes as cores, a thread each
hypothesis.settings.register_profile("suite", derandomize=True, database=None)
hypothesis.settings.load_profile("suite")


@sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
def _do_not_wait_for_the_disk(connection: Any, record: Any) -> None:
    """SQLite waits for it after each of many small writes; no store here outlives the tests."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One test process for each core that this process may use, eight at most: each takes about a gigabyte."""
    return min(len(os.sched_getaffinity(0)), 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that needs one of the two long jobs is slow; those that run alone come last, when few wait for them."""
    for item in items:
        if {"nested_job", "placebo_job"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of this run of the suite."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, shared_folder: Path) -> Iterator[None]:
    """Tests share a room, which one marked `alone` has to itself: the door is closed while it waits for the others."""
    kind = fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH
    with (shared_folder / "door").open("w") as door, (shared_folder / "room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, kind)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


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
    objective: Objective = "pooled",
    positions: PositionsConfig | None = None,
) -> Recipe:
    """With objective portfolio: blocks of 16 bars after 4 of burn-in, and weight decay."""
    pooled = objective == "pooled"
    return Recipe(
        model=ModelConfig(d_hidden=8, n_heads=2, dropout=dropout, seq_len=seq_len, n_context=n_context),
        training=TrainingConfig(
            objective=objective,
            block_bars=16,
            lr=lr,
            weight_decay=0.0 if pooled else 1.0,
            batch_size=batch_size,
            loss_mode=loss_mode,
            mle_weight=0.186 if pooled else 5.0,
            patience=patience,
        ),
        timing=Timing(),
        epochs=epochs,
        seed=seed,
        positions=positions or PositionsConfig(),
        burn_in_bars=1 if pooled else 4,
    )


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of objective portfolio has four steps at least and not 16, which takes less time."""
    monkeypatch.setattr(blocks, "LEAST_STEPS", 4)


@pytest.fixture(scope="session")
def empty_store(shared_folder: Path) -> Path:
    """A file that holds an MLflow store without a run: making one takes seconds, copying it none."""
    file = shared_folder / "empty.db"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            making = file.with_suffix(".making")
            making.unlink(missing_ok=True)
            done = CliRunner().invoke(mlflow.db.commands, ["upgrade", f"sqlite:///{making}"])
            assert done.exit_code == 0, done.output
            making.rename(file)
    return file


@pytest.fixture(scope="session")
def store_in(empty_store: Path) -> Callable[[Path], Path]:
    """Puts an empty MLflow store into a folder, where commands find it; returns the folder."""

    def put(folder: Path) -> Path:
        shutil.copy(empty_store, folder / "mlflow.db")
        return folder

    return put


@pytest.fixture(scope="session")
def whole_job(shared_folder: Path) -> WholeJob:
    """`tft-pipeline production` on configs/micro.yaml, run once in a process of its own; only to be read."""
    command = ("production", "--config", str(MICRO))
    return made_once(shared_folder / "whole_job", lambda place: place.run_in_a_process(*command))


@pytest.fixture(scope="session")
def nested_job(shared_folder: Path, store_in: Callable[[Path], Path]) -> WholeJob:
    """`tft-pipeline production` on configs/nested_micro.yaml, run once; only to be read."""
    command = ("production", "--config", str(NESTED_MICRO))
    return made_once(shared_folder / "nested_job", lambda place: Workplace(store_in(place.folder)).run(*command))


@pytest.fixture(scope="session")
def placebo_job(shared_folder: Path, store_in: Callable[[Path], Path]) -> WholeJob:
    """`tft-pipeline placebo` with three repetitions on configs/micro.yaml, no production run being there before; run
    once, only to be read."""
    command = ("placebo", "--config", str(MICRO), "--repetitions", "3")
    return made_once(shared_folder / "placebo_job", lambda place: Workplace(store_in(place.folder)).run(*command))


@pytest.fixture
def job_copy(whole_job: WholeJob, tmp_path: Path) -> WholeJob:
    """A copy of `whole_job` for this test alone."""
    return copy_of(whole_job, tmp_path / "job")


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory, store_in: Callable[[Path], Path]) -> Iterator[Path]:
    """A folder with an MLflow store of its own for one test file, which is the current folder until its end."""
    path = store_in(tmp_path_factory.mktemp("store"))
    with own_mlflow(path, Workplace(path).environment()):
        configure()
        yield path


@pytest.fixture(autouse=True)
def _mlflow_forgets() -> Iterator[None]:
    """What MLflow keeps of one test's store, which is gone by then, is not the next test's."""
    yield
    forget_mlflow()


@pytest.fixture
def mlflow_uri() -> Iterator[Callable[[str], None]]:
    """Points this process's MLflow at a store; afterwards it points nowhere in particular again."""
    before = signal.getsignal(signal.SIGTERM)
    yield mlflow.set_tracking_uri
    mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # set_tracking_uri leaves it there for child processes
    signal.signal(signal.SIGTERM, before)
