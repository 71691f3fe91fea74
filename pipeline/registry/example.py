"""The input example of a registered model: the last bars of a few of its instruments, as a table with types."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tft.checkpoint import TrainedModel
from tft.panel import AHEAD, Panel
from tft.table import RETURN, SYMBOL, TIME
from tft.volatility import MIN_RETURNS

N_INSTRUMENTS = 4
"""At most so many are shown: the example is to be read, and a table of hundreds is large."""


def input_columns(trained: TrainedModel) -> list[str]:
    """The columns of a table that the model reads, besides the keys."""
    plain = [name for name in trained.feature_names if not name.endswith(AHEAD)]
    return list(dict.fromkeys((*plain, *trained.known)))


def input_example(trained: TrainedModel, panel: Panel) -> pd.DataFrame:
    """The last bars of `panel`, which holds all columns of the table: as few as the model decides on, a row per bar and
    instrument."""
    n_bars = max(trained.config.seq_len, MIN_RETURNS + 1)
    symbols = [symbol for symbol in trained.symbols if symbol in panel.symbols][:N_INSTRUMENTS]
    times = panel.times[-n_bars:]
    rows = [panel.symbols.index(symbol) for symbol in symbols]
    daily = bool((times == times.astype("datetime64[D]")).all())
    named, offsets = trained.table_format.columns, trained.table_format.offsets
    table = {
        named.get(TIME, "date" if daily else "timestamp"): np.repeat(times.astype("datetime64[ns]"), len(symbols)),
        named.get(SYMBOL, "symbol"): np.tile(np.array(symbols, dtype=object), len(times)),
        named.get(RETURN, "ret_1d"): panel.returns[-n_bars:, rows].ravel(),
    }
    for name in (name for name in input_columns(trained) if name in panel.feature_names):
        values = panel.features[-n_bars:, rows, panel.feature_names.index(name)].astype(np.float64)
        table[name] = values.ravel() + offsets.get(name, 0.0)
    return pd.DataFrame(table)
