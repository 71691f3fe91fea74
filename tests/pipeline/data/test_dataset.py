"""The data of a run: the panel that a file holds, and the hash of its content."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.data.dataset import load_panel
from pipeline.data.errors import DataError
from tests.pipeline.data.tables import config, good_table, panel_from_frame, put, same

REAL_TABLE = Path(__file__).resolve().parents[4] / "shared" / "data" / "panel.parquet"


def test_panel_holds_the_table(tmp_path: Path) -> None:
    """In a table sorted by date and symbol bar t of symbol a is row i = 2t + a, where px_x is i + i % 3."""
    good_table().write_parquet(tmp_path / "t.parquet")
    panel = load_panel(config(tmp_path / "t.parquet")).panel
    assert panel.feature_names == ("px_x", "vix_y")
    np.testing.assert_array_equal(panel.features[:, :, 0], (np.arange(60.0) + np.arange(60) % 3).reshape(30, 2))
    np.testing.assert_array_equal(panel.features[:, :, 1], np.arange(60).reshape(30, 2) % 5)
    np.testing.assert_allclose(panel.returns, 0.001 * (np.arange(60).reshape(30, 2) % 7 - 3), atol=1e-15)


def with_benchmark(values: list[float | None]) -> pl.DataFrame:
    """The table of 30 bars and two instruments with a column `spx` of one value a bar."""
    return good_table().with_columns(
        spx=pl.Series(np.repeat(np.array(values, dtype=object), 2).tolist(), dtype=pl.Float64)
    )


def test_a_benchmark_is_a_return_by_bar_and_no_feature(tmp_path: Path) -> None:
    values = [None, *(0.001 * i for i in range(1, 30))]
    with_benchmark(values).write_parquet(tmp_path / "t.parquet")
    data = load_panel(config(tmp_path / "t.parquet", benchmark="spx"))
    assert data.panel.feature_names == ("px_x", "vix_y")
    assert data.benchmark is not None and np.isnan(data.benchmark[0])
    assert data.benchmark[1:].tolist() == values[1:]
    early = data.first_bars(10).benchmark
    assert early is not None and early[1:].tolist() == values[1:10]
    assert load_panel(config(tmp_path / "t.parquet", exclude=("spx",))).benchmark is None


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            with_benchmark([0.0, None, *[0.0] * 27, None]),
            "column spx (data.benchmark) is missing on 2 of 30 bars, first",
        ),
        (
            put(with_benchmark([0.0] * 30), "spx", 9, 0.5),
            "column spx (data.benchmark) differs between instruments on 1 of",
        ),
        (with_benchmark([0.0] * 29 + [-1.0]), "column spx: 2 of 60 values are -1 or less: a loss cannot exceed 100 %"),
        (good_table(), "no column spx (listed in data.benchmark)"),
        (
            with_benchmark([0.0] * 30).with_columns(spx=pl.lit("up")),
            "column spx is not numeric: 60 of 60 values are text",
        ),
    ],
)
def test_a_benchmark_that_does_not_serve_is_refused(frame: pl.DataFrame, said: str, tmp_path: Path) -> None:
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError) as raised:
        load_panel(config(tmp_path / "t.parquet", benchmark="spx"))
    assert any(finding.startswith(said) for finding in raised.value.findings), raised.value.findings


def test_hash_sees_every_part_and_nothing_but_content() -> None:
    """Any value, name, symbol or time changes it; the sign of zero and the payload of a NaN do not."""
    frame = put(put(good_table(), "px_x", 0, 0.0), "px_x", 5, None)
    base = panel_from_frame(frame, config())
    assert same(base, panel_from_frame(frame, config("elsewhere.csv")))
    assert same(base, panel_from_frame(put(put(frame, "px_x", 0, -0.0), "px_x", 5, float("nan")), config()))
    for other in (
        put(frame, "px_x", 7, 7.5),
        put(frame, "ret_1d", 7, 0.5),
        frame.rename({"px_x": "px_z"}),
        frame.with_columns(pl.col("symbol").replace("B", "C")),
        frame.with_columns(pl.col("date") + timedelta(days=1)),
        frame.select("date", "symbol", "close", "ret_1d", "vix_y", "px_x"),
    ):
        assert not same(base, panel_from_frame(other, config()))


def test_hash_of_a_slice_does_not_depend_on_what_follows() -> None:
    """Development bars hash alike whatever the holdout holds."""
    changed = put(good_table(), "px_x", 59, -1.0)
    panels = [panel_from_frame(frame, config()) for frame in (good_table(), changed)]
    assert same(panels[0].first_bars(29), panels[1].first_bars(29))
    assert not same(*panels)


@pytest.mark.realdata
@pytest.mark.skipif(not REAL_TABLE.exists(), reason="the folder with real market data is absent")
def test_real_table_is_clean_and_complete() -> None:
    """3,561 bars, 12 indices, 276 features of 16 groups; one return is missing besides the rows that are not there."""
    dataset = load_panel(config(REAL_TABLE), min_bars=400)
    panel = dataset.panel
    assert panel.features.shape == (3561, 12, 276)
    assert dataset.n_rows == 40_238
    assert np.isfinite(panel.returns).sum() == 40_237
    frame = pl.read_parquet(REAL_TABLE).filter(symbol="NIFTYIT")
    column, asset = panel.feature_names.index("px_ret_5"), panel.symbols.index("NIFTYIT")
    np.testing.assert_array_equal(panel.features[:, asset, column], frame["px_ret_5"].to_numpy())
