"""Whether a table's return column is the return that its close gives.

Shapes: R rows of the table, n bars of one instrument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tft.volatility import MIN_RETURNS

MOST_DIFFERENCE = 0.5
"""Of the size of a usual return, what both may differ by on the median bar. Dividends, corporate actions, logarithms
and rounding stay far below; unrelated returns, those of another bar, and more than twice the return lie above."""
_ALIKE = 0.25
"""The same for what a contradiction is then found to be."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Contradiction:
    """A return column that is not the return of its own bar."""

    symbols: tuple[str, ...]
    """The instruments in which it is not, sorted."""
    what: str
    """What it is in the first of them."""
    row: int
    """The first row of the first of them in which both clearly differ."""
    given: float
    by_close: float


def contradiction(
    close: Numbers, returns: Numbers, times: NDArray[np.datetime64], symbols: NDArray[np.str_]
) -> Contradiction | None:
    """Compare the columns close and returns (R,) instrument by instrument; None where nothing clearly differs."""
    found = []
    for rows in _by_instrument(close, times, symbols):
        own = np.full(len(rows), np.nan)
        own[1:] = close[rows][1:] / close[rows][:-1] - 1.0
        given = returns[rows]
        difference, size = _difference(given, own)
        if difference > MOST_DIFFERENCE * size:
            far = np.flatnonzero(np.abs(given - own) > MOST_DIFFERENCE * size)
            found.append((str(symbols[rows[0]]), _what(given, own, difference / size), int(rows[far[0]]), far[0], own))
    if not found:
        return None
    _, what, row, bar, own = found[0]
    return Contradiction(tuple(symbol for symbol, *_ in found), what, row, float(returns[row]), float(own[bar]))


def _by_instrument(
    close: Numbers, times: NDArray[np.datetime64], symbols: NDArray[np.str_]
) -> Iterator[NDArray[np.int64]]:
    """The rows of each instrument that have a close, in the order of time."""
    names, instrument = np.unique(symbols, return_inverse=True)
    rows = np.lexsort((times, instrument))
    rows = rows[close[rows] > 0.0]
    yield from np.split(rows, np.searchsorted(instrument[rows], np.arange(1, len(names))))


def _difference(given: Numbers, own: Numbers) -> tuple[float, float]:
    """Median difference of two series (n,), and the usual size of the larger, over the bars on which either moves;
    (0, 0) for too few of them."""
    there = np.isfinite(given) & np.isfinite(own) & ((given != 0.0) | (own != 0.0))
    if there.sum() < MIN_RETURNS:
        return 0.0, 0.0
    size = max(np.median(np.abs(given[there])), np.median(np.abs(own[there])))
    return float(np.median(np.abs(given - own)[there])), float(size)


def _what(given: Numbers, own: Numbers, share: float) -> str:
    """What returns (n,) are that are not the close's own (n,): a multiple, another bar's, or neither."""
    for bar, shifted in (
        ("its own bar", own),
        ("the next bar", np.append(own[1:], np.nan)),
        ("the bar before", np.append(np.nan, own[:-1])),
    ):
        both = np.isfinite(given) & np.isfinite(shifted) & (shifted != 0.0)
        factor = float(np.median(given[both] / shifted[both])) if both.any() else 0.0
        difference, size = _difference(given / factor, shifted) if factor else (0.0, 0.0)
        if size and difference <= _ALIKE * size:
            times = "" if abs(factor - 1.0) < 0.1 else f"{factor:.3g} times "
            percent = ", percent instead of a fraction" if 90.0 < factor < 110.0 else ""
            return f"it is {times}the close's return over {bar}{percent}"
    return f"on the median bar both differ by {share:.0%} of a usual return"
