"""Prints the config's keys: `python -m accdistill_jax.config [PREFIX] [--config=CONFIG[:PRESET]] [--config.KEY=VALUE ...]`.

Each key is printed with its default, the rule of its values, its unit and a line of documentation. The line "here:" gives the
value in the config of --config, where it differs from the default. Without --config, this is the config of the main job, distill.

Examples:
  python -m accdistill_jax.config
  python -m accdistill_jax.config student.train
  python -m accdistill_jax.config data --config=distill:paper
"""

import argparse
import sys
from collections.abc import Sequence

from accdistill_jax.config.describe import describe
from accdistill_jax.config.load import load_config, parse_overridable
from accdistill_jax.errors import CommandParser, ExitStatus, UserError
from accdistill_jax.text import print_error


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m accdistill_jax.config") -> int:
    """Prints the keys; returns the exit status.

    Args:
        argv: the words after the command's name; by default those of this process.
        prog: the command's name in its help.
    """
    about = (__doc__ or "").replace("python -m accdistill_jax.config", prog)
    parser = CommandParser(prog=prog, description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefix", nargs="?", default="", help="a key or a section; default: all keys")
    parser.add_argument("--config", metavar="CONFIG[:PRESET]", help='config for the lines "here:" (default: distill)')
    arguments, overrides = parse_overridable(parser, sys.argv[1:] if argv is None else argv)
    try:
        config = load_config(arguments.config or "distill", overrides)
        print(describe(arguments.prefix.removeprefix("config."), config=config))
    except UserError as error:
        print_error(str(error))
        return ExitStatus.USER_ERROR
    return ExitStatus.FINISHED


if __name__ == "__main__":
    sys.exit(main())
