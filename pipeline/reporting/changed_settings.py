"""Which settings of a run are not the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from pipeline.config.reading import to_mapping
from pipeline.config.schema import Config


class Changed(NamedTuple):
    """A setting as `section.key`, its value, and the default as text; empty where there is no such default."""

    name: str
    value: str
    default: str


def changed_settings(settings: Mapping[str, Any]) -> list[Changed]:
    """The settings that differ from the defaults, in the order of the configuration."""
    return list(_changed(settings, to_mapping(Config()), ""))


def brief(value: Any) -> Any:
    """Plain values less the keys that are null, with numbers to four digits, at every depth."""
    if isinstance(value, Mapping):
        return {name: brief(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [brief(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _changed(settings: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> list[Changed]:
    found: list[Changed] = []
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            found += _changed(value, default, f"{prefix}{name}.")
        elif name not in defaults or value != default:
            found.append(Changed(f"{prefix}{name}", _text(value), _text(default) if name in defaults else ""))
    return found


def _text(value: Any) -> str:
    """A value as one writes it in YAML, on one line; `none` for no value."""
    if value is None:
        return "none"
    text: str = yaml.safe_dump(brief(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("...").strip()
