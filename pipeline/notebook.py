"""The five phases from Python: what a notebook calls, or any other program.

from pipeline import load_config, run

result = run("production", load_config("configs/quickstart.yaml"), data=frame)
result.inference.verdict, result.record, result.report()
"""

# ruff: noqa: E402 - what libraries read while they load is set before they are imported

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any, Literal, overload

# Said by bars that libraries would draw and nobody here asks for, where ipywidgets is not installed.
warnings.filterwarnings("ignore", "IProgress not found")
# Waiting threads that spin make two processes on two cores twenty times slower; read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pipeline import flow
from pipeline.config.reading import load_config
from pipeline.config.schema import Config, ConfigError
from pipeline.data.given import polars_frame
from pipeline.job import PHASES, open_job
from pipeline.phases.exploration import Explored
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.pruning import Pruned
from pipeline.phases.tuning import Tuned
from pipeline.reporting.produced import Produced
from pipeline.reporting.terminal import print_headline
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import configure, parent_run

Given = Config | str | Path
"""A configuration, or the YAML file that it is in."""


@overload
def run(phase: Literal["prefilter"], config: Given, *, data: Any = None, fresh: bool = False) -> Prefiltered: ...
@overload
def run(phase: Literal["exploration"], config: Given, *, data: Any = None, fresh: bool = False) -> Explored: ...
@overload
def run(phase: Literal["pruning"], config: Given, *, data: Any = None, fresh: bool = False) -> Pruned: ...
@overload
def run(phase: Literal["tuning"], config: Given, *, data: Any = None, fresh: bool = False) -> Tuned: ...
@overload
def run(phase: Literal["production"], config: Given, *, data: Any = None, fresh: bool = False) -> Produced: ...
def run(phase: str, config: Any, *, data: Any = None, fresh: bool = False) -> Any:
    """Run a phase, and whatever it needs before it, as the command of that name does; returns the phase's result.

    data: a feature table, polars or pandas, in place of the file that `config.data` names · fresh: compute finished
    phases anew; otherwise they are reused while nothing they depend on has changed, the values of the table included.
    Runs go to the MLflow store of the command line. Raises ValueError for what is wrong with configuration or table.
    """
    if phase not in PHASES:
        raise ValueError(f"{phase!r} is no phase: the phases are {', '.join(PHASES)}")
    if not isinstance(config, Given):
        remedy = "give load_config(...), Config(...), or the path of a YAML file"
        raise ValueError(f"config is {type(config).__name__}, it must be a configuration: {remedy}")
    path = "" if isinstance(config, Config) else str(config)
    if not isinstance(config, Config):
        config = load_config(config)
    if faults := config.faults():
        raise ConfigError(faults)
    frame = None if data is None else polars_frame(data)
    if data is not None and frame is None:
        raise ValueError(f"data is {type(data).__name__}, it must be a polars or pandas table")
    at_sigterm = signal.getsignal(signal.SIGTERM)
    configure()
    try:
        with _reporter() as reporter:
            job = open_job(config, reporter.say, frame=frame, fresh=fresh)
            with parent_run(phase, None) as parent:
                result = flow.asked_for(phase, job, parent, reporter, path).result
    finally:
        signal.signal(signal.SIGTERM, at_sigterm)
    if isinstance(result, Produced):
        print_headline(result, nested=config.selection == "nested", n_columns=job.data.panel.features.shape[2])
    return result


def _reporter() -> Reporter:
    """Bars on a terminal, one line that moves in a notebook, plain lines elsewhere."""
    reporter = Reporter()
    if not reporter.console.is_jupyter:
        return reporter
    from pipeline.tracking.in_notebook import InNotebook

    return InNotebook()
