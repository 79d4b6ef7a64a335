"""Measures how long the training loop waits for its input, from the timings that the training command logs."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.training.metrics import read_metrics

TEACHER_STEPS = 2


def measure_input_wait(
    config: str, overrides: Sequence[str], *, store: Path, workdir: Path, windows: int, steps: int
) -> dict[str, Any]:
    """Trains a student, after a teacher of two steps, and reads the timings.

    Args:
        config: "FILE.py[:PRESET]".
        overrides: "--config.KEY=VALUE" arguments.
        store: path of the training store.
        workdir: work directory of the run.
        windows: number of measurements; another window before them, which includes compilation, is not counted.
        steps: training steps per measurement.

    Returns:
        "segments_per_s" and "input_wait_fraction", a value per window.

    Raises:
        UserError: the command failed; the message ends with its last line of output.
    """
    total = (windows + 1) * steps
    changes: dict[str, Any] = {"stages": ("data", "teacher", "student"), "data.stores": (str(store),)}
    for stage, duration in (("teacher", TEACHER_STEPS), ("student", total)):
        changes |= {
            f"{stage}.train.{name}": f"{duration} steps" for name in ("duration", "validate_every", "checkpoint_every")
        }
        changes[f"{stage}.train.warmup"] = "1 steps"
    changes["student.train.log_every"] = f"{steps} steps"
    settings = [
        f"--config.{key}={value!r}" if isinstance(value, tuple) else f"--config.{key}={value}"
        for key, value in changes.items()
    ]
    command = [sys.executable, "-m", "accdistill_jax.main", f"--config={config}", f"--workdir={workdir}"]
    done = subprocess.run([*command, *overrides, *settings], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"training failed: {lines[-1] if lines else 'no output'}")
    records = [
        record for record in read_metrics(workdir / "metrics" / "student.timing.jsonl") if record["kind"] == "train"
    ][1:]
    return {name: [record[name] for record in records] for name in ("segments_per_s", "input_wait_fraction")}
