"""Time one TFT in the interpreter that runs this file, called by peers.py, and print the result as JSON.

    python benchmarks/peers_timing.py '{"implementation": "darts", "threads": 2}'

Beside the implementation itself it needs numpy and torch alone: it runs in environments that are not this project's.

Shapes: T bars, A instruments, V variables, L look-back bars, B windows.
"""

from __future__ import annotations

import json
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

QUANTILES = [0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95]
READY_BATCHES = 4
LABEL_BARS = 2
"""From a decision to the end of its label."""
SEED = 7


@dataclass(frozen=True)
class Setting:
    """Implementation, sizes and repetitions of a timing."""

    implementation: str = "ours"
    embedding: int = 48
    """Width of a number's embedding, if the implementation has this option"""
    stack: int = 1
    """Folds stacked, for this project only"""
    device: str = "auto"
    threads: int = 1
    tf32: bool = False
    n_features: int = 73
    d_hidden: int = 48
    n_heads: int = 4
    lstm_layers: int = 1
    dropout: float = 0.23
    seq_len: int = 63
    batch: int = 16
    inference_batch: int = 64
    instruments: int = 4
    bars: int = 260
    epoch_steps: int | None = None
    """Steps of an epoch of this project, to which the number of targets is reduced; None uses all targets"""
    steps: int = 10
    """Steps timed at once, for the peers only"""
    repeats: int = 5


class Windows(NamedTuple):
    """Data from which a peer's batches are made."""

    past: Tensor  # (B, L, V)
    known: Tensor  # (B, 1, 1) a variable's value in the bar that is forecast
    instrument: Tensor  # (B,)
    y: Tensor  # (B,)


class Peer(NamedTuple):
    """A network with the functions that make its batches and read its output."""

    network: nn.Module
    batch: Callable[[Windows], Any]
    """Makes a batch of windows in the form that `network` takes"""
    loss: Callable[[Any, Windows], Tensor]
    """Loss of the output of `network`"""


def numbers(setting: Setting) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Generate features (T, A, V) and returns (T, A)."""
    rng = np.random.default_rng(SEED)
    shape = (setting.bars, setting.instruments)
    features = rng.standard_normal((*shape, setting.n_features), dtype=np.float32)
    return features, 0.01 * rng.standard_normal(shape)


def ends(setting: Setting, size: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield last bars (B,) and instruments (B,) of B = `size` random windows."""
    rng = np.random.default_rng(SEED)
    while True:
        bar = rng.integers(setting.seq_len - 1, setting.bars - LABEL_BARS, size)
        yield bar, rng.integers(0, setting.instruments, size)


def ready_windows(setting: Setting, size: int, device: torch.device) -> list[Windows]:
    features, returns = numbers(setting)
    back = np.arange(setting.seq_len - 1, -1, -1)
    return [
        Windows(
            torch.from_numpy(features[bar[:, None] - back, asset[:, None]]).to(device),
            torch.from_numpy(features[bar + 1, asset, :1, None]).to(device),
            torch.from_numpy(asset).to(device),
            torch.from_numpy((100.0 * returns[bar + LABEL_BARS, asset]).astype(np.float32)).to(device),
        )
        for bar, asset in islice(ends(setting, size), READY_BATCHES)
    ]


def distinct_cells(setting: Setting) -> float:
    """Number of distinct (bar, instrument) cells in the windows of a random batch, mean of eight batches."""
    back = np.arange(setting.seq_len) * setting.instruments
    batches = islice(ends(setting, setting.batch), 8)
    return float(
        np.mean([len(np.unique((bar * setting.instruments + asset)[:, None] - back)) for bar, asset in batches])
    )


def seconds(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Wall time in seconds of each of `repeats` runs, after one warm-up run."""
    found = []
    for _ in range(1 + repeats):
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        found.append(time.perf_counter() - started)
    return found[1:]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def neuralforecast(setting: Setting) -> Peer:
    """Its history is the target itself, the past of the variable known in advance, and the others: V in all."""
    try:
        import ray  # noqa: F401
    except ImportError:  # 80 MB that neuralforecast imports with everything, and needs to search for parameters alone
        modules = ("", ".air", ".tune", ".tune.integration.pytorch_lightning", ".tune.search.basic_variant")
        sys.modules.update({f"ray{name}": MagicMock() for name in modules})
    from neuralforecast.losses.pytorch import MQLoss
    from neuralforecast.models import TFT

    network = TFT(
        h=1,
        input_size=setting.seq_len,
        hist_exog_list=[f"x{i}" for i in range(2, setting.n_features)],
        futr_exog_list=["known"],
        stat_exog_list=["instrument"],
        hidden_size=setting.d_hidden,
        n_head=setting.n_heads,
        n_rnn_layers=setting.lstm_layers,
        dropout=setting.dropout,
        loss=MQLoss(quantiles=QUANTILES),
    )

    def batch(windows: Windows) -> dict[str, Tensor]:
        return {
            "insample_y": windows.past[..., :1],
            "hist_exog": windows.past[..., 2:],
            "futr_exog": torch.cat([windows.past[..., 1:2], windows.known], dim=1),
            "stat_exog": windows.instrument.float().unsqueeze(-1),
        }

    def loss(output: Tensor, windows: Windows) -> Tensor:
        return network.loss(y=windows.y[:, None, None], y_hat=network.loss.domain_map(output))

    return Peer(network, batch, loss)


def pytorch_forecasting(setting: Setting) -> Peer:
    from pytorch_forecasting import QuantileLoss, TemporalFusionTransformer
    from pytorch_forecasting.data.encoders import TorchNormalizer

    names = [f"x{i}" for i in range(setting.n_features)]
    network = TemporalFusionTransformer(
        hidden_size=setting.d_hidden,
        hidden_continuous_size=setting.embedding,
        attention_head_size=setting.n_heads,
        lstm_layers=setting.lstm_layers,
        dropout=setting.dropout,
        max_encoder_length=setting.seq_len,
        x_reals=names,
        time_varying_reals_encoder=names,
        time_varying_reals_decoder=names[:1],
        x_categoricals=["instrument"],
        static_categoricals=["instrument"],
        embedding_sizes={"instrument": (setting.instruments, setting.d_hidden)},
        output_size=len(QUANTILES),
        output_transformer=TorchNormalizer(method="identity"),
        loss=QuantileLoss(QUANTILES),
        logging_metrics=nn.ModuleList(),
    )

    def batch(windows: Windows) -> dict[str, Tensor]:
        size, device = len(windows.y), windows.y.device
        instrument = windows.instrument[:, None, None]
        return {
            "encoder_cont": windows.past,
            "decoder_cont": windows.known.expand(-1, -1, setting.n_features),  # of which it reads the first
            "encoder_cat": instrument.expand(-1, setting.seq_len, -1),
            "decoder_cat": instrument,
            "encoder_lengths": torch.full((size,), setting.seq_len, device=device),
            "decoder_lengths": torch.ones(size, dtype=torch.int64, device=device),
            "target_scale": torch.tensor([0.0, 1.0], device=device).expand(size, -1),
        }

    def loss(output: Any, windows: Windows) -> Tensor:
        return network.loss.loss(output.prediction, windows.y[:, None]).mean()

    return Peer(network, batch, loss)


def darts(setting: Setting) -> Peer:
    """The module inside its TFTModel, described as TFTModel would: target, past and future covariates, V in all."""
    from darts.models.forecasting.tft_model import _TFTModule
    from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput
    from darts.utils.likelihood_models.torch import QuantileRegression

    past = ["target_0", *(f"past_covariate_{i}" for i in range(setting.n_features - 2)), "future_covariate_0"]
    network = _TFTModule(
        output_dim=(1, len(QUANTILES)),
        variables_meta={
            "model_config": {
                "reals_input": past,
                "time_varying_encoder_input": past,
                "time_varying_decoder_input": past[-1:],
                "static_input": ["instrument"],
                "static_input_numeric": [],
                "static_input_categorical": ["instrument"],
            }
        },
        num_static_components=1,
        hidden_size=setting.d_hidden,
        hidden_continuous_size=setting.embedding,
        num_attention_heads=setting.n_heads,
        lstm_layers=setting.lstm_layers,
        dropout=setting.dropout,
        full_attention=False,
        feed_forward="GatedResidualNetwork",
        categorical_embedding_sizes={"instrument": (setting.instruments, setting.d_hidden)},
        add_relative_index=False,
        norm_type="LayerNorm",
        input_chunk_length=setting.seq_len,
        output_chunk_length=1,
        likelihood=QuantileRegression(QUANTILES),
    )

    def batch(windows: Windows) -> PLModuleInput:
        return PLModuleInput(
            past_target=windows.past[..., :1],
            past_covariates=windows.past[..., 2:],
            historic_future_covariates=windows.past[..., 1:2],
            future_covariates=windows.known,
            static_covariates=windows.instrument.float()[:, None, None],
            stage=ModuleStage.TRAIN,
        )

    def loss(output: Any, windows: Windows) -> Tensor:
        return network.likelihood.compute_loss(output.prediction, windows.y[:, None, None], None)

    return Peer(network, batch, loss)


def time_peer(build: Callable[[Setting], Peer], setting: Setting, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(SEED)
    network, as_batch, loss_of = build(setting)
    network.to(device)
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    ready = [(as_batch(windows), windows) for windows in ready_windows(setting, setting.batch, device)]

    def train() -> None:
        for step in range(setting.steps):
            batch, windows = ready[step % len(ready)]
            optimiser.zero_grad()
            loss_of(network(batch), windows).backward()
            optimiser.step()

    network.train()
    step_s = [whole / setting.steps for whole in seconds(train, setting.repeats, device)]
    with torch.no_grad():
        final = float(loss_of(network(ready[0][0]), ready[0][1]))
    if not np.isfinite(final):
        raise FloatingPointError(f"the loss is {final} after training")

    network.eval()
    asked = [as_batch(windows) for windows in ready_windows(setting, setting.inference_batch, device)]

    @torch.no_grad()
    def infer() -> None:
        for batch in asked:
            network(batch)

    return {
        "step_s": step_s,
        "at_once": 1,
        "inference_s": seconds(infer, setting.repeats, device),
        "inference_windows": len(asked) * setting.inference_batch,
        "parameters": sum(parameter.numel() for parameter in parameters),
        "version": version(setting.implementation),
    }


def time_ours(setting: Setting, device: torch.device) -> dict[str, Any]:
    """Time per step of `fit_folds` without the validation forecast, and time of `forecast_fit` over all bars."""
    from tft.fold_stack import FoldStack
    from tft.folds import Fold
    from tft.market import Market
    from tft.model import ModelConfig
    from tft.panel import Panel
    from tft.positions import PositionsConfig
    from tft.train import EpochReport, Recipe, TrainingConfig, fit_folds, forecast_fit
    from tft.volatility import Timing

    features, returns = numbers(setting)
    panel = Panel(
        times=np.datetime64("2000-01-01T00", "h") + np.arange(setting.bars),
        symbols=tuple(f"S{i}" for i in range(setting.instruments)),
        feature_names=tuple(f"px_{i}" for i in range(setting.n_features)),
        features=features,
        returns=returns,
    )
    market = Market(panel, Timing(), device)
    end = setting.bars - LABEL_BARS
    at_once = setting.threads if device.type == "cpu" else 1  # stacks, a thread each
    folds = [
        Fold(i, range(setting.seq_len - 1, end - 6), range(end - 1, end), range(end, end))
        for i in range(setting.stack * at_once)
    ]
    targets = np.arange(folds[0].train.start * setting.instruments, folds[0].train.stop * setting.instruments)
    if setting.epoch_steps:  # few of them, far apart: a short epoch whose windows overlap as little as a long one's
        targets, left_out = np.split(
            np.random.default_rng(SEED).permutation(targets), [setting.epoch_steps * setting.batch]
        )
        np.put(market.y, left_out, np.nan)
    n_steps = len(targets) // setting.batch
    model = ModelConfig(
        d_hidden=setting.d_hidden,
        n_heads=setting.n_heads,
        lstm_layers=setting.lstm_layers,
        dropout=setting.dropout,
        seq_len=setting.seq_len,
        n_context=0,
    )
    training = TrainingConfig(
        objective="pooled",
        lr=1e-3,
        weight_decay=0.0,
        batch_size=setting.batch,
        loss_mode="joint_quantile",
        mle_weight=0.186,
        patience=0,
    )
    recipe = Recipe(model, training, Timing(), 1 + setting.repeats, SEED, PositionsConfig())

    forecast_s: list[float] = []
    validate = FoldStack.validate

    def timed(*arguments: Any, **named: Any) -> Any:
        synchronise(device)  # the steps before it are not its own
        started = time.perf_counter()
        result = validate(*arguments, **named)
        synchronise(device)
        forecast_s.append(time.perf_counter() - started)
        return result

    FoldStack.validate = timed
    epoch_s: list[float] = []

    def on_epoch(report: EpochReport) -> None:
        if report.epoch:  # the first is a warm-up
            epoch_s.append(report.seconds)

    (fit, *_) = fit_folds(market, folds, recipe, stack_size=setting.stack, on_epoch=on_epoch)
    FoldStack.validate = validate
    step_s = [(whole - float(np.median(forecast_s))) / n_steps for whole in epoch_s]
    with (Path(__file__).resolve().parents[1] / "pyproject.toml").open("rb") as file:
        own_version = tomllib.load(file)["project"]["version"]
    result = {
        "step_s": step_s,
        "at_once": at_once,
        "inference_s": [],
        "inference_windows": (setting.bars - setting.seq_len + 1) * setting.instruments,
        "parameters": sum(value.numel() for value in fit.parameters.values()),
        "version": own_version,
    }
    if setting.stack == 1 and not setting.epoch_steps:
        bars = range(setting.bars)
        result["inference_s"] = seconds(lambda: forecast_fit(fit, market, recipe, bars), setting.repeats, device)
    return result


def main() -> None:
    setting = Setting(**json.loads(sys.argv[1]))
    name = ("cuda" if torch.cuda.is_available() else "cpu") if setting.device == "auto" else setting.device
    device = torch.device(name)
    torch.set_num_threads(setting.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = setting.tf32
    peers = {"neuralforecast": neuralforecast, "pytorch-forecasting": pytorch_forecasting, "darts": darts}
    build = peers.get(setting.implementation)
    result = time_peer(build, setting, device) if build else time_ours(setting, device)
    result["distinct_cells"] = distinct_cells(setting)
    result["torch"] = torch.__version__
    result["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
