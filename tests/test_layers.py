"""The shape of the code: imports point one way, `tft/` stands alone, every dependency has a user."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A room imports only from rooms to its right. Rooms joined by a comma do not import each other; files joined by + are
# one room. Inside a room the order is free, without circles.
PIPELINE = """
    cli + __main__, notebook > experiments, live > flow + phase_run + job_in_words + refit, strategy
    > assessment, origins > job > reporting, registry > tracking, execution, proposal
    > phases > data > statistics > config, bar_labels, counted > tft
"""
TFT = """
    predict, backtest + record > train + fold_stack + objectives + recipe + market > fold_store > checkpoint > forecast
    > loss, blocks, portfolio, recalibration > model > direct_term, head > windows, positions, cross_section, table
    > panel + folds + scaling + volatility + metrics > kernels, times > runtime
"""
# What is narrower than the order: TFTStrategy is what a live process loads.
ONLY = {"pipeline.strategy": {"pipeline.registry", "pipeline.data", "pipeline.config", "tft"}}

# The name a distribution is imported by, where it is another one.
IMPORT_NAMES = {"pyyaml": "yaml", "ipython": "IPython", "nvidia-ml-py": "pynvml", "scikit-learn": "sklearn"}


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


def rooms(package: str, order: str) -> dict[str, int]:
    """Level of each module or subpackage of a package, 0 on the right."""
    levels = order.split(">")
    return {
        f"{package}.{name}": len(levels) - 1 - level
        for level, names in enumerate(levels)
        for name in re.findall(r"\w+", names)
    }


def partners(package: str, order: str) -> dict[str, str]:
    """The room of each name: those joined by + are one."""
    return {
        f"{package}.{name}": room
        for level in order.split(">")
        for room in level.split(",")
        for name in re.findall(r"\w+", room)
    }


LEVELS = rooms("pipeline", PIPELINE) | rooms("tft", TFT)
ROOMS = partners("pipeline", PIPELINE) | partners("tft", TFT)
LEVELS["pipeline.tft"], ROOMS["pipeline.tft"] = -1, "tft"


def place_of(module: str) -> str:
    """`pipeline.flow` of `pipeline.flow.production`."""
    return ".".join(module.split(".")[:2])


def breaches(module: str, names: set[str]) -> list[str]:
    """Imported names that lie left of the module's room, beside it, or nowhere."""
    own = place_of(module)
    found = []
    for name in sorted(names):
        package, _, rest = name.partition(".")
        if package not in ("tft", "pipeline") or not rest:
            continue
        other = place_of(name)
        if other not in LEVELS:
            found.append(name)
        elif package == own.split(".")[0]:
            same = ROOMS[other] == ROOMS[own]
            if not same and LEVELS[other] >= LEVELS[own]:
                found.append(name)
        elif package == "pipeline":  # tft knows nothing of the pipeline
            found.append(name)
        if own in ONLY and other != own and other not in ONLY[own] and package not in ONLY[own]:
            found.append(name)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("file", sources())
def test_imports_point_one_way(file: str) -> None:
    module = module_of(file)
    if module in ("tft", "pipeline"):
        assert {name for name in imports_of(file) if name.split(".")[0] in ("tft", "pipeline")} == set()
        return
    assert place_of(module) in LEVELS, f"{file} has no room: name one in PIPELINE or TFT"
    assert breaches(module, imports_of(file)) == []


def test_there_are_no_circles() -> None:
    """Following the imports of a file never comes back to it."""
    modules = {module_of(file): file for file in sources()}
    graph = {}
    for module, file in modules.items():
        names = imports_of(file)
        graph[module] = {
            max((m for m in modules if f"{name}.".startswith(f"{m}.")), key=len, default="") for name in names
        } - {"", module}
    # A package's initialiser is loaded before its modules, and imports none of them but for the command line's.
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " > ".join([*path, module])
        if module not in done:
            for other in graph[module]:
                walk(other, (*path, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("tft.windows", "from tft.panel import Panel", []),
        ("tft.windows", "import tft.panel, numpy", []),
        ("tft.windows", "from tft import panel", []),
        ("tft.windows", "from . import panel", []),
        ("tft.windows", "def f():\n    from tft.model import Model", ["tft.model.Model"]),
        ("tft.windows", "from tft import train", ["tft.train"]),
        ("tft.windows", "from .train import fit", ["tft.train.fit"]),
        ("tft.windows", "import pipeline.cli", ["pipeline.cli"]),
        ("tft.windows", "from tft.positions import Path", ["tft.positions.Path"]),
        ("tft.train", "from tft.market import Market", []),
        ("pipeline.phases.tuning", "from pipeline.phases import pruning", []),
        ("pipeline.phases.tuning", "from pipeline.job import Job", ["pipeline.job.Job"]),
        ("pipeline.registry.versions", "from pipeline.reporting import figures", ["pipeline.reporting.figures"]),
        ("pipeline.strategy", "from pipeline.tracking.runs import Run", ["pipeline.tracking.runs.Run"]),
        ("tft.windows", "from tft.nowhere import f", ["tft.nowhere.f"]),
    ],
)
def test_the_rule_sees_every_form_of_import(module: str, source: str, expected: list[str]) -> None:
    assert breaches(module, set(imported(source, module.rpartition(".")[0]))) == expected


@pytest.mark.parametrize("file", [file for file in sources() if file.startswith("pipeline/phases/")])
def test_what_computes_neither_draws_nor_keeps(file: str) -> None:
    """No phase knows MLflow, figures, pages or progress bars."""
    assert {name.split(".")[0] for name in imports_of(file)} & {"mlflow", "matplotlib", "jinja2", "rich"} == set()


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
        assert (ROOT / file).exists(), f"{file}, named as a consumer of {name}, is no file of this project"
        roots = {imported_name.split(".")[0] for imported_name in imports_of(file)}
        assert IMPORT_NAMES.get(name, name) in roots, f"{file}, named as a consumer of {name}, does not import it"


def test_no_third_party_import_is_undeclared() -> None:
    declared = {IMPORT_NAMES.get(name, name) for name, _ in dependencies()} | {"tft", "pipeline"}
    # Come with a declared one: MLflow speaks pandas, boto3 raises botocore's errors.
    declared |= {"pandas", "botocore"}
    used = {name.split(".")[0] for file in sources() for name in imports_of(file)}
    assert used - declared - sys.stdlib_module_names == set()
