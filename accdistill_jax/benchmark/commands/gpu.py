"""`benchmark gpu`: measures a GPU in minutes, part by part, the most valuable part first.

A GPU is often available for minutes only. The command writes a file with the numbers of a part as soon as it has measured them.
Repeated, it continues with the missing parts. It does not start a part that the time limit would interrupt. A signal ends it and
its processes; finished parts stay. `--tiny` runs all parts with the smallest models on any device: a rehearsal, whose figures mean
nothing.
"""

import argparse
import datetime
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark import packages
from accdistill_jax.benchmark.commands import gpu_commands, gpu_steps
from accdistill_jax.benchmark.commands.gpu_context import FULL, TINY, Context
from accdistill_jax.benchmark.commands.gpu_report import report
from accdistill_jax.benchmark.commands.step import accelerated
from accdistill_jax.config.load import add_config
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.user_paths import path_argument

__all__ = ["PARTS", "PartFiles", "add_arguments", "measure", "report"]

REHEARSAL_S = 3600.0  # time limit of a rehearsal, whatever --limit-s says: a busy laptop may rehearse


class Part(NamedTuple):
    """A part of the measurements.

    Attributes:
        measure: returns the part's record.
        needs_s: approximate duration on a GPU, in seconds; the part is not started with less time left.
        text: summary for --help.
        modules: modules that it needs besides those of a training step.
    """

    measure: Callable[[Context], dict[str, Any]]
    needs_s: float
    text: str
    modules: tuple[str, ...] = ()


class PartFiles:
    """The folder of the results: a JSON file per part, with the part's record, and `settings.json`. Each file is whole or absent.

    Args:
        folder: made if missing.
        settings: settings that decide the results.

    Raises:
        UserError: the folder holds results of other settings, or a file of it cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, path = folder, folder / "settings.json"
        before = _read(path) if path.exists() else settings
        if before != settings:
            held = (
                f"{before.get('config')}{' --tiny' * bool(before.get('tiny'))} {' '.join(before.get('overrides', ()))}"
            )
            raise UserError(f"{folder} holds results of {held.strip()}: choose another --out")
        write_atomically(path, json.dumps(settings, indent=1) + "\n")

    def load(self, name: str) -> dict[str, Any] | None:
        """The record of a part; None if it was not measured."""
        path = self._folder / f"{name}.json"
        return _read(path) if path.exists() else None

    def save(self, name: str, record: Mapping[str, Any]) -> None:
        """Writes the record of a part."""
        write_atomically(self._folder / f"{name}.json", json.dumps(record, indent=1) + "\n")

    def remove(self, name: str) -> None:
        """Removes the record of a part, if it has one."""
        (self._folder / f"{name}.json").unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} cannot be read ({problem}); delete it or choose another --out") from problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:paper-literal")
    parser.add_argument(
        "--out",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="folder of a JSON file per part, results.md and results.png; the same command continues there with the missing parts",
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
        "--forms",
        nargs="+",
        choices=gpu_steps.FORMS,
        default=(),
        metavar="FORM",
        help=f"forms of the part variants, besides the step as configured; default: all ({', '.join(gpu_steps.FORMS)})",
    )
    parser.add_argument(
        "--tiny", action="store_true", help="rehearse all parts with the smallest models, on any device"
    )


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures the missing parts and returns the record of all parts.

    Raises:
        UserError: there is no GPU and no --tiny, or the folder holds results of another config.
    """
    begun, limit_s = time.monotonic(), REHEARSAL_S if arguments.tiny else arguments.limit_s
    if not arguments.tiny and not accelerated():
        raise UserError("JAX sees no GPU here; --tiny rehearses the measurements on any device")
    settings = {"config": arguments.config, "tiny": arguments.tiny, "overrides": list(arguments.overrides)}
    sizes = TINY if arguments.tiny else FULL
    if arguments.batches:
        if any(batch < 1 or batch % arguments.batches[0] for batch in arguments.batches):
            raise UserError(
                f"--batches {' '.join(map(str, arguments.batches))}: all must be multiples of the first number"
            )
        sizes = sizes._replace(batches=tuple(arguments.batches))
    files = PartFiles(arguments.out, settings)
    for name in arguments.again:
        files.remove(name)
    record: dict[str, Any] = settings | {"parts": {name: part for name in PARTS if (part := files.load(name))}}
    with tempfile.TemporaryDirectory() as folder:
        context = Context(
            arguments.config,
            tuple(arguments.overrides),
            sizes,
            Path(folder),
            lambda: limit_s - (time.monotonic() - begun),
            say,
            tuple(arguments.forms),
        )
        wanted = [name for name in PARTS if name in arguments.only]
        for name in wanted:
            if _is_missing(name, record, arguments.forms) and (measured := _measure_part(name, context)):
                record["parts"][name] = measured
                files.save(name, measured)
                write_atomically(arguments.out / "results.md", report(record))
    if line := packages.missing_line(("matplotlib", "sklearn")):
        say(f"results.png is not drawn: {line}")
    else:
        # imported here, because the plotting libraries take seconds to import
        from accdistill_jax.benchmark.commands.gpu_plot import draw_measurements

        draw_measurements(record).savefig(arguments.out / "results.png")
    left = [name for name in wanted if _is_missing(name, record, arguments.forms)]
    if left:
        record["failed"] = f"not measured: {', '.join(left)}; repeat the command to measure them"
    return record


def _is_missing(name: str, record: Mapping[str, Any], forms: Sequence[str]) -> bool:
    """True if a part was not measured, failed, or lacks one of the forms that are asked for (all if `forms` is empty)."""
    part = record["parts"].get(name, {"failed": ""})
    return "failed" in part or ("forms" in part and not set(forms or gpu_steps.FORMS) <= set(part["forms"]))


def _measure_part(name: str, context: Context) -> dict[str, Any] | None:
    """The record of a part, with "failed", a reason, if it failed; None if too little time is left to start it."""
    part, begun = PARTS[name], time.monotonic()
    if not context.sizes.shrink and context.remaining() < part.needs_s:
        context.say(
            f"{name}: not started, it needs about {part.needs_s:.0f} s and {max(context.remaining(), 0):.0f} s are left"
        )
        return None
    context.say(f"{name}: {part.text}")
    measured: dict[str, Any] = {"failed": packages.missing_line(part.modules)}
    if not measured["failed"]:
        try:
            measured = part.measure(context)
        except Exception as problem:  # of any kind: the other parts are still measured
            measured = {"failed": f"{type(problem).__name__}: {str(problem).strip() or 'no reason given'}"}
    if "failed" in measured:
        context.say(f"{name} failed: {measured['failed']}")
    took = {"seconds": time.monotonic() - begun, "date": datetime.date.today().isoformat()}
    context.say(f"{name}: {took['seconds']:.0f} s")
    return measured | took


PARTS = {
    "machine": Part(gpu_steps.measure_machine, 20, "versions, the bfloat16 peak, memory"),
    "contest": Part(
        gpu_steps.measure_contest, 150, "the step against PyTorch, by batch size; the most expensive operations"
    ),
    "kernels": Part(gpu_steps.measure_kernels, 60, "kernels alone, by tiling, beside the forms without them"),
    "variants": Part(
        gpu_steps.measure_variants, 150, "attention, head sizes, rematerialisation, compiler flags, each changed alone"
    ),
    "small": Part(gpu_steps.measure_small, 60, "the small models of the default config"),
    "training": Part(
        gpu_commands.measure_training, 110, "300 steps of teacher and student, in bfloat16 and in float32", ("grain",)
    ),
    "input": Part(gpu_commands.measure_input, 60, "segments from the local disk", ("grain",)),
    "plan": Part(gpu_commands.measure_plan, 180, "`plan --check`"),
}
