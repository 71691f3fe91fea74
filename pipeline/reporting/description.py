"""The description of a production run in the MLflow UI (Markdown): what came of it, and where everything is."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.reporting import links
from pipeline.reporting.headline import headline_table
from pipeline.reporting.page import REPORT
from pipeline.reporting.produced import IN_DESCRIPTION, Produced


def description(result: Produced, *, experiment_id: str, run_id: str, children: Mapping[str, str]) -> str:
    """What the page of a production run says of it.

    run_id: the run that is described · children: the run of each phase below it, by the phase's name and in order.
    """
    headings, rows = headline_table(result, nested=result.inference.selection == "nested")
    lines = [
        f"**{result.inference.verdict}**",
        "",
        f"| | {' | '.join(heading.split(' (')[0] for heading in headings)} |",
        f"|---|{'---:|' * len(headings)}",
        *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows),
        "",
        f"- {links.artifact(experiment_id, run_id, REPORT, 'Report')}: figures, folds, columns, where the record comes "
        f"from",
        f"- {_model(result)}",
        f"- Phases: {' · '.join(links.run(experiment_id, child, name) for name, child in children.items())}",
        f"- {result.selection}",
    ]
    if result.looks:
        lines.append(f"- Look {len(result.looks)} at this record")
    lines += [f"- **Trouble:** {sentence}" for sentence in result.trouble]
    return "\n".join([*lines, "", pictures(run_id)])


def pictures(run_id: str) -> str:
    """The figures that say most, from the artifacts of a run."""
    return "\n\n".join(links.picture(run_id, f"{links.SMALL}/{path}", text) for path, text in IN_DESCRIPTION.items())


def _model(result: Produced) -> str:
    if not result.model_version:
        return "No model version was registered"
    text = f"{result.model_name} version {result.model_version}"
    state = "promoted to Production" if result.promoted else "not promoted"
    link = links.version(result.model_name, result.model_version, text)
    return f"Registered model: {link}, {state} when it was registered: {result.promotion_reason}"
