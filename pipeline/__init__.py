"""Five phases from a table of features to a registered model, and everything that talks to the outside.

`from pipeline import Config, load_config, run` is the interface for notebooks and other programs. Each is loaded when
it is asked for, so that importing one part of the package stays light.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Config": "pipeline.config.schema",
    "load_config": "pipeline.config.reading",
    "run": "pipeline.notebook",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
