"""`benchmark startup`: from command to first training step, cold and with compiled programs kept; memory by batch size."""

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
COLD, WARM = "cold", "programs kept"
# what a run leaves behind, in order, and what has taken the time until then
MARKS = ("imports and devices", "data", "until the first step is done")
_COMPILED = re.compile(r"Finished XLA compilation of .* in ([\d.]+) sec")
_TRACED = re.compile(r"Finished (?:tracing|jaxpr to MLIR) .* in ([\d.]+) sec")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=(16, 64), metavar="N", help="segments, for memory (16 64)"
    )
    parser.add_argument("--micro-batches", type=int, default=4, metavar="N", help="pieces, for memory (default 4)")
    parser.add_argument(
        "--stage", choices=("student", "teacher"), default="student", help="for memory (default student)"
    )
    parser.add_argument("--only", nargs="+", choices=("time", "memory"), default=("time", "memory"), help="which parts")
    parser.set_defaults(rounds=3)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: a run ended before its first step; with its last words.
    """
    config = load_config(arguments.config, arguments.overrides)
    record: dict[str, Any] = {"config": arguments.config, "rounds": arguments.rounds}
    if "time" in arguments.only:
        with tempfile.TemporaryDirectory() as scratch:
            record["starts"] = starts(arguments, Path(scratch), say)
    if "memory" in arguments.only:
        record["stage"] = arguments.stage
        record["memory"] = memory(config, arguments, say)
    return record


def starts(arguments: argparse.Namespace, scratch: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Starts the command again and again as a user would: in a new user's cache folder, then with what that start left there."""
    made = scratch / "made"
    command = [sys.executable, "-m", "accdistill_jax.main"]
    small = ["--config=distill:smoke", f"--workdir={made}", "--config.stages=('data',)"]
    done = subprocess.run([*command, *small], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"the data for the starts could not be made: {done.stderr.strip().splitlines()[-1:]}")
    found = []
    for number in range(arguments.rounds):
        cache = scratch / f"programs-{number}"
        for kind in (COLD, WARM):
            own = scratch / f"run-{number}-{kind.split()[0]}"
            settings = [
                f"--config={arguments.config}",
                *arguments.overrides,
                f"--workdir={own}",
                f"--config.data.stores=('{made}/data/synthetic',)",
                "--config.teacher.train.log_every=1 steps",
            ]
            found.append({"kind": kind} | start_once([*command, *settings], own, cache=cache))
            say(f"{kind}: {found[-1]['first_step_s']:.1f} s")
    return found


def start_once(command: list[str], workdir: Path, *, cache: Path) -> dict[str, Any]:
    """Seconds from the command to the marks that it leaves in its work directory; ends it after its first step.

    Args:
        command: the run.
        workdir: its.
        cache: the user's cache folder; settings of JAX's own that would change what is kept there are left out.
    """
    own = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    environment = {name: value for name, value in os.environ.items() if name not in own}
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
                    raise UserError(f"a run ended before its first step: {words[-1] if words else 'it said nothing'}")
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
        # within the last of them
        "compiled_s": sum(map(float, _COMPILED.findall(text))),
        "traced_s": sum(map(float, _TRACED.findall(text))),
    }


def memory(config: Config, arguments: argparse.Namespace, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Peak memory and speed of training steps, each kind in a process of its own."""
    ways = {
        "as it is": {"rematerialise": "none", "micro_batches": 1},
        "blocks rematerialised": {"rematerialise": "blocks", "micro_batches": 1},
        f"{arguments.micro_batches} micro-batches": {"rematerialise": "none", "micro_batches": arguments.micro_batches},
    }
    found = []
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
        for name, one in contest.compete(contenders, rounds=arguments.rounds, round_s=1.0).items():
            peak = one.facts["device_peak_bytes"] or one.peak_bytes
            found.append({"batch": batch, "way": name, "peak_bytes": peak, "seconds": one.seconds, "facts": one.facts})
        say(f"memory at {batch} segments")
    return found


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    out = [f"# Start and memory: {record['config']}\n"]
    if "starts" in record:
        rows = []
        for kind in (COLD, WARM):
            own = [one for one in record["starts"] if one["kind"] == kind]
            parts = [spread([one["marks"][mark] for one in own]) for mark in MARKS]
            parts += [spread([one[name] for one in own]) for name in ("traced_s", "compiled_s")]
            total = spread([one["first_step_s"] for one in own])
            rows.append([kind, total.text("{:.1f}"), *(part.text("{:.1f}") for part in parts)])
        header = ("seconds", "command to first step", *MARKS, "of that traced", "of that compiled or loaded")
        out.append("\n## Command to the first step of the first stage that trains\n\n" + table(header, rows))
    if "memory" in record:
        rows = []
        for one in record["memory"]:
            rate = spread([one["batch"] / seconds for seconds in one["seconds"]]).text()
            before = f"{one['facts']['before_bytes'] / 1e9:.2f}"
            rows.append([f"{one['batch']}, {one['way']}", f"{one['peak_bytes'] / 1e9:.2f}", before, rate])
        header = ("segments per device", "peak memory, GB", "before the step, GB", "segments/s")
        out.append(f"\n## Memory of the {record['stage']}'s step\n\n" + table(header, rows))
    return "".join(out)
