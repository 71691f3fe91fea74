"""What is released: the wheel holds all that the packages need, and every file that names a version names the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.workplace import Workplace

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PYTHONS = ("3.11", "3.12", "3.13")


def tracked(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files, so that nothing which lies about gets in."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    build = ["build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(out)]
    subprocess.run([Path(sys.prefix, "bin", "uv"), *build, str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """An environment with the wheel and, of this one, the libraries alone: a folder on PYTHONPATH runs no .pth file, so
    that this project's own folder is not found through it."""
    place = Workplace(tmp_path_factory.mktemp("installed"))
    uv, python = Path(sys.prefix, "bin", "uv"), place.folder / "env" / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, place.folder / "env"], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--no-deps", "--python", python, wheel], check=True)
    return place


def said(place: Workplace, *command: str) -> str:
    environment = place.environment() | {"PYTHONPATH": sysconfig.get_path("purelib")}
    words = [place.folder / "env" / "bin" / command[0], *command[1:]]
    done = subprocess.run(words, cwd=place.folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_both_packages(wheel: Path) -> None:
    """Modules, C++ and CUDA sources, templates, and the shipped configurations; and nothing beside them."""
    files = {name for name in tracked("tft", "pipeline") if (ROOT / name).is_file()}
    configurations = {f"pipeline/{name}" for name in tracked("configs")}
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert inside == files | configurations
    for kind in (".cpp", ".cu", ".cuh", ".h", ".jinja", ".yaml"):
        assert any(name.endswith(kind) for name in inside), kind


def test_what_is_installed_works_alone(installed: Workplace) -> None:
    """Code, kernels, configurations, the command, and a phase, all from the wheel."""
    home = str(installed.folder / "env")
    where = said(installed, "python", "-c", "import pipeline, tft; print(pipeline.__file__, tft.__file__)").split()
    assert all(file.startswith(home) for file in where)
    assert ("native" in said(installed, "python", "-m", "tft.kernels", "cpu")) == bool(shutil.which("c++"))
    assert PROJECT["version"] in said(installed, "tft-pipeline", "--version")
    config = Path(where[0]).parent / "configs" / "micro.yaml"
    assert "prefilter is done" in said(installed, "tft-pipeline", "prefilter", "--config", str(config))


def test_one_version_and_one_date() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+) - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert newest.groups() == (citation["version"], str(citation["date-released"]))
    assert newest[1] == PROJECT["version"]


def test_the_pythons_are_those_that_are_declared() -> None:
    declared = [one.rpartition(" :: ")[2] for one in PROJECT["classifiers"] if "Python :: 3." in one]
    assert tuple(declared) == PYTHONS
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def pins(name: str) -> dict[str, Requirement]:
    lines = [line.removesuffix(" \\") for line in (ROOT / name).read_text().splitlines() if line[:1].isalpha()]
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def test_everything_that_is_declared_is_pinned_to_a_version_that_is_allowed() -> None:
    """Once, for every Python: what a version is tested with does not depend on it."""
    pinned = pins("constraints.txt")
    extras = PROJECT["optional-dependencies"].values()
    for line in [*PROJECT["dependencies"], *(one for extra in extras for one in extra)]:
        wanted = Requirement(line)
        (exact,) = pinned[canonicalize_name(wanted.name)].specifier
        assert exact.operator == "==" and exact.version in wanted.specifier, line
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1].isalpha()]
    assert len(lines) == len(pinned)


def test_both_lists_hold_the_same_versions() -> None:
    """And every one has a hash, but for torch, of which any build of its version will do."""
    plain, hashed = pins("constraints.txt"), pins("hashes.txt")
    assert {name: hashed[name] for name in plain} == plain
    assert all(re.match(r"cuda-|nvidia-|triton", name) for name in hashed.keys() - plain.keys())
    text = (ROOT / "hashes.txt").read_text()
    first = re.compile(r"^(\S+)==.* \\\n    --hash=sha256:[0-9a-f]{64}", re.MULTILINE)
    assert hashed.keys() - set(first.findall(text)) == {"torch"}


def test_the_environment_of_mlflow_run_has_the_same_versions() -> None:
    """And the Python that MLflow itself runs on: none is named."""
    environment = yaml.safe_load((ROOT / "python_env.yaml").read_text())
    assert environment == {"dependencies": ["-r constraints.txt"]}
