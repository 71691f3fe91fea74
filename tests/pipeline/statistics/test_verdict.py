"""Each verdict against its case."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.calibration import Calibration, CalibrationRow, Estimate
from pipeline.statistics.inference import infer, verdict
from pipeline.statistics.sharpe import SharpeInference, detectable_sharpe
from tests.pipeline.reporting.test_page import small_record
from tests.pipeline.statistics.test_inference import baseline

Array = NDArray[np.float64]


def judged(
    sharpe: float, error: float, *, years: float = 1.16, n_trials: int = 1, benchmark: float = 0.0
) -> SharpeInference:
    """A Sharpe of 1.16 years with its error, as `sharpe_inference` would have put it; all annual."""
    years = 1.16
    return SharpeInference(
        n_bars=round(252 * years),
        years=years,
        sharpe=sharpe,
        sharpe_per_bar=sharpe / math.sqrt(252),
        detectable_sharpe=2.4865 / math.sqrt(years),
        n_trials=n_trials,
        standard_error=error,
        low=sharpe - 1.96 * error,
        high=sharpe + 1.96 * error,
        p_value=float(stats.norm.sf(sharpe / error)),
        benchmark=benchmark,
        p_value_deflated=float(stats.norm.sf((sharpe - benchmark) / error)),
        bars_needed=round(252 * years) * ((1.6449 * error + benchmark) / sharpe) ** 2 if sharpe > 0 else None,
    )


def unjudged(sharpe: float | None, n_bars: int, undefined: str) -> SharpeInference:
    detectable = detectable_sharpe(n_bars, 252)
    per_bar = None if sharpe is None else sharpe / math.sqrt(252)
    return SharpeInference(n_bars, n_bars / 252, sharpe, per_bar, detectable, 1, undefined=undefined)


LUCK = (
    "Holdout Sharpe 0.41 ± 0.93: not distinguishable from luck (p = 0.33); about 16 years of this would be needed; "
    "the smallest Sharpe that this sample could have detected is 2.3"
)


@pytest.mark.parametrize(
    ("holdout", "said"),
    [
        (judged(0.41, 0.93), f"{LUCK}."),
        (judged(3.10, 0.93), "Holdout Sharpe 3.10 ± 0.93: more than luck alone would give (p < 0.001)."),
        (
            judged(1.80, 0.93),
            "Holdout Sharpe 1.80 ± 0.93: more than luck alone would give (p = 0.026); the smallest Sharpe that this "
            "sample could have detected is 2.3.",
        ),
        (
            judged(1.80, 0.93, n_trials=3, benchmark=0.79),
            "Holdout Sharpe 1.80 ± 0.93: not distinguishable from luck (p = 0.14, as one of 3 configurations that have "
            "looked at it); about 1.9 years of this would be needed; the smallest Sharpe that this sample could have "
            "detected is 2.3.",
        ),
        (
            judged(-0.64, 0.93),
            "Holdout Sharpe -0.64 ± 0.93: no sign of skill (p = 0.75); the smallest Sharpe that this sample could have "
            "detected is 2.3.",
        ),
        (
            judged(-2.50, 0.93),
            "Holdout Sharpe -2.50 ± 0.93: it lost more than luck alone explains (p = 1.00); the smallest Sharpe that "
            "this sample could have detected is 2.3.",
        ),
        (
            judged(0.02, 0.93),
            "Holdout Sharpe 0.02 ± 0.93: not distinguishable from luck (p = 0.49); more than 1,000 years of this "
            "would be needed; the smallest Sharpe that this sample could have detected is 2.3.",
        ),
        (
            unjudged(1.2, 38, "38 bars are too few for any inference, 63 are needed"),
            "Holdout Sharpe 1.20: 38 bars are too few for any inference, 63 are needed; the smallest Sharpe that this "
            "sample could have detected is 6.4.",
        ),
        (
            unjudged(None, 300, "the returns do not vary: the positions stayed flat"),
            "Holdout Sharpe undefined: the returns do not vary: the positions stayed flat; the smallest Sharpe that "
            "this sample could have detected is 2.3.",
        ),
        (None, "There is no holdout with a known return: no number of this run is out-of-sample."),
    ],
)
def test_the_verdict_on_the_holdout(holdout: SharpeInference | None, said: str) -> None:
    assert verdict(holdout) == said


def test_a_nested_record_is_called_what_it_is() -> None:
    assert verdict(judged(3.1, 0.93), selection="nested").startswith("Nested out-of-sample Sharpe 3.10 ± 0.93: more")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([baseline("long only", -0.1)], "; it does not beat long only (difference -0.10 ± 0.30)."),
        ([baseline("long only", 0.4)], "; it does not clearly beat long only (difference 0.40 ± 0.30)."),
        (
            [baseline("ridge", 0.4), baseline("long only", -0.1), baseline("MACD", 2.0)],
            "; it does not beat long only (difference -0.10 ± 0.30) or ridge.",
        ),
        ([baseline("ridge", 1.4), baseline("MACD", 2.0)], "; it beats ridge and MACD."),
        ([baseline("ridge", None), baseline("MACD", 0.2, None), baseline("ridge", -1.0, segment="development")], "."),
    ],
)
def test_the_verdict_says_which_simple_rules_are_not_beaten(rows: list[BaselineRow], said: str) -> None:
    found = "Holdout Sharpe 3.10 ± 0.93: more than luck alone would give (p < 0.001)"
    assert verdict(judged(3.10, 0.93), rows) == f"{found}{said}"
    assert verdict(judged(0.41, 0.93), rows) == f"{LUCK}{said}"


def test_too_short_a_sample_is_not_compared_with_rules() -> None:
    short = unjudged(1.2, 38, "38 bars are too few for any inference, 63 are needed")
    assert verdict(short, [baseline("long only", -0.1)]) == verdict(short)


def test_the_verdict_of_a_run_is_that_of_its_holdout() -> None:
    record = small_record(300, holdout_bars=120)
    rows = (baseline("long only", -0.1),)
    found = infer(record, [], baselines=rows)
    assert found.verdict == verdict(found.holdout, rows)
    assert infer(replace(record, segment=np.full(300, "development")), []).verdict == verdict(None)


@pytest.mark.parametrize(
    ("gain", "error", "part", "said"),
    [
        (-0.012, 0.004, "holdout", True),
        (-0.012, 0.007, "holdout", False),
        (0.012, 0.004, "holdout", False),
        (-0.012, None, "holdout", False),
        (-0.012, 0.004, "development", False),
        (-0.012, 0.004, "fold 3", False),
    ],
)
def test_a_distribution_worse_than_the_unconditional_one_is_mentioned(
    gain: float, error: float | None, part: str, said: bool
) -> None:
    """Beyond two standard errors on the clean bars, after all else."""
    row = CalibrationRow(part, "holdout", 292, 292, log_score_gain=Estimate(gain, error), crps_gain=Estimate(0.0, 0.1))
    calibration = Calibration("gaussian", (row,), "holdout")
    rows = [baseline("long only", -0.1)]
    plain = verdict(judged(0.41, 0.93), rows)
    clause = "; its forecast distribution is worse than the unconditional one (log score -0.0120 ± 0.0040 per bar)."
    expected = plain.removesuffix(".") + clause if said else plain
    assert verdict(judged(0.41, 0.93), rows, calibration=calibration) == expected
    still = unjudged(None, 300, "the returns do not vary: the positions stayed flat")
    assert (clause in verdict(still, calibration=calibration)) == said
    assert verdict(None, calibration=calibration) == verdict(None)

    record = small_record(300, holdout_bars=120)
    found = infer(record, [], calibration=calibration)
    assert found.calibration == calibration and (clause in found.verdict) == said
