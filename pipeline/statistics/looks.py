"""Which looks at a holdout are looks at the same holdout, and which of those are looks of the same recipe.

Both are told from returns and not from names, files or hashes: an instrument is itself under any name and in any table,
and a recipe is what it earns. Trained again on another machine, another day, or with settings that decide nothing, it
earns the same; with one column more it does not.

Shapes: n bars of a record, A instruments, T bars of all records, L looks; P, Q series.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from tft.record import Record

Array = NDArray[np.float64]

SAME_INSTRUMENT = 0.99
"""Returns that correlate above this are one instrument's: a renamed one, or the same index from another exchange."""
SAME_RECIPE = 0.999
"""Net returns that correlate above this are one recipe's: what rounding and machines do leaves more than that, another
seed or column far less."""
MIN_COMMON_BARS = 21
"""Common bars below which a correlation tells nothing, a month of daily ones. On 21 bars two instruments with a true
correlation of 0.9 exceed 0.99 twice in a million times, on 10 bars twice in a thousand, and a ledger has many pairs."""
_STILL = 1e-12
"""Standard deviation relative to the largest value, and variance relative to the whole series', that is rounding."""


@dataclass(frozen=True, eq=False)
class HoldoutRecord:
    """What one look saw of a holdout, by the bar in which it was earned, so that recipes of different delay compare."""

    times: NDArray[np.datetime64]
    """(n,) bars in which the positions are held, strictly increasing"""
    symbols: tuple[str, ...]
    returns: Array
    """(n, A) simple return of each instrument in the bar; NaN where not traded"""
    net: Array
    """(n,) portfolio return after costs; NaN where not known"""

    def __post_init__(self) -> None:
        """Raises ValueError for shapes that do not belong together, and for times out of order."""
        shape = (len(self.times), len(self.symbols))
        if self.returns.shape != shape or self.net.shape != shape[:1]:
            raise ValueError(
                f"a holdout record of {shape[0]} bars and {shape[1]} instruments has returns of shape "
                f"{self.returns.shape} and net returns of shape {self.net.shape}: give one for each"
            )
        if np.isnat(self.times).any() or (np.diff(self.times).astype(np.int64) <= 0).any():
            raise ValueError("the times of a holdout record are not strictly increasing: sort them, one row a bar")

    @classmethod
    def of(cls, record: Record, rows: NDArray[np.bool_], times: NDArray[np.datetime64]) -> Self:
        """What the decisions at `rows` (n,) of a record earned.

        times: of the bars (T,) that `record.bars` counts, the panel's or, for a record that was read back, its own. A
        decision whose position is held after the last of them is left out.
        """
        held = record.bars + 1 + record.timing.delay_bars
        rows = rows & (held < len(times)) & np.isfinite(record.net())
        return cls(times[held[rows]], record.symbols, record.earned.held_return[rows], record.net()[rows])

    @cached_property
    def daily(self) -> bool:
        """Whether no date has two bars."""
        return len(np.unique(self.times.astype("datetime64[D]"))) == len(self.times)

    @cached_property
    def bars(self) -> NDArray[np.datetime64]:
        """(n,) what identifies a bar in any table: its date, or in a record with several bars a day its time."""
        return self.times.astype("datetime64[D]" if self.daily else "datetime64[us]").astype("datetime64[us]")


def share_an_instrument(one: HoldoutRecord, other: HoldoutRecord) -> bool | None:
    """Whether any instrument of one is an instrument of the other, whatever the names, on the bars that both have.

    None where that cannot be told: bars of another length, or too few common ones.
    """
    if one.daily != other.daily:
        return None
    _, of_one, of_other = np.intersect1d(one.bars, other.bars, assume_unique=True, return_indices=True)
    if len(of_one) < MIN_COMMON_BARS:
        return None
    found = correlations(one.returns[of_one], other.returns[of_other])
    return bool((found > SAME_INSTRUMENT).any()) if np.isfinite(found).any() else None


def recipes(records: Sequence[HoldoutRecord | None], names: Sequence[object] | None = None) -> tuple[int, ...]:
    """The recipe of each of L looks at one holdout: equal numbers for equal recipes, from 0 in order of appearance.

    Two looks are of one recipe if their net returns correlate above 0.999 on common bars, if neither ever moves, or if
    they have the same name and not None; so are two that are both alike a third. Any other look without a record is of
    a recipe of its own.
    """
    known = [i for i, record in enumerate(records) if record is not None]
    alike = np.eye(len(records), dtype=bool)
    if known:
        alike[np.ix_(known, known)] |= _earn_alike([record for record in records if record is not None])
    for i, name in enumerate(names or ()):
        alike[i] |= np.array([name is not None and name == other for other in names or ()])
    _, labels = connected_components(alike, directed=False)
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(int(label), len(numbers)) for label in labels)


def _earn_alike(records: Sequence[HoldoutRecord]) -> NDArray[np.bool_]:
    """(L, L) whether two looks earned the same, up to scale."""
    bars = np.unique(np.concatenate([record.bars for record in records]))
    net = np.full((len(bars), len(records)), np.nan)
    for column, record in enumerate(records):
        net[np.searchsorted(bars, record.bars), column] = record.net
    known = np.isfinite(net).astype(np.float64)
    still = _scale(net) == 0.0
    flat = still & still[:, None] & (known.T @ known >= MIN_COMMON_BARS)
    return np.asarray((correlations(net, net) > SAME_RECIPE) | flat)


def correlations(x: Array, y: Array) -> Array:
    """Correlation (P, Q) of each series of x (n, P) with each of y (n, Q), on the bars on which both are known.

    NaN where these are fewer than MIN_COMMON_BARS, or where one of the two does not move on them.
    """
    (a, known_a), (b, known_b) = _standardised(x), _standardised(y)
    n = known_a.T @ known_b
    of_a, of_b = a.T @ known_b, known_a.T @ b
    with np.errstate(divide="ignore", invalid="ignore"):
        covariance = a.T @ b - of_a * of_b / n
        variance_a = (a * a).T @ known_b - of_a**2 / n
        variance_b = known_a.T @ (b * b) - of_b**2 / n
        told = (n >= MIN_COMMON_BARS) & (np.minimum(variance_a, variance_b) > _STILL * n)
        return np.where(told, covariance / np.sqrt(variance_a * variance_b), np.nan)


def _standardised(x: Array) -> tuple[Array, Array]:
    """Each series of x (n, P) around its mean and by its standard deviation, 0 where unknown; and 1 where known."""
    known = np.isfinite(x)
    mean = np.where(known, x, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    scale = _scale(x)
    return np.where(known, x - mean, 0.0) * (scale > 0.0) / np.where(scale > 0.0, scale, 1.0), known.astype(np.float64)


def _scale(x: Array) -> Array:
    """Standard deviation (P,) of each series of x (n, P) where it is known; 0 where it is rounding."""
    known = np.isfinite(x)
    n = np.maximum(known.sum(axis=0), 1)
    values = np.where(known, x, 0.0)
    deviation = np.where(known, x - values.sum(axis=0) / n, 0.0)
    scale = np.sqrt((deviation**2).sum(axis=0) / n)
    return np.asarray(np.where(scale > _STILL * np.abs(values).max(axis=0, initial=0.0), scale, 0.0))
