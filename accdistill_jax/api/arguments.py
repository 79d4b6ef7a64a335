"""Arguments that the commands on a trained encoder share."""

from accdistill_jax.errors import CommandParser
from accdistill_jax.user_paths import expanded

RUN_HELP = "work directory of a run, an export folder, an address of one, or a name that accdistill encoders lists"


def encoder_parser(prog: str, description: str, *, epilog: str | None = None, parts: bool = True) -> CommandParser:
    """A parser whose first argument is a run.

    Args:
        prog: the command's name in messages.
        description: for --help.
        epilog: for --help, after the arguments.
        parts: adds --part, for commands that take teachers too.
    """
    parser = CommandParser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument("run", type=expanded, help=RUN_HELP)
    if parts:
        parser.add_argument("--part", choices=("student", "teacher"), help="encoder of the run (default: the student)")
    return parser
