"""The five phases, top to bottom. Each is the same four steps (phase_run.py): its key, reuse or compute, keep, draw.

A phase that is asked for runs those before it. `sink` is where a run writes (MLflow, or nowhere for a job inside
another job), `reporter` is what a person sees on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.assessment import Assessment, assess, enter_look, say_what_can_be_found
from pipeline.bar_labels import bar_label, bar_unit
from pipeline.config.reading import to_json, to_mapping
from pipeline.data.checks import check_data
from pipeline.data.errors import DataError
from pipeline.data.findings import Finding, summary
from pipeline.data.sample import planted_columns
from pipeline.job import Job
from pipeline.job_in_words import describe_job, facts_of, what_is_trained
from pipeline.origins import find_origins
from pipeline.phase_run import Finished, describe, log_inputs, phase_key, phase_title, run_phase
from pipeline.phases import exploration as exploring
from pipeline.phases import prefilter as prefiltering
from pipeline.phases import production as producing
from pipeline.phases import pruning as pruning_phase
from pipeline.phases import tuning as tuning_phase
from pipeline.phases.exploration import Explored
from pipeline.phases.folds import deployment_fold, exploration_folds, production_folds, tuning_folds
from pipeline.phases.prefilter import Prefiltered
from pipeline.phases.production import Choice, Walked
from pipeline.phases.pruning import Pruned
from pipeline.phases.search import STORAGE, ended, open_study
from pipeline.phases.tuning import Tuned
from pipeline.registry.evidence import evidence_of
from pipeline.registry.recipe import FitRecipe
from pipeline.registry.registering import Registered, register_and_promote
from pipeline.reporting import artifacts, produced
from pipeline.reporting.description import pictures
from pipeline.reporting.model_card import model_card
from pipeline.reporting.produced import Produced
from pipeline.tracking.kept import Kept
from pipeline.tracking.progress import Quiet, Reporter
from pipeline.tracking.runs import Run
from pipeline.tracking.sink import Silent, Sink
from tft.backtest import FoldRow, fold_row
from tft.checkpoint import CheckpointManager, TrainedModel
from tft.folds import Fold
from tft.record import Record
from tft.runtime.store import Store

CHECKPOINTS = Path("checkpoints")
FALLBACK = Path.home() / ".tft-pipeline" / "fallback"
"""Takes a checkpoint that cannot be written to the working folder."""


def check(job: Job, sink: Sink, reporter: Reporter) -> tuple[Finding, ...]:
    """Look for leaks and faults in the development bars before anything is trained on them.

    What is found is said and logged; how many there are is counted in the metrics (`artifacts.findings_counts`) by
    whoever calls this, or here if there are errors. Raises DataError for errors.
    """
    config = job.config
    n_holdout = max(len(job.data.panel.times) - job.n_development - 1 - config.execution_delay_bars, 0)
    found = check_data(
        job.development_panel,
        timing=config.timing,
        n_holdout_bars=n_holdout if config.selection != "nested" else None,
        accept=config.data.accept,
        planted=planted_columns(job.data.source),
    )
    artifacts.findings(sink, (*found, *job.data.notes))
    for line in summary([finding for finding in found if finding.severity != "error"]):
        reporter.say(line)
    errors = [f"{finding.where}: {finding.message}" for finding in found if finding.severity == "error"]
    if errors:
        artifacts.findings_counts(sink, found)
        raise DataError(job.data.source, errors)
    return (*found, *job.data.notes)


# ---- phases 1 to 4, on development bars


def prefilter(job: Job, sink: Sink, reporter: Reporter) -> Finished[Prefiltered]:
    """Columns that can carry information."""
    config = job.config.prefilter

    def compute(run: Sink, store: Store) -> Prefiltered:
        reporter.start("prefilter", len(job.development_panel.feature_names))
        return prefiltering.prefilter(
            job.development_panel, config, on_columns=lambda n: reporter.step("columns judged", n)
        )

    return run_phase(
        "prefilter",
        Prefiltered,
        job,
        sink,
        reporter,
        settings={"prefilter": asdict(config)},
        compute=compute,
        draw=artifacts.prefilter,
    )


def exploration(
    job: Job, sink: Sink, reporter: Reporter, filtered: Finished[Prefiltered] | None = None
) -> Finished[Explored]:
    """VSN weights of the columns that prefilter kept, by fold."""
    before = filtered or prefilter(job, sink, reporter)
    config = job.config

    def compute(run: Sink, store: Store) -> Explored:
        folds, epochs = exploration_folds(config, job.n_development), config.exploration.epochs
        reporter.start("exploration", len(folds) * epochs)
        data = job.development.select(before.result.kept)
        return exploring.explore(
            data, config, folds, store=store, on_epoch=reporter.epochs(epochs, config.training.loss_mode)
        )

    return run_phase(
        "exploration",
        Explored,
        job,
        sink,
        reporter,
        settings=config.training_settings() | {"exploration": asdict(config.exploration)},
        upstream=[before.key],
        compute=compute,
        draw=artifacts.exploration,
    )


def pruning(job: Job, sink: Sink, reporter: Reporter, explored: Finished[Explored] | None = None) -> Finished[Pruned]:
    """The columns that tuning and production use."""
    before = explored or exploration(job, sink, reporter)
    config = job.config.pruning

    def draw(run: Sink, result: Pruned) -> None:
        artifacts.pruning(run, result)
        reporter.say(f"pruning: {result.summary}")
        if result.warning:
            reporter.say(f"pruning: {result.warning}")

    return run_phase(
        "pruning",
        Pruned,
        job,
        sink,
        reporter,
        settings={"pruning": asdict(config)},
        upstream=[before.key],
        compute=lambda run, store: pruning_phase.prune(before.result, config),
        draw=draw,
    )


def tuning(job: Job, sink: Sink, reporter: Reporter, pruned: Finished[Pruned] | None = None) -> Finished[Tuned]:
    """The best parameters found for the columns that pruning kept."""
    before = pruned or pruning(job, sink, reporter)
    config = job.config
    searched = to_mapping(config.tuning)
    del searched["timeout_seconds"]  # a limit on the search is not part of what is searched
    settings = config.training_settings() | {"tuning": searched}
    key = phase_key("tuning", job, settings, [before.key])

    def compute(run: Sink, store: Store) -> Tuned:
        folds = tuning_folds(config, job.n_development)
        name = f"tuning-{key[:16]}"
        study = open_study(f"{name}-{run.run_id[:8]}" if job.fresh else name, storage=STORAGE if run.shows else None)
        reporter.start("tuning", max(0, config.tuning.n_trials - len(ended(study))) * len(folds))
        reporter.say(
            f"tuning: its limits can be changed while it runs, for example by: optuna study set-user-attr "
            f"--storage {STORAGE} --study-name {study.study_name} --key timeout_seconds --value 0"
        )

        def on_trial(trial: Any) -> None:
            reporter.skip(len(folds) - len(trial.intermediate_values))
            artifacts.trial(run, trial)

        tuned = tuning_phase.tune(
            job.development.select(before.result.selected),
            config,
            folds,
            study,
            on_fold=lambda trial, fold, value, best: reporter.step(
                f"trial {trial} fold {fold} test Sharpe {value:.2f}"
                + ("" if best is None else f", best completed trial {best:.2f}")
            ),
            on_trial=on_trial,
        )
        if run.shows:  # drawing takes longer than a small study
            artifacts.study(run, study)
        return tuned

    return run_phase(
        "tuning",
        Tuned,
        job,
        sink,
        reporter,
        settings=settings,
        upstream=[before.key],
        compute=compute,
        draw=artifacts.tuning,
        complete=lambda result: len(result.trials) >= config.tuning.n_trials,  # its time may have run out
    )


@dataclass(frozen=True, eq=False)
class Chosen:
    """The decisions of phases 1-4, and the keys of their results in order."""

    choice: Choice
    keys: tuple[str, ...]


def choose(job: Job, sink: Sink, reporter: Reporter) -> Chosen:
    """Phases 1-4, on the job's development bars."""
    filtered = prefilter(job, sink, reporter)
    explored = exploration(job, sink, reporter, filtered)
    pruned = pruning(job, sink, reporter, explored)
    tuned = tuning(job, sink, reporter, pruned)
    choice = Choice(
        pruned.result.selected,
        job.config.with_tuned(tuned.result.best),
        filtered.result,
        pruned.result,
        tuned.result,
    )
    return Chosen(choice, (filtered.key, explored.key, pruned.key, tuned.key))


# ---- phase 5, on all bars


def out_of_sample(
    job: Job,
    sink: Sink,
    reporter: Reporter,
    *,
    store: Store,
    chosen: Choice | None = None,
    with_final_fit: bool = False,
) -> Walked:
    """Choose and walk forward: the whole job's record, without anything that judges or registers it.

    store: where finished folds wait in case the process dies · chosen: what phases 1-4 decided, if they have run ·
    with_final_fit: fit what is deployed beside the folds. Raises ValueError where `selection: nested` finds too few
    bars.
    """
    config, n_bars = job.config, len(job.data.panel.times)
    folds = production_folds(config, n_bars)
    choices = producing.choose_for_folds(
        config,
        folds,
        once=lambda: chosen or choose(job, sink, reporter).choice,
        before=lambda fold, end: _choose_before(job, reporter, fold, end, len(folds)),
    )
    final = None
    if with_final_fit:
        assert chosen is not None
        final = deployment_fold(config, n_bars, folds[-1].index + 1), chosen
    epochs = config.production.epochs
    reporter.start("production", (len(folds) + with_final_fit) * epochs * config.production.seeds)
    return producing.walk_forward(
        job.all_bars,
        config,
        list(zip(folds, choices, strict=True)),
        final=final,
        n_development=0 if config.selection == "nested" else job.n_development,
        store=store,
        on_epoch=reporter.epochs(epochs, *(choice.config.training.loss_mode for choice in choices)),
    )


def _choose_before(job: Job, reporter: Reporter, fold: Fold, end: int, n_folds: int) -> Choice:
    """The choice of one of `n_folds` folds, made on the bars before bar `end`."""
    times = job.data.panel.times
    before = f"the bars before {bar_label(str(times[end]), bar_unit(times))}"
    inner = job.on(job.data.first_bars(end), n_selection_bars=end)
    try:
        choice = choose(inner, Silent(Kept()), Quiet()).choice
    except ValueError as error:
        raise ValueError(f"selection of fold {fold.index} on {before}: {error}") from error
    reporter.say(
        f"selection: fold {fold.index} of {n_folds} takes {len(choice.features)} columns and the parameters of trial "
        f"{choice.tuned.best_trial}, chosen on {before}"
    )
    return choice


def production(job: Job, sink: Run, reporter: Reporter, findings: Sequence[Finding] = ()) -> Finished[Produced]:
    """Run whatever upstream is missing, then walk forward through all bars, fit the final model, and register it."""
    say_what_can_be_found(job, reporter)  # and refuses too few bars before anything is trained
    reporter.say(f"production: {what_is_trained(job)}")
    chosen = choose(job, sink, reporter)
    choice = chosen.choice
    config = choice.config
    settings = to_mapping(config)
    key = phase_key(
        "production", job, config.record_settings() | {"regime": settings["regime"]}, chosen.keys, whole=True
    )
    kept = Kept()
    if job.fresh:
        kept.drop_folds(key)
    with sink.phase("production", phase_title("production")) as run:
        describe(run, job, settings)
        reporter.say("production: running")
        walked = out_of_sample(job, sink, reporter, store=kept.folds(key), chosen=choice, with_final_fit=True)
        look = enter_look(job, walked, run_id=sink.run_id, key=key)
        untuned = _walk_untuned(job, walked, reporter, kept.folds(key))
        assessment = assess(job, choice, walked, untuned, look)
        came_from = find_origins(job, choice, walked, reporter, store=kept.folds(key))
        record, panel = walked.record, job.data.panel
        rows = tuple(fold_row(outcome, record, panel.times) for outcome in walked.outcomes)
        holdout = record.performance("holdout")
        metrics = {"oos_sharpe": holdout.sharpe} if holdout else {}
        assert walked.final is not None
        trained = producing.trained_model(panel, job.data.sha256, job.data.format, choice, walked.final, metrics)
        folder, trouble = save_checkpoint(trained, key)
        registered = register_and_promote(
            folder,
            trained,
            FitRecipe(choice.features, config),
            run=run,
            panel=panel,
            evidence=evidence_of(assessment.inference, findings),
            card="\n\n".join(
                [
                    model_card(panel, config, rows, assessment.comparable, assessment.inference),
                    pictures(run.run_id),
                ]
            ),
        )
        result = _result(choice, walked, rows, assessment, folder, registered, trouble, sink.run_id)
        produced.production(
            run,
            sink,
            result,
            facts=facts_of(job, walked, settings),
            chosen=choice,
            walked=walked,
            baselines=assessment.baselines,
            findings=findings,
            came_from=came_from,
        )
        artifacts.trials(sink, choice.tuned)
        if registered.version:
            shown = produced.model_metrics(result)
            run.model(registered.model_id, shown)
            sink.model(registered.model_id, shown)
        run.finish(to_json(result), key)
        describe_job(sink, result)
    kept.drop_folds(key)  # the result is delivered
    return Finished(result, key, run.run_id)


def _walk_untuned(job: Job, walked: Walked, reporter: Reporter, store: Store) -> Record | None:
    """The record of the configuration as it was before tuning; folds that tuning left alone are not fitted again."""
    production = job.config.production
    if refitted := producing.folds_to_refit_untuned(walked):
        reporter.start("untuned", len(refitted) * production.epochs * production.seeds)
    return producing.untuned_record(
        job.all_bars,
        job.config,
        walked,
        store=store,
        on_epoch=reporter.epochs(production.epochs, job.config.training.loss_mode),
    )


def _result(
    choice: Choice,
    walked: Walked,
    rows: Sequence[FoldRow],
    assessment: Assessment,
    folder: Path,
    registered: Registered,
    trouble: Sequence[str],
    run_id: str,
) -> Produced:
    """The headline of the run: rows are those of its folds, the checkpoint is in `folder`."""
    development, holdout = walked.record.performance("development"), walked.record.performance("holdout")
    of_seeds = [one.performance("holdout" if holdout else "development") for one in walked.seed_records]
    return Produced(
        features=choice.features,
        selection=choice.pruned.summary,
        folds=tuple(rows),
        development=development,
        holdout=holdout,
        inference=assessment.inference,
        comparable=assessment.comparable,
        looks=assessment.looks,
        seed_sharpes=tuple(one.sharpe for one in of_seeds if one),
        checkpoint=str(folder),
        model_name=choice.config.registry.name,
        model_version=registered.version,
        promoted=registered.promoted,
        promotion_reason=registered.reason,
        trouble=(*trouble, *registered.trouble),
        run_id=run_id,
    )


def whole_job(job: Job, sink: Run, reporter: Reporter, config_path: str) -> Finished[Produced]:
    """A production run in a run of its own: its inputs, the checks, the five phases."""
    log_inputs(job, sink, command="production", config=config_path)
    return production(job, sink, reporter, check(job, sink, reporter))


def asked_for(name: str, job: Job, sink: Run, reporter: Reporter, config_path: str) -> Finished[Any]:
    """A phase in a run of its own: its inputs, the checks, and whatever the phase needs before it."""
    if name == "production":
        return whole_job(job, sink, reporter, config_path)
    log_inputs(job, sink, command=name, config=config_path)
    artifacts.findings_counts(sink, check(job, sink, reporter))
    alone: dict[str, Callable[[Job, Sink, Reporter], Finished[Any]]] = {
        "prefilter": prefilter,
        "exploration": exploration,
        "pruning": pruning,
        "tuning": tuning,
    }
    return alone[name](job, sink, reporter)


def save_checkpoint(trained: TrainedModel, key: str) -> tuple[Path, list[str]]:
    """The folder that the checkpoint is in, and what went wrong if that is the fallback."""
    folder = CHECKPOINTS / key[:16]
    written = CheckpointManager(folder, fallback=FALLBACK / key[:16]).save(trained)
    if written == folder:
        return written, []
    return written, [f"the checkpoint could not be written to {folder}: it is in {written}, move it from there"]
