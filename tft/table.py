"""From a long table, whose key columns may have any names, to a panel.

A table is a mapping of column name to array (R,), one row per (bar, instrument). This file needs only numpy, as it is
packaged with the served model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tft.panel import Panel

Columns = Mapping[str, NDArray[np.generic]]


def renamed(columns: Columns, key_columns: Mapping[str, str]) -> Columns:
    """Rename the table's key columns to the names that `Panel.from_columns` expects.

    `key_columns` maps `date` or `timestamp`, `symbol`, `close` and `ret_1d` to the table's own names where they differ.
    If another column already has one of these names, it is dropped in favour of the renamed one.
    """
    new_names = {name: key for key, name in key_columns.items() if name in columns}
    taken = set(new_names.values())
    return {
        new_names.get(name, name): values for name, values in columns.items() if name in new_names or name not in taken
    }


def panel_from_table(
    columns: Columns,
    *,
    key_columns: Mapping[str, str],
    feature_names: Sequence[str],
    symbols: Sequence[str],
    known: Sequence[str],
    lead_bars: int,
) -> Panel:
    """Build a panel from a table whose own names of the key columns are given by `key_columns` (see `renamed`).

    The other arguments are those of `Panel.from_columns`. Raises ValueError for a missing column, an infinite value, or
    two rows of the same bar and symbol.
    """
    return Panel.from_columns(
        renamed(columns, key_columns), feature_names=feature_names, symbols=symbols, known=known, lead_bars=lead_bars
    )
