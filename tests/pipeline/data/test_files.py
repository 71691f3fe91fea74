"""Reading files: every format, parts of a table in several files, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipeline.data.dataset import load_panel, panel_sha256
from pipeline.data.errors import DataError
from pipeline.data.files import read_table
from tests.pipeline.data.tables import config, good_table, panel_from_frame, put


def test_every_format_gives_the_same_panel(tmp_path: Path) -> None:
    """Parquet, CSV, Arrow, and a glob over parts of the table agree, missing values included."""
    frame = put(put(good_table(), "px_x", 3, None), "ret_1d", 0, None)
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_ipc(tmp_path / "t.arrow")
    frame[:20].write_parquet(tmp_path / "part-1.parquet")
    frame[20:].write_parquet(tmp_path / "part-2.parquet")
    expected = panel_from_frame(frame, config())
    assert np.isnan(expected.features[1, 1, 0])
    for name in ("t.parquet", "t.csv", "t.arrow", "part-*.parquet"):
        dataset = load_panel(config(tmp_path / name))
        assert dataset.sha256 == panel_sha256(expected), name
        assert (dataset.n_rows, dataset.source) == (60, str(tmp_path / name))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    (tmp_path / "t.parquet").write_text("no parquet")
    good_table()[:0].write_parquet(tmp_path / "empty.parquet")
    for name, message in [
        ("absent.parquet", "there is no such file"),
        ("t.xlsx", "t.xlsx ends in .xlsx: the name must end in .parquet, .csv or .arrow"),
        ("t.parquet", "t.parquet is not readable as parquet"),
        ("empty.parquet", "it has no rows"),
    ]:
        with pytest.raises(DataError, match=message) as caught:
            load_panel(config(tmp_path / name))
        assert len(caught.value.findings) == 1


def test_files_of_a_glob_must_agree_on_the_type_of_time(tmp_path: Path) -> None:
    frame = good_table()
    frame[:20].write_parquet(tmp_path / "1.parquet")
    frame[20:].with_columns(pl.col("date").cast(pl.Datetime)).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"column date mixes time types: days such as 2024-01-01, and moments such as"):
        load_panel(config(tmp_path / "*.parquet"))


@pytest.mark.parametrize(("mark", "called"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars (|)")])
def test_another_separator_is_the_only_fault(tmp_path: Path, mark: str, called: str) -> None:
    good_table().write_csv(tmp_path / "t.csv", separator=mark)
    with pytest.raises(DataError) as caught:
        read_table(config(tmp_path / "t.csv"))
    assert caught.value.findings == (f"its values are separated by {called}: write it with commas, or as .parquet",)


def test_a_folder_is_no_table_and_files_beside_folders_are(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_table(config(tmp_path))
    assert caught.value.findings == (f"it is a folder: name its files, such as {tmp_path}/*.parquet",)
    (tmp_path / "t_folder").mkdir()
    good_table().write_parquet(tmp_path / "t_1.parquet")
    assert read_table(config(tmp_path / "t_*")).equals(good_table())
