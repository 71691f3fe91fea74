"""The sentences, tables and description of a comparison of two production runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.experiments.production_runs import ProductionRun
from pipeline.reporting.figures import bar_label
from pipeline.statistics.paired import Comparison, FoldPair
from pipeline.tracking.sink import Sink
from tft.metrics import Performance

PARAMETERS_SHOWN = 40


def differing(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same in both, by name."""
    names = [*baseline, *(name for name in candidate if name not in baseline)]
    both = {name: (baseline.get(name), candidate.get(name)) for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def beside(comparison: Comparison, baseline: ProductionRun, candidate: ProductionRun) -> list[str]:
    """Sentences that belong beside a difference: both runs' figures, selection, the noise floor, differing data."""
    one, other = comparison.baseline, comparison.candidate
    said = [
        f"Baseline and candidate from {bar_label(comparison.first)} to {bar_label(comparison.last)}: annual net Sharpe "
        f"{one.sharpe:.2f} and {other.sharpe:.2f}, worst drawdown {one.max_drawdown:.1%} and {other.max_drawdown:.1%}, "
        f"turnover {one.turnover:.0f} and {other.turnover:.0f} a year."
    ]
    if comparison.segment == "development":
        said.append("Columns and parameters were chosen on development bars: neither Sharpe is out-of-sample.")
    else:
        said.append("This was a look at the holdout, and is counted as one.")
    one_seed = [name for name, run in (("baseline", baseline), ("candidate", candidate)) if run.n_seeds == 1]
    if one_seed:
        said.append(
            f"The noise floor is unknown: the {' and the '.join(one_seed)} trained one seed; production.seeds above 1 "
            f"(such as 5) measures how far seeds alone spread."
        )
    else:
        said.append(
            f"Seeds alone spread by a standard deviation of {_number(baseline.seed_sharpe_spread)} (baseline) and "
            f"{_number(candidate.seed_sharpe_spread)} (candidate) in the annual Sharpe of their headline segment."
        )
    if baseline.tags.get("data_sha256") != candidate.tags.get("data_sha256"):
        said.append("The two runs read different feature tables.")
    if baseline.tags.get("git_commit") != candidate.tags.get("git_commit"):
        said.append("The two runs were made at different commits of the code.")
    return said


def log(run: Sink, comparison: Comparison, baseline: ProductionRun, candidate: ProductionRun) -> None:
    """The metrics, `comparison.json` and `comparison_folds.json`."""
    found = comparison.difference
    of_both: dict[str, tuple[float | None, float | None]] = {
        field.name: (getattr(comparison.baseline, field.name), getattr(comparison.candidate, field.name))
        for field in fields(Performance)
    }
    of_both["seed_sharpe_spread"] = baseline.seed_sharpe_spread, candidate.seed_sharpe_spread
    for name, (one, other) in of_both.items():
        if name != "n_bars":
            run.metrics({f"{name}_baseline": one, f"{name}_candidate": other})
    run.metrics(
        {
            "n_bars": comparison.n_bars,
            "sharpe_difference": comparison.candidate.sharpe - comparison.baseline.sharpe,
            "sharpe_difference_standard_error": found.standard_error if found else None,
            "sharpe_difference_low": found.interval[0] if found else None,
            "sharpe_difference_high": found.interval[1] if found else None,
            "sharpe_difference_p_value": found.p_value if found else None,
            "sharpe_difference_detectable": found.detectable if found else None,
        }
    )
    differences = [None if None in pair else pair[1] - pair[0] for pair in of_both.values()]  # type: ignore[operator]

    def only_sharpe(value: float | None) -> list[float | None]:
        return [value if name == "sharpe" else None for name in of_both]

    run.table(
        "comparison.json",
        {
            "figure": list(of_both),
            "baseline": [pair[0] for pair in of_both.values()],
            "candidate": [pair[1] for pair in of_both.values()],
            "difference": differences,
            "standard_error": only_sharpe(found.standard_error if found else None),
            "low": only_sharpe(found.interval[0] if found else None),
            "high": only_sharpe(found.interval[1] if found else None),
            "p_value": only_sharpe(found.p_value if found else None),
            "detectable": only_sharpe(found.detectable if found else None),
        },
    )
    columns = {f.name: [getattr(row, f.name) for row in comparison.folds] for f in fields(FoldPair)}
    columns["difference"] = [row.sharpe_candidate - row.sharpe_baseline for row in comparison.folds]
    run.table("comparison_folds.json", columns)


def note(
    sentences: Sequence[str],
    settings: Mapping[str, tuple[Any, Any]],
    baseline: ProductionRun,
    candidate: ProductionRun,
) -> str:
    """The comparison run's description in the UI (Markdown): the result, links to both runs, how they differ."""

    def link(run: ProductionRun) -> str:
        return f"[{run.name} {run.run_id[:8]}](#/experiments/{run.experiment_id}/runs/{run.run_id})"

    lines = [f"**{sentences[0]}**", "", f"Baseline: {link(baseline)}, candidate: {link(candidate)}", ""]
    lines += [*(f"- {sentence}" for sentence in sentences[1:]), ""]
    if not settings:
        return "\n".join([*lines, "The configurations are the same."])
    lines += ["| parameter | baseline | candidate |", "|---|---|---|"]
    shown = list(settings.items())[:PARAMETERS_SHOWN]
    lines += [f"| {name} | {values[0]} | {values[1]} |" for name, values in shown]
    if len(shown) < len(settings):
        lines += ["", f"And {len(settings) - len(shown)} more, in differing_parameters.json."]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
