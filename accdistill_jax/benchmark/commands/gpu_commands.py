"""`benchmark gpu`: the parts that run other commands of the package (a training, two benchmarks) and read their records."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark.commands.gpu_context import Context
from accdistill_jax.errors import UserError


def measure_training(context: Context) -> dict[str, Any]:
    """Trains teacher and student on a generated store with the training command, in bfloat16 and in float32 at the same time."""
    sizes = context.sizes
    data = context.folder / "data"
    words = {
        "data.synthetic.participants": sizes.participants,
        "data.synthetic.workers": os.cpu_count() or 1,
        "evaluation.batch_size": sizes.training_batch,
        "runtime.metrics": (),  # without TensorBoard's files and the package that writes them
    }
    for stage in ("teacher", "student"):
        words |= {
            f"{stage}.train.duration": f"{sizes.steps} steps",
            f"{stage}.train.warmup": f"{sizes.steps // 6 or 1} steps",
            f"{stage}.train.batch_size": sizes.training_batch,
            f"{stage}.train.log_every": "1 steps",
            f"{stage}.train.validation_batches": 1,
        }
        words |= {f"{stage}.encoder.transformer.{key}": value for key, value in sizes.shrink.items()}
    begun = time.monotonic()
    _wait(_main(context, data, words | {"stages": ("data",)}), "generating the data", context)
    made_s, curves = time.monotonic() - begun, {}
    words |= {"stages": ("data", "teacher", "student"), "data.stores": (str(data / "data" / "synthetic"),)}
    running = {
        dtype: _main(context, context.folder / dtype, words | {"runtime.compute_dtype": dtype})
        for dtype in ("bfloat16", "float32")
    }
    try:
        for dtype, process in running.items():
            _wait(process, f"training in {dtype}", context)
            curves[dtype] = {
                "seconds": time.monotonic() - begun - made_s,
                **{stage: _curve(context.folder / dtype / "metrics", stage) for stage in ("teacher", "student")},
            }
    finally:
        for process in running.values():
            process.kill()
            process.communicate()
    return {"steps": sizes.steps, "batch": sizes.training_batch, "data_s": made_s, "curves": curves}


def _main(context: Context, workdir: Path, settings: Mapping[str, Any]) -> subprocess.Popen:
    """Starts the training command without memory preallocation, so that two of them share a device."""
    words = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        "-m",
        "accdistill_jax.main",
        f"--config={context.config}",
        f"--workdir={workdir}",
        *words,
    ]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def _wait(process: subprocess.Popen, name: str, context: Context) -> None:
    """Waits for a command to end.

    Raises:
        UserError: it failed, or it passed the time limit.
    """
    try:
        _, errors = process.communicate(timeout=max(context.remaining(), 1.0))
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} did not end within the time limit") from None
    finally:  # after a signal too
        process.kill()
        process.communicate()
    if process.returncode:
        raise UserError(f"{name} ended with {process.returncode}: {_last_line(errors)}")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _curve(folder: Path, stage: str) -> dict[str, list[float]]:
    """Training loss of every step, and the timings that a stage logged."""
    rows = {
        kind: [json.loads(line) for line in path.read_text().splitlines()]
        for kind, path in (
            ("metrics", folder / f"{stage}.jsonl"),
            ("timing", folder / f"{stage}.timing.jsonl"),
        )
    }
    return {
        "loss": [row["loss"] for row in rows["metrics"] if row["kind"] == "train"],
        **{
            name: [row[name] for row in rows["timing"] if isinstance(row.get(name), float)]
            for name in ("segments_per_s", "input_wait_fraction")
        },
    }


def _command(context: Context, *words: str) -> dict[str, Any]:
    """Runs another benchmark and returns its record."""
    path = context.folder / "record.json"
    command = [sys.executable, "-m", "accdistill_jax.benchmark", *words, f"--json={path}"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=max(context.remaining(), 1.0))
    except subprocess.TimeoutExpired:
        raise UserError(f"`benchmark {' '.join(words)}` did not end within the time limit") from None
    if not path.exists():
        raise UserError(f"`benchmark {' '.join(words)}` ended with {ended.returncode}: {_last_line(ended.stderr)}")
    record = json.loads(path.read_text())
    path.unlink()
    missed = record.pop("failed", "")  # a goal that the command missed; its figures are complete
    return record | {"text": ended.stdout + (f"\n{missed}\n" if missed else "")}


def measure_input(context: Context) -> dict[str, Any]:
    """Measures the reading of segments from the local disk into host memory."""
    words = ["--participants=16", "--segments=16", "--batch=16", "--round-s=0.02"] if context.sizes.shrink else []
    return _command(context, "input", "--only", "reading", f"--rounds={min(context.sizes.rounds, 3)}", *words)


def measure_plan(context: Context) -> dict[str, Any]:
    """Compares predicted and measured steps of this device."""
    words = ["--check-cases=small"] if context.sizes.shrink else []
    return _command(context, "plan", "--check", f"--rounds={min(context.sizes.rounds, 3)}", *words)
