"""The command `accdistill demo`: a static web page that runs a student in the browser."""

import argparse
from collections.abc import Sequence

from accdistill_jax.api.arguments import add_out, encoder_parser
from accdistill_jax.api.loading import load
from accdistill_jax.errors import UserError
from accdistill_jax.export.card import read_report
from accdistill_jax.user_paths import path_argument

PROG = "accdistill demo"


def demo_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = encoder_parser(
        prog,
        "Writes a static web page that runs the student of a run in the browser: heart rate with intervals from a CSV file, "
        "a simulated recording, or a phone's own sensor.",
        parts=False,
    )
    add_out(parser, "folder for the page")
    parser.add_argument(
        "--runtime",
        type=path_argument,
        metavar="FOLDER",
        help="folder dist of the npm package onnxruntime-web (default: fetched by npm pack)",
    )
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> None:
    """Writes the page and says how to open it.

    Args:
        argv: without the program's name; None for those of the process.
        prog: the command's name in messages.

    Raises:
        UserError: no such run, no read-out of heart rate, or no runtime.
    """
    args = demo_parser(prog).parse_args(argv)
    # not at the top: the simulator is needed for the sample alone
    from accdistill_jax.export.demo import write_demo

    encoder = load(args.run)
    if encoder.readouts is None:
        raise UserError(f"{args.run} has no read-out of heart rate: {encoder.no_readouts}")
    files = write_demo(encoder, encoder.readouts, args.out, report=read_report(encoder.path), runtime=args.runtime)
    size = sum(path.stat().st_size for path in files)
    print(
        f"{args.out}: {len(files)} files, {size / 1e6:.1f} MB; open it by: python -m http.server --directory {args.out}"
    )
