"""`python -m accdistill_jax.shipped WORK` makes the encoders that come with the package, or checks them."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from accdistill_jax.api.arguments import add_out, command_parser
from accdistill_jax.api.shipped import FOLDER
from accdistill_jax.api.store import open_store
from accdistill_jax.data.store.store import Store
from accdistill_jax.files import write_atomically
from accdistill_jax.run import run
from accdistill_jax.runtime.command import run_command
from accdistill_jax.shipped.card import shipped_card
from accdistill_jax.shipped.measuring import measure_readouts
from accdistill_jax.shipped.packing import ENCODERS, pack_encoder, report_of, run_store, training_medians
from accdistill_jax.user_paths import path_argument

PROG = "python -m accdistill_jax.shipped"


def shipped_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = command_parser(
        prog,
        "Makes the encoders that come with the package: trains the runs of configs/shipped.py that are not finished, packs "
        "their encoders, measures these on unseen people, and writes their model cards. An interrupted command continues.",
    )
    parser.add_argument("work", type=path_argument, help="folder of the runs, a work directory for each preset")
    parser.add_argument(
        "--only", nargs="+", choices=ENCODERS, default=list(ENCODERS), metavar="NAME", help="make only these encoders"
    )
    parser.add_argument(
        "--also",
        nargs="+",
        type=path_argument,
        default=[],
        metavar="STORE",
        help="stores of real recordings to measure on",
    )
    add_out(parser, "folder for the packed encoders (default: inside the package)", default=FOLDER)
    parser.add_argument(
        "--check", action="store_true", help="write nothing: compare parameters with the shipped ones, bit for bit"
    )
    return parser


def _make(argv: Sequence[str], prog: str) -> int:
    args = shipped_parser(prog).parse_args(argv)
    differing = 0
    for name in args.only:
        packing = ENCODERS[name]
        workdir = args.work / packing.preset
        run(packing.config(), workdir)
        if args.check:
            with tempfile.TemporaryDirectory(prefix="accdistill-") as folder:
                made = pack_encoder(packing, workdir, Path(folder) / name).fingerprint
            shipped = json.loads((args.out / name / "export.json").read_text(encoding="utf-8"))["fingerprint"]
            differing += made != shipped
            print(f"{name}: {'the same parameters' if made == shipped else 'OTHER parameters'} as {args.out / name}")
        else:
            _write(name, workdir, args.out / name, [open_store(path) for path in args.also])
            print(f"{name}: {args.out / name}")
    return 1 if differing else 0


def _write(name: str, workdir: Path, out: Path, others: Sequence[Store]) -> None:
    packing = ENCODERS[name]
    store = run_store(workdir, packing.config())
    encoder = pack_encoder(packing, workdir, out)
    labels = [] if encoder.readouts is None else list(encoder.readouts.targets)
    medians = training_medians(store, labels)
    report = report_of(encoder, store, measure_readouts(encoder, store, store.indices("test"), medians=medians))
    report["shipped"] = {"config": packing.config_name}
    real = {
        Path(other.path).name: measure_readouts(encoder, other, np.arange(other.num_segments), medians=medians)
        for other in others
        if len(other.channels[encoder.modality]) == encoder.channels
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "MODEL_CARD.md", shipped_card(name, encoder, report, real))


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> int:
    """Runs the command.

    Returns:
        The exit status: 0; 1 if --check finds other parameters; 2 for an error that the user can fix; 128 plus the signal's number if a
        signal stopped it.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: _make(argv, prog), when_stopped="interrupted; run the same command again to continue")


if __name__ == "__main__":
    sys.exit(main())
