"""A trained model on tables of bars: live equals backtest, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import small_panel
from tft.checkpoint import TrainedModel
from tft.head import LOSS_MODES, LossMode
from tft.model import ModelConfig, TemporalFusionTransformer
from tft.panel import Panel
from tft.positions import PositionsConfig, RegimeConfig, next_regime, position_path
from tft.predict import REGIMES, Prediction, Predictor, TooFewBars
from tft.scaling import Scaler
from tft.volatility import Timing, ewm_volatility

SEQ_LEN = 6


def trained_on(
    panel: Panel,
    *,
    loss_mode: LossMode = "joint_mle",
    n_context: int = 2,
    seeds: int = 1,
    horizon: int = 1,
    correlation: float = 0.0,
    gain: float = 1.0,
) -> TrainedModel:
    """An untrained network with the panel's scaler, its head widened so that its opinions differ from bar to bar."""
    config = ModelConfig(d_hidden=8, n_heads=2, seq_len=SEQ_LEN, n_context=n_context)
    torch.manual_seed(0)
    networks = [
        dict(
            TemporalFusionTransformer(
                config, n_variables=len(panel.feature_names), n_assets=len(panel.symbols), loss_mode=loss_mode
            ).named_parameters()
        )
        for _ in range(seeds)
    ]
    parameters = {name: torch.stack([one[name].detach() for one in networks]) for name in networks[0]}
    parameters["windows.head.weight"] *= 0.5
    parameters["windows.head.bias"][:, 0] = {"sharpe": 0.0, "joint_mle": 0.1, "joint_quantile": -3.0}[loss_mode]
    return TrainedModel(
        config=config,
        loss_mode=loss_mode,
        feature_names=panel.feature_names,
        known=(),
        symbols=panel.symbols,
        scaler=Scaler.fit(panel.features),
        parameters=parameters,
        correlation=correlation,
        gain=gain,
        timing=Timing(horizon=horizon),
        positions=PositionsConfig(),
        regime=RegimeConfig(),
        seed=4,
        fit_end="2020-01-01",
        data_sha256="",
    )


def last_bars(panel: Panel, n_bars: int) -> Panel:
    return replace(
        panel, times=panel.times[-n_bars:], features=panel.features[-n_bars:], returns=panel.returns[-n_bars:]
    )


FIELDS = ("times", "raw_position", "position", "probability_up", "mu", "sigma", "quantiles", "regime")


def rows_equal(one: Prediction, other: Prediction, rows: slice) -> bool:
    """All of `one` is bit-identical to `rows` of `other`."""
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        if (a is None) != (b is None):
            return False
        if a is not None and not (
            np.array_equal(a, b[rows], equal_nan=True) if a.dtype.kind == "f" else np.array_equal(a, b[rows])
        ):
            return False
    return True


def gappy(panel: Panel) -> Panel:
    """An instrument that starts late, and one bar on which nothing is quoted."""
    panel.features[:25, 0] = np.nan
    panel.returns[:25, 0] = np.nan
    panel.features[40] = np.nan
    panel.returns[40] = np.nan
    return panel


@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_decisions_made_bar_by_bar_equal_one_pass_over_all_bars(loss_mode: LossMode, n_context: int) -> None:
    """With the state carried from one to the next; every field, to the last bit."""
    panel = gappy(small_panel(75, 2))
    predictor = Predictor(trained_on(panel, loss_mode=loss_mode, n_context=n_context, seeds=2))
    whole = predictor.run(panel)
    assert len(whole.times) == 75 - SEQ_LEN + 1
    assert len(np.unique(whole.raw_position[np.isfinite(whole.raw_position)])) > 50
    state = None
    for row, n_bars in enumerate(range(SEQ_LEN, 76)):
        one = predictor.run(panel.first_bars(n_bars), before=state)
        assert len(one.times) == 1
        assert rows_equal(one, whole, slice(row, row + 1))
        state = one.state
    assert state is not None
    assert np.array_equal(state.path.smoothed, whole.state.path.smoothed)
    assert state.time == whole.state.time == panel.times[-1]


@pytest.mark.parametrize("n_assets", [3, 9])
def test_hedged_and_multiplied_decisions_made_bar_by_bar_equal_one_pass_over_all_bars(n_assets: int) -> None:
    """With instruments that are absent at a bar, several seeds, a correlation and a gain; raw positions are the gain
    times the mean over seeds of each network's own after the cross-sectional step."""
    panel = gappy(small_panel(50, n_assets))
    panel.features[[30, 33, 44], [1, 2, 1]] = np.nan
    trained = trained_on(panel, seeds=3, correlation=0.6, gain=2.3)
    predictor = Predictor(trained)
    whole = predictor.run(panel)
    state = None
    for row, n_bars in enumerate(range(SEQ_LEN, 51)):
        one = predictor.run(panel.first_bars(n_bars), before=state)
        assert rows_equal(one, whole, slice(row, row + 1))
        state = one.state
    seeds = []
    for s in range(3):
        own = {name: value[s : s + 1] for name, value in trained.parameters.items()}
        plain = replace(trained, parameters=own, seed=trained.seed + s, correlation=0.0, gain=1.0)
        seeds.append(Predictor(plain).run(panel).raw_position)
    known = np.isfinite(seeds[0])
    assert 1 < known.sum(axis=1).min(initial=99, where=known.any(axis=1)) < n_assets
    expected = np.full(known.shape, np.nan)
    for t, there in enumerate(known):
        if there.any():
            inverse = np.linalg.inv(0.4 * np.eye(there.sum()) + 0.6)
            expected[t, there] = 2.3 * np.mean([inverse @ one[t, there] for one in seeds], axis=0) / inverse[0, 0]
    np.testing.assert_allclose(whole.raw_position, expected, rtol=0.0, atol=1e-12)


def test_several_bars_may_be_decided_at_once() -> None:
    """A process that was down for some bars catches up."""
    panel = gappy(small_panel(75, 2))
    predictor = Predictor(trained_on(panel))
    whole = predictor.run(panel)
    first = predictor.run(panel.first_bars(50))
    rest = predictor.run(panel, before=first.state)
    assert rows_equal(first, whole, slice(0, 45))
    assert rows_equal(rest, whole, slice(45, None))
    # Without the state the path starts flat again: the forecasts are the same, the positions are not.
    fresh = predictor.run(last_bars(panel, 75 - 45))
    assert not np.array_equal(fresh.position[-1], whole.position[-1])


@pytest.mark.parametrize("n_context", [0, 2])
def test_the_last_bar_needs_no_more_than_min_history_bars(n_context: int) -> None:
    """Its raw forecast and volatility from the last bars alone are those from the whole history."""
    panel = small_panel(600, 2, 4)
    trained = trained_on(panel, n_context=n_context)
    predictor = Predictor(trained)
    whole, cut = predictor.run(panel), predictor.run(last_bars(panel, trained.min_history_bars))
    for name in ("raw_position", "probability_up", "mu", "sigma"):
        assert np.array_equal(getattr(whole, name)[-1], getattr(cut, name)[-1])
    # The number says what it must, not much more: a tenth fewer bars give something else.
    short = predictor.run(last_bars(panel, trained.min_history_bars * 9 // 10))
    assert not np.array_equal(whole.sigma[-1], short.sigma[-1])
    if n_context:
        assert not np.array_equal(whole.raw_position[-1], short.raw_position[-1])


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
@pytest.mark.parametrize("n_assets", [1, 2])
def test_seeds_are_averaged(loss_mode: LossMode, n_assets: int) -> None:
    """Raw positions and probabilities are means over the seeds, sigma is that of their mixture; bar by bar as well.

    Nine seeds and one instrument: numpy's own mean adds those of one bar in another order than those of many bars.
    """
    panel = small_panel(45, n_assets)
    trained = trained_on(panel, loss_mode=loss_mode, seeds=9)
    together = Predictor(trained).run(panel)
    alone = [
        Predictor(
            replace(trained, parameters={k: v[s : s + 1] for k, v in trained.parameters.items()}, seed=trained.seed + s)
        ).run(panel)
        for s in range(9)
    ]
    assert np.abs(alone[0].raw_position - alone[1].raw_position).max() > 1e-3

    def mean(name: str) -> np.ndarray:
        return np.mean([getattr(one, name) for one in alone], axis=0)

    assert np.allclose(together.raw_position, mean("raw_position"), rtol=0, atol=1e-12)
    if loss_mode != "sharpe":
        assert np.allclose(together.probability_up, mean("probability_up"), rtol=0, atol=1e-12)
    if loss_mode == "joint_mle":
        variance = np.mean([one.sigma**2 + one.mu**2 for one in alone], axis=0) - mean("mu") ** 2
        assert np.allclose(together.mu, mean("mu"), equal_nan=True)
        assert np.allclose(together.sigma, np.sqrt(variance), equal_nan=True)
    state = None
    for row, n_bars in enumerate(range(SEQ_LEN, 46)):
        one = Predictor(trained).run(panel.first_bars(n_bars), before=state)
        assert rows_equal(one, together, slice(row, row + 1))
        state = one.state


def test_distributions_are_in_return_units() -> None:
    """mu, sigma and quantiles are of the return over the horizon: times sigma_t * sqrt(h)."""
    panel = small_panel(60, 2)
    trained = trained_on(panel, horizon=4)
    result = Predictor(trained).run(panel)
    unit = ewm_volatility(panel.returns)[SEQ_LEN - 1 :] * 2.0
    known = np.isfinite(result.mu)
    assert known[-1].all()
    assert np.array_equal(known, np.isfinite(unit) & np.isfinite(result.raw_position))
    up = torch.special.ndtr(torch.from_numpy(result.mu / result.sigma)).numpy()
    assert np.allclose(up[known], result.probability_up[known])
    assert np.allclose(2.0 * up[known] - 1.0, result.raw_position[known], atol=1e-6)
    once = Predictor(replace(trained, timing=Timing(horizon=1))).run(panel)
    assert np.allclose(result.mu[known], 2.0 * once.mu[known])
    quantiles = Predictor(trained_on(panel, loss_mode="joint_quantile")).run(panel).quantiles
    assert quantiles.shape == (*result.mu.shape, 7)
    assert (np.diff(quantiles[known], axis=-1) >= 0.0).all()


def test_in_sharpe_mode_there_is_no_distribution() -> None:
    panel = small_panel(40, 2)
    result = Predictor(trained_on(panel, loss_mode="sharpe")).run(panel)
    assert (result.probability_up, result.mu, result.sigma, result.quantiles) == (None, None, None, None)


def test_positions_and_regimes_are_those_of_the_rules_applied_to_the_forecasts() -> None:
    panel = gappy(small_panel(75, 2))
    trained = trained_on(panel)
    result = Predictor(trained).run(panel)
    sigma = ewm_volatility(panel.returns)[SEQ_LEN - 1 :]
    path = position_path(result.raw_position, sigma, trained.positions, trained.timing)
    assert np.array_equal(result.position, path.position, equal_nan=True)
    regime = np.zeros(2, dtype=np.int64)
    for t in range(len(result.times)):
        regime = next_regime(regime, path.position[t], result.probability_up[t], trained.regime)
        assert np.array_equal(regime, result.regime[t])
    assert set(np.unique(result.regime)) <= set(REGIMES)
    assert len(np.unique(result.regime)) > 1


def test_an_instrument_without_data_has_no_forecast_and_keeps_its_position() -> None:
    panel = gappy(small_panel(75, 2))
    result = Predictor(trained_on(panel)).run(panel)
    row = 40 - (SEQ_LEN - 1)
    assert np.isnan(result.raw_position[row]).all()
    assert np.array_equal(result.position[row], result.position[row - 1], equal_nan=True)
    assert np.isnan(result.raw_position[: 25 - (SEQ_LEN - 1), 0]).all()


def test_a_table_without_a_look_back_window_is_refused() -> None:
    panel = small_panel(60, 2)
    predictor = Predictor(trained_on(panel))
    with pytest.raises(TooFewBars, match=r"^the table holds 5 bars, fewer than one look-back: at least 6 .* 505 for"):
        predictor.run(panel.first_bars(5))
    state = predictor.run(panel).state
    with pytest.raises(TooFewBars, match=r"^the table holds 60 bars, none is newer than the last decision: "):
        predictor.run(panel, before=state)
    assert len(predictor.run(panel.first_bars(6)).times) == 1


def test_a_panel_of_other_columns_or_symbols_is_no_input() -> None:
    panel = small_panel(20, 2)
    predictor = Predictor(trained_on(panel))
    for other in (replace(panel, symbols=("S1", "S0")), panel.select(panel.feature_names[::-1])):
        with pytest.raises(AssertionError):
            predictor.run(other)
