"""Reading a local file, a glob of files or an S3 object into one polars frame."""

from __future__ import annotations

from glob import glob
from pathlib import Path

import polars as pl

from pipeline.config.sections import DataConfig
from pipeline.data.errors import DataError, one_line
from pipeline.data.s3 import local_copy
from tft.table import SYMBOL, TIME, find_keys

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars (|)"}
"""What a CSV file may have in place of commas, with its name in a message."""


def read_table(config: DataConfig) -> pl.DataFrame:
    """The rows of all files that `config.source` names, joined in the order of the files' names. Raises DataError.

    Where files disagree on the type of time or symbol, it is kept as text, so that what mixes them is found with the
    rest.
    """
    source = config.source
    if source.startswith("s3://"):
        files = [(source.rpartition("/")[2], local_copy(source))]
    elif Path(source).is_dir():
        raise DataError(source, [f"it is a folder: name its files, such as {source.rstrip('/')}/*.parquet"])
    elif Path(source).is_file():
        files = [(Path(source).name, Path(source))]
    else:
        found = [Path(one) for one in sorted(glob(source, recursive=True))]  # noqa: PTH207 - takes an absolute pattern
        files = [(path.name, path) for path in found if path.is_file()]
    if not files:
        remedy = "check data.source, or write a table with `tft-pipeline sample-data`"
        raise DataError(source, [f"there is no such file: {remedy}"])
    frames = [_read_file(path, name, config) for name, path in files]
    keys, _ = find_keys(list(dict.fromkeys(name for frame in frames for name in frame.columns)), config.key_columns())
    for key in (TIME, SYMBOL):
        name = keys.get(key)
        types = {frame.schema[name] for frame in frames if name in frame.columns}
        if len({(kind.base_type(), getattr(kind, "time_zone", None)) for kind in types}) > 1:
            frames = [f.with_columns(pl.col(name).cast(pl.String)) if name in f.columns else f for f in frames]
    try:
        frame = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(source, [f"its files disagree on a column's type: {one_line(error)}"]) from None
    if frame.is_empty():
        raise DataError(source, ["it has no rows"])
    return frame


def _read_file(path: Path, name: str, config: DataConfig) -> pl.DataFrame:
    """One file, read by its suffix. `name` is what a message calls it: a copy from S3 has a path that tells nothing."""
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                return pl.read_parquet(path, glob=False)
            case ".csv":
                return _read_csv(path, config)
            case ".arrow" | ".ipc" | ".feather":
                return pl.read_ipc(path)
            case other:
                kinds = ".parquet, .csv or .arrow"
                raise DataError(config.source, [f"{name} ends in {other or 'nothing'}: the name must end in {kinds}"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(config.source, [f"{name} is not readable as {path.suffix[1:]}: {one_line(error)}"]) from None


def _read_csv(path: Path, config: DataConfig) -> pl.DataFrame:
    """A CSV file whose instruments stay text (0700 is not 700) and whose times are dates or moments if they are ISO."""
    names = pl.read_csv(path, n_rows=0, glob=False).columns
    other = next((mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]), None)
    if other:
        called = SEPARATORS[other]
        raise DataError(config.source, [f"its values are separated by {called}: write it with commas, or as .parquet"])
    keys, _ = find_keys(names, config.key_columns())
    text = {keys[key]: pl.String for key in (TIME, SYMBOL) if key in keys}
    frame = pl.read_csv(path, try_parse_dates=True, schema_overrides=text, infer_schema_length=None, glob=False)
    if TIME not in keys:
        return frame
    times = frame[keys[TIME]]
    spaced = times.str.replace("T", " ", literal=True)
    for read in (
        times.str.to_date("%Y-%m-%d", strict=False),
        spaced.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False),
    ):
        if read.null_count() == times.null_count():
            return frame.with_columns(read)
    return frame
