"""The variable selection of selection.py as Triton kernels, one launch forward and two backward, for an NVIDIA GPU.

A program takes a block of B cells of one variable through the whole chain on the chip. Forward it goes over variables
and keeps the sum of its cells; backward it goes over the cells of one variable, computes the chain again and keeps the
sums that are that variable's gradients. The backward is cut in two at the second layer: the gradients of all three
matrices at once do not fit a program's registers. Where those programs are too few for a GPU, each sum is cut into S
parts that are added afterwards: no two programs write to one place, so that a repetition agrees to the last bit. No
size is tuned at run time: the launches can be captured in a CUDA graph.

Shapes: K folds, V variables, N cells, H hidden width, P = H up to a power of two, the rest zeros, B cells of a block,
S parts of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tft.dropout import Mask
from tft.scan_gpu import available

try:
    import triton  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import triton.language as tl  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:  # a build of torch for the CPU comes without
    triton = None

MAX_WIDTH = 64
"""Above it three gradients of (H, H) do not fit a program's registers."""
NORM_EPSILON = 1e-5


class Plan(NamedTuple):
    """How a kernel is cut."""

    block: int
    """Cells of a program at a time: a power of two from 16."""
    n_warps: int
    n_stages: int
    """2 loads the next weights while these are used, which takes shared memory."""
    precision: str = "tf32x3"
    """Of the products, as tl.dot names it: as close as float32 in three passes of the tensor cores, or "ieee"."""


FORWARD = Plan(block=64, n_warps=4, n_stages=1)
BACKWARD_GATE = Plan(block=32, n_warps=4, n_stages=1)
BACKWARD_LAYERS = Plan(block=32, n_warps=4, n_stages=1)
N_PROGRAMS = 1024
"""Of a launch at least, if there is that much to share out: several for each of a GPU's multiprocessors."""


def takes(x: Tensor, h: int) -> bool:
    """Whether the selection of this tensor with this width can be done here."""
    return x.dtype == torch.float32 and h <= MAX_WIDTH and available(x.device)


def select_forward(x: Tensor, weights: Tensor, grns: Sequence[Tensor], mask: Mask | None) -> Tensor:
    """The weighted sum of the transformed variables (K, N, H).

    x, weights (K, V, N) · grns as in selection.VariableGRNs, all with a leading K · mask of rows V * N, or None where
    nothing is dropped.
    """
    x, weights, *grns = _checked(x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    n_blocks = -(-n_cells // FORWARD.block)
    n_each, n_parts = _shares(n_variables, n_blocks * n_folds)
    parts = x.new_empty(n_parts, n_folds, n_cells, width)
    sizes = (n_folds, n_variables, n_cells, n_each, width, _padded(width), *_fixed(FORWARD))
    with torch.cuda.device_of(x):
        grid = (n_blocks, n_folds, n_parts)
        _forward[grid](x, weights, *grns, *_of_folds(mask), parts, *sizes, num_warps=FORWARD.n_warps)
    return parts[0] if n_parts == 1 else parts.sum(dim=0)


def select_backward(
    d_selected: Tensor,
    x: Tensor,
    weights: Tensor,
    grns: Sequence[Tensor],
    mask: Mask | None,
) -> tuple[Tensor, list[Tensor]]:
    """From d_selected (K, N, H) and what select_forward took -> gradients of weights and of grns."""
    d_selected, x, weights, *grns = _checked(d_selected, x, weights, *grns)
    (n_folds, n_variables, n_cells), width = x.shape, grns[0].shape[-1]
    largest = max(BACKWARD_GATE.block, BACKWARD_LAYERS.block)
    n_cells_each, n_parts = _shares(n_cells, n_folds * n_variables, multiple=largest)
    d_weights = torch.empty_like(weights)
    d_second = x.new_empty(n_folds, n_variables, n_cells, width)  # of what the second layer gives
    n_values = [parameter.numel() for parameter in grns]
    parts = x.new_empty(n_parts, sum(n_values))  # the gradients of the parameters one after the other
    d_constant, d_slope, d_second_weight, *d_rest = d_grns = parts[0].split(n_values)
    constant, slope, second_weight = grns[:3]
    grid = (n_folds * n_variables, n_parts)
    sizes = (parts.shape[1], n_variables, n_cells, n_cells_each, width, _padded(width))
    with torch.cuda.device_of(x):
        tensors = (d_selected, x, weights, *grns, *_of_folds(mask), d_weights, d_second, *d_rest)
        own = (*sizes, *_fixed(BACKWARD_GATE))
        _backward_gate[grid](*tensors, *own, num_warps=BACKWARD_GATE.n_warps)
        of_layers = (d_second, x, constant, slope, second_weight, d_constant, d_slope, d_second_weight)
        _backward_layers[grid](*of_layers, *sizes, *_fixed(BACKWARD_LAYERS), num_warps=BACKWARD_LAYERS.n_warps)
    if n_parts > 1:
        d_grns = parts.sum(dim=0).split(n_values)
    return d_weights, [d.view(parameter.shape) for d, parameter in zip(d_grns, grns, strict=True)]


def _of_folds(mask: Mask | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Seeds, thresholds and scales (K,) as the kernels take them."""
    if mask is None:
        return None, None, None
    return mask.seeds.contiguous(), mask.threshold.int(), mask.scale.float()


def _checked(*tensors: Tensor) -> list[Tensor]:
    """Laid out as the kernels address them."""
    for tensor in tensors:
        if tensor.dtype != torch.float32:
            raise ValueError(f"the kernels are float32, got {tensor.dtype}: use the selection of tft/selection.py")
    if tensors[-1].shape[-1] > MAX_WIDTH:
        raise ValueError(f"the kernels take widths up to {MAX_WIDTH}, got {tensors[-1].shape[-1]}")
    return [tensor.contiguous() for tensor in tensors]


def _shares(n_terms: int, n_sums: int, *, multiple: int = 1) -> tuple[int, int]:
    """Terms of a part, a multiple, and parts of each sum, from the shapes alone."""
    n_units = -(-n_terms // multiple)
    n_each = -(-n_units // min(n_units, -(-N_PROGRAMS // n_sums)))
    return n_each * multiple, -(-n_units // n_each)


def _padded(width: int) -> int:
    """A power of two from 16, which is what the products take."""
    return max(16, 1 << (width - 1).bit_length())


def _fixed(plan: Plan) -> tuple[int, float, str, int]:
    return plan.block, NORM_EPSILON, plan.precision, plan.n_stages


def _jit(function: Callable[..., Any]) -> Any:
    return function if triton is None else triton.jit(function)


@_jit
def _vector(vectors: tl.tensor, own: tl.tensor, H: tl.constexpr, P: tl.constexpr) -> tl.tensor:
    """(P, 1): the own-th of vectors (..., H)."""
    at = tl.arange(0, P)
    return tl.load(vectors + own * H + at, mask=at < H, other=0.0)[:, None]


@_jit
def _matrix(
    matrices: tl.tensor,
    own: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    DOWN: tl.constexpr,
    ALONG: tl.constexpr,
    PRECISION: tl.constexpr,
) -> tl.tuple:
    """(P, P), split: the own-th of matrices, with these steps from row to row and along a row."""
    at = tl.arange(0, P)
    seen = (at < H)[:, None] & (at < H)[None, :]
    start = matrices + own * (H * tl.maximum(DOWN, ALONG))
    return _split(tl.load(start + at[:, None] * DOWN + at[None, :] * ALONG, mask=seen, other=0.0), PRECISION)


@_jit
def _factor(
    seeds: tl.tensor, thresholds: tl.tensor, scales: tl.tensor, fold: tl.tensor, element: tl.tensor
) -> tl.tensor:
    """(P, B): 0 where the element is dropped, else the scale; see dropout.seeded_bits."""
    seed = tl.load(seeds + fold)
    x = element.to(tl.uint32) + (seed & 0xFFFFFFFF).to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15) ^ ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)) * 0x846CA68B
    bits = (x ^ (x >> 16)).to(tl.int32, bitcast=True) >> 16
    return tl.where(bits >= tl.load(thresholds + fold), tl.load(scales + fold), 0.0)


@_jit
def _hidden(x: tl.tensor, constant: tl.tensor, slope: tl.tensor) -> tl.tensor:
    """(P, B) after the ELU of the first layer; 0 beyond H."""
    affine = constant + slope * x
    return tl.maximum(affine, 0.0) + (tl.exp(tl.minimum(affine, 0.0)) - 1.0)


@_jit
def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1.0 / (1.0 + tl.exp(-x))


@_jit
def _normed(skip: tl.tensor, inside: tl.tensor, H: tl.constexpr, EPSILON: tl.constexpr) -> tl.tuple:
    """(P, B) with mean 0 and variance 1 over the H rows inside, 0 beyond, and the inverse deviation (1, B)."""
    mean = tl.sum(skip, axis=0)[None, :] / H
    centred = tl.where(inside, skip - mean, 0.0)
    inverse_std = tl.rsqrt(tl.sum(centred * centred, axis=0)[None, :] / H + EPSILON)
    return centred * inverse_std, inverse_std


@_jit
def _split(x: tl.tensor, PRECISION: tl.constexpr) -> tl.tuple:
    """What the tensor cores see of x, and the rest of it."""
    if PRECISION == "tf32x3":
        high = ((x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
        return high, x - high
    else:
        return x, x


@_jit
def _turned(split: tl.tuple) -> tl.tuple:
    return tl.trans(split[0]), tl.trans(split[1])


@_jit
def _dot(a: tl.tuple, b: tl.tuple, PRECISION: tl.constexpr) -> tl.tensor:
    """The product of two matrices that were split: its small terms first, without the product of the two rests.

    Not by tl.dot's own "tf32x3", which splits once a product and in a layout that takes several times the registers.
    """
    if PRECISION == "tf32x3":
        product = tl.dot(a[1], b[0], input_precision="tf32")
        product = tl.dot(a[0], b[1], product, input_precision="tf32")
        return tl.dot(a[0], b[0], product, input_precision="tf32")
    else:
        return tl.dot(a[0], b[0], input_precision=PRECISION)


@_jit
def _forward(
    x: tl.tensor,  # (K, V, N)
    weights: tl.tensor,  # (K, V, N)
    constant: tl.tensor,  # (K, V, H)
    slope: tl.tensor,  # (K, V, H)
    second_weight: tl.tensor,  # (K, V, H, H)
    second_bias: tl.tensor,  # (K, V, H)
    gate_weight: tl.tensor,  # (K, V, H, 2H)
    gate_bias: tl.tensor,  # (K, V, 2H)
    norm_weight: tl.tensor,  # (K, V, H)
    norm_bias: tl.tensor,  # (K, V, H)
    embed_weight: tl.tensor,  # (K, V, H)
    embed_bias: tl.tensor,  # (K, V, H)
    seeds: tl.tensor,  # (K,) or None, as both that follow
    thresholds: tl.tensor,
    scales: tl.tensor,
    parts: tl.tensor,  # (S, K, N, H), out
    n_folds: tl.tensor,
    n_variables: tl.tensor,
    n_cells: tl.tensor,
    n_each: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    EPSILON: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    cells = tl.program_id(0) * B + tl.arange(0, B)
    there = cells < n_cells
    rows = tl.arange(0, P)[:, None]
    inside = rows < H
    seen = inside & there[None, :]
    at = cells[None, :] * H + rows  # (P, B) in (N, H)
    fold = tl.program_id(1).to(tl.int64)
    first = tl.program_id(2) * n_each

    total = tl.zeros((P, B), tl.float32)
    for variable in tl.range(first, tl.minimum(first + n_each, n_variables), num_stages=STAGES):
        own = fold * n_variables + variable
        own_x = tl.load(x + own * n_cells + cells, mask=there, other=0.0)[None, :]
        own_weights = tl.load(weights + own * n_cells + cells, mask=there, other=0.0)[None, :]
        hidden = _hidden(own_x, _vector(constant, own, H, P), _vector(slope, own, H, P))
        split_hidden = _split(hidden, PRECISION)
        kept = _dot(_matrix(second_weight, own, H, P, 1, H, PRECISION), split_hidden, PRECISION)
        kept += _vector(second_bias, own, H, P)
        if seeds is not None:
            kept *= _factor(seeds, thresholds, scales, fold, variable * n_cells * H + at)
        split_kept = _split(kept, PRECISION)
        value = _dot(_matrix(gate_weight, own, H, P, 1, 2 * H, PRECISION), split_kept, PRECISION)
        gate = _dot(_matrix(gate_weight + H, own, H, P, 1, 2 * H, PRECISION), split_kept, PRECISION)
        value += _vector(gate_bias, 2 * own, H, P)
        gate = _sigmoid(gate + _vector(gate_bias, 2 * own + 1, H, P))
        skip = _vector(embed_bias, own, H, P) + _vector(embed_weight, own, H, P) * own_x
        normed, _ = _normed(skip + value * gate, inside, H, EPSILON)
        total += own_weights * (normed * _vector(norm_weight, own, H, P) + _vector(norm_bias, own, H, P))
    part = tl.program_id(2).to(tl.int64) * n_folds + fold
    tl.store(parts + part * n_cells * H + at, total, mask=seen)


@_jit
def _backward_gate(
    d_selected: tl.tensor,  # (K, N, H)
    x: tl.tensor,  # (K, V, N)
    weights: tl.tensor,  # (K, V, N)
    constant: tl.tensor,  # (K, V, H)
    slope: tl.tensor,  # (K, V, H)
    second_weight: tl.tensor,  # (K, V, H, H)
    second_bias: tl.tensor,  # (K, V, H)
    gate_weight: tl.tensor,  # (K, V, H, 2H)
    gate_bias: tl.tensor,  # (K, V, 2H)
    norm_weight: tl.tensor,  # (K, V, H)
    norm_bias: tl.tensor,  # (K, V, H)
    embed_weight: tl.tensor,  # (K, V, H)
    embed_bias: tl.tensor,  # (K, V, H)
    seeds: tl.tensor,  # (K,) or None, as both that follow
    thresholds: tl.tensor,
    scales: tl.tensor,
    d_weights: tl.tensor,  # (K, V, N), out
    d_second: tl.tensor,  # (K, V, N, H), out: gradient of what the second layer gives
    d_second_bias: tl.tensor,  # (S, K, V, H), out, as all that follow
    d_gate_weight: tl.tensor,
    d_gate_bias: tl.tensor,
    d_norm_weight: tl.tensor,
    d_norm_bias: tl.tensor,
    d_embed_weight: tl.tensor,
    d_embed_bias: tl.tensor,
    part_stride: tl.tensor,
    n_variables: tl.tensor,
    n_cells: tl.tensor,
    n_each: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    EPSILON: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """The forward again, and from the weighted sum back to what the second layer gives."""
    rows = tl.arange(0, P)
    inside = rows < H
    own = tl.program_id(0).to(tl.int64)  # fold and variable
    fold = own // n_variables
    d_selected += fold * n_cells * H
    first = tl.program_id(1) * n_each
    own_constant = _vector(constant, own, H, P)
    own_slope = _vector(slope, own, H, P)
    own_second_bias = _vector(second_bias, own, H, P)
    own_value_bias = _vector(gate_bias, 2 * own, H, P)
    own_gate_bias = _vector(gate_bias, 2 * own + 1, H, P)
    own_norm_weight = _vector(norm_weight, own, H, P)
    own_norm_bias = _vector(norm_bias, own, H, P)
    own_embed_weight = _vector(embed_weight, own, H, P)
    own_embed_bias = _vector(embed_bias, own, H, P)

    sum_value = tl.zeros((P, P), tl.float32)  # gradients of the two halves of the gate's matrix, transposed
    sum_gate = tl.zeros((P, P), tl.float32)
    sum_second_bias = tl.zeros((P,), tl.float32)  # and of the vectors
    sum_value_bias = tl.zeros((P,), tl.float32)
    sum_gate_bias = tl.zeros((P,), tl.float32)
    sum_norm_weight = tl.zeros((P,), tl.float32)
    sum_norm_bias = tl.zeros((P,), tl.float32)
    sum_embed_weight = tl.zeros((P,), tl.float32)
    sum_embed_bias = tl.zeros((P,), tl.float32)
    for start in tl.range(first, tl.minimum(first + n_each, n_cells), B, num_stages=STAGES):
        cells = start + tl.arange(0, B)
        there = cells < n_cells
        seen = inside[:, None] & there[None, :]
        at = cells[None, :] * H + rows[:, None]  # (P, B) in (N, H)
        own_x = tl.load(x + own * n_cells + cells, mask=there, other=0.0)[None, :]
        own_weights = tl.load(weights + own * n_cells + cells, mask=there, other=0.0)[None, :]
        here = own + tl.minimum(start, 0)  # own: with it alone all addresses of weights would be kept in registers
        # The forward again
        split_hidden = _split(_hidden(own_x, own_constant, own_slope), PRECISION)
        kept = _dot(_matrix(second_weight, here, H, P, 1, H, PRECISION), split_hidden, PRECISION) + own_second_bias
        if seeds is not None:
            factor = _factor(seeds, thresholds, scales, fold, (own % n_variables) * n_cells * H + at)
            kept *= factor
        split_kept = _split(kept, PRECISION)
        value = _dot(_matrix(gate_weight, here, H, P, 1, 2 * H, PRECISION), split_kept, PRECISION) + own_value_bias
        gate = _dot(_matrix(gate_weight + H, here, H, P, 1, 2 * H, PRECISION), split_kept, PRECISION) + own_gate_bias
        gate = _sigmoid(gate)
        skip = own_embed_bias + own_embed_weight * own_x
        normed, inverse_std = _normed(skip + value * gate, inside[:, None], H, EPSILON)
        # The weighted sum and the layer norm
        d = tl.load(d_selected + at, mask=seen, other=0.0)
        d_normed = d * own_norm_weight  # without its selection weight
        along = tl.sum(d_normed * normed, axis=0)
        tl.store(d_weights + own * n_cells + cells, along + tl.sum(d * own_norm_bias, axis=0), mask=there)
        weighted = d * own_weights
        sum_norm_bias += tl.sum(weighted, axis=1)
        sum_norm_weight += tl.sum(weighted * normed, axis=1)
        across = tl.sum(d_normed, axis=0)[None, :] / H
        d_skip = (d_normed - across - normed * (along[None, :] / H)) * (inverse_std * own_weights)
        d_skip = tl.where(inside[:, None], d_skip, 0.0)
        sum_embed_bias += tl.sum(d_skip, axis=1)
        sum_embed_weight += tl.sum(d_skip * own_x, axis=1)
        # The gate
        d_value = d_skip * gate
        d_gate = d_value * value * (1.0 - gate)
        sum_value_bias += tl.sum(d_value, axis=1)
        sum_gate_bias += tl.sum(d_gate, axis=1)
        split_d_value = _split(d_value, PRECISION)
        split_d_gate = _split(d_gate, PRECISION)
        sum_value += _dot(split_d_value, _turned(split_kept), PRECISION)
        sum_gate += _dot(split_d_gate, _turned(split_kept), PRECISION)
        d_kept = _dot(_matrix(gate_weight, here, H, P, 2 * H, 1, PRECISION), split_d_value, PRECISION)
        d_kept += _dot(_matrix(gate_weight + H, here, H, P, 2 * H, 1, PRECISION), split_d_gate, PRECISION)
        if seeds is not None:
            d_kept *= factor
        sum_second_bias += tl.sum(d_kept, axis=1)
        tl.store(d_second + own * n_cells * H + at, d_kept, mask=seen)

    part = tl.program_id(1) * part_stride.to(tl.int64)
    at = part + own * H + rows  # (P,) in (S, K, V, H)
    tl.store(d_second_bias + at, sum_second_bias, mask=inside)
    tl.store(d_norm_weight + at, sum_norm_weight, mask=inside)
    tl.store(d_norm_bias + at, sum_norm_bias, mask=inside)
    tl.store(d_embed_weight + at, sum_embed_weight, mask=inside)
    tl.store(d_embed_bias + at, sum_embed_bias, mask=inside)
    at += own * H  # in (S, K, V, 2H)
    tl.store(d_gate_bias + at, sum_value_bias, mask=inside)
    tl.store(d_gate_bias + at + H, sum_gate_bias, mask=inside)
    seen = inside[:, None] & inside[None, :]
    at = part + own * (2 * H * H) + rows[None, :] * (2 * H) + rows[:, None]  # (P, P) in (S, K, V, H, 2H), transposed
    tl.store(d_gate_weight + at, sum_value, mask=seen)
    tl.store(d_gate_weight + at + H, sum_gate, mask=seen)


@_jit
def _backward_layers(
    d_second: tl.tensor,  # (K, V, N, H) gradient of what the second layer gives
    x: tl.tensor,  # (K, V, N)
    constant: tl.tensor,  # (K, V, H)
    slope: tl.tensor,  # (K, V, H)
    second_weight: tl.tensor,  # (K, V, H, H)
    d_constant: tl.tensor,  # (S, K, V, H), out, as both that follow
    d_slope: tl.tensor,
    d_second_weight: tl.tensor,
    part_stride: tl.tensor,
    n_variables: tl.tensor,
    n_cells: tl.tensor,
    n_each: tl.tensor,
    H: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
    EPSILON: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """From there back through the second layer and the first."""
    rows = tl.arange(0, P)
    inside = rows < H
    own = tl.program_id(0).to(tl.int64)  # fold and variable
    first = tl.program_id(1) * n_each
    own_constant = _vector(constant, own, H, P)
    own_slope = _vector(slope, own, H, P)
    sum_second = tl.zeros((P, P), tl.float32)  # transposed
    sum_constant = tl.zeros((P,), tl.float32)
    sum_slope = tl.zeros((P,), tl.float32)
    for start in tl.range(first, tl.minimum(first + n_each, n_cells), B, num_stages=STAGES):
        cells = start + tl.arange(0, B)
        there = cells < n_cells
        seen = inside[:, None] & there[None, :]
        at = own * n_cells * H + cells[None, :] * H + rows[:, None]  # (P, B) in (K, V, N, H)
        own_x = tl.load(x + own * n_cells + cells, mask=there, other=0.0)[None, :]
        here = own + tl.minimum(start, 0)  # as above
        hidden = _hidden(own_x, own_constant, own_slope)
        split_d_second = _split(tl.load(d_second + at, mask=seen, other=0.0), PRECISION)
        sum_second += _dot(split_d_second, _turned(_split(hidden, PRECISION)), PRECISION)
        d_first = _dot(_matrix(second_weight, here, H, P, H, 1, PRECISION), split_d_second, PRECISION)
        d_first *= tl.minimum(hidden, 0.0) + 1.0  # the derivative of the ELU
        sum_constant += tl.sum(d_first, axis=1)
        sum_slope += tl.sum(d_first * own_x, axis=1)

    part = tl.program_id(1) * part_stride.to(tl.int64)
    at = part + own * H + rows  # (P,) in (S, K, V, H)
    tl.store(d_constant + at, sum_constant, mask=inside)
    tl.store(d_slope + at, sum_slope, mask=inside)
    seen = inside[:, None] & inside[None, :]
    at = part + own * (H * H) + rows[None, :] * H + rows[:, None]  # (P, P) in (S, K, V, H, H), transposed
    tl.store(d_second_weight + at, sum_second, mask=seen)
