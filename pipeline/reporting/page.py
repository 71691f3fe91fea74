"""The report of a run: a single HTML page with its figures inside, which opens without a network."""

from __future__ import annotations

import base64
import html
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from matplotlib.figure import Figure

from pipeline.config.schema import Selection
from pipeline.data.findings import Finding
from pipeline.reporting import origins as origins_of
from pipeline.reporting.figures import bar_label
from pipeline.reporting.selection_figures import RankedRow
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
"""Of one partition of the record"""
MISSING = "n/a"
BASELINES = "baselines.png"
"""The figure that stands beside the table of baselines."""
FRICTIONS = "frictions.png"
"""The figure of Sharpes by cost and by delay."""
CALIBRATION = "calibration.png"
"""The figure that stands beside the table of forecast distributions."""

CAPTIONS = {
    "equity.png": (
        "Equity and drawdown",
        "Compounded portfolio return, with the loss since its last high below it, as a book scaled ex post to the "
        "portfolio's volatility target would have earned it. Be suspicious of a climb that ends "
        "where the shaded holdout begins, of a gain made in very few bars, and of a wide gap between the two lines, "
        "which is what trading costs.",
    ),
    "validation_vs_oos.png": (
        "Validation against test Sharpe",
        "Each fold's Sharpe on its validation block, at the kept and at the best epoch, and on the test bars after it. "
        "Positive differences in nearly every fold mean that the validation Sharpe promises too much, as that of the "
        "best epoch always does. Test bars of development took part in choosing columns and parameters.",
    ),
    "training_curves.png": (
        "Training curves",
        "Loss and validation score by epoch. If the validation score rises from the first epochs while the loss "
        "falls, the network memorises; if the score never moves, it does not learn.",
    ),
    "vsn_heatmap.png": (
        "Variable selection over folds",
        "The share of the selection weight that each column had in each fold of exploration. A good column is dark "
        "from left to right; one that is dark in a single fold owes it to luck or to a regime.",
    ),
    "stability_against_weight.png": (
        "Stability against weight",
        "Selected columns should stand clear of the probes, which are columns shifted in time; where "
        "columns and probes mix, the ranking is noise.",
    ),
    "probe_null.png": (
        "Columns against noise",
        "How many columns have at least a weight, and how many would if none of them mattered. Columns pass where the "
        "blue points lie above the green line; where they follow the black one, they are noise.",
    ),
}
"""Heading and caption of each figure by file name, in the order of the page."""


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
    known = [name for name in CAPTIONS if name in figures]
    apart = (*CAPTIONS, BASELINES, FRICTIONS, CALIBRATION, *origins_of.FIGURES)
    rest = [name for name in figures if name not in apart]
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
        baselines=inference.baselines,
        baselines_verdict=baseline_comparison.verdict(inference.baselines),
        baselines_figure=_png(figures[BASELINES]) if BASELINES in figures else "",
        comparable=clean,
        target=clean[0].volatility_target if clean else None,
        frictions_figure=_png(figures[FRICTIONS]) if FRICTIONS in figures else "",
        calibration=inference.calibration,
        calibration_sentence=in_one_sentence(inference.calibration, nested=nested) if inference.calibration else "",
        calibration_figure=_png(figures[CALIBRATION]) if CALIBRATION in figures else "",
        origins=origins,
        origin_figures={name: _png(figures[name]) for name in origins_of.FIGURES if name in figures},
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
        figures=[(*CAPTIONS.get(name, (name, "")), _png(figures[name])) for name in [*known, *rest]],
        settings=yaml.safe_dump(dict(job.settings), sort_keys=False, allow_unicode=True, width=60),
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


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _number(value: float | None, form: str = "z.2f") -> str:
    """A number with a proper minus sign, never before a zero; `n/a` where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    return format(value, form).replace("-", "−")


def _prose(sentence: str) -> str:
    """A sentence with proper minus signs before its numbers."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", sentence)


def _plain(value: Any) -> str:
    """A setting as text, with numbers kept short."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "bar": bar_label, "plain": _plain, "prose": _prose}
    environment.globals |= {"missing": MISSING, "symbols_shown": SYMBOLS_SHOWN, "rows_shown": ROWS_SHOWN}
    return environment.get_template("page.html.jinja")


_PAGE = _template()
_VERDICT = re.compile(r'(<p class="verdict">)(.*?)(</p>)', re.DOTALL)
