"""WildPPG: `WildPPG_Part_*.mat`, a day in the mountains with sensors at four places of the body.

--site chooses the place; PPG has the channels green, red and infrared. The files hold a chest ECG but no heart rate, so labels of heart
rate are unknown. Acceleration is read as g; --accel-unit says otherwise, and a wrong unit is refused. Start times are unknown (0).

Source: Meier, Demirel and Holz, "WildPPG", NeurIPS 2024.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from accdistill_jax.data.recording import Participant, Recording, RecordingSource, Stream, named
from accdistill_jax.data.recordings.common.files import file_sources, files_ending
from accdistill_jax.data.recordings.common.matlab import read_matlab, real_numbers
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

PREFIX = "WildPPG_Part_"
PPG = {"ppg_g": "green", "ppg_r": "red", "ppg_ir": "infrared"}
ACCEL = ("acc_x", "acc_y", "acc_z")
_PER_G = {"g": 1.0, "mg": 1000.0, "m/s2": 9.80665}


def find(
    tree: Tree,
    *,
    site: Literal["wrist", "ankle", "head", "sternum"] = "wrist",
    accel_unit: Literal["g", "mg", "m/s2"] = "g",
) -> list[RecordingSource]:
    """Finds `WildPPG_Part_*.mat` at any depth.

    Args:
        tree: the files to search.
        site: place of the sensor.
        accel_unit: unit of the acceleration in the files.
    """
    files = [path for path in files_ending(tree, ".mat") if path.name.startswith(PREFIX)]
    tree.expect(".mat", reason=f"its name does not begin with {PREFIX}")
    return file_sources(tree, files, load, "name", site=site, accel_unit=accel_unit)


def load(path: Path, recording_id: str, participant_id: str, *, site: str, accel_unit: str) -> Recording:
    """Reads one file.

    Raises:
        UserError: the file is damaged or lacks a signal; the message names the file and the signal.
    """
    content = read_matlab(path, [site])[site]
    with named(path):
        ppg, ppg_hz = _signals(content, tuple(PPG), site)
        accel, accel_hz = _signals(content, ACCEL, site)
        streams = {
            "ppg": Stream("ppg", ppg, tuple(PPG.values()), "a.u.", rate_hz=ppg_hz),
            "accel": Stream(
                "accel",
                accel / _PER_G[accel_unit],
                ("x", "y", "z"),
                "g",
                rate_hz=accel_hz,
                scale=1 / _PER_G[accel_unit],
            ),
        }
    device = f"WildPPG, {site}"
    return Recording(recording_id, Participant(participant_id.removeprefix(PREFIX)), device, "wildppg", 0.0, streams)


def _signals(content: Any, names: tuple[str, ...], site: str) -> tuple[np.ndarray, float]:
    """Values [samples, signals] and their common rate."""
    columns, rates = [], []
    for name in names:
        signal = content.get(name) if isinstance(content, Mapping) else None
        if not isinstance(signal, Mapping) or not {"v", "fs"} <= set(signal):
            raise UserError(
                f"{site!r} holds no signal {name!r} with values v and rate fs: is it another version of the set?"
            )
        columns.append(real_numbers(signal["v"], f"{site}.{name}.v").reshape(-1))
        rates.append(float(real_numbers(signal["fs"], f"{site}.{name}.fs").reshape(-1)[0]))
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1 or len(set(rates)) > 1:
        raise UserError(f"the signals {', '.join(names)} of {site!r} differ in length ({lengths}) or rate ({rates})")
    return np.stack(columns, -1), rates[0]
