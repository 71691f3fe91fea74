"""What the page looks like: its order, contents, dates, settings and colours."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure

from pipeline.config.reading import to_mapping
from pipeline.config.schema import Config
from pipeline.reporting import page as report
from pipeline.reporting.svg import THEME
from pipeline.tracking.ledger import Look
from tests.pipeline.reporting.test_origins import taken_apart
from tests.pipeline.reporting.test_page import (
    FACTS,
    FIT,
    Found,
    baseline,
    fold_rows,
    inference,
    page,
    parsed,
    section,
    small_record,
    table,
)


def full_page(**changes: Any) -> str:
    """A page that has every section."""
    record = small_record(160, holdout_bars=80)
    look = Look("production", "2023-03-22", "2023-06-07", ("A", "B"), "bb" * 32, "r2" * 16)
    judged = inference(record, baselines=[baseline("long only", -0.1)], calibration=FIT)
    found = Found("warning", "gaps", "A", "three bars are missing")
    return page(record=record, inference=judged, looks=[look], findings=[found], origins=taken_apart(), **changes)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours by WCAG 2.1: 1 to 21."""
    linear = [np.array(colors.to_rgb(each)) for each in (one, other)]
    linear = [np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) for rgb in linear]
    dark, light = sorted(float(rgb @ np.array([0.2126, 0.7152, 0.0722])) for rgb in linear)
    return (light + 0.05) / (dark + 0.05)


def test_every_figure_has_its_place_in_the_order_of_the_page() -> None:
    html = full_page(figures={name: Figure(figsize=(1, 1)) for name in report.LABELS})
    parsed(html)
    assert re.findall(r'<svg[^>]*aria-label="(.*?)"', html) == list(report.LABELS.values())


def test_the_contents_name_every_chapter_and_section_once() -> None:
    html = full_page()
    listed = re.findall(r'<a[^>]*href="#([\w-]+)"', html[html.index("<nav") : html.index("</nav>")])
    assert listed == ["headline", *re.findall(r'<h[23] id="([\w-]+)"', html)]
    assert len(listed) == 21
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    # The verdict, then the curve beside the simple rules, the headline figures, the folds; the rest after them.
    assert listed[:4] == ["headline", "equity", "figures", "validation"]
    assert html.index('class="verdict"') < html.index("<nav") < html.index('<h3 id="equity"')
    # Every link inside the page leads somewhere.
    assert set(re.findall(r'<a[^>]*href="#([\w-]+)"', html)) <= set(ids)


def test_daily_bars_are_dates_and_intraday_bars_have_a_time() -> None:
    record = small_record(160, holdout_bars=80)
    assert not re.search(r"\d\d:\d\d", page(record=record))
    # A bar a day is a date, whatever the hour it is stamped with.
    evening = replace(record, times=record.times + np.timedelta64(21, "h"))
    assert not re.search(r"\d\d:\d\d", page(record=evening))
    hours = np.datetime64("2023-01-01", "us") + np.arange(160) * np.timedelta64(1, "h")
    text = section(page(record=replace(record, times=hours)), "headline")
    # Midnight is told from a day: bar 96 of the hours is the beginning of the fifth day.
    assert "from 2023-01-04 08:00 to 2023-01-07 13:00" in text


def test_settings_are_what_differs_from_the_defaults_and_the_rest_is_folded_away() -> None:
    config = to_mapping(replace(Config(), seed=8, positions=replace(Config().positions, max_position=0.5)))
    html = page(job=replace(FACTS, settings=config))
    default = Config().positions.max_position
    assert table(html, "changed") == [["seed", "8", "7"], ["positions.max_position", "0.5", str(default)]]
    folded = re.search(r"<details>.*?<pre>(.*?)</pre>\s*</details>", html, re.DOTALL)
    assert folded and "null" not in folded[1] and "execution_delay_bars: 1" in folded[1]
    given = page(job=replace(FACTS, settings=to_mapping(replace(Config(), holdout_start="2026-01-02"))))
    assert [(name, default) for name, _, default in table(given, "changed")] == [("holdout_start", "none")]
    assert "All settings are the defaults." in page(job=replace(FACTS, settings=to_mapping(Config())))


def test_a_fold_across_the_border_is_not_shaded_as_holdout() -> None:
    rows = fold_rows(3)
    segments = ["development", "development/between/holdout", "holdout"]
    html = page(folds=[replace(row, segment=segment) for row, segment in zip(rows, segments, strict=True)])
    body = html[html.index('id="folds"') :].split("<tbody>")[1].split("</tbody>")[0]
    assert [row.startswith(' class="holdout"') for row in body.split("<tr")[1:]] == [False, False, True]


def test_the_page_is_as_legible_in_the_dark() -> None:
    """Whatever colour a figure takes from the page has a value in light and another in the dark, and a contrast of at
    least 3 to the ground where something is read or traced by it."""
    style = page().split("<style>")[1].split("* {")[0]
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in style.split("@media screen"))
    assert set(THEME.values()) <= set(light)
    assert set(light) == set(dark)
    for name in ("ink", "ink-quiet", "grey", "blue", "vermilion", "green"):
        for theme in (light, dark):
            assert contrast(theme[name], theme["paper"]) > 3.0, name


def test_no_p_value_is_shown_as_zero() -> None:
    record = small_record(160, holdout_bars=80)
    sure = replace(baseline("long only", 0.1), p_value=0.0002)
    html = page(record=record, inference=inference(record, baselines=[sure, baseline("MACD", None)]))
    assert [row[6] for row in table(html, "baselines")] == ["&lt; 0.001", "n/a"]
