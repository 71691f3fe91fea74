"""The text that describes a registered version in the registry."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.bar_labels import bar_label, bar_unit
from pipeline.config.schema import Config
from pipeline.counted import counted
from pipeline.statistics.calibration_in_words import in_one_sentence
from pipeline.statistics.comparable import MODEL, Comparable
from pipeline.statistics.inference import Inference
from pipeline.statistics.sharpe import SharpeInference
from tft.backtest import FoldRow
from tft.panel import Panel


def model_card(
    panel: Panel,
    config: Config,
    rows: Sequence[FoldRow],
    comparable: Sequence[Comparable],
    inference: Inference,
) -> str:
    """The description of a registered version (Markdown)."""

    of_segment = {one.segment: one for one in comparable if one.name == MODEL}

    def line(name: str, one: Comparable | None, inference: SharpeInference | None) -> str:
        if one is None or one.volatility is None:
            return f"- {name}: too few bars, or returns that do not vary, to say anything"
        error = f" ± {inference.standard_error:.2f}" if inference and inference.standard_error is not None else ""
        return (
            f"- {name}: annual net Sharpe {one.sharpe:.2f}{error} (gross {one.sharpe_gross:.2f}), {one.n_bars} bars; "
            f"scaled to a volatility of {one.volatility_target:.0%} (realised: {one.volatility:.1%}) worst drawdown "
            f"{one.max_drawdown_at_target:.1%}, turnover {one.turnover_at_target:.0f} a year"
        )

    if config.selection == "nested":
        records = [
            line(
                "Nested, columns and parameters of each fold chosen on nothing but the bars before it",
                of_segment.get("holdout"),
                inference.holdout,
            )
        ]
    else:
        records = [
            line("Holdout, never seen by selection", of_segment.get("holdout"), inference.holdout),
            line(
                "Development, on which columns and parameters were chosen: not out-of-sample",
                of_segment.get("development"),
                inference.development,
            ),
        ]
    if inference.skill and inference.skill.skill_se is not None:
        skill = inference.skill
        neutral = skill.neutral
        records.insert(
            1,
            f"- Of that Sharpe, drift {skill.drift:.2f} and skill {skill.skill:.2f} ± {skill.skill_se:.2f}; neutral "
            f"Sharpe {neutral.sharpe:.2f} ± {neutral.standard_error:.2f}, alpha {skill.alpha_annual:.1%} ± "
            f"{skill.alpha_annual_se:.1%} a year",
        )
    if inference.calibration:
        records.append(f"- Calibration: {in_one_sentence(inference.calibration, nested=config.selection == 'nested')}")
    used = config.model
    first, last = (bar_label(str(time), bar_unit(panel.times)) for time in (panel.times[0], panel.times[-1]))
    return "\n".join(
        [
            "## Temporal Fusion Transformer",
            inference.verdict,
            "",
            f"Trained on {len(panel.symbols)} instruments ({', '.join(panel.symbols[:12])}), "
            f"{first} to {last}, {counted(len(rows), 'walk-forward fold')} with a purge gap of "
            f"{counted(config.purge_gap, 'bar')}.",
            "",
            *records,
            "",
            f"Network: d_hidden {used.d_hidden}, n_heads {used.n_heads}, lstm_layers {used.lstm_layers}, "
            f"seq_len {used.seq_len}, n_context {used.n_context}, loss {config.training.loss_mode}.",
            f"A decision of bar t takes effect {counted(1 + config.execution_delay_bars, 'bar')} later; costs "
            f"{config.positions.cost_bps} bps.",
            "The final weights were fitted up to the last bar: no performance of them is known.",
        ]
    )
