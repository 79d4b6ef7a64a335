"""Preparation through its commands, as the user runs it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from accdistill_jax.data.prepare import staging
from accdistill_jax.data.prepare.__main__ import build_parser, main
from accdistill_jax.data.store.split import SplitRule
from accdistill_jax.data.store.store import Store

LOOSE = "--max-motion-g inf --min-ppg-quality 0 --max-clipped-fraction 1 --segment-s 10 --hop-s 10".split()


def write_session(folder: Path, *, seconds: int = 65, seed: int = 0) -> None:
    """An E4 session with a plausible pulse and a swaying wrist."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    time_s = np.arange(64 * seconds) / 64
    bvp = 50 * np.sin(2 * np.pi * 1.2 * time_s) + rng.normal(0, 2, len(time_s))
    accel = np.round(rng.normal([5, 10, 63], 2, (32 * seconds, 3))).astype(int)
    (folder / "BVP.csv").write_text("1594149654.00\n64.000000\n" + "".join(f"{value:.2f}\n" for value in bvp))
    (folder / "ACC.csv").write_text(
        "1594149654.00, 1594149654.00, 1594149654.00\n32.000000, 32.000000, 32.000000\n"
        + "".join(f"{x},{y},{z}\n" for x, y, z in accel)
    )


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("e4")
    for number in range(8):
        write_session(root / f"S{number:02d}", seed=number)
    return root


def tree(path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def prepare_arguments(root, out, *more) -> list[str]:
    return ["empatica_e4", str(root), "--out", str(out), "--quiet", "--workers", "1", *LOOSE, *map(str, more)]


@pytest.fixture(scope="module")
def prepared(sessions, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "store"
    assert run(*prepare_arguments(sessions, out)) == 0
    return out


def test_prepared_store(prepared):
    store = Store.open(prepared, verify=True)
    assert store.num_segments == 8 * 6 and store.rate_hz == 64 and store.samples == 640
    assert store.manifest["source"] == "empatica_e4" and store.manifest["preprocess"]["max_motion_g"] == "inf"
    assert store.manifest["source_settings"] == {"participant_from": "auto"}
    assert store.participants["participant"].to_pylist() == [f"S{number:02d}" for number in range(8)]
    assert store.manifest["counts"]["total"]["examined"] == 48


def test_two_workers_give_the_same_bytes(sessions, prepared, tmp_path):
    assert run(*prepare_arguments(sessions, tmp_path / "store", "--workers", 2)) == 0
    assert tree(tmp_path / "store") == tree(prepared)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "workers"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGTERM, 1)]
)
def test_interrupted_preparation_continues(sessions, prepared, tmp_path, repository, how, workers):
    out = tmp_path / "store"
    command = [
        sys.executable,
        "-m",
        "accdistill_jax.data.prepare",
        *prepare_arguments(sessions, out, "--workers", workers),
    ]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE, text=True)
    staged = tmp_path / "store.partial/units"
    while not (staged.exists() and any(name.endswith(".npz") for name in os.listdir(staged))):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert not out.exists() and staged.exists()
    if how == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 128 + how and "run the same command again to continue" in errors
        assert "Traceback" not in errors
    done = {path: path.stat().st_mtime_ns for path in staged.glob("*.npz")}
    assert 0 < len(done) < 8
    time.sleep(0.2)
    kept = {path: path.stat().st_mtime_ns for path in staged.glob("*.npz")}
    assert run(*prepare_arguments(sessions, out)) == 0
    assert done.items() <= kept.items()
    assert tree(out) == tree(prepared)


def test_running_again_does_nothing_or_refuses(sessions, prepared, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    assert run(*prepare_arguments(sessions, prepared)) == 0
    assert "48 segments of 10 s" in capsys.readouterr().out
    assert run(*prepare_arguments(sessions, prepared, "--max-gap-s", 2)) == 2
    error = capsys.readouterr().err
    assert "preprocess.max_gap_s: 1.0 there, 2.0 now" in error and "--overwrite" in error
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before


def test_overwrite(sessions, tmp_path):
    out = tmp_path / "store"
    assert run(*prepare_arguments(sessions / "S00", out)) == 0
    assert run(*prepare_arguments(sessions / "S01", out)) == 2
    assert run(*prepare_arguments(sessions / "S01", out, "--overwrite")) == 0
    assert Store.open(out).participants["participant"].to_pylist() == ["S01"]


def test_several_roots(sessions, tmp_path, capsys):
    arguments = prepare_arguments(sessions / "S00", tmp_path / "store")
    arguments.insert(1, str(sessions / "S03"))
    assert run(*arguments) == 0
    assert Store.open(tmp_path / "store").num_segments == 12
    arguments[1] = arguments[2]
    assert run(*arguments) == 2
    assert "is both below" in capsys.readouterr().err


@pytest.fixture
def some_bad(sessions, tmp_path) -> Path:
    root = tmp_path / "mixed"
    root.mkdir()
    for name in ("S00", "S01"):
        (root / name).symlink_to(sessions / name)
    for name in ("S05", "S06"):
        write_session(root / name)
    (root / "S05/ACC.csv").write_text("1594149654.00, 1594149654.00\n")
    (root / "S06/BVP.csv").write_text("1594149654.00\nfast\n1\n")
    return root


def test_bad_recordings_are_all_named_and_the_rest_is_kept(some_bad, tmp_path, capsys):
    out = tmp_path / "store"
    assert run(*prepare_arguments(some_bad, out)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 2 of 4 recordings cannot be prepared") and "Traceback" not in error
    assert "S05/ACC.csv" in error and "S06/BVP.csv" in error and "--skip-bad" in error
    assert not out.exists() and len(list((tmp_path / "store.partial/units").iterdir())) == 2
    assert run(*prepare_arguments(some_bad, out, "--skip-bad")) == 0
    store = Store.open(out)
    assert store.num_segments == 12 and sorted(store.manifest["skipped"]) == ["S05", "S06"]
    assert "left out: recording S05" in capsys.readouterr().out


def test_only_bad_recordings(some_bad, tmp_path, capsys):
    assert run(*prepare_arguments(some_bad / "S05", tmp_path / "store", "--skip-bad")) == 2
    assert "none of the 1 recordings can be prepared" in capsys.readouterr().err


def test_split_file(sessions, tmp_path, capsys):
    file = tmp_path / "split.csv"
    file.write_text("participant,split\nS00,test\nS01,train\n")
    arguments = prepare_arguments(sessions / "S00", tmp_path / "store", "--split-file", file)
    assert run(*arguments) == 2
    assert "unknown participant S01" in capsys.readouterr().err
    file.write_text("participant,split\nS00,test\n")
    assert run(*arguments) == 0
    assert len(Store.open(tmp_path / "store").indices("test")) == 6
    assert "split train and validation is empty" in capsys.readouterr().out


def test_split_fractions_and_seed(sessions, tmp_path, capsys):
    arguments = prepare_arguments(sessions, tmp_path / "store", "--split-seed", 3, "--split-fractions", 0.4, 0.3, 0.3)
    assert run(*arguments) == 0
    store = Store.open(tmp_path / "store")
    names = [f"S{number:02d}" for number in range(8)]
    expected = SplitRule(seed=3, fractions=(0.4, 0.3, 0.3)).assign(names)
    assert dict(zip(names, store.participants["split"].to_pylist(), strict=True)) == expected
    assert len(set(expected.values())) == 3 and expected != SplitRule(seed=3).assign(names)
    assert store.manifest["split"]["fractions"] == [0.4, 0.3, 0.3]
    assert run(*arguments[:-3], 0.5, 0.3, 0.3) == 2
    assert "three shares >= 0 that add up to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_chosen_ppg_channels(tmp_path, capsys):
    rng = np.random.default_rng(0)
    scipy.io.savemat(tmp_path / "TEST_S01_T01.mat", {"sig": rng.normal(size=(5, 125 * 25))})
    loose = ["troika", tmp_path, "--quiet", "--workers", "1", *LOOSE]
    assert run(*loose, "--out", tmp_path / "both") == 0
    assert run(*loose, "--out", tmp_path / "second", "--ppg-channels", "ppg2") == 0
    both, second = Store.open(tmp_path / "both"), Store.open(tmp_path / "second")
    assert both.channels["ppg"] == ("ppg1", "ppg2") and both.manifest["preprocess"]["ppg_channels"] == []
    assert second.channels["ppg"] == ("ppg2",) and second.manifest["preprocess"]["ppg_channels"] == ["ppg2"]
    rows = np.arange(2)
    np.testing.assert_array_equal(second.read(rows)["ppg"][..., 0], both.read(rows)["ppg"][..., 1])
    capsys.readouterr()
    assert run(*loose, "--out", tmp_path / "third", "--ppg-channels", "ppg1,green") == 2
    error = capsys.readouterr().err
    assert "recording 'TEST_S01_T01': has no PPG channel 'green'; its channels are ppg1, ppg2" in error
    assert (
        run(
            "synthetic",
            "--out",
            tmp_path / "s",
            "--quiet",
            "--participants",
            1,
            "--segments-per-participant",
            1,
            "--ppg-channels",
            "1",
        )
        == 0
    )  # for synthetic data the same flag takes a number


def test_nothing_kept_can_be_repeated_with_other_thresholds(sessions, tmp_path, capsys):
    arguments = prepare_arguments(sessions / "S00", tmp_path / "store")
    assert run(*arguments, "--max-motion-g", "0") == 2
    assert "no segment was kept of 6 examined (rejected: motion 6)" in capsys.readouterr().err
    assert run(*arguments) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empatica_e4", "/nonexistent/place", "--out", "OUT"], "/nonexistent/place: no such file or folder"),
        (["empatica_e4", "ROOT", "--out", "OUT", "--workers", "0"], "workers 0"),
        (["empatica_e4", "ROOT", "--out", "OUT", "--rate-hz", "0"], "rate_hz must be positive"),
        (["empatica_e4", "ROOT", "--out", "OUT", "--split-file", "nowhere.csv"], "nowhere.csv"),
        (["synthetic", "--out", "OUT", "--participants", "0"], "participants must be within 1 to 1000000"),
        (["verify", "OUT"], "not a store"),
        (["show", "OUT"], "not a store"),
    ],
)
def test_what_the_user_can_fix_is_one_line(sessions, tmp_path, capsys, arguments, message):
    places = {"OUT": str(tmp_path / "out"), "ROOT": str(sessions)}
    assert run(*(places.get(argument, argument) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "out").exists()


def test_a_bug_keeps_its_traceback_and_names_the_recording(sessions, tmp_path, monkeypatch):
    def broken(recording, settings, **_):
        raise ZeroDivisionError

    monkeypatch.setattr(staging, "preprocess", broken)
    with pytest.raises(ZeroDivisionError) as caught:
        run(*prepare_arguments(sessions, tmp_path / "out"))
    assert caught.value.__notes__ == ["while preparing recording S00"]


def test_verify_and_show(prepared, tmp_path, capsys):
    assert run("verify", prepared) == 0
    assert "whole; 15 files" in capsys.readouterr().out
    picture = tmp_path / "segments.png"
    assert run("show", prepared, "--plot", picture, "--segments", 2) == 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    shown = capsys.readouterr().out
    for text in ("48 segments of 10 s at 64 Hz", "S03", "examined", "hr_bpm", "empatica_e4"):
        assert text in shown
    assert run("show", prepared, "--plot", tmp_path / "no/where.png") == 2
    assert "plot cannot be written" in capsys.readouterr().err


def test_verify_names_the_damaged_shard(sessions, tmp_path, capsys):
    out = tmp_path / "store"
    assert run(*prepare_arguments(sessions / "S00", out)) == 0
    shard = out / "ppg/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[7] ^= 1
    shard.write_bytes(content)
    capsys.readouterr()
    assert run("verify", out) == 2
    assert "ppg/c/0/0/0 does not match its checksum" in capsys.readouterr().err


def test_synthetic_command(tmp_path, capsys):
    arguments = [
        "synthetic",
        "--out",
        tmp_path / "store",
        "--participants",
        2,
        "--segments-per-participant",
        3,
        "--ppg-channels",
        1,
        "--quiet",
    ]
    assert run(*arguments) == 0
    store = Store.open(tmp_path / "store", verify=True)
    assert store.manifest["source"] == "synthetic" and store.samples == 3840 and len(store.channels["ppg"]) == 1
    assert store.manifest["source_settings"]["segments_per_participant"] == 3
    assert run(*arguments) == 0
    assert run(*arguments, "--first-participant", 5) == 2
    assert "first_participant: 0 there, 5 now" in capsys.readouterr().err


def test_every_setting_has_a_flag_with_help(capsys):
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["empatica_e4", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--max-motion-g MAX_MOTION_G largest motion" in text
    assert "--participant-from {auto,name,prefix,parent}" in text
    args = build_parser().parse_args(["troika", "x", "y", "--out", "o", "--ppg-band-hz", "0.4", "9"])
    assert args.ppg_band_hz == [0.4, 9.0] and args.root == ["x", "y"]


def test_preparation_does_not_import_jax(repository):
    code = "import sys, accdistill_jax.data.prepare.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=repository).returncode == 0


@pytest.mark.slow
def test_stress_predict_is_prepared_by_one_command(shared_data, tmp_path):
    out = tmp_path / "store"
    assert run("empatica_e4", shared_data / "stress_predict", "--out", out, "--workers", 2, "--quiet") == 0
    store = Store.open(out)
    assert store.participants.num_rows == 35 and store.channels["ppg"] == ("bvp",)
    total = store.manifest["counts"]["total"]
    assert total["examined"] > 1800 and total["kept"] > 200
    known = np.isfinite(store.segments["hr_bpm"])
    assert known.mean() > 0.3 and 50 < np.median(store.segments["hr_bpm"][known]) < 110
