"""The panel: features and returns aligned by bar and instrument.

Shapes: T bars, A instruments (assets), F features, R rows of a long table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

AHEAD = ".ahead"
"""Suffix of the column that holds a known-in-advance feature's value at the bar in which the position is held"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """Features and returns of A instruments over T bars.

    times          (T,)       datetime64, strictly increasing
    symbols        (A,)       instrument names
    feature_names  (F,)       column names, `<group>_<name>`
    features       (T, A, F)  float32, NaN = missing; known once bar t has closed
    returns        (T, A)     float64, simple return of bar t, NaN = not traded
    """

    times: NDArray[np.datetime64]
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...]
    features: NDArray[np.float32]
    returns: NDArray[np.float64]

    def __post_init__(self) -> None:
        expected = (len(self.times), len(self.symbols), len(self.feature_names))
        if self.features.shape != expected:
            raise ValueError(f"features have shape {self.features.shape}, times, symbols and names say {expected}")
        if self.returns.shape != expected[:2]:
            raise ValueError(f"returns have shape {self.returns.shape}, times and symbols say {expected[:2]}")
        for name, kind in (("features", np.float32), ("returns", np.float64)):
            if getattr(self, name).dtype != kind:
                raise ValueError(f"{name} are {getattr(self, name).dtype}, they must be {np.dtype(kind)}")
        if len(self.times) > 1 and not (np.diff(self.times.astype(np.int64)) > 0).all():
            raise ValueError("times are not strictly increasing: sort the bars and remove duplicates")

    @classmethod
    def from_columns(
        cls,
        columns: Mapping[str, NDArray[np.generic]],
        *,
        feature_names: Sequence[str] | None = None,
        symbols: Sequence[str] | None = None,
        known: Sequence[str] = (),
        lead_bars: int = 2,
    ) -> Panel:
        """Pivot a long table, one row per (bar, instrument), given as a mapping of column name to array (R,).

        Keys: `date` or `timestamp`, `symbol`, `ret_1d` and/or `close` (`ret_1d` prevails; from `close` a return is
        taken against the instrument's previous row), and numeric feature columns. Rows may come in any order.
        `feature_names` and `symbols` select and order features and instruments; by default all other columns in table
        order, and all symbols sorted. For each column in `known` a feature `<name>.ahead` is added, its value
        `lead_bars` later; the table's last bars, if no instrument has a return there, only supply these values and are
        dropped from the panel.

        Raises ValueError for a missing column, an infinite value, two rows of the same bar and symbol, or a table
        without any row of `symbols`.
        """
        time_key = next((key for key in ("timestamp", "date") if key in columns), None)
        absent = [] if time_key else ["date (or timestamp)"]
        absent += [] if "symbol" in columns else ["symbol"]
        absent += [] if "ret_1d" in columns or "close" in columns else ["ret_1d (or close)"]
        plain = [name for name in feature_names or () if not name.endswith(AHEAD)]
        absent += [name for name in dict.fromkeys((*plain, *known)) if name not in columns]
        if absent:
            raise ValueError(f"the table lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}")
        assert time_key is not None
        if feature_names is None:
            plain = [name for name in columns if name not in {"date", "timestamp", "symbol", "close", "ret_1d"}]
        wanted = list(dict.fromkeys((*plain, *known)))

        names = np.asarray(columns["symbol"]).astype(str)
        kept_symbols = tuple(symbols) if symbols is not None else tuple(np.unique(names).tolist())
        code = {symbol: i for i, symbol in enumerate(kept_symbols)}
        asset = np.array([code.get(name, -1) for name in names.tolist()], dtype=np.int64)
        rows = np.flatnonzero(asset >= 0)
        if not len(rows):
            held = ", ".join(dict.fromkeys(names.tolist()[:12]))
            raise ValueError(f"the table holds no row of {', '.join(kept_symbols[:12])}: its symbols are {held}")
        asset = asset[rows]
        times, bar = np.unique(np.asarray(columns[time_key])[rows].astype("datetime64[us]"), return_inverse=True)
        n_bars, n_assets = len(times), len(kept_symbols)
        cell = bar * n_assets + asset
        if len(np.unique(cell)) < len(cell):
            raise ValueError("the table holds two rows of the same bar and symbol: remove the duplicates")

        def pivot(name: str) -> NDArray[np.float64]:
            out = np.full(n_bars * n_assets, np.nan)
            out[cell] = np.asarray(columns[name])[rows].astype(np.float64)
            return out.reshape(n_bars, n_assets)

        features = np.full((n_bars, n_assets, len(wanted)), np.nan, dtype=np.float32)
        for i, name in enumerate(wanted):
            features[:, :, i] = pivot(name)
        infinite = [name for i, name in enumerate(wanted) if np.isinf(features[:, :, i]).any()]
        if infinite:
            raise ValueError(f"infinite values in {', '.join(infinite)}: write them as missing")
        returns = pivot("ret_1d") if "ret_1d" in columns else _close_to_close(pivot("close"))
        if np.isinf(returns).any():
            raise ValueError("infinite returns in ret_1d (or from a close of 0): write them as missing")
        panel = cls(times=times, symbols=kept_symbols, feature_names=tuple(wanted), features=features, returns=returns)
        if known:
            panel = panel._with_ahead(known, lead_bars)
        return panel if feature_names is None else panel.select(feature_names)

    def _with_ahead(self, known: Sequence[str], lead_bars: int) -> Panel:
        """Add the `.ahead` columns, and drop the last bars if no instrument has a return there."""
        columns = [self.feature_names.index(name) for name in known]
        ahead = np.full((*self.returns.shape, len(columns)), np.nan, dtype=np.float32)
        ahead[:-lead_bars] = self.features[lead_bars:][:, :, columns]
        traded = np.flatnonzero(np.isfinite(self.returns).any(axis=1))
        n_bars = int(traded[-1]) + 1 if len(traded) else len(self.times)
        wide = replace(
            self,
            feature_names=(*self.feature_names, *(name + AHEAD for name in known)),
            features=np.concatenate([self.features, ahead], axis=2),
        )
        return wide.first_bars(n_bars)

    def first_bars(self, n_bars: int) -> Panel:
        """The panel of the first `n_bars` bars only."""
        return replace(self, times=self.times[:n_bars], features=self.features[:n_bars], returns=self.returns[:n_bars])

    def select(self, feature_names: Sequence[str]) -> Panel:
        """The panel with only these features, in this order. Raises ValueError if the panel lacks one."""
        position = {name: i for i, name in enumerate(self.feature_names)}
        absent = [name for name in feature_names if name not in position]
        if absent:
            raise ValueError(f"the panel lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}")
        columns = [position[name] for name in feature_names]
        features = np.ascontiguousarray(
            self.features[:, :, columns]
        )  # the variables of a cell lie side by side in memory
        return replace(self, feature_names=tuple(feature_names), features=features)


def group_of(feature_name: str) -> str:
    """Group of a feature: its name up to the first underscore, `pvol` for `pvol_client_opt_put_net_z21`."""
    return feature_name.split("_", 1)[0]


def _close_to_close(close: NDArray[np.float64]) -> NDArray[np.float64]:
    """Simple returns (T, A) against each instrument's previous known close; NaN without one."""
    returns = np.full(close.shape, np.nan, dtype=np.float64)
    for asset in range(close.shape[1]):
        traded = np.flatnonzero(np.isfinite(close[:, asset]))
        price = close[traded, asset]
        returns[traded[1:], asset] = price[1:] / price[:-1] - 1.0
    return returns
