"""Columns that know the future, found by their rank correlation with the returns of coming bars.

Shapes: T bars, A instruments, F features, K targets, C tests.

An information coefficient (IC) is here the rank correlation over time of a column with a target, within one instrument
or pooled over all. Ranks find a leak that was rescaled, clipped or squashed, and are not moved by a single wild value.
Each instrument is tested by itself too, because a column may be wrong for one alone. The targets are the label and the
return of each of the next bars: a window of bars that holds a copy of any of them holds the label's at some bar.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

from tft.metrics import MIN_INFERENCE_BARS
from tft.panel import Panel
from tft.volatility import Timing, ewm_volatility, scaled_label

Array = NDArray[np.float64]

FUTURE_BARS = 21
"""Returns up to this many bars ahead are targets, so that shifts by a day, a week or a month are found."""
FALSE_ALARMS = 0.001
"""Largest share of tables without any signal in which some column is suspected (Bonferroni over all tests)."""
NOTABLE_IC = 0.1
"""A smaller IC is never suspected, however many bars it was measured on: honest daily columns rarely reach it."""
HONEST_IC = 0.2
"""The largest true IC of an honest column of daily bars: traded alone it would earn an annual Sharpe ratio of
0.2 * sqrt(252) = 3.2 on one instrument, twice that on four independent ones."""
HONEST_ERRORS = 4.0
"""A column whose true IC is HONEST_IC is measured this many standard errors above it once in 30,000 times."""
COPY_IC = 0.999
"""A column with this IC or more is its target in all but scale and rounding."""
MIN_COPY_BARS = 20
"""Fewest bars on which anything is tested: with fewer, even a copy may be chance."""
_CELLS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Suspect:
    """A column with an IC that luck does not explain."""

    column: str
    instrument: str | None
    """None stands for all instruments pooled."""
    target: str
    ic: float
    standard_error: float
    """Robust to heteroscedasticity and autocorrelation (HAC)."""
    least_ic: float
    """Lower end of the confidence interval of |ic|, simultaneous over all tests of the table."""
    n_bars: int
    n_tests: int

    @property
    def is_copy(self) -> bool:
        return abs(self.ic) >= COPY_IC

    @property
    def is_leak(self) -> bool:
        """Whether |ic| is more than an honest column can have, luck included."""
        return self.is_copy or abs(self.ic) - HONEST_ERRORS * self.standard_error > HONEST_IC


def suspects(panel: Panel, timing: Timing) -> list[Suspect]:
    """All (column, instrument or pool, target) with |IC| at least NOTABLE_IC and beyond luck among all tests made.

    Beyond luck means |IC| - q * SE > 0, with SE the HAC standard error (`_standard_errors`) and q the Student t
    quantile at FALSE_ALARMS / (2 * number of tests). Its degrees of freedom are those of the variance estimate, n / sum
    of squared lag weights (Priestley 1981, section 6.2.3), so that with few bars, or labels that overlap, |IC| has to
    be larger. A copy needs MIN_COPY_BARS bars, everything else MIN_INFERENCE_BARS.
    """
    names, targets = _targets(panel, timing)
    ranks = _ranks(panel.features)
    pools: list[str | None] = list(panel.symbols) if len(panel.symbols) == 1 else [*panel.symbols, None]
    ic, n_pairs = _coefficients(ranks, targets)
    n_tests = ic.size
    found: list[Suspect] = []
    for place, instrument in enumerate(pools):
        chosen = (np.abs(ic[place]) >= NOTABLE_IC) & (n_pairs[place] >= MIN_COPY_BARS)
        columns, kinds = np.nonzero(chosen)
        asset = slice(None) if instrument is None else slice(place, place + 1)
        size = max(1, _CELLS_AT_ONCE // ranks[:, asset, 0].size)
        for start in range(0, len(columns), size):
            column, kind = columns[start : start + size], kinds[start : start + size]
            error, n_bars, freedom = _standard_errors(
                ranks[:, asset, column], targets[:, asset, kind], max_overlap=timing.horizon - 1
            )
            value = ic[place, column, kind]
            least = np.abs(value) + stdtrit(freedom, FALSE_ALARMS / 2.0 / n_tests) * error
            beyond_luck = (least > 0.0) & ((n_bars >= MIN_INFERENCE_BARS) | (np.abs(value) >= COPY_IC))
            found += [
                Suspect(
                    column=panel.feature_names[column[i]],
                    instrument=instrument,
                    target=names[kind[i]],
                    ic=float(value[i]),
                    standard_error=float(error[i]),
                    least_ic=float(least[i]),
                    n_bars=int(n_bars[i]),
                    n_tests=n_tests,
                )
                for i in np.flatnonzero(beyond_luck)
            ]
    return found


def _targets(panel: Panel, timing: Timing) -> tuple[list[str], Array]:
    """Names and ranks (T, A, K) of the label and of the returns of the next bars."""
    ahead = range(1, max(FUTURE_BARS, timing.label_bars) + 1)
    values = np.full((*panel.returns.shape, 1 + len(ahead)), np.nan)
    values[:, :, 0] = scaled_label(panel.returns, ewm_volatility(panel.returns), timing)
    for k in ahead:
        values[:-k, :, k] = panel.returns[k:]
    return ["the label", *(f"the return of bar t + {k}" for k in ahead)], _ranks(values).astype(np.float64)


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each value's rank in its own series (T, A, F) over time, spread evenly over (-0.5, 0.5); ties share theirs."""
    out = np.empty(values.shape, dtype=np.float32)
    count = np.isfinite(values).sum(axis=0)
    for a in range(values.shape[1]):
        rank = rankdata(values[:, a], axis=0, nan_policy="omit")
        out[:, a] = (rank - 0.5) / np.maximum(count[a], 1) - 0.5
    return out


def _coefficients(x: NDArray[np.float32], y: Array) -> tuple[Array, Array]:
    """IC and number of pairs (places, F, K) of x (T, A, F) with y (T, A, K), over bars that have both.

    A place is an instrument; where there are several, the last is their pool, each centred on its own mean.
    """
    moments = np.array([_moments(x[:, a].astype(np.float64), y[:, a]) for a in range(x.shape[1])])  # (A, 4, F, K)
    if len(moments) > 1:
        moments = np.concatenate([moments, moments.sum(axis=0, keepdims=True)])
    n_pairs, covariance, variance_x, variance_y = moments.swapaxes(0, 1)
    spread = variance_x * variance_y
    varies = spread > (1e-9 * n_pairs) ** 2
    return np.where(varies, covariance / np.sqrt(np.where(varies, spread, 1.0)), 0.0), n_pairs


def _moments(x: Array, y: Array) -> Array:
    """(4, F, K): pairs, and the sums of products and squares about the means, of x (T, F) with y (T, K)."""
    has_x, has_y = np.isfinite(x).astype(np.float64), np.isfinite(y).astype(np.float64)
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    n = has_x.T @ has_y
    some = np.maximum(n, 1.0)
    sum_x, sum_y = x.T @ has_y, has_x.T @ y
    return np.stack(
        [
            n,
            x.T @ y - sum_x * sum_y / some,
            (x**2).T @ has_y - sum_x**2 / some,
            has_x.T @ y**2 - sum_y**2 / some,
        ]
    )


def _standard_errors(x: NDArray[np.float32], y: Array, *, max_overlap: int) -> tuple[Array, Array, Array]:
    """HAC standard error of the IC of each x (T, A, C) with its y, the bars it has, and its degrees of freedom, (C,).

    Delta method: with x and y centred, and of unit length over all instruments, a bar adds
    sum over instruments of x*y - IC/2 * (x^2 + y^2) to the error of the IC. Summed within the bar first, because
    instruments move together; then Bartlett weights over 4 (T/100)^(2/9) lags (Newey & West 1994, section 4), or twice
    the bars by which labels overlap. Short samples make this too small now and then: it is never below the error of
    independent pairs, (1 - IC^2) / sqrt(pairs).
    """
    n_bars = len(x)
    both = np.isfinite(x) & np.isfinite(y)
    count = np.maximum(both.sum(axis=0), 1)
    x, y = np.where(both, x, 0.0), np.where(both, y, 0.0)
    x, y = np.where(both, x - x.sum(axis=0) / count, 0.0), np.where(both, y - y.sum(axis=0) / count, 0.0)
    x, y = (values / np.sqrt((values**2).sum(axis=(0, 1))) for values in (x, y))
    ic = (x * y).sum(axis=(0, 1))
    score = (x * y - ic / 2.0 * (x**2 + y**2)).sum(axis=1)  # (T, C)
    n_lags = min(max(int(4.0 * (n_bars / 100.0) ** (2.0 / 9.0)), 2 * max_overlap), n_bars - 1)
    weights = 1.0 - np.arange(1, n_lags + 1) / (n_lags + 1)
    variance = (score**2).sum(axis=0)
    for lag, weight in enumerate(weights, start=1):
        variance += 2.0 * weight * (score[lag:] * score[:-lag]).sum(axis=0)
    present = both.any(axis=1).sum(axis=0)
    freedom = np.maximum(present / (1.0 + 2.0 * (weights**2).sum()), 1.0)
    independent = (1.0 - ic**2) ** 2 / both.sum(axis=(0, 1))
    return np.sqrt(np.maximum(variance, independent)), present, freedom
