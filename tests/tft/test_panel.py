"""Panel: the one conversion from a long table, and the views of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tft.panel import Panel, group_of

A, B = "A", "B"
# Rows out of order; B begins late and has a gap at bar 2; bar 4 is in the future: it carries no return.
DAY = np.array(["2024-01-02", "2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-04", "2024-01-05"])
TABLE = {
    "date": DAY.astype("datetime64[D]"),
    "symbol": np.array([B, A, A, A, B, A, A], dtype=object),
    "close": np.array([50.0, 100.0, 110.0, 99.0, 60.0, 99.0, np.nan]),
    "ret_1d": np.array([np.nan, 0.5, 0.1, -0.1, 0.2, 0.0, np.nan]),
    "px_x": np.array([20, 1, 2, 3, 40, 4, 5]),
    "vix_up": np.array([True, False, True, False, True, True, False]),
}
NAN = np.nan


def test_pivot_is_the_literal_table() -> None:
    """Bars and symbols are sorted, a row that is not there is NaN, numbers and booleans become float32."""
    panel = Panel.from_columns(TABLE)
    assert panel.symbols == (A, B)
    assert panel.feature_names == ("px_x", "vix_up")
    assert panel.times.astype("datetime64[D]").tolist() == sorted(set(TABLE["date"].tolist()))
    np.testing.assert_array_equal(panel.features[:, :, 0], [[1, NAN], [2, 20], [3, NAN], [4, 40], [5, NAN]])
    np.testing.assert_array_equal(panel.features[:, :, 1], [[0, NAN], [1, 1], [0, NAN], [1, 1], [0, NAN]])
    assert panel.features.dtype == np.float32
    # ret_1d prevails over close, which would not give a return at the first bar.
    np.testing.assert_array_equal(panel.returns, [[0.5, NAN], [0.1, NAN], [-0.1, NAN], [0.0, 0.2], [NAN, NAN]])


def test_returns_from_close_skip_gaps() -> None:
    """Without ret_1d a return is taken against the instrument's previous close, however long ago that was."""
    panel = Panel.from_columns({name: values for name, values in TABLE.items() if name != "ret_1d"})
    expected = [[NAN, NAN], [0.1, NAN], [-0.1, NAN], [0.0, 0.2], [NAN, NAN]]
    np.testing.assert_allclose(panel.returns, expected, rtol=1e-12)


def test_pivot_agrees_with_pandas() -> None:
    """On a random table with a third of the rows missing, each column is what pandas' pivot makes of it."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame([(t, s) for t in pd.date_range("2024-01-01", periods=40, freq="15min") for s in "CAB"])
    frame.columns = ["timestamp", "symbol"]
    frame[["ret_1d", "px_a", "vix_b"]] = rng.standard_normal((len(frame), 3))
    frame = frame.sample(frac=0.67, random_state=1)
    panel = Panel.from_columns({name: frame[name].to_numpy() for name in frame.columns})
    wide = frame.pivot(index="timestamp", columns="symbol")
    np.testing.assert_array_equal(panel.times, wide.index.to_numpy())
    np.testing.assert_array_equal(panel.returns, wide["ret_1d"].to_numpy())
    for i, name in enumerate(["px_a", "vix_b"]):
        np.testing.assert_array_equal(panel.features[:, :, i], wide[name].to_numpy().astype(np.float32))


def test_known_columns_come_ahead_and_future_rows_only_feed_them() -> None:
    """`x.ahead` at bar t is x at bar t + lead_bars; the bar at the end without any return is not a bar of the panel."""
    panel = Panel.from_columns(TABLE, known=["px_x"], lead_bars=1)
    assert panel.feature_names == ("px_x", "vix_up", "px_x.ahead")
    assert len(panel.times) == 4
    np.testing.assert_array_equal(panel.features[:, :, 2], [[2, 20], [3, NAN], [4, 40], [5, NAN]])


def test_symbols_and_features_can_be_chosen_in_order() -> None:
    """A model asks for its own symbols and columns in its own order; a symbol without rows is missing throughout."""
    panel = Panel.from_columns(
        TABLE, feature_names=["vix_up", "px_x.ahead"], symbols=["Z", B, A], known=["px_x"], lead_bars=2
    )
    assert (panel.symbols, panel.feature_names) == (("Z", B, A), ("vix_up", "px_x.ahead"))
    assert np.isnan(panel.features[:, 0]).all()
    np.testing.assert_array_equal(panel.features[:, 1], [[NAN, NAN], [1, 40], [NAN, NAN], [1, NAN]])


def test_bars_of_symbols_that_are_left_out_are_left_out() -> None:
    """Another instrument's calendar puts no empty bars between those of the symbols asked for."""
    panel = Panel.from_columns(TABLE, symbols=[B])
    np.testing.assert_array_equal(panel.features[:, 0, 0], [20, 40])
    with pytest.raises(ValueError, match="no row of Z"):
        Panel.from_columns(TABLE, symbols=["Z"])


def test_first_bars_is_the_past() -> None:
    """Cutting the panel is the same as converting a table that ends there."""
    short = {name: values[TABLE["date"] < np.datetime64("2024-01-03")] for name, values in TABLE.items()}
    cut, direct = Panel.from_columns(TABLE).first_bars(2), Panel.from_columns(short)
    np.testing.assert_array_equal(cut.features, direct.features)
    np.testing.assert_array_equal(cut.returns, direct.returns)
    np.testing.assert_array_equal(cut.times, direct.times)


def test_select_reorders_and_names_what_is_absent() -> None:
    panel = Panel.from_columns(TABLE)
    np.testing.assert_array_equal(panel.select(["vix_up", "px_x"]).features, panel.features[:, :, ::-1])
    with pytest.raises(ValueError, match="the panel lacks the columns px_y, px_z"):
        panel.select(["px_y", "px_x", "px_z"])


def test_all_missing_columns_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"date \(or timestamp\), symbol, ret_1d \(or close\), px_y, px_z"):
        Panel.from_columns({"px_x": np.zeros(3)}, feature_names=["px_x", "px_y"], known=["px_z"])


def test_two_rows_of_one_bar_and_symbol_are_refused() -> None:
    twice = {name: np.concatenate([values, values[:1]]) for name, values in TABLE.items()}
    with pytest.raises(ValueError, match="two rows of the same bar and symbol"):
        Panel.from_columns(twice)


def test_shapes_and_order_are_checked() -> None:
    panel = Panel.from_columns(TABLE)
    arrays = {name: getattr(panel, name) for name in ("times", "symbols", "feature_names", "features", "returns")}
    for change, message in [
        ({"features": panel.features[1:]}, "features have shape"),
        ({"returns": panel.returns[:, :1]}, "returns have shape"),
        ({"times": panel.times[::-1]}, "not strictly increasing"),
    ]:
        with pytest.raises(ValueError, match=message):
            Panel(**(arrays | change))


def test_group_is_the_part_before_the_first_underscore() -> None:
    assert group_of("pvol_client_opt_put_net_z21") == "pvol"
    assert group_of("close") == "close"
