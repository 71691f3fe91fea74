"""Long work shows itself: bars on a terminal, plain periodic lines where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tft.train import EpochReport

LINE_EVERY_S = 15.0


class Reporter:
    """One for a whole run. Steps of a phase are counted (fold epochs, trial folds); `detail` says how they go."""

    every_s = LINE_EVERY_S
    """At most so often a line says how far the phase is, and at its end."""

    def __init__(self, *, terminal: bool | None = None) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.on_terminal = self.console.is_terminal if terminal is None else terminal
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
            console=self.console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._phase = ""
        self._total = 0
        self._done = 0
        self._started = self._last_line = 0.0

    def __enter__(self) -> Reporter:
        if self.on_terminal:
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.on_terminal:
            self._bars.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self.on_terminal:
            self._bars.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def start(self, phase: str, total: int) -> None:
        """A phase of `total` steps begins."""
        self._phase, self._total, self._done = phase, total, 0
        self._started = self._last_line = time.monotonic()
        if self.on_terminal:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(phase, total=total, detail="")

    def step(self, detail: str, n: int = 1) -> None:
        """`n` steps are done."""
        self._done += n
        if self.on_terminal:
            if self._task is not None:
                self._bars.update(self._task, completed=self._done, detail=detail)
            return
        now = time.monotonic()
        if now - self._last_line >= self.every_s or self._done == self._total:
            self._last_line = now
            left = (now - self._started) / self._done * (self._total - self._done)
            self.show(
                f"{self._phase}: {self._done}/{self._total}, {_clock(now - self._started)} elapsed, "
                f"{_clock(left)} left, {detail}"
            )

    def show(self, line: str) -> None:
        """How far the phase is, where no terminal can draw it."""
        print(line, file=sys.stderr, flush=True)

    def skip(self, n: int) -> None:
        """`n` steps will not be needed (a fold stopped early)."""
        self._total -= n
        if self.on_terminal and self._task is not None:
            self._bars.update(self._task, total=self._total)

    def epochs(self, epochs: int, *loss_modes: str) -> Callable[[EpochReport], None]:
        """A callback of training that counts `epochs` steps a fold, and says fold, epoch and validation score.

        loss_modes: what the loss and the score are of, on whose scale they lie.
        """
        kind = ", ".join(dict.fromkeys(loss_modes))

        def report(epoch: EpochReport) -> None:
            folds = ", ".join(dict.fromkeys(str(index) for index in epoch.folds))
            score = sum(epoch.validation_score) / len(epoch.validation_score)
            loss = sum(epoch.train_loss) / len(epoch.train_loss)
            self.step(
                f"fold {folds} epoch {epoch.epoch + 1}/{epochs} {kind} loss {loss:.3f} validation {score:.3f}",
                n=len(epoch.folds),
            )
            if not epoch.n_active:
                self.skip((epochs - epoch.epoch - 1) * len(epoch.folds))

        return report


class Quiet(Reporter):
    """Says nothing: for work inside other work, which is told of from outside."""

    def __init__(self) -> None:
        super().__init__(terminal=False)

    def say(self, text: str) -> None:
        pass

    def start(self, phase: str, total: int) -> None:
        pass

    def step(self, detail: str, n: int = 1) -> None:
        pass

    def skip(self, n: int) -> None:
        pass


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
