"""The Temporal Fusion Transformer, in the order of the paper (Lim et al. 2021, arXiv:1912.09363).

The modules are written for one fold; `stacked` runs them for K folds at once. Equation numbers are the paper's.

Shapes: N distinct (bar, instrument) cells, V variables, H hidden width, A instruments, B targets,
C contexts per target, G groups of targets that share their contexts, W = B + G*C windows, L look-back bars, M attention
heads, S scales of a direct term, D parameters of the predictive distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from tft.direct_term import DirectTerm, averages
from tft.head import STANDARD_NORMAL, LossMode, read_head, recalibrated
from tft.kernels.affine import affine
from tft.kernels.dropout import apply_dropout
from tft.kernels.dropout_mask import Dropout
from tft.kernels.gated_norm import gated_norm
from tft.kernels.gather import gather
from tft.kernels.masked_softmax import masked_softmax
from tft.kernels.scan import lstm
from tft.kernels.select import VariableGRNs, select

INITIAL_SELECTION_SPREAD = 0.1
"""Standard deviation of the initial VSN logits: small, so that selection starts nearly uniform and the weights after a
few epochs reflect what was learned and not the random initialisation"""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of the network."""

    d_hidden: int = 48
    n_heads: int = 4
    lstm_layers: int = 1
    dropout: float = 0.23
    seq_len: int = 63
    """Look-back in bars"""
    n_context: int = 16
    """Context sequences that each target is conditioned on; 0 switches the context set off"""

    def faults(self) -> list[str]:
        """One sentence for each setting that is out of range."""
        faults = [
            f"model.{name} is {value}, the least is {least}"
            for name, value, least in (
                ("d_hidden", self.d_hidden, 2),
                ("n_heads", self.n_heads, 1),
                ("lstm_layers", self.lstm_layers, 1),
                ("seq_len", self.seq_len, 2),
                ("n_context", self.n_context, 0),
            )
            if value < least
        ]
        if self.n_heads > self.d_hidden:
            faults.append(f"model.n_heads is {self.n_heads}, more than d_hidden ({self.d_hidden})")
        if not 0.0 <= self.dropout < 1.0:
            faults.append(f"model.dropout is {self.dropout}, it must lie in [0, 1)")
        return faults


class Cells(NamedTuple):
    """Encoding of each distinct (bar, instrument) cell, which does not depend on the window that it is part of."""

    selected: Tensor  # (N, H) transformed variables, summed with their selection weights
    gates: Tensor  # (N, 4H) the first LSTM layer's input projection
    weights: Tensor  # (N, V) VSN weights; they sum to 1 over the variables present, and are 0 if there are none
    direct: Tensor  # (N, S + 1) the cell's part of the direct term, by scale; the last is read at the target bar alone


class Output(NamedTuple):
    """Forecasts of B targets, in units of sigma_t * sqrt(horizon)."""

    position: Tensor  # (B,) raw, in [-1, 1]
    distribution: Tensor  # (B, D) mu, sigma | quantiles at QUANTILE_LEVELS | nothing
    attention: Tensor  # (B, M, L) temporal attention of the target bar
    context_attention: Tensor  # (B, M, C) of the target bar; zero in empty slots


class Dense(nn.Module):
    """Affine layer: x (..., I) @ weight (I, O) + bias (O)."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(n_in)
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight, self.bias)


class GatedSkip(nn.Module):
    """LayerNorm(skip + GLU(dropout(x))): eq 2's gate and eq 5, and the gated skip connections of eqs 17, 20, 22."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = Dense(width, 2 * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, skip: Tensor, dropout: Dropout | None) -> Tensor:
        return gated_norm(skip, self.gate(apply_dropout(x, dropout)), self.norm.weight, self.norm.bias)


class GRN(nn.Module):
    """Gated residual network, eqs 2-5, with an optional context vector."""

    def __init__(self, width: int, *, context: bool = False) -> None:
        super().__init__()
        self.first = Dense(width, width)
        self.context = Dense(width, width, bias=False) if context else None
        self.second = Dense(width, width)
        self.skip = GatedSkip(width)

    def forward(self, a: Tensor, context: Tensor | None = None, *, dropout: Dropout | None) -> Tensor:
        hidden = self.first(a)
        if self.context is not None:
            assert context is not None
            hidden = hidden + self.context(context)
        return self.skip(self.second(F.elu(hidden)), a, dropout)  # type: ignore[no-any-return]


class StaticEncoder(nn.Module):
    """Instrument embedding and the four context vectors computed from it (section 4.3 of the paper)."""

    def __init__(self, n_assets: int, config: ModelConfig) -> None:
        super().__init__()
        width = config.d_hidden
        self.embedding = nn.Parameter(torch.randn(n_assets, width) / math.sqrt(width))
        self.contexts = nn.ModuleList(GRN(width) for _ in range(4))

    def forward(self, *, dropout: Dropout | None = None) -> Tensor:
        """Contexts (A, 4, H) for variable selection, enrichment, and the LSTM's initial hidden and cell state."""
        return torch.stack([context(self.embedding, dropout=dropout) for context in self.contexts], dim=1)


class CellEncoder(nn.Module):
    """Variable selection (eqs 6-8) of scalar variables, computed for all of them at once.

    A variable's embedding is affine in one number, xi_v = present_v * (x_v * e_v + b_v), so that a linear map of it
    folds exactly into a rank-1 map of x_v: a GRN's first layer becomes two vectors per variable, and the maps from the
    concatenation of all embeddings (V*H wide) become maps from (x, present), 2V wide.
    """

    def __init__(self, n_variables: int, config: ModelConfig) -> None:
        super().__init__()
        v, h = n_variables, config.d_hidden
        bound = 1.0 / math.sqrt(h)

        def uniform(*shape: int, limit: float = bound) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-limit, limit))

        self.embed_weight = uniform(v, h, limit=1.0)
        self.embed_bias = uniform(v, h)
        # One GRN per variable, eq 7
        self.first_weight, self.first_bias = uniform(v, h, h), nn.Parameter(torch.zeros(v, h))
        self.second_weight, self.second_bias = uniform(v, h, h), nn.Parameter(torch.zeros(v, h))
        self.gate_weight, self.gate_bias = uniform(v, h, 2 * h), nn.Parameter(torch.zeros(v, 2 * h))
        self.norm_weight, self.norm_bias = nn.Parameter(torch.ones(v, h)), nn.Parameter(torch.zeros(v, h))
        # The GRN over the concatenated embeddings that computes the selection weights, eq 6
        flat = 1.0 / math.sqrt(v * h)
        self.select_first, self.select_bias = uniform(v, h, h, limit=flat), nn.Parameter(torch.zeros(h))
        self.select_context = Dense(h, h, bias=False)
        self.select_second = Dense(h, h)
        self.select_gate = Dense(h, 2 * v)
        self.select_skip, self.select_skip_bias = uniform(v, h, v, limit=flat), nn.Parameter(torch.zeros(v))
        self.select_norm = nn.LayerNorm(v)
        nn.init.constant_(self.select_norm.weight, INITIAL_SELECTION_SPREAD)
        self.input_gates = Dense(h, 4 * h)
        self.direct = DirectTerm(v, config.seq_len)

    def forward(self, x: Tensor, present: Tensor, context: Tensor, *, dropout: Dropout | None = None) -> Cells:
        """Encode cells: x (N, V) standardised, 0 where missing · present (N, V) 0 or 1 · context (N, H)."""
        weights = self.selection_weights(x, present, context, dropout)  # (N, V)
        selected = select(x, weights, self.variable_grns(), dropout)  # (N, H), eqs 7 and 8
        n_present = present.sum(dim=-1, keepdim=True)  # a uniform selection times it is 1
        return Cells(selected, self.input_gates(selected), weights, self.direct(x * weights * n_present))

    def selection_weights(self, x: Tensor, present: Tensor, context: Tensor, dropout: Dropout | None) -> Tensor:
        """VSN weights (N, V), eq 6: a GRN over all embeddings and the static context, then softmax where present."""
        first, skip = self.project_embeddings(x, present).split([len(self.select_bias), x.shape[-1]], dim=-1)
        hidden = first + self.select_context(context)
        hidden = apply_dropout(self.select_second(F.elu(hidden)), dropout)
        norm = self.select_norm
        logits = gated_norm(skip, self.select_gate(hidden), norm.weight, norm.bias)
        # A missing variable cannot be selected; a cell with none present selects nothing.
        return masked_softmax(logits, present)

    def project_embeddings(self, x: Tensor, present: Tensor) -> Tensor:
        """The two maps (N, H + V) that eq 6's GRN applies to the concatenated embeddings: first layer | skip.

        Both are sums over v of xi_v @ weight[v], computed as one product of (x, present) with the composed weights.
        """
        weights = [self.compose_with_embedding(weight) for weight in (self.select_first, self.select_skip)]
        numbers = torch.stack([x, present], dim=-1).flatten(1)  # (N, 2V)
        bias = torch.cat([self.select_bias, self.select_skip_bias])
        return affine(numbers, torch.cat(weights, dim=-1).flatten(0, 1), bias)

    def compose_with_embedding(self, weight: Tensor) -> Tensor:
        """Compose the embedding with weight (V, H, O): (V, 2, O), the map from a variable's (x, present)."""
        return torch.stack([self.embed_weight, self.embed_bias], dim=1) @ weight

    def variable_grns(self) -> VariableGRNs:
        """Parameters of eq 7's GRNs, with the embedding folded into their first layer."""
        slope, constant = self.compose_with_embedding(self.first_weight).unbind(dim=1)
        return VariableGRNs(
            constant=constant + self.first_bias,
            slope=slope,
            second_weight=self.second_weight,
            second_bias=self.second_bias,
            gate_weight=self.gate_weight,
            gate_bias=self.gate_bias,
            norm_weight=self.norm_weight,
            norm_bias=self.norm_bias,
            embed_weight=self.embed_weight,
            embed_bias=self.embed_bias,
        )


class InterpretableAttention(nn.Module):
    """Multi-head attention with one value projection shared by all heads, eqs 13-16."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        h, m = config.d_hidden, config.n_heads
        self.n_heads, self.width = m, max(1, h // m)
        self.query, self.key = Dense(h, m * self.width), Dense(h, m * self.width)
        self.value = Dense(h, self.width)
        self.out = Dense(self.width, h)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from query (B, Q, H) to memory (B, S, H) where mask (B, S): values (B, Q, H), scores (B, M, Q, S)."""
        q = self.query(query).unflatten(-1, (self.n_heads, self.width)).transpose(-3, -2)  # (B, M, Q, width)
        k = self.key(memory).unflatten(-1, (self.n_heads, self.width)).transpose(-3, -2)  # (B, M, S, width)
        logits = q @ k.transpose(-2, -1) / math.sqrt(self.width)
        if mask is None:
            scores = torch.softmax(logits, dim=-1)
        else:
            scores = masked_softmax(logits, mask[:, None, None, :])
        return self.out(scores.mean(dim=-3) @ self.value(memory)), scores


class WindowReader(nn.Module):
    """From the encoded cells of each target's windows to its forecast: LSTM, enrichment, attention, head."""

    def __init__(self, config: ModelConfig, loss_mode: LossMode) -> None:
        super().__init__()
        h, layers = config.d_hidden, config.lstm_layers
        bound = 1.0 / math.sqrt(h)
        self.recurrent = nn.ParameterList(torch.empty(h, 4 * h).uniform_(-bound, bound) for _ in range(layers))
        self.between = nn.ModuleList(Dense(h, 4 * h) for _ in range(layers - 1))
        self.after_lstm = GatedSkip(h)
        self.enrichment = GRN(h, context=True)
        if config.n_context:
            self.context_attention = InterpretableAttention(config)
            self.context_gate = Dense(h, 2 * h)
        self.attention = InterpretableAttention(config)
        self.after_attention = GatedSkip(h)
        self.feed_forward = GRN(h)
        self.after_feed_forward = GatedSkip(h)
        start = STANDARD_NORMAL[loss_mode]
        self.head = Dense(h, len(start))
        self.head.bias = nn.Parameter(torch.tensor(start))
        self.recalibration = nn.Parameter(torch.ones(2))  # of centre and spread; set after training, see recalibrated
        self.n_context, self.loss_mode = config.n_context, loss_mode

    def forward(
        self, cells: Cells, windows: Tensor, static: Tensor, has_context: Tensor, *, dropout: Dropout | None = None
    ) -> Output:
        """Forecast B targets.

        windows (W, L) rows of `cells`, the B targets' windows first, then the contexts' of each group in turn ·
        static (W, 4, H) contexts of each window's instrument · has_context (G, C) true where a slot is filled. Target b
        belongs to group b % G: a group is one target, or all targets of an instrument in a block of whole bars.
        """
        n_windows, length = windows.shape
        n_groups, n_context = has_context.shape
        n_targets = n_windows - n_groups * n_context
        n_bars = n_targets // n_groups
        assert n_targets == n_bars * n_groups
        h = cells.selected.shape[-1]

        states = lstm(cells.gates, self.recurrent[0], *_initial_states(static), windows)
        for project, weight in zip(self.between, list(self.recurrent)[1:], strict=True):
            states = apply_dropout(states, dropout)
            states = lstm(project(states), weight, *_initial_states(static))  # (L, W, H)

        rows = gather(cells.selected, windows[:n_targets])  # (B, L, H)
        temporal = self.after_lstm(states[:, :n_targets].transpose(0, 1), rows, dropout)  # (B, L, H), eq 17
        enriched = self.enrichment(temporal, static[:n_targets, 1].unsqueeze(1), dropout=dropout)  # (B, L, H), eq 18
        context_scores = temporal.new_zeros(n_targets, self.attention.n_heads, n_context)
        if self.n_context:
            # A context contributes its last state. If all slots are empty, the context branch adds exactly zero.
            last = gather(cells.selected, windows[n_targets:, -1])
            memory = self.after_lstm(states[-1, n_targets:], last, dropout).view(n_groups, n_context, h)
            grouped = enriched.view(n_bars, n_groups, length, h).transpose(0, 1).reshape(n_groups, n_bars * length, h)
            read, scores = self.context_attention(grouped, memory, has_context)
            read = read.view(n_groups, n_bars, length, h).transpose(0, 1).reshape(n_targets, length, h)
            filled = has_context.any(dim=-1)[:, None, None].to(read.dtype).repeat(n_bars, 1, 1)
            enriched = enriched + filled * F.glu(self.context_gate(read), dim=-1)
            of_target = scores.unflatten(2, (n_bars, length))[:, :, :, -1]  # (G, M, n, C)
            context_scores = of_target.permute(2, 0, 1, 3).reshape(n_targets, -1, n_context)
        # Only the target bar is queried. It is the last of its window, so that causality needs no mask.
        attended, scores = self.attention(enriched[:, -1:], enriched)  # eq 19
        attended = self.after_attention(attended[:, 0], enriched[:, -1], dropout)  # (B, H), eq 20
        decoded = self.feed_forward(attended, dropout=dropout)  # eq 21
        decoded = self.after_feed_forward(decoded, temporal[:, -1], dropout)  # eq 22
        raw = self.head(decoded)
        direct = gather(cells.direct, windows[:n_targets]) * averages(length, cells.direct)  # (B, L, S + 1)
        raw = raw + F.pad(direct.sum(dim=(1, 2)).unsqueeze(-1), (0, raw.shape[-1] - 1))  # part of the first output
        position, distribution = read_head(raw, self.loss_mode)
        distribution = recalibrated(distribution, self.recalibration.detach(), self.loss_mode)
        return Output(position, distribution, scores[:, :, 0], context_scores)


def _initial_states(static: Tensor) -> tuple[Tensor, Tensor]:
    """Initial hidden and cell states (W, H) of the LSTM, from the static contexts (W, 4, H)."""
    return static[:, 2], static[:, 3]


class TemporalFusionTransformer(nn.Module):
    """The whole network: static contexts, then the encoding of cells, then the windows of each target."""

    def __init__(self, config: ModelConfig, *, n_variables: int, n_assets: int, loss_mode: LossMode) -> None:
        super().__init__()
        self.config, self.loss_mode = config, loss_mode
        self.n_variables, self.n_assets = n_variables, n_assets
        self.static = StaticEncoder(n_assets, config)
        self.cells = CellEncoder(n_variables, config)
        self.windows = WindowReader(config, loss_mode)

    def forward(
        self,
        x: Tensor,
        present: Tensor,
        asset: Tensor,
        windows: Tensor,
        has_context: Tensor,
        *,
        dropout: Dropout | None = None,
    ) -> tuple[Output, Cells]:
        """Forecast B targets from N cells.

        x (N, V) standardised, 0 where missing · present (N, V) 0 or 1 · asset (N,) instrument of each cell ·
        windows (W, L) rows of cells, the B targets' windows first, then the contexts' of each group in turn ·
        has_context (G, C) true where a slot is filled. `dropout` is None when forecasting.
        """
        static = self.static(dropout=dropout)  # (A, 4, H)
        cells = self.cells(x, present, gather(static[:, 0], asset), dropout=dropout)
        window_static = gather(static.flatten(1), asset.index_select(0, windows[:, -1])).unflatten(1, static.shape[1:])
        return self.windows(cells, windows, window_static, has_context, dropout=dropout), cells


def stacked(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    prefix: str,
    *inputs: Any,
    dropout: Dropout | None = None,
) -> Any:
    """Run `module` for K folds at once, and return its output with a leading dimension K.

    `parameters` (K, ...) are named as in the whole network; those whose name starts with `prefix` belong to `module`.
    Inputs are (K, ...), threshold and scale of the dropout (K,). A single fold is called without vmap, which is faster.
    """
    weights = {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
    generator, *levels = dropout or (None,)

    def single(weights: dict[str, Tensor], levels: Sequence[Tensor], *arguments: Any) -> Any:
        fold_dropout = None if generator is None else Dropout(generator, *levels)
        return functional_call(module, weights, arguments, {"dropout": fold_dropout})

    n_folds = next(iter(weights.values())).shape[0]
    if n_folds > 1:
        return vmap(single, randomness="different")(weights, levels, *inputs)
    # squeeze and not value[0]: the backward of indexing fills a tensor as large as the value with zeros.
    outputs = single(*tree_map(lambda value: value.squeeze(0), (weights, levels, *inputs)))
    return tree_map(lambda value: value.unsqueeze(0), outputs)
