"""Copies in the background: one at a time, failures caught up, conflicts raised."""

import threading

import pytest

from accdistill_jax.storage import mirror_store
from accdistill_jax.storage.mirror_store import Conflict
from accdistill_jax.storage.mirror_tree import open_copy
from tests.storage.mirror.run_folders import WAIT_S, refuse, tree, write


def test_background_copies_are_one_at_a_time_and_coalesced(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    begun, go_on = threading.Event(), threading.Event()

    def hold(number, what):
        if store.calls.count(what) == 2 and "write_if" in what:  # the file is written, the copy not complete
            begun.set()
            assert go_on.wait(WAIT_S)

    write(tmp_path / "one", a="1")
    store.after = hold
    one.push_later()
    assert begun.wait(WAIT_S)
    for text in "234":
        write(tmp_path / "one", a=text)
        one.push_later()
    go_on.set()
    one.wait()
    assert open_copy(url)[1].generation == 2
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"4"}


def test_a_failed_background_copy_warns_and_is_caught_up(url, opened, store, tmp_path):
    lines = []
    one = opened(url, tmp_path / "one", say=lines.append)
    for text in "12":
        write(tmp_path / "one", a=text)
        store.before = lambda number, what: "atomically" not in what and refuse()
        one.push_later()
        one.wait()
    assert len(lines) == 2
    assert all(line.startswith(f"warning: not copied to {url}") and "403" in line for line in lines)
    store.reset()
    one.push_later()
    one.wait()
    assert len(lines) == 2
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2"}


def test_the_final_push_does_not_wait_for_the_patience_of_a_background_copy(url, opened, store, tmp_path, monkeypatch):
    one = opened(url, tmp_path / "one", patience_s=1000.0)
    write(tmp_path / "one", a="1")
    refused = threading.Event()

    def fail(number, what):
        if threading.current_thread() is not threading.main_thread() and "atomically" not in what:
            refused.set()
            refuse()

    monkeypatch.setattr(mirror_store, "FIRST_PAUSE_S", 1000.0)
    monkeypatch.setattr(mirror_store, "LONGEST_PAUSE_S", 1000.0)
    store.before = fail
    one.push_later()
    assert refused.wait(WAIT_S)
    store.before = lambda number, what: None
    one.push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_a_conflict_in_the_background_surfaces_once_and_for_all(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    two = opened(url, tmp_path / "two")
    write(tmp_path / "two", a="2")
    two.push()
    write(tmp_path / "one", a="3")
    one.push_later()
    with pytest.raises(Conflict):
        one.wait()
    with pytest.raises(Conflict):
        one.push_later()
    opened(url, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"2"}
