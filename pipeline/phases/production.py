"""Phase 5: the full walk-forward, the final fit, the checkpoint, and its registration."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipeline.assessment import Assessment, assess, enter_look, say_what_can_be_found
from pipeline.config.reading import to_mapping
from pipeline.config.schema import Config
from pipeline.job import Job
from pipeline.phases import pruning, tuning
from pipeline.phases.out_of_sample import Choice, Walked, choose, out_of_sample
from pipeline.registry import versions as registry
from pipeline.reporting import figures as plots
from pipeline.reporting import luck_figures as luck_plots
from pipeline.reporting import page as report
from pipeline.statistics import baselines
from pipeline.statistics.baselines import BaselineRow
from pipeline.statistics.inference import Inference, SharpeInference, metrics
from pipeline.tracking.ledger import Look
from pipeline.tracking.runs import Run, log_folds
from tft.backtest import FoldOutcome, FoldRow, fold_row
from tft.checkpoint import CheckpointManager, TrainedModel
from tft.metrics import Performance
from tft.panel import AHEAD

CHECKPOINTS = Path("checkpoints")
FALLBACK = Path.home() / ".tft-pipeline" / "fallback"
"""Takes a checkpoint that cannot be written to the working folder."""


@dataclass(frozen=True)
class Produced:
    """Headline of a production run."""

    features: tuple[str, ...]
    folds: tuple[FoldRow, ...]
    development: Performance | None
    holdout: Performance | None
    inference: Inference
    """What luck alone would have given beside each of these numbers, and the verdict."""
    looks: tuple[Look, ...]
    """At an overlapping holdout, this one last."""
    seed_sharpes: tuple[float, ...]
    """Holdout (development without a holdout) net Sharpe of each seed alone: the noise floor of any comparison."""
    checkpoint: str
    """Folder the checkpoint was written to."""
    model_name: str
    model_version: str
    """Empty if it could not be registered."""
    promoted: bool
    promotion_reason: str
    trouble: tuple[str, ...]
    """What could not be done though the training was finished: the command ends with a non-zero exit code."""


def run(job: Job) -> Produced:
    """Run whatever upstream is missing, then walk forward through all bars, fit the final model, and register it."""
    say_what_can_be_found(job)  # and refuses too few bars before anything is trained
    chosen = choose(job)
    filtered, pruned, tuned, config = chosen.filtered, chosen.pruned, chosen.tuned, chosen.config
    walks: list[tuple[Walked, Assessment]] = []

    def compute(run: Run) -> Produced:
        result, walked, assessment = _produce(job, chosen, run)
        walks.append((walked, assessment))
        return result

    def log(run: Run, result: Produced) -> None:
        ((walked, assessment),) = walks
        record, outcomes = walked.record, walked.outcomes
        figures = {
            "validation_vs_oos.png": plots.validation_against_oos(result.folds),
            "equity.png": plots.equity(record),
            "vsn_heatmap.png": plots.vsn_heatmap(pruned.ranked, pruned.fold_indices),
            "stability_against_weight.png": plots.stability_against_weight(
                pruned.ranked, pruned.probe_relative_weight, pruned.probe_stability, pruned.threshold
            ),
            "training_curves.png": plots.training_curves(
                [outcome.fold.index for outcome in outcomes],
                [outcome.train_loss.tolist() for outcome in outcomes],
                [outcome.validation_score.tolist() for outcome in outcomes],
            ),
        }
        if result.inference.baselines:
            figures[report.BASELINES] = luck_plots.baselines(record, assessment.baselines, result.inference.baselines)
        page = report.render(
            job=report.Facts(
                source=job.data.source,
                data_sha256=job.data.sha256,
                symbols=job.data.panel.symbols,
                first_bar=str(job.data.panel.times[0]),
                last_bar=str(job.data.panel.times[-1]),
                n_bars=len(job.data.panel.times),
                n_development=job.n_development,
                selection=walked.selection,
                tags=job.tags(),
                settings=to_mapping(config),
            ),
            n_initial=filtered.n_initial,
            n_prefiltered=len(filtered.kept),
            n_selected=len(pruned.selected),
            ranked=pruned.ranked,
            pruning_warning=pruned.warning,
            tuned=tuned.best,
            n_trials=len(tuned.trials),
            best_trial_sharpe=next(t.oos_sharpe for t in tuned.trials if t.number == tuned.best_trial),
            folds=result.folds,
            record=record,
            model=(result.model_name, result.model_version, result.promoted, result.promotion_reason),
            trouble=result.trouble,
            figures=figures,
            inference=result.inference,
            looks=result.looks,
            findings=job.findings,
        )
        for target in (run, job.parent):
            _log_headline(target, result, filtered.n_initial, len(filtered.kept))
            pruning.log_vsn_tables(target, pruned)
            if walked.selection == "nested":
                log_choices(target, walked)
            for name, figure in figures.items():
                target.figure(name, figure)
            target.text("report.html", page)
            with tempfile.TemporaryDirectory() as scratch:
                for name, columns in (
                    ("oos_record.parquet", record.to_columns()),
                    ("validation_returns.parquet", validation_columns(outcomes, job.data.panel.times)),
                ):
                    pl.DataFrame(dict(columns)).write_parquet(Path(scratch) / name)
                    target.file(Path(scratch) / name)
        tuning.log_trials(job.parent, tuned)

    return job.run_phase(
        "production",
        Produced,
        settings=to_mapping(config),
        upstream=("prefilter", "exploration", "pruning", "tuning"),
        compute=compute,
        log=log,
        reusable=False,
    )


def _produce(job: Job, chosen: Choice, run: Run) -> tuple[Produced, Walked, Assessment]:
    config, panel = chosen.config, job.data.panel
    keep = job.fits_folder("production")
    walked = out_of_sample(job, final=chosen, keep=keep)
    look = enter_look(job, walked)
    final, last = walked.final, walked.final[0].fold
    record = walked.record
    rows = tuple(fold_row(outcome, record, panel.times) for outcome in walked.outcomes)
    development, holdout = record.performance("development"), record.performance("holdout")
    assessment = assess(job, chosen, walked, look, keep=keep)
    of_seeds = [one.performance("holdout" if holdout else "development") for one in walked.seed_records]

    trained = TrainedModel(
        config=config.model,
        loss_mode=config.training.loss_mode,
        feature_names=chosen.features,
        known=tuple(name for name in config.data.known if name + AHEAD in chosen.features),
        symbols=panel.symbols,
        scaler=final[0].scaler,
        parameters={name: torch.stack([fit.parameters[name] for fit in final]) for name in final[0].parameters},
        timing=config.timing,
        positions=config.positions,
        regime=config.regime,
        seed=config.seed,
        fit_end=str(panel.times[-1]),
        data_sha256=job.data.sha256,
        key_columns=config.data.key_columns(),
        fold_bounds={
            "train_start": str(panel.times[last.train.start]),
            "train_end": str(panel.times[last.train.stop - 1]),
            "validation_start": str(panel.times[last.validation.start]),
            "validation_end": str(panel.times[last.validation.stop - 1]),
        },
        metrics={"oos_sharpe": holdout.sharpe} if holdout else {},
    )
    trouble: list[str] = []
    folder = CHECKPOINTS / job.keys["production"][:16]
    written = CheckpointManager(folder, fallback=FALLBACK / job.keys["production"][:16]).save(trained)
    if written != folder:
        trouble.append(f"the checkpoint could not be written to {folder}: it is in {written}, move it from there")
    registered = registry.register_and_promote(
        written,
        trained,
        config.registry,
        run=run,
        panel=panel,
        holdout_sharpe=holdout.sharpe if holdout else None,
        card=model_card(job, config, rows, development, holdout, assessment.inference),
    )
    trouble += registered.trouble
    return (
        Produced(
            features=chosen.features,
            folds=rows,
            development=development,
            holdout=holdout,
            inference=assessment.inference,
            looks=assessment.looks,
            seed_sharpes=tuple(one.sharpe for one in of_seeds if one),
            checkpoint=str(written),
            model_name=config.registry.name,
            model_version=registered.version,
            promoted=registered.promoted,
            promotion_reason=registered.reason,
            trouble=tuple(trouble),
        ),
        walked,
        assessment,
    )


def _log_headline(run: Run, result: Produced, n_initial: int, n_prefiltered: int) -> None:
    luck = result.inference.folds
    log_folds(
        run,
        result.folds,
        {
            "val_sharpe_best_of_noise": [one.best_of_correlated_epochs for one in luck],
            "val_sharpe_best_of_independent_noise": [one.best_of_independent_epochs for one in luck],
        },
    )
    development, holdout = result.development, result.holdout
    run.metrics(
        {
            "n_features_initial": n_initial,
            "n_features_prefiltered": n_prefiltered,
            "n_features_selected": len(result.features),
            "oos_sharpe": holdout.sharpe if holdout else None,
            "oos_sharpe_gross": holdout.sharpe_gross if holdout else None,
            "oos_sharpe_development": development.sharpe if development else None,
            "oos_sharpe_development_gross": development.sharpe_gross if development else None,
            "seed_sharpe_spread": float(np.std(result.seed_sharpes, ddof=1)) if len(result.seed_sharpes) > 1 else None,
            "n_looks": len(result.looks),
        }
    )
    run.metrics(metrics(result.inference) | baselines.metrics(result.inference.baselines))
    if simple := result.inference.baselines:
        names = [field.name for field in fields(BaselineRow)]
        run.table("baselines.json", {name: [getattr(row, name) for row in simple] for name in names})
    for segment, performance in (("holdout", holdout), ("development", development)):
        if performance:
            run.metrics({f"{segment}_{name}": value for name, value in asdict(performance).items()})
    run.tags({"model_name": result.model_name, "model_version": result.model_version, "checkpoint": result.checkpoint})
    run.tags({"verdict": result.inference.verdict})
    if result.trouble:
        run.tags({"trouble": " ".join(result.trouble)})


def validation_columns(
    outcomes: Sequence[FoldOutcome], times: NDArray[np.datetime64]
) -> Mapping[str, NDArray[np.generic]]:
    """Net portfolio return of every validation bar after every epoch, as a long table: fold, epoch, time, net."""
    blocks = [outcome.validation_returns for outcome in outcomes]  # (E, n) each
    return {
        "fold": np.repeat([outcome.fold.index for outcome in outcomes], [block.size for block in blocks]),
        "epoch": np.concatenate([np.repeat(np.arange(len(block)), block.shape[1]) for block in blocks]),
        "time": np.concatenate(
            [
                np.tile(times[outcome.fold.validation.start : outcome.fold.validation.stop], len(block))
                for outcome, block in zip(outcomes, blocks, strict=True)
            ]
        ),
        "net": np.concatenate([block.ravel() for block in blocks]),
    }


def log_choices(run: Run, walked: Walked) -> None:
    """`choices.json`: what each fold was fitted with."""
    choices = [walked.choices[fold.index] for fold in walked.folds]
    times = walked.market.panel.times
    names = sorted({name for choice in choices for name in choice.tuned.best})
    columns: dict[str, list[Any]] = {
        "fold": [fold.index for fold in walked.folds],
        "chosen_before": [str(times[fold.validation.stop]) for fold in walked.folds],
        "n_features": [len(choice.features) for choice in choices],
        "features": [", ".join(choice.features) for choice in choices],
        "trial": [choice.tuned.best_trial for choice in choices],
    }
    columns |= {name: [choice.tuned.best.get(name) for choice in choices] for name in names}
    run.table("choices.json", columns)


def model_card(
    job: Job,
    config: Config,
    rows: Sequence[FoldRow],
    development: Performance | None,
    holdout: Performance | None,
    inference: Inference,
) -> str:
    """The version's description in the registry (Markdown)."""
    panel = job.data.panel

    def line(name: str, performance: Performance | None, judged: SharpeInference | None) -> str:
        if performance is None:
            return f"- {name}: too few bars to say anything"
        error = f" ± {judged.standard_error:.2f}" if judged and judged.standard_error is not None else ""
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
