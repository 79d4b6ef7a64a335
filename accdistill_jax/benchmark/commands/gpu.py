"""`benchmark gpu`: measures a GPU in minutes, part by part, the most valuable part first.

A GPU is often available for minutes only. The command writes the numbers of a part as soon as it has measured them. Repeated, it
continues with the missing parts. It does not start a part that the time limit would interrupt. `--tiny` runs all parts with the
smallest models on any device: a rehearsal, whose figures mean nothing.
"""

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark.commands import gpu_commands, gpu_steps
from accdistill_jax.benchmark.commands.gpu_context import FULL, TINY, Context
from accdistill_jax.benchmark.commands.gpu_report import report
from accdistill_jax.benchmark.commands.step import accelerated
from accdistill_jax.config.load import add_config
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.user_paths import path_argument

__all__ = ["PARTS", "add_arguments", "measure", "report"]

RESULTS = "results.json"


class Part(NamedTuple):
    """A part of the measurements.

    Attributes:
        measure: returns the part's record.
        needs_s: approximate duration on a GPU, in seconds; the part is not started with less time left.
        text: summary for --help.
    """

    measure: Callable[[Context], dict[str, Any]]
    needs_s: float
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:paper-literal")
    parser.add_argument(
        "--out",
        type=path_argument,
        required=True,
        metavar="DIR",
        help=f"folder of {RESULTS} and report.md; the same command continues there with the missing parts",
    )
    names = "; ".join(f"{name}: {part.text}" for name, part in PARTS.items())
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=tuple(PARTS), metavar="PART", help=f"parts to measure ({names})"
    )
    parser.add_argument("--again", nargs="+", choices=PARTS, default=(), metavar="PART", help="parts to measure again")
    parser.add_argument(
        "--limit-s", type=float, default=480.0, metavar="S", help="time limit, in seconds (default 480)"
    )
    parser.add_argument(
        "--batches",
        nargs="+",
        type=int,
        metavar="N",
        help="segments per device of the contest, multiples of the first number (default "
        f"{' '.join(map(str, FULL.batches))})",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="rehearse all parts with the smallest models, on any device"
    )


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the missing parts and returns the record of all parts.

    Raises:
        UserError: there is no GPU and no --tiny, or the folder holds results of another config.
    """
    begun = time.monotonic()
    if not arguments.tiny and not accelerated():
        raise UserError("JAX sees no GPU here; --tiny rehearses the measurements on any device")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / RESULTS
    record = (
        json.loads(path.read_text())
        if path.exists()
        else {"tiny": arguments.tiny, "config": arguments.config, "parts": {}}
    )
    if record["tiny"] != arguments.tiny or record["config"] != arguments.config:
        raise UserError(f"{path} holds results of {record['config']}{' --tiny' * record['tiny']}: choose another --out")
    for name in arguments.again:
        record["parts"].pop(name, None)
    sizes = TINY if arguments.tiny else FULL
    if arguments.batches:
        if any(batch < 1 or batch % arguments.batches[0] for batch in arguments.batches):
            raise UserError(
                f"--batches {' '.join(map(str, arguments.batches))}: all must be multiples of the first number"
            )
        sizes = sizes._replace(batches=tuple(arguments.batches))
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            arguments.config,
            tuple(arguments.overrides),
            sizes,
            Path(folder),
            lambda: arguments.limit_s - (time.monotonic() - begun),
            say,
        )
        wanted = [name for name in PARTS if name in arguments.only]
        for name in wanted:
            if "failed" in record["parts"].get(name, {"failed": ""}):
                _measure_part(name, context, record)
                write_atomically(path, json.dumps(record, indent=1) + "\n")
                write_atomically(arguments.out / "report.md", report(record))
    left = [name for name in wanted if "failed" in record["parts"].get(name, {"failed": ""})]
    if left:
        record["failed"] = f"not measured: {', '.join(left)}; repeat the command to measure them"
    return record


def _measure_part(name: str, context: Context, record: dict[str, Any]) -> None:
    part, begun = PARTS[name], time.monotonic()
    if not context.sizes.shrink and context.remaining() < part.needs_s:
        context.say(
            f"{name}: not started, it needs about {part.needs_s:.0f} s and {max(context.remaining(), 0):.0f} s are left"
        )
        return
    context.say(f"{name}: {part.text}")
    try:
        measured = part.measure(context)
    except (UserError, OSError, ValueError, KeyError) as problem:  # the other parts are still measured
        measured = {"failed": f"{type(problem).__name__}: {problem}"}
        context.say(f"{name} failed: {problem}")
    took = {"seconds": time.monotonic() - begun, "date": datetime.date.today().isoformat()}
    record["parts"][name] = measured | took
    context.say(f"{name}: {took['seconds']:.0f} s")


PARTS = {
    "machine": Part(gpu_steps.measure_machine, 20, "versions, the bfloat16 peak, memory"),
    "contest": Part(
        gpu_steps.measure_contest, 150, "the step against PyTorch, by batch size; the most expensive operations"
    ),
    "variants": Part(
        gpu_steps.measure_variants, 150, "attention, head sizes, rematerialisation, compiler flags, each changed alone"
    ),
    "small": Part(gpu_steps.measure_small, 60, "the small models of the default config"),
    "training": Part(
        gpu_commands.measure_training, 110, "300 steps of teacher and student, in bfloat16 and in float32"
    ),
    "input": Part(gpu_commands.measure_input, 60, "segments from the local disk"),
    "plan": Part(gpu_commands.measure_plan, 180, "`plan --check`"),
}
