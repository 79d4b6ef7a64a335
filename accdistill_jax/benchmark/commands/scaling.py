"""`python -m accdistill_jax.benchmark.commands.scaling [--config=configs/distill.py:paper] [--batch-per-device 32,128] ...`: see --help."""

from accdistill_jax.runtime import streams  # isort: skip

if __name__ == "__main__":
    streams.secure(product="output")

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accdistill_jax.config.load import add_config, load_config, parse_overridable
from accdistill_jax.errors import UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime.command import run_command
from accdistill_jax.runtime.device_access import check_named_platforms
from accdistill_jax.user_paths import path_argument

MFU_HELP = (
    "assumed shares of the bf16 peak at which matrix products run, a column each (default 0.1,0.2,0.4: the last is what tuned "
    "trainings of large models reach; PaLM 540B reports 0.46, arXiv 2204.02311, Llama 3 405B 0.38 to 0.43, arXiv 2407.21783. "
    "Small models reach less, and then communication matters less too)"
)


def main(argv: Sequence[str]) -> int:
    """Parses the command line and runs it; returns the exit status."""

    def work() -> None:
        arguments, rest = parse_overridable(build_parser(), argv)
        arguments.loaded = load_config(arguments.config, rest)
        check_named_platforms()
        arguments.run(arguments)

    return run_command(work)


def build_parser() -> argparse.ArgumentParser:
    """The command line; `arguments.run(arguments)` does what was asked."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=path_argument, metavar="FILE", help="also write all numbers to FILE")
    parser = argparse.ArgumentParser(
        prog="python -m accdistill_jax.benchmark.commands.scaling",
        description="How training scales on given hardware, as Markdown. Settings of the config: --config.KEY=VALUE.",
        parents=[common],
    )
    add_config(parser, "configs/distill.py:paper")
    parser.add_argument("--batch-per-device", type=_integers, default=[128], metavar="N,...", help="segments (default 128)")
    parser.add_argument("--mfu", type=_shares, default=[0.1, 0.2, 0.4], metavar="S,...", help=MFU_HELP)
    parser.add_argument(
        "--count-devices", type=int, default=4, metavar="D",
        help="compile the real step for D CPU devices and count its collectives (default 4)",
    )  # fmt: skip
    parser.set_defaults(run=run_model)
    commands = parser.add_subparsers(metavar="measure")
    measure = commands.add_parser("measure", parents=[common], help="weak scaling on this machine's cores")
    add_config(measure, "configs/distill.py:smoke")
    measure.add_argument("--stage", choices=("student", "teacher"), default="student", help="(default student)")
    measure.add_argument("--devices", type=_integers, default=[1, 2], metavar="N,...",
                         help="devices in one process, one core each (default 1,2)")  # fmt: skip
    measure.add_argument("--processes", type=_integers, default=[1, 2], metavar="N,...",
                         help="processes of one device, pinned to a core each (default 1,2)")  # fmt: skip
    measure.add_argument("--batch-per-device", type=_integer, default=16, metavar="N", help="segments (default 16)")
    measure.add_argument("--steps", type=_integer, default=20, help="per repeat (default 20)")
    measure.add_argument("--repeats", type=_integer, default=5, help="of every arrangement, in turn (default 5)")
    measure.set_defaults(run=run_measurement)
    return parser


def _integer(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _integers(text: str) -> list[int]:
    return [_integer(part) for part in text.split(",")]


def _shares(text: str) -> list[float]:
    shares = sorted(float(part) for part in text.split(","))
    if not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: shares above 0 and at most 1")
    return shares


def run_model(arguments: argparse.Namespace) -> None:
    """Prints the model's tables."""
    import jax  # seconds, and not needed for an error on the command line

    if arguments.count_devices < 2:
        raise UserError("--count-devices must be at least 2: one device sends nothing")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.count_devices)
    from accdistill_jax.benchmark.model import hardware, model, program, tables
    from accdistill_jax.runtime.parallel import Parallel

    config = arguments.loaded
    works = [program.describe(config, stage) for stage in program.STAGES if stage in config.stages]
    machines = hardware.known()
    parallel = Parallel(devices=jax.devices())
    record: dict[str, Any] = {"config": arguments.config, "mfu": arguments.mfu, "collectives": [], "estimates": []}
    out = [f"# Scaling of {arguments.config}\n"]
    for work in works:
        out.append(f"\n## {work.stage}\n")
        for batch in arguments.batch_per_device:
            rows = [[model.estimate(work, machine, batch=batch, mfu=mfu) for mfu in arguments.mfu] for machine in machines]
            record["estimates"] += [model.as_record(one) for row in rows for one in row]
            out.append(f"\n{batch} segments per device:\n\n{tables.time_table(rows)}")
            full = [row[0].hardware.name for row in rows if not row[0].fits]
            if full:
                out.append(f"\nMore than the device's memory by this estimate: {'; '.join(full)}.\n")
        counted, expected = program.count(work, parallel)
        for origin, found in (("compiled", counted), ("formula", expected)):
            record["collectives"] += [{"stage": work.stage, "from": origin} | one._asdict() for one in found]
        out.append(
            f"\nOf the step compiled for {parallel.num_devices} devices with {program.COUNT_BATCH} segments each:\n\n"
            + tables.count_table(counted, expected, devices=parallel.num_devices)
        )
    out.append("\n## Memory\n\n" + tables.memory_table(works, arguments.batch_per_device, devices=16))
    out.append("\nUp to how many trained parameters the state fills half of the memory:\n\n")
    out.append(tables.limit_table((16e9, 32e9, 80e9, 95e9), devices=16))
    out.append(_legend(arguments) + tables.source_list(key for machine in machines for key in machine.sources))
    print("".join(out), end="")
    _write(arguments.json, record)


def run_measurement(arguments: argparse.Namespace) -> None:
    """Measures and prints the result."""
    from accdistill_jax.benchmark.commands import weak_scaling as measure

    result = measure.run(
        arguments.config,
        arguments.loaded,
        stage=arguments.stage,
        devices=arguments.devices,
        processes=arguments.processes,
        batch=arguments.batch_per_device,
        steps=arguments.steps,
        repeats=arguments.repeats,
    )
    print(measure.report(result), end="")
    _write(arguments.json, result)


def _legend(arguments: argparse.Namespace) -> str:
    return f"""
## Where the numbers are from

- Counted: FLOP (matrix products by the config, checked against XLA's count in the tests), bytes sent (by formula, beside the
  compiled step above), parameters, moments, gradients, what is kept for the backward pass (in the traced program, before the
  compiler fuses).
- Assumed: matrix products at {_listed(arguments.mfu)} of the bf16 peak (--mfu), everything else for free. A lower share makes
  the step longer and all efficiencies better. Efficiencies are without overlap of computation and communication, to with full
  overlap.
- Cited; what is assumed among it says so:
"""


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)


def _write(path: Path | None, record: dict[str, Any]) -> None:
    if path is not None:
        try:
            write_atomically(path, json.dumps(record, indent=1) + "\n")
        except OSError as problem:
            raise UserError(f"cannot write {path}: {problem.strerror or problem}") from problem


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
