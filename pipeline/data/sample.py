"""A seeded feature table that looks like a real one, and a record of what was put into it.

Shapes: T bars of the table, N = HISTORY + T bars with those before it, A instruments.

The market is noise: GARCH volatility, fat-tailed shocks shared between the instruments, no drift. Features are causal
functions of past shocks and volatility, or autoregressive noise of their own; none of them says anything about a later
return. With `oracle_sharpe` above 0 a persistent signal moves the return of bar t + 1 + execution_delay_bars:

    return[t + 1 + delay] = volatility[t + 1 + delay] * (strength * signal[t] + shock),    signal = sum_j w_j * column_j

The five planted columns carry one independent component each, a different one for every instrument. A trader who knows
the signal and holds signal[t] / sigma_t of each instrument, equally weighted and without costs, earns an annual Sharpe
ratio of `oracle_sharpe`. Price features leave out the planted part of past returns, or momentum would carry it twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.data.sample_columns import (
    HISTORY,
    PLANTED,
    add_degenerate,
    autoregressive,
    feature_names,
    feature_values,
    remove_values,
)
from tft.metrics import sharpe
from tft.volatility import ewm_volatility

Array = NDArray[np.float64]
Column = NDArray[np.float32]

SYMBOLS = ("NIFTY", "BANKNIFTY", "FINNIFTY", "MIDCPNIFTY", "NIFTYNXT50", "NIFTYIT", "NIFTYMETAL", "NIFTYPHARMA")
PERSISTENCE = 0.9
"""Lag-one autocorrelation of the planted columns."""
LAST_BAR = np.datetime64("2026-02-10")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A record of what was put into a sample table, written beside it as `<stem>.truth.json`."""

    seed: int
    n_bars: int
    n_symbols: int
    execution_delay_bars: int
    periods_per_year: float
    oracle_sharpe: float
    """Annual Sharpe ratio asked for: what the oracle expects to earn while all instruments trade."""
    oracle_sharpe_realised: float
    """Annual Sharpe ratio that the oracle earns over this table, luck included; 0 where nothing is planted."""
    signal_strength: float
    """Expected return for a signal of 1, in units of the bar's volatility."""
    signal_persistence: float
    planted: dict[str, float]
    """Weight of each planted column in the signal, which is their weighted sum; empty if nothing is planted."""
    degenerate: dict[str, str]
    """Why a prefilter has to drop each degenerate column, by column."""


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
    """Write a daily table (Parquet, CSV or Arrow IPC by the suffix) and its truth; equal arguments give equal tables.

    The prefilter keeps `n_features` columns, the five planted ones among them; `n_degenerate` more are constant, mostly
    missing, or collinear with another column. Raises ValueError for sizes that cannot be made.
    """
    path = Path(path)
    names = feature_names(n_features)
    _check(path, n_bars, n_symbols, names, n_features, n_degenerate)

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng((seed, number))  # one for each part: prices do not depend on the feature count

    n = HISTORY + n_bars
    dates = _dates(stream(0), n)
    shocks, volatility = _market(stream(1), n, n_symbols)
    components = autoregressive(stream(2), np.full(len(PLANTED), PERSISTENCE), n, n_symbols)
    weights = _weights(stream(3))
    signal = np.tensordot(weights, components, axes=1)
    lead = 1 + execution_delay_bars
    strength = _strength(oracle_sharpe, n_symbols, lead, periods_per_year)
    moves = shocks.copy()
    moves[lead:] += strength * volatility[lead:] * signal[:-lead]
    close = 10_000.0 * np.cumprod(1.0 + np.maximum(moves, -0.5), axis=0) * np.linspace(1.0, 2.5, n_symbols)

    features = feature_values(stream(4), names, shocks, volatility, dates)
    if strength > 0.0:
        features |= dict(zip(PLANTED, components, strict=True))
    columns = {name: values[HISTORY:].astype(np.float32) for name, values in features.items()}
    remove_values(stream(5), columns, n_symbols)
    degenerate = add_degenerate(stream(6), columns, n_degenerate)
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


def planted_columns(source: str) -> frozenset[str]:
    """The columns of a table in which `write_sample` planted its signal: none, of any other table."""
    truth = Path(source).with_suffix(".truth.json")
    return frozenset(json.loads(truth.read_text())["planted"]) if truth.is_file() else frozenset()


def _check(path: Path, n_bars: int, n_symbols: int, names: list[str], n_features: int, n_degenerate: int) -> None:
    """Raise ValueError for the first size that cannot be made; `names` are the columns that can be had."""
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


def _dates(rng: np.random.Generator, n: int) -> NDArray[np.datetime64]:
    """(N,) business days up to LAST_BAR, about one in twenty-five left out as a holiday."""
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


def _weights(rng: np.random.Generator) -> Array:
    """(5,) weights of the planted columns: similar in size, of either sign, with squares that sum to 1."""
    weights = rng.uniform(0.8, 1.2, len(PLANTED)) * rng.choice([-1.0, 1.0], len(PLANTED))
    return np.asarray(weights / np.linalg.norm(weights))


def _strength(oracle_sharpe: float, n_symbols: int, lead: int, periods_per_year: float) -> float:
    """The signal strength m with which the oracle's expected annual Sharpe ratio is the one asked for.

    With k = volatility[t + lead] / sigma_t and signal s ~ N(0, 1), one instrument earns k*s*(m*s + shock): mean m*E[k],
    variance (1 + 3*m^2)*E[k^2] - m^2*E[k]^2, uncorrelated between instruments. This is solved for m, with E[k] and
    E[k^2] measured on one long market of the same kind. Raises ValueError for a Sharpe ratio that no m reaches.
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
    """Annual Sharpe ratio over this table of holding signal[t] / sigma_t (T, A), equally weighted, without costs."""
    pnl = (signal / ewm_volatility(returns))[:-lead] * returns[lead:]
    decided = np.flatnonzero(np.isfinite(pnl).any(axis=1))
    return sharpe(np.nan_to_num(pnl[decided]).mean(axis=1), periods_per_year=periods_per_year)


def _traded(rng: np.random.Generator, n_bars: int, n_symbols: int) -> NDArray[np.bool_]:
    """(T, A) whether an instrument trades: the first always, the others with rare gaps, the last after an eighth of the
    bars."""
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
    """Write the table under another name first, so that the file named `path` is never half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    if path.suffix == ".parquet":
        frame.write_parquet(partial)
    elif path.suffix == ".csv":
        frame.write_csv(partial)
    else:
        frame.write_ipc(partial)
    partial.replace(path)
