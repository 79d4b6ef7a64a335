"""`benchmark watch`: cost of an exported student on a small device, for three sizes, with float32 and int8 weights."""

import argparse
import os
from collections.abc import Callable
from typing import Any

from accdistill_jax.benchmark import contest
from accdistill_jax.benchmark.contest import Contender, spread
from accdistill_jax.config.convert import changed
from accdistill_jax.config.load import add_config, load_config
from accdistill_jax.config.registry import ENCODERS
from accdistill_jax.config.tree import plain
from accdistill_jax.errors import UserError

MODULE = "accdistill_jax.benchmark.contenders.exported"
_SECTION = "student.encoder.transformer"
# The smaller sizes have about a fifth and a twentieth of the default's parameters.
SIZES: dict[str, dict[str, Any]] = {
    "as configured": {},
    "width 32, 2 blocks": {"width": 32, "depth": 2, "heads": 1, "mlp": 64, "tokenizer": ((8, 16), (32, 32))},
    "width 16, 2 blocks": {"width": 16, "depth": 2, "heads": 1, "mlp": 32, "tokenizer": ((8, 8), (32, 16))},
}
WEIGHTS = {"float32": False, "int8": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    add_config(parser, "distill")
    parser.add_argument("--round-s", type=float, default=1.0, metavar="S", help="seconds per measurement (default 1)")
    parser.set_defaults(rounds=5)


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: the config's student is not a Transformer.
    """
    config = load_config(arguments.config, arguments.overrides)
    architecture = config.student.encoder.architecture
    if ENCODERS.entry(architecture).section != _SECTION.rpartition(".")[2]:
        raise UserError(f"student.encoder.architecture = {architecture!r}: watch compares sizes of the transformer")
    if config.evaluation.representation != "mean":
        config = changed(config, {f"{_SECTION}.output": 0})  # a layer of the pooled embedding, which is not exported
    cores = sorted(os.sched_getaffinity(0))[-1:]
    contenders = []
    for size, smaller in SIZES.items():
        student = plain(changed(config, {f"{_SECTION}.{name}": value for name, value in smaller.items()}))
        contenders += [
            Contender(
                f"{size}, {weights}",
                MODULE,
                {"config": student, "int8": int8},
                environment={"JAX_PLATFORMS": "cpu"},
                cores=cores,
            )
            for weights, int8 in WEIGHTS.items()
        ]
    measured = contest.compete(contenders, rounds=arguments.rounds, round_s=arguments.round_s, say=say)
    return {"config": arguments.config, "students": {name: result._asdict() for name, result in measured.items()}}


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    rows = []
    for name, measured in record["students"].items():
        facts = measured["facts"]
        if "skipped" in facts:
            return f"Nothing is measured: {facts['skipped']}\n"
        sizes = [facts["parameters"] / 1e3, facts["flops"] / 1e6]
        kilobytes = [facts["activation_bytes"] / 1e3, facts["file_bytes"] / 1e3]
        latency = spread([1e3 * seconds for seconds in measured["seconds"]]).text()
        rows.append([name, *(f"{size:.1f}" for size in sizes), *(f"{size:.0f}" for size in kilobytes), latency])
    header = (
        f"student of {record['config']}",
        "parameters, thousands",
        "MFLOP in matrix products",
        "activations, kB",
        "file, kB",
        "a minute on one core, ms",
    )
    return "# An exported student in onnxruntime\n\n" + table(header, rows)
