"""Checkpoints are whole or absent, readable, verified, and hold no pickle."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tft.checkpoint import META, WEIGHTS, CheckpointError, CheckpointManager, TrainedModel, load_checkpoint
from tft.model import ModelConfig
from tft.positions import PositionsConfig, RegimeConfig
from tft.scaling import Scaler
from tft.table import TableFormat
from tft.volatility import Timing


def trained_model(*, seeds: int = 2, seed: int = 0, n_context: int = 2) -> TrainedModel:
    shell = TrainedModel(
        config=ModelConfig(d_hidden=8, n_heads=2, seq_len=6, n_context=n_context),
        loss_mode="joint_mle",
        feature_names=("a_x", "a_y", "b_z"),
        known=("b_z",),
        symbols=("S0", "S1"),
        scaler=Scaler(np.array([0.1, np.nan, -3e7], np.float32), np.array([1.7, np.nan, 1e-7], np.float32)),
        parameters={},
        correlation=0.1 + 0.2,
        gain=1.7,
        timing=Timing(periods_per_year=365.0, delay_bars=2, horizon=3),
        positions=PositionsConfig(max_position=0.5, cost_bps=1.5),
        regime=RegimeConfig(enter=0.6),
        seed=11,
        fit_end="2024-03-01T00:00:00.000000",
        data_sha256="ab" * 32,
        table_format=TableFormat({"timestamp": "Date"}, "%m/%d/%Y", {"a_x": 1e10 + 1}),
        fold_bounds={"train_start": "2023-01-01"},
        metrics={"oos_sharpe": 0.1 + 0.2},
    )
    torch.manual_seed(seed)
    networks = [dict(shell.network().named_parameters()) for _ in range(seeds)]
    return replace(
        shell, parameters={name: torch.stack([one[name].detach() for one in networks]) for name in networks[0]}
    )


def same(a: TrainedModel, b: TrainedModel) -> bool:
    plain = [name for name in a.__dataclass_fields__ if name not in ("scaler", "parameters")]
    return (
        all(getattr(a, name) == getattr(b, name) for name in plain)
        and a.parameters.keys() == b.parameters.keys()
        and all(torch.equal(a.parameters[name], b.parameters[name]) for name in a.parameters)
        and np.array_equal(a.scaler.mean, b.scaler.mean, equal_nan=True)
        and np.array_equal(a.scaler.std, b.scaler.std, equal_nan=True)
        and a.scaler.mean.dtype == b.scaler.mean.dtype
    )


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_is_saved_is_loaded_to_the_last_bit(tmp_path: Path, seeds: int) -> None:
    trained, manager = trained_model(seeds=seeds), CheckpointManager(tmp_path / "c")
    assert manager.save(trained) == tmp_path / "c"
    assert same(manager.load(), trained)
    assert not same(manager.load(), trained_model(seeds=seeds, seed=1))


def test_missing_parents_are_made(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b" / "c"
    CheckpointManager(folder).save(trained_model())
    assert left_over(folder) == [META, WEIGHTS]


def test_a_second_save_replaces_the_first_and_leaves_nothing_behind(tmp_path: Path) -> None:
    manager, second = CheckpointManager(tmp_path / "c"), trained_model(seed=1)
    manager.save(trained_model())
    manager.save(second)
    assert same(manager.load(), second)
    assert left_over(tmp_path) == ["c"]
    assert left_over(tmp_path / "c") == [META, WEIGHTS]


def test_meta_is_readable_and_says_what_a_live_process_needs(tmp_path: Path) -> None:
    trained = trained_model()
    meta = json.loads((CheckpointManager(tmp_path / "c").save(trained) / META).read_text())
    assert meta["schema_version"] == 2
    assert meta["model"] == asdict(trained.config)
    assert meta["symbols"] == ["S0", "S1"]
    assert meta["fit_end"] == trained.fit_end
    assert (meta["correlation"], meta["gain"]) == (trained.correlation, trained.gain) == (0.1 + 0.2, 1.7)
    assert meta["min_history_bars"] == trained.min_history_bars == 505
    assert trained_model(n_context=0).min_history_bars == 253


def test_nothing_is_pickled(tmp_path: Path) -> None:
    """A header of JSON and raw numbers: no pickle opcode, no zip (what torch.save writes)."""
    folder = CheckpointManager(tmp_path / "c").save(trained_model())
    assert left_over(folder) == [META, WEIGHTS]
    weights = (folder / WEIGHTS).read_bytes()
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    described = sum(end - start for start, end in (one["data_offsets"] for one in header.values()))
    assert 8 + length + described == len(weights)
    assert {one["dtype"] for one in header.values()} == {"F32"}
    json.loads((folder / META).read_text())


# Writing is atomic


class Killed(BaseException):
    """A BaseException that is no Exception, like a signal."""


@pytest.mark.parametrize("error", [Killed(), RuntimeError("a fault")])
@pytest.mark.parametrize("call", range(4))
def test_a_write_that_is_broken_off_anywhere_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int
) -> None:
    """At either file's fsync, or at either of the two renames that put the new folder in place."""
    manager, first = CheckpointManager(tmp_path / "c"), trained_model()
    manager.save(first)
    calls = iter(range(100))

    def breaking(original):  # type: ignore[no-untyped-def]
        def wrapped(*arguments):  # type: ignore[no-untyped-def]
            if next(calls) == call:
                raise error
            return original(*arguments)

        return wrapped

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", breaking(os.fsync))
        patched.setattr(Path, "rename", breaking(Path.rename))
        with pytest.raises(type(error)):
            manager.save(trained_model(seed=1))
    assert next(calls) > call
    assert same(manager.load(), first)
    assert left_over(tmp_path) == ["c"]


KILL = """
import os, sys
from pathlib import Path
import tft.checkpoint as c
where, folder = sys.argv[2], Path(sys.argv[1])
count = iter(range(100))
def dying(original):
    def wrapped(*arguments):
        if next(count) == int(where):
            os._exit(9)
        return original(*arguments)
    return wrapped
os.fsync, Path.rename = dying(os.fsync), dying(Path.rename)
c.write_folder_atomically(folder, {"model.safetensors": b"", "meta.json": b"{}"})
"""


@pytest.mark.parametrize("call", [1, 3])
def test_a_killed_process_leaves_a_checkpoint_that_can_be_read_and_written_again(tmp_path: Path, call: int) -> None:
    """Dead before the second file is complete, or between moving the old folder aside and the new one in."""
    manager, first, second = CheckpointManager(tmp_path / "c"), trained_model(), trained_model(seed=1)
    manager.save(first)
    command = [sys.executable, "-c", KILL, str(tmp_path / "c"), str(call)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 9
    assert (tmp_path / "c").exists() == (call == 1)
    assert same(manager.load(), first)
    manager.save(second)
    assert same(manager.load(), second)


# Reading is verified


@pytest.mark.parametrize("file", [WEIGHTS, META])
def test_a_corrupt_byte_is_detected_wherever_it_is(tmp_path: Path, file: str) -> None:
    path = CheckpointManager(tmp_path / "c").save(trained_model()) / file
    good = path.read_bytes()
    for at in np.linspace(0, len(good) - 1, 40).astype(int):
        if chr(good[at]).isspace():
            continue  # layout of meta.json means nothing
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x04]) + good[at + 1 :])
        with pytest.raises(CheckpointError, match=str(path.parent)):
            load_checkpoint(path.parent)
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match=str(path)):
        load_checkpoint(path.parent)


def test_a_changed_number_in_meta_is_detected(tmp_path: Path) -> None:
    """Valid JSON, another position limit: not what was saved."""
    folder = CheckpointManager(tmp_path / "c").save(trained_model())
    text = (folder / META).read_text()
    assert '"max_position": 0.5' in text
    (folder / META).write_text(text.replace('"max_position": 0.5', '"max_position": 0.9'))
    with pytest.raises(CheckpointError, match=r"meta\.json does not match its own checksum: restore it from a copy$"):
        load_checkpoint(folder)


@pytest.mark.parametrize("file", [WEIGHTS, META])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = CheckpointManager(tmp_path / "c").save(trained_model())
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing: {folder} is not a complete checkpoint$"):
        load_checkpoint(folder)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("a file")])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "c")
    with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("version", [None, 1, 3])
def test_another_schema_is_refused_before_anything_else_is_read_from_it(tmp_path: Path, version: int | None) -> None:
    folder = CheckpointManager(tmp_path / "c").save(trained_model())
    (folder / META).write_text(json.dumps({"schema_version": version, "unheard_of": 1}))
    with pytest.raises(CheckpointError, match=f"has schema version {version}, this version reads 2$"):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_meta_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = CheckpointManager(tmp_path / "c").save(trained_model())
    (folder / META).write_text(text)
    with pytest.raises(CheckpointError, match=r"meta\.json is not "):
        load_checkpoint(folder)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    trained = trained_model()
    odd = {**trained.parameters, "windows.head.weight": torch.zeros(2, 8, 5)}
    manager = CheckpointManager(tmp_path / "c")
    with pytest.raises(CheckpointError, match=r"does not hold the model .* see windows\.head\.weight$"):
        manager.save(replace(trained, parameters=odd))


# Where the folder cannot be written, the fallback takes it


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_sends_the_checkpoint_to_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main, fallback, trained = tmp_path / "main" / "c", tmp_path / "other" / "c", trained_model()
    real, calls = os.fsync, iter(range(100))

    def full_at_first(descriptor: int) -> None:
        (full_disk if next(calls) == 0 else real)(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_first)
    assert CheckpointManager(main, fallback=fallback).save(trained) == fallback
    assert same(load_checkpoint(fallback), trained)
    assert left_over(tmp_path / "main") == []


def test_a_folder_that_cannot_be_made_sends_the_checkpoint_to_the_fallback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    trained, fallback = trained_model(), tmp_path / "other" / "c"
    assert CheckpointManager(tmp_path / "file" / "c", fallback=fallback).save(trained) == fallback
    assert same(load_checkpoint(fallback), trained)
    assert (tmp_path / "file").read_text() == "in the way"


def test_without_a_place_to_write_the_error_is_raised_and_the_old_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager, first = CheckpointManager(tmp_path / "c"), trained_model()
    manager.save(first)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            manager.save(trained_model(seed=1))
        with pytest.raises(OSError, match="No space left"):
            CheckpointManager(tmp_path / "c", fallback=tmp_path / "d").save(trained_model(seed=1))
    assert same(manager.load(), first)
    assert left_over(tmp_path) == ["c"]
