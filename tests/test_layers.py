"""The shape of the code: a file imports only from files above it, `tft/` stands alone, every dependency has a user."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = [
    "tft/panel.py",
    "tft/folds.py",
    "tft/scaling.py",
    "tft/volatility.py",
    "tft/windows.py",
    "tft/noise.py",
    "tft/memory.py",
    "tft/cores.py",
    "tft/native.py",
    "tft/affine.py",
    "tft/cuda.py",
    "tft/stack.py",
    "tft/dropout.py",
    "tft/gated_norm.py",
    "tft/masked_softmax.py",
    "tft/adam.py",
    "tft/gather_gpu.py",
    "tft/scan_gpu.py",
    "tft/select_gpu.py",
    "tft/recurrent.py",
    "tft/selection.py",
    "tft/model.py",
    "tft/loss.py",
    "tft/positions.py",
    "tft/metrics.py",
    "tft/forecast.py",
    "tft/checkpoint.py",
    "tft/fits.py",
    "tft/workers.py",
    "tft/capture.py",
    "tft/train.py",
    "tft/backtest.py",
    "tft/predict.py",
    "pipeline/config.py",
    "pipeline/sample_data.py",
    "pipeline/data.py",
    "pipeline/significance.py",
    "pipeline/leaks.py",
    "pipeline/checks.py",
    "pipeline/lookahead.py",
    "pipeline/paired.py",
    "pipeline/baselines.py",
    "pipeline/inference.py",
    "pipeline/null_targets.py",
    "pipeline/execution.py",
    "pipeline/progress.py",
    "pipeline/prepare.py",
    "pipeline/journal.py",
    "pipeline/tracking.py",
    "pipeline/ledger.py",
    "pipeline/reuse.py",
    "pipeline/served_model.py",
    "pipeline/registry.py",
    "pipeline/search.py",
    "pipeline/trials.py",
    "pipeline/plots.py",
    "pipeline/luck_plots.py",
    "pipeline/report.py",
    "pipeline/job.py",
    "pipeline/phases/prefilter.py",
    "pipeline/phases/exploration.py",
    "pipeline/phases/pruning.py",
    "pipeline/phases/tuning.py",
    "pipeline/oos.py",
    "pipeline/assessment.py",
    "pipeline/phases/production.py",
    "pipeline/compare.py",
    "pipeline/repetitions.py",
    "pipeline/placebo.py",
    "pipeline/planted.py",
    "pipeline/strategy.py",
    "pipeline/judge.py",
    "pipeline/cli.py",
    "pipeline/__main__.py",
]

# The name a distribution is imported by, where it is another one.
IMPORT_NAMES = {"pyyaml": "yaml", "nvidia-ml-py": "pynvml", "scikit-learn": "sklearn"}


def sources() -> list[str]:
    """Every Python file of both packages, as a path from the root."""
    paths = [*ROOT.glob("tft/**/*.py"), *ROOT.glob("pipeline/**/*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in paths)


def module_of(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported(source: str, package: str = "") -> Iterator[str]:
    """Dotted names that a source imports, wherever in it; `from a import b` gives a.b, which may be a module or not.

    `package` is the package the source lies in: what a leading dot stands for.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imports_of(file: str) -> set[str]:
    return set(imported((ROOT / file).read_text(), str(Path(file).parent).replace("/", ".")))


def breaches(file: str, names: set[str]) -> list[str]:
    """Files at or below `file` in LAYERS among the imported `names`; files that no layer lists count as below."""
    modules = {module_of(layer): layer for layer in LAYERS}
    above = LAYERS[: LAYERS.index(file)]
    targets = set()
    for name in names:
        if name.split(".")[0] in ("tft", "pipeline"):
            longest = max((m for m in modules if f"{name}.".startswith(f"{m}.")), key=len, default=name)
            targets.add(modules.get(longest, longest))
    return sorted(targets - set(above) - {"tft", "pipeline", "pipeline.phases"})


def test_every_file_has_its_place() -> None:
    assert [file for file in sources() if file not in LAYERS and not file.endswith("/__init__.py")] == []


@pytest.mark.parametrize("file", [layer for layer in LAYERS if (ROOT / layer).exists()])
def test_a_file_imports_only_from_files_above_it(file: str) -> None:
    assert breaches(file, imports_of(file)) == []


@pytest.mark.parametrize("file", [file for file in sources() if file.endswith("/__init__.py")])
def test_a_package_initialiser_imports_nothing_of_the_project(file: str) -> None:
    assert [name for name in imports_of(file) if name.split(".")[0] in ("tft", "pipeline")] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from tft.panel import Panel", []),
        ("import tft.panel, numpy", []),
        ("from tft import panel", []),
        ("from . import panel", []),
        ("def f():\n    from tft.model import Model", ["tft/model.py"]),
        ("from tft import train", ["tft/train.py"]),
        ("from .train import fit", ["tft/train.py"]),
        ("import pipeline.cli", ["pipeline/cli.py"]),
        ("from pipeline.phases import tuning", ["pipeline/phases/tuning.py"]),
        ("from tft.nowhere import f", ["tft.nowhere.f"]),
    ],
)
def test_the_rule_sees_every_form_of_import(source: str, expected: list[str]) -> None:
    assert breaches("tft/windows.py", set(imported(source, "tft"))) == expected


@pytest.mark.parametrize("file", [file for file in sources() if file.startswith("tft/")])
def test_the_model_needs_torch_numpy_and_safetensors_alone(file: str) -> None:
    allowed = {"tft", "torch", "numpy", "safetensors"} | sys.stdlib_module_names
    assert {name.split(".")[0] for name in imports_of(file)} - allowed == set()


def dependencies() -> list[tuple[str, str]]:
    """Every dependency of pyproject.toml with the comment beside it."""
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    found = []
    for dependency in declared:
        line = next(line for line in text.splitlines() if line.strip().startswith(f'"{dependency}"'))
        comment = line.split('"')[2].partition("#")[2].strip()
        found.append((re.split(r"[\[<>=!~ ]", dependency)[0], comment))
    return found


@pytest.mark.parametrize(("name", "comment"), dependencies())
def test_every_dependency_names_its_consumer_which_imports_it(name: str, comment: str) -> None:
    assert comment, f"{name} in pyproject.toml has no comment that names its consumer"
    for file in re.findall(r"[\w/]+\.py\b", comment):
        assert file in LAYERS, f"{file}, named as a consumer of {name}, is no file of this project"
        if (ROOT / file).exists():
            roots = {imported_name.split(".")[0] for imported_name in imports_of(file)}
            assert IMPORT_NAMES.get(name, name) in roots, f"{file}, named as a consumer of {name}, does not import it"


def test_no_third_party_import_is_undeclared() -> None:
    declared = {IMPORT_NAMES.get(name, name) for name, _ in dependencies()} | {"tft", "pipeline"}
    # Come with a declared one: MLflow speaks pandas, boto3 raises botocore's errors.
    declared |= {"pandas", "botocore"}
    used = {name.split(".")[0] for file in sources() for name in imports_of(file)}
    assert used - declared - sys.stdlib_module_names == set()
