"""Small, whole inputs that the cases damage; made once."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io

from tests.bad_inputs.case import MAIN, PREPARE
from tests.bad_inputs.runner import run_program

SECONDS = 150
START = 1_594_149_654
SMOKE = "--config=configs/distill.py:smoke"
# A batch is at least as large as the training split: the first batch reads every training segment.
BATCH = 96
LOOSE = ("--max-motion-g", "inf", "--min-ppg-quality", "0", "--max-clipped-fraction", "1", "--workers", "1", "--quiet")


class Bases(NamedTuple):
    """Folders of whole inputs.

    Attributes:
        store, other_store: two synthetic stores, equal in everything but the people.
        run: a finished run on `store`, trained and exported.
        e4, troika, generic: a recording each.
    """

    store: Path
    other_store: Path
    run: Path
    e4: Path
    troika: Path
    generic: Path


def make_bases(root: Path) -> Bases:
    """Makes the inputs below a folder, unless they exist."""
    bases = Bases(*(root / name for name in Bases._fields))
    if (root / "made").exists():
        return bases
    root.mkdir(parents=True, exist_ok=True)
    for path, first in ((bases.store, 0), (bases.other_store, 12)):
        run_program(
            PREPARE,
            [
                "synthetic",
                "--out",
                str(path),
                "--participants",
                "12",
                "--segments-per-participant",
                "8",
                "--first-participant",
                str(first),
                "--split-fractions",
                "0.5",
                "0.25",
                "0.25",
                "--workers",
                "1",
                "--quiet",
            ],
        )
    run_program(MAIN, [*run_arguments(bases, bases.run), "--config.stages=('teacher','student')"])
    write_e4(bases.e4 / "S01")
    write_troika(bases.troika)
    write_generic(bases.generic / "day1")
    (root / "made").write_text("")
    return bases


def run_arguments(bases: Bases, workdir: Path | str) -> list[str]:
    """The command line of the run."""
    return [SMOKE, f"--workdir={workdir}", f"--config.data.stores=('{bases.store}',)"]


def pulse(time_s: np.ndarray) -> np.ndarray:
    phase = (1.2 * time_s) % 1
    return np.exp(-0.5 * ((phase - 0.15) / 0.06) ** 2) + 0.5 * np.exp(-0.5 * ((phase - 0.38) / 0.14) ** 2)


def write_e4(folder: Path) -> None:
    """A session of an Empatica E4."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    bvp = 50 * pulse(np.arange(64 * SECONDS) / 64) + rng.normal(0, 2, 64 * SECONDS)
    accel = rng.normal([5, 10, 63], 2, (32 * SECONDS, 3)).round().astype(int)
    beats = np.arange(1, SECONDS) / 1.2
    (folder / "BVP.csv").write_text(f"{START}.00\n64.000000\n" + "".join(f"{value:.2f}\n" for value in bvp))
    (folder / "ACC.csv").write_text(
        f"{', '.join([f'{START}.00'] * 3)}\n32.000000, 32.000000, 32.000000\n"
        + "".join(f"{x},{y},{z}\n" for x, y, z in accel)
    )
    (folder / "IBI.csv").write_text(f"{START}.00, IBI\n" + "".join(f"{time:.3f},0.833\n" for time in beats))


def write_troika(folder: Path) -> None:
    """A training recording of TROIKA."""
    folder.mkdir(parents=True)
    time_s = np.arange(125 * SECONDS) / 125
    noise = np.random.default_rng(0).normal(0, 0.05, (6, len(time_s)))
    sway = 0.1 * np.sin(time_s)
    signal = noise + np.stack([pulse(time_s), 300 * pulse(time_s), 200 * pulse(time_s), sway, sway, 1 + sway])
    scipy.io.savemat(folder / "DATA_03_TYPE02.mat", {"sig": signal}, do_compression=True)
    scipy.io.savemat(folder / "DATA_03_TYPE02_BPMtrace.mat", {"BPM0": np.full((70, 1), 72.0)}, do_compression=True)


def generic_description() -> dict:
    """The description of the recording of `write_generic`, with every key."""
    return {
        "participant": {
            "id": "p01",
            "age_years": 34,
            "height_m": 1.8,
            "weight_kg": 75,
            "sex": "female",
            "conditions": {"beta_blocker": False},
        },
        "device": "Watch",
        "start": "2024-05-01T10:00:00Z",
        "streams": {
            "ppg": {
                "file": "ppg.csv",
                "columns": ["green"],
                "rate_hz": 50,
                "unit": "a.u.",
                "range": [-9, 9],
                "polarity": "systole_up",
                "clock_offset_s": 0.25,
                "delimiter": ",",
                "skip_rows": 0,
            },
            "accel": {
                "file": "acc.parquet",
                "columns": ["x", "y", "z"],
                "time": "t",
                "time_unit": "ms",
                "time_origin": "start",
                "unit": "counts",
                "counts_per_g": 1000,
            },
        },
        "beats": {"file": "beats.csv", "time": "t", "interval": "ibi", "interval_unit": "ms"},
        "heart_rate": {"file": "hr.csv", "time": "t", "hr": "bpm", "duration_s": 8},
    }


def write_generic(folder: Path) -> None:
    """A recording in the generic layout."""
    folder.mkdir(parents=True)
    time_s = np.arange(50 * SECONDS) / 50
    (folder / "ppg.csv").write_text("green\n" + "".join(f"{value:.4f}\n" for value in pulse(time_s)))
    accel = np.random.default_rng(0).normal([0, 0, 1000], 5, (len(time_s), 3))
    pq.write_table(pa.table({"t": 1000 * time_s, **dict(zip("xyz", accel.T, strict=True))}), folder / "acc.parquet")
    (folder / "beats.csv").write_text("t,ibi\n" + "".join(f"{beat / 1.2:.3f},833\n" for beat in range(1, SECONDS)))
    (folder / "hr.csv").write_text("t,bpm\n" + "".join(f"{2 * window},72\n" for window in range(70)))
    (folder / "recording.json").write_text(json.dumps(generic_description()))
