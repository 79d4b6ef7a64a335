"""The command `accdistill encoders`: lists the encoders that come with the package."""

from collections.abc import Sequence

from accdistill_jax.api.arguments import command_parser
from accdistill_jax.api.shipped import shipped_encoders

PROG = "accdistill encoders"


def main(argv: Sequence[str] | None = None, *, prog: str = PROG) -> None:
    """Prints name, sensor, size, results and card of each shipped encoder.

    Args:
        argv: without the program's name; None for those of the process.
        prog: the command's name in messages.
    """
    command_parser(
        prog,
        "Lists the encoders that come with the package. Their names take the place of a run in embed, predict, export and demo.",
    ).parse_args(argv)
    for encoder in shipped_encoders():
        error, low, high = encoder.heart_rate_mae
        reads = {"student": "acceleration", "teacher": "PPG"}[encoder.part]
        print(
            f"{encoder.name}: reads {reads}; {encoder.parameters:,} parameters, {encoder.size_bytes / 1e3:.0f} kB; heart rate to "
            f"{error:.2f} bpm ({low:.2f} to {high:.2f}) on unseen synthetic people\n  limits and results: {encoder.card}"
        )
