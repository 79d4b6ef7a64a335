"""`benchmark startup`: time from the command to the first training step, cold and with cached programs; memory by batch size."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, spread
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError

MODULE = "accdistill_jax.benchmark.contenders"
PATIENCE_S = 600.0
COLD, WARM = "cold", "programs cached"
# Parts of a start. Each ends when the run writes a file: config.json, stages.json, the first metrics.
MARKS = ("imports and devices", "data", "compilation and the first step")
_COMPILED = re.compile(r"Finished XLA compilation of .* in ([\d.]+) sec")
_TRACED = re.compile(r"Finished (?:tracing|jaxpr to MLIR) .* in ([\d.]+) sec")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill")
    parser.add_argument(
        "--batches",
        type=int,
        nargs="+",
        default=(16, 64),
        metavar="N",
        help="batch sizes of the measurement of memory (default 16 64)",
    )
    parser.add_argument(
        "--micro-batches",
        type=int,
        default=4,
        metavar="N",
        help="micro-batches in the measurement of memory (default 4)",
    )
    parser.add_argument(
        "--stage",
        choices=("student", "teacher"),
        default="student",
        help="stage in the measurement of memory (default student)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=("time", "memory"),
        default=("time", "memory"),
        help="parts to measure (default: all)",
    )
    parser.set_defaults(rounds=3)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: a run ended before its first step; the message ends with its last line of output.
    """
    config = load_config(arguments.config, arguments.overrides)
    record: dict[str, Any] = {"config": arguments.config, "rounds": arguments.rounds}
    if "time" in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            record["starts"] = measure_starts(arguments, Path(scratch), say)
    if "memory" in arguments.only:
        record["stage"] = arguments.stage
        record["memory"] = measure_memory(config, arguments, say)
    return record


def measure_starts(arguments: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Starts the command repeatedly: first with an empty cache folder (cold), then with the programs that this start cached."""
    made = scratch / "made"
    command = [sys.executable, "-m", "accdistill_jax.main"]
    small = ["--config=distill:smoke-mean", f"--workdir={made}", "--config.stages=('data',)"]
    done = subprocess.run([*command, *small], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the data for the starts could not be generated: {done.stderr.strip().splitlines()[-1:]}")
    measured = []
    for number in range(arguments.rounds):
        cache = scratch / f"programs-{number}"
        for kind in (COLD, WARM):
            workdir = scratch / f"run-{number}-{kind.split()[0]}"
            settings = [
                f"--config={arguments.config}",
                *arguments.overrides,
                f"--workdir={workdir}",
                f"--config.data.stores=('{made}/data/synthetic',)",
                "--config.teacher.train.log_every=1 steps",
            ]
            measured.append({"kind": kind} | start_once([*command, *settings], workdir, cache=cache))
            say(f"{kind}: {measured[-1]['first_step_s']:.1f} s")
    return measured


def start_once(command: list[str], workdir: Path, *, cache: Path) -> dict[str, Any]:
    """Seconds from the command to each file that it writes in its work directory; kills the run after its first step.

    Args:
        command: command line of the run.
        workdir: its work directory.
        cache: its cache folder; the run does not inherit JAX's own settings of the compilation cache.
    """
    removed = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    environment |= {"JAX_LOG_COMPILES": "1", "XDG_CACHE_HOME": str(cache)}
    files = (workdir / "config.json", workdir / "stages.json", workdir / "metrics" / "teacher.jsonl")
    times: list[float] = []
    with tempfile.TemporaryFile("w+") as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        try:
            while len(times) < len(files):
                path = files[len(times)]
                if path.exists() and path.stat().st_size:
                    times.append(time.perf_counter() - begin)
                elif process.poll() is not None or time.perf_counter() - begin > PATIENCE_S:
                    errors.seek(0)
                    words = [line.strip() for line in errors if line.strip()]
                    raise UserError(f"a run ended before its first step: {words[-1] if words else 'no output'}")
                else:
                    time.sleep(0.01)
            errors.seek(0)
            text = errors.read()
        finally:
            process.kill()
            process.wait()
    marks = dict(zip(MARKS, (b - a for a, b in zip([0.0, *times], times, strict=False)), strict=True))
    return {
        "first_step_s": times[-1],
        "marks": marks,
        # both are parts of the last mark
        "compiled_s": sum(map(float, _COMPILED.findall(text))),
        "traced_s": sum(map(float, _TRACED.findall(text))),
    }


def measure_memory(config: Config, arguments: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measures peak memory and speed of training steps, each form in its own process."""
    ways = {
        "as configured": {"rematerialise": "none", "micro_batches": 1},
        "blocks rematerialised": {"rematerialise": "blocks", "micro_batches": 1},
        f"{arguments.micro_batches} micro-batches": {"rematerialise": "none", "micro_batches": arguments.micro_batches},
    }
    steps = []
    for batch in arguments.batches:
        contenders = []
        for name, way in ways.items():
            trained = changed(
                config,
                {
                    "runtime.rematerialise": way["rematerialise"],
                    f"{arguments.stage}.train.micro_batches": way["micro_batches"],
                },
            )
            order = {"config": plain(trained), "stage": arguments.stage, "batch": batch}
            contenders.append(Contender(name, f"{MODULE}.memory", order))
        for name, measured in contest.compete(contenders, rounds=arguments.rounds, round_s=1.0).items():
            peak = measured.facts["device_peak_bytes"] or measured.peak_bytes
            steps.append(
                {"batch": batch, "way": name, "peak_bytes": peak, "seconds": measured.seconds, "facts": measured.facts}
            )
        say(f"memory at {batch} segments")
    return steps


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    out = [f"# Start and memory: {record['config']}\n"]
    if "starts" in record:
        rows = []
        for kind in (COLD, WARM):
            runs = [start for start in record["starts"] if start["kind"] == kind]
            parts = [spread([start["marks"][mark] for start in runs]) for mark in MARKS]
            parts += [spread([start[name] for start in runs]) for name in ("traced_s", "compiled_s")]
            total = spread([start["first_step_s"] for start in runs])
            rows.append([kind, total.text("{:.1f}"), *(part.text("{:.1f}") for part in parts)])
        header = ("seconds", "command to first step", *MARKS, "including tracing", "including compiling or loading")
        out.append("\n## Time from the command to the first step of the first training stage\n\n" + table(header, rows))
    if "memory" in record:
        rows = []
        for step in record["memory"]:
            rate = spread([step["batch"] / seconds for seconds in step["seconds"]]).text()
            before = f"{step['facts']['before_bytes'] / 1e9:.2f}"
            rows.append([f"{step['batch']}, {step['way']}", f"{step['peak_bytes'] / 1e9:.2f}", before, rate])
        header = ("segments per device", "peak memory, GB", "before the step, GB", "segments/s")
        out.append(f"\n## Memory of the {record['stage']}'s step\n\n" + table(header, rows))
    return "".join(out)
