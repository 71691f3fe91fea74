"""A placebo's p-value goes into the verdict of the run that it judged.

Rewritten are its result, tags, description, card and page, and the evidence by which its version may be promoted
later. Nothing is promoted here.
"""

from __future__ import annotations

from dataclasses import replace

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.assessment import PLACEBO
from pipeline.config.reading import from_json, to_json
from pipeline.job_in_words import describe_job
from pipeline.registry import evidence
from pipeline.reporting import page
from pipeline.reporting.produced import Produced, job_metrics, phase_metrics
from pipeline.statistics.inference import metrics
from pipeline.statistics.verdict import PlaceboLuck
from pipeline.tracking.runs import Run
from pipeline.tracking.sink import RESULT


def produced_by(production: Run) -> tuple[Run, Produced]:
    """The phase run of a production run, and its result. Raises ValueError if it is gone."""
    client = production.client
    experiment = client.get_run(production.run_id).info.experiment_id
    below = client.search_runs(
        [experiment], f"tags.mlflow.parentRunId = '{production.run_id}' and tags.phase = 'production'"
    )
    for found in below:  # newest first: one that was resumed has several
        phase = Run(found.info.run_id)
        try:
            return phase, from_json(Produced, phase.read_text(RESULT))
        except (MlflowException, OSError):
            continue
    raise ValueError(
        f"production run {production.run_id} has no artifact {RESULT} in its phase `production`: run it again"
    )


def rewrite_verdict(production: Run, placebo: PlaceboLuck) -> str:
    """Put the verdict that the placebo leaves in place of the one there; returns it."""
    phase, result = produced_by(production)
    before = result.inference.verdict
    result = replace(result, inference=result.inference.with_placebo(placebo))
    after = result.inference.verdict
    phase.text(RESULT, to_json(result))
    judged = metrics(result.inference)
    phase.metrics(phase_metrics(judged))
    production.metrics(job_metrics(judged))
    for run in (phase, production):
        run.tags({"verdict": after, PLACEBO: to_json(placebo)})
        run.text(page.REPORT, page.with_verdict(run.read_text(page.REPORT), after))
    describe_job(production, result)
    if result.model_version:
        client = MlflowClient()
        card = client.get_model_version(result.model_name, result.model_version).description or ""
        card = card.replace(before, after) if before in card else f"{after}\n\n{card}"
        client.update_model_version(result.model_name, result.model_version, description=card)
        before_it = evidence.kept(result.model_name, result.model_version)
        finds_skill = result.inference.finds_skill
        evidence.keep(
            result.model_name, result.model_version, replace(before_it, finds_skill=finds_skill, verdict=after)
        )
    return after
