"""Fetching from an address: full disks, damaged or replaced copies, plain trees."""

import errno
import itertools
import json
import os

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.storage import folder as folders
from accdistill_jax.storage import mirror, mirror_store
from accdistill_jax.storage.folder import LocalFolder, RemoteFolder, open_folder
from accdistill_jax.storage.mirror_tree import fetch_tree
from tests.storage.mirror.run_folders import become, copied, refuse, tree, write


def test_disk_full_while_pulling(url, opened, two_states, tmp_path, monkeypatch):
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    written, fsync = itertools.count(), os.fsync

    def full(descriptor):
        if next(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "fsync", full)
        with pytest.raises(UserError, match="disk is full"):
            opened(url, tmp_path / "two")
    assert not list((tmp_path / "two").rglob("4.json"))
    assert json.loads((tmp_path / "two" / ".mirror.json").read_text())["pulling"]
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == copied(two_states[1])


def test_a_damaged_object_is_not_taken(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    opened(url, tmp_path / "one").push()
    remote = open_folder(url)
    remote.write("a", b"2")
    with pytest.raises(UserError, match=f"^{url}/a is damaged or missing"):
        opened(url, tmp_path / "two")
    remote.remove("a")
    with pytest.raises(UserError, match=f"^{url}/a is damaged or missing"):
        opened(url, tmp_path / "three")
    assert tree(tmp_path / "two") == tree(tmp_path / "three") == {}


def test_a_copy_replaced_while_it_is_fetched(url, opened, tmp_path, monkeypatch):
    write(tmp_path / "one", a="1", b="1")
    one = opened(url, tmp_path / "one")
    one.push()
    read = RemoteFolder.read

    def slow(folder, name):
        monkeypatch.setattr(RemoteFolder, "read", read)
        for text in "23":
            write(tmp_path / "one", a=text, b=text * 2)
            one.push()
        return read(folder, name)

    monkeypatch.setattr(RemoteFolder, "read", slow)
    opened(url, tmp_path / "two").push()
    assert tree(tmp_path / "two") == {"a": b"3", "b": b"33"}


@pytest.mark.parametrize(
    "manifest",
    [
        "",
        "{}",
        "[]",
        '{"format": 3}',
        '{"format": 1, "run": "r", "generation": 1, "push": "p", "files": 3}',
        '{"format": 1, "run": "r", "generation": 1, "push": "p", "files": {"../x": [1, "a"]}}',
        '{"format": 2, "run": "r", "generation": 1, "push": "p", "files": {}, "writing": ""}',
        '{"format": 2, "run": "r", "generation": 1, "push": "p", "files": {}, "writing": "", "stale": ["../x"]}',
    ],
)
def test_what_is_no_manifest_is_refused(url, opened, tmp_path, manifest):
    open_folder(url).write("mirror.json", manifest.encode())
    with pytest.raises(UserError, match=r"mirror\.json is no list of a run's files"):
        opened(url, tmp_path / "one")


def test_an_unreadable_journal_is_refused(url, opened, tmp_path):
    write(tmp_path / "one")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / ".mirror.json").write_text("{")
    with pytest.raises(UserError, match=r"\.mirror\.json cannot be read"):
        opened(url, tmp_path / "one")


def test_a_store_that_cannot_be_reached_is_named(opened, tmp_path, monkeypatch):
    def call(*arguments, **options):
        raise RuntimeError("PERMISSION_DENIED: HTTP 403 [source locations='x']\nmore")

    monkeypatch.setattr(mirror_store.ts.KvStore, "open", call)
    with pytest.raises(
        UserError, match=r"^gs://bucket/run/mirror.json: .*\(PERMISSION_DENIED: HTTP 403\); check"
    ) as told:
        opened("gs://bucket/run", tmp_path / "one")
    assert "\n" not in str(told.value)


def test_a_plain_tree_by_the_command_line(opened, two_states, tmp_path, capsys):
    url = f"file://{tmp_path}/bucket/run"
    become(tmp_path / "one", two_states[1])
    opened(url, tmp_path / "one").push()
    assert mirror.main(["ls", url]) == 0
    assert "student/export/export.json" in capsys.readouterr().out
    assert mirror.main(["pull", url, str(tmp_path / "plain")]) == 0
    assert tree(tmp_path / "plain") == copied(two_states[1])
    assert mirror.main(["pull", url, str(tmp_path / "plain")]) == 2
    assert mirror.main(["ls", f"file://{tmp_path}/nothing"]) == 2
    assert capsys.readouterr().err.count("error: ") == 2


def test_a_plain_tree_appears_whole_or_not_at_all(url, opened, tmp_path, monkeypatch):
    write(tmp_path / "one", a="1", b="2")
    opened(url, tmp_path / "one").push()
    monkeypatch.setattr(LocalFolder, "write", refuse)
    with pytest.raises(UserError):
        fetch_tree(url, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
