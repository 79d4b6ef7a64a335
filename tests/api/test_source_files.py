"""The note of the files that recordings come from: equal for the same files, different for any others."""

import os
import shutil

import pytest

from accdistill_jax.api.source_files import note_files
from accdistill_jax.data.recording import RecordingSource
from accdistill_jax.data.recordings import Found
from accdistill_jax.storage.folder import open_folder


def nothing():
    raise AssertionError("the note loads no recording")


def found(*paths, told=False):
    """Recordings of which the reader claimed files; `told`: each source has its own file."""
    sources = [RecordingSource(p.stem, p.stem, nothing, files=(str(p),) if told else ()) for p in paths]
    return Found(sources, reader="mine", claimed=map(str, paths))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.bin").write_bytes(name.encode() * 10)
    return tmp_path / "in"


def test_the_same_files_have_the_same_note(folder, tmp_path, monkeypatch):
    files = found(folder / "a.bin", folder / "b.bin")
    noted = note_files([folder], files)
    monkeypatch.chdir(tmp_path)
    again = note_files(["in"], files)
    assert noted.noted() == again.noted() and noted.difference(again.noted()) == ""
    assert [noted.identity(source) for source in files] == [again.identity(source) for source in files]
    assert set(noted.stamps) == {"a.bin", "b.bin"} and folder.name not in noted.place


def test_other_files_are_named(folder):
    before = note_files([folder], found(folder / "a.bin", folder / "b.bin")).noted()
    stat = (folder / "a.bin").stat()
    (folder / "a.bin").write_bytes(b"other")
    os.utime(folder / "a.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (folder / "b.bin").rename(folder / "c.bin")
    after = note_files([folder], found(folder / "a.bin", folder / "c.bin"))
    assert after.difference(before) == "changed: a.bin; new: c.bin; gone: b.bin"
    os.utime(folder / "a.bin", ns=(0, 1))
    assert note_files([folder], found(folder / "a.bin")).difference(after.noted()) == "changed: a.bin; gone: c.bin"
    assert "did not note its files" in after.difference(None)


def test_a_copy_with_the_same_times_is_another_folder(folder):
    copy = shutil.copytree(folder, folder.parent / "copy")
    before, after = (note_files([root], found(root / "a.bin")) for root in (folder, copy))
    assert after.difference(before.noted()) == "they lie in another folder"
    (source,) = found(copy / "a.bin")
    assert before.identity(source) != after.identity(source)


@pytest.mark.parametrize("told", [True, False])
def test_a_change_concerns_the_recordings_that_tell_no_files_and_the_one_that_tells_it(folder, told):
    files = found(folder / "a.bin", folder / "b.bin", told=told)
    before = note_files([folder], files)
    (folder / "b.bin").write_bytes(b"other")
    after = note_files([folder], files)
    assert [before.identity(source) == after.identity(source) for source in files] == [told, False]


def test_files_outside_the_folder_unclaimed_ones_and_missing_ones_are_noted(folder):
    outside = folder.parent / "outside.bin"
    outside.write_bytes(b"x")
    assert set(note_files([folder], found(folder / "a.bin", outside)).stamps) == {"a.bin", "../outside.bin"}
    assert set(note_files([folder], found()).stamps) == {"a.bin", "b.bin"}
    assert set(note_files([folder / "a.bin"], found(folder / "a.bin", folder / "b.bin")).stamps) == {"a.bin", "b.bin"}
    assert note_files([folder], found(folder / "gone.bin")).stamps["gone.bin"] == [[None, None]]


def test_objects_at_an_address_are_noted_by_name(tmp_path):
    address = f"memory://{tmp_path.name}/in"
    open_folder(address).write("a/x.bin", b"123")
    before = note_files([address], found())
    assert before.stamps == {"a/x.bin": [[None, None]]}
    open_folder(address).write("a/y.bin", b"123")
    assert note_files([f"{address}/"], found()).difference(before.noted()) == "new: a/y.bin"
