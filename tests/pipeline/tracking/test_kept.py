"""A store in a folder: pieces are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.tracking.kept import Kept, LocalStore
from tft import checkpoint
from tft.runtime.store import Store

PIECE = {"weights": b"\x00\xff", "meta.json": b"{}"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "not" / "yet")


def test_a_piece_is_read_back_and_another_of_its_name_replaces_it_whole(store: LocalStore) -> None:
    kept: Store = store  # it is what the engine asks for
    assert kept.get("one") is None
    assert not kept.exists("one")
    kept.put("one", PIECE)
    assert kept.exists("one")
    assert kept.get("one") == PIECE
    kept.put("one", {"other": b""})
    assert kept.get("one") == {"other": b""}
    assert not kept.exists("two")


def test_another_process_finds_what_was_put(store: LocalStore) -> None:
    store.put("one", PIECE)
    assert LocalStore(store.root).get("one") == PIECE
    assert str(store) == str(store.root)


def test_stores_below_are_apart(store: LocalStore) -> None:
    store.put("one", PIECE)
    below = store.within("a").within("b")
    below.put("one", {"x": b"1"})
    assert store.get("one") == PIECE
    assert below.get("one") == {"x": b"1"}
    assert store.within("a").get("one") is None
    assert not store.exists("a")  # a store, not a piece
    assert store.get("a") is None


def test_what_is_dropped_is_gone_a_piece_or_a_whole_store_and_nothing_else(store: LocalStore) -> None:
    store.put("one", PIECE)
    store.within("a").put("one", PIECE)
    store.within("a").within("b").put("two", PIECE)
    store.drop("a")
    assert not store.within("a").exists("one")
    assert not store.within("a").within("b").exists("two")
    assert store.get("one") == PIECE
    store.drop("one")
    store.drop("one")  # again: it is not there, which is what was wanted
    assert not store.exists("one")


def test_dropping_while_others_write_and_read_harms_nobody(store: LocalStore) -> None:
    """A reader finds a piece whole or not at all; a writer whose folder is dropped is told so by an OSError."""
    over = threading.Event()
    odd: list[object] = []

    def write() -> None:
        while not over.is_set():
            with suppress(OSError):
                store.within("a").put("one", PIECE)

    def read() -> None:
        while not over.is_set():
            found = store.within("a").get("one")
            if found not in (None, PIECE):
                odd.append(found)

    threads = [threading.Thread(target=write), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        store.drop("a")
    over.set()
    for thread in threads:
        thread.join()
    assert odd == []
    store.drop("a")
    assert not store.within("a").exists("one")


def test_what_cannot_be_dropped_stays_without_a_word(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk, where root is refused too."""
    store.put("one", PIECE)

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)
    store.drop("one")
    assert store.get("one") == PIECE


def test_a_write_that_fails_leaves_the_old_piece(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("one", PIECE)

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    for name in ("one", "two"):
        with pytest.raises(OSError, match="no space left"):
            store.put(name, {"weights": b"new"})
    assert store.get("one") == PIECE
    assert not store.exists("two")


def test_a_piece_whose_replacement_was_killed_between_its_last_steps_is_still_there(store: LocalStore) -> None:
    """The old folder has been moved aside, and the new one is not yet in its place."""
    store.put("one", PIECE)
    (store.root / "one").rename(checkpoint.aside_of(store.root / "one"))
    assert store.exists("one")
    assert store.get("one") == PIECE
    store.put("one", {"other": b""})
    assert store.get("one") == {"other": b""}
    assert not checkpoint.aside_of(store.root / "one").exists()


def test_what_was_moved_aside_is_dropped_too(store: LocalStore) -> None:
    store.put("one", PIECE)
    (store.root / "one").rename(checkpoint.aside_of(store.root / "one"))
    store.drop("one")
    assert not store.exists("one")
    assert list(store.root.iterdir()) == []


def test_results_and_folds_are_kept_apart_and_dropped_by_key(tmp_path: Path) -> None:
    """Keys that begin alike are different results."""
    kept = Kept(LocalStore(tmp_path))
    one, other = "a" * 64, "a" * 63 + "b"
    kept.keep_result(one, "text")
    assert kept.result(one) == "text" and kept.result(other) is None
    kept.folds(one).put("fold-0-of-0", {"fit.json": b"{}"})
    kept.drop_result(one)
    assert kept.result(one) is None and kept.folds(one).exists("fold-0-of-0")
    kept.drop_folds(one)
    assert not kept.folds(one).exists("fold-0-of-0")
    kept.drop_folds(one)  # nothing there is nothing to do


def test_a_result_that_cannot_be_kept_is_a_warning(tmp_path: Path) -> None:
    """A file stands where the folder would be: only a restart would have read the result."""
    (tmp_path / "results").write_text("in the way")
    kept = Kept(LocalStore(tmp_path))
    with pytest.warns(UserWarning, match="finished results cannot be kept"):
        kept.keep_result("a" * 64, "text")
    assert kept.result("a" * 64) is None
