"""What is said and logged of a calibration: the verdict's clause, the report's sentence, the metrics."""

from __future__ import annotations

from pipeline.statistics.calibration import Calibration
from pipeline.statistics.estimate import Estimate
from tft.metrics import MIN_BARS

WORSE_ERRORS = 2.0
"""A score below the unconditional one's by more standard errors than this is called worse."""


def worse(one: Calibration | None) -> str:
    """The clause on a model whose clean bars score worse than the unconditional distribution's; empty otherwise."""
    row = one.clean if one else None
    scores = [("log score", row.log_score_gain), ("CRPS", row.crps_gain)] if row else []
    found = [
        f"{name} {gain.value:+z.4f} ± {gain.standard_error:.4f}"
        for name, gain in scores
        if gain is not None and gain.standard_error is not None and (gain.t or 0.0) < -WORSE_ERRORS
    ]
    if not found:
        return ""
    return f"its forecast distribution is worse than the unconditional one ({' and '.join(found)} per bar)"


def in_one_sentence(one: Calibration, *, nested: bool = False) -> str:
    """How the distributions fit the clean bars; where there are too few of these, those of development."""
    if one.family == "none":
        return "The model forecasts positions alone (loss mode sharpe): there is no distribution to calibrate."
    row = one.of(one.segment)
    if row is None or row.crps_gain is None or row.coverage_50 is None or row.coverage_90 is None:
        return f"Fewer than {MIN_BARS} bars have a forecast distribution and a label: nothing can be said of them."
    where = (
        f"On {row.n_bars} {'bars of the nested record' if nested else 'holdout bars'}"
        if row.part == "holdout"
        else f"On {row.n_bars} development bars, which took part in selection,"
    )
    gains = [("log score", row.log_score_gain), ("CRPS", row.crps_gain)]
    scores = " and ".join(f"{name} {_text(gain, '+z.4f', '.4f')}" for name, gain in gains if gain is not None)
    slope = "" if row.slope is None else f"; the label moves by {_text(row.slope, 'z.2f', '.2f')} of what is forecast"
    against = row.against_probability.value if row.against_probability else 0.0
    sign = (
        f" The position goes against the sign of its own forecast in {against:.0%} of the cells, where the other "
        f"instruments' forecasts weigh more."
        if against
        else ""
    )
    return (
        f"{where} the forecast distribution gains {scores} per bar over the unconditional one; its central 50 % and "
        f"90 % hold {row.coverage_50.value:.0%} and {row.coverage_90.value:.0%} of the labels{slope}.{sign}"
    )


def _text(one: Estimate, form: str, error_form: str) -> str:
    error = "" if one.standard_error is None else f" ± {one.standard_error:{error_form}}"
    return f"{one.value:{form}}{error}"


def metrics(one: Calibration | None) -> dict[str, float | None]:
    """Figures of the clean bars by the names they are logged under."""
    row = one.clean if one else None
    if row is None:
        return {}
    named: dict[str, float | None] = {}
    for score, gain in (("log_score", row.log_score_gain), ("crps", row.crps_gain)):
        named[f"calibration_{score}_gain"] = gain.value if gain else None
        named[f"calibration_{score}_gain_t"] = gain.t if gain else None
    for name in ("coverage_50", "coverage_90", "slope", "against_probability"):
        estimate: Estimate | None = getattr(row, name)
        named[f"calibration_{name}"] = estimate.value if estimate else None
    return named
