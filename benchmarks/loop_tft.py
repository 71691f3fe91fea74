"""The TFT as it is usually written: one module per variable, loops over variables, contexts and heads.

The baseline of benchmarks/step.py. It computes what `tft.model` computes, number for number, without what makes that
one fast: each scalar has its own `nn.Linear(1, H)` and its own gated residual network, embeddings are concatenated for
the selection network, the recurrence is `torch.nn.LSTM`, each context sequence runs through variable selection and the
LSTM by itself, and a bar seen through ten windows is computed ten times. Where implementations differ the cheaper way
is taken: attention is asked for the target bar only, and a context is read once, at its last bar. Equation numbers are
those of the paper (Lim et al. 2021, arXiv:1912.09363).

`load` copies the parameters of `tft.model.TemporalFusionTransformer` into it, so that the two can be compared.

Shapes: B targets, C contexts per target, L look-back bars, V variables, H hidden width, M attention heads,
A instruments, D parameters of the predictive distribution; I inputs and O outputs of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tft.direct_term import PAIR_RANK, scales
from tft.head import QUANTILE_LEVELS, SIGMA_FLOOR, LossMode
from tft.model import INITIAL_SELECTION_SPREAD, ModelConfig


class Batch(NamedTuple):
    """B targets with their contexts; values are standardised, and 0 where missing."""

    values: Tensor  # (B, L, V)
    present: Tensor  # (B, L, V) 0/1
    asset: Tensor  # (B,)
    context_values: Tensor  # (B, C, L, V) anything in an empty slot
    context_present: Tensor  # (B, C, L, V)
    context_asset: Tensor  # (B, C)
    has_context: Tensor  # (B, C) true where a slot is filled


class Output(NamedTuple):
    position: Tensor  # (B,) raw, in [-1, 1]
    distribution: Tensor  # (B, D) mu, sigma | quantiles | nothing
    attention: Tensor  # (B, M, L) temporal attention of the target bar
    context_attention: Tensor  # (B, M, C) of the target bar; zero in empty slots
    weights: Tensor  # (B, L, V) variable selection weights of the target window


class GatedSkip(nn.Module):
    """Gated skip connection LayerNorm(skip + GLU(dropout(x))), eqs 2, 5, 17, 20, 22."""

    def __init__(self, n_in: int, n_out: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(n_in, 2 * n_out)
        self.norm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        gated = F.glu(self.gate(self.dropout(x)), dim=-1)  # (..., n_out)
        return self.norm(skip + gated)  # type: ignore[no-any-return]


class GRN(nn.Module):
    """Gated residual network, eqs 2-5; the skip is projected where the widths differ."""

    def __init__(self, n_in: int, width: int, n_out: int, dropout: float, *, context: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, width)
        self.context = nn.Linear(width, width, bias=False) if context else None
        self.second = nn.Linear(width, width)
        self.skip = GatedSkip(width, n_out, dropout)
        self.project = nn.Linear(n_in, n_out) if n_in != n_out else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        hidden = self.first(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        hidden = self.second(F.elu(hidden))
        return self.skip(hidden, x if self.project is None else self.project(x))  # type: ignore[no-any-return]


class VariableSelection(nn.Module):
    """Variable selection, eqs 6-8, variable by variable."""

    def __init__(self, n_variables: int, width: int, dropout: float) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Linear(1, width) for _ in range(n_variables))
        self.transforms = nn.ModuleList(GRN(width, width, width, dropout) for _ in range(n_variables))
        self.selection = GRN(n_variables * width, width, n_variables, dropout, context=True)
        nn.init.constant_(self.selection.skip.norm.weight, INITIAL_SELECTION_SPREAD)

    def forward(self, values: Tensor, present: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """values, present (B, L, V), context (B, H) -> selected (B, L, H), weights (B, L, V)."""
        embedded, transformed = [], []
        for v, (embedding, transform) in enumerate(zip(self.embeddings, self.transforms, strict=True)):
            one = embedding(values[..., v : v + 1]) * present[..., v : v + 1]  # (B, L, H), zero where missing
            embedded.append(one)
            transformed.append(transform(one))  # eq 7
        logits = self.selection(torch.cat(embedded, dim=-1), context.unsqueeze(1))  # (B, L, V), eq 6
        weights = masked_softmax(logits, present)
        selected = (torch.stack(transformed, dim=-1) * weights.unsqueeze(-2)).sum(dim=-1)  # eq 8
        return selected, weights


def masked_softmax(logits: Tensor, usable: Tensor) -> Tensor:
    """Softmax over the last dimension where usable is 1; 0 elsewhere, and everywhere if nothing is usable."""
    lowest = torch.finfo(logits.dtype).min
    return torch.softmax(logits.masked_fill(usable == 0, lowest), dim=-1) * usable


class InterpretableAttention(nn.Module):
    """Attention, eqs 13-16, head by head; the value projection is shared and the heads' results are averaged."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.width = max(1, width // n_heads)
        self.queries = nn.ModuleList(nn.Linear(width, self.width) for _ in range(n_heads))
        self.keys = nn.ModuleList(nn.Linear(width, self.width) for _ in range(n_heads))
        self.value = nn.Linear(width, self.width)
        self.out = nn.Linear(self.width, width)

    def forward(self, query: Tensor, memory: Tensor, usable: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """query (B, Q, H), memory (B, S, H), usable (B, S) -> (B, Q, H), scores (B, M, Q, S)."""
        value = self.value(memory)  # (B, S, width)
        read, all_scores = [], []
        for to_query, to_key in zip(self.queries, self.keys, strict=True):
            logits = to_query(query) @ to_key(memory).transpose(1, 2) / math.sqrt(self.width)  # (B, Q, S)
            if usable is None:
                scores = torch.softmax(logits, dim=-1)
            else:
                scores = masked_softmax(logits, usable.unsqueeze(1).expand_as(logits).to(logits.dtype))
            read.append(scores @ value)
            all_scores.append(scores)
        return self.out(torch.stack(read).mean(dim=0)), torch.stack(all_scores, dim=1)


class LoopTFT(nn.Module):
    def __init__(self, config: ModelConfig, *, n_variables: int, n_assets: int, loss_mode: LossMode) -> None:
        super().__init__()
        h, layers, dropout = config.d_hidden, config.lstm_layers, config.dropout
        self.n_layers, self.n_context, self.loss_mode = layers, config.n_context, loss_mode
        self.static = nn.Embedding(n_assets, h)
        self.static_contexts = nn.ModuleList(GRN(h, h, h, dropout) for _ in range(4))
        self.selection = VariableSelection(n_variables, h, dropout)
        self.lstm = nn.LSTM(h, h, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.after_lstm = GatedSkip(h, h, dropout)
        self.enrichment = GRN(h, h, h, dropout, context=True)
        if config.n_context:
            self.context_attention = InterpretableAttention(h, config.n_heads)
            self.context_gate = nn.Linear(h, 2 * h)
        self.attention = InterpretableAttention(h, config.n_heads)
        self.after_attention = GatedSkip(h, h, dropout)
        self.feed_forward = GRN(h, h, h, dropout)
        self.after_feed_forward = GatedSkip(h, h, dropout)
        self.head = nn.Linear(h, {"sharpe": 1, "joint_mle": 2, "joint_quantile": len(QUANTILE_LEVELS)}[loss_mode])
        self.scales = scales(config.seq_len)
        self.linear = nn.Parameter(torch.zeros(n_variables, len(self.scales)))
        self.pairs = nn.Parameter(torch.zeros(n_variables, PAIR_RANK))
        self.recalibration = nn.Parameter(torch.ones(2))

    def forward(self, batch: Batch) -> Output:
        selected, states, enrichment, weights = self.encode(batch.values, batch.present, batch.asset)
        temporal = self.after_lstm(states, selected)  # (B, L, H), eq 17
        enriched = self.enrichment(temporal, enrichment.unsqueeze(1))  # (B, L, H), eq 18
        if self.n_context:
            memory = []
            for c in range(self.n_context):
                selected, states, _, _ = self.encode(
                    batch.context_values[:, c], batch.context_present[:, c], batch.context_asset[:, c]
                )
                memory.append(self.after_lstm(states[:, -1], selected[:, -1]))  # (B, H)
            read, context_scores = self.context_attention(enriched, torch.stack(memory, dim=1), batch.has_context)
            filled = batch.has_context.any(dim=1)[:, None, None]
            enriched = enriched + filled * F.glu(self.context_gate(read), dim=-1)
        else:
            context_scores = enriched.new_zeros(len(enriched), len(self.attention.queries), 1, 0)
        attended, scores = self.attention(enriched[:, -1:], enriched)  # eq 19; all bars lie at or before the last
        attended = self.after_attention(attended[:, 0], enriched[:, -1])  # (B, H), eq 20
        decoded = self.after_feed_forward(self.feed_forward(attended), temporal[:, -1])  # (B, H), eqs 21-22
        raw = self.head(decoded)
        relative = weights * batch.present.sum(dim=-1, keepdim=True) * batch.values  # (B, L, V), weights 1 if uniform
        for s, scale in enumerate(self.scales):
            direct = relative[:, -scale:].mean(dim=1) @ self.linear[:, s]  # (B,)
            raw = torch.cat([raw[:, :1] + direct[:, None], raw[:, 1:]], dim=1)
        vectors = relative[:, -1, :, None] * self.pairs  # (B, V, PAIR_RANK)
        products = 0.5 * (vectors.sum(dim=1) ** 2 - (vectors**2).sum(dim=1)).sum(dim=-1)  # (B,)
        raw = torch.cat([raw[:, :1] + products[:, None], raw[:, 1:]], dim=1)
        position, distribution = self.read(raw)
        return Output(position, distribution, scores[:, :, -1], context_scores[:, :, -1], weights)

    def encode(self, values: Tensor, present: Tensor, asset: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read one sequence per target -> selected, LSTM states (B, L, H), enrichment context (B, H), weights."""
        static = self.static(asset)  # (B, H)
        for_selection, for_enrichment, hidden, cell = (context(static) for context in self.static_contexts)
        selected, weights = self.selection(values, present, for_selection)
        start = (hidden.expand(self.n_layers, -1, -1).contiguous(), cell.expand(self.n_layers, -1, -1).contiguous())
        states, _ = self.lstm(selected, start)
        return selected, states, for_enrichment, weights

    def read(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Raw head (B, *) -> position (B,), distribution (B, D)."""
        if self.loss_mode == "sharpe":
            return torch.tanh(raw[:, 0]), raw[:, :0]
        if self.loss_mode == "joint_mle":
            mu, sigma = raw[:, 0], F.softplus(raw[:, 1]) + SIGMA_FLOOR
            return 2.0 * torch.special.ndtr(mu / sigma) - 1.0, torch.stack([mu, sigma], dim=1)
        quantiles = torch.cat([raw[:, :1], raw[:, :1] + F.softplus(raw[:, 1:]).cumsum(dim=1)], dim=1)
        below = torch.full_like(raw[:, 0], QUANTILE_LEVELS[0])  # P(y <= 0)
        for k in range(len(QUANTILE_LEVELS) - 1):
            low, high = quantiles[:, k], quantiles[:, k + 1]
            share = (-low / (high - low).clamp_min(1e-9)).clamp(0.0, 1.0)
            below = below + (QUANTILE_LEVELS[k + 1] - QUANTILE_LEVELS[k]) * share
        return 1.0 - 2.0 * below, quantiles


@torch.no_grad()
def load(loop: LoopTFT, parameters: Mapping[str, Tensor]) -> None:
    """Copy the parameters of one fold, under the names of `tft.model.TemporalFusionTransformer`, into `loop`.

    There weights are (I, O) and those of all variables one tensor (V, I, O); here (O, I) and a module a variable. The
    gates of the LSTM are input | forget | output | candidate there, input | forget | candidate | output here; the
    second bias of `nn.LSTM` becomes 0. Each parameter is used, and none of `loop` left as it was.
    """
    remaining = dict(parameters)
    for parameter in loop.parameters():
        parameter.fill_(math.nan)

    def linear(target: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:  # weight (I, O)
        target.weight.copy_(weight.T)
        if bias is not None:
            target.bias.copy_(bias)

    def dense(target: nn.Linear, name: str) -> None:
        linear(target, remaining.pop(f"{name}.weight"), remaining.pop(f"{name}.bias", None))

    def norm(target: nn.LayerNorm, name: str) -> None:
        target.weight.copy_(remaining.pop(f"{name}.weight"))
        target.bias.copy_(remaining.pop(f"{name}.bias"))

    def gated_skip(target: GatedSkip, name: str) -> None:
        dense(target.gate, f"{name}.gate")
        norm(target.norm, f"{name}.norm")

    def grn(target: GRN, name: str) -> None:
        dense(target.first, f"{name}.first")
        dense(target.second, f"{name}.second")
        if target.context is not None:
            dense(target.context, f"{name}.context")
        gated_skip(target.skip, f"{name}.skip")

    def attention(target: InterpretableAttention, name: str) -> None:
        for heads, kind in ((target.queries, "query"), (target.keys, "key")):
            weight, bias = remaining.pop(f"{name}.{kind}.weight"), remaining.pop(f"{name}.{kind}.bias")
            for head, own, own_bias in zip(
                heads, torch.split(weight, target.width, dim=1), torch.split(bias, target.width), strict=True
            ):
                linear(cast(nn.Linear, head), own, own_bias)
        dense(target.value, f"{name}.value")
        dense(target.out, f"{name}.out")

    def reordered(gates: Tensor) -> Tensor:  # (..., 4H)
        keep, forget, emit, candidate = gates.chunk(4, dim=-1)
        return torch.cat([keep, forget, candidate, emit], dim=-1)

    loop.static.weight.copy_(remaining.pop("static.embedding"))
    for i, context in enumerate(loop.static_contexts):
        grn(cast(GRN, context), f"static.contexts.{i}")

    cells = {name: remaining.pop(f"cells.{name}") for name in CELL_PARAMETERS}
    for v in range(len(loop.selection.embeddings)):
        embedding = cast(nn.Linear, loop.selection.embeddings[v])
        transform = cast(GRN, loop.selection.transforms[v])
        linear(embedding, cells["embed_weight"][v].unsqueeze(0), cells["embed_bias"][v])
        linear(transform.first, cells["first_weight"][v], cells["first_bias"][v])
        linear(transform.second, cells["second_weight"][v], cells["second_bias"][v])
        linear(transform.skip.gate, cells["gate_weight"][v], cells["gate_bias"][v])
        transform.skip.norm.weight.copy_(cells["norm_weight"][v])
        transform.skip.norm.bias.copy_(cells["norm_bias"][v])
    selection = loop.selection.selection
    assert selection.project is not None and selection.context is not None
    linear(selection.first, cells["select_first"].flatten(0, 1), cells["select_bias"])  # (V*H, H)
    linear(selection.project, cells["select_skip"].flatten(0, 1), cells["select_skip_bias"])  # (V*H, V)
    dense(selection.context, "cells.select_context")
    dense(selection.second, "cells.select_second")
    dense(selection.skip.gate, "cells.select_gate")
    norm(selection.skip.norm, "cells.select_norm")

    for layer in range(loop.n_layers):
        name = "cells.input_gates" if layer == 0 else f"windows.between.{layer - 1}"
        of_lstm = {kind: getattr(loop.lstm, f"{kind}_l{layer}") for kind in LSTM_PARAMETERS}
        of_lstm["weight_ih"].copy_(reordered(remaining.pop(f"{name}.weight")).T)
        of_lstm["weight_hh"].copy_(reordered(remaining.pop(f"windows.recurrent.{layer}")).T)
        of_lstm["bias_ih"].copy_(reordered(remaining.pop(f"{name}.bias")))
        of_lstm["bias_hh"].zero_()

    for name in ("after_lstm", "after_attention", "after_feed_forward"):
        gated_skip(getattr(loop, name), f"windows.{name}")
    for name in ("enrichment", "feed_forward"):
        grn(getattr(loop, name), f"windows.{name}")
    if loop.n_context:
        attention(loop.context_attention, "windows.context_attention")
        dense(loop.context_gate, "windows.context_gate")
    attention(loop.attention, "windows.attention")
    dense(loop.head, "windows.head")
    loop.linear.copy_(remaining.pop("cells.direct.linear"))
    loop.pairs.copy_(remaining.pop("cells.direct.pairs"))
    assert (remaining.pop("windows.recalibration") == 1.0).all(), "as in training"
    assert not remaining, f"not used: {', '.join(remaining)}"
    assert all(torch.isfinite(parameter).all() for parameter in loop.parameters()), "left as it was"


CELL_PARAMETERS = (
    "embed_weight", "embed_bias", "first_weight", "first_bias", "second_weight", "second_bias", "gate_weight",
    "gate_bias", "norm_weight", "norm_bias", "select_first", "select_bias", "select_skip", "select_skip_bias",
)  # fmt: skip
LSTM_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
