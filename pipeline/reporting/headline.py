"""The headline table of a production run, as the terminal and the MLflow UI show it."""

from __future__ import annotations

from pipeline.reporting.produced import Produced
from pipeline.statistics.comparable import MODEL

P_VALUE = "{:.3f}"
PERFORMANCE = {
    "n_bars": ("bars", "{:d}"),
    "sharpe": ("Sharpe, annual, net", "{:.2f}"),
    "sharpe_gross": ("Sharpe, annual, gross", "{:.2f}"),
    "hit_rate": ("hit rate", "{:.1%}"),
    "annual_volatility": ("volatility a year, realised", "{:.2%}"),
}
SCALED = {
    "volatility_target": ("volatility scaled to", "{:.2%}"),
    "return_at_target": ("return a year, scaled", "{:.2%}"),
    "max_drawdown_at_target": ("worst drawdown, scaled", "{:.2%}"),
    "turnover_at_target": ("turnover a year, scaled", "{:.1f}"),
    "cost_per_risk": ("costs per unit of risk", "{:.2f}"),
    "break_even_cost_bps": ("break-even cost, bps", "{:.1f}"),
}
LUCK = {"standard_error": ("standard error of the net Sharpe", "{:.2f}")}
SPLIT = {
    "drift": ("of which drift", "{:.2f}"),
    "skill": ("of which skill", "{:.2f}"),
    "skill_se": ("standard error of skill", "{:.2f}"),
}
BEYOND = {
    "sharpe": ("neutral Sharpe", "{:.2f}"),
    "p_value_deflated": ("p-value of no skill", P_VALUE),
    "dsr": ("deflated Sharpe ratio", "{:.3f}"),
}


def headline_table(result: Produced, *, nested: bool) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The segments, and for each figure its label and a cell for each of them; what is not known is a dash."""
    of_segment = {one.segment: one for one in result.comparable if one.name == MODEL}
    inference = result.inference
    segments = {
        "nested (every fold selected on the bars before it)" if nested else "holdout (never selected on)": (
            result.holdout,
            of_segment.get("holdout"),
            inference.holdout,
            inference.skill,
            inference.skill.neutral if inference.skill else None,
        )
    }
    if not nested:
        segments["development (selected on)"] = (
            result.development,
            of_segment.get("development"),
            inference.development,
            None,
            None,
        )
    rows = []
    for part, formats in enumerate((PERFORMANCE, SCALED, LUCK, SPLIT, BEYOND)):
        for field, (label, style) in formats.items():
            values = [getattr(segment[part], field, None) for segment in segments.values()]
            rows.append((label, [_cell(value, style) for value in values]))
    return list(segments), rows


def _cell(value: float | None, style: str) -> str:
    """A figure as text: a dash where it is not known, and no p-value is 0."""
    if value is None:
        return "-"
    return "< 0.001" if style is P_VALUE and value < 0.001 else style.format(value)
