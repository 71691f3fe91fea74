"""Positions from a registered model, as a trader's process asks for them. Shapes: T bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.registry.versions import ARTIFACT, resolve_and_download
from tft.checkpoint import TrainedModel, load_checkpoint
from tft.predict import Prediction, Predictor, Regime, State, last_bar

Side = Literal["buy", "sell", "long", "short"]
_DIRECTION = {"buy": 1, "long": 1, "sell": -1, "short": -1}


@dataclass(frozen=True)
class Signal:
    """One instrument's decision. Returns are per horizon and not scaled; None where the loss mode gives none."""

    symbol: str
    decided_at: np.datetime64
    """The bar whose close the decision is made with."""
    effective_at: np.datetime64
    """The earliest time of the bar in which the position is held; holidays are not known here."""
    effective_after_bars: int
    position: float | None
    """Fraction of the instrument's capital, signed; None before its first forecast."""
    conviction: float
    """Absolute capped raw position as a share of the cap, in [0, 1]."""
    probability_up: float | None
    mu: float | None
    sigma: float | None
    quantiles: Mapping[str, float] | None
    regime: Regime


@dataclass(frozen=True)
class RegimeOverlay:
    """The view that a tick strategy asks for during the session in which the position is held.

    In a bullish regime only buying is allowed, in a bearish one only selling, in a neutral one both. Sizes and limits
    are scaled by the conviction of the forecast.
    """

    signal: Signal

    def allows(self, side: Side) -> bool:
        """Whether a new position on this side may be opened. Raises ValueError for any other word."""
        if side not in _DIRECTION:
            raise ValueError(f"side is {side!r}, it must be one of {', '.join(_DIRECTION)}")
        return self.signal.regime == "neutral" or (self.signal.regime == "bullish") == (_DIRECTION[side] > 0)

    def position_limit(self, base: float) -> float:
        """The largest absolute position: `base` scaled by conviction. Raises ValueError for a `base` below 0."""
        if not base >= 0.0:
            raise ValueError(f"base is {base}, a limit must be at least 0")
        return base * self.signal.conviction

    def scale(self, size: float) -> float:
        """A signed order size, scaled by conviction; 0 where its side is not allowed."""
        if size == 0.0 or not self.allows("buy" if size > 0.0 else "sell"):
            return 0.0
        return size * self.signal.conviction


class TFTStrategy:
    """A registered model that decides bar by bar.

    The first decision runs the smoothing from flat over the whole table it is given; afterwards positions and regimes
    are carried from one decision to the next.
    """

    def __init__(self, trained: TrainedModel, *, version: str = "") -> None:
        self.trained, self.version = trained, version
        self.predictor = Predictor(trained)
        self._state: State | None = None
        self._signals: dict[str, Signal] = {}

    @classmethod
    def from_registry(
        cls,
        name: str = "tft-production",
        stage: str | None = "Production",
        *,
        alias: str | None = None,
        version: str | int | None = None,
    ) -> Self:
        """Load by stage, or by alias or version where one is given.

        The registry is MLflow's current one (`MLFLOW_TRACKING_URI`). The checkpoint is downloaded once and read from
        its safetensors; while the registry cannot be reached, the last version it named is used, with a warning.
        Raises RegistryError if there is no such model.
        """
        asked = None if alias or version else stage
        found, folder = resolve_and_download(
            name, stage=asked, alias=alias, version=None if version is None else str(version)
        )
        return cls(load_checkpoint(folder / ARTIFACT), version=found)

    def decide(self, bars: Any) -> dict[str, Signal]:
        """Signals by symbol for the newest bar of `bars`.

        `bars` is a long table (polars, pandas, or a mapping of arrays) with the columns the model was trained on and at
        least `min_history_bars` bars; rows of other symbols are left out. Bars since the last decision are decided one
        after the other; asked again for the same bar, the answer is the same. Raises ValueError naming a missing
        column, or if the table ends before the last decision.
        """
        panel = self.predictor.table(as_columns(bars))
        newest = panel.times[-1]
        if self._state is not None:
            if newest == self._state.time:
                return self._signals
            if newest < self._state.time:
                raise ValueError(
                    f"the table ends at {newest}, before the last decision ({self._state.time}): give newer bars, or a "
                    f"new strategy to start over"
                )
        prediction = self.predictor.run(panel, self._state)
        self._state = prediction.state
        self._signals = self._to_signals(prediction, panel.times)
        return self._signals

    def _to_signals(self, prediction: Prediction, times: NDArray[np.datetime64]) -> dict[str, Signal]:
        columns = last_bar(prediction)
        after = 1 + self.trained.timing.delay_bars
        effective = _bars_later(times, after)
        cap = self.trained.positions.max_position

        def number(name: str, row: int) -> float | None:
            value = float(cast(Any, columns[name][row]))
            return value if np.isfinite(value) else None

        signals = {}
        for row, symbol in enumerate(prediction.symbols):
            raw = number("raw_position", row)
            quantiles = {name: number(name, row) for name in columns if name.startswith("q") and name[1:].isdigit()}
            known = {name: value for name, value in quantiles.items() if value is not None}
            signals[symbol] = Signal(
                symbol=symbol,
                decided_at=times[-1],
                effective_at=effective,
                effective_after_bars=after,
                position=number("position", row),
                conviction=min(abs(raw), cap) / cap if raw is not None else 0.0,
                probability_up=number("probability_up", row),
                mu=number("mu", row),
                sigma=number("sigma", row),
                quantiles=known or None,
                regime=cast(Regime, str(columns["regime"][row])),
            )
        return signals


def as_columns(bars: Any) -> dict[str, NDArray[np.generic]]:
    """Arrays by column name of a polars or pandas frame or a mapping. Raises ValueError for anything else."""
    if isinstance(bars, pl.LazyFrame):
        bars = bars.collect()
    if isinstance(bars, pl.DataFrame):
        return {name: bars[name].to_numpy() for name in bars.columns}
    if not isinstance(bars, Mapping) and not hasattr(bars, "columns"):  # pandas is not loaded for this
        raise ValueError(f"bars is {type(bars).__name__}, it must be a polars or pandas table, or a mapping of arrays")
    return {str(name): np.asarray(bars[name]) for name in bars}


def _bars_later(times: NDArray[np.datetime64], n_bars: int) -> np.datetime64:
    """Earliest time of the bar that comes `n_bars` after the last of `times` (T,).

    Daily bars count weekdays, or all days where the table has weekends; other bars are spaced as the median.
    """
    days = times.astype("datetime64[D]")
    if (days.astype(times.dtype) == times).all():
        weekday_only = bool(np.is_busday(days).mean() > 0.99)
        every_day = days[-1] + np.timedelta64(n_bars, "D")
        later = np.busday_offset(days[-1], n_bars, roll="forward") if weekday_only else every_day
        return cast(np.datetime64, later.astype(times.dtype))
    steps = np.diff(times)
    spacing = np.median(steps.astype(np.int64)).astype(np.int64).astype(steps.dtype)
    return cast(np.datetime64, times[-1] + spacing * n_bars)
