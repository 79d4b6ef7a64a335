"""The work directory and the address: the more advanced state is kept, and two different runs are refused."""

import shutil

import pytest

from accdistill_jax.errors import UserError
from accdistill_jax.files import is_address
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror import staging_folder
from accdistill_jax.storage.mirror_store import Conflict
from tests.storage.mirror.run_folders import refuse, tree, write


def test_a_folder_that_is_ahead_is_kept_and_copied(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1")
    one.push()
    write(tmp_path / "one", a="2", b="new")
    store.before = lambda number, what: "atomically" not in what and refuse()
    with pytest.raises(UserError, match="could not be copied"):
        one.push()
    one.close()
    store.reset()
    again = opened(url, tmp_path / "one")
    assert tree(tmp_path / "one") == {"a": b"2", "b": b"new"}
    again.push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2", "b": b"new"}


def test_a_first_copy_that_failed_loses_nothing(url, opened, store, tmp_path):
    one = opened(url, tmp_path / "one")
    write(tmp_path / "one", a="1")
    store.before = lambda number, what: "write_if" in what and refuse()
    with pytest.raises(UserError):
        one.push()
    one.close()
    store.reset()
    opened(url, tmp_path / "one").push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"1"}


def test_files_that_somebody_deleted_locally_are_fetched_again(url, opened, tmp_path):
    write(tmp_path / "one", a="1", b__c="2")
    one = opened(url, tmp_path / "one")
    one.push()
    one.close()
    shutil.rmtree(tmp_path / "one" / "b")
    opened(url, tmp_path / "one").push()
    assert tree(tmp_path / "one") == {"a": b"1", "b/c": b"2"}


def test_parted_runs_are_refused(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    two = opened(url, tmp_path / "two")
    write(tmp_path / "two", a="2")
    two.push()
    write(tmp_path / "one", b="never copied")
    with pytest.raises(Conflict, match="another run writes at .*; stop one of the two.*--workdir="):
        one.push()
    one.close()
    with pytest.raises(Conflict, match="went on elsewhere.*Delete that folder.*--workdir="):
        opened(url, tmp_path / "one")
    assert tree(tmp_path / "one") == {"a": b"1", "b": b"never copied"}
    other = opened(f"{url}-2", tmp_path / "three")
    write(tmp_path / "three", a="3")
    other.push()
    other.close()
    for foreign in ("three", "four"):
        write(tmp_path / foreign, z="foreign")
        with pytest.raises(Conflict, match="different runs"):
            opened(url, tmp_path / foreign)
    opened(url, tmp_path / "five")
    assert tree(tmp_path / "five") == {"a": b"2"}


def test_an_emptied_or_older_address_is_refused(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    one = opened(url, tmp_path / "one")
    one.push()
    older = open_folder(url).read("mirror.json")
    write(tmp_path / "one", a="2")
    one.push()
    one.close()
    open_folder(url).write("mirror.json", older)
    with pytest.raises(Conflict, match="older copy"):
        opened(url, tmp_path / "one")
    assert open_folder(url).remove_ours(lambda name: True)
    with pytest.raises(Conflict, match=r"is empty.*\.mirror\.json"):
        opened(url, tmp_path / "one")
    (tmp_path / "one" / ".mirror.json").unlink()
    opened(url, tmp_path / "one").push()
    opened(url, tmp_path / "two")
    assert tree(tmp_path / "two") == {"a": b"2"}


def test_two_runs_on_one_machine_are_refused(url, opened, tmp_path):
    opened(url, tmp_path / "one")
    with pytest.raises(UserError, match="another process of this machine"):
        opened(url, tmp_path / "one")


def test_two_first_copies_at_one_address(url, opened, tmp_path):
    write(tmp_path / "one", a="1")
    write(tmp_path / "two", a="2")
    one, two = opened(url, tmp_path / "one"), opened(url, tmp_path / "two")
    one.push()
    with pytest.raises(Conflict, match="another run"):
        two.push()
    opened(url, tmp_path / "three")
    assert tree(tmp_path / "three") == {"a": b"1"}


def test_addresses_and_their_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        is_address("gs://b/run") and is_address("s3://b") and not is_address("runs/x") and not is_address("file:///x")
    )
    with pytest.raises(UserError, match="cannot be written"):
        is_address("https://example.org/run")
    folder = staging_folder("gs://bucket/a b/run/")
    assert folder.parent == tmp_path / "accdistill_jax" / "runs"
    assert folder.name.startswith("bucket-a-b-run-")
    assert folder == staging_folder("gs://bucket/a b/run") != staging_folder("s3://bucket/a b/run")
