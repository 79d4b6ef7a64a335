"""Writes a static web page that runs an exported student in the browser; no network is used while it runs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from accdistill_jax.data.synthetic.synthetic import generate_segments
from accdistill_jax.errors import UserError
from accdistill_jax.export.onnx_file import write_onnx
from accdistill_jax.export.plain import Exportable, plain_encoder
from accdistill_jax.files import write_atomically
from accdistill_jax.labels import HEART_RATE, LABELS
from accdistill_jax.readouts.readout import FAR, MOTION, NO_HEART, WIDE, Readouts

PACKAGE = "onnxruntime-web@1.23.0"
RUNTIME_FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE_FILES = ("index.html", "page.js", "signal.js", "table.js", "page.css")
_PAGE = Path(__file__).with_name("page")
_SAMPLE_MINUTES = 4


def write_demo(
    encoder: Exportable,
    readouts: Readouts | None,
    out: Path,
    *,
    report: Mapping[str, Any] | None = None,
    runtime: Path | None = None,
) -> list[Path]:
    """Writes the page, the encoder in ONNX, its read-out of heart rate, a simulated recording, and onnxruntime-web.

    Args:
        encoder: a loaded student.
        readouts: its read-outs.
        out: folder; created if missing.
        report: report of the encoder's run, for the words about its data.
        runtime: folder `dist` of the npm package onnxruntime-web; None fetches the package by `npm pack`.

    Returns:
        The written files.

    Raises:
        UserError: not a student, no read-out of heart rate, no runtime, or a folder that cannot be written.
    """
    if encoder.modality != "accel" or (encoder.rate_hz, encoder.samples) != (64.0, 3840):
        raise UserError("the page runs students of acceleration, minutes at 64 Hz; give the run of such a student")
    if readouts is None or HEART_RATE not in readouts.targets:
        raise UserError("the run has no read-out of heart rate; repeat its command, whose stage evaluation writes it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        files = write_onnx(plain_encoder(encoder), out)
        about = json.dumps(page_description(encoder, readouts, report), allow_nan=False)
        texts = {name: (_PAGE / name).read_text(encoding="utf-8") for name in PAGE_FILES}
        for name, text in {**texts, "about.json": about, "sample.csv": sample_csv()}.items():
            write_atomically(out / name, text)
            files.append(out / name)
        return files + _copy_runtime(out, runtime)
    except OSError as error:
        raise UserError(f"cannot write into {out}: {error.strerror or error}") from error


def sample_csv() -> str:
    """A simulated recording of a still wrist, as CSV with time in seconds and acceleration in g."""
    minutes = generate_segments(7, 3, range(_SAMPLE_MINUTES)).accel
    signal = minutes.reshape(-1, 3)
    rows = (f"{i / 64:.6f},{x:.6f},{y:.6f},{z:.6f}" for i, (x, y, z) in enumerate(signal.astype(float)))
    return "time,x,y,z\n" + "\n".join(rows) + "\n"


def page_folder() -> Path:
    """Folder of the page's own files."""
    return _PAGE


def page_description(encoder: Exportable, readouts: Readouts, report: Mapping[str, Any] | None) -> dict[str, Any]:
    """Values that the page reads, its about.json; an infinite limit is None."""
    readout, domain, heart = readouts.targets[HEART_RATE], readouts.domain, readouts.heart
    sources = {about.get("source") for about in (report or {}).get("run", {}).get("data", {}).values()}
    return {
        "rate_hz": encoder.rate_hz,
        "samples": encoder.samples,
        "fingerprint": encoder.fingerprint,
        "words": LABELS[HEART_RATE].words.capitalize(),
        "unit": readout.unit,
        "level": readouts.level,
        "people": "it was trained on simulated people"
        if "synthetic" in sources or not sources
        else "it was trained on other people",
        "reasons": {"far": FAR, "motion": MOTION, "heart": NO_HEART, "wide": WIDE},
        "readout": {
            "weights": readout.weights.tolist(),
            "intercept": readout.intercept,
            "spread_weights": readout.spread_weights.tolist(),
            "spread_intercept": readout.spread_intercept,
            "spread_limits": list(readout.spread_limits),
            "quantile": _finite(readout.quantile),
            "constant_half_width": _finite(readout.constant_half_width),
        },
        "domain": {
            "mean": domain.mean.tolist(),
            "directions": np.asarray(domain.directions).T.tolist(),
            "distance_limit": domain.distance_limit,
            "motion_limit_g": _finite(domain.motion_limit_g),
        },
        "heart": None if heart is None else {"weights": heart.weights.tolist(), "limit": heart.limit},
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _copy_runtime(out: Path, runtime: Path | None) -> list[Path]:
    if runtime is not None:
        return _copied(runtime, out)
    with tempfile.TemporaryDirectory(prefix="accdistill-") as scratch:
        npm = shutil.which("npm")
        if npm is None:
            raise UserError(
                f"npm is not installed, which fetches {PACKAGE}; install it, or give the folder dist of that package by --runtime"
            )
        done = subprocess.run([npm, "pack", PACKAGE], cwd=scratch, capture_output=True, text=True, check=False)
        packed = next(Path(scratch).glob("*.tgz"), None)
        if done.returncode or packed is None:
            lines = done.stderr.strip().splitlines() or ["no output"]
            raise UserError(
                f"npm pack {PACKAGE} failed ({lines[-1]}); give the folder dist of that package by --runtime"
            )
        with tarfile.open(packed) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                if member is None:
                    raise UserError(f"{PACKAGE} has no dist/{name}; give the folder dist of version 1.23 by --runtime")
                (Path(scratch) / name).write_bytes(member.read())
        return _copied(Path(scratch), out)


def _copied(folder: Path, out: Path) -> list[Path]:
    missing = [name for name in RUNTIME_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {missing[0]} is missing; give the folder dist of the npm package {PACKAGE}")
    return [Path(shutil.copyfile(folder / name, out / name)) for name in RUNTIME_FILES]
