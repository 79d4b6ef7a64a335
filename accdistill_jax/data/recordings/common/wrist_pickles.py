"""The Empatica E4 in the pickles of PPG-DaLiA and WESAD: `S2.pkl` with signal/wrist/BVP and signal/wrist/ACC."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.data.recording import Recording, RecordingSource, Stream
from accdistill_jax.data.recordings.common.files import file_sources, files_ending
from accdistill_jax.data.recordings.common.pickles import pickled_array
from accdistill_jax.data.tree import Tree
from accdistill_jax.errors import UserError

DEVICE = "Empatica E4"
BVP_HZ, ACC_HZ, CHEST_HZ = 64.0, 32.0, 700.0
COUNTS_PER_G = 64
_MOST_APART_S = 2.0


def subject_sources(tree: Tree, load: Callable[..., Recording]) -> list[RecordingSource]:
    """A source for each `S<number>.pkl`; the name is the participant."""
    files = [path for path in files_ending(tree, ".pkl") if re.fullmatch(r"S\d+", path.stem)]
    tree.expect(".pkl", reason="its name is not S and a number, such as S2.pkl")
    return file_sources(tree, files, load, "name")


def wrist_streams(content: Any) -> dict[str, Stream]:
    """PPG and acceleration of the wrist.

    The acceleration's unit is g in PPG-DaLiA and 1/64 g in WESAD. The values show which: the sensor has steps of 1/64 g.

    Raises:
        UserError: an array is missing or has another shape, the streams' durations differ, or the values have another unit.
    """
    bvp, acc = pickled_array(content, "signal", "wrist", "BVP"), pickled_array(content, "signal", "wrist", "ACC")
    if bvp.size != len(bvp) or acc.ndim != 2 or acc.shape[1] != 3:
        raise UserError(f"the wrist's BVP must have 1 column and ACC 3, got shapes {bvp.shape} and {acc.shape}")
    if abs(len(bvp) / BVP_HZ - len(acc) / ACC_HZ) > _MOST_APART_S:
        raise UserError(
            f"the wrist's BVP lasts {len(bvp) / BVP_HZ:g} s, but ACC {len(acc) / ACC_HZ:g} s: the file is damaged"
        )
    peak = float(np.abs(acc).max()) if acc.size else 0.0
    in_counts, in_g = (
        bool((acc == np.round(acc)).all()),
        bool((acc * COUNTS_PER_G == np.round(acc * COUNTS_PER_G)).all()),
    )
    if in_counts and 2 < peak <= 128:
        counts = acc
    elif in_g and not in_counts and peak <= 2:
        counts = acc * COUNTS_PER_G
    else:
        raise UserError(
            f"the wrist's ACC is neither in g nor in 1/64 g with the sensor's steps and range (largest value {peak:g}): was it "
            "filtered or resampled? Use the original file"
        )
    return {
        "ppg": Stream("ppg", bvp.reshape(-1, 1), ("bvp",), "a.u.", rate_hz=BVP_HZ, polarity="systole_up"),
        "accel": Stream(
            "accel",
            counts / COUNTS_PER_G,
            ("x", "y", "z"),
            "g",
            rate_hz=ACC_HZ,
            range=(-2.0, 127 / 64),
            scale=1 / COUNTS_PER_G,
        ),
    }


def subject_of(content: Any, path: Path) -> None:
    """Checks that the file's name and its content name the same subject.

    Raises:
        UserError: they differ: the file was renamed.
    """
    stated = content.get("subject") if isinstance(content, dict) else None
    if isinstance(stated, str) and stated.strip() != path.stem:
        raise UserError(f"is named {path.stem}, but its content is of {stated.strip()}: give it its own name back")
