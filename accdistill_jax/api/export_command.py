"""The command `accdistill export`: writes a trained encoder for other runtimes, with a model card."""

import argparse
from collections.abc import Sequence

from accdistill_jax.api.arguments import add_out, encoder_parser
from accdistill_jax.api.loading import load
from accdistill_jax.export.onnx_file import OPSETS
from accdistill_jax.export.writing import FORMATS

PROG = "accdistill export"


def export_parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Builds the parser."""
    parser = encoder_parser(
        prog,
        "Writes the encoder of a run for other runtimes, with a model card. Normalisation is inside.",
    )
    add_out(parser, "folder for the files")
    parser.add_argument(
        "--format",
        nargs="+",
        default=["onnx"],
        choices=FORMATS,
        metavar="FORMAT",
        help=f"one or several of {', '.join(FORMATS)} (default onnx)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=OPSETS,
        default=OPSETS[0],
        help=f"operator set of the ONNX file (default {OPSETS[0]})",
    )
    parser.add_argument("--int8", action="store_true", help="write an ONNX file with int8 weights too")
    return parser


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> None:
    """Writes the files, and prints the name and size of each.

    Args:
        argv: without the program's name; None for those of the process.
        prog: the command's name in messages.

    Raises:
        UserError: no such run, a package that is not installed, or an encoder that the format cannot hold.
    """
    args = export_parser(prog).parse_args(argv)
    encoder = load(args.run, part=args.part)
    for path in encoder.export(args.out, formats=args.format, opset=args.opset, int8=args.int8):
        print(f"{path}  {path.stat().st_size:,} bytes")
