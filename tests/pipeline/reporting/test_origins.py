"""Where a record comes from, as it is kept, drawn and said. A comment above an assertion states the rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.phases.combinatorial import PathRow, Paths
from pipeline.reporting import origins, origins_figures
from pipeline.reporting.origins import Origins
from pipeline.statistics.attribution import attribution
from pipeline.statistics.course import course
from pipeline.statistics.estimate import Estimate
from pipeline.statistics.group_losses import GroupLoss, GroupLosses
from pipeline.statistics.information_coefficient import information_coefficients
from tests.pipeline.reporting.test_artifacts import Recorder
from tests.pipeline.reporting.test_figures import drawn
from tests.pipeline.reporting.test_page import FACTS, inference, page, parsed
from tests.pipeline.statistics.records import random_record
from tft.volatility import ewm_volatility

LOSSES = GroupLosses(
    segment="holdout",
    n_bars=198,
    n_permutations=4,
    block_bars=63,
    rows=(
        GroupLoss("px_<b>", 5, 0.625, Estimate(0.12, 0.34), Estimate(0.011, 0.022)),
        GroupLoss("vix", 1, 0.25, None, Estimate(0.0, None)),
    ),
    left_out=("pvol", "carry"),
)
PATHS = Paths(
    n_groups=4,
    n_test_groups=2,
    n_splits=6,
    purge_gap_bars=5,
    embargo_bars=10,
    rows=tuple(PathRow(i, 300, Estimate(0.5 * i, 0.6), Estimate(0.3, 0.7)) for i in range(3)),
    walk_forward=Estimate(1.75, 0.9),
    walk_forward_bars=200,
)


def taken_apart(n_bars: int = 400, n_holdout: int = 200, n_assets: int = 3, **given: Any) -> Origins:
    record, returns = random_record(n_bars, n_assets, n_holdout=n_holdout)
    segments = ("holdout", "development")
    return replace(
        Origins(
            attributions=tuple(one for each in segments if (one := attribution(record, returns, each))),
            course=course(record),
            lags=tuple(
                row
                for each in segments
                for row in information_coefficients(record, returns, ewm_volatility(returns), each)
            ),
            groups=LOSSES,
            paths=PATHS,
        ),
        **given,
    )


def shown(one: Origins, **changes: Any) -> str:
    figure = Figure(figsize=(2, 1))
    return page(origins=one, figures=dict.fromkeys(origins.figures(one), figure), **changes)


def rows_of(html: str, table: str) -> list[list[str]]:
    """Texts of the cells of the tables of that class or id."""
    found = re.findall(rf'<table (?:class|id)="{table}">(.*?)</table>', html, re.DOTALL)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", "".join(found), re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[" ".join(cell.split()) for cell in row] for row in cells]


# ---- tables


def test_estimates_are_kept_with_their_errors_and_segments_apart() -> None:
    run, one = Recorder(), taken_apart()
    origins.log(run, one)
    names = {"attribution", "drawdowns", "best_bars", "information_coefficient", "group_losses", "paths"}
    assert set(run.tables) == {f"{name}.json" for name in names}
    table = run.tables["attribution.json"]
    parts = [part for each in one.attributions for part in (each.total, *each.parts)]
    assert table["net"] == [part.net.value for part in parts]
    assert table["net_se"] == [part.net.standard_error for part in parts]
    assert table["sharpe_se"] == [part.sharpe.standard_error if part.sharpe else None for part in parts]
    assert set(table["segment"]) == {"holdout", "development"}
    assert run.tables["group_losses.json"]["sharpe_loss_se"] == [0.34, None]
    assert run.tables["paths.json"]["history"] == ["path 0", "path 1", "path 2", "walk-forward"]
    assert run.tables["paths.json"]["sharpe"] == [0.0, 0.5, 1.0, 1.75]
    assert run.values == {"cpcv_sharpe": 0.5, "cpcv_sharpe_lowest": 0.0, "cpcv_sharpe_highest": 1.0}


def test_without_paths_and_groups_there_are_no_such_tables_or_figures() -> None:
    run, one = Recorder(), taken_apart(groups=None, paths=None)
    origins.log(run, one)
    assert not {"group_losses.json", "paths.json"} & set(run.tables) and run.values == {}
    assert not {origins.LOSSES, origins.PATHS} & set(origins.figures(one))
    assert set(origins.figures(taken_apart())) == set(origins.FIGURES)


# ---- figures


@pytest.mark.parametrize("n_bars", [40, 120, 700])
def test_every_figure_can_be_drawn_however_short_the_record(n_bars: int) -> None:
    one = taken_apart(n_bars, n_bars // 2)
    for name, draw in origins.figures(one).items():
        assert drawn(draw()).strip(), name


def test_the_bars_of_each_panel_are_the_contributions_of_its_partition() -> None:
    (one, *_) = taken_apart().attributions
    figure = origins_figures.contributions(one)
    drawn(figure)
    for axes, by in zip(figure.axes, origins_figures.PARTITIONS, strict=True):
        widths = [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)]
        assert widths == pytest.approx([part.net.value for part in one.by(by)])
        assert sum(widths) == pytest.approx(one.total.net.value)


def test_of_very_many_instruments_the_best_and_the_worst_are_drawn() -> None:
    (one, *_) = taken_apart().attributions
    part = one.by("instrument")[0]
    many = [replace(part, name=f"I{i}", net=Estimate(0.001 * i, None)) for i in range(100)]
    figure = origins_figures.contributions(replace(one, parts=(*many, *(p for p in one.parts if p.by != "instrument"))))
    text = drawn(figure)
    assert len(figure.axes[0].get_yticks()) == origins_figures.MAX_PARTS
    assert "I99" in text and "I0\n" in text and "I50" not in text and "best and worst instruments" in text


def test_months_are_framed_where_they_hold_bars_of_the_holdout() -> None:
    """The holdout of 200 bars begins on 2023-06-08; the record on 2022-11-20."""
    one = taken_apart()
    figure = origins_figures.months(one.attributions)
    text = drawn(figure)
    frames = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(frames) == len({part.name for part in one.attributions[0].by("month")}) == 7
    months = {part.name: 0.0 for each in one.attributions for part in each.by("month")}
    for each in one.attributions:
        for part in each.by("month"):
            months[part.name] += part.net.value
    for value in months.values():
        assert f"{value:+.1%}".replace("-", "\N{MINUS SIGN}") in text


def test_the_course_shows_the_band_of_noise_around_the_whole_record() -> None:
    one = taken_apart(700, 350).course
    figure = origins_figures.course(one)
    assert f"whole record {one.whole:.2f}" in drawn(figure) and one.whole is not None and one.noise is not None
    bands = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    edges = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in bands]
    assert any(pair == pytest.approx((one.whole - 1.96 * one.noise, one.whole + 1.96 * one.noise)) for pair in edges)
    short = drawn(origins_figures.course(taken_apart(120, 60).course))
    assert "shorter than a year (252 bars)" in short


def test_losses_stand_beside_weights_and_an_unknown_one_is_said() -> None:
    figure = origins_figures.group_losses(LOSSES)
    text = drawn(figure)
    left, right = (
        [patch.get_width() for patch in axes.patches if isinstance(patch, Rectangle)] for axes in figure.axes
    )
    assert left == [0.625, 0.25] and right == [0.12] and "n/a" in text and "px_<b> (5)" in text


def test_the_walk_forward_stands_among_the_paths() -> None:
    text = drawn(origins_figures.paths(PATHS))
    assert all(name in text for name in ("path 0", "path 2", "walk-forward", "mean of the paths 0.50"))
    assert "took part in selection" in text


# ---- the page


def sums(rows: Sequence[Sequence[str]], heading: str, n: int) -> float:
    """Net returns in the first table's rows under a heading, added up, in percent."""
    start = next(number for number, row in enumerate(rows) if row == [heading])
    values = [row[2].replace("−", "-").split("%")[0] for row in rows[start + 1 : start + 1 + n]]
    return sum(float(value) for value in values)


def test_the_section_holds_every_part_and_says_what_is_out_of_sample() -> None:
    one = taken_apart()
    html = shown(one)
    parsed(html)
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "Holdout, out-of-sample" in text and "Development, which took part in selection" in text
    # How many figures there are and how many would stand out by luck.
    assert f"it has {one.n_rows} figures with a standard error, of which about {round(one.n_rows / 20)} lie" in text
    rows = rows_of(html, "attribution")
    total = one.attributions[0].total.net.value * 100.0
    for heading, n in (("Side", 3), ("Year", len(one.attributions[0].by("year"))), ("Market volatility", 3)):
        assert sums(rows, heading, n) == pytest.approx(total, abs=0.02)
    # No Sharpe ratio without its error.
    for row in rows:
        assert len(row) < 8 or row[4] in ("n/a", "Sharpe, net") or "±" in row[4], row
    assert "px_&lt;b&gt;" in html and "Not permuted, having less weight: pvol, carry." in text
    assert rows_of(html, "losses")[1][3:] == ["+0.12 ± 0.34", "+1.10% ± 2.20%"]
    assert rows_of(html, "losses")[2][3:] == ["n/a", "+0.00%"]
    assert "Over the 3 paths the net Sharpe is 0.50 in the mean, from 0.00 to 1.00" in text
    assert rows_of(html, "paths")[-1] == ["walk-forward", "200", "1.75 ± 0.90", "1.75 ± 0.90"]
    assert html.count("<svg") == len(origins.FIGURES)


def test_a_nested_record_shows_no_development() -> None:
    one = taken_apart(300, 300, paths=None)
    assert [each.segment for each in one.attributions] == ["holdout"]
    record, _ = random_record(300, 3, n_holdout=300)
    judged = inference(record, selection="nested")
    html = shown(one, job=replace(FACTS, selection="nested"), record=record, inference=judged)
    parsed(html)
    assert "Record, out-of-sample" in html and "evelopment, which" not in html and "Holdout" not in html


def test_a_record_without_anything_known_has_no_section_that_breaks() -> None:
    record, returns = random_record(60, 2, n_holdout=10)
    nothing = replace(record, segment=np.full(60, "between"))
    one = Origins((), course(nothing), (), None, None)
    parsed(shown(one))
    assert attribution(nothing, returns, "holdout") is None
