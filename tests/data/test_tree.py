"""Files below a root: links, hidden and trash folders, odd files and names are read, or listed with a reason."""

import io
import json
import os
import socket

import numpy as np
import pytest
import scipy.io
from rich.console import Console

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.prepare.show import print_not_read
from accdistill_jax.data.recordings import find
from accdistill_jax.data.tree import Tree, recording_ids, regular_file, same_name
from accdistill_jax.errors import UserError

EMPTY = {"streams": {"ppg": {"file": "a.csv"}, "accel": {"file": "a.csv"}}}


def recording(folder, participant="p01"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recording.json").write_text(json.dumps({"participant": participant, **EMPTY}))
    (folder / "a.csv").write_text("1\n")
    return folder


@pytest.fixture
def root(tmp_path):
    recording(tmp_path / "in" / "p01")
    return tmp_path / "in"


def ids(found):
    return [source.recording_id for source in found]


def test_links_to_folders_and_files_are_followed(root, tmp_path):
    recording(tmp_path / "elsewhere" / "p02", "p02")
    recording(tmp_path / "elsewhere" / "p03", "p03")
    (root / "site2").symlink_to(tmp_path / "elsewhere")
    (root / "p04").mkdir()
    for name in ("recording.json", "a.csv"):
        (root / "p04" / name).symlink_to(recording(tmp_path / "far", "p04") / name)
    found = find("generic", root)
    assert ids(found) == ["p01", "p04", "site2__p02", "site2__p03"] and found.not_read == {}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("..", "a link to a folder around it"),
        (".", "a link to a folder around it"),
        ("../..", "a link to a folder around it"),
        ("p01", "the same folder as p01, which is read"),
        ("nowhere", "a link to nowhere, which does not exist"),
        ("link", "cannot be read (Too many levels of symbolic links)"),
    ],
)
def test_links_that_lead_to_nothing_new_are_named(root, target, reason):
    (root / "link").symlink_to(target)
    found = find("generic", root)
    assert ids(found) == ["p01"] and found.not_read == {"link": reason}


def test_two_links_to_one_folder_and_loops_elsewhere_are_read_once(root, tmp_path):
    recording(tmp_path / "elsewhere" / "deep" / "p02")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    for name, target in (("b", "elsewhere"), ("a", "elsewhere/deep"), ("c", "elsewhere")):
        (root / name).symlink_to(tmp_path / target)
    found = find("generic", root)
    assert ids(found) == ["a__p02", "p01"]
    assert found.not_read == {
        "b/back": "the same folder as ., which is read",
        "b/deep": "the same folder as a, which is read",
        "c": "the same folder as b, which is read",
    }


def test_what_a_link_becomes_where_links_cannot_be_stored_is_named(root, tmp_path):
    recording(tmp_path / "elsewhere")
    (root / "site2").write_text("../elsewhere")
    (root / "LICENSE").write_text("Do as you like.\n")
    assert list(find("generic", root).not_read) == ["site2"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (".git", "a hidden folder"),
        (".Trash-1000", "deleted files"),
        (".Trashes", "deleted files"),
        ("$RECYCLE.BIN", "deleted files"),
        ("lost+found", "deleted files or a system's own folder"),
        ("System Volume Information", "a system's own folder"),
        ("@eaDir", "a system's own folder"),
        ("__MACOSX", "what macOS keeps"),
        ("S01\\p02", "a path with backslashes"),
    ],
)
def test_folders_that_hold_no_recordings_of_the_user_are_named(root, name, reason):
    recording(root / name, "p02")
    found = find("generic", root)
    assert ids(found) == ["p01"]
    assert list(found.not_read) == [name] and reason in found.not_read[name]


def test_files_of_systems_are_no_recordings(root):
    (root / "p01" / "._a.csv").write_bytes(b"\0\5\26\7")
    (root / "p01" / "._recording.json").write_bytes(b"\0\5\26\7")
    (root / "p01" / ".DS_Store").write_bytes(b"\0")
    (root / "p01" / "S01\\BVP.csv").write_text("1\n")
    found = find("generic", root)
    assert ids(found) == ["p01"]
    assert sorted(found.not_read) == ["p01/._a.csv", "p01/._recording.json", "p01/S01\\BVP.csv"]


def test_special_files_are_named_and_never_opened(root, monkeypatch):
    os.mkfifo(root / "p01" / "b.csv")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(root)  # a socket must have a short path
        server.bind("s.csv")
    (root / "null.csv").symlink_to("/dev/zero")
    assert find("generic", root).not_read == {
        "p01/b.csv": "a named pipe, not a file",
        "s.csv": "a socket, not a file",
        "null.csv": "a device, not a file",
    }
    for path in (root / "p01/b.csv", root / "null.csv", root):
        with pytest.raises(UserError, match="not a file"):
            regular_file(path)


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    closed = recording(root / "p02")

    def scandir(path, real=os.scandir):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert find("generic", root).not_read == {"p02": "the folder cannot be read (Permission denied)"}
    with pytest.raises(UserError, match="p02: cannot be read"):
        Tree(closed)


def test_folders_without_a_recording_are_named(root):
    (root / "empty").mkdir()
    (root / "p02" / "raw").mkdir(parents=True)
    for name in ("ppg.csv", "acc.csv", "raw/notes"):
        (root / "p02" / name).write_text("1\n")
    (root / "p01" / "gyro.csv").write_text("1\n")
    (root / "p03.7z").write_bytes(b"7z")
    found = find("generic", root)
    assert found.not_read == {
        "empty": "an empty folder",
        "p02": "holds no recording of this kind (2 .csv, 1 without ending)",
        "p01/gyro.csv": "no description (recording.yaml) names this file",
        "p03.7z": "an archive that is not looked into; unpack it",
    }


def test_a_description_that_cannot_be_read_hides_no_other_reason(root):
    (recording(root / "p02") / "recording.json").write_text("{")
    found = find("generic", root)
    assert ids(found) == ["p01", "p02"] and found.not_read == {}


def test_data_in_a_folder_of_its_own_belong_to_the_description_that_names_them(root):
    folder = recording(root / "p02")
    (folder / "data").mkdir()
    (folder / "data" / "A.CSV").write_text("1\n")
    text = (folder / "recording.json").read_text().replace("a.csv", "data/a.csv")
    (folder / "Recording.JSON").write_text(text)
    (folder / "recording.json").unlink()
    (folder / "a.csv").unlink()
    found = find("generic", root)
    assert ids(found) == ["p01", "p02"] and found.not_read == {}


def test_no_recording_at_all_tells_what_there_is(tmp_path):
    for name in ("a.csv", "b.CSV", "c.txt", "d"):
        (tmp_path / name).write_text("")
    (tmp_path / ".hidden").mkdir()
    with pytest.raises(UserError) as error:
        find("generic", tmp_path)
    assert "the folder holds 2 .csv, 1 .txt, 1 without ending" in str(error.value)
    assert "not read: .hidden (a hidden folder" in str(error.value)


def test_ids_keep_letters_of_every_script_and_stay_distinct():
    assert recording_ids([["太郎"], ["花子", "a b"], ["Zoë", "S01"]]) == ["太郎", "花子__a-b", "Zoë__S01"]
    assert recording_ids([["हिन्दी"], ["p.01_x-y"]]) == ["हिन्दी", "p.01_x-y"]
    alike = [["a b"], ["a-b"], ["a/b"], ["Zoe\u0308"], ["Zo\u00eb"], ["Ren\udce9"], ["Ren-xe9"]]
    assert len(set(recording_ids(alike))) == len(alike)
    assert all(name.startswith(("a-b-", "Zoë-", "Ren-xe9-")) for name in recording_ids(alike))


def test_folders_whose_names_differ_by_the_form_of_an_accent_or_are_no_utf8_are_read(root):
    for number, name in enumerate([b"Zo\xc3\xab", b"Zoe\xcc\x88", b"Ren\xe9"]):
        recording(root / os.fsdecode(name), f"q{number}")
    found = find("generic", root)
    assert len(set(ids(found))) == 4 and {source.participant_id for source in found} == {"p01", "q0", "q1", "q2"}
    for name in ids(found):
        name.encode()


def test_names_that_differ_in_case_only():
    assert same_name("BVP.csv", ["bvp.csv", "acc.csv"]) == "bvp.csv"
    assert same_name("BVP.csv", ["bvp.csv", "BVP.csv"]) == "BVP.csv"
    assert same_name("Zoe\u0308", ["Zo\u00eb"]) == "Zo\u00eb"
    assert same_name("a", ["b"]) is None
    with pytest.raises(UserError, match="BVP.csv matches Bvp.csv, bvp.csv"):
        same_name("BVP.csv", ["bvp.csv", "Bvp.csv"])


def test_what_is_not_read_is_told_again_by_a_store_that_was_there_already(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scipy.io.savemat(tmp_path / "TEST_S01_T01.mat", {"sig": rng.normal(size=(5, 125 * 61))})
    (tmp_path / "old.mat").symlink_to("nowhere")
    arguments = [
        "troika",
        str(tmp_path),
        "--out",
        str(tmp_path.parent / f"{tmp_path.name}-s"),
        "--quiet",
        "--workers",
        "1",
        "--max-motion-g",
        "inf",
        "--min-ppg-quality",
        "0",
    ]
    for extra in ((), (".git", "more.mat")):
        for name in extra:
            (tmp_path / name).mkdir()
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert out.count("not read: old.mat: a link to nowhere, which does not exist") == 1
        assert out.count("not read: True_S01_T01.mat: no such file: TEST_S01_T01.mat is read without heart rates") == 1
        for name, reason in zip(extra, ("a hidden folder; rename it to have it read", "an empty folder"), strict=False):
            assert out.count(f"not read: {name}: {reason}") == 1


def test_many_files_not_read_for_one_reason_are_counted(tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    print_not_read({f"._{number}": "why" for number in range(25)} | {"other": "because"}, console)
    lines = console.export_text().splitlines()
    assert (
        len(lines) == 12 and lines[-2].startswith("not read: 15 more (why)") and lines[-1] == "not read: other: because"
    )
