"""Forecasts in fixed blocks: the same number for a target, whatever else is asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.conftest import CPU, small_panel
from tft.forecast import CELL_BLOCK, TARGET_BLOCK, Forecasts, forecast, one_thread, plan, selection_weights
from tft.head import LOSS_MODES, LossMode
from tft.model import Cells, ModelConfig, TemporalFusionTransformer, stacked
from tft.panel import Panel
from tft.scaling import Scaler
from tft.windows import EMPTY, DevicePanel, WindowSpace, seed_from


class Setting:
    """A panel and K untrained networks, each with its own scaler."""

    def __init__(
        self,
        panel: Panel,
        *,
        d_hidden: int = 8,
        n_heads: int = 2,
        lstm_layers: int = 1,
        n_context: int = 2,
        loss_mode: LossMode = "joint_mle",
        n_folds: int = 1,
    ) -> None:
        config = ModelConfig(
            d_hidden=d_hidden, n_heads=n_heads, lstm_layers=lstm_layers, dropout=0.2, seq_len=6, n_context=n_context
        )
        self.panel, self.on_device = panel, DevicePanel(panel.features, CPU)
        scalers = [Scaler.fit(panel.features[10 * k :]) for k in range(n_folds)]
        self.mean = torch.from_numpy(np.stack([scaler.mean for scaler in scalers]))
        self.std = torch.from_numpy(np.stack([scaler.std for scaler in scalers]))
        self.spaces = [
            WindowSpace.from_features(
                panel.features, panel.times, panel.symbols, scaler, seq_len=6, n_context=n_context
            )
            for scaler in scalers
        ]
        torch.manual_seed(0)
        self.models = [
            TemporalFusionTransformer(
                config, n_variables=panel.features.shape[-1], n_assets=len(panel.symbols), loss_mode=loss_mode
            )
            for _ in range(n_folds)
        ]
        self.targets = [space.targets(range(len(panel.times))) for space in self.spaces]

    def of(self, targets: list[NDArray[np.int64]], folds: list[int]) -> list[Forecasts]:
        parameters = {
            name: torch.stack([self.models[k].get_parameter(name).detach() for k in folds])
            for name, _ in self.models[0].named_parameters()
        }
        return forecast(
            self.models[0],
            parameters,
            self.on_device,
            self.mean[folds],
            self.std[folds],
            plan([self.spaces[k] for k in folds], targets, seeds=[3] * len(folds), device=CPU),
        )

    def one(self, targets: NDArray[np.int64]) -> Forecasts:
        return self.of([targets], [0])[0]

    def selection(self, cells: NDArray[np.int64]) -> NDArray[np.float64]:
        return selection_weights(self.models[0], self.on_device, self.mean[0], self.std[0], cells)


def identical(a: Forecasts, b: Forecasts, rows: NDArray[np.int64] | slice = slice(None)) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)[rows]) for name in ("position", "distribution"))


def distance(a: Forecasts, b: Forecasts) -> float:
    return max(
        float(np.abs(getattr(a, name) - getattr(b, name)).max(initial=0.0)) for name in ("position", "distribution")
    )


@pytest.mark.parametrize(
    ("n_features", "n_assets", "size"),
    [
        (1, 1, {"d_hidden": 5, "n_heads": 3, "loss_mode": "sharpe", "n_context": 0}),
        (3, 2, {"d_hidden": 12, "n_heads": 4}),
        (7, 3, {"d_hidden": 17, "lstm_layers": 2, "loss_mode": "joint_quantile"}),
        (20, 2, {"d_hidden": 20, "n_context": 5}),
        (13, 4, {"d_hidden": 48, "n_heads": 4, "loss_mode": "sharpe"}),
        (73, 1, {"d_hidden": 3, "n_heads": 1, "loss_mode": "joint_quantile", "n_context": 1}),
    ],
)
def test_a_target_s_forecast_is_bit_identical_alone_in_another_order_or_with_all_others(
    n_features: int, n_assets: int, size: dict
) -> None:
    """Odd numbers of variables and odd widths included: nothing hangs on a row's place in its block."""
    setting = Setting(small_panel(90, n_assets, n_features, missing=0.1), **size)
    (targets,) = setting.targets
    together = setting.one(targets)
    assert len(together.position) == len(targets) > TARGET_BLOCK
    told_apart = np.unique(np.column_stack([together.position, together.distribution]), axis=0)
    assert len(told_apart) > 0.9 * len(targets)  # a constant would be no evidence
    order = np.random.default_rng(0).permutation(len(targets))
    assert identical(setting.one(targets[order]), together, order)
    for i in (0, 1, 31, len(targets) // 2, len(targets) - 1):
        assert identical(setting.one(targets[i : i + 1]), together, slice(i, i + 1))
    some = np.arange(3, len(targets), 7)
    assert identical(setting.one(targets[some]), together, some)


def test_more_cells_than_one_block_make_no_difference() -> None:
    setting = Setting(small_panel(420, 2, 5), d_hidden=7)
    (targets,) = setting.targets
    assert len(targets) > CELL_BLOCK
    together = setting.one(targets)
    for first in (0, 300, len(targets) - 3):
        assert identical(setting.one(targets[first : first + 3]), together, slice(first, first + 3))


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
@pytest.mark.parametrize("n_features", [1, 3, 5, 7, 20])
@pytest.mark.parametrize("d_hidden", [3, 8, 12, 20, 31, 48])
def test_rows_of_a_block_do_not_depend_on_their_position_in_it(n_features: int, d_hidden: int) -> None:
    """What the bit-identity of forecasts rests on, checked for every row of both blocks.

    Split among three threads, a block of 5 variables and width 31 shows it to be false without the limit.
    """
    setting = Setting(small_panel(20, 2, n_features), d_hidden=d_hidden, n_context=1)
    model = setting.models[0].eval()
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(CELL_BLOCK, n_features, generator=rng)
    present = torch.ones_like(x)
    context = torch.randn(CELL_BLOCK, d_hidden, generator=rng)
    windows = torch.randint(0, CELL_BLOCK, (2 * TARGET_BLOCK, 6), generator=rng)
    static = torch.randn(2 * TARGET_BLOCK, 4, d_hidden, generator=rng)
    filled = torch.rand(TARGET_BLOCK, 1, generator=rng) > 0.2
    with torch.no_grad(), one_thread(CPU):
        assert torch.get_num_threads() == 1
        cells: Cells = model.cells(x, present, context)
        output = model.windows(cells, windows, static, filled)
        for shift in (1, 29):
            moved = model.cells(x.roll(shift, 0), present, context.roll(shift, 0))
            for a, b in zip(cells, moved, strict=True):
                assert torch.equal(a, b.roll(-shift, 0))
            both = (
                torch.cat([v[:TARGET_BLOCK].roll(shift, 0), v[TARGET_BLOCK:].roll(shift, 0)]) for v in (windows, static)
            )
            for a, b in zip(output, model.windows(cells, *both, filled.roll(shift, 0)), strict=True):
                assert torch.equal(a, b.roll(-shift, 0))


@pytest.mark.parametrize("n_context", [0, 2])
@pytest.mark.parametrize("loss_mode", LOSS_MODES)
def test_folds_side_by_side_equal_each_alone(loss_mode: LossMode, n_context: int) -> None:
    """To 1e-6, with unequal numbers of targets, one of them none."""
    setting = Setting(small_panel(80, 2, 4), n_folds=3, loss_mode=loss_mode, n_context=n_context)
    targets = [setting.targets[0][:100], setting.targets[1][40:60], setting.targets[2][:0]]
    together = setting.of(targets, [0, 1, 2])
    assert [len(one.position) for one in together] == [100, 20, 0]
    for k in range(3):
        assert distance(setting.of([targets[k]], [k])[0], together[k]) < 1e-6
    # The folds are different networks: what is compared is not one and the same.
    assert distance(setting.of([targets[1]], [0])[0], together[1]) > 1e-3


@pytest.mark.parametrize("n_context", [0, 3])
def test_forecasts_equal_the_model_called_on_one_window_at_a_time(n_context: int) -> None:
    setting = Setting(small_panel(60, 2, 4, missing=0.2), n_context=n_context)
    (space,), (targets,) = setting.spaces, setting.targets
    model, result = setting.models[0].eval(), setting.one(targets)
    drawn = space.contexts(targets, seed_from(3, "forecast"))  # as the forecast draws them
    for i in (0, 3, 40, len(targets) - 1):
        ends = [int(targets[i]), *(int(c) if c != EMPTY else int(targets[i]) for c in drawn[i])]
        index = torch.tensor([[end - 2 * back for back in range(5, -1, -1)] for end in ends])
        x, present, asset = setting.on_device.cells(index.view(1, -1), setting.mean, setting.std)
        with torch.no_grad():
            output, _ = model(
                x[0],
                present[0],
                asset[0],
                torch.arange(index.numel()).view(index.shape),
                torch.tensor(drawn[i : i + 1] >= 0),
            )
        assert np.allclose(output.position.numpy(), result.position[i], atol=1e-6)
        assert np.allclose(output.distribution.numpy(), result.distribution[i], atol=1e-6)


def test_selection_weights_sum_to_one_and_are_zero_where_a_variable_is_missing() -> None:
    panel = small_panel(60, 2, 5, missing=0.3)
    panel.features[:, :, 3] = 1.0  # constant: missing throughout
    setting = Setting(panel)
    (targets,) = setting.targets
    weights = setting.selection(targets)
    present = np.isfinite(panel.features.reshape(-1, 5)[targets])
    present[:, 3] = False
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-6)
    assert np.array_equal(weights > 0.0, present)


def test_selection_weights_are_those_a_forecast_combines_the_variables_by() -> None:
    """To the last bit, over several blocks; to 1e-6 those of a cell alone. A cell's place in its block is no matter."""
    setting = Setting(small_panel(420, 2, 7, missing=0.2), d_hidden=17)
    (targets,), model = setting.targets, setting.models[0]
    assert len(targets) > CELL_BLOCK
    weights = setting.selection(targets)
    with torch.no_grad(), one_thread(CPU):
        for start in range(0, len(targets) - CELL_BLOCK, 200):
            rows = slice(start, start + CELL_BLOCK)
            x, present, asset = setting.on_device.cells(torch.tensor(targets[None, rows]), setting.mean, setting.std)
            context = model.static()[:, 0].index_select(0, asset[0])
            cells: Cells = model.cells(x[0], present[0], context)
            assert np.array_equal(weights[rows], cells.weights.double().numpy())
            alone: Cells = model.cells(x[0, :1], present[0, :1], context[:1])
            assert np.allclose(weights[start], alone.weights[0].numpy(), atol=1e-6)
    assert np.array_equal(setting.selection(targets[7:8]), weights[7:8])
    assert setting.selection(targets[:0]).shape == (0, 7)


def test_a_forecast_draws_no_dropout() -> None:
    """Twice the same, whatever the mode of the module."""
    setting = Setting(small_panel(40, 1, 3))
    (targets,) = setting.targets
    setting.models[0].train()
    first = setting.one(targets)
    setting.models[0].eval()
    assert identical(setting.one(targets), first)


@pytest.mark.usefixtures("three_threads")
def test_the_limit_on_threads_ends_with_the_forecast() -> None:
    setting = Setting(small_panel(40, 1, 3))
    setting.one(setting.targets[0])
    assert torch.get_num_threads() == 3


def test_a_stack_of_one_is_the_module_itself() -> None:
    setting = Setting(small_panel(40, 1, 3))
    model = setting.models[0].eval()
    parameters = {name: value.detach()[None] for name, value in model.named_parameters()}
    assert torch.equal(stacked(model.static, parameters, "static.")[0], model.static())
