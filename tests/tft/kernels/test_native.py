"""Native code of a CPU: what only it has to hold, how it is compiled, and what happens where it cannot be."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tft.kernels.operations import OPERATIONS, SELECT_SHAPES, Shape
from tft.kernels.cpu import compiling, scan, select
from tft.kernels.cpu.buffers import Buffers
from tft.kernels.dropout_mask import Dropout, Mask, random_seeds

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # of the largest element
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@pytest.fixture
def nothing_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Simulate a new process of a user whose cache is empty."""
    monkeypatch.setattr(compiling, "_found", [])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TFT_NATIVE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    return monkeypatch


@pytest.fixture
def built(native: None) -> Path:
    """The library of the user's own cache."""
    return compiling._compiled()


def draw(*shapes: tuple[int, ...], dtype: torch.dtype, size: float = 1.0) -> list[Tensor]:
    draws = torch.Generator().manual_seed(0)
    return [size * torch.randn(*shape, generator=draws, dtype=torch.float64).to(dtype) for shape in shapes]


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    error = (ours - theirs).abs().max()
    assert error <= TOLERANCE[ours.dtype] * theirs.abs().max().clamp_min(1.0), error


def scan_inputs(k: int, n_steps: int, w: int, h: int, dtype: torch.dtype) -> list[Tensor]:
    """gates, weight, hidden, cell, d_states"""
    gates, weight, *rest = draw(
        (k, n_steps, w, 4 * h), (k, h, 4 * h), (k, w, h), (k, w, h), (k, n_steps, w, h), dtype=dtype
    )
    return [2.0 * gates, weight / math.sqrt(h), *rest]


def plain_scan(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    states = []
    for now in gates.unbind(1):
        admit, forget, emit, candidate = (now + hidden @ weight).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + admit.sigmoid() * candidate.tanh()
        hidden = emit.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states, dim=1)


def select_inputs(k: int, v: int, n: int, h: int, dtype: torch.dtype) -> tuple[list[Tensor], Mask]:
    """d_selected, x, weights and the parameters of the GRNs; which elements are dropped"""
    vector, pair = (k, v, h), (k, v, 2 * h)
    shapes = (vector, vector, (k, v, h, h), vector, (k, v, h, 2 * h), pair, vector, vector, vector, vector)
    d, x, weights, *grns = draw((k, n, h), (k, v, n), (k, v, n), *shapes, dtype=dtype)
    grns = [parameter / math.sqrt(h) if parameter.dim() == 4 else parameter for parameter in grns]
    _, threshold, scale = Dropout.with_rate(torch.Generator(), [0.1 + 0.2 * fold for fold in range(k)])
    mask = Mask(random_seeds(k, torch.Generator().manual_seed(1)), threshold, scale)
    return [d, x, torch.softmax(weights, dim=1), *grns], mask


def plain_select(x: Tensor, weights: Tensor, *grns: Tensor, mask: Mask | None) -> Tensor:
    constant, slope, second_bias, gate_bias, norm_weight, norm_bias, embed_weight, embed_bias = (
        grns[i].unsqueeze(-2) for i in (0, 1, 3, 5, 6, 7, 8, 9)
    )
    column = x.unsqueeze(-1)
    second = F.elu(constant + column * slope) @ grns[2] + second_bias
    if mask is not None:
        second = second * mask.factor(range(x[0].numel()), second.shape[-1], second.dtype).view(second.shape)
    skip = column * embed_weight + embed_bias + F.glu(second @ grns[4] + gate_bias, dim=-1)
    transformed = F.layer_norm(skip, skip.shape[-1:]) * norm_weight + norm_bias
    return (weights.unsqueeze(-1) * transformed).sum(dim=1)


@pytest.mark.usefixtures("native")
@DTYPES
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_second_layer_of_zeros_is_told_from_dropped_elements(zero: float, dtype: torch.dtype) -> None:
    """It has a gradient where nothing was dropped."""
    (d_selected, *inputs), mask = select_inputs(2, 2, 70, 48, dtype)
    inputs[4].fill_(zero)
    inputs[5].fill_(zero)
    leaves = [value.clone().requires_grad_(True) for value in inputs]
    x, weights, *grns = inputs
    kept = select.forward(x, weights, grns, mask, for_backward=True)[1]
    ours = select.backward(d_selected, x, weights, grns, mask, kept)[1]
    theirs = torch.autograd.grad(plain_select(*leaves, mask=mask), leaves[2:], d_selected)
    assert (theirs[3] != 0.0).all()
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b)


@pytest.mark.usefixtures("native")
@DTYPES
@pytest.mark.parametrize("shape", SELECT_SHAPES, ids=str)
def test_a_selection_gives_the_same_bits_however_much_it_keeps(
    shape: Shape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradients are those of nothing, one variable of each fold, and all of them kept."""
    given = [t.to(dtype) if t.dtype == torch.float32 else t for t in OPERATIONS["select"].inputs(*shape)]
    d_selected, x, weights, *grns = given[:13]
    mask = Mask(*given[13:]) if given[13:] else None
    whole = select.forward(x, weights, grns, mask, for_backward=True)[1]
    assert whole is not None and whole.shape[:2] == x.shape[:2]
    one = whole.numel() * whole.element_size() // shape[1]

    def everything(n_bytes: int, *, n_kept: int, for_backward: bool = True) -> list[Tensor]:
        monkeypatch.setattr(select, "KEPT_BYTES", n_bytes)
        selected, kept = select.forward(x, weights, grns, mask, for_backward=for_backward)
        assert n_kept == (0 if kept is None else kept.shape[1])
        d_weights, d_grns = select.backward(d_selected, x, weights, grns, mask, kept)
        return [selected, d_weights, *d_grns]

    expected = everything(2**28, n_kept=0, for_backward=False)
    for found in (everything(one - 1, n_kept=0), everything(one, n_kept=1), everything(2**28, n_kept=shape[1])):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.mark.usefixtures("native")
@DTYPES
def test_extreme_gates_saturate_and_a_nan_stays_one(dtype: torch.dtype) -> None:
    """A diverging training must be seen to diverge."""
    gates, weight, hidden, cell, _ = scan_inputs(1, 1, 3, 4, dtype)
    gates[0, 0, 0], gates[0, 0, 1], gates[0, 0, 2] = 1e30, -1e30, float("nan")
    states = scan.forward(gates, None, weight, hidden, cell, for_backward=False)[0][0, 0]
    assert_close(states[:2], plain_scan(gates, weight, hidden, cell)[0, 0, :2])
    assert states[2].isnan().all()

    (_, x, weights, *grns), _ = select_inputs(1, 2, 3, 4, dtype)
    x[0, 0, 1], grns[5][0, 1, 4] = 1e4, -1e30  # a first layer and a gate
    selected = select.forward(x, weights, grns, None, for_backward=False)[0]
    assert_close(selected, plain_select(x, weights, *grns, mask=None))
    grns[0][0, 1, 2] = float("nan")
    assert select.forward(x, weights, grns, None, for_backward=False)[0].isnan().all()


def test_the_environment_switches_native_code_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFT_NATIVE", "0")
    assert compiling.unavailable() == "TFT_NATIVE=0"


@pytest.mark.parametrize("named", [None, "no-such-compiler -O1"])
def test_without_a_compiler_there_is_a_reason(
    nothing_found: pytest.MonkeyPatch, tmp_path: Path, named: str | None
) -> None:
    nothing_found.setenv("PATH", str(tmp_path))
    if named:
        nothing_found.setenv("CXX", named)
    reasons = {compiling.unavailable(), compiling.unavailable()}
    assert reasons == {f"no C++ compiler ({named or 'c++, g++, clang++'})"}


def test_a_build_that_fails_says_why_and_leaves_nothing(nothing_found: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'native.cpp:1: error: not today' >&2\nexit 1\n")
    compiler.chmod(0o700)
    nothing_found.setenv("CXX", str(compiler))
    assert compiling.unavailable() == f"{compiler}: native.cpp:1: error: not today"
    assert list((tmp_path / "cache").rglob("*")) == [tmp_path / "cache" / "tft-native"]


def test_a_library_is_built_once_and_then_found_until_a_source_changes(
    built: Path, nothing_found: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a compiler that only copies a file: the test counts its calls."""
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\necho called >> {calls}\nfor last; do :; done\ncp "{built}" "$last"\n')
    compiler.chmod(0o700)
    nothing_found.setenv("CXX", str(compiler))
    for _ in range(2):
        nothing_found.setattr(compiling, "_found", [])
        assert compiling.unavailable() is None
    assert calls.read_text() == "called\n"
    (left,) = (tmp_path / "cache" / "tft-native").iterdir()
    assert left.suffix == ".so"
    sources = tmp_path / "sources"
    shutil.copytree(compiling.FOLDER, sources, ignore=shutil.ignore_patterns("__pycache__"))
    nothing_found.setattr(compiling, "FOLDER", sources)
    nothing_found.setattr(compiling, "UNIT", sources / "native.cpp")
    assert compiling._compiled() == left  # wherever the sources lie
    included = sorted(path for path in sources.iterdir() if path.suffix in (".h", ".cpp"))
    assert len(included) == 7
    names = {left}
    for path in included:
        path.write_text(path.read_text() + "// changed\n")
        names.add(compiling._compiled())
    assert len(names) == 1 + len(included)


def test_the_memory_of_a_buffer_is_used_again_once_it_is_gone_and_not_before() -> None:
    buffers = Buffers()
    first, second = buffers.take(1000), buffers.take(1000)
    assert first.data_ptr() != second.data_ptr()
    assert first.data_ptr() % 64 == second.data_ptr() % 64 == 0
    address, part = first.data_ptr(), first[10:]
    del first
    assert buffers.take(500).data_ptr() != address  # a part of it is still in use
    del part
    assert buffers.take(900).data_ptr() == address
    assert len(buffers.take(5000)) == 5000
