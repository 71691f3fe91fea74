"""What a key depends on, and what it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import Config
from pipeline.data.dataset import Dataset, panel_sha256
from pipeline.job import PHASES, RECORD_MODULES, Job
from pipeline.tracking import keys
from pipeline.tracking.keys import closure, key_of, library_versions, source_sha256
from tests.conftest import CPU, small_panel
from tft.positions import PositionsConfig

ROOT = Path(__file__).parents[3]

INGREDIENTS: dict[str, Any] = {
    "what": "pruning",
    "modules": ["pipeline.phases.pruning"],
    "data_sha256": "d",
    "settings": {"pruning": {"max_features": 3, "min_stability": 0.5}, "seed": 1},
    "upstream": ["k1", "k2"],
    "device": CPU,
}


def test_the_key_changes_with_each_ingredient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work, code, data, settings at any depth, upstream and its order, libraries, the machine that computes."""
    key = key_of(**INGREDIENTS)
    changes: list[dict[str, Any]] = [
        {"what": "prefilter"},
        {"modules": ["pipeline.phases.prefilter"]},
        {"data_sha256": "e"},
        {"settings": {"pruning": {"max_features": 4, "min_stability": 0.5}, "seed": 1}},
        {"settings": {"pruning": {"max_features": 3, "min_stability": 0.5}, "seed": 2}},
        {"upstream": ["k1"]},
        {"upstream": ["k2", "k1"]},
    ]
    found = [key, *(key_of(**INGREDIENTS | change) for change in changes)]
    replaced: dict[str, Any] = {
        "source_sha256": lambda modules: f"other source of {modules}",
        "library_versions": lambda modules: {"torch": "1.0"},
        "fingerprint": lambda device: f"another machine with a {device.type}",
    }
    for name, other in replaced.items():
        with monkeypatch.context() as patch:
            patch.setattr(keys, name, other)
            found.append(key_of(**INGREDIENTS))
    with monkeypatch.context() as patch:
        patch.setattr(keys, "fingerprint", lambda device: "the same")
        found += [key_of(**INGREDIENTS), key_of(**INGREDIENTS | {"device": torch.device("cuda")})]
    assert len(set(found)) == len(found)


def test_the_key_depends_on_nothing_else() -> None:
    """Equal ingredients, equal keys, in whatever order the settings are written, whichever GPU of a machine it is."""
    turned = {"seed": 1, "pruning": {"min_stability": 0.5, "max_features": 3}}
    assert key_of(**INGREDIENTS | {"settings": turned}) == key_of(**INGREDIENTS)


# ---- one byte of each kind of file

EDITED = {
    # file: whose sources move; P, E, U, T, R are the phases in order, J the job's record, L placebo, S planted, C a
    # comparison's training. Keys of later phases move as well, because they hold those of the phases before them.
    "tft/head.py": "PEUTRJLSC",  # its loss modes are those of the search space
    "tft/model.py": "EUTRJLSC",
    "tft/direct_term.py": "EUTRJLSC",
    "tft/train.py": "EUTRJLSC",
    "tft/objectives.py": "EUTRJLSC",
    "tft/recalibration.py": "EUTRJLSC",
    "tft/panel.py": "PEUTRJLSC",
    "tft/kernels/select.py": "EUTRJLSC",
    "tft/kernels/cpu/select.py": "EUTRJLSC",
    "tft/kernels/cuda/select.py": "EUTRJLSC",
    "tft/runtime/graph.py": "EUTRJLSC",
    # Compiled sources count for all: what they are included by is not followed.
    "tft/kernels/cpu/select.h": "PEUTRJLSC",
    "tft/kernels/cpu/native.cpp": "PEUTRJLSC",
    "tft/kernels/cuda/select.cu": "PEUTRJLSC",
    "tft/kernels/cuda/mma.cuh": "PEUTRJLSC",
    "pipeline/phases/prefilter.py": "PRJLSC",
    "pipeline/phases/exploration.py": "EURJLSC",
    "pipeline/phases/pruning.py": "URJLSC",
    "pipeline/statistics/false_discovery.py": "URJLSC",
    "pipeline/phases/search.py": "TRJLSC",
    "pipeline/phases/tuning.py": "TRJLSC",
    "pipeline/phases/folds.py": "ETRJLSC",
    "pipeline/config/bars.py": "ETRJLSC",
    "tft/blocks.py": "EUTRJLSC",
    "tft/portfolio.py": "EUTRJLSC",
    "tft/cross_section.py": "EUTRJLSC",
    "tft/positions.py": "EUTRJLSC",
    "pipeline/phases/stitching.py": "TRJLSC",
    "pipeline/phases/production.py": "RJLSC",
    "pipeline/phases/permutation.py": "RJLSC",
    "pipeline/phases/combinatorial.py": "RJLSC",
    "pipeline/statistics/group_losses.py": "RJLSC",
    "pipeline/statistics/estimate.py": "RJLSC",
    "pipeline/config/sections.py": "PEUTRJLSC",
    "pipeline/config/schema.py": "EUTRJLSC",
    "pipeline/experiments/null_targets.py": "LS",
    "pipeline/experiments/placebo_targets.py": "L",
    "pipeline/experiments/planted_targets.py": "S",
    "pipeline/experiments/trained.py": "C",
    "pipeline/statistics/paired.py": "C",
    "pipeline/statistics/randomisation.py": "LS",
    # What draws, keeps, schedules, judges or registers, and what reads the table, whose content is hashed.
    "pipeline/job.py": "",
    "pipeline/data/s3.py": "",
    "pipeline/data/checks.py": "",
    "pipeline/reporting/figures.py": "",
    "pipeline/reporting/templates/page.html.jinja": "",
    "pipeline/tracking/progress.py": "",
    "pipeline/tracking/keys.py": "",
    "pipeline/execution.py": "",
    "pipeline/flow.py": "",
    "pipeline/phase_run.py": "",
    "pipeline/assessment.py": "",
    "pipeline/statistics/inference.py": "",
    "pipeline/statistics/looks.py": "",
    "pipeline/tracking/ledger.py": "",
    "pipeline/statistics/calibration.py": "",
    "pipeline/statistics/attribution.py": "",
    "pipeline/statistics/information_coefficient.py": "",
    "pipeline/statistics/calibration_in_words.py": "",
    "pipeline/phases/refitting.py": "",
    "pipeline/refit.py": "",
    "pipeline/statistics/betting.py": "",
    "pipeline/statistics/baselines.py": "",
    "pipeline/statistics/position_lstm.py": "",
    "pipeline/registry/promotion.py": "",
    "pipeline/registry/evidence.py": "",
    "pipeline/experiments/placebo.py": "",
    "pipeline/experiments/repetitions.py": "",
    "pipeline/experiments/trainings.py": "",
    "pipeline/statistics/seed_comparison.py": "",
    "pipeline/strategy.py": "",
    "pipeline/cli/phases.py": "",
    "tft/predict.py": "",
    "configs/quickstart.yaml": "",
}
MODULES = dict(zip("PEUTR", PHASES.values(), strict=True)) | {
    "J": RECORD_MODULES,
    "L": (*RECORD_MODULES, "pipeline.experiments.placebo_targets"),
    "S": (*RECORD_MODULES, "pipeline.experiments.planted_targets"),
    "C": (*RECORD_MODULES, "pipeline.experiments.trained"),
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for folder in ("tft", "pipeline", "configs"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return root


@pytest.mark.parametrize(("file", "moved"), EDITED.items())
def test_one_byte_of_a_file_moves_the_keys_of_what_it_computes(copy: Path, file: str, moved: str) -> None:
    before = {letter: source_sha256(modules, copy) for letter, modules in MODULES.items()}  # hashed once
    text = (copy / file).read_bytes()
    (copy / file).write_bytes(text + b"\n")
    after = {letter: source_sha256.__wrapped__(modules, copy) for letter, modules in MODULES.items()}
    (copy / file).write_bytes(text)
    assert "".join(letter for letter in MODULES if before[letter] != after[letter]) == moved


def test_the_hash_is_of_this_source_and_of_the_same_bytes_the_same(copy: Path) -> None:
    for modules in MODULES.values():
        assert source_sha256(modules) == source_sha256.__wrapped__(modules, copy)


def test_a_new_kernel_in_a_folder_below_counts(copy: Path) -> None:
    modules = MODULES["E"]
    before = source_sha256.__wrapped__(modules, copy)
    new = copy / "tft" / "kernels" / "cuda" / "new" / "kernel.cu"
    new.parent.mkdir()
    new.write_text("// nothing yet")
    assert source_sha256.__wrapped__(modules, copy) != before
    shutil.rmtree(new.parent)
    assert source_sha256.__wrapped__(modules, copy) == before


LOADED = """
import json, sys
from importlib import import_module
for module in sys.argv[1:]:
    import_module(module)
files = {n: m.__file__ for n, m in sys.modules.items() if n.split(".")[0] in ("tft", "pipeline") and m.__file__}
print(json.dumps(sorted(files)))
"""


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_is_hashed_with_every_module_that_python_loads_for_it(name: str) -> None:
    """Those that are imported inside functions besides, which Python loads later."""
    module = f"pipeline.phases.{name}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED, module],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert loaded - closure([module]) == set()
    assert not {one for one in loaded if one.startswith(keys.NOT_COMPUTING)}, "a phase that computes loads none of them"


def test_versions_are_of_the_libraries_that_the_code_imports() -> None:
    """Tuning imports Optuna, pruning does not; torch always counts; what only draws or keeps never does."""
    tuning = library_versions(("pipeline.phases.tuning",))
    assert tuning["optuna"] == metadata.version("optuna") and tuning["numpy"] == metadata.version("numpy")
    pruning = library_versions(("pipeline.phases.pruning",))
    assert "optuna" not in pruning and pruning["torch"] == metadata.version("torch")
    assert not {"mlflow", "matplotlib", "click", "rich"} & tuning.keys()


# ---- the configuration

SECTIONS_THAT_DECIDE_NOTHING = {
    "baselines": {"lstm": True},
    "registry": {"name": "other"},
    "regime": {"enter": 0.6},
    "placebo": {"repetitions": 3},
    "combinatorial": {"n_groups": 8},
}


def job_of(config: Config) -> Job:
    panel = small_panel(150, 2, 3)
    return Job(config, Dataset(panel=panel, sha256=panel_sha256(panel), source="", n_rows=300), CPU)


@pytest.mark.parametrize(("section", "values"), SECTIONS_THAT_DECIDE_NOTHING.items())
def test_what_cannot_change_a_result_stays_out(section: str, values: dict[str, Any]) -> None:
    """Where the model is registered, how a run is judged, how a decision is read live."""
    config = Config()
    changed = replace(config, **{section: replace(getattr(config, section), **values)})
    assert changed != config
    assert job_of(changed).key == job_of(config).key
    assert changed.training_settings() == config.training_settings()


def test_prior_looks_stay_out_as_well() -> None:
    config = Config()
    changed = replace(config, prior_looks=12)
    assert job_of(changed).key == job_of(config).key
    assert changed.training_settings() == config.training_settings()


@pytest.mark.parametrize("name", [field.name for field in fields(PositionsConfig)])
def test_positions_move_the_keys_of_the_phases_that_train(name: str) -> None:
    """The portfolio that training is paid by is made with them."""
    config = Config()
    value = getattr(config.positions, name)
    changed = replace(config, positions=replace(config.positions, **{name: value / 2.0}))
    assert changed.training_settings() != config.training_settings()
    assert job_of(changed).key != job_of(config).key
