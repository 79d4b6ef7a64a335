"""`python -m accdistill_jax.reproduce.wearers STORE --start RUN --out FOLDER`; see --help."""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from accdistill_jax.benchmark.arguments import positive
from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import path_argument

PROG = "python -m accdistill_jax.reproduce.wearers"
DESCRIPTION = """\
Leaves each wearer of a store out in turn. A student is fine-tuned from a finished run on the other wearers, and another one is trained
on them alone; the run's own student has seen none of them (zero shot). The teacher is the run's, and stays frozen. Every method is
measured on the wearer that was left out: heart rate, and search for the PPG of the same minute. Methods without learning and two
constants stand beside them. The same command continues after an interruption."""


def parse(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("store", type=path_argument, metavar="STORE", help="prepared store of the wearers, with PPG")
    parser.add_argument(
        "--start", type=path_argument, required=True, metavar="RUN", help="work directory of a finished distillation"
    )
    parser.add_argument(
        "--out", type=path_argument, required=True, metavar="FOLDER", help="folder for trainings and results"
    )
    parser.add_argument("--steps", type=positive, default=300, help="steps of each training (default 300)")
    parser.add_argument("--batch-size", type=positive, default=64, help="segments in a batch (default 64)")
    parser.add_argument(
        "--learning-rate", type=float, default=None, help="learning rate of fine-tuning (default: a tenth of the run's)"
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=("fine-tuned", "alone"),
        default=("fine-tuned", "alone"),
        help="students to train (default: both); without a name, none is trained (zero shot only)",
    )
    parser.add_argument(
        "--hours",
        type=_hours,
        default=None,
        metavar="FROM-TO",
        help="measure on minutes that start in these hours only, such as 22-6; training uses all",
    )
    parser.add_argument(
        "--utc-offset-h",
        type=float,
        default=0.0,
        metavar="HOURS",
        help="offset of the wearers' clock from UTC, for --hours (default 0)",
    )
    return parser.parse_args(argv)


def _hours(text: str) -> tuple[float, float]:
    first, _, last = text.partition("-")
    try:
        hours = float(first), float(last)
    except ValueError:
        hours = (-1.0, -1.0)
    if not all(0 <= hour <= 24 for hour in hours):
        raise argparse.ArgumentTypeError(f"{text!r} must be two hours from 0 to 24, such as 22-6")
    return hours


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(lambda: leave_one_out(parse(argv, prog)))


def leave_one_out(arguments: argparse.Namespace) -> None:
    """Trains, measures, and writes `wearers.md`, `wearers.json` and `wearers.png` into `arguments.out`.

    Raises:
        UserError: a run or a store that does not fit.
    """
    # imports jax, which takes seconds: only after the command line was checked
    from accdistill_jax.files import write_atomically
    from accdistill_jax.reproduce.wearers.compare import compare_methods
    from accdistill_jax.reproduce.wearers.table import draw_wearers, markdown
    from accdistill_jax.reproduce.wearers.trainings import WearerTraining

    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    training = WearerTraining(arguments.steps, arguments.learning_rate, arguments.batch_size, tuple(arguments.variants))
    results = compare_methods(
        Path(arguments.store),
        Path(arguments.start),
        out,
        training,
        hours=arguments.hours,
        utc_offset_h=arguments.utc_offset_h,
    )
    text = markdown(results)
    write_atomically(out / "wearers.json", json.dumps(results.to_json(), indent=1))
    draw_wearers(results, out / "wearers.png")
    write_atomically(out / "wearers.md", f"{text}\n![Both scores of each wearer](wearers.png)\n")
    print(f"\n{text}\n{out / 'wearers.md'}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
