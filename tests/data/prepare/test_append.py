"""`prepare append` and `prepare merge`, as the user runs them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.exclusive import exclusive_store
from accdistill_jax.data.store.store import Store
from tests.bad_inputs.bases import write_e4

PREPARE = "--quiet --workers 1".split()
LOOSE = "--max-motion-g inf --min-ppg-quality 0 --max-clipped-fraction 1 --segment-s 10 --hop-s 10".split()
SPLIT = "--split-fractions 0.5 0.25 0.25 --split-seed 4".split()


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def recordings(tmp_path) -> Path:
    """Sessions of four people, in two folders: one of them with a bad session."""
    for number, folder in enumerate(("first/S00", "first/S01", "more/S02", "more/S03")):
        write_e4(tmp_path / folder)
        shift(tmp_path / folder, samples=7 * number)
    return tmp_path


def shift(folder: Path, *, samples: int) -> None:
    """Other minutes: the signals begin later."""
    for name in ("BVP.csv", "ACC.csv"):
        head, rate, *rows = (folder / name).read_text().splitlines()
        (folder / name).write_text("\n".join([head, rate, *rows[samples:]]) + "\n")


@pytest.fixture
def base(recordings) -> Path:
    out = recordings / "store"
    assert run("empatica_e4", recordings / "first", "--out", out, *PREPARE, *LOOSE, *SPLIT) == 0
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_version_has_the_new_recordings_and_leaves_the_old_one(base, recordings, capsys):
    before, out = files(base), recordings / "version-2"
    for session in ("S00", "S01"):
        shutil.copytree(recordings / "first" / session, recordings / "more" / session)
    assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 0
    assert "2 of 4 recordings are in" in capsys.readouterr().out
    assert files(base) == before
    store, old, new = Store.open(out, verify=True), Store.open(base), Store.open(out / "added")
    assert store.parts == (str(base), str(out / "added"))
    assert sorted(set(new.segments["recording"])) == ["S02", "S03"]
    np.testing.assert_array_equal(
        store.read(np.arange(store.num_segments))["accel"],
        np.concatenate([part.read(np.arange(part.num_segments))["accel"] for part in (old, new)]),
    )
    assert store.manifest["preprocess"] == old.manifest["preprocess"] == new.manifest["preprocess"]
    assert store.manifest["split"] == old.manifest["split"]
    splits = dict(zip(*(store.participants[name].to_pylist() for name in ("participant", "split")), strict=True))
    at_once = recordings / "at-once"
    assert run("empatica_e4", recordings / "more", "--out", at_once, *PREPARE, *LOOSE, *SPLIT) == 0
    whole = Store.open(at_once)
    assert dict(zip(*(whole.participants[n].to_pylist() for n in ("participant", "split")), strict=True)) == splits
    np.testing.assert_array_equal(np.sort(whole.segments["crc32"]), np.sort(store.segments["crc32"]))

    after = files(out)
    assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 0
    assert files(out) == after and "already complete" in capsys.readouterr().out
    assert run("append", out, recordings / "more", "--out", recordings / "version-3", *PREPARE) == 2
    assert re.search(r"all 4 recordings are in \S+version-2 already", capsys.readouterr().err)
    assert run("show", out) == run("verify", out) == 0
    shown = capsys.readouterr().out
    assert f"part {base}: {old.num_segments} segments" in shown and f"{store.num_files} files" in shown


def test_a_new_version_never_replaces_a_part_of_its_base(base, recordings, capsys):
    out = recordings / "version-2"
    assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 0
    before = files(recordings)
    write_e4(recordings / "third/S04")
    shift(recordings / "third/S04", samples=40)
    added = files(recordings).keys() - before.keys()
    for target in (out, base):
        assert run("append", out, recordings / "third", "--out", target, "--overwrite", *PREPARE) == 2
        assert "cannot take the place of a part" in capsys.readouterr().err
    after = files(recordings)
    assert {name: after[name] for name in after.keys() - added} == before


def test_an_interrupted_append_continues(base, recordings, monkeypatch):
    out = recordings / "version-2"
    write = Path(recordings / "more/S03/ACC.csv").read_text()
    (recordings / "more/S03/ACC.csv").write_text("")
    assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 2
    assert not (out / "manifest.json").exists()
    (recordings / "more/S03/ACC.csv").write_text(write)
    assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 0
    assert sorted(set(Store.open(out).segments["recording"])) == ["S00", "S01", "S02", "S03"]


def test_a_person_whose_id_had_no_study_and_site_is_not_taken_for_another(base, recordings, capsys):
    (recordings / "more/S02").rename(recordings / "more/1-2-S01")
    assert run("append", base, recordings / "more", "--out", recordings / "version-2", *PREPARE) == 2
    assert "'1-2-S01' of the new recordings may be 'S01' of the store" in capsys.readouterr().err


def test_an_append_waits_for_no_other_process(base, recordings, capsys):
    out = recordings / "version-2"
    with exclusive_store(out):
        assert run("append", base, recordings / "more", "--out", out, *PREPARE) == 2
    assert f"{out}: another process is preparing this store" in capsys.readouterr().err and not out.exists()


def test_a_version_of_other_recordings_or_a_generated_store_is_refused(base, recordings, capsys):
    assert run("append", base, recordings / "more", "--out", base, *PREPARE) == 2
    assert "cannot take the place of a part" in capsys.readouterr().err
    population = "--participants 2 --segments-per-participant 2".split()
    assert run("synthetic", "--out", recordings / "made", *population, *PREPARE) == 0
    assert run("append", base, recordings / "more", "--out", recordings / "made", *PREPARE) == 2
    assert "another store is already there" in capsys.readouterr().err
    assert run("append", recordings / "made", recordings / "more", "--out", recordings / "v2", *PREPARE) == 2
    assert "was not made by one reader of recordings (source 'synthetic')" in capsys.readouterr().err


def test_merge_by_command(base, recordings, capsys):
    second = recordings / "second"
    assert run("empatica_e4", recordings / "more", "--out", second, *PREPARE, *LOOSE, *SPLIT) == 0
    assert run("merge", base, "--out", recordings / "both") == 2
    assert "a merge needs at least two stores" in capsys.readouterr().err
    assert run("merge", base, second, "--out", recordings / "both") == 0
    assert f"part {second}: " in capsys.readouterr().out
    (recordings / "split.csv").write_text("participant,split\n" + "".join(f"S0{n},train\n" for n in range(4)))
    again = ("merge", base, second, "--out", recordings / "both", "--split-file", recordings / "split.csv")
    assert run(*again) == 2
    assert run(*again, "--overwrite") == 0
    both = Store.open(recordings / "both")
    assert len(both.indices("train")) == both.num_segments
