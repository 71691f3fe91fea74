"""The LSTM scan of recurrent.py as two Triton kernels, one launch forward and one backward, for an NVIDIA GPU.

A program owns a block of B windows of one fold and walks through all L bars; the state stays on the chip between bars.
Everything is float32, products included. No size is tuned at run time: both launches can be captured in a CUDA graph.

Shapes: K folds, L look-back bars, W windows, H hidden, B windows of a program, C columns of a tile.
Gates are laid out input | forget | output | candidate along the last dimension of size 4H. H is cut into tiles of C
columns, the last one padded with zeros: zero gates and a zero state stay a zero state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:  # a build of torch for the CPU comes without
    triton = None


class Plan(NamedTuple):
    """How the kernels are cut for a width H."""

    tile: int
    """Columns of a tile: a power of two from 16."""
    keep: bool
    """Whether the weight stays on the chip for the whole scan; otherwise it is read again at every bar."""
    n_warps: int
    n_stages: int
    """2 loads the next bar while this one is computed, which takes shared memory."""
    block: int = 16
    """Windows of a program."""
    precision: str = "ieee"
    """Of the products, as tl.dot names it."""


def plan(width: int) -> Plan:
    """Chosen to fit 99 KiB of shared memory and to spill hardly any registers."""
    if width <= 64:
        return Plan(tile=16, keep=True, n_warps=4, n_stages=2 if width <= 48 else 1)
    return Plan(tile=32, keep=False, n_warps=8, n_stages=1)


@cache
def available(device: torch.device) -> bool:
    """Whether Triton kernels for float32 run on this device. Found out once, by running one."""
    if triton is None or device.type != "cuda" or torch.version.cuda is None:
        return False
    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    # Kernels with tuples of tensors; 96 KiB of shared memory or more.
    if version < (3, 3) or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        gates, state = torch.zeros(1, 2, 1, 64, device=device), torch.zeros(1, 1, 16, device=device)
        scan_forward(gates, torch.zeros(1, 16, 64, device=device), state, state)
    except Exception as error:  # Triton has no exception of its own for a machine without a C compiler
        warnings.warn(f"no Triton kernels, torch takes several times as long: {error}", stacklevel=2)
        return False
    return True


def takes(tensor: Tensor) -> bool:
    """Whether the scan of this tensor can be done here."""
    return tensor.dtype == torch.float32 and available(tensor.device)


def scan_forward(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States and cells (K, L, W, H), and the gates after their nonlinearities (K, L, W, 4H).

    gates (K, L, W, 4H) · weight (K, H, 4H) · hidden, cell (K, W, H) initial states.
    """
    n_folds, n_steps, n_windows, _ = gates.shape
    gates, weight, hidden, cell = _checked(gates, weight, hidden, cell)
    states = gates.new_empty(n_folds, n_steps, n_windows, hidden.shape[-1])
    cells = torch.empty_like(states)
    active = torch.empty_like(gates)
    _launch(_forward, states, (gates, weight, hidden, cell, states, cells, active))
    return states, cells, active


def scan_backward(
    d_states: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, states: Tensor, cells: Tensor, active: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the gates (K, L, W, 4H) and of the initial states (K, W, H).

    From d_states (K, L, W, H) and what scan_forward took and gave. The gradient of the weight, one matrix product over
    all steps, is the caller's: for it alone hidden and states would be needed.
    """
    d_states, weight, cell, cells, active = _checked(d_states, weight, cell, cells, active)
    d_gates = torch.empty_like(active)
    d_hidden = torch.empty_like(cell)
    d_cell = torch.empty_like(cell)
    _launch(_backward, cells, (d_states, weight, cell, cells, active, d_gates, d_hidden, d_cell))
    return d_gates, d_hidden, d_cell


def _checked(*tensors: Tensor) -> list[Tensor]:
    """Laid out as the kernels address them."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"the kernels are float32, got {tensor.dtype}: use the scan of tft/recurrent.py")
    return [tensor.contiguous() for tensor in tensors]


def _launch(kernel: Any, states: Tensor, tensors: tuple[Tensor, ...]) -> None:
    n_folds, n_steps, n_windows, width = states.shape
    tile, keep, n_warps, n_stages, block, precision = plan(width)
    sizes = (n_windows, n_steps, width, tile, triton.cdiv(width, tile), keep, block, precision, n_stages)
    with torch.cuda.device_of(states):
        kernel[triton.cdiv(n_windows, block), n_folds](*tensors, *sizes, num_warps=n_warps)


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-x))


@_jit
def _tanh(x: tl.tensor) -> tl.tensor:
    """Odd polynomial near 0, where 1 - 2 / (exp(2x) + 1) would cancel; relative error about 1e-7 everywhere."""
    square = x * x
    near = -0.05266802757978439 + square * 0.016432009637355804
    near = -0.3333294093608856 + square * (0.13320642709732056 + square * near)
    near = x + x * square * near
    far = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * tl.abs(x)))
    return tl.where(tl.abs(x) < 0.55, near, tl.where(x < 0.0, -far, far))


@_jit
def _tile(
    weight: tl.tensor, gate: tl.constexpr, row: tl.constexpr, column: tl.constexpr, H: tl.constexpr, C: tl.constexpr
) -> tl.tensor:
    """The (C, C) tile of a gate's (H, H) weight from this row and column of tiles."""
    rows = row * C + tl.arange(0, C)
    columns = column * C + tl.arange(0, C)
    seen = (rows < H)[:, None] & (columns < H)[None, :]
    return tl.load(weight + rows[:, None] * (4 * H) + columns[None, :] + gate * H, mask=seen, other=0.0)


@_jit
def _kept(weight: tl.tensor, H: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr, KEEP: tl.constexpr) -> tl.tuple:
    """All tiles of the weight, by row, column and gate, where it is to stay on the chip."""
    kept: tl.tuple = ()
    if KEEP:
        for row in tl.static_range(TILES):
            for column in tl.static_range(TILES):
                for gate in tl.static_range(4):
                    kept += (_tile(weight, gate, row, column, H, C),)
    return kept


@_jit
def _forward(
    gates: tl.tensor,  # (K, L, W, 4H)
    weight: tl.tensor,  # (K, H, 4H)
    hidden: tl.tensor,  # (K, W, H)
    cell: tl.tensor,  # (K, W, H)
    states: tl.tensor,  # (K, L, W, H), out
    cells: tl.tensor,  # (K, L, W, H), out
    active: tl.tensor,  # (K, L, W, 4H), out
    n_windows: tl.tensor,
    L: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    KEEP: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * B + tl.arange(0, B)
    columns = tl.arange(0, C)
    inside = (rows < n_windows)[:, None]
    narrow = rows[:, None] * H + columns[None, :]  # (B, C) in (W, H)
    wide = rows[:, None] * (4 * H) + columns[None, :]  # (B, C) in (W, 4H)
    fold = tl.program_id(1).to(tl.int64)
    first = fold * n_windows * H
    weight += fold * H * 4 * H
    states += first * L
    cells += first * L
    gates += first * L * 4
    active += first * L * 4

    h: tl.tuple = ()
    c: tl.tuple = ()
    for tile in tl.static_range(TILES):
        seen = inside & (tile * C + columns < H)[None, :]
        h += (tl.load(hidden + first + narrow + tile * C, mask=seen, other=0.0),)
        c += (tl.load(cell + first + narrow + tile * C, mask=seen, other=0.0),)
    kept = _kept(weight, H, C, TILES, KEEP)

    for _ in tl.range(0, L, num_stages=STAGES):
        gated: tl.tuple = ()  # four a tile: what goes into the gates, (B, C)
        for tile in tl.static_range(TILES):
            seen = inside & (tile * C + columns < H)[None, :]
            for gate in tl.static_range(4):
                gated += (tl.load(gates + wide + gate * H + tile * C, mask=seen, other=0.0),)
        for source in tl.static_range(TILES):
            summed: tl.tuple = ()
            for tile in tl.static_range(TILES):
                for gate in tl.static_range(4):
                    if KEEP:
                        w = kept[(source * TILES + tile) * 4 + gate]
                    else:
                        w = _tile(weight, gate, source, tile, H, C)
                    summed += (tl.dot(h[source], w, gated[4 * tile + gate], input_precision=PRECISION),)
            gated = summed
        next_h: tl.tuple = ()
        next_c: tl.tuple = ()
        for tile in tl.static_range(TILES):
            seen = inside & (tile * C + columns < H)[None, :]
            at = wide + tile * C
            keep = _sigmoid(gated[4 * tile])
            forget = _sigmoid(gated[4 * tile + 1])
            emit = _sigmoid(gated[4 * tile + 2])
            candidate = _tanh(gated[4 * tile + 3])
            new_c = forget * c[tile] + keep * candidate
            new_h = emit * _tanh(new_c)
            tl.store(active + at, keep, mask=seen)
            tl.store(active + at + H, forget, mask=seen)
            tl.store(active + at + 2 * H, emit, mask=seen)
            tl.store(active + at + 3 * H, candidate, mask=seen)
            tl.store(cells + narrow + tile * C, new_c, mask=seen)
            tl.store(states + narrow + tile * C, new_h, mask=seen)
            next_h += (new_h,)
            next_c += (new_c,)
        h = next_h
        c = next_c
        gates += n_windows * 4 * H
        active += n_windows * 4 * H
        states += n_windows * H
        cells += n_windows * H


@_jit
def _backward(
    d_states: tl.tensor,  # (K, L, W, H)
    weight: tl.tensor,  # (K, H, 4H)
    cell: tl.tensor,  # (K, W, H)
    cells: tl.tensor,  # (K, L, W, H)
    active: tl.tensor,  # (K, L, W, 4H)
    d_gates: tl.tensor,  # (K, L, W, 4H), out
    d_hidden: tl.tensor,  # (K, W, H), out
    d_cell: tl.tensor,  # (K, W, H), out
    n_windows: tl.tensor,
    L: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
    TILES: tl.constexpr,
    KEEP: tl.constexpr,
    B: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    rows = tl.program_id(0) * B + tl.arange(0, B)
    columns = tl.arange(0, C)
    inside = (rows < n_windows)[:, None]
    narrow = rows[:, None] * H + columns[None, :]  # (B, C) in (W, H)
    wide = rows[:, None] * (4 * H) + columns[None, :]  # (B, C) in (W, 4H)
    fold = tl.program_id(1).to(tl.int64)
    first = fold * n_windows * H
    last = (fold * L + L - 1) * n_windows * H  # the last step of this fold
    weight += fold * H * 4 * H
    d_states += last
    cells += last
    active += last * 4
    d_gates += last * 4

    c: tl.tuple = ()
    nothing: tl.tuple = ()
    for tile in tl.static_range(TILES):
        seen = inside & (tile * C + columns < H)[None, :]
        c += (tl.load(cells + narrow + tile * C, mask=seen, other=0.0),)
        nothing += (tl.zeros((B, C), tl.float32),)
    d_h = nothing  # gradients of the state and the cell that a step hands to the next
    d_c = nothing
    kept = _kept(weight, H, C, TILES, KEEP)

    for back in tl.range(0, L, num_stages=STAGES):
        cells = cells - n_windows * H if back < L - 1 else cell + first
        next_c: tl.tuple = ()
        next_d_c: tl.tuple = ()
        d: tl.tuple = ()
        for tile in tl.static_range(TILES):
            seen = inside & (tile * C + columns < H)[None, :]
            at = wide + tile * C
            keep = tl.load(active + at, mask=seen, other=0.0)
            forget = tl.load(active + at + H, mask=seen, other=0.0)
            emit = tl.load(active + at + 2 * H, mask=seen, other=0.0)
            candidate = tl.load(active + at + 3 * H, mask=seen, other=0.0)
            before = tl.load(cells + narrow + tile * C, mask=seen, other=0.0)
            d_emitted = (d_h[tile] + tl.load(d_states + narrow + tile * C, mask=seen, other=0.0)) * emit
            squashed = _tanh(c[tile])
            d_new = d_c[tile] + d_emitted - d_emitted * squashed * squashed
            d_keep = d_new * candidate * (keep - keep * keep)
            d_forget = d_new * before * (forget - forget * forget)
            d_emit = d_emitted * squashed * (1.0 - emit)
            d_candidate = d_new * keep * (1.0 - candidate * candidate)
            tl.store(d_gates + at, d_keep, mask=seen)
            tl.store(d_gates + at + H, d_forget, mask=seen)
            tl.store(d_gates + at + 2 * H, d_emit, mask=seen)
            tl.store(d_gates + at + 3 * H, d_candidate, mask=seen)
            next_c += (before,)
            next_d_c += (d_new * forget,)
            d += (d_keep, d_forget, d_emit, d_candidate)
        d_h = nothing
        for source in tl.static_range(TILES):
            for gate in tl.static_range(4):
                summed: tl.tuple = ()
                for tile in tl.static_range(TILES):
                    if KEEP:
                        w = kept[(tile * TILES + source) * 4 + gate]
                    else:
                        w = _tile(weight, gate, tile, source, H, C)
                    summed += (tl.dot(d[4 * source + gate], tl.trans(w), d_h[tile], input_precision=PRECISION),)
                d_h = summed
        c = next_c
        d_c = next_d_c
        d_states -= n_windows * H
        active -= n_windows * 4 * H
        d_gates -= n_windows * 4 * H

    for tile in tl.static_range(TILES):
        seen = inside & (tile * C + columns < H)[None, :]
        tl.store(d_hidden + first + narrow + tile * C, d_h[tile], mask=seen)
        tl.store(d_cell + first + narrow + tile * C, d_c[tile], mask=seen)
