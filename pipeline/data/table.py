"""From a feature table in a local file, a glob or an S3 object to a checked Panel.

Everything wrong with a table is found in one pass and raised together as one DataError. Rows are numbered from 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import boto3
import numpy as np
import polars as pl
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from numpy.typing import NDArray

from pipeline.config.sections import DataConfig
from tft.panel import AHEAD, Panel
from tft.volatility import MIN_RETURNS

RESERVED = frozenset({"date", "timestamp", "symbol", "close", "ret_1d"})
"""Column names that are never features, whichever columns the configuration makes the keys."""


class DataError(ValueError):
    """A table that cannot be used. `findings`: one plain sentence for each thing that is wrong with it."""

    def __init__(self, source: str, findings: Sequence[str]) -> None:
        self.findings = tuple(findings)
        super().__init__(f"{source} cannot be used:\n" + "\n".join(f"- {finding}" for finding in findings))


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A checked table: its panel, the hash of the panel's content, where it came from, and its rows."""

    panel: Panel
    sha256: str
    source: str
    n_rows: int
    sigma: NDArray[np.float64] | None = None
    """(T, A) volatility to scale by, where it is not that of the panel's own returns."""

    def first_bars(self, n_bars: int) -> Dataset:
        """The table as it stood when bar n_bars - 1 had closed."""
        panel = self.panel.first_bars(n_bars)
        sigma = None if self.sigma is None else self.sigma[:n_bars]
        return replace(self, panel=panel, sha256=panel_sha256(panel, sigma), n_rows=panel.returns.size, sigma=sigma)


def load_panel(
    config: DataConfig, *, min_bars: int = 1, min_symbol_bars: int = MIN_RETURNS, execution_delay_bars: int = 1
) -> Dataset:
    """Read `config.source`: a Parquet, CSV or Arrow IPC file, a glob of them, or `s3://bucket/key`.

    min_bars is what a single fold needs, min_symbol_bars how many returns every instrument must have. Raises DataError.
    """
    frame = read_table(config)
    panel = panel_from_frame(
        frame,
        config,
        min_bars=min_bars,
        min_symbol_bars=min_symbol_bars,
        execution_delay_bars=execution_delay_bars,
    )
    return Dataset(panel=panel, sha256=panel_sha256(panel), source=config.source, n_rows=frame.height)


def panel_from_frame(
    frame: pl.DataFrame,
    config: DataConfig,
    *,
    min_bars: int = 1,
    min_symbol_bars: int = MIN_RETURNS,
    execution_delay_bars: int = 1,
) -> Panel:
    """Check a long table, one row per (bar, instrument), and pivot it. Raises DataError with every finding."""
    check = _Check(frame)
    if config.symbol_column in frame.columns:
        check.symbols = frame[config.symbol_column].cast(pl.String).str.strip_chars().replace("", None)
    else:
        check.absent(config.symbol_column, "the instrument of each row")
    time_column = config.time_column or next((n for n in ("timestamp", "date") if n in frame.columns), "date")
    if time_column in frame.columns:
        check.read_times(time_column)
    else:
        check.absent(time_column if config.time_column else "date (or timestamp)", "the time of each bar")
    if len(check.symbols):
        check.every(config.symbol_column, check.symbols.is_not_null(), "are empty: every row needs an instrument")
    check.order()

    key_names = {"close": config.close_column, "ret_1d": config.return_column}
    prices = {key: check.numbers(name) for key, name in key_names.items() if name in frame.columns}
    if not prices:
        check.absent(f"{config.return_column} (or {config.close_column})", "the return of each bar")
    if "close" in prices:
        check.every(config.close_column, ~(prices["close"] <= 0.0), "are 0 or negative: a price is above 0")
    if "ret_1d" in prices:
        check.every(config.return_column, ~(prices["ret_1d"] <= -1.0), "are -1 or less: no more than all can be lost")
    check.length(prices, min_bars, min_symbol_bars)

    for option, listed in (("data.exclude", config.exclude), ("data.known", config.known)):
        for name in listed:
            if name not in frame.columns:
                check.absent(name, f"listed in {option}")
    for name in config.accept:
        ahead = name.endswith(AHEAD) and name.removesuffix(AHEAD) in config.known
        if name not in frame.columns and not ahead:
            check.absent(name, "listed in data.accept")
    for name in sorted({*config.known} & {*config.exclude}):
        check.findings.append(f"column {name} is listed in both data.known and data.exclude: take it out of one")
    not_features = RESERVED | {time_column, config.symbol_column, *key_names.values(), *config.exclude}
    names = [name for name in frame.columns if name not in not_features]
    if not names:
        check.findings.append(f"no feature column is left of the table's {frame.width} columns")
    for name in names:
        if name.endswith(AHEAD):
            check.findings.append(f"column {name} ends in {AHEAD}, which is kept for data.known: rename it")
    features = {name: check.numbers(name).astype(np.float32) for name in names}
    if check.findings:
        raise DataError(config.source, check.findings)
    keys = {"timestamp": check.times.to_numpy(), "symbol": check.symbols.to_numpy().astype(str)}
    columns: dict[str, NDArray[np.generic]] = {**keys, **prices, **features}
    return Panel.from_columns(columns, known=config.known, lead_bars=1 + execution_delay_bars)


def panel_sha256(panel: Panel, sigma: NDArray[np.float64] | None = None) -> str:
    """Hash of times, symbols, names and values: equal content, equal hash (-0.0 is 0.0, every NaN the same NaN).

    `sigma` (T, A): a volatility of its own that the panel is scaled by.
    """
    names = [list(panel.symbols), list(panel.feature_names), list(panel.features.shape)]
    digest = hashlib.sha256(json.dumps(names).encode())
    digest.update(panel.times.astype("datetime64[us]").astype("<i8").tobytes())
    arrays: list[tuple[NDArray[np.floating], str]] = [(panel.features, "<f4"), (panel.returns, "<f8")]
    if sigma is not None:
        arrays.append((sigma, "<f8"))
    for values, kind in arrays:
        digest.update(np.where(np.isnan(values), np.nan, values + 0.0).astype(kind).tobytes())
    return digest.hexdigest()


@dataclass
class _Check:
    """A table under examination and what was found so far. Each method looks at one thing."""

    frame: pl.DataFrame
    times: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.Datetime("us")))
    symbols: pl.Series = field(default_factory=lambda: pl.Series([], dtype=pl.String))
    findings: list[str] = field(default_factory=list)

    def absent(self, name: str, what: str) -> None:
        nearest = get_close_matches(name.split(" ")[0], self.frame.columns, 1)
        self.findings.append(f"no column {name} ({what})" + (f": the nearest is {nearest[0]}" if nearest else ""))

    def place(self, row: int) -> str:
        """Symbol, bar and number of a row, as far as they are known."""
        symbol = f"{self.symbols[row]} " if len(self.symbols) and self.symbols[row] else ""
        bar = f"at {str(self.times[row]).removesuffix(' 00:00:00')} " if len(self.times) and self.times[row] else ""
        return f"{symbol}{bar}(row {row + 1})" if symbol or bar else f"row {row + 1}"

    def every(self, name: str, good: NDArray[np.bool_] | pl.Series, wrong: str) -> None:
        """Report the rows of column `name` that are not good: how many, and the first."""
        bad = np.flatnonzero(~np.asarray(good))
        if len(bad):
            verb = wrong if len(bad) > 1 else wrong.replace("are ", "is ", 1)
            self.findings.append(
                f"column {name}: {len(bad)} of {len(good)} values {verb}; first {self.place(int(bad[0]))}"
            )

    def read_times(self, name: str) -> None:
        column = self.frame[name]
        if column.dtype == pl.String:
            days = column.str.to_date("%Y-%m-%d", strict=False)
            spaced = column.str.replace("T", " ", literal=True)
            moments = spaced.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
            self.times = days.cast(pl.Datetime("us")).fill_null(moments)
            if days.count() and moments.count():
                self.findings.append(
                    f"column {name} mixes time types: {days.count()} rows are days, first {days.drop_nulls()[0]}, and "
                    f"{moments.count()} are moments, first {moments.drop_nulls()[0]}: write all in one way"
                )
            unread = self.times.is_null() & column.is_not_null()
            self.every(name, ~unread, "are no times like 2026-02-10 or 2026-02-10 09:15:00")
        elif isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone:
            self.times = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None).cast(pl.Datetime("us"))
        elif column.dtype.is_temporal() and column.dtype not in (pl.Time, pl.Duration):
            self.times = column.cast(pl.Datetime("us"))
        else:
            self.findings.append(f"column {name} holds {column.dtype}: it must hold dates or times")
            return
        self.every(name, column.is_not_null(), "are empty: every row needs a time")

    def order(self) -> None:
        """Bars of an instrument come once each, and forward in time."""
        if not len(self.times) or not len(self.symbols):
            return
        rows = pl.DataFrame({"time": self.times, "symbol": self.symbols}).with_row_index("row").drop_nulls()
        repeated = rows.filter(~pl.struct("time", "symbol").is_first_distinct())["row"]
        back = rows.filter(pl.col("time").diff().over("symbol").dt.total_microseconds() < 0)["row"]
        if len(repeated):
            what = f"{len(repeated)} rows repeat the bar and symbol of an earlier one"
            self.findings.append(f"{what}; first {self.place(repeated[0])}: keep one of each")
        if len(back):
            what = f"{len(back)} rows are earlier than the row before of the same symbol"
            self.findings.append(f"{what}; first {self.place(back[0])}: sort the table by time")

    def numbers(self, name: str) -> NDArray[np.float64]:
        """The column as floats (R,), missing = NaN. What is not a finite number is reported, and missing too."""
        column = self.frame[name]
        missing = np.full(len(column), np.nan)
        if column.null_count() == len(column):
            return missing
        if column.dtype in (pl.String, pl.Categorical, pl.Enum):
            read = column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
            unread = (read.is_null() & column.is_not_null()).arg_true()
            what = (
                f"{len(unread)} of {len(column)} values are text" if len(unread) else "its numbers are stored as text"
            )
            row = int(unread[0] if len(unread) else column.is_not_null().arg_true()[0])
            first = f"first {column[row]!r}, {self.place(row)}"
            self.findings.append(
                f"column {name} is not numeric: {what}; {first}: convert it or exclude it (data.exclude)"
            )
            return missing
        if not column.dtype.is_numeric() and column.dtype != pl.Boolean:
            what = f"it holds {column.dtype}"
            self.findings.append(f"column {name} is not numeric: {what}: convert it or exclude it (data.exclude)")
            return missing
        values = column.cast(pl.Float64).to_numpy()
        finite = ~(np.abs(values) > np.finfo(np.float32).max)
        self.every(name, finite, "are infinite: write them as missing")
        return np.where(finite, values, np.nan)

    def length(self, prices: dict[str, NDArray[np.float64]], min_bars: int, min_symbol_bars: int) -> None:
        """Bars enough for a fold, and returns enough in every instrument. A first close alone gives no return."""
        if not len(self.times) or not len(self.symbols) or not prices:
            return
        moved = np.isfinite(prices["ret_1d"] if "ret_1d" in prices else prices["close"])
        spare = 0 if "ret_1d" in prices else 1
        rows = pl.DataFrame({"time": self.times, "symbol": self.symbols, "moved": moved}).drop_nulls()
        counts = rows.group_by("symbol").agg(pl.col("time").filter("moved").n_unique()).sort("symbol")
        for symbol, count in counts.iter_rows():
            if max(count - spare, 0) < min_symbol_bars:
                what = f"{symbol} has {max(count - spare, 0)} bars with a return, an instrument needs {min_symbol_bars}"
                self.findings.append(f"{what}: remove it or give it a longer history")
        last = rows.filter("moved")["time"].max()
        n_bars = rows.filter(pl.col("time") <= last)["time"].n_unique() if last is not None else 0
        if n_bars < min_bars:
            what = f"the table has {n_bars} bars up to the last return, a single fold needs {min_bars}"
            self.findings.append(f"{what}: bring more bars or make the windows shorter")


def read_table(config: DataConfig) -> pl.DataFrame:
    """All rows of all files of `config.source`, one after the other in order of their names. Raises DataError."""
    source, time_column = config.source, config.time_column
    if source.startswith("s3://"):
        files = [(source.rpartition("/")[2], _from_s3(source))]
    elif Path(source).is_file():
        files = [(Path(source).name, Path(source))]
    else:  # Path.glob takes no absolute pattern
        files = [(Path(found).name, Path(found)) for found in sorted(glob(source, recursive=True))]  # noqa: PTH207
    if not files:
        remedy = "check data.source, or write a table with `tft-pipeline sample-data`"
        raise DataError(source, [f"there is no such file: {remedy}"])
    frames = [_read_file(path, name, source) for name, path in files]
    for name in [time_column] if time_column else ["date", "timestamp"]:
        types = {frame.schema[name] for frame in frames if name in frame.columns}
        if len({(kind.base_type(), getattr(kind, "time_zone", None)) for kind in types}) > 1:
            frames = [f.with_columns(pl.col(name).cast(pl.String)) if name in f.columns else f for f in frames]
    try:
        frame = pl.concat(frames, how="diagonal_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(source, [f"its files disagree on a column's type: {_line(error)}"]) from None
    if frame.is_empty():
        raise DataError(source, ["it has no rows"])
    return frame


def _read_file(path: Path, name: str, source: str) -> pl.DataFrame:
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                return pl.read_parquet(path, glob=False)
            case ".csv":
                return pl.read_csv(path, try_parse_dates=True, infer_schema_length=None, glob=False)
            case ".arrow" | ".ipc" | ".feather":
                return pl.read_ipc(path)
            case other:
                kinds = ".parquet, .csv or .arrow"
                raise DataError(source, [f"{name} ends in {other or 'nothing'}: the name must end in {kinds}"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(source, [f"{name} is not readable as {path.suffix[1:]}: {_line(error)}"]) from None


def _from_s3(source: str) -> Path:
    """The object's local copy. Asks the server whether the copy, named by its ETag, is still the newest."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise DataError(source, ["an S3 source is s3://bucket/key"])
    try:
        client = _s3_client("auto")
        if "amazonaws.com" not in client.meta.endpoint_url:
            client = _s3_client("path")
        place = hashlib.sha256(f"{client.meta.endpoint_url} {bucket} {key}".encode()).hexdigest()[:24]
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tft-pipeline" / "s3" / place
        home.mkdir(parents=True, exist_ok=True)
        suffix = Path(key).suffix
        cached = max(home.glob("etag-*"), key=lambda path: path.stat().st_mtime, default=None)
        known = {"IfNoneMatch": unquote(cached.name.removeprefix("etag-").removesuffix(suffix))} if cached else {}
        try:
            found = client.get_object(Bucket=bucket, Key=key, **known)
        except ClientError as error:
            if cached and error.response["ResponseMetadata"]["HTTPStatusCode"] == 304:
                return cached
            raise
        with tempfile.NamedTemporaryFile(dir=home, prefix="partial-", delete=False) as partial:
            try:
                for chunk in found["Body"].iter_chunks(1 << 20):
                    partial.write(chunk)
                partial.close()
                target = home / f"etag-{quote(found['ETag'], safe='')}{suffix}"
                Path(partial.name).replace(target)
            finally:
                Path(partial.name).unlink(missing_ok=True)
        for old in home.glob("etag-*"):
            if old != target:
                old.unlink(missing_ok=True)
        return target
    except ClientError as error:
        raise DataError(source, [_s3_sentence(error, bucket, key)]) from None
    except NoCredentialsError:
        keys = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise DataError(source, [f"there are no AWS credentials: set {keys}"]) from None
    except (BotoCoreError, ValueError) as error:
        raise DataError(source, [f"no answer from the S3 server: {_line(error)}; check AWS_ENDPOINT_URL"]) from None
    except OSError as error:
        raise DataError(source, [f"its local copy cannot be written (XDG_CACHE_HOME?): {_line(error)}"]) from None


def _s3_client(addressing: str) -> Any:
    """A client by the standard AWS variables and files, with three short attempts instead of minutes of them."""
    retries = {"mode": "standard", "total_max_attempts": 3}
    options = Config(s3={"addressing_style": addressing}, retries=retries, connect_timeout=5, read_timeout=60)
    return boto3.session.Session().client("s3", config=options)


def _s3_sentence(error: ClientError, bucket: str, key: str) -> str:
    code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    if code == "NoSuchBucket":
        return f"there is no bucket {bucket} on this S3 server: check the name and AWS_ENDPOINT_URL"
    if status == 404:
        return f"bucket {bucket} has no key {key}: check data.source"
    if status in (401, 403):
        return (
            f"the S3 server refuses to give out {key} of bucket {bucket} ({code}): check the credentials and the name"
        )
    return f"the S3 server answers {status} ({code}): {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
