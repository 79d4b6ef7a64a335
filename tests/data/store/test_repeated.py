"""A recording that was given twice, below whatever root and under whatever name, is refused."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from accdistill_jax.data.prepare.__main__ import main
from accdistill_jax.data.store.manifest import CONTENT
from accdistill_jax.data.store.store import Store
from accdistill_jax.data.store.writer import StoreWriter
from accdistill_jax.errors import UserError

LOOSE = "--max-motion-g inf --min-ppg-quality 0 --max-clipped-fraction 1 --segment-s 10 --hop-s 10 --quiet --split-fractions 1 0 0".split()


def signals(seconds: int, rate: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pulse = 50 * np.sin(2 * np.pi * 1.2 * np.arange(rate * seconds) / rate)
    return pulse + rng.normal(0, 2, len(pulse)), np.round(rng.normal([5, 10, 63], 2, (rate * seconds, 3)))


def write_e4(folder: Path, *, seed: int, accel_seed: int | None = None, start: int = 1594149654) -> None:
    folder.mkdir(parents=True)
    ppg, _ = signals(35, 64, seed)
    _, accel = signals(35, 32, seed if accel_seed is None else accel_seed)
    (folder / "BVP.csv").write_text(f"{start}.00\n64.000000\n" + "".join(f"{value:.2f}\n" for value in ppg))
    (folder / "ACC.csv").write_text(
        f"{start}.00, {start}.00, {start}.00\n32.000000, 32.000000, 32.000000\n"
        + "".join(f"{x:g},{y:g},{z:g}\n" for x, y, z in accel)
    )


def write_generic(folder: Path, *, participant: str, seed: int, skip_s: int = 0, ppg_seed: int | None = None) -> None:
    folder.mkdir(parents=True)
    ppg, accel = signals(45, 64, seed)
    if ppg_seed is not None:
        ppg, _ = signals(45, 64, ppg_seed)
    np.savetxt(folder / "ppg.csv", ppg[64 * skip_s :], header="g", comments="", fmt="%.3f")
    np.savetxt(folder / "acc.csv", accel[64 * skip_s :], header="x,y,z", comments="", fmt="%g", delimiter=",")
    (folder / "recording.yaml").write_text(
        f"participant: {participant}\nstreams:\n  ppg: {{file: ppg.csv, columns: [g], rate_hz: 64, polarity: systole_up}}\n"
        "  accel: {file: acc.csv, columns: [x, y, z], rate_hz: 64, unit: counts, counts_per_g: 64}\n"
    )


def run(reader: str, *roots: Path, out: Path, more: tuple[str, ...] = ("--workers", "1")) -> int:
    return main([reader, *map(str, roots), "--out", str(out), *LOOSE, *more])


@pytest.fixture
def anna(tmp_path) -> Path:
    write_e4(tmp_path / "in1/anna/1594149654_A00D2A", seed=0)
    return tmp_path / "in1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers"),
    [
        ("copy", "2"),
        ("copy", "1"),
        ("symlink", "1"),
        ("hard link", "1"),
        ("other start", "1"),
        ("zip", "1"),
        ("renamed session", "1"),
    ],
)
def test_a_session_of_two_people_is_refused(anna, tmp_path, capsys, how, workers):
    session, other = anna / "anna/1594149654_A00D2A", tmp_path / "in2/zoe/1594149654_A00D2A"
    other.parent.mkdir(parents=True)
    if how == "symlink":
        other.symlink_to(session)
    elif how == "other start":
        write_e4(other, seed=0, start=1594149654 + 7200)
    elif how == "zip":
        shutil.make_archive(str(other), "zip", session)
    else:
        if how == "renamed session":
            other = other.with_name("1694149654_B00D2A")
        shutil.copytree(session, other, copy_function=os.link if how == "hard link" else shutil.copy)
    assert run("empatica_e4", anna, tmp_path / "in2", out=tmp_path / "store", more=("--workers", workers)) == 2
    error = capsys.readouterr().err
    assert "(participant anna) and zoe__1" in error and "(participant zoe) share 3 segments" in error
    assert "given twice" in error and "remove the other copy" in error and not (tmp_path / "store").exists()
    staged = {path: path.stat().st_mtime_ns for path in (tmp_path / "store.partial/units").iterdir()}
    assert len(staged) == 2
    assert (
        run("empatica_e4", anna, tmp_path / "in2", out=tmp_path / "store") == 2
    )  # units staged before are compared as well
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store.partial/units").iterdir()} == staged
    assert run("empatica_e4", tmp_path / "in2", out=tmp_path / "store") == 0
    assert Store.open(tmp_path / "store").participants["participant"].to_pylist() == ["zoe"]


def test_another_ppg_does_not_hide_a_session(anna, tmp_path, capsys):
    write_e4(tmp_path / "in2/zoe/1594149654_A00D2A", seed=1, accel_seed=0)
    assert run("empatica_e4", anna, tmp_path / "in2", out=tmp_path / "store") == 2
    assert "(participant anna) and zoe__1594149654_A00D2A (participant zoe)" in capsys.readouterr().err


def test_a_part_of_a_recording_is_known_again(tmp_path, capsys):
    write_generic(tmp_path / "in/a", participant="anna", seed=0)
    write_generic(tmp_path / "in/b", participant="ben", seed=1)
    write_generic(tmp_path / "more/c", participant="cleo", seed=0, skip_s=10)
    assert run("generic", tmp_path / "in", tmp_path / "more", out=tmp_path / "store") == 2
    assert "a recording was given twice: a (participant anna) and c (participant cleo) share" in capsys.readouterr().err


def test_without_a_kept_segment_a_session_is_known_again(anna, tmp_path, capsys):
    """The recordings themselves are compared as well."""
    shutil.copytree(anna / "anna", tmp_path / "in2/zoe")
    for number in range(2):
        write_e4(tmp_path / f"in2/ben/159415965{number}_A00D2A", seed=5 + number)
    more = ("--workers", "1", "--segment-s", "40", "--hop-s", "40")
    write_generic(tmp_path / "g/long", participant="long", seed=9)
    assert run("empatica_e4", anna, tmp_path / "in2", out=tmp_path / "store", more=more) == 2
    assert "no segment was kept" in capsys.readouterr().err
    for name in ("a", "b"):
        write_generic(tmp_path / f"g/{name}", participant=name, seed=3, skip_s=10)
    assert run("generic", tmp_path / "g", out=tmp_path / "other", more=more) == 2
    assert "a (participant a) and b (participant b) hold the same signal" in capsys.readouterr().err


def test_one_participant_twice_and_many_pairs(tmp_path, capsys):
    for number in range(13):
        write_generic(tmp_path / f"in/copy{number:02d}", participant="anna" if number < 2 else f"p{number}", seed=0)
    assert run("generic", tmp_path / "in", out=tmp_path / "store") == 2
    error = capsys.readouterr().err
    assert "copy00 and copy01, both of participant anna, share 4 segments" in error and "and 2 more pairs" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roots", "message"),
    [
        (("in", "in/siteA"), r"siteA lies inside .*in, so its"),
        (("in/siteA", "in"), "siteA lies in"),
        (("in", "in"), "both below"),
        (("in", "in/../in/siteB"), "siteB lies in"),
        (("in", "link"), "both below"),
        (("in", "link/siteA"), "siteA lies in"),
    ],
)
def test_a_root_inside_another_is_refused(tmp_path, capsys, roots, message):
    write_generic(tmp_path / "in/siteA/p1", participant="p1", seed=0)
    write_generic(tmp_path / "in/siteB/p2", participant="p2", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "in")
    assert run("generic", *(tmp_path / root for root in roots), out=tmp_path / "store") == 2
    assert re.search(message, capsys.readouterr().err)
    assert run("generic", tmp_path / "in/siteA", tmp_path / "in/siteB", out=tmp_path / "store") == 0


def test_troika_sessions_are_compared_too(tmp_path, capsys):
    ppg, accel = signals(35, 125, 0)
    for name in ("DATA_01_TYPE01", "DATA_02_TYPE02"):
        scipy.io.savemat(tmp_path / f"{name}.mat", {"sig": np.stack([ppg, ppg, *(accel / 64).T])})
    assert run("troika", tmp_path, out=tmp_path / "store") == 2
    assert "(participant train-01) and DATA_02_TYPE02 (participant train-02)" in capsys.readouterr().err


@pytest.mark.slow
def test_what_honest_recordings_share_is_not_refused(tmp_path):
    """Two PPG sensors beside one accelerometer of one person; one clean made-up pulse of two people who move differently."""
    write_generic(tmp_path / "two sensors/a", participant="anna", seed=0)
    write_generic(tmp_path / "two sensors/b", participant="anna", seed=0, ppg_seed=1)
    write_generic(tmp_path / "made up/a", participant="anna", seed=0)
    write_generic(tmp_path / "made up/b", participant="ben", seed=1, ppg_seed=0)
    for name in ("two sensors", "made up"):
        assert run("generic", tmp_path / name, out=tmp_path / f"{name} store") == 0


def test_units_of_an_older_version_are_compared(make_batch, settings, tmp_path):
    """They hold no hashes."""
    writer = StoreWriter(tmp_path / "s", settings=settings, source="x")
    for unit in ("a", "b"):
        writer.add(unit, make_batch("anna", 2))
    for path in (tmp_path / "s.partial/units").glob("*.npz"):
        with np.load(path) as unit:
            arrays = {name: unit[name] for name in unit.files if name != "content"}
        np.savez(path, **arrays)
    with pytest.raises(UserError, match="a and b, both of participant anna, share 2 segments"):
        writer.commit(["a", "b"])
    assert (tmp_path / "s.partial/units").exists() and writer.commit(["a"]).num_segments == 2
    assert (tmp_path / "s" / CONTENT).exists()
