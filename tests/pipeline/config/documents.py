"""Configurations written as YAML, and what is said of those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.reading import load_config
from pipeline.config.schema import Config, ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"


def load(tmp_path: Path, document: Any, *overrides: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return load_config(path, overrides)


def faults(tmp_path: Path, document: Any, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, document, *overrides)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return caught.value.faults
