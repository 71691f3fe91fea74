"""The sentences, tables and description of a comparison of two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from pipeline.bar_labels import bar_label, bar_unit
from pipeline.config.schema import Config
from pipeline.counted import counted
from pipeline.experiments.production_runs import ProductionRun
from pipeline.experiments.trained import Training, metric_names
from pipeline.phases.folds import production_folds
from pipeline.phases.production import Choice
from pipeline.reporting import links
from pipeline.statistics.paired import Arms, Compared, FoldPair, fold_pairs, mean_figures, p_value_text
from pipeline.statistics.seed_comparison import SeedDifference
from pipeline.tracking.experiment import HEADLINE, bar, curve, view
from pipeline.tracking.sink import Sink
from tft.metrics import Performance

ARMS = ("baseline", "candidate")
PARAMETERS_SHOWN = 40
SCALED = ("annual_return", "max_drawdown", "turnover")
"""Figures that depend on the size of a book."""


# ---- sentences


def in_one_sentence(kind: str, label: str, found: SeedDifference, segment: Compared) -> str:
    """The comparison in a sentence, with its error, what that is made of, and what the sample could have detected."""
    baseline, candidate = found.n_seeds
    seeds = f"{baseline} and {candidate} seeds" if baseline != candidate else f"{counted(baseline, 'seed')} an arm"
    said = f"{kind}, {seeds}: {label}: Sharpe difference {found.difference:+.2f}"
    bars = f"on {found.n_bars} {segment} bars"
    if found.standard_error is None:
        return f"{said} {bars}, which says nothing: {found.undefined}."
    if found.seed_error is None:
        return (
            f"{said} ± {found.standard_error:.2f} (of the bars; of the seeds unknown), {bars}; no p: {found.undefined}."
        )
    made_of = f"of which seeds {found.seed_error:.2f} and bars {found.sampling_error:.2f}"
    said = f"{said} ± {found.standard_error:.2f} ({made_of}), "
    if found.p_value is None or found.interval is None:
        return f"{said}{bars}; no p: {found.undefined}."
    low, high = found.interval
    return (
        f"{said}95 % {low:.2f} to {high:.2f}, p = {p_value_text(found.p_value)}, {bars}; only a difference beyond "
        f"{found.detectable:.2f} would have been found."
    )


def figures(arms: Arms, volatility_target: float) -> str:
    """Both arms' figures in a sentence, means over their trainings; what depends on size at one annual volatility."""
    one, other = (mean_figures(arm, volatility_target) for arm in arms.both)
    ranges = [sorted(each.figures.sharpe for each in arm) for arm in arms.both]
    spread = [f" ({each[0]:.2f} to {each[-1]:.2f})" if len(each) > 1 else "" for each in ranges]
    first, last = (bar_label(str(time), bar_unit(arms.times)) for time in (arms.times[0], arms.times[-1]))
    return (
        f"Baseline and candidate from {first} to {last}: annual net "
        f"Sharpe {one.sharpe:.2f}{spread[0]} and {other.sharpe:.2f}{spread[1]}; scaled to a volatility of "
        f"{volatility_target:.0%} (realised {one.annual_volatility:.1%} and {other.annual_volatility:.1%}), worst "
        f"drawdown {one.max_drawdown:.1%} and {other.max_drawdown:.1%}, turnover {one.turnover:.0f} and "
        f"{other.turnover:.0f} a year."
    )


def on_segment(segment: Compared, n_trainings: int) -> str:
    """What the bars of the segment mean for the Sharpes."""
    if segment == "development":
        return "Columns and parameters were chosen on development bars: neither Sharpe is out-of-sample."
    return f"This was a look at the holdout by each of {n_trainings} trainings, and is counted as such."


def selection(by_arm: Sequence[Sequence[Training]], chosen: Choice | None, segment: Compared) -> str:
    """How columns and parameters were chosen, and what the compared bars had to do with it."""
    n_trainings = sum(map(len, by_arm))
    if chosen:
        how = (
            f"All trainings have the same {len(chosen.features)} columns and the parameters of trial "
            f"{chosen.tuned.best_trial}, chosen once with the baseline's gap: the difference is that of the gap alone"
            + (
                ", seen from a choice that the compared bars took part in and the baseline's gap with them."
                if segment == "development"
                else "."
            )
        )
    else:
        columns = [sum(one.n_features for one in own) / len(own) for own in by_arm]
        how = (
            f"Every training chose its own columns and parameters, on average {columns[0]:.0f} columns (baseline) and "
            f"{columns[1]:.0f} (candidate): the difference is that of the whole job."
        )
    return f"{how} {on_segment(segment, n_trainings)}"


def equal_folds(arms: Sequence[Config], n_bars: int) -> str:
    """Training lengths and test dates of both arms, which are the same."""
    folds = production_folds(arms[0], n_bars)
    first, last = len(folds[0].train), len(folds[-1].train)
    length = f"{first}" if first == last else f"{first} to {last}"
    moved = 2 * abs(arms[1].purge_gap - arms[0].purge_gap)
    wider = ARMS[int(arms[1].purge_gap > arms[0].purge_gap)]
    return (
        f"Both arms train on {length} bars a fold and are tested on the same dates; the {wider}'s training blocks lie "
        f"{moved} bars earlier, a gap before and one after the validation block."
    )


def runs(arms: Sequence[Sequence[ProductionRun]], paired: Arms) -> tuple[str, ...]:
    """Sentences that belong beside a difference of finished runs: selection, what is left out, differing inputs."""
    every = [run for arm in arms for run in arm]
    said = [on_segment(paired.segment, len(every))]
    if paired.n_left_out:
        said.append(f"{paired.n_left_out} bars that only some of the runs have are left out.")
    networks = [arm[0].seed_sharpe_spread for arm in arms]
    if None not in networks:
        said.append(
            f"Within a run, single networks spread by a standard deviation of {networks[0]:.2f} (baseline) and "
            f"{networks[1]:.2f} (candidate) in the annual Sharpe of their headline segment."
        )
    if len({run.tags.get("data_sha256") for run in every}) > 1:
        said.append("The two arms read different feature tables.")
    if len({run.tags.get("git_commit") for run in every}) > 1:
        said.append("The runs were made at different commits of the code.")
    return tuple(said)


# ---- what is logged


def log(run: Sink, arms: Arms, found: SeedDifference, volatility_target: float) -> None:
    """Metrics by arm, and by seed as their steps; the tables comparison, comparison_seeds and comparison_folds.

    Return, drawdown and turnover, as `..._at_target`, are at the given annual volatility.
    """
    fields_of = [field.name for field in fields(Performance) if field.name != "n_bars"]
    means = [mean_figures(arm, volatility_target) for arm in arms.both]
    of_both = {
        f"{name}_at_target" if name in SCALED else name: [float(getattr(one, name)) for one in means]
        for name in fields_of
    }
    low, high = found.interval or (None, None)
    of_difference = {
        "standard_error": found.standard_error,
        "sampling_error": found.sampling_error,
        "seed_error": found.seed_error,
        "degrees_of_freedom": found.degrees_of_freedom,
        "low": low,
        "high": high,
        "p_value": found.p_value,
        "detectable": found.detectable,
    }
    run.metrics({"sharpe_difference": found.difference})
    run.metrics({f"sharpe_difference_{name}": value for name, value in of_difference.items()})
    run.metrics({f"sharpe_{arm}": value for arm, value in zip(ARMS, of_both["sharpe"], strict=True)})
    run.metrics({"n_bars": found.n_bars, "n_seeds_baseline": found.n_seeds[0], "n_seeds_candidate": found.n_seeds[1]})
    names = list(of_both)
    for name, values in of_both.items():
        run.metrics({f"{name}_{arm}": value for arm, value in zip(ARMS, values, strict=True)})
    run.metric_steps({f"seed_sharpe_{arm}": dict(enumerate(own)) for arm, own in zip(ARMS, found.sharpes, strict=True)})
    table: dict[str, list[Any]] = {
        "figure": names,
        "baseline": [values[0] for values in of_both.values()],
        "candidate": [values[1] for values in of_both.values()],
        "difference": [values[1] - values[0] for values in of_both.values()],
    }
    table |= {key: [value if name == "sharpe" else None for name in names] for key, value in of_difference.items()}
    run.table("comparison.json", table)
    every = [(arm, number, one) for arm, own in zip(ARMS, arms.both, strict=True) for number, one in enumerate(own)]
    seeds: dict[str, list[Any]] = {
        "arm": [arm for arm, _, _ in every],
        "seed": [number for _, number, _ in every],
    }
    seeds |= {name: [getattr(one.figures, name) for _, _, one in every] for name in fields_of}
    run.table("comparison_seeds.json", seeds)
    rows = fold_pairs(arms)
    columns = {f.name: [getattr(row, f.name) for row in rows] for f in fields(FoldPair)}
    columns["difference"] = [row.sharpe_candidate - row.sharpe_baseline for row in rows]
    run.table("comparison_folds.json", columns)


def differing(baseline: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that are not the same in both, by name."""
    names = [*baseline, *(name for name in candidate if name not in baseline)]
    both = {name: (baseline.get(name), candidate.get(name)) for name in names}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def link(run: ProductionRun) -> str:
    """A Markdown link to a run in the UI."""
    return links.run(run.experiment_id, run.run_id, f"{run.name} {run.run_id[:8]}")


def trainings_view(ids: Sequence[str], segment: Compared) -> str:
    """What the UI shows of a comparison's trainings: each, and in the charts the mean of each gap's."""
    figures = metric_names(segment)
    return view(
        search=_runs_with(ids),
        columns=(*(f"metrics.`{name}`" for name in figures), "metrics.`seed`", "tags.`purge_gap`"),
        charts={"Performance": [bar(name) for name in figures]},
        group_by_tag="arm",
    )


def runs_view(ids: Sequence[str]) -> str:
    """What the UI shows of production runs that are compared."""
    return view(
        search=_runs_with(ids),
        charts={
            "Performance": [bar(name) for name in HEADLINE],
            "By fold": [curve(name) for name in ("fold_oos_sharpe", "fold_val_sharpe", "fold_val_oos_gap")],
        },
    )


def _runs_with(ids: Sequence[str]) -> str:
    """A filter of runs by their ids, of which the UI takes a hundred."""
    return f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in ids[:100])})"


def note(
    sentences: Sequence[str],
    settings: Mapping[str, tuple[Any, Any]],
    trainings: Sequence[Sequence[str]],
    shown: Sequence[str] = (),
    picture: str = "",
) -> str:
    """The comparison run's description in the UI (Markdown): the result, where to look at it, the trainings, how the
    arms differ."""
    baseline, candidate = (", ".join(own) for own in trainings)
    lines = [f"**{sentences[0]}**", "", " · ".join(shown), ""]
    lines += [f"Baseline: {baseline}. Candidate: {candidate}.", ""]
    lines += [*(f"- {sentence}" for sentence in sentences[1:]), "", picture, ""]
    if not settings:
        return "\n".join([*lines, "The configurations are the same."])
    lines += ["| parameter | baseline | candidate |", "|---|---|---|"]
    rows = list(settings.items())[:PARAMETERS_SHOWN]
    lines += [f"| {name} | {values[0]} | {values[1]} |" for name, values in rows]
    if len(rows) < len(settings):
        lines += ["", f"And {len(settings) - len(rows)} more, in differing_parameters.json."]
    return "\n".join(lines)
