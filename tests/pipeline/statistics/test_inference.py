"""What is said of a whole run: each segment deflated by its own search, and the metrics by name."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config.reading import from_json
from pipeline.statistics.baseline_comparison import BaselineRow
from pipeline.statistics.drift import skill_inference
from pipeline.statistics.inference import Inference, Looked, infer, metrics
from pipeline.statistics.overfitting import Trials, overfitting
from pipeline.statistics.sharpe import sharpe_inference
from pipeline.statistics.verdict import PlaceboLuck
from tests.pipeline.reporting.test_page import small_drift, small_record
from tests.pipeline.statistics.series import noise
from tests.pipeline.statistics.test_epochs import outcome

Array = NDArray[np.float64]


def baseline(
    name: str, difference: float | None, error: float | None = 0.3, *, segment: str = "holdout"
) -> BaselineRow:
    values: dict[str, object] = {field.name: None for field in fields(BaselineRow)}
    interval = (None, None) if error is None or difference is None else (difference - 2 * error, difference + 2 * error)
    values |= {"baseline": name, "segment": segment, "n_bars": 300, "remark": ""}
    values |= {"difference_annual": difference, "difference_se_annual": error, "p_value": 0.5}
    values |= {"interval_low_annual": interval[0], "interval_high_annual": interval[1]}
    return BaselineRow(**values)  # type: ignore[arg-type]


def test_each_segment_is_deflated_by_its_own_search() -> None:
    """The holdout by who looked, the development bars and the chosen trial by all trials."""
    record = small_record(300, holdout_bars=120)
    net = record.net()
    trials = Trials(noise(150, 12, seed=5), best=3, n_started=20)
    others = [Looked(1.0, 100), Looked(None, 100), Looked(-0.5, 50)]
    drift = small_drift(record)
    assert drift is not None
    found = infer(record, [outcome(noise(4, 21))], drift=drift, trials=trials, others=others)
    assert found.holdout == sharpe_inference(net[180:], periods_per_year=252)
    assert found.skill == skill_inference(drift, periods_per_year=252, n_trials=4)
    selected_on = net[record.segment == "development"]
    assert found.development == sharpe_inference(
        selected_on, periods_per_year=252, n_trials=20, trial_variance=trials.variance(len(selected_on))
    )
    assert found.tuning == sharpe_inference(
        trials.returns[:, 3], periods_per_year=252, n_trials=20, trial_variance=trials.variance(150)
    )
    assert found.overfitting == overfitting(trials.returns)
    assert [one.fold for one in found.folds] == [0]


def test_five_looks_have_a_variance_of_their_own_at_the_holdouts_length() -> None:
    """Sharpes over a quarter of the bars scatter twice as widely, and count half."""
    record = small_record(300, holdout_bars=102)  # 100 bars with a return
    drift = small_drift(record)
    assert drift is not None
    own = skill_inference(drift, periods_per_year=252).neutral.sharpe_per_bar
    others = [Looked(1.0, 100), Looked(2.0, 25), Looked(-1.0, 100), Looked(0.0, 400)]
    variance = np.var([*(np.array([1.0, 1.0, -1.0, 0.0]) / math.sqrt(252)), own], ddof=1)
    found = infer(record, [], drift=drift, others=others).skill
    expected = skill_inference(drift, periods_per_year=252, n_trials=5, trial_variance=float(variance)).neutral
    assert found and found.neutral.p_value_deflated == pytest.approx(expected.p_value_deflated, rel=1e-12)
    fewer = infer(record, [], drift=drift, others=others[:3]).skill
    assert fewer == skill_inference(drift, periods_per_year=252, n_trials=4)


def test_the_verdicts_p_value_is_the_larger_of_the_regressions_and_the_placebos() -> None:
    """The placebo's by Sidak over those who looked: 1 - (1 - p)^N."""
    record = small_record(300, holdout_bars=120)
    found = infer(record, [], drift=small_drift(record), others=[Looked(None, 100)] * 2)
    assert found.skill and found.skill.neutral.p_value_deflated is not None
    alone = found.skill.neutral.p_value_deflated
    assert found.p_value == alone
    strict, lenient = PlaceboLuck(0.97, 99), PlaceboLuck(0.01, 99)
    assert found.with_placebo(strict).p_value == max(alone, 1.0 - 0.03**3)
    assert found.with_placebo(lenient).p_value == max(alone, 1.0 - 0.99**3)
    assert "by 99 repetitions of the whole job" in found.with_placebo(strict).verdict
    assert found.with_placebo(lenient).verdict == found.verdict
    assert not found.finds_skill
    sure = replace(found.skill, neutral=replace(found.skill.neutral, p_value_deflated=0.001))
    certain = replace(found, skill=sure)
    assert certain.finds_skill and certain.with_placebo(PlaceboLuck(0.01, 99)).finds_skill
    assert not certain.with_placebo(PlaceboLuck(0.02, 49)).finds_skill  # 1 - 0.98^3 = 0.059


def test_the_result_of_a_run_survives_json() -> None:
    record = small_record(300, holdout_bars=120)
    trials = Trials(noise(150, 12, seed=5), best=3, n_started=20)
    rows = (baseline("long only", -0.1),)
    found = infer(
        record,
        [outcome(noise(4, 21))],
        drift=small_drift(record),
        seed_skills=[0.1, 0.4],
        trials=trials,
        baselines=rows,
        against_untuned=baseline("untuned", 0.2),
    ).with_placebo(PlaceboLuck(0.3, 19))
    assert from_json(Inference, json.dumps(asdict(found), allow_nan=False)) == found
    nothing = infer(small_record(60, holdout_bars=0), [], drift=None)
    assert nothing.skill is None and nothing.p_value is None and not nothing.finds_skill
    assert nothing.holdout is None and nothing.tuning is None
    assert from_json(Inference, json.dumps(asdict(nothing), allow_nan=False)) == nothing


def test_metrics_are_named_by_what_they_are_of() -> None:
    trials = Trials(noise(150, 12, seed=5), best=3, n_started=20)
    record = small_record(300, holdout_bars=120)
    found = infer(
        record, [], drift=small_drift(record), trials=trials, against_untuned=baseline("untuned", 0.2)
    ).with_placebo(PlaceboLuck(0.999, 19))
    named = metrics(found)
    holdout, development, tuning = found.holdout, found.development, found.tuning
    assert holdout and development and tuning and found.overfitting
    assert named["oos_sharpe_se"] == holdout.standard_error
    assert (named["oos_sharpe_low"], named["oos_sharpe_high"]) == (holdout.low, holdout.high)
    skill = found.skill
    assert skill
    neutral = skill.neutral
    assert (named["oos_psr"], named["oos_dsr"], named["oos_p_value"]) == (neutral.psr, neutral.dsr, neutral.p_value)
    assert named["oos_min_trl_bars"] == neutral.min_trl_bars
    assert (named["oos_sharpe_neutral"], named["oos_sharpe_neutral_se"]) == (neutral.sharpe, neutral.standard_error)
    assert (named["oos_alpha_annual"], named["oos_beta"]) == (skill.alpha_annual, skill.beta)
    assert (named["oos_alpha_annual_p_value"], named["oos_beta_p_value"]) == (neutral.p_value, skill.beta_p_value)
    assert named["oos_skill"] == skill.skill and named["oos_drift"] == skill.drift
    assert named["oos_verdict_p_value"] == 0.999
    assert named["development_sharpe_se"] == development.standard_error
    assert named["tuning_sharpe_dsr"] == tuning.dsr
    assert named["pbo"] == found.overfitting.pbo
    assert named["oos_sharpe_over_untuned"] == 0.2
