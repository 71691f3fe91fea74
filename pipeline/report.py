"""The one page a person reads: a single HTML file with its figures inside, which opens without a network."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, StrictUndefined, Template
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.config import Selection
from pipeline.plots import RankedRow, bar_label
from pipeline.significance import sharpe_standard_error
from tft.backtest import FoldRow, Record, Segment
from tft.metrics import Performance

FEATURES_SHOWN = 40
SYMBOLS_SHOWN = 12
MISSING = "n/a"
_INFERENCE_BARS = 63
"""Below this many bars no standard error is given."""

CAPTIONS = {
    "equity.png": (
        "Equity and drawdown",
        "Compounded portfolio return from flat with the loss since its last high below it; suspicious are a climb "
        "that ends where the shaded holdout begins, a gain made in very few bars, and a wide distance between the two "
        "lines, which is what trading costs.",
    ),
    "validation_vs_oos.png": (
        "Validation against test Sharpe",
        "Each fold's Sharpe on the bars that chose its epoch, and on the bars after them; positive differences in "
        "nearly every fold mean that the validation figure promises what is not there, and the best epoch's always "
        "does. Test bars of development took part in choosing columns and parameters.",
    ),
    "training_curves.png": (
        "Training curves",
        "Loss and validation score by epoch; a validation score that rises from the first epochs while the loss falls "
        "is a network that memorises, and one that never moves is a network that does not learn.",
    ),
    "vsn_heatmap.png": (
        "Variable selection over folds",
        "What share of its attention the exploration network gave to a column in each fold; a good column is dark from "
        "left to right, one that is dark in a single fold was luck or a regime.",
    ),
    "stability_against_weight.png": (
        "Stability against weight",
        "Selected columns should stand clear of the probes, which are columns with their timing destroyed; where the "
        "two mix, the ranking there is noise.",
    ),
}
"""Heading and how to read it, by file name, in the order of the page."""


@dataclass(frozen=True)
class Facts:
    """What the run was given. Bars are ISO times; `tags` are those every run of the job carries."""

    source: str
    data_sha256: str
    symbols: tuple[str, ...]
    first_bar: str
    last_bar: str
    n_bars: int
    n_development: int
    """Bars that the model that is deployed was chosen on."""
    selection: Selection
    tags: Mapping[str, str]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """One segment of the out-of-sample record."""

    performance: Performance
    first: str
    last: str
    """First and last bar of decision with a known return."""
    standard_error: float | None
    """Of the annual net Sharpe (HAC); None where there are too few bars."""


def render(
    *,
    job: Facts,
    record: Record,
    n_initial: int,
    n_prefiltered: int,
    n_selected: int,
    ranked: Sequence[RankedRow],
    pruning_warning: str,
    tuned: Mapping[str, Any],
    n_trials: int,
    best_trial_sharpe: float | None,
    folds: Sequence[FoldRow],
    model: tuple[str, str, bool, str],
    trouble: Sequence[str],
    figures: Mapping[str, Figure],
) -> str:
    """The page as HTML. `model`: name, version (empty: not registered), promoted, and why. `figures` by file name."""
    selected = [row for row in ranked if row.selected]
    known = [name for name in CAPTIONS if name in figures]
    return _PAGE.render(
        job=job,
        holdout=_headline(record, "holdout"),
        development=_headline(record, "development"),
        nested=job.selection == "nested",
        counts=(n_initial, n_prefiltered, n_selected),
        features=selected[:FEATURES_SHOWN],
        n_more=max(0, len(selected) - FEATURES_SHOWN),
        groups=_groups(ranked),
        warnings=[*([f"Pruning: {pruning_warning}."] if pruning_warning else []), *trouble],
        tuned=tuned,
        n_trials=n_trials,
        best_trial_sharpe=best_trial_sharpe,
        folds=folds,
        model=dict(zip(("name", "version", "promoted", "reason"), model, strict=True)),
        figures=[
            (*CAPTIONS.get(name, (name, "")), _png(figures[name]))
            for name in [*known, *(name for name in figures if name not in CAPTIONS)]
        ],
        settings=yaml.safe_dump(dict(job.settings), sort_keys=False, allow_unicode=True, width=60),
    )


def _headline(record: Record, segment: Segment) -> Headline | None:
    performance = record.performance(segment)
    if performance is None:
        return None
    rows = np.flatnonzero((record.segment == segment) & np.isfinite(record.net()))
    error = _standard_error(record.net()[rows], record.timing.periods_per_year)
    return Headline(performance, str(record.times[rows[0]]), str(record.times[rows[-1]]), error)


def _standard_error(returns: NDArray[np.float64], periods_per_year: float) -> float | None:
    if len(returns) < _INFERENCE_BARS or not returns.std() > 1e-12:  # few bars, or a strategy that stayed flat
        return None
    return sharpe_standard_error(returns) * math.sqrt(periods_per_year)


def _groups(ranked: Sequence[RankedRow]) -> list[tuple[str, int, int]]:
    """Group, columns ranked, columns selected: most selected first."""
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


def _plain(value: Any) -> str:
    """A setting: short numbers, and whole ones without a point."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


_TEMPLATE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ model.name }} {{ model.version }}: what it is worth</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; color: #1b1f24;
  max-width: 1040px; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid #d8dee4; padding-bottom: .25rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .3rem; }
.quiet, figcaption, .note { color: #57606a; font-size: .9rem; }
.box { border-radius: 8px; padding: 1rem 1.25rem; margin: 1.2rem 0; border: 1px solid #0072b2; background: #eef6fb; }
.box p { margin: .35rem 0; }
.box .big { font-size: 2.1rem; font-weight: 650; line-height: 1.2; margin: 0; }
.warning { border-color: #d55e00; background: #fdf1e8; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e8ec; text-align: right; vertical-align: top; }
th { font-weight: 600; background: #f6f8fa; }
td.text, th.text { text-align: left; }
td.name { text-align: left; overflow-wrap: anywhere; }
td.span { white-space: nowrap; }
#folds th, #folds td { padding: .25rem .45rem; }
tr.holdout td { background: #fcf3e2; }
figure { margin: 0 0 1.2rem; }
figure img { width: 100%; height: auto; display: block; }
.columns { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
code, pre { font: .82rem/1.45 ui-monospace, "Liberation Mono", Consolas, monospace; overflow-wrap: anywhere; }
pre { columns: 2; column-gap: 2rem; background: #f6f8fa; padding: .8rem 1rem; border-radius: 6px;
  white-space: pre-wrap; }
@media (max-width: 700px) { pre { columns: 1; } }
@page { margin: 14mm; }
@media print {
  body { max-width: none; margin: 0; padding: 0; font-size: 10.5pt; }
  .box, th, tr.holdout td, pre { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  #folds { font-size: 7.5pt; }
  #folds th, #folds td { padding: .1rem .25rem; }
  h2, h3 { break-after: avoid; }
  figure, tr, .box { break-inside: avoid; }
  thead { display: table-header-group; }
  figure img { max-height: 230mm; object-fit: contain; }
}
</style>
</head>
<body>
<h1>Temporal Fusion Transformer: what it is worth</h1>
<p class="quiet">{{ job.symbols[:symbols_shown] | join(", ") }}
{%- if job.symbols | length > symbols_shown %} and {{ job.symbols | length - symbols_shown }} more{% endif %} ·
{{ job.n_bars }} bars, {{ job.first_bar | bar }} to {{ job.last_bar | bar }} ·
{{ counts[0] }} columns, {{ counts[1] }} after the prefilter, {{ counts[2] }} selected · {{ folds | length }} folds</p>

<section class="box" id="headline">
{% if holdout %}
<p class="big">{{ "Nested out-of-sample" if nested else "Holdout" }} net Sharpe
{{ holdout.performance.sharpe | number }}
{%- if holdout.standard_error is not none %} ± {{ holdout.standard_error | number }}{% endif %}</p>
<p>Annual, after costs, over {{ holdout.performance.n_bars }} bars from {{ holdout.first | bar }} to
{{ holdout.last | bar }},
{% if nested %}each forecast with columns and parameters that its fold chose on nothing but the bars before it
(<code>selection: nested</code>).
{% else %}none of which took part in choosing columns or parameters (<code>selection: holdout</code>).
{% endif %}
{% if holdout.standard_error is not none %}The ± is one standard error (HAC).
{% else %}No standard error: too few bars, or returns that do not vary.{% endif %}</p>
{% else %}
<p class="big">No clean number exists</p>
<p>There is no holdout, or too few of its bars have a return yet: no figure on this page is out-of-sample.</p>
{% endif %}
{% if not nested %}
<p>Development net Sharpe {{ (development.performance.sharpe if development else none) | number }}:
<strong>took part in selection: not out-of-sample</strong>.</p>
{% endif %}
</section>

<section class="box{% if warnings or not model.promoted or not model.version %} warning{% endif %}" id="model">
<p>{% if not model.version %}<strong>{{ model.name }} was not registered</strong>
{%- elif model.promoted %}<strong>{{ model.name }}, version {{ model.version }}, was promoted</strong>
{%- else %}<strong>{{ model.name }}, version {{ model.version }}, was registered but not promoted</strong>{% endif -%}
{% if model.reason %}: {{ model.reason }}{% endif %}</p>
{% for warning in warnings %}
<p><strong>Trouble.</strong> {{ warning }}</p>
{% endfor %}
</section>

<h2>Headline figures</h2>
{% set segments = (holdout,) if nested else (holdout, development) %}
<div class="scroll"><table>
<thead><tr><th class="text"></th>{% if nested %}<th>Nested</th>
{%- else %}<th>Holdout</th><th>Development<br>(not out-of-sample)</th>{% endif %}</tr></thead>
<tbody>
{% macro line(name, key, form, unit="") -%}
<tr><td class="text">{{ name }}</td>
{%- for one in segments %}<td>{{ (one.performance[key] if one else none) | number(form) }}
{{- unit if one else "" }}</td>{% endfor %}</tr>
{%- endmacro %}
<tr><td class="text">First bar of decision</td>
{%- for one in segments %}<td class="span">{{ one.first | bar if one else missing }}</td>{% endfor %}</tr>
<tr><td class="text">Last bar of decision</td>
{%- for one in segments %}<td class="span">{{ one.last | bar if one else missing }}</td>{% endfor %}</tr>
{{ line("Bars", "n_bars", ",d") }}
{{ line("Sharpe, net", "sharpe", "z.2f") }}
<tr><td class="text">Standard error of it</td>
{%- for one in segments %}<td>{{ (one.standard_error if one else none) | number }}</td>{% endfor %}</tr>
{{ line("Sharpe, before costs", "sharpe_gross", "z.2f") }}
{{ line("Return a year, net", "annual_return", "z.2%") }}
{{ line("Volatility a year", "annual_volatility", ".2%") }}
{{ line("Worst drawdown", "max_drawdown", "z.2%") }}
{{ line("Turnover a year", "turnover", ",.1f", "×") }}
{{ line("Hit rate", "hit_rate", ".1%") }}
</tbody></table></div>

<h2>Folds</h2>
<p class="note">Sharpes are annual and net. The best epoch's is what choosing the epoch by it would have shown.
{{ missing }}: under 10 bars, or returns that do not vary.
{% if nested %}Each fold chose its own columns and parameters: choices.json.
{% else %}Test: on the bars after the validation block, of which only those of the holdout, in the shaded folds, took no
part in selection.{% endif %}</p>
<div class="scroll"><table id="folds">
<thead><tr><th>Fold</th><th class="text">Trained on</th><th class="text">Validated on</th>
<th class="text">Tested on</th>
<th>Epoch kept</th><th>Validation</th><th>Best epoch</th><th>Test</th><th>Difference</th>
<th class="text">Segment</th><th>Seconds</th></tr></thead>
<tbody>
{% for row in folds %}
<tr{% if "holdout" in (row.segment or "") and not nested %} class="holdout"{% endif %}><td>{{ row.fold }}</td>
<td class="text span">{{ row.train_start | bar }} –<br>{{ row.train_end | bar }}</td>
<td class="text span">{{ row.validation_start | bar }} –<br>{{ row.validation_end | bar }}</td>
<td class="text span">{{ row.test_start | bar }}{% if row.test_end %} –<br>{{ row.test_end | bar }}{% endif %}</td>
<td class="span">{{ row.kept_epoch + 1 }} / {{ row.n_epochs }}</td>
<td>{{ row.val_sharpe | number }}</td><td>{{ row.val_sharpe_best_epoch | number }}</td>
<td>{{ row.oos_sharpe | number }}</td><td>{{ row.val_oos_gap | number("+z.2f") }}</td>
<td class="text">{{ (row.segment or "") | replace("/", " / ") }}</td><td>{{ row.seconds | number(",.0f") }}</td></tr>
{% endfor %}
</tbody></table></div>

<h2>Figures</h2>
{% for heading, caption, png in figures %}
<figure><h3>{{ heading }}</h3>
<img alt="{{ heading }}" src="data:image/png;base64,{{ png }}">
<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}

<h2>Selected features</h2>
{% if nested %}<p class="note">Of the deployed model, chosen on all {{ job.n_development }} bars.</p>{% endif %}

<div class="columns">
<table id="features">
<thead><tr><th>Rank</th><th class="text">Column</th><th class="text">Group</th><th>Relative weight</th>
<th>Stability</th></tr></thead>
<tbody>
{% for row in features %}
<tr><td>{{ row.rank }}</td><td class="name">{{ row.feature }}</td><td class="text">{{ row.group }}</td>
<td>{{ row.relative_weight | number }}×</td><td>{{ row.stability | number(".0%") }}</td></tr>
{% endfor %}
</tbody></table>
<table id="groups">
<thead><tr><th class="text">Group</th><th>Selected</th><th>Of</th></tr></thead>
<tbody>
{% for group, total, chosen in groups %}
<tr><td class="name">{{ group }}</td><td>{{ chosen }}</td><td>{{ total }}</td></tr>
{% endfor %}
</tbody></table>
</div>
{% if n_more %}<p class="note">And {{ n_more }} more, in vsn_weights.json.</p>{% endif %}
<p class="note">Relative weight: mean over folds, 1 is what every variable would get. Stability: share of folds at or
above the threshold.</p>

<h2>Tuned parameters</h2>
{% if nested %}<p class="note">Of the deployed model, chosen on all {{ job.n_development }} bars.</p>{% endif %}

{% if n_trials > 1 %}
<p>The best of {{ n_trials }} trials, with a development Sharpe of {{ best_trial_sharpe | number }}.
<strong>The best of {{ n_trials }} is inflated</strong>: it was picked for being the highest, and would lie above the
others even if no parameter mattered.</p>
{% else %}
<p>A single trial, the configuration as it was given, with a development Sharpe of
{{ best_trial_sharpe | number }}: nothing was searched.</p>
{% endif %}
{% if tuned %}
<table><thead><tr><th class="text">Parameter</th><th>Value</th></tr></thead><tbody>
{% for name, value in tuned.items() %}
<tr><td class="name">{{ name }}</td><td>{{ value | plain }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}

<h2>Settings and provenance</h2>
<table><tbody>
<tr><td class="text">Feature table</td><td class="name">{{ job.source }}</td></tr>
<tr><td class="text">data_sha256</td><td class="name"><code>{{ job.data_sha256 }}</code></td></tr>
{% for name, value in job.tags.items() if name != "data_sha256" %}
<tr><td class="text">{{ name }}</td><td class="name"><code>{{ value }}</code></td></tr>
{% endfor %}
<tr><td class="text">Bars</td><td class="name">{{ job.n_bars }}
{%- if not nested %}, of them {{ job.n_development }} development and
{{ job.n_bars - job.n_development }} holdout{% endif %}</td></tr>
<tr><td class="text">Instruments</td><td class="name">{{ job.symbols | length }}</td></tr>
</tbody></table>
<pre>{{ settings }}</pre>
</body>
</html>
"""


def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "bar": bar_label, "plain": _plain}
    environment.globals |= {"missing": MISSING, "symbols_shown": SYMBOLS_SHOWN}
    return environment.from_string(_TEMPLATE)


_PAGE = _template()
