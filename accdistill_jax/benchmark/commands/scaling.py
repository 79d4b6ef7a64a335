"""`benchmark scaling`: a model of how training scales on given hardware, from counted work and cited figures."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from accdistill_jax.benchmark.arguments import integers
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.errors import UserError

MFU_HELP = (
    "assumed shares of the bf16 peak at which matrix products run, a column each (default 0.1,0.2,0.4). Tuned trainings of large "
    "models reach about 0.4: PaLM 540B reports 0.46, arXiv 2204.02311, Llama 3 405B 0.38 to 0.43, arXiv 2407.21783. Small models "
    "reach less; communication then matters less too"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill:paper-literal")
    parser.add_argument(
        "--batch-per-device", type=integers, default=[128], metavar="N,...", help="segments per device (default 128)"
    )
    parser.add_argument("--mfu", type=_shares, default=[0.1, 0.2, 0.4], metavar="S,...", help=MFU_HELP)
    parser.add_argument(
        "--count-devices",
        type=int,
        default=4,
        metavar="D",
        help="compile the real step for D CPU devices and count its collectives (default 4)",
    )


def _shares(text: str) -> list[float]:
    shares = sorted(float(part) for part in text.split(","))
    if not all(0 < share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text}: shares must be above 0 and at most 1")
    return shares


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Computes the model and returns its numbers and its tables (Markdown).

    Raises:
        UserError: fewer than two devices to count collectives on.
    """
    config = load_config(arguments.config, arguments.overrides)
    if arguments.count_devices < 2:
        raise UserError("--count-devices must be at least 2: one device sends nothing")
    import jax  # slow to import, and not needed to report an error on the command line

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.count_devices)
    from accdistill_jax.benchmark.model import hardware, model, program, tables
    from accdistill_jax.runtime.parallel import Parallel

    works = [program.describe_work(config, stage) for stage in program.STAGES if stage in config.stages]
    machines = hardware.known()
    parallel = Parallel(devices=jax.devices())
    record: dict[str, Any] = {"config": arguments.config, "mfu": arguments.mfu, "collectives": [], "estimates": []}
    out = [f"# Scaling of {arguments.config}\n"]
    for work in works:
        out.append(f"\n## {work.stage}\n")
        for batch in arguments.batch_per_device:
            rows = [
                [model.estimate(work, machine, batch=batch, mfu=mfu) for mfu in arguments.mfu] for machine in machines
            ]
            record["estimates"] += [estimate.as_record() for row in rows for estimate in row]
            out.append(f"\n{batch} segments per device:\n\n{tables.time_table(rows)}")
            full = [row[0].hardware.name for row in rows if not row[0].fits]
            if full:
                out.append(f"\nBy this estimate the memory of these devices is too small: {'; '.join(full)}.\n")
        counted, expected = program.count_collectives(work, parallel)
        for origin, collectives in (("compiled", counted), ("formula", expected)):
            record["collectives"] += [
                {"stage": work.stage, "from": origin} | collective._asdict() for collective in collectives
            ]
        out.append(
            f"\nCollectives of the step compiled for {parallel.num_devices} devices with {program.COUNT_BATCH} segments each:\n\n"
            + tables.count_table(counted, expected, devices=parallel.num_devices)
        )
    out.append("\n## Memory\n\n" + tables.memory_table(works, arguments.batch_per_device, devices=16))
    out.append("\nNumber of trained parameters whose state fills half of the memory:\n\n")
    out.append(tables.limit_table((16e9, 32e9, 80e9, 95e9), devices=16))
    out.append(_legend(arguments) + tables.source_list(key for machine in machines for key in machine.sources))
    return record | {"markdown": "".join(out)}


def report(record: dict[str, Any]) -> str:
    """The tables as Markdown."""
    return record["markdown"]


def _legend(arguments: argparse.Namespace) -> str:
    return f"""
## Sources of the numbers

- Counted: FLOP (matrix products of the config; the tests compare them with XLA's count), bytes sent (by formula, next to the
  compiled step above), parameters, moments, gradients, activations kept for the backward pass (in the traced program, before
  fusion).
- Assumed: matrix products run at {_listed(arguments.mfu)} of the bf16 peak (--mfu) and all other work is free. A lower share
  makes the step longer and all efficiencies better. The first efficiency of a range has no overlap of computation and
  communication, the second has full overlap.
- Cited figures; assumptions are marked:
"""


def _listed(shares: Sequence[float]) -> str:
    return ", ".join(f"{share:.0%}" for share in shares)
