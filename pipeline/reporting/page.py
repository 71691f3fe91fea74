"""The report of a run: a single HTML page with its figures inside, which opens without a network."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, pass_context
from jinja2.runtime import Context
from matplotlib.figure import Figure

from pipeline.bar_labels import bar_label, bar_unit
from pipeline.config.schema import Selection
from pipeline.data.findings import Finding
from pipeline.reporting import origins as origins_of
from pipeline.reporting.changed_settings import brief, changed_settings
from pipeline.reporting.figures import is_clean
from pipeline.reporting.selection_figures import RankedRow
from pipeline.reporting.svg import inline_svg
from pipeline.statistics import baseline_comparison
from pipeline.statistics.calibration_in_words import in_one_sentence
from pipeline.statistics.comparable import MODEL, Comparable
from pipeline.statistics.inference import Inference
from pipeline.statistics.sharpe import SharpeInference
from pipeline.tracking.ledger import Look
from tft.backtest import FoldRow
from tft.metrics import Performance
from tft.record import Record, Segment

FEATURES_SHOWN = 40
SYMBOLS_SHOWN = 12
ROWS_SHOWN = 40
"""Rows of one partition of the record that are shown"""
MISSING = "n/a"
REPORT = "report.html"
"""The file it is kept as."""
LABELS = {
    "baselines.png": "Net returns of the model and of simple rules at one volatility",
    "validation_vs_oos.png": "Validation and test Sharpe by fold",
    "baseline_differences.png": "Sharpe of the model minus that of each simple rule",
    "frictions.png": "Net Sharpe by cost and by delay",
    "equity.png": "Equity and drawdown",
    "contributions.png": "What each part added to the net return",
    "months.png": "Net return by month",
    "course.png": "Sharpe of the past year, exposure and turnover",
    "information_coefficient.png": "Information coefficient by lag",
    "group_losses.png": "Weight of each group of columns, and what is lost without it",
    "paths.png": "Sharpe of each path",
    "calibration.png": "PIT histogram and reliability",
    "training_curves.png": "Loss and validation score by epoch",
    "vsn_heatmap.png": "Selection weight by column and fold",
    "stability_against_weight.png": "Stability of each column against its weight",
    "probe_null.png": "Weights of columns beside those of probes",
}
"""What each figure is, to those who do not see it, by file name and in the order of the page."""


@dataclass(frozen=True)
class Facts:
    """The inputs of the run, as the page states them. Bars are ISO times; `tags` are those that every run of the job
    carries."""

    source: str
    data_sha256: str
    symbols: tuple[str, ...]
    first_bar: str
    last_bar: str
    n_bars: int
    n_development: int
    """Number of bars on which the deployed model was chosen."""
    selection: Selection
    tags: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """One segment of the out-of-sample record."""

    performance: Performance
    inference: SharpeInference
    scaled: Comparable
    first: str
    last: str
    """First and last bar of decision with a known return."""


def render(
    *,
    job: Facts,
    record: Record,
    n_initial: int,
    n_prefiltered: int,
    n_selected: int,
    ranked: Sequence[RankedRow],
    pruning_summary: str,
    pruning_warning: str,
    tuned: Mapping[str, Any],
    n_trials: int,
    best_trial_sharpe: float | None,
    folds: Sequence[FoldRow],
    model: tuple[str, str, bool, str],
    trouble: Sequence[str],
    figures: Mapping[str, Figure],
    inference: Inference,
    comparable: Sequence[Comparable],
    looks: Sequence[Look] = (),
    findings: Sequence[Finding] = (),
    origins: origins_of.Origins | None = None,
) -> str:
    """The page as HTML.

    `model`: name, version (empty: not registered), promoted, and why. `figures` by file name. `looks` at an overlapping
    holdout up to and with this one, oldest first. What is empty has no section.
    """
    nested = job.selection == "nested"
    clean = [one for one in comparable if one.segment == "holdout"]
    selected = [row for row in ranked if row.selected]
    gaps = [row.val_oos_gap for row in folds if row.val_oos_gap is not None]
    severities = Counter(finding.severity for finding in findings)
    return _PAGE.render(
        job=job,
        verdict=inference.verdict,
        nested=nested,
        record_name="record" if nested else "holdout",
        holdout=_headline(record, "holdout", inference.holdout, comparable),
        development=_headline(record, "development", inference.development, comparable),
        skill=inference.skill,
        tuning=inference.tuning,
        overfitting=inference.overfitting,
        against_untuned=inference.against_untuned,
        looks=looks,
        prior_looks=job.settings.get("prior_looks", 0),
        findings=findings,
        doubts={severity: severities[severity] for severity in ("error", "warning") if severities[severity]},
        gap=sum(gaps) / len(gaps) if gaps else None,
        baselines=inference.baselines,
        baselines_verdict=baseline_comparison.verdict(inference.baselines),
        comparable=clean,
        target=clean[0].volatility_target if clean else None,
        calibration=inference.calibration,
        calibration_sentence=in_one_sentence(inference.calibration, nested=nested) if inference.calibration else "",
        origins=origins,
        counts=(n_initial, n_prefiltered, n_selected),
        features=selected[:FEATURES_SHOWN],
        n_more=max(0, len(selected) - FEATURES_SHOWN),
        groups=_groups(ranked),
        pruning_summary=pruning_summary,
        warnings=[*([f"Pruning: {pruning_warning}."] if pruning_warning else []), *trouble],
        tuned=tuned,
        n_trials=n_trials,
        best_trial_sharpe=best_trial_sharpe,
        folds=folds,
        luck={one.fold: one for one in inference.folds},
        model=dict(zip(("name", "version", "promoted", "reason"), model, strict=True)),
        figures={name: inline_svg(figure, name, LABELS[name]) for name, figure in figures.items()},
        changed=changed_settings(job.settings),
        settings=yaml.safe_dump(brief(job.settings), sort_keys=False, allow_unicode=True, width=60),
        unit=bar_unit(record.times),
    )


def with_verdict(text: str, verdict: str) -> str:
    """A page that `render` made, with another verdict in the same place."""
    said, n_places = _VERDICT.subn(lambda found: f"{found[1]}{html.escape(_prose(verdict))}{found[3]}", text)
    assert n_places == 1, f"a page has one verdict, this one has {n_places}"
    return said


def _headline(
    record: Record, segment: Segment, inference: SharpeInference | None, comparable: Sequence[Comparable]
) -> Headline | None:
    performance = record.performance(segment)
    scaled = next((one for one in comparable if (one.name, one.segment) == (MODEL, segment)), None)
    if performance is None or inference is None or scaled is None:
        return None
    rows = np.flatnonzero((record.segment == segment) & np.isfinite(record.net()))
    return Headline(performance, inference, scaled, str(record.times[rows[0]]), str(record.times[rows[-1]]))


def _groups(ranked: Sequence[RankedRow]) -> list[tuple[str, int, int]]:
    """Name of each group, its columns ranked and its columns selected; most selected first."""
    total = Counter(row.group for row in ranked)
    chosen = Counter(row.group for row in ranked if row.selected)
    return [(group, total[group], chosen[group]) for group in sorted(total, key=lambda g: (-chosen[g], -total[g], g))]


def _number(value: float | None, form: str = "z.2f") -> str:
    """A number with a proper minus sign, never before a zero; `n/a` where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return format(value, form).replace("-", "−")


def _p_value(value: float | None) -> str:
    """A p-value to three digits; never 0."""
    return "< 0.001" if value is not None and value < 0.001 else _number(value, ".3f")


def _prose(sentence: str) -> str:
    """A sentence with proper minus signs before its numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", sentence)


def _contents(body: str) -> list[tuple[str, str, str]]:
    """Level, id and title of each chapter and section of the body."""
    return _HEADING.findall(body)


@pass_context
def _bar(context: Context, time: str | None) -> str:
    """A bar's ISO time, as briefly as the bars of the record can be told apart."""
    return bar_label(time, context["unit"])


def _plain(value: Any) -> str:
    """A setting as text, with numbers kept short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "plain": _plain, "prose": _prose, "p": _p_value, "contents": _contents}
    environment.filters |= {"bar": _bar, "minute": partial(bar_label, unit="m")}
    environment.tests["clean"] = is_clean
    environment.globals |= {"missing": MISSING, "symbols_shown": SYMBOLS_SHOWN, "rows_shown": ROWS_SHOWN}
    return environment.get_template("page.html.jinja")


_PAGE = _template()
_HEADING = re.compile(r'<h([23]) id="([^"]+)">(.*?)</h')
_VERDICT = re.compile(r'(<p class="verdict">)(.*?)(</p>)', re.DOTALL)
