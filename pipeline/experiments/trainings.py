"""The trainings of both arms of a comparison: announced, spread over the machine, kept, and found again.

Each is the walk-forward of one arm with one seed. They are repetitions (repetitions.py): whatever is killed goes on
from the trainings that are finished, and inside one from its finished folds; more seeds add to those that are there. On
the holdout each training is a look at it, entered in the ledger before anybody can see its number.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import numpy as np

from pipeline.config.schema import Config
from pipeline.counted import counted
from pipeline.execution import n_workers
from pipeline.experiments.repetitions import Repetitions, numbers_of
from pipeline.experiments.trained import Training, arm_and_config, metric_names, training
from pipeline.job import Job
from pipeline.phases.production import Choice
from pipeline.statistics.looks import HoldoutRecord
from pipeline.statistics.paired import Compared
from pipeline.tracking import ledger
from pipeline.tracking.progress import Reporter
from pipeline.tracking.runs import Run

ARM = "arm"
"""Tag of a training: what its arm is called where the UI shows the mean of each."""
Kind = Literal["fixed-selection", "whole-job"]
"""fixed-selection: columns and parameters chosen once, network seeds vary. whole-job: everything is redone by seed."""


class Trainings(Repetitions[Training]):
    """Iterates over the trainings of both arms, which take turns: seed by seed the baseline's and the candidate's."""

    def __init__(
        self,
        kind: Kind,
        arms: tuple[Config, Config],
        segment: Compared,
        job: Job,
        own: Run,
        reporter: Reporter,
        n_seeds: int,
        chosen: Choice | None,
    ) -> None:
        """own: the comparison's run · chosen: columns and parameters of all, with `fixed-selection`."""
        self.arms, self.segment = arms, segment
        repeat = partial(training, arms, segment)
        settings = [arm.record_settings() for arm in arms]
        count = len(arms) * n_seeds
        super().__init__(
            kind, Training, repeat, job, own, reporter, count, chosen=chosen, segment=segment, arms=settings
        )

    def announce(self) -> None:
        """Say what the comparison costs: how many trainings, how many are there already, and the time of the others."""
        finished = list(self.found.values())
        n, n_left = len(self.keys), len(self.keys) - len(finished)
        seeds = f"{counted(n // 2, 'seed')} for each of two arms"
        what = f"{n} trainings ({seeds}) of one selection"
        if not self.chosen:
            what = f"{n} whole jobs ({seeds}), each with its own exploration and tuning"
        left = f"; {n_left} are left" if finished else ""
        time = ""
        if n_left:
            time = "; how long that takes is said once the first is done"
            if finished:
                time = f"; {self.time_left(n_left, sum(one.seconds for one in finished) / len(finished))}"
        self.reporter.say(f"{self.name}: {what}{left}{time}")

    def time_left(self, n_left: int, seconds: float) -> str:
        """An estimate in words, from the seconds of one training."""
        at_once = min(n_workers(self.job.device), n_left)
        minutes = math.ceil(n_left / at_once) * seconds / 60.0
        return f"about {max(1, round(minutes))} min for {n_left}, at {seconds:.0f} s each and {at_once} at a time"

    def title(self, result: Training) -> str:
        return f"purge gap {result.purge_gap} seed {result.seed}"

    def figures(self, result: Training) -> dict[str, float]:
        names = dict(zip(("sharpe", "sharpe_neutral"), metric_names(self.segment), strict=True))
        numbers = numbers_of(result)
        first = {name: numbers.pop(field) for field, name in names.items() if field in numbers}
        return first | numbers

    def in_words(self, result: Training) -> str:
        return f"Sharpe {result.sharpe:.2f} on {self.segment} bars"

    def tags(self, result: Training) -> dict[str, str]:
        return {"purge_gap": str(result.purge_gap), ARM: f"purge gap {result.purge_gap}"}

    def look(self, result: Training) -> ledger.Look:
        """A training's look at the holdout, without its number."""
        _, config = arm_and_config(self.arms, result.repetition)
        key = self.keys[result.repetition]
        return ledger.Look(
            kind="comparison",
            first=result.earned.times[0],
            last=result.earned.times[-1],
            symbols=self.job.data.panel.symbols,
            config_sha256=self.chosen.under(config).sha256 if self.chosen else config.sha256,
            run=self.production.run_id,
            evaluation=key,
            n_bars=len(result.earned.times),
        )

    def seen(self, result: Training) -> HoldoutRecord:
        """What a training saw of the holdout."""
        panel = self.job.data.panel
        decided = np.searchsorted(panel.times, np.array(result.earned.times, dtype=panel.times.dtype))
        held = decided + 1 + self.job.config.execution_delay_bars
        return HoldoutRecord(panel.times[held], panel.symbols, panel.returns[held], np.array(result.earned.net))

    def _deliver(self, result: Training) -> None:
        if self.segment == "holdout":
            ledger.enter(self.look(result))
        super()._deliver(result)
        if self.n_computed == 1 and len(self.found) + 1 < len(self.keys):
            n_left = len(self.keys) - len(self.found) - 1
            self.reporter.say(f"{self.name}: {self.time_left(n_left, result.seconds)}")
