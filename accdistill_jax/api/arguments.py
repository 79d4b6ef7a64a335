"""Arguments that the commands of `accdistill` on a trained encoder share."""

import argparse
from collections.abc import Sequence
from typing import Any

from accdistill_jax.data import recordings
from accdistill_jax.data.prepare.field_flags import add_flags, chosen_fields, function_fields
from accdistill_jax.data.recognition import PLAIN
from accdistill_jax.errors import CommandParser
from accdistill_jax.user_paths import expanded, path_argument

RUN_HELP = "work directory of a run, an export folder, an address of one, or a name that accdistill encoders lists"


def command_parser(prog: str, description: str, *, epilog: str | None = None) -> CommandParser:
    """A parser without arguments; it takes no abbreviated flags.

    Args:
        prog: the command's name in messages.
        description: for --help.
        epilog: for --help, after the arguments.
    """
    return CommandParser(prog=prog, description=description, epilog=epilog, allow_abbrev=False)


def encoder_parser(
    prog: str, description: str, *, epilog: str | None = None, parts: bool = True, run_help: str = RUN_HELP
) -> CommandParser:
    """A parser whose first argument is a run.

    Args:
        prog: the command's name in messages.
        description: for --help.
        epilog: for --help, after the arguments.
        parts: adds --part, for commands that take teachers too.
        run_help: help of the argument `run`.
    """
    parser = command_parser(prog, description, epilog=epilog)
    parser.add_argument("run", type=expanded, help=run_help)
    if parts:
        parser.add_argument("--part", choices=("student", "teacher"), help="encoder of the run (default: the student)")
    return parser


def add_out(parser: argparse.ArgumentParser, text: str, *, metavar: str = "FOLDER", **options: Any) -> None:
    """Adds --out, required unless `options`, which are those of argparse, give a default."""
    options.setdefault("required", "default" not in options)
    parser.add_argument("--out", type=path_argument, metavar=metavar, help=text, **options)


def add_quiet(parser: argparse.ArgumentParser) -> None:
    """Adds --quiet."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def reader_in(argv: Sequence[str]) -> str | None:
    """The reader that --reader names, or adds by a file; None without --reader. It decides the flags of `add_reader`.

    Raises:
        UserError: no such reader, or a file that is none.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--reader")
    try:
        name = first.parse_known_args(argv)[0].reader
    except argparse.ArgumentError:
        return None  # the real parser reports it
    return recordings.named_or_added(name) if name is not None else None


def add_reader(parser: argparse.ArgumentParser, reader: str | None) -> None:
    """Adds --reader, and flags for the options of a reader; None: of files that nobody described, such as --rate-hz."""
    parser.add_argument(
        "--reader",
        metavar="NAME",
        help=f"format of the files: {', '.join(recordings.names())}, or a file such as my_reader.py (default: found); accdistill "
        "prepare NAME --help describes it",
    )
    named = reader or PLAIN
    group = parser.add_argument_group(
        f"options of the reader {named}" + ("" if reader else ", for files that nobody described")
    )
    add_flags(group, function_fields(recordings.reader(named).find))


def reader_options(args: argparse.Namespace, reader: str | None) -> dict[str, Any]:
    """The options of a reader that the user gave, without those at their default."""
    fields = function_fields(recordings.reader(reader or PLAIN).find)
    return {
        field.name: value for field in fields if (value := chosen_fields(args, [field])[field.name]) != field.default
    }
