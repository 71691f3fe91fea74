"""A seeded feature table that looks like a real one, and the truth about it.

Shapes: H bars of history before the table, T bars in it, N = H + T, A instruments.

The market is noise: GARCH volatility, fat-tailed shocks shared between the instruments, no drift. Features are causal
functions of past shocks and volatility, or autoregressive noise of their own; none of them says anything about a later
return. With `oracle_sharpe` above 0 a persistent signal moves the return of bar t + 1 + execution_delay_bars:

    return[t + 1 + delay] = volatility[t + 1 + delay] * (strength * signal[t] + shock),    signal = sum_j w_j * column_j

The five planted columns carry one independent component each, a different one for every instrument. Whoever knows the
signal and holds signal[t] / sigma_t of each instrument, equally weighted and without costs, earns that annual Sharpe.
Price features leave the planted part of past returns out: otherwise momentum would carry the signal a second time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tft.metrics import sharpe
from tft.volatility import ewm_volatility

Array = NDArray[np.float64]
Column = NDArray[np.float32]

SYMBOLS = ("NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "NIFTYNXT50", "NIFTYIT", "NIFTYMETAL", "NIFTYPHARMA")
PLANTED = ("pvol_client_opt_put_net_z21", "fut_basis_z21", "opt_pcr_z21", "nsevol_deliv_z21", "settle_span_z21")
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
CALENDAR = ("settle_dte", "settle_is_expiry")
PERSISTENCE = 0.9
HISTORY = 300
LAST_BAR = np.datetime64("2026-02-10")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is true of a sample table; written beside it as `<stem>.truth.json`."""

    seed: int
    n_bars: int
    n_symbols: int
    execution_delay_bars: int
    periods_per_year: float
    oracle_sharpe: float
    """Annual Sharpe asked for: its expectation while all instruments trade."""
    oracle_sharpe_realised: float
    """The same over the bars of this one table, luck included; 0 where nothing is planted."""
    signal_strength: float
    """Expected return of a signal of 1, in units of that bar's volatility."""
    signal_persistence: float
    planted: dict[str, float]
    """Column -> w, with signal = sum of w * column; empty where nothing is planted."""
    degenerate: dict[str, str]
    """Column -> why a prefilter has to drop it."""


def write_sample(
    path: Path | str,
    *,
    n_bars: int = 600,
    n_symbols: int = 4,
    n_features: int = 276,
    n_degenerate: int = 36,
    seed: int = 7,
    oracle_sharpe: float = 0.0,
    execution_delay_bars: int = 1,
    periods_per_year: float = 252.0,
) -> Truth:
    """Write a daily table (Parquet, CSV or Arrow IPC by the suffix) and its truth. The same arguments, the same table.

    n_features columns survive a prefilter, the five planted ones among them; n_degenerate more are constant, mostly
    missing, or collinear with another column. Raises ValueError for sizes that cannot be had.
    """
    path = Path(path)
    names = _feature_names(n_features)
    _check(path, n_bars, n_symbols, names, n_features, n_degenerate)

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng((seed, number))  # one for each part: prices do not depend on the feature count

    n = HISTORY + n_bars
    dates = _dates(stream(0), n)
    shocks, volatility = _market(stream(1), n, n_symbols)
    components = _autoregressive(stream(2), np.full(len(PLANTED), PERSISTENCE), n, n_symbols)
    weights = _weights(stream(3))
    signal = np.tensordot(weights, components, axes=1)
    lead = 1 + execution_delay_bars
    strength = _strength(oracle_sharpe, n_symbols, lead, periods_per_year)
    moves = shocks.copy()
    moves[lead:] += strength * volatility[lead:] * signal[:-lead]
    close = 10_000.0 * np.cumprod(1.0 + np.maximum(moves, -0.5), axis=0) * np.linspace(1.0, 2.5, n_symbols)

    features = _features(stream(4), names, shocks, volatility, dates)
    if strength > 0.0:
        features |= dict(zip(PLANTED, components, strict=True))
    columns = {name: values[HISTORY:].astype(np.float32) for name, values in features.items()}
    _lose_some(stream(5), columns, n_symbols)
    degenerate = _add_degenerate(stream(6), columns, n_degenerate)
    traded = _traded(stream(7), n_bars, n_symbols)
    close = np.where(traded, close[HISTORY:], np.nan)
    returns = _returns(close)
    _write(path, _long(dates[HISTORY:], n_symbols, traded, {"close": close, "ret_1d": returns, **columns}))
    known = np.where(traded, signal[HISTORY:], np.nan) * (strength > 0.0)
    truth = Truth(
        seed=seed,
        n_bars=n_bars,
        n_symbols=n_symbols,
        execution_delay_bars=execution_delay_bars,
        periods_per_year=periods_per_year,
        oracle_sharpe=oracle_sharpe,
        oracle_sharpe_realised=_realised(known, returns, lead, periods_per_year),
        signal_strength=strength,
        signal_persistence=PERSISTENCE,
        planted=dict(zip(PLANTED, weights.tolist(), strict=True)) if strength > 0.0 else {},
        degenerate=degenerate,
    )
    path.with_suffix(".truth.json").write_text(json.dumps(asdict(truth), indent=2) + "\n")
    return truth


def _check(path: Path, n_bars: int, n_symbols: int, names: list[str], n_features: int, n_degenerate: int) -> None:
    if path.suffix not in {".parquet", ".csv", ".arrow"}:
        raise ValueError(f"{path.name} ends in {path.suffix or 'nothing'}: name it .parquet, .csv or .arrow")
    if n_bars < 50:
        raise ValueError(f"n_bars is {n_bars}, a sample table has at least 50")
    if not 1 <= n_symbols <= len(SYMBOLS):
        raise ValueError(f"n_symbols is {n_symbols}, it must lie between 1 and {len(SYMBOLS)}")
    if n_features != len(names):
        raise ValueError(f"n_features is {n_features}, it must lie between {len(PLANTED)} and {len(names)}")
    if not 0 <= n_degenerate <= 4 * (n_features - len(PLANTED)):
        raise ValueError(f"n_degenerate is {n_degenerate}, {n_features} features allow {4 * (n_features - 5)} at most")


def _feature_names(n_features: int) -> list[str]:
    """The planted columns and the first of every group in turn, listed by group; all there are if more are asked."""
    groups = [
        [f"{group}_{series.rstrip('*')}{end}" for end in TRANSFORMS for series in listed.split()]
        for group, listed in SERIES.items()
    ]
    groups = [[name for name in group if not name.startswith(CALENDAR) or name in CALENDAR] for group in groups]
    in_turn = [group[i] for i in range(max(map(len, groups))) for group in groups if i < len(group)]
    chosen = set([*PLANTED, *(name for name in in_turn if name not in PLANTED)][: max(n_features, len(PLANTED))])
    return [name for group in groups for name in group if name in chosen]


def _dates(rng: np.random.Generator, n: int) -> NDArray[np.datetime64]:
    """(N,) business days up to LAST_BAR, about one in twenty-five a holiday."""
    n_days = n + n // 25
    days = np.busday_offset(LAST_BAR, np.arange(1 - n_days, 1), roll="backward")
    holidays = rng.choice(n_days - 1, n_days - n, replace=False)
    return np.delete(days, holidays)


def _market(rng: np.random.Generator, n: int, n_symbols: int) -> tuple[Array, Array]:
    """Shocks (N, A) of mean 0 and the volatility (N, A) each was drawn with, known one bar earlier: GARCH(1, 1)."""
    common, own = rng.standard_normal((n, 1)), rng.standard_normal((n, n_symbols))
    # Student t with 6 degrees of freedom, scaled to variance 1; calm and wild bars are the same for everyone.
    unit = (np.sqrt(0.6) * common + np.sqrt(0.4) * own) * np.sqrt(4.0 / rng.chisquare(6.0, (n, 1)))
    level = np.linspace(0.010, 0.013, n_symbols) ** 2
    variance = np.empty((n, n_symbols))
    variance[0] = level
    for t in range(1, n):
        variance[t] = 0.02 * level + (0.06 * unit[t - 1] ** 2 + 0.92) * variance[t - 1]
    volatility = np.sqrt(variance)
    return volatility * unit, volatility


def _autoregressive(rng: np.random.Generator, persistence: Array, n: int, n_symbols: int) -> Array:
    """(len(persistence), N, A) independent AR(1) series of variance 1."""
    noise = rng.standard_normal((len(persistence), n, n_symbols))
    fresh = np.sqrt(1.0 - persistence**2)[:, None]
    for t in range(1, n):
        noise[:, t] = persistence[:, None] * noise[:, t - 1] + fresh * noise[:, t]
    return noise


def _weights(rng: np.random.Generator) -> Array:
    """(5,) weights of the planted columns: of either sign, alike in size, squares summing to 1."""
    weights = rng.uniform(0.8, 1.2, len(PLANTED)) * rng.choice([-1.0, 1.0], len(PLANTED))
    return np.asarray(weights / np.linalg.norm(weights))


def _strength(oracle_sharpe: float, n_symbols: int, lead: int, periods_per_year: float) -> float:
    """The strength m that makes the oracle's annual Sharpe what was asked.

    With k = volatility[t + lead] / sigma_t and signal s ~ N(0, 1), one instrument earns k*s*(m*s + shock): mean m*E[k],
    variance (1 + 3*m^2)*E[k^2] - m^2*E[k]^2, uncorrelated between instruments. Solved for m; E[k] and E[k^2] are
    measured on a long market of the same kind, always the same one.
    """
    if not oracle_sharpe > 0.0:
        if oracle_sharpe == 0.0:
            return 0.0
        raise ValueError(f"oracle_sharpe is {oracle_sharpe}, it must be 0 (nothing planted) or above")
    shocks, volatility = _market(np.random.default_rng(0), 10_000, 2)
    ratio = volatility[HISTORY + lead :] / ewm_volatility(shocks)[HISTORY:-lead]
    first, second = float(ratio.mean()), float((ratio**2).mean())
    per_bar = oracle_sharpe**2 / periods_per_year / n_symbols
    room = first**2 - per_bar * (3.0 * second - first**2)
    if room <= 0.0:
        most = np.sqrt(periods_per_year * n_symbols * first**2 / (3.0 * second - first**2))
        raise ValueError(f"oracle_sharpe is {oracle_sharpe}, {n_symbols} instruments carry less than {most:.1f}")
    return float(np.sqrt(per_bar * second / room))


def _realised(signal: Array, returns: Array, lead: int, periods_per_year: float) -> float:
    """Annual Sharpe over this table of holding signal[t] / sigma_t (T, A), equally weighted, without costs."""
    pnl = (signal / ewm_volatility(returns))[:-lead] * returns[lead:]
    decided = np.flatnonzero(np.isfinite(pnl).any(axis=1))
    return sharpe(np.nan_to_num(pnl[decided]).mean(axis=1), periods_per_year=periods_per_year)


def _features(
    rng: np.random.Generator, names: list[str], shocks: Array, volatility: Array, dates: NDArray[np.datetime64]
) -> dict[str, Array]:
    """Column -> (N, A): the series in their transforms, complete from bar HISTORY on, in table order."""
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
                values = size * (middle + _autoregressive(rng, np.array([persistence]), n, width)[0])
            for end in TRANSFORMS:
                if series + end in wanted:
                    columns[series + end] = np.broadcast_to(_transform(values, end), (n, n_symbols))
    return {name: columns[name] for name in names}


def _transform(values: Array, end: str) -> Array:
    """One of TRANSFORMS of a series (N, A), from its past alone; NaN where the past is too short."""
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


def _lose_some(rng: np.random.Generator, columns: dict[str, Column], n_symbols: int) -> None:
    """Take values away in place as in real tables: late beginnings, gaps, a group the last instrument does not have."""
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


def _add_degenerate(rng: np.random.Generator, columns: dict[str, Column], count: int) -> dict[str, str]:
    """Add `count` columns in place that tell nothing new. Copies have less data than the column they repeat."""
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


def _traded(rng: np.random.Generator, n_bars: int, n_symbols: int) -> NDArray[np.bool_]:
    """(T, A): the first instrument always, the others with a gap now and then, the last only after an eighth."""
    traded = rng.uniform(size=(n_bars, n_symbols)) > 0.005
    traded[: n_bars // 8, -1] = False
    traded[:, 0] = True
    return traded


def _returns(close: Array) -> Array:
    """(T, A) simple return against the instrument's previous close, gaps skipped."""
    returns = np.full_like(close, np.nan)
    for a in range(close.shape[1]):
        rows = np.flatnonzero(np.isfinite(close[:, a]))
        returns[rows[1:], a] = close[rows[1:], a] / close[rows[:-1], a] - 1.0
    return returns


def _long(
    dates: NDArray[np.datetime64], n_symbols: int, traded: NDArray[np.bool_], columns: dict[str, Array | Column]
) -> pl.DataFrame:
    """One row per traded (bar, instrument), by date and then instrument; missing values are null."""
    rows = traded.ravel()
    keys = {
        "date": np.repeat(dates, n_symbols)[rows],
        "symbol": np.tile(np.array(SYMBOLS[:n_symbols], dtype=object), len(dates))[rows],
    }
    values = {name: column.ravel()[rows] for name, column in columns.items()}
    frame = pl.DataFrame(keys | values, schema_overrides={"date": pl.Date, "symbol": pl.String})
    return frame.with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


def _write(path: Path, frame: pl.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        frame.write_parquet(partial)
    elif path.suffix == ".csv":
        frame.write_csv(partial)
    else:
        frame.write_ipc(partial)
    partial.replace(path)
