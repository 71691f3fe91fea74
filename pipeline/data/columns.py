"""What each column of a table is: a key, a feature, or something that is left out and said.

Shapes: R rows of the table, A instruments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.config.sections import DataConfig
from pipeline.data.findings import Finding
from tft.table import CONTRACT, RETURN, SYMBOL, TIME, find_keys, usual_key

OPTIONS = {TIME: "time_column", SYMBOL: "symbol_column", "close": "close_column", RETURN: "return_column"}
"""The setting in `data` that names the column of each key."""
ROLES = {TIME: "time", SYMBOL: "instrument", "close": "close", RETURN: "return"}
INDEX_NAME = re.compile(r"(unnamed: ?\d+|__index_level_\d+__|)", re.IGNORECASE)
"""What a table's row index is called where a program wrote it as a column."""
LEFT_OUT = "left out"
"""The check that leaves a column out of the features."""
LEAST_ROWS = 4
"""Fewer rows count by accident."""
MOST_ROUNDING = 1e-3
"""Largest error of a column as float32, as a share of its standard deviation within instruments."""

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Roles:
    """Which columns of a table are keys and which are features, by their names alone."""

    keys: Mapping[str, str]
    """The column of each key, as far as it was found."""
    features: tuple[str, ...]
    faults: Mapping[str, str]
    """By key, why it cannot be told which column it is."""
    notes: tuple[Finding, ...]


def roles_of(names: Sequence[str], config: DataConfig) -> Roles:
    """Tell the columns `names` apart. A key that is absent is none of the faults; an excluded column is no key unless
    it is named as one.
    """
    named = config.key_columns()
    there = [name for name in names if name not in config.exclude or name in named.values()]
    keys, unclear = find_keys(there, named)
    for key, own in named.items():
        if own not in names:  # what was asked for is not silently something else
            keys.pop(key, None)
            unclear.pop(key, None)
    faults = {}
    for key, candidates in unclear.items():
        lines = " or ".join(f"--set data.{OPTIONS[key]}={quoted(name)}" for name in candidates)
        faults[key] = f"{_listed(candidates)} could each be the {ROLES[key]}: choose by {lines}"
    undecided = {name for candidates in unclear.values() for name in candidates}
    apart = {*keys.values(), *config.exclude, config.benchmark, *undecided}
    rest = [name for name in names if name not in apart]
    index = [name for name in rest if INDEX_NAME.fullmatch(name.strip()) and name not in config.accept]
    spare = [name for name in rest if usual_key(name) and name not in config.accept]
    notes = []
    renamed = {key: name for key, name in keys.items() if name not in (*CONTRACT[key], named.get(key))}
    if renamed:
        (first, role), *others = ((name, f"for the {ROLES[key]}") for key, name in renamed.items())
        taken = [f"{first} is taken {role}", *(f"{name} {role}" for name, role in others)]
        notes.append(Finding("note", "columns", "table", ", ".join(taken)))
    notes += [left_out(name, "a row index that some program wrote as a column") for name in index]
    notes += [_spare(name, str(usual_key(name)), keys) for name in spare]
    features = tuple(name for name in rest if name not in (*index, *spare))
    return Roles(keys, features, faults, tuple(notes))


def left_out(name: str, why: str, remedy: str = "") -> Finding:
    """The finding on a column that is no feature, though nobody has excluded it."""
    called = f"column {name}" if name.strip() else "a column without a name"
    keep = "rename it to make it a feature" if not name.strip() else f"to keep it, data.accept=[{quoted(name)}]"
    remedy = remedy or keep
    return Finding("note", LEFT_OUT, called, f"left out, {why}; {remedy}", name)


def _spare(name: str, key: str, keys: Mapping[str, str]) -> Finding:
    """The finding on a column that could be a key for which another one is taken, or none is."""
    taken = f"for which {keys[key]} is taken here" if key in keys else "for which none is taken here"
    why = f"its name is usual for the {ROLES[key]} of a row, {taken}"
    instead = f"to take it instead, data.{OPTIONS[key]}={quoted(name)}"
    return left_out(name, why, f"{instead}; to keep it as a feature, data.accept=[{quoted(name)}]")


def not_numbers(column: pl.Series) -> pl.Series:
    """The rows of a column that hold something other than a number, or a missing value; text may hold numbers."""
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        return (as_numbers(column).is_null() & column.is_not_null()).arg_true()
    is_number = column.dtype.is_numeric() or column.dtype == pl.Boolean
    return pl.Series([], dtype=pl.UInt32) if is_number else column.is_not_null().arg_true()


def as_numbers(column: pl.Series) -> pl.Series:
    """The numbers of a column of text, null for anything else."""
    return column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def counts_rows(values: Numbers, times: NDArray[np.datetime64], asset: NDArray[np.int64]) -> str:
    """Why a column (R,) is no feature but a count of rows or of time, by its values; empty where it is not.

    times (R,), asset (R,): bar and instrument of each row, rows of an instrument in the order of time.
    """
    if len(values) < LEAST_ROWS or not np.isfinite(values).all():
        return ""
    ordered = np.sort(values)
    if (np.diff(ordered) == 1.0).all():
        return "it numbers the table's rows"
    rows = np.argsort(asset, kind="stable")
    step, same = np.diff(values[rows]), np.diff(asset[rows]) == 0
    if same.sum() >= LEAST_ROWS and step[same][0] != 0.0 and (step[same] == step[same][0]).all():
        return "it numbers the bars of every instrument"
    _, first, bar = np.unique(times, return_index=True, return_inverse=True)
    of_bar = values[first]
    if len(first) < LEAST_ROWS or len(np.unique(asset)) < 2:
        return ""
    whole = (np.floor(values) == values).all()
    if whole and (values == of_bar[bar]).all() and (np.diff(of_bar) > 0.0).all():
        return "it counts time: the same whole number for all instruments, higher at every bar"
    return ""


def offset_of(values: Numbers, asset: NDArray[np.int64]) -> float:
    """What to subtract from a column (R,) before it becomes float32; 0 where that holds its variation.

    It is the first value that is there: one that does not change when bars are added.
    """
    lost, spread = rounding(values, asset)
    present = values[np.isfinite(values)]
    return float(present[0]) if lost > MOST_ROUNDING * spread > 0.0 else 0.0


def rounding(values: Numbers, asset: NDArray[np.int64]) -> tuple[float, float]:
    """Largest error of a column (R,) as float32, and its standard deviation within instruments."""
    there = np.isfinite(values)
    if not there.any():
        return 0.0, 0.0
    present, of = values[there], asset[there]
    lost = float(np.abs(present.astype(np.float32).astype(np.float64) - present).max())
    if lost == 0.0:
        return 0.0, 0.0
    level = np.bincount(of, present - present[0]) / np.maximum(np.bincount(of), 1)
    return lost, float(np.std(present - present[0] - level[of]))


def centred(name: str, values: Numbers, offset: float, asset: NDArray[np.int64]) -> Finding:
    """The finding on a column (R,) from which `offset` is subtracted, and whether that is enough."""
    lost, _ = rounding(values, asset)
    still, spread = rounding(values - offset, asset)
    why = f"{offset:.12g} is subtracted, as float32 holds seven digits and would round its values by up to {lost:.3g}"
    if still <= MOST_ROUNDING * spread:
        return Finding("note", "large numbers", f"column {name}", why, name)
    beyond = (
        f"they still differ too much between instruments (by up to {still:.3g}): give differences or ratios instead"
    )
    return Finding("warning", "large numbers", f"column {name}", f"{why}; {beyond}", name)


def clock_column(frame: pl.DataFrame, config: DataConfig) -> tuple[str, str]:
    """The column that holds the time of day alone, and what to say of it; both empty for a table without one."""
    times = [name for name in frame.columns if usual_key(name) == TIME and name not in config.exclude]
    times += [config.time_column] if config.time_column in frame.columns and config.time_column not in times else []
    clock = next((name for name in times if _is_clock(frame[name])), None)
    if clock is None:
        return "", ""
    day = next((name for name in times if name != clock), None)
    first = frame[clock].drop_nulls()[0]
    apart = f"and column {day} the days" if day else "without the day"
    joined = "join both into one, such as 2026-02-10 09:15:00" if day else "a bar needs both, as 2026-02-10 09:15:00"
    return clock, f"column {clock} holds times of day such as {first}, {apart}: {joined}"


def _is_clock(column: pl.Series) -> bool:
    held = column.drop_nulls()
    if held.is_empty() or held.dtype != pl.String:
        return not held.is_empty() and held.dtype == pl.Time
    return bool(held.str.contains(r"^\s*\d{1,2}:\d\d(:\d\d(\.\d+)?)?(\s?[AaPp][Mm])?\s*$").all())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f'"{name}"'
