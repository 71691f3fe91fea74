"""The ledger as a file that can be merged into another ledger: JSON lines, one look a line with what it saw."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.statistics.looks import HoldoutRecord
from pipeline.tracking.ledger import Look, all_looks, enter, record_of

Values = tuple[float | None, ...]


@dataclass(frozen=True)
class _Record:
    """A holdout record as JSON holds it: null where a number is not known, one row of returns a bar."""

    times: tuple[str, ...]
    symbols: tuple[str, ...]
    returns: tuple[Values, ...]
    net: Values


@dataclass(frozen=True)
class _Line:
    look: Look
    record: _Record | None


def export_looks(path: Path) -> int:
    """Write every look of the ledger with its record; returns how many. Raises OSError."""
    looks = all_looks()
    with path.open("w") as file:
        for look in looks:
            said = replace(look, entry="", record_sha256="", recipe=0)  # these are this ledger's own
            file.write(json.dumps({"look": asdict(said), "record": _plain(record_of(look))}) + "\n")
    return len(looks)


def import_looks(path: Path) -> tuple[int, int]:
    """Enter every look of a file that `export_looks` wrote; returns how many were new, and how many were known.

    All lines are read before the first is entered. A known look only takes a number or a record that it lacks. Raises
    ValueError, with the line, for a file that is none, and OSError.
    """
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text: import what `tft-pipeline looks export` wrote") from None
    read = [_read(f"{path}, line {number}", text) for number, text in enumerate(lines, start=1)]
    known = {look.key: look for look in all_looks()}
    keys = {look.key for look, _ in read}
    n_known = len(keys & known.keys())
    for look, record in read:
        there = known.get(look.key)
        lacks_number = there is None or (there.sharpe is None and look.sharpe is not None)
        lacks_record = there is None or (not there.record_sha256 and record is not None)
        if lacks_number or lacks_record:
            known[look.key] = enter(look, record)
    return len(keys) - n_known, n_known


def _read(where: str, text: str) -> tuple[Look, HoldoutRecord | None]:
    """The look of one line, and its record."""
    from pydantic import TypeAdapter, ValidationError

    try:
        line = TypeAdapter(_Line).validate_json(text)
        for time in (line.look.first, line.look.last, line.look.entered):
            np.datetime64(time)
        return line.look, _record(line.record) if line.record else None
    except ValidationError as failed:
        fault = failed.errors()[0]
        said = f"{'.'.join(map(str, fault['loc']))} {fault['msg']}".strip()
    except ValueError as error:
        said = str(error)
    raise ValueError(f"{where}: {said}: import what `tft-pipeline looks export` wrote")


def _record(line: _Record) -> HoldoutRecord:
    returns = np.array(line.returns, dtype=np.float64)  # None is NaN
    return HoldoutRecord(
        times=np.array(line.times, dtype="datetime64[us]"),
        symbols=line.symbols,
        returns=returns if returns.size else returns.reshape(len(line.times), len(line.symbols)),
        net=np.array(line.net, dtype=np.float64),
    )


def _plain(record: HoldoutRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    return {
        "times": [str(time) for time in record.times],
        "symbols": record.symbols,
        "returns": [_row(row) for row in record.returns],
        "net": _row(record.net),
    }


def _row(values: NDArray[np.float64]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
