"""The study: how many trials it runs, which, and what can be changed while it does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from pipeline.config.space import Range
from pipeline.phases.search import RANDOM_TRIALS, Objective, Report, ended, first_parameters, open_study, search

SPACE = {
    "lr": Range(low=0.0003, high=0.01, log=True),
    "d_hidden": Range(choices=(4, 8, 16)),
    "max_position": Range(low=0.1, high=1.0),
    "seq_len": Range(low=4, high=20, step=4),
}
UNTUNED: dict[str, Any] = {"lr": 0.002, "d_hidden": 8, "max_position": 0.5, "seq_len": 12}


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """SQLite waits for the disk after each of the many small writes of a study; nothing here outlives the test."""

    def quick(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    sqlalchemy.event.listen(sqlalchemy.Engine, "connect", quick)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "connect", quick)


@pytest.fixture(scope="module")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage without a study; making one takes a while."""
    path = tmp_path_factory.mktemp("optuna") / "empty.db"
    open_study("none", storage=f"sqlite:///{path}")
    return path


@pytest.fixture
def storage(empty_storage: Path, tmp_path: Path) -> str:
    shutil.copy(empty_storage, tmp_path / "optuna.db")
    return f"sqlite:///{tmp_path / 'optuna.db'}"


def score(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
    """Best at lr 0.003 and max_position 0.3, without folds."""
    return -abs(parameters["lr"] - 0.003) * 100 - abs(parameters["max_position"] - 0.3)


def run(
    study: optuna.Study,
    objective: Objective = score,
    *,
    n_trials: int = 5,
    timeout_seconds: float = 0.0,
    seed: int = 1,
    on_trial: Callable[[FrozenTrial], None] = lambda trial: None,
    space: Mapping[str, Range] = SPACE,
) -> list[FrozenTrial]:
    search(
        study,
        space,
        {name: UNTUNED[name] for name in space},
        objective,
        n_trials=n_trials,
        timeout_seconds=timeout_seconds,
        seed=seed,
        on_trial=on_trial,
    )
    return ended(study)


def seen(trials: list[FrozenTrial]) -> list[tuple[dict[str, Any], float | None]]:
    return [(trial.params, trial.value) for trial in trials]


def test_n_trials_is_the_stopping_rule(storage: str) -> None:
    """As many trials as asked for, over all calls together; each is told of once, when it has ended."""
    study, told = open_study("a", storage=storage), []
    assert len(run(study, n_trials=3, on_trial=lambda trial: told.append(trial.number))) == 3
    assert len(run(study, n_trials=3, on_trial=lambda trial: told.append(trial.number))) == 3
    assert len(run(study, n_trials=5, on_trial=lambda trial: told.append(trial.number))) == 5
    assert told == [0, 1, 2, 3, 4]


def test_trial_0_is_the_untuned_configuration_and_the_others_lie_in_the_space(storage: str) -> None:
    trials = run(open_study("a", storage=storage), n_trials=8)
    assert trials[0].params == UNTUNED
    assert len({str(trial.params) for trial in trials}) > 1
    for trial in trials:
        for name, values in SPACE.items():
            assert values.holds(trial.params[name]), (name, trial.params[name])


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(storage: str) -> None:
    """Long enough for the sampler to have begun to model (it draws its first ten at random)."""
    one, same, other = (
        seen(run(open_study(name, storage=storage), n_trials=14, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one == same
    assert one[0] == other[0] and all(x != y for x, y in zip(one[1:], other[1:], strict=True))


def test_the_trials_do_not_depend_on_the_order_in_which_the_space_is_written(storage: str) -> None:
    """Reuse and resume hash the space without the order of its keys."""
    turned = dict(reversed(SPACE.items()))
    assert seen(run(open_study("a", storage=storage))) == seen(run(open_study("b", storage=storage), space=turned))


@pytest.mark.parametrize("n_faulty", [0, 3])
def test_the_first_trials_are_known_before_the_search(storage: str, n_faulty: int) -> None:
    """Ten, whatever they give, faults included; the eleventh goes by results."""
    foreseen = first_parameters(SPACE, UNTUNED, seed=1)

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        if 1 <= trial.number <= n_faulty:
            raise ValueError("refused")
        report(0, score(trial, parameters, report))
        return score(trial, parameters, report)

    trials = run(open_study("a", storage=storage), objective, n_trials=12)
    assert [trial.params for trial in trials[:10]] == foreseen
    assert RANDOM_TRIALS == 10 and len({str(trial.params) for trial in trials}) == 12
    assert first_parameters(SPACE, UNTUNED, seed=2)[1:] != foreseen[1:]


class Interrupted(BaseException):
    """Neither an error of the objective nor an end: the process goes."""


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_study_interrupted_in_a_trial_goes_on_as_an_uninterrupted_one(storage: str, at: int) -> None:
    """Trials that ended stay; the one that was cut short is run again with the same parameters, trial 0 included."""
    whole = seen(run(open_study("whole", storage=storage), n_trials=7))

    def cut_short(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        if trial.number == at:
            raise Interrupted
        return score(trial, parameters, report)

    with pytest.raises(Interrupted):
        run(open_study("cut", storage=storage), cut_short, n_trials=7)
    resumed = open_study("cut", storage=storage)
    assert len(ended(resumed)) == at
    assert seen(run(resumed, n_trials=7)) == whole


def test_a_study_stopped_between_trials_goes_on_as_an_uninterrupted_one(storage: str) -> None:
    whole = seen(run(open_study("whole", storage=storage), n_trials=13))
    run(open_study("parts", storage=storage), n_trials=11)
    assert seen(run(open_study("parts", storage=storage), n_trials=13)) == whole


def test_a_trial_below_the_median_is_pruned_after_the_fold_that_shows_it(storage: str) -> None:
    """Four completed trials rise by 1 a fold; a fifth, which keeps up at fold 0 and falls back, never sees fold 2.

    The pruner compares the best value a trial has had so far with the median of the others after the same fold.
    """
    folds_run: list[int] = []

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        value = 0.0
        for fold in range(3):
            value = 0.5 if trial.number == 4 and fold == 1 else 1.0 + fold + trial.number / 100
            if trial.number == 4:
                folds_run.append(fold)
            report(fold, value)
        return value

    trials = run(open_study("a", storage=storage), objective, n_trials=6)
    assert [trial.state for trial in trials] == [*[TrialState.COMPLETE] * 4, TrialState.PRUNED, TrialState.COMPLETE]
    assert folds_run == [0, 1]
    assert trials[4].intermediate_values == {0: 1.04, 1: 0.5}


class Clock:
    """Stands for the time module: an hour passes with every look."""

    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        cls.now += 3600.0
        return cls.now


@pytest.mark.parametrize(("timeout_seconds", "expected"), [(0.0, 4), (1.0, 1), (7300.0, 3), (1e9, 4)])
def test_the_timeout_keeps_new_trials_from_starting_and_zero_is_none(
    storage: str, monkeypatch: pytest.MonkeyPatch, timeout_seconds: float, expected: int
) -> None:
    """An hour a trial; at least one trial ends however short the limit."""
    monkeypatch.setattr("pipeline.phases.search.time", Clock)
    trials = run(open_study("a", storage=storage), n_trials=4, timeout_seconds=timeout_seconds)
    assert len(trials) == expected and all(trial.state == TrialState.COMPLETE for trial in trials)


def test_the_timeout_does_not_stop_what_was_started_with_an_earlier_trial(
    storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour a trial, a limit of a second, and trials 0 to 2 trained side by side; `n_trials` stops even those."""
    monkeypatch.setattr("pipeline.phases.search.time", Clock)
    for name, n_trials, expected in (("a", 6, 3), ("b", 2, 2)):
        study = open_study(name, storage=storage)
        search(
            study,
            SPACE,
            UNTUNED,
            score,
            n_trials=n_trials,
            timeout_seconds=1.0,
            seed=1,
            on_trial=lambda trial: None,
            begun=lambda n_ended: n_ended < 3,
        )
        assert len(ended(study)) == expected


def set_from_a_shell(storage: str, study: str, key: str, value: str) -> None:
    subprocess.run(
        [
            *(sys.executable, "-c", "from optuna.cli import main; raise SystemExit(main())", "study", "set-user-attr"),
            *("--storage", storage, "--study-name", study, "--key", key, "--value", value),
        ],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )


def test_a_shell_changes_the_limits_of_a_study_that_runs(storage: str) -> None:
    """`optuna study set-user-attr`, whose values arrive as text, during trial 1 of 10: it ends after trial 2."""
    study = open_study("a", storage=storage)

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        if trial.number == 1:
            set_from_a_shell(storage, "a", "n_trials", "3")
        return score(trial, parameters, report)

    assert len(run(study, objective, n_trials=10)) == 3
    assert study.user_attrs == {"n_trials": "3"}


@pytest.mark.parametrize(("text", "expected"), [("0", 5), ("1e9", 5), ("1", 2)])
def test_the_timeout_is_lifted_or_set_while_the_study_runs(
    storage: str, monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    """Configured to stop after a second (an hour a trial); the attribute is set in trial 0 or 1 and prevails."""
    monkeypatch.setattr("pipeline.phases.search.time", Clock)
    study = open_study("a", storage=storage)
    at, configured = (1, 0.0) if text == "1" else (0, 1.0)

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        if trial.number == at:
            study.set_user_attr("timeout_seconds", text)
        return score(trial, parameters, report)

    assert len(run(study, objective, n_trials=5, timeout_seconds=configured)) == expected


def test_an_objective_that_raises_is_a_failed_trial_that_counts(storage: str) -> None:
    """Refused values and Sharpes that are not defined end a trial, not the study; the reason is kept, it is told of."""
    told: list[TrialState] = []

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        if trial.number == 1:
            raise ValueError("more heads than units")
        if trial.number == 2:
            raise FloatingPointError("not defined")
        if trial.number == 3:
            return float("nan")
        return score(trial, parameters, report)

    trials = run(
        open_study("a", storage=storage), objective, n_trials=6, on_trial=lambda trial: told.append(trial.state)
    )
    complete, failed = TrialState.COMPLETE, TrialState.FAIL
    assert [trial.state for trial in trials] == told == [complete, failed, failed, failed, complete, complete]
    assert [trial.user_attrs.get("fault") for trial in trials][1:3] == ["more heads than units", "not defined"]


def test_an_objective_that_always_raises_does_not_loop_for_ever(storage: str) -> None:
    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        assert trial.number < 10, "the study goes on for ever"
        raise ValueError("never")

    assert len(run(open_study("a", storage=storage), objective, n_trials=4)) == 4


def test_a_space_that_cannot_be_sampled_does_not_loop_for_ever(storage: str) -> None:
    """A log scale from a negative number, which the sampler refuses before the objective is asked."""
    told: list[int] = []

    def count(trial: FrozenTrial) -> None:
        told.append(trial.number)
        assert len(told) < 10, "the study goes on for ever"

    trials = run(
        open_study("a", storage=storage), n_trials=3, on_trial=count, space={"lr": Range(low=-1.0, high=1.0, log=True)}
    )
    assert [trial.state for trial in trials] == [TrialState.FAIL] * 3


def test_any_other_error_ends_the_search(storage: str) -> None:
    """A defect of the program is no property of the parameters: it is not swallowed, and its trial does not count."""

    def objective(trial: optuna.Trial, parameters: Mapping[str, Any], report: Report) -> float:
        raise KeyError("a defect")

    study = open_study("a", storage=storage)
    with pytest.raises(KeyError, match="a defect"):
        run(study, objective)
    assert ended(study) == []


def test_a_study_without_a_storage_is_the_same_search_in_memory(storage: str) -> None:
    """The same trials; another one of the same name knows nothing of it."""
    stored = seen(run(open_study("a", storage=storage), n_trials=6))
    assert seen(run(open_study("a", storage=None), n_trials=6)) == stored
    assert ended(open_study("a", storage=None)) == []


def test_a_study_is_found_again_by_its_name(storage: str) -> None:
    """In the storage that was named, beside others, and to be maximised."""
    run(open_study("a", storage=storage), n_trials=2)
    run(open_study("b", storage=storage), n_trials=1)
    again = open_study("a", storage=storage)
    assert len(again.trials) == 2 and again.direction == optuna.study.StudyDirection.MAXIMIZE
    assert again.best_value == max(trial.value or 0.0 for trial in again.trials)
