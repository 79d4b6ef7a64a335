"""E4 sessions from other sources: names in other case, zips of other systems, damaged zips, zips that fill the memory."""

import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest

from accdistill_jax.data.recordings import empatica_e4, find
from accdistill_jax.errors import UserError

BOMB_BYTES = 16 * 2**20
METHODS = {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


def session(start=1_600_000_000):
    rng = np.random.default_rng(start)
    bvp, acc = rng.normal(size=256).round(2), rng.integers(-128, 128, (128, 3))
    return {
        "BVP.csv": f"{start}.00\n64.000000\n" + "".join(f"{x}\n" for x in bvp),
        "ACC.csv": ", ".join([f"{start}.00"] * 3)
        + "\n32.0, 32.0, 32.0\n"
        + "".join(",".join(map(str, row)) + "\n" for row in acc),
        "IBI.csv": f"{start}.000000, IBI\n1.500000,0.800000\n",
    }


def zipped(files, prefix="", method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return buffer.getvalue()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)


def same_as_plain(recording, files, folder):
    write(folder, files)
    (plain,) = find("empatica_e4", folder)
    plain = plain.load()
    for name in ("ppg", "accel"):
        np.testing.assert_array_equal(recording.streams[name].values, plain.streams[name].values)
    np.testing.assert_array_equal(recording.beats.time_s, plain.beats.time_s)


@pytest.mark.parametrize("change", [str.lower, str.title, lambda name: name.replace(".csv", ".CSV")])
@pytest.mark.parametrize("packed", [False, True])
def test_files_in_other_case_are_read_beside_others(tmp_path, change, packed):
    other = {change(name): content for name, content in session(1_600_000_100).items()}
    write(tmp_path / "in/S02", session())
    if packed:
        (tmp_path / "in/S01.ZIP").write_bytes(zipped(other, "S01/"))
    else:
        write(tmp_path / "in/S01", other)
    found = find("empatica_e4", tmp_path / "in")
    assert [source.participant_id for source in found] == ["S01", "S02"] and found.not_read == {}
    same_as_plain(found[0].load(), session(1_600_000_100), tmp_path / "plain")


def test_two_spellings_of_a_file(tmp_path):
    write(tmp_path / "S01", session() | {"bvp.csv": "not read: BVP.csv is there\n"})
    assert find("empatica_e4", tmp_path)[0].load().streams["ppg"].values.shape == (256, 1)
    (tmp_path / "S01/BVP.csv").rename(tmp_path / "S01/Bvp.csv")
    with pytest.raises(UserError, match="BVP.csv matches Bvp.csv, bvp.csv"):
        find("empatica_e4", tmp_path)[0].load()


@pytest.mark.parametrize("prefix", ["S01\\", "./S01/", "/S01/", "S01//", "Study\\2020\\S01\\"])
def test_members_with_paths_of_other_systems(tmp_path, prefix):
    (tmp_path / "S02.zip").write_bytes(zipped(session()))
    content = zipped(session(1_600_000_100), prefix)
    assert prefix.encode() in content
    (tmp_path / "S01.zip").write_bytes(content)
    found = find("empatica_e4", tmp_path)
    assert [source.participant_id for source in found] == ["S01", "S02"] and found.not_read == {}
    assert found[0].load().streams["accel"].values.shape == (128, 3)


def test_what_is_not_read_in_zips_is_named(tmp_path):
    (tmp_path / "S01.zip").write_bytes(
        zipped(
            session()
            | {
                "__MACOSX/._BVP.csv": "x",
                "._ACC.csv": "x",
                ".Trash/S09/BVP.csv": "x",
                ".git/HEAD": "x",
                "notes.zip": zipped({"notes.txt": "x"}),
            }
        )
    )
    (tmp_path / "docs.zip").write_bytes(zipped({"a.txt": "x", "b.txt": "x", "protocol.pdf": "x"}))
    (tmp_path / "empty.zip").write_bytes(zipped({}))
    deep = zipped(session(1_600_000_100))
    for _ in range(6):
        deep = zipped({"S02.zip": deep})
    (tmp_path / "deep.zip").write_bytes(deep)
    found = find("empatica_e4", tmp_path)
    assert [source.recording_id for source in found] == ["S01"]
    reasons = {name: reason.split(";")[0] for name, reason in found.not_read.items()}
    nothing = "holds neither BVP.csv nor ACC.csv"
    assert reasons == {
        "S01.zip/__MACOSX": "what macOS keeps beside the files themselves",
        "S01.zip/._ACC.csv": "what macOS keeps beside the files themselves",
        "S01.zip/.Trash": "deleted files or a system's own folder",
        "S01.zip/.git": "a hidden folder",
        "S01.zip/notes.zip": f"{nothing} (1 .txt)",
        "docs.zip": f"{nothing} (2 .txt, 1 .pdf)",
        "empty.zip": f"{nothing} (no file)",
        "deep.zip/S02.zip/S02.zip/S02.zip/S02.zip/S02.zip": "a zip within 5 zips",
    }


def test_a_member_that_stands_twice_is_named(tmp_path):
    first, second = session(), session(1_600_000_100)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(tmp_path / "S01.zip", "w") as archive:
        for name in (*first, *second):
            archive.writestr(name, second[name] if name in archive.namelist() else first[name])
    found = find("empatica_e4", tmp_path)
    assert found.not_read["S01.zip/BVP.csv"] == "stands more than once in its zip; the last one is read"
    assert found[0].load().start_unix_s == 1_600_000_100


def test_parts_of_sessions_are_named_or_tell_what_they_lack(tmp_path):
    write(tmp_path / "S01", session())
    write(tmp_path / "S02", {"IBI.csv": session()["IBI.csv"], "HR.csv": "1\n"})
    write(tmp_path / "S03", {"ACC.csv": session()["ACC.csv"]})
    (tmp_path / "S04_BVP.csv").write_text(session()["BVP.csv"])
    found = find("empatica_e4", tmp_path)
    assert [source.recording_id for source in found] == ["S01", "S03"]
    assert found.not_read == {
        "S02": "holds no recording of this kind (2 .csv)",
        "S04_BVP.csv": "no file of a session: there is neither BVP.csv nor ACC.csv beside it",
    }
    with pytest.raises(UserError, match="S03: BVP.csv is missing"):
        found[1].load()


def test_a_named_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    write(tmp_path / "S01", session())
    (tmp_path / "S01/BVP.csv").unlink()
    os.mkfifo(tmp_path / "S01/BVP.csv")
    with pytest.raises(UserError, match="BVP.csv: is a named pipe, not a file"):
        find("empatica_e4", tmp_path)[0].load()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", [0.1, 0.5, 0.9])
def test_damaged_members_are_user_errors(tmp_path, method, where):
    content = bytearray(zipped(session(), method=METHODS[method]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.getinfo("BVP.csv")
    begin = member.header_offset + 30 + len("BVP.csv")
    begin += round(where * member.compress_size)
    content[begin : begin + 8] = bytes(255 - byte for byte in content[begin : begin + 8])
    (tmp_path / "S01.zip").write_bytes(content)
    with pytest.raises(UserError, match="S01.zip: the zip is damaged or cut off"):
        find("empatica_e4", tmp_path)[0].load()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lying", [False, True])
def test_zip_bombs_are_refused_in_bounded_memory(tmp_path, monkeypatch, method, lying):
    monkeypatch.setattr(empatica_e4, "MOST_BYTES", 2**20)
    content = zipped(session() | {"BVP.csv": bytes(BOMB_BYTES)}, method=METHODS[method])
    if lying:  # the sizes in the directory and in front of the member
        size = (BOMB_BYTES).to_bytes(4, "little")
        assert content.count(size) == 2
        content = content.replace(size, (1000).to_bytes(4, "little"))
    (tmp_path / "S01.zip").write_bytes(content)
    (source,) = find("empatica_e4", tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(
            UserError, match="damaged" if lying else "BVP.csv has 16 MB or more; at most 1 MB are allowed"
        ):
            source.load()
        if method == "deflate" or not lying:  # with other methods, one small piece unpacks to the whole member
            assert tracemalloc.get_traced_memory()[1] < BOMB_BYTES / 4
    finally:
        tracemalloc.stop()


def test_files_on_disk_are_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(empatica_e4, "MOST_BYTES", 2**20)
    write(tmp_path / "S01", session())
    with open(tmp_path / "S01/ACC.csv", "ab") as file:
        file.truncate(2**31)  # a sparse file, which takes no space
    with pytest.raises(UserError, match="ACC.csv has 2048 MB or more; at most 1 MB are allowed"):
        find("empatica_e4", tmp_path)[0].load()
