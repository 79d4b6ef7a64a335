"""A user's files beside or in the files of a run are never deleted."""

import logging
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from accdistill_jax.data.prepare.preparation import PreparationSettings
from accdistill_jax.data.store.removal import is_staged_file, is_store_file
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.synthetic.synthetic import SyntheticSettings, write_store
from accdistill_jax.errors import UserError
from accdistill_jax.files import free_name, remove_matching
from accdistill_jax.storage.checkpoint import Checkpointer
from accdistill_jax.storage.export import load_params, save_params
from accdistill_jax.storage.folder import open_folder
from accdistill_jax.storage.mirror import Mirror
from accdistill_jax.storage.mirror_tree import fetch_tree

STATE = {"a": np.arange(5.0)}
FEW = SyntheticSettings(participants=2, segments_per_participant=2)
MORE = SyntheticSettings(participants=3, segments_per_participant=2)
OVERWRITE = PreparationSettings(workers=1, overwrite=True)


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"precious {name}")
    return names


def assert_kept(folder, names):
    for name in names:
        assert (folder / name).read_text() == f"precious {name}", name


def save(folder, *steps, **options):
    with Checkpointer(folder, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, STATE)


def test_copies_beside_checkpoints_stay(tmp_path):
    names = put(
        tmp_path,
        "40.bak/x",
        "2024.05.01-good/x",
        "40/from-a-copy",
        "backup-40/x",
        "notes.tmp",
        ".mine.tmp",
        "7.tmp/x",
        "30/d/0a",
        "41.orbax-checkpoint-tmp-copy/x",
    )
    save(tmp_path, 10, 20, 50, keep_last=1)
    assert_kept(tmp_path, names)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_valid_step() == 50
    assert not (tmp_path / "10").exists()


def test_a_folder_in_the_place_of_a_checkpoint_to_be_is_set_aside_in_a_line(tmp_path, caplog):
    put(tmp_path, "40/from-a-copy", "40.kept/older")
    with caplog.at_level(logging.WARNING):
        save(tmp_path, 40)
    assert (tmp_path / "40.kept-2" / "from-a-copy").read_text() == "precious 40/from-a-copy"
    assert_kept(tmp_path, ["40.kept/older"])
    assert (
        f"{tmp_path / '40'} has something in it that no run has saved: it was renamed to {tmp_path / '40.kept-2'}"
        in caplog.text
    )
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.restore(40, STATE).state["a"].tolist() == STATE["a"].tolist()


def test_notes_in_a_checkpoint_outlive_it(tmp_path):
    save(tmp_path, 10, 20)
    names = put(tmp_path, "10/notes.txt", "10/d/mine", "20/notes.txt")
    save(tmp_path, 20, 30, keep_last=1)
    assert_kept(tmp_path, names[:2])
    assert (tmp_path / "20.kept" / "notes.txt").exists()
    assert sorted(path.name for path in (tmp_path / "10").iterdir()) == ["d", "notes.txt"]


def test_a_json_file_that_is_no_record_stays(tmp_path):
    names = put(tmp_path, "7.json", "7/x")
    save(tmp_path, 10, 20, 30, keep_last=1)
    assert_kept(tmp_path, names)


@pytest.mark.slow
def test_the_save_of_another_process_is_not_touched(repository, tmp_path):
    """As a second start would find it; that one can read, and is refused when it saves."""
    program = textwrap.dedent("""
        import os, sys, numpy as np
        from accdistill_jax.storage import checkpoint
        write = checkpoint.write_atomically
        def late(*arguments):
            print("arrays", flush=True)
            sys.stdin.readline()
            write(*arguments)
        checkpoint.write_atomically = late
        with checkpoint.Checkpointer(sys.argv[1]) as first:
            first.save(10, {"a": np.arange(5.0)})
    """)
    first = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        cwd=repository,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert first.stdout.readline() == "arrays\n"
        (tmp_path / "11.orbax-checkpoint-tmp").mkdir()  # what the first would be writing next
        before = sorted(path.name for path in tmp_path.iterdir())
        with Checkpointer(tmp_path) as second:
            assert sorted(path.name for path in tmp_path.iterdir()) == before
            assert second.latest_valid_step() is None
            with pytest.raises(
                UserError, match=f"another process saves its checkpoints there .process {first.pid} on "
            ):
                second.save(10, STATE)
            first.communicate("go\n", timeout=60)
            assert (
                second.latest_valid_step() == 10
                and second.restore(10, STATE).state["a"].tolist() == STATE["a"].tolist()
            )
            second.save(20, STATE)
    finally:
        first.kill()
        first.communicate()
    assert not (tmp_path / "11.orbax-checkpoint-tmp").exists()


def test_files_in_an_export_outlive_the_next(tmp_path):
    save_params(tmp_path, STATE, {})
    names = put(tmp_path, "notes.txt", "params/notes.txt")
    save_params(tmp_path, {"a": np.zeros(2)}, {})
    assert_kept(tmp_path, names[:1])
    assert (tmp_path / "params.kept" / "notes.txt").read_text() == "precious params/notes.txt"
    assert load_params(tmp_path).state["a"].tolist() == [0, 0]
    save_params(tmp_path, {"a": np.zeros(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.json", "notes.txt", "params", "params.kept"]


def test_files_in_a_staging_folder_stay(tmp_path):
    names = put(tmp_path / "s.partial", "notes.txt", "units/mine.npz", "store/mine", "lock.txt")
    write_store(tmp_path / "s", FEW)
    assert_kept(tmp_path / "s.partial", names[:2] + names[3:])
    assert (tmp_path / "s" / "mine").exists() and Store.open(tmp_path / "s").num_segments
    write_store(tmp_path / "s", FEW)  # complete: what is left over of its staging folder is removed, and no more
    assert_kept(tmp_path / "s.partial", names[:2])


def test_overwriting_a_store_keeps_what_was_no_part_of_it(tmp_path, caplog):
    write_store(tmp_path / "s", FEW)
    names = put(tmp_path / "s", "notes.txt", "ppg/c/mine")
    put(tmp_path, "s.replaced/older")
    write_store(tmp_path / "s", MORE, preparation=OVERWRITE)
    assert Store.open(tmp_path / "s").num_segments == 6
    assert_kept(tmp_path / "s.replaced-2", names)
    assert (tmp_path / "s.replaced" / "older").exists()
    assert f"what was no part of the store that was replaced is in {tmp_path / 's.replaced-2'} now" in caplog.text


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_address_that_holds_other_things_is_no_place_for_a_store(overwrite):
    folder = open_folder(f"memory://bucket-of-things-{overwrite}")
    folder.write("thesis.txt", b"precious")
    with pytest.raises(UserError, match=r"what is in it is no store \(thesis.txt\)"):
        write_store(folder.path, FEW, preparation=PreparationSettings(workers=1, overwrite=overwrite))
    assert folder.read("thesis.txt") == b"precious"


def test_overwriting_a_store_at_an_address_leaves_other_objects():
    folder = open_folder("memory://bucket-with-a-store")
    write_store(folder.path, FEW)
    folder.write("thesis.txt", b"precious")
    write_store(folder.path, MORE, preparation=OVERWRITE)
    assert Store.open(folder.path).num_segments == 6 and folder.read("thesis.txt") == b"precious"


def test_every_file_of_a_store_and_of_its_staging_folder_is_known(tmp_path, monkeypatch):
    """Else replacing one would leave it behind."""
    monkeypatch.setattr(os, "rename", lambda *_: 1 / 0)  # the finished store is not moved to its place
    with pytest.raises(ZeroDivisionError):
        write_store(tmp_path / "s", FEW)
    names = open_folder(tmp_path / "s.partial").names()
    assert len(names) > 10 and all(map(is_staged_file, names))
    assert all(map(is_store_file, open_folder(tmp_path / "s.partial" / "store").names()))
    assert remove_matching(tmp_path / "s.partial", is_staged_file)


def test_fetching_a_run_touches_nothing_beside_it(tmp_path):
    put(tmp_path, "run/file", "fetched.partial/mine")
    with Mirror("memory://run-to-fetch", tmp_path / "run") as mirror:
        mirror.pull()
        mirror.push()
    leftover = tmp_path / ".fetched.0123.fetching"
    put(leftover, "of a process that was killed")
    assert fetch_tree("memory://run-to-fetch", tmp_path / "fetched") == 1
    assert (tmp_path / "fetched" / "file").exists() and (tmp_path / "fetched.partial" / "mine").exists()
    assert not leftover.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetched", "fetched.partial", "run"]


def test_removing_follows_no_link_and_keeps_empty_folders(tmp_path):
    put(tmp_path, "elsewhere/ours", "folder/ours", "folder/below/ours", "folder/other/mine")
    (tmp_path / "folder" / "empty").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "elsewhere")
    assert not remove_matching(tmp_path / "folder", lambda name: name.endswith("ours"))
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["empty", "link", "other"]
    assert (tmp_path / "elsewhere" / "ours").exists()
    assert remove_matching(tmp_path / "nothing", lambda name: True)


def test_a_free_name(tmp_path):
    assert free_name(tmp_path / "a.kept").name == "a.kept"
    (tmp_path / "a.kept").symlink_to("nowhere")
    assert free_name(tmp_path / "a.kept").name == "a.kept-2"
