"""`benchmark table`: memory and time of a store with many millions of segments, on a made-up table."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.benchmark.made_up.large_table import write_large_store
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import path_argument

MODULE = "accdistill_jax.benchmark.contenders.large_table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    parser.add_argument(
        "--rows", type=positive, default=1_000_000, metavar="N", help="segments of the store (default 1000000)"
    )
    parser.add_argument(
        "--folder", type=path_argument, metavar="DIR", help="folder for the made-up store (default: a temporary folder)"
    )


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Measures and returns a record of plain values.

    Raises:
        UserError: another system than Linux, or the process that is measured died, as for lack of memory.
    """
    if sys.platform != "linux":
        raise UserError("benchmark table reads the memory of processes as Linux reports it")
    with tempfile.TemporaryDirectory(prefix="accdistill-table-", dir=arguments.folder) as temporary:
        store = Path(temporary) / "store"
        say(f"writing a table of {arguments.rows} rows")
        write_large_store(store, rows=arguments.rows)
        own = sum(path.stat().st_size for path in store.iterdir() if path.is_file())
        say("opening and reading it")
        done = subprocess.run([sys.executable, "-m", MODULE, str(store)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise UserError(f"a store of {arguments.rows} rows cannot be opened and read: {last}")
    return {"rows": arguments.rows, "table_mb": own / 1e6, "steps": json.loads(done.stdout)}


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    rows = [
        [name, f"{step['seconds']:.1f}", f"{step['peak_mb']:.0f}", f"{step['held_mb']:.0f}"]
        for name, step in record["steps"].items()
    ]
    header = ("step", "seconds", "largest memory, MB", "memory afterwards, MB")
    title = (
        f"# A store of {record['rows']:,} segments; table, hashes and manifest take {record['table_mb']:,.0f} MB\n\n"
    )
    return title + table(header, rows)
