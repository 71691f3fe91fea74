"""The page holds what it promises, whatever is missing, and reaches for nothing outside itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline.reporting import page as report
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.calibration import Calibration, CalibrationRow, Estimate
from pipeline.statistics.comparable import MODEL, Comparable, comparable
from pipeline.statistics.drift import Drift
from pipeline.statistics.epochs import FoldLuck
from pipeline.statistics.equal_volatility import scaled
from pipeline.statistics.inference import Inference, Looked, infer
from pipeline.statistics.overfitting import Trials
from pipeline.statistics.significance import sharpe_standard_error
from pipeline.tracking.ledger import Look
from tft.backtest import FoldRow
from tft.metrics import max_drawdown
from tft.positions import Earnings
from tft.record import Record, Segment, segments
from tft.volatility import Timing

SEGMENTS: tuple[Segment, ...] = ("holdout", "development")
HOSTILE = "px_<script>alert('1')</script>&\"x\""


@dataclass(frozen=True)
class Row:
    """A ranked column."""

    rank: int
    feature: str
    group: str
    relative_weight: float
    stability: float
    p_value: float
    selected: bool
    weights: Sequence[float]


def ranked_rows(n_columns: int, n_folds: int, n_selected: int | None = None) -> list[Row]:
    """Columns of falling weight; the first half is selected unless said otherwise."""
    chosen = n_columns // 2 if n_selected is None else n_selected
    groups = ("px", "pvol", "vix")
    return [
        Row(
            rank=i + 1,
            feature=f"{groups[i % 3]}_column_{i}",
            group=groups[i % 3],
            relative_weight=2.0 - 1.5 * i / n_columns,
            stability=1.0 - i / n_columns,
            p_value=(i + 1) / (n_columns + 1),
            selected=i < chosen,
            weights=tuple(((2.0 - 1.5 * i / n_columns) / n_columns,) * n_folds),
        )
        for i in range(n_columns)
    ]


def fold_rows(n_folds: int) -> list[FoldRow]:
    """A fold a month, the last third of them in the holdout."""
    months = np.datetime64("2020-01", "M") + np.arange(n_folds + 4).astype("timedelta64[M]")
    first = [f"{month}-01T00:00:00.000000" for month in months]
    last = [f"{month}-28T00:00:00.000000" for month in months]
    return [
        FoldRow(
            fold=i,
            train_start=first[i],
            train_end=last[i + 1],
            validation_start=first[i + 2],
            validation_end=last[i + 2],
            test_start=first[i + 3],
            test_end=last[i + 3],
            n_epochs=80,
            kept_epoch=12,
            val_sharpe=2.5 + 0.1 * i,
            val_sharpe_best_epoch=8.08,
            oos_sharpe=-0.64,
            val_oos_gap=3.14 + 0.1 * i,
            segment="holdout" if i >= 2 * n_folds / 3 else "development",
            seconds=21.0,
        )
        for i in range(n_folds)
    ]


def small_record(n_bars: int, *, holdout_bars: int = 20, seed: int = 0) -> Record:
    """Two instruments, ten bars a fold, the last two bars without a return."""
    rng = np.random.default_rng(seed)
    position = rng.uniform(-0.3, 0.3, (n_bars, 2))
    held = 0.01 * rng.standard_normal((n_bars, 2))
    held[-2:] = np.nan
    change = np.abs(np.diff(position, axis=0, prepend=0.0))
    gross = position * held
    bars = range(100, 100 + n_bars)
    return Record(
        bars=np.arange(bars.start, bars.stop),
        times=np.datetime64("2023-01-01", "us") + np.arange(n_bars) * np.timedelta64(1, "D"),
        symbols=("A", "B"),
        fold=np.repeat(np.arange(n_bars)[:, None] // 10, 2, axis=1),
        raw_position=position,
        position=position,
        earned=Earnings(held, gross, gross - 5e-4 * change, change),
        segment=segments(bars, n_development=bars.stop - holdout_bars, timing=Timing()),
        timing=Timing(),
    )


FACTS = report.Facts(
    source="data/sample.parquet",
    data_sha256="ab" * 32,
    symbols=("A", "B"),
    first_bar="2022-09-23T00:00:00.000000",
    last_bar="2023-03-01T00:00:00.000000",
    n_bars=160,
    n_development=140,
    selection="holdout",
    tags={"data_sha256": "ab" * 32, "config_sha256": "cd" * 32, "git_commit": "ef" * 20, "purge_gap": "5"},
    settings={"seed": 7, "training": {"loss_mode": "joint_mle"}},
)


def small_drift(record: Record) -> Drift | None:
    """What the holdout of a small record would have earned without timing; None where it has none."""
    rows = record.segment == "holdout"
    held, position = record.earned.held_return[rows], record.position[rows]
    if not rows.any():
        return None
    return Drift(record.net()[rows], held.mean(axis=1), (held * position.mean(axis=0)).mean(axis=1), varies=True)


def inference(record: Record, folds: Sequence[FoldRow] = (), **given: Any) -> Inference:
    """Of the record alone, with the same luck for every fold."""
    given.setdefault("drift", small_drift(record))
    luck = [FoldLuck(row.fold, 21, best_of_independent_epochs=9.28, best_of_correlated_epochs=2.34) for row in folds]
    return replace(infer(record, [], **given), folds=tuple(luck))


def baseline(name: str, difference: float | None, **given: Any) -> BaselineRow:
    """A baseline of Sharpe 1.5; its difference has an error of 0.3 and an interval of 0.6 on each side."""
    known = difference is not None
    values: dict[str, Any] = {
        "baseline": name,
        "segment": "holdout",
        "n_bars": 78,
        "sharpe_annual": 1.5,
        "sharpe_gross_annual": 1.75,
        "model_sharpe_annual": 1.5 + (difference or 0.0),
        "difference_annual": difference,
        "difference_se_annual": 0.3 if known else None,
        "interval_low_annual": difference - 0.6 if difference is not None else None,
        "interval_high_annual": difference + 0.6 if difference is not None else None,
        "p_value": 0.77 if known else None,
        "detectable_annual": 0.84 if known else None,
        "remark": "" if known else "It has no position.",
    }
    return BaselineRow(**values | given)


def comparable_rows(record: Record, **others: Record) -> tuple[Comparable, ...]:
    """The record as the model's, and others by name, at a volatility of 15 %; instruments that never move."""
    still = np.zeros((int(record.bars[-1]) + 1, len(record.symbols)))
    records = {MODEL: record, **others}
    return tuple(
        row
        for segment in SEGMENTS
        for row in comparable(records, segment, volatility_target=0.15, returns=still)
        if row.n_bars and (segment == "holdout" or row.name == MODEL)
    )


def page(**changes: Any) -> str:
    figure = Figure(figsize=(2, 1))
    given: dict[str, Any] = {
        "job": FACTS,
        "record": small_record(160, holdout_bars=80),
        "n_initial": 301,
        "n_prefiltered": 276,
        "n_selected": 50,
        "ranked": ranked_rows(100, 3),
        "pruning_summary": "50 of 276 columns kept, at most 5.0 of them expected to be false",
        "pruning_warning": "",
        "tuned": {"d_hidden": 48, "lr": 0.00271234},
        "n_trials": 40,
        "best_trial_sharpe": 2.31,
        "folds": fold_rows(6),
        "model": ("tft-production", "3", True, "the rule is always"),
        "trouble": (),
        "figures": {"vsn_heatmap.png": figure, "equity.png": figure},
    }
    given |= changes
    given.setdefault("inference", inference(given["record"], given["folds"]))
    given.setdefault("comparable", comparable_rows(given["record"]))
    return report.render(**given)


def section(html: str, name: str) -> str:
    """Text of the box of that id, its blanks joined."""
    found = re.search(rf'<section[^>]*id="{name}">(.*?)</section>', html, re.DOTALL)
    assert found
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


class Strict(HTMLParser):
    """Every tag that is opened is closed, in order; collects the addresses the page refers to."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(html: str) -> Strict:
    parser = Strict()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_whole_html_and_needs_no_network() -> None:
    html = page()
    parser = parsed(html)
    # Everything the page refers to lies inside it: an id, or the cells of a heat map.
    assert {address[:1] for address in parser.addresses if not address.startswith("data:image/png;base64,")} == {"#"}
    assert not re.search(r"https?:|url\((?!#)|@import|//\w+\.", re.sub(r"base64,[^\"]+", "", html))
    assert html.count("<svg") == 2
    assert parser.tags.isdisjoint({"script", "link", "iframe", "object"})


def test_the_headline_is_the_holdouts_with_its_bars_dates_and_error() -> None:
    record = small_record(160, holdout_bars=80)
    performance, development = record.performance("holdout"), record.performance("development")
    assert performance is not None
    assert development is not None
    error = sharpe_standard_error(record.net()[80:158]) * np.sqrt(252)
    text = section(page(record=record), "headline").replace("−", "-")
    assert f"Holdout Sharpe: earned {performance.sharpe:.2f}, of which drift " in text
    assert f"Net Sharpe {performance.sharpe:.2f} ± {error:.2f}, annual" in text
    assert f"Net Sharpe {performance.sharpe:.2f} ± {error:.2f}, annual, after costs" in text
    # 80 bars of which the last two have no return yet.
    assert "over 78 bars from 2023-03-22 to 2023-06-07" in text
    assert f"Development net Sharpe {development.sharpe:.2f}: took part in selection: not out-of-sample" in text


def test_a_nested_record_is_clean_and_shows_no_development() -> None:
    """The page says how it was chosen; what is said of the deployed model's own choice is said to be of all bars."""
    record = small_record(160, holdout_bars=160)
    judged = inference(record, selection="nested")
    html = page(job=replace(FACTS, selection="nested", n_development=160), record=record, inference=judged)
    parsed(html)
    performance = record.performance("holdout")
    assert performance is not None
    text = section(html, "headline").replace("−", "-")
    assert text.startswith(f"Nested out-of-sample Sharpe: earned {performance.sharpe:.2f}, of which drift ")
    assert {len(row) for row in table(html, "inference")} == {2}
    assert "each forecast with columns and parameters that its fold chose on nothing but the bars before it" in text
    assert "Development" not in html and "Holdout" not in html
    assert html.count("of the deployed model, chosen on all 160 bars.") == 2
    assert 'class="holdout"' not in html


def test_no_number_of_development_is_called_out_of_sample() -> None:
    """The fold table holds test Sharpes of folds on which columns were chosen: its heading does not say more."""
    folds = re.search(r'<table id="folds">(.*?)</table>', page(), re.DOTALL)
    assert folds and "ut-of-sample" not in folds[1] and "<th>Test</th>" in folds[1]


def test_a_short_holdout_has_no_standard_error() -> None:
    text = section(page(record=small_record(160, holdout_bars=40)), "headline")
    assert "over 38 bars" in text
    assert "±" not in text
    assert "No standard error: 38 bars are too few for any inference, 63 are needed" in text


@pytest.mark.parametrize("holdout_bars", [0, 8])
def test_without_a_holdout_there_is_no_clean_number(holdout_bars: int) -> None:
    html = page(record=small_record(60, holdout_bars=holdout_bars))
    parsed(html)
    text = section(html, "headline")
    assert "No clean number exists" in text
    assert "Net Sharpe" not in text.replace("Development net Sharpe", "")
    assert "took part in selection: not out-of-sample" in text


def test_a_strategy_that_stayed_flat_is_reported() -> None:
    record = small_record(160, holdout_bars=80)
    nothing = np.where(np.isfinite(record.earned.net), 0.0, np.nan)
    html = page(record=replace(record, earned=replace(record.earned, net=nothing, gross=nothing)))
    assert "Net Sharpe 0.00, annual" in section(html, "headline")
    assert "Holdout Sharpe undefined: the returns do not vary" in section(html, "headline")


@pytest.mark.parametrize(
    ("model", "said", "warned"),
    [
        (("tft", "3", True, "the rule is always"), "tft, version 3, was promoted : the rule is always", False),
        (("tft", "3", False, "p = 0.4"), "tft, version 3, was registered but not promoted : p = 0.4", True),
        (("tft", "", False, ""), "tft was not registered", True),
    ],
)
def test_what_became_of_the_model_is_said(model: tuple[str, str, bool, str], said: str, warned: bool) -> None:
    html = page(model=model)
    assert said in section(html, "model")
    assert ('class="box warning"' in html) == warned


def test_the_selected_columns_stand_with_how_many_are_expected_to_be_false() -> None:
    html = page()
    assert "50 of 276 columns kept, at most 5.0 of them expected to be false." in html
    assert "<td>0.0099</td>" in html, "the p-value of the first of 100"


def test_trouble_and_the_pruning_warning_are_in_the_warning_box() -> None:
    html = page(trouble=("the disk is full",), pruning_warning="no column passed")
    assert 'class="box warning" id="model"' in html
    assert "the disk is full" in section(html, "model")
    assert "no column passed" in section(html, "model")


def test_a_missing_sharpe_is_shown_as_missing() -> None:
    rows = fold_rows(2)
    rows[1] = replace(
        rows[1], oos_sharpe=None, val_sharpe=None, val_oos_gap=None, test_start=None, test_end=None, segment=None
    )
    html = page(folds=rows)
    parsed(html)
    table = html[html.index('id="folds"') :].split("</table>")[0]
    assert table.count("n/a") == 3
    assert "no test" in table
    assert "−0.64" in table


def test_forty_selected_columns_are_listed_and_groups_are_counted_over_all() -> None:
    html = page(ranked=ranked_rows(100, 3))
    features = html[html.index('id="features"') :].split("</table>")[0]
    assert re.findall(r"\w+_column_\d+", features) == [row.feature for row in ranked_rows(100, 3)[:40]]
    assert "And 10 more" in html
    groups = html[html.index('id="groups"') :].split("</table>")[0]
    assert re.findall(r"<td[^>]*>(\w+)</td>", groups) == ["px", "17", "34", "pvol", "17", "33", "vix", "16", "33"]


def test_the_best_of_many_trials_is_called_inflated() -> None:
    assert "The best of 40 is inflated" in page()
    assert "0.002712" in page()
    single = page(n_trials=1, tuned={}, best_trial_sharpe=None)
    assert "inflated" not in single
    assert "nothing was searched" in single


def test_provenance_and_settings_are_on_the_page() -> None:
    html = page()
    for text in ("ab" * 32, "cd" * 32, "ef" * 20, "purge_gap", "data/sample.parquet", "loss_mode: joint_mle"):
        assert text in html


def test_a_hostile_name_is_escaped_wherever_it_appears() -> None:
    given = replace(ranked_rows(2, 3)[0], feature=HOSTILE, group=HOSTILE)
    facts = report.Facts(
        HOSTILE, HOSTILE, (HOSTILE,), *["2023-01-01"] * 2, 9, 6, "holdout", {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}
    )
    html = page(
        ranked=[given],
        job=facts,
        tuned={HOSTILE: HOSTILE},
        model=(HOSTILE, "1", False, HOSTILE),
        trouble=(HOSTILE,),
        pruning_warning=HOSTILE,
    )
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "script" not in parsed(html).tags


def table(html: str, name: str) -> list[list[str]]:
    """Cells of the body of the table of that id, by row."""
    body = html[html.index(f'id="{name}"') :].split("<tbody>")[1].split("</tbody>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("<tr")[1:]]
    return [[" ".join(re.sub(r"<[^>]+>", " ", cell).split()).replace("−", "-") for cell in row] for row in cells]


def test_the_verdict_stands_first() -> None:
    record = small_record(160, holdout_bars=80)
    judged = inference(record, baselines=[baseline("long only", -0.1)])
    text = section(page(record=record, inference=judged), "headline").replace("−", "-")
    assert text.startswith(judged.verdict)
    assert "it does not beat long only (difference -0.10 ± 0.30)" in text


def test_the_sharpe_is_taken_apart_into_drift_and_skill() -> None:
    record = small_record(400, holdout_bars=150)
    judged = inference(record, seed_skills=[0.1, 0.5, 0.3])
    html = page(record=record, inference=judged)
    skill = judged.skill
    assert skill and skill.drift is not None and skill.skill is not None and skill.beta is not None
    rows = {row[0]: row[1:] for row in table(html, "skill")}
    assert rows["Sharpe, net, as earned"][0] == f"{skill.sharpe:.2f}"
    assert rows["of which drift"][0] == f"{skill.drift:.2f}"
    assert rows["of which skill: alpha / sd of the return"][:2] == [f"{skill.skill:.2f}", f"{skill.skill_se:.2f}"]
    assert rows["b1, on the market beside the mean positions"] == [
        f"{skill.beta:.2f}",
        f"{skill.beta_se:.2f}",
        f"{skill.beta_p_value:.3f}",
    ]
    assert "single ones scatter by 0.20, and 3 are averaged" in " ".join(html.split())
    assert 'id="skill"' not in page(record=small_record(60, holdout_bars=0))


def test_another_verdict_takes_the_place_of_the_first() -> None:
    html = page(record=small_record(400, holdout_bars=150))
    said = report.with_verdict(html, "Beyond drift -0.50 & no more.")
    assert section(said, "headline").startswith("Beyond drift −0.50 &amp; no more.")
    assert len(said.splitlines()) == len(html.splitlines())
    assert report.with_verdict(said, inference(small_record(400, holdout_bars=150)).verdict) == html


def test_every_sharpe_has_its_inference_beside_it() -> None:
    """Holdout, development and the best trial of tuning, in this order; bars and Sharpes as in the record."""
    record = small_record(400, holdout_bars=150)
    returns = 0.01 * np.random.default_rng(0).standard_normal((200, 12))
    judged = inference(record, trials=Trials(returns, best=0, n_started=30), others=[Looked(1.0, 100)])
    html = page(record=record, inference=judged)
    parsed(html)
    rows = {row[0]: row[1:] for row in table(html, "inference")}
    assert judged.skill
    three = [judged.skill.neutral, judged.development, judged.tuning]
    for label, key, form in [
        ("Bars", "n_bars", ",d"),
        ("Sharpe, net", "sharpe", "z.2f"),
        ("Standard error", "standard_error", "z.2f"),
        ("p-value of no skill, one-sided", "p_value", ".3f"),
        ("Number of configurations of which it is, or may be, the best (N)", "n_trials", ",d"),
        ("Probabilistic Sharpe ratio (PSR)", "psr", ".3f"),
        ("Deflated Sharpe ratio (DSR)", "dsr", ".3f"),
        ("Smallest Sharpe that so many bars could detect", "detectable_sharpe", "z.2f"),
    ]:
        assert rows[label] == [format(getattr(one, key), form) for one in three], label
    assert rows["Number of configurations of which it is, or may be, the best (N)"] == ["2", "30", "30"]
    for one, interval in zip(three, rows["95 % interval"], strict=True):
        assert one is not None
        assert interval == f"{one.low:z.2f} to {one.high:z.2f}"
    assert judged.overfitting is not None
    said = " ".join(html.split()).replace("−", "-")
    assert f"Probability of backtest overfitting {judged.overfitting.pbo:.2f}:" in said
    assert f"Noise alone gives {judged.overfitting.noise_low:.2f} to {judged.overfitting.noise_high:.2f}" in said


def test_pbo_that_cannot_be_computed_says_why() -> None:
    record = small_record(160, holdout_bars=80)
    trials = Trials(0.01 * np.random.default_rng(0).standard_normal((90, 3)), best=0, n_started=3)
    html = page(record=record, inference=inference(record, trials=trials))
    assert "not computable, 3 trials were completed and traded, at least 10 are needed" in " ".join(html.split())


def test_beside_the_best_epoch_stands_what_noise_would_have_shown() -> None:
    rows = table(page(), "folds")
    assert [row[6:8] for row in rows] == [["8.08", "2.34 (9.28)"]] * 6


def test_earlier_looks_at_the_holdout_are_listed() -> None:
    looks = [
        Look("comparison", "2023-03-01", "2023-06-07", ("A",), "aa" * 32, "r1" * 16, "", 1.25, 90, "2024-05-01T10:30"),
        Look("production", "2023-03-22", "2023-06-07", ("A", "B"), "bb" * 32, "r2" * 16, "e", None, None, "2024-06-01"),
    ]
    looks = [replace(look, recipe=recipe) for look, recipe in zip(looks, (2, 1), strict=True)]
    html = page(looks=looks)
    parsed(html)
    assert "Look 2 at this holdout" in section(html, "headline")
    assert table(html, "looks") == [
        ["1", "2", "2024-05-01 10:30", "comparison", "2023-03-01 – 2023-06-07", "1.25", "aa" * 6, "r1" * 6],
        ["2", "1", "2024-06-01 00:00", "production, this one", "2023-03-22 – 2023-06-07", "n/a", "bb" * 6, "r2" * 6],
    ]


def test_looks_made_elsewhere_are_part_of_the_number_that_deflates() -> None:
    """One look in the ledger, three that the configuration states: four configurations, in both places."""
    record = small_record(160, holdout_bars=100)
    look = Look("production", "2023-03-01", "2023-06-07", ("A",), "aa" * 32, "r1" * 16)
    judged = inference(record, others=[Looked(None, 0)] * 3)
    stated = replace(FACTS, settings={**FACTS.settings, "prior_looks": 3})
    html = " ".join(page(record=record, inference=judged, looks=[look], job=stated).split())
    assert "4 distinct configurations have looked, 3 of them elsewhere (<code>prior_looks</code>)" in html
    assert "as one of 4 configurations that have looked at it" in html
    assert "elsewhere" not in page(record=record, inference=inference(record), looks=[look])


def test_baselines_are_a_table_with_a_figure_of_its_own() -> None:
    record = small_record(160, holdout_bars=80)
    judged = inference(record, baselines=[baseline("long only", -0.1), baseline("MACD", None)])
    html = page(record=record, inference=judged, figures={"baselines.png": Figure(figsize=(1, 1))})
    parsed(html)
    first, second = table(html, "baselines")
    assert first == [
        *["long only", "78", "1.50", "1.75"],
        *["-0.10 ± 0.30", "-0.70 to 0.50", "0.770", "0.84"],
    ]
    assert second[4:] == ["n/a"] * 4
    assert "MACD: It has no position." in html
    assert html.index('id="equity"') < html.index("<svg") < html.index('id="figures"')


def test_records_stand_beside_each_other_at_one_volatility() -> None:
    """A record of half the size has half the realised volatility, and nothing else differs."""
    record = small_record(160, holdout_bars=80)
    rows = comparable_rows(record, half=scaled(record, 0.5))
    html = page(record=record, comparable=rows, figures={"frictions.png": Figure(figsize=(1, 1))})
    parsed(html)
    model, half = table(html, "comparable")
    net = record.net()[80:158]
    realised = net.std(ddof=1) * np.sqrt(252.0)
    assert model[:5] == [
        *["model", "78", f"{realised:.2%}", f"{net.mean() * 252.0 * 0.15 / realised:z.2%}"],
        f"{max_drawdown(net * 0.15 / realised):z.2%}",
    ]
    # The table of the record has changes at its last two bars too, whose return is not known.
    assert float(model[5].rstrip("×")) == pytest.approx(
        float(record.earned.change[80:].mean()) * 252.0 * 0.15 / realised, abs=0.06
    )
    assert half[2] == f"{realised / 2.0:.2%}"
    assert half[3:] == model[3:]
    assert 'aria-label="Net Sharpe by cost and by delay"' in html
    headline = " ".join(re.sub(r"<[^>]+>", " ", html).split()).replace("−", "-")
    # What the target is stands beside a volatility so far below it.
    assert "Volatility a year, realised The target of 15% ( positions.vol_target ) is for one instrument" in headline
    assert f"leave a portfolio with less. {realised:.2%}" in headline
    assert "Scaled ex post to a volatility of 15.00% 15.00%" in headline
    assert f"Worst drawdown at that volatility {model[4]}" in headline


def test_the_tuned_run_is_compared_with_the_untuned_one() -> None:
    record = small_record(160, holdout_bars=80)
    html = page(record=record, inference=inference(record, against_untuned=baseline("untuned", 0.2)))
    said = " ".join(html.split()).replace("−", "-")
    assert (
        "Against the untuned configuration (trial 0) on the same 78 bars of the holdout, whose net Sharpe is 1.50: a "
        "difference of +0.20 ± 0.30, 95 % interval -0.40 to 0.80 (p = 0.77); the smallest true "
        "difference that would be found four times in five is 0.84."
    ) in said


@dataclass(frozen=True)
class Found:
    severity: str
    check: str
    where: str
    message: str


FIT = Calibration(
    "gaussian",
    (
        CalibrationRow("fold 0", "development", 9, 18),
        CalibrationRow(
            "holdout",
            "holdout",
            78,
            156,
            log_score=-1.4,
            log_score_gain=Estimate(-0.012, 0.004),
            crps=0.56,
            crps_gain=Estimate(-0.001, None),
            coverage_50=Estimate(0.48, 0.03),
            coverage_90=Estimate(0.85, 0.02),
            slope=Estimate(0.5, 0.125),
            probability_slope=Estimate(0.25, 0.2),
            against_probability=Estimate(0.31, 0.02),
        ),
    ),
    "holdout",
)


def test_the_forecast_distribution_stands_beside_the_unconditional_one() -> None:
    """A row a part, errors where there are any, missing where too few bars; shaded where it is clean; said in the
    verdict where it is worse."""
    record = small_record(160, holdout_bars=80)
    html = page(
        record=record,
        inference=inference(record, calibration=FIT),
        figures={"calibration.png": Figure(figsize=(1, 1))},
    )
    parsed(html)
    fold, clean = table(html, "calibration")
    assert fold == ["fold 0", "9", *["n/a"] * 7]
    assert clean == [
        *["holdout", "78", "-0.0120 ± 0.0040", "-0.0010", "48.0% ± 3.0%", "85.0% ± 2.0%", "0.50 ± 0.12"],
        *["0.25 ± 0.20", "31% ± 2%"],
    ]
    assert html.count('<tr class="holdout">\n<td class="text">') == 1
    assert "On 78 holdout bars the forecast distribution gains log score −0.0120" in html
    assert "worse than the unconditional one (log score −0.0120 ± 0.0040 per bar)." in html
    assert 'aria-label="PIT histogram and reliability"' in html and html.count("<figure>") == 1
    assert "quantiles have no log score" not in html
    with_quantiles = page(inference=inference(record, calibration=replace(FIT, family="quantiles")))
    assert "quantiles have no log score" in with_quantiles


def test_a_nested_records_distribution_is_called_the_records() -> None:
    record = small_record(160, holdout_bars=160)
    judged = inference(record, selection="nested", calibration=FIT)
    html = page(job=replace(FACTS, selection="nested"), record=record, inference=judged)
    assert table(html, "calibration")[1][0] == "the record"
    assert "On 78 bars of the nested record the" in html
    assert 'class="holdout"' not in html


def test_positions_alone_are_said_to_have_no_distribution() -> None:
    record = small_record(160, holdout_bars=80)
    html = page(record=record, inference=inference(record, calibration=Calibration("none")))
    parsed(html)
    assert "there is no distribution to calibrate" in html
    assert 'id="calibration"' not in html and "PIT" not in html


def test_findings_are_listed() -> None:
    html = page(findings=[Found("error", "leak", "px_tomorrow", HOSTILE)])
    parsed(html)
    assert "<script" not in html
    (row,) = table(html, "findings")
    assert row[:3] == ["error", "leak", "px_tomorrow"]


def test_what_was_not_given_has_no_section() -> None:
    html = page()
    for name in ("looks", "baselines", "calibration", "findings"):
        assert f'id="{name}"' not in html
    for text in (
        "What a simple rule",
        "Does the forecast",
        "Against the untuned",
        "Probability of backtest overfitting",
        "Best trial of",
    ):
        assert text not in html


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [(None, "z.2f", "n/a"), (float("nan"), "z.2f", "n/a"), (-0.001, "z.2f", "0.00"), (-0.64, "+z.2f", "−0.64")],
)
def test_numbers_are_written_as_people_write_them(value: float | None, form: str, text: str) -> None:
    assert report._number(value, form) == text
