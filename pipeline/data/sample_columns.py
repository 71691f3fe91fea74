"""The columns of a sample table: names, values, missing values, and columns without information.

Shapes: T bars of the table, N = HISTORY + T bars with those before it, A instruments.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.float64]
Column = NDArray[np.float32]

PLANTED = ("pvol_client_opt_put_net_z21", "fut_basis_z21", "opt_pcr_z21", "nsevol_deliv_z21", "settle_span_z21")
"""Columns that carry the signal."""
# Series by group; a star marks one that is the same for every instrument.
SERIES = {
    "pvol": "client_opt_put_net client_opt_call_net client_fut_net fii_opt_put_net fii_fut_net* dii_fut_net*",
    "inst": "dii_net* fii_net* net* dii_fii_ratio*",
    "brd": "netadv* above50* above200* newhighs*",
    "fii": "net* gross* idxfut_longshare* stkfut_net*",
    "mktact": "turnover* trades* delivery* ticket*",
    "micro": "spread depth imbalance kyle",
    "nfo": "value* oi* bank_share* turnover_oi*",
    "nsevol": "deliv turnover amihud avgprice",
    "settle": "dte* is_expiry* span sigma basis",
    "opt": "pcr oi callwall putwall",
    "optx": "atm_iv skew term straddle",
    "intra": "rv jump last30 vwapgap",
    "px": "ret absret range logvol downside",
    "fut": "basis oi calspread rollover",
    "vix": "level* vrp* term* gap*",
    "ban": "stocks* entries* share*",
    "crypto": "btc_ret* btc_vol* eth_ret* eth_btc*",
}
TRANSFORMS = ("", "_chg1", "_chg5", "_mean5", "_z21", "_z63")
"""How a column is made of its series: as it is, or its change, mean or z-score over so many bars."""
CALENDAR = ("settle_dte", "settle_is_expiry")
HISTORY = 300
"""Bars before the table, from which the first values of its columns are computed."""


def feature_names(n_features: int) -> list[str]:
    """The planted columns and the first of every group in turn, listed by group; all of them if that is too few."""
    groups = [
        [f"{group}_{series.rstrip('*')}{end}" for end in TRANSFORMS for series in listed.split()]
        for group, listed in SERIES.items()
    ]
    groups = [[name for name in group if not name.startswith(CALENDAR) or name in CALENDAR] for group in groups]
    in_turn = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
    chosen = set([*PLANTED, *(name for name in in_turn if name not in PLANTED)][: max(n_features, len(PLANTED))])
    return [name for group in groups for name in group if name in chosen]


def autoregressive(rng: np.random.Generator, persistence: Array, n: int, n_symbols: int) -> Array:
    """(len(persistence), N, A) independent AR(1) series of variance 1."""
    noise = rng.standard_normal((len(persistence), n, n_symbols))
    fresh = np.sqrt(1.0 - persistence**2)[:, None]
    for t in range(1, n):
        noise[:, t] = persistence[:, None] * noise[:, t - 1] + fresh * noise[:, t]
    return noise


def feature_values(
    rng: np.random.Generator, names: list[str], shocks: Array, volatility: Array, dates: NDArray[np.datetime64]
) -> dict[str, Array]:
    """Values (N, A) by column, complete from bar HISTORY on, in the order of `names`."""
    n, n_symbols = shocks.shape
    noise = np.exp(0.3 * rng.standard_normal(shocks.shape))
    days_to_expiry = -dates.astype(np.int64) % 7  # to the next Thursday: day 0, 1970-01-01, was one
    drawn = {
        "px_ret": shocks,
        "px_absret": np.abs(shocks),
        "px_range": volatility * noise,
        "px_logvol": np.log(volatility),
        "px_downside": np.minimum(shocks, 0.0) ** 2,
        "vix_level": 1600.0 * volatility.mean(axis=1, keepdims=True) * noise[:, :1] ** 0.3,
        "intra_rv": 16.0 * volatility * noise**0.7,
        "settle_sigma": np.sqrt(0.06 * shocks**2 + 0.94 * volatility**2),
        "settle_dte": days_to_expiry[:, None].astype(np.float64),
        "settle_is_expiry": (days_to_expiry == 0)[:, None].astype(np.float64),
    }
    columns: dict[str, Array] = {}
    wanted = set(names)
    for group, listed in SERIES.items():
        for star in listed.split():
            series = f"{group}_{star.rstrip('*')}"
            persistence, size, middle = rng.uniform(0.5, 0.97), 10.0 ** rng.uniform(-1.0, 3.0), rng.normal()
            values = drawn.get(series)
            if values is None:
                width = 1 if star.endswith("*") else n_symbols
                values = size * (middle + autoregressive(rng, np.array([persistence]), n, width)[0])
            for end in TRANSFORMS:
                if series + end in wanted:
                    columns[series + end] = np.broadcast_to(_transform(values, end), (n, n_symbols))
    return {name: columns[name] for name in names}


def _transform(values: Array, end: str) -> Array:
    """One of TRANSFORMS of a series (N, A), computed from its past alone; NaN where the past is too short."""
    if end == "":
        return values
    bars = int(end.lstrip("_chgmeanz"))
    out = np.full_like(values, np.nan)
    if end.startswith("_chg"):
        out[bars:] = values[bars:] - values[:-bars]
        return out
    window = sliding_window_view(values, bars, axis=0)  # (N - bars + 1, A, bars)
    mean = window.mean(axis=2)
    out[bars - 1 :] = mean if end.startswith("_mean") else (values[bars - 1 :] - mean) / window.std(axis=2)
    return out


def remove_values(rng: np.random.Generator, columns: dict[str, Column], n_symbols: int) -> None:
    """Set values to NaN in place as in real tables: late starts, gaps, a group that the last instrument lacks."""
    for name, values in columns.items():
        fate, start, gaps = rng.uniform(), rng.uniform(0.05, 0.35), rng.uniform(size=values.shape)
        if name in PLANTED or name in CALENDAR:
            continue
        if fate < 0.12:
            values[: int(start * len(values))] = np.nan
        elif fate < 0.4:
            values[gaps < 0.03] = np.nan
        if name.startswith("intra_") and n_symbols > 1:
            values[:, -1] = np.nan


def add_degenerate(rng: np.random.Generator, columns: dict[str, Column], count: int) -> dict[str, str]:
    """Add `count` columns without new information in place, and return the reason for each by name.

    Copies have fewer values than the column they repeat, so that it is the copy that a prefilter drops.
    """
    sources = [name for name in columns if name not in PLANTED]
    sources = [sources[i] for i in rng.permutation(len(sources))]
    why: dict[str, str] = {}
    for i in range(count):
        source = sources[i // 4]
        values = columns[source].copy()
        if i % 4 == 0:
            name, reason = f"{source}_flag", "constant"
            values[:] = float(i % 8 == 0)
        elif i % 4 == 1:
            name, reason = f"{source}_legacy", "more than half missing in every instrument"
            values[rng.uniform(size=values.shape) < rng.uniform(0.7, 0.95)] = np.nan
        elif i % 4 == 2:
            name, reason = f"{source}_dup", f"copy of {source}"
        else:
            name, reason = f"{source}_pct", f"linear in {source}"
            values = np.float32(-100.0) * values + np.nanstd(values)
        if i % 4 >= 2:
            values[: max(2, len(values) // 50)] = np.nan
        columns[name], why[name] = values, reason
    return why
