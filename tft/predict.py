"""From a checkpoint and the latest bars to positions and regimes.

Shapes: T bars of the panel, n bars decided, A instruments, M forecast cells, D parameters of the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tft.checkpoint import TrainedModel
from tft.cross_section import hedged
from tft.forecast import forecast, mean_of_seeds, mixture, on_grid, plan, probability_of_up
from tft.head import QUANTILE_LEVELS
from tft.panel import Panel
from tft.positions import PositionPath, next_regime, position_path
from tft.table import Columns, panel_from_table
from tft.volatility import ewm_volatility
from tft.windows import DevicePanel, WindowSpace

Regime = Literal["bullish", "bearish", "neutral"]
REGIMES: dict[int, Regime] = {1: "bullish", -1: "bearish", 0: "neutral"}


@dataclass(frozen=True, eq=False)
class State:
    """State after a decision, from which the next one continues."""

    time: np.datetime64
    """Time of the last bar decided"""
    path: PositionPath
    regime: NDArray[np.int64]
    """(A,) in {-1, 0, 1}"""


@dataclass(frozen=True, eq=False)
class Prediction:
    """Decisions at n bars. Arrays are (n, A) unless stated otherwise, NaN where an instrument has no forecast.

    mu, sigma and quantiles describe the simple return over the horizon.
    """

    times: NDArray[np.datetime64]
    symbols: tuple[str, ...]
    raw_position: NDArray[np.float64]
    position: NDArray[np.float64]
    probability_up: NDArray[np.float64] | None
    """P(return > 0); None in `sharpe` mode"""
    mu: NDArray[np.float64] | None
    """Expected return; None unless the loss mode is `joint_mle`"""
    sigma: NDArray[np.float64] | None
    """Standard deviation of the return; None unless the loss mode is `joint_mle`"""
    quantiles: NDArray[np.float64] | None
    """(n, A, 7) at QUANTILE_LEVELS; None unless the loss mode is `joint_quantile`"""
    regime: NDArray[np.int64]
    """-1 bearish, 0 neutral, 1 bullish"""
    state: State
    """State after the last bar"""


class TooFewBars(ValueError):
    """The panel holds no complete look-back window that ends at a bar to be decided."""


class Predictor:
    """A trained model on a device, which decides the bars of a panel in the same tensor shapes as the backtest."""

    def __init__(self, trained: TrainedModel, device: torch.device | None = None) -> None:
        self.trained = trained
        self.device = device or torch.device("cpu")
        self.model = trained.network().to(self.device).eval()
        self.parameters = {name: value.to(self.device) for name, value in trained.parameters.items()}
        self.n_seeds = len(next(iter(self.parameters.values())))

    def run(self, panel: Panel, before: State | None = None) -> Prediction:
        """Decide every bar of the panel after the state `before`; without one, start flat at the first complete window.

        The panel must have the model's columns and symbols in the model's order. Raises TooFewBars if no bar can be
        decided.
        """
        trained = self.trained
        assert panel.feature_names == trained.feature_names
        assert panel.symbols == trained.symbols
        n_bars, n_assets = panel.returns.shape
        first = trained.config.seq_len - 1
        if before is not None:
            first = max(first, int(np.searchsorted(panel.times, before.time, side="right")))
        if first >= n_bars:
            newest = "none is newer than the last decision" if before is not None else "fewer than one look-back"
            raise TooFewBars(
                f"the table holds {n_bars} bars, {newest}: at least {trained.config.seq_len} bars up to a new one are "
                f"needed, {trained.min_history_bars} for decisions equal to the backtest's"
            )
        bars = range(first, n_bars)
        space = WindowSpace.from_features(
            panel.features,
            panel.times,
            panel.symbols,
            trained.scaler,
            seq_len=trained.config.seq_len,
            n_context=trained.config.n_context,
        )
        cells = space.targets(bars)
        volatility = ewm_volatility(panel.returns)[first:]
        on_device = DevicePanel(panel.features, self.device)
        mean, std = (torch.from_numpy(x)[None].to(self.device) for x in (trained.scaler.mean, trained.scaler.std))

        positions, distributions = [], []
        for seed in range(self.n_seeds):  # one network at a time, in the shapes of the backtest
            parameters = {name: value[seed : seed + 1] for name, value in self.parameters.items()}
            targets = plan([space], [cells], seeds=[trained.seed + seed], device=self.device)
            (forecasts,) = forecast(self.model, parameters, on_device, mean, std, targets)
            grid = on_grid(forecasts.position, cells, bars, n_assets)
            positions.append(hedged(grid, np.isfinite(grid), trained.correlation))
            distributions.append(forecasts.distribution)
        raw = trained.gain * mean_of_seeds(positions)
        path = position_path(
            raw,
            volatility,
            trained.positions,
            trained.timing,
            traded=np.isfinite(panel.returns[first:]),
            before=None if before is None else before.path,
        )

        unit = volatility * np.sqrt(trained.timing.horizon)  # one unit of y as a return
        up, mu, sigma, quantiles = self._in_return_units(
            [on_grid(each, cells, bars, n_assets) for each in distributions], unit
        )
        regime = np.zeros(n_assets, dtype=np.int64) if before is None else before.regime
        regimes = np.empty((len(bars), n_assets), dtype=np.int64)
        for row in range(len(bars)):
            regime = next_regime(regime, path.position[row], None if up is None else up[row], trained.regime)
            regimes[row] = regime
        return Prediction(
            times=panel.times[first:],
            symbols=panel.symbols,
            raw_position=raw,
            position=path.position,
            probability_up=up,
            mu=mu,
            sigma=sigma,
            quantiles=quantiles,
            regime=regimes,
            state=State(panel.times[-1], path, regime),
        )

    def _in_return_units(
        self, distributions: list[NDArray[np.float64]], unit: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64] | None, ...]:
        """Average the seeds' distributions (n, A, D), and convert them to returns by `unit` (n, A).

        Returns probability_up, mu, sigma (n, A) and quantiles (n, A, 7), None where the loss mode has no such output.
        """
        if self.trained.loss_mode == "sharpe":
            return None, None, None, None
        up = mean_of_seeds([probability_of_up(one) for one in distributions])
        in_returns = mixture(distributions) * unit[..., None]
        if self.trained.loss_mode == "joint_mle":
            return up, in_returns[..., 0], in_returns[..., 1], None
        return up, None, None, in_returns

    def table(self, columns: Columns) -> Panel:
        """Build the panel with the model's columns and symbols from a long table.

        Raises ValueError, which names them, if columns are missing, and for what `panel_from_table` refuses.
        """
        trained = self.trained
        return panel_from_table(
            columns,
            table_format=trained.table_format,
            feature_names=trained.feature_names,
            symbols=trained.symbols,
            known=trained.known,
            lead_bars=1 + trained.timing.delay_bars,
        )


def last_bar(prediction: Prediction) -> dict[str, NDArray[np.generic]]:
    """The last bar's decisions as columns with one row per instrument, the output of the registered model.

    Columns: `symbol`, `time` of the decision, `position`, `raw_position`, `probability_up`, `mu`, `sigma`, `q05` ..
    `q95`, `regime`. NaN where the loss mode has no such output or the instrument has no forecast.
    """
    n_assets = len(prediction.symbols)
    nothing = np.full(n_assets, np.nan)

    def newest(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return nothing if values is None else values[-1]

    columns: dict[str, NDArray[np.generic]] = {
        "symbol": np.array(prediction.symbols),
        "time": np.full(n_assets, prediction.times[-1]),
        "position": newest(prediction.position),
        "raw_position": newest(prediction.raw_position),
        "probability_up": newest(prediction.probability_up),
        "mu": newest(prediction.mu),
        "sigma": newest(prediction.sigma),
    }
    for i, level in enumerate(QUANTILE_LEVELS):
        columns[f"q{round(100 * level):02d}"] = newest(
            None if prediction.quantiles is None else prediction.quantiles[..., i]
        )
    columns["regime"] = np.array([REGIMES[int(code)] for code in prediction.regime[-1]])
    return columns
