"""Jobs on small panels that write nowhere but to the current folder, for tests of several files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import flow
from pipeline.config.schema import Config
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.job import Job
from pipeline.phases.production import Walked
from pipeline.tracking.kept import Kept, LocalStore
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.sink import Silent
from tests.conftest import CPU
from tft.panel import Panel


def dataset_of(panel: Panel, source: str = "here", sigma: NDArray[np.float64] | None = None) -> Dataset:
    """The panel as a table that was read; its hash is that of its values."""
    return Dataset(
        panel=panel, sha256=panel_sha256(panel, sigma), source=source, n_rows=panel.returns.size, sigma=sigma
    )


def job_of(panel: Panel, config: Config, *, fresh: bool = False, sigma: NDArray[np.float64] | None = None) -> Job:
    return Job(config, dataset_of(panel, sigma=sigma), CPU, fresh)


def silent() -> Silent:
    """Keeps finished phases below the current folder."""
    return Silent(Kept())


def out_of_sample(job: Job, reporter: Reporter | None = None, **given: Any) -> Walked:
    """The whole job's record, no fold of which is taken from an earlier call."""
    with tempfile.TemporaryDirectory() as folder:
        return flow.out_of_sample(job, silent(), reporter or Quiet(), store=LocalStore(Path(folder)), **given)
