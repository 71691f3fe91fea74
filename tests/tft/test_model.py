"""The model against the plain reference of `reference_tft`, and the properties it promises.

Shapes as in `tft.model`: N cells, V variables, A instruments, B targets, C contexts a target, L look-back bars.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import stack_module_state

from tests.reference_tft import Cell, Forecast, forecast
from tft.head import LOSS_MODES, LossMode
from tft.kernels.dropout_mask import Dropout
from tft.kernels.masked_softmax import masked_softmax
from tft.loss import training_loss
from tft.model import Cells, ModelConfig, Output, TemporalFusionTransformer, stacked

TIGHT = {"rtol": 1e-10, "atol": 1e-10}
N_BARS, N_ASSETS, N_VARIABLES = 9, 2, 4
SMALL = ModelConfig(d_hidden=6, n_heads=2, lstm_layers=1, dropout=0.0, seq_len=4, n_context=2)


@dataclass(frozen=True, eq=False)
class Batch:
    """Three targets on a small panel whose cells lie in a shuffled order."""

    x: Tensor  # (N, V)
    present: Tensor  # (N, V)
    asset: Tensor  # (N,)
    windows: Tensor  # (B * (1 + C), L)
    has_context: Tensor  # (B, C)
    y: Tensor  # (B,)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.x, self.present, self.asset, self.windows, self.has_context


def make_batch(config: ModelConfig = SMALL, seed: int = 0, *, empty: str = "some") -> Batch:
    """Some variables missing; two cells with none at all, one of them a bar inside a target window.

    empty: which context slots are, "none", "some" (one target with none filled, one with one, one with all), "all".
    """
    draws = np.random.default_rng(seed)
    n_cells = N_BARS * N_ASSETS
    x = draws.normal(size=(n_cells, N_VARIABLES))
    present = draws.random(x.shape) > 0.25
    present[2 * N_ASSETS] = False
    present[(N_BARS - 2) * N_ASSETS + 1] = False
    x[~present] = 0.0
    row = draws.permutation(n_cells)  # row[flat cell] = where it lies
    at = np.argsort(row)

    def window(bar: int, asset: int) -> list[int]:
        return [int(row[(bar - back) * N_ASSETS + asset]) for back in reversed(range(config.seq_len))]

    targets = [(N_BARS - 1, 1), (N_BARS - 1, 0), (N_BARS - 2, 0)]
    filled = np.zeros((3, config.n_context), dtype=bool)
    if empty == "none":
        filled[:] = True
    elif empty == "some":
        filled[1, :1] = True
        filled[2] = True
    windows = [window(*target) for target in targets]
    for b, target in enumerate(targets):
        for c in range(config.n_context):
            last = int(draws.integers(config.seq_len - 1, N_BARS)), int(draws.integers(N_ASSETS))
            windows.append(window(*last) if filled[b, c] else window(*target))
    return Batch(
        x=torch.from_numpy(x[at]),
        present=torch.from_numpy(present[at].astype(np.float64)),
        asset=torch.from_numpy(at % N_ASSETS),
        windows=torch.tensor(windows),
        has_context=torch.from_numpy(filled),
        y=torch.from_numpy(draws.normal(size=3)),
    )


def make_model(
    config: ModelConfig = SMALL, loss_mode: LossMode = "joint_mle", seed: int = 0
) -> TemporalFusionTransformer:
    """float64, every parameter away from its initial value: no bias is zero, no norm weight is one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = TemporalFusionTransformer(config, n_variables=N_VARIABLES, n_assets=N_ASSETS, loss_mode=loss_mode)
        model = model.double()
        with torch.no_grad():
            for value in model.parameters():
                value += 0.2 * torch.randn_like(value)
    return model


def loss_of(output: Output, batch: Batch, loss_mode: LossMode) -> Tensor:
    return training_loss(
        output.position,
        output.distribution,
        batch.y,
        torch.ones_like(batch.y),
        loss_mode=loss_mode,
        mle_weight=0.3,
        periods_per_year=252.0,
    )


def by_reference(
    parameters: dict[str, Tensor], config: ModelConfig, loss_mode: LossMode, batch: Batch
) -> list[Forecast]:
    def cell(row: int) -> Cell:
        values = [
            float(value) if there else None
            for value, there in zip(batch.x[row], batch.present[row].tolist(), strict=True)
        ]
        return Cell(values, int(batch.asset[row]))

    def window(number: int) -> list[Cell]:
        return [cell(row) for row in batch.windows[number].tolist()]

    n_targets, n_context = batch.has_context.shape
    return [
        forecast(
            parameters,
            window(b),
            [window(n_targets + b * n_context + c) if batch.has_context[b, c] else None for c in range(n_context)],
            n_heads=config.n_heads,
            loss_mode=loss_mode,
        )
        for b in range(n_targets)
    ]


def gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients by parameter name; zero for a parameter that is not used."""
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


CASES: list[tuple[LossMode, ModelConfig, str]] = [
    *((mode, SMALL, "some") for mode in LOSS_MODES),
    *((mode, replace(SMALL, n_context=0), "all") for mode in LOSS_MODES),
    ("joint_mle", replace(SMALL, lstm_layers=3), "some"),
    ("joint_quantile", replace(SMALL, lstm_layers=2, n_context=0), "all"),
    ("joint_mle", SMALL, "none"),
    ("joint_mle", SMALL, "all"),
    ("joint_mle", replace(SMALL, d_hidden=7, n_heads=3, n_context=1, seq_len=5), "some"),
    ("sharpe", replace(SMALL, d_hidden=2, n_heads=1), "some"),
]


@pytest.mark.parametrize(("loss_mode", "config", "empty"), CASES)
def test_outputs_and_gradients_are_those_of_the_reference(loss_mode: LossMode, config: ModelConfig, empty: str) -> None:
    """Every output and the gradient of every parameter to 1e-10, values missing, slots empty."""
    model, batch = make_model(config, loss_mode), make_batch(config, empty=empty)
    # Both a bar in a target's window and the missing variables that the case promises are there.
    assert (batch.present.sum(dim=1)[batch.windows[:3]] == 0).any()
    output, cells = model(*batch.inputs())
    parameters = dict(model.named_parameters())
    expected = by_reference(parameters, config, loss_mode, batch)

    for name in ("position", "distribution", "attention", "context_attention"):
        theirs = torch.stack([getattr(one, name) for one in expected])
        torch.testing.assert_close(
            getattr(output, name), theirs, **TIGHT, msg=lambda text, name=name: f"{name}: {text}"
        )
    torch.testing.assert_close(
        cells.weights[batch.windows[:3, -1]], torch.stack([e.weights for e in expected]), **TIGHT
    )

    reference = Output(
        torch.stack([one.position for one in expected]),
        torch.stack([one.distribution for one in expected]),
        output.attention,
        output.context_attention,
    )
    ours = gradients(loss_of(output, batch, loss_mode), parameters)
    by_name = gradients(loss_of(reference, batch, loss_mode), parameters)
    assert max(float(value.abs().max()) for value in by_name.values()) > 0.01
    for name, value in ours.items():
        torch.testing.assert_close(value, by_name[name], **TIGHT, msg=lambda text, name=name: f"{name}: {text}")


def test_every_parameter_is_used() -> None:
    """In the case with everything on, no gradient is zero throughout."""
    config = replace(SMALL, lstm_layers=2)
    model, batch = make_model(config), make_batch(config)
    found = gradients(loss_of(model(*batch.inputs())[0], batch, "joint_mle"), dict(model.named_parameters()))
    # A key bias adds the same to all logits of a softmax, as eq 13 has it: it cannot matter.
    without = {name for name, value in found.items() if float(value.abs().max()) < 1e-12}
    assert without <= {
        "windows.attention.key.bias",
        "windows.context_attention.key.bias",
        "windows.recalibration",  # set after training
    }


@pytest.mark.parametrize("loss_mode", LOSS_MODES)
@pytest.mark.parametrize("n_context", [0, 2])
def test_a_stack_of_two_equals_two_separate_calls(loss_mode: LossMode, n_context: int) -> None:
    """Outputs and gradients; each fold has its own weights and its own batch."""
    config = replace(SMALL, n_context=n_context, lstm_layers=2)
    models = [make_model(config, loss_mode, seed) for seed in (1, 2)]
    batches = [make_batch(config, seed, empty="some" if n_context else "all") for seed in (3, 4)]
    together = {name: value.requires_grad_(True) for name, value in stack_module_state(models)[0].items()}
    inputs = [torch.stack(parts) for parts in zip(*(batch.inputs() for batch in batches), strict=True)]
    output, cells = stacked(models[0], together, "", *inputs)
    assert isinstance(output, Output)
    assert isinstance(cells, Cells)

    total = torch.zeros((), dtype=torch.float64)
    for k, (model, batch) in enumerate(zip(models, batches, strict=True)):
        own_output, own_cells = model(*batch.inputs())
        for found, expected in zip((*output, *cells), (*own_output, *own_cells), strict=True):
            torch.testing.assert_close(found[k], expected, **TIGHT)
        total = total + loss_of(Output(*(part[k] for part in output)), batch, loss_mode)
    found_gradients = gradients(total, together)
    for k, (model, batch) in enumerate(zip(models, batches, strict=True)):
        alone = gradients(loss_of(model(*batch.inputs())[0], batch, loss_mode), dict(model.named_parameters()))
        for name, value in alone.items():
            torch.testing.assert_close(found_gradients[name][k], value, rtol=1e-9, atol=1e-10)


def test_a_stack_of_one_and_a_part_of_the_model_are_called_as_they_are() -> None:
    """The result has a leading 1, and a prefix picks the part's parameters."""
    model, batch = make_model().requires_grad_(False), make_batch()
    parameters = {name: value[None] for name, value in model.named_parameters()}
    output, _ = stacked(model, parameters, "", *(part[None] for part in batch.inputs()))
    assert torch.equal(output.position[0], model(*batch.inputs())[0].position)
    assert torch.equal(stacked(model.static, parameters, "static.")[0], model.static())


def test_what_lies_in_empty_slots_never_matters() -> None:
    """Not in a single bit: neither with some slots empty nor with all."""
    model = make_model()
    for empty in ("some", "all"):
        batch = make_batch(empty=empty)
        output, _ = model(*batch.inputs())
        draws = torch.Generator().manual_seed(5)
        windows = batch.windows.clone()
        vacant = torch.cat([torch.zeros(3, dtype=torch.bool), ~batch.has_context.flatten()])
        windows[vacant] = torch.randint(len(batch.x), windows[vacant].shape, generator=draws)
        assert not torch.equal(windows, batch.windows)
        changed, _ = model(batch.x, batch.present, batch.asset, windows, batch.has_context)
        for ours, theirs in zip(output, changed, strict=True):
            assert torch.equal(ours, theirs)


def test_without_contexts_the_branch_contributes_exactly_zero() -> None:
    """All slots empty: the output is that of a model without the branch and with the same weights."""
    model = make_model()
    batch = make_batch(empty="all")
    plain = make_model(replace(SMALL, n_context=0))
    weights = plain.state_dict()
    assert set(model.state_dict()) > set(weights)
    plain.load_state_dict({name: model.state_dict()[name] for name in weights})
    output, _ = model(*batch.inputs())
    expected, _ = plain(batch.x, batch.present, batch.asset, batch.windows[:3], batch.has_context[:, :0])
    torch.testing.assert_close(output.position, expected.position, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(output.distribution, expected.distribution, rtol=0.0, atol=1e-14)
    torch.testing.assert_close(output.attention, expected.attention, rtol=0.0, atol=1e-14)
    assert (output.context_attention == 0.0).all()
    # Its parameters learn nothing from such a batch.
    found = gradients(loss_of(output, batch, "joint_mle"), dict(model.named_parameters()))
    for name, value in found.items():
        if "context_attention" in name or "context_gate" in name:
            assert (value == 0.0).all()


def test_a_filled_slot_matters() -> None:
    model, batch = make_model(), make_batch(empty="none")
    output, _ = model(*batch.inputs())
    fewer = batch.has_context.clone()
    fewer[0, 0] = False
    changed, _ = model(batch.x, batch.present, batch.asset, batch.windows, fewer)
    assert changed.position[0] != output.position[0]
    assert torch.equal(changed.position[1:], output.position[1:])


# Targets that share their contexts


def shared_batch(config: ModelConfig, n_bars: int, seed: int = 0) -> tuple[Batch, Batch]:
    """Targets of `n_bars` neighbouring bars of both instruments in order of bars, contexts given once for an
    instrument; and the same targets and contexts, given for each target. The second instrument has an empty slot."""
    whole = make_batch(config, seed)
    draws = np.random.default_rng(seed + 100)
    row = draws.permutation(N_BARS * N_ASSETS)  # row[flat cell] = where it lies

    def window(bar: int, asset: int) -> list[int]:
        return [int(row[(bar - back) * N_ASSETS + asset]) for back in reversed(range(config.seq_len))]

    targets = [(bar, asset) for bar in range(N_BARS - n_bars, N_BARS) for asset in range(N_ASSETS)]
    contexts = [
        [window(int(draws.integers(config.seq_len - 1, N_BARS)), int(draws.integers(N_ASSETS))) for _ in range(2)]
        for _ in range(N_ASSETS)
    ]
    filled = torch.tensor([[True, True], [True, False]])
    own = [window(*target) for target in targets]
    common = {
        "x": whole.x,
        "present": whole.present,
        "asset": torch.from_numpy(np.argsort(row) % N_ASSETS),
        "y": torch.from_numpy(draws.normal(size=len(targets))),
    }
    once = torch.tensor([*own, *(one for asset in range(N_ASSETS) for one in contexts[asset])])
    each = torch.tensor([*own, *(one for _, asset in targets for one in contexts[asset])])
    return (
        Batch(windows=once, has_context=filled, **common),
        Batch(windows=each, has_context=filled.repeat(n_bars, 1), **common),
    )


@pytest.mark.parametrize("n_bars", [1, 4])
def test_contexts_given_once_for_a_group_are_what_they_are_given_for_each_target(n_bars: int) -> None:
    """Outputs and gradients; target b belongs to group b % G."""
    model = make_model()
    once, each = shared_batch(SMALL, n_bars)
    found, expected = model(*once.inputs())[0], model(*each.inputs())[0]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)
    assert found.context_attention.shape == (n_bars * N_ASSETS, SMALL.n_heads, 2)
    assert (found.context_attention[1::2, :, 1] == 0.0).all() and (found.context_attention[::2] > 0.0).all()
    parameters = dict(model.named_parameters())
    ours = gradients(loss_of(found, once, "joint_mle"), parameters)
    theirs = gradients(loss_of(expected, each, "joint_mle"), parameters)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], **TIGHT)


# Missing values


def test_a_missing_variable_has_weight_zero_and_the_others_sum_to_one() -> None:
    """Exactly zero; where nothing is there, nothing is selected."""
    model, batch = make_model(), make_batch()
    weights = model(*batch.inputs())[1].weights
    assert (weights[batch.present == 0.0] == 0.0).all()
    assert (weights[batch.present == 1.0] > 0.0).all()
    anything = (batch.present.sum(dim=1) > 0.0).double()
    assert (anything == 0.0).sum() == 2
    torch.testing.assert_close(weights.sum(dim=1), anything, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cell_with_nothing_in_it_has_finite_gradients_however_large_the_loss(dtype: torch.dtype) -> None:
    """A step that overflows there would be lost."""
    model, batch = make_model().to(dtype), make_batch()
    output, _ = model(batch.x.to(dtype), batch.present.to(dtype), *batch.inputs()[2:])
    found = gradients(1e6 * output.position.sum(), dict(model.named_parameters()))
    assert all(torch.isfinite(value).all() for value in found.values())


def test_masked_softmax_is_the_softmax_over_what_is_usable() -> None:
    """However large what is masked."""
    logits = torch.tensor([[0.3, 900.0, -0.2], [1.0, 2.0, 3.0], [-5.0, 0.0, 1e30]], dtype=torch.float64)
    usable = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    found = masked_softmax(logits, usable)
    torch.testing.assert_close(found[0, [0, 2]], torch.softmax(logits[0, [0, 2]], dim=0))
    assert found[0, 1] == 0.0
    assert (found[1] == 0.0).all()
    assert found[2].tolist() == [0.0, 0.0, 1.0]


def test_attention_rows_sum_to_one() -> None:
    """Over the window, and over the filled slots; where none is filled, to zero."""
    model, batch = make_model(), make_batch()
    output, _ = model(*batch.inputs())
    assert output.attention.shape == (3, SMALL.n_heads, SMALL.seq_len)
    torch.testing.assert_close(output.attention.sum(dim=-1), torch.ones(3, 2, dtype=torch.float64), **TIGHT)
    assert output.context_attention.shape == (3, SMALL.n_heads, SMALL.n_context)
    some = batch.has_context.any(dim=1).double()[:, None].expand(3, 2)
    torch.testing.assert_close(output.context_attention.sum(dim=-1), some, **TIGHT)
    assert (output.context_attention.transpose(1, 2)[~batch.has_context] == 0.0).all()


def test_a_target_depends_on_its_own_windows_alone() -> None:
    """Cells that none of its windows touches may hold anything; so may the other targets."""
    model, batch = make_model(), make_batch()
    output, _ = model(*batch.inputs())
    target = 2
    own = torch.cat([batch.windows[target], batch.windows[3 + 2 * target : 5 + 2 * target].flatten()])
    x = batch.x.clone()
    outside = torch.ones(len(x), dtype=torch.bool)
    outside[own] = False
    assert outside.sum() > 3
    x[outside] = 3.0 * batch.present[outside]
    changed, _ = model(x, *batch.inputs()[1:])
    torch.testing.assert_close(changed.position[target], output.position[target], **TIGHT)
    assert (changed.position[:target] != output.position[:target]).all()


def test_the_order_and_number_of_listed_cells_do_not_matter() -> None:
    """A window is what its rows point at: cells may be shuffled, and padded with repetitions."""
    model, batch = make_model(), make_batch()
    output, _ = model(*batch.inputs())
    order = torch.randperm(len(batch.x), generator=torch.Generator().manual_seed(0))
    where = torch.argsort(order)
    padded = torch.cat([order, order[-1].expand(5)])
    changed, _ = model(
        batch.x[padded], batch.present[padded], batch.asset[padded], where[batch.windows], batch.has_context
    )
    for ours, theirs in zip(output, changed, strict=True):
        torch.testing.assert_close(ours, theirs, **TIGHT)


def state_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """All attributes of each submodule by name."""
    return {
        name: {
            key: {k: id(v) for k, v in value.items()} if isinstance(value, dict) else (id(value), repr(value))
            for key, value in vars(part).items()
        }
        for name, part in module.named_modules()
    }


@pytest.mark.parametrize("training", [True, False])
def test_forward_stores_nothing_on_the_module(training: bool) -> None:
    """No attribute is added or replaced, no buffer made, no parameter changed."""
    model, batch = make_model(replace(SMALL, dropout=0.3)).train(training), make_batch()
    before, weights = state_of(model), {name: value.clone() for name, value in model.state_dict().items()}
    model(*batch.inputs(), dropout=Dropout.with_rate(torch.Generator(), 0.3))
    assert state_of(model) == before
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_dropout_is_drawn_from_the_generator_given_alone_and_differs_between_stacked_folds() -> None:
    model, batch = make_model(replace(SMALL, dropout=0.5)), make_batch()

    def position(dropout: Dropout | None) -> Tensor:
        return model(*batch.inputs(), dropout=dropout)[0].position

    assert torch.equal(position(None), position(None))
    torch.testing.assert_close(position(None), make_model()(*batch.inputs())[0].position, **TIGHT)
    generator = torch.Generator().manual_seed(0)
    dropout = Dropout.with_rate(generator, 0.5)
    drawn = position(dropout)
    assert not torch.equal(drawn, position(dropout))
    generator.manual_seed(0)
    assert torch.equal(drawn, position(dropout))
    twice = {name: torch.stack([value, value]) for name, value in model.state_dict().items()}
    of_stack = Dropout.with_rate(generator, [0.5, 0.5])
    output, _ = stacked(model, twice, "", *(torch.stack([part, part]) for part in batch.inputs()), dropout=of_stack)
    assert not torch.equal(output.position[0], output.position[1])


def test_every_fault_of_a_configuration_is_named() -> None:
    assert ModelConfig().faults() == []
    assert ModelConfig(1, 2, 0, 1.0, 1, -1).faults() == [
        "model.d_hidden is 1, the least is 2",
        "model.lstm_layers is 0, the least is 1",
        "model.seq_len is 1, the least is 2",
        "model.n_context is -1, the least is 0",
        "model.n_heads is 2, more than d_hidden (1)",
        "model.dropout is 1.0, it must lie in [0, 1)",
    ]
