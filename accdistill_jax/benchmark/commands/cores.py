"""`benchmark cores`: the training step with one CPU device against a device per core, by size of the model.

Both forms of each size are measured in turn within one run, so that the machine's load affects both. The table also says which form
a run of that size chooses (`runtime/cpu_devices.py`), so that the choice can be checked on another machine.
"""

import argparse
from collections.abc import Callable
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.commands.step import MODULE
from accdistill_jax.benchmark.contest import Contender, Measured
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import load_config
from accdistill_jax.config.schema import Config
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError
from accdistill_jax.runtime import cpu_devices

LEAST_STEPS = 3  # per measurement, as in `benchmark step`
SHAPES = {
    "quarter": (128, 4, 2, 512),
    "half": (192, 6, 3, 768),
}  # width, depth, heads, MLP, between the default and the paper's


def _sizes() -> dict[str, Config]:
    """Configs by name, from small to large."""
    paper = load_config("distill:paper-literal")
    between = {
        name: changed(
            paper,
            {
                f"{stage}.encoder.transformer.{key}": value
                for stage in ("teacher", "student")
                for key, value in zip(("width", "depth", "heads", "mlp"), shape, strict=True)
            },
        )
        for name, shape in SHAPES.items()
    }
    return (
        {"smoke": load_config("distill:smoke"), "default": load_config("distill:default")} | between | {"paper": paper}
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    names = ("smoke", "default", *SHAPES, "paper")
    parser.add_argument(
        "--sizes", nargs="+", choices=names, default=names, metavar="SIZE", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="segments per step (default 32)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="compute dtype (default float32)"
    )
    parser.add_argument("--round-s", type=float, default=2.0, metavar="S", help="seconds per measurement (default 2)")


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: the machine has a single core, the cores do not divide the batch, or a number of devices is set.
    """
    cores = cpu_devices.available_cores()
    if arguments.overrides:
        raise UserError(f"unexpected argument {arguments.overrides[0]!r}; this command has configs of its own")
    if cpu_devices.set_by_user():
        raise UserError("JAX's number of CPU devices is set: unset JAX_NUM_CPU_DEVICES and that part of XLA_FLAGS")
    if cores == 1 or arguments.batch < 1 or arguments.batch % cores:
        raise UserError(f"--batch {arguments.batch} must be a multiple of the {cores} cores, of which two are needed")
    record: dict[str, Any] = {"cores": cores, "batch": arguments.batch, "dtype": arguments.dtype, "sizes": {}}
    for name, config in _sizes().items():
        if name not in arguments.sizes:
            continue
        say(name)
        config = changed(config, {"runtime.compute_dtype": arguments.dtype})
        orders = [
            Contender(
                f"{devices} devices",
                f"{MODULE}.training",
                {"config": plain(config), "stage": "student", "batch": arguments.batch // devices}
                | {"share": None, "follow_steps": 2},
                environment={"JAX_PLATFORMS": "cpu", cpu_devices.VARIABLE: str(devices)},
            )
            for devices in (1, cores)
        ]
        results = contest.compete(
            orders, rounds=arguments.rounds, round_s=arguments.round_s, least=LEAST_STEPS, say=say
        )
        single, split = results.values()
        record["sizes"][name] = {
            "flops_per_segment": single.facts["flops_per_segment"],
            "single": single._asdict(),
            "split": split._asdict(),
            "chosen": cpu_devices.cores_to_use(config),
        }
    return record


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    rows = []
    for name, size in record["sizes"].items():
        single, split = Measured(**size["single"]), Measured(**size["split"])
        rows.append(
            [
                name,
                f"{size['flops_per_segment'] / 1e6:.0f}",
                contest.rates(single, per_iteration=record["batch"]).text(),
                contest.rates(split, per_iteration=record["batch"]).text(),
                contest.ratios(single, split).text("{:.2f}"),
                "a device per core" if size["chosen"] > 1 else "one device",
            ]
        )
    header = ("model", "MFLOP per segment", "segments/s, one device", "a device per core", "gain", "a run takes")
    return (
        f"# One CPU device or {record['cores']}: {record['batch']} segments, {record['dtype']}\n\n{table(header, rows)}"
        "\nGain: speed with a device per core over speed with one device, round by round; median (quartiles).\n"
    )
