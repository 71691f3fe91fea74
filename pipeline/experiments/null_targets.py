"""Targets that can hold no signal: the market's own returns, at bars where no feature can know of them.

    r*_t = sigma_(t-1) * z_(t-k),    z_t = r_t / sigma_(t-1)

One shift k for all instruments: what they do together, how wild their returns are and how calm and wild bars follow
each other stays as it is; what a feature says about the return that it is followed by does not. Features and sigma are
left alone. The shift goes around the sequence of complete bars: those on which every instrument trades and its sigma
was known the bar before. No other bar is traded.

Shapes: T bars, A instruments, n complete bars. Repetitions count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.config.schema import Config
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.job import Job
from pipeline.phases.folds import exploration_folds, production_folds, tuning_folds
from pipeline.statistics.significance import admissible_shifts
from tft.folds import Fold
from tft.metrics import MIN_BARS
from tft.volatility import Timing, ewm_volatility

MIN_SHIFTS = 19
"""With fewer draws no p-value could reach 0.05."""
_SHIFTS, _ROWS = 1, 2
"""Streams of random numbers."""


class NullTargets:
    """Every repetition's targets; the same repetition has the same targets, however many there are."""

    def __init__(self, data: Dataset, config: Config) -> None:
        """Raises ValueError if there are not two complete bars."""
        self.data, self.seed = data, config.seed
        returns = data.panel.returns
        self.sigma: NDArray[np.float64] = ewm_volatility(returns)
        """(T, A), of the real returns"""
        before = np.vstack([np.full((1, returns.shape[1]), np.nan), self.sigma[:-1]])
        self._known = np.isfinite(returns) & np.isfinite(before)  # (T, A)
        self.complete: NDArray[np.int64] = np.flatnonzero(self._known.all(axis=1))
        """(n,) bars of the panel"""
        n_complete = len(self.complete)
        if n_complete < 2:
            raise ValueError(
                f"{data.source} has {n_complete} bars on which all of {', '.join(data.panel.symbols)} trade and their "
                f"volatility is known, a placebo needs at least 2: leave out the instrument that trades apart"
            )
        self.scale: NDArray[np.float64] = before[self.complete]
        """sigma_(t-1) (n, A)"""
        self.scaled: NDArray[np.float64] = returns[self.complete] / self.scale
        """z (n, A)"""
        admissible = admissible_shifts(
            n_complete,
            lookback=config.data.feature_lookback_bars,
            window=config.warm_up_bars + 1,
            horizon=config.timing.label_bars,
        )
        self.method: Literal["shift", "stationary bootstrap"] = (
            "shift" if len(admissible) >= MIN_SHIFTS else "stationary bootstrap"
        )
        self._shifts = np.random.default_rng([self.seed, _SHIFTS]).permutation(np.asarray(admissible))

    @property
    def description(self) -> str:
        """Which null this is, and on how many bars; where many are lost, the instrument that costs most of them."""
        n_bars = len(self.data.panel.times)
        text = f"{len(self.complete)} of {n_bars} bars are complete"
        if len(self.complete) < 0.9 * n_bars:
            symbol, n_alone = self._costliest()
            text += f" ({symbol} alone is missing in {n_alone})"
        if self.method == "shift":
            return f"{text}, targets are shifted by {len(self._shifts)} admissible distances"
        return (
            f"{text}, which admit {len(self._shifts)} shifts of the targets, fewer than {MIN_SHIFTS}: their rows are "
            f"resampled by a stationary bootstrap"
        )

    def _costliest(self) -> tuple[str, int]:
        """The instrument without which most bars more were complete, and how many."""
        nearly = self._known.sum(axis=1) == self._known.shape[1] - 1
        alone = (nearly[:, None] & ~self._known).sum(axis=0)
        return self.data.panel.symbols[int(np.argmax(alone))], int(alone.max())

    def check(self, folds: Sequence[Fold], timing: Timing) -> None:
        """Raises ValueError for a fold of which fewer than MIN_BARS training bars have a target."""
        traded = np.zeros(len(self.data.panel.times) + timing.label_bars, dtype=bool)
        traded[self.complete] = True
        ends = range(timing.delay_bars + 1, timing.label_bars + 1)
        for fold in folds:
            bars = np.arange(fold.train.start, fold.train.stop)
            n_targets = int(np.any([traded[bars + ahead] for ahead in ends], axis=0).sum())
            if n_targets < MIN_BARS:
                times, (symbol, n_alone) = self.data.panel.times, self._costliest()
                raise ValueError(
                    f"without signal the training bars {times[bars[0]]} to {times[bars[-1]]} of fold {fold.index} hold "
                    f"{n_targets} targets, the least is {MIN_BARS}: not all instruments trade there ({symbol} alone is "
                    f"missing in {n_alone} bars of the table), so take one out of the table, or start it later"
                )

    def most(self, repetitions: int) -> int:
        """How many of so many repetitions there can be: no two have the same shift."""
        return min(repetitions, len(self._shifts)) if self.method == "shift" else repetitions

    def shift(self, repetition: int) -> int | None:
        """k in complete bars; None where rows are resampled."""
        return int(self._shifts[repetition - 1]) if self.method == "shift" else None

    def rows(self, repetition: int) -> NDArray[np.int64]:
        """(n,) which complete bar each takes its scaled returns from.

        With fewer than MIN_SHIFTS admissible shifts these are rows of a stationary bootstrap (Politis & Romano 1994):
        blocks of a geometric length around n^(1/3), the order at which its error is least (Politis & White 2004).
        What z still remembers lies within a few bars, since its volatility is divided out, and blocks stay far shorter
        than what a model could learn from. A block may lie where a feature knows of it, by chance and never twice at
        the same distance: so this null is approximate where the other is exact.
        """
        n = len(self.complete)
        if (shift := self.shift(repetition)) is not None:
            return (np.arange(n) - shift) % n
        rng = np.random.default_rng([self.seed, _ROWS, repetition])
        begins = rng.random(n) < n ** (-1.0 / 3.0)
        begins[0] = True
        start = np.flatnonzero(begins)  # of each block
        block = np.cumsum(begins) - 1  # of each bar
        return np.asarray((rng.integers(n, size=len(start))[block] + np.arange(n) - start[block]) % n)

    def returns(self, repetition: int) -> NDArray[np.float64]:
        """r* (T, A); NaN where a bar is not complete."""
        out = np.full_like(self.data.panel.returns, np.nan)
        out[self.complete] = self.scale * self.scaled[self.rows(repetition)]
        return out

    def benchmark(self, repetition: int) -> NDArray[np.float64] | None:
        """The configured benchmark (T,) moved like the returns, with its own volatility put back; NaN where a bar is
        not complete. None without one."""
        benchmark = self.data.benchmark
        if benchmark is None:
            return None
        sigma = ewm_volatility(benchmark[:, None])[:, 0]
        before = np.concatenate([[np.nan], sigma[:-1]])[self.complete]
        scaled = benchmark[self.complete] / before
        out = np.full_like(benchmark, np.nan)
        out[self.complete] = before * scaled[self.rows(repetition)]
        return out

    def dataset(self, repetition: int, returns: NDArray[np.float64] | None = None) -> Dataset:
        """The table with a repetition's returns, or these (T, A), in place of its own; features and sigma stay."""
        panel = replace(self.data.panel, returns=self.returns(repetition) if returns is None else returns)
        return replace(
            self.data,
            panel=panel,
            sha256=panel_sha256(panel, self.sigma),
            sigma=self.sigma,
            benchmark=self.benchmark(repetition),
        )


def checked_null_targets(job: Job) -> NullTargets:
    """Targets without signal for the job's table, good for every phase.

    Raises ValueError where a fold would have too little to train on.
    """
    null, config = NullTargets(job.data, job.config), job.config
    folds = [
        *exploration_folds(config, job.n_development),
        *tuning_folds(config, job.n_development),
        *production_folds(config, len(job.data.panel.times)),
    ]
    null.check(folds, config.timing)
    return null
