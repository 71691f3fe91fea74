"""The Temporal Fusion Transformer as the paper writes it (Lim et al. 2021, arXiv:1912.09363), in plain loops.

One window at a time, one bar at a time, one variable at a time; vectors of embeddings are concatenated, attention is
computed at all positions under a causal mask. It shares no code with `tft.model`, only the names of its parameters,
and exists to be compared with it: no dropout, slow, nothing clever. Equation numbers are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SIGMA_FLOOR = 1e-3

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Cell:
    """One (bar, instrument): the value of each variable, None where it is missing."""

    values: Sequence[float | None]
    asset: int


@dataclass(frozen=True, eq=False)
class Forecast:
    """Of one target."""

    position: Tensor
    distribution: Tensor
    attention: Tensor  # (M, L) of the last bar
    context_attention: Tensor  # (M, C) of the last bar
    weights: Tensor  # (V,) of the last bar


def forecast(
    p: Parameters,
    window: Sequence[Cell],
    contexts: Sequence[Sequence[Cell] | None],
    *,
    n_heads: int,
    loss_mode: str,
) -> Forecast:
    """p: parameters by name · window: cells of the target, oldest first · contexts: one window a slot, None = empty."""
    encoded, weights = encode_window(p, window)
    c_enrichment = static_context(p, window[-1].asset, 1)
    enriched = [grn(p, "windows.enrichment", one, c_enrichment) for one in encoded]  # eq 18

    memory = [encode_window(p, context)[0][-1] for context in contexts if context is not None]
    context_attention = enriched[0].new_zeros(n_heads, len(contexts))
    if memory:
        read, scores = attend(p, "windows.context_attention", enriched, memory, n_heads, causal=False)
        enriched = [one + glu(p, "windows.context_gate", got) for one, got in zip(enriched, read, strict=True)]
        filled = [slot for slot, context in enumerate(contexts) if context is not None]
        context_attention = torch.stack(
            [
                scores[-1][:, filled.index(slot)] if slot in filled else context_attention[:, slot]
                for slot in range(len(contexts))
            ],
            dim=1,
        )

    attended, scores = attend(p, "windows.attention", enriched, enriched, n_heads, causal=True)  # eq 19
    decoded = []
    for t in range(len(window)):
        delta = gated_skip(p, "windows.after_attention", attended[t], enriched[t])  # eq 20
        psi = grn(p, "windows.feed_forward", delta)  # eq 21
        decoded.append(gated_skip(p, "windows.after_feed_forward", psi, encoded[t]))  # eq 22
    raw = linear(p, "windows.head", decoded[-1])
    raw = torch.cat([raw[:1] + direct_term(p, window), raw[1:]])
    position, distribution = read_head(raw, loss_mode)
    distribution = recalibrated(p, distribution, loss_mode)
    return Forecast(position, distribution, scores[-1], context_attention, weights[-1])


def direct_term(p: Parameters, window: Sequence[Cell]) -> Tensor:
    """Added to the first output: per scale the mean over the window's last bars of weight (relative to uniform) x
    value, times a coefficient per variable and scale. Scales are 1, 4, 16 ... below the look-back, and the look-back.
    And of the last bar the products of all pairs of (weight relative to uniform) x value, times that of their vectors.
    """
    scales = [4**k for k in range(10) if 4**k < len(window)] + [len(window)]
    assert p["cells.direct.linear"].shape[1] == len(scales)
    total = p["cells.direct.linear"].new_zeros(())
    _, weights = select_variables(p, window[-1])
    there = sum(value is not None for value in window[-1].values)
    chosen = [0.0 if value is None else w * there * value for w, value in zip(weights, window[-1].values, strict=True)]
    for u in range(len(chosen)):
        for v in range(u + 1, len(chosen)):
            total = total + (p["cells.direct.pairs"][u] * p["cells.direct.pairs"][v]).sum() * chosen[u] * chosen[v]
    for age, cell in enumerate(reversed(window)):
        _, weights = select_variables(p, cell)
        there = sum(value is not None for value in cell.values)
        for v, value in enumerate(cell.values):
            for s, scale in enumerate(scales):
                if value is not None and age < scale:
                    total = total + p["cells.direct.linear"][v, s] * weights[v] * there * value / scale
    return total


def encode_window(p: Parameters, window: Sequence[Cell]) -> tuple[list[Tensor], list[Tensor]]:
    """Each bar after variable selection, LSTM and gated skip (eq 17), and its selection weights."""
    chosen, weights = [], []
    for cell in window:
        combined, weight = select_variables(p, cell)
        chosen.append(combined)
        weights.append(weight)
    asset = window[-1].asset
    n_layers = sum(name.startswith("windows.recurrent.") for name in p)
    inputs = chosen
    for layer in range(n_layers):
        project = "cells.input_gates" if layer == 0 else f"windows.between.{layer - 1}"
        hidden, memory = static_context(p, asset, 2), static_context(p, asset, 3)
        states = []
        for one in inputs:
            gates = linear(p, project, one) + hidden @ p[f"windows.recurrent.{layer}"]
            keep, forget, emit, candidate = gates.split(len(hidden))
            memory = sigmoid(forget) * memory + sigmoid(keep) * tanh(candidate)
            hidden = sigmoid(emit) * tanh(memory)
            states.append(hidden)
        inputs = states
    skipped = [gated_skip(p, "windows.after_lstm", phi, xi) for phi, xi in zip(inputs, chosen, strict=True)]
    return skipped, weights


def select_variables(p: Parameters, cell: Cell) -> tuple[Tensor, Tensor]:
    """Eqs 6-8: the combination (H,) of transformed variables, and their weights (V,)."""
    width = p["cells.embed_weight"].shape[1]
    c_selection = static_context(p, cell.asset, 0)
    embeddings = []
    for v, value in enumerate(cell.values):
        if value is None:
            embeddings.append(p["cells.embed_bias"].new_zeros(width))
        else:
            embeddings.append(value * p["cells.embed_weight"][v] + p["cells.embed_bias"][v])

    flat = torch.cat(embeddings)  # (V*H,), the Xi of eq 6
    hidden = elu(flat @ p["cells.select_first"].flatten(0, 1) + p["cells.select_bias"]
                 + c_selection @ p["cells.select_context.weight"])  # fmt: skip
    gated = glu(p, "cells.select_gate", linear(p, "cells.select_second", hidden))
    skip = flat @ p["cells.select_skip"].flatten(0, 1) + p["cells.select_skip_bias"]
    logits = layer_norm(skip + gated, p["cells.select_norm.weight"], p["cells.select_norm.bias"])

    present = [v for v, value in enumerate(cell.values) if value is not None]
    total = sum((torch.exp(logits[v]) for v in present), start=logits.new_zeros(()))
    weights, combined = [], flat.new_zeros(width)
    for v, xi in enumerate(embeddings):
        if v not in present:
            weights.append(logits.new_zeros(()))
            continue
        hidden = elu(xi @ p["cells.first_weight"][v] + p["cells.first_bias"][v])
        eta = hidden @ p["cells.second_weight"][v] + p["cells.second_bias"][v]
        halves = (eta @ p["cells.gate_weight"][v] + p["cells.gate_bias"][v]).split(width)
        transformed = layer_norm(
            xi + sigmoid(halves[1]) * halves[0], p["cells.norm_weight"][v], p["cells.norm_bias"][v]
        )  # eq 7
        weights.append(torch.exp(logits[v]) / total)
        combined = combined + weights[v] * transformed  # eq 8
    return combined, torch.stack(weights)


def static_context(p: Parameters, asset: int, which: int) -> Tensor:
    """The instrument's context vector: 0 selection, 1 enrichment, 2 hidden state, 3 cell state."""
    return grn(p, f"static.contexts.{which}", p["static.embedding"][asset])


def attend(
    p: Parameters, name: str, queries: Sequence[Tensor], memory: Sequence[Tensor], n_heads: int, *, causal: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Eqs 13-16, head by head and query by query: values are shared, heads are averaged. Scores are (M, S) a query."""
    width = p[f"{name}.value.weight"].shape[1]
    out, all_scores = [], []
    for t, query in enumerate(queries):
        usable = memory[: t + 1] if causal else memory
        averaged, scores = 0.0, []
        for head in range(n_heads):
            own = slice(head * width, (head + 1) * width)
            q = linear(p, f"{name}.query", query)[own]
            logits = [(q * linear(p, f"{name}.key", one)[own]).sum() / math.sqrt(width) for one in usable]
            raised = [torch.exp(logit) for logit in logits]
            share = [one / sum(raised) for one in raised]
            read = sum(a * linear(p, f"{name}.value", one) for a, one in zip(share, usable, strict=True))
            averaged = averaged + read / n_heads
            scores.append(torch.stack(share + [share[0].new_zeros(())] * (len(memory) - len(usable))))
        assert isinstance(averaged, Tensor)
        out.append(linear(p, f"{name}.out", averaged))
        all_scores.append(torch.stack(scores))
    return out, all_scores


def grn(p: Parameters, name: str, a: Tensor, context: Tensor | None = None) -> Tensor:
    """Eqs 2-4."""
    before = linear(p, f"{name}.first", a)
    if context is not None:
        before = before + context @ p[f"{name}.context.weight"]
    return gated_skip(p, f"{name}.skip", linear(p, f"{name}.second", elu(before)), a)


def gated_skip(p: Parameters, name: str, gamma: Tensor, skip: Tensor) -> Tensor:
    """LayerNorm(skip + GLU(gamma)): eqs 2, 17, 20, 22."""
    return layer_norm(skip + glu(p, f"{name}.gate", gamma), p[f"{name}.norm.weight"], p[f"{name}.norm.bias"])


def glu(p: Parameters, name: str, gamma: Tensor) -> Tensor:
    """Eq 5; the second half of the projection is the gate."""
    value, gate = linear(p, name, gamma).chunk(2)
    return sigmoid(gate) * value


def linear(p: Parameters, name: str, x: Tensor) -> Tensor:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = x.sum() / len(x)
    variance = ((x - mean) ** 2).sum() / len(x)
    return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias


def sigmoid(x: Tensor) -> Tensor:
    return 1.0 / (1.0 + torch.exp(-x))


def tanh(x: Tensor) -> Tensor:
    return 2.0 * sigmoid(2.0 * x) - 1.0


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0.0, x, torch.exp(x.clamp(max=0.0)) - 1.0)


def softplus(x: Tensor) -> Tensor:
    return torch.log(1.0 + torch.exp(x))


def read_head(raw: Tensor, loss_mode: str) -> tuple[Tensor, Tensor]:
    """Position () and distribution (D,)."""
    if loss_mode == "sharpe":
        return tanh(raw[0]), raw[:0]
    if loss_mode == "joint_mle":
        mu, sigma = raw[0], softplus(raw[1]) + SIGMA_FLOOR
        up = torch.distributions.Normal(0.0, 1.0).cdf(mu / sigma)
        return 2.0 * up - 1.0, torch.stack([mu, sigma])
    quantiles = [raw[0]]
    for step in raw[1:]:
        quantiles.append(quantiles[-1] + softplus(step))
    return 2.0 * probability_above_zero(quantiles) - 1.0, torch.stack(quantiles)


def recalibrated(p: Parameters, distribution: Tensor, loss_mode: str) -> Tensor:
    """The distribution (D,) with centre and spread scaled."""
    centre, spread = p["windows.recalibration"].detach()
    if loss_mode == "sharpe":
        return distribution
    if loss_mode == "joint_mle":
        return torch.stack([centre * distribution[0], spread * distribution[1]])
    median = distribution[LEVELS.index(0.5)]
    return torch.stack([centre * median + spread * (quantile - median) for quantile in distribution])


def probability_above_zero(quantiles: Sequence[Tensor]) -> Tensor:
    """One minus the CDF at 0, on a straight line between the quantiles around 0, flat beyond the outermost."""
    if quantiles[0] >= 0.0:
        return 1.0 - LEVELS[0] + 0.0 * quantiles[0]
    for k in range(len(LEVELS) - 1):
        low, high = quantiles[k], quantiles[k + 1]
        if low < 0.0 <= high:
            return 1.0 - (LEVELS[k] + (LEVELS[k + 1] - LEVELS[k]) * (0.0 - low) / (high - low))
    return 1.0 - LEVELS[-1] + 0.0 * quantiles[0]
