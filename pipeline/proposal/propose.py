"""From a table to the file that configures a job on it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.config import bars
from pipeline.config.reading import config_from, settings_of
from pipeline.config.schema import Config
from pipeline.config.sections import DataConfig
from pipeline.counted import counted
from pipeline.data.columns import LEFT_OUT, OPTIONS, not_numbers, roles_of
from pipeline.data.files import read_table
from pipeline.data.frame import read_frame
from pipeline.proposal.calendar import calendar_of
from pipeline.proposal.cost import Cost, cost_of
from pipeline.proposal.settings import overridden, settings_for, to_yaml
from pipeline.proposal.windows import windows_for
from tft.market import choose_device
from tft.panel import Panel
from tft.table import SYMBOL, TIME
from tft.times import fitting_formats


@dataclass(frozen=True)
class Proposal:
    """A configuration for a table."""

    text: str
    """The YAML file."""
    config: Config
    said: tuple[str, ...]
    """What was found out about the table, a sentence each."""
    cost: Cost


def propose(source: str, overrides: Sequence[str] = ()) -> Proposal:
    """A configuration fitted to the table at `source`, with the settings that were given by hand.

    Raises ValueError for a table that cannot be used, and for one with too few bars.
    """
    given = settings_of(overrides)
    asked = config_from({"data": given.get("data", {}) | {"source": source}}).data
    data, panel, said = _read(asked)
    n_bars, n_symbols, n_features = panel.features.shape
    calendar, windows = calendar_of(panel.times), windows_for(n_bars)
    device = choose_device(str(given.get("device", "auto")))
    here = counted(torch.get_num_threads(), "core") if device.type == "cpu" else torch.cuda.get_device_name(device)
    here = f"{device.type}, {here}"
    name = "tft-" + (re.sub(r"\W+", "-", Path(source.rpartition("/")[2]).stem).strip("-").lower() or "table")
    settings = overridden(settings_for(data, panel, calendar, windows, name=name, device=here), given)
    config = config_from(yaml.safe_load(to_yaml(settings, [])))
    cost = cost_of(config, panel, bars.n_development(config, panel.times), device)
    what = f"{source}: {n_bars} bars ({calendar.name}), {counted(n_symbols, 'instrument')}, "
    what += counted(n_features, "feature column")
    head = [
        f"{what}.",
        f"The whole job takes {cost} on this machine ({here}), by a few steps that were timed when this was written.",
    ]
    return Proposal(to_yaml(settings, head), config, (what, *said), cost)


def _read(asked: DataConfig) -> tuple[DataConfig, Panel, list[str]]:
    """The table as a panel, the section that reads it without guessing again, and what was guessed."""
    frame = read_table(asked)
    roles = roles_of(frame.columns, asked)
    data, text, said = asked, list[str](), list[str]()
    if TIME in roles.keys and asked.time_format is None:
        formats = fitting_formats(frame[roles.keys[TIME]].to_numpy())
        if len(formats) == 1:
            data = replace(data, time_format=formats[0])
            said.append(f"column {roles.keys[TIME]}: times are read as {formats[0]}")
    for name in roles.features if SYMBOL in roles.keys else ():  # without an instrument, one of them may name it
        rows = not_numbers(frame[name])
        if 2 * len(rows) > frame[name].count():  # fewer are a fault of these values, which reading the table reports
            text.append(name)
            are = "is no number" if len(rows) == 1 else "are no numbers"
            first = f"first {str(frame[name][int(rows[0])])!r} in row {rows[0] + 1}"
            said.append(f"column {name}: left out, {len(rows)} of {frame.height} values {are}, {first}")
    data = replace(data, exclude=(*data.exclude, *text))
    read = read_frame(frame, data)
    said += [f"{note.where}: {note.message}" for note in read.notes]
    left_out = [note.column for note in read.notes if note.check == LEFT_OUT]
    keys: dict[str, Any] = {OPTIONS[key]: name for key, name in read.format.columns.items()}
    return replace(data, exclude=(*data.exclude, *left_out), **keys), read.panel, said
