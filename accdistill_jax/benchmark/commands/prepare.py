"""`benchmark prepare`: CPU time and memory of a worker that prepares many made-up recordings, and the hours for the paper's minutes."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import path_argument

MODULE = "accdistill_jax.benchmark.contenders.preparing"
PAPER_MINUTES = 20_000_000
CORES = (1, 64, 1000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    parser.add_argument(
        "--recordings", type=positive, default=10_000, metavar="N", help="number of recordings (default 10000)"
    )
    parser.add_argument(
        "--minutes", type=positive, default=10, metavar="N", help="minutes of each recording (default 10)"
    )
    parser.add_argument(
        "--folder",
        type=path_argument,
        metavar="DIR",
        help="folder for the store; it needs twice the store's size (default: a temporary folder)",
    )


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: the preparation failed.
    """
    with tempfile.TemporaryDirectory(prefix="accdistill-prepare-", dir=arguments.folder) as temporary:
        say(f"preparing {arguments.recordings} recordings of {arguments.minutes} minutes")
        command = [sys.executable, "-m", MODULE, temporary, str(arguments.recordings), str(arguments.minutes)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"the recordings cannot be prepared: {last}")
    return {"recordings": arguments.recordings, "minutes": arguments.minutes, "measured": json.loads(done.stdout)}


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    measured = record["measured"]
    examined = measured["examined"]
    rates = {name: examined / measured[f"{name}_s"] for name in ("staging", "writing")}
    rows = [
        ["preprocess and stage (any number of workers)", f"{rates['staging']:.0f}", f"{measured['staging_mb']:.0f}"],
        ["write the store (one process)", f"{rates['writing']:.0f}", f"{measured['writing_mb']:.0f}"],
    ]
    hours = [
        [
            str(cores),
            f"{PAPER_MINUTES / rates['staging'] / 3600 / cores:.1f}",
            f"{PAPER_MINUTES / rates['writing'] / 3600:.1f}",
        ]
        for cores in CORES
    ]
    return (
        f"# A worker: {record['recordings']:,} recordings of {record['minutes']} minutes, PPG at 64 Hz and acceleration at 32 Hz\n\n"
        + table(("step", "minutes of signal per core-second", "largest memory, MB"), rows)
        + f"\n{measured['kept']:,} of {examined:,} minutes are kept, {measured['store_mb']:,.0f} MB. The process takes "
        f"{measured['before_mb']:.0f} MB before the first recording. Making up the recordings is not counted.\n\n"
        + f"Hours for {PAPER_MINUTES / 1e6:.0f} million minutes at these rates:\n\n"
        + table(("cores", "preprocess and stage", "write the store"), hours)
    )
