"""The summary that a production run prints on the terminal when it is done."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipeline.reporting.produced import REPORT, Produced
from pipeline.statistics.comparable import MODEL
from pipeline.tracking.runs import Run, how_to_look


def print_headline(result: Produced, *, nested: bool, n_columns: int) -> None:
    """Print the headline table and the verdict of a production run.

    n_columns: columns of the table.
    """
    of_segment = {one.segment: one for one in result.comparable if one.name == MODEL}
    segments = {
        "nested (every fold selected on the bars before it)" if nested else "holdout (never selected on)": (
            result.holdout,
            of_segment.get("holdout"),
            result.inference.holdout,
            result.inference.skill,
            result.inference.skill.neutral if result.inference.skill else None,
        )
    }
    if not nested:
        segments["development (selected on)"] = (
            result.development,
            of_segment.get("development"),
            result.inference.development,
            None,
            None,
        )
    table = Table(title="Walk-forward record")
    for heading in ("", *segments):
        table.add_column(heading, justify="left" if not heading else "right")
    performance = {
        "n_bars": ("bars", "{:d}"),
        "sharpe": ("Sharpe, annual, net", "{:.2f}"),
        "sharpe_gross": ("Sharpe, annual, gross", "{:.2f}"),
        "hit_rate": ("hit rate", "{:.1%}"),
        "annual_volatility": ("volatility a year, realised", "{:.2%}"),
    }
    scaled = {
        "volatility_target": ("scaled to a volatility of", "{:.2%}"),
        "return_at_target": ("return a year", "{:.2%}"),
        "max_drawdown_at_target": ("worst drawdown", "{:.2%}"),
        "turnover_at_target": ("turnover a year", "{:.1f}"),
        "cost_per_risk": ("cost a unit of risk", "{:.2f}"),
        "break_even_cost_bps": ("break-even cost, bps", "{:.1f}"),
    }
    luck = {"standard_error": ("standard error of the net Sharpe", "{:.2f}")}
    split = {
        "drift": ("of it drift", "{:.2f}"),
        "skill": ("of it skill", "{:.2f}"),
        "skill_se": ("standard error of skill", "{:.2f}"),
    }
    beyond = {
        "sharpe": ("neutral Sharpe", "{:.2f}"),
        "p_value_deflated": ("p-value of no skill", "{:.3f}"),
        "dsr": ("deflated Sharpe ratio", "{:.3f}"),
    }
    for part, formats in enumerate((performance, scaled, luck, split, beyond)):
        for field, (label, style) in formats.items():
            values = [getattr(segment[part], field, None) for segment in segments.values()]
            table.add_row(label, *("-" if value is None else style.format(value) for value in values))
    console = Console(soft_wrap=True)
    console.print(table)
    console.print(result.inference.verdict, style="bold", highlight=False)
    if result.looks:
        counted = result.inference.holdout.n_trials if result.inference.holdout else 1
        known = f", configurations that have looked at it: {counted}" if counted > 1 else ""
        console.print(f"Look {len(result.looks)} at this {'record' if nested else 'holdout'}{known}.", highlight=False)
    gaps = [row.val_oos_gap for row in result.folds if row.val_oos_gap is not None]
    if gaps:
        console.print(
            f"Validation Sharpe minus test Sharpe: {sum(gaps) / len(gaps):+.2f} on average of {len(gaps)} folds."
        )
    console.print(f"Columns: {n_columns} in the table; {result.selection}.", highlight=False)
    if result.model_version:
        state = "promoted to Production" if result.promoted else "not promoted"
        console.print(
            f"Registered model {result.model_name} version {result.model_version}: {state}, {result.promotion_reason}."
        )
    console.print(f"Tables, figures and the report: MLflow run {result.run_id}.", highlight=False)


def print_links(result: Produced) -> None:
    """Print where a production run can be looked at: its page, if that lies on this machine, and the MLflow UI."""
    page = Run(result.run_id).link(REPORT)
    print(*([f"Report: {page}"] if page else []), *how_to_look(result.run_id), sep="\n")
