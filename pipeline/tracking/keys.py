"""One hash says what a result depends on: work that has been done on the same inputs is not done again.

A key holds the bytes of the code that computes, the versions of the libraries which that code imports, the machine,
the data, the settings, and the keys of the results that it starts from. What only draws, keeps or schedules is no part
of it: a recoloured figure retrains nothing.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipeline.config.schema import sha256_of
from tft.kernels.implementation import fingerprint

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the two packages."""
PACKAGES = ("tft", "pipeline")
KERNEL_SOURCES = ("*.cpp", "*.h", "*.cu", "*.cuh")
NOT_COMPUTING = (
    "pipeline.tracking",
    "pipeline.reporting",
    "pipeline.registry",
    "pipeline.execution",
    "pipeline.cli",
    "pipeline.job",
    "pipeline.data",
)
"""What keeps, draws, schedules, or reads the table, whose content is hashed: imports are not followed into these."""


def key_of(
    what: str,
    *,
    modules: Sequence[str],
    data_sha256: str,
    settings: Mapping[str, Any],
    upstream: Sequence[str] = (),
    device: torch.device,
) -> str:
    """The key of a result.

    what: the name of the work · modules: those that compute it; everything that they import in the two packages counts
    too · settings: the part of the configuration that the work reads · upstream: keys of the results it starts from ·
    device: its kind counts, and the machine that it is in.
    """
    return sha256_of(
        {
            "what": what,
            "source": source_sha256(tuple(modules)),
            "libraries": library_versions(tuple(modules)),
            "machine": fingerprint(device),
            "device": device.type,
            "data": data_sha256,
            "settings": dict(settings),
            "upstream": list(upstream),
        }
    )


@cache
def source_sha256(modules: tuple[str, ...], root: Path = ROOT) -> str:
    """Hash of the modules, of all they import in the two packages, and of every C++ and CUDA source of `tft/`."""
    files = {str(path.relative_to(root)): path for path in _kernel_sources(root)}
    files |= {module: _file_of(module, root) for module in closure(modules, root)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


@cache
def library_versions(modules: tuple[str, ...], root: Path = ROOT) -> dict[str, str]:
    """Versions of torch and of every distribution that the modules, and what they import here, import elsewhere."""
    names = {name.split(".")[0] for module in closure(modules, root) for name in _imports(module, root)}
    packages = _distributions()
    found = {one for name in names - set(PACKAGES) - sys.stdlib_module_names for one in packages.get(name, ())}
    return {one: metadata.version(one) for one in sorted(found | {"torch"})}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def closure(modules: Sequence[str], root: Path = ROOT) -> set[str]:
    """The modules and those that they import in the two packages, at whatever depth."""
    seen: set[str] = set()
    waiting = [module for name in modules for module in _with_packages(name)]
    while waiting:
        module = waiting.pop()
        if module in seen or any(f"{module}.".startswith(f"{package}.") for package in NOT_COMPUTING):
            continue
        seen.add(module)
        for name in _imports(module, root):
            if name.split(".")[0] in PACKAGES:
                waiting += [one for one in _with_packages(name) if _file_of(one, root).exists()]
    return seen


def _with_packages(module: str) -> list[str]:
    """`a`, `a.b` and `a.b.c` of a.b.c: Python runs them all."""
    parts = module.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def _kernel_sources(root: Path) -> Iterator[Path]:
    for pattern in KERNEL_SOURCES:
        yield from (root / "tft").rglob(pattern)


def _file_of(module: str, root: Path) -> Path:
    """Return the path of a module's source file, whether or not it exists."""
    path = root.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.exists() else path.with_suffix(".py")


@cache
def _parsed(content: bytes, package: str) -> tuple[str, ...]:
    """Dotted names that a source of a package imports, wherever in it; `from a import b` gives both a and a.b."""
    found: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(found)


def _imports(module: str, root: Path) -> tuple[str, ...]:
    path = _file_of(module, root)
    return _parsed(path.read_bytes(), module if path.name == "__init__.py" else module.rpartition(".")[0])
