"""A table as people have them, from `init` to a configuration that runs."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner

from pipeline.cli.commands import main
from pipeline.config.reading import load_config
from pipeline.config.sections import DataConfig
from pipeline.data.dataset import load_panel
from pipeline.data.errors import DataError
from pipeline.proposal.cost import Cost, _seconds_of
from pipeline.proposal.propose import propose

QUICK = ["model.d_hidden=8", "exploration.n_probes=4"]


def table(times: list[datetime], time_format: str | None, symbols: tuple[str, ...] = ("0005", "0700")) -> pl.DataFrame:
    rng, n = np.random.default_rng(0), len(times)
    parts = [
        pl.DataFrame(
            {
                "": np.arange(n) * len(symbols) + number,
                "Date": times,
                "Ticker": symbol,
                "Adj Close": 100.0 * np.cumprod(1.0 + 0.01 * rng.standard_normal(n)),
                "px_a": rng.standard_normal(n),
                "px_b": rng.standard_normal(n),
                "sector": "energy",
                "lvl_c": 10**10 + rng.integers(0, 300, n),
            }
        )
        for number, symbol in enumerate(symbols)
    ]
    frame = pl.concat(parts).sort("Date", "Ticker")
    if time_format is None:
        return frame
    seconds = pl.col("Date").dt.epoch("s" if time_format == "epoch_s" else "ms")
    return frame.with_columns(seconds if time_format.startswith("epoch") else pl.col("Date").dt.strftime(time_format))


def daily(n: int) -> list[datetime]:
    return [datetime(2020, 1, 1) + timedelta(days=i) for i in range(n)]


def minutes(n_days: int) -> list[datetime]:
    return [datetime(2024, 1, 1, 9, 30) + timedelta(days=d, minutes=15 * i) for d in range(n_days) for i in range(26)]


@pytest.mark.parametrize(
    ("times", "time_format", "suffix", "periods"),
    [
        (daily(300), "%m/%d/%Y", "csv", 365),
        (daily(300), None, "parquet", 365),
        (daily(300), "%Y%m%d", "csv", 365),
        (minutes(20), "epoch_ms", "parquet", 26 * 365),
        (minutes(20), "epoch_s", "csv", 26 * 365),
        (minutes(20), "%Y-%m-%dT%H:%M:%SZ", "csv", 26 * 365),
    ],
)
def test_the_file_reads_the_table_as_it_was_meant(
    tmp_path: Path, times: list[datetime], time_format: str | None, suffix: str, periods: int
) -> None:
    """Everything odd about the table is in the file, so that nothing is left to guess, and nothing to say."""
    source = tmp_path / f"t.{suffix}"
    getattr(table(times, time_format), f"write_{suffix}")(source)
    made = propose(str(source), QUICK)
    (tmp_path / "t.yaml").write_text(made.text)
    config = load_config(tmp_path / "t.yaml")
    assert config == made.config
    data = load_panel(config.data)
    assert data.panel.symbols == ("0005", "0700")
    assert data.panel.times.tolist() == times
    assert data.panel.feature_names == ("px_a", "px_b", "lvl_c")
    assert config.data.exclude == ("sector", "")
    assert [note.check for note in data.notes] == ["large numbers"]
    assert config.periods_per_year == periods
    assert made.cost.least_s < made.cost.most_s


def test_the_command_writes_once_and_says_what_to_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame = table(daily(300), None).with_columns(Close=pl.col("Adj Close") * 2)
    frame.write_csv("mine.csv")
    run, quick = CliRunner(), [part for one in QUICK for part in ("--set", one)]
    refused = run.invoke(main, ["init", "--data", "mine.csv", *quick])
    assert refused.exit_code == 2 and not Path("mine.yaml").exists()
    line = '--set data.close_column="Adj Close"'
    assert line in refused.stderr
    done = run.invoke(main, ["init", "--data", "mine.csv", *quick, "--set", "data.close_column=Adj Close"])
    assert done.exit_code == 0, done.output
    assert "tft-pipeline production --config mine.yaml" in done.output
    assert load_config("mine.yaml").data.close_column == "Adj Close"
    again = run.invoke(main, ["init", "--data", "mine.csv"])
    assert (
        again.exit_code == 2 and again.stderr == "Error: mine.yaml exists: give another file by --out, or remove it\n"
    )


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_column_is_left_out_for_what_it_holds_and_not_for_one_value(tmp_path: Path, suffix: str) -> None:
    """Where a few values are text, or numbers are, `init` says what a training would; a column of words is left out."""
    frame = table(daily(300), None).with_columns(pl.col("px_a", "px_b").cast(pl.String))
    frame = frame.with_columns(px_a=pl.when(pl.int_range(600) == 5).then(pl.lit("n/a")).otherwise("px_a"))
    source = tmp_path / f"t.{suffix}"
    getattr(frame, f"write_{suffix}")(source)
    with pytest.raises(DataError) as proposed:
        propose(str(source), QUICK)
    with pytest.raises(DataError) as trained:
        load_panel(DataConfig(str(source), exclude=("sector",)))
    assert proposed.value.findings == trained.value.findings
    said = proposed.value.findings[0]
    assert said.startswith(
        "column px_a is not numeric: 1 of 600 values is text; first 'n/a', 0700 at 2020-01-03 (row 6)"
    )
    made = propose(str(source), [*QUICK, "data.exclude=[px_a, px_b]"])
    assert "column sector: left out, 600 of 600 values are no numbers, first 'energy' in row 1" in made.said


def test_too_few_bars_are_one_sentence(tmp_path: Path) -> None:
    table(daily(90), None).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"^90 bars are too few, \d+ are needed: .*$"):
        propose(str(tmp_path / "t.parquet"))


@pytest.mark.parametrize(
    ("least_s", "most_s", "said"),
    [(200, 290, "3 to 5 minutes"), (10, 50, "about 1 minute"), (3600, 3 * 3600, "1 to 3 hours")],
)
def test_the_cost_is_said_as_a_range(least_s: float, most_s: float, said: str) -> None:
    assert str(Cost(least_s, most_s)) == said


def test_a_way_to_make_it_cheaper_is_said_of_a_job_that_may_take_over_an_hour() -> None:
    assert (Cost(10, 3600).remedy, Cost(3600, 3601).remedy[:19]) == ("", "To make it cheaper,")


def test_waiting_is_no_part_of_the_cost() -> None:
    """Another process that has the core for a while delays a step: the step costs nothing more."""
    cpu = torch.device("cpu")
    assert _seconds_of(lambda: time.sleep(0.2), cpu) < 0.1 < _seconds_of(lambda: _busy(0.2), cpu)


def _busy(cpu_s: float) -> None:
    until = time.process_time() + cpu_s
    while time.process_time() < until:
        pass
