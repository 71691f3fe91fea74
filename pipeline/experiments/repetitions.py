"""The whole job again and again, on other targets or with other settings, below the run that it is set against.

The repetitions are spread over the machine. Each that is finished is kept on disk until it is delivered as a run nested
below the production run, under a key of all that its result depends on: whenever the command is killed, the next one
finds it and goes on. Nothing of a repetition is registered, and on other targets than the real ones none is a look at
the holdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from pipeline.config.reading import from_json, to_json
from pipeline.config.schema import sha256_of
from pipeline.execution import in_processes, n_workers
from pipeline.flow import out_of_sample
from pipeline.job import RECORD_MODULES, Job
from pipeline.phases.production import Choice, Walked
from pipeline.tracking.commit import git_commit
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.runs import Run
from pipeline.tracking.sink import Silent


class Repetition(Protocol):
    """The result of a repetition: a frozen dataclass of plain values."""

    @property
    def repetition(self) -> int: ...
    @property
    def seconds(self) -> float: ...


Result = TypeVar("Result", bound=Repetition)
Repeat = Callable[[Job, int], tuple[Job, Callable[[Walked, float], Result]]]
"""The real job and a number from 1 to the repetition's job, and to what makes its result of that job's walk-forward and
of the seconds it took. A function of a module, or a partial of one."""


@dataclass(frozen=True, eq=False)
class _Common:
    """What every repetition of a worker needs, handed over once."""

    repeat: Repeat[Any]
    job: Job
    chosen: Choice | None


class Repetitions(Generic[Result]):
    """Iterates over the results of repetitions 1..count, in this order; closing the iterator ends what still runs."""

    def __init__(
        self,
        name: str,
        kind: type[Result],
        repeat: Repeat[Result],
        job: Job,
        production: Run,
        reporter: Reporter,
        count: int,
        *,
        chosen: Choice | None = None,
        **settings: Any,
    ) -> None:
        """production: the run that finished repetitions are nested below · chosen: columns and parameters of them all;
        without it each chooses its own · settings: what they depend on besides.
        """
        self.name, self.kind, self.repeat, self.job = name, kind, repeat, job
        self.production, self.reporter, self.kept, self.chosen = production, reporter, Kept(), chosen
        if chosen:
            settings |= {"chosen": sha256_of(list(chosen.features), chosen.tuned.best)}
        self.keys = {number: self._key(number, settings) for number in range(1, count + 1)}
        self.runs: dict[int, str] = {}
        """The run of each repetition that is finished, by its number."""
        self.n_computed = 0
        """Repetitions computed by this process."""

    def _key(self, number: int, settings: dict[str, Any]) -> str:
        computing = getattr(self.repeat, "func", self.repeat).__module__
        return self.job.key_of(
            self.name,
            modules=[*RECORD_MODULES, computing],
            repetition=number,
            feature_lookback_bars=self.job.config.data.feature_lookback_bars,
            benchmark=self.job.data.benchmark_sha256,
            **settings,
        )

    def __iter__(self) -> Generator[Result]:
        found = self.found
        missing = [number for number in self.keys if number not in found]
        reporter, n = self.reporter, n_workers(self.job.device)
        if found:
            reporter.say(
                f"{self.name}: {len(found)} of {len(self.keys)} repetitions are finished already, reusing them"
            )
        reporter.start(self.name, len(missing))

        def on_done(result: Result) -> None:
            self.n_computed += 1
            self._deliver(result)
            reporter.step(
                f"{self.title(result)}, {result.repetition} of {len(self.keys)}: {self.in_words(result)} in "
                f"{result.seconds:.0f} s"
            )

        common = _Common(self.repeat, replace(self.job), self.chosen)  # without what the job has cached
        items = [(number, self.keys[number]) for number in missing]
        with closing(in_processes(_repetition, common, items, n_workers=n, on_done=on_done)) as computed:
            for number in self.keys:
                yield found[number] if number in found else next(computed)

    def title(self, result: Result) -> str:
        """The name of a finished repetition's run."""
        return f"{self.name} {result.repetition}"

    def figures(self, result: Result) -> dict[str, float]:
        """Metrics of a finished repetition's run; the UI compares runs by the first."""
        numbers = numbers_of(result)
        return {"oos_sharpe": numbers["oos_sharpe"]} | numbers

    def in_words(self, result: Result) -> str:
        """What came of a finished repetition, for whoever waits."""
        return f"OOS Sharpe {numbers_of(result)['oos_sharpe']:.2f}"

    def tags(self, result: Result) -> dict[str, str]:
        """Further tags of a finished repetition's run."""
        return {}

    @cached_property
    def found(self) -> dict[int, Result]:
        """Repetitions by number that were finished before; those that only the disk knows of are delivered."""
        found: dict[int, Result] = {}
        if self.job.fresh:
            return found
        for number, key in self.keys.items():
            if delivered := self.production.find_result(key):
                found[number] = from_json(self.kind, delivered.text)
                self.runs[number] = delivered.source
            elif kept := self.kept.result(key):
                found[number] = from_json(self.kind, kept)
                self._deliver(found[number])
        return found

    def _deliver(self, result: Result) -> None:
        """Log a repetition as a run nested below the production run. The active run is the command's, and another."""
        key = self.keys[result.repetition]
        client = self.production.client
        created = client.create_run(
            client.get_run(self.production.run_id).info.experiment_id,
            run_name=self.title(result),
            tags={
                "mlflow.parentRunId": self.production.run_id,
                "phase": f"{self.name} repetition",
                "data_sha256": self.job.data.sha256,
                "git_commit": git_commit(),
            }
            | self.tags(result),
        )
        run = Run(created.info.run_id)
        self.runs[result.repetition] = run.run_id
        run.metrics(self.figures(result))
        run.finish(to_json(result), key)
        client.set_terminated(run.run_id)
        self.kept.drop_result(key)
        self.kept.drop_folds(key)  # a worker that was killed once its result was kept has left them


def _repetition(common: _Common, item: tuple[int, str]) -> Any:
    """One repetition, in a worker; kept on disk before anybody hears of it."""
    (number, key), kept, started = item, Kept(), time.perf_counter()
    if common.job.fresh:
        kept.drop_folds(key)
    job, measure = common.repeat(common.job, number)
    chosen = common.chosen.under(job.config) if common.chosen else None
    walked = out_of_sample(job, Silent(kept), Quiet(), store=kept.folds(key), chosen=chosen)
    result = measure(walked, time.perf_counter() - started)
    kept.keep_result(key, to_json(result))
    kept.drop_folds(key)
    return result


def numbers_of(result: Any) -> dict[str, float]:
    """The fields of a frozen dataclass that are numbers."""
    return {name: value for name, value in asdict(result).items() if isinstance(value, (int, float))}


def table_of(results: Sequence[Any]) -> dict[str, list[Any]]:
    """Frozen dataclasses of one kind as columns; lists become text."""

    def cell(value: Any) -> Any:
        return ", ".join(value) if isinstance(value, tuple) else value

    return {f.name: [cell(getattr(one, f.name)) for one in results] for f in fields(results[0])}
