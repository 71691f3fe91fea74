"""The columns of a long table, under whatever names, to a panel.

One row per (bar, instrument), as a mapping of column name to array (R,). numpy alone, as it travels with the served
model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tft.panel import Panel

Columns = Mapping[str, NDArray[np.generic]]


def renamed(columns: Columns, key_columns: Mapping[str, str]) -> Columns:
    """The same columns, the keys under the names that `Panel.from_columns` knows them by.

    `key_columns` says what the table calls `date` or `timestamp`, `symbol`, `close` and `ret_1d`, where it calls them
    otherwise. A column that has such a name by chance, beside the one that is meant, is left out.
    """
    own = {name: known for known, name in key_columns.items() if name in columns}
    meant = set(own.values())
    return {own.get(name, name): values for name, values in columns.items() if name in own or name not in meant}


def panel_from_table(
    columns: Columns,
    *,
    key_columns: Mapping[str, str],
    feature_names: Sequence[str],
    symbols: Sequence[str],
    known: Sequence[str],
    lead_bars: int,
) -> Panel:
    """The panel of a table whose keys are named by `key_columns`, as in `renamed`; the rest as in `Panel.from_columns`.

    Raises ValueError for a missing column, an infinite value, or two rows of one bar and symbol.
    """
    return Panel.from_columns(
        renamed(columns, key_columns), feature_names=feature_names, symbols=symbols, known=known, lead_bars=lead_bars
    )
