"""Calibration of simulated forecasters of which it is known what they know, and of tables worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy import stats

from pipeline.config.reading import from_json, to_json
from pipeline.statistics.calibration import Calibration, CalibrationRow, Estimate, calibration
from pipeline.statistics.calibration_in_words import in_one_sentence, metrics, worse
from pipeline.statistics.standard_errors import automatic_lags, hac_standard_error
from tests.pipeline.statistics.test_epochs import outcome
from tft.backtest import FoldOutcome
from tft.folds import Fold
from tft.forecast import mixture, probability_of_up
from tft.head import QUANTILE_LEVELS
from tft.positions import Earnings
from tft.record import RawForecast, Record, segments
from tft.volatility import Timing

Array = NDArray[np.float64]

N_TRAIN = 600


def walked(
    y: Array, distribution: Array, *, n_development: int, n_folds: int = 2, n_train: int = N_TRAIN
) -> tuple[Record, list[FoldOutcome]]:
    """Folds that forecast the labels y (T, A) from bar `n_train` on by `distribution` (T, A, D).

    All are trained on the bars before; together they own every cell with a distribution.
    """
    n_bars, n_assets = y.shape
    bars = range(n_train, n_bars)
    fold = np.full((len(bars), n_assets), -1)
    outcomes = []
    for index, rows in enumerate(np.array_split(np.arange(n_train, n_bars), n_folds)):
        test = range(rows[0], rows[-1] + 1)
        own = distribution[test.start : test.stop]
        one = Fold(index, range(n_train), range(0), test)
        fold[test.start - n_train : test.stop - n_train] = index
        forecast = RawForecast(one, test, np.zeros(own.shape[:2]))
        outcomes.append(
            replace(
                outcome(np.zeros((1, 30)), index),
                forecast=forecast,
                distribution=own,
                probability_up=probability_of_up(own),
            )
        )
    nothing = np.full(fold.shape, np.nan)
    record = Record(
        bars=np.arange(bars.start, bars.stop),
        times=np.datetime64("2020-01-01", "us") + np.arange(len(bars)) * np.timedelta64(1, "D"),
        symbols=tuple(f"S{i}" for i in range(n_assets)),
        fold=fold,
        raw_position=nothing,
        position=nothing,
        earned=Earnings(nothing, nothing, nothing, nothing),
        segment=segments(bars, n_development=n_development, timing=Timing()),
        timing=Timing(),
    )
    return record, outcomes


def simulated(
    strength: float, *, n_bars: int = 1600, n_assets: int = 4, seed: int = 0, common: float = 0.5
) -> tuple[Array, Array]:
    """Labels (T, A) of variance 1 of which mu (T, A) is known, with variance strength^2; the rest of an instrument's
    label is correlated by `common` with the others' of its bar."""
    rng = np.random.default_rng(seed)
    mu = strength * rng.standard_normal((n_bars, n_assets))
    noise = math.sqrt(common) * rng.standard_normal((n_bars, 1))
    noise = noise + math.sqrt(1.0 - common) * rng.standard_normal((n_bars, n_assets))
    return mu + math.sqrt(1.0 - strength**2) * noise, mu


def gaussian(mu: Array, sigma: float) -> Array:
    return np.stack([mu, np.full(mu.shape, sigma)], axis=-1)


def quantiles(mu: Array, sigma: float) -> Array:
    return mu[..., None] + sigma * stats.norm.ppf(QUANTILE_LEVELS)


def judged(y: Array, distribution: Array, **given: Any) -> Calibration:
    return calibration(*walked(y, distribution, **({"n_development": 1100} | given)), y)


def row(one: Calibration, part: str = "holdout") -> dict[str, Any]:
    """A row that has every figure."""
    found = one.of(part)
    assert found is not None
    return vars(found)


@pytest.mark.parametrize("family", [gaussian, quantiles])
def test_a_calibrated_forecaster_is_found_to_be_one(family: Any) -> None:
    """PIT within its band, coverage, both slopes and every bin of reliability within a few standard errors; it gains
    what a Gaussian of R^2 = 0.09 must: -ln(1 - R^2) / 2 nats, and 1 - sqrt(1 - R^2) of the CRPS."""
    y, mu = simulated(0.3)
    one = judged(y, family(mu, math.sqrt(1.0 - 0.09)))
    assert one.family == family.__name__ if family is quantiles else one.family == "gaussian"
    assert [each.part for each in one.rows] == ["fold 0", "fold 1", "development", "holdout"]
    assert one.segment == "holdout"
    clean = row(one)
    assert (clean["n_bars"], clean["n_cells"]) == (500, 2000)
    for name, truth in (("coverage_50", 0.5), ("coverage_90", 0.9), ("slope", 1.0), ("probability_slope", 1.0)):
        assert abs(clean[name].value - truth) < 3.0 * clean[name].standard_error, name
    for name, truth in (("coverage_50", 0.5), ("coverage_90", 0.9)):  # its error lies between M and n bars labels'
        binomial = math.sqrt(truth * (1.0 - truth) / 2000)
        assert 0.9 * binomial < clean[name].standard_error < 2.2 * binomial
    if family is gaussian:
        gain = clean["log_score_gain"]
        assert abs(gain.value + math.log(1.0 - 0.09) / 2.0) < 3.0 * gain.standard_error
    else:
        assert clean["log_score"] is clean["log_score_gain"] is None
    gain, blind = clean["crps_gain"], clean["crps"] / math.sqrt(1.0 - 0.09)
    assert gain.t > 3.0
    assert abs(gain.value - (1.0 - math.sqrt(1.0 - 0.09)) * blind) < 3.0 * gain.standard_error
    assert worse(one) == ""

    assert sum(each.share for each in one.pit) == pytest.approx(1.0)
    outside = [abs(each.share - (each.high - each.low)) > (each.noise or 0.0) for each in one.pit]
    assert sum(outside) <= (3 if family is gaussian else 1)
    assert [each.n_cells for each in one.reliability] == [200] * 10
    for each in one.reliability:
        assert abs(each.frequency.value - each.forecast) < 3.5 * (each.frequency.standard_error or 0.0)
    assert one.reliability[0].forecast < 0.35 and one.reliability[-1].forecast > 0.65


def test_band_and_errors_hold_as_often_as_they_say() -> None:
    """Of 40 calibrated records whose instruments move together, about one bin in twenty is outside 1.96 errors."""
    outside_band, outside_bars = [], []
    for seed in range(40):
        y, mu = simulated(0.3, seed=seed, common=0.8)
        one = judged(y, gaussian(mu, math.sqrt(1.0 - 0.09)))
        outside_band += [abs(each.share - (each.high - each.low)) > (each.noise or 0.0) for each in one.pit]
        outside_bars += [
            abs(each.frequency.value - each.forecast) > 1.96 * (each.frequency.standard_error or 0.0)
            for each in one.reliability
        ]
    assert 0.025 < np.mean(outside_band) < 0.085 and 0.025 < np.mean(outside_bars) < 0.085


def test_a_forecaster_of_noise_is_worse_and_said_to_be() -> None:
    """Mu of standard deviation 0.3 that has nothing to do with the label costs 0.09 / 2 nats; its slopes are near 0."""
    y, _ = simulated(0.0)
    _, mu = simulated(0.3, seed=1)
    one = judged(y, gaussian(mu, 1.0))
    clean = row(one)
    assert abs(clean["log_score_gain"].value + 0.045) < 3.0 * clean["log_score_gain"].standard_error
    assert clean["log_score_gain"].t < -2.0 and clean["crps_gain"].t < -2.0
    assert abs(clean["slope"].value) < 3.0 * clean["slope"].standard_error
    log, other = clean["log_score_gain"], clean["crps_gain"]
    assert worse(one) == (
        "its forecast distribution is worse than the unconditional one (log score "
        f"{log.value:+.4f} ± {log.standard_error:.4f} and CRPS {other.value:+.4f} ± {other.standard_error:.4f} per bar)"
    )


def test_one_that_knows_nothing_and_says_so_is_neither_better_nor_worse() -> None:
    """Of 60 of them about one in twenty is beyond two standard errors: under 8 in all but one of 100 suites. Fitted on
    many bars, so that the yardstick is right as well."""
    found = []
    for seed in range(60):
        y, _ = simulated(0.0, n_bars=3200, n_assets=3, seed=seed)
        distribution = gaussian(np.full(y.shape, y[:3000].mean()), float(y[:3000].std()) * 1.02)
        one = judged(y, distribution, n_train=3000, n_development=0, n_folds=1)
        found.append(row(one)["log_score_gain"].t)
    assert sum(abs(t) > 2.0 for t in found) < 8


def test_overconfidence_is_seen_in_every_measure() -> None:
    """Twice the forecast and half the spread: half the slope, too few labels in the intervals, too many in the ends."""
    y, mu = simulated(0.3)
    one = judged(y, gaussian(2.0 * mu, 0.5))
    clean = row(one)
    assert abs(clean["slope"].value - 0.5) < 3.0 * clean["slope"].standard_error
    assert clean["coverage_50"].value < 0.35 and clean["coverage_90"].value < 0.7
    assert clean["probability_slope"].value < 0.7
    for end in (one.pit[0], one.pit[-1]):
        assert end.share > 0.05 + 3.0 * (end.noise or 0.0)
    assert "worse than the unconditional one (log score -" in worse(one)


def test_errors_respect_that_instruments_of_a_bar_move_together() -> None:
    """statsmodels' HAC of the bars' sums, for the slope and for a share; instruments that are copies of each other
    are worth one."""
    y, mu = simulated(0.3, n_bars=900, common=0.9)
    distribution = gaussian(mu, 1.0)
    clean = row(judged(y, distribution, n_development=0))
    label, x = y[N_TRAIN:].ravel(), mu[N_TRAIN:].ravel()
    time = np.repeat(np.arange(300), 4)
    deviation = x - x.mean()
    slope = deviation @ label / (deviation @ deviation)
    sums = np.bincount(time, deviation * (label - label.mean() - slope * deviation))
    fit = sm.OLS(label, sm.add_constant(x)).fit(
        cov_type="hac-groupsum",
        cov_kwds={"time": time, "maxlags": automatic_lags(sums - sums.mean()), "use_correction": False},
    )
    assert clean["slope"].value == pytest.approx(fit.params[1])
    assert clean["slope"].standard_error == pytest.approx(fit.bse[1], rel=1e-6)

    inside = (np.abs(y - mu) <= stats.norm.ppf(0.75))[N_TRAIN:].mean(axis=1)
    assert clean["coverage_50"].value == pytest.approx(inside.mean())
    assert clean["coverage_50"].standard_error == pytest.approx(hac_standard_error(inside - inside.mean(), None))

    single = judged(y[:, :1], distribution[:, :1], n_development=0)
    copies = judged(np.repeat(y[:, :1], 5, axis=1), np.repeat(distribution[:, :1], 5, axis=1), n_development=0)
    for name in ("log_score_gain", "crps_gain", "coverage_90", "slope", "probability_slope"):
        one, five = row(single)[name], row(copies)[name]
        assert (one.value, one.standard_error) == pytest.approx((five.value, five.standard_error)), name
    assert [each.noise for each in single.pit] == pytest.approx([each.noise for each in copies.pit])


LABELS = np.array([0.0, 1.0, 1.0, 0.0, 3.0, 0.0, -1.0, 1.0, -3.0, 0.0])


def by_hand(second: dict[int, float] | None = None) -> tuple[Calibration, Array]:
    """Trained on labels of mean 0 and deviation 1, the model says N(0, 2); ten bars come, of a second instrument only
    those given."""
    y = np.full((30, 2), np.nan)
    y[:20, 0] = [-1.0, 1.0] * 10
    y[20:, 0] = LABELS
    for bar, label in (second or {}).items():
        y[20 + bar, 1] = label
    return judged(y, gaussian(np.zeros((30, 2)), 2.0), n_development=0, n_folds=1, n_train=20), y


def test_a_small_table_by_hand() -> None:
    """ln N(y; 0, 2) - ln N(y; 0, 1) = 3/8 y^2 - ln 2, and the mean of y^2 is 2.2; the quartiles are at 1.35, the 5 %
    points at 3.29; three labels are above 0... of ten bars nothing can be inferred."""
    one, _ = by_hand()
    fold, clean = one.rows
    assert (fold.part, clean.part, fold.segment) == ("fold 0", "holdout", "holdout")
    assert (clean.n_bars, clean.n_cells) == (10, 10)
    assert replace(fold, part="holdout") == clean
    assert clean.log_score_gain == Estimate(pytest.approx(3.0 / 8.0 * 2.2 - math.log(2.0)), None)
    assert clean.log_score == pytest.approx(-2.2 / 8.0 - math.log(2.0) - 0.5 * math.log(2.0 * math.pi))
    assert clean.coverage_50 == Estimate(pytest.approx(0.8), None)
    assert clean.coverage_90 == Estimate(1.0, None)
    assert clean.slope is None and clean.probability_slope is None  # the forecast never moves
    (reliability,) = one.reliability
    assert (reliability.n_cells, reliability.forecast, reliability.frequency) == (10, 0.5, Estimate(0.4, None))
    shares = {round(each.low, 2): each.share for each in one.pit if each.share}
    # F(0) = 0.5, F(1) = 0.691, F(-1) = 0.309, F(3) = 0.933, F(-3) = 0.067
    assert shares == pytest.approx({0.05: 0.1, 0.3: 0.1, 0.5: 0.4, 0.65: 0.3, 0.9: 0.1})
    assert all(each.noise is None for each in one.pit)
    assert worse(one) == ""


def test_bars_are_the_unit_of_a_score() -> None:
    """A second instrument at the first bar, with 2 beside 0: the bar's mean of y^2 is 2, of all bars 2.4; of 11 labels
    5 are above 0."""
    one, _ = by_hand({0: 2.0})
    clean = one.clean
    assert clean is not None and clean.log_score_gain is not None
    assert (clean.n_bars, clean.n_cells) == (10, 11)
    assert clean.log_score_gain.value == pytest.approx(3.0 / 8.0 * 2.4 - math.log(2.0))
    assert one.reliability[0].frequency.value == pytest.approx(5.0 / 11.0)


def test_a_cell_counts_once_for_the_fold_that_owns_it_and_only_with_label_and_forecast() -> None:
    y, mu = simulated(0.3)
    record, outcomes = walked(y, gaussian(mu, 1.0), n_development=1100)
    wider = range(N_TRAIN, 1600)  # the first fold forecasts on, over bars that the second owns
    first = replace(
        outcomes[0],
        forecast=RawForecast(outcomes[0].fold, wider, np.zeros((1000, 4))),
        distribution=gaussian(np.full((1000, 4), 9.0), 0.1),
        probability_up=np.full((1000, 4), 1.0),
    )
    first.distribution[:500] = outcomes[0].distribution
    first.probability_up[:500] = outcomes[0].probability_up
    assert calibration(record, [first, outcomes[1]], y) == calibration(record, outcomes, y)

    holes = y.copy()
    holes[1599] = np.nan
    holes[1300, 2] = np.nan
    outcomes[1].distribution[10:13, 1] = np.nan
    found = calibration(record, outcomes, holes)
    assert [(each.n_bars, each.n_cells) for each in found.rows] == [(500, 2000), (499, 1992), (498, 1992), (499, 1992)]


def test_nothing_of_development_is_in_the_clean_row_nor_between() -> None:
    """1098 and 1099 are neither: their labels end in the holdout."""
    y, mu = simulated(0.3)
    distribution = gaussian(mu, 1.0)
    one = judged(y, distribution, n_folds=1)
    assert [(each.part, each.segment, each.n_bars) for each in one.rows] == [
        ("fold 0", "development/between/holdout", 1000),
        ("development", "development", 498),
        ("holdout", "holdout", 500),
    ]
    ruined = y.copy()
    ruined[N_TRAIN:1100] = 50.0
    assert judged(ruined, distribution, n_folds=1).clean == one.clean
    nested = judged(y, distribution, n_folds=1, n_development=0)
    assert [each.part for each in nested.rows] == ["fold 0", "holdout"]


def test_a_part_too_short_has_no_figures_and_the_figure_is_of_development() -> None:
    y, mu = simulated(0.3)
    one = judged(y[:1109], gaussian(mu, 1.0)[:1109])
    assert one.clean == CalibrationRow("holdout", "holdout", 9, 36)
    assert one.segment == "development" and len(one.pit) == 20
    assert metrics(one)["calibration_crps_gain"] is None
    assert in_one_sentence(one).startswith("On 498 development bars, which took part in selection, the forecast")
    without = judged(y, gaussian(mu, 1.0), n_development=1700)
    assert without.clean is None and metrics(without) == {}
    assert without.segment == "development"


def test_folds_of_different_loss_modes_share_the_crps() -> None:
    """A nested run chooses one for each fold: over the record there is a CRPS and no log score."""
    y, mu = simulated(0.3)
    record, outcomes = walked(y, gaussian(mu, 1.0), n_development=0, n_folds=3)
    as_quantiles = quantiles(mu, 1.0)[outcomes[1].fold.test.start : outcomes[1].fold.test.stop]
    outcomes[1] = replace(outcomes[1], distribution=as_quantiles, probability_up=probability_of_up(as_quantiles))
    outcomes[2] = replace(outcomes[2], distribution=outcomes[2].distribution[..., :0])
    one = calibration(record, outcomes, y)
    assert one.family == "mixed"
    assert [each.log_score is None for each in one.rows] == [False, True, True, True]
    assert [each.n_bars for each in one.rows] == [334, 333, 0, 667]
    assert row(one)["crps_gain"].value > 0.0
    assert [each.high for each in one.pit] == [*QUANTILE_LEVELS, 1.0]


def test_positions_alone_have_nothing_to_calibrate() -> None:
    y, _ = simulated(0.3)
    one = judged(y, np.empty((*y.shape, 0)))
    assert one == Calibration("none")
    assert one.clean is None and metrics(one) == {} and worse(one) == ""
    assert in_one_sentence(one) == (
        "The model forecasts positions alone (loss mode sharpe): there is no distribution to calibrate."
    )


def test_the_sentence_and_the_metrics_are_those_of_the_clean_row() -> None:
    one = Calibration(
        "gaussian",
        (
            CalibrationRow(
                part="holdout",
                segment="holdout",
                n_bars=252,
                n_cells=1008,
                log_score_gain=Estimate(-0.012, 0.004),
                crps_gain=Estimate(0.00004, 0.002),
                coverage_50=Estimate(0.483, 0.02),
                coverage_90=Estimate(0.871, 0.01),
                slope=Estimate(0.5, 0.125),
                against_probability=Estimate(0.31, 0.02),
            ),
        ),
        "holdout",
    )
    assert in_one_sentence(one) == (
        "On 252 holdout bars the forecast distribution gains log score -0.0120 ± 0.0040 and CRPS +0.0000 ± 0.0020 per "
        "bar over the unconditional one; its central 50 % and 90 % hold 48% and 87% of the labels; the label moves by "
        "0.50 ± 0.12 of what is forecast. The position goes against the sign of its own forecast in 31% of the cells, "
        "where the other instruments' forecasts weigh more."
    )
    assert in_one_sentence(one, nested=True).startswith("On 252 bars of the nested record the")
    assert metrics(one) == {
        "calibration_log_score_gain": -0.012,
        "calibration_log_score_gain_t": pytest.approx(-3.0),
        "calibration_crps_gain": 0.00004,
        "calibration_crps_gain_t": pytest.approx(0.02),
        "calibration_coverage_50": 0.483,
        "calibration_coverage_90": 0.871,
        "calibration_slope": 0.5,
        "calibration_against_probability": 0.31,
    }
    assert worse(one) == (
        "its forecast distribution is worse than the unconditional one (log score -0.0120 ± 0.0040 per bar)"
    )
    assert worse(replace(one, rows=(replace(one.rows[0], part="development"),))) == ""


def test_it_survives_json() -> None:
    y, mu = simulated(0.3, n_bars=800)
    for one in (judged(y, gaussian(mu, 1.0), n_development=700), judged(y, quantiles(mu, 1.0)), Calibration("none")):
        assert from_json(Calibration, to_json(one)) == one


def test_the_mixture_of_seeds_has_the_moments_of_a_sample_from_it() -> None:
    """Drawn from each seed in turn; of quantiles each level is the mean. One seed is what it is."""
    seeds = [np.array([[0.5, 1.0], [-0.2, 0.3]]), np.array([[-0.5, 2.0], [0.4, 0.1]])]
    rng = np.random.default_rng(0)
    for cell in range(2):
        sample = np.concatenate([rng.normal(*one[cell], 400_000) for one in seeds])
        assert mixture(seeds)[cell] == pytest.approx([sample.mean(), sample.std()], abs=0.005)
    levels = [np.arange(7.0)[None], np.arange(7.0)[None] ** 2]
    np.testing.assert_array_equal(mixture(levels), (levels[0] + levels[1]) / 2.0)
    assert mixture(seeds[:1]) is seeds[0]


def test_the_probability_of_up_is_the_distributions() -> None:
    law = np.array([[0.3, 0.5], [np.nan, np.nan]])
    np.testing.assert_allclose(probability_of_up(law), [stats.norm.cdf(0.6), np.nan], rtol=1e-12)
    # 0 lies between the levels 0.25 (-0.5) and 0.5 (0.25), two thirds of the way.
    assert probability_of_up(np.array([-2.0, -1.0, -0.5, 0.25, 1.0, 2.0, 4.0])) == pytest.approx(1.0 - 0.25 * 5.0 / 3.0)
    assert np.isnan(probability_of_up(np.empty((3, 2, 0)))).all()
