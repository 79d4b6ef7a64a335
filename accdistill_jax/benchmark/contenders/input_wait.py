"""Measures how long the training loop waits for its input: the real command on a store, by its own account."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.errors import UserError
from accdistill_jax.training.metrics import read_metrics

TEACHER_STEPS = 2


def train(
    config: str, overrides: Sequence[str], *, store: Path, workdir: Path, windows: int, steps: int
) -> dict[str, Any]:
    """Trains a student for `windows` times `steps` steps, after a teacher of two steps.

    Args:
        config: "FILE.py[:PRESET]".
        overrides: "--config.KEY=VALUE" each.
        store: what is trained on.
        workdir: of the run.
        windows: measurements, besides the first, in which compilation falls.
        steps: of a measurement.

    Returns:
        segments_per_s and input_wait_fraction of each window.

    Raises:
        UserError: the command failed; with its last words.
    """
    total = (windows + 1) * steps
    own = {"stages": ("data", "teacher", "student"), "data.stores": (str(store),)}
    for stage, duration in (("teacher", TEACHER_STEPS), ("student", total)):
        own |= {
            f"{stage}.train.{name}": f"{duration} steps" for name in ("duration", "validate_every", "checkpoint_every")
        }
        own[f"{stage}.train.warmup"] = "1 steps"
    own["student.train.log_every"] = f"{steps} steps"
    settings = [
        f"--config.{key}={value!r}" if isinstance(value, tuple) else f"--config.{key}={value}"
        for key, value in own.items()
    ]
    command = [sys.executable, "-m", "accdistill_jax.main", f"--config={config}", f"--workdir={workdir}"]
    done = subprocess.run([*command, *overrides, *settings], capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UserError(f"training failed: {lines[-1] if lines else 'it said nothing'}")
    records = [one for one in read_metrics(workdir / "metrics" / "student.timing.jsonl") if one["kind"] == "train"][1:]
    return {name: [one[name] for one in records] for name in ("segments_per_s", "input_wait_fraction")}
