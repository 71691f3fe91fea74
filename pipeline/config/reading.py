"""Reading YAML and JSON into frozen dataclasses, and writing them as plain values.

pydantic checks the types, strictly: text is not a number, true is not 1. It is loaded when something is first read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from functools import cache, reduce
from operator import getitem
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import yaml

from pipeline.config.schema import Config, ConfigError
from pipeline.config.sections import nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SHIPPED = Path(__file__).parents[1] / "configs"
"""The folder `configs` of the project, which is a link here and a folder of the package where it is installed."""

T = TypeVar("T")
Keys = tuple[str | int, ...]
"""The path of a value in nested mappings and lists."""
Error = dict[str, Any]
"""An error as pydantic describes it: `type`, `loc` (the Keys), `input`, `msg`, and `ctx` for some."""

# What a value has to be, by the first word of pydantic's name for the error.
EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list such as [a, b]",
    "dict": "a mapping such as {name: value}",
    "dataclass": "a section with keys of its own",
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file or a shipped configuration, apply `a.b=value` overrides, check everything.

    Raises ConfigError with all faults.
    """
    try:
        document = yaml.load(find_config(path).read_text(), _Loader)
    except FileNotFoundError:
        raise ConfigError(
            [f"{path} does not exist: give --config a YAML file, or one of those shipped: {', '.join(shipped())}"]
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"{path} is not readable as YAML: {reason}"]) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError([f"{path} holds a {type(document).__name__}, it must hold keys such as `seed: 7`"])
    return config_from(document, overrides)


def config_from(document: dict[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The configuration of nested settings with these overrides put into them. Raises ConfigError with all faults."""
    faults: list[str] = []
    for override in overrides:
        _apply(document, override, faults)
    config = _read(Config, json.dumps(document, default=str), faults)
    assert config is not None, "every key of Config has a default"
    faults += config.faults()
    if faults:
        raise ConfigError(faults)
    return config


def settings_of(overrides: Sequence[str]) -> dict[str, Any]:
    """The nested settings that `a.b=value` texts stand for. Raises ConfigError."""
    document: dict[str, Any] = {}
    faults: list[str] = []
    for override in overrides:
        _apply(document, override, faults)
    if faults:
        raise ConfigError(faults)
    return document


def find_config(path: str | Path) -> Path:
    """The file at `path`; where there is none, the shipped configuration that it names, from whatever folder:
    `quickstart`, `quickstart.yaml` or `configs/quickstart.yaml`."""
    path = Path(path)
    if not path.exists() and path.parent in (Path(), Path("configs")) and path.stem in shipped():
        return SHIPPED / f"{path.stem}.yaml"
    return path


def shipped() -> list[str]:
    """The names of the shipped configurations."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def split_overrides(texts: Sequence[str]) -> list[str]:
    """Split texts such as `a=1;b=2` into single overrides; empty ones are dropped."""
    return [part.strip() for text in texts for part in text.split(";") if part.strip()]


def to_mapping(value: Any) -> Any:
    """A frozen dataclass as plain values: mappings, lists, numbers, text."""
    return json.loads(to_json(value))


def to_json(value: Any) -> str:
    """A frozen dataclass as JSON. NaN and infinities are written as json.dumps writes them."""
    return json.dumps(asdict(value))


def from_json(kind: type[T], text: str) -> T:
    """The frozen dataclass that `to_json` wrote. Raises AssertionError for a text that does not fit `kind`."""
    faults: list[str] = []
    value = _read(kind, text, faults)
    assert value is not None and not faults, faults
    return value


class _Loader(yaml.SafeLoader):
    """YAML whose dates and times are ISO text."""

    def construct_iso_text(self, node: yaml.ScalarNode) -> str:
        return self.construct_yaml_timestamp(node).isoformat()


_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_iso_text)


def _apply(document: dict[str, Any], override: str, faults: list[str]) -> None:
    """Put the value of `a.b=value` into the document in place; note as a fault why that cannot be done."""
    name, separator, text = override.partition("=")
    if not separator:
        faults.append(f"--set {override!r} lacks an equals sign: write section.key=value")
        return
    try:
        # A time format such as %Y%m%d is text; no YAML begins so.
        value = text if text.startswith("%") else yaml.load(text, _Loader)
    except yaml.YAMLError:
        faults.append(f"--set {override!r} has a value that is not YAML: quote it")
        return
    *sections, last = name.strip().split(".")
    target = document
    for section in sections:
        child = target.get(section)
        if child is None:
            child = target[section] = {}
        if not isinstance(child, dict):
            faults.append(f"--set {override!r}: {section} is a single value, not a section")
            return
        target = child
    target[last] = value


def _read(kind: type[T], text: str, faults: list[str]) -> T | None:
    """A frozen dataclass from JSON, every fault noted with its key.

    A faulty value gives way to its default, so that other faults can be found too; None where there is no default.
    """
    value: T | None
    value, errors = _validated(kind, text)
    if not errors:
        return value
    document = json.loads(text)
    for error in errors:  # before anything is taken out: each of these places is still there
        if (number := _as_number(error)) is not None:
            *above, last = error["loc"]
            reduce(getitem, above, document)[last] = number
    for error in errors:
        if _as_number(error) is None:
            faults.append(_sentence(kind, error))
            _take_out(document, error["loc"])
    value, _ = _validated(kind, json.dumps(document))
    return value


def _validated(kind: Any, text: str) -> tuple[Any, list[Error]]:
    """A `kind` from JSON, or None and every error."""
    from pydantic import ValidationError

    try:
        (value,) = _adapter(kind).validate_json(f"[{text}]", strict=True)
        return value, []
    except ValidationError as failed:
        return None, [{**error, "loc": error["loc"][1:]} for error in failed.errors()]


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Reads a list of one `kind`: TypeAdapter takes no settings for a dataclass, which inherits those of a list."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(tuple[kind], config=ConfigDict(extra="forbid"))


def _as_number(error: Error) -> int | float | None:
    """The number that a value of the wrong type stands for: YAML reads 1e-3 as text, and 5.0 is a whole number."""
    value = error["input"]
    if error["type"] == "int_type" and isinstance(value, float) and value.is_integer():
        return int(value)
    if error["type"] == "float_type" and isinstance(value, str):
        with suppress(ValueError):
            return float(value)
    return None


def _sentence(kind: Any, error: Error) -> str:
    """An error as the user reads it: the key, its value, and what it must be."""
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error["loc"]).lstrip(".")
    match error["type"].partition("_")[0]:
        case "unexpected":
            *above, name = error["loc"]
            known = [field.name for field in fields(_type_at(kind, tuple(above)))]
            return f"{where} is not a known key: {nearest(str(name), known)}"
        case "missing":
            return f"{where} is missing"
        case "literal":
            choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            return f"{where} is {error['input']!r}, it must be one of {choices}"
        case other if other in EXPECTED:
            return f"{where} is {error['input']!r}, it must be {EXPECTED[other]}"
        case _:
            return f"{where} is {error['input']!r}: {error['msg']}"


def _type_at(kind: Any, keys: Keys) -> Any:
    """The type of the value that these keys lead to in a `kind`; of an optional one, the type that is not None."""
    for key in keys:
        kind = get_type_hints(kind)[str(key)] if is_dataclass(kind) else _last_argument(kind)
        if NoneType in get_args(kind):
            kind = _last_argument(kind)
    return kind


def _last_argument(kind: Any) -> Any:
    """The type X in dict[str, X], tuple[X, ...] and X | None."""
    return [argument for argument in get_args(kind) if argument not in (NoneType, ...)][-1]


def _take_out(document: dict[Any, Any], keys: Keys) -> None:
    """Remove the value of `section.key` that a fault lies in, or of the key where it lies in no section."""
    if len(keys) > 1 and isinstance(document.get(keys[0]), dict):
        document[keys[0]].pop(keys[1], None)
    elif keys:
        document.pop(keys[0], None)
