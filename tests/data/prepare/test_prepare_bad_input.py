"""Bad input in a real process: status 2, one line that names the fault, and no store that counts as whole."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from accdistill_jax.data.store.manifest import manifest_fingerprint
from accdistill_jax.data.store.store import Store

pytestmark = pytest.mark.slow  # together: about 25 s of one core, most of it starting up
SECONDS = 25
LOOSE = "--max-motion-g inf --min-ppg-quality 0 --max-clipped-fraction 1 --segment-s 10 --hop-s 10 --workers 1".split()


def session(seed: int = 0) -> dict[str, str]:
    """The files of an E4 session of 25 s; each seed has another start."""
    rng = np.random.default_rng(seed)
    start = 1_600_000_000 + 1000 * seed
    bvp = 50 * np.sin(2 * np.pi * 1.2 * np.arange(64 * SECONDS) / 64) + rng.normal(0, 2, 64 * SECONDS)
    accel = rng.normal([5, 10, 63], 2, (32 * SECONDS, 3)).round().astype(int)
    return {
        "BVP.csv": f"{start}.00\n64.000000\n" + "".join(f"{value:.2f}\n" for value in bvp),
        "ACC.csv": f"{', '.join([f'{start}.00'] * 3)}\n32.000000, 32.000000, 32.000000\n"
        + "".join(f"{x},{y},{z}\n" for x, y, z in accel),
    }


def zipped(files: dict[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def put(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def put_session(folder: Path, seed: int = 0, **changed: Callable[[list[str]], list[str]]) -> None:
    """A session; bvp= and acc= change the lines of a file."""
    files = session(seed)
    for name, change in changed.items():
        file = f"{name.upper()}.csv"
        files[file] = "\n".join(change(files[file].splitlines())) + "\n"
    put(folder, files)


def nan_from(second: float, until: float) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        a, b = (2 + round(64 * moment) for moment in (second, until))
        return lines[:a] + ["NaN"] * (b - a) + lines[b:]

    return change


def truncated_zip(root: Path) -> None:
    put_session(root / "S01")
    whole = zipped(session(1))
    put(root, {"S02.zip": whole[: len(whole) // 2]})


def missing_column(root: Path) -> None:
    put_session(root / "S01", acc=lambda lines: [line.rpartition(",")[0] for line in lines])


def wrong_rate(root: Path) -> None:
    put_session(root / "S01", bvp=lambda lines: [lines[0], "46.000000", *lines[2:]])


def nan_samples(root: Path) -> None:
    put_session(root / "S01", bvp=nan_from(12, 15))


def nothing_but_nan(root: Path) -> None:
    put_session(root / "S01", bvp=nan_from(0, SECONDS))


def empty_session(root: Path) -> None:
    put_session(root / "S01", bvp=lambda lines: lines[:2])


def empty_zip(root: Path) -> None:
    put(root, {"S01.zip": zipped({})})


def zip_of_zips(root: Path) -> None:
    put(root, {"all.zip": zipped({"S01.zip": zipped(session()), "S02.zip": zipped(session(1))})})


def zip_of_zips_one_cut(root: Path) -> None:
    put(root, {"all.zip": zipped({"S01.zip": zipped(session()), "S02.zip": zipped(session(1))[:3000]})})


def many_with_one_bad(root: Path) -> None:
    for number in range(4):
        put_session(root / f"S0{number}", number)
    put_session(root / "S02", 2, acc=lambda lines: lines[:40] + ["1,2"] + lines[41:])


def many_with_two_bad(root: Path) -> None:
    many_with_one_bad(root)
    put_session(root / "S03", 3, bvp=lambda lines: lines[:50] + ["?"] + lines[51:])


def other_channels(root: Path) -> None:
    time_s = np.arange(64 * SECONDS) / 64
    wave, rng = np.sin(2 * np.pi * 1.2 * time_s), np.random.default_rng(0)
    for name, columns in {"anna": ["green"], "ben": ["green", "red"]}.items():
        motion = rng.normal((0, 0, 1), 0.01, (len(time_s), 3))  # no two people move alike
        table = np.column_stack([*[wave] * len(columns), motion])
        text = ",".join([*columns, "x", "y", "z"]) + "\n" + "".join(",".join(map(str, row)) + "\n" for row in table)
        description = {
            "participant": name,
            "streams": {
                "ppg": {"file": "data.csv", "columns": columns, "rate_hz": 64},
                "accel": {"file": "data.csv", "columns": ["x", "y", "z"], "rate_hz": 64},
            },
        }
        put(root / name, {"data.csv": text, "recording.json": json.dumps(description)})


class Case(NamedTuple):
    make: Callable[[Path], None]
    options: tuple[str, ...] = ()
    reader: str = "empatica_e4"


class Result(NamedTuple):
    status: int
    out: str
    error: str
    store: Path


CASES = {
    function.__name__: Case(function)
    for function in (
        truncated_zip,
        missing_column,
        wrong_rate,
        nan_samples,
        nothing_but_nan,
        empty_session,
        empty_zip,
        zip_of_zips,
        zip_of_zips_one_cut,
        many_with_one_bad,
        many_with_two_bad,
    )
}
CASES |= {
    "skip_bad": Case(many_with_two_bad, ("--skip-bad",)),
    "other_channels": Case(other_channels, reader="generic"),
    "common_channels": Case(other_channels, ("--ppg-channels", "green"), reader="generic"),
}


@pytest.fixture
def prepare(tmp_path, repository) -> Callable[[str], Result]:
    """Runs the command of a case."""

    def run(name: str) -> Result:
        case = CASES[name]
        case.make(tmp_path / "recordings")
        done = command(
            repository, case.reader, tmp_path / "recordings", "--out", tmp_path / "store", *LOOSE, *case.options
        )
        return Result(done.returncode, done.stdout, done.stderr, tmp_path / "store")

    return run


def command(repository: Path, *arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "accdistill_jax.data.prepare", *map(str, arguments)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("truncated_zip", ["S02.zip: the zip is damaged or cut off", "--skip-bad"]),
        ("missing_column", ["S01/ACC.csv: line 1: expected 3 columns, got 2"]),
        ("wrong_rate", ["S01/BVP.csv: line 2: the sample rate must be 64 Hz", "'46.000000'"]),
        ("nothing_but_nan", ["S01/BVP.csv: stream 'ppg': has only NaN values"]),
        ("empty_session", ["S01/BVP.csv: has no samples", "the session is empty"]),
        ("empty_zip", ["no recording of kind 'empatica_e4' found"]),
        ("zip_of_zips_one_cut", ["all.zip/S02.zip: the zip is damaged or cut off"]),
        ("many_with_one_bad", ["S02/ACC.csv: line 41: expected 3 columns, got 2", "--skip-bad"]),
        ("other_channels", ["ppg channels differ: anna has green, ben has green, red", "--ppg-channels"]),
    ],
)
def test_the_fault_is_one_line(prepare, case, parts):
    result = prepare(case)
    assert result.status == 2 and result.out == ""
    assert result.error.startswith("error: ") and result.error.count("\n") == 1 and result.error.endswith("\n")
    for part in parts:
        assert part in result.error
    assert not result.store.exists()


def test_all_bad_recordings_are_listed_and_the_others_kept(prepare):
    result = prepare("many_with_two_bad")
    assert result.status == 2 and "Traceback" not in result.error
    first, *listed, advice = result.error.splitlines()
    assert first == "error: 2 of 4 recordings cannot be prepared:" and "--skip-bad" in advice
    assert [line.split()[0] for line in listed] == ["S02:", "S03:"]
    assert "S03/BVP.csv: line 51: not a number ('?')" in listed[1]
    assert not result.store.exists() and len(os.listdir(f"{result.store}.partial/units")) == 2


def test_bad_recordings_can_be_left_out_and_are_counted(prepare):
    result = prepare("skip_bad")
    assert result.status == 0 and result.error == ""
    store = Store.open(result.store, verify=True)
    assert sorted(store.manifest["skipped"]) == ["S02", "S03"] and set(store.segments["participant"]) == {"S00", "S01"}
    assert "left out: recording S02" in result.out and "left out: recording S03" in result.out


def test_missing_samples_are_a_gap_that_is_counted(prepare):
    result = prepare("nan_samples")
    assert result.status == 0 and result.error == ""
    total = Store.open(result.store).manifest["counts"]["total"]
    assert (total["examined"], total["kept"], total["rejected"]["gap"]) == (2, 1, 1)


def test_zips_in_a_zip_are_read(prepare):
    result = prepare("zip_of_zips")
    assert result.status == 0 and result.error == ""
    assert Store.open(result.store).participants["participant"].to_pylist() == ["S01", "S02"]


def test_common_channels_of_unlike_recordings(prepare):
    result = prepare("common_channels")
    assert result.status == 0 and Store.open(result.store).channels["ppg"] == ("green",)


def test_damaged_and_newer_stores(prepare, repository):
    store = prepare("zip_of_zips").store
    shard = store / "accel/c/0/0/0"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1000])
    damaged = command(repository, "verify", store)
    shard.write_bytes(content)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["format_version"] += 1
    (store / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": manifest_fingerprint(manifest)}))
    newer = command(repository, "verify", store)
    for done, parts in ((damaged, [str(store), "accel/c/0/0/0 has"]), (newer, ["manifest.json", "format version 3"])):
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert all(part in done.stderr for part in parts)
