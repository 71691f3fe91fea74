"""Each figure against a direct call, a hand-worked value or a simulation of its own; each verdict against its case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from pipeline.config.reading import from_json
from pipeline.statistics import significance
from pipeline.statistics.baselines import BaselineRow
from pipeline.statistics.inference import (
    FoldLuck,
    Inference,
    Looked,
    SharpeInference,
    Trials,
    best_of_correlated_epochs,
    detectable_sharpe,
    fold_luck,
    infer,
    metrics,
    overfitting,
    sharpe_inference,
    verdict,
)
from tests.pipeline.reporting.test_page import small_record
from tft.backtest import FoldOutcome, RawForecast
from tft.folds import Fold

Array = NDArray[np.float64]


def noise(*shape: int, seed: int = 0) -> Array:
    return 0.01 * np.random.default_rng(seed).standard_normal(shape)


def with_sharpe(per_bar: float, n_bars: int, *, seed: int = 0) -> Array:
    """Normal returns whose per-bar Sharpe is exactly this."""
    r = np.random.default_rng(seed).standard_normal(n_bars)
    z = (r - r.mean()) / r.std(ddof=1)
    return 0.01 * (z + per_bar)


# ---- one Sharpe


def test_every_figure_is_the_one_of_significance() -> None:
    """Annual ones by sqrt(252), on the known bars alone."""
    r = with_sharpe(0.1, 300)
    one = sharpe_inference(
        np.concatenate([r, [np.nan, np.nan]]), periods_per_year=252, n_trials=7, trial_variance=0.002
    )
    skewness, kurtosis = float(stats.skew(r)), float(stats.kurtosis(r, fisher=False))
    moments = {"skewness": skewness, "kurtosis": kurtosis}
    error, annual = significance.sharpe_standard_error(r), math.sqrt(252)
    benchmark = significance.expected_maximum(7, 0.002)
    expected = {
        "n_bars": 300,
        "years": 300 / 252,
        "sharpe": 0.1 * annual,
        "sharpe_per_bar": 0.1,
        "detectable_sharpe": 2.4865 * math.sqrt(252 / 300),
        "n_trials": 7,
        "standard_error": error * annual,
        "low": (0.1 - 1.959964 * error) * annual,
        "high": (0.1 + 1.959964 * error) * annual,
        "p_value": stats.norm.sf(0.1 / error),
        "benchmark": benchmark * annual,
        "p_value_deflated": stats.norm.sf((0.1 - benchmark) / error),
        "psr": significance.probabilistic_sharpe_ratio(0.1, n_bars=300, **moments),
        "dsr": significance.deflated_sharpe_ratio(0.1, n_bars=300, n_trials=7, trial_variance=0.002, **moments),
        "min_trl_bars": significance.minimum_track_record_length(0.1, **moments),
    }
    assert {name: getattr(one, name) for name in expected} == pytest.approx(expected, rel=1e-4)
    assert one.undefined == ""


def test_one_configuration_is_not_deflated() -> None:
    one = sharpe_inference(with_sharpe(0.1, 300), periods_per_year=252)
    assert one.benchmark == 0.0
    assert one.p_value_deflated == one.p_value
    assert one.dsr == one.psr


def test_without_a_variance_of_trials_it_is_the_squared_standard_error() -> None:
    r = with_sharpe(0.1, 300)
    error = significance.sharpe_standard_error(r)
    given = sharpe_inference(r, periods_per_year=252, n_trials=3, trial_variance=error**2)
    assert sharpe_inference(r, periods_per_year=252, n_trials=3) == given


def test_sixteen_years_of_a_sharpe_of_0_41() -> None:
    """(1.645 / 0.41)^2 = 16.1 years of daily bars, to which a Sharpe near zero adds next to nothing."""
    one = sharpe_inference(with_sharpe(0.41 / math.sqrt(252), 290), periods_per_year=252)
    assert one.min_trl_bars is not None
    assert one.min_trl_bars / 252 == pytest.approx(16.1, abs=0.3)


@pytest.mark.parametrize("n_trials", [1, 4])
@pytest.mark.parametrize("autocorrelation", [0.0, 0.6])
def test_bars_needed_exceed_the_sample_exactly_where_the_verdict_is_luck(n_trials: int, autocorrelation: float) -> None:
    """Whatever the autocorrelation, which the minimum track record length of independent returns does not see."""
    shocks = noise(250, seed=3)
    r = np.array([shocks[: i + 1] @ autocorrelation ** np.arange(i, -1.0, -1.0) for i in range(250)])
    r = (r - r.mean()) / r.std(ddof=1)
    answers = set()
    for per_bar in np.linspace(0.02, 0.6, 30):
        one = sharpe_inference(r + per_bar, periods_per_year=252, n_trials=n_trials)
        assert one.p_value_deflated is not None and one.bars_needed is not None
        assert (one.bars_needed > 250) == (one.p_value_deflated > 0.05)
        answers.add(one.bars_needed > 250)
    assert answers == {True, False}


def test_for_independent_returns_bars_needed_are_the_minimum_track_record_length() -> None:
    one = sharpe_inference(with_sharpe(0.05, 5000), periods_per_year=252)
    assert one.bars_needed == pytest.approx(one.min_trl_bars, rel=0.1)


@pytest.mark.parametrize(
    ("returns", "has_sharpe", "reason"),
    [
        (noise(9), False, "9 bars have a known return"),
        (np.zeros(300), False, "stayed flat"),
        (noise(62), True, "62 bars are too few for any inference, 63 are needed"),
        (np.tile([0.0375, *[0.01 / 2.4] * 9], 40), True, "standard error is zero"),  # SR = 2 / skewness, two values
        (noise(63), True, ""),
    ],
)
def test_what_is_undefined_says_why_and_gives_no_number(returns: Array, has_sharpe: bool, reason: str) -> None:
    one = sharpe_inference(returns, periods_per_year=252)
    assert (one.sharpe is not None) == has_sharpe
    assert reason in one.undefined
    assert (one.undefined == "") == (one.standard_error is not None) == (one.p_value_deflated is not None)


@pytest.mark.parametrize(("n_bars", "sharpe"), [(154, 3.18), (252, 2.49), (1008, 1.243)])
def test_the_smallest_detectable_sharpe(n_bars: int, sharpe: float) -> None:
    assert detectable_sharpe(n_bars, 252) == pytest.approx(sharpe, abs=0.005)


def test_a_true_sharpe_of_the_detectable_size_is_found_four_times_in_five() -> None:
    """400 samples of 504 bars: within three binomial errors of 80 %."""
    size = detectable_sharpe(504, 252)
    assert size is not None
    samples = np.random.default_rng(1).standard_normal((400, 504)) + size / math.sqrt(252)
    p_values = [sharpe_inference(r, periods_per_year=252).p_value for r in samples]
    assert sum(p is not None and p < 0.05 for p in p_values) / 400 == pytest.approx(0.8, abs=0.06)


def test_nothing_is_detectable_without_bars() -> None:
    assert detectable_sharpe(0, 252) is None


# ---- the search


def test_the_trials_variance_is_that_of_their_sharpes_at_the_length_asked_for() -> None:
    """Per-bar Sharpes 0, 0.1 and 0.2 over 100 bars: variance 0.01, a quarter of it over 400; a flat trial has none."""
    columns = [with_sharpe(sharpe, 100, seed=i) for i, sharpe in enumerate((0.0, 0.1, 0.2))]
    trials = Trials(np.stack([*columns, np.zeros(100)], axis=1), best=2, n_started=9)
    assert trials.variance(100) == pytest.approx(0.01)
    assert trials.variance(400) == pytest.approx(0.0025)
    assert Trials(np.stack(columns[:1], axis=1), 0, 9).variance(100) is None


@pytest.mark.parametrize(
    ("n_bars", "n_trials", "n_blocks"), [(100, 10, 10), (99, 12, 8), (40, 10, 4), (3000, 11, 10), (126, 15, 10)]
)
def test_pbo_uses_blocks_of_ten_bars_or_more(n_bars: int, n_trials: int, n_blocks: int) -> None:
    r = noise(n_bars, n_trials)
    found = overfitting(r)
    assert found.n_blocks == n_blocks
    assert found.pbo == significance.probability_of_backtest_overfitting(r, n_blocks).pbo
    assert found.noise_low is not None and found.noise_high is not None
    assert 0.0 <= found.noise_low < found.noise_high <= 1.0


@pytest.mark.parametrize(
    ("returns", "reason"),
    [
        (noise(200, 9), "9 trials were completed and traded, at least 10 are needed"),
        (np.concatenate([noise(200, 9), np.zeros((200, 5))], axis=1), "9 trials"),
        (noise(39, 12), "39 out-of-sample bars, at least 40 are needed"),
        (np.concatenate([noise(200, 11), np.eye(200)[:, :1]], axis=1), "trial 11 has no variance over some half"),
    ],
)
def test_pbo_that_cannot_be_computed_says_why(returns: Array, reason: str) -> None:
    found = overfitting(returns)
    assert found.pbo is None and found.noise_low is None
    assert reason in found.not_computable


def test_the_noise_range_of_independent_trials_is_the_published_one() -> None:
    """significance.py measured 0.21 to 0.80 for 40 trials, 126 bars, 10 blocks."""
    found = overfitting(noise(126, 40))
    assert found.noise_low == pytest.approx(0.21, abs=0.06)
    assert found.noise_high == pytest.approx(0.80, abs=0.06)


def test_a_search_among_real_differences_lies_below_what_noise_gives() -> None:
    """One trial in twelve has skill: the same one wins in every half."""
    r = noise(400, 12)
    r[:, 5] += 0.005
    found = overfitting(r)
    assert found.pbo is not None and found.noise_low is not None
    assert found.pbo < found.noise_low


def test_the_noise_has_the_trials_own_correlations() -> None:
    """Of ten trials nine are nearly the same: which of those is best says nothing, and the range widens."""
    common = noise(120, 1)
    alike = overfitting(np.concatenate([common + 0.01 * noise(120, 9, seed=1), noise(120, 3, seed=2)], axis=1))
    apart = overfitting(noise(120, 12))
    assert alike.noise_low is not None and alike.noise_high is not None
    assert apart.noise_low is not None and apart.noise_high is not None
    assert alike.noise_high - alike.noise_low > apart.noise_high - apart.noise_low


# ---- the epochs of one fold


def test_equal_epochs_show_nothing_more_than_one() -> None:
    """Also where one trades twice what the other does: the Sharpe is the same."""
    one = noise(1, 21)
    assert best_of_correlated_epochs(np.concatenate([one, one, 2.0 * one]), periods_per_year=252) == pytest.approx(0.0)


@pytest.mark.parametrize(("n_epochs", "n_bars", "tolerance"), [(2, 400, 0.07), (10, 400, 0.05), (80, 21, 0.10)])
def test_independent_epochs_come_to_the_exact_figure(n_epochs: int, n_bars: int, tolerance: float) -> None:
    """80 epochs on 21 bars stay a few percent below: so few bars show correlations that are not there."""
    exact = significance.best_of_epochs(n_epochs, n_bars)
    found = best_of_correlated_epochs(noise(n_epochs, n_bars), periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(exact, rel=tolerance)


def test_half_correlated_epochs_match_a_simulation_in_plain_loops() -> None:
    """Two epochs with correlation rho on many bars: E max = sqrt((1 - rho) / pi) standard errors."""
    returns = noise(2, 5000)
    returns[1] = 0.6 * returns[0] + 0.8 * returns[1]
    rho = float(np.corrcoef(returns)[0, 1])
    returns = returns[:, :2000]
    rho = float(np.corrcoef(returns)[0, 1])
    found = best_of_correlated_epochs(returns, periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(math.sqrt((1 - rho) / math.pi) * math.sqrt(252 / 2000), rel=0.06)


def test_opposite_epochs_show_the_mean_absolute_sharpe() -> None:
    """The better of x and -x is |x|: of a normal with standard error s, s sqrt(2 / pi)."""
    one = noise(1, 1000)
    found = best_of_correlated_epochs(np.concatenate([one, -one]), periods_per_year=252, n_draws=2000)
    assert found == pytest.approx(math.sqrt(2 / math.pi * 252 / 1000), rel=0.06)


def outcome(returns: Array, index: int = 0) -> FoldOutcome:
    """A fold that left nothing behind but the validation returns of its epochs."""
    n_epochs, n_bars = returns.shape
    fold = Fold(index, range(50), range(50, 50 + n_bars), range(80, 90))
    empty = np.zeros(0)
    return FoldOutcome(
        forecast=RawForecast(fold, fold.test, np.zeros((10, 2))),
        kept_epoch=0,
        train_loss=np.zeros(n_epochs),
        validation_score=np.zeros(n_epochs),
        validation_position=np.zeros((n_bars, 2)),
        validation_returns=returns,
        val_sharpe=0.0,
        val_sharpe_best_epoch=0.0,
        vsn_weight=empty,
        vsn_weight_relative=empty,
        skipped_steps=0,
        seconds=1.0,
        stack_size=1,
    )


def test_a_folds_luck_leaves_out_unknown_bars_and_epochs_that_did_not_trade() -> None:
    returns = noise(5, 30)
    extended = np.concatenate([returns, np.zeros((1, 30))])
    extended[:, 7] = np.nan
    luck = fold_luck(outcome(extended, index=4), periods_per_year=252)
    without = np.delete(returns, 7, axis=1)
    assert luck == FoldLuck(
        fold=4,
        n_validation_bars=29,
        best_of_independent_epochs=significance.best_of_epochs(6, 29),
        best_of_correlated_epochs=best_of_correlated_epochs(without, periods_per_year=252),
    )


@pytest.mark.parametrize("returns", [np.zeros((4, 30)), noise(4, 2), np.full((4, 30), np.nan)])
def test_a_fold_without_anything_to_compare_has_no_luck(returns: Array) -> None:
    assert fold_luck(outcome(returns), periods_per_year=252).best_of_correlated_epochs is None


# ---- the whole run


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
    found = infer(record, [outcome(noise(4, 21))], trials=trials, others=others)
    assert found.holdout == sharpe_inference(net[180:], periods_per_year=252, n_trials=4)
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
    own = float(np.nanmean(record.net()[198:]) / np.nanstd(record.net()[198:], ddof=1))
    others = [Looked(1.0, 100), Looked(2.0, 25), Looked(-1.0, 100), Looked(0.0, 400)]
    variance = np.var([own, *(np.array([1.0, 1.0, -1.0, 0.0]) / math.sqrt(252))], ddof=1)
    found = infer(record, [], others=others).holdout
    assert found == sharpe_inference(record.net()[198:], periods_per_year=252, n_trials=5, trial_variance=variance)
    fewer = infer(record, [], others=others[:3]).holdout
    assert fewer == sharpe_inference(record.net()[198:], periods_per_year=252, n_trials=4)


def test_the_result_of_a_run_survives_json() -> None:
    record = small_record(300, holdout_bars=120)
    trials = Trials(noise(150, 12, seed=5), best=3, n_started=20)
    rows = (baseline("long only", -0.1),)
    found = infer(
        record, [outcome(noise(4, 21))], trials=trials, baselines=rows, against_untuned=baseline("untuned", 0.2)
    )
    assert from_json(Inference, json.dumps(asdict(found), allow_nan=False)) == found
    nothing = infer(small_record(60, holdout_bars=0), [])
    assert nothing.holdout is None and nothing.tuning is None
    assert from_json(Inference, json.dumps(asdict(nothing), allow_nan=False)) == nothing


def test_metrics_are_named_by_what_they_are_of() -> None:
    trials = Trials(noise(150, 12, seed=5), best=3, n_started=20)
    found = infer(small_record(300, holdout_bars=120), [], trials=trials, against_untuned=baseline("untuned", 0.2))
    named = metrics(found)
    holdout, development, tuning = found.holdout, found.development, found.tuning
    assert holdout and development and tuning and found.overfitting
    assert named["oos_sharpe_se"] == holdout.standard_error
    assert (named["oos_sharpe_low"], named["oos_sharpe_high"]) == (holdout.low, holdout.high)
    assert (named["oos_psr"], named["oos_dsr"], named["oos_p_value"]) == (holdout.psr, holdout.dsr, holdout.p_value)
    assert named["oos_min_trl_bars"] == holdout.min_trl_bars
    assert named["development_sharpe_se"] == development.standard_error
    assert named["tuning_sharpe_dsr"] == tuning.dsr
    assert named["pbo"] == found.overfitting.pbo
    assert named["oos_sharpe_over_untuned"] == 0.2


# ---- the verdict


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
