"""`python -m accdistill_jax.benchmark COMMAND ...` measures on this machine; --help lists the commands."""

from accdistill_jax.benchmark import packages  # isort: skip
from accdistill_jax.runtime import streams  # isort: skip

if __name__ == "__main__":
    streams.secure(product="output")
    packages.require("jax", "ml_collections")

import argparse
import contextlib
import importlib
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.config.load import parse_overridable
from accdistill_jax.errors import ExitStatus, UserError
from accdistill_jax.files import write_atomically
from accdistill_jax.runtime.command import run_command
from accdistill_jax.runtime.device_access import check_named_platforms
from accdistill_jax.user_paths import path_argument


class Benchmark(NamedTuple):
    """A sub-command.

    Attributes:
        text: summary for --help.
        rounds: the command takes --rounds. False: it measures nothing, or as much as a time limit allows.
    """

    text: str
    rounds: bool = True


COMMANDS = {
    "step": Benchmark("a training step on this machine's devices, against PyTorch if it is installed"),
    "cores": Benchmark("a training step with one CPU device against a device per core, by size of the model"),
    "input": Benchmark("reading, generating and preparing segments"),
    "table": Benchmark("memory and time of a store with many millions of segments", rounds=False),
    "prepare": Benchmark("a worker that prepares many recordings: minutes per core-second, memory", rounds=False),
    "startup": Benchmark("time from the command to the first step; memory by batch size"),
    "embed": Benchmark("inference, probes and retrieval on many embeddings"),
    "watch": Benchmark(
        "operations, memory and latency of an exported student in three sizes, float32 and int8 weights"
    ),
    "clock": Benchmark("retrieval by a finished student when the clocks of its two sensors disagree", rounds=False),
    "parity": Benchmark(
        "agreement of every exported format with the trained encoder, on test people of a run", rounds=False
    ),
    "compile": Benchmark(
        "a training step compiled for TPU slices, with the compiler's estimates; needs no TPU", rounds=False
    ),
    "plan": Benchmark("hours for a corpus on given hardware, and the limiting resource"),
    "gpu": Benchmark(
        "all measurements of a GPU in eight minutes, the most valuable first; an interrupted run continues",
        rounds=False,
    ),
    "tradeoff": Benchmark("accuracy of students that do less work per step, at equal training time"),
    "scaling": Benchmark("a model of training on slices and GPU nodes: time, efficiency, memory", rounds=False),
    "weak-scaling": Benchmark("training on this machine's cores with a fixed batch per device"),
}


PROG = "python -m accdistill_jax.benchmark"


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Runs the command line.

    Args:
        argv: arguments after the program's name.
        prog: the program's name in messages.

    Returns:
        The exit status.
    """
    return run_command(lambda: _measure(argv, prog))


def _measure(argv: Sequence[str], prog: str) -> int:
    try:
        chosen = next((word for word in argv if word in COMMANDS), None)
        arguments, rest = parse_overridable(benchmark_parser(chosen, prog), argv)
        arguments.overrides = rest
        command = _module(arguments.command)
        check_writable(arguments.json)
        check_named_platforms()
        record = {"command": arguments.command, **command.measure(arguments, say)}
        record["environment"] = _environment()
        print(command.report(record), end="")
        print(f"\n{machine_line(record['environment'])}")
        if arguments.json is not None:
            write_atomically(arguments.json, json.dumps(record, indent=1) + "\n")
        if "failed" in record:
            print(f"error: {record['failed']}", file=sys.stderr)
            return 1
    except OSError as problem:
        raise UserError(f"{problem.filename or 'cannot write'}: {problem.strerror or problem}") from problem
    return ExitStatus.FINISHED


def benchmark_parser(chosen: str | None, prog: str = PROG) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
        chosen: sub-command whose arguments are added; only its module is imported. None: no sub-command.
        prog: the program's name in messages.
    """
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", type=path_argument, metavar="FILE", help="also write all numbers to FILE")
    repeated = argparse.ArgumentParser(add_help=False)
    repeated.add_argument(
        "--rounds", type=positive, default=7, metavar="N", help="measurements of each program (default 7)"
    )
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Measures on this machine and prints Markdown tables: medians (quartiles). Run it on an otherwise idle "
        "machine. Change settings of the config with --config.KEY=VALUE.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{" + ",".join(COMMANDS) + "}")
    for name, (text, rounds) in COMMANDS.items():
        command = commands.add_parser(
            name, parents=[common, repeated] if rounds else [common], help=text, description=text
        )
        if name == chosen:
            _module(name).add_arguments(command)
    return parser


def check_writable(path: Path | None) -> None:
    """Raises UserError before any measurement if the result could not be written to `path`."""
    if path is not None and not path.resolve().parent.is_dir():
        raise UserError(f"cannot write {path}: no folder {path.resolve().parent}; create it or choose another --json")


def say(line: str) -> None:
    """Prints a line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def _module(command: str) -> Any:
    return importlib.import_module(f"accdistill_jax.benchmark.commands.{command.replace('-', '_')}")


def _environment() -> dict[str, Any]:
    from accdistill_jax.config import record as config_record

    return config_record.environment() | {"processor": _processor()}


def _processor() -> str:
    """The processor's name, as far as the system reports it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def machine_line(environment: dict[str, Any]) -> str:
    """Describes the machine and the library versions of a measurement in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    device = environment["device_kind"]
    devices = "" if device == "cpu" else f"{environment['device_count']} x {device}, "
    return (
        f"{devices}{environment['cpu_count']} cores of {environment['processor']}, Python {environment['python']}, {versions}; "
        f"commit {environment['git_commit']}"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
