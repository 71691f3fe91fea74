"""Standard errors, tests and corrections for Sharpe ratios, all importable from this one module.

A Sharpe ratio (SR) here is mean / standard deviation (ddof 1) *per bar*; multiply by sqrt(periods per year) to
annualise. Skewness g3 and kurtosis g4 are population moments, kurtosis not excess (3 for a normal). Whatever is
undefined raises ValueError; NaN is never returned. Sizes and coverages quoted in the docstrings are printed by
`python -m benchmarks.significance_size`.
"""

from pipeline.statistics.difference import SharpeDifference, sharpe_difference
from pipeline.statistics.epochs import best_of_epochs
from pipeline.statistics.overfitting import BacktestOverfitting, probability_of_backtest_overfitting
from pipeline.statistics.randomisation import (
    SequentialPValue,
    admissible_shifts,
    monte_carlo_p_value,
    sequential_p_value,
)
from pipeline.statistics.sharpe import (
    deflated_sharpe_ratio,
    expected_maximum,
    minimum_backtest_length,
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
)
from pipeline.statistics.standard_errors import mertens_standard_error, sharpe_standard_error
from tft.metrics import MIN_INFERENCE_BARS

__all__ = [
    "MIN_INFERENCE_BARS",
    "BacktestOverfitting",
    "SequentialPValue",
    "SharpeDifference",
    "admissible_shifts",
    "best_of_epochs",
    "deflated_sharpe_ratio",
    "expected_maximum",
    "mertens_standard_error",
    "minimum_backtest_length",
    "minimum_track_record_length",
    "monte_carlo_p_value",
    "probabilistic_sharpe_ratio",
    "probability_of_backtest_overfitting",
    "sequential_p_value",
    "sharpe_difference",
    "sharpe_standard_error",
]
