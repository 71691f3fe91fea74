"""Checks of the data, made before anything is trained on it.

Shapes: T bars, A instruments, F features, B blocks of bars.

Each check is a function from the development panel to findings. An error stops the command unless the configuration
lists the column in `data.accept`, as one that somebody has looked at and found right. A warning stops nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from pipeline.data.findings import SEVERITIES, Finding
from pipeline.data.leaks import HONEST_IC, Suspect, suspects
from pipeline.statistics.sharpe import detectable_sharpe
from tft.metrics import MIN_INFERENCE_BARS
from tft.panel import Panel
from tft.volatility import Timing

Column = NDArray[np.float32]

BLOCK_BARS = 21
SIDE_BLOCKS = 5
"""The old scale has to hold in so many blocks before the change, and the new one in so many after it: a wild quarter is
not enough."""
JUMP_FACTOR = 10.0
"""Least ratio of the two scales. Calm and wild quarters of one market differ by less, units by 10 or more."""
STALE_SHARE = 0.05
"""Least share of bars that repeat the value of the bar before."""
MOVING_SHARE = 0.5
"""A column that repeats its value on a larger share of bars is slow (a weekly report, a calendar), not stale."""
_REMEDY = "remove it (data.exclude), or list it in data.accept if you know why it may"


def check_data(
    panel: Panel,
    *,
    timing: Timing,
    n_holdout_bars: int | None,
    accept: Sequence[str] = (),
    planted: Collection[str] = (),
) -> tuple[Finding, ...]:
    """All findings on a panel of development bars, worst first.

    `n_holdout_bars` is the number of holdout bars with a known return, the only thing about the holdout that is looked
    at; None for `selection: nested`, which has no holdout. Findings in the columns of `accept`, and in those in which a
    sample has its signal (`planted`), become notes.
    """
    found = [
        *_too_few_bars(panel, timing, n_holdout_bars),
        *_leaks(panel, timing),
        *_scale_jumps(panel),
        *_stale_values(panel),
        *_repeated_rows(panel),
    ]
    found = [
        _note(finding, "planted, the sample's signal is in it") if finding.column in planted else finding
        for finding in found
    ]
    found = [_note(finding, "accepted (data.accept)") if finding.column in accept else finding for finding in found]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _note(finding: Finding, why: str) -> Finding:
    return replace(finding, severity="note", message=f"{why}: {finding.message}")


# ---- too few bars


def _too_few_bars(panel: Panel, timing: Timing, n_holdout_bars: int | None) -> Iterator[Finding]:
    least, check = MIN_INFERENCE_BARS, "too few bars"
    if n_holdout_bars is not None and n_holdout_bars < least:
        detectable = detectable_sharpe(max(n_holdout_bars, 1), timing.periods_per_year)
        yield Finding(
            "warning",
            check,
            "holdout",
            f"{n_holdout_bars} bars with a known return, inference needs {least}: only an annual Sharpe above "
            f"{detectable:.1f} would show; bring more bars or enlarge the holdout",
        )
    n_labelled = len(panel.times) - timing.label_bars
    if n_labelled < least:
        yield Finding(
            "warning",
            check,
            "development",
            f"{n_labelled} bars with a label, inference needs {least}: bring more bars or make the holdout smaller",
        )
    for symbol, count in zip(panel.symbols, np.isfinite(panel.returns).sum(axis=0).tolist(), strict=True):
        if count < least <= n_labelled:
            yield Finding(
                "warning",
                check,
                symbol,
                f"{count} of {len(panel.times)} development bars have a return, inference needs {least}: nothing is "
                "learnt about it; leave it out or give it a longer history",
            )
    most = np.isfinite(panel.features).sum(axis=0).max(axis=0)
    for name, count in zip(panel.feature_names, most.tolist(), strict=True):
        if 0 < count < least <= n_labelled:
            yield Finding(
                "note",
                check,
                f"column {name}",
                f"{count} values at most in one instrument's development bars: whether it leaks cannot be told",
                name,
            )


# ---- leaks


def _leaks(panel: Panel, timing: Timing) -> Iterator[Finding]:
    """One finding for each suspected column: its IC furthest beyond luck, and every instrument it is found in."""
    by_column: dict[str, list[Suspect]] = {}
    for suspect in suspects(panel, timing):
        by_column.setdefault(suspect.column, []).append(suspect)
    for name, found in by_column.items():
        worst = max(found, key=lambda suspect: (suspect.is_leak, suspect.least_ic))
        same = [s for s in found if s.target == worst.target and s.is_leak == worst.is_leak]
        places = [s.instrument for s in same if s.instrument is not None]
        where = f"column {name}, {_listed(places or panel.symbols, panel.symbols)}"
        measured = f"{worst.target} (rank correlation {worst.ic:+.3f} over {worst.n_bars} bars"
        if worst.is_copy:
            yield Finding("error", "copy of the future", where, f"it is {measured}): {_REMEDY}", name)
        elif worst.is_leak:
            yield Finding(
                "error",
                "information coefficient",
                where,
                f"it knows {measured}, HAC standard error {worst.standard_error:.3f}): no honest column reaches "
                f"{HONEST_IC:g}; {_REMEDY}",
                name,
            )
        else:
            yield Finding(
                "warning",
                "information coefficient",
                where,
                f"it predicts {measured}, HAC standard error {worst.standard_error:.3f}): more than luck among "
                f"{worst.n_tests} correlations; make sure that its values are known at the bar they stand at",
                name,
            )


# ---- scale jumps


def _scale_jumps(panel: Panel) -> Iterator[Finding]:
    """Columns whose changes from bar to bar become JUMP_FACTOR times as large, or as small, within a block of bars.

    The scale of a block is the median of |x_t - x_(t-1)| over the changes that are not 0; unlike the median of |x| it
    does not wander when a slow column crosses 0. At a jump the smallest scale of SIDE_BLOCKS blocks on one side is at
    least JUMP_FACTOR times the largest on the other; the block between them may be mixed.
    """
    n_blocks = (len(panel.times) - 1) // BLOCK_BARS
    if n_blocks < 2 * SIDE_BLOCKS + 1:
        return
    first_bar = len(panel.times) - n_blocks * BLOCK_BARS  # blocks end with the last bar
    jumps: dict[tuple[int, int], list[tuple[str, float, float]]] = {}
    for a, symbol in enumerate(panel.symbols):
        change = np.abs(np.diff(panel.features[first_bar - 1 :, a], axis=0))
        change[change == 0.0] = np.nan
        sides = sliding_window_view(_block_medians(change), SIDE_BLOCKS, axis=0)  # (B - S + 1, F, S)
        before, after = sides[: -SIDE_BLOCKS - 1], sides[SIDE_BLOCKS + 1 :]
        up = after.min(axis=2) / before.max(axis=2)
        down = before.min(axis=2) / after.max(axis=2)
        ratio = np.nan_to_num(np.maximum(up, down))  # (B - 2 S, F); 0 where a block lacks values
        for column in np.flatnonzero(ratio.max(axis=0) >= JUMP_FACTOR).tolist():
            i = int(ratio[:, column].argmax())
            old, new = float(np.median(before[i, column])), float(np.median(after[i, column]))
            start = (i + SIDE_BLOCKS - 1) * BLOCK_BARS
            bar = _first_of(change[start : start + 3 * BLOCK_BARS, column], old, new)
            jumps.setdefault((column, first_bar + start + bar), []).append((symbol, old, new))
    for (column, bar), found in sorted(jumps.items()):
        _, old, new = found[0]
        name = panel.feature_names[column]
        yield Finding(
            "warning",
            "scale jump",
            f"column {name}, {_listed([symbol for symbol, _, _ in found], panel.symbols)}, {_time(panel, bar)}",
            f"from this bar on its changes are typically {new:.3g} instead of {old:.3g}: check its units",
            name,
        )


def _block_medians(change: Column) -> Column:
    """(B, F) lower median of each block of (B * BLOCK_BARS, F); NaN where more than three quarters are missing."""
    blocks = np.sort(change.reshape(-1, BLOCK_BARS, change.shape[1]), axis=1)  # NaN last
    count = np.isfinite(blocks).sum(axis=1)
    median = np.take_along_axis(blocks, np.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]
    return np.where(4 * count >= BLOCK_BARS, median, np.float32(np.nan))


def _first_of(change: Column, old: float, new: float) -> int:
    """The bar from which changes (n,) lie on the new scale's side of the geometric mean of both, with the fewest
    exceptions before and after."""
    present = np.isfinite(change)
    is_new = (change > math.sqrt(old * new)) == (new > old)
    early, late = np.cumsum(present & is_new), np.cumsum((present & ~is_new)[::-1])[::-1]
    first = int(np.argmin(np.concatenate([[0], early[:-1]]) + late))
    return first - (new < old and first > 0)  # the step down itself is as large as the old changes


# ---- stale values


def _repeats(panel: Panel, asset: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each value repeats that of the bar before (T - 1, F), and how many bars have both values (F,)."""
    values = panel.features[:, asset]
    pairs = np.isfinite(values[1:]) & np.isfinite(values[:-1])
    return values[1:] == values[:-1], pairs.sum(axis=0)


def _stale_values(panel: Panel) -> Iterator[Finding]:
    """Columns that move on most bars and repeat the value of the bar before on STALE_SHARE of them or more.

    A value that the column comes back to later is one of its levels (0, a limit, a count) and does not count as stale.
    """
    found: dict[int, list[tuple[float, str, int, int]]] = {}
    for a, symbol in enumerate(panel.symbols):
        repeats, n_pairs = _repeats(panel, a)
        share = repeats.sum(axis=0) / np.maximum(n_pairs, 1)
        suspicious = (share >= STALE_SHARE) & (share <= MOVING_SHARE) & (n_pairs >= MIN_INFERENCE_BARS)
        for column in np.flatnonzero(suspicious).tolist():
            values = panel.features[1:, a, column]
            begins = np.isfinite(values) & ~repeats[:, column]  # of a run of equal values
            levels, n_runs = np.unique(values[begins], return_counts=True)
            stale = repeats[:, column] & ~np.isin(values, levels[n_runs > 1])
            if stale.sum() >= STALE_SHARE * n_pairs[column]:
                start, length = _longest_run(stale)
                found.setdefault(column, []).append((float(stale.sum() / n_pairs[column]), symbol, start, length))
    for column, places in sorted(found.items()):
        share_stale, symbol, start, length = max(places, key=lambda place: place[0])
        name = panel.feature_names[column]
        yield Finding(
            "warning",
            "stale values",
            f"column {name}, {_listed([place[1] for place in places], panel.symbols)}",
            f"{share_stale:.0%} of the bars repeat the value of the bar before ({symbol}; at most {length + 1} bars "
            f"alike, from {_time(panel, start)}), on the others it moves: check for a feed that stood still",
            name,
        )


def _longest_run(repeats: NDArray[np.bool_]) -> tuple[int, int]:
    """The bar whose value is repeated on the most bars in a row, and the number of those bars."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], repeats, [False]]).astype(np.int8)))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(starts[longest]), int(lengths[longest])


def _repeated_rows(panel: Panel) -> Iterator[Finding]:
    """Bars on which all columns that move, two at least, repeat the bar before; a value missing on both counts as
    repeated."""
    for a, symbol in enumerate(panel.symbols):
        repeats, n_pairs = _repeats(panel, a)
        moving = np.flatnonzero((n_pairs > 0) & (repeats.sum(axis=0) <= MOVING_SHARE * n_pairs))
        present = np.isfinite(panel.features[:, a, moving])
        alike = (repeats[:, moving] | (~present[1:] & ~present[:-1])).all(axis=1)
        rows = np.flatnonzero(alike & (present[1:].sum(axis=1) >= 2)) + 1
        if len(rows):
            yield Finding(
                "warning",
                "repeated rows",
                f"{symbol}, {_time(panel, int(rows[0]))}",
                f"{len(rows)} of {len(panel.times)} bars, this the first, repeat the row of the bar before in all of "
                f"the {len(moving)} columns that move: check for holidays that were filled in",
            )


def _listed(symbols: Sequence[str], known: Sequence[str]) -> str:
    return "all instruments" if len(symbols) == len(known) else ", ".join(symbols)


def _time(panel: Panel, bar: int) -> str:
    return str(panel.times[bar].astype("datetime64[s]")).replace("T", " ").removesuffix(" 00:00:00")
