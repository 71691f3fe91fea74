"""The text that describes a registered version in the registry."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.schema import Config
from pipeline.statistics.calibration_in_words import in_one_sentence
from pipeline.statistics.inference import Inference
from pipeline.statistics.sharpe import SharpeInference
from tft.backtest import FoldRow
from tft.metrics import Performance
from tft.panel import Panel


def model_card(
    panel: Panel,
    config: Config,
    rows: Sequence[FoldRow],
    development: Performance | None,
    holdout: Performance | None,
    inference: Inference,
) -> str:
    """The description of a registered version (Markdown)."""

    def line(name: str, performance: Performance | None, inference: SharpeInference | None) -> str:
        if performance is None:
            return f"- {name}: too few bars to say anything"
        error = f" ± {inference.standard_error:.2f}" if inference and inference.standard_error is not None else ""
        return (
            f"- {name}: annual net Sharpe {performance.sharpe:.2f}{error} (gross {performance.sharpe_gross:.2f}), "
            f"worst drawdown {performance.max_drawdown:.1%}, turnover {performance.turnover:.0f} a year, "
            f"{performance.n_bars} bars"
        )

    if config.selection == "nested":
        records = [
            line(
                "Nested, columns and parameters of each fold chosen on nothing but the bars before it",
                holdout,
                inference.holdout,
            )
        ]
    else:
        records = [
            line("Holdout, never seen by selection", holdout, inference.holdout),
            line(
                "Development, on which columns and parameters were chosen: not out-of-sample",
                development,
                inference.development,
            ),
        ]
    if inference.skill and inference.skill.skill_se is not None:
        skill = inference.skill
        records.append(
            f"- Of that Sharpe, drift {skill.drift:.2f} and skill {skill.skill:.2f} ± {skill.skill_se:.2f}; neutral "
            f"Sharpe {skill.neutral.sharpe:.2f}, alpha {skill.alpha_annual:.1%} a year"
            + (f", beta {skill.beta:.2f}" if skill.beta is not None else "")
        )
    if inference.calibration:
        records.append(f"- Calibration: {in_one_sentence(inference.calibration, nested=config.selection == 'nested')}")
    used = config.model
    return "\n".join(
        [
            "## Temporal Fusion Transformer",
            inference.verdict,
            "",
            f"Trained on {len(panel.symbols)} instruments ({', '.join(panel.symbols[:12])}), "
            f"{panel.times[0]} to {panel.times[-1]}, {len(rows)} walk-forward folds with a purge gap of "
            f"{config.purge_gap} bars.",
            "",
            *records,
            "",
            f"Network: d_hidden {used.d_hidden}, n_heads {used.n_heads}, lstm_layers {used.lstm_layers}, "
            f"seq_len {used.seq_len}, n_context {used.n_context}, loss {config.training.loss_mode}.",
            f"A decision of bar t takes effect {1 + config.execution_delay_bars} bars later; costs "
            f"{config.positions.cost_bps} bps.",
            "The final weights were fitted up to the last bar: no performance of them is known.",
        ]
    )
