"""The model against simple rules: rows, sentences, metrics and the figure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.reporting import luck_figures
from pipeline.statistics.baseline_comparison import BaselineRow, against, metrics, verdict
from pipeline.statistics.baselines import LONG_ONLY, MACD, MOMENTUM
from pipeline.statistics.significance import sharpe_difference
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.statistics.test_baselines import FOLDS, N_BARS, market, model_record, stitching
from tests.pipeline.statistics.test_baselines import records_of as run
from tft.metrics import sharpe
from tft.positions import PositionsConfig
from tft.record import RawForecast, Record

NAN = float("nan")

Array = NDArray[np.float64]


# ---- the model against them


def test_a_row_is_the_paired_difference_made_annual() -> None:
    panel = market()
    model, records = model_record(panel), run(panel)
    rows = against(model, records, "holdout")
    assert [row.baseline for row in rows] == list(records)
    for row, record in zip(rows, records.values(), strict=True):
        common = (model.segment == "holdout") & np.isfinite(model.net()) & np.isfinite(record.net())
        mine, theirs = model.net()[common], record.net()[common]
        expected = sharpe_difference(mine, theirs)
        assert row.segment == "holdout"
        assert row.n_bars == common.sum() >= 63
        assert row.difference_annual == pytest.approx(expected.difference * math.sqrt(252.0), rel=1e-12)
        assert row.difference_se_annual == pytest.approx(expected.standard_error * math.sqrt(252.0), rel=1e-12)
        assert row.interval_low_annual == pytest.approx(expected.interval[0] * math.sqrt(252.0), rel=1e-12)
        assert row.interval_high_annual == pytest.approx(expected.interval[1] * math.sqrt(252.0), rel=1e-12)
        assert row.detectable_annual == pytest.approx(expected.detectable * math.sqrt(252.0), rel=1e-12)
        assert row.p_value == expected.p_value
        assert row.sharpe_annual == pytest.approx(theirs.mean() / theirs.std(ddof=1) * math.sqrt(252.0))
        assert row.model_sharpe_annual == pytest.approx(mine.mean() / mine.std(ddof=1) * math.sqrt(252.0))
        assert row.sharpe_gross_annual == pytest.approx(sharpe(record.gross()[common], periods_per_year=252.0))
        assert row.remark == ""


def test_a_baseline_that_begins_later_is_compared_where_both_are_known() -> None:
    """MACD begins at bar 313, three bars into the holdout: the model's Sharpe is that of the same bars."""
    panel = market()
    model = model_record(panel)
    long_only, trend = against(model, {name: run(panel)[name] for name in (LONG_ONLY, MACD)}, "holdout")
    assert (long_only.n_bars, trend.n_bars) == (108, 105)
    assert trend.model_sharpe_annual == pytest.approx(
        sharpe(model.net()[model.segment == "holdout"][3:], periods_per_year=252.0)
    )
    assert trend.model_sharpe_annual != long_only.model_sharpe_annual


def figures_of(row: BaselineRow) -> list[float | None]:
    return [value for name, value in vars(row).items() if name not in ("baseline", "segment", "n_bars", "remark")]


def test_what_cannot_be_inferred_is_none_and_said() -> None:
    """Fewer than 63 bars, fewer than 10, none at all; a series that does not move; the model itself."""
    panel = market()
    model = model_record(panel)
    bars = range(FOLDS[0].test.start, N_BARS)
    flat = stitching(panel)([RawForecast(FOLDS[0], bars, np.zeros_like(model.raw_position))])

    def held_from(bar: int) -> Record:
        raw = np.where(model.bars[:, None] < bar, NAN, model.raw_position)
        return stitching(panel)([RawForecast(FOLDS[0], bars, raw)])

    records = {
        "short": held_from(N_BARS - 40),
        "shorter": held_from(N_BARS - 8),
        "never": held_from(N_BARS),
        "flat": flat,
        "itself": model,
    }
    short, shorter, never, still, itself = against(model, records, "holdout")
    assert short.n_bars == 38
    assert short.sharpe_annual is not None and short.difference_annual is not None
    assert short.interval_low_annual is short.p_value is short.difference_se_annual is short.detectable_annual is None
    assert "38 common bars" in short.remark and "63" in short.remark
    assert shorter.n_bars == 6 and set(figures_of(shorter)) == {None} and "10 are the least" in shorter.remark
    assert never.n_bars == 0 and set(figures_of(never)) == {None} and "no position" in never.remark
    assert still.sharpe_annual == 0.0 and still.difference_annual == still.model_sharpe_annual
    assert still.p_value is None and "of the baseline is the same on every bar" in still.remark
    assert (itself.difference_annual, itself.p_value, itself.remark) == (0.0, 1.0, "")
    both_flat = against(flat, {"flat": flat}, "holdout")[0]
    assert "of the model and of the baseline" in both_flat.remark


def test_returns_of_few_values_end_in_a_remark() -> None:
    """Both in the market on two bars of the holdout, not the same ones: most resamples hold none of them."""
    panel = market(n_assets=1)
    bars = range(FOLDS[0].test.start, N_BARS)

    def on(*rows: int) -> Record:
        raw = np.zeros((len(bars), 1))
        raw[list(rows)] = 1.0
        return stitching(panel, PositionsConfig(position_smooth=0.0))([RawForecast(FOLDS[0], bars, raw)])

    (row,) = against(on(150, 151), {"other": on(120, 121)}, "holdout")
    assert row.difference_annual is not None and row.interval_low_annual is None and row.p_value is None
    assert row.remark.startswith("No inference: ") and row.remark.endswith(".")


def row(name: str, *, low: float | None, difference: float = 0.0, high: float | None = None) -> BaselineRow:
    return BaselineRow(name, "holdout", 100, 0.5, 0.6, 0.5 + difference, difference, 0.4, low, high, 0.5, 1.0, "")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], ""),
        ([row("A", low=None)], "The model could not be compared with any simple rule."),
        (
            [row("A", low=0.1, difference=1.0, high=2.0), row("B", low=0.2, difference=1.0, high=2.0)],
            "The model beats every simple rule beyond chance: A and B.",
        ),
        (
            [row("A", low=0.1, difference=1.0, high=2.0), row("B", low=-0.2, difference=1.0, high=2.0)],
            "The model does not beat B beyond chance.",
        ),
        (
            [row(name, low=-1.0, difference=d, high=1.0) for name, d in (("A", 0.1), ("B", 0.0), ("C", -0.2))],
            "The model does not beat any simple rule beyond chance; at least as well did B (Sharpe 0.50) and C (Sharpe "
            "0.50).",
        ),
        (
            [row("A", low=0.0, difference=0.5, high=1.0), row("B", low=-2.0, difference=-1.0, high=-0.1)],
            "The model does not beat any simple rule beyond chance, and is worse beyond chance than B (Sharpe 0.50).",
        ),
    ],
)
def test_the_verdict_says_what_was_not_beaten(rows: list[BaselineRow], expected: str) -> None:
    assert verdict(rows) == expected


def test_metrics_are_named_after_the_baselines() -> None:
    rows = [replace(row(MOMENTUM, low=0.1, difference=0.25, high=2.0), sharpe_annual=None)]
    assert metrics(rows) == {
        "baseline_time_series_momentum_sharpe": None,
        "baseline_time_series_momentum_difference": 0.25,
        "baseline_time_series_momentum_p_value": 0.5,
    }


# ---- the figure


def test_the_curves_end_in_the_order_of_the_sharpes() -> None:
    """Each is the sum of the net returns at a volatility of 15 % on the bars compared, from the first known return on;
    the legend goes from the highest line to the lowest, with the Sharpes of the table. MACD begins later, which its
    label says; all others have the same bars."""
    panel = market()
    model, records = model_record(panel), run(panel)
    rows = against(model, records, "holdout")
    figure = luck_figures.baselines(model, records, rows, volatility_target=0.15)
    judged = (model.segment == "holdout") & np.isfinite(model.net())
    lines = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=np.float64) for line in figure.axes[0].lines}
    labels = {}
    for name, record in {"model": model, **records}.items():
        net = record.net()[judged & np.isfinite(record.net())]
        annual = net.mean() / net.std(ddof=1) * math.sqrt(252.0)
        late = " on 105 bars" if name == MACD else ""
        labels[name] = f"{name} " + f"{annual:z.2f}".replace("-", "\N{MINUS SIGN}") + late
        curve = lines[labels[name]]
        assert curve[-1] == pytest.approx(net.sum() * 0.15 / (net.std(ddof=1) * math.sqrt(252.0)))
        assert np.isnan(curve).sum() == judged.sum() - len(net) == (3 if name == MACD else 0)
    (legend,) = figure.legends
    shown = [text.get_text() for text in legend.get_texts()]
    ends = [lines[label][-1] for label in shown]
    assert sorted(shown) == sorted(labels.values()) and ends == sorted(ends, reverse=True)
    full = [label.replace("\N{MINUS SIGN}", "-") for label in shown if label != labels[MACD]]
    sharpes = [float(label.rsplit(" ", 1)[1]) for label in full]
    assert sharpes == sorted(sharpes, reverse=True)
    drawn(figure)


def test_every_difference_is_drawn_with_its_p_value() -> None:
    panel = market()
    rows = against(model_record(panel), run(panel), "holdout")
    figure = luck_figures.baseline_differences(rows)
    points = [
        np.asarray(line.get_xdata(), dtype=np.float64)[0] for line in figure.axes[0].lines if line.get_marker() == "o"
    ]
    assert points == [row.difference_annual for row in rows]
    text = drawn(figure)
    for row in rows:
        assert row.baseline in text and f"p = {row.p_value:.3f}" in text
    assert "holdout" in text


def test_the_figures_survive_what_is_missing() -> None:
    """A rule without a figure, a model without a known bar."""
    panel = market()
    model, records = model_record(panel), run(panel)
    nothing = replace(records[MACD], earned=replace(records[MACD].earned, net=np.full_like(model.earned.net, NAN)))
    rows = against(model, {MACD: nothing}, "holdout")
    text = drawn(luck_figures.baseline_differences(rows))
    assert "n/a" in text and text.count(MACD) == 1
    assert MACD not in drawn(luck_figures.baselines(model, {MACD: nothing}, rows, volatility_target=0.15))
    assert "no bar with a known return" in drawn(luck_figures.baselines(nothing, {}, rows, volatility_target=0.15))
