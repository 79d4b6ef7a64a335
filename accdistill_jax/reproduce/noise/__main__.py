"""`python -m accdistill_jax.reproduce.noise RUN --out FOLDER`; see --help."""

from accdistill_jax.runtime import early_stop  # isort: skip

if __name__ == "__main__":
    early_stop.install()

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from accdistill_jax.runtime.command import run_command
from accdistill_jax.user_paths import path_argument

PROG = "python -m accdistill_jax.reproduce.noise"
DESCRIPTION = """\
Scores a finished distillation by the noise of its test people's accelerometers. It measures the noise density in calm minutes, sorts
people into levels with limits of 0.15, 0.3, 0.5 and 0.7 mg/sqrt(Hz), and gives for each level: search for the PPG of the same minute,
by the student and by the classical matcher; error of the heart rate, of the student, the teacher, the classical routes and two
constants. The run's embeddings are used as they are, and nothing is trained but the boosting on classical features."""


def noise_arguments(argv: Sequence[str], prog: str) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(prog=prog, description=DESCRIPTION)
    parser.add_argument("run", type=path_argument, metavar="RUN", help="work directory of a finished distillation")
    parser.add_argument(
        "--out",
        type=path_argument,
        required=True,
        metavar="FOLDER",
        help="folder for noise.md, noise.json and noise.png",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str], *, prog: str = PROG) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(lambda: score_by_noise(noise_arguments(argv, prog)))


def score_by_noise(arguments: argparse.Namespace) -> None:
    """Measures a run and writes `noise.md`, `noise.json` and `noise.png` into `arguments.out`.

    Raises:
        UserError: a run or a store that does not fit.
    """
    # imports jax, which takes seconds: only after the command line was checked
    from accdistill_jax.files import write_atomically
    from accdistill_jax.reproduce.noise.levels import score_levels
    from accdistill_jax.reproduce.noise.routes import measure_run
    from accdistill_jax.reproduce.noise.table import draw_levels, level_tables, to_json

    out = Path(arguments.out)
    measured = measure_run(Path(arguments.run))
    scores = score_levels(measured.minutes)
    sizes = {"pool": measured.pool, "train_minutes": measured.train_minutes}
    text = level_tables(scores, **sizes)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "noise.json", json.dumps(to_json(scores, **sizes), indent=1))
    draw_levels(scores, out / "noise.png", pool=measured.pool)
    write_atomically(out / "noise.md", f"{text}\n![Both scores against noise](noise.png)\n")
    print(f"\n{text}\n{out / 'noise.md'}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
