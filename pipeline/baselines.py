"""What a simple rule would have given on the same bars, delay, volatility scaling and costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BaselineRow:
    """One baseline over one segment, and the model against it, both on the bars whose net return is known for both.

    Names that end in _annual are annual, Sharpes and differences per year by sqrt(periods per year). None: undefined.
    """

    baseline: str
    segment: str
    n_bars: int
    """Common known bars: what every figure of this row is computed on."""
    sharpe_annual: float | None
    """Net of costs, of the baseline."""
    sharpe_gross_annual: float | None
    turnover_annual: float | None
    max_drawdown: float | None
    """Of the baseline, net, as a negative fraction."""
    model_sharpe_annual: float | None
    """Net, of the model on these bars: the headline Sharpe unless the baseline begins later."""
    difference_annual: float | None
    """Net Sharpe of the model minus that of the baseline."""
    difference_se_annual: float | None
    """HAC standard error; None, as all that follows, under MIN_INFERENCE_BARS bars."""
    interval_low_annual: float | None
    interval_high_annual: float | None
    """95 % interval of the difference, by studentised block bootstrap."""
    p_value: float | None
    """Two-sided, of no difference."""
    detectable_annual: float | None
    """The smallest true difference found with 80 % power at 5 % two-sided."""
    remark: str
    """A sentence on what is None and why; empty where nothing is."""
