"""The whole job again and again on other targets, under the production run that is judged by it.

The repetitions are spread over the machine. Each that is finished is kept on disk until it is delivered as a run nested
below the judged one, under a key of all that its result depends on: whenever the command is killed, the next one finds
it and goes on. Nothing of a repetition is registered, and none is a look at the holdout: its targets are not the real
ones.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import mlflow
import torch
from mlflow.exceptions import MlflowException

from pipeline.config.schema import Config, sha256_of, to_mapping
from pipeline.data.table import Dataset
from pipeline.execution import in_processes, n_workers
from pipeline.experiments.null_targets import NullTargets
from pipeline.job import FITS, Job, from_json, to_json
from pipeline.phases.out_of_sample import record_folds
from pipeline.phases.tuning import tuning_folds
from pipeline.tracking.keys import PHASE_KEY, RESULT, find_finished, source_sha256
from pipeline.tracking.progress import Quiet
from pipeline.tracking.runs import Run, Silent, git_commit
from tft.checkpoint import write_folder_atomically
from tft.kernels.implementation import kernels_for

KEPT = Path("checkpoints") / "repetitions"
"""Finished repetitions that are not delivered yet, by key."""


class Repetition(Protocol):
    """What a repetition gave; a frozen dataclass of plain values."""

    @property
    def repetition(self) -> int: ...
    @property
    def oos_sharpe(self) -> float: ...
    @property
    def seconds(self) -> float: ...


Result = TypeVar("Result", bound=Repetition)
Compute = Callable[[Job, int, Path], Result]
"""(job on the real data, number from 1, folder in which finished folds wait) -> what that repetition gave."""


@dataclass(frozen=True, eq=False)
class _Common:
    """What a worker is handed once."""

    compute: Compute[Any]
    config: Config
    data: Dataset
    device: torch.device
    fresh: bool


class Repetitions(Generic[Result]):
    """Iterates over the results of repetitions 1..count, in this order; closing the iterator ends what still runs."""

    def __init__(
        self,
        name: str,
        kind: type[Result],
        compute: Compute[Result],
        job: Job,
        judged: Run,
        count: int,
        **settings: Any,
    ) -> None:
        """`compute` is a function of a module, or a partial of one; `settings` are what it depends on besides."""
        self.name, self.kind, self.compute, self.job, self.judged = name, kind, compute, job, judged
        self.keys = {number: self._key(number, settings) for number in range(1, count + 1)}
        self.n_computed = 0
        """By this process."""

    def _key(self, number: int, settings: dict[str, Any]) -> str:
        config = to_mapping(self.job.config)
        for judging in ("placebo", "registry", "regime"):  # nothing that a repetition does depends on them
            del config[judging]
        return sha256_of(
            {
                "what": self.name,
                "repetition": number,
                "settings": settings,
                "data": self.job.data.sha256,
                "config": config,
                "source": source_sha256(getattr(self.compute, "func", self.compute).__module__),
                "torch": torch.__version__,
                "device": self.job.device.type,
                "kernels": kernels_for(self.job.device),
            }
        )

    def __iter__(self) -> Generator[Result]:
        found = {} if self.job.fresh else self._found()
        missing = [number for number in self.keys if number not in found]
        reporter, n = self.job.reporter, n_workers(self.job.device)
        if found:
            reporter.say(
                f"{self.name}: {len(found)} of {len(self.keys)} repetitions are finished already, reusing them"
            )
        reporter.start(self.name, len(missing))

        def on_done(result: Result) -> None:
            self.n_computed += 1
            self._deliver(result)
            reporter.step(
                f"repetition {result.repetition} of {len(self.keys)}: OOS Sharpe {result.oos_sharpe:.2f} in "
                f"{result.seconds:.0f} s"
            )

        common = _Common(self.compute, self.job.config, self.job.data, self.job.device, self.job.fresh)
        items = [(number, self.keys[number]) for number in missing]
        with closing(in_processes(_repetition, common, items, n_workers=n, on_done=on_done)) as computed:
            for number in self.keys:
                yield found[number] if number in found else next(computed)

    def _found(self) -> dict[int, Result]:
        """Finished repetitions by number; those that only the disk knows of are delivered."""
        found = {}
        for number, key in self.keys.items():
            if delivered := find_finished(key):
                found[number] = from_json(self.kind, delivered[1])
            elif (kept := KEPT / key / RESULT).exists():
                found[number] = from_json(self.kind, kept.read_text())
                self._deliver(found[number])
        return found

    def _deliver(self, result: Result) -> None:
        """As a run of its own, nested below the judged one; not the active run, which is the command's."""
        key = self.keys[result.repetition]
        client = self.judged.client
        created = client.create_run(
            client.get_run(self.judged.run_id).info.experiment_id,
            run_name=f"{self.name} {result.repetition}",
            tags={
                "mlflow.parentRunId": self.judged.run_id,
                "phase": f"{self.name} repetition",
                "data_sha256": self.job.data.sha256,
                "git_commit": git_commit(),
            },
        )
        run = Run(created.info.run_id)
        run.metrics({name: value for name, value in asdict(result).items() if isinstance(value, (int, float))})  # type: ignore[call-overload]
        run.text(RESULT, to_json(result))
        run.tags({PHASE_KEY: key})
        client.set_terminated(run.run_id)
        shutil.rmtree(KEPT / key, ignore_errors=True)


def _repetition(common: _Common, item: tuple[int, str]) -> Any:
    """One repetition, in a worker; kept on disk before anybody hears of it."""
    number, key = item
    job = Job(common.config, common.data, Silent(), Quiet(), common.device, fresh=common.fresh)
    folds = FITS / key[:16]
    if common.fresh:
        shutil.rmtree(folds, ignore_errors=True)
    result = common.compute(job, number, folds)
    write_folder_atomically(KEPT / key, {RESULT: to_json(result).encode()})
    shutil.rmtree(folds, ignore_errors=True)
    return result


def table_of(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Frozen dataclasses of one kind as columns; lists become text."""

    def cell(value: Any) -> Any:
        return ", ".join(value) if isinstance(value, tuple) else value

    return {f.name: [cell(getattr(one, f.name)) for one in results] for f in fields(results[0])}


def null_targets(job: Job) -> NullTargets:
    """Of the job's data, good for every phase. Raises ValueError where a fold would have too little to train on."""
    null, config = NullTargets(job.data, job.config), job.config
    explored = job.folds(
        job.n_development, step_size=config.exploration.step_size, max_folds=config.exploration.max_folds
    )
    null.check([*explored, *tuning_folds(job), *record_folds(job)], config.timing)
    return null


def judged_run(job: Job, run_id: str) -> Run | None:
    """The production run to judge: the one asked for, or the newest finished one on this table and configuration.

    None if there is none. Raises ValueError for a run that is not one on this table and configuration.
    """
    own = {"data_sha256": job.data.sha256, "config_sha256": job.config.sha256}
    if run_id:
        try:
            found = Run(run_id).client.get_run(run_id)
        except MlflowException:
            raise ValueError(f"run_id is {run_id!r}, and this MLflow store holds no such run: leave it empty") from None
        differing = [name.removesuffix("_sha256") for name in own if found.data.tags.get(name) != own[name]]
        if found.data.tags.get("command") != "production" or found.info.status != "FINISHED" or differing:
            why = (
                f"a finished production run with the same {' and '.join(differing)}" if differing else "one that ended"
            )
            raise ValueError(
                f"run_id is {run_id}, which is {found.data.tags.get('command', 'no command')} ({found.info.status}): "
                f"only {why} can be judged, so give the config and set that it was made with, or leave run_id empty"
            )
        return Run(run_id)
    conditions = {"command": "production"} | own
    runs = mlflow.search_runs(
        [experiment.experiment_id for experiment in mlflow.search_experiments()],
        filter_string=" and ".join(
            ["attributes.status = 'FINISHED'", *(f"tags.{name} = '{value}'" for name, value in conditions.items())]
        ),
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return Run(runs[0].info.run_id) if runs else None


def holdout_sharpe(judged: Run) -> float:
    """Annual, net: the headline. Raises ValueError if the run has none."""
    value = judged.client.get_run(judged.run_id).data.metrics.get("oos_sharpe", math.nan)
    if not math.isfinite(value):
        raise ValueError(
            f"production run {judged.run_id} has no holdout Sharpe to judge: raise holdout_fraction or bring more bars"
        )
    return float(value)
