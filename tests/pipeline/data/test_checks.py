"""Each check finds what it is for in a table made by hand, says where, and is silent about tables that are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.sections import DataConfig
from pipeline.data.checks import check_data
from pipeline.data.dataset import load_panel
from pipeline.data.findings import Finding, summary
from pipeline.data.sample import write_sample
from tests.conftest import ROOT
from tests.pipeline.data.test_leaks import ahead, market, noisy, with_column
from tft.panel import Panel
from tft.volatility import Timing

REAL = ROOT.parent / "shared" / "data" / "panel.parquet"
Array = np.ndarray[Any, np.dtype[np.float64]]


def check(
    panel: Panel, n_holdout_bars: int | None = 100, accept: tuple[str, ...] = (), planted: tuple[str, ...] = ()
) -> list[Finding]:
    return list(check_data(panel, timing=Timing(), n_holdout_bars=n_holdout_bars, accept=accept, planted=planted))


def panel_of(columns: dict[str, Array], seed: int = 0) -> Panel:
    """Each column (T, A), over returns of noise that they know nothing of; bar 0 is 2020-01-01."""
    n_bars, n_assets = next(iter(columns.values())).shape
    return Panel(
        times=np.datetime64("2020-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        feature_names=tuple(columns),
        features=np.stack(list(columns.values()), axis=-1).astype(np.float32),
        returns=0.01 * np.random.default_rng(1000 + seed).standard_normal((n_bars, n_assets)),
    )


def noise(seed: int, n_bars: int = 400, n_assets: int = 2) -> Array:
    return np.random.default_rng(seed).standard_normal((n_bars, n_assets))


def walk(seed: int, n_bars: int = 400) -> Array:
    return np.cumsum(noise(seed, n_bars), axis=0)


def kinds(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(finding.severity, finding.check, finding.where) for finding in found]


# A table that is right


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    """Noise, a slow column that crosses 0, flags, counts, a clipped column, a weekly report, one with gaps."""
    days = np.arange(400)[:, None] + np.zeros((1, 2))
    gaps = noise(7)
    gaps[np.random.default_rng(8).random(gaps.shape) < 0.3] = np.nan
    columns = {
        "a_noise": noise(1),
        "a_walk": walk(2),
        "a_flag": (noise(3) > 0.5).astype(float),
        "a_days_to_expiry": -days % 5,
        "a_floored": np.maximum(noise(4), 0.0) + 2.0,
        "a_weekly": noise(5)[(days[:, 0] // 5).astype(int)],
        "a_rounded": np.round(noise(6), 1),
        "a_gaps": gaps,
        "a_wild": np.exp(2.0 * noise(9)),
    }
    assert check(panel_of(columns)) == []


def test_sample_tables_give_no_errors(tmp_path: Path) -> None:
    """Of noise and of signal alike: what is known about them is that they are honest."""
    for seed, oracle_sharpe in ((7, 0.0), (7, 8.0), (8, 2.0)):
        write_sample(tmp_path / "sample.parquet", seed=seed, oracle_sharpe=oracle_sharpe)
        panel = load_panel(DataConfig(source=str(tmp_path / "sample.parquet"))).panel
        assert [f for f in check(panel.first_bars(420)) if f.severity == "error"] == []


# Leaks


def test_a_copy_of_the_future_is_an_error_that_says_what_to_do() -> None:
    panel = market(1)
    (found,) = check(with_column(panel, 200, -3.0 * ahead(panel, 1), 2))
    assert kinds([found]) == [("error", "copy of the future", "column group_200, S2")]
    assert found.message == (
        "it is the return of bar t + 1 (rank correlation -1.000 over 419 bars): "
        "remove it (data.exclude), or list it in data.accept if you know why it may"
    )


def test_a_noisy_leak_is_one_error_with_all_its_instruments() -> None:
    panel = market(2)
    (found,) = check(with_column(panel, 5, noisy(ahead(panel, 1), 0.7)))
    assert kinds([found]) == [("error", "information coefficient", "column group_5, all instruments")]
    assert "it knows the return of bar t + 1 (rank correlation +0.6" in found.message
    assert "HAC standard error 0.0" in found.message and "no honest column reaches 0.2" in found.message


def test_what_is_good_but_possible_is_a_warning() -> None:
    panel = market(3)
    (found,) = check(with_column(panel, 5, noisy(ahead(panel, 2), 0.3)))
    assert (found.severity, found.check, found.column) == ("warning", "information coefficient", "group_5")
    assert found.where.startswith("column group_5, ")
    assert "more than luck among" in found.message


def test_an_accepted_column_is_noted_and_nothing_else_is_forgiven() -> None:
    panel = market(4)
    planted = with_column(with_column(panel, 5, ahead(panel, 1)), 6, ahead(panel, 2))
    assert [(f.severity, f.column) for f in check(planted, accept=("group_5",))] == [
        ("error", "group_6"),
        ("note", "group_5"),
    ]
    assert check(planted, accept=("group_5",))[1].message.startswith("accepted (data.accept): it is the return of")


def test_what_is_found_in_a_planted_column_is_expected() -> None:
    """It is said, as planted, and stops nothing; a leak beside it still does."""
    panel = market(4)
    both = with_column(with_column(panel, 5, ahead(panel, 1)), 6, ahead(panel, 2))
    error, note = check(both, planted=("group_5",))
    assert (error.severity, error.column, note.severity, note.column) == ("error", "group_6", "note", "group_5")
    assert note.message.startswith("planted, the sample's signal is in it: it is the return of")


# Scale jumps


@pytest.mark.parametrize("factor", [100.0, 0.01, 1e5])
@pytest.mark.parametrize("base", [noise, walk], ids=["noise", "walk"])
@pytest.mark.parametrize("bar", [130, 200, 257])
def test_a_scale_jump_is_named_with_its_bar(base: Any, factor: float, bar: int) -> None:
    """In one instrument, upwards or downwards, wherever it lies between blocks; noise crosses the middle by a bar."""
    values = base(11)
    values[bar:, 1] *= factor
    (found,) = check(panel_of({"a_fine": noise(12), "a_units": values}))
    assert found.severity == "warning" and found.check == "scale jump"
    where, _, day = found.where.rpartition(", ")
    assert where == "column a_units, S1"
    assert abs((np.datetime64(day) - np.datetime64("2020-01-01")).astype(int) - bar) <= 2
    assert "check its units" in found.message


def test_a_jump_in_all_instruments_is_one_finding() -> None:
    values = 50.0 + noise(13)
    values[210:] = 100.0 * values[210:]
    (found,) = check(panel_of({"a_units": values}))
    assert found.where == "column a_units, all instruments, 2020-07-29"  # bar 210
    assert "instead of" in found.message


@pytest.mark.parametrize("length", [1, 21, 63])
def test_what_does_not_stay_is_no_scale_jump(length: int) -> None:
    """A wild day, month, quarter."""
    values = noise(14)
    values[200 : 200 + length] *= 1000.0
    assert check(panel_of({"a_wild": values})) == []


# Stale values


def test_a_stale_share_is_named_with_its_longest_run() -> None:
    """36 of 399 bars repeat: 16 alike from bar 100 on, and every tenth bar of the first hundred and of the last."""
    values = noise(15)
    values[101:116, 0] = values[100, 0]
    for bar in (*range(10, 100, 10), *range(280, 400, 10)):
        values[bar, 0] = values[bar - 1, 0]
    (found,) = check(panel_of({"a_fine": noise(16), "a_stale": values}))
    assert kinds([found]) == [("warning", "stale values", "column a_stale, S0")]
    assert found.message.startswith(
        "9% of the bars repeat the value of the bar before (S0; at most 16 bars alike, from 2020-04-10)"
    )


@pytest.mark.parametrize(("n_repeats", "is_found"), [(19, False), (20, True)])
def test_five_percent_is_the_limit(n_repeats: int, is_found: bool) -> None:
    """Of 399 pairs of bars: 19 are 4.8 %, 20 are 5.01 %."""
    values = noise(17, n_assets=1)
    for i in range(n_repeats):
        values[5 * i + 1] = values[5 * i]
    assert bool(check(panel_of({"a_stale": values}))) is is_found


# Repeated rows


def test_repeated_rows_are_counted_and_the_first_is_named() -> None:
    """What is missing repeats too; a calendar that goes on does not hide it only because it is slow to move."""
    columns = {name: noise(seed) for name, seed in (("a_x", 18), ("a_y", 19), ("a_z", 20))}
    columns["a_month"] = (np.arange(400)[:, None] // 21 + np.zeros((1, 2))).astype(float)
    columns["a_z"][49:52, 1] = np.nan
    for values in columns.values():
        for bar in (50, 300):
            if values is not columns["a_month"]:
                values[bar, 1] = values[bar - 1, 1]
    (found,) = check(panel_of(columns))
    assert kinds([found]) == [("warning", "repeated rows", "S1, 2020-02-20")]  # bar 50
    assert found.message.startswith("2 of 400 bars") and "all of the 3 columns that move" in found.message


def test_one_column_that_differs_makes_another_row() -> None:
    columns = {"a_x": noise(21), "a_y": noise(22), "a_z": noise(23)}
    for name in ("a_x", "a_y"):
        columns[name][50] = columns[name][49]
    assert check(panel_of(columns)) == []


# Too few bars


@pytest.mark.parametrize(("n_holdout_bars", "is_found"), [(62, True), (63, False), (0, True), (None, False)])
def test_a_holdout_below_63_bars_is_said(n_holdout_bars: int | None, is_found: bool) -> None:
    """With the Sharpe it could show: 2.49 * sqrt(252 / 62) = 5.02; None is a run without a holdout."""
    found = check(panel_of({"a_x": noise(24)}), n_holdout_bars)
    assert [kind[:2] for kind in kinds(found)] == [("warning", "too few bars")] * is_found
    if n_holdout_bars == 62:
        assert found[0].where == "holdout"
        assert "62 bars with a known return, inference needs 63: only an annual Sharpe above 5.0" in found[0].message


def test_few_development_bars_and_an_instrument_with_few_are_said() -> None:
    """Labels end two bars after the decision: 64 bars have 62."""
    short = check(panel_of({"a_x": noise(25, 64)}))
    assert kinds(short) == [("warning", "too few bars", "development")]
    assert short[0].message.startswith("62 bars with a label, inference needs 63")

    panel = panel_of({"a_x": noise(26), "a_late": np.where(np.arange(400)[:, None] < 350, np.nan, noise(27))})
    panel.returns[:340, 1] = np.nan
    found = check(panel)
    assert kinds(found) == [("warning", "too few bars", "S1"), ("note", "too few bars", "column a_late")]
    assert found[0].message.startswith("60 of 400 development bars have a return")
    assert found[1].message.startswith("50 values at most")


# What a person sees


def finding(severity: Any, check: str, i: int) -> Finding:
    return Finding(severity, check, f"column {i}", f"message {i}")


def test_a_short_list_is_shown_as_it_is() -> None:
    assert summary([finding("warning", "stale values", 1)]) == ["warning: column 1: message 1"]
    assert summary([]) == []


def test_a_long_list_is_cut_and_counted() -> None:
    """Three of a kind, ten lines, one more that counts what is left and all there is."""
    found = [finding("warning", f"check {kind}", i) for kind in range(5) for i in range(4)]
    lines = summary(found)
    assert len(lines) == 11
    assert lines[:4] == [f"warning: column {i}: message {i}" for i in (0, 1, 2, 0)]
    assert lines[-1].startswith("and 10 more findings, in findings.json of the run; in all 4 x check 0 (warning), ")


def test_the_worst_come_first() -> None:
    panel = market(5)
    planted = with_column(panel, 5, ahead(panel, 1))
    planted.features[:, :, 9] = np.nan
    planted.features[:40, :, 9] = 1.0
    assert [f.severity for f in check(planted, 5)] == ["error", "warning", "note"]


# Real data


@pytest.mark.realdata
@pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} is not there")
def test_a_real_table_is_honest_and_its_known_defect_is_found() -> None:
    """276 columns, 12 instruments, 12 years: no error, few warnings, the futures that hardly traded among them."""
    panel = load_panel(DataConfig(source=str(REAL))).panel
    found = check(panel.first_bars(int(np.searchsorted(panel.times, np.datetime64("2024-01-01")))))
    assert [f for f in found if f.severity == "error"] == []
    assert len(found) < 30
    stale = {f.where for f in found if f.check == "stale values"}
    assert {"column fut_calspread_ann, MIDCPNIFTY", "column fut_buildup_5, MIDCPNIFTY"} <= stale
