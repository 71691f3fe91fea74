"""Planted truths: markets of which it is known what can be known about the next return.

    y_(i,t) = m s_(i,t) + e_(i,t),    r_(i,t+1+delay) = sigma_(i,t) y_(i,t)

s has unit variance and is made of the features that a decision at bar t sees; e has unit variance and a common factor
of Student-t noise. The strength m makes `trading the truth`, holding s_(i,t) / sigma_(i,t) of each instrument without
costs, earn the Sharpe that was asked for, in expectation.

Shapes: T bars, A instruments, F features, S steps of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tft.panel import Panel
from tft.windows import seed_from

Array = NDArray[np.float64]

Kind = Literal["linear", "interaction", "regime", "temporal", "relative", "noise"]
KINDS: tuple[Kind, ...] = get_args(Kind)

DELAY = 1
PERIODS_PER_YEAR = 252.0
STRENGTH: Mapping[str, float] = {
    "linear": 4.7,
    "interaction": 4.6,
    "regime": 4.5,
    "temporal": 5.3,
    "relative": 5.0,
    "noise": 0.0,
}
"""Expected annual Sharpe of trading the truth, by kind."""
NOISE_CORRELATION = 0.75
NOISE_DEGREES = 5.0
"""Degrees of freedom of the noise's Student-t distributions"""
FEATURE_CORRELATION = 0.3
"""Between instruments, of every feature"""
PERSISTENCE = (0.8, 0.98)
"""Range of the features' AR(1) coefficients"""
REGIME_PERSISTENCE = 0.99
KERNEL_BARS = (8, 45)
"""Range of the windows that a temporal truth averages over"""
DAILY_VOLATILITY = (0.008, 0.016)


@dataclass(frozen=True, eq=False)
class Truth:
    """A table, and what a trader could know at best."""

    kind: Kind
    panel: Panel
    expected: Array
    """(T, A) E[y | everything known at bar t] = m s"""
    own_expected: Array
    """(T, A) E[y | the instrument's own past], the best that is linear in it"""
    sigma: Array
    """(T, A) true volatility per bar that scales y"""
    strength: float
    """m"""
    columns: tuple[int, ...]
    """The features that the truth is made of"""
    kernel: Array
    """(S,) weights by lag, newest first, of the temporal truth; a single 1 for the others"""

    @property
    def noise_covariance(self) -> Array:
        """Covariance (A, A) of e."""
        n = self.expected.shape[1]
        return np.full((n, n), NOISE_CORRELATION) + (1.0 - NOISE_CORRELATION) * np.eye(n)


def plant(
    kind: Kind,
    seed: int,
    *,
    n_bars: int = 2200,
    n_assets: int = 8,
    n_features: int = 40,
    trading_sharpe: float | None = None,
) -> Truth:
    """The market of one kind and one seed; `trading_sharpe` takes the place of the kind's own strength."""
    rng = np.random.default_rng([seed, seed_from("truth", kind) % 2**32])
    asked = STRENGTH[kind] if trading_sharpe is None else trading_sharpe
    burn_in = 300
    n = n_bars + burn_in
    persistence = rng.uniform(*PERSISTENCE, n_features)
    columns = tuple(rng.choice(n_features, {"linear": 5, "interaction": 2, "regime": 2}.get(kind, 1), replace=False))
    kernel = np.ones(1)
    if kind == "linear":
        persistence[list(columns)] = 0.95
    if kind == "regime":
        persistence[columns[1]] = REGIME_PERSISTENCE
    if kind == "temporal":
        persistence[columns[0]] = 0.0  # a noisy column: only its mean over many bars says anything
        kernel = _kernel(rng)
    common = FEATURE_CORRELATION
    x = math.sqrt(common) * _autoregressive(rng, n, (1, n_features), persistence)
    x = x + math.sqrt(1.0 - common) * _autoregressive(rng, n, (n_assets, n_features), persistence)
    signal, own = _signal(kind, x, columns, kernel, rng)

    m = _strength(signal[burn_in:], asked)
    noise = math.sqrt(NOISE_CORRELATION) * _student(rng, (n, 1))
    noise = noise + math.sqrt(1.0 - NOISE_CORRELATION) * _student(rng, (n, n_assets))
    y = m * signal + noise
    slow = _autoregressive(rng, n, (1, 1), np.array([0.98]))[:, :, 0]
    sigma = rng.uniform(*DAILY_VOLATILITY, n_assets) * np.exp(0.25 * slow)
    returns = np.full((n, n_assets), np.nan)
    lead = 1 + DELAY
    returns[lead:] = (sigma * y)[:-lead]
    kept = slice(burn_in, None)
    panel = Panel(
        times=np.datetime64("2010-01-04") + np.arange(n_bars),
        symbols=tuple(f"I{number}" for number in range(n_assets)),
        feature_names=tuple(f"x_{number:02d}" for number in range(n_features)),
        features=x[kept].astype(np.float32),
        returns=returns[kept],
    )
    return Truth(kind, panel, m * signal[kept], m * own[kept], sigma[kept], m, tuple(int(c) for c in columns), kernel)


def _signal(
    kind: Kind, x: Array, columns: tuple[int, ...], kernel: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """s (T, A) of unit variance, and the part of it (T, A) that an instrument's own columns tell."""
    first = x[:, :, columns[0]]
    if kind == "noise":
        return np.zeros_like(first), np.zeros_like(first)
    if kind == "linear":
        s = x[:, :, list(columns)] @ rng.choice([-1.0, 1.0], len(columns))
    elif kind == "interaction":
        s = np.sign(first) * x[:, :, columns[1]]
    elif kind == "regime":
        s = first * np.sign(x[:, :, columns[1]])
    elif kind == "temporal":
        s = sum(weight * _lagged(first, lag) for lag, weight in enumerate(kernel))
    else:
        others = (first.sum(axis=1, keepdims=True) - first) / (first.shape[1] - 1)
        s = first - others
    scale = s.std()
    s = s / scale
    if kind != "relative":
        return s, s
    # The others' mean is only partly known from the instrument's own column: its regression on it.
    slope = float((s * first).mean() / (first**2).mean())
    return s, slope * first


def _strength(signal: Array, annual_sharpe: float) -> float:
    """m with which trading s earns this Sharpe: by bar the mean over instruments of s y = m s^2 + s e."""
    if annual_sharpe == 0.0:
        return 0.0
    n = signal.shape[1]
    own = (signal**2).mean(axis=1)
    total = signal.sum(axis=1) ** 2
    noise = (NOISE_CORRELATION * total + (1.0 - NOISE_CORRELATION) * n * own) / n**2  # var of the mean of s e, given s
    per_bar = annual_sharpe / math.sqrt(PERIODS_PER_YEAR)
    room = own.mean() ** 2 - per_bar**2 * own.var()
    assert room > 0.0
    return per_bar * math.sqrt(noise.mean() / room)


def _kernel(rng: np.random.Generator) -> Array:
    """Weights by lag, newest first: a mean over a window, or exponential ones with as long a mean age."""
    window = int(rng.integers(KERNEL_BARS[0], KERNEL_BARS[1] + 1))
    if rng.random() < 0.5:
        return np.full(window, 1.0 / window)
    decay = 1.0 - 2.0 / (window + 1.0)
    weights = decay ** np.arange(4 * window)
    return np.asarray(weights / weights.sum())


def _lagged(values: Array, lag: int) -> Array:
    """Values (T, A) of `lag` bars before; the first bars repeat the first one."""
    return np.concatenate([np.repeat(values[:1], lag, axis=0), values[: len(values) - lag]])


def _autoregressive(rng: np.random.Generator, n: int, shape: tuple[int, int], coefficient: Array) -> Array:
    """AR(1) series (n, *shape) of unit variance, with a coefficient for each of the last dimension."""
    shocks = rng.standard_normal((n, *shape)) * np.sqrt(1.0 - coefficient**2)
    out = np.empty_like(shocks)
    out[0] = rng.standard_normal(shape)
    for t in range(1, n):
        out[t] = coefficient * out[t - 1] + shocks[t]
    return out


def _student(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Student-t numbers of unit variance."""
    return rng.standard_t(NOISE_DEGREES, shape) * math.sqrt((NOISE_DEGREES - 2.0) / NOISE_DEGREES)
