"""The rule by which a version gets Production, and the way round it for a person with a reason.

    always      as it says
    never       likewise
    if_better   the first version: a verdict of skill, and not worse than long only (evidence.py)
                a refresh, of the same recipe as the incumbent: it does what that does (gates.py)
                a new recipe: it earns more on bars after both were registered (comparison.py)

Under each rule a version whose interface differs from the incumbent's (interface.py) is refused unless forced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlflow.tracking import MlflowClient

from pipeline.registry import comparison, evidence, standing
from pipeline.registry.gates import closed_gates
from pipeline.registry.interface import Interface, changes, changes_for_live, trained_version
from pipeline.registry.recipe import FINGERPRINT
from pipeline.registry.versions import find_version
from tft.checkpoint import CheckpointError, TrainedModel
from tft.panel import Panel

Rule = Literal["always", "never", "if_better"]


@dataclass(frozen=True)
class Decision:
    """Whether a version has Production now, and a sentence without its full stop on why."""

    promoted: bool
    reason: str


def promote(name: str, version: str, *, rule: Rule, panel: Panel | None, force: bool = False) -> Decision:
    """Give the version Production if the rule allows it.

    panel: the newest bars with all columns of the table, for a refresh or a new recipe. force: although a live
    process has to change. Raises RegistryError if there is no such version.
    """
    standing.repair(name)
    version = find_version(name, version=version)
    incumbent = standing.holder(name)
    if version == incumbent:
        return Decision(True, "it has Production already")
    if rule == "never":
        return Decision(False, f"the rule is never to promote; {by_hand(name, version)}")
    if incumbent is None:
        decision = Decision(True, "the rule is to promote always") if rule == "always" else _first(name, version)
    else:
        decision = _after_another(name, version, incumbent, rule, panel, force)
    if decision.promoted:
        standing.give(name, version, decision.reason)
    return decision


def promote_by_hand(name: str, version: str, *, why: str, force: bool = False) -> Decision:
    """Give the version Production because a person says so; the reason stays as a tag and in the description.

    Raises ValueError without a reason, for the version that has it, and for another interface without `force`.
    """
    standing.repair(name)
    version = find_version(name, version=version)
    incumbent = standing.holder(name)
    if not why.strip():
        raise ValueError('--why is empty: say why it is promoted, as in --why "paper-traded since May"')
    if version == incumbent:
        raise ValueError(f"version {version} of {name} has Production already")
    told = f"by hand: {why.strip()}"
    if incumbent is not None:
        differing = changes_for_live(name, trained_version(name, version), incumbent)
        if differing and not force:
            raise ValueError(f"version {version} of {name} is not promoted: {_refusal(incumbent, differing)}")
        if differing:
            told += f" (for the live process changes: {'; '.join(differing)})"
    standing.give(name, version, told)
    return Decision(True, told)


def by_hand(name: str, version: str, *, force: bool = False) -> str:
    """How a person promotes a version."""
    return f'by hand: `tft-pipeline models promote {version} --name {name} --why "..."{" --force" if force else ""}`'


def _first(name: str, version: str) -> Decision:
    found = evidence.kept(name, version)
    lacks = found.missing()
    if not lacks:
        return Decision(True, "it is the first version, its verdict finds skill, and it is no worse than long only")
    return Decision(False, f"a first version needs {' and '.join(lacks)}; {by_hand(name, version)}")


def _after_another(name: str, version: str, incumbent: str, rule: Rule, panel: Panel | None, force: bool) -> Decision:
    """The decision on a version while version `incumbent` has Production: by the rule, then by the interface."""
    new = trained_version(name, version)
    differing = changes_for_live(name, new, incumbent)
    if rule == "always":
        decision = Decision(True, "the rule is to promote always")
    else:
        try:
            old = trained_version(name, incumbent)
        except CheckpointError:
            return Decision(False, f"{_refusal(incumbent, differing)}; {by_hand(name, version, force=True)}")
        decision = _if_better(name, version, incumbent, new, old, panel)
    if differing and not decision.promoted and rule == "if_better":
        said = f"{decision.reason}; --force will be needed as well, since a live process would have to change: against"
        return Decision(False, f"{said} version {incumbent}, {'; '.join(differing)}")
    if not (decision.promoted and differing):
        return decision
    if force:
        return Decision(True, f"{decision.reason} (for the live process changes: {'; '.join(differing)})")
    return Decision(
        False, f"{decision.reason}, but {_refusal(incumbent, differing)}; {by_hand(name, version, force=True)}"
    )


def _if_better(
    name: str, version: str, incumbent: str, new: TrainedModel, old: TrainedModel, panel: Panel | None
) -> Decision:
    later = f"`tft-pipeline models promote {version} --config ...` goes on with newer bars; {by_hand(name, version)}"
    if same_recipe(name, version, incumbent):
        if panel is None:
            return Decision(False, f"its gates need the newest bars: {later}")
        if missing := _unreadable(panel, new, old):
            return Decision(False, f"{missing}; {by_hand(name, version)}")
        closed = closed_gates(new, old, panel, evidence.kept(name, version))
        if closed:
            return Decision(
                False, f"it is a refresh of version {incumbent}, but {'; '.join(closed)}; {by_hand(name, version)}"
            )
        return Decision(True, f"it is a refresh of version {incumbent} and passes its gates")
    if Interface.of(new).market != Interface.of(old).market:
        differing = changes(Interface.of(old), Interface.of(new))
        return Decision(False, f"{_refusal(incumbent, differing)}; {by_hand(name, version, force=True)}")
    compared = comparison.open_or_find(name, version, incumbent)
    if not compared.won and panel is not None:
        if missing := _unreadable(panel, new, old):
            return Decision(False, f"{missing}; {by_hand(name, version)}")
        compared = comparison.go_on(name, version, compared, panel, new, old)
    said = f"compared with version {incumbent}, {compared.in_words()}"
    return Decision(True, said) if compared.won else Decision(False, f"{said}; {later}")


def same_recipe(name: str, version: str, incumbent: str) -> bool:
    """Whether both were fitted by one recipe, and differ by their bars alone."""
    client = MlflowClient()
    prints = [client.get_model_version(name, each).tags.get(FINGERPRINT) for each in (version, incumbent)]
    return prints[0] is not None and prints[0] == prints[1]


def _unreadable(panel: Panel, *models: TrainedModel) -> str:
    """What the table lacks for these models to decide on it; empty for nothing."""
    absent = sorted({name for one in models for name in one.feature_names} - set(panel.feature_names))
    if absent:
        return f"the table lacks the columns {', '.join(absent)}, which one of the two versions reads"
    if any(one.symbols != panel.symbols for one in models):
        return f"the table holds the instruments {', '.join(panel.symbols)}, which are not those of the versions"
    return ""


def _refusal(incumbent: str, differing: list[str]) -> str:
    return (
        f"a live process that follows Production would have to change with it, which needs --force: against version "
        f"{incumbent}, {'; '.join(differing)}"
    )
