"""`benchmark clock`: retrieval by a finished student when the clocks of its two sensors disagree."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.config import record as config_record
from accdistill_jax.errors import UserError
from accdistill_jax.user_paths import path_argument

OFFSETS_S = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
DRIFTS_PPM = (200.0,)
POOLS = (100, 1000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments besides those of every benchmark."""
    parser.add_argument("run", type=path_argument, metavar="RUN", help="work directory of a finished run")
    parser.add_argument(
        "--offsets-s",
        type=_clock_number,
        nargs="+",
        default=OFFSETS_S,
        metavar="S",
        help="offsets of the PPG's clock in seconds, without drift (default 0 0.02 ... 1)",
    )
    parser.add_argument(
        "--drifts-ppm",
        type=_clock_number,
        nargs="*",
        default=DRIFTS_PPM,
        metavar="PPM",
        help="drifts within the minute in microseconds per second, without offset (default 200)",
    )
    parser.add_argument(
        "--split", choices=("validation", "test", "train"), default="validation", help="default: validation"
    )
    parser.add_argument(
        "--pools",
        type=positive,
        nargs="+",
        default=POOLS,
        metavar="N",
        help="numbers of minutes to choose from (default 100 1000)",
    )


def _clock_number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e5:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number")
    return value


def measure(arguments: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Searches the minutes of the split under each clock error and returns a record of plain values.

    Raises:
        UserError: no run is in the folder, its store is missing, or its student is not compared with a PPG encoder.
    """
    if arguments.overrides:
        raise UserError(f"{arguments.overrides[0]}: clock reads the config of the run; leave it out")
    if not (arguments.run / "config.json").is_file():
        raise UserError(f"{arguments.run}: no run is there (config.json is missing); give the work directory of a run")
    config = config_record.load_record(arguments.run)
    # imported here: jax takes seconds
    from accdistill_jax.data.store.opening import open_configured_store
    from accdistill_jax.runtime.parallel import Parallel
    from accdistill_jax.runtime.peers.peers import Peers
    from accdistill_jax.stages.clock_errors import ClockError, search_with_clock_errors
    from accdistill_jax.stages.context import Run

    folder = Path(arguments.run).absolute()
    paths = config.data.stores or (str(folder / "data" / "synthetic"),)
    stores = tuple(open_configured_store(path, key="data.stores", data=config.data) for path in paths)
    run = Run(config, folder, stores, Parallel(config.runtime.mapping), Peers.alone(), say)
    errors = [ClockError(offset) for offset in arguments.offsets_s]
    errors += [ClockError(0.0, drift) for drift in arguments.drifts_ppm]
    results = search_with_clock_errors(run, errors, split=arguments.split, pool_sizes=arguments.pools)
    return {
        "run": str(arguments.run),
        "split": arguments.split,
        "people": len(
            {person for store in stores for person in store.segments["participant"][store.indices(arguments.split)]}
        ),
        "segments": results[0].segments,
        "results": [
            {**result.error._asdict(), "top1": {str(size): share for size, share in result.top1.items()}}
            for result in results
        ],
    }


def report(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    from accdistill_jax.benchmark.model.tables import table

    sizes = list(record["results"][0]["top1"])
    header = ["offset, s", "drift, ppm", *(f"first among {size}" for size in sizes)]
    rows = [
        [f"{r['offset_s']:g}", f"{r['drift_ppm']:g}", *(f"{100 * r['top1'][size]:.1f} %" for size in sizes)]
        for r in record["results"]
    ]
    return (
        f"# Clocks that disagree\n\n{record['run']}: {record['segments']} minutes of {record['people']} {record['split']} people. "
        "The clock of the PPG is ahead by the offset, and gains the drift within a minute. Cells: share of minutes whose PPG ranks first "
        "in a search by acceleration.\n\n" + table(header, rows)
    )
