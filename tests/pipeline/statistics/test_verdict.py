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
from pipeline.statistics.drift import NO_ACTIVE_RETURN, Skill
from pipeline.statistics.inference import infer
from pipeline.statistics.sharpe import SharpeInference, detectable_sharpe
from pipeline.statistics.verdict import PlaceboLuck, least_repetitions, verdict
from tests.pipeline.reporting.test_page import small_drift, small_record
from tests.pipeline.statistics.test_inference import baseline

Array = NDArray[np.float64]


def judged(
    skill: float, error: float, *, drift: float = 0.95, n_trials: int = 1, benchmark: float = 0.0, n_seeds: int = 5
) -> tuple[SharpeInference, Skill]:
    """A Sharpe of 1.16 years and its skill, as `skill_inference` would have put it with as many degrees of freedom as
    make Student's t normal; all annual."""
    years = 1.16
    n_bars = round(252 * years)
    bare = SharpeInference(n_bars, years, None, None, 2.4865 / math.sqrt(years), n_trials)
    neutral = replace(
        bare,
        sharpe=skill,
        sharpe_per_bar=skill / math.sqrt(252),
        standard_error=error,
        low=skill - 1.96 * error,
        high=skill + 1.96 * error,
        p_value=float(stats.norm.sf(skill / error)),
        benchmark=benchmark,
        p_value_deflated=float(stats.norm.sf((skill - benchmark) / error)),
        bars_needed=n_bars * ((1.6449 * error + benchmark) / skill) ** 2 if skill > 0 else None,
    )
    earned = replace(bare, sharpe=drift + skill, standard_error=0.93)
    spread = None if n_seeds == 1 else 0.4
    return earned, Skill(neutral, drift + skill, skill, error, drift, n_seeds=n_seeds, seed_sd=spread)


def unjudged(sharpe: float | None, n_bars: int, undefined: str) -> tuple[SharpeInference, Skill]:
    detectable = detectable_sharpe(n_bars, 252)
    per_bar = None if sharpe is None else sharpe / math.sqrt(252)
    one = SharpeInference(n_bars, n_bars / 252, sharpe, per_bar, detectable, 1, undefined=undefined)
    return one, Skill(replace(one, sharpe=None, sharpe_per_bar=None), sharpe)


def inactive(sharpe: float) -> tuple[SharpeInference, Skill]:
    earned, skill = judged(1.0, 0.9, drift=sharpe - 1.0)
    neutral = replace(
        skill.neutral, sharpe=0.0, p_value=1.0, p_value_deflated=1.0, undefined=NO_ACTIVE_RETURN, standard_error=None
    )
    return earned, Skill(neutral, sharpe, 0.0, None, sharpe)


SMALLEST = "the smallest Sharpe beyond drift that this sample could have detected is 2.3"
LUCK = (
    "Holdout Sharpe: earned 1.36, of which drift 0.95; beyond it 0.41 ± 0.93: not distinguishable from luck (p = "
    f"0.33); about 16 years of this would be needed; {SMALLEST}"
)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        (judged(0.41, 0.93), f"{LUCK}."),
        (
            judged(3.10, 0.93),
            "Holdout Sharpe: earned 4.05, of which drift 0.95; beyond it 3.10 ± 0.93: more than luck alone would give "
            "(p < 0.001).",
        ),
        (
            judged(1.80, 0.93, drift=-0.20),
            "Holdout Sharpe: earned 1.60, of which drift -0.20; beyond it 1.80 ± 0.93: more than luck alone would give "
            f"(p = 0.026); {SMALLEST}.",
        ),
        (
            judged(1.80, 0.93, n_trials=3, benchmark=0.79),
            "Holdout Sharpe: earned 2.75, of which drift 0.95; beyond it 1.80 ± 0.93: not distinguishable from luck "
            "(p = 0.14, as one of 3 configurations that have looked at it); about 1.9 years of this would be needed; "
            f"{SMALLEST}.",
        ),
        (
            judged(-0.64, 0.93),
            "Holdout Sharpe: earned 0.31, of which drift 0.95; beyond it -0.64 ± 0.93: no sign of skill (p = 0.75); "
            f"{SMALLEST}.",
        ),
        (
            judged(-2.50, 0.93),
            "Holdout Sharpe: earned -1.55, of which drift 0.95; beyond it -2.50 ± 0.93: it lost more than luck alone "
            f"explains (p = 1.00); {SMALLEST}.",
        ),
        (
            judged(0.02, 0.93),
            "Holdout Sharpe: earned 0.97, of which drift 0.95; beyond it 0.02 ± 0.93: not distinguishable from luck "
            f"(p = 0.49); more than 1,000 years of this would be needed; {SMALLEST}.",
        ),
        (
            judged(0.41, 0.93, n_seeds=1),
            f"{LUCK}; seed spread unknown: it is of one network, and another seed would have given another number.",
        ),
        (
            inactive(0.97),
            "Holdout Sharpe: earned 0.97, all of it drift: no active return: the exposure does not vary (p = 1.00).",
        ),
        (
            unjudged(1.2, 38, "38 bars are too few for any inference, 63 are needed"),
            "Holdout Sharpe 1.20: 38 bars are too few for any inference, 63 are needed; the smallest Sharpe beyond "
            "drift that this sample could have detected is 6.4.",
        ),
        (
            unjudged(None, 300, "the returns do not vary: the positions stayed flat"),
            f"Holdout Sharpe undefined: the returns do not vary: the positions stayed flat; {SMALLEST}.",
        ),
        ((None, None), "There is no holdout with a known return: no number of this run is out-of-sample."),
    ],
)
def test_the_verdict_on_the_holdout(case: tuple[SharpeInference | None, Skill | None], said: str) -> None:
    assert verdict(*case) == said


def test_a_placebo_can_only_make_it_stricter() -> None:
    """Of 3 configurations that looked, the placebo's p of 0.04 is 1 - 0.96^3 = 0.12."""
    earned, skill = judged(3.10, 0.93, n_trials=3, benchmark=0.5)
    said = verdict(earned, skill, placebo=PlaceboLuck(0.04, 99))
    assert (
        "not distinguishable from luck (p = 0.12 by 99 repetitions of the whole job without signal, as one of 3 "
        "configurations that have looked at it)"
    ) in said
    assert "would be needed" not in said
    assert verdict(earned, skill, placebo=PlaceboLuck(0.0001, 9999)) == verdict(earned, skill)


def test_a_placebo_of_few_repetitions_is_said_to_be_unable_to_confirm_anything() -> None:
    """Without a repetition that does as well p is 1 / (m + 1): 19 reach 0.05; of 3 recipes each has to reach 0.017."""
    assert (least_repetitions(1), least_repetitions(3), least_repetitions(6)) == (19, 58, 117)
    for n_trials in (1, 2, 3, 6, 40):
        least = least_repetitions(n_trials)
        assert PlaceboLuck(1 / (least + 1), least).p_value_of_best(n_trials) <= 0.05 + 1e-12
        assert PlaceboLuck(1 / least, least - 1).p_value_of_best(n_trials) > 0.05
    said = verdict(*judged(3.10, 0.93), placebo=PlaceboLuck(0.25, 3))
    assert "(p = 0.25 by 3 repetitions of the whole job without signal, of which at least 19 would be needed" in said
    found = verdict(*judged(3.10, 0.93), placebo=PlaceboLuck(0.05, 19))
    assert "more than luck alone would give (p = 0.050 by 19 repetitions" in found


def test_a_nested_record_is_called_what_it_is() -> None:
    said = verdict(*judged(3.1, 0.93), selection="nested")
    assert said.startswith("Nested out-of-sample Sharpe: earned 4.05, of which drift 0.95; beyond it 3.10 ± 0.93: more")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([baseline("long only", -0.1)], "; it does not beat long only (difference -0.10 ± 0.30)."),
        ([baseline("long only", 0.4)], "; it does not clearly beat long only (difference 0.40 ± 0.30)."),
        (
            [baseline("ridge", 0.4), baseline("long only", -0.1), baseline("MACD", 2.0)],
            "; it does not beat long only (difference -0.10 ± 0.30), nor clearly ridge.",
        ),
        ([baseline("ridge", 1.4), baseline("MACD", 2.0)], "; it beats ridge and MACD."),
        ([baseline("ridge", None), baseline("MACD", 0.2, None), baseline("ridge", -1.0, segment="development")], "."),
    ],
)
def test_the_verdict_says_which_simple_rules_are_not_beaten(rows: list[BaselineRow], said: str) -> None:
    found = (
        "Holdout Sharpe: earned 4.05, of which drift 0.95; beyond it 3.10 ± 0.93: more than luck alone would give "
        "(p < 0.001)"
    )
    assert verdict(*judged(3.10, 0.93), rows) == f"{found}{said}"
    assert verdict(*judged(0.41, 0.93), rows) == f"{LUCK}{said}"


def test_too_short_a_sample_is_not_compared_with_rules() -> None:
    short = unjudged(1.2, 38, "38 bars are too few for any inference, 63 are needed")
    assert verdict(*short, [baseline("long only", -0.1)]) == verdict(*short)


def test_the_verdict_of_a_run_is_that_of_its_holdout() -> None:
    record = small_record(300, holdout_bars=120)
    rows = (baseline("long only", -0.1),)
    found = infer(record, [], drift=small_drift(record), baselines=rows)
    assert found.verdict == verdict(found.holdout, found.skill, rows)
    assert infer(replace(record, segment=np.full(300, "development")), [], drift=None).verdict == verdict(None)


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
    plain = verdict(*judged(0.41, 0.93), rows)
    clause = "; its forecast distribution is worse than the unconditional one (log score -0.0120 ± 0.0040 per bar)."
    expected = plain.removesuffix(".") + clause if said else plain
    assert verdict(*judged(0.41, 0.93), rows, calibration=calibration) == expected
    still = unjudged(None, 300, "the returns do not vary: the positions stayed flat")
    assert (clause in verdict(*still, calibration=calibration)) == said
    assert verdict(None, calibration=calibration) == verdict(None)

    record = small_record(300, holdout_bars=120)
    found = infer(record, [], drift=small_drift(record), calibration=calibration)
    assert found.calibration == calibration and (clause in found.verdict) == said
