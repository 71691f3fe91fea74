"""A table that was handed over in memory, in polars or pandas, as one polars frame."""

from __future__ import annotations

from typing import Any

import pandas as pd
import polars as pl


def polars_frame(table: Any) -> pl.DataFrame | None:
    """The table in polars, with the named levels of a pandas index as columns; None for what is no table.

    A pandas index without a name only counts rows, and is left out.
    """
    if isinstance(table, pd.DataFrame):
        keys = [name for name in table.index.names if name is not None]
        return pl.from_pandas(table.reset_index(keys) if keys else table)
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    return table if isinstance(table, pl.DataFrame) else None
