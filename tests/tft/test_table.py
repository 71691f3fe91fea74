"""A table under its own names: the columns that are meant become the keys of the panel."""

from __future__ import annotations

import numpy as np
import pytest

from tft.panel import Panel
from tft.table import panel_from_table, renamed

USUAL = {
    "date": np.array(["2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02"], dtype="datetime64[D]"),
    "symbol": np.array(["A", "B", "A", "B"]),
    "ret_1d": np.array([0.1, -0.1, 0.2, -0.2]),
    "px_x": np.array([1.0, 2.0, 3.0, 4.0]),
}
OWN = {"date": "day", "symbol": "ticker", "ret_1d": "return"}
TABLE = {OWN.get(name, name): values for name, values in USUAL.items()}


def same(a: Panel, b: Panel) -> bool:
    return (
        (a.symbols, a.feature_names) == (b.symbols, b.feature_names)
        and np.array_equal(a.times, b.times)
        and np.array_equal(a.features, b.features, equal_nan=True)
        and np.array_equal(a.returns, b.returns, equal_nan=True)
    )


def test_keys_get_their_usual_names_and_everything_else_stays() -> None:
    columns = renamed(TABLE, OWN)
    assert list(columns) == list(USUAL)
    assert all(columns[name] is TABLE[OWN.get(name, name)] for name in columns)
    assert renamed(USUAL, {}) == USUAL


@pytest.mark.parametrize("first", [True, False])
def test_a_column_that_has_a_key_s_name_by_chance_gives_way_wherever_it_stands(first: bool) -> None:
    chance = {"ret_1d": np.full(4, 9.0)}
    columns = renamed(chance | TABLE if first else TABLE | chance, OWN)
    assert columns["ret_1d"] is TABLE["return"]


def test_a_table_that_has_the_usual_name_alone_is_read_by_it() -> None:
    """The live table may call its keys as everyone does, though the one trained on did not."""
    assert renamed(USUAL, OWN) == USUAL


def test_a_panel_is_what_the_same_table_gives_under_the_usual_names() -> None:
    given = {"feature_names": ["px_x", "px_x.ahead"], "symbols": ["B", "A"], "known": ["px_x"], "lead_bars": 1}
    assert same(panel_from_table(TABLE, key_columns=OWN, **given), Panel.from_columns(USUAL, **given))


def test_missing_columns_are_named() -> None:
    with pytest.raises(ValueError, match=r"^the table lacks the columns symbol, px_y$"):
        panel_from_table(
            {name: values for name, values in TABLE.items() if name != "ticker"},
            key_columns=OWN,
            feature_names=["px_y"],
            symbols=["A"],
            known=(),
            lead_bars=2,
        )
